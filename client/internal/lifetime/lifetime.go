// Package lifetime is what goes on in a client, and how it ends: who is inside, whose
// contexts end with the client, what goes on behind callers, and what Close waits for.
package lifetime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache/client/internal/cluster/batcher"
	"github.com/soracache/soracache/client/internal/deadline"
	"github.com/soracache/soracache/client/internal/pacing"
)

// ErrClosed is what calls get once the client is closed.
var ErrClosed = batcher.ErrClosed

const (
	// closeTimeout bounds how long Close waits for loaders that were told to end, and
	// for fills that were cut off.
	closeTimeout = 2 * time.Second
	// closeFills bounds how long Close waits for what is stored behind callers: as
	// long as the most of it takes at the least progress that it has to make, and a
	// little.
	closeFills = MaxFillsBehind/deadline.Bytes*deadline.Within + 6*time.Second
	// MaxFillsBehind is how many bytes of values a client is storing at most for
	// callers who have their value and do not wait any longer. Beyond that, a value is
	// stored while its caller waits, as long as the client's timeout, or not at all.
	MaxFillsBehind = 64 << 20
	// maxShort is how many short things go on behind callers at a time.
	maxShort = 256
)

// Lifetime is the life of one client. Make one with New.
type Lifetime struct {
	survive func()
	// short bounds what is done behind callers and is soon over, and storing counts
	// the bytes of values that are stored behind them.
	short   *pacing.Slots
	storing atomic.Int64

	// closing ends when Close is called, and with it all that is in progress.
	closing context.Context //nolint:containedctx // its own
	end     context.CancelFunc
	// mu guards closed, and that nothing joins running after it is set.
	mu      sync.RWMutex
	closed  bool
	running sync.WaitGroup
	// filling are those of them that store values behind their callers. They outlast
	// closing, and are cut off by cut, which ends cutting.
	filling sync.WaitGroup
	cutting context.Context //nolint:containedctx // its own
	cut     context.CancelFunc
}

// New begins a life. survive is deferred in goroutines whose panics would reach nobody.
func New(survive func()) *Lifetime {
	l := &Lifetime{survive: survive, short: pacing.NewSlots(maxShort)}
	l.closing, l.end = context.WithCancel(context.Background())
	l.cutting, l.cut = context.WithCancel(context.Background())
	return l
}

// Closing is closed when the client begins to close.
func (l *Lifetime) Closing() <-chan struct{} { return l.closing.Done() }

// Enter begins something that Close has to end and to wait for. The context it
// returns ends with the client; leave must be called.
func (l *Lifetime) Enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	if err := l.Admit(); err != nil {
		return nil, nil, err
	}
	ctx, end := l.Bound(ctx)
	return ctx, func() {
		end()
		l.Leave()
	}, nil
}

// Admit begins something that Close has to wait for. It ends with Leave.
func (l *Lifetime) Admit() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	l.running.Add(1)
	return nil
}

// Leave ends what Admit has begun.
func (l *Lifetime) Leave() { l.running.Done() }

// admitFill does the same for what is stored behind its caller. It ends with
// leaveFill.
func (l *Lifetime) admitFill() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	l.running.Add(1)
	l.filling.Add(1)
	return nil
}

func (l *Lifetime) leaveFill() {
	l.filling.Done()
	l.running.Done()
}

// Bound returns a context that ends with the client too. It must be ended.
func (l *Lifetime) Bound(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if l.closing.Err() != nil {
		cancel(ErrClosed)
		return ctx, func() {}
	}
	stop := context.AfterFunc(l.closing, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// Limited returns a context that ends with the client too, and after d at the latest. It
// must be ended.
func (l *Lifetime) Limited(ctx context.Context, d time.Duration) *deadline.Context {
	return deadline.New(ctx, l.closing, time.Now().Add(d))
}

// Detached is Limited for what goes on when the client is closed.
func Detached(ctx context.Context, d time.Duration) *deadline.Context {
	return deadline.New(ctx, context.Background(), time.Now().Add(d))
}

// Filling is Detached for fills, which are cut off when a client that is closed does not
// wait for them any longer.
func (l *Lifetime) Filling(ctx context.Context, d time.Duration) *deadline.Context {
	return deadline.New(ctx, l.cutting, time.Now().Add(d))
}

// Begin runs something in a goroutine of its own, which ends with the client.
func (l *Lifetime) Begin(do func(context.Context)) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.closed {
		l.running.Go(func() { do(l.closing) })
	}
}

// WrapClosed says that an error is the client's end, if it is. The contexts of what is
// in progress end one after the other, so one that is not over yet may not know.
func (l *Lifetime) WrapClosed(ctx context.Context, err error) error {
	ended := context.Cause(ctx) == ErrClosed || //nolint:errorlint // set by Bound, never wrapped
		l.closing.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled))
	if err != nil && !errors.Is(err, ErrClosed) && ended {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// FillBehind stores a value of so many bytes in a goroutine of its own, and returns what
// is closed when it is done. It is false if too much is being stored that way, or the
// client is closed. Close waits for it.
func (l *Lifetime) FillBehind(size int, store func()) (done <-chan struct{}, ok bool) {
	if l.storing.Add(int64(size)) > MaxFillsBehind || l.admitFill() != nil {
		l.storing.Add(-int64(size))
		return nil, false
	}
	ended := make(chan struct{})
	go func() {
		defer l.leaveFill()
		defer l.storing.Add(-int64(size))
		defer close(ended)
		defer l.survive()
		store()
	}()
	return ended, true
}

// Behind does something short that has a time of its own, whole, and waits for it no
// longer than limit. If too much of the kind is being done already, that is all the time
// there is.
func (l *Lifetime) Behind(whole, limit time.Duration, do func(limit time.Duration)) (inTime bool) {
	if !l.short.Take() {
		began := time.Now()
		do(limit)
		return time.Since(began) < limit
	}
	if l.Admit() != nil { // closed: whoever is inside finishes all the same
		defer l.short.Free()
		do(whole)
		return true
	}
	done := make(chan struct{})
	go func() {
		defer l.Leave()
		defer l.short.Free()
		defer close(done)
		do(whole)
	}()
	return within(limit, done)
}

// Close ends the life, and waits for what goes on. moment is how long what comes after a
// fill may take; ended is called when nothing waits for fills any more. An error says
// what was not over. Only the first call does anything.
func (l *Lifetime) Close(moment time.Duration, ended func()) error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if !first {
		return nil
	}
	began := time.Now()
	l.end()
	over, stored := make(chan struct{}), make(chan struct{})
	go func() {
		l.running.Wait()
		close(over)
	}()
	go func() {
		l.filling.Wait()
		close(stored)
	}()
	defer ended()
	defer l.cut()
	lost := l.endFills(stored)
	moment = min(max(moment, deadline.Within), closeTimeout)
	if within(max(closeTimeout-time.Since(began), moment), over) {
		return lost
	}
	return errors.Join(lost, errors.New("client: closed beside calls that did not end, such as of a loader that does not heed its context"))
}

// endFills waits for what is being stored behind callers, and cuts off what takes too
// long.
func (l *Lifetime) endFills(stored <-chan struct{}) error {
	if within(closeFills, stored) {
		return nil
	}
	bytes := l.storing.Load()
	l.cut()
	leases := "were handed back, if the service could be told"
	if !within(closeTimeout, stored) {
		leases = "run out"
	}
	return fmt.Errorf("client: closed before values of %d bytes were stored, which took longer than %s: they are not, and their leases %s", bytes, closeFills, leases)
}

// within tells whether something is done within so long.
func within(limit time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
