package peers

import (
	"cmp"
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
	"syscall"
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
	name   string
	server int // its process
	get    func(ctx context.Context, key string) (int, error)
}

// score is what a contender did in one round.
type score struct {
	perSecond float64
	// here and there are the processor time that a read took in this process
	// and in the server's.
	here, there time.Duration
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
	redisAddr := redistest.Standalone(t).Addr
	url, process := serve(t)
	for _, size := range []int{100, 1024} {
		s := newStage(t, redisAddr, url, process, size)
		for _, c := range s.contests() {
			compare(t, fmt.Sprintf("%s, %d bytes, %d callers", c.name, size, c.callers), c, s.names, size)
		}
	}
}

func compare(t *testing.T, title string, c contest, names []string, size int) {
	t.Helper()
	scores := make([][]score, len(c.contenders))
	for range rounds {
		for i, who := range c.contenders {
			scores[i] = append(scores[i], measure(t, who, c.callers, names, size))
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n\n", title)
	fmt.Fprintf(&out, "| | reads a second | lowest to highest | of the first | CPU a read: client | server |\n|---|---|---|---|---|---|\n")
	first := medianOf(scores[0], func(s score) float64 { return s.perSecond })
	for i, who := range c.contenders {
		rate := medianOf(scores[i], func(s score) float64 { return s.perSecond })
		least := slices.MinFunc(scores[i], func(a, b score) int { return cmp.Compare(a.perSecond, b.perSecond) })
		most := slices.MaxFunc(scores[i], func(a, b score) int { return cmp.Compare(a.perSecond, b.perSecond) })
		fmt.Fprintf(&out, "| %s | %.0f | %.0f to %.0f | %.2f | %.1f µs | %.1f µs |\n", who.name, rate, least.perSecond, most.perSecond, rate/first,
			medianOf(scores[i], func(s score) float64 { return micros(s.here) }),
			medianOf(scores[i], func(s score) float64 { return micros(s.there) }))
	}
	t.Log(out.String())
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

func medianOf(scores []score, of func(score) float64) float64 {
	values := make([]float64, 0, len(scores))
	for _, s := range scores {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// measure has so many callers read for a while.
func measure(t *testing.T, who contender, callers int, names []string, size int) score {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var (
		done atomic.Int64
		over atomic.Bool
		all  sync.WaitGroup
	)
	began, here, there := time.Now(), ownTime(), timeOf(who.server)
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
	n := max(done.Load(), 1)
	return score{
		perSecond: float64(n) / time.Since(began).Seconds(),
		here:      (ownTime() - here) / time.Duration(n),
		there:     (timeOf(who.server) - there) / time.Duration(n),
	}
}

// ownTime is the processor time of this process.
func ownTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// timeOf is the processor time of another process, as Linux tells it in
// hundredths of a second, and zero elsewhere.
func timeOf(process int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var ticks int
	for _, f := range fields[11:13] { // in user mode, and in the kernel
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// stage has the same values in both services.
type stage struct {
	redis, node           int // processes
	names                 []string
	rueidis, tracked      rueidis.Client
	goredis               *redis.Client
	remote, near          *client.Client
	remoteCache, nearOnly *client.LoadingCache[[]byte]
	plain                 *client.Cache[[]byte]
}

func newStage(t *testing.T, redisAddr, url string, process, size int) *stage {
	t.Helper()
	s := &stage{node: process}
	for i := range keys {
		s.names = append(s.names, fmt.Sprintf("product:%d:%d", size, i))
	}
	s.rueidis = must(rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{redisAddr}, DisableCache: true}))
	s.tracked = must(rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{redisAddr}}))
	s.goredis = redis.NewClient(&redis.Options{Addr: redisAddr, PoolSize: 128})
	s.remote = must(client.Dial([]string{url}, client.Logger(nil), client.NoNear(), client.Timeout(10*time.Second), client.Namespace("peers-"+strconv.Itoa(size))))
	s.near = must(client.Dial([]string{url}, client.Logger(nil), client.Timeout(10*time.Second), client.Namespace("peers-"+strconv.Itoa(size))))
	t.Cleanup(func() {
		s.rueidis.Close()
		s.tracked.Close()
		_ = s.goredis.Close()
		_ = s.remote.Close()
		_ = s.near.Close()
	})
	s.redis = processOf(t, s.goredis)
	load := func(context.Context, string) ([]byte, error) { return make([]byte, size), nil }
	s.remoteCache = client.NewLoadingCache(s.remote, client.Default(), load)
	s.nearOnly = client.NewLoadingCache(s.near, client.Default(), load)
	s.plain = client.NewCache[[]byte](s.remote, client.Default())
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
	for _, k := range s.names { // what came before the watch stood was not kept
		if _, err := s.nearOnly.Get(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *stage) contests() []contest {
	remote := []contender{
		{"rueidis, GET", s.redis, func(ctx context.Context, key string) (int, error) {
			v, err := s.rueidis.Do(ctx, s.rueidis.B().Get().Key(key).Build()).AsBytes()
			return len(v), err
		}},
		{"go-redis, GET", s.redis, func(ctx context.Context, key string) (int, error) {
			v, err := s.goredis.Get(ctx, key).Bytes()
			return len(v), err
		}},
		{"soracache, Get", s.node, func(ctx context.Context, key string) (int, error) {
			v, _, err := s.plain.Get(ctx, key)
			return len(v), err
		}},
		{"soracache, GetOrSet", s.node, func(ctx context.Context, key string) (int, error) {
			v, err := s.remoteCache.Get(ctx, key)
			return len(v), err
		}},
	}
	near := []contender{
		{"rueidis, client-side cache", s.redis, func(ctx context.Context, key string) (int, error) {
			v, err := s.tracked.DoCache(ctx, s.tracked.B().Get().Key(key).Cache(), time.Hour).AsBytes()
			return len(v), err
		}},
		{"soracache, near cache", s.node, func(ctx context.Context, key string) (int, error) {
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

// processOf asks a server which process it is.
func processOf(t *testing.T, c *redis.Client) int {
	t.Helper()
	for line := range strings.Lines(must(c.Info(t.Context(), "server").Result())) {
		if pid, ok := strings.CutPrefix(line, "process_id:"); ok {
			return must(strconv.Atoi(strings.TrimSpace(pid)))
		}
	}
	t.Fatal("redis-server does not say which process it is")
	return 0
}

func must[A any](a A, err error) A {
	if err != nil {
		panic(err)
	}
	return a
}

// serve starts soracached as a process of its own, as redis-server is one.
func serve(t *testing.T) (url string, process int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "soracached")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./cmd/soracached")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t))
	p := proctest.Start(t, exec.Command(path, "serve", "--listen", addr, "--l2", "embedded:"+t.TempDir(), "--log-level", "error"))
	url = "http://" + addr
	redistest.Eventually(t, 20*time.Second, "a server that is ready", func() bool {
		res, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return url, p.ID()
}
