package l1

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

// benchKeys returns n keys, a power of two.
func benchKeys(n int) []Key {
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = Key{Space: 1, Name: name(i).Name}
	}
	return keys
}

// benchPair is this package's cache and a Ristretto as its documentation has
// it, both with room for all keys and holding them.
type benchPair struct {
	keys []Key
	ours *Cache[*node]
	raw  *ristretto.Cache[string, *node]
}

func newBenchPair(b *testing.B, keys int) benchPair {
	b.Helper()
	ours, err := New(Config[*node]{MaxBytes: 256 << 20, Size: (*node).bytes})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(ours.Close)
	raw, err := ristretto.NewCache(&ristretto.Config[string, *node]{
		NumCounters: numCounters(counters(256 << 20)), MaxCost: 256 << 20, BufferItems: 64,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(raw.Close)
	p := benchPair{benchKeys(keys), ours, raw}
	for i, k := range p.keys {
		n := newNode(i, 100)
		ours.Put(k, n)
		for !raw.Set(k.Name, n, 500) {
			raw.Wait()
		}
	}
	raw.Wait()
	return p
}

func (p benchPair) getOurs(i int) bool {
	n, ok := p.ours.Get(p.keys[i&(len(p.keys)-1)])
	return ok && n != nil
}

func (p benchPair) getRaw(i int) bool {
	n, ok := p.raw.Get(p.keys[i&(len(p.keys)-1)].Name)
	return ok && n != nil
}

// getUncounted is Get without its counters, and so without a safe Close.
func (p benchPair) getUncounted(i int) bool {
	k := p.keys[i&(len(p.keys)-1)]
	e := p.ours.lookup(p.ours.hash(k), k)
	return e != nil && e.value != nil
}

// BenchmarkGet times hits on few keys, that the processor's caches hold, and
// on many; BenchmarkGetRatio compares.
func BenchmarkGet(b *testing.B) {
	for _, keys := range []int{1 << 8, 1 << 16} {
		p := newBenchPair(b, keys)
		for _, way := range []struct {
			name string
			get  func(int) bool
		}{{"ristretto", p.getRaw}, {"uncounted", p.getUncounted}, {"l1", p.getOurs}} {
			b.Run(fmt.Sprintf("%s/keys=%d/serial", way.name, keys), func(b *testing.B) {
				b.ReportAllocs()
				for i := range b.N {
					if !way.get(i) {
						b.Fatal("a miss")
					}
				}
			})
			b.Run(fmt.Sprintf("%s/keys=%d/parallel", way.name, keys), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for i := rand.IntN(keys); pb.Next(); i++ {
						if !way.get(i) {
							b.Error("a miss")
						}
					}
				})
			})
		}
	}
}

// BenchmarkGetRatio takes turns of a few microseconds between the three ways
// and compares the medians, so that whatever else the machine does falls on all
// alike and counts for little.
func BenchmarkGetRatio(b *testing.B) {
	const turn = 64
	for _, keys := range []int{1 << 8, 1 << 16} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			p := newBenchPair(b, keys)
			ways := []func(int) bool{p.getRaw, p.getUncounted, p.getOurs}
			took := make([][]float64, len(ways))
			b.ResetTimer()
			for i := 0; i < b.N; i += turn {
				for way, get := range ways {
					from := i + way*keys/len(ways) // not what another way has just warmed
					start := time.Now()
					for j := range turn {
						get(from + j)
					}
					took[way] = append(took[way], float64(time.Since(start).Nanoseconds())/turn)
				}
			}
			raw, uncounted, ours := median(took[0]), median(took[1]), median(took[2])
			b.ReportMetric(0, "ns/op") // of all three together: says nothing
			b.ReportMetric(raw, "raw-ns")
			b.ReportMetric(ours, "l1-ns")
			b.ReportMetric(ours/raw, "l1/raw")
			b.ReportMetric(ours/uncounted, "l1/uncounted")
		})
	}
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// BenchmarkPut times puts of new keys into a full cache and into one with room,
// and of keys that are held. Ristretto's own are beside them: those are handed
// over, or dropped, and not yet done when Set returns.
func BenchmarkPut(b *testing.B) {
	keys := benchKeys(1 << 18)
	n := newNode(0, 100)
	const full, roomy = 8 << 20, 512 << 20
	for _, load := range []struct {
		name     string
		maxBytes int64
		distinct int
	}{{"new-full", full, 1 << 18}, {"new-roomy", roomy, 1 << 18}, {"update", roomy, 1 << 10}} {
		key := func(i int64) Key { return keys[i&int64(load.distinct-1)] }
		b.Run(load.name+"/ristretto", func(b *testing.B) {
			raw, err := ristretto.NewCache(&ristretto.Config[string, *node]{
				NumCounters: numCounters(counters(load.maxBytes)), MaxCost: load.maxBytes, BufferItems: 64,
			})
			if err != nil {
				b.Fatal(err)
			}
			defer raw.Close()
			dropped := 0
			for i := range b.N {
				if !raw.Set(key(int64(i)).Name, n, int64(n.bytes())) {
					dropped++
				}
			}
			raw.Wait()
			b.ReportMetric(100*float64(dropped)/float64(b.N), "%dropped")
		})
		b.Run(load.name+"/serial", func(b *testing.B) {
			c := newBenchCache(b, load.maxBytes)
			for i := range b.N {
				c.Put(key(int64(i)), n)
			}
		})
		b.Run(load.name+"/parallel", func(b *testing.B) {
			c := newBenchCache(b, load.maxBytes)
			var next atomic.Int64
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					c.Put(key(next.Add(1)), n)
				}
			})
		})
		b.Run(load.name+"/many=64", func(b *testing.B) {
			c := newBenchCache(b, load.maxBytes)
			items := make([]Item[*node], 64)
			for i := 0; i < b.N; i += len(items) {
				for j := range items {
					items[j] = Item[*node]{key(int64(i + j)), n}
				}
				c.PutMany(items)
			}
		})
	}
}

func newBenchCache(b *testing.B, maxBytes int64) *Cache[*node] {
	b.Helper()
	c, err := New(Config[*node]{MaxBytes: maxBytes, Size: (*node).bytes})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	b.ReportAllocs()
	b.ResetTimer()
	return c
}
