package sim

import "github.com/soracache/soracache/l2/l2model"

// An old primary that was cut off and still answers can mislead the nodes that
// still reach it (docs/guarantees.md, 8). What these answer is not judged until
// each of their partitions has heard from the new one; and whatever they do
// meanwhile, what all others answer is judged as ever.

// split is a failover that some hosts do not see: they go on with the old primary.
func (x *chaos) split() {
	w := x.w
	if w.old != nil || len(x.saves) == 0 {
		return
	}
	x.inject(OldPrimary, "")
	w.old = w.model.Copy()
	for _, h := range w.hosts {
		if h.misled = h.slot > 0 && w.rng.IntN(2) == 0; h.misled && h.boot != nil {
			h.boot.unmet = nil
			h.boot.misled = true
			w.logf("%s still reaches the old primary", h)
		}
	}
	x.bringBack(FailoverVisible)
	w.after(x.length(x.host()), w.rejoin)
}

// rejoin ends the old primary.
func (w *world) rejoin() {
	if w.old == nil {
		return
	}
	w.logf("the old primary is gone")
	w.old = nil
	for _, h := range w.hosts {
		h.misled = false
		if b := h.boot; b != nil && b.misled {
			b.unmet = map[int]bool{}
			for p := range w.cfg.Partitions {
				b.unmet[p] = true
			}
		}
	}
}

// storeOf is what a life's calls reach, and whether that is the old primary.
func (w *world) storeOf(b *boot) (m *l2model.Model, old bool) {
	if w.old != nil && b.host.misled {
		return w.old, true
	}
	return w.model, false
}

// misleads executes a call on the old primary, if that is what it reaches.
func (w *world) misleads(c *call, run func(m *l2model.Model)) bool {
	m, old := w.storeOf(c.from)
	if !old {
		return false
	}
	c.misled = true
	w.count.changed(OldPrimary)
	run(m)
	return true
}

// meets notes that a life has heard of a partition from the new primary.
func (b *boot) meets(c *call) {
	if !b.misled || b.unmet == nil || c.misled || c.kind == callOther {
		return
	}
	for p := range c.shown {
		delete(b.unmet, p)
	}
	if len(b.unmet) == 0 {
		b.misled, b.recovered = false, b.w.step
		b.w.logf("%s has heard from the new primary", b.name)
	}
}

// misled tells whether an operation's node may have been misled meanwhile.
func (o *op) misled() bool {
	return o.boot != nil && (o.boot.misled || o.boot.recovered > 0 && o.began <= o.boot.recovered)
}
