package bench

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
	"github.com/soracache/soracache/l2/redis"
)

// buildDir is where soracached is built, once.
var buildDir string

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(redistest.M{M: m}, goleak.Cleanup(func(code int) {
		if buildDir != "" {
			_ = os.RemoveAll(buildDir)
		}
		os.Exit(code)
	}))
}

var soracached = sync.OnceValues(func() (string, error) {
	var err error
	if buildDir, err = os.MkdirTemp("", "soracached-"); err != nil {
		return "", err
	}
	path := filepath.Join(buildDir, "soracached")
	out, err := exec.Command("go", "build", "-o", path, "github.com/soracache/soracache/cmd/soracached").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// serve starts a node as a process of its own, and returns its URL.
func serve(b *testing.B, l2 string) string {
	b.Helper()
	path, err := soracached()
	if err != nil {
		b.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(b))
	proctest.Start(b, exec.Command(path, "serve", "--listen", addr, "--l2", l2, "--log-level", "error"))
	url := "http://" + addr
	redistest.Eventually(b, 20*time.Second, "a server that is ready", func() bool {
		res, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return url
}

func dial(b *testing.B, url string, opts ...client.DialOption) *client.Client {
	b.Helper()
	c, err := client.Dial([]string{url}, append([]client.DialOption{client.Logger(nil), client.Timeout(10 * time.Second)}, opts...)...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

// callers has so many goroutines share b.N operations. Beside the time it
// reports the processor time of this process (of a server that is another, none),
// which other work on the machine changes less.
func callers(b *testing.B, n int, do func(ctx context.Context, i int) error) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	cpu := proctest.CPUTime()
	var next atomic.Int64
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
				if err := do(b.Context(), i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(float64(proctest.CPUTime()-cpu)/float64(b.N), "cpu-ns/op")
}

const keys = 10_000

// names returns the keys of most benchmarks.
func names() []string {
	names := make([]string, keys)
	for i := range names {
		names[i] = "product:" + strconv.Itoa(i)
	}
	return names
}

// warm loads all keys.
func warm(b *testing.B, cache *client.LoadingCache[[]byte], names []string) {
	b.Helper()
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			for i := w; i < len(names); i += 16 {
				if _, err := cache.Get(b.Context(), names[i]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// hundred loads a value of 100 bytes.
func hundred(context.Context, string) ([]byte, error) { return make([]byte, 100), nil }

// cached must not be called.
func cached(context.Context, string) ([]byte, error) { return nil, errMissed }

var errMissed = fmt.Errorf("%w: a key that should be cached is not", soracache.ErrUnavailable)

// A value that the application's own memory has: no request.
func BenchmarkNearHit(b *testing.B) {
	var near atomic.Int64
	c := dial(b, serve(b, "embedded:"+b.TempDir()), client.WithHooks(client.Hooks{OnHit: func(_ string, tier soracache.Tier) {
		if tier == soracache.TierNear {
			near.Add(1)
		}
	}}))
	names := names()
	loading := client.NewLoadingCache(c, client.Default(), hundred)
	cache := client.NewCache[[]byte](c, client.Default())
	warm(b, loading, names) // the first read begins to watch, and is kept once that stands
	redistest.Eventually(b, 20*time.Second, "a near cache that has all keys", func() bool {
		near.Store(0)
		warm(b, loading, names)
		return near.Load() == keys
	})
	load := func(context.Context) ([]byte, error) { return nil, errMissed }
	b.Run("loading cache", func(b *testing.B) {
		callers(b, 1, func(ctx context.Context, i int) error { _, err := loading.Get(ctx, names[i%keys]); return err })
	})
	b.Run("GetOrSet", func(b *testing.B) {
		callers(b, 1, func(ctx context.Context, i int) error { _, err := cache.GetOrSet(ctx, names[i%keys], load); return err })
	})
	b.Run("loading cache, on all processors", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				_, _ = loading.Get(b.Context(), names[i%keys])
			}
		})
	})
}

// A value that the node has in memory, and the application has not: one request.
func BenchmarkRemoteHit(b *testing.B) {
	c := dial(b, serve(b, "embedded:"+b.TempDir()), client.NoNear())
	names := names()
	warm(b, client.NewLoadingCache(c, client.Default(), hundred), names)
	loading := client.NewLoadingCache(c, client.Default(), cached)
	cache := client.NewCache[[]byte](c, client.Default())
	for _, n := range []int{1, 128, 1024} {
		b.Run(fmt.Sprint("GetOrSet, callers=", n), func(b *testing.B) {
			callers(b, n, func(ctx context.Context, i int) error { _, err := loading.Get(ctx, names[i%keys]); return err })
		})
		b.Run(fmt.Sprint("Get, callers=", n), func(b *testing.B) {
			callers(b, n, func(ctx context.Context, i int) error {
				_, found, err := cache.Get(ctx, names[i%keys])
				if err == nil && !found {
					err = errMissed
				}
				return err
			})
		})
	}
}

// A value that nobody has: a lease, the loader, and a fill.
func BenchmarkMissAndFill(b *testing.B) {
	for name, l2 := range secondTiers(b) {
		b.Run(name, func(b *testing.B) {
			c := dial(b, serve(b, l2(b)), client.NoNear())
			cache := client.NewLoadingCache(c, client.Default().WithTags("products"), hundred)
			for _, n := range []int{1, 128} {
				var seen atomic.Int64
				b.Run(fmt.Sprint("callers=", n), func(b *testing.B) {
					callers(b, n, func(ctx context.Context, _ int) error {
						_, err := cache.Get(ctx, fmt.Sprint("new:", n, ":", seen.Add(1)))
						return err
					})
				})
			}
		})
	}
}

// Invalidations of a tag each.
func BenchmarkInvalidate(b *testing.B) {
	for name, l2 := range secondTiers(b) {
		b.Run(name, func(b *testing.B) {
			c := dial(b, serve(b, l2(b)), client.NoNear())
			for _, n := range []int{1, 128} {
				b.Run(fmt.Sprint("callers=", n), func(b *testing.B) {
					callers(b, n, func(ctx context.Context, i int) error {
						_, err := c.InvalidateTags(ctx, "product:"+strconv.Itoa(i%keys))
						return err
					})
				})
			}
		})
	}
}

// A cold key that 1,000 callers in one process want at once, with a loader of
// 10 ms: what each of them waits, from the first call to the last answer.
func BenchmarkStampede(b *testing.B) {
	c := dial(b, serve(b, "embedded:"+b.TempDir()), client.NoNear())
	var loads atomic.Int64
	cache := client.NewLoadingCache(c, client.Default(), func(context.Context, string) ([]byte, error) {
		loads.Add(1)
		time.Sleep(10 * time.Millisecond)
		return make([]byte, 100), nil
	})
	for i := 0; b.Loop(); i++ {
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if _, err := cache.Get(b.Context(), "cold:"+strconv.Itoa(i)); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	b.ReportMetric(float64(loads.Load())/float64(b.N), "loads/op")
}

// A node in the same process: what its memory and its second tier cost without
// the way there.
func BenchmarkNode(b *testing.B) {
	names := names()
	for name, open := range stores(b) {
		b.Run(name, func(b *testing.B) {
			n := newNode(b, open(b))
			for _, k := range names {
				put(b, n, k, time.Hour)
				put(b, n, "l2:"+k, time.Millisecond) // far less than one round of all keys
			}
			for _, k := range names {
				if err := hit(b.Context(), n, k); err != nil {
					b.Fatal(err)
				}
			}
			b.Run("L1 hit", func(b *testing.B) {
				callers(b, 1, func(ctx context.Context, i int) error { return hit(ctx, n, names[i%keys]) })
			})
			for _, c := range []int{1, 128} {
				b.Run(fmt.Sprint("L2 hit, callers=", c), func(b *testing.B) {
					callers(b, c, func(ctx context.Context, i int) error { return hit(ctx, n, "l2:"+names[i%keys]) })
				})
			}
		})
	}
}

func put(b *testing.B, n *node.Node, key string, l1 time.Duration) {
	b.Helper()
	_, err := n.Write(b.Context(), soracache.WriteRequest{Namespace: "default", Writes: []soracache.Write{{
		Op: soracache.OpPut, Key: key, Entry: soracache.Entry{Value: make([]byte, 100)},
		Lifetime: soracache.Lifetime{TTL: time.Hour, L1: l1},
	}}})
	if err != nil {
		b.Fatal(err)
	}
}

func hit(ctx context.Context, n *node.Node, key string) error {
	rs, err := n.Get(ctx, soracache.GetRequest{Namespace: "default", Reads: []soracache.Read{{Key: key}}})
	if err == nil && rs[0].Status != soracache.StatusHit {
		err = errMissed
	}
	return err
}

// secondTiers are what a node may be started on.
func secondTiers(*testing.B) map[string]func(*testing.B) string {
	return map[string]func(*testing.B) string{
		"embedded": func(b *testing.B) string { return "embedded:" + b.TempDir() },
		"redis":    func(b *testing.B) string { return redistest.Standalone(b).URL() },
	}
}

func stores(*testing.B) map[string]func(*testing.B) l2.Store {
	return map[string]func(*testing.B) l2.Store{
		"embedded": func(b *testing.B) l2.Store {
			s, err := embedded.Open(embedded.Config{Dir: b.TempDir()})
			return closed(b, s, err)
		},
		"redis": func(b *testing.B) l2.Store {
			s, err := redis.Open(b.Context(), redis.Config{URL: redistest.Standalone(b).URL()})
			return closed(b, s, err)
		},
	}
}

func closed(b *testing.B, s l2.Store, err error) l2.Store {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}
