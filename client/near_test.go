package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/stamps"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/virtual"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// link is a client's way to a node, with faults to switch on.
type link struct {
	soracache.Backend

	mu      sync.Mutex
	gets    int // reads, one by one
	heads   int
	watches []soracache.WatchRequest
	cut     context.CancelCauseFunc // ends the watches under way

	noWatch  error         // a watch is refused with it
	hold     chan struct{} // what a watch delivers waits until it is closed
	headDown bool
	// answered, if set, may hold back an answer to reads, or change it.
	answered func([]soracache.ReadResult)
}

// to is the node at the other end; set may put another one there.
func (l *link) to() soracache.Backend {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Backend
}

func (l *link) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	results, err := l.to().Get(ctx, req)
	l.mu.Lock()
	l.gets += len(req.Reads)
	answered := l.answered
	l.mu.Unlock()
	if answered != nil {
		answered(results)
	}
	return results, err
}

func (l *link) Head(ctx context.Context, namespace string) (soracache.HeadResult, error) {
	l.mu.Lock()
	l.heads++
	down := l.headDown
	l.mu.Unlock()
	if down {
		return soracache.HeadResult{}, soracache.ErrUnavailable
	}
	return l.to().Head(ctx, namespace)
}

var errCut = errors.New("cut")

func (l *link) Watch(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.mu.Lock()
	l.watches = append(l.watches, req)
	l.cut = cancel
	refused := l.noWatch
	l.mu.Unlock()
	if refused != nil {
		return refused
	}
	return l.to().Watch(ctx, req, func(items []soracache.WatchItem) error {
		l.mu.Lock()
		hold := l.hold
		l.mu.Unlock()
		if hold != nil {
			select {
			case <-hold:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return deliver(items)
	})
}

func (l *link) set(change func(*link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
}

func (l *link) counts() (gets, heads, watches int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gets, l.heads, len(l.watches)
}

// nearWorld is two clients, each at a node of its own, over one store. The nodes
// do not hear of each other: what one invalidates, the other learns from the
// store within a third of the bound.
type nearWorld struct {
	*testing.T
	cfg    node.Config // of its nodes
	store  *l2model.Model
	nodes  [2]*node.Node
	links  [2]*link
	client [2]*client.Client
}

const nearBound = 900 * time.Millisecond

func inNearWorld(t *testing.T, test func(w *nearWorld), opts ...client.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(newNearWorld(t, node.Config{}, opts...))
	})
}

func newNearWorld(t *testing.T, cfg node.Config, opts ...client.Option) *nearWorld {
	w := &nearWorld{T: t, store: l2model.New(l2model.Config{})}
	cfg.Store = w.store
	cfg.L1MaxBytes, cfg.Bound = 4<<20, nearBound
	w.cfg = cfg
	for i := range w.nodes {
		n, err := node.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		w.nodes[i], w.links[i] = n, &link{Backend: n}
		c, err := client.New(w.links[i], append([]client.Option{client.Namespace("shop"), client.Bound(nearBound), client.Logger(nil)}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		w.client[i] = c
	}
	return w
}

// warm has a client begin to watch.
func (w *nearWorld) warm(clients ...int) {
	w.Helper()
	for _, i := range clients {
		_, _, _ = client.Get[string](w.Context(), w.client[i], "warm")
	}
	synctest.Wait()
}

// get reads a key, loading v if there is nothing, and tells whether it was
// found without asking the node.
func (w *nearWorld) get(i int, key, v string, opts ...client.CallOption) (value string, near bool) {
	w.Helper()
	before, _, _ := w.links[i].counts()
	value, err := client.GetOrSet(w.Context(), w.client[i], key, func(context.Context) (string, error) { return v, nil }, opts...)
	if err != nil {
		w.Fatalf("read %s: %v", key, err)
	}
	after, _, _ := w.links[i].counts()
	return value, after == before
}

func (w *nearWorld) want(i int, key, loads, want string, near bool, opts ...client.CallOption) {
	w.Helper()
	if got, fromNear := w.get(i, key, loads, opts...); got != want || fromNear != near {
		w.Errorf("client %d reads %s: %q, near %t; want %q, near %t", i, key, got, fromNear, want, near)
	}
}

func (w *nearWorld) invalidate(i int, tags ...string) {
	w.Helper()
	if _, err := w.client[i].InvalidateTags(w.Context(), tags...); err != nil {
		w.Fatal(err)
	}
}

func TestNearServesWithoutAsking(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0, 1)
		w.want(0, "k", "1", "1", false)
		w.want(0, "k", "2", "1", true) // kept by its own fill
		w.want(1, "k", "2", "1", false)
		w.want(1, "k", "2", "1", true) // kept by a read
		if v, ok, err := client.Get[string](w.Context(), w.client[1], "k"); v != "1" || !ok || err != nil {
			w.Error(v, ok, err)
		}
		// Another type is another value.
		n, err := client.GetOrSet(w.Context(), w.client[1], "n", func(context.Context) (int, error) { return 7, nil })
		if n != 7 || err != nil {
			w.Error(n, err)
		}
		if _, _, watches := w.links[1].counts(); watches != 1 {
			w.Errorf("%d watches for the caches of one client", watches)
		}
	})
}

