package client

import (
	"sync"
	"time"
)

// stopwatch measures for how long any of several things was going on. The zero value
// has seen none.
type stopwatch struct {
	mu    sync.Mutex
	going int           // guarded by mu
	since time.Time     // the first of those began; guarded by mu
	spent time.Duration // before that; guarded by mu
}

// run notes that something goes on, until the function is called that it returns.
func (s *stopwatch) run() (end func()) {
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

// time is how long it was.
func (s *stopwatch) time() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.going > 0 {
		return s.spent + time.Since(s.since)
	}
	return s.spent
}
