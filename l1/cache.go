package l1

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/soracache/soracache"
)

// Key names an entry. Equal names in different spaces are different keys. Name
// is kept as it is: it should not be cut from something much larger, which it
// would keep in memory.
type Key struct {
	Space uint32
	Name  string
}

// Item is a key and what to put under it.
type Item[V any] struct {
	Key   Key
	Value V
}

// The bounds of [Config.MaxBytes], and of MaxEntries.
const (
	leastBytes = 1 << 20
	mostBytes  = 1 << 44
	// leastEntries is the least of MaxEntries.
	leastEntries = 16
)

// Config says how large a cache is: MaxBytes and Size, or MaxEntries, must be
// set.
type Config[V any] struct {
	// MaxBytes is the most memory that the cache takes, its own structures
	// included: 1 MiB at least. The garbage collector needs room of its own besides: with the
	// default GOGC, about as much again.
	MaxBytes int64
	// Size returns the bytes of memory that a value refers to: what the cache
	// cannot see, so neither the key nor V itself. [Footprint] helps. It is
	// called once for each value that is put.
	Size func(V) int
	// MaxEntries, if MaxBytes is zero, bounds the cache by the number of its
	// entries instead, whatever their size: 16 at least. Bytes are then not
	// counted, and Stats has entries in their place.
	MaxEntries int64
}

// Validate reports the first field that is not usable.
func (cfg Config[V]) Validate() error {
	switch {
	case cfg.MaxBytes == 0 && cfg.MaxEntries != 0:
		if cfg.MaxEntries < leastEntries || cfg.MaxEntries > mostBytes/bytesPerCounter {
			return fmt.Errorf("%w: l1 of %d entries: must be %d to %d",
				soracache.ErrInvalid, cfg.MaxEntries, leastEntries, mostBytes/bytesPerCounter)
		}
	case cfg.MaxBytes < leastBytes || cfg.MaxBytes > mostBytes:
		return fmt.Errorf("%w: l1 size of %d bytes: must be %d to %d",
			soracache.ErrInvalid, cfg.MaxBytes, leastBytes, mostBytes)
	case cfg.Size == nil:
		return fmt.Errorf("%w: l1 needs a Size function", soracache.ErrInvalid)
	}
	return nil
}

// writeStripes is how many writes can be under way at once. Each has at most a
// deletion, an addition and a wait in Ristretto's buffer, which takes 32,768.
const writeStripes = 1024

// runLength is the most items that wait for Ristretto together.
const runLength = 64

// Cache is a bounded map from keys to values that keeps what is used most. All
// methods are safe for concurrent use, also during and after Close.
type Cache[V any] struct {
	ristretto *ristretto.Cache[uint64, *entry[V]]
	hash      func(Key) uint64
	size      func(V) int
	limit     int64
	budget    int64 // what of limit is for entries
	overhead  int64 // what an entry costs besides its key's and value's bytes
	byCount   bool  // every entry costs one, and nothing else is counted

	// life is held by writers for reading, so that Clear and Close, which
	// Ristretto does not allow beside anything else, can wait for them. Gets
	// do not touch it: Close waits for them by readers.
	life   sync.RWMutex
	closed atomic.Bool // set under life, before readers is drained
	// clearing is set under life while Ristretto reports as evicted what is
	// only thrown away.
	clearing atomic.Bool

	// stripes[i] serializes the writes of the keys whose hash chooses i.
	// Whoever holds it and has Waited knows that Ristretto's buffer has no
	// undecided entry of those keys.
	stripes [writeStripes]sync.Mutex

	readers                     readers
	puts, rejections, evictions atomic.Uint64
	// entries and bytes are of what was taken in and has not gone. An entry
	// that goes before its Put has counted it makes them too low for a moment,
	// nothing makes them too high.
	entries, bytes atomic.Int64
	peak           atomic.Int64 // the most entries since the tables were new
}

// entry is what Ristretto holds under a hash. It is immutable, but for
// rejected.
type entry[V any] struct {
	key   Key
	value V
	cost  int64
	// rejected is set by Ristretto's goroutine, before it wakes the Put that
	// offered the entry, and never for an entry that is held.
	rejected bool
}

// New returns an empty cache. It starts two goroutines, which Close ends.
func New[V any](cfg Config[V]) (*Cache[V], error) {
	seed := maphash.MakeSeed()
	return newCache(cfg, func(k Key) uint64 {
		return maphash.String(seed, k.Name) ^ (uint64(k.Space)+1)*0x9e3779b97f4a7c15
	})
}

