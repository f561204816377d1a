package server

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
)

const (
	// pieceBytes is what is read and written at once: what shows progress.
	pieceBytes = 64 << 10
	// A body or an answer of more than a piece must move at slowest at this many
	// bytes a second, looked at every slowTime. What is smaller has its timeout,
	// as long as nobody needs its room.
	slowest  = 128 << 10
	slowTime = 5 * time.Second
	// frameBytes is what gRPC puts before a message.
	frameBytes = 5
	// inflaterBytes is about what inflating takes beside what it inflates.
	inflaterBytes = 64 << 10
)

// encoding is how a request is encoded, as far as the server reads it itself.
type encoding struct {
	framed bool // gRPC and gRPC-Web
	json   bool
	gzip   bool
}

// encodingOf tells how a unary request is encoded. Not ok means that Connect
// will refuse it, whatever its body is.
func encodingOf(h http.Header) (e encoding, ok bool) {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	compression := h.Get("Content-Encoding")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "application/proto":
	case "application/json":
		e.json = true
	case "application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web+proto":
		e.framed, compression = true, h.Get("Grpc-Encoding")
	case "application/grpc+json", "application/grpc-web+json":
		e.framed, e.json, compression = true, true, h.Get("Grpc-Encoding")
	default:
		return e, false
	}
	e.gzip = compression == "gzip"
	return e, e.gzip || compression == "" || compression == "identity"
}

// receive reads and inflates a request's body, and counts what is in it. What
// it returns goes to Connect in place of the body: an empty message, or, if
// Connect is to say what is wrong with the body, the part that shows it.
func (x *exchange) receive(r *http.Request) (io.ReadCloser, error) {
	e, ok := encodingOf(r.Header)
	if !ok {
		return http.NoBody, nil
	}
	x.encoding = e
	x.transfer(x.readBy)
	defer x.settled()
	limit, length := x.server.cfg.MessageBytes, r.ContentLength
	packed := e.gzip
	if e.framed {
		var prefix [frameBytes]byte
		if n, err := io.ReadFull(r.Body, prefix[:]); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, x.readError(err, limit)
			}
			return io.NopCloser(bytes.NewReader(prefix[:n])), nil
		}
		length = int64(binary.BigEndian.Uint32(prefix[1:]))
		if packed = prefix[0]&1 != 0; prefix[0] > 1 || packed && !e.gzip {
			return io.NopCloser(bytes.NewReader(append(prefix[:1], 0, 0, 0, 0))), nil
		}
	}
	most := limit
	if packed {
		most += envelope // what gzip adds to what it cannot compress
	}
	if length > int64(most) {
		return nil, fmt.Errorf("%w: message of %d bytes: at most %d", soracache.ErrTooLarge, length, limit)
	}
	body, err := x.read(r.Body, length, most, packed)
	if err != nil {
		if e.framed && errors.Is(err, io.ErrUnexpectedEOF) {
			err = connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the message ends before its %d bytes", length))
		}
		return nil, x.readError(err, limit)
	}
	var after []byte
	if e.framed {
		// A second message is for Connect to refuse.
		var next [frameBytes]byte
		n, err := io.ReadFull(r.Body, next[:])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, x.readError(err, limit)
		}
		after = next[:n]
	}
	x.arrived()
	if packed {
		if body, err = x.inflate(body, limit); err != nil {
			return nil, err
		}
	}
	if err := x.count(body); err != nil {
		return nil, err
	}
	x.body = body
	return e.empty(after), nil
}

// empty is an empty message, and what came after the one in whose place it stands.
func (e encoding) empty(after []byte) io.ReadCloser {
	switch none := []byte("{}"); {
	case e.framed && e.json:
		return io.NopCloser(bytes.NewReader(append(append([]byte{0, 0, 0, 0, 2}, none...), after...)))
	case e.framed:
		return io.NopCloser(bytes.NewReader(append(make([]byte, frameBytes), after...)))
	case e.json:
		return io.NopCloser(bytes.NewReader(none))
	}
	return http.NoBody
}

// memoryOf is what a body of a length takes until its request has been answered:
// the body, and what is decoded of it. Text becomes a string, and that the bytes
// that it stands for.
func (e encoding) memoryOf(length int) int {
	if e.json {
		return length/4*11 + 1<<10
	}
	return 2*length + 1<<10
}

// read reads a body of a length, or (negative) to its end.
func (x *exchange) read(r io.Reader, length int64, limit int, packed bool) ([]byte, error) {
	if length >= 0 {
		take := int(length)
		if !packed {
			take = x.encoding.memoryOf(take)
		}
		// All at once, while it holds nothing: it does not wait again.
		if err := x.take(take); err != nil {
			return nil, err
		}
		body := make([]byte, 0, length)
		if length > pieceBytes {
			x.pace(x.readBy)
		}
		for len(body) < cap(body) {
			n, err := io.ReadFull(r, body[len(body):min(len(body)+pieceBytes, cap(body))])
			body = body[:len(body)+n]
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return nil, err
			}
			x.moved(n)
		}
		return body, x.toEnd(r, length)
	}
	return x.grow(r, 4<<10, limit, x.readBy, fmt.Errorf("%w: message of more than %d bytes", soracache.ErrTooLarge, limit))
}

