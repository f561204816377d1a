package embedded

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2test"
)

var at = l2.Partition{Namespace: "test", Count: 1}

// nonces gives every caller nonces of its own.
var nonces atomic.Uint64

func nonce() (n soracache.Lease) {
	binary.BigEndian.PutUint64(n[8:], nonces.Add(1))
	return n
}

// fillKeys leases and fills keys, each in a batch of as many as go together.
func fillKeys(t testing.TB, s *Store, keys []string, e soracache.Entry, life soracache.Lifetime) {
	t.Helper()
	for len(keys) > 0 {
		some := keys[:min(len(keys), 200)]
		keys = keys[len(some):]
		n := nonce()
		reads := make([]l2.ReadKey, len(some))
		writes := make([]l2.WriteRequest, len(some))
		for i, k := range some {
			reads[i] = l2.ReadKey{Key: k, Nonce: n, LeaseFor: time.Minute}
			writes[i] = l2.WriteRequest{Partition: at, Op: soracache.OpFill, Key: k, Nonce: n, Entry: e, Lifetime: life}
		}
		for _, a := range s.Read(t.Context(), []l2.ReadRequest{{Partition: at, Keys: reads}}) {
			if a.Err != nil {
				t.Fatal(a.Err)
			}
		}
		for i, a := range s.Write(t.Context(), writes) {
			if a.Err != nil || a.Reason != soracache.ReasonNone {
				t.Fatalf("fill of %q: %s, %v", some[i], a.Reason, a.Err)
			}
		}
	}
}

func keysNamed(prefix string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s%07d", prefix, i)
	}
	return keys
}

var long = soracache.Lifetime{TTL: time.Hour}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{100, 10 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("hit/%dB", size), func(b *testing.B) {
			s := openIn(b, b.TempDir())
			keys := keysNamed("product:", 16)
			if size < 1<<10 {
				keys = keysNamed("product:", 10_000)
			}
			fillKeys(b, s, keys, soracache.Entry{Value: make([]byte, size), Tags: []string{"featured", "products"}}, long)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					a := s.Read(context.Background(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: keys[i%len(keys)]}}}})
					if !a[0].Keys[0].Found {
						b.Error("a miss")
						return
					}
				}
			})
		})
	}
	b.Run("hit/100B/64 keys", func(b *testing.B) {
		s := openIn(b, b.TempDir())
		keys := keysNamed("product:", 64)
		fillKeys(b, s, keys, soracache.Entry{Value: make([]byte, 100), Tags: []string{"featured", "products"}}, long)
		var reads []l2.ReadKey
		for _, k := range keys {
			reads = append(reads, l2.ReadKey{Key: k})
		}
		for b.Loop() {
			s.Read(b.Context(), []l2.ReadRequest{{Partition: at, Keys: reads}})
		}
	})
}

