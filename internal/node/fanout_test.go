package node

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2/l2model"
)

// fanned is a node with a namespace that is watched by hand: what waits for a
// watcher is taken when the test says so.
type fanned struct {
	t       *testing.T
	node    *Node
	ns      *namespace
	p       *partition
	watches []*watch
}

func fanOut(t *testing.T, watches, queue int) *fanned {
	t.Helper()
	n, err := New(Config{Store: l2model.New(l2model.Config{}), Bound: time.Minute, WatchQueue: queue})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	f := &fanned{t: t, node: n}
	if _, err := n.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}}); err != nil {
		t.Fatal(err)
	}
	if f.ns, err = n.begin(t.Context(), soracache.DefaultNamespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.leave(f.ns) })
	f.p = f.ns.partitions[0]
	for range watches {
		w := n.joinFeeds(f.ns)
		t.Cleanup(w.end)
		w.all[0].told = f.stamp(f.p.feed.listen(w.all[0]))
		f.watches = append(f.watches, w)
	}
	return f
}

func (f *fanned) stamp(s invalidation.State) soracache.Stamp {
	return soracache.Stamp{Epoch: s.Epoch, Position: s.Applied}
}

// told takes what waits for a watcher: what items name, and the partitions to begin
// anew.
func (f *fanned) told(w *watch) (names []string, lost int) {
	f.t.Helper()
	out := &outlet{watch: w, deliver: func(items []soracache.WatchItem) error {
		for _, i := range items {
			if i.Reset {
				names = append(names, "reset")
			}
			for _, r := range i.Records {
				names = append(names, r.Targets[0].Name)
			}
		}
		return nil
	}}
	anew, err := w.take(out)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := out.flush(); err != nil {
		f.t.Fatal(err)
	}
	return names, len(anew)
}

// handedOut waits until every step that was told is with the watchers.
func (f *feed) handedOut() {
	for handing := true; handing; runtime.Gosched() {
		f.noting.Lock()
		handing = f.handing
		f.noting.Unlock()
	}
}

// within fails the test unless something ends. What it waits for needs no time.
func within(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal(what + " waits for a watcher")
	}
}

// With a watcher that cannot be handed anything, the node records and reads all the
// same. Then every watcher is told of all, in order.
func TestNobodyWaitsForWatchers(t *testing.T) {
	f := fanOut(t, 100, 4096)
	stuck := f.watches[50]
	stuck.mu.Lock()
	release := sync.OnceFunc(stuck.mu.Unlock)
	t.Cleanup(release)
	var want []string
	within(t, "recording", func() {
		for i := range 300 {
			name := string(rune('a'+i%26)) + string(rune('a'+i/26))
			want = append(want, name)
			if _, err := f.node.Invalidate(t.Context(), soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Key(name)}}); err != nil {
				t.Error(err)
			}
		}
	})
	within(t, "reading", func() {
		rs, err := f.node.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}})
		if err != nil || rs[0].Err != nil {
			t.Error(err, rs)
		}
	})
	release()
	f.p.feed.handedOut()
	for i, w := range f.watches {
		if got, lost := f.told(w); !slices.Equal(got, want) || lost != 0 {
			t.Fatalf("watcher %d: lost %d, told of %q, want %q", i, lost, got, want)
		}
	}
}

// What waits to be handed out is bounded: past that, watchers begin anew, and a
// reset that comes then is told.
func TestFeedThatIsNotHandedOut(t *testing.T) {
	f := fanOut(t, 3, 10)
	f.p.feed.handing = true // by nobody
	record := func(name string) {
		at := f.p.follower.State()
		f.p.follower.Record(soracache.Record{Epoch: at.Epoch, Prev: at.Applied, Position: at.Applied + 1, Targets: []soracache.Target{soracache.Key(name)}})
	}
	for range 11 {
		record("k")
	}
	if b := &f.p.feed.line; !b.lost || len(b.steps) > 0 {
		t.Errorf("waits %+v", b)
	}
	f.p.feed.run()
	record("after")
	f.p.feed.handedOut()
	for i, w := range f.watches {
		if names, lost := f.told(w); lost != 1 || len(names) > 0 {
			t.Errorf("watcher %d: told of %q, %d to begin anew", i, names, lost)
		}
		w.all[0].hear()
	}
	if n := f.node.Stats().WatchOverflows; n != 3 {
		t.Errorf("%d overflows", n)
	}

	f.p.feed.handing = true
	for range 11 {
		record("k")
	}
	q := f.p.follower.Ask()
	f.p.follower.Answer(q, soracache.Delta{Epoch: q.Since.Epoch + 1, Head: 7})
	record("of the new epoch")
	f.p.feed.run()
	for i, w := range f.watches {
		if names, lost := f.told(w); lost != 0 || !slices.Equal(names, []string{"reset", "of the new epoch"}) {
			t.Errorf("watcher %d: told of %q, %d to begin anew", i, names, lost)
		}
	}
}

