package node_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// historian is a store that remembers what was recorded.
type historian struct {
	l2.Store
	mu      sync.Mutex
	records map[uint16][]soracache.Record // by partition
	fell    []fall
}

// fall is how a store lost what was recorded from one time to another.
type fall struct{ from, to time.Time }

// counts returns from when on an invalidation that returned is known: one that
// the store then lost, from when the nodes have noticed that.
func (h *historian) counts(done time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.fell {
		if noticed := f.to.Add(bound / 2); done.After(f.from) && !done.After(f.to.Add(time.Millisecond)) && noticed.After(done) {
			done = noticed
		}
	}
	return done
}

func (h *historian) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	h.mu.Lock()
	answers := h.Store.Invalidate(ctx, reqs)
	for i, a := range answers {
		if a.Err == nil {
			at := reqs[i].Partition.Index
			h.records[at] = append(h.records[at], a.Record)
		}
	}
	h.mu.Unlock()
	time.Sleep(time.Millisecond)
	return answers
}

// snapshot returns what makes the store fall back to what it is now.
func (h *historian) snapshot(m *l2model.Model) (restore func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	back, records, took := m.Snapshot(), maps.Clone(h.records), time.Now()
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		back()
		clear(h.records)
		for at, r := range records {
			h.records[at] = slices.Clip(r)
		}
		h.fell = append(h.fell, fall{took, time.Now()})
	}
}

// invalidated is an invalidation that returned, by the clock of the test.
type invalidated struct {
	target      soracache.Target
	began, done time.Time
}

// kept is what a watcher keeps of an answer.
type kept struct {
	proof    invalidation.Proof
	at       uint16
	targets  []soracache.Target // that would kill it
	received time.Time
}

// ledgerWatch is what a watcher knows of one partition, and what it was told,
// for the test to compare.
type ledgerWatch struct {
	follower *invalidation.Follower
	epoch    soracache.Epoch
	// base is from where on everything is to be told, complete up to where.
	base, complete soracache.Position
	told           map[soracache.Target]soracache.Position
}

// watcher keeps values of its own, by a watch of one node after the other.
type watcher struct {
	t       *testing.T
	h       *historian
	start   time.Time
	parts   int
	mu      sync.Mutex
	ledgers []*ledgerWatch
	kept    []kept
	// How much there was to see.
	items, resets, early, resumed, serves int
}

func newWatcher(t *testing.T, h *historian, parts int) *watcher {
	w := &watcher{t: t, h: h, start: time.Now(), parts: parts}
	marks := invalidation.NewMarks(1<<12, 1)
	for i := range parts {
		w.ledgers = append(w.ledgers, &ledgerWatch{
			told: map[soracache.Target]soracache.Position{},
			follower: invalidation.NewFollower(invalidation.Config{
				Marks: marks, Space: uint64(i), Bound: bound, Now: func() time.Duration { return time.Since(w.start) },
			}),
		})
	}
	return w
}

// from is how far the watcher has come.
func (w *watcher) from() (from soracache.Stamps) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, l := range w.ledgers {
		if s := l.follower.State(); s.Epoch != 0 {
			from = append(from, soracache.PartitionStamp{Partition: uint16(i), Stamp: soracache.Stamp{Epoch: s.Epoch, Position: s.Applied}})
		}
	}
	return from
}

var errMissed = errors.New("not the continuation")

// take takes in items, and checks the contract: whatever was recorded up to
// Complete, and after the last reset, the watcher has been told.
func (w *watcher) take(items []soracache.WatchItem) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, item := range items {
		w.items++
		l := w.ledgers[item.Partition]
		if int(item.Partitions) != w.parts || item.Epoch == 0 || item.Reset && len(item.Records) > 0 {
			w.t.Errorf("item %+v", item)
		}
		o := l.follower.Push(invalidation.Step{Epoch: item.Epoch, Applied: item.Complete, New: item.Records, Reset: item.Reset})
		if o.Missed {
			return errMissed
		}
		switch {
		case item.Reset && (item.Epoch != l.epoch || item.Complete > l.complete):
			w.resets++
			l.epoch, l.base, l.complete = item.Epoch, item.Complete, item.Complete
			clear(l.told)
		case !item.Reset && item.Complete < l.complete && len(item.Records) == 0:
			w.t.Errorf("back to %d from %d", item.Complete, l.complete)
		}
		l.complete = max(l.complete, item.Complete)
		for _, r := range item.Records {
			if r.Position > item.Complete {
				w.early++
			}
			for _, target := range r.Targets {
				l.told[target] = max(l.told[target], r.Position)
			}
		}
		w.compare(item, l)
	}
	return nil
}

