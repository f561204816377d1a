package l2test

import (
	"fmt"
	"strconv"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// unknown returns an epoch that no ledger has met.
func (f *fixture) unknown() soracache.Epoch {
	*f.nonces++
	return soracache.Epoch(1<<51 + *f.nonces*0x9E3779B9)
}

// foreignStamp makes a stamp that no follower of the ledger as it is can have.
type foreignStamp struct {
	name  string
	stamp func(f *fixture) soracache.Stamp
}

func foreignStamps() []foreignStamp {
	return []foreignStamp{
		{"an unknown epoch", func(f *fixture) soracache.Stamp {
			return soracache.Stamp{Epoch: f.unknown(), Position: f.head().Position}
		}},
		{"an unknown epoch that is ahead", func(f *fixture) soracache.Stamp {
			return soracache.Stamp{Epoch: f.unknown(), Position: f.head().Position + 1e9}
		}},
		{"a position just beyond the head", func(f *fixture) soracache.Stamp {
			s := f.head()
			s.Position++
			return s
		}},
		{"a position far beyond the head", func(f *fixture) soracache.Stamp {
			s := f.head()
			s.Position += 1e9
			return s
		}},
		{"a position that was never issued", func(f *fixture) soracache.Stamp { return f.gap() }},
	}
}

// gap returns a stamp between two records.
func (f *fixture) gap() (gap soracache.Stamp) {
	f.Helper()
	f.eventually("two positions are apart", func() bool {
		gap = stampOf(f.invalidate(soracache.Key("before the gap")))
		f.wait(time.Millisecond)
		gap.Position++
		return f.invalidate(soracache.Key("after the gap")).Position > gap.Position
	})
	return gap
}

// expectMint expects that a delta which answers to shown is the first of a
// new epoch.
func (f *fixture) expectMint(before, shown soracache.Stamp, d soracache.Delta) {
	f.Helper()
	if !d.Reset || d.Epoch == before.Epoch || d.Epoch == shown.Epoch || d.Head <= max(before.Position, shown.Position) {
		f.Fatalf("shown %v at %v the ledger answered %+v, want a new epoch", shown, before, d)
	}
}

// expectReset expects that a delta sends the caller back to the start, in the
// epoch that the ledger had.
func (f *fixture) expectReset(before soracache.Stamp, d soracache.Delta) {
	f.Helper()
	if !d.Reset || d.Epoch != before.Epoch {
		f.Fatalf("the ledger at %v answered %+v, want a reset", before, d)
	}
}

func historyChecks() []check {
	return []check{
		{name: "every life of every ledger has an epoch of its own", run: func(f *fixture) {
			seen := make(map[soracache.Epoch]bool)
			for i := range 20 {
				g := f.in(l2.Partition{Namespace: "epochs", Index: uint16(i % 10), Count: 10})
				if i >= 10 {
					g.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
				}
				seen[g.head().Epoch] = true
			}
			if len(seen) != 20 {
				f.Fatalf("20 lives had %d epochs", len(seen))
			}
		}},
		{name: "ordinary followers make no epoch", run: func(f *fixture) {
			var stamps []soracache.Stamp
			for i := range 60 {
				stamps = append(stamps, f.head(), stampOf(f.invalidate(soracache.Tag(strconv.Itoa(i%7)))))
				stamps = append(stamps, f.put(strconv.Itoa(i%5), "v").Stamp)
			}
			for _, s := range stamps {
				if d := f.follow(s); d.Reset || d.Epoch != stamps[0].Epoch {
					f.Fatalf("the follower of %v was told %+v", s, d)
				}
			}
		}},
		{name: "another history makes a new epoch first", run: otherHistories},
		{name: "a left epoch is reset", run: func(f *fixture) {
			left := f.head()
			f.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
			now := f.head()
			for _, op := range operations() {
				for _, s := range []soracache.Stamp{left, {Epoch: left.Epoch, Position: 1}, {Epoch: left.Epoch, Position: now.Position + 1e9}} {
					f.expectReset(now, op.run(f, s))
				}
			}
		}},
		{name: "an empty ledger notes the epoch that it is shown", run: func(f *fixture) {
			shown := soracache.Stamp{Epoch: f.unknown(), Position: 1 << 51}
			d := f.since(shown)
			f.expectMint(soracache.Stamp{}, shown, d)
			f.expectReset(headOf(d), f.since(shown))
			f.expectReset(headOf(d), f.readAll(shown, l2.ReadKey{Key: "k"}).Delta)
		}},
		{name: "two followers cannot make epochs for ever", run: func(f *fixture) {
			a := soracache.Stamp{Epoch: f.unknown(), Position: 10}
			b := soracache.Stamp{Epoch: f.unknown(), Position: 20}
			f.since(a)
			f.since(b)
			settled := f.head()
			for range 10 { // two that will not be taught
				f.expectReset(settled, f.since(a))
				f.expectReset(settled, f.since(b))
			}
			c := soracache.Stamp{Epoch: f.unknown(), Position: 10}
			d := soracache.Stamp{Epoch: f.unknown(), Position: 20}
			for range 10 { // two that follow
				c, d = headOf(f.since(c)), headOf(f.since(d))
			}
			if c != d || c != f.head() {
				f.Fatalf("two followers ended at %v and %v, the head is %v", c, d, f.head())
			}
		}},
		{name: "many left epochs are remembered", run: func(f *fixture) {
			var shown []soracache.Stamp
			for range 50 {
				shown = append(shown, f.head(), soracache.Stamp{Epoch: f.unknown(), Position: 7})
				f.since(shown[len(shown)-1])
			}
			now := f.head()
			for _, s := range shown {
				f.expectReset(now, f.since(s))
			}
		}},
		{name: "a position from before the ledger's time is a reset", run: func(f *fixture) {
			first := f.head()
			f.invalidate(soracache.Tag("a"))
			for _, p := range []soracache.Position{1, first.Position / 2, first.Position - 1} {
				f.expectReset(first, f.since(soracache.Stamp{Epoch: first.Epoch, Position: p}))
			}
			f.expectTargets(f.since(first), soracache.Tag("a"))
		}},
		{name: "a store's lost tail is another history", run: lostTail},
		{name: "a lost tail that was written over is another history", run: func(f *fixture) {
			if f.Snapshot == nil {
				f.Skip("this engine's test cannot restore a snapshot")
			}
			f.load("k", "old", "t")
			restore := f.Snapshot()
			knows := stampOf(f.invalidate(soracache.Tag("t")))
			restore()
			f.wait(2 * time.Millisecond)
			other := f.invalidate(soracache.Tag("other"))
			f.expectMint(stampOf(other), knows, f.since(knows))
			f.miss("k")
		}},
		{name: "an entry ahead of a ledger that lost its tail is dead", run: func(f *fixture) {
			if f.Snapshot == nil || f.Dump == nil && f.Tamper == nil {
				f.Skip("this engine's test cannot restore a snapshot and an entry")
			}
			f.invalidate(soracache.Tag("a"))
			restore := f.Snapshot()
			f.invalidate(soracache.Tag("a"))
			f.load("k", "of a lost time")
			bring := f.dump("k")
			restore()
			bring()
			f.miss("k")
			f.load("k", "new")
			f.hit("k", "new")
		}},
		{name: "a restored snapshot of a left epoch revives nothing", run: func(f *fixture) {
			if f.Snapshot == nil {
				f.Skip("this engine's test cannot restore a snapshot")
			}
			old := f.load("k", "old", "t")
			restore := f.Snapshot()
			f.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
			f.load("k", "new", "t")
			knows := f.head()
			restore()
			f.expectMint(old, knows, f.since(knows))
			f.miss("k")
			now := f.head()
			f.expectReset(now, f.since(old))
			f.expectReset(now, f.since(knows))
		}},
	}
}

// otherHistories shows, through every operation, every stamp that cannot be.
// The new epoch must come before the operation does its work: its own append
// would cover up what was lost (trap 5).
func otherHistories(f *fixture) {
	for i, stamp := range foreignStamps() {
		for j, op := range operations() {
			g := f.in(l2.Partition{Namespace: fmt.Sprintf("history-%d-%d", i, j), Count: 1})
			what := op.name + " showing " + stamp.name
			g.load("k", "old")
			g.put("p", "old", "t")
			nonce, _ := g.lease("leased")
			shown := stamp.stamp(g)
			before, epochs := g.head(), g.Store.Counters().Epochs
			g.expectMint(before, shown, op.run(g, shown))
			if made := g.Store.Counters().Epochs - epochs; made != 1 {
				f.Fatalf("%s: the store counts %d new epochs", what, made)
			}
			g.miss("k")
			g.miss("p")
			if a := g.fill("leased", nonce, "old"); a.Reason == soracache.ReasonNone {
				f.Fatalf("%s: then the fill of an older lease was stored", what)
			}
			g.miss("leased")
			g.miss("fill") // of the fill's lease, too
			if op.name == "put" {
				g.hit("op put", "op")
			}
			now := g.head()
			g.expectReset(now, g.since(shown))
			g.expectReset(now, g.since(before))
			g.load("leased", "new")
			g.hit("leased", "new")
		}
	}
}

func lostTail(f *fixture) {
	if f.Snapshot == nil {
		f.Skip("this engine's test cannot restore a snapshot")
	}
	for _, op := range operations() {
		f.load("k", "old", "t")
		before := f.head()
		restore := f.Snapshot()
		knows := stampOf(f.invalidate(soracache.Tag("t")))
		restore()
		f.hit("k", "old") // nobody can know yet
		f.expectMint(before, knows, op.run(f, knows))
		f.miss("k")
	}
}
