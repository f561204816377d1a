package node_test

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
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/room"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// wires join the nodes of a test: every notice takes a hop's time, and may be
// dropped or changed on its way.
type wires struct {
	mu    sync.Mutex
	nodes map[string]*node.Node
	names []string
	left  map[string]bool
	// on decides what becomes of a notice; nil leaves it as it is.
	on func(from, to string, n *invalidation.Notice) (deliver bool)
}

const hop = 300 * time.Microsecond

func (w *wires) send(from, to string, n invalidation.Notice) {
	w.mu.Lock()
	node, on := w.nodes[to], w.on
	w.mu.Unlock()
	if node == nil || on != nil && !on(from, to, &n) {
		return
	}
	time.AfterFunc(hop, func() { node.Receive(n) })
}

func (w *wires) intercept(on func(from, to string, n *invalidation.Notice) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = on
}

// port is one node's end.
type port struct {
	*wires
	name string
}

func (p port) Publish(n invalidation.Notice) {
	for _, name := range p.names {
		if name != p.name {
			p.send(p.name, name, n)
		}
	}
}

func (p port) Tell(member string, n invalidation.Notice) { p.send(p.name, member, n) }
func (port) Bound() time.Duration                        { return bound }

func (p port) Left(member string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left[member]
}

// inCluster runs a test on nodes that hear of each other, under the names n0,
// n1 and so on.
func inCluster(t *testing.T, nodes int, test func(c *cluster, w *wires)) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		c := &cluster{t: t, model: l2model.New(l2model.Config{})}
		c.store = &slowStore{Store: c.model, latency: time.Millisecond}
		w := &wires{nodes: map[string]*node.Node{}, left: map[string]bool{}}
		for i := range nodes {
			w.names = append(w.names, fmt.Sprintf("n%d", i))
		}
		for _, name := range w.names {
			n, err := node.New(node.Config{
				Name: name, Peers: port{w, name}, Store: c.store, Bound: bound, L1MaxBytes: 4 << 20, MeterEvery: 1,
			})
			if err != nil {
				t.Fatal(err)
			}
			w.nodes[name] = n
			c.nodes = append(c.nodes, n)
			defer func() {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			}()
		}
		test(c, w)
		time.Sleep(2 * hop) // what is under way arrives
	})
}

// inEveryL1 puts a value and reads it on every node until all have it.
func (c *cluster) inEveryL1(key, value string, tags ...string) {
	c.t.Helper()
	c.put(0, key, value, tags...)
	time.Sleep(2 * hop)
	for n := range c.nodes {
		c.get(n, soracache.Read{Key: key})
		c.want(c.get(n, soracache.Read{Key: key}), soracache.StatusHit, soracache.TierL1, value)
	}
}

func (c *cluster) acknowledged(ctx context.Context, n int, targets ...soracache.Target) (soracache.InvalidateResult, time.Duration, error) {
	c.t.Helper()
	began := time.Now()
	res, err := c.nodes[n].Invalidate(ctx, soracache.InvalidateRequest{Targets: targets, Acknowledge: true})
	return res, time.Since(began), err
}

// asOldAsTheBound lets the list of followers become as old as the bound, so that
// the store is known to have forgotten nobody.
func (c *cluster) asOldAsTheBound() {
	for range 4 {
		time.Sleep(bound / 3)
		for n := range c.nodes {
			c.get(n, soracache.Read{Key: "warm"})
		}
	}
}

var everyTarget = []soracache.Target{soracache.Key("k"), soracache.Tag("t"), soracache.Everything()}

