package clienttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
)

// Op is a kind of call that a client makes to the service.
type Op uint8

// The kinds of calls.
const (
	// Reads are what Get and GetOrSet ask first.
	Reads Op = iota + 1
	// Writes store loaded values, and what Set is given; they also renew leases
	// and hand them back.
	Writes
	// Invalidations are the calls of Invalidate, InvalidateTags, Remove and Clear.
	Invalidations
	// Watches keep near caches up to date, together with confirmations.
	Watches
)

// errFault is what goes wrong.
var errFault = fmt.Errorf("%w: a fault that the test asked for", soracache.ErrUnavailable)

// Faults are what goes wrong between clients and server. At first nothing does.
// They hold for calls that begin afterwards, and for watches at once.
type Faults struct {
	mu          sync.Mutex
	down        bool
	loseAnswers bool
	slow        time.Duration
	failNext    map[Op]int
	// broken is closed, and replaced, when the watches that are open are to end.
	broken chan struct{}
	// ended: the test is over, and watches end at once.
	ended bool
}

func newFaults() *Faults {
	return &Faults{failNext: map[Op]int{}, broken: make(chan struct{})}
}

// Down has every call fail, as when no node can be reached. GetOrSet then fails
// open: it runs its loader. Near caches trust themselves for their bound, one
// second, and no longer; advance the clock to have that over.
func (f *Faults) Down() {
	f.change(func() { f.down = true; f.breakWatches() })
}

// LoseAnswers has calls be carried out, and their answers get lost: the client
// cannot know what happened.
func (f *Faults) LoseAnswers() {
	f.change(func() { f.loseAnswers = true; f.breakWatches() })
}

// Slow has every call but watches take longer by d; zero ends that. It is real
// time, or the bubble's in a bubble of testing/synctest.
func (f *Faults) Slow(d time.Duration) {
	f.change(func() { f.slow = d })
}

// FailNext has the next n calls of a kind fail before anything is done. Calls
// that a client repeats count each time.
func (f *Faults) FailNext(n int, op Op) {
	f.change(func() {
		f.failNext[op] = n
		if op == Watches && n > 0 {
			f.breakWatches()
		}
	})
}

// Heal ends all faults.
func (f *Faults) Heal() {
	f.change(func() {
		f.down, f.loseAnswers, f.slow = false, false, 0
		clear(f.failNext)
	})
}

func (f *Faults) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// breakWatches ends the watches that are open; the lock is held.
func (f *Faults) breakWatches() {
	close(f.broken)
	f.broken = make(chan struct{})
}

// end breaks the watches for good, so that a server can close.
func (f *Faults) end() {
	f.change(func() {
		if !f.ended {
			f.ended = true
			f.breakWatches()
		}
	})
}

// before is what happens to a call before it is carried out.
func (f *Faults) before(ctx context.Context, op Op) error {
	f.mu.Lock()
	slow, fails := f.slow, f.down
	if f.failNext[op] > 0 {
		f.failNext[op]--
		fails = true
	}
	f.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
		}
	}
	if fails {
		return errFault
	}
	return nil
}

// after is what becomes of the answer.
func (f *Faults) after(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down || f.loseAnswers {
		return errors.Join(errFault, err)
	}
	return err
}

// watching returns what ends a watch, unless it may not even begin.
func (f *Faults) watching() (broken <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.failNext[Watches] > 0:
		f.failNext[Watches]--
		return nil, errFault
	case f.down, f.loseAnswers, f.ended:
		return nil, errFault
	}
	return f.broken, nil
}

// faulty is a node behind faults. It refuses what a service refuses.
type faulty struct {
	node.Checked

	faults *Faults
}

// Get implements [soracache.Backend].
func (f *faulty) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	return through(ctx, f.faults, Reads, func() ([]soracache.ReadResult, error) { return f.Checked.Get(ctx, req) })
}

// Write implements [soracache.Backend].
func (f *faulty) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	return through(ctx, f.faults, Writes, func() ([]soracache.WriteResult, error) { return f.Checked.Write(ctx, req) })
}

// Invalidate implements [soracache.Backend].
func (f *faulty) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	return through(ctx, f.faults, Invalidations, func() (soracache.InvalidateResult, error) { return f.Checked.Invalidate(ctx, req) })
}

// Head implements [soracache.Backend].
func (f *faulty) Head(ctx context.Context, namespace string) (soracache.HeadResult, error) {
	return through(ctx, f.faults, Watches, func() (soracache.HeadResult, error) { return f.Checked.Head(ctx, namespace) })
}

// Watch implements [soracache.Backend].
func (f *faulty) Watch(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	broken, err := f.faults.watching()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-broken:
			cancel(errFault)
		case <-done:
		}
	}()
	return f.Checked.Watch(ctx, req, deliver)
}

func through[A any](ctx context.Context, f *Faults, op Op, call func() (A, error)) (A, error) {
	var none A
	if err := f.before(ctx, op); err != nil {
		return none, err
	}
	a, err := call()
	if err := f.after(err); err != nil {
		return none, err
	}
	return a, nil
}
