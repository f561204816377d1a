package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
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

// told is a node that was told a number of partitions.
type told struct {
	*node.Node
	t     *testing.T
	store *slowStore
	log   *bytes.Buffer
	asked atomic.Int64 // for numbers
}

// Partitions counts the questions for numbers.
type countingStore struct {
	*slowStore
	asked *atomic.Int64
}

func (s countingStore) Partitions(ctx context.Context, reqs []l2.PartitionsRequest) []l2.PartitionsAnswer {
	s.asked.Add(1)
	if s.down.Load() {
		answers := make([]l2.PartitionsAnswer, len(reqs))
		for i := range answers {
			answers[i].Err = soracache.ErrUnavailable
		}
		return answers
	}
	time.Sleep(s.latency)
	return s.slowStore.Partitions(ctx, reqs)
}

func startTold(t *testing.T, model l2.Store, partitions int) *told {
	t.Helper()
	n := &told{t: t, store: &slowStore{Store: model, latency: time.Millisecond}, log: &bytes.Buffer{}}
	var err error
	n.Node, err = node.New(node.Config{
		Store: countingStore{n.store, &n.asked}, Bound: bound, L1MaxBytes: 4 << 20,
		Partitions: func(string) int { return partitions },
		Logger:     slog.New(slog.NewTextHandler(n.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// errs asks for everything once, and returns what became of each.
func (n *told) errs() map[string]error {
	ctx := context.Background()
	all := map[string]error{}
	for i := range 16 {
		_, err := n.Get(ctx, soracache.GetRequest{Reads: []soracache.Read{{Key: fmt.Sprint("k", i), Lease: true}}})
		all[fmt.Sprint("get ", i)] = err
	}
	_, all["write"] = n.Write(ctx, soracache.WriteRequest{Writes: []soracache.Write{{Op: soracache.OpPut, Key: "k", Lifetime: soracache.Lifetime{TTL: time.Minute}}}})
	_, all["invalidate"] = n.Invalidate(ctx, soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Key("k")}})
	_, all["clear"] = n.Invalidate(ctx, soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Everything()}, Acknowledge: true})
	_, all["head"] = n.Head(ctx, "")
	_, all["explain"] = n.Explain(ctx, "", "k")
	_, _, all["list"] = n.ListKeys(ctx, "", "t", "", 10)
	all["watch"] = n.Watch(ctx, soracache.WatchRequest{}, func([]soracache.WatchItem) error { return errors.New("told something") })
	return all
}

// shutOut expects that the node has nothing to do with the namespace.
func (n *told) shutOut(words ...string) {
	n.t.Helper()
	for what, err := range n.errs() {
		if !errors.Is(err, soracache.ErrUnavailable) || !errors.Is(err, l2.ErrPartitions) {
			n.t.Errorf("%s: %v, want one that wraps ErrUnavailable", what, err)
		}
	}
	err := n.Ready(n.t.Context())
	if err == nil {
		n.t.Error("the node is ready")
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			n.t.Errorf("the node is not ready because %q, want the word %q in it", err, word)
		}
	}
}

// serves expects that the node does its work, within a while.
func (n *told) serves() {
	n.t.Helper()
	for range 100 {
		if _, err := n.Head(n.t.Context(), ""); err == nil && n.Ready(n.t.Context()) == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	_, err := n.Head(n.t.Context(), "")
	n.t.Errorf("the node does not serve: %v; ready: %v", err, n.Ready(n.t.Context()))
}

// A node that was told another number than its namespace has is refused as a
// whole: also those of its partitions of which there is no ledger yet.
func TestNodeOfAnotherNumberIsShutOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		model := l2model.New(l2model.Config{})
		right, wrong := startTold(t, model, 1), startTold(t, model, 4)
		right.serves()
		kept := soracache.Write{Op: soracache.OpPut, Key: "kept", Lifetime: soracache.Lifetime{TTL: time.Hour}} // or the ledger would end
		if _, err := right.Write(t.Context(), soracache.WriteRequest{Writes: []soracache.Write{kept}}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			wrong.shutOut("default", "has 1", "told 4")
			time.Sleep(time.Minute)
		}
		right.serves()
		if n := strings.Count(wrong.log.String(), "a namespace is refused"); n != 1 {
			t.Errorf("the log says so %d times:\n%s", n, wrong.log)
		}
		if n := wrong.Stats().Refused; n != 1 {
			t.Errorf("%d namespaces are refused by the totals", n)
		}
		if n := model.Counters().Epochs; n != 1 {
			t.Errorf("%d ledgers were begun", n)
		}
		if n := right.Stats().Refused; n != 0 {
			t.Errorf("the right node refuses %d namespaces", n)
		}
	})
}