func (w *watcher) compare(item soracache.WatchItem, l *ledgerWatch) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	for _, r := range w.h.records[item.Partition] {
		if r.Epoch != l.epoch || r.Position <= l.base || r.Position > l.complete {
			continue
		}
		for _, target := range r.Targets {
			if l.told[target] < r.Position {
				w.t.Errorf("partition %d: the watcher is at %d, and was not told of %v at %d; item %+v", item.Partition, l.complete, target, r.Position, item)
			}
		}
	}
}

// read keeps what a node answers, as a near cache does.
func (w *watcher) read(n *node.Node, key, tag string) {
	at := soracache.PartitionOf(key, w.parts)
	w.mu.Lock()
	q := w.ledgers[at].follower.Ask()
	w.mu.Unlock()
	rs, err := n.Get(context.Background(), soracache.GetRequest{Reads: []soracache.Read{{Key: key}}})
	if err != nil || rs[0].Err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	stamp, _ := rs[0].Stamp.At(at)
	if proof, ok := w.ledgers[at].follower.Admit(q, stamp, key, []string{tag}); ok {
		w.kept = append(w.kept, kept{
			proof: proof, at: at, received: time.Now(),
			targets: []soracache.Target{soracache.Key(key), soracache.Tag(tag), soracache.Everything()},
		})
		w.kept = w.kept[max(0, len(w.kept)-50):]
	}
	w.ledgers[at].follower.Confirm(q, stamp, rs[0].Age)
}

// check is the promise: what was kept before an invalidation began is not
// served any more once the bound has passed since it returned.
func (w *watcher) check(history []invalidated) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, k := range w.kept {
		if j := w.ledgers[k.at].follower.Check(&k.proof, soracache.Stamp{}); j.Verdict != invalidation.Live {
			continue
		}
		w.serves++
		for _, i := range history {
			if slices.Contains(k.targets, i.target) && i.began.After(k.received) && w.h.counts(i.done).Before(now.Add(-bound)) {
				w.t.Errorf("%v was invalidated from %v to %v, and what was kept at %v is served at %v", i.target,
					i.began.Sub(w.start), i.done.Sub(w.start), k.received.Sub(w.start), now.Sub(w.start))
			}
		}
	}
}

// follow watches nodes until the context ends, as slowly as chance has it.
func (w *watcher) follow(ctx context.Context, nodes []*node.Node, rng *rand.Rand) {
	for ctx.Err() == nil {
		turn, cancel := context.WithTimeout(ctx, time.Duration(rng.Int64N(int64(10*bound))))
		slow := rng.IntN(3) == 0
		from := w.from()
		if rng.IntN(5) == 0 {
			from = nil
		}
		first := true
		err := nodes[rng.IntN(len(nodes))].Watch(turn, soracache.WatchRequest{From: from}, func(items []soracache.WatchItem) error {
			if first && slices.ContainsFunc(items, func(i soracache.WatchItem) bool { return !i.Reset }) {
				w.resumed++
			}
			first = false
			if slow {
				time.Sleep(time.Duration(rng.Int64N(int64(bound))))
			}
			return w.take(items)
		})
		cancel()
		if err == nil {
			w.t.Error("a watch that nobody ended has ended without an error")
		}
		time.Sleep(time.Duration(rng.Int64N(int64(bound / 3))))
	}
}

