package client_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/stamps"
	"github.com/soracache/soracache/internal/node"
)

// throughDoors runs a test through each way to ask, and through both in turn.
func throughDoors(t *testing.T, test func(t *testing.T, door func(i int) door)) {
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) { test(t, func(int) door { return d }) })
	}
	t.Run("both", func(t *testing.T) { test(t, func(i int) door { return doors[i%len(doors)] }) })
}

// visitor is a caller with a stamp of its own: it has invalidated some tag by another
// client.
func visitor(t *testing.T, c *client.Client, tag string) context.Context {
	t.Helper()
	ctx := stamps.With(t.Context(), stamps.Stamp{})
	if _, err := c.InvalidateTags(ctx, tag); err != nil {
		t.Fatal(err)
	}
	return stamps.With(t.Context(), stamps.From(ctx))
}

// visitors are callers of one key, each by itself.
type visitors struct {
	all     sync.WaitGroup
	results []*result
}

func (v *visitors) come(ctxs []context.Context, ask func(ctx context.Context, i int) (string, error)) {
	for _, ctx := range ctxs {
		i, r := len(v.results), new(result)
		v.results = append(v.results, r)
		v.all.Go(func() { r.value, r.err = ask(ctx, i) })
	}
}

const manyVisitors = 1000

// A thousand visitors with a thousand stamps are one load.
func TestVisitorsWithStampsOfTheirOwnAreOneLoad(t *testing.T) {
	throughDoors(t, func(t *testing.T, door func(int) door) {
		onStage(t, func(s *stage) {
			src := newOrigin("v")
			src.slow(time.Second)
			var ctxs []context.Context
			for range manyVisitors {
				ctxs = append(ctxs, visitor(s.T, s.b.Client, "other"))
			}
			s.a.track.reads.Store(0)
			var all visitors
			all.come(ctxs, func(ctx context.Context, i int) (string, error) {
				return door(i).ask(ctx, s.a.Client, "k", src.load)
			})
			all.all.Wait()
			for i, r := range all.results {
				if r.value != "v" || r.err != nil {
					s.Fatalf("visitor %d got %v", i, *r)
				}
			}
			s.wantCalls(src, 1)
			if n := s.a.track.reads.Load(); n > 3 {
				s.Errorf("the service was asked %d times", n)
			}
		}, client.NoNear()) // which would hear of what they have seen
	})
}

// Half of them come while a load runs that began before what they have seen: those
// share one more, and none of them is given what is older.
func TestVisitorsWhoHaveSeenMoreThanARunningLoadShareOneMore(t *testing.T) {
	throughDoors(t, func(t *testing.T, door func(int) door) {
		onStage(t, func(s *stage) {
			src := newOrigin("old")
			src.slow(time.Second)
			var before, after []context.Context
			for range manyVisitors / 2 {
				before = append(before, visitor(s.T, s.b.Client, "other"))
			}
			var all visitors
			ask := func(ctx context.Context, i int) (string, error) {
				return door(i).ask(ctx, s.a.Client, "k", src.load, client.WithTags("t"))
			}
			all.come(before, ask)
			time.Sleep(time.Second / 2)
			src.becomes("new")
			for range manyVisitors / 2 {
				after = append(after, visitor(s.T, s.b.Client, "t"))
			}
			all.come(after, ask)
			all.all.Wait()
			for i, r := range all.results {
				if r.err != nil || i >= len(before) && r.value != "new" {
					s.Fatalf("visitor %d got %v", i, *r)
				}
			}
			s.wantCalls(src, 2)
		}, client.NoNear())
	})
}

// Who goes takes nobody's load along.
func TestVisitorsWhoGoEndNobodysLoad(t *testing.T) {
	throughDoors(t, func(t *testing.T, door func(int) door) {
		onStage(t, func(s *stage) {
			src := newOrigin("v")
			src.slow(time.Second)
			var ctxs []context.Context
			gone, goAway := context.WithCancel(s.Context())
			for i := range 100 {
				ctx := visitor(s.T, s.b.Client, "other")
				if i%10 != 9 {
					ctx = stamps.With(gone, stamps.From(ctx))
				}
				ctxs = append(ctxs, ctx)
			}
			var all visitors
			all.come(ctxs, func(ctx context.Context, i int) (string, error) {
				return door(i).ask(ctx, s.a.Client, "k", src.load)
			})
			time.Sleep(time.Second / 2)
			goAway()
			all.all.Wait()
			for i, r := range all.results {
				if i%10 == 9 && (r.value != "v" || r.err != nil) {
					s.Errorf("visitor %d got %v", i, *r)
				}
			}
			s.wantCalls(src, 1)
		}, client.NoNear())
	})
}