// Of nodes that open a new namespace at the same moment and were told different
// numbers, those of one number do their work, and the others nothing.
func TestNodesOfDifferentNumbersBeginAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for range 20 {
			model := l2model.New(l2model.Config{})
			nodes := map[int]*told{1: startTold(t, model, 1), 3: startTold(t, model, 3), 4: startTold(t, model, 4)}
			var wg sync.WaitGroup
			for _, n := range nodes {
				wg.Go(func() { n.errs() })
			}
			wg.Wait()
			let := 0
			for _, n := range nodes {
				if n.Ready(t.Context()) == nil {
					let++
					n.serves()
				} else {
					n.shutOut()
				}
			}
			if let != 1 {
				t.Fatalf("nodes of %d numbers do their work", let)
			}
		}
	})
}

// Many first uses ask for the number once, and whoever does not want to wait is
// not kept.
func TestFirstUsesAskTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startTold(t, l2model.New(l2model.Config{}), 1)
		n.store.latency = 100 * time.Millisecond
		brief, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := n.Head(brief, ""); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 20*time.Millisecond {
			t.Errorf("a caller of 10ms got %v after %v", err, time.Since(began))
		}
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if got := one(t, n.Node, t.Context(), rd(fmt.Sprint("k", i))); got.Err != nil {
					t.Error(got.Err)
				}
			})
		}
		wg.Wait()
		if asked := n.asked.Load(); asked != 1 {
			t.Errorf("the store was asked %d times", asked)
		}
	})
}

// A number is looked up again for all namespaces together, and none is by reads.
func TestNumbersAreLookedUpTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := startTold(t, l2model.New(l2model.Config{}), 1)
		get := func() {
			for i := range 20 {
				req := rd("k")
				req.Namespace = fmt.Sprint("ns", i)
				if _, err := n.Get(t.Context(), req); err != nil {
					t.Fatal(err)
				}
			}
		}
		get()
		before := n.asked.Load()
		for range 8 { // two minutes
			time.Sleep(15 * time.Second)
			get()
		}
		if asked := n.asked.Load() - before; asked < 3 || asked > 5 {
			t.Errorf("in two minutes, numbers were asked for %d times", asked)
		}
	})
}

// silentNumbers is a store that does not answer who asks for numbers.
type silentNumbers struct {
	l2.Store
	asking, most atomic.Int64
}

