package server

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// jsonCodec is Connect's own JSON, but for two things. What it writes is the
// same from build to build. And it refuses, in what is to be written or
// invalidated, names that it does not know: Connect ignores them, so that "tag"
// for "tags" would be a success that invalidates nothing, and "kind":
// "KIND_NOTFOUND" would be stored as an ordinary value. In what is to be read it
// ignores them, too, so that callers of a newer contract are served.
type jsonCodec struct{ name string }

// protoCodec is Connect's own.
type protoCodec struct{}

// codecs replaces Connect's codecs, those of JSON under both of their names.
// Both write the empty message that stands for an answer as nothing at all.
func codecs() connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithCodec(protoCodec{}),
		connect.WithCodec(jsonCodec{"json"}),
		connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
	)
}

// Name implements [connect.Codec].
func (protoCodec) Name() string { return "proto" }

// Marshal implements [connect.Codec].
func (protoCodec) Marshal(message any) ([]byte, error) {
	if _, ok := message.(*stub); ok {
		return nil, nil
	}
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	return proto.Marshal(m)
}

// Unmarshal implements [connect.Codec].
func (protoCodec) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a protobuf message", message)
	}
	return proto.Unmarshal(data, m)
}

// Name implements [connect.Codec].
func (c jsonCodec) Name() string { return c.name }

// Marshal implements [connect.Codec].
func (c jsonCodec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend lets Connect reuse its buffers.
func (jsonCodec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	if _, ok := message.(*stub); ok {
		return dst, nil
	}
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	start := len(dst)
	out, err := protojson.MarshalOptions{}.MarshalAppend(dst, m)
	if err != nil {
		return nil, err
	}
	return out[:start+len(dropSpaces(out[start:]))], nil
}

// dropSpaces takes out, in place, the spaces between the tokens of JSON.
// protojson puts them in or not from build to build, so that nobody compares
// its bytes; but people do, in shell scripts.
func dropSpaces(b []byte) []byte {
	out := b[:0]
	for len(b) > 0 {
		end := 1
		if b[0] == '"' {
			end = stringEnd(b)
		}
		if b[0] != ' ' {
			out = append(out, b[:end]...)
		}
		b = b[end:]
	}
	return out
}

// stringEnd returns the length of the JSON string that b begins with.
func stringEnd(b []byte) int {
	for end := 1; ; {
		quote := bytes.IndexByte(b[end:], '"')
		if quote < 0 {
			return len(b)
		}
		end += quote + 1
		escapes := 0
		for b[end-2-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return end
		}
	}
}

// Unmarshal implements [connect.Codec].
func (jsonCodec) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a protobuf message", message)
	}
	if len(data) == 0 {
		return errors.New("an empty body is not a JSON object")
	}
	switch message.(type) {
	case *soracachev1.FillRequest, *soracachev1.SetRequest, *soracachev1.BatchFillRequest, *soracachev1.BatchSetRequest,
		*soracachev1.RenewRequest, *soracachev1.ReleaseRequest, *soracachev1.InvalidateRequest:
		return protojson.Unmarshal(data, m)
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, m)
}

// errInflated ends the reading of a message that inflates past its limit.
var errInflated = errors.New("the inflated message is over its limit")

// boundedGzip stops inflating soon after the limit. Connect's own gzip stops
// keeping what it inflates, but goes on to the end for the sake of the error
// message: minutes of work for 32 MiB of well-chosen zeros.
type boundedGzip struct {
	gzip.Reader
	limit, left int
}

// boundedCompression replaces Connect's gzip.
func boundedCompression(limit int) connect.HandlerOption {
	return connect.WithCompression("gzip",
		func() connect.Decompressor { return &boundedGzip{limit: limit} },
		func() connect.Compressor { return gzip.NewWriter(io.Discard) },
	)
}

// Reset implements [connect.Decompressor].
func (z *boundedGzip) Reset(r io.Reader) error {
	// One byte past the limit is for Connect to see that it was passed.
	z.left = z.limit + 1
	return z.Reader.Reset(r)
}

// Read implements [io.Reader].
func (z *boundedGzip) Read(p []byte) (int, error) {
	if z.left <= 0 {
		return 0, errInflated
	}
	n, err := z.Reader.Read(p[:min(len(p), z.left)])
	z.left -= n
	return n, err
}
