package node_test

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

const bound = 300 * time.Millisecond

// slowStore is a store whose calls take time, can be held and can fail, and
// are counted.
type slowStore struct {
	l2.Store
	latency time.Duration
	down    atomic.Bool
	reads   atomic.Int64
	since   atomic.Int64

	mu   sync.Mutex
	hold chan struct{} // reads wait until it is closed; nil: no waiting
}

func (s *slowStore) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	s.reads.Add(1)
	if s.down.Load() {
		return slices.Repeat([]l2.ReadAnswer{{Err: soracache.ErrUnavailable}}, len(reqs))
	}
	answers := s.Store.Read(ctx, reqs)
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	time.Sleep(s.latency)
	return answers
}

func (s *slowStore) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	s.since.Add(1)
	if s.down.Load() {
		return slices.Repeat([]l2.SinceAnswer{{Err: soracache.ErrUnavailable}}, len(reqs))
	}
	select {
	case <-ctx.Done():
		return slices.Repeat([]l2.SinceAnswer{{Err: fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())}}, len(reqs))
	case <-time.After(s.latency):
	}
	return s.Store.Since(ctx, reqs)
}

func (s *slowStore) stall() (release func()) {
	hold := make(chan struct{})
	s.mu.Lock()
	s.hold = hold
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.hold = nil
		s.mu.Unlock()
		close(hold)
	}
}

// cluster is a number of nodes over one model, in a bubble of virtual time.
type cluster struct {
	t     *testing.T
	model *l2model.Model
	store *slowStore
	nodes []*node.Node
}

// bubble runs a test in virtual time. One that does not end, because somebody in
// it waits for what never comes, would go on for ever: L1 has a clockwork of its
// own, so that virtual time never stands still.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		endless := time.AfterFunc(6*time.Hour, func() {
			debug.SetTraceback("all")
			panic(t.Name() + " does not end")
		})
		defer endless.Stop()
		test(t)
	})
}

func inBubble(t *testing.T, nodes int, test func(c *cluster)) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		c := &cluster{t: t, model: l2model.New(l2model.Config{})}
		c.store = &slowStore{Store: c.model, latency: time.Millisecond}
		for range nodes {
			n, err := node.New(node.Config{Store: c.store, Bound: bound, L1MaxBytes: 4 << 20})
			if err != nil {
				t.Fatal(err)
			}
			c.nodes = append(c.nodes, n)
			defer func() {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			}()
		}
		test(c)
	})
}

func (c *cluster) get(n int, r soracache.Read, least ...soracache.Stamps) soracache.ReadResult {
	c.t.Helper()
	req := soracache.GetRequest{Reads: []soracache.Read{r}}
	if len(least) > 0 {
		req.MinStamp = least[0]
	}
	return c.getReq(context.Background(), n, req)
}

func (c *cluster) getReq(ctx context.Context, n int, req soracache.GetRequest) soracache.ReadResult {
	c.t.Helper()
	rs, err := c.nodes[n].Get(ctx, req)
	if err != nil {
		c.t.Fatal(err)
	}
	return rs[0]
}

func (c *cluster) write(n int, w soracache.Write) soracache.WriteResult {
	c.t.Helper()
	if w.Lifetime.TTL == 0 {
		w.Lifetime.TTL = time.Minute
	}
	rs, err := c.nodes[n].Write(context.Background(), soracache.WriteRequest{Writes: []soracache.Write{w}})
	if err != nil {
		c.t.Fatal(err)
	}
	if rs[0].Err != nil {
		c.t.Fatal(rs[0].Err)
	}
	return rs[0]
}

func (c *cluster) fill(n int, key string, lease soracache.Lease, value string, tags ...string) soracache.WriteResult {
	c.t.Helper()
	return c.write(n, soracache.Write{Op: soracache.OpFill, Key: key, Lease: lease, Entry: soracache.Entry{Value: []byte(value), Tags: tags}})
}

func (c *cluster) put(n int, key, value string, tags ...string) soracache.WriteResult {
	c.t.Helper()
	return c.write(n, soracache.Write{Op: soracache.OpPut, Key: key, Entry: soracache.Entry{Value: []byte(value), Tags: tags}})
}