func TestNearObeysInvalidations(t *testing.T) {
	tests := []struct {
		name string
		do   func(ctx context.Context, c *client.Client) error
	}{
		{"key", func(ctx context.Context, c *client.Client) error { _, err := c.Remove(ctx, "k"); return err }},
		{"tag", func(ctx context.Context, c *client.Client) error { _, err := c.InvalidateTags(ctx, "t"); return err }},
		{"everything", func(ctx context.Context, c *client.Client) error { _, err := c.Clear(ctx); return err }},
		{"put", func(ctx context.Context, c *client.Client) error { return client.Set(ctx, c, "k", "2") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inNearWorld(t, func(w *nearWorld) {
				w.warm(0, 1)
				w.want(0, "k", "1", "1", false, client.WithTags("t"))
				w.want(0, "k", "2", "1", true)
				w.want(1, "k", "2", "1", false)
				w.want(1, "k", "2", "1", true)
				if err := tt.do(w.Context(), w.client[0]); err != nil {
					w.Fatal(err)
				}
				w.want(0, "k", "2", "2", false) // at once
				time.Sleep(nearBound)           // virtual: the guarantee is that much
				w.want(1, "k", "3", "2", false)
				w.want(1, "k", "3", "2", true)
			})
		})
	}
}

func TestNearHearsOfInvalidationsByTheWatch(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(1)
		w.want(1, "k", "1", "1", false, client.WithTags("t"))
		w.want(1, "k", "2", "1", true)
		// At the same node, by somebody else: the watch tells at once.
		if _, err := w.nodes[1].Invalidate(w.Context(), soracache.InvalidateRequest{
			Namespace: "shop", Targets: []soracache.Target{soracache.Tag("t")},
		}); err != nil {
			w.Fatal(err)
		}
		synctest.Wait()
		w.want(1, "k", "2", "2", false)
	})
}

func TestNearWithoutItsWatch(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0, 1)
		w.want(1, "k", "1", "1", false, client.WithTags("t"))
		// The watch is cut and cannot be begun again. As long as nothing is
		// recorded, answers still confirm that nothing is missing.
		w.links[1].set(func(l *link) { l.noWatch = soracache.ErrUnavailable; l.cut(errCut) })
		time.Sleep(5 * nearBound)
		w.want(1, "k", "2", "1", true)
		// Once something is, they do not.
		w.invalidate(0, "other")
		time.Sleep(2 * nearBound)
		w.want(1, "k", "2", "1", false)
		w.invalidate(0, "t")
		time.Sleep(nearBound)
		w.want(1, "k", "2", "2", false)
		w.want(1, "k", "3", "2", false) // proven, but nobody tells what comes after
		w.links[1].set(func(l *link) { l.noWatch = nil })
		time.Sleep(10 * time.Second)
		w.get(1, "k", "3")
		w.want(1, "k", "3", "2", true)
	})
}

