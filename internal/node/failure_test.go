package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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

// hungStore hangs until ctx ends while hung.
type hungStore struct {
	l2.Store
	mu        sync.Mutex
	hungReads bool
	failReads bool
	afterExec bool // execute, then hang
	panics    bool
	hungSince bool
	batches   []int
	sinces    int
}

func (s *hungStore) set(f func(*hungStore)) { s.mu.Lock(); f(s); s.mu.Unlock() }

func (s *hungStore) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	s.mu.Lock()
	hung, fail, after, pan := s.hungReads, s.failReads, s.afterExec, s.panics
	keys := 0
	for _, r := range reqs {
		keys += len(r.Keys)
	}
	s.batches = append(s.batches, keys)
	s.mu.Unlock()
	if pan {
		panic("store panics")
	}
	if fail {
		return slices.Repeat([]l2.ReadAnswer{{Err: soracache.ErrUnavailable}}, len(reqs))
	}
	if hung {
		if after {
			s.Store.Read(ctx, reqs)
		}
		<-ctx.Done()
		return slices.Repeat([]l2.ReadAnswer{{Err: fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())}}, len(reqs))
	}
	time.Sleep(time.Millisecond)
	return s.Store.Read(ctx, reqs)
}

func (s *hungStore) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	s.mu.Lock()
	hung := s.hungSince
	s.sinces++
	s.mu.Unlock()
	if hung {
		<-ctx.Done()
	}
	return s.Store.Since(ctx, reqs)
}

func rig(t *testing.T, f func(n *node.Node, s *hungStore, m *l2model.Model)) {
	bubble(t, func(t *testing.T) {
		m := l2model.New(l2model.Config{})
		s := &hungStore{Store: m}
		n, err := node.New(node.Config{Store: s, L1MaxBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		f(n, s, m)
	})
}

func one(t *testing.T, n *node.Node, ctx context.Context, //nolint:revive // a test's order
	req soracache.GetRequest) soracache.ReadResult {
	t.Helper()
	rs, err := n.Get(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return rs[0]
}

func rd(k string) soracache.GetRequest {
	return soracache.GetRequest{Reads: []soracache.Read{{Key: k, Lease: true}}}
}

// Readers that have collected behind a store that hangs are answered when it is
// known to be down, not one trip after the other.
func TestQueueBehindAHungStoreIsAnsweredTogether(t *testing.T) {
	rig(t, func(n *node.Node, s *hungStore, _ *l2model.Model) {
		ctx := context.Background()
		one(t, n, ctx, rd("warm"))
		s.set(func(s *hungStore) { s.hungReads = true; s.hungSince = true })
		began := time.Now()
		var mu sync.Mutex
		var worst time.Duration
		var wg sync.WaitGroup
		for i := range 5000 {
			wg.Go(func() {
				one(t, n, ctx, rd(fmt.Sprint("k", i)))
				mu.Lock()
				worst = max(worst, time.Since(began))
				mu.Unlock()
			})
		}
		wg.Wait()
		if worst > 5*time.Second {
			t.Errorf("last of 5000 readers answered after %s", worst)
		}
	})
}

func TestCancelledCallersSayNothingOfTheStore(t *testing.T) {
	rig(t, func(n *node.Node, s *hungStore, _ *l2model.Model) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for range 2 {
			_, _ = n.Head(ctx, "")
		}
		if r := one(t, n, context.Background(), rd("k")); r.Err != nil {
			t.Errorf("healthy store, yet: %v", r.Err)
		}
	})
}

func TestIdlePartitionForgetsThatTheStoreWasDown(t *testing.T) {
	rig(t, func(n *node.Node, s *hungStore, _ *l2model.Model) {
		ctx := context.Background()
		one(t, n, ctx, rd("k"))
		s.set(func(s *hungStore) { s.failReads = true; s.hungSince = true })
		for range 3 {
			one(t, n, ctx, rd("x"))
		}
		time.Sleep(2 * time.Minute) // idle
		s.set(func(s *hungStore) { s.failReads = false; s.hungSince = false })
		time.Sleep(time.Hour)
		if r := one(t, n, ctx, rd("k2")); r.Err != nil {
			t.Errorf("store healthy for an hour, yet: %v", r.Err)
		}
	})
}

func TestFreshCopyIsServedWhenNobodyCanRefreshIt(t *testing.T) {
	rig(t, func(n *node.Node, s *hungStore, _ *l2model.Model) {
		ctx := context.Background()
		l := one(t, n, ctx, rd("k")).Lease
		_, err := n.Write(ctx, soracache.WriteRequest{Writes: []soracache.Write{{Op: soracache.OpFill, Key: "k", Lease: l, Entry: soracache.Entry{Value: []byte("v")}, Lifetime: soracache.Lifetime{TTL: time.Minute, Keep: time.Hour}}}})
		if err != nil {
			t.Fatal(err)
		}
		s.set(func(s *hungStore) { s.failReads = true })
		req := soracache.GetRequest{AcceptUnconfirmed: true, Reads: []soracache.Read{{Key: "k", Lease: true, RefreshWithin: 2 * time.Minute}}}
		if r := one(t, n, ctx, req); r.Err != nil {
			t.Errorf("fresh, live, confirmed copy refused: %v", r.Err)
		}
	})
}

func TestStaleCopyDoesNotHideARefreshOnAnotherNode(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		c.write(0, soracache.Write{Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte("v1")}, Lifetime: soracache.Lifetime{TTL: time.Second, Keep: time.Hour}})
		c.get(1, soracache.Read{Key: "k"})
		time.Sleep(2 * time.Second)
		r := c.get(0, soracache.Read{Key: "k", Lease: true})
		if r.Lease == (soracache.Lease{}) {
			t.Fatal("no refresh")
		}
		c.write(0, soracache.Write{Op: soracache.OpFill, Key: "k", Lease: r.Lease, Entry: soracache.Entry{Value: []byte("v2")}, Lifetime: soracache.Lifetime{TTL: time.Hour, Keep: time.Hour}})
		time.Sleep(30 * time.Minute)
		got := c.get(1, soracache.Read{Key: "k"})
		if string(got.Entry.Value) != "v2" {
			t.Errorf("half an hour after the refresh node 1 says %q status %d from %s", got.Entry.Value, got.Status, got.Tier)
		}
	})
}