// A watch that begins while steps of epochs that were left are being handed out, or
// are about to be, is not told of them after the present one.
func TestLateResetMovesNoWatcherBack(t *testing.T) {
	for name, late := range map[string]func(f *fanned, enter func(soracache.Epoch), begin func()){
		"about to be handed out": func(f *fanned, enter func(soracache.Epoch), begin func()) {
			f.p.feed.handing = true // by nobody
			enter(101)
			f.p.feed.count.Store(0) // the follower enters the next, and has not told of it
			enter(102)
			begin()
			f.p.feed.run()
		},
		"being handed out": func(f *fanned, enter func(soracache.Epoch), begin func()) {
			f.watches[0].mu.Lock() // which comes before the other
			enter(101)
			for line := true; line; runtime.Gosched() { // until it has been taken
				f.p.feed.noting.Lock()
				line = !f.p.feed.line.empty()
				f.p.feed.noting.Unlock()
			}
			f.p.feed.count.Store(0)
			enter(102)
			begun := make(chan struct{})
			go func() {
				defer close(begun)
				begin()
			}()
			for range 1000 {
				runtime.Gosched() // it is to wait
			}
			f.watches[0].mu.Unlock()
			<-begun
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := fanOut(t, 2, 4096)
			d := f.watches[1].all[0]
			late(f, func(epoch soracache.Epoch) {
				f.p.follower.Answer(f.p.follower.Ask(), soracache.Delta{Epoch: epoch, Head: 1})
			}, func() { d.told = f.stamp(f.p.feed.listen(d)) })
			f.p.feed.handedOut()
			f.p.feed.count.Store(2)
			want := soracache.Stamp{Epoch: 102, Position: 1}
			if names, _ := f.told(f.watches[1]); len(names) > 0 || d.told != want {
				t.Errorf("told of %q, up to %+v", names, d.told)
			}
			f.p.feed.tell(invalidation.Step{Epoch: 102, Applied: 1, Reset: true})
			f.p.feed.handedOut()
			if names, _ := f.told(f.watches[1]); len(names) > 0 || d.told != want {
				t.Errorf("told of %q, up to %+v", names, d.told)
			}
		})
	}
}

// BenchmarkFollowerWhileWatched takes in one record for each operation, with
// 10,000 watchers. What it reports as locked/op is how long the follower is locked
// for that, and all that waits for it with it.
func BenchmarkFollowerWhileWatched(b *testing.B) {
	const watchers = 10_000
	n, err := New(Config{Store: l2model.New(l2model.Config{}), Bound: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	var all, begun sync.WaitGroup
	var told atomic.Int64
	begun.Add(watchers)
	for range watchers {
		all.Go(func() {
			first := true
			_ = n.Watch(ctx, soracache.WatchRequest{}, func([]soracache.WatchItem) error {
				if first {
					begun.Done()
				}
				first = false
				told.Add(1)
				return nil
			})
		})
	}
	begun.Wait()
	ns, err := n.begin(ctx, soracache.DefaultNamespace)
	if err != nil {
		b.Fatal(err)
	}
	defer n.leave(ns)
	p := ns.partitions[0]
	var locked, longest time.Duration
	for b.Loop() {
		told.Store(0)
		at := p.follower.State()
		r := soracache.Record{Epoch: at.Epoch, Prev: at.Applied, Position: at.Applied + 1, Targets: []soracache.Target{soracache.Key("k")}}
		began := time.Now()
		p.follower.Record(r)
		took := time.Since(began)
		locked += took
		longest = max(longest, took)
		for told.Load() < watchers {
			time.Sleep(time.Millisecond)
		}
	}
	b.ReportMetric(float64(locked.Nanoseconds())/float64(b.N), "locked-ns/op")
	b.ReportMetric(float64(longest.Nanoseconds()), "longest-ns")
	cancel()
	all.Wait()
}
