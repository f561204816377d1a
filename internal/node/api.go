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
	// Reclaimed entries, and errors of the store.
	Reclaimed, StoreErrors uint64
	L1                     l1.Stats
	L2                     l2.Counters
}

// Observer is told of what a node does, for metrics. Every field may be nil.
// It is called inline and must return at once.
type Observer struct {
	// StoreCall reports one round trip to the store: its kind (read, write,
	// invalidate, since) and how long it took.
	StoreCall func(kind string, took time.Duration, err error)
	// WaitEnd reports how long a reader was parked behind another's lease.
	WaitEnd func(took time.Duration)
}
