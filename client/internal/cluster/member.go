package cluster

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/soracache/soracache"
)

const (
	// firstRest and longestRest bound how long a node that failed is passed
	// over, give or take a quarter: the time doubles with each failure in a row.
	firstRest   = 250 * time.Millisecond
	longestRest = 5 * time.Second
	restJitter  = 0.25
)

// errUnwell is what the breaker is told; errResting is that it lets nobody
// through.
var (
	errUnwell  = errors.New("the node fails")
	errResting = circuitbreaker.ErrOpen
)

// member is one node, and how it fared of late. Its breaker opens with the first
// failure, for that is no news of one caller's: all who ask the node would find
// out by themselves, each at the cost of its time. Once its rest is over, one
// call tries it, and the others go on passing it over.
type member struct {
	url     string
	seed    uint64 // the hash of the URL: see claim
	backend soracache.Backend
	close   func()
	log     *slog.Logger
	// onBreaker is told of the breaker's opening and closing; nil: nobody is.
	onBreaker func(url string, open bool)

	breaker circuitbreaker.CircuitBreaker[any]
	// failures in a row; zero: the node is well, and its breaker closed. Under
	// the mutex it is changed together with the breaker.
	failures atomic.Int32
	mu       sync.Mutex

	calls   atomic.Int64 // under way
	streams atomic.Int64 // open, which are no calls: they do next to nothing
	// aside is true of a node that is to be asked only if no other answers: one
	// that drains, has left or is said to be dead, or that the cluster does not
	// know.
	aside atomic.Bool
	// retired is when the cluster was found to have it no more, as the directory
	// knows: see there.
	retired time.Time
}

func newMember(url string, backend soracache.Backend, end func(), log *slog.Logger, onBreaker func(string, bool)) *member {
	m := &member{url: url, seed: hashOf(url), backend: backend, close: end, log: log, onBreaker: onBreaker}
	m.breaker = circuitbreaker.NewBuilder[any]().
		WithFailureThreshold(1).
		WithSuccessThreshold(1).
		WithDelayFunc(func(failsafe.ExecutionAttempt[any]) time.Duration { return m.rest() }).
		WithJitterFactor(restJitter).
		Build()
	return m
}

// well tells whether the node answered when it was last asked.
func (m *member) well() bool { return m.failures.Load() == 0 }

// restOver tells whether a node that is not well may be tried again, though
// somebody else may be about to.
func (m *member) restOver() bool { return m.breaker.RemainingDelay() == 0 }

// rest is how long the node is passed over, before jitter.
func (m *member) rest() time.Duration {
	n := m.failures.Load()
	if n > 5 {
		return longestRest
	}
	return min(firstRest<<max(n-1, 0), longestRest)
}

// trial has a call made if the breaker lets it through. The call is to return
// nil only if the node answered.
func (m *member) trial(call func() error) error {
	err := failsafe.With[any](m.breaker).Run(call)
	if errors.Is(err, errResting) {
		return errResting
	}
	return nil
}

// fell records that a call failed. Of many calls that fail together one counts, so
// known is how many failures there were when the call began. If the call was a trial,
// the trial tells the breaker.
func (m *member) fell(known int32, onTrial bool, err error) {
	m.mu.Lock()
	if m.failures.Load() != known || known > 0 && !onTrial {
		m.mu.Unlock()
		return
	}
	m.failures.Add(1)
	if !onTrial {
		_ = failsafe.With[any](m.breaker).Run(func() error { return errUnwell })
	}
	m.mu.Unlock()
	if known > 0 {
		return
	}
	m.log.Warn("soracache: a node fails", "url", m.url, "error", err)
	m.tell(true)
}

// recovered notes an answer.
func (m *member) recovered() {
	if m.well() {
		return
	}
	m.mu.Lock()
	had := m.failures.Swap(0)
	m.breaker.Close()
	m.mu.Unlock()
	if had == 0 {
		return
	}
	m.log.Info("soracache: a node answers again", "url", m.url)
	m.tell(false)
}

// tell tells of the breaker's opening or closing.
func (m *member) tell(open bool) {
	if m.onBreaker != nil {
		m.onBreaker(m.url, open)
	}
}
