package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// Progress at a node, P1: a read that waits does so while somebody holds the
// key's lease, and never longer in total than it said. Virtual time makes the
// bounds exact: a moment ends when everything is at rest and time is about to
// pass, and whoever should have gone on by then has not.

// pollMost is how long a node lets a key's waiters be at most until it looks at
// the store, though nothing was heard: notices get lost. Those who have waited for
// long already it lets be for three eighths of that, if it is more.
const pollMost = 125 * ms

// parking is what is known of an operation that waits at its node.
type parking struct {
	most time.Duration // it said that it waits no longer
	// first is when it was first found to wait, its first look being over.
	first  time.Duration
	parked bool
	// free is since when nobody holds the lease that it waits for.
	free   time.Duration
	isFree bool
	// excused: its node was paused or killed meanwhile.
	excused bool
}

// woken notes that a node has heard, of a key or (with all) of every key of a
// partition, what lets those go on who wait for its lease.
func (c *checker) woken(b *boot, partition int, hash uint64, all bool) {
	if b == nil || !b.alive() {
		return
	}
	c.wakes = append(c.wakes, wake{b, partition, hash, all})
}

type wake struct {
	boot      *boot
	partition int
	hash      uint64
	all       bool
}

// concerns tells whether a wake is one for an operation of a single key.
func (k wake) concerns(o *op) bool {
	if k.boot != o.boot || len(o.reads) != 1 {
		return false
	}
	key := o.reads[0].Key
	return k.all && k.partition == o.w.partitionOf(key) || !k.all && invalidation.KeyHash(key) == k.hash
}

// wokenBy notes what the answer to a call lets a node's waiters know.
func (c *checker) wokenBy(cl *call) {
	for _, key := range cl.frees {
		c.woken(cl.from, 0, invalidation.KeyHash(key), false)
	}
	for _, p := range cl.clears {
		c.woken(cl.from, p, 0, true)
	}
}

// wokenByNotice does the same for a notice.
func (c *checker) wokenByNotice(b *boot, n *invalidation.Notice) {
	switch n.Kind {
	case invalidation.NoticeFreed:
		c.woken(b, int(n.Partition), n.Key, false)
	case invalidation.NoticeRecord:
		for _, t := range n.Record.Targets {
			switch t.Kind {
			case soracache.TargetKey:
				c.woken(b, int(n.Partition), invalidation.KeyHash(t.Name), false)
			case soracache.TargetAll:
				c.woken(b, int(n.Partition), 0, true)
			case soracache.TargetTag:
			}
		}
	}
}

// waits judges whoever waits at the end of a moment.
func (c *checker) waits() {
	wakes := c.wakes
	c.wakes = c.wakes[:0]
	for _, o := range c.waiting() {
		was := o.parking.parked
		if o.parking.parked = !o.parking.excused && !o.looks(); !o.parking.parked {
			o.parking.isFree = false
			continue
		}
		if o.parking.first == 0 {
			o.parking.first = c.w.now()
		}
		if o.boot.drains() {
			c.violate("P1: %s waits on, though its node ends", o)
		}
		c.longerThanItSaid(o)
		if len(o.reads) == 1 {
			c.forNobody(o)
			if was && slices.ContainsFunc(wakes, func(k wake) bool { return k.concerns(o) }) {
				c.violate("P1: %s was told that the lease may be free, and waits on", o)
			}
		}
	}
}

// awaits notes that an operation may wait for a lease.
func (c *checker) awaits(o *op) {
	for _, r := range o.reads {
		o.parking.most = max(o.parking.most, r.Wait)
	}
	if o.parking.most > 0 {
		c.waiters = append(c.waiters, o)
	}
}

// waiting are the operations that may wait for a lease, in their order.
func (c *checker) waiting() []*op {
	c.waiters = slices.DeleteFunc(c.waiters, func(o *op) bool { return o.done })
	for _, o := range c.waiters {
		o.parking.excused = o.parking.excused || o.host.paused || o.boot == nil || !o.boot.alive() || o.misled()
	}
	return c.waiters
}

// looks tells whether the operation's node is asking the store for one of its
// keys, or would if fewer reads were on their way.
func (o *op) looks() bool {
	o.boot.mu.Lock()
	defer o.boot.mu.Unlock()
	for _, r := range o.reads {
		underWay, at := 0, o.w.partitionOf(r.Key)
		for cl := range o.boot.calls {
			if cl.kind != callRead {
				continue
			}
			if cl.at == at {
				underWay++
			}
			if underWay > 1 || slices.Contains(cl.keys, r.Key) {
				return true
			}
		}
	}
	return false
}

// refusedWhole checks that a node that was told another number of partitions serves
// nothing.
func (c *checker) refusedWhole(o *op) {
	if o.kind != opGet && o.err == nil {
		c.violate("%s succeeded at a node that was told another number of partitions", o)
	}
	for i := range o.results {
		if o.results[i].Err == nil {
			c.violate("%s was answered by a node that was told another number of partitions", o)
		}
	}
	if !errors.Is(o.err, errGone) {
		c.w.count.changed(Misfit)
	}
}

func (c *checker) longerThanItSaid(o *op) {
	if waited := c.w.now() - o.parking.first; waited > o.parking.most {
		c.violate("P1: %s has waited for %s since it first looked, and said %s", o, waited, o.parking.most)
	}
}

// forNobody checks that an operation does not wait for a lease that nobody holds.
func (c *checker) forNobody(o *op) {
	key := o.reads[0].Key
	if _, _, held := c.w.model.Holder(c.w.partition(c.w.partitionOf(key)), key); held {
		o.parking.isFree = false
		return
	}
	if !o.parking.isFree {
		o.parking.isFree, o.parking.free = true, c.w.now()
	}
	if free := c.w.now() - o.parking.free; free > max(pollMost, (c.w.now()-o.parking.first)*3/8) {
		c.violate("P1: %s has waited for %s for a lease that nobody holds", o, free)
	}
}