func TestLateReadDoesNotReplaceAFresherFill(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		c.write(0, soracache.Write{Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte("v1")}, Lifetime: soracache.Lifetime{TTL: time.Minute, Keep: time.Hour}})
		r := c.get(1, soracache.Read{Key: "k", Lease: true, RefreshWithin: 2 * time.Minute})
		if r.Lease == (soracache.Lease{}) {
			t.Fatal("no refresh lease")
		}
		release := c.store.stall()
		done := make(chan soracache.ReadResult)
		go func() { done <- c.get(0, soracache.Read{Key: "k"}) }()
		synctest.Wait()
		c.write(0, soracache.Write{Op: soracache.OpFill, Key: "k", Lease: r.Lease, Entry: soracache.Entry{Value: []byte("v2")}, Lifetime: soracache.Lifetime{TTL: time.Hour}})
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusHit, soracache.TierL1, "v2")
		release()
		<-done
		got := c.get(0, soracache.Read{Key: "k"})
		if string(got.Entry.Value) != "v2" {
			t.Errorf("after v2 the same node serves %q from %s", got.Entry.Value, got.Tier)
		}
	})
}

// slowFill answers the first fill late.
type slowFill struct {
	l2.Store
	held atomic.Bool
	hold chan struct{}
}

func (s *slowFill) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	answers := s.Store.Write(ctx, reqs)
	if reqs[0].Op == soracache.OpFill && s.held.CompareAndSwap(false, true) {
		<-s.hold
	}
	return answers
}

// A fill whose answer is late has been followed by others. (internal/sim found
// that it took their place in memory.)
func TestLateAnswerToAFillDoesNotReplaceAFresherFill(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slow := &slowFill{Store: l2model.New(l2model.Config{}), hold: make(chan struct{})}
		n, err := node.New(node.Config{Store: slow, L1MaxBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		ctx := t.Context()
		fill := func(lease soracache.Lease, value string) {
			_, _ = n.Write(ctx, soracache.WriteRequest{Writes: []soracache.Write{{
				Op: soracache.OpFill, Key: "k", Lease: lease,
				Entry: soracache.Entry{Value: []byte(value)}, Lifetime: soracache.Lifetime{TTL: time.Hour},
			}}})
		}
		first := one(t, n, ctx, rd("k"))
		late := make(chan struct{})
		go func() { defer close(late); fill(first.Lease, "v1") }()
		synctest.Wait()
		refresh := rd("k")
		refresh.Reads[0].RefreshWithin = 2 * time.Hour
		second := one(t, n, ctx, refresh)
		if string(second.Entry.Value) != "v1" || second.Lease == (soracache.Lease{}) {
			t.Fatalf("no refresh: %+v", second)
		}
		time.Sleep(time.Millisecond)
		fill(second.Lease, "v2")
		close(slow.hold)
		<-late
		for range 2 {
			if got := one(t, n, ctx, rd("k")); string(got.Entry.Value) != "v2" {
				t.Errorf("after v2 the same node serves %q from %s", got.Entry.Value, got.Tier)
			}
		}
	})
}