func TestNearWithAStalledWatch(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0, 1)
		w.want(1, "k", "1", "1", false, client.WithTags("t"))
		release := make(chan struct{})
		w.links[1].set(func(l *link) { l.hold = release })
		w.invalidate(0, "t")
		time.Sleep(nearBound)
		w.want(1, "k", "2", "2", false)
		// The watch is behind what other answers tell, for too long: it is begun
		// anew.
		w.links[1].set(func(l *link) { l.hold = nil })
		for range 10 {
			time.Sleep(nearBound / 2)
			w.get(1, "k", "3")
		}
		if _, _, watches := w.links[1].counts(); watches < 2 {
			w.Errorf("%d watches", watches)
		}
		w.want(1, "k", "3", "2", true)
		close(release)
	})
}

// A watch that never says anything, as of a proxy that waits for ever, is begun
// anew.
func TestNearWithAMuteWatch(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		release := make(chan struct{})
		defer close(release)
		w.links[1].set(func(l *link) { l.hold = release })
		w.warm(1)
		w.links[1].set(func(l *link) { l.hold = nil })
		w.want(1, "k", "1", "1", false)
		w.want(1, "k", "2", "1", false)
		time.Sleep(15 * time.Second)
		w.want(1, "k", "2", "1", false)
		w.want(1, "k", "2", "1", true)
	})
}

// A machine that was suspended, and whose clock stood still meanwhile, serves
// nothing from the application's memory until that was confirmed since: what it
// took for confirmed is older than the clock says.
func TestNearGivesUpItsMemoryAfterASuspension(t *testing.T) {
	var slept atomic.Int64
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0, 1)
		w.want(0, "k", "v1", "v1", false)
		w.want(0, "k", "", "v1", true)
		hold := make(chan struct{})
		defer close(hold)
		w.links[0].set(func(l *link) { l.hold, l.headDown = hold, true })
		slept.Store(int64(time.Hour))
		if err := client.Set(w.Context(), w.client[1], "k", "v2"); err != nil {
			w.Fatal(err)
		}
		time.Sleep(nearBound/3 + time.Millisecond) // by then it has looked
		w.want(0, "k", "", "v2", false)
	}, virtual.Option(virtual.Settings{Random: func() float64 { return 0.5 }, Suspended: func() time.Duration { return time.Duration(slept.Load()) }}).(client.Option))
}

func TestNearUnconfirmed(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(1)
		w.want(1, "k", "1", "1", false)
		w.want(1, "k", "2", "1", true)
		w.links[1].set(func(l *link) { l.headDown = true })
		time.Sleep(nearBound - time.Millisecond)
		w.want(1, "k", "2", "1", true)
		time.Sleep(time.Millisecond)
		w.want(1, "k", "2", "1", false) // which confirms
		w.want(1, "k", "2", "1", true)
	})
}

// A client that reads all the time needs no call of its own to be confirmed, and
// one that does not read asks for nothing.
func TestNearAsksNoMoreThanItMust(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(1)
		w.want(1, "k", "1", "1", false)
		time.Sleep(10 * nearBound)
		_, heads, _ := w.links[1].counts()
		if heads < 10 || heads > 40 {
			w.Errorf("%d heads in ten bounds", heads)
		}
		for i := range 200 {
			time.Sleep(nearBound / 20)
			w.get(1, fmt.Sprint("other", i), "1")
		}
		if _, busy, _ := w.links[1].counts(); busy > heads+1 {
			w.Errorf("%d heads in ten bounds of other answers", busy-heads)
		}
		time.Sleep(10 * time.Minute)
		_, heads, _ = w.links[1].counts()
		time.Sleep(10 * time.Minute)
		if _, idle, _ := w.links[1].counts(); idle != heads {
			w.Errorf("%d heads in ten idle minutes", idle-heads)
		}
		w.want(1, "k", "2", "1", false)
		w.want(1, "k", "2", "1", true)
	})
}

