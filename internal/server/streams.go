package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/internal/hold"
)

const (
	// streamStall is how long a message of a stream may take to be sent. Whoever
	// reads more slowly is cut off.
	streamStall = 10 * time.Second
	// beginBytes is what the message that begins a stream takes at most, inflated
	// and decoded, until it was looked at. Then that is known: its length this many
	// times.
	beginBytes = 3 * streamBytes
	lookedAt   = 8
	// A message of a stream takes this many times its length until it was sent.
	// What is shorter than smallMessage is in what every request takes.
	sending      = 3
	sendingJSON  = 6
	smallMessage = 4 << 10
	// streamGrace is how long a stream may take to end once it was told to.
	streamGrace = 250 * time.Millisecond
)

// Why the server ends streams.
var (
	errStreamsEnd = fmt.Errorf("%w: the node is draining", soracache.ErrUnavailable)
	// What a token allows is asked when a stream begins, so that it has to begin
	// anew.
	errTokensRead = fmt.Errorf("%w: the tokens were read again", soracache.ErrUnavailable)
)

// streams are the answers that have no end of their own. They do not pass the
// gate: most of them do nothing, and none is waited for.
type streams struct {
	hold  hold.Gate
	limit int

	refused atomic.Uint64

	mu     sync.Mutex
	open   map[*stream]struct{} // guarded by mu
	placed int                  // of these, who has a place; guarded by mu
	ended  bool                 // guarded by mu
}

// enter admits a stream, which must then leave. It has no place yet.
func (all *streams) enter(ctx context.Context, c *call) (*stream, error) {
	if !all.hold.Enter() {
		return nil, errStreamsEnd
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.ended {
		all.hold.Leave()
		return nil, errStreamsEnd
	}
	st := &stream{recorder: c.response, call: c, control: http.NewResponseController(c.response)}
	st.ctx, st.cancel = context.WithCancelCause(ctx)
	if all.open == nil {
		all.open = map[*stream]struct{}{}
	}
	all.open[st] = struct{}{}
	return st, nil
}

// place gives a place to a stream whose request is there. Who does not send its
// request takes none.
func (all *streams) place(st *stream) error {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.placed >= all.limit {
		all.refused.Add(1)
		return fmt.Errorf("%w: %d streams are open, which is the limit", soracache.ErrTooLarge, all.limit)
	}
	all.placed++
	st.placed = true
	return nil
}

func (all *streams) leave(st *stream) {
	all.mu.Lock()
	delete(all.open, st)
	if st.placed {
		all.placed--
	}
	all.mu.Unlock()
	st.close()
	all.hold.Leave()
}

// end tells every stream to end, and lets none begin.
func (all *streams) end() {
	all.hold.Shut()
	all.mu.Lock()
	all.ended = true
	all.mu.Unlock()
	all.endOpen(errStreamsEnd)
}

// endOpen tells every stream that is open why it is to end.
func (all *streams) endOpen(why error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	for st := range all.open {
		st.end(why)
	}
}

func (all *streams) count() int {
	all.mu.Lock()
	defer all.mu.Unlock()
	return len(all.open)
}

func (all *streams) places() int {
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.placed
}

// stream is the response writer of a stream. The server's timeouts for requests
// are too short for it, so it has its own: for each message.
type stream struct {
	*recorder

	call    *call
	hold    *budget.Hold
	control *http.ResponseController
	ctx     context.Context //nolint:containedctx // the stream's own life, ended by end
	cancel  context.CancelCauseFunc
	json    bool
	placed  bool // guarded by the mu of streams

	mu sync.Mutex
	// arrived: the request is there. Guarded by mu.
	arrived bool
	// ending: the deadline for writing is set for good. Guarded by mu.
	ending bool
	// closed: the handler has returned, so the writer must not be touched any
	// more. Guarded by mu.
	closed bool
}

type streamKey struct{}

// streamOf returns the stream that a context is of, or nil.
func streamOf(ctx context.Context) *stream {
	st, _ := ctx.Value(streamKey{}).(*stream)
	return st
}

// Write implements [http.ResponseWriter].
func (st *stream) Write(b []byte) (int, error) {
	st.within(streamStall)
	return st.recorder.Write(b)
}

// Flush ends a message: the next one has its own time.
func (st *stream) Flush() {
	st.within(streamStall)
	st.recorder.Flush()
	st.within(0)
}

// within bounds how long writing may take from now; zero: without bound.
func (st *stream) within(d time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.bound(d)
}

// bound holds mu.
func (st *stream) bound(d time.Duration) {
	if st.ending || st.closed {
		return
	}
	var deadline time.Time
	if d > 0 {
		deadline = time.Now().Add(d)
	}
	_ = st.control.SetWriteDeadline(deadline)
}

// end tells the handler to return. If it is writing to somebody who does not
// read, it is not waited for.
func (st *stream) end(why error) {
	st.cancel(why)
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.arrived && !st.closed {
		_ = st.control.SetReadDeadline(time.Unix(1, 0))
	}
	st.bound(streamGrace)
	st.ending = true
}

// cutOff ends what is being sent, because others need its memory.
func (st *stream) cutOff() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ending || st.closed {
		return
	}
	_ = st.control.SetWriteDeadline(time.Unix(1, 0))
	st.ending = true
}

