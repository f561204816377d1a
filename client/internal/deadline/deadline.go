// Package deadline has a context for one request. Its end is put off for as long as
// the request makes progress.
package deadline

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Context is a context for one request: it ends with the caller's, with the
// client, and at a time. Most requests travel in a call that is another's, and wait
// for that alone: see [Wait]. So what tells others of its end, a timer and three links
// between contexts, is made for those who ask for it.
//
// The time is put off for as long as the call makes progress that it follows, but
// not beyond the caller's own deadline: what is large takes as long as it takes.
//
// Its end is Canceled or DeadlineExceeded; the cause is not told.
type Context struct {
	context.Context // the caller's

	client context.Context //nolint:containedctx // ends with the client
	// parent is the one of which this one is a part, if any.
	parent *Context
	// progress is of the call that it follows.
	progress atomic.Pointer[Progress]

	// endless means that it has no time of its own.
	endless bool

	mu     sync.Mutex
	at     time.Time
	seen   *Progress // that it was put off for,
	moved  int64     // when so much had moved
	over   bool
	late   bool            // it ended by its time
	linked context.Context //nolint:containedctx // if anybody asked for it
	unlink func()
}

// New returns a context that ends with the caller's, with the client's, and at a
// time. It must be ended.
func New(ctx, client context.Context, at time.Time) *Context {
	if own, ok := ctx.Deadline(); ok && own.Before(at) {
		at = own
	}
	return &Context{Context: ctx, client: client, at: at}
}

// Endless returns a context without a time of its own. It must be ended.
func Endless(ctx, client context.Context) *Context {
	c := New(ctx, client, time.Now().Add(forever))
	c.endless = true
	return c
}

// forever is longer than anything takes. More could overflow.
const forever = 24 * time.Hour

// Sooner returns a context like it that ends at a time that is not later. It must be
// ended first.
func (c *Context) Sooner(at time.Time) *Context {
	if own, ok := c.Deadline(); ok && own.Before(at) {
		at = own
	}
	return &Context{Context: c.Context, client: c.client, parent: c, at: at}
}

// End frees what it holds. Whoever still looks finds it cancelled.
func (c *Context) End() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.unlink != nil {
		c.unlink()
	}
}

// Deadline implements [context.Context].
func (c *Context) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endless {
		return time.Time{}, false
	}
	return c.at, true
}

// left is how long it has, after it was put off if it may be.
func (c *Context) left() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leftLocked()
}

func (c *Context) leftLocked() time.Duration {
	now := time.Now()
	if left := c.at.Sub(now); left > 0 {
		return left
	}
	p := c.progress.Load()
	if p == nil || p.moved() == 0 || c.late {
		c.late = true
		return 0
	}
	if p != c.seen {
		c.seen, c.moved = p, 0
	}
	at := time.Unix(0, p.first.Load()).Add(Within) // when the first look is due
	switch moved, draining := p.moved(), p.draining(); {
	case c.moved == 0 && now.Before(at):
	case moved-c.moved >= Bytes:
		at, c.moved = now.Add(Within), moved
	case now.Before(draining):
		at = draining
	default:
		c.late = true
		return 0
	}
	if own, ok := c.Context.Deadline(); ok && own.Before(at) {
		at = own
	}
	if c.at = at; !now.Before(at) {
		c.late = true
		return 0
	}
	return at.Sub(now)
}

// Done implements [context.Context].
func (c *Context) Done() <-chan struct{} { return c.link().Done() }

// AfterFunc has contexts that are derived from it do without a goroutine: see
// [context.AfterFunc].
func (c *Context) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(c.link(), f) }

func (c *Context) link() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.linked == nil {
		ctx, cancel := context.WithCancel(c.Context)
		stop := context.AfterFunc(c.client, cancel)
		var timer *time.Timer
		timer = time.AfterFunc(time.Hour, func() {
			if left := c.left(); left > 0 {
				timer.Reset(left)
				return
			}
			cancel()
		})
		timer.Reset(max(c.leftLocked(), 0))
		c.linked, c.unlink = ctx, func() { stop(); timer.Stop(); cancel() }
		if c.over {
			c.unlink()
		}
	}
	return c.linked
}

// Err implements [context.Context].
func (c *Context) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.late:
		return context.DeadlineExceeded
	case c.Context.Err() != nil:
		return c.Context.Err()
	case c.over, c.client.Err() != nil:
		return context.Canceled
	case c.leftLocked() <= 0:
		return context.DeadlineExceeded
	}
	return nil
}

// Wait waits for one of done and the end of a context, and returns nil if it was done.
// If the context is a [Context] it needs a timer, which is the given one, made if there
// is none.
func Wait(ctx context.Context, done <-chan struct{}, timer **time.Timer) error {
	c, ok := ctx.(*Context)
	if !ok {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if *timer == nil {
		*timer = time.NewTimer(time.Hour)
	}
	defer (*timer).Stop()
	for left := c.left(); ; left = c.left() {
		(*timer).Reset(left)
		select {
		case <-done:
			return nil
		case <-c.Context.Done():
			return c.Context.Err()
		case <-c.client.Done():
			return context.Canceled
		case <-(*timer).C:
			if c.left() <= 0 {
				return context.DeadlineExceeded
			}
		}
	}
}
