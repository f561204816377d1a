package deadline

import (
	"context"
	"sync/atomic"
	"time"
)

// A call goes on for as long as, within this time, so many bytes of a large body move
// in either direction: 1 MiB/s. A byte a second is no progress.
const (
	Within = 250 * time.Millisecond
	Bytes  = 256 << 10
)

// Progress is what has moved of one call's bodies. Only large ones count.
type Progress struct {
	sent, received atomic.Int64
	first, last    atomic.Int64 // when something did, in nanoseconds since 1970
}

// Sent notes that so many bytes were sent.
func (p *Progress) Sent(n int) { p.note(n, &p.sent) }

// Received notes that so many bytes came.
func (p *Progress) Received(n int) { p.note(n, &p.received) }

func (p *Progress) note(n int, of *atomic.Int64) {
	if n <= 0 {
		return
	}
	now := time.Now().UnixNano()
	p.first.CompareAndSwap(0, now)
	p.last.Store(now)
	of.Add(int64(n))
}

func (p *Progress) moved() int64 { return p.sent.Load() + p.received.Load() }

// draining is until when what was sent may still be on its way: it has left this
// process long before it has arrived.
func (p *Progress) draining() time.Time {
	sent := p.sent.Load()
	if sent == 0 || p.received.Load() > 0 {
		return time.Time{}
	}
	return time.Unix(0, p.last.Load()).Add(Within + time.Duration(sent)*Within/Bytes)
}

// Key is under which the context of a call holds its *[Progress].
type Key struct{}

// ProgressOf returns the progress that a call's context holds; nil: none.
func ProgressOf(ctx context.Context) *Progress {
	p, _ := ctx.Value(Key{}).(*Progress)
	return p
}

// Follow puts off the end of a caller's [Context], if it is one, for as long as a
// call makes progress.
func Follow(ctx context.Context, p *Progress) {
	for c, _ := ctx.(*Context); c != nil; c = c.parent {
		c.progress.Store(p)
	}
}

// Large tells whether so much has moved of the call that a context follows that its
// end by time says nothing of the node.
func Large(ctx context.Context) bool {
	c, ok := ctx.(*Context)
	if !ok {
		return false
	}
	p := c.progress.Load()
	return p != nil && p.moved() >= Bytes
}
