package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
	"github.com/soracache/soracache/l2/redis"
)

// herd is a number of processes, each a client of one of some nodes over one
// store.
type herd struct {
	nodes []*node.Node
	each  []*member
}

// member is one of them, which counts its loads.
type member struct {
	*client.Client

	loads atomic.Int64
}

func newHerd(t *testing.T, store l2.Store, nodes, processes int) *herd {
	t.Helper()
	h := &herd{}
	for range nodes {
		n, err := node.New(node.Config{Store: store, MeterEvery: -1, L1MaxBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		h.nodes = append(h.nodes, n)
	}
	for i := range processes {
		c, err := client.New(line{h.nodes[i%nodes]}, client.Logger(nil))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		h.each = append(h.each, &member{Client: c})
	}
	return h
}

// line is a way to a node that takes a moment: those who call at once have all come
// before the first of them has an answer.
type line struct{ soracache.Backend }

func (l line) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	time.Sleep(time.Millisecond)
	return l.Backend.Get(ctx, req)
}

// got is what one caller got, and after what time.
type got struct {
	value string
	err   error
	took  time.Duration
}

// ask has all callers of all processes ask for a key at once.
func (h *herd) ask(ctx context.Context, callers int, key func(process, caller int) string, load func(context.Context) (string, error), opts ...client.CallOption) []got {
	all := make([]got, len(h.each)*callers)
	var wg sync.WaitGroup
	for i, p := range h.each {
		for j := range callers {
			wg.Go(func() {
				began := time.Now()
				g := &all[i*callers+j]
				g.value, g.err = client.GetOrSet(ctx, p.Client, key(i, j), func(ctx context.Context) (string, error) {
					p.loads.Add(1)
					return load(ctx)
				}, opts...)
				g.took = time.Since(began)
			})
		}
	}
	wg.Wait()
	return all
}

func same(int, int) string { return "k" }

func slowest(all []got) time.Duration {
	return slices.MaxFunc(all, func(a, b got) int { return int(a.took - b.took) }).took
}

// atMostOnce fails the test if a process has run its loader more often than once
// for each of its keys. Then counting begins anew.
func (h *herd) atMostOnce(t *testing.T, keys int) {
	t.Helper()
	for i, p := range h.each {
		if n := p.loads.Swap(0); n > int64(keys) {
			t.Errorf("process %d has loaded %d times, and has %d keys", i, n, keys)
		}
	}
}

var errSource = errors.New("the source is down")

// What the holder of a lease learns, all who wait learn: a source that fails
// after a second has told everybody within two and a half, in twenty processes of
// five callers, each process with one load of its own at most.
func TestFailureReachesEverybody(t *testing.T) {
	for name, deadline := range map[string]time.Duration{"without deadlines": time.Hour, "with deadlines of 3s": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHerd(t, l2model.New(l2model.Config{}), 3, 20)
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				all := h.ask(ctx, 5, same, func(context.Context) (string, error) {
					time.Sleep(time.Second)
					return "", errSource
				})
				for i, g := range all {
					if !errors.Is(g.err, errSource) {
						t.Errorf("caller %d: %q, %v; want the source's own error", i, g.value, g.err)
					}
				}
				if took := slowest(all); took > 2500*time.Millisecond {
					t.Errorf("the slowest learned it after %s", took)
				}
				h.atMostOnce(t, 1)
			})
		})
	}
}

// The same for a value that may not be stored.
func TestValueThatMayNotBeStoredHoldsNobodyUp(t *testing.T) {
	for name, herd := range map[string]func(h *herd, ctx context.Context) []got{
		"one key": func(h *herd, ctx context.Context) []got {
			return h.ask(ctx, 5, same, func(ctx context.Context) (string, error) {
				client.LoadContextFrom(ctx).DoNotCache()
				time.Sleep(200 * time.Millisecond)
				return "v", nil
			})
		},
		"too long": func(h *herd, ctx context.Context) []got {
			return h.ask(ctx, 5, same, func(context.Context) (string, error) {
				time.Sleep(200 * time.Millisecond)
				return "v", nil
			}, client.AdjustPolicy(func(p *client.Policy) { p.MaxBytes = 1 }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHerd(t, l2model.New(l2model.Config{}), 3, 20)
				all := herd(h, t.Context())
				for i, g := range all {
					if g.err != nil || g.value != "v" {
						t.Errorf("caller %d: %q, %v", i, g.value, g.err)
					}
				}
				if took := slowest(all); took > time.Second {
					t.Errorf("the slowest took %s", took)
				}
				h.atMostOnce(t, 1)
			})
		})
	}
}

