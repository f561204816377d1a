package l2test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// HammerConfig says what [Hammer] is to do. Zero fields have defaults.
type HammerConfig struct {
	// Stores are clients of one store, which was empty or at least has not met
	// the namespace "hammer".
	Stores []l2.Store
	// Operations is how many operations are done, by how many Goroutines
	// (default 64).
	Operations, Goroutines int
	// Partitions is how many there are (default 2), each with so many Keys
	// (default 128) and Tags (default 48).
	Partitions, Keys, Tags int
	// Overlaps is how many fills must have been superseded by an invalidation,
	// for each kind of target.
	Overlaps int
	// Seed repeats the choices of an earlier run, though not its interleaving;
	// zero means a new one.
	Seed uint64
}

// HammerReport counts what a [Hammer] did and saw.
type HammerReport struct {
	Operations, Reads, Hits, Leases int64
	Stored, Superseded, LeaseLost   int64 // fills by outcome
	Puts, Keys, Tags, Clears        int64 // invalidations by what they name
	Overlaps                        map[Overlap]int64
	Took                            time.Duration
}

// Overlap is a kind of invalidation that a fill can be superseded by.
type Overlap string

// The kinds of overlap.
const (
	OverlapKey Overlap = "key"
	OverlapPut Overlap = "put"
	OverlapTag Overlap = "tag"
	OverlapAll Overlap = "everything"
)

// String is one line for a log.
func (r HammerReport) String() string {
	return fmt.Sprintf("%d operations in %s: %d keys read, %d hits, %d leases; "+
		"fills: %d stored, %d superseded, %d lost their lease; "+
		"invalidations: %d puts, %d keys, %d tags, %d clears; "+
		"fills superseded by a key's invalidation %d, a put %d, a tag's %d, a clear %d",
		r.Operations, r.Took.Round(time.Millisecond), r.Reads, r.Hits, r.Leases,
		r.Stored, r.Superseded, r.LeaseLost, r.Puts, r.Keys, r.Tags, r.Clears,
		r.Overlaps[OverlapKey], r.Overlaps[OverlapPut], r.Overlaps[OverlapTag], r.Overlaps[OverlapAll])
}

// newNonce returns a random nonce.
func newNonce() soracache.Lease {
	var n soracache.Lease
	binary.BigEndian.PutUint64(n[:], rand.Uint64())
	binary.BigEndian.PutUint64(n[8:], rand.Uint64()|1)
	return n
}

// source is one thing that values are computed from. A change of it is begun
// (it is committed: whoever loads now loads that version) and then done (its
// invalidation has returned).
type source struct{ begun, done atomic.Uint64 }

func (s *source) finish(version uint64) {
	for {
		done := s.done.Load()
		if done >= version || s.done.CompareAndSwap(done, version) {
			return
		}
	}
}

// hammerKey is a key with its sources: its row, which invalidations of the key
// change, its put values, its tags and the clears.
//
// mu is held while the key is put or invalidated, because puts are unfenced:
// what they write is only known to be right if nobody else changes the row at
// the same time. Fills take no part in it.
type hammerKey struct {
	name     string
	tagNames []string
	mu       sync.Mutex
	row, put source
	tags     []*source
	all      *source
	// puts holds, by put version, what of the tags and clears was begun when
	// the put had returned: what was begun later must kill its value.
	puts sync.Map
}

// versions are what a value was computed from, or what a read must at least
// reflect.
type versions struct {
	row, put, all uint64
	tags          []uint64
	isPut         bool
}

func (k *hammerKey) load(get func(*source) uint64) versions {
	v := versions{row: get(&k.row), put: get(&k.put), all: get(k.all)}
	for _, t := range k.tags {
		v.tags = append(v.tags, get(t))
	}
	return v
}

func begun(s *source) uint64 { return s.begun.Load() }
func done(s *source) uint64  { return s.done.Load() }