// receive reads the request, into memory that is taken as it comes. What is wrong
// with it is for Connect to say: what it returns is read like the body. Its error
// says that there is no memory.
func (st *stream) receive(body io.Reader) (io.ReadCloser, error) {
	var got []byte
	var err error
	for err == nil {
		if len(got) == cap(got) {
			larger := max(2*cap(got), 512)
			if err := st.hold.Take(st.ctx, larger); err != nil {
				return nil, err
			}
			old := got
			got = append(make([]byte, 0, larger), old...)
			st.hold.Give(cap(old))
		}
		var n int
		n, err = body.Read(got[len(got):cap(got)])
		got = got[:len(got)+n]
	}
	st.mu.Lock()
	st.arrived = true
	st.mu.Unlock()
	return io.NopCloser(io.MultiReader(bytes.NewReader(got), failed{err})), nil
}

// failed is where a body ends, and how.
type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// looked gives back what the request does not take, now that its length is known:
// a stream that has nothing to say takes little, for as long as it likes.
func (st *stream) looked(length int) { st.hold.Give(max(beginBytes-lookedAt*length, 0)) }

// send sends a message of a length, in memory that was taken before. While others
// find no room, who does not take it in is cut off.
func (st *stream) send(length int, send func() error) error {
	if length < smallMessage {
		return send()
	}
	takes := sending * length
	if st.json {
		takes = sendingJSON * length
	}
	if err := st.hold.Take(st.ctx, takes); err != nil {
		return err
	}
	st.hold.Begin(st.cutOff)
	err := send()
	st.hold.End()
	st.hold.Give(takes)
	return err
}

// close is called when the handler has returned. What it has left to write has
// its time like a message.
func (st *stream) close() {
	st.cancel(nil)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.bound(streamStall)
	st.closed = true
}

// serveStream hands a stream to its handler.
func (s *Server) serveStream(c *call, r *http.Request) {
	conn, _ := r.Context().Value(connectionKey{}).(*budget.Connection)
	hold := s.budget.Hold(conn)
	defer hold.Close()
	if err := hold.Take(r.Context(), requestBytes+headerBytes(r.Header)); err != nil {
		s.refuse(c, r, err)
		return
	}
	st, err := s.streams.enter(r.Context(), c)
	if err != nil {
		s.refuse(c, r, err)
		return
	}
	defer s.streams.leave(st)
	st.hold = hold
	st.json = strings.Contains(r.Header.Get("Content-Type"), "json")
	r = r.WithContext(context.WithValue(st.ctx, streamKey{}, st))
	if r.Body, err = st.receive(r.Body); err == nil {
		err = s.streams.place(st)
	}
	if err == nil {
		err = hold.Take(st.ctx, beginBytes)
	}
	if why := context.Cause(st.ctx); errors.Is(why, soracache.ErrUnavailable) { // it was ended meanwhile
		err = why
	}
	if err != nil {
		s.refuse(c, r, err)
		return
	}
	s.rpcs.ServeHTTP(st, r)
}

// streamErrors turns what the handlers of streams return into what goes on the
// wire. Unary calls it leaves to mapErrors.
type streamErrors struct{ server *Server }

// WrapUnary implements [connect.Interceptor].
func (streamErrors) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

// WrapStreamingClient implements [connect.Interceptor].
func (streamErrors) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements [connect.Interceptor].
func (e streamErrors) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		err := next(ctx, conn)
		if err == nil {
			return nil
		}
		answer := wireError(err)
		if answer.Code() == connect.CodeInternal {
			e.server.log.Error("stream failed", "procedure", conn.Spec().Procedure, "error", err)
		}
		if st := streamOf(ctx); st != nil {
			st.call.code = answer.Code().String()
		}
		return answer
	}
}
