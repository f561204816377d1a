package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// price is what an operation costs.
type price struct{ rpcs, roundTrips int64 }

// meter counts what a client asks of its backend, and a node of its store.
type meter struct{ rpcs, roundTrips atomic.Int64 }

func (m *meter) read() price { return price{m.rpcs.Load(), m.roundTrips.Load()} }

// of returns what do costs.
func (m *meter) of(do func()) price {
	before := m.read()
	do()
	after := m.read()
	return price{after.rpcs - before.rpcs, after.roundTrips - before.roundTrips}
}

// metered counts requests. A watch is one for as long as it lasts.
type metered struct {
	soracache.Backend
	meter *meter
}

func (m metered) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	m.meter.rpcs.Add(1)
	return m.Backend.Get(ctx, req)
}

func (m metered) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	m.meter.rpcs.Add(1)
	return m.Backend.Write(ctx, req)
}

func (m metered) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	m.meter.rpcs.Add(1)
	return m.Backend.Invalidate(ctx, req)
}

func (m metered) Head(ctx context.Context, namespace string) (soracache.HeadResult, error) {
	m.meter.rpcs.Add(1)
	return m.Backend.Head(ctx, namespace)
}

func (m metered) Watch(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	m.meter.rpcs.Add(1)
	return m.Backend.Watch(ctx, req, deliver)
}

// meteredStore counts calls, each of which is one round trip.
type meteredStore struct {
	l2.Store
	meter *meter
}

func (m meteredStore) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	m.meter.roundTrips.Add(1)
	return m.Store.Read(ctx, reqs)
}

func (m meteredStore) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	m.meter.roundTrips.Add(1)
	return m.Store.Write(ctx, reqs)
}

func (m meteredStore) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	m.meter.roundTrips.Add(1)
	return m.Store.Invalidate(ctx, reqs)
}

func (m meteredStore) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	m.meter.roundTrips.Add(1)
	return m.Store.Since(ctx, reqs)
}

// guarded runs a test on a client over a node over the model, all of them
// metered, in a bubble: the clock stands still as long as somebody works, so
// nothing that is done in the background gets in between.
func guarded(t *testing.T, test func(*testing.T, *meter, *client.Client), opts ...client.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := new(meter)
		n := newNode(t, meteredStore{l2model.New(l2model.Config{}), m})
		c, err := client.New(metered{n, m}, append([]client.Option{client.Logger(nil)}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		// The first read makes the node follow the namespace, and the near cache
		// watch it.
		if _, err := client.GetOrSet(t.Context(), c, "first", loadOne); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		test(t, m, c)
	})
}