func TestPeersRefuseTheOldValueAfterOneHop(t *testing.T) {
	for _, target := range everyTarget {
		t.Run(target.String(), func(t *testing.T) {
			inCluster(t, 3, func(c *cluster, _ *wires) {
				c.inEveryL1("k", "v", "t")
				pulls := c.nodes[1].Stats().Pulls
				c.invalidate(0, target)
				time.Sleep(hop)
				synctest.Wait()
				for n := range c.nodes {
					c.want(c.get(n, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
				}
				s := c.nodes[1].Stats()
				if s.RecordsGossip == 0 || s.Gaps != 0 || s.Pulls != pulls {
					t.Errorf("gossip %d, gaps %d, pulls %d: want the fast path alone", s.RecordsGossip, s.Gaps, s.Pulls-pulls)
				}
			})
		})
	}
}

func TestLostNoticeIsMissedNoLongerThanTheBound(t *testing.T) {
	inCluster(t, 2, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v", "t")
		w.intercept(func(string, string, *invalidation.Notice) bool { return false })
		c.invalidate(0, soracache.Tag("t"))
		time.Sleep(bound)
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
		if c.nodes[1].Stats().RecordsRepaired == 0 {
			t.Error("the record did not come from the ledger")
		}
	})
}

func TestGapIsFoundByTheNextNoticeAndRepaired(t *testing.T) {
	inCluster(t, 2, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v", "t")
		w.intercept(func(string, string, *invalidation.Notice) bool { return false })
		c.invalidate(0, soracache.Tag("t"))
		w.intercept(nil)
		c.invalidate(0, soracache.Key("other"))
		time.Sleep(hop + 2*time.Millisecond) // the notice, and one question
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
		if s := c.nodes[1].Stats(); s.Gaps != 1 || s.RecordsRepaired != 1 {
			t.Errorf("%d gaps, %d records repaired", s.Gaps, s.RecordsRepaired)
		}
	})
}

func TestNoticesThatCannotBeUnderstoodMakeTheNodeAsk(t *testing.T) {
	for name, garble := range map[string]func(n *invalidation.Notice){
		"too large for a packet": func(n *invalidation.Notice) { n.Record.Targets = nil },
		"of a later version":     func(n *invalidation.Notice) { n.Kind = 200 },
		"of an unknown epoch":    func(n *invalidation.Notice) { n.Record.Epoch++ },
		"nonsense":               func(n *invalidation.Notice) { n.Record.Position = n.Record.Prev },
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, 2, func(c *cluster, w *wires) {
				c.inEveryL1("k", "v", "t")
				w.intercept(func(_, _ string, n *invalidation.Notice) bool { garble(n); return true })
				c.invalidate(0, soracache.Tag("t"))
				time.Sleep(hop + 2*time.Millisecond)
				synctest.Wait()
				c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
			})
		})
	}
}

func TestWaiterOnAnotherNodeWakesWithoutPolling(t *testing.T) {
	for name, end := range map[string]func(c *cluster, lease soracache.Lease){
		"fill": func(c *cluster, lease soracache.Lease) { c.fill(0, "k", lease, "v") },
		"put":  func(c *cluster, _ soracache.Lease) { c.put(0, "k", "v") },
		"release": func(c *cluster, lease soracache.Lease) {
			c.write(0, soracache.Write{Op: soracache.OpRelease, Key: "k", Lease: lease})
		},
		"invalidation": func(c *cluster, _ soracache.Lease) { c.invalidate(0, soracache.Key("k")) },
		"clear":        func(c *cluster, _ soracache.Lease) { c.invalidate(0, soracache.Everything()) },
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, 2, func(c *cluster, _ *wires) {
				lease := c.lease(0, "k")
				var ended time.Time
				woke := make(chan time.Time, 1)
				go func() {
					c.get(1, soracache.Read{Key: "k", Lease: true, Wait: 5 * time.Second})
					woke <- time.Now()
				}()
				time.Sleep(777 * time.Millisecond)
				end(c, lease)
				ended = time.Now()
				if took := (<-woke).Sub(ended); took > hop+2*time.Millisecond {
					t.Errorf("the waiter was answered %v after the lease had ended", took)
				}
			})
		})
	}
}

// A lease may end while the answer that somebody holds it is on its way: the
// notice then arrives before the reader parks.
func TestNoticeThatComesBeforeTheReaderParks(t *testing.T) {
	inCluster(t, 2, func(c *cluster, _ *wires) {
		lease := c.lease(0, "k")
		release := c.store.stall()
		got := make(chan soracache.ReadResult, 1)
		go func() { got <- c.get(1, soracache.Read{Key: "k", Lease: true, Wait: 5 * time.Second}) }()
		synctest.Wait() // the store has answered, the answer is on its way
		c.fill(0, "k", lease, "v")
		time.Sleep(hop)
		began := time.Now()
		release()
		c.want(<-got, soracache.StatusHit, soracache.TierL2, "v")
		if took := time.Since(began); took > 3*time.Millisecond {
			t.Errorf("answered after %v: it was left to polling", took)
		}
	})
}

