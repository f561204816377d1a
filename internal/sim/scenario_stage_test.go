package sim

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
)

// stage is the plan of a script: nothing goes wrong but what the script says.
type stage struct {
	s *script
	// busy is until when something is on its way.
	busy    time.Duration
	blocked map[[2]int]bool          // lines between hosts
	drop    map[[2]int]int           // how many packets more will be lost
	late    map[[2]int]time.Duration // by how much the next packet is late
	cut     map[int]isolation        // hosts that do not reach the store
	down    bool                     // the store
	next    map[int]isolation        // what becomes of the next call that changes something
	future  map[int]string           // hosts that speak a later version, and how
	lines   map[*packet]string       // what a packet holds
	head    string                   // the latest that the store answered
}

// The next call of a host is executed, but its caller gets an error, or nothing.
const (
	failing isolation = 100 + iota
	forgetting
)

func newStage(s *script) *stage {
	return &stage{
		s: s, blocked: map[[2]int]bool{}, drop: map[[2]int]int{}, late: map[[2]int]time.Duration{},
		cut: map[int]isolation{}, next: map[int]isolation{}, future: map[int]string{}, lines: map[*packet]string{},
		head: "nothing",
	}
}

// healed ends all faults of the network.
func (g *stage) healed() {
	clear(g.blocked)
	clear(g.drop)
	clear(g.cut)
	g.down = false
}

const way = ms

func (g *stage) will(d time.Duration) { g.busy = max(g.busy, g.s.w.now()+d) }

// Calls.

func (g *stage) call(c *call) fate {
	f := fate{there: way, back: way}
	slot := c.from.host.slot
	switch g.cut[slot] {
	case refusing:
		f.refused = true
	case swallowing:
		f.lost = true
	case mute:
		f.answerLost = true
	case reached, failing, forgetting:
	}
	f.refused = f.refused || g.down
	if how := g.next[slot]; how != reached && (c.kind == callInvalidate || c.kind == callWrite) {
		f.failed, f.answerLost = how == failing, how == forgetting
		delete(g.next, slot)
	}
	if c.kind == callOther {
		return f
	}
	g.will(f.there + f.back)
	if f.lost || f.refused {
		g.traced(c.from.name+" -> L2", "%s (%s)", g.question(c), map[bool]string{true: "lost", false: "refused"}[f.lost])
		return f
	}
	run := c.run
	c.run = func() {
		leases := len(g.s.w.check.grants)
		run()
		g.executed(c, f, len(g.s.w.check.grants) > leases)
	}
	return f
}

// question says what a call asks.
func (g *stage) question(c *call) string {
	switch c.kind {
	case callRead:
		return "read " + c.what
	case callInvalidate:
		return "invalidate " + c.what
	case callSince:
		return "what is new since " + g.since(c) + "?"
	case callWrite, callOther:
	}
	return c.what
}

func (g *stage) since(c *call) string {
	if c.shown[0].Epoch == 0 {
		return "ever"
	}
	return g.s.names.stamp(c.shown[0])
}

// executed tells what the store did. That it told nothing new to somebody who
// asks now and then is not worth a line.
func (g *stage) executed(c *call, f fate, granted bool) {
	n := g.s.names
	// What the answer told of the ledger: to ask again changes nothing.
	d := g.s.w.model.Since(context.Background(), []l2.SinceRequest{{Partition: g.s.w.partition(0), Since: c.shown[0]}})[0].Delta
	head := soracache.Stamp{Epoch: d.Epoch, Position: d.Head}
	appended := c.kind == callInvalidate || strings.HasPrefix(c.what, "put ")
	if n.learn(head, appended) {
		end := ""
		if len(n.epochs) > 1 {
			end = ": everything older is dead"
		}
		g.traced("L2", "begins %s%s", n.epoch(d.Epoch), end)
	}
	g.head = n.stamp(head)
	var text []string
	news := d.Records
	switch c.kind {
	case callRead:
		text = append(text, g.found(c, granted))
	case callWrite:
		if !c.changed {
			text = append(text, "refused")
		} else if strings.HasPrefix(c.what, "put ") {
			text = append(text, "recorded as "+g.head)
		} else {
			text = append(text, "done")
		}
	case callInvalidate:
		text = append(text, "recorded as "+g.head)
	case callSince, callOther:
	}
	if appended {
		news = slices.DeleteFunc(news, func(r soracache.Record) bool { return r.Position == d.Head })
	}
	if len(news) > 0 && c.kind != callSince {
		text = append(text, "news")
	}
	for _, r := range news {
		text = append(text, n.record(r))
	}
	if d.Reset {
		text = append(text, "start anew from "+g.head)
	}
	if c.kind == callSince && len(text) == 0 {
		if f == (fate{there: f.there, back: f.back}) {
			return
		}
		text = append(text, "nothing")
	}
	if f.answerLost || f.failed {
		text = append(text, "but the answer is lost")
	}
	mark := ": "
	if c.kind == callSince {
		mark = " " // after the question mark
	}
	g.traced(c.from.name+" -> L2", "%s%s%s", g.question(c), mark, strings.ReplaceAll(strings.Join(text, "; "), "news; ", "news: "))
}

