// Package verify shows what the project promises, on real engines and real
// processes: one file for each promise. Run with SORACACHE_VERIFY=1 (make
// verify) the counts are the full ones; otherwise they fit in a test run.
package verify

import (
	"context"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
	"github.com/soracache/soracache/l2/l2model"
	"github.com/soracache/soracache/l2/redis"
)

func TestMain(m *testing.M) {
	if as := os.Getenv(asClient); as != "" {
		os.Exit(clientProcess(as))
	}
	// go-redis looks once more, up to a second after Close, whether a server that
	// was away is back.
	goleak.VerifyTestMain(tests{redistest.M{M: m}}, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// tests are those of this package, and what they built is removed after them.
type tests struct{ redistest.M }

func (m tests) Run() int {
	defer func() { _ = os.RemoveAll(binary.dir) }()
	return m.M.Run()
}

// full tells whether the full counts are asked for.
func full() bool { return os.Getenv("SORACACHE_VERIFY") != "" }

// count chooses between the count of a test run and the full one.
func count(test, verify int) int {
	if full() {
		return verify
	}
	return test
}

// operations is count for what is done at random: a third of it with the race
// detector, which makes it take that much longer.
func operations(test, verify int) int {
	n := count(test, verify)
	if racetest.Enabled {
		n /= 3
	}
	return n
}

// engine is a second tier to be held to the promises.
type engine struct {
	name       string
	partitions int
	// open returns a way to open any number of stores over the same data.
	open func(t testing.TB) func() l2.Store
}

func engines() []engine {
	return []engine{
		{"model", 2, func(testing.TB) func() l2.Store {
			m := l2model.New(l2model.Config{})
			return func() l2.Store { return m }
		}},
		{"embedded", 1, func(t testing.TB) func() l2.Store {
			s, err := embedded.Open(embedded.Config{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			return func() l2.Store { return s }
		}},
		{"redis", 1, func(t testing.TB) func() l2.Store {
			return openRedis(t, redistest.Standalone(t).URL())
		}},
		{"redis cluster", 4, func(t testing.TB) func() l2.Store {
			return openRedis(t, redistest.SharedCluster(t).URL())
		}},
	}
}

func openRedis(t testing.TB, url string) func() l2.Store {
	return func() l2.Store {
		s, err := redis.Open(context.Background(), redis.Config{URL: url, Prefix: prefixOf(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
}

// prefixOf keeps tests that share a Redis apart.
func prefixOf(t testing.TB) string {
	b := []byte("v:")
	for _, c := range []byte(t.Name()) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			b = append(b, c)
		}
	}
	return string(b[:min(len(b), 60)]) + ":"
}

// startNode runs a node over a store.
func startNode(t testing.TB, store l2.Store, partitions int, bound time.Duration) *node.Node {
	t.Helper()
	n, err := node.New(node.Config{
		Store: store, Bound: bound, L1MaxBytes: 16 << 20, Partitions: func(string) int { return partitions },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func read(t testing.TB, b soracache.Backend, r soracache.Read) soracache.ReadResult {
	t.Helper()
	rs, err := b.Get(context.Background(), soracache.GetRequest{Reads: []soracache.Read{r}})
	if err != nil {
		t.Fatal(err)
	}
	return rs[0]
}

func write(t testing.TB, b soracache.Backend, ws ...soracache.Write) []soracache.WriteResult {
	t.Helper()
	rs, err := b.Write(context.Background(), soracache.WriteRequest{Writes: ws})
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

func fill(key string, lease soracache.Lease, value string, tags ...string) soracache.Write {
	return soracache.Write{
		Op: soracache.OpFill, Key: key, Lease: lease, Lifetime: soracache.Lifetime{TTL: 10 * time.Minute},
		Entry: soracache.Entry{Value: []byte(value), Tags: tags},
	}
}

func put(key, value string, tags ...string) soracache.Write {
	w := fill(key, soracache.Lease{}, value, tags...)
	w.Op = soracache.OpPut
	return w
}

func invalidate(t testing.TB, b soracache.Backend, targets ...soracache.Target) soracache.Stamps {
	t.Helper()
	res, err := b.Invalidate(context.Background(), soracache.InvalidateRequest{Targets: targets})
	if err != nil {
		t.Fatal(err)
	}
	return res.Stamp
}

// eventually waits for a condition of another process, and tells how long that
// took.
func eventually(t testing.TB, within time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	redistest.Eventually(t, within, what, holds)
	return time.Since(began)
}