func TestNearByPolicy(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(1)
		off := client.WithPolicy(client.Default().With(func(p *client.Policy) { p.Near = -1 }))
		w.want(1, "k", "1", "1", false, off)
		w.want(1, "k", "2", "1", false, off)
		short := client.WithPolicy(client.Default().With(func(p *client.Policy) { p.Near = 10 * time.Second }))
		w.want(1, "s", "1", "1", false, short)
		time.Sleep(10*time.Second - time.Millisecond)
		w.want(1, "s", "2", "1", true)
		time.Sleep(time.Millisecond)
		w.want(1, "s", "2", "1", false, short)
		w.want(1, "s", "2", "1", true)
		// Nothing is fresh here for longer than elsewhere.
		w.want(1, "t", "1", "1", false, client.WithTTL(10*time.Second))
		time.Sleep(10 * time.Second)
		w.want(1, "t", "2", "2", false)
	})
	inNearWorld(t, func(w *nearWorld) {
		w.want(1, "k", "1", "1", false)
		w.want(1, "k", "2", "1", false)
		if _, heads, watches := w.links[1].counts(); heads+watches > 0 {
			w.Errorf("%d heads, %d watches without a near cache", heads, watches)
		}
	}, client.NoNear())
}

func TestNearOfAServiceThatCannotBeWatched(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.links[1].set(func(l *link) { l.noWatch = soracache.ErrUnimplemented })
		w.warm(1)
		w.want(1, "k", "1", "1", false)
		w.want(1, "k", "2", "1", false)
		time.Sleep(time.Hour)
		if _, _, watches := w.links[1].counts(); watches > 90 {
			w.Errorf("tried %d times in an hour", watches)
		}
	})
}

// Of two answers that were under way together nobody knows which is the newer.
func TestNearKeepsNeitherOfTwoThatOverlap(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(1)
		arrive := make(chan struct{})
		w.links[1].set(func(l *link) {
			l.answered = func([]soracache.ReadResult) { <-arrive }
		})
		w.want(0, "k", "old", "old", false)
		done := make(chan string)
		go func() {
			v, _, _ := client.Get[string](w.Context(), w.client[1], "k", client.WithPolicy(client.Default()))
			done <- v
		}()
		synctest.Wait() // the answer is under way
		w.links[1].set(func(l *link) { l.answered = nil })
		// Meanwhile the value is loaded anew, without any invalidation.
		w.nodesRefill(1, "k", "new")
		w.want(1, "k", "?", "new", false)
		w.want(1, "k", "?", "new", true)
		close(arrive)
		if v := <-done; v != "old" {
			w.Fatalf("the late answer is %q", v)
		}
		synctest.Wait()
		if v, _ := w.get(1, "k", "?"); v != "new" {
			w.Errorf("a late answer replaced a fresher value: %q", v)
		}
	})
}

// nodesRefill replaces a live value by a refresh of it, at a node.
func (w *nearWorld) nodesRefill(i int, key, value string) {
	w.Helper()
	rs, err := w.nodes[i].Get(w.Context(), soracache.GetRequest{Namespace: "shop", Reads: []soracache.Read{{
		Key: key, Lease: true, RefreshWithin: 24 * time.Hour,
	}}})
	if err != nil || rs[0].Lease == (soracache.Lease{}) {
		w.Fatalf("no refresh lease: %+v, %v", rs, err)
	}
	ws, err := w.nodes[i].Write(w.Context(), soracache.WriteRequest{Namespace: "shop", Writes: []soracache.Write{{
		Op: soracache.OpFill, Key: key, Lease: rs[0].Lease,
		Entry: soracache.Entry{Value: []byte(value), Encoding: "raw"}, Lifetime: soracache.Lifetime{TTL: time.Hour},
	}}})
	if err != nil || !ws[0].Stored {
		w.Fatalf("not refilled: %+v, %v", ws, err)
	}
}

