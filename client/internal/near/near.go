// Package near keeps decoded values in an application's own memory, under the same rule
// as every other tier. It follows the ledgers by one watch of the service, and is
// confirmed by whatever the service answers.
package near

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l1"
)

// Owner is what a near cache belongs to.
type Owner interface {
	// Watch and Head are those of the service, for the owner's namespace.
	Watch(ctx context.Context, from soracache.Stamps, deliver func([]soracache.WatchItem) error) error
	Head(ctx context.Context) (soracache.HeadResult, error)
	// Touch reads a key, for what the answer tells of its partition.
	Touch(ctx context.Context, key string)
	// Observe is told the stamps that a watch has shown to whoever was where it began,
	// and Seen returns what the owner has seen.
	Observe(shown, seen soracache.Stamps)
	Seen() soracache.Stamps
	// Begin runs something until the owner is closed.
	Begin(do func(context.Context))
	// Restarted is told that what was kept is lost, or a part of it.
	Restarted()
	// Refuses tells whether an error is one that asking again would not change.
	Refuses(err error) bool
}

// Config configures a near cache. Every field but Ahead has to be set.
type Config struct {
	// MaxBytes or MaxEntries bounds what is kept; the other one is zero.
	MaxBytes, MaxEntries int64
	// Bound is the longest that the cache trusts itself without confirmation.
	Bound time.Duration
	// Ahead is how far its clock is ahead of the real one; nil: not at all.
	Ahead func() time.Duration
	// Random returns numbers from 0 to less than 1, and Suspended for how long the
	// machine has been suspended so far.
	Random    func() float64
	Suspended func() time.Duration
}

// Cache keeps decoded values. What it serves is live as far as the ledger was followed,
// and it was confirmed less than the bound ago that nothing is missing. What is recorded
// comes by one watch for the whole owner.
//
// A nil Cache keeps nothing.
type Cache struct {
	owner     Owner
	bound     time.Duration
	start     time.Time
	ahead     func() time.Duration
	random    func() float64
	suspended func() time.Duration
	values    *l1.Cache[value]
	marks     *invalidation.Marks
	seed      maphash.Seed

	begin   sync.Once    // starts the watch with the first use
	lastUse atomic.Int64 // on this clock, in nanoseconds

	// ledgers has one follower for each partition. It is nil until the watch has
	// told how many there are, and changes only if it tells another number, or that
	// a ledger has gone back.
	ledgers atomic.Pointer[[]*ledger]

	// inflight holds, by key, what is on its way that may be kept.
	inflight [64]struct {
		sync.Mutex
		of map[l1.Key][]*Inflight
	}

	mu sync.Mutex
	// stopWatching ends the present watch; guarded by mu.
	stopWatching context.CancelFunc
}

// ledger is one partition as a near cache follows it.
type ledger struct {
	partition uint16
	follower  *invalidation.Follower
	// over means that the partition is followed anew, or is none any more: nothing is
	// served that was proven here.
	over atomic.Bool
}

// value is a *item[T].
type value interface {
	size() int
	content() uint64
}

// item is a kept entry with its decoded value. It is immutable.
type item[T any] struct {
	ledger *ledger
	proof  invalidation.Proof
	entry  soracache.Entry // without its bytes, unless they are a marker's text
	value  T
	sum    uint64 // of the entry's content
	bytes  int
	// On the near cache's clock: until when the value is served from here, until
	// when it is fresh anywhere, and until when it is kept at all.
	until, freshUntil, keepUntil time.Duration
}

func (i *item[T]) size() int       { return i.bytes }
func (i *item[T]) content() uint64 { return i.sum }

// Hit is what a lookup found. It is served only if it is fresh.
type Hit[T any] struct {
	item *item[T]
	// Fresh means that it may be served without asking anybody.
	Fresh bool
	// FreshFor is what is left of its TTL; not positive if that is over.
	FreshFor time.Duration
	// seen is what the value is known to reflect.
	seen soracache.Stamp
}

// Value returns the decoded value.
func (h *Hit[T]) Value() T { return h.item.value }

// Entry returns the entry, without its bytes unless they are an error's text.
func (h *Hit[T]) Entry() *soracache.Entry { return &h.item.entry }

// Stamps returns what the value is known to reflect.
func (h *Hit[T]) Stamps() soracache.Stamps {
	return soracache.Stamps{{Partition: h.item.ledger.partition, Stamp: h.seen}}
}

// Demand is what a value has to reflect: what the owner has seen, and the least that
// is wanted, which is that and what its context carries.
type Demand struct{ Seen, Least soracache.Stamps }

// at returns that of one partition. It is false if the context carries another epoch
// than the owner has seen: which of the two is over is not known, and the near cache
// may still be in either.
func (d Demand) at(partition uint16) (soracache.Stamp, bool) {
	want, _ := d.Least.At(partition)
	if len(d.Seen) == 0 || &d.Seen[0] == &d.Least[0] {
		return want, true // it carries nothing
	}
	seen, ok := d.Seen.At(partition)
	return want, !ok || seen.Epoch == want.Epoch
}

