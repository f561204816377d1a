package soracache

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// Lease is the permission to compute one key, given to one caller in the whole
// cluster: eight bytes of chance, and eight that say who its holder is. The zero
// Lease is no lease.
type Lease [16]byte

// String returns the lease in hexadecimal.
func (l Lease) String() string { return hex.EncodeToString(l[:]) }

// Holder is the [Read.Holder] that the lease was given to; zero for nobody in
// particular.
func (l Lease) Holder() uint64 { return binary.BigEndian.Uint64(l[8:]) }

// HeldBy returns the lease with another holder.
func (l Lease) HeldBy(holder uint64) Lease {
	binary.BigEndian.PutUint64(l[8:], holder)
	return l
}

// ParseLease reads the 16 bytes of a lease; empty input is the zero lease, any
// other length wraps [ErrInvalid].
func ParseLease(b []byte) (Lease, error) {
	var l Lease
	if len(b) == 0 {
		return l, nil
	}
	if len(b) != len(l) {
		return l, fmt.Errorf("%w: malformed lease", ErrInvalid)
	}
	copy(l[:], b)
	return l, nil
}

// The bounds of a lease's duration.
const (
	// DefaultLease is how long a lease lasts unless asked otherwise.
	DefaultLease = 10 * time.Second
	// MaxLease is the longest that one grant or renewal lasts.
	MaxLease = 60 * time.Second
)

// LeaseState says what became of the wish for a lease.
type LeaseState uint8

// The states of a lease. Only one that is held by somebody else is ever waited
// for.
const (
	// LeaseNone: none was wanted, or none was called for.
	LeaseNone LeaseState = iota
	// LeaseGranted: the caller is the one to load.
	LeaseGranted
	// LeaseHeld: somebody else is known to load.
	LeaseHeld
	// LeaseRefused: none can be given, and [Refusal] says why. Waiting does not
	// help: whoever needs the value loads it and keeps nothing.
	LeaseRefused
)

// String returns none, granted, held or refused.
func (s LeaseState) String() string {
	return [...]string{"none", "granted", "held", "refused"}[min(s, LeaseRefused)]
}

// Refusal says why something cannot be given.
type Refusal uint8

// The refusals.
const (
	// RefusalNone: nothing was refused.
	RefusalNone Refusal = iota
	// RefusalStoreFull: the store has no room left.
	RefusalStoreFull
	// RefusalPassed is hit-for-miss: an earlier load left nothing a little while
	// ago, and somebody loads now. Nobody waits for it, since that is likely to
	// leave nothing again.
	RefusalPassed
	// RefusalSuperseded: the loads that the reader waited for lost to
	// invalidations, again and again.
	RefusalSuperseded
	// RefusalBehind: the store does not reflect the read's least stamp yet, so
	// what is loaded under a lease of its could be older.
	RefusalBehind
	// RefusalLimit: a limit of the node has been reached.
	RefusalLimit
)

// String returns why, in words.
func (r Refusal) String() string {
	return [...]string{
		"not refused", "the store is full", "an earlier load left nothing", "superseded by invalidations",
		"the store is behind", "a limit is reached", "another reason",
	}[min(r, RefusalLimit+1)]
}

// LoadOutcome says what became of a load that leaves nothing.
type LoadOutcome uint8

// The outcomes of loads that leave nothing.
const (
	// LoadHandedBack: nobody has loaded. Nothing is remembered.
	LoadHandedBack LoadOutcome = iota
	// LoadFailed: the loader failed.
	LoadFailed
	// LoadNotStorable: what was loaded may not be stored.
	LoadNotStorable
)

// String returns handed back, failed or not storable.
func (o LoadOutcome) String() string {
	return [...]string{"handed back", "failed", "not storable"}[min(o, LoadNotStorable)]
}

// Status is what became of a read.
type Status uint8

// The outcomes of a read.
const (
	// StatusMiss: nothing live. With a lease, the caller is the one to compute
	// it; without, [ReadResult.LeaseState] says why.
	StatusMiss Status = iota + 1
	// StatusHit: live and fresh. With a lease, the caller is to refresh it.
	StatusHit
	// StatusStale: live but past its TTL, or not confirmed and accepted as such.
	// With a lease, the caller is to refresh it.
	StatusStale
)

// Tier says where a value was found.
type Tier uint8