func (c *cluster) invalidate(n int, targets ...soracache.Target) soracache.Stamps {
	c.t.Helper()
	res, err := c.nodes[n].Invalidate(context.Background(), soracache.InvalidateRequest{Targets: targets})
	if err != nil {
		c.t.Fatal(err)
	}
	return res.Stamp
}

// lease reads a key that must be missing and returns its lease.
func (c *cluster) lease(n int, key string) soracache.Lease {
	c.t.Helper()
	res := c.get(n, soracache.Read{Key: key, Lease: true})
	if res.Status != soracache.StatusMiss || res.Lease == (soracache.Lease{}) {
		c.t.Fatalf("no lease: %+v", res)
	}
	return res.Lease
}

func (c *cluster) want(res soracache.ReadResult, status soracache.Status, tier soracache.Tier, value string) {
	c.t.Helper()
	if res.Err != nil || res.Status != status || res.Tier != tier || string(res.Entry.Value) != value {
		c.t.Fatalf("got status %d from %s, value %q, error %v; want status %d from %s, value %q",
			res.Status, res.Tier, res.Entry.Value, res.Err, status, tier, value)
	}
}

func TestFillThenHitsInL1WithoutTheStore(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		if res := c.fill(0, "k", c.lease(0, "k"), "v", "b", "a", "b"); !res.Stored {
			t.Fatalf("not stored: %s", res.Reason)
		}
		reads := c.store.reads.Load()
		for range 10 {
			res := c.get(0, soracache.Read{Key: "k", Lease: true})
			c.want(res, soracache.StatusHit, soracache.TierL1, "v")
			if !slices.Equal(res.Entry.Tags, []string{"a", "b"}) {
				t.Fatalf("tags %q", res.Entry.Tags)
			}
		}
		if got := c.store.reads.Load(); got != reads {
			t.Errorf("%d reads of the store for hits in L1", got-reads)
		}
	})
}

func TestOtherNodeReadsL2ThenItsOwnL1(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		c.put(0, "k", "v", "t")
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL2, "v")
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL1, "v")
	})
}

// The rule, for each kind of target, on the node that invalidates and on
// another: a fill whose lease was given before is refused, says why, and no
// read returns its value.
func TestNoStaleFill(t *testing.T) {
	kill := map[string]func(c *cluster){
		"key":        func(c *cluster) { c.invalidate(0, soracache.Key("k")) },
		"first tag":  func(c *cluster) { c.invalidate(0, soracache.Tag("a")) },
		"second tag": func(c *cluster) { c.invalidate(0, soracache.Tag("b")) },
		"everything": func(c *cluster) { c.invalidate(0, soracache.Everything()) },
		"put":        func(c *cluster) { c.put(0, "k", "newer") },
	}
	for name, kill := range kill {
		for filler := range 2 {
			t.Run(fmt.Sprintf("%s/node %d", name, filler), func(t *testing.T) {
				inBubble(t, 2, func(c *cluster) {
					lease := c.lease(filler, "k")
					kill(c)
					res := c.fill(filler, "k", lease, "stale", "a", "b")
					if res.Stored || res.Reason == soracache.ReasonNone {
						t.Fatalf("stored: %+v", res)
					}
					for n := range 2 {
						if got := c.get(n, soracache.Read{Key: "k"}); string(got.Entry.Value) == "stale" {
							t.Fatalf("node %d serves the stale value", n)
						}
					}
				})
			})
		}
	}
}

func TestInvalidationIsSeenAtOnceHereAndWithinTheBoundElsewhere(t *testing.T) {
	for _, target := range []soracache.Target{soracache.Key("k"), soracache.Tag("t"), soracache.Everything()} {
		t.Run(target.String(), func(t *testing.T) {
			inBubble(t, 2, func(c *cluster) {
				c.put(0, "k", "v", "t")
				for n := range 2 {
					c.get(n, soracache.Read{Key: "k"})
					c.want(c.get(n, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL1, "v")
				}
				c.invalidate(0, target)
				c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
				time.Sleep(bound)
				c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
			})
		})
	}
}

func TestReadYourInvalidationOnAnotherNode(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		c.put(0, "k", "v")
		c.get(1, soracache.Read{Key: "k"})
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL1, "v")
		stamp := c.invalidate(0, soracache.Key("k"))
		c.want(c.get(1, soracache.Read{Key: "k"}, stamp), soracache.StatusMiss, soracache.TierNone, "")
	})
}

