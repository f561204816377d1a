package sim

import (
	"fmt"
	"net"
	"time"

	"github.com/soracache/soracache/invalidation/gossip"
)

// Who is a member, and what members say of themselves. Each life of a node has
// gossip's own table of members; this file carries between them what they hear of
// each other, as memberlist would: late, and not at all to who is cut off.

// A node's coming is heard of after up to meetAfter, its end, if it does not say
// anything, after up to missAfter.
const (
	meetAfter = 5 * ms
	missAfter = 200 * ms
)

// address is where a host's nodes are reached, whichever lives there.
func (h *host) address() net.IP { return net.IPv4(10, 0, 0, byte(h.slot+1)) }

// joins makes a new life known: it learns at once of those that are there, and
// they of it a little later. With the first lives, everybody knows all hosts.
func (b *boot) joins() {
	b.roster = gossip.NewRoster(b.name, b.host.bound(), time.Now)
	for _, h := range b.w.hosts {
		other := h.boot
		if other == nil || other == b {
			continue
		}
		b.roster.Meet(other.name, h.address(), h.bound(), other.says)
		if b.number == 1 {
			other.roster.Meet(b.name, b.host.address(), b.host.bound(), b.says)
			continue
		}
		b.w.tell(b, h, meetAfter, func(to *boot) { to.roster.Meet(b.name, b.host.address(), b.host.bound(), b.says) })
	}
}

// say lets a life tell all others what it says of itself.
func (b *boot) say(says gossip.State) {
	b.says = says
	b.w.logf("%s says that it is %s", b.name, says)
	for _, h := range b.w.hosts {
		b.w.tell(b, h, b.w.cfg.Latency, func(to *boot) {
			if err := to.roster.Hear(b.name, says); err != nil {
				b.w.t.Errorf("what %s says: %v", b.name, err)
			}
		})
	}
}

// missed lets all others find out that a life is over.
func (b *boot) missed() {
	for _, h := range b.w.hosts {
		b.w.tell(b, h, missAfter, func(to *boot) { to.roster.Lose(b.name) })
	}
}

// suspected lets another node find out that a life is over which is not: it was
// paused, or cut off. Then it is seen again.
func (b *boot) suspected(until time.Duration) {
	for _, h := range b.w.hosts {
		b.w.tell(b, h, missAfter, func(to *boot) { to.roster.Lose(b.name) })
		b.w.after(until+missAfter, func() {
			if b.alive() {
				b.w.tell(b, h, meetAfter, func(to *boot) { to.roster.Meet(b.name, b.host.address(), b.host.bound(), b.says) })
			}
		})
	}
}

// tell lets the life on a host, if it is another, hear something of one within a
// time. What happens to a line between two happens to that, too.
func (w *world) tell(from *boot, h *host, within time.Duration, hear func(to *boot)) {
	if h == from.host || h.boot == nil {
		return
	}
	to := h.boot
	var arrive func()
	arrive = func() {
		if to.alive() && !h.hold(arrive) {
			hear(to)
		}
	}
	w.after(within/2+time.Duration(w.gossip.Int64N(int64(within))), arrive)
}

// slotOf is the host of a life, by its name: "n3-2" is the third's second.
func slotOf(member string) (slot int) {
	if _, err := fmt.Sscanf(member, "n%d-", &slot); err != nil {
		panic(fmt.Sprintf("sim: a member %q", member))
	}
	return slot - 1
}
