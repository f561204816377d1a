package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// listener is a watch that runs beside a test.
type listener struct {
	cancel context.CancelFunc
	ended  chan error
	mu     sync.Mutex
	items  []soracache.WatchItem
	calls  int
	hold   chan struct{} // deliver waits until it is closed; nil: no waiting
}

// listen watches a node and returns once the watch has begun.
func listen(n *node.Node, from soracache.Stamps) *listener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{cancel: cancel, ended: make(chan error, 1)}
	go func() {
		l.ended <- n.Watch(ctx, soracache.WatchRequest{From: from}, func(items []soracache.WatchItem) error {
			l.mu.Lock()
			l.items = append(l.items, items...)
			l.calls++
			hold := l.hold
			l.mu.Unlock()
			if hold != nil {
				<-hold
			}
			return nil
		})
	}()
	time.Sleep(20 * time.Millisecond)
	synctest.Wait()
	return l
}

// heard returns what has been delivered since it was last asked.
func (l *listener) heard() []soracache.WatchItem {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	items := l.items
	l.items = nil
	return items
}

func (l *listener) stall() (release func()) {
	hold := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold = hold
	return func() {
		l.mu.Lock()
		l.hold = nil
		l.mu.Unlock()
		close(hold)
	}
}

// end ends the watch as its caller does.
func (l *listener) end(t *testing.T) {
	t.Helper()
	l.cancel()
	if err := <-l.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
}

// named lists what items name, in order, with "reset" for a reset.
func named(items []soracache.WatchItem) []string {
	names := []string{}
	for _, item := range items {
		if item.Reset {
			names = append(names, "reset")
		}
		for _, r := range item.Records {
			for _, target := range r.Targets {
				names = append(names, target.String())
			}
		}
	}
	return names
}

func wantNamed(t *testing.T, items []soracache.WatchItem, want ...string) {
	t.Helper()
	if got := named(items); !slices.Equal(got, want) {
		t.Errorf("told of %q, want %q", got, want)
	}
}

func (c *cluster) record(n int, targets ...soracache.Target) soracache.Stamps {
	c.t.Helper()
	res, err := c.nodes[n].Invalidate(context.Background(), soracache.InvalidateRequest{Targets: targets})
	if err != nil {
		c.t.Fatal(err)
	}
	return res.Stamp
}

func complete(items []soracache.WatchItem) soracache.Stamps {
	last := items[len(items)-1]
	return soracache.Stamps{{Partition: last.Partition, Stamp: soracache.Stamp{Epoch: last.Epoch, Position: last.Complete}}}
}

func TestWatchTellsOfOnesOwnRecordsAtOnceAndOfOthersWithinTheBound(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		near, far := listen(c.nodes[0], nil), listen(c.nodes[1], nil)
		wantNamed(t, near.heard(), "reset")
		wantNamed(t, far.heard(), "reset")
		c.record(0, soracache.Key("k"))
		c.record(0, soracache.Tag("t"))
		at := c.record(0, soracache.Everything())
		got := near.heard()
		wantNamed(t, got, "key:k", "tag:t", "everything")
		if last := complete(got); !slices.Equal(last, at) {
			t.Errorf("told up to %v, recorded at %v", last, at)
		}
		time.Sleep(bound)
		got = far.heard()
		wantNamed(t, got, "key:k", "tag:t", "everything")
		if last := complete(got); !slices.Equal(last, at) {
			t.Errorf("told up to %v, recorded at %v", last, at)
		}
		near.end(t)
		far.end(t)
	})
}

func TestWatchBeginsEveryPartitionInOneCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), Partitions: func(string) int { return 8 }})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		l := listen(n, nil)
		items := l.heard()
		var parts []uint16
		for _, i := range items {
			parts = append(parts, i.Partition)
			if i.Partitions != 8 || !i.Reset || i.Epoch == 0 {
				t.Errorf("%+v", i)
			}
		}
		if !slices.Equal(parts, []uint16{0, 1, 2, 3, 4, 5, 6, 7}) || l.calls != 1 {
			t.Errorf("partitions %v in %d calls", parts, l.calls)
		}
		l.end(t)
	})
}

