package server

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// parcel is an answer on its way: the bytes of a message, in parts. Values are
// parts of their own and not copied.
type parcel struct {
	parts [][]byte
	bytes int
}

func (p *parcel) add(b []byte) {
	if len(b) > 0 {
		p.parts = append(p.parts, b)
		p.bytes += len(b)
	}
}

// stub is the empty message that Connect writes in place of an answer.
type stub struct{}

// answer keeps a node's answer to be written. Its memory is taken first; that of
// the values was when they were read.
func (x *exchange) answer(ctx context.Context, message proto.Message) error {
	if err := ctx.Err(); err != nil { // nobody is there to take it
		return err
	}
	size := proto.Size(message)
	rest := max(size-x.values, 0)
	if x.json {
		// Names, numbers in words, and escapes.
		rest = 6*rest + 256*(1+x.answered)
	}
	if err := x.take(rest); err != nil {
		return err
	}
	p := &parcel{}
	if x.json {
		text, err := jsonCodec{}.MarshalAppend(make([]byte, 0, x.values/3*4+rest), message)
		if err != nil {
			return err
		}
		p.add(text)
	} else if err := p.pack(message); err != nil {
		return err
	}
	x.pending = p
	return nil
}

// apart is from which length on a value is sent as it is, not copied into the
// message.
const apart = 4 << 10

// pack puts a message into parts. The order of a message's fields says nothing,
// so what is large goes last.
func (p *parcel) pack(message proto.Message) error {
	switch m := message.(type) {
	case *soracachev1.GetResponse:
		return p.packOne(m)
	case *soracachev1.BatchGetResponse:
		return p.packMany(m)
	}
	b, err := proto.Marshal(message)
	p.add(b)
	return err
}

func (p *parcel) packOne(m *soracachev1.GetResponse) error {
	head, value, err := packedGet(nil, m)
	p.add(head)
	p.add(value)
	return err
}

// packedGet appends a message to b, but for its value if that is large: it comes
// right after what was appended.
func packedGet(b []byte, m *soracachev1.GetResponse) (head, value []byte, err error) {
	if len(m.GetValue()) >= apart {
		value, m.Value = m.GetValue(), nil
	}
	b, err = proto.MarshalOptions{}.MarshalAppend(b, m)
	if value != nil {
		m.Value = value
		b = protowire.AppendTag(b, fieldOf(m, "value"), protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(value)))
	}
	return b, value, err
}

func (p *parcel) packMany(m *soracachev1.BatchGetResponse) error {
	results, large := m.GetResults(), false
	for _, r := range results {
		large = large || len(r.GetValue()) >= apart
	}
	if !large {
		b, err := proto.Marshal(m)
		p.add(b)
		return err
	}
	m.Results = nil
	head, err := proto.Marshal(m)
	m.Results = results
	field := fieldOf(m, "results")
	for _, r := range results {
		if err != nil {
			return err
		}
		head = protowire.AppendTag(head, field, protowire.BytesType)
		head = protowire.AppendVarint(head, uint64(proto.Size(r))) //nolint:gosec // sizes are positive
		var value []byte
		if head, value, err = packedGet(head, r); value != nil {
			p.add(head)
			p.add(value)
			head = nil
		}
	}
	p.add(head)
	return err
}

func fieldOf(m proto.Message, name string) protowire.Number {
	return m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name)).Number()
}

// Write implements [http.ResponseWriter]: what Connect writes of an empty
// message is replaced by the answer.
func (x *exchange) Write(b []byte) (int, error) {
	x.free() // the work is done
	if x.pending == nil {
		return x.recorder.Write(b)
	}
	if len(b) > 0 { // the frame around nothing
		if err := x.deliver(); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// finish writes the answer where Connect had nothing to write. An answer that could
// not be written, or that came when its caller's time was over, was in vain.
func (x *exchange) finish() {
	x.free()
	if x.pending != nil {
		if err := x.deliver(); err != nil {
			x.call.code = connect.CodeCanceled.String()
		}
	}
	if x.call.request.ProtoMajor == 2 { // an error, or what gRPC-Web has after an answer
		x.transfer(x.writeBy)
		_ = x.flush()
		x.settled()
	}
	if x.undelivered != nil {
		x.undelivered()
	}
}

// deliver sends the answer.
func (x *exchange) deliver() error {
	err := x.write()
	if err == nil {
		x.undelivered = nil
	}
	return err
}

func (x *exchange) write() error {
	p := x.pending
	x.pending = nil
	defer x.settled()
	others := x.conn.Sending(1)
	defer x.conn.Sending(-1)
	x.transfer(x.writeBy)
	if p.bytes > pieceBytes {
		x.pace(x.writeBy)
	}
	err := x.put(p, others == 0)
	if err == nil {
		err = x.flush()
	}
	return err
}

// flush returns once what was written over HTTP/2 was taken. What is short waits in a
// buffer until the handler has returned, and then for as long as its caller likes:
// nobody would account for it, or could cut it off.
func (x *exchange) flush() error {
	if x.call.request.ProtoMajor != 2 {
		return nil
	}
	return x.control.Flush()
}

// put writes an answer, compressed if that is worth it and nobody else is sending on
// the connection.
func (x *exchange) put(p *parcel, alone bool) error {
	if x.accepts() && p.bytes >= compressMinBytes && alone {
		if z := x.server.compressors.get(); z != nil {
			defer x.server.compressors.put(z)
			if x.framed {
				return x.frameCompressed(z, p)
			}
			if shrinks(z, p) {
				return x.sendCompressed(z, p)
			}
		}
	}
	if x.framed {
		return x.frame(0, p)
	}
	x.Header().Set("Content-Length", strconv.Itoa(p.bytes))
	return x.send(p)
}

// frame sends a message in the frame of gRPC.
func (x *exchange) frame(flags byte, p *parcel) error {
	prefix := binary.BigEndian.AppendUint32([]byte{flags}, uint32(p.bytes)) //nolint:gosec // limited far below
	if len(p.parts) == 1 && p.bytes <= apart {
		_, err := x.recorder.Write(append(prefix, p.parts[0]...))
		return err
	}
	if _, err := x.recorder.Write(prefix); err != nil {
		return err
	}
	return x.send(p)
}

func (x *exchange) send(p *parcel) error {
	for _, part := range p.parts {
		if _, err := (pieces{x}).Write(part); err != nil {
			return err
		}
	}
	return nil
}

// pieces writes in pieces, each of which shows progress.
type pieces struct{ x *exchange }

func (w pieces) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		if err := w.x.ctx.Err(); err != nil {
			return written, err
		}
		n, err := w.x.recorder.Write(b[:min(len(b), pieceBytes)])
		written += n
		if err != nil {
			return written, err
		}
		w.x.moved(n)
		b = b[n:]
	}
	return written, nil
}