func newCache[V any](cfg Config[V], hash func(Key) uint64) (*Cache[V], error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Cache[V]{
		hash:     hash,
		size:     cfg.Size,
		limit:    cfg.MaxBytes,
		overhead: int64(tableBytes + Footprint(int(unsafe.Sizeof(entry[V]{})))),
	}
	var counts int64
	if cfg.MaxBytes > 0 {
		c.budget, counts = budget(cfg.MaxBytes), counters(cfg.MaxBytes)
	} else {
		c.byCount, c.limit, c.budget = true, cfg.MaxEntries, cfg.MaxEntries
		counts = counters(max(cfg.MaxEntries*bytesPerCounter*countersPerEntry, leastBytes))
	}
	var err error
	c.ristretto, err = ristretto.NewCache(&ristretto.Config[uint64, *entry[V]]{
		NumCounters:        numCounters(counts),
		MaxCost:            c.budget,
		BufferItems:        64,
		IgnoreInternalCost: true, // the cost of an entry is complete
		KeyToHash:          func(hash uint64) (uint64, uint64) { return hash, 0 },
		OnReject:           func(i *ristretto.Item[*entry[V]]) { i.Value.rejected = true },
		OnEvict:            c.evicted,
		OnExit:             c.gone,
		// Nothing here expires by Ristretto's clock, so it need not look often.
		TtlTickerDurationInSec: 3600,
	})
	if err != nil {
		return nil, fmt.Errorf("l1: %w", err)
	}
	return c, nil
}

// Get returns the value under a key. It allocates nothing and takes no lock of
// this package.
func (c *Cache[V]) Get(k Key) (V, bool) {
	var none V
	if c.closed.Load() {
		return none, false
	}
	h := c.hash(k)
	stripe := c.readers.stripe(h)
	stripe.entered.Add(1)
	// Only who enters before the cache is closed is waited for by Close, so
	// whether it is closed must be asked again.
	if c.closed.Load() {
		stripe.misses.Add(1)
		return none, false
	}
	e := c.lookup(h, k)
	if e == nil {
		stripe.misses.Add(1)
		return none, false
	}
	stripe.hits.Add(1)
	return e.value, true
}

// lookup returns the entry under a key, or nil. Ristretto knows it by its hash
// alone, which another key can share.
func (c *Cache[V]) lookup(h uint64, k Key) *entry[V] {
	e, ok := c.ristretto.Get(h)
	if !ok || e.key != k {
		return nil
	}
	return e
}

// Put puts a value under a key, in place of what was there. It reports whether
// the value was taken in; if not, nothing is under the key any more. It waits
// until that is decided, so a burst of writes is slowed, never dropped.
func (c *Cache[V]) Put(k Key, v V) bool {
	h, e := c.hash(k), c.newEntry(k, v)
	c.life.RLock()
	defer c.life.RUnlock()
	if c.closed.Load() {
		return false
	}
	stripe := c.stripe(h)
	stripe.Lock()
	defer stripe.Unlock()
	c.offer(h, e)
	c.ristretto.Wait()
	return c.settle(e)
}

// PutMany puts many items, in order, and returns how many were taken in. It
// waits once for up to 64 of them.
func (c *Cache[V]) PutMany(items []Item[V]) int {
	taken := 0
	for len(items) > 0 {
		done, of := c.putRun(items)
		taken += done
		items = items[of:]
	}
	return taken
}

// putRun puts the items up to the first whose stripe an earlier one needs too:
// without a wait between them, Ristretto would keep the older of two values
// for one new key. It returns how many of how many were taken in.
func (c *Cache[V]) putRun(items []Item[V]) (taken, of int) {
	var (
		run     [runLength]*entry[V]
		hashes  [runLength]uint64
		stripes stripeSet
	)
	for of < min(len(items), runLength) {
		h := c.hash(items[of].Key)
		if !stripes.add(h % writeStripes) {
			break
		}
		hashes[of], run[of] = h, c.newEntry(items[of].Key, items[of].Value)
		of++
	}
	c.life.RLock()
	defer c.life.RUnlock()
	if c.closed.Load() {
		return 0, of
	}
	stripes.each(func(i int) { c.stripes[i].Lock() }) // ascending: no two runs block each other
	defer stripes.each(func(i int) { c.stripes[i].Unlock() })
	for i, e := range run[:of] {
		c.offer(hashes[i], e)
	}
	c.ristretto.Wait()
	for _, e := range run[:of] {
		if c.settle(e) {
			taken++
		}
	}
	return taken, of
}

// offer hands an entry to Ristretto, which decides when it comes to it. The
// caller holds the stripe, and has offered nothing else there since it Waited.
//
// A value already held is replaced in place only if the new one costs no more:
// Ristretto makes no room for updates. Otherwise the old one goes first, and
// the new one has to be admitted like any other.
func (c *Cache[V]) offer(h uint64, e *entry[V]) {
	// GetTTL looks without counting a use, which Get does. The first put of a
	// key must not count as one: counts come late, so that entries put a little
	// earlier would all outweigh it.
	if _, held := c.ristretto.GetTTL(h); held {
		if old, ok := c.ristretto.Get(h); ok && e.cost > old.cost {
			c.ristretto.Del(h)
		}
	}
	// If the key was evicted meanwhile, this is not an update but an addition,
	// and is decided like one: hence the wait that follows either.
	for !c.ristretto.Set(h, e, e.cost) {
		c.ristretto.Wait() // the buffer is full, of removals
	}
}

