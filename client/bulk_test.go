package client_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2/l2model"
)

// source is where batch loaders get their values. It remembers what it was asked
// for, has faults to switch on, and counts.
type source struct {
	mu      sync.Mutex
	calls   [][]string // each sorted
	running int
	most    int // that were running at the same time

	takes   time.Duration
	fails   error
	lacks   []string                        // what does not exist
	version string                          // in every value
	during  func(ctx context.Context) error // what else a call does
}

func (s *source) load(ctx context.Context, keys []string) (map[string]string, error) {
	s.enter(keys)
	defer s.leave()
	if s.during != nil {
		if err := s.during(ctx); err != nil {
			return nil, err
		}
	}
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.fails != nil {
		return nil, s.fails
	}
	values := make(map[string]string, len(keys))
	for _, key := range keys {
		if !slices.Contains(s.lacks, key) {
			values[key] = key + s.version
		}
	}
	return values, nil
}

func (s *source) enter(keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, slices.Sorted(slices.Values(keys)))
	s.running++
	s.most = max(s.most, s.running)
}

func (s *source) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
}

// loads counts how often each key was loaded.
func (s *source) loads() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int{}
	for _, call := range s.calls {
		for _, key := range call {
			counts[key]++
		}
	}
	return counts
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// lane is a client's way to the node, which counts requests and can be cut.
type lane struct {
	soracache.Backend

	mu      sync.Mutex
	down    error
	largest int           // how many reads, or writes, came in one request at most
	gets    int           // requests
	lag     time.Duration // of each read
	writes  map[soracache.WriteOp]int
	refuse  string // a request that names this key is refused
}

func (r *lane) arrive(n int, keys func(int) string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.largest = max(r.largest, n)
	for i := range n {
		if r.refuse != "" && keys(i) == r.refuse {
			return fmt.Errorf("%w: such a key", soracache.ErrInvalid)
		}
	}
	return r.down
}

func (r *lane) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	r.mu.Lock()
	r.gets++
	lag := r.lag
	r.mu.Unlock()
	time.Sleep(lag)
	if err := r.arrive(len(req.Reads), func(i int) string { return req.Reads[i].Key }); err != nil {
		return nil, err
	}
	return r.Backend.Get(ctx, req)
}

func (r *lane) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	if err := r.arrive(len(req.Writes), func(i int) string { return req.Writes[i].Key }); err != nil {
		return nil, err
	}
	r.mu.Lock()
	for _, w := range req.Writes {
		r.writes[w.Op]++
	}
	r.mu.Unlock()
	return r.Backend.Write(ctx, req)
}

func (r *lane) set(change func(*lane)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// manyWorld is two clients of one node.
type manyWorld struct {
	*testing.T
	source *source
	lanes  [2]*lane
	client [2]*client.Client
	cache  [2]*client.Cache[string]
}

func newManyWorld(t *testing.T, policy client.Policy, opts ...client.Option) *manyWorld {
	t.Helper()
	n, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), L1MaxBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	w := &manyWorld{T: t, source: &source{}}
	for i := range w.client {
		w.lanes[i] = &lane{Backend: n, writes: map[soracache.WriteOp]int{}}
		w.client[i], err = client.New(w.lanes[i], append([]client.Option{client.Logger(nil)}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.client[i].Close() })
		w.cache[i] = client.NewCache[string](w.client[i], policy)
	}
	return w
}

// get calls GetOrSetMany of one client.
func (w *manyWorld) get(i int, keys string, opts ...client.CallOption) (map[string]string, error) {
	return w.cache[i].GetOrSetMany(w.Context(), strings.Fields(keys), w.source.load, opts...)
}

// must wants these values and no error: "a=1 b=2".
func (w *manyWorld) must(i int, keys, want string, opts ...client.CallOption) {
	w.Helper()
	values, err := w.get(i, keys, opts...)
	if got := listed(values); err != nil || got != want {
		w.Errorf("client %d reads %s: %q, %v; want %q", i, keys, got, err, want)
	}
}

// wantLoads wants each key to have been loaded so often.
func (w *manyWorld) wantLoads(want map[string]int) {
	w.Helper()
	if got := w.source.loads(); !maps.Equal(got, want) {
		w.Errorf("loaded %v, want %v", got, want)
	}
}

// wantFailed wants exactly these keys to have failed, with an error.
func (w *manyWorld) wantFailed(err error, want error, keys ...string) {
	w.Helper()
	var many *client.ManyError
	if !errors.As(err, &many) || !errors.Is(err, want) || !slices.Equal(slices.Sorted(maps.Keys(many.Errors)), keys) {
		w.Errorf("got the error %v, want %v of %q", err, want, keys)
	}
}

func listed(values map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		parts = append(parts, key+"="+values[key])
	}
	return strings.Join(parts, " ")
}

func numberedKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%04d", i)
	}
	return keys
}

// Every row is a user's sentence, played in virtual time over a real node.
func TestGetOrSetMany(t *testing.T) {
	policy := client.Default().WithTTL(time.Minute)
	tests := []struct {
		name   string
		policy client.Policy
		play   func(w *manyWorld)
	}{
		{"many keys are loaded in one call, and found from then on", policy, func(w *manyWorld) {
			w.must(0, "a b c", "a=a b=b c=c")
			w.must(1, "a b c", "a=a b=b c=c")
			if w.source.count() != 1 {
				w.Errorf("%d calls", w.source.count())
			}
		}},
		{"of some that are cached and some that are not, the loader is asked for the latter", policy, func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			w.must(1, "a b c", "a=a b=b c=c")
			w.wantLoads(map[string]int{"a": 1, "b": 1, "c": 1})
		}},
		{"a key that is given three times is asked for once", policy, func(w *manyWorld) {
			w.must(0, "a b a a", "a=a b=b")
			w.wantLoads(map[string]int{"a": 1, "b": 1})
			if w.lanes[0].largest != 2 {
				w.Errorf("a request of %d keys", w.lanes[0].largest)
			}
		}},
		{"no keys: nothing happens", policy, func(w *manyWorld) {
			values, err := w.get(0, "")
			if values == nil || len(values) != 0 || err != nil || w.source.count() != 0 || w.lanes[0].gets != 0 {
				w.Errorf("%v, %v after %d loads, %d reads", values, err, w.source.count(), w.lanes[0].gets)
			}
		}},
		{"two callers with the same keys in opposite orders: nobody hangs, each key is loaded once", policy, func(w *manyWorld) {
			w.source.takes = 100 * time.Millisecond
			w.lanes[0].lag, w.lanes[1].lag = time.Millisecond, time.Millisecond
			var both sync.WaitGroup
			for round := range 2 {
				// As many as travel in several requests, so that each caller is given
				// the leases of a part.
				keys := numberedKeys(2500)
				for i := range keys {
					keys[i] = fmt.Sprint(round, "-", keys[i])
				}
				for i := range w.cache {
					both.Go(func() {
						mine := slices.Clone(keys)
						if i == 1 {
							slices.Reverse(mine)
						}
						if values, err := w.cache[i].GetOrSetMany(w.Context(), mine, w.source.load); err != nil || len(values) != len(keys) {
							w.Errorf("%d values, %v", len(values), err)
						}
					})
				}
				both.Wait()
			}
			if w.source.count() != 4 {
				w.Errorf("%d calls of the loader, want one of each caller in each round", w.source.count())
			}
			for key, n := range w.source.loads() {
				if n != 1 {
					w.Errorf("%s was loaded %d times", key, n)
				}
			}
		}},
		{"two callers have a key of the other's each: both load theirs first and then find the other's", policy, func(w *manyWorld) {
			w.source.takes = time.Second
			var both sync.WaitGroup
			start := time.Now()
			both.Go(func() { w.must(0, "a", "a=a") })
			both.Go(func() { w.must(1, "b", "b=b") })
			synctest.Wait()
			both.Go(func() { w.must(0, "c b", "b=b c=c") })
			both.Go(func() { w.must(1, "d a c", "a=a c=c d=d") })
			both.Wait()
			w.wantLoads(map[string]int{"a": 1, "b": 1, "c": 1, "d": 1})
			if took := time.Since(start); took > 1500*time.Millisecond {
				w.Errorf("it took %s", took)
			}
		}},
		{"two processes ask for one cold key among others: it is loaded once in the cluster", policy, func(w *manyWorld) {
			w.source.takes = time.Second
			var both sync.WaitGroup
			for i := range w.cache {
				both.Go(func() { w.must(i, fmt.Sprintf("shared own-%d", i), fmt.Sprintf("own-%d=own-%d shared=shared", i, i)) })
			}
			both.Wait()
			w.wantLoads(map[string]int{"shared": 1, "own-0": 1, "own-1": 1})
		}},
		{"GetOrSet and GetOrSetMany share one load of a key", policy, func(w *manyWorld) {
			w.source.takes = time.Second
			var both sync.WaitGroup
			both.Go(func() { w.must(0, "a b", "a=a b=b") })
			synctest.Wait()
			v, err := w.cache[1].GetOrSet(w.Context(), "a", returns("other"))
			if v != "a" || err != nil {
				w.Error(v, err)
			}
			both.Wait()
		}},
		{"whoever was loading our key dies: its lease runs out, and we load it", policy.With(func(p *client.Policy) { p.Wait = 30 * time.Second }), func(w *manyWorld) {
			results, err := w.lanes[1].Backend.Get(w.Context(), soracache.GetRequest{Namespace: "default", Reads: []soracache.Read{{Key: "a", Lease: true}}})
			if err != nil || results[0].Lease == (soracache.Lease{}) {
				w.Fatal(results, err)
			}
			w.must(0, "a b", "a=a b=b")
			if w.source.count() != 2 { // b at once, and a later
				w.Errorf("loaded %v", w.source.calls)
			}
			w.must(1, "a", "a=a")
		}},
		{"whoever is loading our key takes too long: we load it too, and do not store it", policy.With(func(p *client.Policy) { p.Wait = 2 * time.Second }), func(w *manyWorld) {
			slow := &source{takes: 10 * time.Second, version: "-slow"}
			var other sync.WaitGroup
			other.Go(func() { _, _ = w.cache[1].GetOrSetMany(w.Context(), []string{"a"}, slow.load) })
			synctest.Wait()
			w.must(0, "a b", "a=a b=b")
			other.Wait()
			w.must(0, "a", "a=a-slow")
		}},
		{"the loader fails: what is cached is returned, the other keys have its error", policy, func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			w.source.fails = errBoom
			values, err := w.get(0, "a b c d")
			if listed(values) != "a=a b=b" {
				w.Errorf("got %v", values)
			}
			w.wantFailed(err, errBoom, "c", "d")
			w.source.fails = nil
			start := time.Now()
			w.must(1, "c d", "c=c d=d") // the leases are free
			if time.Since(start) > 100*time.Millisecond {
				w.Errorf("it took %s", time.Since(start))
			}
		}},
		{"one id of a batch fails: the loader says which, the others are stored", policy, func(w *manyWorld) {
			values, err := w.cache[0].GetOrSetMany(w.Context(), []string{"a", "b"}, func(context.Context, []string) (map[string]string, error) {
				return map[string]string{"a": "1"}, &client.ManyError{Errors: map[string]error{"b": errBoom}}
			})
			if listed(values) != "a=1" {
				w.Errorf("got %v", values)
			}
			w.wantFailed(err, errBoom, "b")
			w.must(1, "a", "a=1")
		}},
		{"100 cached ids due for refresh plus 2 new when the batch source fails: 100 values, 2 errors", policy.With(func(p *client.Policy) { p.FailSafe = time.Hour }), func(w *manyWorld) {
			keys := numberedKeys(102)
			if _, err := w.cache[0].GetOrSetMany(w.Context(), keys[:100], w.source.load); err != nil {
				w.Fatal(err)
			}
			time.Sleep(2 * time.Minute)
			w.source.fails = errBoom
			values, err := w.cache[1].GetOrSetMany(w.Context(), keys, w.source.load)
			if len(values) != 100 || w.source.count() != 2 {
				w.Errorf("%d values after %d calls", len(values), w.source.count())
			}
			w.wantFailed(err, errBoom, keys[100:]...)
		}},
		{"fail-safe after an invalidation: the invalidated one fails, its neighbours are served", policy.With(func(p *client.Policy) { p.FailSafe = time.Hour }), func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			time.Sleep(2 * time.Minute)
			w.source.during = func(ctx context.Context) error {
				_, err := w.client[1].Remove(ctx, "a")
				return errors.Join(err, errBoom)
			}
			values, err := w.get(0, "a b")
			if listed(values) != "b=b" {
				w.Errorf("got %v", values)
			}
			w.wantFailed(err, errBoom, "a")
		}},
		{"the loader of stale values failed a moment ago: it is left alone, and new keys are loaded", policy.With(func(p *client.Policy) { p.FailSafe = time.Hour }), func(w *manyWorld) {
			w.must(0, "a", "a=a")
			time.Sleep(2 * time.Minute)
			w.source.fails = errBoom
			w.must(0, "a", "a=a")
			w.source.fails, w.source.version = nil, "-new"
			w.must(0, "a b", "a=a b=b-new")
			time.Sleep(time.Minute)
			w.must(0, "a b", "a=a-new b=b-new")
		}},
		{"stale values while they are loaded anew: they come at once, from one call in the background", policy.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour }), func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			time.Sleep(2 * time.Minute)
			w.source.takes, w.source.version = time.Second, "-new"
			start := time.Now()
			w.must(0, "a b", "a=a b=b")
			w.must(1, "a b", "a=a b=b")
			if time.Since(start) > 100*time.Millisecond {
				w.Errorf("it took %s", time.Since(start))
			}
			time.Sleep(2 * time.Second)
			w.must(1, "a b", "a=a-new b=b-new")
			if w.source.count() != 2 {
				w.Errorf("loaded %v", w.source.calls)
			}
		}},
		{"an invalidation during a background refresh: only the other value is stored", policy.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour }), func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			time.Sleep(2 * time.Minute)
			w.source.version = "-old"
			w.source.during = func(ctx context.Context) error { _, err := w.client[1].Remove(ctx, "a"); return err }
			w.must(0, "a b", "a=a b=b")
			synctest.Wait()
			w.source.during, w.source.version = nil, "-new"
			w.must(0, "a b", "a=a-new b=b-old")
		}},
		{"values close to their end are refreshed by one call in the background", policy.With(func(p *client.Policy) { p.EagerAt = 0.5 }), func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			time.Sleep(40 * time.Second)
			w.source.version = "-new"
			w.must(0, "a b", "a=a b=b")
			synctest.Wait()
			w.must(1, "a b", "a=a-new b=b-new")
			if w.source.count() != 2 {
				w.Errorf("loaded %v", w.source.calls)
			}
		}},
		{"the loader is slower than the soft timeout: the old values now, the new ones next time", policy.With(func(p *client.Policy) { p.FailSafe = time.Hour; p.SoftTimeout = 100 * time.Millisecond }), func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			time.Sleep(2 * time.Minute)
			w.source.takes, w.source.version = time.Second, "-new"
			start := time.Now()
			w.must(0, "a b", "a=a b=b")
			if took := time.Since(start); took > 200*time.Millisecond {
				w.Errorf("it took %s", took)
			}
			time.Sleep(2 * time.Second)
			w.must(0, "a b", "a=a-new b=b-new")
		}},
		{"the loader is slower than the hard timeout: an error, and the values are there next time", policy.With(func(p *client.Policy) { p.HardTimeout = 100 * time.Millisecond }), func(w *manyWorld) {
			w.source.takes = time.Second
			_, err := w.get(0, "a b")
			w.wantFailed(err, context.DeadlineExceeded, "a", "b")
			time.Sleep(2 * time.Second)
			w.must(0, "a b", "a=a b=b")
			if w.source.count() != 1 {
				w.Errorf("loaded %v", w.source.calls)
			}
		}},
		{"ids that do not exist are absent, and asked for again", policy, func(w *manyWorld) {
			w.source.lacks = []string{"x"}
			w.must(0, "a x", "a=a")
			w.source.lacks = nil
			w.must(1, "a x", "a=a x=x")
		}},
		{"ids that do not exist are remembered as such for a while", policy.With(func(p *client.Policy) { p.NotFoundTTL = 10 * time.Second }), func(w *manyWorld) {
			w.source.lacks = []string{"x", "y"}
			w.must(0, "a x y", "a=a")
			w.source.lacks = nil
			w.must(1, "a x y", "a=a")
			if _, err := w.cache[1].GetOrSet(w.Context(), "x", returns("found")); !errors.Is(err, client.ErrNotFound) {
				w.Errorf("GetOrSet of what does not exist: %v", err)
			}
			time.Sleep(11 * time.Second)
			w.must(1, "a x y", "a=a x=x y=y")
		}},
		{"the caller leaves: it gets what is cached at once, the loader is told, the leases are handed back", policy, func(w *manyWorld) {
			w.must(0, "a", "a=a")
			w.source.takes = time.Hour
			ctx, cancel := context.WithTimeout(w.Context(), time.Second)
			defer cancel()
			values, err := w.cache[0].GetOrSetMany(ctx, []string{"a", "b", "c"}, w.source.load)
			if listed(values) != "a=a" {
				w.Errorf("got %v", values)
			}
			w.wantFailed(err, context.DeadlineExceeded, "b", "c")
			synctest.Wait()
			w.source.takes = 0
			start := time.Now()
			w.must(1, "b c", "b=b c=c")
			if time.Since(start) > 100*time.Millisecond {
				w.Errorf("it took %s", time.Since(start))
			}
		}},
		{"the caller leaves a loader that does not listen: what it loads is stored", policy, func(w *manyWorld) {
			ctx, cancel := context.WithTimeout(w.Context(), time.Second)
			defer cancel()
			_, err := w.cache[0].GetOrSetMany(ctx, []string{"a", "b"}, func(context.Context, []string) (map[string]string, error) {
				time.Sleep(2 * time.Second)
				return map[string]string{"a": "late", "b": "late"}, nil
			})
			w.wantFailed(err, context.DeadlineExceeded, "a", "b")
			w.must(1, "a b", "a=late b=late")
		}},
		{"the loader panics: its keys have the panic, nobody else hangs", policy, func(w *manyWorld) {
			_, err := w.cache[0].GetOrSetMany(w.Context(), []string{"a", "b"}, func(context.Context, []string) (map[string]string, error) { panic("ouch") })
			var p *client.PanicError
			if !errors.As(err, &p) || p.Value != "ouch" || !strings.Contains(string(p.Stack), "bulk_test.go") {
				w.Errorf("got %v", err)
			}
			start := time.Now()
			w.must(1, "a b", "a=a b=b")
			if time.Since(start) > 100*time.Millisecond {
				w.Errorf("it took %s", time.Since(start))
			}
		}},
		{"a key and a tag are invalidated during the load: only what they name is not stored", policy, func(w *manyWorld) {
			w.source.during = func(ctx context.Context) error {
				client.LoadContextFrom(ctx).For("c").AddTags("third")
				_, err := w.client[1].Invalidate(ctx, client.Invalidation{Keys: []string{"a"}, Tags: []string{"third"}})
				return err
			}
			w.must(0, "a b c", "a=a b=b c=c")
			w.source.during, w.source.version = nil, "-new"
			w.must(1, "a b c", "a=a-new b=b c=c-new")
		}},
		{"a loader that takes longer than a lease keeps its leases", policy.With(func(p *client.Policy) { p.Wait = time.Minute }), func(w *manyWorld) {
			w.source.takes = 25 * time.Second
			var both sync.WaitGroup
			both.Go(func() { w.must(0, "a b", "a=a b=b") })
			synctest.Wait()
			w.must(1, "a b", "a=a b=b")
			both.Wait()
			w.wantLoads(map[string]int{"a": 1, "b": 1})
		}},
		{"what the loader says holds for the batch, and what it says of one key for that one", policy, func(w *manyWorld) {
			w.source.during = func(ctx context.Context) error {
				fill := client.LoadContextFrom(ctx)
				fill.AddTags("all")
				fill.SetTTL(10 * time.Second)
				fill.For("b").SetTTL(20 * time.Second)
				fill.For("c").DoNotCache()
				fill.For("nobody").DoNotCache()
				return nil
			}
			w.must(0, "a b c", "a=a b=b c=c")
			w.source.during, w.source.version = nil, "-2"
			w.must(0, "a b c", "a=a b=b c=c-2")
			time.Sleep(15 * time.Second)
			w.source.version = "-3"
			w.must(0, "a b c", "a=a-3 b=b c=c-2")
			if _, err := w.client[0].InvalidateTags(w.Context(), "all"); err != nil {
				w.Fatal(err)
			}
			w.source.version = "-4"
			w.must(0, "a b c", "a=a-3 b=b-4 c=c-2") // those of the first load alone carry it
		}},
		{"what a batch loader reads is an ingredient of all it loads", policy, func(w *manyWorld) {
			w.source.during = func(ctx context.Context) error {
				_, err := w.cache[0].GetOrSet(ctx, "rate", returns("1.1"), client.WithTags("rates"))
				return err
			}
			w.must(0, "a b", "a=a b=b")
			if _, err := w.client[1].InvalidateTags(w.Context(), "rates"); err != nil {
				w.Fatal(err)
			}
			w.source.version = "-new"
			w.must(1, "a b", "a=a-new b=b-new")
		}},
		{"what a loader reads by many keys is an ingredient of what it loads", policy, func(w *manyWorld) {
			dish := func(version string) func(context.Context) (string, error) {
				return func(ctx context.Context) (string, error) {
					_, err := w.cache[0].GetOrSetMany(ctx, []string{"a", "b"}, w.source.load, client.WithTags("parts"))
					return "dish" + version, err
				}
			}
			for range 2 {
				if v, err := w.cache[0].GetOrSet(w.Context(), "dish", dish("")); v != "dish" || err != nil {
					w.Error(v, err)
				}
			}
			if _, err := w.client[1].InvalidateTags(w.Context(), "parts"); err != nil {
				w.Fatal(err)
			}
			if v, err := w.cache[0].GetOrSet(w.Context(), "dish", dish("-new")); v != "dish-new" || err != nil {
				w.Error(v, err)
			}
		}},
		{"a batch loader asks for a key that it is loading: an error rather than a deadlock", policy, func(w *manyWorld) {
			w.source.during = func(ctx context.Context) error {
				_, err := w.cache[0].GetOrSet(ctx, "b", returns("b"))
				return err
			}
			_, err := w.get(0, "a b")
			w.wantFailed(err, client.ErrCycle, "a", "b")
		}},
		{"one bad key among good ones: its neighbours are loaded in one call and stored", policy, func(w *manyWorld) {
			w.lanes[0].refuse = "bad"
			values, err := w.get(0, "a b bad c d e")
			if listed(values) != "a=a b=b c=c d=d e=e" || w.source.count() != 1 {
				w.Errorf("got %v after %v", values, w.source.calls)
			}
			w.wantFailed(err, soracache.ErrInvalid, "bad")
			w.must(1, "a e", "a=a e=e")
		}},
		{"the service is down: one call of the loader for all keys, nothing stored", policy, func(w *manyWorld) {
			w.lanes[0].down = soracache.ErrUnavailable
			w.must(0, "a b c", "a=a b=b c=c")
			w.must(0, "a b c", "a=a b=b c=c")
			if w.source.count() != 2 {
				w.Errorf("loaded %v", w.source.calls)
			}
		}},
		{"5,000 keys: requests of at most 256, one call of the loader", policy, func(w *manyWorld) {
			keys := numberedKeys(5000)
			values, err := w.cache[0].GetOrSetMany(w.Context(), keys, w.source.load)
			if len(values) != len(keys) || err != nil || w.source.count() != 1 {
				w.Errorf("%d values, %v after %d calls", len(values), err, w.source.count())
			}
			if w.lanes[0].largest > 256 || w.lanes[0].gets != 20 || w.lanes[0].writes[soracache.OpFill] != len(keys) {
				w.Errorf("%d requests of up to %d, %v", w.lanes[0].gets, w.lanes[0].largest, w.lanes[0].writes)
			}
		}},
		{"loads of at most 100 keys, two at a time", policy, func(w *manyWorld) {
			w.source.takes = time.Second
			start := time.Now()
			values, err := w.cache[0].GetOrSetMany(w.Context(), numberedKeys(1000), w.source.load, client.LoadBatch(100), client.LoadConcurrency(2))
			if len(values) != 1000 || err != nil || w.source.count() != 10 || w.source.most != 2 || time.Since(start) > 6*time.Second {
				w.Errorf("%d values, %v after %d calls, %d at a time, in %s", len(values), err, w.source.count(), w.source.most, time.Since(start))
			}
		}},
		{"the client is closed: every key says so", policy, func(w *manyWorld) {
			if err := w.client[0].Close(); err != nil {
				w.Fatal(err)
			}
			_, err := w.get(0, "a b")
			w.wantFailed(err, client.ErrClosed, "a", "b")
		}},
		{"the client is closed during a load: its keys say so, and the leases are handed back", policy, func(w *manyWorld) {
			w.source.takes = time.Hour
			var both sync.WaitGroup
			both.Go(func() {
				_, err := w.get(0, "a b")
				w.wantFailed(err, client.ErrClosed, "a", "b")
			})
			synctest.Wait()
			if err := w.client[0].Close(); err != nil {
				w.Fatal(err)
			}
			both.Wait()
			w.source.takes = 0
			w.must(1, "a b", "a=a b=b")
		}},
		{"a policy that can never be right is an error", policy.With(func(p *client.Policy) { p.Jitter = 2 }), func(w *manyWorld) {
			if _, err := w.get(0, "a"); !errors.Is(err, soracache.ErrInvalid) {
				w.Error(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tt.play(newManyWorld(t, tt.policy, client.NoNear())) })
		})
	}
}