// TestWatchersKeepTheContract lets watchers follow random histories: records
// that are pushed, lost, late and twice, ledgers that are lost or fall back, a
// store that does not answer, watches that are cut, slow, and resumed at nodes
// that lag.
func TestWatchersKeepTheContract(t *testing.T) {
	var sum watcher
	seeds := uint64(25)
	if os.Getenv("SORACACHE_VERIFY") != "" {
		seeds = 1000
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := watchRandomly(t, seed)
				sum.items += w.items
				sum.resets += w.resets
				sum.early += w.early
				sum.resumed += w.resumed
				sum.serves += w.serves
			})
		})
	}
	t.Logf("%d items, %d resets, %d early records, %d watches resumed, %d values served",
		sum.items, sum.resets, sum.early, sum.resumed, sum.serves)
	if sum.items < 1000 || sum.resets < 100 || sum.early < 100 || sum.resumed < 25 || sum.serves < 1000 {
		t.Error("that is too little to say anything")
	}
}

const randomParts = 2

func watchRandomly(t *testing.T, seed uint64) *watcher {
	rng := rand.New(rand.NewPCG(seed, 1))
	model := l2model.New(l2model.Config{Random: rand.New(rand.NewPCG(seed, 2)).Uint64, Retention: l2.Retention{
		TagRecords: 100, KeyRecords: 300, Age: 3 * bound,
	}})
	h := &historian{Store: model, records: map[uint16][]soracache.Record{}}
	store := &slowStore{Store: h, latency: time.Millisecond}
	wires := &wires{nodes: map[string]*node.Node{}, left: map[string]bool{}, names: []string{"n0", "n1", "n2"}}
	var lossMu sync.Mutex
	loss, lossRng := 0.0, rand.New(rand.NewPCG(seed, 3))
	wires.on = func(string, string, *invalidation.Notice) bool {
		lossMu.Lock()
		defer lossMu.Unlock()
		return lossRng.Float64() >= loss
	}
	var nodes []*node.Node
	for _, name := range wires.names {
		n, err := node.New(node.Config{
			Name: name, Peers: port{wires, name}, Store: store, Bound: bound, L1MaxBytes: 1 << 20, WatchQueue: 100,
			Partitions: func(string) int { return randomParts },
		})
		if err != nil {
			t.Fatal(err)
		}
		wires.nodes[name] = n
		nodes = append(nodes, n)
	}
	w := newWatcher(t, h, randomParts)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { w.follow(ctx, nodes, rand.New(rand.NewPCG(seed, 4))) })

	var histMu sync.Mutex
	var history []invalidated
	for range 400 {
		time.Sleep(time.Duration(rng.Int64N(int64(bound / 20))))
		n := nodes[rng.IntN(len(nodes))]
		key, tag := fmt.Sprint("k", rng.IntN(6)), fmt.Sprint("t", rng.IntN(3))
		switch x := rng.IntN(100); {
		case x < 40:
			target := []soracache.Target{soracache.Key(key), soracache.Key(key), soracache.Tag(tag)}[rng.IntN(3)]
			if rng.IntN(40) == 0 {
				target = soracache.Everything()
			}
			targets := []soracache.Target{target}
			for range rng.IntN(10) / 9 * 100 { // so that deltas are cut off
				targets = append(targets, soracache.Key(fmt.Sprint("other", rng.IntN(200))))
			}
			for range 1 + rng.IntN(4)/3*10 {
				all.Go(func() {
					i := invalidated{target: target, began: time.Now()}
					if _, err := n.Invalidate(context.Background(), soracache.InvalidateRequest{Targets: targets}); err != nil {
						return
					}
					i.done = time.Now()
					histMu.Lock()
					defer histMu.Unlock()
					history = append(history, i)
				})
			}
		case x < 80:
			all.Go(func() { w.read(n, key, tag) })
		case x < 90:
			lossMu.Lock()
			loss = []float64{0, 0.1, 0.5, 1}[rng.IntN(4)]
			lossMu.Unlock()
		case x < 92:
			store.down.Store(true)
			time.AfterFunc(time.Duration(rng.Int64N(int64(bound))), func() { store.down.Store(false) })
		case x < 93:
			model.LoseLedger(l2.Partition{Namespace: soracache.DefaultNamespace, Index: uint16(rng.IntN(randomParts)), Count: randomParts})
		case x < 94:
			time.AfterFunc(time.Duration(rng.Int64N(int64(bound))), h.snapshot(model))
		}
		histMu.Lock()
		w.check(history)
		histMu.Unlock()
	}
	cancel()
	all.Wait()
	time.Sleep(2 * bound) // what is under way arrives
	for _, n := range nodes {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	return w
}