// One process whose loader always fails does not keep the key cold for the
// others, however often it asks.
func TestFailingProcessKeepsNothingCold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHerd(t, l2model.New(l2model.Config{}), 2, 2)
		ctx, cancel := context.WithCancel(t.Context())
		var bad sync.WaitGroup
		bad.Go(func() {
			for ctx.Err() == nil {
				_, _ = client.GetOrSet(ctx, h.each[0].Client, "k", func(ctx context.Context) (string, error) {
					select {
					case <-time.After(500 * time.Millisecond):
					case <-ctx.Done():
					}
					return "", errSource
				})
			}
		})
		time.Sleep(1200 * time.Millisecond) // it loads for the third time
		began := time.Now()
		v, err := client.GetOrSet(t.Context(), h.each[1].Client, "k", func(context.Context) (string, error) { return "v", nil })
		if v != "v" || err != nil || time.Since(began) > 100*time.Millisecond {
			t.Errorf("%q, %v after %s", v, err, time.Since(began))
		}
		v, found, err := client.Get[string](t.Context(), h.each[1].Client, "k")
		if v != "v" || !found || err != nil {
			t.Errorf("afterwards: %q, %v, %v; want the value, stored by the first load that could be", v, found, err)
		}
		cancel()
		bad.Wait()
	})
}

// A store without room keeps nobody waiting: everybody has its loader's value in
// the loader's time, each process loads once, and the store is hardly asked.
func TestStoreWithoutRoomHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		model := l2model.New(l2model.Config{})
		h := newHerd(t, model, 2, 4)
		for i := range 5 {
			if err := client.Set(t.Context(), h.each[0].Client, fmt.Sprint("stale", i), "old", client.WithTTL(time.Second), client.AdjustPolicy(func(p *client.Policy) { p.FailSafe = time.Hour })); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		model.SetFull(true)
		load := func(context.Context) (string, error) {
			time.Sleep(time.Second)
			return "v", nil
		}
		for key, of := range map[string]func(process, caller int) string{
			"one":   same,
			"cold":  func(_, caller int) string { return fmt.Sprint("cold", caller) },
			"stale": func(_, caller int) string { return fmt.Sprint("stale", caller) }, // which nobody refreshes
		} {
			all := h.ask(t.Context(), 5, of, load, client.AdjustPolicy(func(p *client.Policy) { p.FailSafe = time.Hour }))
			for i, g := range all {
				if g.err != nil || g.value != "v" {
					t.Errorf("%s, caller %d: %q, %v", key, i, g.value, g.err)
				}
			}
			if took := slowest(all); took > 1300*time.Millisecond {
				t.Errorf("%s: the slowest took %s", key, took)
			}
			if key == "one" {
				h.atMostOnce(t, 1)
			} else {
				h.atMostOnce(t, 5)
			}
		}
		if err := client.Set(t.Context(), h.each[0].Client, "new", "v"); !errors.Is(err, soracache.ErrStoreFull) {
			t.Errorf("a put: %v", err)
		}
	})
}

