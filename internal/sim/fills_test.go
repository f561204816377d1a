package sim

import (
	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// Progress of loads, P2: who may load is told so, a lease that was given is used
// or handed back, and a value that nothing was invalidated of is stored.

// leaseAnswer checks that the store told a reader the truth about a lease that it
// wanted: it is given, or somebody holds it.
func (c *checker) leaseAnswer(req *l2.ReadRequest, k l2.ReadKey, a *l2.KeyAnswer) {
	if k.Nonce == (soracache.Lease{}) {
		return
	}
	by, _, held := c.w.model.Holder(req.Partition, k.Key)
	switch g := c.grants[by]; {
	case a.Lease == soracache.LeaseHeld && !held:
		c.violate("P2: the store told a reader that the lease of %s is held, and nobody holds it", k.Key)
	case a.Lease == soracache.LeaseHeld && g != nil && g.ended > c.restored:
		c.violate("P2: the store told a reader that the lease of %s is held, which ended at #%d", k.Key, g.ended)
	case a.Refusal == soracache.RefusalStoreFull:
		c.w.count.changed(StoreFull)
		if !c.w.full {
			c.violate("P2: the store refused the lease of %s for want of room, and has room", k.Key)
		}
	case a.Lease == soracache.LeaseRefused && a.Refusal != soracache.RefusalPassed: // see wished
		c.violate("P2: the store has no reason to refuse the lease of %s: %s", k.Key, a.Refusal)
	case a.Lease == soracache.LeaseNone && !a.Found:
		c.violate("P2: the store has no value of %s, and told a reader neither to load it nor that somebody does", k.Key)
	}
}

// completed takes in what became of a write under a lease. Its holder is refused
// only for what was invalidated.
func (c *checker) completed(p int, req *l2.WriteRequest, a *l2.WriteAnswer) {
	g := c.grants[req.Nonce]
	if g == nil || g.key != req.Key || req.Op == soracache.OpPut || g.step <= c.restored || g.unsure {
		return
	}
	switch {
	case a.Reason != soracache.ReasonNone && c.stands(p, g, req.Entry.Tags) && c.w.cfg.Faults[Trim] == 0:
		c.violate("P2: the store refused the holder of the lease of %s (%s), and nothing was invalidated since that was given at #%d",
			g.key, a.Reason, g.step)
	case a.Reason == soracache.ReasonNone && g.ended > 0:
		c.violate("G7: the store took a write under the lease of %s, which ended at #%d", g.key, g.ended)
	case a.Reason == soracache.ReasonNone && req.Op == soracache.OpRenew:
		g.until = c.w.storeNow() + req.LeaseFor
	case req.Op != soracache.OpRenew && a.Reason != soracache.ReasonLeaseLost: // which a clock that jumps can undo
		g.ended = c.w.step
	}
}

// stands tells whether a lease stands, and nothing was invalidated since that
// concerns its key, or a value of it with some tags.
func (c *checker) stands(p int, g *grant, tags []string) bool {
	if g.ended > 0 || g.unsure || g.step <= c.restored || c.w.storeNow() >= g.until || g.until > c.w.storeNow()+soracache.MaxLease || c.w.cfg.Settling > 0 {
		return false
	}
	for _, r := range c.partitions[p].records {
		if r.at >= g.step && (r.mint || concerns(r.targets, g.key, tags)) {
			return false
		}
	}
	return true
}

// granted takes in that a lease was given, and checks that nobody else holds it
// from whom it may not be taken over: see wished.
func (c *checker) granted(p int, g *grant, takenOver bool) {
	if isChore(g.key) {
		return // nodes elect one of them, which they do in every partition
	}
	if last := c.holders[g.key]; last != nil {
		if c.stands(p, last, nil) && !takenOver {
			c.violate("P2: the store gave the lease of %s while it was held: since #%d, until %s", g.key, last.step, last.until)
		}
		if last.ended == 0 {
			last.ended = c.w.step
		}
	}
	c.holders[g.key] = g
}

// refreshPatience is for how long a node believes that somebody else refreshes a
// value, or that the store has no room, once that has told it so.
const refreshPatience = 250 * ms

// refreshes checks, of an answer out of a node's memory to somebody who would
// refresh the value, that the node has asked the store of late who does.
func (c *checker) refreshes(o *op, read *soracache.Read, r *soracache.ReadResult) {
	if r.Tier != soracache.TierL1 || !read.Lease || r.FreshFor > read.RefreshWithin || o.boot.troubled(c.w.cfg.StoreTimeout+3*o.host.bound()) {
		return
	}
	last, told := c.lives[o.boot].held[read.Key]
	if told && o.beganAt <= last+refreshPatience {
		return
	}
	c.violate("P2: %s returned %s=%s from memory, which has %s to go, and would refresh it with %s to go: the store said at %s that somebody does",
		o, read.Key, r.Entry.Value, r.FreshFor, read.RefreshWithin, last)
}

// untaken are leases that a node was given, and that nobody has taken from it.
type untaken struct {
	boot *boot
	key  string
}

// bringsLeases notes which leases an answer of the store brings to a node.
func (c *checker) bringsLeases(cl *call) {
	for nonce, key := range cl.granted {
		if g := c.grants[nonce]; g != nil && !g.taken && c.source[key] != nil {
			c.untaken[nonce] = untaken{cl.from, key}
		}
	}
}

// takenUp notes that a lease was given to whoever asked for it, or is about to
// be handed back.
func (c *checker) takenUp(nonce soracache.Lease) {
	if g := c.grants[nonce]; g != nil {
		g.taken = true
	}
	delete(c.untaken, nonce)
}

// untakenLeases checks, at the end of a moment, that no node sits on a lease that no
// request at it wants.
func (c *checker) untakenLeases() {
	for nonce, u := range c.untaken {
		switch {
		case !u.boot.alive():
			delete(c.untaken, nonce)
		case !u.boot.host.paused && !c.wanted(u):
			delete(c.untaken, nonce)
			c.violate("P2: %s was given the lease of %s, and neither gave it to anybody nor handed it back", u.boot.name, u.key)
		}
	}
}

// wanted tells whether a request at a node wants a key's lease.
func (c *checker) wanted(u untaken) bool {
	for o := range c.w.pending {
		if o.boot != u.boot {
			continue
		}
		for _, r := range o.reads {
			if r.Lease && r.Key == u.key {
				return true
			}
		}
	}
	return false
}
