// Package l2 is the second tier as the node sees it: the [Store] interface,
// and the bytes of a stored entry, which every engine shares.
//
// A store owns one ledger for each partition of each namespace, beside the
// entries, leases and tag sets of that partition. Each operation is one atomic
// step in the store and one round trip, and the store judges its own entries:
// it returns only what is live at the head that it reports.
//
// The package knows no engine. l2/redis and l2/embedded implement Store, and so
// does the model in l2/l2model; l2/l2test holds the suite on which all of them must
// agree. docs/stores.md says what a store of one's own has to do.
package l2

import (
	"context"
	"fmt"
	"time"

	"github.com/soracache/soracache"
)

// Partition names one ledger: a numbered part of a namespace. Count is how many
// parts the caller believes that the namespace has; a store refuses it if the
// namespace has another number ([ErrPartitions]).
type Partition struct {
	Namespace string
	Index     uint16
	Count     uint16
}

// String returns namespace/index.
func (p Partition) String() string { return fmt.Sprintf("%s/%d", p.Namespace, p.Index) }

// Store is one second tier. It is safe for concurrent use.
//
// Every method takes a batch and returns one answer for each request, in
// order; requests of different partitions travel together (one round trip).
// Each request shows what its caller has applied (Since), from which the
// ledger tells whether the two of them share a history:
//
//   - a zero Stamp knows nothing and is shown nothing;
//   - the ledger's epoch and a position that it issued: the delta follows;
//   - the ledger's epoch, but a position beyond its head, or within the
//     remembered span and never issued: another history, so the ledger takes
//     a new epoch first;
//   - an epoch that the ledger has left, or was shown when it took a new one:
//     a reset;
//   - an epoch unknown to it: the ledger takes a new epoch first;
//   - a position older than the ledger remembers: a reset.
//
// A lost, damaged or regressed ledger takes a new epoch before it answers.
//
// A request may also register its caller (Register): whoever keeps entries of
// its own and may take the answer as proof that they are still live. That is
// part of the same atomic step, so that no append can come between: either the
// answer reflects the append, or the append finds the caller registered.
//
// Targets of an invalidation can settle ([InvalidateRequest.Settle]): the ledger
// remembers until when, on the store's clock, and the later time if it is told
// twice. Until then every fill that names one of them (its key, one of its tags,
// or everything) is superseded. When the time has come, whatever step comes
// first begins by recording the target once more, like any invalidation, so that
// no lease that was given before can be filled after; an answer's delta shows
// that record like others. A put is stored while its key or a tag settles, and
// dead by that record. A new epoch leaves what settles as it is, for the source
// may still lag; so does the loss of the ledger alone. If the store finds that
// it has forgotten what settled, everything settles until the last of it would
// have. If all of a partition was lost, that is forgotten too.
//
// Whoever holds a lease may end it with an outcome: the load has left nothing
// ([WriteRequest.Outcome]). The store remembers that under the key for a while
// (Remember, at most [MaxRemember]; zero: not at all), together with whose lease
// it was. Until then, or until something is stored under the key,
//
//   - whoever finds no live entry and the lease held is refused it
//     ([soracache.RefusalPassed]) instead of being told to wait. A lease that is
//     free is granted as always;
//   - the lease of the one whose load left nothing is taken over by whoever else
//     asks for it: one process that always fails does not keep a key from the
//     others. Nobody else's lease is.
//
// A key may have an entry, a lease and an outcome in each of several schemas: they
// stand under a name ([soracache.Name]), which for the default schema is the key
// itself. Wherever a request says under which key something stands, it is that
// name. Everything else goes by the key: partitions, records, what settles, and
// what listings tell. So a record of a key names it in every schema: the step that
// appends it deletes all of the key's entries and leases, whichever schema they are
// of, and no loss of what tells which there are brings one back. At most
// [soracache.MaxSchemas] schemas beside the default one have an entry or a lease
// under one key: with one more, the one goes that ends first.
//
// A store without room refuses leases ([soracache.RefusalStoreFull]), fills and
// puts ([soracache.ErrStoreFull]); such a fill ends its lease, as a release does
// with [soracache.LoadNotStorable]. Everything else goes on: reads, renewals,
// releases, invalidations.
//
// The number of partitions belongs to the namespace. Whoever is the first to ask
// for it ([Store.Partitions]), or to use one of its ledgers, gives it; a ledger
// that is not there is begun only for one whose count that is, looked up in that
// very step. It is kept through new epochs. If it is lost, it is as many as the ledgers
// say that are there; a caller's word counts only where there are none. Once nobody
// has asked for [PartitionsExpiry], and no ledger is left, it is forgotten.
//
// A ledger that a later version of this package has written, in a form that is
// not known here, is left as it is: [LaterError], never a new epoch. So nodes of
// two versions can run over one store without making each other begin anew.
//
// Err in an answer concerns that request alone. It wraps
// soracache.ErrUnavailable when the engine could not answer (the operation may
// or may not have happened), [ErrPartitions] among them, soracache.ErrStoreFull
// when it has no room for what was to be stored, and soracache.ErrInvalid when it
// can never succeed.
type Store interface {
	// Read returns for each key the live entry, or a lease, and the delta.
	Read(ctx context.Context, reqs []ReadRequest) []ReadAnswer
	// Write performs fills, puts, renewals and releases.
	Write(ctx context.Context, reqs []WriteRequest) []WriteAnswer
	// Invalidate appends one record a request and deletes the entries and
	// leases of the keys that it names, in every schema.
	Invalidate(ctx context.Context, reqs []InvalidateRequest) []InvalidateAnswer
	// Since returns the delta alone. It is refused by a replica.
	Since(ctx context.Context, reqs []SinceRequest) []SinceAnswer

	// Explain returns what the store has under a name, dead or alive.
	Explain(ctx context.Context, partition Partition, name string) (Explanation, error)
	// ListKeys returns up to about limit keys whose live entries carry the tag, in
	// whichever schema,
	// from where the cursor (empty at first) says, and the next cursor (empty
	// at the end). A key present during the whole listing is listed; one may be
	// listed twice.
	ListKeys(ctx context.Context, partition Partition, tag, cursor string, limit int) (keys []string, next string, err error)
	// Reclaim does one small step of deleting what is dead, and returns where
	// to go on (empty: done) and how many entries it deleted. With a tag it
	// walks the keys of that tag; with an empty tag, the whole partition.
	Reclaim(ctx context.Context, partition Partition, tag, cursor string) (next string, deleted int, err error)
	// Sweep does one small step of the housekeeping that is due by time, of
	// whichever partitions: what has expired goes, and records, history and
	// followers that nobody needs any more. A ledger ends, all of it in one step,
	// once nobody can need it: some minutes after its last use, and not before all
	// that was stored in it has expired, all has settled, and nobody is registered.
	// Whoever comes back to it finds a new epoch. Sweep reports whether more is due.
	Sweep(ctx context.Context) (more bool, err error)

	// Part names what of the store holds a partition now, so far as that is known
	// without asking: partitions of one part are reached, and fail, together. A
	// store that is one has a single part, the empty name.
	Part(partition Partition) string

	// Partitions tells how many partitions namespaces have, and gives those their
	// number that have none. It is refused by a replica.
	Partitions(ctx context.Context, reqs []PartitionsRequest) []PartitionsAnswer
	// Repartition makes the number of partitions of a namespace another, as far as
	// that can be done now, and returns how long to wait before it is to be called
	// again; nothing is left to do when it returns zero.
	//
	// First every ledger of the namespace is put an end to, and from then on every
	// step on any is refused with [ErrPartitions], whatever number its caller
	// believes in. After [ChangeTakes], when nobody serves any more what it kept
	// of them, the number is another, and ledgers are begun anew. So all entries
	// are dead. It can be called any number of times, by anybody; who wants another
	// number begins the change anew. One that is interrupted leaves
	// the namespace refused to all until it is repeated. (Where the store serves
	// one process, and that ends, the old number is in force again.)
	Repartition(ctx context.Context, namespace string, count int) (wait time.Duration, err error)

	// Ping reports whether the store can answer: one of several parts is enough.
	Ping(ctx context.Context) error
	// Counters returns the store's running totals.
	Counters() Counters
	// Close releases what the store holds. No method may be called after it.
	Close() error
}