func TestStampsTravel(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0, 1)
		w.want(0, "k", "1", "1", false, client.WithTags("t"))
		w.want(1, "k", "2", "1", false)
		// A request is handled by the first service, which hands its stamp on.
		ctx := stamps.With(w.Context(), stamps.Stamp{})
		if _, err := w.client[0].InvalidateTags(ctx, "t"); err != nil {
			w.Fatal(err)
		}
		header := http.Header{}
		stamps.SetHeader(ctx, header)
		there := stamps.WithHeader(w.Context(), header)
		v, err := client.GetOrSet(there, w.client[1], "k", func(context.Context) (string, error) { return "2", nil })
		if v != "2" || err != nil {
			w.Errorf("whoever carries the stamp reads %q, %v", v, err)
		}
		if stamps.From(there).IsZero() || stamps.From(w.Context()).String() != "" {
			w.Error("stamps:", stamps.From(there), stamps.From(w.Context()))
		}
		back, err := stamps.Parse(stamps.From(there).String())
		if err != nil || back.String() != stamps.From(there).String() {
			w.Errorf("%q, %v", back, err)
		}
	})
	for _, bad := range []string{"shop", "shop=", "=", "SHOP=AA", "shop=AA", "shop=!!", ",", "shop=AQAAAAAAAAAAAAcAAAAAAAAAZZ__at5"} {
		if _, err := stamps.Parse(bad); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if ctx := stamps.WithHeader(t.Context(), http.Header{stamps.Header: {"garbage"}}); !stamps.From(ctx).IsZero() {
		t.Error("garbage counts")
	}
}

// What a loader made of something near dies with it.
func TestNearIngredients(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0, 1)
		dish := func(ctx context.Context, ingredient string) (string, error) {
			v, err := client.GetOrSet(ctx, w.client[1], "ingredient", func(context.Context) (string, error) { return ingredient, nil }, client.WithTags("market"))
			return "dish of " + v, err
		}
		w.want(1, "ingredient", "1", "1", false, client.WithTags("market"))
		cook := func(ingredient string) string {
			v, err := client.GetOrSet(w.Context(), w.client[1], "dish", func(ctx context.Context) (string, error) { return dish(ctx, ingredient) })
			if err != nil {
				w.Fatal(err)
			}
			return v
		}
		if v := cook("?"); v != "dish of 1" {
			w.Fatal(v)
		}
		w.want(1, "dish", "?", "dish of 1", true)
		w.want(0, "dish", "?", "dish of 1", false)
		w.invalidate(0, "market")
		time.Sleep(nearBound)
		if v := cook("2"); v != "dish of 2" {
			w.Error(v)
		}
	})
}

func TestNearHitAllocatesNothing(t *testing.T) {
	w := newNearWorld(t, node.Config{})
	ctx := t.Context()
	products := client.NewLoadingCache(w.client[0], client.Default(), func(context.Context, string) (string, error) { return "v", nil })
	names := client.NewCache[string](w.client[0], client.Default())
	load := func(context.Context) (string, error) { return "v", nil }
	kept := func() bool {
		before, _, _ := w.links[0].counts()
		if v, err := products.Get(ctx, "product:42"); v != "v" || err != nil {
			t.Fatal(v, err)
		}
		after, _, _ := w.links[0].counts()
		return after == before
	}
	for end := time.Now().Add(10 * time.Second); !kept(); {
		if time.Now().After(end) {
			t.Fatal("never kept near")
		}
	}
	for name, read := range map[string]func(){
		"LoadingCache.Get": func() { _, _ = products.Get(ctx, "product:42") },
		"GetOrSet":         func() { _, _ = names.GetOrSet(ctx, "product:42", load) },
		"Get":              func() { _, _, _ = names.Get(ctx, "product:42") },
	} {
		before, _, _ := w.links[0].counts()
		if n := testing.AllocsPerRun(1000, read); n != 0 {
			t.Errorf("a near hit by %s allocates %v times", name, n)
		}
		if after, _, _ := w.links[0].counts(); after != before {
			t.Errorf("%d reads of the node for near hits by %s", after-before, name)
		}
	}
}