// Where a node's memory is behind what visitors have seen, none of them is given what
// it holds, whoever else shares the run; and they do not load what the store has.
func TestVisitorsWhoHaveSeenMoreThanTheNode(t *testing.T) {
	throughDoors(t, func(t *testing.T, door func(int) door) {
		inNearWorld(t, func(w *nearWorld) {
			w.warm(0, 1)
			opt := client.WithPolicy(client.Default().With(func(p *client.Policy) { p.Near = -1 }).WithTags("t"))
			w.want(0, "k", "old", "old", false, opt)
			w.want(1, "k", "?", "old", false, opt) // in the memory of node 1 from now on
			hold := make(chan struct{})
			w.links[1].set(func(l *link) { l.answered = func([]soracache.ReadResult) { <-hold } })
			var loads atomic.Int64
			ask := func(ctx context.Context, i int) (string, error) {
				return door(i).ask(ctx, w.client[1], "k", func(context.Context) (string, error) { loads.Add(1); return "new", nil }, opt)
			}
			var all visitors
			all.come([]context.Context{w.Context()}, ask) // it has the others wait
			synctest.Wait()
			var ctxs []context.Context
			for i := range 100 {
				ctx := w.Context()
				if i%2 == 0 {
					ctx = visitor(w.T, w.client[0], "t")
				}
				ctxs = append(ctxs, ctx)
			}
			all.come(ctxs, ask)
			synctest.Wait()
			w.links[1].set(func(l *link) { l.answered = nil })
			before, _, _ := w.links[1].counts()
			close(hold)
			all.all.Wait()
			for i, r := range all.results {
				if r.err != nil || i > 0 && i%2 == 1 && r.value != "new" {
					w.Errorf("visitor %d got %v", i, *r)
				}
			}
			if after, _, _ := w.links[1].counts(); loads.Load() != 1 || after-before > 60 { // nobody asks again twice
				w.Errorf("%d loads, and the node was asked %d times", loads.Load(), after-before)
			}
		}, client.Bound(nearBound))
	})
}

// A value that is computed from what a node holds may be older than what a visitor
// has seen, though it was computed after the visitor came.
func TestVisitorsWhoHaveSeenMoreThanAnIngredient(t *testing.T) {
	throughDoors(t, func(t *testing.T, door func(int) door) {
		synctest.Test(t, func(t *testing.T) {
			w := newNearWorld(t, node.Config{Partitions: func(string) int { return 2 }}, client.NoNear())
			w.warm(0, 1)
			key := "k"
			for i := 0; soracache.PartitionOf(key, 2) == soracache.PartitionOf("in", 2); i++ {
				key = fmt.Sprint("k", i) // a question about it tells nothing of the other ledger
			}
			in := client.WithPolicy(client.Default().With(func(p *client.Policy) { p.Near = -1 }).WithTags("t"))
			w.want(0, "in", "old", "old", false, in)
			w.want(1, "in", "?", "old", false, in)
			release := make(chan struct{})
			var others sync.WaitGroup
			others.Go(func() { // another process holds the lease, so that nobody is given it
				_, _ = client.GetOrSet(w.Context(), w.client[0], key, func(context.Context) (string, error) { <-release; return "", errBoom })
			})
			synctest.Wait()
			hold := make(chan struct{})
			loads := 0
			ask := func(ctx context.Context, i int) (string, error) {
				return door(i).ask(ctx, w.client[1], key, func(ctx context.Context) (string, error) {
					if loads++; loads == 1 {
						<-hold
					}
					return client.GetOrSet(ctx, w.client[1], "in", func(context.Context) (string, error) { return "new", nil }, in)
				}, client.AdjustPolicy(func(p *client.Policy) { p.Wait = -1 }), client.AdjustPolicy(func(p *client.Policy) { p.Near = -1 }))
			}
			var all visitors
			all.come([]context.Context{w.Context()}, ask)
			synctest.Wait()
			all.come([]context.Context{w.Context()}, ask) // the first to wait for the next
			synctest.Wait()
			all.come([]context.Context{visitor(w.T, w.client[0], "t"), visitor(w.T, w.client[0], "t")}, ask)
			synctest.Wait()
			close(hold)
			all.all.Wait()
			for i, r := range all.results {
				if r.err != nil || i >= 2 && r.value != "new" {
					w.Errorf("visitor %d got %v", i, *r)
				}
			}
			if loads > 4 {
				w.Errorf("%d loads", loads)
			}
			close(release)
			others.Wait()
		})
	})
}

// A stamp that lies a little ahead of the store, which anybody can make up, has
// nobody else miss.
func TestMadeUpStampSpoilsNobodysLoad(t *testing.T) {
	throughDoors(t, func(t *testing.T, door func(int) door) {
		onStage(t, func(s *stage) {
			src := newOrigin("v")
			opt := client.AdjustPolicy(func(p *client.Policy) { p.Near = -1 })
			s.a.want("v", src, opt)
			ctx := visitor(s.T, s.b.Client, "other")
			forger := newForger(t, stamps.From(ctx), soracache.DefaultNamespace)
			ahead := forger.context(s.Context(), soracache.Position(time.Now().Add(soracache.MaxAhead/2).UnixMicro()))
			var mu sync.Mutex
			loaded := map[string]int{} // by whose loader ran
			ask := func(who string) func(ctx context.Context, i int) (string, error) {
				return func(ctx context.Context, i int) (string, error) {
					return door(i).ask(ctx, s.a.Client, "k", func(context.Context) (string, error) {
						mu.Lock()
						defer mu.Unlock()
						loaded[who]++
						return strings.ToUpper(who), nil
					}, opt)
				}
			}
			var honest, forged visitors
			for range 50 {
				forged.come([]context.Context{ahead}, ask("forger"))
				honest.come([]context.Context{visitor(s.T, s.b.Client, "other"), s.Context()}, ask("honest"))
			}
			honest.all.Wait()
			forged.all.Wait()
			for i, r := range honest.results {
				if r.value != "v" || r.err != nil {
					s.Errorf("visitor %d got %v", i, *r)
				}
			}
			if loaded["honest"] > 0 {
				s.Error(fmt.Sprint("loads: ", loaded))
			}
		}, client.NoNear())
	})
}