func TestStampAheadOfTheStoreIsAMissWithoutALease(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		stamp := c.put(0, "k", "v").Stamp
		ahead := soracache.Stamps{{Stamp: soracache.Stamp{Epoch: stamp[0].Stamp.Epoch, Position: stamp[0].Stamp.Position + 1}}}
		for _, key := range []string{"k", "cold"} {
			res := c.get(0, soracache.Read{Key: key, Lease: true}, ahead)
			c.want(res, soracache.StatusMiss, soracache.TierNone, "")
			if res.Lease != (soracache.Lease{}) {
				t.Error("a lease for a value that cannot be stored")
			}
			if res.LeaseState != soracache.LeaseRefused || res.Refusal != soracache.RefusalBehind {
				t.Errorf("the lease is %s (%s), want refused because the store is behind", res.LeaseState, res.Refusal)
			}
		}
		time.Sleep(time.Second)
		c.lease(0, "cold") // the refused one was handed back
	})
}

// What nobody can have seen is asked for by who made it up, and costs a read of
// the store, not a load.
func TestStampFarAheadOfTheStoreAsksForNothing(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		stamp := c.put(0, "k", "v").Stamp[0].Stamp
		ahead := func(by time.Duration) soracache.Stamps {
			at := soracache.Position(time.Now().Add(by).UnixMicro())
			return soracache.Stamps{{Stamp: soracache.Stamp{Epoch: stamp.Epoch, Position: at}}}
		}
		beyond := soracache.Stamps{{Stamp: soracache.Stamp{Epoch: stamp.Epoch, Position: 1 << 52}}}
		for range 2 {
			c.want(c.get(0, soracache.Read{Key: "k", Lease: true}, beyond), soracache.StatusHit, soracache.TierL2, "v")
			c.want(c.get(0, soracache.Read{Key: "k", Lease: true}, ahead(soracache.MaxAhead+time.Second)), soracache.StatusHit, soracache.TierL2, "v")
			c.want(c.get(0, soracache.Read{Key: "k", Lease: true}, ahead(soracache.MaxAhead-time.Second)), soracache.StatusMiss, soracache.TierNone, "")
		}
		if res := c.get(0, soracache.Read{Key: "cold", Lease: true}, beyond); res.LeaseState != soracache.LeaseGranted {
			t.Errorf("the lease of what is missing is %s (%s)", res.LeaseState, res.Refusal)
		}
	})
}

// One read's demand is not its neighbour's.
func TestStampsBelongToReads(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.put(0, "a", "v")
		stamp := c.put(0, "b", "v").Stamp[0].Stamp
		c.get(0, soracache.Read{Key: "a"})
		c.get(0, soracache.Read{Key: "b"})
		stamp.Position++
		rs, err := c.nodes[0].Get(context.Background(), soracache.GetRequest{
			MinStamp: soracache.Stamps{{Stamp: stamp}}, // asks nothing of reads that have their own
			Reads: []soracache.Read{
				{Key: "a", MinStamp: soracache.Stamps{{Stamp: soracache.Stamp{Epoch: stamp.Epoch}}}},
				{Key: "b", MinStamp: soracache.Stamps{{Stamp: stamp}}},
				{Key: "b"},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		c.want(rs[0], soracache.StatusHit, soracache.TierL1, "v")
		c.want(rs[1], soracache.StatusMiss, soracache.TierNone, "")
		c.want(rs[2], soracache.StatusMiss, soracache.TierNone, "")
		for i, r := range rs {
			if r.Partitions != 1 {
				t.Errorf("answer %d: one of %d partitions", i, r.Partitions)
			}
		}
	})
}

func TestManyReadersOneLease(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		var leases, hits atomic.Int64
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				res := c.get(i%2, soracache.Read{Key: "k", Lease: true, Wait: 10 * time.Second})
				switch {
				case res.Lease != (soracache.Lease{}):
					leases.Add(1)
					time.Sleep(200 * time.Millisecond)
					if !c.fill(i%2, "k", res.Lease, "v").Stored {
						t.Error("fill refused")
					}
				case res.Status == soracache.StatusHit && string(res.Entry.Value) == "v":
					hits.Add(1)
				default:
					t.Errorf("reader %d: %+v", i, res)
				}
			})
		}
		wg.Wait()
		if leases.Load() != 1 || hits.Load() != 999 {
			t.Errorf("%d leases, %d hits", leases.Load(), hits.Load())
		}
		if got := c.store.reads.Load(); got > 60 {
			t.Errorf("%d reads of the store for one key", got)
		}
	})
}