// BenchmarkFill is a miss with a lease and its fill, by so many callers at once.
func BenchmarkFill(b *testing.B) {
	for _, size := range []int{100, 10 << 10} {
		for _, callers := range []int{2, 16, 128, 1024} {
			b.Run(fmt.Sprintf("%dB/%d callers", size, callers), func(b *testing.B) {
				s := openIn(b, b.TempDir())
				e := soracache.Entry{Value: make([]byte, size), Tags: []string{"featured", "products"}}
				keys := keysNamed("product:", 100_003)
				var next atomic.Uint64
				b.SetParallelism(callers / 2)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						i := next.Add(1) * 7919 % uint64(len(keys))
						if _, err := load(s, keys[i], e, long); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}

// load asks for a lease even if there is something live, and fills.
func load(s *Store, key string, e soracache.Entry, life soracache.Lifetime) (soracache.Reason, error) {
	n := nonce()
	read := s.Read(context.Background(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{
		{Key: key, Nonce: n, LeaseFor: time.Minute, RefreshWithin: 24 * time.Hour},
	}}})[0]
	if read.Err != nil {
		return 0, read.Err
	}
	a := s.Write(context.Background(), []l2.WriteRequest{
		{Partition: at, Op: soracache.OpFill, Key: key, Nonce: n, Entry: e, Lifetime: life},
	})[0]
	return a.Reason, a.Err
}

func BenchmarkInvalidate(b *testing.B) {
	for _, target := range []soracache.Target{soracache.Tag("products"), soracache.Key("product:1"), soracache.Everything()} {
		b.Run(target.String(), func(b *testing.B) {
			s := openIn(b, b.TempDir())
			fillKeys(b, s, keysNamed("product:", 10_000), soracache.Entry{Value: make([]byte, 100), Tags: []string{"products"}}, long)
			for b.Loop() {
				invalidate(b, s, target)
			}
		})
	}
}

func invalidate(t testing.TB, s *Store, targets ...soracache.Target) soracache.Record {
	t.Helper()
	a := s.Invalidate(context.Background(), []l2.InvalidateRequest{{Partition: at, Targets: targets}})[0]
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	return a.Record
}

// manyMembers is how many keys the larger tags of tagCosts have.
func manyMembers() int {
	if l2test.Verifying() {
		return 1_000_000
	}
	return 15_000 // more than are reclaimed meanwhile
}

// BenchmarkTagMembers reports the price of invalidating a tag of few keys and
// of many.
func BenchmarkTagMembers(b *testing.B) {
	few, many := tagCosts(b, manyMembers())
	for b.Loop() {
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(few.Nanoseconds())/1e3, "µs/10")
	b.ReportMetric(float64(many.Nanoseconds())/1e3, fmt.Sprintf("µs/%d", manyMembers()))
	b.ReportMetric(float64(many)/float64(few), "ratio")
}

// TestTagMembers is the promise: invalidating a tag takes the same time however
// many keys carry it.
func TestTagMembers(t *testing.T) {
	racetest.Without(t)
	few, many := tagCosts(t, manyMembers())
	t.Logf("invalidating a tag of 10 keys takes %s, of %d keys %s: ratio %.2f", few, manyMembers(), many, float64(many)/float64(few))
	// A step of the reclaim that happens to be in the way is a millisecond.
	if l2test.Verifying() && many > few*3/2+time.Millisecond {
		t.Errorf("more than 1.5 times as long")
	}
}

// tagCosts returns the median times that it takes to invalidate 20 fresh tags
// of 10 keys each and 20 of so many, in turn, while what they killed is being
// reclaimed.
func tagCosts(t testing.TB, members int) (few, many time.Duration) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.MaxBytes = 16 << 30 })
	const count = 20
	named := func(size string, i int) string { return fmt.Sprintf("%s%02d", size, i) }
	e := soracache.Entry{Value: make([]byte, 50)}
	for i := range count {
		e.Tags = []string{named("few", i)}
		fillKeys(t, s, keysNamed(e.Tags[0], 10), e, long)
	}
	e.Tags = []string{"all"}
	for i := range count {
		e.Tags = append(e.Tags, named("many", i))
	}
	began := time.Now()
	fillKeys(t, s, keysNamed("key", members), e, long)
	t.Logf("%d entries of %d tags filled in %s, %d MiB", members, count, time.Since(began), s.Counters().Bytes>>20)

	invalidate(t, s, soracache.Tag("all"))
	ctx, cancel := context.WithCancel(context.Background())
	var reclaimed atomic.Int64
	var reclaiming sync.WaitGroup
	reclaiming.Go(func() {
		for cursor := ""; ctx.Err() == nil; {
			next, n, err := s.Reclaim(ctx, at, "all", cursor)
			if err == nil {
				cursor = next
				reclaimed.Add(int64(n))
			}
		}
	})
	var times [2][]time.Duration
	for i := range count {
		for j, size := range []string{"few", "many"} {
			last := reclaimed.Load()
			eventually(t, "the reclaim goes on", func() bool { return reclaimed.Load() > last })
			began := time.Now()
			invalidate(t, s, soracache.Tag(named(size, i)))
			times[j] = append(times[j], time.Since(began))
		}
	}
	cancel()
	reclaiming.Wait()
	t.Logf("meanwhile %d entries were reclaimed", reclaimed.Load())
	for _, of := range times {
		slices.Sort(of)
	}
	return times[0][count/2], times[1][count/2]
}
