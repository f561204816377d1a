package verify

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2/redis"
)

// The price list: what each operation of a node costs in commands and in
// dependent round trips, counted by a proxy in front of Redis.
func TestPriceList(t *testing.T) {
	deployments := []struct {
		name       string
		partitions int
		url        func(t *testing.T) string
	}{
		{"standalone", 1, func(t *testing.T) string { return redistest.Standalone(t).URL() }},
		{"cluster", 1, func(t *testing.T) string { return redistest.SharedCluster(t).URL() }},
		{"cluster of 4 partitions", 4, func(t *testing.T) string { return redistest.SharedCluster(t).URL() }},
	}
	for _, d := range deployments {
		t.Run(d.name, func(t *testing.T) {
			proxy := redistest.NewProxy(t)
			store, err := redis.Open(context.Background(), redis.Config{URL: d.url(t), Prefix: prefixOf(t), Dial: proxy.Dial})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			n, err := node.New(node.Config{
				Store: store, L1MaxBytes: 16 << 20, Partitions: func(string) int { return d.partitions },
				// Confirmations and housekeeping are no part of an operation.
				Bound: time.Minute, SweepEvery: time.Hour, ReclaimAfter: time.Hour,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = n.Close() })
			prices(t, proxy, n, d.partitions)
		})
	}
}

func prices(t *testing.T, proxy *redistest.Proxy, n *node.Node, partitions int) {
	keys := make([]soracache.Read, 50) // of one partition
	for i, found := 0, 0; found < len(keys); i++ {
		key := fmt.Sprint("many", i)
		if soracache.PartitionOf(key, partitions) == 0 {
			keys[found] = soracache.Read{Key: key}
			found++
		}
	}
	key := keys[0].Key
	get := func(reads ...soracache.Read) []soracache.ReadResult {
		rs, err := n.Get(context.Background(), soracache.GetRequest{Reads: reads})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		return rs
	}
	// Every kind of script is loaded, every connection open, every ledger there.
	for range 3 {
		write(t, n, put(key, "v", "t"))
		lease := get(soracache.Read{Key: "warm up", Lease: true})[0].Lease
		write(t, n, soracache.Write{Op: soracache.OpRenew, Key: "warm up", Lease: lease})
		write(t, n, fill("warm up", lease, "v", "t"))
		invalidate(t, n, soracache.Key("warm up"))
		lease = get(soracache.Read{Key: "warm up", Lease: true})[0].Lease
		write(t, n, soracache.Write{Op: soracache.OpRelease, Key: "warm up", Lease: lease})
		invalidate(t, n, soracache.Everything())
		if _, err := n.Head(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
	}
	// What does not wait for each other overlaps visibly.
	proxy.Latency(3 * time.Millisecond)

	charge := func(what string, trips, commands int, op func()) {
		t.Helper()
		proxy.Reset()
		op()
		c := proxy.Counts()
		t.Logf("%-48s %d round trips, %d commands", what, c.RoundTrips, c.Total())
		if c.RoundTrips != trips || c.Total() != commands {
			t.Errorf("%s: %d round trips and %d commands, want %d and %d: %s", what, c.RoundTrips, c.Total(), trips, commands, c)
		}
	}
	var lease soracache.Lease
	charge("miss with a lease", 1, 1, func() { lease = get(soracache.Read{Key: key, Lease: true})[0].Lease })
	charge("renew", 1, 1, func() { write(t, n, soracache.Write{Op: soracache.OpRenew, Key: key, Lease: lease}) })
	charge("fill with three tags", 1, 1, func() { write(t, n, fill(key, lease, "v", "a", "b", "c")) })
	charge("hit in L1", 0, 0, func() { get(soracache.Read{Key: key, Lease: true}) })
	charge("put with three tags", 1, 1, func() { write(t, n, put(key, "v", "a", "b", "c")) })
	charge("hit in L2", 1, 1, func() { get(soracache.Read{Key: key, Lease: true}) })
	charge("hit in L1 after it", 0, 0, func() { get(soracache.Read{Key: key}) })
	charge("50 keys of a partition", 1, 1, func() { get(keys...) })
	charge("invalidate a key", 1, 1, func() { invalidate(t, n, soracache.Key(key)) })
	charge("miss without a lease", 1, 1, func() { get(soracache.Read{Key: key}) })
	lease = get(soracache.Read{Key: key, Lease: true})[0].Lease
	charge("release", 1, 1, func() { write(t, n, soracache.Write{Op: soracache.OpRelease, Key: key, Lease: lease}) })
	// The invalidation of a tag reaches every partition, all at once: on a
	// cluster one pipeline to each server, none waiting for another.
	charge("invalidate a tag that nothing has", 1, partitions, func() { invalidate(t, n, soracache.Tag("unused")) })
	proxy.Reset()
	if _, err := n.Head(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	if c := proxy.Counts(); c.Total() != 0 {
		t.Errorf("a confirmed head costs %s", c)
	}
}
