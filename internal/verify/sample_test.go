package verify

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// sample is what something took, many times. It is safe for concurrent use.
type sample struct {
	mu  sync.Mutex
	all []time.Duration
}

func (s *sample) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, d)
}

func (s *sample) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// at returns the quantile q; zero if there is nothing.
func (s *sample) at(q float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (s *sample) median() time.Duration { return s.at(0.5) }

// String tells the number, the median and the tail.
func (s *sample) String() string {
	return fmt.Sprintf("median %s, p99 %s, most %s, of %d", s.median(), s.at(0.99), s.at(1), s.len())
}
