package embedded

import (
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2test"
)

func TestConformance(t *testing.T) {
	l2test.Run(t, func(t *testing.T, o l2test.Options) l2test.Harness { return newHarness(t, o).Harness })
}

func TestAgreement(t *testing.T) {
	l2test.Agree(t, func(t *testing.T, o l2test.Options) l2test.Harness {
		h := newHarness(t, o)
		t.Cleanup(func() { checkInvariants(t, h.store) }) // before the store is closed
		return h.Harness
	}, 12367203835896978057)
}

func TestConformanceFull(t *testing.T) {
	l2test.RunFull(t, func(t *testing.T, o l2test.Options) l2test.Harness { return newHarness(t, o).Harness })
}

func TestHammer(t *testing.T) {
	s := openIn(t, t.TempDir())
	c := l2test.HammerConfig{Stores: []l2.Store{s}, Operations: 20_000, Overlaps: 100}
	if l2test.Verifying() {
		c.Operations, c.Overlaps = 1_000_000, 1_000
	}
	l2test.Hammer(t, c)
	checkInvariants(t, s)
}

// openIn opens a store that ends with the test.
func openIn(t testing.TB, dir string, change ...func(*Config)) *Store {
	t.Helper()
	cfg := Config{Dir: dir}
	for _, c := range change {
		c(&cfg)
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// harness is a store with a clock of its own, and what can be done to it
// behind its back.
type harness struct {
	l2test.Harness
	t     *testing.T
	store *Store
	cfg   Config
}

func newHarness(t *testing.T, o l2test.Options) *harness {
	clock := newClock()
	h := &harness{t: t, cfg: Config{Dir: t.TempDir(), Retention: o.Retention, Now: clock.now}}
	h.open()
	t.Cleanup(func() { h.store.Close() })
	h.Harness = l2test.Harness{
		Store:    h.store,
		Now:      clock.now,
		Wait:     clock.advance,
		Reopen:   h.reopen,
		Tamper:   h.tamper,
		Snapshot: h.snapshot,
		Full:     h.full,
		LoseNumber: func(namespace string) {
			h.store.numbers.mu.Lock()
			defer h.store.numbers.mu.Unlock()
			delete(h.store.numbers.of, namespace)
		},
		LoseRegistrations: func(at l2.Partition) {
			h.store.followers.mu.Lock()
			defer h.store.followers.mu.Unlock()
			delete(h.store.followers.lists, placeOf(at))
		},
		Lose: map[string]func(l2.Partition){
			"the ledger's row":          func(at l2.Partition) { h.change(func(tx *txn) { tx.delete(bLedger, ledgerKey(at)) }) },
			"a bit of the ledger's row": h.damageLedger,
		},
		Later: map[string]func(l2.Partition) func(){"row": h.laterLedger},
	}
	return h
}

func (h *harness) open() {
	h.t.Helper()
	var err error
	if h.store, err = Open(h.cfg); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) reopen() l2.Store {
	if err := h.store.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.open()
	return h.store
}

// change changes the file behind the store's back.
func (h *harness) change(fn func(t *txn)) {
	h.t.Helper()
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	if err := h.store.update(fn); err != nil {
		h.t.Fatal(err)
	}
}

// full has the disk have space for what needs next to none, and nothing else.
func (h *harness) full(full bool) {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	h.store.db.allocate = reserve
	if full {
		size, _, _ := h.store.db.pages()
		h.store.db.reserved = size + headroom
		h.store.db.allocate = func(*os.File, int64, int64) error { return syscall.ENOSPC }
	}
}

func (h *harness) damageLedger(at l2.Partition) {
	h.change(func(t *txn) {
		row := slices.Clone(t.get(bLedger, ledgerKey(at)))
		row[20] ^= 4
		t.put(bLedger, ledgerKey(at), row)
	})
}

// laterLedger writes a ledger's row as a later version would, which knows more.
func (h *harness) laterLedger(at l2.Partition) (restore func()) {
	key := ledgerKey(at)
	var was []byte
	put := func(row []byte) { h.change(func(t *txn) { t.put(bLedger, key, row) }) }
	h.change(func(t *txn) { was = slices.Clone(t.get(bLedger, key)) })
	row := append(slices.Clone(was[:len(was)-4]), "more"...)
	row[0] = settlesVersion + 1
	put(be32(row, (&ledger{key: key}).sum(row)))
	return func() { put(was) }
}

// tamper changes the bytes under a key, and leaves everything that points to
// them as it is, or as a restored entry would have it.
func (h *harness) tamper(at l2.Partition, key string, change func([]byte) []byte) {
	h.change(func(t *txn) {
		l, err := t.find(at)
		if err != nil || l == nil {
			h.t.Fatalf("no ledger of %s: %v", at, err)
		}
		k := entryKey(l.partition, key)
		var stored []byte
		if r, ok := parseRow(t.get(bEntry, k)); ok {
			if stored, ok = t.bytes(r, r.size); !ok {
				h.t.Fatal("pieces are missing")
			}
		}
		stored = change(stored)
		if r, ok := parseRow(t.get(bEntry, k)); ok && r.chunks != 0 {
			t.deleteChunks(r.chunks)
		}
		if stored == nil {
			t.delete(bEntry, k)
			return
		}
		first := inRow(k, len(stored))
		var id uint64
		if first < len(stored) {
			id = t.next(bChunk)
			t.putChunks(id, 0, stored[first:])
		}
		t.put(bEntry, k, append(be32(be64(nil, id), uint32(len(stored))), stored[:first]...))
	})
}

// kept is one bucket.
type kept struct {
	sequence uint64
	rows     map[string][]byte
}

// snapshot copies all rows, and the leases and followers beside them. It can be
// restored once.
func (h *harness) snapshot() (restore func()) {
	var saved [bucketCount]kept
	var leases map[leaseKey]lease
	var left map[leaseKey]passed
	followers := h.followers()
	numbers := maps.Clone(h.store.numbers.of)
	h.change(func(t *txn) {
		for b := range bucketCount {
			leases, left = maps.Clone(h.store.leases), maps.Clone(h.store.passed)
			saved[b] = kept{sequence: t.bucket(b).Sequence(), rows: map[string][]byte{}}
			t.bucket(b).ForEach(func(k, v []byte) error {
				saved[b].rows[string(k)] = slices.Clone(v)
				return nil
			})
		}
	})
	return func() {
		h.change(func(t *txn) {
			for b := range bucketCount {
				t.did(t.tx.DeleteBucket(b.name()))
				t.buckets[b] = nil
			}
			t.createBuckets()
			for b := range bucketCount {
				t.did(t.bucket(b).SetSequence(saved[b].sequence))
				for k, v := range saved[b].rows {
					t.put(b, []byte(k), v)
				}
			}
			h.store.leases, h.store.passed = maps.Clone(leases), maps.Clone(left)
			clear(h.store.leased)
			for k := range leases {
				h.store.noteLease(k)
			}
			h.store.followers.lists = maps.Clone(followers)
			h.store.numbers.of = maps.Clone(numbers)
		})
	}
}

// followers copies who is registered.
func (h *harness) followers() map[place]*list {
	copied := make(map[place]*list)
	for at, l := range h.store.followers.lists {
		copied[at] = &list{epoch: l.epoch, born: l.born, members: maps.Clone(l.members)}
	}
	return copied
}

// clock is a clock that stands still until it is told to go on.
type clock struct{ micros atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.micros.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixMicro())
	return c
}

func (c *clock) now() time.Time          { return time.UnixMicro(c.micros.Load()) }
func (c *clock) advance(d time.Duration) { c.micros.Add(d.Microseconds()) }