func TestNextReaderTakesOverWhenTheHolderIsGone(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		res := c.get(0, soracache.Read{Key: "k", Lease: true, LeaseFor: 3 * time.Second})
		if res.Lease == (soracache.Lease{}) {
			t.Fatal("no lease")
		}
		began := time.Now()
		next := c.get(1, soracache.Read{Key: "k", Lease: true, Wait: time.Minute})
		if next.Lease == (soracache.Lease{}) {
			t.Fatalf("not taken over: %+v", next)
		}
		if took := time.Since(began); took < 2900*time.Millisecond || took > 3100*time.Millisecond {
			t.Errorf("taken over after %s", took)
		}
		if c.fill(0, "k", res.Lease, "late").Reason != soracache.ReasonLeaseLost {
			t.Error("the old holder's fill was not refused")
		}
	})
}

func TestReleaseWakesTheNextReaderAtOnce(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		lease := c.lease(0, "k")
		done := make(chan time.Time)
		go func() {
			if res := c.get(0, soracache.Read{Key: "k", Lease: true, Wait: time.Minute}); res.Lease == (soracache.Lease{}) {
				t.Errorf("no lease: %+v", res)
			}
			done <- time.Now()
		}()
		time.Sleep(200 * time.Millisecond)
		released := time.Now()
		c.write(0, soracache.Write{Op: soracache.OpRelease, Key: "k", Lease: lease})
		if took := (<-done).Sub(released); took > 5*time.Millisecond {
			t.Errorf("woken after %s", took)
		}
	})
}

func TestWaitEndsWithAMissWithoutALease(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.lease(0, "k")
		began := time.Now()
		res := c.get(0, soracache.Read{Key: "k", Lease: true, Wait: time.Second})
		c.want(res, soracache.StatusMiss, soracache.TierNone, "")
		c.state(res, soracache.LeaseHeld, soracache.RefusalNone) // and worth waiting for elsewhere
		if time.Since(began) > 1100*time.Millisecond {
			t.Errorf("after %s", time.Since(began))
		}
	})
}

// A waiter that loses to invalidations twice is to load for itself and store
// nothing.
func TestWaiterGivesUpAfterTwoLostRounds(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		lease := c.lease(0, "k")
		done := make(chan soracache.ReadResult)
		for range 3 {
			go func() { done <- c.get(0, soracache.Read{Key: "k", Lease: true, Wait: time.Minute}) }()
		}
		time.Sleep(50 * time.Millisecond)
		c.invalidate(0, soracache.Key("k")) // first loss: one of three leads, two wait
		first := <-done
		if first.Lease == (soracache.Lease{}) || first.Lease == lease {
			t.Fatalf("nobody took over: %+v", first)
		}
		time.Sleep(50 * time.Millisecond)
		c.invalidate(0, soracache.Tag("t"))
		if c.fill(0, "k", first.Lease, "v", "t").Reason != soracache.ReasonSuperseded { // second loss
			t.Fatal("not superseded")
		}
		for range 2 {
			res := <-done
			c.want(res, soracache.StatusMiss, soracache.TierNone, "")
			c.state(res, soracache.LeaseRefused, soracache.RefusalSuperseded)
		}
	})
}

