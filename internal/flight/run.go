package flight

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrCycle is what a caller gets whose waiting would never end: it is inside of a
// run that waits for the call, or that the call waits for by way of others.
var ErrCycle = errors.New("a loader asked for what waits for it")

// Run is one run of a function. The context that the function is given tells it:
// see [RunOf]. So what is waited for under that context is known to keep the run
// from ending, and a circle of runs that wait for each other is found when it
// closes, across groups of any type. There is no table of all runs: each knows
// what it waits for itself.
type Run struct {
	// latest is when the last of those has to have an answer for whom it began;
	// zero: one of them has all the time there is.
	latest time.Time
	// alone is told that the run is of use to nobody but them, and admit that it begins
	// only now; nil: neither is asked.
	alone, admit func()

	mu    sync.Mutex
	waits map[waitable]int // what is waited for under its context; guarded by mu
	// tired is closed once one of those for whom it is has waited for as long as it
	// was ready to; nil: nobody asks. isTired: that is so. Guarded by mu.
	tired   chan struct{}
	isTired bool
}

// waitable is what somebody can wait for: a call, or a run.
type waitable interface {
	// before returns what has to end before it can.
	before() []waitable
}

type runKey struct{}

// RunOf returns the innermost run that a context belongs to, or nil.
func RunOf(ctx context.Context) *Run {
	r, _ := ctx.Value(runKey{}).(*Run)
	return r
}

// NewRun returns a context of a run that nobody waits for, with the values of
// another. What is waited for under it does not keep the other's run from ending.
func NewRun(ctx context.Context) context.Context {
	return context.WithValue(ctx, runKey{}, &Run{})
}

// Outside returns a context that belongs to no run, with the values of another: for what
// goes on when a run's function does not wait for it any more.
func Outside(ctx context.Context) context.Context {
	return context.WithValue(ctx, runKey{}, (*Run)(nil))
}

// Latest is when the last of those has to have an answer for whom the run began,
// if each of them has a deadline.
func (r *Run) Latest() (at time.Time, bounded bool) { return r.latest, !r.latest.IsZero() }

// Alone says that the run brings nothing to those who came after it began. Then it
// is not kept going for their sake.
func (r *Run) Alone() {
	if r != nil && r.alone != nil {
		r.alone()
	}
}

// Admit says that what the run brings is computed only from now on. Those who have
// come meanwhile for what it is for share that, as if they had come before it began,
// and are told that they were [Admitted]: if the run brings what it knew before after
// all, that is not for them.
func (r *Run) Admit() {
	if r != nil && r.admit != nil {
		r.admit()
	}
}

// Tired returns what is closed once somebody who shares the run has waited for as long
// as it was ready to. The run is to wait for nobody else then. For a nil run it is
// nil.
func (r *Run) Tired() <-chan struct{} {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tired == nil {
		r.tired = make(chan struct{})
		if r.isTired {
			close(r.tired)
		}
	}
	return r.tired
}

func (r *Run) tire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.isTired && r.tired != nil {
		close(r.tired)
	}
	r.isTired = true
}

// Await notes that the run waits for another. If that would never end, the error
// is ErrCycle. What it returns ends the wait. A nil run waits for nothing.
func (r *Run) Await(other *Run) (ended func(), err error) {
	if r == nil || other == nil {
		return func() {}, nil
	}
	if err := r.await(other); err != nil {
		return nil, err
	}
	return func() { r.awaited(other) }, nil
}

// await notes first and looks then, so that of those who close a circle together
// at least one finds it.
func (r *Run) await(w waitable) error {
	r.mu.Lock()
	if r.waits == nil {
		r.waits = make(map[waitable]int)
	}
	r.waits[w]++
	r.mu.Unlock()
	if leadsTo(w, r) {
		r.awaited(w)
		return ErrCycle
	}
	return nil
}

func (r *Run) awaited(w waitable) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waits[w]--; r.waits[w] <= 0 {
		delete(r.waits, w)
	}
}

func (r *Run) before() []waitable {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]waitable, 0, len(r.waits))
	for w := range r.waits {
		all = append(all, w)
	}
	return all
}

// leadsTo tells whether something cannot end before a run has. It holds no two
// locks at a time.
func leadsTo(from waitable, r *Run) bool {
	seen := map[waitable]struct{}{}
	rest := []waitable{from}
	for len(rest) > 0 {
		w := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		if w == waitable(r) {
			return true
		}
		if _, again := seen[w]; again {
			continue
		}
		seen[w] = struct{}{}
		rest = append(rest, w.before()...)
	}
	return false
}