func TestWatchGoesOnWhereTheWatcherWas(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		l := listen(c.nodes[0], nil)
		c.record(0, soracache.Key("a"))
		from := complete(l.heard())
		l.end(t)
		for i := range 200 { // more than a delta holds
			c.record(0, soracache.Key(fmt.Sprintf("b%03d", i)))
		}
		c.record(0, soracache.Key("b000"))
		for n := range c.nodes {
			l = listen(c.nodes[n], from)
			items := l.heard()
			names := named(items)
			if len(names) != 200 || slices.Contains(names, "reset") || slices.Contains(names, "key:a") || names[199] != "key:b000" {
				t.Errorf("node %d: told of %d: %q", n, len(names), names)
			}
			for _, i := range items[:len(items)-1] {
				if i.Complete != from[0].Stamp.Position {
					t.Errorf("node %d: a part of what was missed counts: %d", n, i.Complete)
				}
			}
			from2 := complete(items)
			l.end(t)
			l = listen(c.nodes[n], from2)
			if items := l.heard(); len(items) != 1 || items[0].Reset || len(items[0].Records) != 0 {
				t.Errorf("node %d: nothing was missed, told of %+v", n, items)
			}
			l.end(t)
		}
	})
}

// A node that has heard less than the watcher asks first.
func TestWatchGoesOnAtANodeThatLags(t *testing.T) {
	inCluster(t, 2, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v") // both follow
		l := listen(c.nodes[0], nil)
		w.intercept(func(string, string, *invalidation.Notice) bool { return false })
		c.record(0, soracache.Key("a"))
		from := complete(l.heard())
		l.end(t)
		l = listen(c.nodes[1], from)
		for _, i := range l.heard() {
			if i.Reset || i.Complete < from[0].Stamp.Position {
				t.Errorf("%+v, from %v", i, from)
			}
		}
		c.record(0, soracache.Key("b"))
		time.Sleep(bound)
		if names := named(l.heard()); !slices.Contains(names, "key:b") || slices.Contains(names, "reset") {
			t.Errorf("told of %q", names)
		}
		l.end(t)
	})
}

// What came early before the watch began must not be missed by it: its targets
// are named by no step that comes.
func TestWatchThatBeginsBehindAGap(t *testing.T) {
	inCluster(t, 2, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v")
		l := listen(c.nodes[0], nil)
		c.record(0, soracache.Key("before"))
		from := complete(l.heard())
		l.end(t)
		for _, from := range []soracache.Stamps{nil, from} {
			w.intercept(func(_, _ string, n *invalidation.Notice) bool {
				return !slices.Contains(n.Record.Targets, soracache.Key("lost"))
			})
			c.store.down.Store(true) // the gap cannot be filled
			c.record(0, soracache.Key("lost"))
			at := c.record(0, soracache.Key("early"))
			time.Sleep(2 * hop)
			c.store.down.Store(false)
			l = listen(c.nodes[1], from)
			items := l.heard()
			if from == nil {
				wantNamed(t, items[:1], "reset")
				if items[0].Complete < at[0].Stamp.Position {
					t.Errorf("begun at %d, before %d, which was heard of", items[0].Complete, at[0].Stamp.Position)
				}
			} else if names := named(items); !slices.Contains(names, "key:lost") || !slices.Contains(names, "key:early") {
				t.Errorf("told of %q", names)
			}
			l.end(t)
		}
	})
}