// The tiers, nearest first.
const (
	TierNone Tier = iota
	TierNear
	TierL1
	TierL2
)

// String returns none, near, l1 or l2.
func (t Tier) String() string {
	return [...]string{"none", "near", "l1", "l2"}[min(t, TierL2)]
}

// Read asks for one key.
type Read struct {
	Key string
	// Schema is the schema to read in. Empty is the default one.
	Schema string
	// Lease asks for the lease if nothing live is found, or for a refresh
	// lease beside a live entry that is stale or fresh for less than
	// RefreshWithin.
	Lease bool
	// LeaseFor is how long the lease is to last; zero means [DefaultLease].
	LeaseFor time.Duration
	// Wait is how long to park while somebody else holds the lease. Whoever
	// parked reads again under the rule: it is never handed a value that was
	// begun before it came.
	Wait time.Duration
	// RefreshWithin: see Lease.
	RefreshWithin time.Duration
	// Holder is a random number of the process that asks, by which a client
	// whose loads fail is told from the others; zero for nobody in particular.
	Holder uint64
	// MinStamp, if there is one, is the least that this answer must reflect, in
	// place of the request's.
	MinStamp Stamps
}

// GetRequest is a batch of reads in one namespace.
type GetRequest struct {
	Namespace string
	Reads     []Read
	// MinStamp is the least that answers must reflect: a local tier that has
	// not applied it is passed over, and a store whose head is behind it gives
	// a miss without a lease ([RefusalBehind]). It asks nothing of reads that have
	// one of their own, nor where it lies more than [MaxAhead] ahead of what the
	// store can have recorded: nobody can have seen that.
	MinStamp Stamps
	// AcceptUnconfirmed lets a node that cannot confirm its position serve
	// what it has, flagged as stale, rather than fail.
	AcceptUnconfirmed bool
}

// MaxAhead is how far a stamp may lie ahead of what a store has recorded, and of
// its clock, and still be believed to come from there: a store that has lost what
// it recorded last may also have the clock of another machine now.
const MaxAhead = 10 * time.Second

// ReadResult answers one [Read].
type ReadResult struct {
	Status Status
	Entry  Entry
	// FreshFor and KeepFor are what is left until the soft and the hard
	// expiry. FreshFor is zero or negative when the entry is past its TTL.
	FreshFor, KeepFor time.Duration
	// Stamp is what the answer is proven to reflect; on a miss with a lease it
	// is the lease's.
	Stamp Stamps
	// Lease, if not zero, makes the caller the one to compute the key.
	Lease Lease
	// LeaseState is what became of the wish for a lease, and Refusal why it was
	// refused. Beside a live entry, a lease that is held is that of a refresh.
	LeaseState LeaseState
	Refusal    Refusal
	// LeaseFor is how long the lease lasts: the caller's, or, while it is held,
	// the other's, unless that is renewed or ends before.
	LeaseFor time.Duration
	Tier     Tier
	// Age is how long ago, when the answer was made, it was confirmed that Stamp
	// is all that the ledger held. What a store answers is of age zero.
	Age time.Duration
	// Unconfirmed marks an answer that [GetRequest.AcceptUnconfirmed] allowed.
	Unconfirmed bool
	// Partitions is how many the namespace has; zero if that is not known.
	Partitions uint16
	// Err is set when this key failed; the other keys of the batch stand.
	Err error
}

// WriteOp is a kind of [Write].
type WriteOp uint8

// The kinds of writes.
const (
	// OpFill completes a lease with a value. It is stored only if the lease is
	// still held and nothing after its stamp names the key, a tag or everything.
	OpFill WriteOp = iota + 1
	// OpPut writes without a lease and invalidates the key in the same step.
	OpPut
	// OpRenew extends a lease.
	OpRenew
	// OpRelease hands a lease back without a value.
	OpRelease
)

// Write is one fill, put, renewal or release.
type Write struct {
	Op       WriteOp
	Key      string
	Schema   string        // empty: the default one
	Lease    Lease         // fill, renew, release
	LeaseFor time.Duration // renew; zero means [DefaultLease]
	Outcome  LoadOutcome   // release: what became of the load
	Entry    Entry         // fill, put
	Lifetime Lifetime      // fill, put
}

// WriteRequest is a batch of writes in one namespace.
type WriteRequest struct {
	Namespace string
	Writes    []Write
}

