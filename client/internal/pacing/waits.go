package pacing

import (
	"errors"
	"sync"
	"time"

	"github.com/soracache/soracache"
)

const (
	// mostAtOnce is how long one question waits at the service: what a service
	// allows that was told nothing else. Who is to wait longer asks again.
	mostAtOnce = time.Minute
	// leastAtOnce is how long it waits at least, or nobody could tell the service
	// from one that does not wait.
	leastAtOnce = 50 * time.Millisecond
	// learnedFor is how long it is remembered that the service allows less: nodes
	// may differ, and come to allow more.
	learnedFor = time.Minute
)

// Waits is how long a question may wait at the service, as far as this client
// knows. A service that allows less than it is asked for refuses the question, and
// then a shorter one is tried. The zero value knows of nothing less than mostAtOnce.
type Waits struct {
	mu      sync.Mutex
	learned time.Duration // guarded by mu
	until   time.Time     // what was learned counts; guarded by mu
}

// Most is how long the next question may wait for somebody who is to wait so long.
func (w *Waits) Most(left time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Now().Before(w.until) {
		return min(left, w.learned)
	}
	return min(left, mostAtOnce)
}

// Refused tells whether an error is the service's that refused to let a question
// wait so long, whose like it answered without a wait: that is no failure of the
// call. Unless the question can hardly be any shorter, Most returns less by then.
func (w *Waits) Refused(wait time.Duration, err error) bool {
	if wait <= 0 || !errors.Is(err, soracache.ErrInvalid) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now, shorter := time.Now(), max(wait/2, leastAtOnce)
	if !now.Before(w.until) || shorter < w.learned {
		w.learned, w.until = shorter, now.Add(learnedFor)
	}
	return true
}
