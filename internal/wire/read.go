package wire

import (
	"bytes"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// ReadAnswer is what a GetResponse on the wire says. A client under load spends much of
// its time on taking answers in, so they are read as they come, without the generated
// messages: an answer costs an allocation for its value, and one for each tag.
//
// What cannot be read is the node's fault: ErrUnavailable.
type ReadAnswer struct {
	Result soracache.ReadResult
	// InSchema means that it is about the schema that was asked for.
	InSchema bool
	Err      error
}

// BatchAnswer is what a BatchGetResponse says. A result that cannot be read fails alone,
// as far as can be told where the next one begins.
type BatchAnswer struct {
	Results  []soracache.ReadResult
	InSchema bool
	Err      error
}

// ReadCodec is protobuf, as Connect's own, for calls with these answers.
type ReadCodec struct{}

// Name implements [connect.Codec].
func (ReadCodec) Name() string { return "proto" }

// Marshal implements [connect.Codec].
func (c ReadCodec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend lets Connect reuse its buffers.
func (ReadCodec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m)
}

// Unmarshal implements [connect.Codec]. What it makes shares nothing with data.
func (ReadCodec) Unmarshal(data []byte, message any) error {
	var r answerReader
	switch m := message.(type) {
	case *ReadAnswer:
		m.InSchema, m.Err = r.read(data, &m.Result)
	case *BatchAnswer:
		m.Err = r.readBatch(data, m)
	default:
		return fmt.Errorf("%T is no answer to a read", message)
	}
	return nil
}

var _ connect.Codec = ReadCodec{}

// answerReader reads answers. What one says in the same words as the one before
// is not made twice.
type answerReader struct {
	stamp    []byte // as it was on the wire
	stamps   soracache.Stamps
	encoding string
}

// What protobuf refuses, and protowire's parts do not: text that is none, and
// numbers beyond those of fields.
var (
	errNotText = errors.New("invalid UTF-8")
	errNoField = errors.New("invalid field number")
)

func (r *answerReader) readBatch(data []byte, m *BatchAnswer) error {
	n, partitions := 0, uint16(0)
	err := eachField(data, func(f field) error {
		switch {
		case f.is(1, protowire.BytesType):
			n++
		case f.is(3, protowire.VarintType):
			partitions = f.partitions()
		case f.is(4, protowire.VarintType):
			m.InSchema = f.number != 0
		}
		return nil
	})
	if err != nil {
		return malformed(err)
	}
	m.Results = make([]soracache.ReadResult, 0, n)
	return eachField(data, func(f field) error {
		if f.is(1, protowire.BytesType) {
			m.Results = append(m.Results, soracache.ReadResult{})
			to := &m.Results[len(m.Results)-1]
			if _, err := r.read(f.bytes, to); err != nil {
				*to = soracache.ReadResult{Err: err}
			}
			if partitions > 0 && to.Err == nil {
				to.Partitions = partitions
			}
		}
		return nil
	})
}

func malformed(err error) error {
	return fmt.Errorf("%w: malformed answer: %w", soracache.ErrUnavailable, err)
}

// read reads one answer. In a batch it may be an item's failure, which is not an
// error here.
func (r *answerReader) read(data []byte, to *soracache.ReadResult) (inSchema bool, err error) {
	w := partial{to: to}
	err = eachField(data, func(f field) error { return r.take(&w, f) })
	switch {
	case err != nil:
		return false, malformed(err)
	case w.failed:
		*to = soracache.ReadResult{Err: itemError(w.code, w.message, cachev1.Refusal(w.refused))}
		return w.inSchema, nil
	}
	if to.Stamp, err = r.stampsOf(w.stamp); err != nil {
		return false, err
	}
	if to.Lease, err = soracache.ParseLease(w.lease); err != nil {
		return false, fmt.Errorf("%w: malformed lease in an answer", soracache.ErrUnavailable)
	}
	if to.Status, err = statusOf(cachev1.Status(w.status)); err != nil {
		return false, err
	}
	to.Entry.Kind = kindOf(cachev1.Kind(w.kind))
	to.Tier = tierOf(cachev1.Tier(w.tier))
	to.LeaseState, to.Refusal = leaseStateOf(cachev1.LeaseState(w.leaseState)), refusalOf(cachev1.Refusal(w.refusal))
	to.FreshFor, to.KeepFor, to.LeaseFor, to.Age = w.freshFor.value(), w.keepFor.value(), w.leaseFor.value(), w.age.asAge()
	return w.inSchema, nil
}

// partial is an answer that is being read: where it goes, and what of it can
// be judged only when all of it is there.
type partial struct {
	to                               *soracache.ReadResult
	stamp, lease                     []byte
	freshFor, keepFor, leaseFor, age duration
	status, tier, kind               int32
	leaseState, refusal              int32
	inSchema                         bool
	failed                           bool // with code, message and what is exhausted
	code, message                    string
	refused                          int32
}

// take takes in one field of an answer. The numbers are the contract's.
func (r *answerReader) take(w *partial, f field) (err error) {
	entry := &w.to.Entry
	switch {
	case f.is(1, protowire.VarintType):
		w.status = f.int32()
	case f.is(2, protowire.BytesType):
		entry.Value = append([]byte(nil), f.bytes...)
	case f.is(3, protowire.BytesType):
		var tag string
		tag, err = f.text("")
		entry.Tags = append(entry.Tags, tag)
	case f.is(4, protowire.BytesType):
		w.stamp = f.bytes
	case f.is(5, protowire.BytesType):
		err = w.freshFor.read(f.bytes)
	case f.is(6, protowire.BytesType):
		err = w.keepFor.read(f.bytes)
	case f.is(7, protowire.BytesType):
		w.lease = f.bytes
	case f.is(8, protowire.BytesType):
		err = w.leaseFor.read(f.bytes)
	case f.is(9, protowire.VarintType):
		w.tier = f.int32()
	case f.is(10, protowire.VarintType):
		w.kind = f.int32()
	case f.is(11, protowire.BytesType):
		entry.Encoding, err = f.text(r.encoding)
		r.encoding = entry.Encoding
	case f.is(12, protowire.BytesType):
		entry.ETag, err = f.text("")
	case f.is(13, protowire.VarintType):
		w.to.Unconfirmed = f.number != 0
	case f.is(14, protowire.BytesType):
		w.failed = true
		err = eachField(f.bytes, w.takeFailure)
	case f.is(15, protowire.BytesType):
		err = w.age.read(f.bytes)
	case f.is(16, protowire.VarintType):
		w.leaseState = f.int32()
	case f.is(17, protowire.VarintType):
		w.refusal = f.int32()
	case f.is(18, protowire.VarintType):
		w.to.Partitions = f.partitions()
	case f.is(19, protowire.VarintType):
		w.inSchema = f.number != 0
	}
	return err
}

func (w *partial) takeFailure(f field) (err error) {
	switch {
	case f.is(1, protowire.BytesType):
		w.code, err = f.text("")
	case f.is(2, protowire.BytesType):
		w.message, err = f.text("")
	case f.is(3, protowire.VarintType):
		w.refused = f.int32()
	}
	return err
}

func (r *answerReader) stampsOf(wire []byte) (soracache.Stamps, error) {
	if bytes.Equal(wire, r.stamp) {
		return r.stamps, nil
	}
	stamps, err := stampsOf(wire)
	if err == nil {
		r.stamp, r.stamps = wire, stamps
	}
	return stamps, err
}

// duration is a google.protobuf.Duration.
type duration struct {
	said    bool
	seconds int64
	nanos   int32
}

func (d *duration) read(data []byte) error {
	d.said = true
	return eachField(data, func(f field) error {
		switch {
		case f.is(1, protowire.VarintType):
			d.seconds = int64(f.number) //nolint:gosec // as protobuf reads it
		case f.is(2, protowire.VarintType):
			d.nanos = f.int32()
		}
		return nil
	})
}

func (d *duration) value() time.Duration {
	return (&durationpb.Duration{Seconds: d.seconds, Nanos: d.nanos}).AsDuration()
}

func (d *duration) asAge() time.Duration {
	if !d.said {
		return 0
	}
	return ageOf(&durationpb.Duration{Seconds: d.seconds, Nanos: d.nanos})
}

// field is one field of a message on the wire.
type field struct {
	id     protowire.Number
	kind   protowire.Type
	number uint64 // of a varint
	bytes  []byte // of what has a length; a part of the message
}

// is tells whether it is the field of a number. Under that number another type is
// an unknown field.
func (f *field) is(id protowire.Number, kind protowire.Type) bool {
	return f.id == id && f.kind == kind
}

// partitions returns the field as a number of partitions: zero if none can be so
// many.
func (f *field) partitions() uint16 { return partitionsOf(uint32(f.number)) } //nolint:gosec // as protobuf cuts it off

// int32 returns the field as protobuf cuts it off.
func (f *field) int32() int32 { return int32(f.number) } //nolint:gosec // meant

// text returns the field as text, or what is given if that is the same.
func (f *field) text(same string) (string, error) {
	switch {
	case string(f.bytes) == same:
		return same, nil
	case !utf8.Valid(f.bytes):
		return "", errNotText
	}
	return string(f.bytes), nil
}

// eachField calls do with every field of a message, in their order.
func eachField(data []byte, do func(field) error) error {
	for len(data) > 0 {
		var f field
		var n int
		f.id, f.kind, n = protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if f.id > protowire.MaxValidNumber { // which ConsumeTag lets through
			return errNoField
		}
		data = data[n:]
		switch f.kind {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(f.id, f.kind, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := do(f); err != nil {
			return err
		}
	}
	return nil
}
