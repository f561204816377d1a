// Package pacing is what a client remembers to spare loaders, the service and its own
// memory: which keys to leave alone for a while, how long loaders take, how many things
// may go on behind callers, and how long a question may wait.
package pacing

import (
	"sync"
	"sync/atomic"
	"time"
)

// Slots are places for things that nobody waits for: so many of them. The zero value has
// none.
type Slots struct {
	free atomic.Int64
}

// NewSlots returns n places.
func NewSlots(n int64) *Slots {
	s := new(Slots)
	s.free.Store(n)
	return s
}

// Take takes a place, if one is free. It is given back with Free.
func (s *Slots) Take() bool {
	if s.free.Add(-1) >= 0 {
		return true
	}
	s.Free()
	return false
}

// Free gives a place back.
func (s *Slots) Free() { s.free.Add(1) }

// LoadTime is a moving average of how long loaders take. The zero value has seen none;
// a nil LoadTime never does.
type LoadTime struct{ nanoseconds atomic.Int64 }

// Average is the average in nanoseconds; zero: none was seen.
func (l *LoadTime) Average() float64 {
	if l == nil {
		return 0
	}
	return float64(l.nanoseconds.Load())
}

// Note takes in one that took so long.
func (l *LoadTime) Note(took time.Duration) {
	if l == nil {
		return
	}
	old := l.nanoseconds.Load()
	if old == 0 {
		old = int64(took)
	}
	l.nanoseconds.Store(max(old+(int64(took)-old)/4, 1)) // of two at once, one may be lost
}

// Busy are the keys for which something is being done that is to be done once at a
// time. The zero value has none.
type Busy struct {
	mu   sync.Mutex
	keys map[string]struct{} // guarded by mu
}

// Begin makes the caller the one to do it for a key, unless there is one. It ends with
// End.
func (b *Busy) Begin(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.keys[key]; ok {
		return false
	}
	if b.keys == nil {
		b.keys = make(map[string]struct{})
	}
	b.keys[key] = struct{}{}
	return true
}

// End lets somebody else do it.
func (b *Busy) End(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.keys, key)
}

// Stopwatch measures for how long any of several things was going on. The zero value
// has seen none.
type Stopwatch struct {
	mu    sync.Mutex
	going int           // guarded by mu
	since time.Time     // the first of those began; guarded by mu
	spent time.Duration // before that; guarded by mu
}

// Run notes that something goes on, until the function is called that it returns.
func (s *Stopwatch) Run() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.going++; s.going == 1 {
		s.since = time.Now()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.going--; s.going == 0 {
			s.spent += time.Since(s.since)
		}
	}
}

// Time is how long it was.
func (s *Stopwatch) Time() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.going > 0 {
		return s.spent + time.Since(s.since)
	}
	return s.spent
}
