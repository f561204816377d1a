package l1

import (
	"runtime"
	"testing"
	"unsafe"

	"github.com/dgraph-io/ristretto/v2"

	"github.com/soracache/soracache/internal/racetest"
)

func TestFootprintIsTheAllocators(t *testing.T) {
	for n := 0; n < 100_000; n += 1 + n/500 {
		// append rounds a new slice's capacity up to what is allocated.
		want := cap(append([]byte(nil), make([]byte, n)...))
		if n > 0 && n <= 16 {
			want = 16 // a shared block
		}
		if got := Footprint(n); got != want {
			t.Fatalf("Footprint(%d) = %d, the allocator takes %d", n, got, want)
		}
	}
	if Footprint(-1) != 0 {
		t.Error("nothing occupies nothing")
	}
}

// TestCountersFillTheirMemory holds the sizing of the admission policy to
// Ristretto's rounding, of the sketch and of the Bloom filter.
func TestCountersFillTheirMemory(t *testing.T) {
	for _, maxBytes := range []int64{leastBytes, 100 << 20, 256 << 20} {
		n := counters(maxBytes)
		if n*bytesPerCounter > maxBytes || n*bytesPerCounter*2 <= maxBytes {
			t.Errorf("%d bytes: %d counters", maxBytes, n)
		}
	}
	for _, maxBytes := range []int64{leastBytes, 64 << 20} {
		c, took := weigh(func() *Cache[blob] { return newBlobs(t, maxBytes) })
		if fixed := c.limit - c.budget; took > fixed || took < fixed*9/10 {
			t.Errorf("an empty cache of %d bytes takes %d, charged %d", maxBytes, took, fixed)
		}
	}
}

// weigh returns what build returned and the memory that it holds on to.
func weigh[T any](build func() T) (T, int64) {
	before := liveHeap()
	built := build()
	took := liveHeap() - before
	runtime.KeepAlive(built)
	return built, took
}

func liveHeap() int64 {
	runtime.GC() // twice: pools keep what they hold for one more
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestTableBytes measures what Ristretto's tables take for an entry, new and
// after churn, at counts where they have just grown and where they are full.
// The table in DESIGN.md goes on to 2.5 million.
func TestTableBytes(t *testing.T) {
	if racetest.Enabled {
		t.Skip("the race detector changes what memory is taken")
	}
	one := new(entry[*node])
	var most float64
	for _, n := range []int{1000, 2440, 3050, 4765, 14_540, 18_175} {
		r, err := ristretto.NewCache(&ristretto.Config[uint64, *entry[*node]]{
			NumCounters: 64, MaxCost: int64(n), BufferItems: 64, IgnoreInternalCost: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		next := uint64(0)
		fill := func(entries int) *ristretto.Cache[uint64, *entry[*node]] {
			for range entries {
				next += 0x9e3779b97f4a7c15
				for !r.Set(next, one, 1) {
					r.Wait()
				}
			}
			r.Wait()
			return r
		}
		_, fresh := weigh(func() any { return fill(n) })
		_, more := weigh(func() any { return fill(9 * n) })
		perFresh, perChurned := float64(fresh)/float64(n), float64(fresh+more)/float64(n)
		t.Logf("%6d entries: %.0f bytes each when new, %.0f after churn", n, perFresh, perChurned)
		most = max(most, perFresh, perChurned)
		r.Close()
	}
	// Over by little at counts so small that it does not matter.
	if most > tableBytes*1.05 || most < tableBytes*0.75 {
		t.Errorf("at most %.0f bytes an entry, charged %d", most, tableBytes)
	}
	if size := unsafe.Sizeof(entry[*node]{}); size != 48 {
		t.Errorf("an entry of ours takes %d bytes, DESIGN.md says 48", size)
	}
}
