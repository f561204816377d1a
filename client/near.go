package client

import (
	"context"
	"encoding/binary"
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

// The defaults of the near cache.
const (
	// DefaultNearBytes is how much memory a client's near cache takes at most,
	// unless [NearBytes] or [NearEntries] says otherwise.
	DefaultNearBytes = 64 << 20
	// DefaultBound is the longest that a near cache trusts itself without
	// confirmation, unless [Bound] says otherwise.
	DefaultBound = time.Second
)

// near keeps decoded values in the application's own memory, under the same rule
// as every other tier: what it serves is live as far as the ledger was followed,
// and it was confirmed less than the bound ago that nothing is missing. What is
// recorded comes by one watch for the whole client (see nearwatch.go).
//
// A nil near keeps nothing.
type near struct {
	client *Client
	bound  time.Duration
	start  time.Time
	ahead  func() time.Duration // see ClockAhead
	// random and suspended: see Simulated.
	random    func() float64
	suspended func() time.Duration
	values    *l1.Cache[nearValue]
	marks     *invalidation.Marks
	seed      maphash.Seed

	begin   sync.Once    // starts the watch with the first use
	lastUse atomic.Int64 // on this clock, in nanoseconds

	// ledgers has one follower for each partition. It is nil until the watch has
	// told how many there are, and changes only if it tells another number, or that
	// a ledger has gone back.
	ledgers atomic.Pointer[[]*ledger]

	// underWay holds, by key, what is on its way that may be kept.
	underWay [64]struct {
		sync.Mutex
		asking map[l1.Key][]*asking
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

// nearValue is a *nearItem[T].
type nearValue interface {
	size() int
	content() uint64
}

// nearItem is a kept entry with its decoded value. It is immutable.
type nearItem[T any] struct {
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

func (i *nearItem[T]) size() int       { return i.bytes }
func (i *nearItem[T]) content() uint64 { return i.sum }

// nearHit is what a lookup found. It is served only if it is fresh.
type nearHit[T any] struct {
	item *nearItem[T]
	// fresh means that it may be served without asking anybody.
	fresh bool
	// confirmed means that nothing that it was computed from is known to be
	// invalidated, and that what is known is no older than the bound. Without,
	// the former alone holds.
	confirmed bool
	// freshFor and keepFor are what is left of its time; not positive if over.
	freshFor, keepFor time.Duration
	// seen is what the value is known to reflect.
	seen soracache.Stamp
}

// newNear returns a near cache that has not begun to watch.
func newNear(c *Client, cfg config) (*near, error) {
	if cfg.nearBytes == 0 && cfg.nearEntries == 0 {
		return nil, nil //nolint:nilnil // no near cache is one that keeps nothing
	}
	values, err := l1.New(l1.Config[nearValue]{MaxBytes: cfg.nearBytes, MaxEntries: cfg.nearEntries, Size: nearValue.size})
	if err != nil {
		return nil, err
	}
	slots := max(cfg.nearBytes/256, cfg.nearEntries*4, 1<<12)
	n := &near{
		client: c,
		bound:  cfg.bound,
		start:  time.Now(),
		ahead:  cfg.ahead,
		values: values,
		marks:  invalidation.NewMarks(int(slots), math.Float64bits(cfg.random())),
		seed:   maphash.MakeSeed(),

		random: cfg.random, suspended: cfg.suspended,
	}
	for i := range n.underWay {
		n.underWay[i].asking = map[l1.Key][]*asking{}
	}
	return n, nil
}

func (n *near) now() time.Duration {
	if n.ahead != nil {
		return time.Since(n.start) + n.ahead()
	}
	return time.Since(n.start)
}

// touch notes that somebody reads, and begins to watch with the first who does.
func (n *near) touch(now time.Duration) {
	n.begin.Do(func() { n.client.inBackground(n.follow) })
	if now-time.Duration(n.lastUse.Load()) > nearIdleAfter/8 {
		n.lastUse.Store(int64(now))
	}
}

// of returns the ledger of a key, or nil as long as it is not known.
func (n *near) of(key string) *ledger {
	ledgers := n.ledgers.Load()
	if ledgers == nil {
		return nil
	}
	return (*ledgers)[soracache.PartitionOf(key, len(*ledgers))]
}

// find looks for a value of one type that is not known to be dead, for a read
// that wants at least a stamp. It allocates nothing.
func find[T any](n *near, space uint32, key string, known known) (hit nearHit[T], ok bool) {
	if n == nil {
		return hit, false
	}
	v, found := n.values.Get(l1.Key{Space: space, Name: key})
	item, isT := v.(*nearItem[T])
	if !found || !isT || item.ledger.over.Load() {
		n.touch(n.now())
		return hit, false
	}
	want, ok := known.at(item.ledger.partition)
	if !ok {
		return hit, false
	}
	checked := item.ledger.follower.Check(&item.proof, want)
	n.touch(checked.At)
	if checked.Verdict == invalidation.Dead || checked.Verdict == invalidation.Behind || checked.At >= item.keepUntil {
		return hit, false
	}
	confirmed := checked.Verdict == invalidation.Live
	return nearHit[T]{
		item:      item,
		confirmed: confirmed,
		fresh:     confirmed && checked.At < item.until,
		freshFor:  item.freshUntil - checked.At,
		keepFor:   item.keepUntil - checked.At,
		seen:      checked.Seen,
	}, true
}

// outcome is what a loader or a caller makes of a near hit.
func (h *nearHit[T]) outcome() outcome[T] {
	return outcome[T]{
		value: h.item.value,
		ingredient: ingredient{
			tags:   h.item.entry.Tags,
			proofs: []soracache.Stamps{{{Partition: h.item.ledger.partition, Stamp: h.seen}}},
		},
		marker: markedBy(&h.item.entry),
		how:    Outcome{Tier: soracache.TierNear},
	}
}

// carry lets the context carry what a near hit has shown.
func (h *nearHit[T]) carry(ctx context.Context, c *Client) {
	if carrierFrom(ctx) != nil {
		c.carry(ctx, soracache.Stamps{{Partition: h.item.ledger.partition, Stamp: h.seen}})
	}
}

// asking is a read or a fill that is on its way, and whose outcome may be kept.
// A nil asking takes everything and keeps nothing.
type asking struct {
	near     *near
	at       l1.Key
	stripe   int // of near.underWay
	ledger   *ledger
	question invalidation.Question
	// overtaken means that something else was put under the key, or removed from
	// there, while this one was under way. Nobody here knows which of the two
	// is the newer; guarded by the stripe.
	overtaken bool
}

// ask begins something that will be sent now. end must be called.
func (n *near) ask(space uint32, key string) *asking {
	if n == nil {
		return nil
	}
	n.touch(n.now())
	l := n.of(key)
	if l == nil {
		return nil
	}
	a := &asking{near: n, at: l1.Key{Space: space, Name: key}, ledger: l}
	a.stripe = int(maphash.String(n.seed, key) % uint64(len(n.underWay)))
	stripe := &n.underWay[a.stripe]
	stripe.Lock()
	stripe.asking[a.at] = append(stripe.asking[a.at], a)
	stripe.Unlock()
	a.question = l.follower.Ask()
	return a
}

// end gives up what was not kept.
func (a *asking) end() {
	if a == nil {
		return
	}
	stripe := &a.near.underWay[a.stripe]
	stripe.Lock()
	defer stripe.Unlock()
	rest := slices.DeleteFunc(stripe.asking[a.at], func(other *asking) bool { return other == a })
	if stripe.asking[a.at] = rest; len(rest) == 0 {
		delete(stripe.asking, a.at)
	}
}

// vouch lets an answer confirm what is followed. Of an answer with a lease the
// stamp is the lease's, which may be older than the answer.
func (a *asking) vouch(stamps soracache.Stamps, age time.Duration) {
	if a == nil {
		return
	}
	if s, ok := stamps.At(a.ledger.partition); ok {
		a.ledger.follower.Vouch(a.question, s, age)
	}
}

// kept is what is to be kept of an entry.
type kept struct {
	entry             soracache.Entry
	stamps            soracache.Stamps // what the entry is proven to reflect
	freshFor, keepFor time.Duration    // counted from when it was asked for
	near              time.Duration    // the policy's cap; zero: none
}

// keep takes in the entry that an answer brought, with its decoded value, unless
// the rule speaks against it.
func keep[T any](a *asking, value T, k kept) {
	if a == nil || k.near < 0 || k.freshFor <= 0 {
		return
	}
	at, ok := k.stamps.At(a.ledger.partition)
	if !ok {
		return
	}
	proof, ok := a.ledger.follower.Admit(a.question, at, a.at.Name, k.entry.Tags)
	if !ok {
		return
	}
	asked := a.question.Sent()
	item := &nearItem[T]{
		ledger:     a.ledger,
		proof:      proof,
		value:      value,
		sum:        a.near.sum(k.entry),
		freshUntil: asked + k.freshFor,
		keepUntil:  asked + max(k.freshFor, k.keepFor),
	}
	item.until = item.freshUntil
	if k.near > 0 {
		item.until = asked + min(k.freshFor, k.near)
	}
	item.bytes = l1.Footprint(int(unsafe.Sizeof(*item))) + l1.Footprint(proof.SlotBytes()) + l1.Footprint(len(k.entry.Value))
	for _, t := range k.entry.Tags {
		item.bytes += int(unsafe.Sizeof(t)) + l1.Footprint(len(t))
	}
	if k.entry.Kind != soracache.KindError {
		k.entry.Value = nil // it is decoded
	}
	item.entry = k.entry
	a.put(item)
}

// put puts an item under its key, in place of whatever others that are under way
// would put there. If one of them came first, and with something else, then
// neither is kept.
func (a *asking) put(item nearValue) {
	stripe := &a.near.underWay[a.stripe]
	stripe.Lock()
	defer stripe.Unlock()
	if a.overtaken {
		if there, ok := a.near.values.Get(a.at); ok && there.content() != item.content() {
			a.near.values.Remove(a.at)
		}
		return
	}
	for _, other := range stripe.asking[a.at] {
		other.overtaken = other.overtaken || other != a
	}
	a.near.values.Put(a.at, item)
}

// sum tells contents apart.
func (n *near) sum(e soracache.Entry) uint64 {
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

// refuse has what this client itself invalidated, or may have, refused from now
// on. Without a stamp it is not known where it is recorded.
func (n *near) refuse(targets []soracache.Target, stamps soracache.Stamps) {
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

// questions are what an invalidation is asked with, which answers for every
// ledger at once.
type questions struct {
	ledgers []*ledger
	asked   []invalidation.Question // of each ledger
}

// askAll begins something that concerns all ledgers, and will be sent now.
func (n *near) askAll() (q questions) {
	if n == nil || n.ledgers.Load() == nil {
		return q
	}
	q.ledgers = *n.ledgers.Load()
	for _, l := range q.ledgers {
		q.asked = append(q.asked, l.follower.Ask())
	}
	return q
}

// vouch lets the answer confirm the ledgers that it has a stamp of.
func (q questions) vouch(stamps soracache.Stamps, age time.Duration) (behind bool) {
	for i, l := range q.ledgers {
		at, ok := stamps.At(l.partition)
		if !ok {
			continue
		}
		l.follower.Vouch(q.asked[i], at, age)
		if state := l.follower.State(); state.Epoch != at.Epoch || state.Applied < at.Position {
			behind = true
		}
	}
	return behind
}

// close ends what the watch does not.
func (n *near) close() {
	if n != nil {
		n.values.Close()
	}
}