// slowInvalidate holds invalidations back until they are let through, and what the
// node asks by itself for as long as there is something to wait for.
type slowInvalidate struct {
	l2.Store
	hold  chan struct{}
	quiet atomic.Pointer[chan struct{}]
}

func (s *slowInvalidate) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	if quiet := s.quiet.Load(); quiet != nil {
		<-*quiet
	}
	return s.Store.Since(ctx, reqs)
}

func (s *slowInvalidate) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	<-s.hold
	return s.Store.Invalidate(ctx, reqs)
}

// heldInvalidations starts a node over a store that holds invalidations back until the
// channel is closed.
func heldInvalidations(t *testing.T) (*cluster, *l2model.Model, *slowInvalidate) {
	t.Helper()
	model := l2model.New(l2model.Config{})
	store := &slowInvalidate{Store: &slowStore{Store: model, latency: time.Millisecond}, hold: make(chan struct{})}
	n, err := node.New(node.Config{Store: store, Bound: bound, L1MaxBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return &cluster{t: t, nodes: []*node.Node{n}}, model, store
}

// An invalidation that is on its way while the ledger takes two new epochs is
// recorded in one that the node has not entered, and its answer cannot lead
// there.
func TestOwnRecordOfAnEpochThatIsNotFollowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, model, store := heldInvalidations(t)
		c.put(0, "k", "v")
		invalidated := make(chan struct{})
		go func() { defer close(invalidated); c.invalidate(0, soracache.Key("k")) }()
		synctest.Wait()
		model.Flush()
		time.Sleep(bound)
		c.put(0, "k", "old")
		for range 2 {
			if string(c.get(0, soracache.Read{Key: "k"}).Entry.Value) != "old" {
				t.Error("not kept")
			}
		}
		model.Flush()
		close(store.hold)
		<-invalidated
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
	})
}

// An invalidation that is on its way while the ledger takes a new epoch, and is then
// brought back to the one before, is recorded in one that the node has left.
func TestOwnRecordOfAnEpochThatWasLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, model, store := heldInvalidations(t)
		c.put(0, "k", "v")
		restore := model.Snapshot()
		invalidated := make(chan struct{})
		go func() {
			defer close(invalidated)
			_, err := c.nodes[0].Invalidate(context.Background(), soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Key("k")}})
			if !errors.Is(err, soracache.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		}()
		synctest.Wait()
		model.Flush()
		time.Sleep(bound)
		c.put(0, "k", "old")
		for range 2 {
			if string(c.get(0, soracache.Read{Key: "k"}).Entry.Value) != "old" {
				t.Error("not kept")
			}
		}
		quiet := make(chan struct{}) // or else it may follow the ledger back before it records
		store.quiet.Store(&quiet)
		time.Sleep(2 * time.Millisecond)
		restore()
		close(store.hold)
		<-invalidated
		close(quiet)
		c.want(c.get(0, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
	})
}

// failedOver is a store with another primary than before: of what is asked, only
// invalidations still reach the former one, and late.
type failedOver struct {
	l2.Store // the former one
	next     l2.Store
	over     atomic.Bool
	hold     chan struct{}
}

func (s *failedOver) now() l2.Store {
	if s.over.Load() {
		return s.next
	}
	return s.Store
}

func (s *failedOver) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	return s.now().Read(ctx, reqs)
}

func (s *failedOver) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	return s.now().Write(ctx, reqs)
}

func (s *failedOver) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	return s.now().Since(ctx, reqs)
}

func (s *failedOver) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	<-s.hold
	return s.Store.Invalidate(ctx, reqs)
}

