package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

// limit is a context for one request: it ends with the caller's, with the
// client, and at a time. Most requests travel in a call that is another's, and
// wait for that alone (see lane): so what tells others of its end, a timer and
// three links between contexts, is made for those who ask for it.
//
// The time is put off for as long as the call makes progress that it follows, but
// not beyond the caller's own deadline: what is large takes as long as it takes.
//
// Its end is Canceled or DeadlineExceeded; the cause is not told.
type limit struct {
	context.Context // the caller's

	client context.Context //nolint:containedctx // ends with the client
	// parent is the limit of which this one is a part, if any.
	parent *limit
	// progress is of the call that it follows.
	progress atomic.Pointer[progress]

	// endless means that it has no time of its own.
	endless bool

	mu     sync.Mutex
	at     time.Time
	seen   *progress // that it was put off for,
	moved  int64     // when so much had moved
	over   bool
	late   bool            // it ended by its time
	linked context.Context //nolint:containedctx // if anybody asked for it
	unlink func()
}

// limited returns a context that ends after d at the latest. It must be ended.
func (c *Client) limited(ctx context.Context, d time.Duration) *limit {
	return newLimit(ctx, c.closing, time.Now().Add(d))
}

// detached is limited for what goes on when the client is closed.
func detached(ctx context.Context, d time.Duration) *limit {
	return newLimit(ctx, context.Background(), time.Now().Add(d))
}

// toWrite is detached for writes of one kind. Fills are cut off when a client that is
// closed does not wait for them any longer.
func (c *Client) toWrite(ctx context.Context, d time.Duration, op soracache.WriteOp) *limit {
	if op == soracache.OpFill {
		return newLimit(ctx, c.cutting, time.Now().Add(d))
	}
	return detached(ctx, d)
}

func newLimit(ctx, client context.Context, at time.Time) *limit {
	if sooner, ok := ctx.Deadline(); ok && sooner.Before(at) {
		at = sooner
	}
	return &limit{Context: ctx, client: client, at: at}
}

// sooner returns a limit like it that ends at a time that is not later. It must be
// ended first.
func (l *limit) sooner(at time.Time) *limit {
	if own, ok := l.Deadline(); ok && own.Before(at) {
		at = own
	}
	return &limit{Context: l.Context, client: l.client, parent: l, at: at}
}

// end frees what it holds. Whoever still looks finds it cancelled.
func (l *limit) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.unlink != nil {
		l.unlink()
	}
}

// Deadline implements [context.Context].
func (l *limit) Deadline() (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.endless {
		return time.Time{}, false
	}
	return l.at, true
}

// left is how long it has, after it was put off if it may be.
func (l *limit) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leftLocked()
}

func (l *limit) leftLocked() time.Duration {
	now := time.Now()
	if left := l.at.Sub(now); left > 0 {
		return left
	}
	p := l.progress.Load()
	if p == nil || p.moved() == 0 || l.late {
		l.late = true
		return 0
	}
	if p != l.seen {
		l.seen, l.moved = p, 0
	}
	at := time.Unix(0, p.first.Load()).Add(progressWithin) // when the first look is due
	switch moved, draining := p.moved(), p.draining(); {
	case l.moved == 0 && now.Before(at):
	case moved-l.moved >= progressBytes:
		at, l.moved = now.Add(progressWithin), moved
	case now.Before(draining):
		at = draining
	default:
		l.late = true
		return 0
	}
	if own, ok := l.Context.Deadline(); ok && own.Before(at) {
		at = own
	}
	if l.at = at; !now.Before(at) {
		l.late = true
		return 0
	}
	return at.Sub(now)
}

// Done implements [context.Context].
func (l *limit) Done() <-chan struct{} { return l.link().Done() }

// AfterFunc has contexts that are derived from it do without a goroutine: see
// [context.AfterFunc].
func (l *limit) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(l.link(), f) }

func (l *limit) link() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.linked == nil {
		ctx, cancel := context.WithCancel(l.Context)
		stop := context.AfterFunc(l.client, cancel)
		var timer *time.Timer
		timer = time.AfterFunc(time.Hour, func() {
			if left := l.left(); left > 0 {
				timer.Reset(left)
				return
			}
			cancel()
		})
		timer.Reset(max(l.leftLocked(), 0))
		l.linked, l.unlink = ctx, func() { stop(); timer.Stop(); cancel() }
		if l.over {
			l.unlink()
		}
	}
	return l.linked
}

// Err implements [context.Context].
func (l *limit) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.late:
		return context.DeadlineExceeded
	case l.Context.Err() != nil:
		return l.Context.Err()
	case l.over, l.client.Err() != nil:
		return context.Canceled
	case l.leftLocked() <= 0:
		return context.DeadlineExceeded
	}
	return nil
}

// wait waits for one of done and its end, for which timer is used. It returns nil
// if it was done.
func (l *limit) wait(done <-chan struct{}, timer *time.Timer) error {
	defer timer.Stop()
	for left := l.left(); ; left = l.left() {
		timer.Reset(left)
		select {
		case <-done:
			return nil
		case <-l.Context.Done():
			return l.Context.Err()
		case <-l.client.Done():
			return context.Canceled
		case <-timer.C:
			if l.left() <= 0 {
				return context.DeadlineExceeded
			}
		}
	}
}