// New returns a near cache that has not begun to watch.
func New(owner Owner, cfg Config) (*Cache, error) {
	values, err := l1.New(l1.Config[value]{MaxBytes: cfg.MaxBytes, MaxEntries: cfg.MaxEntries, Size: value.size})
	if err != nil {
		return nil, fmt.Errorf("near cache: %w", err)
	}
	slots := max(cfg.MaxBytes/256, cfg.MaxEntries*4, 1<<12)
	n := &Cache{
		owner:  owner,
		bound:  cfg.Bound,
		start:  time.Now(),
		ahead:  cfg.Ahead,
		values: values,
		marks:  invalidation.NewMarks(int(slots), math.Float64bits(cfg.Random())),
		seed:   maphash.MakeSeed(),

		random: cfg.Random, suspended: cfg.Suspended,
	}
	for i := range n.inflight {
		n.inflight[i].of = map[l1.Key][]*Inflight{}
	}
	return n, nil
}

func (n *Cache) now() time.Duration {
	if n.ahead != nil {
		return time.Since(n.start) + n.ahead()
	}
	return time.Since(n.start)
}

// touch notes that somebody reads, and begins to watch with the first who does.
func (n *Cache) touch(now time.Duration) {
	n.begin.Do(func() { n.owner.Begin(n.follow) })
	if now-time.Duration(n.lastUse.Load()) > idleAfter/8 {
		n.lastUse.Store(int64(now))
	}
}

// of returns the ledger of a key, or nil as long as it is not known.
func (n *Cache) of(key string) *ledger {
	ledgers := n.ledgers.Load()
	if ledgers == nil {
		return nil
	}
	return (*ledgers)[soracache.PartitionOf(key, len(*ledgers))]
}

// Find looks for a value of one type that is not known to be dead. It allocates
// nothing.
func Find[T any](n *Cache, space uint32, key string, demand Demand) (hit Hit[T], ok bool) {
	if n == nil {
		return hit, false
	}
	v, found := n.values.Get(l1.Key{Space: space, Name: key})
	item, isT := v.(*item[T])
	if !found || !isT || item.ledger.over.Load() {
		n.touch(n.now())
		return hit, false
	}
	want, ok := demand.at(item.ledger.partition)
	if !ok {
		return hit, false
	}
	checked := item.ledger.follower.Check(&item.proof, want)
	n.touch(checked.At)
	if checked.Verdict == invalidation.Dead || checked.Verdict == invalidation.Behind || checked.At >= item.keepUntil {
		return hit, false
	}
	return Hit[T]{
		item:     item,
		Fresh:    checked.Verdict == invalidation.Live && checked.At < item.until,
		FreshFor: item.freshUntil - checked.At,
		seen:     checked.Seen,
	}, true
}

// Inflight is a read or a fill that is on its way, and whose outcome may be kept.
// A nil Inflight takes everything and keeps nothing.
type Inflight struct {
	near     *Cache
	at       l1.Key
	stripe   int // of near.inflight
	ledger   *ledger
	question invalidation.Question
	// superseded means that something else was put under the key, or removed from
	// there, while this one was under way. Nobody here knows which of the two
	// is the newer; guarded by the stripe.
	superseded bool
}

// Begin begins something that will be sent now. End must be called.
func (n *Cache) Begin(space uint32, key string) *Inflight {
	if n == nil {
		return nil
	}
	n.touch(n.now())
	l := n.of(key)
	if l == nil {
		return nil
	}
	a := &Inflight{near: n, at: l1.Key{Space: space, Name: key}, ledger: l}
	a.stripe = int(maphash.String(n.seed, key) % uint64(len(n.inflight)))
	stripe := &n.inflight[a.stripe]
	stripe.Lock()
	stripe.of[a.at] = append(stripe.of[a.at], a)
	stripe.Unlock()
	a.question = l.follower.Ask()
	return a
}

// End gives up what was not kept.
func (a *Inflight) End() {
	if a == nil {
		return
	}
	stripe := &a.near.inflight[a.stripe]
	stripe.Lock()
	defer stripe.Unlock()
	rest := slices.DeleteFunc(stripe.of[a.at], func(other *Inflight) bool { return other == a })
	if stripe.of[a.at] = rest; len(rest) == 0 {
		delete(stripe.of, a.at)
	}
}

// Confirm lets an answer confirm what is followed. Of an answer with a lease the
// stamp is the lease's, which may be older than the answer.
func (a *Inflight) Confirm(stamps soracache.Stamps, age time.Duration) {
	if a == nil {
		return
	}
	if s, ok := stamps.At(a.ledger.partition); ok {
		a.ledger.follower.Confirm(a.question, s, age)
	}
}

// Kept is what is to be kept of an entry.
type Kept struct {
	Entry             soracache.Entry
	Stamps            soracache.Stamps // what the entry is proven to reflect
	FreshFor, KeepFor time.Duration    // counted from when it was asked for
	Most              time.Duration    // for how long it is served from here; zero: as long as it is fresh; negative: not at all
}

