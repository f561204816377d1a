package sim

import (
	"fmt"
	"time"

	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/invalidation"
)

// peers is the other nodes as a node sees them: members of a best-effort
// network of which everything can go wrong.
type peers struct{ b *boot }

var _ node.Peers = peers{}

// Publish implements node.Peers.
func (p peers) Publish(n invalidation.Notice) {
	for _, member := range p.b.roster.Peers() {
		p.send(p.b.w.hosts[slotOf(member)], "", &n)
	}
}

// Tell implements node.Peers.
func (p peers) Tell(member string, n invalidation.Notice) {
	if p.b.roster.Reaches(member) {
		p.send(p.b.w.hosts[slotOf(member)], member, &n)
	}
}

// Left implements node.Peers.
func (p peers) Left(member string) bool { return p.b.roster.Left(member) }

// Bound implements node.Peers.
func (p peers) Bound() time.Duration { return p.b.roster.Bound() }

func (w *world) longestBound() time.Duration {
	longest := time.Duration(0)
	for _, h := range w.hosts {
		longest = max(longest, h.bound())
	}
	return longest
}

func (p peers) send(to *host, member string, n *invalidation.Notice) {
	if !p.b.alive() {
		return
	}
	bytes := invalidation.AppendNotice(nil, n)
	w := p.b.w
	name := fmt.Sprintf("packet %d %d %s %x", p.b.host.slot, to.slot, member, bytes)
	w.arrive(name, func() { w.route(&packet{from: p.b, to: to, member: member, bytes: bytes}) })
}

// packet is one notice on its way to one node.
type packet struct {
	from   *boot
	to     *host
	member string // the life of a node that it is for; empty: any
	bytes  []byte
	sent   int // when the scheduler took it in: the order on this line
	// copies of it were delivered so far.
	copies     int
	first      int  // the step in which the first copy was delivered
	delayed    bool // by a fault
	translated bool // into another version
}

// copyOf is what becomes of one copy of a packet.
type copyOf struct {
	after time.Duration
	extra bool // made by a fault
	// behind: it is held back until a later packet on the same line arrived.
	behind bool
}

func (p *packet) notice() invalidation.Notice {
	n, _, err := invalidation.DecodeNotice(p.bytes)
	if err != nil {
		panic(fmt.Sprintf("sim: a notice that cannot be read: %v", err))
	}
	return n
}

func (p *packet) String() string {
	n := p.notice()
	var what string
	switch n.Kind {
	case invalidation.NoticeRecord:
		what = "record " + targetsText(n.Record.Targets)
		if n.Acknowledge {
			what += " (acknowledge)"
		}
	case invalidation.NoticeFreed:
		what = "freed"
	case invalidation.NoticeApplied:
		what = "applied"
	default:
		what = fmt.Sprintf("kind %d", n.Kind)
	}
	return fmt.Sprintf("%s->%s %s", p.from.name, p.to, what)
}

// route sends a packet on its way, as often as the plan says.
func (w *world) route(p *packet) {
	if p.from.host.boot == p.from && p.from.host.hold(func() { w.route(p) }) {
		w.count.changed(Pause)
		return
	}
	w.step++
	p.sent = w.step
	w.note("packet", p.from.host.slot, uint64(p.to.slot), uint64(len(p.bytes)))
	copies := w.plan.packet(p)
	if len(copies) == 0 && w.tracing() {
		w.logf("%s is lost", p)
	}
	for _, c := range copies {
		w.after(c.after, func() { w.deliver(p, c) })
	}
}

// deliver hands a packet to its node.
func (w *world) deliver(p *packet, c copyOf) {
	if p.to.hold(func() { w.deliver(p, c) }) {
		w.count.changed(Pause)
		return
	}
	b := p.to.boot
	if b == nil || p.member != "" && p.member != b.name {
		return
	}
	if !w.plan.deliver(p, c) {
		return
	}
	w.note("deliver", p.to.slot, uint64(p.from.host.slot))
	if w.tracing() {
		w.logf("%s arrives", p)
	}
	if p.copies++; p.copies == 1 {
		p.first = w.step
	}
	n := p.notice()
	b.node.Receive(n)
	w.check.wokenByNotice(b, &n)
}