// settle counts an entry that Ristretto has decided on, and tells how. The
// entry may have gone again already.
func (c *Cache[V]) settle(e *entry[V]) bool {
	if e.rejected {
		c.rejections.Add(1)
		return false
	}
	c.puts.Add(1)
	c.bytes.Add(e.cost)
	n := c.entries.Add(1)
	for peak := c.peak.Load(); n > peak && !c.peak.CompareAndSwap(peak, n); {
		peak = c.peak.Load()
	}
	c.ristretto.UpdateMaxCost(c.budget - c.idle())
	return true
}

// idle returns the bytes of the tables that no entry uses. They grew for the
// most entries there ever were, and stay when fewer, larger ones take over.
func (c *Cache[V]) idle() int64 {
	if c.byCount {
		return 0
	}
	return max(0, c.peak.Load()-c.entries.Load()) * tableBytes
}

// Remove removes what is under a key.
func (c *Cache[V]) Remove(k Key) {
	h := c.hash(k)
	c.life.RLock()
	defer c.life.RUnlock()
	if c.closed.Load() {
		return
	}
	stripe := c.stripe(h)
	stripe.Lock()
	defer stripe.Unlock()
	c.ristretto.Del(h)
}

// Clear removes everything, and what the cache knows of how often keys are
// used.
func (c *Cache[V]) Clear() {
	c.life.Lock()
	defer c.life.Unlock()
	if c.closed.Load() {
		return
	}
	c.clearing.Store(true)
	c.ristretto.Clear()
	c.clearing.Store(false)
	c.peak.Store(0)
	c.ristretto.UpdateMaxCost(c.budget)
}

// Close ends the cache and its goroutines. It waits for calls under way; later
// ones find nothing and do nothing. Closing again does nothing.
func (c *Cache[V]) Close() {
	c.life.Lock()
	defer c.life.Unlock()
	if c.closed.Swap(true) {
		return
	}
	c.readers.drain() // Ristretto closes a channel that its Get sends on
	c.clearing.Store(true)
	c.ristretto.Close()
}

// Stats returns the totals. They are not all of the same moment.
func (c *Cache[V]) Stats() Stats {
	hits, misses := c.readers.totals()
	return Stats{
		Hits:       hits,
		Misses:     misses,
		Puts:       c.puts.Load(),
		Rejections: c.rejections.Load(),
		Evictions:  c.evictions.Load(),
		Bytes:      uint64(c.limit - c.budget + max(0, c.bytes.Load())), //nolint:gosec // positive
		Limit:      uint64(c.limit),                                     //nolint:gosec // positive
		Idle:       uint64(c.idle()),                                    //nolint:gosec // not negative
		Entries:    uint64(max(0, c.entries.Load())),
	}
}

func (c *Cache[V]) newEntry(k Key, v V) *entry[V] {
	if c.byCount {
		return &entry[V]{key: k, value: v, cost: 1}
	}
	cost := c.overhead + int64(Footprint(len(k.Name))) + int64(max(0, c.size(v)))
	return &entry[V]{key: k, value: v, cost: cost}
}

func (c *Cache[V]) stripe(h uint64) *sync.Mutex { return &c.stripes[h%writeStripes] }

// evicted counts an entry that Ristretto threw out for another. Of one that
// Remove has just taken, only the hash is left.
func (c *Cache[V]) evicted(i *ristretto.Item[*entry[V]]) {
	if i.Value != nil && !c.clearing.Load() {
		c.evictions.Add(1)
	}
}

// gone is called exactly once for each entry that was offered: when it was
// rejected, replaced, removed, evicted or cleared. (And with nil for removals
// of nothing.)
func (c *Cache[V]) gone(e *entry[V]) {
	if e == nil || e.rejected {
		return
	}
	c.entries.Add(-1)
	c.bytes.Add(-e.cost)
}

// stripeSet is a set of write stripes.
type stripeSet [writeStripes / 64]uint64

// add reports whether the stripe was not in the set.
func (s *stripeSet) add(stripe uint64) bool {
	word, bit := &s[stripe/64], uint64(1)<<(stripe%64)
	added := *word&bit == 0
	*word |= bit
	return added
}

// each calls f for the stripes of the set in ascending order.
func (s *stripeSet) each(f func(int)) {
	for i, word := range s {
		for ; word != 0; word &= word - 1 {
			f(i*64 + bits.TrailingZeros64(word))
		}
	}
}
