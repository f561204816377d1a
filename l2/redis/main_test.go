package redis

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2test"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(redistest.M{M: m})
}

// openAt opens a store at a URL that is closed when the test ends.
func openAt(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// prefixOf is a key prefix that no other test uses.
func prefixOf(t testing.TB) string {
	return fmt.Sprintf("t%x:", fnv(t.Name()))
}

func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(s) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// base is what the names of a partition's keys begin with.
func base(prefix string, p l2.Partition) string {
	return fmt.Sprintf("%s{%s/%d}", prefix, p.Namespace, p.Index)
}

// harness describes a store to the conformance suite.
func harness(t *testing.T, c Config, admin goredis.UniversalClient) l2test.Harness {
	c.Prefix = prefixOf(t)
	ctx := context.Background()
	lose := func(kind string) func(l2.Partition) {
		return func(p l2.Partition) {
			if err := admin.Del(ctx, base(c.Prefix, p)+kind).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return l2test.Harness{
		Store:   openAt(t, c),
		Another: func() l2.Store { return openAt(t, c) },
		Lose: map[string]func(l2.Partition){
			"tag records": lose("t"), "key records": lose("k"), "history": lose("h"),
		},
		Tamper: func(p l2.Partition, key string, change func([]byte) []byte) {
			name := base(c.Prefix, p) + "e:" + key
			stored, err := admin.Get(ctx, name).Bytes() // the store may have deleted what was damaged
			if err != nil && !errors.Is(err, goredis.Nil) {
				t.Fatal(err)
			}
			if err := admin.Set(ctx, name, change(stored), time.Hour).Err(); err != nil {
				t.Fatal(err)
			}
		},
		Dump: func(p l2.Partition, key string) func() {
			name := base(c.Prefix, p) + "e:" + key
			dump, err := admin.Dump(ctx, name).Result()
			if err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := admin.RestoreReplace(ctx, name, 0, dump).Err(); err != nil {
					t.Fatal(err)
				}
			}
		},
	}
}

func TestConformanceStandalone(t *testing.T) {
	server := redistest.Shared(t)
	admin := server.Client(t)
	l2test.Run(t, func(t *testing.T, o l2test.Options) l2test.Harness {
		return harness(t, Config{URL: server.URL(), Retention: o.Retention}, admin)
	})
}

func TestConformanceCluster(t *testing.T) {
	servers := redistest.SharedCluster(t)
	admin := servers.Client(t)
	l2test.Run(t, func(t *testing.T, o l2test.Options) l2test.Harness {
		return harness(t, Config{URL: servers.URL(), Retention: o.Retention}, admin)
	})
}
