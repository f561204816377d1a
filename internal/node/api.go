package node

import (
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l1"
	"github.com/soracache/soracache/l2"
)

// Explanation tells why a key is a hit, a miss or stale on this node.
type Explanation struct {
	// Status and Tier are what a Get would say now; Reason says why, in words.
	Status soracache.Status
	Tier   soracache.Tier
	Reason string
	// Partition and Ledger are the key's partition and what its ledger says.
	Partition int
	Ledger    soracache.Stamp
	// Applied is how far this node has followed the ledger, and ConfirmedAgo
	// how long ago that was confirmed (negative: it is not).
	Applied      soracache.Position
	ConfirmedAgo time.Duration
	L1, L2       Copy
	// Leased tells whether somebody holds the lease, and for how long.
	Leased   bool
	LeaseFor time.Duration
}

// Copy is what one tier holds under a key.
type Copy struct {
	Present, Live bool
	// Reason says in words why the copy is dead or unusable.
	Reason string
	// KilledBy is the record that killed it, where it is known.
	KilledBy          soracache.Record
	Stamp             soracache.Stamp
	Tags              []string
	FreshFor, KeepFor time.Duration
	ValueBytes        int
	Encoding          string
	Kind              soracache.Kind
}

// Stats are a node's running totals since its start.
type Stats struct {
	// Reads by outcome. A hit counts for the tier that it came from.
	HitsL1, HitsL2, Stale, Misses, Unconfirmed, ReadErrors uint64
	// Leases given out, waits parked behind another's lease, and waits that
	// ended without an answer.
	Leases, Waits, WaitTimeouts uint64
	// Fills by outcome, and puts.
	FillsStored, FillsSuperseded, FillsLeaseLost, Puts uint64
	// Renewals, releases and invalidations, with the targets they named.
	Renewals, Releases, Invalidations, InvalidatedTargets uint64
	// Flights are the store reads sent, FlightKeys the keys that travelled in
	// them, and FlightJoins the readers that shared one.
	Flights, FlightKeys, FlightJoins uint64
	// Following the ledger: confirmations, resets (new epoch or lag), and how
	// many partitions are active.
	Confirmations, Resets uint64
	Partitions            int
	// Namespaces that were forgotten because nobody used them, or had to make room
	// for others; and requests that were refused because all partitions that may be
	// followed were in use.
	Forgotten, Crowded uint64
	// Records of other nodes that arrived as notices, and those that the ledger
	// had to be asked for; notices that showed that others are missing; and
	// questions sent to catch up.
	RecordsGossip, RecordsRepaired, Gaps, Pulls uint64
	// Watchers now; the items that watchers were told, and how many of them were
	// resets; and how often more waited for a watcher of a partition than may.
	Watchers                                int
	WatchItems, WatchResets, WatchOverflows uint64
	// Invalidations that every node acknowledged, and nodes that were waited
	// out because they did not.
	Acked, Stragglers uint64
	// Hits in L1 that were checked against the store afterwards, and by how
	// stale they turned out to be: see [StalenessBounds].
	StalenessChecked uint64
	StalenessBuckets [7]uint64
	// Refused is how many namespaces are refused now, because they have another
	// number of partitions than this node was told.
	Refused int
	// Reclaimed entries, and errors of the store.
	Reclaimed, StoreErrors uint64
	// RefusedForRoom are leases, fills and puts that the store refused because it
	// has no room left, and StoreFull tells whether it has none now.
	RefusedForRoom uint64
	StoreFull      bool
	L1             l1.Stats
	L2             l2.Counters
}

// Observer is told of what a node does, for metrics. Every field may be nil.
// It is called inline and must return at once.
type Observer struct {
	// StoreCall reports one round trip to the store: its kind (read, write,
	// invalidate, since) and how long it took.
	StoreCall func(kind string, took time.Duration, err error)
	// WaitEnd reports how long a reader was parked behind another's lease.
	WaitEnd func(took time.Duration)
	// Recorded reports that a record was taken in: from here on the node serves
	// nothing from memory that it killed. A record may be reported again.
	Recorded func(namespace string, partition int, r soracache.Record, from Source)
	// Propagated reports how long ago a record that a peer sent was appended,
	// by the two machines' clocks.
	Propagated func(took time.Duration)
}

// Source says where a record came from.
type Source uint8

// The sources of records.
const (
	FromSelf   Source = iota // this node appended it
	FromPeer                 // the node that did sent a notice
	FromLedger               // the store was asked
)

// String returns self, peer or ledger.
func (s Source) String() string { return [...]string{"self", "peer", "ledger"}[min(s, FromLedger)] }

// PartitionState is how far a node has followed one ledger.
type PartitionState struct {
	Namespace string
	Partition int
	Epoch     soracache.Epoch
	// Applied is up to where every record is known, and Head the highest
	// position heard of. Positions are microseconds, so their difference says
	// how far behind the node is.
	Applied, Head soracache.Position
	// ConfirmedAgo is how long ago that was confirmed (negative: it is not).
	ConfirmedAgo time.Duration
	// UsedAgo is about how long ago somebody used the partition, and Active
	// whether that is so lately that the node follows it.
	UsedAgo time.Duration
	Active  bool
	// Eager tells whether it is confirmed without being asked for: it is watched, or
	// was used within the last few bounds. The first read of another goes to the store.
	Eager bool
}