// The late fill of whoever held the lease before an invalidation is no second
// loss: the others go on waiting for whoever holds it now.
func TestOneInvalidationIsOneLostRound(t *testing.T) {
	for _, target := range everyTarget {
		inBubble(t, 1, func(c *cluster) {
			lease := c.lease(0, "k")
			done := make(chan soracache.ReadResult, 3)
			for range 3 {
				go func() { done <- c.get(0, soracache.Read{Key: "k", Lease: true, Wait: time.Minute}) }()
			}
			time.Sleep(50 * time.Millisecond)
			c.invalidate(0, target)
			time.Sleep(50 * time.Millisecond)
			if reason := c.fill(0, "k", lease, "old", "t").Reason; reason == soracache.ReasonNone {
				t.Fatalf("%v: stored", target)
			}
			first := <-done
			time.Sleep(50 * time.Millisecond)
			if len(done) > 0 {
				t.Errorf("%v: %d more gave up after one loss", target, len(done))
			}
			c.fill(0, "k", first.Lease, "new")
			for range 2 {
				if got := <-done; string(got.Entry.Value) != "new" {
					t.Errorf("%v: got %+v", target, got)
				}
			}
		})
	}
}

// A reader that comes while a read is under way must not be answered by it: the
// read may be older than an invalidation that the reader came after.
func TestReaderDoesNotJoinAFlightThatWasSent(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		c.put(1, "k", "old")
		release := c.store.stall()
		first := make(chan soracache.ReadResult)
		go func() { first <- c.get(0, soracache.Read{Key: "k"}) }()
		synctest.Wait() // the first read has its answer and is on its way back
		c.invalidate(1, soracache.Key("k"))
		second := make(chan soracache.ReadResult)
		go func() { second <- c.get(0, soracache.Read{Key: "k"}) }()
		synctest.Wait()
		release()
		c.want(<-first, soracache.StatusHit, soracache.TierL2, "old")
		c.want(<-second, soracache.StatusMiss, soracache.TierNone, "")
	})
}

// An answer that was on its way when this node applied an invalidation must not
// be kept as if it had come after it.
func TestLateAnswerIsNotServedFromL1(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.put(0, "k", "old", "t")
		release := c.store.stall()
		first := make(chan soracache.ReadResult)
		go func() { first <- c.get(0, soracache.Read{Key: "k"}) }()
		synctest.Wait()
		c.invalidate(0, soracache.Tag("t"))
		release()
		c.want(<-first, soracache.StatusHit, soracache.TierL2, "old")
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
	})
}

func TestConcurrentReadsTravelTogether(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.get(0, soracache.Read{Key: "warm up"})
		before := c.store.reads.Load()
		release := c.store.stall()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() { c.get(0, soracache.Read{Key: fmt.Sprint("k", i%50)}) })
		}
		synctest.Wait()
		release()
		wg.Wait()
		if got := c.store.reads.Load() - before; got > 4 {
			t.Errorf("%d reads of the store for 50 keys at once", got)
		}
	})
}

func TestOneCallersCancellationLeavesTheOthersAlone(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.put(0, "k", "v")
		release := c.store.stall()
		ctx, cancel := context.WithCancel(context.Background())
		gone, stays := make(chan soracache.ReadResult), make(chan soracache.ReadResult)
		req := soracache.GetRequest{Reads: []soracache.Read{{Key: "k", Lease: true}}}
		go func() { gone <- c.getReq(ctx, 0, req) }()
		go func() { stays <- c.getReq(context.Background(), 0, req) }()
		synctest.Wait()
		cancel()
		if res := <-gone; !errors.Is(res.Err, context.Canceled) {
			t.Errorf("cancelled reader: %+v", res)
		}
		release()
		c.want(<-stays, soracache.StatusHit, soracache.TierL2, "v")
	})
}

func TestLeaseThatNobodyCollectsIsHandedBack(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		release := c.store.stall()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan soracache.ReadResult)
		go func() {
			done <- c.getReq(ctx, 0, soracache.GetRequest{Reads: []soracache.Read{{Key: "k", Lease: true}}})
		}()
		synctest.Wait()
		cancel()
		<-done
		release()
		time.Sleep(100 * time.Millisecond)
		c.lease(0, "k")
	})
}

