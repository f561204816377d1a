package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/cluster"
)

func urlsOf(n int) (urls []string) {
	for i := range n {
		urls = append(urls, fmt.Sprintf("http://10.0.0.%d:7070", i+1))
	}
	return urls
}

// Keys spread evenly, also those that differ at their ends alone, and when a
// node goes or comes, no key moves that need not.
func TestRendezvous(t *testing.T) {
	const keys = 5_000
	for _, n := range []int{2, 3, 5, 20} {
		urls := urlsOf(n)
		for _, form := range []string{"%d", "product:%d", "%d:price", "user:%08d:profile"} {
			held := map[string]int{}
			second := map[string]int{} // where the keys of the first node go
			for i := range keys {
				key := fmt.Sprintf(form, i)
				order := cluster.RankByKey(urls, key)
				held[order[0]]++
				if order[0] == urls[0] {
					second[order[1]]++
				}
				without := cluster.RankByKey(urls[1:], key)
				if i := slices.Index(order, urls[0]); !slices.Equal(slices.Delete(slices.Clone(order), i, i+1), without) {
					t.Fatalf("%s: without one node %v, with it %v", key, without, order)
				}
				shuffled := slices.Clone(urls)
				rand.Shuffle(n, func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
				if got := cluster.RankByKey(shuffled, key); !slices.Equal(got, order) {
					t.Fatalf("%s: the order of the URLs matters: %v, %v", key, got, order)
				}
			}
			even(t, fmt.Sprintf("%d nodes, keys %q", n, form), held, n, keys)
			even(t, fmt.Sprintf("%d nodes, keys %q, one gone", n, form), second, n-1, held[urls[0]])
		}
	}
}

// even checks that no share is further from the mean than chance explains: five
// standard deviations.
func even(t *testing.T, what string, held map[string]int, shares, of int) {
	t.Helper()
	mean := float64(of) / float64(shares)
	for url, n := range held {
		if off := float64(n) - mean; off*off > 25*mean {
			t.Errorf("%s: %s has %d of %d, want about %.0f", what, url, n, of, mean)
		}
	}
	if len(held) != shares {
		t.Errorf("%s: only %d nodes have any", what, len(held))
	}
}

// Where a key goes is agreed between all clients of a cluster, of any version.
func TestRendezvousIsFixed(t *testing.T) {
	var got []string
	for i := range 12 {
		got = append(got, cluster.RankByKey(urlsOf(3), fmt.Sprint("key:", i))[0][len("http://10.0.0."):][:1])
	}
	if text := strings.Join(got, " "); text != fixedRendezvous {
		t.Errorf("got %q", text)
	}
}

const fixedRendezvous = "3 3 1 2 3 3 1 3 3 2 1 3"

// tally is a node that counts what it is asked, and fails as it is told.
type tally struct {
	name string
	fail func(call int) error
	hold chan struct{}

	mu    sync.Mutex
	calls []string // the keys of each call
}

func (n *tally) note(keys ...string) error {
	n.mu.Lock()
	n.calls = append(n.calls, strings.Join(keys, " "))
	call := len(n.calls)
	n.mu.Unlock()
	if n.hold != nil {
		<-n.hold
	}
	if n.fail != nil {
		return n.fail(call)
	}
	return nil
}

func (n *tally) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.calls)
}

func (n *tally) Get(_ context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	var keys []string
	var results []soracache.ReadResult
	for _, r := range req.Reads {
		keys = append(keys, r.Key)
		results = append(results, soracache.ReadResult{Status: soracache.StatusHit, Entry: soracache.Entry{Value: []byte(r.Key), ETag: n.name}})
	}
	if err := n.note(keys...); err != nil {
		return nil, err
	}
	return results, nil
}

func (n *tally) Write(_ context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	var keys []string
	var results []soracache.WriteResult
	for _, w := range req.Writes {
		keys = append(keys, w.Key)
		results = append(results, soracache.WriteResult{Stored: true, SupersededBy: soracache.Record{Targets: []soracache.Target{soracache.Key(w.Key)}}})
	}
	if err := n.note(keys...); err != nil {
		return nil, err
	}
	return results, nil
}