// What the error of a batch loader means for the keys that it was called with, a and b.
func TestErrorsOfBatchLoaders(t *testing.T) {
	found := map[string]string{"a": "1"}
	of := func(errs map[string]error) *client.ManyError { return &client.ManyError{Errors: errs} }
	tests := []struct {
		name   string
		found  map[string]string
		err    error
		want   string
		failed string // the keys that fail, with errBoom; others that are not found do not exist
	}{
		{"its own, of one key: the other has its value", found, of(map[string]error{"b": errBoom}), "a=1", "b"},
		{"its own, of one key: the other is not there", map[string]string{}, of(map[string]error{"b": errBoom}), "", "b"},
		{"its own, of one key, and no result: of the other nothing was said", nil, of(map[string]error{"b": errBoom}), "", "a b"},
		{"its own, of all keys", nil, of(map[string]error{"a": errBoom, "b": errBoom}), "", "a b"},
		{"its own, that says what does not exist", nil, of(map[string]error{"a": client.ErrNotFound, "b": client.ErrNotFound}), "", ""},
		{"of another call: nothing exists less for it", nil, of(map[string]error{"row:a": errBoom}), "", "a b"},
		{"of another call, beside a value: one that may be half made", found, of(map[string]error{"row:a": errBoom}), "", "a b"},
		{"of another call, that has a key of the same name", found, of(map[string]error{"b": errBoom, "row:a": errBoom}), "", "a b"},
		{"of another call, of whose keys one does not exist", nil, of(map[string]error{"row:a": client.ErrNotFound, "row:b": errBoom}), "", "a b"},
		{"of another call, of whose keys one is to be kept as failed", nil, of(map[string]error{"row:a": client.CacheError(errBoom, time.Hour), "row:b": errBoom}), "", "a b"},
		{"of another call, of whose keys one is not modified", nil, of(map[string]error{"row:a": client.ErrNotModified, "row:b": errBoom}), "", "a b"},
		{"that leaves some unnamed", found, &client.ManyError{Errors: map[string]error{"b": errBoom}, Unnamed: 1}, "", "a b"},
		{"that is wrapped", found, fmt.Errorf("rows: %w", of(map[string]error{"b": errBoom})), "", "a b"},
		{"of no key at all, in another error", found, fmt.Errorf("%w: %w", errBoom, of(nil)), "", "a b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newManyWorld(t, client.Default(), client.NoNear())
				load := func(context.Context, []string) (map[string]string, error) { return tt.found, tt.err }
				cache := client.NewBatchLoadingCache(w.client[0], client.Default().With(func(p *client.Policy) { p.NotFoundTTL = time.Hour }), load)
				for range 2 { // what failed is not remembered
					values, err := cache.GetMany(w.Context(), []string{"a", "b"})
					if got := listed(values); got != tt.want {
						t.Errorf("got %q, want %q", got, tt.want)
					}
					if tt.failed != "" {
						w.wantFailed(err, errBoom, strings.Fields(tt.failed)...)
					} else if err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
	t.Run("one key alone", func(t *testing.T) {
		w := newManyWorld(t, client.Default())
		cache := client.NewBatchLoadingCache(w.client[0], client.Default(), func(context.Context, []string) (map[string]string, error) {
			return nil, of(map[string]error{"row:a": client.ErrNotFound, "row:b": errBoom})
		})
		if v, err := cache.Get(t.Context(), "a"); !errors.Is(err, errBoom) || errors.Is(err, client.ErrNotFound) {
			t.Errorf("got %q, %v", v, err)
		}
	})
	t.Run("loaders in a circle hand on what they are told", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newManyWorld(t, client.Default())
			var cache *client.LoadingCache[string]
			cache = client.NewBatchLoadingCache(w.client[0], client.Default(), func(ctx context.Context, keys []string) (map[string]string, error) {
				time.Sleep(time.Millisecond)
				_, err := cache.GetMany(ctx, map[string][]string{"a": {"b", "c"}, "b": {"c", "d"}, "c": {"d", "a"}, "d": {"a"}}[keys[0]])
				return nil, err
			})
			var all sync.WaitGroup
			for _, keys := range [][]string{{"a"}, {"b"}, {"c", "d"}} {
				all.Go(func() {
					_, err := cache.GetMany(t.Context(), keys)
					w.wantFailed(err, client.ErrCycle, keys...)
				})
			}
			all.Wait()
		})
	})
}

