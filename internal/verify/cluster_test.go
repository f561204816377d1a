package verify

import (
	"context"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2/redis"
)

// A master of a Redis Cluster dies and its replica takes over: the partition
// that it held takes a new epoch there, and the service goes on by itself.
func TestClusterMasterKilled(t *testing.T) {
	cluster := redistest.Cluster(t, redistest.Replicas())
	store, err := redis.Open(context.Background(), redis.Config{URL: cluster.URL(), Prefix: prefixOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	n := startNode(t, store, 1, disasterBound)
	lease := read(t, n, soracache.Read{Key: "k", Lease: true}).Lease
	write(t, n, fill("k", lease, "old", "t"))
	invalidate(t, n, soracache.Tag("t"))
	cluster.KillMaster(t, prefixOf(t)+"{default/0}t")
	took := eventually(t, 30*time.Second, "the node works on the new master", func() bool {
		rs, err := n.Get(context.Background(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k", Lease: true}}})
		if err != nil || rs[0].Err != nil {
			return false
		}
		if string(rs[0].Entry.Value) == "old" {
			t.Fatal("the old value is served")
		}
		if rs[0].Lease != (soracache.Lease{}) {
			_, _ = n.Write(context.Background(), soracache.WriteRequest{Writes: []soracache.Write{fill("k", rs[0].Lease, "new", "t")}})
		}
		return string(rs[0].Entry.Value) == "new"
	})
	t.Logf("a new epoch and a new value %s after the replica had taken over", took.Round(time.Millisecond))
}
