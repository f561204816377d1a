package gossip

import (
	"sync/atomic"

	"github.com/soracache/soracache/invalidation"
)

// ByKind counts notices by what they tell.
type ByKind struct {
	Records, Freed, Applied, Other uint64
}

// SpreadStats counts what a [Spread] did.
type SpreadStats struct {
	// PacketsSent and PacketsFailed are those that the transport took, and
	// refused.
	PacketsSent, PacketsFailed uint64
	// PacketsReceived are all. PacketsUnknown of them were of another version
	// and PacketsMalformed damaged; both were ignored.
	PacketsReceived, PacketsUnknown, PacketsMalformed uint64

	// Published and Told are notices that were asked to be sent; Sent are their
	// copies, one for each member that they were sent to.
	Published, Told, Sent ByKind
	// Received are notices that were delivered.
	Received ByKind
	// Dropped were not sent because too much was waiting, because there are too
	// many members (freed leases), or because the member is not known.
	Dropped ByKind
	// Duplicates came again by another way, and were not delivered.
	Duplicates uint64
	// Forwarded were passed on for others.
	Forwarded uint64
	// Stripped are records that were sent without their targets.
	Stripped uint64
}

// counts is SpreadStats while they are counted.
type counts struct {
	packetsSent, packetsFailed                        atomic.Uint64
	packetsReceived, packetsUnknown, packetsMalformed atomic.Uint64
	published, told, sent, received, dropped          kindCounts
	duplicates, forwarded, stripped                   atomic.Uint64
}

func (c *counts) stats() SpreadStats {
	return SpreadStats{
		PacketsSent:      c.packetsSent.Load(),
		PacketsFailed:    c.packetsFailed.Load(),
		PacketsReceived:  c.packetsReceived.Load(),
		PacketsUnknown:   c.packetsUnknown.Load(),
		PacketsMalformed: c.packetsMalformed.Load(),
		Published:        c.published.load(),
		Told:             c.told.load(),
		Sent:             c.sent.load(),
		Received:         c.received.load(),
		Dropped:          c.dropped.load(),
		Duplicates:       c.duplicates.Load(),
		Forwarded:        c.forwarded.Load(),
		Stripped:         c.stripped.Load(),
	}
}

type kindCounts struct {
	records, freed, applied, other atomic.Uint64
}

func (c *kindCounts) add(k invalidation.NoticeKind) {
	switch k {
	case invalidation.NoticeRecord:
		c.records.Add(1)
	case invalidation.NoticeFreed:
		c.freed.Add(1)
	case invalidation.NoticeApplied:
		c.applied.Add(1)
	default:
		c.other.Add(1)
	}
}

func (c *kindCounts) load() ByKind {
	return ByKind{c.records.Load(), c.freed.Load(), c.applied.Load(), c.other.Load()}
}