// The same with a Redis at its maxmemory that may not evict.
func TestFullRedisHoldsNobodyUp(t *testing.T) {
	server := redistest.Standalone(t, redistest.Config("maxmemory-policy", "noeviction"))
	store, err := redis.Open(t.Context(), redis.Config{URL: server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	h := newHerd(t, store, 2, 4)
	load := func(context.Context) (string, error) {
		time.Sleep(50 * time.Millisecond)
		return "v", nil
	}
	h.ask(t.Context(), 1, func(process, _ int) string { return fmt.Sprint("warm", process) }, load) // scripts, connections
	if err := server.Client(t).ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	reads := func() (n uint64) {
		for _, node := range h.nodes {
			n += node.Stats().Flights
		}
		return n
	}
	for name, key := range map[string]func(process, caller int) string{
		"one key":               same,
		"keys of all processes": func(_, caller int) string { return fmt.Sprint("shared", caller) },
		"keys of their own":     func(process, caller int) string { return fmt.Sprint("own", process, caller) },
	} {
		before := reads()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		all := h.ask(ctx, 5, key, load)
		cancel()
		for i, g := range all {
			if g.err != nil || g.value != "v" {
				t.Errorf("%s, caller %d: %q, %v", name, i, g.value, g.err)
			}
		}
		asked := reads() - before
		if asked > uint64(5*len(all)) {
			t.Errorf("%s: %d calls, %d reads", name, len(all), asked)
		}
		t.Logf("%s: %d calls, slowest %s, %d reads", name, len(all), slowest(all).Round(time.Millisecond), asked)
		most := time.Second // beside other tests
		if full() {
			most = 350 * time.Millisecond
		}
		if took := slowest(all); took > most {
			t.Errorf("%s: the slowest took %s", name, took)
		}
	}
	for i, n := range h.nodes {
		if err := n.Ready(t.Context()); err != nil || !n.StoreFull() {
			t.Errorf("node %d: ready %v, full %v", i, err, n.StoreFull())
		}
	}
}

// A fill that Redis has no room for leaves no lease behind, whether it was sent
// with the script or, as large values are, before it.
func TestRefusedFillLeavesNoLease(t *testing.T) {
	server := redistest.Standalone(t, redistest.Config("maxmemory-policy", "noeviction"))
	store, err := redis.Open(t.Context(), redis.Config{URL: server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	h := newHerd(t, store, 1, 2)
	limit := func(to string) {
		if err := server.Client(t).ConfigSet(context.Background(), "maxmemory", to).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{"small": "v", "large": string(make([]byte, 100_000))} {
		v, err := client.GetOrSet(t.Context(), h.each[0].Client, name, func(context.Context) (string, error) {
			limit("1")
			return value, nil
		})
		if err != nil || v != value {
			t.Fatal(err)
		}
		limit("0") // there is room again
		began := time.Now()
		if _, err := client.GetOrSet(t.Context(), h.each[1].Client, name, func(context.Context) (string, error) { return "v", nil }); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s: the next caller waited %s for a load that had ended before it came", name, took)
		}
		if _, found, err := client.Get[string](t.Context(), h.each[1].Client, name); err != nil || !found {
			t.Errorf("%s: its value was not stored: %v", name, err)
		}
	}
}

// A value that is to be kept for longer than the service keeps any is returned, and
// not stored, however early the policy refreshes it; and the application is told why.
func TestLongerThanTheServiceKeeps(t *testing.T) {
	url := startServer(t, "--max-ttl", "1h", "--l2", "embedded:"+t.TempDir())
	var why []error
	c, err := client.Dial([]string{url}, client.NoNear(), client.Logger(nil), client.WithHooks(client.Hooks{
		OnNotStored: func(_ string, err error) { why = append(why, err) },
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	many := client.NewCache[string](c, client.Default(), client.WithTTL(30*24*time.Hour), client.AdjustPolicy(func(p *client.Policy) { p.EagerAt = 0.5 }))
	const calls = 2
	began := time.Now()
	for range calls {
		v, err := many.GetOrSet(t.Context(), "k", func(context.Context) (string, error) { return "v", nil })
		if v != "v" || err != nil {
			t.Errorf("one key: got %q, %v", v, err)
		}
		all, err := many.GetOrSetMany(t.Context(), []string{"k", "l"}, func(_ context.Context, keys []string) (map[string]string, error) {
			values := map[string]string{}
			for _, key := range keys {
				values[key] = "v"
			}
			return values, nil
		})
		if len(all) != 2 || err != nil {
			t.Errorf("many keys: got %v, %v", all, err)
		}
	}
	if took := time.Since(began); took > 5*time.Second { // a lease lasts for ten
		t.Errorf("somebody waited for a lease that was left: %s", took)
	}
	if len(why) != 3*calls {
		t.Errorf("told %d times, want %d", len(why), 3*calls)
	}
	for _, err := range why {
		if !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("not stored, for %v", err)
		}
	}
}
