package l2test

import (
	"errors"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// guest asks for the delta as one who is not trusted.
func (f *fixture) guest(since soracache.Stamp) l2.SinceAnswer {
	f.Helper()
	a := f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at, Since: since, Guest: true}})[0]
	if a.Err == nil {
		checkDelta(f, since, a.Delta)
	}
	return a
}

// expectTurnedAway expects that a guest is told nothing but where the ledger is.
func (f *fixture) expectTurnedAway(head soracache.Stamp, a l2.SinceAnswer) {
	f.Helper()
	if a.Err != nil || !a.Delta.Reset || headOf(a.Delta) != head {
		f.Fatalf("the ledger at %v answered a guest %+v, want a reset there", head, a)
	}
}

func guestChecks() []check {
	return []check{
		{name: "a guest is told what came after", run: func(f *fixture) {
			start := f.head()
			f.invalidate(soracache.Tag("a"))
			f.put("k", "v")
			a := f.guest(start)
			if a.Err != nil || headOf(a.Delta) != f.head() || a.Clock.Sub(f.now()).Abs() > slack {
				f.Fatalf("a guest: %+v, the head is %v", a, f.head())
			}
			f.expectTargets(a.Delta, soracache.Tag("a"), soracache.Key("k"))
			f.expectTargets(f.guest(f.head()).Delta)
			if a := f.guest(soracache.Stamp{}); a.Err != nil || a.Delta.Reset || headOf(a.Delta) != f.head() {
				f.Fatalf("a guest who knows nothing: %+v", a)
			}
		}},
		{name: "a guest who shows another history makes no epoch", run: guestsMakeNoEpochs},
		{name: "a guest of a left epoch, or too far behind, is reset", retention: small(), run: func(f *fixture) {
			left := f.head()
			f.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
			first := f.head()
			f.expectTurnedAway(first, f.guest(left))
			f.invalidateMany(200, func(i int) soracache.Target { return soracache.Key(fmt.Sprint("k", i)) })
			f.expectTurnedAway(f.head(), f.guest(first))
		}},
		{name: "a guest does not register", run: func(f *fixture) {
			by := l2.Registration{Name: "guest", Bound: time.Second}
			f.listing(l2.Registration{})
			a := f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at, Register: by, Guest: true}})[0]
			if a.Err != nil {
				f.Fatalf("%v", a.Err)
			}
			f.expectFollowers(f.listing(l2.Registration{}))
		}},
		{name: "a guest does not begin a ledger", run: func(f *fixture) {
			before := f.Store.Counters().Epochs
			for _, shown := range []soracache.Stamp{{}, {Epoch: f.unknown(), Position: 7}} {
				if a := f.guest(shown); !errors.Is(a.Err, soracache.ErrUnavailable) {
					f.Fatalf("a guest of nothing: %+v", a)
				}
			}
			if made := f.Store.Counters().Epochs - before; made != 0 {
				f.Fatalf("a guest made %d epochs", made)
			}
			f.expectTargets(f.guest(f.head()).Delta)
		}},
		{name: "a guest does not mend a ledger", run: func(f *fixture) {
			for part, lose := range f.Lose {
				head := stampOf(f.invalidate(soracache.Tag("a")))
				before := f.Store.Counters().Epochs
				lose(f.at)
				for _, shown := range []soracache.Stamp{{}, head, {Epoch: head.Epoch, Position: head.Position - 1}, {Epoch: f.unknown(), Position: 7}} {
					if a := f.guest(shown); a.Err == nil && a.Delta.Epoch != head.Epoch || a.Err != nil && !errors.Is(a.Err, soracache.ErrUnavailable) {
						f.Fatalf("%s lost, and then a guest who shows %v: %+v", part, shown, a)
					}
				}
				if made := f.Store.Counters().Epochs - before; made != 0 {
					f.Fatalf("%s lost, and a guest made %d epochs", part, made)
				}
				if stampOf(f.invalidateSince(head, soracache.Tag("a")).Record).Epoch == head.Epoch {
					f.Fatalf("%s lost, and the ledger went on in its old epoch", part)
				}
			}
		}},
		{name: "a guest of another number of partitions is refused", run: func(f *fixture) {
			f.head()
			g := f.in(l2.Partition{Namespace: f.at.Namespace, Count: 2})
			if a := g.guest(soracache.Stamp{}); !errors.Is(a.Err, l2.ErrPartitions) {
				f.Fatalf("a guest: %+v", a)
			}
		}},
	}
}

// guestsMakeNoEpochs shows everything that cannot be. Nothing of it is noted
// either: a node that comes with it afterwards is believed as ever.
func guestsMakeNoEpochs(f *fixture) {
	stamps := append(foreignStamps(),
		foreignStamp{"an epoch out of bounds", func(f *fixture) soracache.Stamp {
			return soracache.Stamp{Epoch: f.head().Epoch | 1<<60, Position: f.head().Position}
		}},
		foreignStamp{"a position out of bounds", func(f *fixture) soracache.Stamp {
			return soracache.Stamp{Epoch: f.head().Epoch, Position: 1 << 63}
		}})
	for i, stamp := range stamps {
		g := f.in(l2.Partition{Namespace: fmt.Sprint("guest-", i), Count: 1})
		g.load("k", "v", "t")
		shown := stamp.stamp(g)
		head, epochs := g.head(), g.Store.Counters().Epochs
		for range 3 {
			g.expectTurnedAway(head, g.guest(shown))
		}
		if made := g.Store.Counters().Epochs - epochs; made != 0 || g.head() != head {
			f.Fatalf("%s: %d new epochs, the head went from %v to %v", stamp.name, made, head, g.head())
		}
		g.hit("k", "v")
		if i < len(foreignStamps()) {
			g.expectMint(head, shown, g.since(shown))
		}
	}
}