func (v versions) encode(k *hammerKey) []byte {
	kind := byte('f')
	if v.isPut {
		kind = 'p'
	}
	b := append([]byte(k.name), 0, kind)
	for _, n := range append([]uint64{v.row, v.put, v.all}, v.tags...) {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func decodeVersions(k *hammerKey, b []byte) (v versions, ok bool) {
	rest, ok := strings.CutPrefix(string(b), k.name+"\x00")
	if !ok || len(rest) != 1+8*(3+len(k.tags)) {
		return v, false
	}
	v.isPut = rest[0] == 'p'
	var n []uint64
	for rest = rest[1:]; rest != ""; rest = rest[8:] {
		n = append(n, binary.BigEndian.Uint64([]byte(rest[:8])))
	}
	v.row, v.put, v.all, v.tags = n[0], n[1], n[2], n[3:]
	return v, true
}

// misses says which source a value does not reflect, though its change was
// done before the read began. Nothing is said of what a put cannot reflect:
// tags and clears of before it returned.
func (v versions) misses(k *hammerKey, required versions) string {
	if v.isPut {
		at, _ := k.puts.Load(v.put)
		knows, returned := at.(versions)
		if !returned {
			knows = required
		}
		v.tags, v.all = knows.tags, knows.all
	}
	switch {
	case v.row < required.row:
		return "its key's invalidation"
	case v.put < required.put:
		return "a put"
	case v.all < required.all:
		return "a clear"
	}
	for i, t := range k.tagNames {
		if v.tags[i] < required.tags[i] {
			return "an invalidation of " + t
		}
	}
	return ""
}

// superseded returns by which kinds of invalidation a lease was superseded: ones
// that began after the value was loaded and have returned.
func (v versions) superseded(now versions) (kinds []Overlap) {
	for _, c := range []struct {
		kind    Overlap
		changed bool
	}{
		{OverlapKey, now.row > v.row},
		{OverlapPut, now.put > v.put},
		{OverlapAll, now.all > v.all},
	} {
		if c.changed {
			kinds = append(kinds, c.kind)
		}
	}
	for i := range v.tags {
		if now.tags[i] > v.tags[i] {
			return append(kinds, OverlapTag)
		}
	}
	return kinds
}

// world is one partition and the truth about it.
type world struct {
	at       l2.Partition
	first    soracache.Stamp
	keys     []*hammerKey
	tagNames []string
	tags     []*source
	all      source

	mu      sync.Mutex // guards what follows
	records []soracache.Record
}

func newWorld(c HammerConfig, index int) *world {
	w := &world{at: l2.Partition{Namespace: "hammer", Index: uint16(index), Count: uint16(c.Partitions)}}
	for i := range c.Tags {
		w.tagNames, w.tags = append(w.tagNames, fmt.Sprintf("t%02d", i)), append(w.tags, new(source))
	}
	for i := range c.Keys {
		k := &hammerKey{name: fmt.Sprint("k", i), all: &w.all}
		for t := range w.tags { // none, one, two or three tags
			if j := (t + 5*i) % c.Tags; j < i%4 {
				k.tagNames, k.tags = append(k.tagNames, w.tagNames[t]), append(k.tags, w.tags[t])
			}
		}
		w.keys = append(w.keys, k)
	}
	return w
}

func (w *world) note(r soracache.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records = append(w.records, r)
}

// hammering is one run of Hammer.
type hammering struct {
	HammerConfig
	t      testing.TB
	ctx    context.Context
	worlds []*world
	left   atomic.Int64
	failed atomic.Bool

	reads, hits, leases           atomic.Int64
	stored, superseded, leaseLost atomic.Int64
	puts, keys, tags, clears      atomic.Int64
	overlaps                      map[Overlap]*atomic.Int64
}

// Errorf reports what went wrong, and ends the run: the first words are the
// ones that matter.
func (h *hammering) Errorf(format string, args ...any) {
	if !h.failed.Swap(true) {
		h.t.Errorf(format, args...)
	}
}

func (h *hammering) Helper() { h.t.Helper() }

// Hammer lets goroutines read, lease, fill, put, renew, release and invalidate
// at random, against a source of truth that knows its versions, and fails the
// test if
//
//   - a read returns a value older than the last invalidation that had
//     returned before the read began,
//   - a fill is stored although an invalidation of its key, one of its tags or
//     everything began after its lease was granted and returned before the fill
//     began,
//   - the records do not form one chain, the epoch changes, or a follower that
//     applied every delta does not know the last position of every target,
//   - fewer fills than Overlaps were superseded by an invalidation, for each of
//     a key, a put, a tag and everything.
func Hammer(t testing.TB, c HammerConfig) HammerReport {
	t.Helper()
	h := newHammering(t, c)
	start := time.Now()
	var all sync.WaitGroup
	for g := range h.Goroutines {
		all.Go(func() { newHammerer(h, g).run() })
	}
	all.Wait()
	report := h.report(time.Since(start))
	t.Logf("seed %d: %s", h.Seed, report)
	if h.failed.Load() {
		return report
	}
	for _, w := range h.worlds {
		last := oneChain(h, w.first, w.records)
		if d := h.Stores[0].Since(h.ctx, []l2.SinceRequest{{Partition: w.at}})[0].Delta; headOf(d) != last {
			h.Errorf("the head of %s is %v, the last record %v", w.at, headOf(d), last)
		}
	}
	for kind, n := range report.Overlaps {
		if n < int64(h.Overlaps) {
			h.Errorf("only %d fills were superseded by an invalidation of kind %s, want %d", n, kind, h.Overlaps)
		}
	}
	return report
}

func newHammering(t testing.TB, c HammerConfig) *hammering {
	for field, value := range map[*int]int{&c.Goroutines: 64, &c.Partitions: 2, &c.Keys: 128, &c.Tags: 48} {
		if *field == 0 {
			*field = value
		}
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	h := &hammering{HammerConfig: c, t: t, ctx: t.Context(), overlaps: make(map[Overlap]*atomic.Int64)}
	for _, kind := range []Overlap{OverlapKey, OverlapPut, OverlapTag, OverlapAll} {
		h.overlaps[kind] = new(atomic.Int64)
	}
	h.left.Store(int64(c.Operations))
	for i := range c.Partitions {
		w := newWorld(c, i)
		a := c.Stores[0].Since(h.ctx, []l2.SinceRequest{{Partition: w.at}})[0]
		if a.Err != nil {
			t.Fatalf("since: %v", a.Err)
		}
		w.first = headOf(a.Delta)
		h.worlds = append(h.worlds, w)
	}
	return h
}

func (h *hammering) report(took time.Duration) HammerReport {
	r := HammerReport{
		Operations: int64(h.Operations), Reads: h.reads.Load(), Hits: h.hits.Load(), Leases: h.leases.Load(),
		Stored: h.stored.Load(), Superseded: h.superseded.Load(), LeaseLost: h.leaseLost.Load(),
		Puts: h.puts.Load(), Keys: h.keys.Load(), Tags: h.tags.Load(), Clears: h.clears.Load(),
		Overlaps: make(map[Overlap]int64), Took: took,
	}
	for kind, n := range h.overlaps {
		r.Overlaps[kind] = n.Load()
	}
	return r
}