// A watcher may show anything: the ledger stays as it is.
func TestWatchFromAPlaceThatIsNot(t *testing.T) {
	for name, change := range map[string]func(*soracache.Stamp){
		"ahead of the head":  func(s *soracache.Stamp) { s.Position += 1 << 40 },
		"never issued":       func(s *soracache.Stamp) { s.Position-- },
		"an unknown epoch":   func(s *soracache.Stamp) { s.Epoch++ },
		"older than history": func(s *soracache.Stamp) { s.Position = 1 },
		"no epoch":           func(s *soracache.Stamp) { s.Epoch = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1, func(c *cluster) {
				c.record(0, soracache.Key("a"))
				time.Sleep(time.Millisecond)
				at := c.record(0, soracache.Key("a"))
				epochs := c.model.Counters().Epochs
				forged := slices.Clone(at)
				change(&forged[0].Stamp)
				l := listen(c.nodes[0], forged)
				items := l.heard()
				wantNamed(t, items, "reset")
				if got := complete(items); !slices.Equal(got, at) {
					t.Errorf("reset to %v, the ledger is at %v", got, at)
				}
				l.end(t)
				time.Sleep(bound)
				if got := c.model.Counters().Epochs; got != epochs {
					t.Errorf("%d new epochs", got-epochs)
				}
			})
		})
	}
}

func TestWatchOfALedgerThatWasLost(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		l := listen(c.nodes[0], nil)
		from := complete(l.heard())
		c.model.LoseLedger(l2.Partition{Namespace: soracache.DefaultNamespace, Count: 1})
		time.Sleep(bound)
		items := l.heard()
		wantNamed(t, items, "reset")
		if items[0].Epoch == from[0].Stamp.Epoch {
			t.Error("the epoch is still the same")
		}
		l.end(t)
		l = listen(c.nodes[0], from)
		wantNamed(t, l.heard(), "reset")
		l.end(t)
	})
}

func TestWatcherThatIsTooSlow(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		slow, fast := listen(c.nodes[0], nil), listen(c.nodes[0], nil)
		slow.heard()
		fast.heard()
		release := slow.stall()
		c.record(0, soracache.Key("first")) // taken out, and not taken in
		synctest.Wait()
		want := []string{}
		for i := range 5000 { // more than may wait
			c.record(0, soracache.Key(strconv.Itoa(i)))
			want = append(want, "key:"+strconv.Itoa(i))
			if i%1000 == 0 {
				synctest.Wait()
			}
		}
		wantNamed(t, slow.heard(), "key:first")
		release()
		time.Sleep(20 * time.Millisecond)
		at := c.record(0, soracache.Key("last"))
		items := slow.heard()
		wantNamed(t, items, "reset", "key:last")
		if got := complete(items); !slices.Equal(got, at) {
			t.Errorf("told up to %v, want %v", got, at)
		}
		wantNamed(t, fast.heard(), append(append([]string{"key:first"}, want...), "key:last")...)
		if s := c.nodes[0].Stats(); s.WatchOverflows != 1 || s.WatchResets != 3 || s.Watchers != 2 {
			t.Errorf("%d overflows, %d resets, %d watchers", s.WatchOverflows, s.WatchResets, s.Watchers)
		}
		slow.end(t)
		fast.end(t)
		if s := c.nodes[0].Stats(); s.Watchers != 0 {
			t.Errorf("%d watchers are left", s.Watchers)
		}
	})
}

// What waits for a watcher comes in one call.
func TestWatchCoalesces(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		l := listen(c.nodes[0], nil)
		l.heard()
		release := l.stall()
		want := []string{}
		for i := range 100 {
			c.record(0, soracache.Key(strconv.Itoa(i)))
			want = append(want, "key:"+strconv.Itoa(i))
			synctest.Wait()
		}
		release()
		items := l.heard()
		wantNamed(t, items, want...)
		if len(items) != 2 || l.calls != 3 {
			t.Errorf("%d items in %d calls", len(items), l.calls-1)
		}
		l.end(t)
	})
}