func TestBatchWithALeaseDoesNotWait(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.lease(0, "held")
		c.put(0, "there", "v")
		began := time.Now()
		rs, err := c.nodes[0].Get(context.Background(), soracache.GetRequest{Reads: []soracache.Read{
			{Key: "held", Lease: true, Wait: time.Minute},
			{Key: "free", Lease: true, Wait: time.Minute},
			{Key: "there", Lease: true, Wait: time.Minute},
		}})
		if err != nil {
			t.Fatal(err)
		}
		c.want(rs[0], soracache.StatusMiss, soracache.TierNone, "")
		c.want(rs[1], soracache.StatusMiss, soracache.TierNone, "")
		c.want(rs[2], soracache.StatusHit, soracache.TierL2, "v")
		if rs[0].Lease != (soracache.Lease{}) || rs[1].Lease == (soracache.Lease{}) || rs[2].Lease != (soracache.Lease{}) {
			t.Error("wrong leases")
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("a holder of a lease was made to wait %s for another key", took)
		}
	})
}

func TestStaleEntryIsServedAndOneReaderRefreshesIt(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.write(0, soracache.Write{
			Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte("v")},
			Lifetime: soracache.Lifetime{TTL: time.Second, Keep: time.Minute},
		})
		fresh := c.get(0, soracache.Read{Key: "k", Lease: true})
		c.want(fresh, soracache.StatusHit, soracache.TierL2, "v")
		time.Sleep(2 * time.Second)
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusStale, soracache.TierL2, "v")
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusStale, soracache.TierL1, "v")
		first := c.get(0, soracache.Read{Key: "k", Lease: true})
		c.want(first, soracache.StatusStale, soracache.TierL2, "v")
		if first.Lease == (soracache.Lease{}) {
			t.Fatal("nobody was asked to refresh it")
		}
		reads := c.store.reads.Load()
		c.get(0, soracache.Read{Key: "k", Lease: true})
		for range 20 {
			if res := c.get(0, soracache.Read{Key: "k", Lease: true}); res.Status != soracache.StatusStale || res.Lease != (soracache.Lease{}) {
				t.Fatalf("a second refresher: %+v", res)
			}
		}
		if got := c.store.reads.Load() - reads; got > 2 {
			t.Errorf("%d reads of the store while somebody refreshes", got)
		}
		time.Sleep(time.Millisecond)
		if !c.fill(0, "k", first.Lease, "w").Stored {
			t.Fatal("refresh refused")
		}
		c.want(c.get(0, soracache.Read{Key: "k", Lease: true}), soracache.StatusHit, soracache.TierL1, "w")
	})
}

func TestCapForMemoryEndsTheCopyNotTheEntry(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.write(0, soracache.Write{
			Op: soracache.OpFill, Key: "k", Lease: c.lease(0, "k"), Entry: soracache.Entry{Value: []byte("v")},
			Lifetime: soracache.Lifetime{TTL: time.Minute, L1: time.Second},
		})
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL1, "v")
		time.Sleep(time.Second)
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL2, "v")
		time.Sleep(time.Minute)
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
	})
}

func TestNodeCutOffFromTheStore(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.fill(0, "k", c.lease(0, "k"), "v")
		time.Sleep(time.Second)
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL1, "v")
		c.store.down.Store(true)
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL1, "v") // still confirmed
		time.Sleep(bound)
		if res := c.get(0, soracache.Read{Key: "k"}); !errors.Is(res.Err, soracache.ErrUnavailable) {
			t.Fatalf("served without confirmation: %+v", res)
		}
		res := c.getReq(context.Background(), 0, soracache.GetRequest{
			Reads: []soracache.Read{{Key: "k", Lease: true}}, AcceptUnconfirmed: true,
		})
		c.want(res, soracache.StatusStale, soracache.TierL1, "v")
		if !res.Unconfirmed || res.Lease != (soracache.Lease{}) {
			t.Errorf("not flagged: %+v", res)
		}
		reads := c.store.reads.Load()
		for range 100 {
			c.get(0, soracache.Read{Key: "other"})
		}
		if got := c.store.reads.Load() - reads; got > 3 {
			t.Errorf("%d reads of a store that is known to be down", got)
		}
		c.store.down.Store(false)
		time.Sleep(bound)
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL1, "v")
	})
}

