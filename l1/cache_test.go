package l1

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
)

func Example() {
	cache, err := New(Config[[]byte]{
		MaxBytes: 16 << 20,
		Size:     func(v []byte) int { return Footprint(cap(v)) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close()

	cache.Put(Key{Space: 1, Name: "greeting"}, []byte("hello"))
	v, ok := cache.Get(Key{Space: 1, Name: "greeting"})
	fmt.Println(string(v), ok)
	_, ok = cache.Get(Key{Space: 2, Name: "greeting"})
	fmt.Println(ok)
	// Output:
	// hello true
	// false
}

func TestValidate(t *testing.T) {
	for _, cfg := range []Config[blob]{
		{},
		{MaxBytes: leastBytes - 1, Size: blob.bytes},
		{MaxBytes: mostBytes + 1, Size: blob.bytes},
		{MaxBytes: leastBytes},
	} {
		if err := cfg.Validate(); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%d bytes: %v, want ErrInvalid", cfg.MaxBytes, err)
		}
		if c, err := New(cfg); err == nil {
			c.Close()
			t.Errorf("%d bytes: New took what Validate refuses", cfg.MaxBytes)
		}
	}
	if err := blobConfig(leastBytes).Validate(); err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	c := newBlobs(t, leastBytes)
	for i := range 1000 {
		c.Put(name(i%10), blob{id: i, size: 10})
		c.Remove(name(i % 10))
		if v, ok := c.Get(name(i % 10)); ok {
			t.Fatalf("round %d: found %d after Remove", i, v.id)
		}
	}
	c.Remove(name(-1)) // of nothing
	if s := c.Stats(); s.Entries != 0 || s.Bytes != uint64(c.limit-c.budget) {
		t.Errorf("%d entries, %d bytes after all were removed", s.Entries, s.Bytes)
	}
}

// TestFullBuffer stalls Ristretto and fills its buffer with removals, which
// nobody waits for: the next put must wait its turn, where Ristretto would drop
// it.
func TestFullBuffer(t *testing.T) {
	c, err := newCache(blobConfig(leastBytes), sequence)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	// A loop over the entries holds the lock of key 0's shard, which Ristretto
	// needs once it has decided to evict key 0 for key 1.
	c.Put(name(0), blob{size: 400_000})
	looping, release := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		c.ristretto.IterValues(func(*entry[blob]) bool {
			close(looping)
			<-release
			return true
		})
	})
	<-looping
	all.Go(func() { c.Put(name(1), blob{size: 500_000}) })
	for c.budget-c.ristretto.RemainingCost() < 500_000 {
		runtime.Gosched()
	}

	for range 32<<10 - 1 {
		c.Remove(name(2))
	}
	put := make(chan bool, 1)
	all.Go(func() { put <- c.Put(name(3), blob{size: 10}) })
	for c.stripes[3].TryLock() { // until the put has begun
		c.stripes[3].Unlock()
		runtime.Gosched()
	}
	for range 1000 {
		runtime.Gosched()
	}
	close(release)
	all.Wait()
	if _, ok := c.Get(name(3)); !<-put || !ok {
		t.Error("a put into a full buffer was dropped")
	}
	checkCounts(t, c)
}

func TestPutMany(t *testing.T) {
	for _, n := range []int{0, 1, runLength, 1000} {
		c := newBlobs(t, 8<<20)
		var items []Item[blob]
		for i := range n {
			items = append(items, Item[blob]{name(i), blob{id: i, size: 100}})
		}
		// The same keys again, within the same runs and in later ones.
		for i := range n {
			items = slices.Insert(items, 2*i+1, Item[blob]{name(i), blob{id: -i, size: 50 + 100*(i%2)}})
		}
		if taken := c.PutMany(items); taken != 2*n {
			t.Errorf("%d items: %d taken in", 2*n, taken)
		}
		for i := range n {
			if v, ok := c.Get(name(i)); !ok || v.id != -i {
				t.Fatalf("%d items: key %d holds %v, %v, want the later value", 2*n, i, v, ok)
			}
		}
		if s := c.Stats(); s.Entries != uint64(n) || s.Puts != uint64(2*n) {
			t.Errorf("%d items: %+v", 2*n, s)
		}
	}
}

func TestRejectionLeavesNothing(t *testing.T) {
	c := newBlobs(t, leastBytes)
	for _, put := range []func(Key, blob) bool{
		c.Put,
		func(k Key, v blob) bool { return c.PutMany([]Item[blob]{{k, v}}) == 1 },
	} {
		if !put(name(1), blob{id: 1, size: 10}) {
			t.Fatal("rejected with room left")
		}
		if put(name(1), blob{id: 2, size: leastBytes}) {
			t.Fatal("took in what is larger than the cache")
		}
		if v, ok := c.Get(name(1)); ok {
			t.Errorf("value %d is there after a newer one was put", v.id)
		}
	}
	if s := c.Stats(); s.Rejections != 2 || s.Puts != 2 || s.Entries != 0 {
		t.Errorf("%+v", s)
	}
}

// TestNewKeysKeepComing fills a cache several times over with keys that nobody
// has asked for: the latest must not be turned away in favour of the first.
func TestNewKeysKeepComing(t *testing.T) {
	c := newBlobs(t, leastBytes)
	for i := range 20_000 {
		if !c.Put(name(i), blob{size: 100}) {
			t.Fatalf("put %d was rejected", i)
		}
	}
	if s := c.Stats(); s.Evictions < 10_000 {
		t.Errorf("the cache was not filled: %+v", s)
	}
}