// LaterError is what an engine answers about a partition whose ledger is there,
// in a form of a later version. It wraps [soracache.ErrUnavailable].
func LaterError(p Partition) error {
	return fmt.Errorf("%w: the ledger of %s is of a later version than this node", soracache.ErrUnavailable, p)
}

// Registration is a follower of a ledger: a node that may serve entries of its
// own memory, for Bound after it asked. The zero Registration is nobody.
type Registration struct {
	// Name tells the follower from all others, and its present life from
	// former ones: at most [MaxName] bytes. Empty means that nobody registers.
	Name string
	// Bound is the longest that it trusts its memory without asking again, at
	// most [MaxBound].
	Bound time.Duration
}

// MaxName is how long, in bytes, the name of a follower may be.
const MaxName = 255

// MaxBound is the longest bound that a follower may have.
const MaxBound = time.Minute

// RegistrationSlack is how long at most a registration stands beyond its bound.
// A request renews it once less than half of the slack is left, so that few
// requests write, and so that a store's clock may jump ahead by half the slack
// without anybody being forgotten who still serves.
const RegistrationSlack = 10 * time.Second

// MaxKeep is the longest that an entry can be kept. One that would be kept for
// longer is dead.
const MaxKeep = 366 * 24 * time.Hour

// ClockSlack is how far ahead of a store's clock the time may lie at which an entry
// was written. An entry from further ahead was written before the clock was set
// back, and is dead: nobody can tell how old it is. The clock of a replica that
// takes over, and one that is put right in passing, differ by less than this, and
// then what was written last is not to be loaded again. What an entry's life can
// become longer by for it is as much.
const ClockSlack = time.Second

