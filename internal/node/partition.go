package node

import (
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node/inflight"
	"github.com/soracache/soracache/internal/node/parking"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
)

// partition is what a node knows of one ledger and what depends on it.
type partition struct {
	node     *Node
	ns       *namespace
	id       l2.Partition
	space    uint32 // tells its keys from others' in L1 and in the marks
	follower *invalidation.Follower
	feed     feed // of the follower, to those who watch

	active   atomic.Bool  // may be followed by the node's confirmations
	firstUse atomic.Int64 // on the node's clock, in nanoseconds; zero before
	lastUse  atomic.Int64 // on the node's clock, in nanoseconds
	// useBegan is when the use began that went on until lastUse without a pause of
	// more than a bound; confirmedIdle, until when it is confirmed though that is
	// over. Both are on the node's clock, in nanoseconds.
	useBegan, confirmedIdle atomic.Int64
	// lastPart is the part of the store that held it when that was last looked up.
	lastPart atomic.Pointer[part]
	heard    atomic.Uint64 // the highest position heard of, for measurement only

	// seen caches the last stamp as callers get it, so that a hit in L1 does
	// not allocate one.
	seen atomic.Pointer[soracache.Stamps]

	reads  *inflight.Reads[fetched] // of the store, collecting or under way
	parked *parking.Readers         // who wait for others' leases
	copies copies                   // in L1

	pulls pulls // of what is missing of the ledger
}

func newPartition(n *Node, ns *namespace, id l2.Partition) *partition {
	space := n.spaces.Add(1)
	p := &partition{
		node:   n,
		ns:     ns,
		id:     id,
		space:  space,
		parked: parking.New(&n.parking),
	}
	p.feed.most, p.feed.start = n.cfg.WatchQueue, n.wg.Go
	p.follower = invalidation.NewFollower(invalidation.Config{
		Marks: n.marks, Space: uint64(space), Bound: n.cfg.Bound, Now: n.now, Feed: p.feed.tell,
	})
	p.reads = inflight.New(&n.inflight, source{p})
	p.copies = copies{l1: n.l1, space: space, follower: p.follower, now: n.now, reads: p.reads, fills: map[string][]*filling{}}
	return p
}

// background does something that outlives the request, or the notice, that asked
// for it. Whoever calls it has the namespace pinned.
func (p *partition) background(do func()) {
	p.ns.pin()
	p.node.wg.Go(func() {
		defer p.ns.unpin()
		do()
	})
}

// touch notes that the partition is in use.
func (p *partition) touch(now time.Duration) {
	active, last := p.active.Load(), time.Duration(p.lastUse.Load())
	if active && now-last <= min(p.node.cfg.IdleAfter/8, p.node.cfg.Bound/4) {
		return
	}
	p.firstUse.CompareAndSwap(0, max(int64(now), 1))
	if !active || now-last > p.node.cfg.Bound {
		p.useBegan.Store(int64(now))
	}
	p.lastUse.Store(int64(now))
	if !active {
		p.active.Store(true)
	}
}

// What is confirmed without being asked for is what is watched, what is in use, and
// of all others the mostIdle that were used last, within IdleAfter. The first read
// of anything else goes to the store, which confirms it and registers this node in
// the same step: nothing is served first and confirmed behind that.

// inUse tells whether the partition is in use: for as long after its last use as it
// was in use before, and for a bound at most. So who reads every bound or more often
// finds it confirmed, and who reads once costs the store nothing but the read.
func (p *partition) inUse(now time.Duration) bool {
	last := time.Duration(p.lastUse.Load())
	return p.active.Load() && now-last < min(last-time.Duration(p.useBegan.Load()), p.node.cfg.Bound)
}

// eager tells whether the partition is confirmed though nobody asks.
func (p *partition) eager(now time.Duration) bool {
	return p.feed.watched() || p.inUse(now) || now < time.Duration(p.confirmedIdle.Load())
}