// Keep takes in the entry that an answer brought, with its decoded value, unless the
// rule speaks against it.
func Keep[T any](a *Inflight, value T, k Kept) {
	if a == nil || k.Most < 0 || k.FreshFor <= 0 {
		return
	}
	at, ok := k.Stamps.At(a.ledger.partition)
	if !ok {
		return
	}
	proof, ok := a.ledger.follower.Admit(a.question, at, a.at.Name, k.Entry.Tags)
	if !ok {
		return
	}
	asked := a.question.Sent()
	item := &item[T]{
		ledger:     a.ledger,
		proof:      proof,
		value:      value,
		sum:        a.near.sum(k.Entry),
		freshUntil: asked + k.FreshFor,
		keepUntil:  asked + max(k.FreshFor, k.KeepFor),
	}
	item.until = item.freshUntil
	if k.Most > 0 {
		item.until = asked + min(k.FreshFor, k.Most)
	}
	item.bytes = l1.Footprint(int(unsafe.Sizeof(*item))) + l1.Footprint(proof.SlotBytes()) + l1.Footprint(len(k.Entry.Value))
	for _, t := range k.Entry.Tags {
		item.bytes += int(unsafe.Sizeof(t)) + l1.Footprint(len(t))
	}
	if k.Entry.Kind != soracache.KindError {
		k.Entry.Value = nil // it is decoded
	}
	item.entry = k.Entry
	a.put(item)
}

// put puts an item under its key, in place of whatever others that are under way
// would put there. If one of them came first, and with something else, then
// neither is kept.
func (a *Inflight) put(item value) {
	stripe := &a.near.inflight[a.stripe]
	stripe.Lock()
	defer stripe.Unlock()
	if a.superseded {
		if there, ok := a.near.values.Get(a.at); ok && there.content() != item.content() {
			a.near.values.Remove(a.at)
		}
		return
	}
	for _, other := range stripe.of[a.at] {
		other.superseded = other.superseded || other != a
	}
	a.near.values.Put(a.at, item)
}

// sum tells contents apart.
func (n *Cache) sum(e soracache.Entry) uint64 {
	var h maphash.Hash
	h.SetSeed(n.seed)
	begin := func(length int) { // of what any bytes may be in
		var bytes [8]byte
		binary.LittleEndian.PutUint64(bytes[:], uint64(length)) //nolint:gosec // not negative
		_, _ = h.Write(bytes[:])
	}
	begin(len(e.Value))
	_, _ = h.Write(e.Value)
	_ = h.WriteByte(byte(e.Kind))
	for _, s := range append(slices.Clone(e.Tags), e.Encoding, e.ETag) {
		begin(len(s))
		_, _ = h.WriteString(s)
	}
	return h.Sum64()
}

// Refuse has what the owner itself invalidated, or may have, refused from now
// on. Without a stamp it is not known where it is recorded.
func (n *Cache) Refuse(targets []soracache.Target, stamps soracache.Stamps) {
	if n == nil {
		return
	}
	ledgers := n.ledgers.Load()
	if ledgers == nil {
		return
	}
	for _, l := range *ledgers {
		own := make([]soracache.Target, 0, len(targets))
		for _, t := range targets {
			if t.Kind != soracache.TargetKey || soracache.PartitionOf(t.Name, len(*ledgers)) == l.partition {
				own = append(own, t)
			}
		}
		if len(own) == 0 {
			continue
		}
		at, ok := stamps.At(l.partition)
		if !ok {
			state := l.follower.State()
			at = soracache.Stamp{Epoch: state.Epoch, Position: state.Seen}
		}
		l.follower.Mark(soracache.Record{Epoch: at.Epoch, Position: at.Position, Targets: own})
	}
}

// InflightAll is an invalidation that is on its way, whose answer tells of every ledger
// at once.
type InflightAll struct {
	ledgers []*ledger
	asked   []invalidation.Question // of each ledger
}

// BeginAll begins something that concerns all ledgers, and will be sent now.
func (n *Cache) BeginAll() (q InflightAll) {
	if n == nil || n.ledgers.Load() == nil {
		return q
	}
	q.ledgers = *n.ledgers.Load()
	for _, l := range q.ledgers {
		q.asked = append(q.asked, l.follower.Ask())
	}
	return q
}

// Confirm lets the answer confirm the ledgers that it has a stamp of. It tells whether
// any of them was not followed as far as that.
func (q InflightAll) Confirm(stamps soracache.Stamps, age time.Duration) (behind bool) {
	for i, l := range q.ledgers {
		at, ok := stamps.At(l.partition)
		if !ok {
			continue
		}
		l.follower.Confirm(q.asked[i], at, age)
		if state := l.follower.State(); state.Epoch != at.Epoch || state.Applied < at.Position {
			behind = true
		}
	}
	return behind
}

// Close ends what the watch does not.
func (n *Cache) Close() {
	if n != nil {
		n.values.Close()
	}
}