// Reason says why a write was not stored.
type Reason uint8

// The reasons.
const (
	// ReasonNone: it was stored (or renewed, or released).
	ReasonNone Reason = iota
	// ReasonSuperseded: an invalidation came after the lease was given.
	ReasonSuperseded
	// ReasonLeaseLost: the lease ran out, was taken over, or was ended by a
	// put or an invalidation of the key.
	ReasonLeaseLost
)

// String returns stored, superseded or lease lost.
func (r Reason) String() string {
	return [...]string{"stored", "superseded", "lease lost"}[min(r, ReasonLeaseLost)]
}

// WriteResult answers one [Write].
type WriteResult struct {
	// Stored is true if the write took effect.
	Stored bool
	Reason Reason
	// SupersededBy is the record that won, when the reason is
	// [ReasonSuperseded] and it is known.
	SupersededBy Record
	Stamp        Stamps
	LeaseFor     time.Duration // renew
	Err          error
}

// InvalidateRequest names what is to become unservable.
type InvalidateRequest struct {
	Namespace string
	Targets   []Target
	// Acknowledge asks that success be reported only once no node can serve
	// the old values any more. If the context ends before, the error is an
	// [*IncompleteError].
	Acknowledge bool
	// Settle is how far the source may lag behind what was committed: what is
	// computed within that time after the invalidation is answered and not kept.
	// It is at most [MaxSettle].
	Settle time.Duration
}

// MaxSettle is the longest time that an invalidation takes to settle.
const MaxSettle = time.Minute

// InvalidateResult answers an [InvalidateRequest].
type InvalidateResult struct {
	// Stamp holds the position of the record in every partition that it
	// touched.
	Stamp Stamps
	// Stragglers names the nodes that did not acknowledge an invalidation which
	// asked for it, and were waited out: their bound has passed, so they serve
	// nothing from memory until they have caught up. Empty is the normal case.
	Stragglers []string
}

// HeadResult says how far a backend has followed a namespace.
type HeadResult struct {
	// Stamp names every partition that could be confirmed: those are left out
	// that a part of the store holds which does not answer.
	Stamp Stamps
	// Age is how long ago the oldest of them was confirmed.
	Age time.Duration
}

// WatchRequest asks for what is recorded in one namespace from now on.
type WatchRequest struct {
	Namespace string
	// From is how far the watcher has followed already. Where the backend can
	// tell what came after, the watch goes on from there; elsewhere it begins
	// with a reset.
	From Stamps
}

// WatchItem is one step of a watch, of one partition. Steps come in order, and
// each is whole: a watcher that has taken in all of them up to this one has been
// told everything that was recorded up to Complete.
type WatchItem struct {
	Partition uint16
	// Partitions is how many there are in the namespace.
	Partitions uint16
	Epoch      Epoch
	// Complete is how far the watcher has been told everything.
	Complete Position
	// Records names what was recorded since the item before. Some may lie
	// beyond Complete already: those came ahead of one that is missing still.
	Records []Record
	// Reset means that what came before Complete is not known: nothing that was
	// proven before it may be served any more. The first item of a partition is
	// a reset unless the watch goes on from where the watcher was. A reset has no
	// records.
	Reset bool
}

// Backend is a cache as its user sees it: all of it batched, all of it safe
// for concurrent use. A node implements it, and so does the RPC client, so an
// application can hold either.
//
// The errors that methods return concern the whole request; they wrap one of
// this package's sentinels.
type Backend interface {
	// Get answers every read, in order.
	Get(ctx context.Context, req GetRequest) ([]ReadResult, error)
	// Write answers every write, in order.
	Write(ctx context.Context, req WriteRequest) ([]WriteResult, error)
	// Invalidate records the targets. It returned success: they are recorded.
	// It failed: they may or may not be; repeating it is safe.
	Invalidate(ctx context.Context, req InvalidateRequest) (InvalidateResult, error)
	// Head tells the position that the backend has confirmed.
	Head(ctx context.Context, namespace string) (HeadResult, error)
	// Watch delivers what is recorded, one call of deliver after the other, with
	// at least one item of every partition at the start. It returns when the
	// context ends, when deliver returns an error, or when the backend cannot go
	// on: it is then to be called again, with what is followed by then.
	Watch(ctx context.Context, req WatchRequest, deliver func([]WatchItem) error) error
}