func (s *silentNumbers) Partitions(ctx context.Context, reqs []l2.PartitionsRequest) []l2.PartitionsAnswer {
	now := s.asking.Add(1)
	defer s.asking.Add(-1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	<-ctx.Done()
	return slices.Repeat([]l2.PartitionsAnswer{{Err: soracache.ErrUnavailable}}, len(reqs))
}

// What callers leave behind who ask for a number and go is one question for each
// namespace, and no more than so many in all. Who finds no place is told in time.
func TestQuestionsForNumbersAreBounded(t *testing.T) {
	const maxInquiries = 512
	const others = 8               // goroutines of the node's own that may have begun meanwhile
	goroutines := func() (n int) { // in the node, be it this test's or another's
		all := make([]byte, 16<<20)
		all = all[:runtime.Stack(all, true)]
		for one := range bytes.SplitSeq(all, []byte("\n\n")) {
			if bytes.Contains(one, []byte("/internal/node.(")) {
				n++
			}
		}
		return n
	}
	bubble(t, func(t *testing.T) {
		store := &silentNumbers{Store: l2model.New(l2model.Config{})}
		n, err := node.New(node.Config{Store: store, Bound: bound, L1MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		ask := func(callers int, patience time.Duration, namespace func(i int) string) (longest time.Duration) {
			var wg sync.WaitGroup
			var all sync.Mutex
			for i := range callers {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					began := time.Now()
					if _, err := n.Head(ctx, namespace(i)); !errors.Is(err, soracache.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					all.Lock()
					defer all.Unlock()
					longest = max(longest, time.Since(began))
				})
			}
			wg.Wait()
			return longest
		}
		before := goroutines()
		ask(1000, 10*time.Millisecond, func(int) string { return "one" })
		synctest.Wait()
		if more := goroutines() - before; more > 1+others || store.asking.Load() != 1 {
			t.Errorf("of 1000 callers of one namespace %d goroutines are left, and %d questions", more, store.asking.Load())
		}
		ask(5000, 10*time.Millisecond, func(i int) string { return fmt.Sprint("ns", i) })
		synctest.Wait()
		if more := goroutines() - before; more < maxInquiries || more > maxInquiries+others || store.asking.Load() != maxInquiries {
			t.Errorf("of 5000 callers %d goroutines are left, and %d questions", more, store.asking.Load())
		}
		time.Sleep(10 * time.Second)
		if longest := ask(5000, time.Hour, func(i int) string { return fmt.Sprint("ns", i) }); longest > 4*time.Second {
			t.Errorf("somebody waited for %v", longest)
		}
		if most := store.most.Load(); most != maxInquiries {
			t.Errorf("%d questions at once, want %d", most, maxInquiries)
		}
	})
}

// A restored backup, or a store that lost everything and was used by others first,
// can have another number at any time: the node notices by its first question.
func TestNumberThatChangesBehindTheNode(t *testing.T) {
	for what, change := range map[string]func(m *l2model.Model){
		"all is lost, and another begins": func(m *l2model.Model) {
			m.Flush()
			m.Partitions(context.Background(), []l2.PartitionsRequest{{Namespace: soracache.DefaultNamespace, Want: 4}})
		},
		"number and ledgers are lost, but one of another number": func(m *l2model.Model) {
			m.Flush()
			m.Since(context.Background(), []l2.SinceRequest{{Partition: l2.Partition{Namespace: soracache.DefaultNamespace, Index: 3, Count: 4}}})
			m.LoseNumber(soracache.DefaultNamespace)
		},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				model := l2model.New(l2model.Config{})
				n := startTold(t, model, 1)
				n.serves()
				watched := make(chan error, 1)
				go func() {
					watched <- n.Watch(t.Context(), soracache.WatchRequest{}, func([]soracache.WatchItem) error { return nil })
				}()
				time.Sleep(10 * bound)
				change(model)
				time.Sleep(bound) // it asks three times in each
				n.shutOut("has 4", "told 1")
				select {
				case err := <-watched:
					if !errors.Is(err, soracache.ErrUnavailable) {
						t.Errorf("the watch ended with %v", err)
					}
				default:
					t.Error("the watch goes on, and is told nothing")
				}
				if n.Stats().Partitions != 0 {
					t.Error("the namespace is followed still")
				}
			})
		})
	}
}

// ackedTrial is a source with one value for each of some keys, read at all nodes
// while acknowledged invalidations go on.
type ackedTrial struct {
	t       *testing.T
	nodes   []*told
	version [8]atomic.Int64
	floor   [8]atomic.Int64
	hits    []atomic.Int64 // by node
	acked   []atomic.Int64
}

func (a *ackedTrial) read(ctx context.Context, i, key int) {
	floor := a.floor[key].Load()
	name := fmt.Sprint("k", key)
	rs, err := a.nodes[i].Get(ctx, soracache.GetRequest{Reads: []soracache.Read{{Key: name, Lease: true}}})
	if err != nil || rs[0].Err != nil {
		if err = errors.Join(err, errOf(rs)); !errors.Is(err, soracache.ErrUnavailable) && ctx.Err() == nil {
			a.t.Errorf("node %d: %v", i, err)
		}
		return
	}
	if rs[0].Status != soracache.StatusMiss {
		a.hits[i].Add(1)
		if got, _ := strconv.ParseInt(string(rs[0].Entry.Value), 10, 64); got < floor {
			a.t.Errorf("node %d serves version %d of %s from %s after %d was acknowledged", i, got, name, rs[0].Tier, floor)
		}
	}
	if rs[0].Lease != (soracache.Lease{}) {
		value := strconv.FormatInt(a.version[key].Load(), 10)
		_, _ = a.nodes[i].Write(ctx, soracache.WriteRequest{Writes: []soracache.Write{{
			Op: soracache.OpFill, Key: name, Lease: rs[0].Lease,
			Entry: soracache.Entry{Value: []byte(value), Tags: []string{"t"}}, Lifetime: soracache.Lifetime{TTL: time.Hour},
		}}})
	}
}