// An invalidation that a primary took which was cut off is no success to a node
// that has followed the next one: what was made there may be older.
func TestInvalidationInAnEpochThatWasLeft(t *testing.T) {
	for _, acknowledge := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			s := &failedOver{
				Store: l2model.New(l2model.Config{}), next: l2model.New(l2model.Config{}), hold: make(chan struct{}),
			}
			n, err := node.New(node.Config{Store: s, Bound: bound, L1MaxBytes: 4 << 20})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = n.Close() }()
			one(t, n, t.Context(), rd("k"))
			invalidated := make(chan error, 1)
			go func() {
				_, err := n.Invalidate(context.Background(), soracache.InvalidateRequest{
					Targets: []soracache.Target{soracache.Key("k")}, Acknowledge: acknowledge,
				})
				invalidated <- err
			}()
			synctest.Wait()
			s.over.Store(true)
			time.Sleep(bound)
			one(t, n, t.Context(), rd("k"))
			close(s.hold)
			if err := <-invalidated; !errors.Is(err, soracache.ErrUnavailable) {
				t.Errorf("acknowledged: %t: got %v", acknowledge, err)
			}
		})
	}
}

// inapt is a store that refuses all that is asked of its ledgers.
type inapt struct{ l2.Store }

func (inapt) Read(_ context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	return slices.Repeat([]l2.ReadAnswer{{Err: soracache.ErrInvalid}}, len(reqs))
}

func (inapt) Since(_ context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	return slices.Repeat([]l2.SinceAnswer{{Err: soracache.ErrInvalid}}, len(reqs))
}

// What the store refuses says nothing of the node.
func TestNodeIsReadyWhateverItsStoreRefuses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, err := node.New(node.Config{Store: inapt{l2model.New(l2model.Config{})}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		for i := range 8 {
			if got := one(t, n, t.Context(), rd(fmt.Sprint("k", i))); !errors.Is(got.Err, soracache.ErrInvalid) {
				t.Fatal(got.Err)
			}
		}
		time.Sleep(10 * time.Second)
		if err := n.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestLeaseOfAReadThatTimedOutIsHandedBack(t *testing.T) {
	rig(t, func(n *node.Node, s *hungStore, _ *l2model.Model) {
		ctx := context.Background()
		one(t, n, ctx, rd("warm"))
		s.set(func(s *hungStore) { s.hungReads = true; s.afterExec = true })
		req := rd("k")
		req.Reads[0].LeaseFor = time.Minute
		if r := one(t, n, ctx, req); r.Err == nil {
			t.Fatal("answered")
		}
		s.set(func(s *hungStore) { s.hungReads = false })
		time.Sleep(time.Second)
		if r := one(t, n, ctx, rd("k")); r.Lease == (soracache.Lease{}) {
			t.Errorf("nobody holds it, yet no lease: %+v", r)
		}
	})
}

func TestBatchOfAThousandIsOneRoundTrip(t *testing.T) {
	rig(t, func(n *node.Node, s *hungStore, _ *l2model.Model) {
		var req soracache.GetRequest
		for i := range 1000 {
			req.Reads = append(req.Reads, soracache.Read{Key: strconv.Itoa(i)})
		}
		began := time.Now()
		if _, err := n.Get(context.Background(), req); err != nil {
			t.Fatal(err)
		}
		if len(s.batches) != 1 {
			t.Errorf("calls with %v keys, %s (one round trip takes 1ms)", s.batches, time.Since(began))
		}
	})
}

func TestBatchDoesNotWaitForItsKeysOneByOne(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		const N = 100
		leases := make([]soracache.Lease, N)
		var req soracache.GetRequest
		for i := range N {
			k := fmt.Sprint("k", i)
			leases[i] = c.lease(0, k)
			req.Reads = append(req.Reads, soracache.Read{Key: k, Lease: true, Wait: 5 * time.Second})
		}
		done := make(chan time.Time)
		go func() {
			rs, _ := c.nodes[0].Get(context.Background(), req)
			for i, r := range rs {
				if r.Status != soracache.StatusHit {
					t.Errorf("%d: %+v", i, r)
					break
				}
			}
			done <- time.Now()
		}()
		time.Sleep(200 * time.Millisecond)
		var w soracache.WriteRequest
		for i := range N {
			w.Writes = append(w.Writes, soracache.Write{Op: soracache.OpFill, Key: fmt.Sprint("k", i), Lease: leases[i], Entry: soracache.Entry{Value: []byte("v")}, Lifetime: soracache.Lifetime{TTL: time.Minute}})
		}
		if _, err := c.nodes[0].Write(context.Background(), w); err != nil {
			t.Fatal(err)
		}
		filled := time.Now()
		if d := (<-done).Sub(filled); d > 50*time.Millisecond {
			t.Errorf("everything was there, answered %s later", d)
		}
	})
}

