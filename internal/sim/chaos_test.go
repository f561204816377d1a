package sim

import (
	"bytes"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/invalidation"
)

// plan decides what becomes of calls and packets. A random run has chaos, a
// scenario a script.
type plan interface {
	// call decides when a call is taken in.
	call(c *call) fate
	// between is how long after one partition an invalidation reaches the next.
	between() time.Duration
	// answerLost decides when an answer is about to be delivered.
	answerLost(c *call) bool
	// packet decides when a packet is taken in: one item for each copy.
	packet(p *packet) []copyOf
	// deliver decides when a copy is about to be delivered.
	deliver(p *packet, c copyOf) bool
	// finished is told of each outcome.
	finished(o *op)
}

// chaos is the plan of a random run.
type chaos struct {
	w       *world
	on      bool                // faults happen
	blocked map[[2]int]Fault    // lines between hosts
	cut     map[int]isolation   // hosts that do not reach the store
	down    bool                // the store
	line    map[[2]int]int      // the latest packet delivered on a line, by when it was sent
	waiting map[[2]int][]func() // copies held back until a later one arrived
	crashed map[int]map[string]bool
	saves   []snapshot
	slow    int // loaders that are to be slow
	orphan  int // holders that are to vanish
	// nextJump is when the store's clock may be set ahead again.
	nextJump time.Duration
	// cause is the fault to which a question is due that causeHost leaves before
	// it is next at rest.
	cause     Fault
	causeHost *host
	causeRest int
}

type isolation uint8

const (
	reached isolation = iota
	refusing
	swallowing
	mute // requests arrive, answers do not
)

type snapshot struct {
	restore func()
	check   saved
}

func newChaos(w *world) *chaos {
	return &chaos{
		w: w, on: true, blocked: map[[2]int]Fault{}, cut: map[int]isolation{}, line: map[[2]int]int{},
		waiting: map[[2]int][]func(){}, crashed: map[int]map[string]bool{}, causeRest: -1,
	}
}

// happens is true for a fault of a kind that happens now and then, in so many
// of ten thousand cases for each point of its weight.
func (x *chaos) happens(f Fault, often int) bool {
	weight := x.w.cfg.Faults[f]
	if !x.on || weight == 0 || x.w.rng.IntN(10_000) >= weight*often {
		return false
	}
	return true
}

// way is how long one way takes.
func (x *chaos) way() time.Duration {
	w := x.w
	d := w.cfg.Latency/2 + time.Duration(w.rng.Int64N(int64(w.cfg.Latency)))
	if x.on && w.rng.IntN(1000) < w.cfg.Slow {
		d += time.Duration(w.rng.Int64N(int64(w.cfg.SlowBy)))
	}
	return d
}

func (x *chaos) call(c *call) fate {
	f := fate{there: x.way(), back: x.way()}
	if c.kind == callSince && x.causeHost == c.from.host && x.causeRest == x.w.rests {
		x.w.count.changed(x.cause) // the packet that was just delivered made it ask
		x.causeRest = -1
	}
	x.delay(c, &f)
	switch x.cut[c.from.host.slot] {
	case refusing:
		f.refused = true
	case swallowing:
		f.lost = true
	case mute:
		f.answerLost = true
	case reached:
	}
	switch {
	case x.down:
		f.refused = true
	case f.lost || f.refused || f.answerLost:
	case x.happens(TimeoutAfterApply, 40):
		x.w.count.inject(TimeoutAfterApply)
		if f.answerLost = x.w.rng.IntN(2) == 0; !f.answerLost {
			f.failed = true
		}
	}
	return f
}

// delay makes some calls late, by something like the bound of the node: see
// [Config.Late].
func (x *chaos) delay(c *call, f *fate) {
	if late := x.w.cfg.Late; !x.on || late == 0 || x.w.rng.IntN(1000) >= late {
		return
	}
	half := c.from.host.bound() / 2
	by := half + time.Duration(x.w.rng.Int64N(int64(half)))
	switch c.kind {
	case callInvalidate:
		f.there += by
	case callRead, callSince:
		f.back += by
	case callWrite, callOther:
	}
}

// between is at times as long as a way.
func (x *chaos) between() time.Duration {
	if x.w.rng.IntN(2) == 0 {
		return 0
	}
	return x.way()
}

func (x *chaos) answerLost(c *call) bool {
	how := x.cut[c.from.host.slot]
	return x.down || how == swallowing || how == mute
}

func (x *chaos) finished(o *op) {
	if o.failed() || unconfirmed(o) {
		if x.cut[o.host.slot] != reached {
			x.w.count.changed(Isolate)
		}
		if x.down {
			x.w.count.changed(StoreRestart)
		}
	}
	for i := range o.results {
		key := o.reads[i].Key
		if o.results[i].Tier == soracache.TierL2 && x.crashed[o.host.slot][key] {
			x.w.count.changed(Restart)
			delete(x.crashed[o.host.slot], key)
		}
	}
}

