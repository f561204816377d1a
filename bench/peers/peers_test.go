package peers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
)

const (
	keys   = 10_000
	rounds = 5
	lasts  = 2 * time.Second
)

// contender reads one key, which is there, and returns the length of its value.
type contender struct {
	name string
	get  func(ctx context.Context, key string) (int, error)
}

// contest is one question that is put to several.
type contest struct {
	name       string
	callers    int
	contenders []contender
}

// Everybody reads the same keys with the same values in the same order of the
// same generator, one after the other, in rounds, so that what else the machine
// does meets all of them alike. The figures are medians of the rounds.
func TestCompare(t *testing.T) {
	if os.Getenv("SORACACHE_PEERS") == "" {
		t.Skip("measures for minutes: SORACACHE_PEERS=1 runs it")
	}
	t.Logf("%s, %d processors, %d keys, %d rounds of %v", runtime.Version(), runtime.NumCPU(), keys, rounds, lasts)
	redisURL := redistest.Standalone(t).Addr
	url := serve(t)
	for _, size := range []int{100, 1024} {
		s := newStage(t, redisURL, url, size)
		for _, c := range s.contests() {
			compare(t, fmt.Sprintf("%s, %d bytes, %d callers", c.name, size, c.callers), c, s.names, size)
		}
	}
}

func compare(t *testing.T, title string, c contest, names []string, size int) {
	t.Helper()
	perSecond := make([][]float64, len(c.contenders))
	for range rounds {
		for i, who := range c.contenders {
			perSecond[i] = append(perSecond[i], measure(t, who, c.callers, names, size))
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n", title)
	for _, p := range perSecond {
		slices.Sort(p)
	}
	first := perSecond[0][rounds/2]
	for i, who := range c.contenders {
		p := perSecond[i]
		fmt.Fprintf(&out, "| %-36s | %9.0f | %9.0f to %9.0f | %.2f |\n", who.name, p[rounds/2], p[0], p[rounds-1], p[rounds/2]/first)
	}
	t.Log(out.String())
}

// measure returns how many reads a second so many callers did.
func measure(t *testing.T, who contender, callers int, names []string, size int) float64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var (
		done atomic.Int64
		over atomic.Bool
		all  sync.WaitGroup
	)
	began := time.Now()
	for caller := range callers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(42, uint64(caller)))
			n := int64(0)
			for ; !over.Load(); n++ {
				got, err := who.get(ctx, names[random.IntN(len(names))])
				if err != nil || got != size {
					t.Errorf("%s: %d bytes, %v", who.name, got, err)
					break
				}
			}
			done.Add(n)
		})
	}
	timer := time.AfterFunc(lasts, func() { over.Store(true) })
	defer timer.Stop()
	all.Wait()
	return float64(done.Load()) / time.Since(began).Seconds()
}

// stage has the same values in both services.
type stage struct {
	names                 []string
	rueidis, tracked      rueidis.Client
	goredis               *redis.Client
	remote, near          *client.Client
	remoteCache, nearOnly *client.LoadingCache[[]byte]
	plain                 *client.Cache[[]byte]
}

func newStage(t *testing.T, redisAddr, url string, size int) *stage {
	t.Helper()
	s := &stage{}
	for i := range keys {
		s.names = append(s.names, fmt.Sprintf("product:%d:%d", size, i))
	}
	s.rueidis = must(rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{redisAddr}, DisableCache: true}))
	s.tracked = must(rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{redisAddr}}))
	s.goredis = redis.NewClient(&redis.Options{Addr: redisAddr, PoolSize: 128})
	s.remote = must(client.Dial(url, client.Logger(nil), client.NoNear(), client.Timeout(10*time.Second), client.Namespace("peers-"+strconv.Itoa(size))))
	s.near = must(client.Dial(url, client.Logger(nil), client.Timeout(10*time.Second), client.Namespace("peers-"+strconv.Itoa(size))))
	t.Cleanup(func() {
		s.rueidis.Close()
		s.tracked.Close()
		_ = s.goredis.Close()
		_ = s.remote.Close()
		_ = s.near.Close()
	})
	load := func(context.Context, string) ([]byte, error) { return make([]byte, size), nil }
	s.remoteCache = client.NewLoadingCache(s.remote, client.Default, load)
	s.nearOnly = client.NewLoadingCache(s.near, client.Default, load)
	s.plain = client.NewCache[[]byte](s.remote, client.Default)
	for _, k := range s.names {
		if err := s.goredis.Set(t.Context(), k, make([]byte, size), time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*client.LoadingCache[[]byte]{s.remoteCache, s.nearOnly} {
			if _, err := c.Get(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

func (s *stage) contests() []contest {
	remote := []contender{
		{"rueidis, GET", func(ctx context.Context, key string) (int, error) {
			v, err := s.rueidis.Do(ctx, s.rueidis.B().Get().Key(key).Build()).AsBytes()
			return len(v), err
		}},
		{"go-redis, GET", func(ctx context.Context, key string) (int, error) {
			v, err := s.goredis.Get(ctx, key).Bytes()
			return len(v), err
		}},
		{"soracache, Get", func(ctx context.Context, key string) (int, error) {
			v, _, err := s.plain.Get(ctx, key)
			return len(v), err
		}},
		{"soracache, GetOrSet", func(ctx context.Context, key string) (int, error) {
			v, err := s.remoteCache.Get(ctx, key)
			return len(v), err
		}},
	}
	near := []contender{
		{"rueidis, client-side cache", func(ctx context.Context, key string) (int, error) {
			v, err := s.tracked.DoCache(ctx, s.tracked.B().Get().Key(key).Cache(), time.Hour).AsBytes()
			return len(v), err
		}},
		{"soracache, near cache", func(ctx context.Context, key string) (int, error) {
			v, err := s.nearOnly.Get(ctx, key)
			return len(v), err
		}},
	}
	return []contest{
		{"read over the network", 1, remote},
		{"read over the network", 128, remote},
		{"read over the network", 1024, remote},
		{"read of what the process holds", 128, near},
	}
}

func must[A any](a A, err error) A {
	if err != nil {
		panic(err)
	}
	return a
}

// serve starts soracached as a process of its own, as redis-server is one.
func serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "soracached")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./cmd/soracached")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t))
	proctest.Start(t, exec.Command(path, "serve", "--listen", addr, "--l2", "embedded:"+t.TempDir(), "--log-level", "error"))
	url := "http://" + addr
	redistest.Eventually(t, 20*time.Second, "a server that is ready", func() bool {
		res, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return url
}