// With a near cache, which most clients have.
func TestGetOrSetManyNear(t *testing.T) {
	policy := client.Default().WithTTL(time.Minute)
	tests := []struct {
		name   string
		policy client.Policy
		play   func(w *manyWorld)
	}{
		{"what is near is not asked for, and what is not is", policy, func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			w.must(1, "a b", "a=a b=b") // from the node
			gets := w.lanes[0].gets + w.lanes[1].gets
			for i := range w.cache {
				w.must(i, "b a", "a=a b=b")
			}
			if n := w.lanes[0].gets + w.lanes[1].gets; n != gets {
				w.Errorf("%d requests for what is near", n-gets)
			}
			w.must(1, "a b c", "a=a b=b c=c")
			w.wantLoads(map[string]int{"a": 1, "b": 1, "c": 1})
		}},
		{"what is near is gone with its invalidation, its neighbours stay", policy, func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			w.source.version = "-new"
			if _, err := w.cache[0].Remove(w.Context(), "a"); err != nil {
				w.Fatal(err)
			}
			w.must(0, "a b", "a=a-new b=b")
		}},
		{"that there is no such thing is known near, too", policy.With(func(p *client.Policy) { p.NotFoundTTL = time.Minute }), func(w *manyWorld) {
			w.source.lacks = []string{"x"}
			w.must(0, "a x", "a=a")
			gets := w.lanes[0].gets
			w.must(0, "a x", "a=a")
			if w.lanes[0].gets != gets {
				w.Error("it was asked for again")
			}
		}},
		{"near values close to their end are refreshed by one call in the background", policy.With(func(p *client.Policy) { p.EagerAt = 0.5 }), func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			time.Sleep(29 * time.Second)
			w.must(0, "a b", "a=a b=b")
			time.Sleep(10 * time.Second) // they may have to be confirmed once more
			w.source.version = "-new"
			w.must(0, "a b", "a=a b=b")
			synctest.Wait()
			w.must(0, "a b", "a=a-new b=b-new")
			if w.source.count() != 2 {
				w.Errorf("loaded %v", w.source.calls)
			}
		}},
		{"the service is down and the loader fails: near values stand in, whatever has none fails", policy.With(func(p *client.Policy) { p.FailSafe = time.Hour }), func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			time.Sleep(2 * time.Minute)
			w.lanes[0].set(func(l *lane) { l.down = soracache.ErrUnavailable })
			w.source.fails = errBoom
			values, err := w.get(0, "a b c")
			if listed(values) != "a=a b=b" {
				w.Errorf("got %v", values)
			}
			w.wantFailed(err, errBoom, "c")
		}},
		{"everybody gets a copy of their own, if that is asked for", policy, func(w *manyWorld) {
			cache := client.NewCache[[]string](w.client[0], policy, client.CloneWith(slices.Clone[[]string]))
			for range 3 {
				values, err := cache.GetOrSetMany(w.Context(), []string{"list"}, func(context.Context, []string) (map[string][]string, error) {
					return map[string][]string{"list": {"x"}}, nil
				})
				if err != nil || len(values["list"]) != 1 || values["list"][0] != "x" {
					w.Fatal(values, err)
				}
				values["list"][0] = "scribbled"
			}
		}},
		{"a source that says not modified keeps the values that it was shown", policy.With(func(p *client.Policy) { p.Keep = time.Hour }), func(w *manyWorld) {
			w.source.during = func(ctx context.Context) error { client.LoadContextFrom(ctx).For("a").SetETag("v1"); return nil }
			w.must(0, "a b", "a=a b=b")
			time.Sleep(2 * time.Minute)
			values, err := w.cache[0].GetOrSetMany(w.Context(), []string{"a", "b"}, func(ctx context.Context, _ []string) (map[string]string, error) {
				if previous, etag, ok := client.PreviousOf[string](ctx, "a"); previous != "a" || etag != "v1" || !ok {
					w.Errorf("the loader is shown %q, %q, %t", previous, etag, ok)
				}
				if _, _, ok := client.PreviousOf[string](ctx, "c"); ok {
					w.Error("a key that it is not loading has a previous value")
				}
				return map[string]string{"b": "b-new"}, &client.ManyError{Errors: map[string]error{"a": client.ErrNotModified}}
			})
			if listed(values) != "a=a b=b-new" || err != nil {
				w.Error(values, err)
			}
			w.must(1, "a b", "a=a b=b-new")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newManyWorld(t, tt.policy)
				for _, c := range w.client { // they begin to watch
					_, _, _ = client.Get[string](t.Context(), c, "none")
				}
				synctest.Wait()
				tt.play(w)
			})
		})
	}
}

