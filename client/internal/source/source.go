// Package source keeps what loaders ask, such as a database, from being overrun: by a
// circuit breaker, and by a limit of how many loads run at the same time. Both are
// failsafe-go's. Added here is what these do not have: that results of an earlier
// state count for nothing, a queue that has an end, a limit that ramps up, and places
// that nested loads share.
//
// The package knows nothing of caches.
package source

import (
	"sync"
	"time"
)

// Config says how a source is protected.
type Config struct {
	// MaxLoads is how many places there are; zero: there is no limit.
	MaxLoads int
	// MaxQueued is how many wait for a place at most.
	MaxQueued int
	// RampUp is how long the limit takes to be whole again; zero: no time.
	RampUp time.Duration
	// FailureRate is the share of failures at which the breaker opens; zero: there is no
	// breaker. MinLoads is how many loads there have to be in the Window for that, and
	// OpenFor is after how long a trial is made.
	FailureRate     float64
	MinLoads        int
	Window, OpenFor time.Duration
}

// Guard is what protects one source.
type Guard struct {
	breaker *breaker // nil: there is none
	limit   *limit   // nil: there is none

	mu sync.Mutex
	// lent are the passes that are lent to whoever loads a key, and waiting are those who
	// load it and wait for a place. Guarded by mu.
	lent    map[any][]*Pass
	waiting map[any][]*waiter
}

// New returns a guard. The configuration has to make sense.
func New(cfg Config) *Guard {
	g := &Guard{lent: make(map[any][]*Pass), waiting: make(map[any][]*waiter)}
	if cfg.FailureRate > 0 {
		g.breaker = newBreaker(cfg)
	}
	if cfg.MaxLoads > 0 {
		g.limit = newLimit(cfg)
	}
	return g
}

// Check returns ErrOpen if a load that begins now would be refused. A load inside of a host
// is not, unless the breaker's state has changed since the host began. It changes nothing.
func (g *Guard) Check(host *Pass) error {
	err := g.breaker.check()
	if err != nil && host.lets() {
		return nil
	}
	return err
}

// Full tells whether all places are taken.
func (g *Guard) Full() bool { return g.limit.full() }

// Cold says that nothing is cached any more, since some time: the limit ramps up from then
// on.
func (g *Guard) Cold(since time.Time) { g.limit.rampUp(since) }