func TestStoreThatLostEverythingServesNothingOld(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		c.put(0, "k", "v", "t")
		for n := range 2 {
			c.get(n, soracache.Read{Key: "k"})
		}
		c.model.Flush()
		time.Sleep(bound)
		for n := range 2 {
			c.want(c.get(n, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
		}
		c.fill(0, "k", c.lease(0, "k"), "w")
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL2, "w")
		if got := c.model.Counters().Epochs; got > 3 {
			t.Errorf("%d epochs: the nodes make each other take new ones", got)
		}
	})
}

func TestIdlePartitionIsNotConfirmedAndServesNothingOldLater(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		c.put(0, "k", "v")
		c.get(1, soracache.Read{Key: "k"})
		time.Sleep(5 * time.Minute)
		since := c.store.since.Load()
		time.Sleep(5 * time.Minute)
		if got := c.store.since.Load(); got != since {
			t.Errorf("%d confirmations of a partition that nobody uses", got-since)
		}
		c.invalidate(0, soracache.Key("k"))
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
	})
}

func TestHeadIsConfirmed(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		head, err := c.nodes[0].Head(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		stamp := c.invalidate(0, soracache.Key("k"))
		after, err := c.nodes[0].Head(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		if head.Stamp[0].Stamp.Position >= stamp[0].Stamp.Position || after.Stamp[0] != stamp[0] || after.Age < 0 || after.Age >= bound {
			t.Errorf("head %+v, record %+v, then %+v", head, stamp, after)
		}
	})
}

func TestDrainEndsWaitsAndRefusesWhatComesAfter(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		c.lease(0, "k")
		done := make(chan soracache.ReadResult)
		go func() { done <- c.get(0, soracache.Read{Key: "k", Lease: true, Wait: time.Minute}) }()
		synctest.Wait()
		drained := make(chan error)
		began := time.Now()
		go func() { drained <- c.nodes[0].Drain(context.Background()) }()
		c.want(<-done, soracache.StatusMiss, soracache.TierNone, "")
		if err := <-drained; err != nil || time.Since(began) > 10*time.Millisecond {
			t.Errorf("drained after %s: %v", time.Since(began), err)
		}
		_, err := c.nodes[0].Get(context.Background(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}})
		if !errors.Is(err, soracache.ErrUnavailable) || !errors.Is(c.nodes[0].Ready(context.Background()), soracache.ErrUnavailable) {
			t.Errorf("after the drain: %v", err)
		}
	})
}

func TestReclaimDeletesWhatATagKilled(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		for i := range 20 {
			c.put(0, fmt.Sprint("k", i), "v", "t")
		}
		c.put(0, "other", "v", "u")
		c.invalidate(0, soracache.Tag("t"))
		time.Sleep(time.Second)
		if got := c.nodes[0].Stats().Reclaimed; got != 20 {
			t.Errorf("%d entries reclaimed, want 20", got)
		}
		c.want(c.get(0, soracache.Read{Key: "other"}), soracache.StatusHit, soracache.TierL2, "v")
		c.invalidate(0, soracache.Everything())
		time.Sleep(time.Second)
		if got := c.nodes[0].Stats().Reclaimed; got != 21 {
			t.Errorf("%d entries reclaimed, want 21", got)
		}
	})
}