// toEnd lets net/http see the end of a body, so that it can use the connection
// again and learns when the caller goes. A framed one goes on.
func (x *exchange) toEnd(r io.Reader, length int64) error {
	if x.encoding.framed {
		return nil
	}
	var one [1]byte
	n, err := r.Read(one[:])
	switch {
	case n > 0:
		return fmt.Errorf("%w: the body is longer than the %d bytes it was said to have", soracache.ErrInvalid, length)
	case err == nil, errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// grow reads to the end, into memory that is taken before it is allocated. By
// bounds the transfer, if it is one.
func (x *exchange) grow(r io.Reader, first, limit int, by func(time.Time), over error) ([]byte, error) {
	if err := x.take(first); err != nil {
		return nil, err
	}
	body := make([]byte, 0, first)
	for {
		if len(body) == cap(body) {
			if len(body) > limit {
				return nil, over
			}
			larger := min(2*cap(body), limit+1)
			if err := x.take(larger); err != nil {
				return nil, err
			}
			old := body
			body = append(make([]byte, 0, larger), old...)
			x.hold.Give(cap(old))
			if larger > pieceBytes && by != nil && x.limitBy == nil {
				x.pace(by)
			}
		}
		n, err := r.Read(body[len(body):min(len(body)+pieceBytes, cap(body))])
		body = body[:len(body)+n]
		x.moved(n)
		switch {
		case len(body) > limit:
			return nil, over
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return nil, err
		}
	}
}

// inflate inflates a body up to the limit. Its last bytes say how long it will
// be, so that there is no need to grow; if they do not tell the truth, it grows.
func (x *exchange) inflate(packed []byte, limit int) ([]byte, error) {
	if len(packed) == 0 {
		return nil, nil
	}
	if err := x.take(inflaterBytes); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("decompress: %w", err))
	}
	first := 4 << 10
	if len(packed) >= 4 {
		if said := int(binary.LittleEndian.Uint32(packed[len(packed)-4:])); said <= limit {
			first = max(said+1, 512)
		}
	}
	body, err := x.grow(z, first, limit, nil, errInflated)
	switch {
	case err == nil:
	case errors.Is(err, errInflated):
		return nil, fmt.Errorf("%w: %w of %d bytes", soracache.ErrTooLarge, errInflated, limit)
	case wireError(err).Code() == connect.CodeInternal: // gzip's own
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("decompress: %w", err))
	default:
		return nil, err
	}
	// What was packed is needed no more; what is decoded will be.
	x.hold.Give(len(packed) + inflaterBytes)
	return body, x.take(x.encoding.memoryOf(len(body)) - cap(body))
}

// count counts what the body will be once it is decoded, and takes that.
func (x *exchange) count(body []byte) error {
	limits := x.server.node.Limits()
	m := most{items: limits.Batch, bytes: x.server.budget.Share()}
	if !x.call.procedure.batch {
		m.items = m.bytes // what it may have, its parser says
	}
	counter := countProto
	if x.json {
		counter = countJSON
	}
	c, err := counter(body, x.call.procedure.request, m)
	switch {
	case err != nil && errors.Is(err, soracache.ErrInvalid):
		return err
	case err != nil:
		return unreadable(err)
	case c.items > m.items:
		return fmt.Errorf("%w: batch of more than %d", soracache.ErrTooLarge, m.items)
	}
	return x.take(len(body) + c.bytes - x.hold.Held())
}

// decode makes the message of the body.
func (x *exchange) decode(message any) error {
	m, ok := message.(proto.Message)
	if !ok || x.body == nil && !x.json {
		return nil
	}
	body := x.body
	x.body = nil
	var err error
	if x.json {
		err = jsonCodec{}.Unmarshal(body, m)
	} else {
		err = proto.Unmarshal(body, m)
	}
	if err != nil {
		return unreadable(err)
	}
	return nil
}

// mostQuoted is how many bytes of what is wrong with a request an error quotes. Its
// memory is in no budget, and on its way out it takes up to three times its text.
const mostQuoted = 300

// unreadable is why a body is no message. A decoder quotes what it does not know,
// however long that is.
func unreadable(err error) error {
	said := err.Error()
	if len(said) > mostQuoted {
		said = strings.ToValidUTF8(said[:mostQuoted], "") + "…"
	}
	return connect.NewError(connect.CodeInvalidArgument, errors.New("unmarshal message: "+said))
}

// readError is why a body did not arrive.
func (x *exchange) readError(err error, limit int) error {
	var coded *connect.Error
	var tooLong *http.MaxBytesError
	switch {
	case x.cutOff.Load():
		return fmt.Errorf("the body came too slowly while others needed its room: %w", budget.ErrFull)
	case errors.As(err, &tooLong):
		return fmt.Errorf("%w: request of more than %d bytes: at most %d", soracache.ErrTooLarge, tooLong.Limit, limit)
	case errors.As(err, &coded), errors.Is(err, soracache.ErrInvalid), errors.Is(err, soracache.ErrTooLarge), errors.Is(err, budget.ErrFull):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the body came too slowly"))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the body ends too early"))
	}
	return connect.NewError(connect.CodeCanceled, fmt.Errorf("the body did not arrive: %w", err))
}
