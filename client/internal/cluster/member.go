package cluster

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

const (
	// firstRest and longestRest bound how long a node that failed is passed
	// over, give or take a quarter: the time doubles with each failure in a row.
	firstRest   = 250 * time.Millisecond
	longestRest = 5 * time.Second
	restJitter  = 0.25
)

// errResting is that a call was not made, because the node rests or another one tries it.
var errResting = errors.New("the node rests")

// member is one node, and how it fared of late. It rests after the first
// failure, for that is no news of one caller's: all who ask the node would find
// out by themselves, each at the cost of its time. Once its rest is over, one
// call tries it, and the others go on passing it over.
type member struct {
	url     string
	seed    uint64 // the hash of the URL: see claim
	backend soracache.Backend
	close   func()
	log     *slog.Logger
	// onBreaker is told that the node is passed over from now on, or is used again; nil:
	// nobody is.
	onBreaker func(url string, open bool)

	// failures in a row; zero: the node is well. It is changed under mu.
	failures atomic.Int32
	mu       sync.Mutex
	// restUntil is when a node that is not well may be tried, and tried means that a call
	// does so. Guarded by mu.
	restUntil time.Time
	tried     bool

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
	return &member{url: url, seed: hashOf(url), backend: backend, close: end, log: log, onBreaker: onBreaker}
}

// well tells whether the node answered when it was last asked.
func (m *member) well() bool { return m.failures.Load() == 0 }

// restOver tells whether a node that is not well may be tried again, though
// somebody else may be about to.
func (m *member) restOver() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !time.Now().Before(m.restUntil)
}

// rest has the node passed over for a while. The lock is held.
func (m *member) rest() {
	last := longestRest
	if n := m.failures.Load(); n <= 5 {
		last = min(firstRest<<max(n-1, 0), longestRest)
	}
	jitter := 1 + restJitter*(2*rand.Float64()-1) //nolint:gosec // spread, not secrecy
	m.restUntil = time.Now().Add(time.Duration(float64(last) * jitter))
}

// trial has a call made, unless the node rests, or another call tries it. The call is to
// tell whether the node has answered: if it has not, the node rests again.
func (m *member) trial(call func() (answered bool)) (made bool) {
	if !m.beginTrial() {
		return false
	}
	answered := false // unless it returns
	defer func() { m.endTrial(answered) }()
	answered = call()
	return true
}

func (m *member) beginTrial() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tried || time.Now().Before(m.restUntil) {
		return false
	}
	m.tried = true
	return true
}

func (m *member) endTrial(answered bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tried = false; !answered {
		m.rest()
	}
}

// fell records that a call failed. Of many calls that fail together one counts, so
// known is how many failures there were when the call began. If the call was a trial,
// the node rests when that ends.
func (m *member) fell(known int32, onTrial bool, err error) {
	m.mu.Lock()
	if m.failures.Load() != known || known > 0 && !onTrial {
		m.mu.Unlock()
		return
	}
	m.failures.Add(1)
	if !onTrial {
		m.rest()
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
	m.restUntil = time.Time{}
	m.mu.Unlock()
	if had == 0 {
		return
	}
	m.log.Info("soracache: a node answers again", "url", m.url)
	m.tell(false)
}

// tell tells that the node is passed over, or used again.
func (m *member) tell(open bool) {
	if m.onBreaker != nil {
		m.onBreaker(m.url, open)
	}
}
