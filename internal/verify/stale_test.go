package verify

import (
	"context"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/check"
)

// A lease is taken, the value is invalidated, the fill comes: it is refused
// with the reason, and no read ever returns its value. On every engine, from
// the node that invalidated and from another.
func TestNoStaleFill(t *testing.T) {
	ways := []struct {
		name   string
		kill   func(t *testing.T, b soracache.Backend)
		reason soracache.Reason
	}{
		{"key", func(t *testing.T, b soracache.Backend) { invalidate(t, b, soracache.Key("k")) }, soracache.ReasonLeaseLost},
		{"tag a", func(t *testing.T, b soracache.Backend) { invalidate(t, b, soracache.Tag("a")) }, soracache.ReasonSuperseded},
		{"tag b", func(t *testing.T, b soracache.Backend) { invalidate(t, b, soracache.Tag("b")) }, soracache.ReasonSuperseded},
		{"tag c", func(t *testing.T, b soracache.Backend) { invalidate(t, b, soracache.Tag("c")) }, soracache.ReasonSuperseded},
		{"everything", func(t *testing.T, b soracache.Backend) { invalidate(t, b, soracache.Everything()) }, soracache.ReasonSuperseded},
		{"put", func(t *testing.T, b soracache.Backend) { write(t, b, put("k", "put", "a")) }, soracache.ReasonLeaseLost},
	}
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			open := e.open(t)
			nodes := []soracache.Backend{
				startNode(t, open(), e.partitions, time.Second), startNode(t, open(), e.partitions, time.Second),
			}
			for _, way := range ways {
				for killer := range nodes {
					invalidate(t, nodes[0], soracache.Key("k"))
					leased := read(t, nodes[0], soracache.Read{Key: "k", Lease: true})
					if leased.Lease == (soracache.Lease{}) {
						t.Fatalf("%s: no lease: %+v", way.name, leased)
					}
					way.kill(t, nodes[killer])
					res := write(t, nodes[0], fill("k", leased.Lease, "stale", "a", "b", "c"))[0]
					if res.Stored || res.Reason != way.reason {
						t.Errorf("%s by node %d: stored %v, %s; want %s", way.name, killer, res.Stored, res.Reason, way.reason)
					}
					for i, n := range nodes {
						if got := read(t, n, soracache.Read{Key: "k"}); string(got.Entry.Value) == "stale" {
							t.Errorf("%s by node %d: node %d serves the stale value", way.name, killer, i)
						}
					}
				}
			}
		})
	}
}

// The same over a source that lags, whose invalidations settle: what is computed
// from an old version is answered, and never kept.
func TestNothingStaleFromASourceThatLags(t *testing.T) {
	const bound = 200 * time.Millisecond
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			open := e.open(t)
			nodes := []soracache.Backend{startNode(t, open(), e.partitions, bound), startNode(t, open(), e.partitions, bound)}
			began := time.Now()
			report := check.Run(context.Background(), nodes, check.Options{
				Goroutines: 32, Operations: count(30_000, 1_000_000), Keys: 105, Seed: uint64(began.UnixNano()),
				Bound: bound, Wait: 20 * time.Millisecond, Lag: 10 * time.Millisecond,
			})
			t.Logf("seed %d, %s: %s; %d loads found the source lagging",
				began.UnixNano(), time.Since(began).Round(time.Millisecond), report, report.Lagging)
			for _, v := range report.Violations {
				t.Error(v)
			}
			if report.Lagging < 5 || report.Hits < 1000 || report.Stored < 50 {
				t.Errorf("%d loads of a lagging source, %d hits, %d values stored: too few to show anything",
					report.Lagging, report.Hits, report.Stored)
			}
		})
	}
}

// The same at random: 64 goroutines on two nodes, judged by a checker that
// knows the source's versions. Reads that reach L2 are exact; reads from L1 may
// lag by the bound.
func TestNothingStaleAtRandom(t *testing.T) {
	const bound = 200 * time.Millisecond
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			open := e.open(t)
			nodes := []soracache.Backend{startNode(t, open(), e.partitions, bound), startNode(t, open(), e.partitions, bound)}
			began := time.Now()
			report := check.Run(context.Background(), nodes, check.Options{
				Goroutines: 64, Operations: operations(30_000, 1_000_000), Keys: 40, Seed: uint64(began.UnixNano()),
				Bound: bound, Wait: 100 * time.Millisecond, Schemas: []string{"s/1", "s/2"}, Steady: true,
			})
			t.Logf("seed %d, %s: %s", began.UnixNano(), time.Since(began).Round(time.Millisecond), report)
			for _, v := range report.Violations {
				t.Error(v)
			}
			if report.Errors > 0 {
				t.Errorf("%d operations failed", report.Errors)
			}
			for k, n := range report.Overlapped {
				if least := int64(count(20, 1000)); n < least {
					t.Errorf("only %d fills overlapped an invalidation by %s, want %d", n, check.Kind(k), least)
				}
			}
		})
	}
}
