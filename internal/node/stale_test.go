package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/check"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2/l2model"
	"github.com/soracache/soracache/l2/l2test"
)

// The same over a source that lags, whose invalidations settle.
func TestNothingStaleFromASourceThatLags(t *testing.T) {
	const bound, lag = 20 * time.Millisecond, 2 * time.Millisecond
	model := l2model.New(l2model.Config{})
	var backends []soracache.Backend
	for range 2 {
		n, err := node.New(node.Config{
			Store: model, Bound: bound, L1MaxBytes: 1 << 20, Partitions: func(string) int { return 2 },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		backends = append(backends, n)
	}
	report := check.Run(context.Background(), backends, check.Options{
		Goroutines: 16, Operations: 100_000, Keys: 105, Seed: 1, Bound: bound, Wait: bound, Lag: lag,
	})
	t.Logf("%s; %d loads found the source lagging", report, report.Lagging)
	for _, v := range report.Violations {
		t.Error(v)
	}
	if report.Lagging < 5 || report.Hits < 1000 || report.Stored < 50 {
		t.Errorf("%d loads of a lagging source, %d hits, %d values stored: too few to show anything", report.Lagging, report.Hits, report.Stored)
	}
}

// Nodes over one model, hammered at random. Engines are held to the same in
// internal/verify.
func TestNothingStaleUnderLoad(t *testing.T) {
	const bound = 50 * time.Millisecond
	operations := 20_000
	if l2test.Verifying() {
		operations = 200_000
	}
	for _, c := range []struct {
		name  string
		nodes int
		lag   time.Duration
	}{
		{"one node, which knows all at once", 1, 0},
		{"two nodes, whose memories may lag by the bound", 2, bound},
	} {
		t.Run(c.name, func(t *testing.T) {
			model := l2model.New(l2model.Config{})
			var backends []soracache.Backend
			for range c.nodes {
				n, err := node.New(node.Config{
					Store: model, Bound: bound, L1MaxBytes: 1 << 20, Partitions: func(string) int { return 2 },
				})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = n.Close() }()
				backends = append(backends, n)
			}
			report := check.Run(context.Background(), backends, check.Options{
				Goroutines: 64, Operations: operations, Keys: 24, Seed: 1, Bound: c.lag, Wait: bound, Schemas: []string{"s/1", "s/2"}, Steady: true,
			})
			t.Log(report)
			for _, v := range report.Violations {
				t.Error(v)
			}
			for k := range report.Overlapped {
				if report.Overlapped[k] < 20 {
					t.Errorf("only %d fills overlapped an invalidation by %s", report.Overlapped[k], check.Kind(k))
				}
			}
			if report.Undisturbed < 500 || report.Alone < 500 {
				t.Errorf("%d fills met no invalidation, and %d readers nobody else: too few to show anything", report.Undisturbed, report.Alone)
			}
			if report.HitsL1 < 1000 || report.Late < 20 {
				t.Errorf("%d hits in L1 and %d fills that came late: too few to show anything", report.HitsL1, report.Late)
			}
		})
	}
}