func TestWriteLeavesTheRequestAlone(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		req := soracache.WriteRequest{Writes: []soracache.Write{{Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Tags: []string{"b", "a"}}, Lifetime: soracache.Lifetime{TTL: time.Minute}}}}
		if _, err := c.nodes[0].Write(context.Background(), req); err != nil {
			t.Fatal(err)
		}
		if req.Writes[0].Lifetime.Keep != 0 || req.Writes[0].Entry.Tags[0] != "b" {
			t.Errorf("caller's request changed: %+v", req.Writes[0])
		}
	})
}

func TestFirstInvalidationAsksForNothingElse(t *testing.T) {
	rig(t, func(n *node.Node, s *hungStore, _ *l2model.Model) {
		if _, err := n.Invalidate(context.Background(), soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Key("k")}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s.sinces != 0 {
			t.Errorf("%d since calls for a first invalidation", s.sinces)
		}
	})
}

func TestLongestDurations(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		l := c.lease(0, "k")
		lt := soracache.Lifetime{TTL: time.Minute, L1: 1<<63 - 1}
		if err := soracache.DefaultLimits().CheckLifetime(lt); err != nil {
			t.Skip(err)
		}
		c.write(0, soracache.Write{Op: soracache.OpFill, Key: "k", Lease: l, Entry: soracache.Entry{Value: []byte("v")}, Lifetime: lt})
		time.Sleep(time.Millisecond)
		if r := c.get(0, soracache.Read{Key: "k"}); r.Tier != soracache.TierL1 {
			t.Errorf("from %s", r.Tier)
		}
		c.lease(0, "held")
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c.getReq(ctx, 0, soracache.GetRequest{Reads: []soracache.Read{{Key: "held", Lease: true, Wait: 1<<63 - 1}}})
		if time.Since(began) < 900*time.Millisecond {
			t.Errorf("waited %s", time.Since(began))
		}
	})
}

func TestNoLeaseForReadersThatLeft(t *testing.T) {
	rig(t, func(n *node.Node, s *hungStore, _ *l2model.Model) {
		bg := context.Background()
		s.set(func(s *hungStore) { s.hungReads = true })
		go func() { _, _ = n.Get(bg, soracache.GetRequest{Reads: []soracache.Read{{Key: "a"}}}) }()
		go func() { _, _ = n.Get(bg, soracache.GetRequest{Reads: []soracache.Read{{Key: "b"}}}) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(bg)
		done := make(chan soracache.ReadResult, 1)
		go func() { rs, _ := n.Get(ctx, rd("k")); done <- rs[0] }()
		synctest.Wait()
		cancel()
		<-done
		go func() {
			rs, _ := n.Get(bg, soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}})
			done <- rs[0]
		}()
		synctest.Wait()
		s.set(func(s *hungStore) { s.hungReads = false })
		<-done
		time.Sleep(3 * time.Second)
		if rel := n.Stats().Releases; rel != 0 {
			t.Errorf("%d releases of a lease nobody wanted", rel)
		}
	})
}

func TestPanicOfTheStoreIsAnError(t *testing.T) {
	rig(t, func(n *node.Node, s *hungStore, _ *l2model.Model) {
		s.set(func(s *hungStore) { s.panics = true })
		if r := one(t, n, context.Background(), rd("k")); !errors.Is(r.Err, soracache.ErrUnavailable) {
			t.Errorf("got %+v", r)
		}
		s.set(func(s *hungStore) { s.panics = false })
		if r := one(t, n, context.Background(), rd("k")); r.Lease == (soracache.Lease{}) {
			t.Errorf("something stayed locked: %+v", r)
		}
	})
}