func TestWatchKeepsThePartitionInUse(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		l := listen(c.nodes[1], nil)
		l.heard()
		for range 5 {
			time.Sleep(time.Minute)
			c.record(0, soracache.Key("k"))
			time.Sleep(bound)
			wantNamed(t, l.heard(), "key:k")
		}
		l.end(t)
		time.Sleep(2 * time.Minute)
		if p := c.nodes[1].Partitions(); len(p) != 1 || p[0].Active {
			t.Errorf("nobody watches, and %+v", p)
		}
	})
}

// A namespace with watchers is not the one that makes room for another.
func TestWatchedNamespaceStays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), Bound: bound, MaxPartitions: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		l := listen(n, nil)
		time.Sleep(10 * time.Minute)
		if _, err := n.Head(context.Background(), "other"); !errors.Is(err, soracache.ErrTooLarge) {
			t.Errorf("another namespace: %v", err)
		}
		l.end(t)
		time.Sleep(10 * time.Minute)
		if _, err := n.Head(context.Background(), "other"); err != nil {
			t.Errorf("after the watch has ended: %v", err)
		}
	})
}

func TestDrainEndsWatches(t *testing.T) {
	for name, end := range map[string]func(n *node.Node) error{
		"drain": func(n *node.Node) error { return n.Drain(context.Background()) },
		"close": (*node.Node).Close,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1, func(c *cluster) {
				listeners := []*listener{}
				for range 100 {
					listeners = append(listeners, listen(c.nodes[0], nil))
				}
				began := time.Now()
				if err := end(c.nodes[0]); err != nil {
					t.Fatal(err)
				}
				for _, l := range listeners {
					if err := <-l.ended; !errors.Is(err, soracache.ErrUnavailable) {
						t.Errorf("the watch ended with %v", err)
					}
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("it took %v", took)
				}
				if err := c.nodes[0].Watch(context.Background(), soracache.WatchRequest{}, nil); !errors.Is(err, soracache.ErrUnavailable) {
					t.Errorf("a watch after that: %v", err)
				}
			})
		})
	}
}

func TestWatchEndsWithWhatDeliverReturns(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		enough := errors.New("enough")
		err := c.nodes[0].Watch(context.Background(), soracache.WatchRequest{}, func([]soracache.WatchItem) error { return enough })
		if !errors.Is(err, enough) {
			t.Errorf("%v", err)
		}
	})
}

func TestWatchWithoutAStore(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.store.down.Store(true)
		err := c.nodes[0].Watch(context.Background(), soracache.WatchRequest{}, func(items []soracache.WatchItem) error {
			t.Errorf("told of %+v", items)
			return nil
		})
		if !errors.Is(err, soracache.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		if s := c.nodes[0].Stats(); s.Watchers != 0 {
			t.Errorf("%d watchers are left", s.Watchers)
		}
	})
}

// An answer from memory is as old as the confirmation that it rests on, and
// one of the store is of no age.
func TestAnswersTellTheirAge(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.put(0, "k", "v")
		if r := c.get(0, soracache.Read{Key: "k"}); r.Tier != soracache.TierL2 || r.Age != 0 {
			t.Errorf("from the store: %+v", r)
		}
		time.Sleep(bound / 6)
		r := c.get(0, soracache.Read{Key: "k"})
		if r.Tier != soracache.TierL1 || r.Age <= 0 || r.Age > bound/3+5*time.Millisecond {
			t.Errorf("from memory: %+v", r)
		}
		head, err := c.nodes[0].Head(context.Background(), "")
		if err != nil || head.Age != r.Age {
			t.Errorf("head of age %v, answer of age %v, error %v", head.Age, r.Age, err)
		}
		c.store.down.Store(true)
		time.Sleep(2 * bound)
		r = c.getReq(context.Background(), 0, soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}, AcceptUnconfirmed: true})
		if !r.Unconfirmed || r.Age < bound {
			t.Errorf("unconfirmed: %+v", r)
		}
	})
}
