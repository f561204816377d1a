package l2test

import (
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// fakeClock is a clock that stands still unless a test moves it.
type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) Wait(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// openModel opens a model with all that can be done to it, on a clock of its
// own.
func openModel(t *testing.T, o Options) Harness {
	clock := &fakeClock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	return modelHarness(t, l2model.New(l2model.Config{Retention: o.Retention, Now: clock.Now}), clock)
}

func modelHarness(t *testing.T, m *l2model.Model, clock *fakeClock) Harness {
	return Harness{
		Store:    m,
		Another:  func() l2.Store { return m },
		Now:      clock.Now,
		Wait:     clock.Wait,
		Reopen:   func() l2.Store { return m },
		Lose:     map[string]func(l2.Partition){"ledger": m.LoseLedger},
		Later:    map[string]func(l2.Partition) func(){"ledger": m.Later},
		Snapshot: m.Snapshot,

		Full: m.SetFull,

		LoseRegistrations: m.LoseRegistrations,
		LoseNumber:        m.LoseNumber,
		Dump: func(at l2.Partition, key string) func() {
			restore, ok := m.Dump(at, key)
			if !ok {
				t.Fatalf("nothing is stored under %q", key)
			}
			return restore
		},
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestModel(t *testing.T) { Run(t, openModel) }

func TestFullModel(t *testing.T) { RunFull(t, openModel) }

// TestModelAgreesWithItself tests what compares: a model must agree with one
// that chooses other epochs, and the histories must get about.
func TestModelAgreesWithItself(t *testing.T) { Agree(t, openModel) }