func newNode(t testing.TB, store l2.Store) *node.Node {
	n, err := node.New(node.Config{Store: store, L1MaxBytes: 64 << 20, MeterEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// product is what the benchmarks cache.
type product struct {
	ID    int
	Name  string
	Price int
	Tags  []string
}

// loadOne captures nothing, and so costs its caller no allocation.
func loadOne(context.Context) (product, error) { return product{ID: 42, Name: "lamp", Price: 30}, nil }

func loadKey(ctx context.Context, _ string) (product, error) { return loadOne(ctx) }

// A read that the application's own memory can answer makes no request and no
// allocation.
func TestNearHit(t *testing.T) {
	guarded(t, func(t *testing.T, m *meter, c *client.Client) {
		ctx := t.Context()
		cache := client.NewCache[product](c, client.Default().WithTags("products"))
		loading := client.NewLoadingCache(c, client.Default(), loadKey)
		if _, err := cache.GetOrSet(ctx, "product:42", loadOne); err != nil {
			t.Fatal(err)
		}
		if _, err := loading.Get(ctx, "product:43"); err != nil {
			t.Fatal(err)
		}
		for name, read := range map[string]func(){
			"Get of a loading cache": func() { _, _ = loading.Get(ctx, "product:43") },
			"GetOrSet":               func() { _, _ = cache.GetOrSet(ctx, "product:42", loadOne) },
			"Get":                    func() { _, _, _ = cache.Get(ctx, "product:42") },
		} {
			cost := m.of(func() {
				if allocs := testing.AllocsPerRun(100, read); allocs != 0 {
					t.Errorf("%s: %v allocations", name, allocs)
				}
			})
			if cost != (price{}) {
				t.Errorf("%s: %+v", name, cost)
			}
		}
	})
}

// What each step of the way costs without a near cache.
func TestPrices(t *testing.T) {
	guarded(t, func(t *testing.T, m *meter, c *client.Client) {
		ctx := t.Context()
		policy := client.Default().WithTags("products")
		cache := client.NewCache[product](c, policy)
		inL2 := client.NewCache[product](c, policy.With(func(p *client.Policy) { p.L1 = time.Nanosecond }))
		set := func(cache *client.Cache[product], key string) func() {
			return func() {
				if _, err := cache.GetOrSet(ctx, key, loadOne); err != nil {
					t.Error(err)
				}
			}
		}
		for _, step := range []struct {
			name string
			do   func()
			want price
		}{
			{"miss and fill", set(cache, "a"), price{2, 2}},
			{"hit in the node's memory", set(cache, "a"), price{1, 0}},
			{"and again", set(cache, "a"), price{1, 0}},
			{"miss and fill of what no memory keeps", set(inL2, "b"), price{2, 2}},
			{"hit in the second tier", func() { time.Sleep(time.Microsecond); set(inL2, "b")() }, price{1, 1}},
			{"invalidation of a tag", func() {
				if _, err := c.InvalidateTags(ctx, "products"); err != nil {
					t.Error(err)
				}
			}, price{1, 1}},
			{"miss and fill after it", set(cache, "a"), price{2, 2}},
			{"unfenced set", func() {
				if err := cache.Set(ctx, "a", product{}); err != nil {
					t.Error(err)
				}
			}, price{1, 1}},
		} {
			if got := m.of(step.do); got != step.want {
				t.Errorf("%s: %+v, want %+v", step.name, got, step.want)
			}
		}
	}, client.NoNear())
}

// Whoever comes while a key is loaded waits for that, and costs nothing further
// but one more look.
func TestStampede(t *testing.T) {
	guarded(t, func(t *testing.T, m *meter, c *client.Client) {
		const callers = 1000
		var loads atomic.Int64
		load := func(context.Context) (product, error) {
			loads.Add(1)
			time.Sleep(100 * time.Millisecond)
			return product{ID: 42}, nil
		}
		cost := m.of(func() {
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					if p, err := client.GetOrSet(t.Context(), c, "hot", load); p.ID != 42 || err != nil {
						t.Errorf("got %v, %v", p, err)
					}
				})
			}
			all.Wait()
		})
		if loads.Load() != 1 || cost.rpcs > 3 || cost.roundTrips > 2 {
			t.Errorf("%d loads, %+v", loads.Load(), cost)
		}
	}, client.NoNear())
}

// A batch of any length is one request to the node, and to the store.
func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := new(meter)
		n := newNode(t, meteredStore{l2model.New(l2model.Config{}), m})
		reads := make([]soracache.Read, 256)
		for i := range reads {
			reads[i] = soracache.Read{Key: fmt.Sprint("key:", i)}
		}
		req := soracache.GetRequest{Namespace: "default", Reads: reads}
		if _, err := n.Get(t.Context(), req); err != nil { // begins to follow
			t.Fatal(err)
		}
		if got := m.of(func() { _, _ = n.Get(t.Context(), req) }); got != (price{0, 1}) {
			t.Errorf("%d reads: %+v", len(reads), got)
		}
	})
}

// What a hit in a node's memory allocates does not depend on what is hit.
func TestNodeHitAllocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, l2model.New(l2model.Config{}))
		ctx := t.Context()
		_, err := n.Write(ctx, soracache.WriteRequest{Namespace: "default", Writes: []soracache.Write{{
			Op: soracache.OpPut, Key: "key", Entry: soracache.Entry{Value: make([]byte, 1<<20), Tags: []string{"a", "b", "c"}},
			Lifetime: soracache.Lifetime{TTL: time.Hour},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		req := soracache.GetRequest{Namespace: "default", Reads: []soracache.Read{{Key: "key"}}}
		read := func() {
			if rs, err := n.Get(ctx, req); err != nil || rs[0].Status != soracache.StatusHit {
				t.Fatal(rs, err)
			}
		}
		read() // puts it into memory
		// The slice of results and the stamp.
		if allocs := testing.AllocsPerRun(100, read); allocs > 2 {
			t.Errorf("%v allocations", allocs)
		}
	})
}
