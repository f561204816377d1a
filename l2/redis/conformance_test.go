package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2test"
)

func TestConformanceStandalone(t *testing.T) {
	server := redistest.Shared(t)
	admin := server.Client(t)
	l2test.Run(t, func(t *testing.T, o l2test.Options) l2test.Harness {
		return harness(t, Config{URL: server.URL(), Retention: o.Retention}, admin)
	})
}

func TestConformanceCluster(t *testing.T) {
	racetest.Without(t)
	servers := redistest.SharedCluster(t)
	admin := servers.Client(t)
	l2test.Run(t, func(t *testing.T, o l2test.Options) l2test.Harness {
		return harness(t, Config{URL: servers.URL(), Retention: o.Retention}, admin)
	})
}

// What is about the passing of time, on a server whose clock the test moves.
func TestConformanceClock(t *testing.T) {
	clock := redistest.NewClock(t)
	server := redistest.Standalone(t, redistest.WithClock(clock))
	admin := server.Client(t)
	l2test.RunTimed(t, func(t *testing.T, o l2test.Options) l2test.Harness {
		h := harness(t, Config{URL: server.URL(), Retention: o.Retention}, admin)
		h.Now, h.Wait = clock.Now, func(d time.Duration) { clock.Move(t, d) }
		return h
	})
}

// Behind Sentinel the engine is the same; failovers have tests of their own.
func TestConformanceSentinel(t *testing.T) {
	if !l2test.Verifying() {
		t.Skip("runs with SORACACHE_VERIFY=1")
	}
	servers := redistest.Sentinel(t)
	admin := servers.Client(t)
	l2test.Run(t, func(t *testing.T, o l2test.Options) l2test.Harness {
		return harness(t, Config{URL: servers.URL(), Retention: o.Retention}, admin)
	})
}

// A Redis that may not evict is at its maxmemory.
func TestConformanceFull(t *testing.T) {
	server := redistest.Standalone(t)
	admin := server.Client(t)
	l2test.RunFull(t, func(t *testing.T, o l2test.Options) l2test.Harness {
		h := harness(t, Config{URL: server.URL(), Retention: o.Retention}, admin)
		h.Full = func(full bool) {
			limit := map[bool]string{true: "1", false: "0"}[full]
			if err := admin.ConfigSet(t.Context(), "maxmemory", limit).Err(); err != nil {
				t.Fatal(err)
			}
		}
		return h
	})
}

// harness describes a store to the conformance suite.
func harness(t *testing.T, c Config, admin goredis.UniversalClient) l2test.Harness {
	c.Prefix = prefixOf(t)
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lose := func(kind string) func(l2.Partition) {
		return func(p l2.Partition) { must(admin.Del(ctx, base(c.Prefix, p)+kind).Err()) }
	}
	do := func(args ...any) any {
		reply, err := admin.Do(ctx, args...).Result()
		must(err)
		return reply
	}
	later := func(kind string) func(l2.Partition) func() {
		return func(p l2.Partition) func() { return laterMember(do, base(c.Prefix, p)+kind, "and more") }
	}
	dump := func(name string) func() {
		value, err := admin.Dump(ctx, name).Result()
		must(err)
		left, err := admin.PTTL(ctx, name).Result()
		must(err)
		return func() { must(admin.RestoreReplace(ctx, name, max(left, 0), value).Err()) }
	}
	return l2test.Harness{
		Overdue: func(p l2.Partition) { must(overdue(admin, c.Prefix, p)) },
		Store:   openAt(t, c),
		Another: func() l2.Store { return openAt(t, c) },
		Reopen:  func() l2.Store { return openAt(t, c) },
		Lose: map[string]func(l2.Partition){
			"tag records": lose("t"), "key records": lose("k"), "history": lose("h"),
		},
		Later:             map[string]func(l2.Partition) func(){"tag records": later("t"), "key records": later("k")},
		LoseRegistrations: lose("r"),
		LoseNumber:        func(namespace string) { must(admin.Del(ctx, c.Prefix+"{"+namespace+"}n").Err()) },
		AgeChange: func(namespace string, by time.Duration) {
			for i := range soracache.MaxPartitions {
				ageBuried(do, base(c.Prefix, l2.Partition{Namespace: namespace, Index: uint16(i)})+"t", by)
			}
		},
		AgeRegistrations: func(p l2.Partition, by time.Duration) {
			name := base(c.Prefix, p) + "r"
			fields, err := admin.HGetAll(ctx, name).Result()
			must(err)
			for field, value := range fields {
				then := binary.BigEndian.Uint64([]byte(value[8:])) - uint64(by.Microseconds())
				must(admin.HSet(ctx, name, field, binary.BigEndian.AppendUint64([]byte(value[:8]), then)).Err())
			}
		},
		Tamper: func(p l2.Partition, key string, change func([]byte) []byte) {
			name := base(c.Prefix, p) + "e:" + key
			stored, err := admin.Get(ctx, name).Bytes() // the store may have deleted what was damaged
			if err != nil && !errors.Is(err, goredis.Nil) {
				t.Fatal(err)
			}
			must(admin.Set(ctx, name, change(stored), time.Hour).Err())
		},
		Dump: func(p l2.Partition, key string) func() { return dump(base(c.Prefix, p) + "e:" + key) },
		Snapshot: func() func() {
			saved := make(map[string]func())
			for _, name := range keysOf(t, admin, c.Prefix) {
				saved[name] = dump(name)
			}
			return func() {
				for _, name := range keysOf(t, admin, c.Prefix) {
					must(admin.Del(ctx, name).Err())
				}
				for _, restore := range saved {
					restore()
				}
			}
		},
	}
}

// overdue has a ledger looked after at the next sweep, if it is in the index.
func overdue(admin goredis.UniversalClient, prefix string, p l2.Partition) error {
	ledger := goredis.Z{Member: fmt.Sprintf("%s/%d", p.Namespace, p.Index)}
	return admin.ZAddXX(context.Background(), prefix+"ledgers", ledger).Err()
}

// ageBuried makes what was buried look as if it had been for longer.
func ageBuried(do func(args ...any) any, name string, by time.Duration) {
	first := do("ZRANGE", name, 0, 0).([]any)
	if len(first) == 0 || !seen(first[0].(string)).buried {
		return
	}
	state := []byte(first[0].(string))
	since := binary.BigEndian.Uint64(state[17:]) - uint64(by.Microseconds())
	binary.BigEndian.PutUint64(state[17:], since)
	do("ZREM", name, first[0])
	do("ZADD", name, -1, state)
}

// keysOf lists all keys with a prefix.
func keysOf(t *testing.T, admin goredis.UniversalClient, prefix string) []string {
	var mu sync.Mutex
	var names []string
	scan := func(ctx context.Context, client *goredis.Client) error {
		all := client.Scan(ctx, 0, prefix+"*", 1000).Iterator()
		for all.Next(ctx) {
			mu.Lock()
			names = append(names, all.Val())
			mu.Unlock()
		}
		return all.Err()
	}
	var err error
	if c, ok := admin.(*goredis.ClusterClient); ok {
		err = c.ForEachMaster(context.Background(), scan)
	} else {
		err = scan(context.Background(), admin.(*goredis.Client))
	}
	if err != nil {
		t.Fatal(err)
	}
	return names
}