func errOf(rs []soracache.ReadResult) error {
	if len(rs) > 0 {
		return rs[0].Err
	}
	return nil
}

func (a *ackedTrial) invalidate(ctx context.Context, i, key int) {
	v := a.version[key].Add(1)
	_, err := a.nodes[i].Invalidate(ctx, soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Key(fmt.Sprint("k", key))}, Acknowledge: true})
	if err != nil {
		if !errors.Is(err, soracache.ErrUnavailable) && ctx.Err() == nil {
			a.t.Errorf("node %d: %v", i, err)
		}
		return
	}
	a.acked[i].Add(1)
	a.floor[key].Store(max(a.floor[key].Load(), v)) // one goroutine a key
}

// run goes on until ctx ends.
func (a *ackedTrial) run(ctx context.Context, wg *sync.WaitGroup, seed uint64) {
	for i := range a.nodes {
		wg.Go(func() {
			dice := rand.New(rand.NewPCG(seed, uint64(i)))
			for ctx.Err() == nil {
				a.read(ctx, i, dice.IntN(len(a.version)))
				time.Sleep(time.Duration(1+dice.IntN(20)) * time.Millisecond)
			}
		})
	}
	for key := range a.version {
		wg.Go(func() {
			dice := rand.New(rand.NewPCG(seed, uint64(100+key)))
			for ctx.Err() == nil {
				a.invalidate(ctx, dice.IntN(len(a.nodes)), key)
				time.Sleep(time.Duration(50+dice.IntN(200)) * time.Millisecond)
			}
		})
	}
}

// The number is changed while nodes of the old one run, and while nodes of the
// new one wait to be let in; and back. One of the old nodes is cut off from the store
// meanwhile. Not one read that begins after an acknowledged invalidation returns
// what it killed, and at no time do nodes of both numbers do their work.
func TestNothingStaleWhileTheNumberChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		model := l2model.New(l2model.Config{})
		a := &ackedTrial{t: t, hits: make([]atomic.Int64, 4), acked: make([]atomic.Int64, 4)}
		of := []int{1, 1, 4, 4}
		for _, count := range of {
			a.nodes = append(a.nodes, startTold(t, model, count))
		}
		a.nodes[0].serves() // and is the first
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		a.run(ctx, &wg, 1)
		work := func(count int, d time.Duration) {
			t.Helper()
			for i := range a.nodes {
				a.hits[i].Store(0)
				a.acked[i].Store(0)
			}
			time.Sleep(d)
			for i := range a.nodes {
				hits, acked := a.hits[i].Load(), a.acked[i].Load()
				if does := hits > 50 && acked > 5; does != (of[i] == count) || of[i] != count && hits+acked > 0 {
					t.Errorf("with %d partitions, a node that was told %d had %d hits and %d invalidations", count, of[i], hits, acked)
				}
			}
		}
		change := func(to int) {
			t.Helper()
			err := l2.Repartition(t.Context(), model, soracache.DefaultNamespace, to, func(d time.Duration) error {
				time.Sleep(bound + 10*time.Millisecond) // what was confirmed before is over
				work(0, d-bound-10*time.Millisecond)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Second)
		}
		time.Sleep(2 * bound)
		work(1, 5*time.Second)
		a.nodes[1].store.down.Store(true) // cut off before, and back long after
		change(4)
		work(4, 5*time.Second)
		a.nodes[1].store.down.Store(false)
		time.Sleep(bound)
		work(4, 5*time.Second)
		a.nodes[1].shutOut("has 4", "told 1")
		change(1)
		work(1, 5*time.Second)
		stop()
		wg.Wait()
	})
}
