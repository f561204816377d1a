package gossip

import (
	"bytes"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// This file is what memberlist calls. All of it returns at once: memberlist
// holds a lock meanwhile, or receives nothing else.

// NodeMeta is what memberlist tells of this member.
func (g *Gossip) NodeMeta(limit int) []byte {
	b := meta{
		Status:       status(g.status.Load()), //nolint:gosec // it was one
		Protocol:     protocolVersion,
		Capabilities: g.config.Capabilities,
		Bound:        g.config.Bound,
		RPC:          g.config.RPCAddress,
		Version:      g.config.Version,
	}.encode()
	// It is shorter, by what Validate admits. memberlist would panic.
	return b[:min(len(b), limit)]
}

// NotifyMsg takes a packet. memberlist reuses it. It may have come over a
// connection, and then have any size.
func (g *Gossip) NotifyMsg(b []byte) {
	if len(b) > maxPacketBytes {
		_, _ = g.spread.decode(b) // which counts it
		return
	}
	if g.inbox.put(bytes.Clone(b)) {
		wake(g.incoming)
	}
}

// GetBroadcasts would give memberlist what to spread by its own queue. It loses
// more than a tenth of what is given to it: see DESIGN.md.
func (g *Gossip) GetBroadcasts(_, _ int) [][]byte { return nil }

// LocalState would send something along when two members compare what they
// know, every half minute. The ledger is asked three times in each bound, so
// there is nothing to say here that would not be old.
func (g *Gossip) LocalState(_ bool) []byte { return nil }

// MergeRemoteState would take what LocalState sends; one of a later version may.
func (g *Gossip) MergeRemoteState(_ []byte, _ bool) {}

// NotifyConflict is told of two members with one name, which is a mistake: the
// later one is not admitted.
func (g *Gossip) NotifyConflict(existing, other *memberlist.Node) {
	g.conflicts.Add(1)
	g.config.Logger.Error("gossip: two members have one name", "name", existing.Name,
		"address", existing.Address(), "refused", other.Address())
	g.table.change(existing.Name, func(*row) {})
}

// pings is the face that memberlist tells of answers to its probes.
type pings Gossip

// AckPayload would be sent with an answer.
func (p *pings) AckPayload() []byte { return nil }

// NotifyPingComplete is called when a member has answered.
func (p *pings) NotifyPingComplete(other *memberlist.Node, rtt time.Duration, _ []byte) {
	p.table.probed(other.Name, true, rtt)
}

const (
	// An inbox holds as many packets, and as many bytes of them.
	inboxPackets = 8192
	inboxBytes   = 8 << 20
	// takenBytes is how many bytes of them are decoded at once: decoded, they take
	// some ten times as much.
	takenBytes = 1 << 20
)

// inbox holds packets between memberlist and whoever delivers them.
type inbox struct {
	mu sync.Mutex
	// Guarded by mu.
	packets [][]byte
	bytes   int
	dropped uint64
}

// put says whether there was room.
func (i *inbox) put(b []byte) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.packets) >= inboxPackets || i.bytes+len(b) > inboxBytes {
		i.dropped++
		return false
	}
	i.packets = append(i.packets, b)
	i.bytes += len(b)
	return true
}

// take takes out the next packets, as many as may be decoded at once: none if
// there are none.
func (i *inbox) take() [][]byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	n, taken := 0, 0
	for n < len(i.packets) && (n == 0 || taken+len(i.packets[n]) <= takenBytes) {
		taken += len(i.packets[n])
		n++
	}
	packets := i.packets[:n:n]
	i.packets, i.bytes = i.packets[n:], i.bytes-taken
	if len(i.packets) == 0 {
		i.packets = nil
	}
	return packets
}

func (i *inbox) stats() (dropped uint64, waiting int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.dropped, len(i.packets)
}