func TestCloseHandsBackLeases(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := l2model.New(l2model.Config{})
		s := &hungStore{Store: m, hungReads: true, afterExec: true}
		n, err := node.New(node.Config{Store: s, L1MaxBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = n.Get(context.Background(), rd("k")) }()
		synctest.Wait()
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		other, err := node.New(node.Config{Store: m, L1MaxBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		if r := one(t, other, context.Background(), rd("k")); r.Lease == (soracache.Lease{}) {
			t.Error("the closed node's lease is still held")
		}
	})
}

// A machine that was suspended serves nothing from memory until the store has
// answered, and nothing at all of what its clock did not see expire.
func TestSuspendedMachineGivesUpItsMemory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var slept atomic.Int64
		n, err := node.New(node.Config{
			Store: l2model.New(l2model.Config{}), L1MaxBytes: 4 << 20,
			Suspended: func() time.Duration { return time.Duration(slept.Load()) },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		lease := one(t, n, context.Background(), rd("k")).Lease
		if _, err := n.Write(context.Background(), soracache.WriteRequest{Writes: []soracache.Write{{
			Op: soracache.OpFill, Key: "k", Lease: lease, Lifetime: soracache.Lifetime{TTL: time.Hour},
		}}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if r := one(t, n, context.Background(), rd("k")); r.Tier != soracache.TierL1 {
			t.Fatalf("from %s", r.Tier)
		}
		slept.Add(int64(time.Hour))
		time.Sleep(time.Second)
		if r := one(t, n, context.Background(), rd("k")); r.Tier != soracache.TierL2 {
			t.Errorf("from %s after an hour's sleep", r.Tier)
		}
	})
}

func TestNamespacesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), L1MaxBytes: 4 << 20, MaxPartitions: 3})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		get := func(ns string) error {
			req := rd("k")
			req.Namespace = ns
			_, err := n.Get(context.Background(), req)
			return err
		}
		for _, ns := range []string{"a", "b", "c"} {
			if err := get(ns); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 100 { // one that was read, and is not in use, makes room for another
			if err := get(fmt.Sprint("other", i)); err != nil {
				t.Fatal(err)
			}
			if n.Stats().Partitions > 3 {
				t.Fatalf("%d partitions are followed", n.Stats().Partitions)
			}
		}

		// Only those that are in use do not.
		ctx, end := context.WithCancel(context.Background())
		for _, ns := range []string{"a", "b", "c"} {
			go func() {
				_ = n.Watch(ctx, soracache.WatchRequest{Namespace: ns}, func([]soracache.WatchItem) error { return nil })
			}()
			synctest.Wait()
		}
		if err := get("d"); !errors.Is(err, soracache.ErrTooLarge) || n.Stats().Crowded != 1 {
			t.Errorf("a fourth: %v, counted %d times", err, n.Stats().Crowded)
		}
		end()
		synctest.Wait()
		if err := get("d"); err != nil {
			t.Errorf("when they are not in use any more: %v", err)
		}
		time.Sleep(5 * time.Minute)
		if s := n.Stats(); s.Partitions != 0 {
			t.Errorf("five minutes later, %d partitions are followed", s.Partitions)
		}
	})
}

// Whoever tries names does not push out those that are in use.
func TestNamesTriedPushOutEachOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), L1MaxBytes: 4 << 20, MaxPartitions: 64, MeterEvery: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		get := func(ns string) soracache.ReadResult {
			req := rd("k")
			req.Namespace = ns
			return one(t, n, context.Background(), req)
		}
		if _, err := n.Write(context.Background(), soracache.WriteRequest{Namespace: "used", Writes: []soracache.Write{{
			Op: soracache.OpPut, Key: "k", Lifetime: soracache.Lifetime{TTL: time.Hour},
		}}}); err != nil {
			t.Fatal(err)
		}
		get("used")
		time.Sleep(20 * time.Second)
		get("used") // it is in use, not only tried
		for i := range 1000 {
			get(fmt.Sprint("tried", i))
			if r := get("used"); r.Tier != soracache.TierL1 {
				t.Fatalf("after %d names, read from %s", i, r.Tier)
			}
		}
	})
}

// A store that is slower than a short bound confirms nothing, and is not down.
func TestSlowStoreIsNotDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &slowStore{Store: l2model.New(l2model.Config{}), latency: 300 * time.Millisecond}
		n, err := node.New(node.Config{Store: s, L1MaxBytes: 4 << 20, Bound: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		for range 20 {
			if r := one(t, n, context.Background(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}}); r.Err != nil {
				t.Fatal(r.Err)
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
}
