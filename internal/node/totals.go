package node

import (
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

// totals are the running counts behind [Stats].
type totals struct {
	hitsL1, hitsL2, stale, misses, unconfirmed            atomic.Uint64
	leases, waits, waitTimeouts                           atomic.Uint64
	fillsStored, fillsSuperseded, fillsLeaseLost, puts    atomic.Uint64
	renewals, releases, invalidations, targets            atomic.Uint64
	flights, flightKeys, flightJoins                      atomic.Uint64
	confirmations, resets, reclaimed, storeErrors, errors atomic.Uint64
	recordsPushed, recordsRepaired, gaps, pulls           atomic.Uint64
	acknowledged, stragglers                              atomic.Uint64
	refusedForRoom                                        atomic.Uint64
	watchItems, watchResets, watchOverflows               atomic.Uint64
	forgotten, crowded                                    atomic.Uint64
	watchers                                              atomic.Int64 // now
}

// count counts the outcome of a read.
func (t *totals) count(r *soracache.ReadResult) {
	switch {
	case r.Err != nil:
		t.errors.Add(1)
	case r.Unconfirmed:
		t.unconfirmed.Add(1)
	case r.Status == soracache.StatusMiss:
		t.misses.Add(1)
	case r.Status == soracache.StatusStale:
		t.stale.Add(1)
	case r.Tier == soracache.TierL1:
		t.hitsL1.Add(1)
	default:
		t.hitsL2.Add(1)
	}
}

// Stats returns the node's running totals.
func (n *Node) Stats() Stats {
	t := &n.totals
	n.mu.RLock()
	partitions := n.count
	n.mu.RUnlock()
	return Stats{
		HitsL1: t.hitsL1.Load(), HitsL2: t.hitsL2.Load(), Stale: t.stale.Load(),
		Misses: t.misses.Load(), Unconfirmed: t.unconfirmed.Load(), ReadErrors: t.errors.Load(),
		Leases: t.leases.Load(), Waits: t.waits.Load(), WaitTimeouts: t.waitTimeouts.Load(),
		FillsStored: t.fillsStored.Load(), FillsSuperseded: t.fillsSuperseded.Load(),
		FillsLeaseLost: t.fillsLeaseLost.Load(), Puts: t.puts.Load(),
		Renewals: t.renewals.Load(), Releases: t.releases.Load(),
		Invalidations: t.invalidations.Load(), InvalidatedTargets: t.targets.Load(),
		Flights: t.flights.Load(), FlightKeys: t.flightKeys.Load(), FlightJoins: t.flightJoins.Load(),
		Confirmations: t.confirmations.Load(), Resets: t.resets.Load(), Partitions: partitions,
		Forgotten: t.forgotten.Load(), Crowded: t.crowded.Load(),
		RecordsGossip: t.recordsPushed.Load(), RecordsRepaired: t.recordsRepaired.Load(),
		Gaps: t.gaps.Load(), Pulls: t.pulls.Load(),
		Watchers: int(t.watchers.Load()), WatchItems: t.watchItems.Load(),
		WatchResets: t.watchResets.Load(), WatchOverflows: t.watchOverflows.Load(),
		Acked: t.acknowledged.Load(), Stragglers: t.stragglers.Load(),
		Refused:          n.refusedCount(),
		StalenessChecked: n.meter.checked.Load(), StalenessBuckets: n.meter.counts(),
		Reclaimed: t.reclaimed.Load(), StoreErrors: t.storeErrors.Load(),
		RefusedForRoom: t.refusedForRoom.Load(), StoreFull: n.StoreFull(),
		L1: n.l1.Stats(), L2: n.cfg.Store.Counters(),
	}
}

// Partitions returns how far the node has followed each ledger, in no order.
func (n *Node) Partitions() []PartitionState {
	var all []PartitionState
	now := n.now()
	n.each(func(p *partition) {
		s := p.follower.State()
		all = append(all, PartitionState{
			Namespace: p.id.Namespace, Partition: int(p.id.Index), Epoch: s.Epoch,
			Applied: s.Applied, Head: max(s.Applied, soracache.Position(p.heard.Load())), ConfirmedAgo: s.Age,
			UsedAgo: now - time.Duration(p.lastUse.Load()), Active: p.active.Load(), Eager: p.eager(now),
		})
	})
	return all
}