// accepts tells whether the caller takes gzip.
func (x *exchange) accepts() bool {
	if x.framed {
		return x.Header().Get("Grpc-Encoding") == "gzip" // Connect has negotiated
	}
	accepted := x.call.request.Header.Get("Accept-Encoding")
	if accepted == "" {
		return x.gzip
	}
	for each := range strings.SplitSeq(accepted, ",") {
		name, weight, _ := strings.Cut(strings.TrimSpace(each), ";")
		if strings.TrimSpace(name) == "gzip" {
			weight = strings.ReplaceAll(weight, " ", "")
			return strings.Trim(strings.TrimPrefix(weight, "q="), "0.") != "" || !strings.HasPrefix(weight, "q=")
		}
	}
	return false
}

const (
	// compressMinBytes spares small answers the compression that their callers
	// would accept, and compressMaxFrame large ones where the frame says how long
	// they are, so that they would have to be held compressed as well.
	compressMinBytes = 4 << 10
	compressMaxFrame = 1 << 20
	// sampleBytes is what is tried, to see whether compression is worth it.
	sampleBytes = 16 << 10
)

// shrinks tries the compression on the end of the answer.
func shrinks(z *gzip.Writer, p *parcel) bool {
	var n counter
	z.Reset(&n)
	last := p.parts[len(p.parts)-1]
	for _, part := range p.parts {
		if len(part) > len(last) {
			last = part
		}
	}
	sample := last[:min(len(last), sampleBytes)]
	_, _ = z.Write(sample)
	_ = z.Close()
	return int(n) < len(sample)/8*7
}

type counter int

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// sendCompressed compresses while it sends, no faster than the caller takes it,
// and no further than the caller stays.
func (x *exchange) sendCompressed(z *gzip.Writer, p *parcel) error {
	x.Header().Set("Content-Encoding", "gzip")
	z.Reset(pieces{x})
	if err := compressInto(x.ctx, z, p); err != nil {
		return err
	}
	return z.Close()
}

// frameCompressed compresses what is not large before it sends it, because its
// frame says how long it is.
func (x *exchange) frameCompressed(z *gzip.Writer, p *parcel) error {
	if p.bytes > compressMaxFrame || !shrinks(z, p) || x.take(p.bytes) != nil {
		return x.frame(0, p)
	}
	packed := bounded{left: p.bytes}
	z.Reset(&packed)
	err := compressInto(x.ctx, z, p)
	if err == nil {
		err = z.Close()
	}
	switch {
	case x.ctx.Err() != nil:
		return x.ctx.Err()
	case err != nil: // it did not shrink
		return x.frame(0, p)
	}
	return x.frame(1, &parcel{parts: [][]byte{packed.b}, bytes: len(packed.b)})
}

// bounded keeps no more than it has room for.
type bounded struct {
	b    []byte
	left int
}

func (w *bounded) Write(b []byte) (int, error) {
	if len(b) > w.left {
		return 0, io.ErrShortWrite
	}
	if w.b == nil {
		w.b = make([]byte, 0, w.left)
	}
	w.left -= len(b)
	w.b = append(w.b, b...)
	return len(b), nil
}

// compressInto compresses, unless the caller goes meanwhile.
func compressInto(ctx context.Context, z *gzip.Writer, p *parcel) error {
	for _, part := range p.parts {
		for len(part) > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(len(part), pieceBytes)
			if _, err := z.Write(part[:n]); err != nil {
				return err
			}
			part = part[n:]
		}
	}
	return nil
}

// compressors are as many as may work at once: half of the processors. An answer
// that finds none is sent as it is.
type compressors struct{ idle chan *gzip.Writer }

func newCompressors() compressors {
	n := max(runtime.GOMAXPROCS(0)/2, 1)
	c := compressors{make(chan *gzip.Writer, n)}
	for range n {
		z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // a level that there is
		c.idle <- z
	}
	return c
}

func (c compressors) get() *gzip.Writer {
	select {
	case z := <-c.idle:
		return z
	default:
		return nil
	}
}

func (c compressors) put(z *gzip.Writer) {
	z.Reset(io.Discard)
	c.idle <- z
}

var _ http.ResponseWriter = (*exchange)(nil)
