package server

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// heads bounds what is kept of requests over HTTP/1.1 whose headers have not all
// arrived. They are in no budget, because there is no request yet, and take up to
// thirty times what was sent of them: maps and slices of small fields. When more
// was sent of them than may be, the connection that has taken longest is closed:
// who sends its headers at once has them out of the way in a millisecond.
//
// It sees what is read from the network, below TLS. What a connection does it knows
// from net/http: by the states that it tells, and by the deadlines that it sets
// once a handshake is over and once something of a next request is there.
type heads struct {
	limit int
	ended atomic.Uint64

	mu   sync.Mutex
	sent int       // by all of them; guarded by mu
	open list.List // of *head, the oldest first; guarded by mu
}

// mostHeads is how many bytes of unfinished headers there may be.
const mostHeads = 1 << 20

// What a connection does.
const (
	handshaking = iota
	receivingHead
	answering // or anything over HTTP/2
	idling    // the deadline of being idle is still to be set
	awaiting
)

// head is a connection, and what it has sent of a request's headers.
type head struct {
	net.Conn
	all  *heads
	does atomic.Int32
	// fresh is what was read in a handshake, or while nothing was under way; before
	// is the most that can be left of what was read before that.
	fresh, before atomic.Int64

	sent  int           // guarded by the mu of heads
	place *list.Element // nil if it has sent nothing; guarded by the mu of heads
}

// headsListener hands out connections that heads sees.
type headsListener struct {
	net.Listener
	all *heads
	tls bool
}

// Accept implements [net.Listener].
func (l headsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	h := &head{Conn: conn, all: l.all}
	if !l.tls {
		h.does.Store(receivingHead)
	}
	return h, nil
}

// Read implements [net.Conn].
func (h *head) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	switch h.does.Load() {
	case receivingHead:
		h.all.take(h, n)
	case answering:
		h.before.Store(max(h.before.Load(), int64(n)))
	default:
		h.fresh.Add(int64(n))
	}
	return n, err
}

// SetReadDeadline implements [net.Conn].
func (h *head) SetReadDeadline(t time.Time) error {
	switch h.does.Load() {
	case handshaking:
		if t.IsZero() { // it is over
			h.fresh.Store(1) // what it has read is not kept
			h.begin()
		}
	case idling:
		h.does.Store(awaiting)
	case awaiting: // something is there
		h.begin()
	}
	return h.Conn.SetReadDeadline(t)
}

// CloseWrite lets net/http end an answer before it closes the connection.
func (h *head) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// begin says that headers arrive from here on. If nothing was read since the last
// request, something was left of what came with it.
func (h *head) begin() {
	n := h.fresh.Swap(0)
	if n == 0 {
		n = h.before.Load()
	}
	h.before.Store(0)
	h.does.Store(receivingHead)
	h.all.take(h, int(n))
}

// changed is told by net/http what a connection does.
func (all *heads) changed(conn net.Conn, state http.ConnState) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	h, ok := conn.(*head)
	if !ok || state == http.StateNew {
		return
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	if state == http.StateIdle {
		h.does.Store(idling)
	} else {
		h.does.Store(answering)
		h.before.Store(int64(h.sent))
	}
	all.drop(h)
}

// take counts what a connection has sent.
func (all *heads) take(h *head, n int) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if n <= 0 || h.does.Load() != receivingHead {
		return
	}
	if h.place == nil {
		h.place = all.open.PushBack(h)
	}
	h.sent += n
	all.sent += n
	for all.sent > all.limit {
		oldest, _ := all.open.Front().Value.(*head)
		all.drop(oldest)
		oldest.does.Store(answering)
		_ = oldest.Conn.Close()
		all.ended.Add(1)
	}
}

// drop holds mu.
func (all *heads) drop(h *head) {
	if h.place == nil {
		return
	}
	all.open.Remove(h.place)
	all.sent -= h.sent
	h.place, h.sent = nil, 0
}