// found says what a read found.
func (g *stage) found(c *call, granted bool) string {
	e := g.s.w.explain(c.what)
	switch {
	case granted:
		return "nothing live, a lease is given"
	case e.Live:
		at := g.s.w.partition(g.s.w.partitionOf(c.what))
		return g.s.names.values[string(g.s.w.model.Value(at, c.what))]
	case e.Leased:
		return "nothing live, and leased"
	}
	return "nothing live"
}

func (g *stage) answerLost(c *call) bool {
	how := g.cut[c.from.host.slot]
	lost := g.down || how == swallowing || how == mute
	if lost {
		g.traced("L2 -> "+c.from.name, "the answer is lost")
	}
	return lost
}

// between: an invalidation reaches all partitions at once.
func (g *stage) between() time.Duration { return 0 }

func (g *stage) finished(o *op) {
	if o == g.s.quiet && o.err == nil && o.results[0].Lease != (soracache.Lease{}) {
		return
	}
	for name, p := range g.s.pending {
		if p == o {
			g.s.say(o.host.String(), "%s: %s", name, g.s.names.outcome(o))
			return
		}
	}
	g.s.say(o.host.String(), "%s", g.s.names.outcome(o))
}

// Packets.

func (g *stage) packet(p *packet) []copyOf {
	line := [2]int{p.from.host.slot, p.to.slot}
	n := p.notice()
	g.translate(p, &n)
	g.lines[p] = g.s.names.notice(&n)
	why := ""
	switch {
	case g.blocked[line]:
		why = "cut off"
	case g.drop[line] > 0:
		g.drop[line]--
		why = "dropped"
	case p.to.boot == nil:
		why = "it is down"
	}
	if why != "" {
		g.arrow(p, " ("+why+")")
		return nil
	}
	took := way + g.late[line]
	if g.late[line] == 0 {
		g.will(took)
	} else {
		g.arrow(p, " (it will be late)")
	}
	delete(g.late, line)
	return []copyOf{{after: took}}
}

func (g *stage) deliver(p *packet, _ copyOf) bool {
	if g.blocked[[2]int{p.from.host.slot, p.to.slot}] {
		g.arrow(p, " (cut off)")
		return false
	}
	g.arrow(p, "")
	return true
}

func (g *stage) arrow(p *packet, end string) {
	g.traced(g.s.names.node(p.from.name)+" -> "+p.to.String(), "%s%s", g.lines[p], end)
}

func (g *stage) traced(where, format string, args ...any) {
	if g.s.trace {
		for _, h := range g.s.w.hosts {
			where = strings.ReplaceAll(where, h.String()+"-1", h.String())
		}
		g.s.say(where, format, args...)
	}
}

// translate turns what a node of a later version sends into what this version
// does not know.
func (g *stage) translate(p *packet, n *invalidation.Notice) {
	if n.Kind != invalidation.NoticeRecord {
		return
	}
	switch g.future[p.from.host.slot] {
	case "":
		return
	case "notice":
		n.Kind = 77
	case "target":
		n.Record.Targets = []soracache.Target{{Kind: 9, Name: "new"}}
	}
	p.bytes = invalidation.AppendNotice(nil, n)
	*n = p.notice() // as this version reads it
}
