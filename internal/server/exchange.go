package server

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
)

// exchange is one unary request and its answer. Connect speaks the protocols and
// sees empty messages: the server itself reads the body and writes the answer,
// because it accounts for their memory, which Connect does not.
//
//	receive (body.go)  body -> count -> Connect: an empty message
//	decode             in the innermost interceptor: the message of the body
//	answer (write.go)  the node's answer, kept; Connect writes an empty message
//	Write, finish      in its place, the answer
type exchange struct {
	*recorder
	encoding

	server  *Server
	call    *call
	hold    *budget.Hold
	conn    *budget.Connection
	control *http.ResponseController
	ctx     context.Context //nolint:containedctx // the request's own
	body    []byte
	pending *parcel // what Connect's empty message stands for
	// undelivered hands back the leases of an answer that nobody gets; nil: it has
	// none, or was written.
	undelivered func()
	// cutOff: a transfer was ended because others needed its memory.
	cutOff atomic.Bool
	moving bool // a body or an answer is on its way
	// parts of the time that a large transfer has: see moved.
	limitBy     func(time.Time)
	window      time.Time
	windowMoved int

	// What the answer may still take: see Take.
	answered int   // values so far
	values   int   // their bytes
	denied   error // why there was no room
	placed   bool  // it has a place of the gate
	asking   bool  // it has a place of the questions
	waiting  bool  // it waits for others
}

// requestBytes is about what a request takes beside its headers, body and
// answer: its goroutine, and what net/http and Connect keep for it.
const requestBytes = 8 << 10

// newExchange accounts for a request's headers. The exchange must be closed.
func (s *Server) newExchange(w http.ResponseWriter, r *http.Request, c *call) (*exchange, error) {
	conn, _ := r.Context().Value(connectionKey{}).(*budget.Connection)
	x := &exchange{
		recorder: c.response, server: s, call: c, conn: conn, hold: s.budget.Hold(conn), ctx: r.Context(),
		control: http.NewResponseController(w),
	}
	return x, x.take(requestBytes + headerBytes(r.Header))
}

// What a field of a header and each of its values take beside their text: their
// parts of a map and of slices, and what is allocated for them.
const (
	fieldBytes = 128
	valueBytes = 48
)

// headerBytes is about what a request's headers take.
func headerBytes(h http.Header) int {
	n := 0
	for name, values := range h {
		n += fieldBytes + len(name)
		for _, v := range values {
			n += valueBytes + len(v)
		}
	}
	return n
}

// connectionKey is where a request's context has its connection.
type connectionKey struct{}

// exchangeKey is where a unary request's context has its exchange.
type exchangeKey struct{}

// take takes memory, if there is any to take. Its errors are for the caller.
func (x *exchange) take(n int) error {
	if n <= 0 {
		return nil
	}
	return x.hold.Take(x.ctx, n)
}

// reserve takes room for what is about to be read for a request, as much as it can
// be at most. What it was is then to be told, so that the rest is given back.
func reserve(ctx context.Context, most int) (read func(n int) error, err error) {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok {
		return func(int) error { return nil }, nil
	}
	if err := x.take(most); err != nil {
		return nil, err
	}
	return func(n int) error {
		x.hold.Return(most - n)
		return x.take(n - most)
	}, nil
}

// close gives back all that the exchange holds.
func (x *exchange) close() {
	x.settled()
	x.hold.Close()
}

// transfer begins to move a body or an answer, which is cut off if it does not
// move while others need its room. By is what sets its deadline.
func (x *exchange) transfer(by func(time.Time)) {
	x.moving = true
	x.hold.Begin(func() {
		x.cutOff.Store(true)
		by(time.Unix(1, 0))
	})
}

// pace has a transfer move steadily, whether others need its room or not. It is
// for what is large.
func (x *exchange) pace(by func(time.Time)) {
	x.limitBy, x.window, x.windowMoved = by, time.Now(), 0
	x.until(x.window.Add(x.server.firstWindow()))
}

// until sets the deadline of a transfer, unless it was cut off.
func (x *exchange) until(t time.Time) {
	if x.limitBy(t); x.cutOff.Load() { // perhaps right before
		x.limitBy(time.Unix(1, 0))
	}
}

func (x *exchange) readBy(t time.Time)  { _ = x.control.SetReadDeadline(t) }
func (x *exchange) writeBy(t time.Time) { _ = x.control.SetWriteDeadline(t) }

// firstWindow is how long a transfer may take to move at all.
func (s *Server) firstWindow() time.Duration { return min(slowTime, s.cfg.ReadTimeout) }

// moved notes progress. A transfer goes on as long as each window moves enough;
// its deadline is the end of the present one.
func (x *exchange) moved(n int) {
	if !x.moving {
		return
	}
	x.hold.Moved(n)
	if x.limitBy == nil {
		return
	}
	x.windowMoved += n
	if x.windowMoved < slowest*int(slowTime/time.Second) {
		return
	}
	// Enough for this window: the next begins.
	x.window, x.windowMoved = time.Now(), 0
	x.until(x.window.Add(slowTime))
}

// arrived is called when the whole body is there: from here on the connection is
// read only to learn that the caller goes.
func (x *exchange) arrived() {
	paced := x.limitBy != nil
	x.settled() // from here on it is not cut off
	if paced || x.call.request.ProtoMajor == 1 {
		x.readBy(time.Time{})
	}
}

// settled ends a transfer.
func (x *exchange) settled() {
	if x.moving {
		x.hold.End()
	}
	x.moving, x.limitBy = false, nil
}

// Take implements [room.Room].
func (x *exchange) Take(n int) bool {
	if x.answered > 0 && x.values+n > x.server.cfg.AnswerBytes {
		return false
	}
	memory := n
	if x.json { // its text, and that text once more while it is made
		memory += n / 3 * 8
	}
	if err := x.take(memory); err != nil {
		x.denied = err
		return false
	}
	x.answered++
	x.values += n
	return true
}

// Park implements [room.Room]: who waits for others holds no place.
func (x *exchange) Park() error {
	g := &x.server.gate
	if n := g.parked.Add(1); n > g.mostParked {
		g.parked.Add(-1)
		g.parkRefused.Add(1)
		return fmt.Errorf("%w: %d reads wait for leases, which is the limit (--max-parked)", soracache.ErrUnavailable, g.mostParked)
	}
	x.waiting = true
	x.free()
	return nil
}

// Resume implements [room.Room]. Who has waited only has its answer to write, for
// which it needs no place.
func (x *exchange) Resume() {
	x.waiting = false
	x.server.gate.parked.Add(-1)
}

// free gives up the places that it has.
func (x *exchange) free() {
	if x.asking {
		x.asking = false
		x.server.questions.leave()
	}
	if x.placed {
		x.placed = false
		x.server.gate.free()
	}
}

// leave leaves the gate, wherever the handler has stopped.
func (x *exchange) leave() {
	if x.waiting {
		x.Resume()
	}
	x.free()
	x.server.gate.hold.Leave()
}