// When the namespace is given another number of partitions, a near cache begins
// anew: it keeps nothing of what it had, and then keeps again.
func TestNearWhenTheNumberOfPartitionsChanges(t *testing.T) {
	for _, counts := range [][2]int{{1, 4}, {4, 1}} {
		synctest.Test(t, func(t *testing.T) {
			var told atomic.Int64
			told.Store(int64(counts[0]))
			w := newNearWorld(t, node.Config{Partitions: func(string) int { return int(told.Load()) }})
			w.warm(0)
			keys := []string{"a", "b", "c", "d", "e", "f"}
			for _, key := range keys {
				w.want(0, key, "1", "1", false)
				w.want(0, key, "2", "1", true)
			}
			err := l2.Repartition(t.Context(), w.store, "shop", counts[1], func(d time.Duration) error {
				time.Sleep(d)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			told.Store(int64(counts[1]))
			time.Sleep(2 * time.Minute) // nodes have asked, and the watch has begun again
			w.warm(0)
			for _, key := range keys {
				w.want(0, key, "3", "3", false)
				w.want(0, key, "4", "3", true)
			}
			w.invalidate(1, "t")
			if _, err := w.client[1].Remove(t.Context(), keys...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(nearBound)
			for _, key := range keys {
				w.want(0, key, "5", "5", false)
			}
		})
	}
}

// A store that was restored can go back to an epoch that a near cache has left. Once
// the answers of the nodes show that, the near cache begins anew.
func TestNearWhenTheStoreGoesBack(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0)
		w.want(0, "k", "1", "1", false)
		w.want(0, "k", "2", "1", true)
		restore := w.store.Snapshot()
		w.store.LoseLedger(l2.Partition{Namespace: "shop"})
		time.Sleep(nearBound)
		w.want(0, "k", "3", "3", false)
		w.want(0, "k", "4", "3", true)

		restore()
		w.restart(0)
		w.restart(1)
		time.Sleep(10 * time.Second)
		w.get(0, "k", "5") // shows that the store went back
		time.Sleep(10 * time.Second)
		value, _ := w.get(0, "k", "6")
		w.want(0, "k", "7", value, true)
		if _, err := w.client[1].Remove(w.Context(), "k"); err != nil {
			w.Fatal(err)
		}
		time.Sleep(nearBound)
		w.want(0, "k", "8", "8", false)
	})
}

// So it does where the application reads nothing in the partition that went back.
func TestNearWhenWhatNobodyReadsGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newNearWorld(t, node.Config{Partitions: func(string) int { return 2 }})
		keys := [2]string{}
		for i := 0; keys[0] == "" || keys[1] == ""; i++ {
			key := fmt.Sprint("k", i)
			keys[soracache.PartitionOf(key, 2)] = key
		}
		read, other := keys[soracache.PartitionOf("warm", 2)], keys[1-soracache.PartitionOf("warm", 2)]
		w.warm(0)
		w.want(0, read, "1", "1", false)
		w.want(0, read, "2", "1", true)
		restore := w.store.Snapshot()
		w.store.LoseLedger(l2.Partition{Namespace: "shop", Index: soracache.PartitionOf(other, 2), Count: 2})
		w.get(1, other, "1")
		time.Sleep(5 * time.Second)
		restore()
		w.restart(0)
		w.restart(1)
		time.Sleep(20 * time.Second)
		w.get(0, read, "3")
		value, _ := w.get(0, read, "4")
		w.want(0, read, "5", value, true)
		_, err := w.nodes[0].Invalidate(t.Context(), soracache.InvalidateRequest{Namespace: "shop", Targets: []soracache.Target{soracache.Key(read)}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // the watch tells of it
		w.want(0, read, "6", "6", false)
	})
}

// restart puts another node in the place of one.
func (w *nearWorld) restart(i int) {
	w.Helper()
	_ = w.nodes[i].Close()
	n, err := node.New(w.cfg)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = n.Close() })
	w.nodes[i] = n
	w.links[i].set(func(l *link) { l.Backend = n })
}
