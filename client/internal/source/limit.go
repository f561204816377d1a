package source

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/bulkhead"
)

// ErrBusy is why a load does not begin: no place came free in time, or too many wait for
// one already.
var ErrBusy = errors.New("the source is at its limit of loads")

const (
	// The ramp begins with one of rampFrom parts of the places, and doubles rampSteps
	// times.
	rampFrom  = 8
	rampSteps = 3
)

// limit is how many loads run at the same time. A nil one is never full.
type limit struct {
	places, queue int
	step          time.Duration // of the ramp; zero: there is none
	bulkhead      bulkhead.Bulkhead[any]
	// taken counts the places that are taken, and queued those who wait for one.
	taken, queued atomic.Int64

	mu sync.Mutex
	// cold is when the ramp began. The ramp holds as many places as kept, and next has it
	// give back some. Guarded by mu.
	cold time.Time
	kept int
	next *time.Timer
}

func newLimit(cfg Config) *limit {
	return &limit{
		places: cfg.MaxLoads, queue: cfg.MaxQueued, step: cfg.RampUp / rampSteps,
		bulkhead: bulkhead.New[any](uint(cfg.MaxLoads)),
	}
}

// release gives a place back: to the ramp, if that is to hold more, and else to whoever
// waits.
func (l *limit) release() {
	l.mu.Lock()
	keep := l.kept < l.reserve(time.Now())
	if keep {
		l.kept++
	}
	l.mu.Unlock()
	if !keep {
		l.free()
	}
}

func (l *limit) free() {
	l.taken.Add(-1)
	l.bulkhead.ReleasePermit()
}

// full tells whether all places are taken.
func (l *limit) full() bool { return l != nil && l.taken.Load() >= int64(l.places) }

// try takes a place if one is free.
func (l *limit) try() bool {
	if !l.bulkhead.TryAcquirePermit() {
		return false
	}
	l.taken.Add(1)
	return true
}

// wait waits for a place in the queue, if that has room. The error is ErrBusy, or the
// context's.
func (l *limit) wait(ctx context.Context, most time.Duration) error {
	defer l.queued.Add(-1)
	if l.queued.Add(1) > int64(l.queue) || most <= 0 {
		return ErrBusy
	}
	err := l.bulkhead.AcquirePermitWithMaxWait(ctx, most)
	switch {
	case errors.Is(err, bulkhead.ErrFull):
		return ErrBusy
	case err == nil:
		l.taken.Add(1)
	}
	return err
}

// rampUp has the limit ramp up since some time.
//
// What it takes away for that is held by the ramp as if by loads. It takes places that
// are free at once, and the others as they are given back, before anybody who waits.
func (l *limit) rampUp(since time.Time) {
	if l == nil || l.step == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if since.After(l.cold) {
		l.cold = since
		l.adjust()
	}
}

// steps is how many steps the ramp has made. The lock is held.
func (l *limit) steps(now time.Time) int { return int(now.Sub(l.cold) / l.step) }

// reserve is how many places the ramp is to hold. The lock is held.
func (l *limit) reserve(now time.Time) int {
	if l.cold.IsZero() {
		return 0
	}
	steps := l.steps(now)
	if steps >= rampSteps {
		return 0
	}
	parts := rampFrom >> steps
	return l.places - (l.places+parts-1)/parts
}

// adjust has the ramp hold what it is to hold, as far as places are free, and once more
// when the next step is due. The lock is held.
func (l *limit) adjust() {
	now := time.Now()
	reserve := l.reserve(now)
	for l.kept < reserve && l.bulkhead.TryAcquirePermit() {
		l.taken.Add(1)
		l.kept++
	}
	for ; l.kept > reserve; l.kept-- {
		l.free()
	}
	if l.next != nil {
		l.next.Stop()
		l.next = nil
	}
	if reserve > 0 {
		due := l.cold.Add(time.Duration(l.steps(now)+1) * l.step)
		l.next = time.AfterFunc(due.Sub(now), func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.adjust()
		})
	}
}
