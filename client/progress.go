package client

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
)

const (
	// progressWithin is within which time so much of a large body has to move as
	// progressBytes says, in either direction, for a call to go on: 1 MiB/s. A byte a
	// second is no progress.
	progressWithin = 250 * time.Millisecond
	progressBytes  = 256 << 10
	// unmetered is how long a body is at most that is not watched.
	unmetered = 32 << 10
)

// progress is what has moved of one call's bodies. Only large ones count.
type progress struct {
	sent, received atomic.Int64
	first, last    atomic.Int64 // when something did, in nanoseconds since 1970
}

func (p *progress) note(n int, of *atomic.Int64) {
	if n <= 0 {
		return
	}
	now := time.Now().UnixNano()
	p.first.CompareAndSwap(0, now)
	p.last.Store(now)
	of.Add(int64(n))
}

func (p *progress) moved() int64 { return p.sent.Load() + p.received.Load() }

// draining is until when what was sent may still be on its way: it has left this
// process long before it has arrived.
func (p *progress) draining() time.Time {
	sent := p.sent.Load()
	if sent == 0 || p.received.Load() > 0 {
		return time.Time{}
	}
	return time.Unix(0, p.last.Load()).Add(progressWithin + time.Duration(sent)*progressWithin/progressBytes)
}

// large tells whether so much has moved that the call's end by time says nothing
// of the node.
func (p *progress) large() bool { return p != nil && p.moved() >= progressBytes }

type progressKey struct{}

// metered notes in the progress that a request's context has what moves of its
// bodies.
type metered struct{ connect.HTTPClient }

// Do implements [connect.HTTPClient].
func (m metered) Do(req *http.Request) (*http.Response, error) {
	p, _ := req.Context().Value(progressKey{}).(*progress)
	if p == nil {
		return m.HTTPClient.Do(req)
	}
	if req.ContentLength > progressBytes {
		watched := *req
		watched.Body = &meteredBody{req.Body, p, &p.sent}
		watched.GetBody = nil // it is not sent twice
		req = &watched
	}
	res, err := m.HTTPClient.Do(req)
	if err == nil && (res.ContentLength < 0 || res.ContentLength > unmetered) {
		res.Body = &meteredBody{res.Body, p, &p.received}
	}
	return res, err
}

type meteredBody struct {
	io.ReadCloser

	progress *progress
	of       *atomic.Int64
}

func (b *meteredBody) Read(to []byte) (n int, err error) {
	n, err = b.ReadCloser.Read(to)
	b.progress.note(n, b.of)
	return n, err
}

// errand is one request to a node, made in a goroutine of its own, so that it may
// go on when whoever wants it has gone. It is the context of the request, too: it
// has the values of the first who wanted it, its progress, and an end of its own.
type errand struct {
	context.Context

	// due is what the node is told of the callers' time, so that it need not work
	// longer for them than they wait. It is zero where that would be wrong: a node
	// would hold what it is sent to the time for which callers wait for nothing but a
	// first sign of life.
	due due

	progress progress
	cancel   context.CancelFunc
	state    atomic.Int32
	done     chan struct{}
	// lingers ends it when it has gone on without its caller for long enough. The
	// backend's mutex guards it.
	lingers *time.Timer
}

func newErrand(ctx context.Context) *errand {
	e := &errand{done: make(chan struct{})}
	e.Context, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	e.follow(ctx)
	return e
}

// tell has the node know the deadline of those who wait.
func (e *errand) tell(ctx context.Context) { e.due = dueOf(ctx) }

// Deadline implements [context.Context].
func (e *errand) Deadline() (time.Time, bool) { return time.Time(e.due), !time.Time(e.due).IsZero() }

// Value implements [context.Context].
func (e *errand) Value(key any) any {
	if key == (progressKey{}) {
		return &e.progress
	}
	return e.Context.Value(key)
}

// follow has somebody's limit go on for as long as the errand makes progress.
func (e *errand) follow(ctx context.Context) {
	for l, _ := ctx.(*limit); l != nil; l = l.parent {
		l.progress.Store(&e.progress)
	}
}

// wait returns nil once the errand is done, or why the caller's context ended.
func (e *errand) wait(ctx context.Context) error {
	if l, ok := ctx.(*limit); ok {
		timer := time.NewTimer(time.Hour)
		return l.wait(e.done, timer)
	}
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