func (n *tally) Invalidate(context.Context, soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	return soracache.InvalidateResult{}, n.note("")
}

func (n *tally) Head(context.Context, string) (soracache.HeadResult, error) {
	return soracache.HeadResult{}, n.note("")
}

func (n *tally) Watch(ctx context.Context, _ soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	if err := n.note(""); err != nil {
		return err
	}
	if err := deliver(nil); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// tallies returns so many nodes by their URLs.
func tallies(n int) map[string]*tally {
	nodes := make(map[string]*tally)
	for _, url := range urlsOf(n) {
		nodes[url] = &tally{name: url}
	}
	return nodes
}

func backends(nodes map[string]*tally) map[string]soracache.Backend {
	all := make(map[string]soracache.Backend)
	for url, n := range nodes {
		all[url] = n
	}
	return all
}

func reads(keys []string) (req soracache.GetRequest) {
	for _, k := range keys {
		req.Reads = append(req.Reads, soracache.Read{Key: k})
	}
	return req
}

// A batch is split by the nodes of its keys, and its answers come in order. What
// fails at one node moves on to the next one of each key.
func TestBatchesAreSplitByNode(t *testing.T) {
	keys := keysFrom(300)
	for _, tt := range []struct {
		name string
		fail map[int]error // by node
		want error         // of the keys whose node fails
	}{
		{"all are well", nil, nil},
		{"one node fails", map[int]error{1: errBroken}, nil},
		{"all but one fail", map[int]error{0: errBroken, 2: errBroken, 3: errBroken}, nil},
		{"one node refuses its keys", map[int]error{1: soracache.ErrPermissionDenied}, soracache.ErrPermissionDenied},
		{"all fail", map[int]error{0: errBroken, 1: errBroken, 2: errBroken, 3: errBroken}, errBroken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nodes := tallies(4)
			for i, err := range tt.fail {
				nodes[urlsOf(4)[i]].fail = func(int) error { return err }
			}
			b := cluster.Routed(quiet(), cluster.ByKey, backends(nodes), nil)
			rs, err := b.Get(t.Context(), reads(keys))
			var writes []soracache.Write
			for _, k := range keys {
				writes = append(writes, soracache.Write{Op: soracache.OpFill, Key: k})
			}
			ws, werr := cluster.Routed(quiet(), cluster.ByKey, backends(nodes), nil).Write(t.Context(), soracache.WriteRequest{Writes: writes})
			if len(tt.fail) == len(nodes) {
				if !errors.Is(err, tt.want) || !errors.Is(werr, tt.want) {
					t.Errorf("got %v, %v", err, werr)
				}
				return
			}
			if err != nil || werr != nil || len(rs) != len(keys) || len(ws) != len(keys) {
				t.Fatalf("%d answers, %v; %d answers, %v", len(rs), err, len(ws), werr)
			}
			for i, key := range keys {
				order := cluster.RankByKey(urlsOf(4), key)
				failing := func(url string) bool { return nodes[url].fail != nil }
				if tt.want != nil && failing(order[0]) {
					if !errors.Is(rs[i].Err, tt.want) || !errors.Is(ws[i].Err, tt.want) {
						t.Errorf("%s: %v, %v", key, rs[i].Err, ws[i].Err)
					}
					continue
				}
				node := order[slices.IndexFunc(order, func(url string) bool { return !failing(url) })]
				if rs[i].Err != nil || string(rs[i].Entry.Value) != key || rs[i].Entry.ETag != node {
					t.Errorf("%s: got %q of %s, %v; want it of %s", key, rs[i].Entry.Value, rs[i].Entry.ETag, rs[i].Err, node)
				}
				if !ws[i].Stored || ws[i].SupersededBy.Targets[0].Name != key {
					t.Errorf("%s: %+v", key, ws[i])
				}
			}
		})
	}
}