func TestNegativeSizeCostsNothing(t *testing.T) {
	c := newBlobs(t, leastBytes)
	c.Put(name(1), blob{size: -1 << 30})
	if got := c.bytes.Load(); got < c.overhead {
		t.Errorf("an entry costs %d bytes", got)
	}
}

func TestFullKeyIsCompared(t *testing.T) {
	c, err := newCache(blobConfig(leastBytes), collide)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	keys := []Key{{0, ""}, {0, "a"}, {1, "a"}, {1, "b"}}
	for i, k := range keys {
		if !c.Put(k, blob{id: i, size: 10 * i}) {
			t.Fatalf("put of %v rejected", k)
		}
		for j, other := range keys {
			if v, ok := c.Get(other); ok != (i == j) || ok && v.id != i {
				t.Errorf("after a put of %v, %v gives %d, %v", k, other, v.id, ok)
			}
		}
	}
	if s := c.Stats(); s.Entries != 1 {
		t.Errorf("%d entries under one hash", s.Entries)
	}
}

func TestHashesDiffer(t *testing.T) {
	c := newBlobs(t, leastBytes)
	seen := map[uint64]Key{}
	for space := range uint32(100) {
		for i := range 100 {
			k := Key{space, name(i).Name}
			if other, ok := seen[c.hash(k)]; ok {
				t.Fatalf("%v and %v have the same hash", k, other)
			}
			seen[c.hash(k)] = k
		}
	}
}

func TestClear(t *testing.T) {
	c := newBlobs(t, leastBytes)
	for range 2 {
		for i := range 5000 {
			c.Put(name(i), blob{size: 10})
		}
		before := c.Stats()
		if before.Entries == 0 || before.Evictions == 0 {
			t.Fatalf("the cache was not filled: %+v", before)
		}
		c.Clear()
		after := c.Stats()
		if after.Entries != 0 || after.Idle != 0 || after.Bytes != uint64(c.limit-c.budget) {
			t.Errorf("after Clear: %+v", after)
		}
		if after.Evictions != before.Evictions {
			t.Errorf("Clear counted %d evictions", after.Evictions-before.Evictions)
		}
		for i := range 5000 {
			if _, ok := c.Get(name(i)); ok {
				t.Fatalf("key %d survived Clear", i)
			}
		}
		if got := c.ristretto.MaxCost(); got != c.budget {
			t.Errorf("room for %d bytes after Clear, want %d", got, c.budget)
		}
	}
}

func TestStatsCount(t *testing.T) {
	c := newBlobs(t, leastBytes)
	c.Put(name(1), blob{size: 10})
	for range 5 {
		c.Get(name(1))
	}
	for i := range 7 {
		c.Get(name(100 + i))
	}
	if s := c.Stats(); s.Hits != 5 || s.Misses != 7 || s.Puts != 1 || s.Limit != leastBytes {
		t.Errorf("%+v", s)
	}
	// Every put is taken in or rejected, and what was taken in is there,
	// replaced or evicted.
	for i := range 10_000 {
		size := rand.IntN(1000)
		if i%100 == 0 {
			size = leastBytes
		}
		c.Put(name(i), blob{size: size})
	}
	if s := c.Stats(); s.Puts+s.Rejections != 10_001 || s.Rejections < 100 || s.Evictions == 0 ||
		s.Puts != s.Entries+s.Evictions+1 {
		t.Errorf("%+v", s)
	}
}

func TestGetAllocatesNothing(t *testing.T) {
	c := newBlobs(t, leastBytes)
	c.Put(name(1), blob{id: 1, size: 10})
	hit, miss := name(1), name(2)
	if n := testing.AllocsPerRun(10_000, func() { c.Get(hit) }); n != 0 {
		t.Errorf("%v allocations on a hit", n)
	}
	if n := testing.AllocsPerRun(10_000, func() { c.Get(miss) }); n != 0 {
		t.Errorf("%v allocations on a miss", n)
	}
}

// TestInABubble is for tests in virtual time that hold a cache: it must
// not keep the bubble's clock from moving, nor its goroutines outlive it.
func TestInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(blobConfig(8 << 20))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for day := range 30 {
			if !c.Put(name(day), blob{id: day, size: 10}) {
				t.Errorf("day %d: rejected", day)
			}
			c.PutMany([]Item[blob]{{name(100), blob{id: day}}})
			synctest.Wait() // returns only if the cache's goroutines are at rest
			time.Sleep(24 * time.Hour)
			if v, ok := c.Get(name(100)); !ok || v.id != day {
				t.Errorf("day %d: got %v, %v", day, v, ok)
			}
		}
		if passed := time.Since(start); passed != 30*24*time.Hour {
			t.Errorf("%s passed", passed)
		}
		c.Remove(name(100))
		c.Clear()
		c.Close()
	})
}

func TestBoundedByCount(t *testing.T) {
	c, err := New(Config[int]{MaxEntries: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 1000 {
		c.Put(Key{Name: strconv.Itoa(i)}, i)
	}
	held := 0
	for i := range 1000 {
		if v, ok := c.Get(Key{Name: strconv.Itoa(i)}); ok {
			held++
			if v != i {
				t.Fatalf("key %d holds %d", i, v)
			}
		}
	}
	if held == 0 || held > 100 {
		t.Errorf("%d entries are held of at most 100", held)
	}
	if s := c.Stats(); s.Entries != uint64(held) || s.Limit != 100 {
		t.Errorf("stats say %+v, %d are held", s, held)
	}
	for _, bad := range []Config[int]{{}, {MaxEntries: 3}, {MaxEntries: -1}, {MaxBytes: 1 << 20}} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