// LedgerQuiet is for how long at least nothing was recorded in a ledger that ends.
const LedgerQuiet = 2 * time.Minute

// Validate reports what is wrong with a registration; nothing is with that of
// nobody. The error wraps [soracache.ErrInvalid].
func (r Registration) Validate() error {
	switch {
	case r.Name == "":
		return nil
	case len(r.Name) > MaxName:
		return fmt.Errorf("%w: a follower's name of %d bytes, the longest is %d", soracache.ErrInvalid, len(r.Name), MaxName)
	case r.Bound <= 0 || r.Bound > MaxBound:
		return fmt.Errorf("%w: a follower's bound of %s, not within %s", soracache.ErrInvalid, r.Bound, MaxBound)
	}
	return nil
}

// ReadRequest reads keys of one partition.
type ReadRequest struct {
	Partition Partition
	Since     soracache.Stamp
	Register  Registration
	Keys      []ReadKey
	// Room, if not nil, is asked before an entry is read that is longer than
	// [InlineBytes], or that comes after [InlineMost] of others: for so many
	// bytes. If it says no, the entry is left out: see [KeyAnswer.Cut]. It may be
	// asked more than once for an entry, by one goroutine at a time.
	Room func(bytes int) bool
}

// What a read of many keys may bring without asking for room: entries of up to
// so many bytes, and so many bytes of those together. Entries of up to
// SmallBytes are always read.
const (
	SmallBytes  = 4 << 10
	InlineBytes = 128 << 10
	InlineMost  = 4 << 20
)

// ReadKey is one key of a [ReadRequest].
type ReadKey struct {
	Key string // or the name of a schema's entry under it
	// Nonce becomes the lease, if one is wanted and free; zero asks for none.
	// Asking again with the nonce that holds the lease is granted again, with
	// the lease's own stamp.
	Nonce soracache.Lease
	// LeaseFor is how long the lease is to last, at most [soracache.MaxLease]. A
	// lease that would last for longer, because the store's clock was set back,
	// keeps nobody from the key; whoever has its nonce may still fill.
	LeaseFor time.Duration
	// RefreshWithin wants the lease also beside an entry that is live but
	// fresh for no longer than this. (A live entry that is stale counts as
	// fresh for no time at all.)
	RefreshWithin time.Duration
}

// ReadAnswer answers a [ReadRequest].
type ReadAnswer struct {
	Delta soracache.Delta
	Keys  []KeyAnswer
	// Clock is the store's clock when it answered, on which positions are given
	// out.
	Clock time.Time
	Err   error
}