func TestAcknowledgedInvalidationIsSeenEverywhereWhenItReturns(t *testing.T) {
	for _, target := range everyTarget {
		t.Run(target.String(), func(t *testing.T) {
			inCluster(t, 5, func(c *cluster, _ *wires) {
				c.inEveryL1("k", "v", "t")
				c.asOldAsTheBound()
				res, took, err := c.acknowledged(context.Background(), 0, target)
				if err != nil || len(res.Stragglers) > 0 {
					t.Fatalf("%v, stragglers %q", err, res.Stragglers)
				}
				if took > 5*time.Millisecond {
					t.Errorf("took %v: a node was waited out", took)
				}
				for n := range c.nodes {
					c.want(c.get(n, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
				}
			})
		})
	}
}

func TestAcknowledgementsSurviveLossAndRepetition(t *testing.T) {
	inCluster(t, 4, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v", "t")
		c.asOldAsTheBound()
		var sent atomic.Int64
		w.intercept(func(from, to string, n *invalidation.Notice) bool {
			if sent.Add(1)%3 == 0 { // the rest twice
				return false
			}
			again := *n
			time.AfterFunc(hop, func() { w.nodes[to].Receive(again) })
			return true
		})
		for range 100 {
			res, took, err := c.acknowledged(context.Background(), 0, soracache.Tag("t"), soracache.Key("k"))
			if err != nil || len(res.Stragglers) > 0 || took >= bound {
				t.Fatalf("%v, stragglers %q, took %v", err, res.Stragglers, took)
			}
		}
	})
}

func TestStragglerIsWaitedOutAndNamed(t *testing.T) {
	inCluster(t, 3, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v", "t")
		c.asOldAsTheBound()
		w.intercept(func(from, to string, _ *invalidation.Notice) bool { return from != "n2" && to != "n2" })
		answered := time.Now().Add(c.store.latency)
		res, took, err := c.acknowledged(context.Background(), 0, soracache.Tag("t"))
		if err != nil || !slices.Equal(res.Stragglers, []string{"n2"}) {
			t.Fatalf("%v, stragglers %q", err, res.Stragglers)
		}
		if time.Since(answered) < bound {
			t.Errorf("returned after %v, which does not outlast the bound counted from the answer", took)
		}
		for n := range c.nodes {
			c.want(c.get(n, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
		}
		if s := c.nodes[0].Stats(); s.Stragglers != 1 {
			t.Errorf("%d stragglers counted", s.Stragglers)
		}
	})
}

// Who has said that it serves nothing any more is not waited for; who was closed
// without a word is.
func TestNodesThatAreGone(t *testing.T) {
	inCluster(t, 3, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v", "t")
		c.asOldAsTheBound()
		if err := errors.Join(c.nodes[1].Close(), c.nodes[2].Close()); err != nil {
			t.Fatal(err)
		}
		res, _, err := c.acknowledged(context.Background(), 0, soracache.Tag("t"))
		if err != nil || !slices.Equal(res.Stragglers, []string{"n1", "n2"}) {
			t.Fatalf("%v, stragglers %q", err, res.Stragglers)
		}
		w.left["n1"], w.left["n2"] = true, true
		res, took, err := c.acknowledged(context.Background(), 0, soracache.Tag("t"))
		if err != nil || len(res.Stragglers) > 0 || took > 5*time.Millisecond {
			t.Fatalf("%v, stragglers %q, took %v", err, res.Stragglers, took)
		}
	})
}

func TestAcknowledgementThatTheCallerCannotAwait(t *testing.T) {
	inCluster(t, 2, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v", "t")
		c.asOldAsTheBound()
		w.intercept(func(string, string, *invalidation.Notice) bool { return false })
		ctx, cancel := context.WithTimeout(context.Background(), bound/2)
		defer cancel()
		_, _, err := c.acknowledged(ctx, 0, soracache.Tag("t"))
		var incomplete *soracache.IncompleteError
		if !errors.As(err, &incomplete) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if !slices.Equal(incomplete.Stragglers, []string{"n1"}) || len(incomplete.Stamp) != 1 {
			t.Errorf("got %+v", incomplete)
		}
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
	})
}