func TestExplain(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		explain := func(n int) node.Explanation {
			e, err := c.nodes[n].Explain(context.Background(), "", "k")
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		if e := explain(0); e.Status != soracache.StatusMiss || e.L2.Present {
			t.Errorf("nothing there: %+v", e)
		}
		c.fill(0, "k", c.lease(0, "k"), "v", "t")
		if e := explain(0); e.Status != soracache.StatusHit || e.Tier != soracache.TierL1 || !e.L1.Live || !e.L2.Live {
			t.Errorf("a hit in L1: %+v", e)
		}
		if e := explain(1); e.Status != soracache.StatusHit || e.Tier != soracache.TierL2 || e.L1.Present {
			t.Errorf("a hit in L2: %+v", e)
		}
		stamp := c.invalidate(0, soracache.Tag("t"))
		e := explain(0)
		if e.Status != soracache.StatusMiss || e.L1.Live || e.L2.Live ||
			e.L2.KilledBy.Position != stamp[0].Stamp.Position || !slices.Contains(e.L2.KilledBy.Targets, soracache.Tag("t")) {
			t.Errorf("killed by its tag: %+v", e)
		}
	})
}

func TestListKeysPagesOverPartitions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), Partitions: func(string) int { return 4 }})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		var want, got []string
		var ws []soracache.Write
		for i := range 57 {
			key := fmt.Sprintf("k%02d", i)
			want = append(want, key)
			ws = append(ws, soracache.Write{
				Op: soracache.OpPut, Key: key, Entry: soracache.Entry{Tags: []string{"t"}}, Lifetime: soracache.Lifetime{TTL: time.Minute},
			})
		}
		if _, err := n.Write(context.Background(), soracache.WriteRequest{Writes: ws}); err != nil {
			t.Fatal(err)
		}
		for token, first := "", true; first || token != ""; first = false {
			var keys []string
			if keys, token, err = n.ListKeys(context.Background(), "", "t", token, 5); err != nil {
				t.Fatal(err)
			}
			got = append(got, keys...)
		}
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("listed %q", got)
		}
		for _, bad := range []string{"x", "AA", "AQAJ", "!!!!", "AQAAZ2FyYmFnZQ"} {
			if _, _, err := n.ListKeys(context.Background(), "", "t", bad, 5); !errors.Is(err, soracache.ErrInvalid) {
				t.Errorf("token %q: %v", bad, err)
			}
		}
	})
}

// deadSets is a store whose sets of keys hold what is dead, and no end of it.
type deadSets struct{ l2.Store }

func (deadSets) ListKeys(ctx context.Context, _ l2.Partition, _, _ string, _ int) ([]string, string, error) {
	time.Sleep(100 * time.Millisecond)
	return nil, "on", ctx.Err()
}

// A page of a listing ends after a while, whatever it has found: few are made at once,
// and others wait for their turn.
func TestPageThatFindsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, err := node.New(node.Config{Store: deadSets{l2model.New(l2model.Config{})}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for token := range 2 {
			began := time.Now()
			keys, next, err := n.ListKeys(ctx, "", "t", "", 5)
			if took := time.Since(began); err != nil || len(keys) > 0 || next == "" || took > 600*time.Millisecond {
				t.Errorf("page %d: %q, token %q, error %v after %v", token, keys, next, err, took)
			}
		}
	})
}

func TestTagInvalidationReachesEveryPartition(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), Partitions: func(string) int { return 8 }})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		req := soracache.WriteRequest{}
		get := soracache.GetRequest{}
		for i := range 100 {
			key := fmt.Sprint("k", i)
			get.Reads = append(get.Reads, soracache.Read{Key: key})
			req.Writes = append(req.Writes, soracache.Write{
				Op: soracache.OpPut, Key: key, Entry: soracache.Entry{Tags: []string{"t"}}, Lifetime: soracache.Lifetime{TTL: time.Minute},
			})
		}
		if _, err := n.Write(context.Background(), req); err != nil {
			t.Fatal(err)
		}
		count := func() (hits int) {
			rs, err := n.Get(context.Background(), get)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rs {
				if r.Status == soracache.StatusHit {
					hits++
				}
			}
			return hits
		}
		if got := count(); got != 100 {
			t.Fatalf("%d hits", got)
		}
		res, err := n.Invalidate(context.Background(), soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Tag("t")}})
		if err != nil || len(res.Stamp) != 8 {
			t.Fatalf("stamps %v, error %v", res.Stamp, err)
		}
		if got := count(); got != 0 {
			t.Errorf("%d hits after the invalidation", got)
		}
	})
}
