package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2/redis"
)

const disasterBound = 300 * time.Millisecond

// scene is two nodes on a Redis that something happens to. Before it happens,
// "tagged" was filled and killed by its tag, "removed" was filled and removed,
// "replaced" was overwritten, and all of their old bytes were put aside; the
// nodes know of all that. "live" is untouched.
type scene struct {
	t      *testing.T
	server *redistest.Server
	prefix string
	nodes  []*node.Node
	dumps  map[string]string // of the old entries, by Redis key
}

func (s *scene) key(kind string) string { return s.prefix + "{default/0}" + kind }

func newScene(t *testing.T, opts ...redistest.Option) *scene {
	s := &scene{t: t, server: redistest.Standalone(t, opts...), prefix: prefixOf(t), dumps: map[string]string{}}
	for range 2 {
		store, err := redis.Open(context.Background(), redis.Config{URL: s.server.URL(), Prefix: s.prefix})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		// Nothing is reclaimed: what is dead stays, and only the rule keeps it so.
		n, err := node.New(node.Config{
			Store: store, Bound: disasterBound, L1MaxBytes: 16 << 20, StoreTimeout: time.Second, ReclaimAfter: time.Hour,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		s.nodes = append(s.nodes, n)
	}
	for _, key := range []string{"tagged", "removed", "replaced", "live"} {
		lease := read(t, s.nodes[0], soracache.Read{Key: key, Lease: true}).Lease
		if !write(t, s.nodes[0], fill(key, lease, "old", "tag of "+key))[0].Stored {
			t.Fatalf("%s was not stored", key)
		}
	}
	return s
}

// kill makes all but live dead, and both nodes know it.
func (s *scene) kill() {
	s.t.Helper()
	for _, key := range []string{"tagged", "removed", "replaced"} {
		s.dumps[s.key("e:"+key)] = s.server.Do(s.t, "DUMP", s.key("e:"+key)).(string)
	}
	invalidate(s.t, s.nodes[0], soracache.Tag("tag of tagged"))
	invalidate(s.t, s.nodes[0], soracache.Key("removed"))
	write(s.t, s.nodes[0], put("replaced", "new", "tag of replaced"))
	for _, n := range s.nodes {
		eventually(s.t, 5*time.Second, "the node has followed", func() bool {
			head, err := n.Head(context.Background(), "")
			other, _ := s.nodes[0].Head(context.Background(), "")
			return err == nil && head.Stamp[0] == other.Stamp[0]
		})
	}
	s.nothingOld()
}

// nothingOld looks for a while: no node ever serves what was killed.
func (s *scene) nothingOld() {
	s.t.Helper()
	for range 20 {
		for i, n := range s.nodes {
			for _, key := range []string{"tagged", "removed", "replaced"} {
				rs, err := n.Get(context.Background(), soracache.GetRequest{Reads: []soracache.Read{{Key: key}}})
				if err == nil {
					err = rs[0].Err
				}
				if err != nil {
					if !errors.Is(err, soracache.ErrUnavailable) {
						s.t.Errorf("%s on node %d: %v", key, i, err)
					}
					continue
				}
				if string(rs[0].Entry.Value) == "old" {
					s.t.Fatalf("node %d serves the old value of %s from %s", i, key, rs[0].Tier)
				}
			}
		}
	}
}

// recovers shows that the service works again by itself, and how soon.
func (s *scene) recovers() {
	s.t.Helper()
	for i, n := range s.nodes {
		value := fmt.Sprint("after ", i)
		took := eventually(s.t, 2*time.Second, fmt.Sprintf("node %d stores and serves", i), func() bool {
			rs, err := n.Get(context.Background(), soracache.GetRequest{Reads: []soracache.Read{{Key: value, Lease: true}}})
			if err != nil || rs[0].Err != nil {
				return false
			}
			if rs[0].Lease != (soracache.Lease{}) {
				_, _ = n.Write(context.Background(), soracache.WriteRequest{Writes: []soracache.Write{fill(value, rs[0].Lease, value)}})
			}
			return string(rs[0].Entry.Value) == value
		})
		s.t.Logf("node %d: recovered in %s", i, took.Round(time.Millisecond))
	}
	s.nothingOld()
}

func TestRedisRestartedEmpty(t *testing.T) {
	s := newScene(t)
	s.kill()
	s.server.Kill()
	s.nothingOld()
	s.server.RestartEmpty(t)
	s.nothingOld()
	s.recovers()
}

func TestRedisFlushed(t *testing.T) {
	s := newScene(t)
	s.kill()
	s.server.Do(t, "FLUSHALL")
	s.nothingOld()
	s.recovers()
}

func TestLedgerKeyDeleted(t *testing.T) {
	for _, kind := range []string{"t", "k", "h", "x", "t k", "t k h x"} {
		t.Run(kind, func(t *testing.T) {
			s := newScene(t)
			s.kill()
			for _, k := range strings.Fields(kind) {
				s.server.Do(t, "DEL", s.key(k))
			}
			s.nothingOld()
			time.Sleep(2 * disasterBound) // and not once L1 has nothing left to say
			s.nothingOld()
			s.recovers()
		})
	}
}

// An idle namespace's ledger is evicted while another namespace fills the
// memory. Its dead entries must not come back to life.
func TestLedgerEvicted(t *testing.T) {
	s := newScene(t)
	s.kill()
	s.server.Do(t, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
	s.server.Do(t, "CONFIG", "SET", "maxmemory", "8mb")
	filler := strings.Repeat("x", 16<<10)
	gone := func() bool { return s.server.Do(t, "EXISTS", s.key("t")).(int64) == 0 }
	for i := 0; !gone(); i++ {
		if i > 20_000 {
			t.Fatal("the ledger is never evicted")
		}
		s.server.Do(t, "SET", fmt.Sprint("filler", i), filler)
	}
	// Its entries may have gone as well: back they come, as old as they were.
	for key, dump := range s.dumps {
		s.server.Do(t, "RESTORE", key, 0, dump, "REPLACE")
	}
	s.server.Do(t, "CONFIG", "SET", "maxmemory", "0")
	s.nothingOld()
	time.Sleep(2 * disasterBound)
	s.nothingOld()
	s.recovers()
}

func TestOldSnapshotRestored(t *testing.T) {
	s := newScene(t)
	s.server.Do(t, "SAVE")
	s.kill()
	s.server.Kill()
	s.server.Restart(t) // with the snapshot from before
	if got := s.server.Do(t, "EXISTS", s.key("e:removed")).(int64); got != 1 {
		t.Fatal("the snapshot does not hold the old entry: the test shows nothing")
	}
	s.nothingOld()
	time.Sleep(2 * disasterBound)
	s.nothingOld()
	s.recovers()
}

func TestOldEntriesRestored(t *testing.T) {
	s := newScene(t)
	s.kill()
	for key, dump := range s.dumps {
		s.server.Do(t, "RESTORE", key, 0, dump, "REPLACE")
	}
	s.nothingOld()
	time.Sleep(2 * disasterBound)
	s.nothingOld()
	// What was not touched is still served: this is no new epoch.
	if res := read(t, s.nodes[1], soracache.Read{Key: "live"}); string(res.Entry.Value) != "old" {
		t.Errorf("an entry that nothing happened to is gone: %+v", res)
	}
	s.recovers()
}

// A failover to a replica that missed the last records.
func TestFailoverWithALostTail(t *testing.T) {
	if !full() {
		t.Skip("the Redis engine's own tests cover it; here in make verify only")
	}
	sentinel := redistest.Sentinel(t)
	store, err := redis.Open(context.Background(), redis.Config{URL: sentinel.URL(), Prefix: prefixOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	n := startNode(t, store, 1, disasterBound)
	lease := read(t, n, soracache.Read{Key: "k", Lease: true}).Lease
	write(t, n, fill("k", lease, "old", "t"))
	sentinel.KillPrimary(t)
	took := eventually(t, 20*time.Second, "the node works on the new primary", func() bool {
		rs, err := n.Get(context.Background(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k", Lease: true}}})
		if err != nil || rs[0].Err != nil {
			return false
		}
		if rs[0].Lease != (soracache.Lease{}) {
			_, _ = n.Write(context.Background(), soracache.WriteRequest{Writes: []soracache.Write{fill("k", rs[0].Lease, "new", "t")}})
		}
		return string(rs[0].Entry.Value) == "new"
	})
	t.Logf("a new epoch and a new value after %s, of which the failover takes the most", took.Round(time.Millisecond))
}