// places is a caller's room that says when it waits.
type places struct {
	room.Room
	full bool
	now  atomic.Int64
}

func (p *places) Park() error {
	if p.full {
		return soracache.ErrUnavailable
	}
	p.now.Add(1)
	return nil
}

func (p *places) Resume() { p.now.Add(-1) }

// Who waits for acknowledgements gives up its place; where too many wait, it keeps
// it, and is acknowledged like any other.
func TestWhoWaitsForAcknowledgementsHoldsNoPlace(t *testing.T) {
	for _, full := range []bool{false, true} {
		inCluster(t, 2, func(c *cluster, w *wires) {
			c.inEveryL1("k", "v", "t")
			c.asOldAsTheBound()
			w.intercept(func(string, string, *invalidation.Notice) bool { return false })
			place := &places{full: full}
			done := make(chan error, 1)
			go func() {
				_, _, err := c.acknowledged(room.NewContext(context.Background(), place), 0, soracache.Tag("t"))
				done <- err
			}()
			time.Sleep(bound / 2)
			if place.now.Load() != 1 != full {
				t.Errorf("full %v: it is parked %d times while it waits", full, place.now.Load())
			}
			if err := <-done; err != nil || place.now.Load() != 0 {
				t.Errorf("full %v: %v, parked %d times afterwards", full, err, place.now.Load())
			}
		})
	}
}

// Whoever the store may have forgotten is waited out too, though nobody knows
// its name.
func TestForgottenFollowersAreWaitedOut(t *testing.T) {
	inCluster(t, 2, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v", "t")
		c.asOldAsTheBound()
		w.intercept(func(string, string, *invalidation.Notice) bool { return false })
		c.model.LoseRegistrations(l2.Partition{Namespace: soracache.DefaultNamespace, Count: 1})
		_, took, err := c.acknowledged(context.Background(), 0, soracache.Tag("t"))
		if err != nil || took < bound {
			t.Fatalf("returned after %v with %v", took, err)
		}
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
	})
}

func TestMeterTellsHowStaleHitsWere(t *testing.T) {
	inCluster(t, 2, func(c *cluster, w *wires) {
		c.inEveryL1("k", "v", "t")
		time.Sleep(time.Second) // samples taken so far are checked
		c.get(1, soracache.Read{Key: "k"})
		time.Sleep(time.Second)
		fresh := c.nodes[1].Stats()
		if fresh.StalenessBuckets[0] == 0 || fresh.StalenessBuckets[0] != fresh.StalenessChecked {
			t.Fatalf("fresh hits: %v", fresh.StalenessBuckets)
		}
		c.inEveryL1("k", "v", "t")
		time.Sleep(bound) // so that the next confirmation is not due at once
		c.get(1, soracache.Read{Key: "k"})
		w.intercept(func(string, string, *invalidation.Notice) bool { return false })
		c.invalidate(0, soracache.Tag("t"))
		time.Sleep(20 * time.Millisecond)
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL1, "v")
		time.Sleep(time.Second)
		stale := c.nodes[1].Stats()
		if stale.StalenessBuckets[3] != 1 {
			t.Errorf("a hit that was 20 ms stale is not in the bucket up to 100 ms: %v", stale.StalenessBuckets)
		}
	})
}

func TestNoticesAfterCloseAreIgnored(t *testing.T) {
	inCluster(t, 2, func(c *cluster, _ *wires) {
		c.inEveryL1("k", "v", "t")
		if err := c.nodes[1].Close(); err != nil {
			t.Fatal(err)
		}
		c.invalidate(0, soracache.Tag("t"))
		time.Sleep(hop)
	})
}

// A node that is cut off says so as soon as it has stopped serving from memory,
// without asking the store and waiting for it to say nothing.
func TestSilenceOfTheStoreIsToldAtOnce(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.put(0, "k", "v")
		if err := c.nodes[0].Ready(context.Background()); err != nil {
			t.Fatal(err)
		}
		c.store.down.Store(true)
		time.Sleep(bound + 500*time.Millisecond)
		if err := c.nodes[0].Ready(context.Background()); !errors.Is(err, soracache.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		c.store.down.Store(false)
		time.Sleep(bound)
		if err := c.nodes[0].Ready(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