func ExampleCache_GetOrSetMany() {
	ctx := context.Background()
	c := shop()
	defer func() { _ = c.Close() }()
	names := client.NewCache[string](c, client.Default().WithTags("products"))

	// As from SELECT id, name FROM products WHERE id IN (…): what does not exist is
	// not in the result.
	load := func(_ context.Context, ids []string) (map[string]string, error) {
		fmt.Println("loading", ids)
		found := map[string]string{}
		for _, id := range ids {
			if id != "9" {
				found[id] = "product " + id
			}
		}
		return found, nil
	}
	for _, ids := range [][]string{{"1", "2"}, {"1", "2", "3", "9"}} {
		values, err := names.GetOrSetMany(ctx, ids, load)
		fmt.Println(values, err)
	}
	// Output:
	// loading [1 2]
	// map[1:product 1 2:product 2] <nil>
	// loading [3 9]
	// map[1:product 1 2:product 2 3:product 3] <nil>
}

// A loading cache whose loader knows single keys refreshes early, too, when it is asked
// for many: key by key, and no more of them at a time than it loads.
func TestGetManyOfALoaderOfSingleKeysRefreshesEarly(t *testing.T) {
	onStage(t, func(s *stage) {
		var mu sync.Mutex
		loads, running, most := map[string]int{}, 0, 0
		var cache *client.LoadingCache[string]
		cache = client.NewLoadingCache(s.a.Client, client.Policy{TTL: time.Minute}.With(func(p *client.Policy) { p.EagerAt = 0.5 }), func(ctx context.Context, key string) (string, error) {
			mu.Lock()
			loads[key]++
			n := loads[key]
			running++
			most = max(most, running)
			mu.Unlock()
			defer func() { mu.Lock(); running--; mu.Unlock() }()
			time.Sleep(time.Second)
			if key == "dish" {
				v, err := cache.Get(ctx, "a")
				return "dish of " + v, err
			}
			return fmt.Sprint(key, n), nil
		})
		keys := strings.Fields("a b c d e f dish")
		ask := func(want string) {
			t.Helper()
			got, err := cache.GetMany(s.Context(), keys)
			if listed(got) != want || err != nil {
				t.Errorf("got %s, %v; want %s", listed(got), err, want)
			}
			synctest.Wait()
		}
		first := "a=a1 b=b1 c=c1 d=d1 dish=dish of a1 e=e1 f=f1"
		ask(first)
		time.Sleep(45 * time.Second)
		ask(first)
		time.Sleep(5 * time.Second)
		ask("a=a2 b=b2 c=c2 d=d2 dish=dish of a2 e=e2 f=f2")
		if !slices.Equal(s.a.told.refreshed, make([]error, len(keys))) || len(s.a.told.refreshes) != len(keys) || most != 4 {
			t.Errorf("told of %v, which ended with %.300v; %d at a time", s.a.told.refreshes, s.a.told.refreshed, most)
		}
	})
}
