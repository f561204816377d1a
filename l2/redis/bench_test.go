package redis

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
)

var benchPartition = l2.Partition{Namespace: "bench", Count: 1}

const benchKeys = 4096

// benchStore is a store with live entries of two tags and 512 bytes, and the
// stamp of its head.
func benchStore(b *testing.B) (*Store, soracache.Stamp) {
	b.Helper()
	s := openAt(b, Config{URL: redistest.Shared(b).URL(), Prefix: prefixOf(b)})
	ctx := context.Background()
	for from := 0; from < benchKeys; from += 256 {
		var puts []l2.WriteRequest
		for i := from; i < from+256; i++ {
			puts = append(puts, l2.WriteRequest{
				Partition: benchPartition, Op: soracache.OpPut, Key: benchKey(i),
				Entry: soracache.Entry{
					Value: make([]byte, 512), Encoding: "json",
					Tags: []string{"products", fmt.Sprintf("product:%d", i)},
				},
				Lifetime: soracache.Lifetime{TTL: time.Hour},
			})
		}
		for _, a := range s.Write(ctx, puts) {
			if a.Err != nil {
				b.Fatal(a.Err)
			}
		}
	}
	d := s.Since(ctx, []l2.SinceRequest{{Partition: benchPartition}})[0].Delta
	return s, soracache.Stamp{Epoch: d.Epoch, Position: d.Head}
}

func benchKey(i int) string { return fmt.Sprintf("product:%d", i%benchKeys) }

// BenchmarkRead reads live entries, as a node does that follows the ledger.
func BenchmarkRead(b *testing.B) { benchRead(b, l2.Registration{}) }

// BenchmarkReadRegistering does the same by one who registers.
func BenchmarkReadRegistering(b *testing.B) {
	benchRead(b, l2.Registration{Name: "host:7070-3f9a2c", Bound: time.Second})
}

func benchRead(b *testing.B, by l2.Registration) {
	b.Helper()
	s, since := benchStore(b)
	for _, size := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("keys=%d", size), func(b *testing.B) {
			var seq atomic.Uint64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				ctx := context.Background()
				at := int(seq.Add(7919))
				for pb.Next() {
					keys := make([]l2.ReadKey, size)
					for i := range keys {
						at++
						keys[i] = l2.ReadKey{Key: benchKey(at), Nonce: soracache.Lease{1}, LeaseFor: time.Second}
					}
					a := s.Read(ctx, []l2.ReadRequest{{Partition: benchPartition, Since: since, Register: by, Keys: keys}})[0]
					if a.Err != nil || !a.Keys[0].Found {
						b.Fatalf("%+v", a)
					}
				}
			})
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}

// BenchmarkFill takes a lease and fills under it: two operations.
func BenchmarkFill(b *testing.B) {
	s, since := benchStore(b)
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for pb.Next() {
			n := s.config.Random()
			var nonce soracache.Lease
			binary.BigEndian.PutUint64(nonce[:], n)
			key := fmt.Sprintf("new:%d", n)
			s.Read(ctx, []l2.ReadRequest{{Partition: benchPartition, Since: since, Keys: []l2.ReadKey{{Key: key, Nonce: nonce}}}})
			a := s.Write(ctx, []l2.WriteRequest{{
				Partition: benchPartition, Since: since, Op: soracache.OpFill, Key: key, Nonce: nonce,
				Entry:    soracache.Entry{Value: make([]byte, 512), Tags: []string{"products", key}},
				Lifetime: soracache.Lifetime{TTL: time.Minute},
			}})[0]
			if a.Err != nil || a.Reason != soracache.ReasonNone {
				b.Fatalf("%+v", a)
			}
		}
	})
}

// BenchmarkInvalidate invalidates one tag of many.
func BenchmarkInvalidate(b *testing.B) {
	s, _ := benchStore(b)
	var seq atomic.Uint64
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for pb.Next() {
			a := s.Invalidate(ctx, []l2.InvalidateRequest{{
				Partition: benchPartition,
				Targets:   []soracache.Target{soracache.Tag(fmt.Sprintf("product:%d", seq.Add(1)))},
			}})[0]
			if a.Err != nil {
				b.Fatal(a.Err)
			}
		}
	})
}
