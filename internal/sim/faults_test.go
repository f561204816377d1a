package sim

import (
	"fmt"
	"strings"
)

// Fault is a kind of misfortune.
type Fault int

// The kinds, each with what it means that one changed an outcome.
const (
	// Drop: the receiver did not know of the record; or somebody waited there for
	// the key that was freed, or for the acknowledgement.
	Drop Fault = iota
	// Duplicate: the receiver did not know of the record yet; or it had read again
	// what the record names, so that it refuses its copy once more; or it asked.
	Duplicate
	// Reorder: the packet that came too early made its receiver ask the ledger.
	Reorder
	// Delay: the receiver had it from the ledger before it arrived.
	Delay
	// OneWay, TwoWay: a packet was blocked of which the receiver did not know.
	OneWay
	TwoWay
	// Isolate: a client's operation failed, or got an unconfirmed value.
	Isolate
	// StoreRestart: a client's operation failed.
	StoreRestart
	// FailoverVisible, FailoverInvisible, Restore: a record was undone.
	FailoverVisible
	FailoverInvisible
	Restore
	// Flush, EvictLedger: an entry died that the store could have returned.
	Flush
	EvictEntry
	EvictLedger
	// EvictRegistrations: an acknowledged invalidation had to wait out those of
	// whom the store did not know.
	EvictRegistrations
	// TimeoutAfterApply: what failed for its caller changed the store.
	TimeoutAfterApply
	// Crash: a client's operation was in flight there.
	Crash
	// Restart: a key was read from the store that the former life had in memory.
	Restart
	// Pause: something was held back.
	Pause
	// HolderCrash: a reader was refused the lease because of it.
	HolderCrash
	// SlowLoader: its value was refused.
	SlowLoader
	// Trim: a node was given a reset because of what the ledger forgot.
	Trim
	// Mixed: a notice of another version made its receiver ask the ledger; or a
	// node of another version dropped one of which it did not know.
	Mixed
	// LineLoses: an application's request or answer was lost that somebody waited for.
	LineLoses
	// StreamBreaks: the next watch began with what was missed, or with a reset.
	StreamBreaks
	// StreamSilent: something was recorded of which the watch told nothing.
	StreamSilent
	// StreamStalls: something that was recorded came late, while answers did not.
	StreamStalls
	// AppCut: a request of the application was lost, or something that the watch told.
	AppCut
	// ClockAhead, ClockBack: there were leases or registrations, which are counted
	// on the store's clock.
	ClockAhead
	ClockBack
	// OldPrimary: a node reached it.
	OldPrimary
	// StoreFull: somebody was refused a lease, or a value was not stored.
	StoreFull
	// Misfit: a node that was told another number of partitions refused a request.
	Misfit

	faultKinds
)

func (f Fault) String() string {
	return [...]string{
		"packet dropped", "packet duplicated", "packets reordered", "packet delayed", "one-way partition",
		"two-way partition", "node isolated from L2", "L2 restarted", "failover, visible", "failover, invisible",
		"old snapshot restored", "L2 flushed", "entry evicted", "ledger evicted", "registrations evicted",
		"timeout after apply", "node crashed", "node restarted", "node paused", "lease holder crashed",
		"slow loader", "ledger trimmed", "mixed versions", "request or answer lost", "watch broken",
		"watch broken, unnoticed", "watch stalled", "application cut off",
		"L2's clock set ahead", "L2's clock set back", "old primary answers on", "store without room", "other number of partitions",
	}[f]
}

// counters are what a run counted.
type counters struct {
	injected     [faultKinds]int
	outcomes     [faultKinds]int
	credited     [faultKinds]bool // the latest one has been counted as an outcome
	operations   int
	hits         [4]int // by tier
	acknowledged int
	stragglers   int
	loads        int
	refused      int // fills
	uses         int // calls of applications to their clients
	cooked       int // loads by their loaders
	herds        int // of readers at one node
	crowded      int // requests that a node at its cap refused
	fresh        int // values that those returned
}

func (c *counters) inject(f Fault) {
	c.injected[f]++
	c.credited[f] = false
}

// changed notes that the latest fault of a kind changed an outcome. Where two
// overlap, one may go uncounted: the counts are rather too low.
func (c *counters) changed(f Fault) {
	if c.injected[f] > 0 && !c.credited[f] {
		c.outcomes[f]++
		c.credited[f] = true
	}
}

func (c *counters) add(o *counters) {
	for f := range faultKinds {
		c.injected[f] += o.injected[f]
		c.outcomes[f] += o.outcomes[f]
	}
	for i := range c.hits {
		c.hits[i] += o.hits[i]
	}
	c.operations += o.operations
	c.acknowledged += o.acknowledged
	c.stragglers += o.stragglers
	c.loads += o.loads
	c.refused += o.refused
	c.uses += o.uses
	c.cooked += o.cooked
	c.fresh += o.fresh
	c.herds += o.herds
	c.crowded += o.crowded
}

func (c *counters) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d operations: hits %d in L1 and %d in L2, %d loads of which %d were refused, %d acknowledged invalidations with %d stragglers\n",
		c.operations, c.hits[2], c.hits[3], c.loads, c.refused, c.acknowledged, c.stragglers)
	fmt.Fprintf(&out, "%d calls of applications: %d from their memory, %d from their loaders, which ran %d times\n",
		c.uses, c.hits[1], c.fresh, c.cooked)
	fmt.Fprintf(&out, "%d herds of readers, %d requests refused by nodes at their cap\n", c.herds, c.crowded)
	fmt.Fprintf(&out, "%-24s %10s %18s\n", "fault", "injected", "changed an outcome")
	for f := range faultKinds {
		fmt.Fprintf(&out, "%-24s %10d %18d\n", f, c.injected[f], c.outcomes[f])
	}
	return out.String()
}
