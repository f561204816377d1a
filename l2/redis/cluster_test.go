package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
)

// A client that the application made itself, with the library's defaults,
// serves as well, and repeats no more.
func TestOwnClients(t *testing.T) {
	servers := redistest.SharedCluster(t)
	clients := map[string]goredis.UniversalClient{
		"standalone": goredis.NewClient(&goredis.Options{Addr: redistest.Shared(t).Addr}),
		"cluster":    goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: servers.Addrs()}),
	}
	for name, client := range clients {
		s, err := New(client, Config{Prefix: prefixOf(t)})
		if err != nil {
			t.Fatal(err)
		}
		u := &user{t, s, l2.Partition{Namespace: "own", Count: 4}, client}
		for i := range u.at.Count {
			u.at.Index = i
			u.fill("k", u.lease("k", 1), name, "t")
			u.hit("k", name)
			u.invalidate(soracache.Tag("t"))
			u.miss("k")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := client.Ping(t.Context()).Err(); err != nil {
			t.Errorf("%s: the store closed a client that is not its own: %v", name, err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}

// While a slot moves to another master its partition may be unavailable, but
// nothing stale is served; afterwards it starts anew there.
func TestSlotMigration(t *testing.T) {
	servers := redistest.Cluster(t)
	u := &user{t, openAt(t, Config{URL: servers.URL()}), l2.Partition{Namespace: "shop", Count: 1}, servers.Client(t)}
	u.fill("k", u.lease("k", 1), "old", "t")
	u.fill("kept", u.lease("kept", 1), "kept", "u")
	nonce := u.lease("leased", 1)
	u.invalidate(soracache.Tag("t"))

	ctx := t.Context()
	try := func(when string) {
		t.Helper()
		for key, fine := range map[string]string{"k": "", "kept": "kept", "absent": ""} {
			a, err := u.tryRead(l2.ReadKey{Key: key})
			if err != nil && !isUnavailable(err) || a.Found && string(a.Entry.Value) != fine {
				t.Fatalf("%s: read of %q: %+v, %v", when, key, a, err)
			}
		}
	}
	source := servers.Owner(t, u.name("t"))
	target := servers.Masters[0]
	if target == source {
		target = servers.Masters[1]
	}
	from, to := source.Client(t), target.Client(t)
	slot := from.ClusterKeySlot(ctx, u.name("t")).Val()
	id := func(c *goredis.Client) string { return c.Do(ctx, "CLUSTER", "MYID").Val().(string) }
	must := func(c *goredis.Client, args ...any) {
		t.Helper()
		if err := c.Do(ctx, args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	host, port, _ := strings.Cut(target.Addr, ":")
	must(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", id(from))
	must(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", id(to))
	try("before any key moved")
	names := from.ClusterGetKeysInSlot(ctx, int(slot), 1000).Val()
	for _, name := range names {
		must(from, "MIGRATE", host, port, name, 0, 5000, "REPLACE")
		try("after " + name + " moved")
	}
	must(to, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
	must(from, "CLUSTER", "SETSLOT", slot, "NODE", id(to))
	redistest.Eventually(t, 5*time.Second, "the partition answers at its new place", func() bool {
		_, err := u.tryRead(l2.ReadKey{Key: "k"})
		return err == nil
	})
	try("after the slot moved")
	if a := u.fill("leased", nonce, "old", "t"); a.Reason == soracache.ReasonNone {
		t.Fatal("a fill from before the invalidation was stored")
	}
	u.fill("k", u.lease("k", 2), "new", "t")
	u.hit("k", "new")
}

// Batches far over any usual limit are still one atomic step.
func TestLargeBatches(t *testing.T) {
	const n = 9001 // keys and tags, more than Lua can pass at once
	u := newUser(t)
	start := u.head()
	var keys []l2.ReadKey
	var targets []soracache.Target
	for i := range n {
		key := fmt.Sprint("k", i)
		keys = append(keys, l2.ReadKey{Key: key, Nonce: soracache.Lease{1}})
		targets = append(targets, soracache.Key(key), soracache.Tag(key))
	}
	u.put("k0", "v", "k1")
	u.put(fmt.Sprint("k", n-1), "v")
	a := u.Read(t.Context(), []l2.ReadRequest{{Partition: u.at, Keys: keys}})[0]
	if a.Err != nil || !a.Keys[0].Found || !a.Keys[n-1].Found || a.Keys[5000].Lease != soracache.LeaseGranted {
		t.Fatalf("read: %v", a.Err)
	}
	r := u.invalidate(targets...)
	u.miss("k0")
	u.miss(fmt.Sprint("k", n-1))
	if left := keysOf(t, u.admin, u.name("l:")); len(left) > 0 {
		t.Errorf("%d leases are left", len(left))
	}
	d := u.since(start)
	if d.Reset || d.More || d.Head != r.Position || len(d.Records) != 1 || len(d.Records[0].Targets) != 2*n {
		t.Fatalf("delta: reset %v, more %v, %d records", d.Reset, d.More, len(d.Records))
	}
}

// One partition's trouble is not another's.
func TestPartitionCount(t *testing.T) {
	u := newUser(t)
	u.put("k", "v")
	other := u.at
	other.Count = 2
	answers := u.Read(context.Background(), []l2.ReadRequest{
		{Partition: u.at, Keys: []l2.ReadKey{{Key: "k"}}},
		{Partition: other, Keys: []l2.ReadKey{{Key: "k"}}},
	})
	if answers[0].Err != nil || !answers[0].Keys[0].Found {
		t.Errorf("the right one: %+v", answers[0])
	}
	err := answers[1].Err
	if !errors.Is(err, l2.ErrPartitions) || !strings.Contains(err.Error(), "shop has 1") {
		t.Errorf("the wrong one: %v", err)
	}
}