// KeyAnswer is what a read found under one key.
type KeyAnswer struct {
	// Cut: there was a live entry, and no room to read it. Nothing else is told
	// of it but its lease.
	Cut bool
	// Found tells whether there is a live entry, of which Entry, Stamp (its
	// own, not the answer's head), FreshFor, KeepFor and L1 (the cap for a
	// node's memory; zero for none) are then the particulars.
	Found    bool
	Entry    soracache.Entry
	Stamp    soracache.Stamp
	FreshFor time.Duration // zero or negative: past its TTL
	KeepFor  time.Duration
	L1       time.Duration

	// Lease is what became of the wish for a lease, and Refusal why it was refused.
	// A lease that is granted while an outcome is remembered goes with
	// [soracache.RefusalPassed]: that is what others are told who asked with the
	// same nonce.
	Lease      soracache.LeaseState
	Refusal    soracache.Refusal
	LeaseStamp soracache.Stamp // granted: how much of the ledger a value loaded under it reflects
	LeaseFor   time.Duration   // granted or held: how long it still lasts
}

// MaxRemember is the longest that an outcome is remembered.
const MaxRemember = time.Minute

// WriteRequest is one write. Entry and Lifetime serve fill and put, Nonce
// serves fill, renew and release, LeaseFor serves renew, Outcome serves release,
// Remember serves release and fill.
type WriteRequest struct {
	Partition Partition
	Since     soracache.Stamp
	Register  Registration
	Op        soracache.WriteOp
	Key       string // or the name of a schema's entry under it
	Nonce     soracache.Lease
	LeaseFor  time.Duration
	Outcome   soracache.LoadOutcome
	Remember  time.Duration
	Entry     soracache.Entry
	Lifetime  soracache.Lifetime
}

// WriteAnswer answers a [WriteRequest].
type WriteAnswer struct {
	Delta  soracache.Delta
	Reason soracache.Reason // ReasonNone: done
	// Stamp is the stored entry's own, or the renewed lease's.
	Stamp soracache.Stamp
	// SupersededBy is the record that a fill lost to, when the reason is
	// superseded and the record is still remembered. If it lost because a target
	// settles, it names that target, at the position of its latest record, which
	// may be before the lease's (zero: not remembered in this epoch).
	SupersededBy soracache.Record
	// Record is what a put appended.
	Record soracache.Record
	Err    error
}

// InvalidateRequest appends one record to a partition's ledger.
type InvalidateRequest struct {
	Partition Partition
	Since     soracache.Stamp
	Register  Registration
	Targets   []soracache.Target
	// Followers asks who is registered.
	Followers bool
	// Settle keeps what is computed within that time after the record from being
	// stored: until then fills that its targets name are superseded, and then
	// the ledger by itself records the targets once more, in the first step that
	// comes. It is at most [soracache.MaxSettle]. See [Store].
	Settle time.Duration
}

// CheckSettle reports whether an invalidation can settle for so long. The error
// wraps [soracache.ErrInvalid].
func CheckSettle(d time.Duration) error {
	if d < 0 || d > soracache.MaxSettle {
		return fmt.Errorf("%w: settle of %s, not within 0 and %s", soracache.ErrInvalid, d, soracache.MaxSettle)
	}
	return nil
}

// MaxSettling is how many targets of one partition can settle at a time. Where
// there would be more, everything settles instead, until the last of them would
// have.
const MaxSettling = 10_000

// InvalidateAnswer answers an [InvalidateRequest].
type InvalidateAnswer struct {
	Delta  soracache.Delta
	Record soracache.Record
	// Registered holds, if asked for, those who were registered when the record
	// was appended, the caller included; in no order. Some who registered just
	// after may be among them.
	Registered []Registration
	// RegisteredFor is for how long registrations have been kept without a
	// loss. Whoever asked before that may be missing from Registered: all that
	// is known of it is that it is not confirmed any more once its bound has
	// passed.
	RegisteredFor time.Duration
	Err           error
}