// A put in a batch is not done twice, unless it has certainly not begun.
func TestPutsInABatchAreNotRepeated(t *testing.T) {
	nodes := tallies(3)
	bad := urlsOf(3)[0]
	nodes[bad].fail = func(int) error { return errBroken }
	var writes []soracache.Write
	for _, k := range keysFrom(60) {
		writes = append(writes, soracache.Write{Op: soracache.OpPut, Key: k})
	}
	ws, err := cluster.Routed(quiet(), cluster.ByKey, backends(nodes), nil).Write(t.Context(), soracache.WriteRequest{Writes: writes})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range ws {
		if there := cluster.RankByKey(urlsOf(3), writes[i].Key)[0] == bad; there != errors.Is(w.Err, errBroken) || there == w.Stored {
			t.Errorf("%s, of the bad node %v: %+v", writes[i].Key, there, w)
		}
	}
}

func TestRoundRobinAndLeastLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := tallies(3)
		b := cluster.Routed(quiet(), cluster.RoundRobin, backends(nodes), nil)
		for range 30 {
			if _, err := b.Get(t.Context(), reads([]string{"k"})); err != nil {
				t.Fatal(err)
			}
		}
		for url, n := range nodes {
			if n.count() != 10 {
				t.Errorf("in turn: %s was asked %d times", url, n.count())
			}
		}
		nodes = tallies(3)
		busy := nodes[urlsOf(3)[1]]
		busy.hold = make(chan struct{})
		b = cluster.Routed(quiet(), cluster.LeastLoaded, backends(nodes), nil)
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				if _, err := b.Get(t.Context(), reads([]string{"k"})); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if busy.count() != 1 {
			t.Errorf("the busy node was asked %d times", busy.count())
		}
		for url, n := range nodes {
			if n != busy && n.count() < 10 {
				t.Errorf("least loaded: %s was asked %d times", url, n.count())
			}
		}
		close(busy.hold)
		wg.Wait()
	})
}

// Invalidations and heads go to the nodes in turn, and streams of many clients
// to all of them; each client's goes to one.
func TestWhatHasNoKeySpreads(t *testing.T) {
	for name, call := range map[string]func(soracache.Backend) error{
		"invalidations": func(b soracache.Backend) error {
			_, err := b.Invalidate(t.Context(), soracache.InvalidateRequest{})
			return err
		},
		"heads": func(b soracache.Backend) error {
			_, err := b.Head(t.Context(), "")
			return err
		},
	} {
		nodes := tallies(3)
		b := cluster.Routed(quiet(), cluster.ByKey, backends(nodes), nil)
		for range 30 {
			if err := call(b); err != nil {
				t.Fatal(err)
			}
		}
		for url, n := range nodes {
			if n.count() != 10 {
				t.Errorf("%s: %s was asked %d times", name, url, n.count())
			}
		}
	}
}

func TestWatch(t *testing.T) {
	watch := func(b soracache.Backend, during func()) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		return b.Watch(ctx, soracache.WatchRequest{}, func([]soracache.WatchItem) error {
			during()
			cancel()
			return nil
		})
	}
	nodes := tallies(3)
	used := map[string]bool{}
	for range 60 {
		before := map[string]int{}
		b := cluster.Routed(quiet(), cluster.ByKey, backends(nodes), nil)
		for url, n := range nodes {
			before[url] = n.count()
		}
		for range 3 {
			if err := watch(b, func() {}); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		asked := 0
		for url, n := range nodes {
			if n.count() > before[url] {
				used[url] = true
				asked++
			}
		}
		if asked != 1 {
			t.Errorf("one client's streams went to %d nodes", asked)
		}
	}
	if len(used) != 3 {
		t.Errorf("all streams went to %v", slices.Collect(maps.Keys(used)))
	}
	nodes = tallies(3)
	bad := 0
	for _, n := range nodes {
		if bad < 2 {
			n.fail = func(int) error { return errBroken }
			bad++
		}
	}
	began := 0
	b := cluster.Routed(quiet(), cluster.ByKey, backends(nodes), nil)
	if err := watch(b, func() { began++ }); !errors.Is(err, context.Canceled) || began != 1 {
		t.Errorf("two of three nodes fail: %v, began %d times", err, began)
	}
	refused := errors.New("too fast")
	for range 3 {
		if err := b.Watch(t.Context(), soracache.WatchRequest{}, func([]soracache.WatchItem) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("what deliver says: %v", err)
		}
	}
}

