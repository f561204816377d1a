package l1

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/dgraph-io/ristretto/v2"
)

// tier is what both this package's cache and a plain Ristretto can do.
type tier interface {
	Get(Key) (blob, bool)
	Put(Key, blob) bool
	Bytes() int64 // of entries
	Close()
}

// maker makes a tier with room for entries of so many bytes together.
type maker func(room int64, hash func(Key) uint64) (tier, error)

type guarded struct{ *Cache[blob] }

func (g guarded) Bytes() int64 { return g.bytes.Load() }

func newGuarded(room int64, hash func(Key) uint64) (tier, error) {
	maxBytes := room + fixedBytes
	for budget(maxBytes) < room {
		maxBytes += 1 << 10
	}
	c, err := newCache(blobConfig(maxBytes), hash)
	return guarded{c}, err
}

// plain is Ristretto as its own documentation uses it.
type plain struct {
	r *ristretto.Cache[uint64, blob]
	h func(Key) uint64
}

func newPlain(room int64, hash func(Key) uint64) (tier, error) {
	r, err := ristretto.NewCache(&ristretto.Config[uint64, blob]{
		NumCounters: 1 << 14, MaxCost: room, BufferItems: 64, IgnoreInternalCost: true,
	})
	return plain{r, hash}, err
}

func (p plain) Get(k Key) (blob, bool) { return p.r.Get(p.h(k)) }
func (p plain) Put(k Key, v blob) bool { return p.r.Set(p.h(k), v, int64(v.size)) }
func (p plain) Bytes() int64           { p.r.Wait(); return p.r.MaxCost() - p.r.RemainingCost() }
func (p plain) Close()                 { p.r.Wait(); p.r.Close() }
func sequence(k Key) (h uint64)        { _, _ = fmt.Sscanf(k.Name, "product:%d", &h); return h }
func collide(Key) uint64               { return 42 }
func fresh(mk maker) (tier, error)     { return mk(8<<20, sequence) }
func colliding(mk maker) (tier, error) { return mk(8<<20, collide) }

// TestSurprises holds this package to what Ristretto does not do, and Ristretto
// to not doing it: a check that plain Ristretto passes proves nothing, or is a
// precaution that has become needless.
func TestSurprises(t *testing.T) {
	for _, surprise := range []struct {
		name  string
		check func(maker) error
	}{
		{"two quick puts of a new key keep the old value", quickPuts},
		{"a burst of puts is dropped", burst},
		{"updates outgrow the limit", growingUpdates},
		{"another key of the same hash gets the value", sameHash},
		{"a rejected update leaves the old value", rejectedUpdate},
	} {
		t.Run(surprise.name, func(t *testing.T) {
			if err := surprise.check(newGuarded); err != nil {
				t.Error(err)
			}
			for range 100 { // some need a little luck
				if surprise.check(newPlain) != nil {
					return
				}
			}
			t.Error("plain Ristretto does not surprise: this check shows nothing")
		})
	}
}

func quickPuts(mk maker) error {
	c, err := fresh(mk)
	if err != nil {
		return err
	}
	defer c.Close()
	const keys = 2000
	for i := range keys {
		c.Put(name(i), blob{id: 1, size: 100})
		c.Put(name(i), blob{id: 2, size: 100})
	}
	c.Bytes() // lets plain Ristretto finish
	for i := range keys {
		if v, ok := c.Get(name(i)); ok && v.id != 2 {
			return fmt.Errorf("key %d holds value %d after value 2 was put", i, v.id)
		}
	}
	return nil
}

func burst(mk maker) error {
	c, err := mk(64<<20, sequence)
	if err != nil {
		return err
	}
	defer c.Close()
	const writers, each = 8, 10_000
	failed := make([]error, writers)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				if !c.Put(name(w*each+i), blob{size: 16}) {
					failed[w] = fmt.Errorf("put %d of writer %d was dropped, with room for all", i, w)
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func growingUpdates(mk maker) error {
	const room = 8 << 20
	c, err := mk(room, sequence)
	if err != nil {
		return err
	}
	defer c.Close()
	for size := 100; size < 1<<20; size *= 2 {
		for i := range 100 {
			c.Put(name(i), blob{size: size})
		}
		if used := c.Bytes(); used > room {
			return fmt.Errorf("%d bytes in use of %d", used, room)
		}
	}
	return nil
}

func sameHash(mk maker) error {
	c, err := colliding(mk)
	if err != nil {
		return err
	}
	defer c.Close()
	c.Put(Key{1, "a"}, blob{id: 1})
	c.Bytes()
	for _, other := range []Key{{1, "b"}, {2, "a"}} {
		if v, ok := c.Get(other); ok {
			return fmt.Errorf("%v got the value %d of another key", other, v.id)
		}
	}
	return nil
}

// rejectedUpdate puts a value too large for the cache over one that fits,
// where it is not yet known that the first was taken.
func rejectedUpdate(mk maker) error {
	c, err := fresh(mk)
	if err != nil {
		return err
	}
	defer c.Close()
	c.Put(name(1), blob{id: 1, size: 100})
	c.Put(name(1), blob{id: 2, size: 9 << 20})
	if used := c.Bytes(); used > 8<<20 {
		return fmt.Errorf("%d bytes in use", used)
	}
	if v, ok := c.Get(name(1)); ok && v.id == 1 {
		return errors.New("the value replaced is still there")
	}
	return nil
}

// TestCostIsComplete holds Ristretto to adding nothing of its own to the cost.
func TestCostIsComplete(t *testing.T) {
	c := newBlobs(t, 8<<20)
	var want int64
	for i := range 1000 {
		if !c.Put(name(i), blob{size: i}) {
			t.Fatalf("put %d rejected with room left", i)
		}
		want += c.overhead + int64(Footprint(len(name(i).Name))) + int64(i)
	}
	if used := c.ristretto.MaxCost() - c.ristretto.RemainingCost(); used != want {
		t.Errorf("Ristretto counts %d bytes, want %d", used, want)
	}
	if got := c.bytes.Load(); got != want {
		t.Errorf("the cache counts %d bytes, want %d", got, want)
	}
	if s := c.Stats(); s.Entries != 1000 || s.Bytes != uint64(want+c.limit-c.budget) {
		t.Errorf("stats tell of %d entries and %d bytes", s.Entries, s.Bytes)
	}
}