// SinceRequest asks for the delta alone.
type SinceRequest struct {
	Partition Partition
	Since     soracache.Stamp
	Register  Registration
	// Guest means that Since was shown by somebody who is not trusted: a client.
	// What the ledger cannot have issued is then answered by a reset, and is
	// neither remembered nor a reason for a new epoch; and a guest does not
	// register. Where there is no ledger, or a damaged one, a guest is answered
	// [soracache.ErrUnavailable]: to begin one is for those who are trusted.
	Guest bool
}

// SinceAnswer answers a [SinceRequest].
type SinceAnswer struct {
	Delta soracache.Delta
	// Clock is the store's clock when it answered, on which positions are given
	// out. For measurement only.
	Clock time.Time
	Err   error
}

// Explanation is what a store knows about one key.
type Explanation struct {
	// Ledger is the ledger's epoch and head.
	Ledger soracache.Stamp
	// Stored tells whether there are bytes under the key, and Readable whether
	// they are an entry of that key. The fields below hold if it is readable.
	Stored, Readable bool
	Live             bool
	// Entry is without its value, of which ValueBytes is the length. An entry of more
	// than [InlineBytes] is judged by its beginning: that its value is not damaged,
	// only a read finds.
	Entry      soracache.Entry
	ValueBytes int
	Stamp      soracache.Stamp
	FreshFor   time.Duration
	KeepFor    time.Duration
	// Reason says in words why the entry is dead, or why what is loaded now is not
	// stored because the key settles (empty when live), and
	// KilledBy names the record that killed it, if one did. Because entries of
	// keys are deleted when these are invalidated, KilledBy names the latest
	// record of the key, or of everything, also if nothing is stored; what was
	// stored after that record has then expired or was evicted.
	Reason   string
	KilledBy soracache.Record
	// Leased tells whether somebody holds the lease, for how long, and what it
	// reflects.
	Leased     bool
	LeaseFor   time.Duration
	LeaseStamp soracache.Stamp
}

// Read reads what is stored under a name: the bytes, or the first [InlineBytes] or
// more of so many. It returns the entry's head, and sets what that and the names
// say of it, if it is readable.
func (x *Explanation) Read(b []byte, size int, name string) EntryHead {
	decode := DecodeEntry
	if len(b) < size {
		decode = DecodeBeginning
	}
	head, e, _, err := decode(b, name)
	if err != nil {
		return EntryHead{}
	}
	x.Readable, x.Stamp, x.Entry = true, head.Stamp, e
	x.Entry.Value, x.ValueBytes = nil, len(e.Value)+size-len(b)
	return head
}

// Settling is the reason that [Explanation] gives for a key under which nothing
// is stored while a target that names it settles.
func Settling(t soracache.Target) string {
	return t.String() + " was invalidated and settles: what is loaded now is not kept"
}

// Counters are a store's running totals since it was opened.
type Counters struct {
	RoundTrips uint64 // dependent round trips (embedded: transactions)
	Corrupt    uint64 // entries that were damaged or belonged to another key, each read as a miss
	Epochs     uint64 // new epochs that this store's calls caused
	Evicted    uint64 // live entries that had to go for want of space (embedded)
	Bytes      uint64 // bytes in use, where the engine knows (embedded)
}

// The retention that every engine keeps by default.
const (
	// MaxDelta is how many targets a delta holds before it is cut off. (A
	// single record with more targets than this is still delivered whole.)
	MaxDelta = 64
	// DefaultTagRecords is the cap on a partition's tag records.
	DefaultTagRecords = 200_000
	// DefaultKeyRecords is the cap on a partition's key records.
	DefaultKeyRecords = 65_536
	// DefaultRetention is how long key records and the history of issued
	// positions are kept.
	DefaultRetention = 2 * time.Minute
)

// Retention bounds what a ledger remembers. Tests make it small.
type Retention struct {
	TagRecords int           // cap; past it the oldest go and the tag floor rises
	KeyRecords int           // cap; past it the oldest go and the key floor rises
	Age        time.Duration // of key records and of the history
}

// NewRetention returns the defaults above.
func NewRetention() Retention {
	return Retention{TagRecords: DefaultTagRecords, KeyRecords: DefaultKeyRecords, Age: DefaultRetention}
}
