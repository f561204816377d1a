package node

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
)

// meter measures how stale hits in L1 are: the ledger is asked, after the
// answer has gone out, what it had recorded before it.
type meter struct {
	every   uint64 // of how many hits one is checked; 0: none
	samples chan sample
	checked atomic.Uint64
	buckets [7]atomic.Uint64
}

// sample is a hit.
type sample struct {
	at   l2.Partition
	key  string
	tags []string
	seen soracache.Stamp // what it reflected
	when time.Duration   // on the node's clock
}

// measureRest bounds how often the ledger is asked for a sample.
const measureRest = 50 * time.Millisecond

func newMeter(every int) meter {
	return meter{every: uint64(max(every, 0)), samples: make(chan sample, 16)}
}

// StalenessBounds are the upper bounds of the buckets of
// [Stats.StalenessBuckets]. The first counts hits that were not stale at all;
// the last bucket, after these, what exceeded the node's own bound B.
func StalenessBounds() [6]time.Duration {
	return [6]time.Duration{0, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, l2.MaxBound}
}

// offer takes one hit of many, unless there are too many.
func (m *meter) offer(p *partition, key string, c *local, seen invalidation.Judgement) {
	if m.every == 0 || p.node.totals.hitsL1.Load()%m.every != m.every-1 {
		return
	}
	select {
	case m.samples <- sample{at: p.id, key: soracache.KeyOf(key), tags: c.entry.Tags, seen: seen.Seen, when: seen.At}:
	default:
	}
}

// measure checks samples until the node ends.
func (n *Node) measure() {
	for {
		select {
		case <-n.ctx.Done():
			return
		case s := <-n.meter.samples:
			n.check(s)
		}
		if !n.rest(measureRest) {
			return
		}
	}
}

// check asks the ledger what came after that which the hit reflected.
func (n *Node) check(s sample) {
	sent := n.now()
	answers := callStore(n.ctx, n, "since", func(ctx context.Context) ([]l2.SinceAnswer, error) {
		as := n.cfg.Store.Since(ctx, []l2.SinceRequest{{Partition: s.at, Since: s.seen}})
		return as, as[0].Err
	})
	a := answers[0]
	if a.Err != nil || a.Delta.Epoch != s.seen.Epoch || a.Delta.Reset {
		return // its ledger is gone, and how stale it was cannot be told
	}
	// The store's clock at the hit, as if the question had taken no time to
	// arrive: that is late by at most one way of the round trip, so the hit is
	// found staler than it was rather than fresher.
	then := soracache.Position(a.Clock.Add(s.when - sent).UnixMicro())
	stale := time.Duration(0)
	for _, r := range a.Delta.Records {
		if r.Position < then && slices.ContainsFunc(r.Targets, s.names) {
			stale = max(stale, time.Duration(then-r.Position)*time.Microsecond) //nolint:gosec // positive
		}
	}
	n.meter.count(stale, n.cfg.Bound)
}

// names reports whether a target names the sample's entry.
func (s *sample) names(t soracache.Target) bool {
	switch t.Kind {
	case soracache.TargetKey:
		return t.Name == s.key
	case soracache.TargetTag:
		return slices.Contains(s.tags, t.Name)
	case soracache.TargetAll:
	}
	return true
}

func (m *meter) count(stale, bound time.Duration) {
	m.checked.Add(1)
	bounds := StalenessBounds()
	i, _ := slices.BinarySearch(bounds[:], stale)
	if stale > bound {
		i = len(bounds)
	}
	m.buckets[i].Add(1)
}

func (m *meter) counts() (all [7]uint64) {
	for i := range all {
		all[i] = m.buckets[i].Load()
	}
	return all
}
