package client

import (
	"context"
	"sync"
	"time"
)

// limit is a context for one request: it ends with the caller's, with the
// client, and at a time. Most requests travel in a call that is another's, and
// wait for that alone (see lane): so what tells others of its end, a timer and
// three links between contexts, is made for those who ask for it.
//
// Its end is Canceled or DeadlineExceeded; the cause is not told.
type limit struct {
	context.Context // the caller's

	client context.Context //nolint:containedctx // ends with the client
	at     time.Time

	mu     sync.Mutex
	over   bool
	linked context.Context //nolint:containedctx // if anybody asked for it
	unlink func()
}

// limited returns a context that ends after d at the latest. It must be ended.
func (c *Client) limited(ctx context.Context, d time.Duration) *limit {
	return newLimit(ctx, c.closing, time.Now().Add(d))
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
	if l.at.Before(at) {
		at = l.at
	}
	return &limit{Context: l.Context, client: l.client, at: at}
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
func (l *limit) Deadline() (time.Time, bool) { return l.at, true }

// Done implements [context.Context].
func (l *limit) Done() <-chan struct{} { return l.link().Done() }

// AfterFunc has contexts that are derived from it do without a goroutine: see
// [context.AfterFunc].
func (l *limit) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(l.link(), f) }

func (l *limit) link() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.linked == nil {
		ctx, cancel := context.WithDeadline(l.Context, l.at)
		stop := context.AfterFunc(l.client, cancel)
		l.linked, l.unlink = ctx, func() { stop(); cancel() }
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
	case l.linked != nil:
		return l.linked.Err()
	case l.over:
		return context.Canceled
	case l.Context.Err() != nil:
		return l.Context.Err()
	case l.client.Err() != nil:
		return context.Canceled
	case !time.Now().Before(l.at):
		return context.DeadlineExceeded
	}
	return nil
}

// wait waits for one of done and its end, for which timer is used. It returns nil
// if it was done.
func (l *limit) wait(done <-chan struct{}, timer *time.Timer) error {
	timer.Reset(time.Until(l.at))
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-l.Context.Done():
		return l.Context.Err()
	case <-l.client.Done():
		return context.Canceled
	case <-timer.C:
		return context.DeadlineExceeded
	}
}