// What was cut off is tried once more where there is no other node, and what
// ought to outlast the blink of an eye, for a while. What was refused is not.
func TestAnotherRound(t *testing.T) {
	for _, tt := range []struct {
		name  string
		call  func(context.Context, soracache.Backend) error
		err   error
		calls int
	}{
		{"read, cut off", getK, errBroken, 2},
		{"read, denied", getK, soracache.ErrPermissionDenied, 1},
		{"read, out of time", getK, fmt.Errorf("%w: %w", soracache.ErrUnavailable, context.DeadlineExceeded), 1},
		{"fill, cut off", fillK, errBroken, 4},
		{"put, cut off", putK, errBroken, 1},
		{"invalidation, cut off", invalidateAll, errBroken, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node := &tally{fail: func(int) error { return tt.err }}
				b := cluster.Routed(quiet(), cluster.ByKey, map[string]soracache.Backend{"http://a": node}, nil)
				began := time.Now()
				if err := tt.call(t.Context(), b); !errors.Is(err, tt.err) {
					t.Errorf("got %v", err)
				}
				if node.count() != tt.calls {
					t.Errorf("asked %d times, want %d", node.count(), tt.calls)
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("took %s", took)
				}
				node.fail = func(call int) error {
					if call == node.count() && call == tt.calls+1 {
						return tt.err
					}
					return nil
				}
				if err := tt.call(t.Context(), b); (err == nil) != (tt.calls > 1) {
					t.Errorf("the second time is well: %v", err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				node.fail = func(int) error { return tt.err }
				before := node.count()
				_ = tt.call(ctx, b)
				if node.count() != before+1 || ctx.Err() != nil {
					t.Error("it waits although there is no time")
				}
			})
		})
	}
}

// The same goes for each part of a batch: what was cut off everywhere is tried
// anew, and nothing else is.
func TestAnotherRoundOfABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := tallies(2)
		keys, urls := keysFrom(40), urlsOf(2)
		for _, url := range urls {
			nodes[url].fail = func(call int) error {
				if call <= 2 { // its own keys, and those that come over from the other
					return errBroken
				}
				return nil
			}
		}
		b := cluster.Routed(quiet(), cluster.ByKey, backends(nodes), nil)
		results, err := b.Get(t.Context(), reads(keys))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if r.Err != nil || string(r.Entry.Value) != keys[i] {
				t.Errorf("%s: %q, %v", keys[i], r.Entry.Value, r.Err)
			}
		}
		for _, url := range urls {
			nodes[url].fail = func(int) error { return soracache.ErrPermissionDenied }
			before := nodes[url].count()
			if _, err := b.Get(t.Context(), reads(keys)); !errors.Is(err, soracache.ErrPermissionDenied) && url == urls[1] {
				t.Errorf("got %v", err)
			}
			if n := nodes[url].count() - before; n != 1 {
				t.Errorf("%s was asked %d times", url, n)
			}
		}
	})
}