func unconfirmed(o *op) bool {
	for i := range o.results {
		if o.results[i].Unconfirmed {
			return true
		}
	}
	return false
}

// Packets.

func (x *chaos) packet(p *packet) []copyOf {
	w := x.w
	line := [2]int{p.from.host.slot, p.to.slot}
	if f, blocked := x.blocked[line]; blocked {
		if x.news(p) {
			w.count.changed(f)
		}
		return nil
	}
	x.translate(p)
	if x.happens(Drop, 300) {
		w.count.inject(Drop)
		if x.news(p) {
			w.count.changed(Drop)
		}
		return nil
	}
	first := copyOf{after: x.packetWay()}
	switch {
	case x.happens(Delay, 200):
		w.count.inject(Delay)
		p.delayed = true
		first.after += time.Duration(w.rng.Int64N(int64(2 * p.to.bound())))
	case x.happens(Reorder, 200):
		w.count.inject(Reorder)
		first.behind = true
	}
	copies := []copyOf{first}
	if x.happens(Duplicate, 200) {
		w.count.inject(Duplicate)
		copies = append(copies, copyOf{after: x.packetWay() + time.Duration(w.rng.Int64N(int64(2*p.to.bound()))), extra: true})
	}
	return copies
}

func (x *chaos) packetWay() time.Duration {
	return x.w.cfg.Latency/4 + time.Duration(x.w.rng.Int64N(int64(x.w.cfg.Latency)))
}

// news tells whether a packet has something for its receiver that it does not
// know: see [Drop].
func (x *chaos) news(p *packet) bool {
	b := p.to.boot
	if b == nil {
		return false
	}
	n := p.notice()
	switch n.Kind {
	case invalidation.NoticeRecord:
		_, known := x.w.check.knows(b, soracache.Stamp{Epoch: n.Record.Epoch, Position: n.Record.Position})
		return !known
	case invalidation.NoticeFreed:
		return x.w.waits(p.to, n.Key)
	case invalidation.NoticeApplied:
		return x.w.awaited(n.Stamp)
	}
	return false
}

func (x *chaos) deliver(p *packet, c copyOf) bool {
	w := x.w
	line := [2]int{p.from.host.slot, p.to.slot}
	if c.behind && x.on {
		// Held back until a later packet has arrived, or 20 ms have passed.
		c.behind = false
		released := false
		again := func() {
			if !released {
				released = true
				w.deliver(p, c)
			}
		}
		x.waiting[line] = append(x.waiting[line], again)
		w.after(20*ms, again)
		return false
	}
	if f, blocked := x.blocked[line]; blocked {
		if x.news(p) {
			w.count.changed(f)
		}
		return false
	}
	n := p.notice()
	if p.to.odd && n.Kind != invalidation.NoticeRecord {
		if x.news(p) {
			w.count.changed(Mixed)
		}
		return false // a version that knows no such notice
	}
	x.judge(p, c, &n)
	x.line[line] = max(x.line[line], p.sent)
	for _, again := range x.waiting[line] {
		w.after(time.Microsecond, again)
		x.attribute(Reorder, p.to) // this one overtook it
	}
	delete(x.waiting, line)
	return true
}

// judge counts what the delivery of a packet that a fault touched means.
func (x *chaos) judge(p *packet, c copyOf, n *invalidation.Notice) {
	if n.Kind != invalidation.NoticeRecord {
		if n.Kind > invalidation.NoticeApplied {
			x.attribute(Mixed, p.to)
		}
		return
	}
	at := soracache.Stamp{Epoch: n.Record.Epoch, Position: n.Record.Position}
	from, known := x.w.check.knows(p.to.boot, at)
	switch {
	case p.delayed && known && from == node.FromLedger:
		x.w.count.changed(Delay)
	case c.extra && (!known || p.copies > 0 && x.w.check.readSince(p.to.boot, p.first, n.Record.Targets)):
		x.w.count.changed(Duplicate)
	case c.extra:
		x.attribute(Duplicate, p.to)
	case p.from.host.odd:
		x.attribute(Mixed, p.to)
	}
}

func (x *chaos) attribute(f Fault, h *host) { x.cause, x.causeHost, x.causeRest = f, h, x.w.rests+1 }

// translate turns what a node of another version sends into what this version
// does not know.
func (x *chaos) translate(p *packet) {
	if !p.from.host.odd || p.translated {
		return
	}
	n := p.notice()
	p.translated = true
	switch {
	case n.Kind != invalidation.NoticeRecord:
		n.Kind += 60
	case x.w.rng.IntN(2) == 0:
		n.Kind = 77
	case len(n.Record.Targets) > 0:
		n.Record.Targets = append([]soracache.Target{{Kind: 9, Name: "new"}}, n.Record.Targets...)
	}
	p.bytes = bytes.Clone(invalidation.AppendNotice(nil, &n))
}