// However a read gets past its first node, each node is asked once, in the order of
// the key.
func TestEachNodeIsAskedOnce(t *testing.T) {
	for _, by := range []cluster.Routing{cluster.ByKey, cluster.RoundRobin, cluster.LeastLoaded} {
		var urls, asked []string
		nodes := map[string]soracache.Backend{}
		for i := range 4 {
			url := fmt.Sprint("http://", i)
			urls = append(urls, url)
			nodes[url] = &tally{fail: func(int) error {
				asked = append(asked, url)
				return fmt.Errorf("%w: %w", soracache.ErrUnavailable, context.DeadlineExceeded)
			}}
		}
		b := cluster.Routed(quiet(), by, nodes, nil)
		if err := getK(t.Context(), b); !errors.Is(err, soracache.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if by == cluster.ByKey && !slices.Equal(asked, cluster.RankByKey(urls, "k")) {
			t.Errorf("asked %v", asked)
		}
		if slices.Sort(asked); !slices.Equal(asked, urls) {
			t.Errorf("%d: asked %v", by, asked)
		}
	}
}

func getK(ctx context.Context, b soracache.Backend) error {
	_, err := b.Get(ctx, reads([]string{"k"}))
	return err
}

func writeK(ctx context.Context, b soracache.Backend, op soracache.WriteOp) error {
	_, err := b.Write(ctx, soracache.WriteRequest{Writes: []soracache.Write{{Op: op, Key: "k"}}})
	return err
}

func fillK(ctx context.Context, b soracache.Backend) error { return writeK(ctx, b, soracache.OpFill) }
func putK(ctx context.Context, b soracache.Backend) error  { return writeK(ctx, b, soracache.OpPut) }

func invalidateAll(ctx context.Context, b soracache.Backend) error {
	_, err := b.Invalidate(ctx, soracache.InvalidateRequest{})
	return err
}

// The breaker tells of its opening and closing, once each, and a trial that its
// caller gives up is no answer.
func TestBreakerTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		first, second := &tally{fail: func(int) error { return errBroken }}, &tally{}
		nodes := map[string]soracache.Backend{"http://a": first, "http://b": second}
		b := cluster.Routed(quiet(), cluster.ByKey, nodes, func(url string, open bool) { told = append(told, fmt.Sprint(url, " ", open)) })
		key := "k"
		for i := 0; cluster.RankByKey([]string{"http://a", "http://b"}, key)[0] != "http://a"; i++ {
			key = fmt.Sprint("k", i)
		}
		get := func(ctx context.Context) error {
			_, err := b.Get(ctx, reads([]string{key}))
			return err
		}
		for range 50 {
			if err := get(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if first.count() != 1 || !slices.Equal(told, []string{"http://a true"}) {
			t.Errorf("asked %d times, told %q", first.count(), told)
		}
		time.Sleep(400 * time.Millisecond)
		first.hold, first.fail = make(chan struct{}), nil
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = get(ctx) }) // the trial
		synctest.Wait()
		for range 10 {
			if err := get(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if first.count() != 2 {
			t.Errorf("asked %d times while on trial", first.count())
		}
		first.fail = func(int) error { return fmt.Errorf("%w: %w", soracache.ErrUnavailable, context.Canceled) }
		cancel()
		first.hold <- struct{}{}
		wg.Wait()
		if _ = get(t.Context()); first.count() != 2 {
			t.Error("a trial that was given up opens the way for all")
		}
		time.Sleep(400 * time.Millisecond)
		first.fail = nil
		close(first.hold)
		for range 10 {
			if err := get(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if first.count() != 12 || !slices.Equal(told, []string{"http://a true", "http://a false"}) {
			t.Errorf("asked %d times, told %q", first.count(), told)
		}
	})
}

// Whatever fails at random: every caller is answered with its own keys.
func TestRoutedCallersGetTheirOwnAnswers(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			source := rand.New(rand.NewPCG(seed, 2))
			random := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return source.IntN(n)
			}
			nodes := map[string]soracache.Backend{}
			var ends []func()
			for _, url := range urlsOf(4) {
				node, end := cluster.Batched(&tally{name: url, fail: func(int) error {
					time.Sleep(time.Duration(random(2000)) * time.Microsecond)
					return []error{nil, nil, nil, nil, errBroken, soracache.ErrInvalid}[random(6)]
				}})
				nodes[url] = node
				ends = append(ends, end)
			}
			b := cluster.Routed(quiet(), cluster.ByKey, nodes, nil)
			var callers sync.WaitGroup
			good := 0
			for range 50 {
				callers.Go(func() {
					for range 40 {
						var keys []string
						for range 1 + random(3)*random(10) {
							keys = append(keys, fmt.Sprint("k", random(500)))
						}
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+random(20000))*time.Microsecond)
						rs, err := b.Get(ctx, reads(keys))
						cancel()
						if err != nil {
							continue
						}
						for i, r := range rs {
							if r.Err == nil && string(r.Entry.Value) != keys[i] {
								t.Errorf("seed %d: asked for %s, got %s", seed, keys[i], r.Entry.Value)
							}
							if r.Err == nil {
								mu.Lock()
								good++
								mu.Unlock()
							}
						}
					}
				})
			}
			callers.Wait()
			for _, end := range ends {
				end()
			}
			if good < 3000 {
				t.Errorf("seed %d: only %d answers", seed, good)
			}
		})
	}
}
