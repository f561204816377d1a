package l2test

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// settle appends a record whose targets settle.
func (f *fixture) settle(d time.Duration, targets ...soracache.Target) soracache.Record {
	f.Helper()
	a := f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{{Partition: f.at, Targets: targets, Settle: d}})[0]
	if a.Err != nil {
		f.Fatalf("invalidate %v, settling for %s: %v", targets, d, a.Err)
	}
	return a.Record
}

// during does something while something settles for a time, and then lets that
// time pass. Where a clock cannot be stopped that may take too long; then it is
// done again, with more time. Each time it is a partition of its own. It returns
// the fixture on the partition.
func (f *fixture) during(do func(g *fixture, d time.Duration)) *fixture {
	f.Helper()
	for i := range 7 {
		*f.nonces++
		g := f.in(l2.Partition{Namespace: fmt.Sprint("during-", *f.nonces), Count: 1})
		d, start := 25*time.Millisecond<<i, f.now()
		do(g, d)
		if f.now().Sub(start) < d {
			f.wait(d)
			return g
		}
	}
	f.Fatalf("the store is too slow to settle anything in time")
	return nil
}

// expectRefused expects that a fill is not stored because a target settles, and
// ends its lease.
func (f *fixture) expectRefused(target soracache.Target, key string, tags ...string) {
	f.Helper()
	nonce, _ := f.lease(key)
	a := f.fill(key, nonce, "too early", tags...)
	if a.Reason != soracache.ReasonSuperseded || !slices.Equal(a.SupersededBy.Targets, []soracache.Target{target}) {
		f.Fatalf("a fill while %s settles: %+v", target, a)
	}
	f.miss(key)
	f.refuseFill(soracache.ReasonLeaseLost, key, nonce, "too early", tags...)
}

// settlers are targets that name the key "k" with the tags "s" and "t".
func settlers() []soracache.Target {
	return []soracache.Target{soracache.Key("k"), soracache.Tag("t"), soracache.Everything()}
}

func settleChecks() []check {
	return []check{
		{name: "while a target settles, no fill that it names is stored", run: func(f *fixture) {
			for i, target := range settlers() {
				g := f.in(l2.Partition{Namespace: fmt.Sprint("while-", i), Count: 1})
				g.load("k", "old", "s", "t")
				r := g.settle(soracache.MaxSettle, target)
				g.miss("k")
				nonce, stamp := g.lease("k")
				a := g.fill("k", nonce, "too early", "s", "t")
				if a.Reason != soracache.ReasonSuperseded || stampOf(a.SupersededBy) != stampOf(r) || stamp != stampOf(r) {
					g.Fatalf("a fill while %s settles since %+v: %+v", target, r, a)
				}
				g.expectRefused(target, "k", "s", "t")
				if target != soracache.Everything() {
					g.load("other", "v", "s")
					g.hit("other", "v")
				}
			}
		}},
		{name: "when the time has come, what was computed before is not stored, and what is after is", run: afterwards},
		{name: "whatever comes first records what has settled", run: everyStepSettles},
		{name: "what settles at one time is one record, and others wait", run: func(f *fixture) {
			g := f.during(func(g *fixture, d time.Duration) {
				g.settle(d, soracache.Key("a"), soracache.Tag("b"))
				g.settle(soracache.MaxSettle, soracache.Tag("c"))
			})
			start := g.head()
			d := g.since(soracache.Stamp{Epoch: start.Epoch, Position: start.Position})
			g.expectTargets(d)
			g.expectRefused(soracache.Tag("c"), "k", "c")
			g.load("k", "v", "b")
		}},
		{name: "the record of what has settled is like any other", run: func(f *fixture) {
			var first soracache.Record
			g := f.during(func(g *fixture, d time.Duration) { first = g.settle(d, soracache.Key("a"), soracache.Tag("b")) })
			d := g.since(stampOf(first))
			if len(d.Records) != 1 || d.Records[0].Position != d.Head || d.Head <= first.Position {
				g.Fatalf("the delta after %+v is %+v", first, d)
			}
			g.expectTargets(d, soracache.Key("a"), soracache.Tag("b"))
			if r := g.invalidate(soracache.Tag("next")); r.Prev != d.Head {
				g.Fatalf("the next record %+v does not follow %v", r, d.Head)
			}
			g.expectTargets(g.since(stampOf(first)), soracache.Key("a"), soracache.Tag("b"), soracache.Tag("next"))
		}},
		{name: "a put is stored while its key or a tag settles, and dead afterwards", run: func(f *fixture) {
			g := f.during(func(g *fixture, d time.Duration) {
				g.settle(d, soracache.Key("k"), soracache.Tag("t"))
				for _, key := range []string{"k", "l"} {
					g.put(key, "put", "t")
					g.hit(key, "put")
				}
				g.put("other", "put")
			})
			g.miss("k")
			g.miss("l")
			g.hit("other", "put")
		}},
		{name: "a refresh beside a live entry is refused while its key settles", run: func(f *fixture) {
			f.settle(soracache.MaxSettle, soracache.Key("k"))
			f.put("k", "put")
			nonce, _ := f.lease("k")
			f.refuseFill(soracache.ReasonSuperseded, "k", nonce, "refreshed")
			f.hit("k", "put")
		}},
		{name: "of two times the later counts", run: func(f *fixture) {
			g := f.during(func(g *fixture, d time.Duration) {
				g.settle(soracache.MaxSettle, soracache.Key("k"))
				g.settle(d, soracache.Key("k"))
				g.settle(d, soracache.Tag("t"))
				g.settle(soracache.MaxSettle, soracache.Tag("t"))
				g.invalidate(soracache.Key("k"), soracache.Tag("t"))
			})
			g.expectRefused(soracache.Key("k"), "k")
			g.expectRefused(soracache.Tag("t"), "l", "t")
		}},
		{name: "without a time nothing settles", run: func(f *fixture) {
			r := f.settle(0, settlers()...)
			f.load("k", "v", "s", "t")
			f.wait(2 * time.Millisecond)
			if f.hit("k", "v"); f.head() != stampOf(r) {
				f.Fatalf("the head is %v, was %+v", f.head(), r)
			}
		}},
		{name: "times out of bounds are refused", run: func(f *fixture) {
			f.load("k", "v")
			for _, d := range []time.Duration{-1, -time.Hour, soracache.MaxSettle + 1, time.Hour} {
				a := f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{{Partition: f.at, Targets: settlers(), Settle: d}})[0]
				if !errors.Is(a.Err, soracache.ErrInvalid) {
					f.Fatalf("settle for %s: %+v", d, a)
				}
			}
			f.hit("k", "v")
		}},
		{name: "what settles outlives a new epoch", run: func(f *fixture) {
			g := f.during(func(g *fixture, d time.Duration) {
				g.settle(d, soracache.Tag("t"))
				g.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
				g.lease("leased")
			})
			g.load("k", "v", "t")
			for _, target := range settlers() {
				g.settle(soracache.MaxSettle, target)
				g.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
				g.expectRefused(settlers()[0], "k", "t") // the first that settles
			}
		}},
		{name: "what settles in one epoch ends leases of the next", run: func(f *fixture) {
			var nonce soracache.Lease
			g := f.during(func(g *fixture, d time.Duration) {
				g.settle(d, soracache.Tag("t"))
				g.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
				nonce, _ = g.lease("k")
			})
			g.refuseFill(soracache.ReasonSuperseded, "k", nonce, "too early", "t")
		}},
		{name: "what settles outlives the ledger", run: func(f *fixture) {
			for part, lose := range f.Lose {
				g := f.in(l2.Partition{Namespace: "outlives", Count: 1})
				long := soracache.Tag(part + string(make([]byte, 200)))
				last := stampOf(g.settle(soracache.MaxSettle, long))
				lose(g.at)
				if r := g.invalidateSince(last, soracache.Tag("x")).Record; r.Epoch == last.Epoch {
					g.Fatalf("%s lost, and the ledger went on in its old epoch", part)
				}
				g.expectRefused(long, "k", long.Name)
				g.load("k", "v", "other")
			}
		}},
		{name: "a ledger that lost a part takes a new epoch before it records what has settled", run: func(f *fixture) {
			for part, lose := range f.Lose {
				var first soracache.Record
				g := f.during(func(g *fixture, d time.Duration) {
					first = g.settle(d, soracache.Tag("t"))
					lose(g.at)
				})
				if d := g.since(stampOf(first)); !d.Reset || d.Epoch == first.Epoch {
					f.Fatalf("%s lost, then a record was due: %+v after %+v", part, d, first)
				}
				g.load("k", "v", "t")
			}
		}},
		{name: "explain names the record of what has settled", run: func(f *fixture) {
			var first soracache.Record
			g := f.during(func(g *fixture, d time.Duration) { first = g.settle(d, soracache.Key("k")) })
			if x := g.explain("k"); stampOf(x.KilledBy) != x.Ledger || x.Ledger.Position <= first.Position {
				f.Fatalf("settling since %+v, and explained as %+v", first, x)
			}
		}},
		{name: "what settles outlives a reopening", run: func(f *fixture) {
			if f.Reopen == nil {
				f.Skip("this engine's test cannot reopen the store")
			}
			f.settle(soracache.MaxSettle, soracache.Tag("t"))
			g := f.on(f.Reopen())
			g.expectRefused(soracache.Tag("t"), "k", "t")
		}},
		{name: "where too much settles, everything does", run: tooMuchSettles},
		{name: "names of any length settle", run: func(f *fixture) {
			long := string(make([]byte, 3000))
			g := f.during(func(g *fixture, d time.Duration) {
				g.settle(d, soracache.Key(long), soracache.Tag("t"+long), soracache.Tag(""))
				g.expectRefused(soracache.Key(long), long)
				g.expectRefused(soracache.Tag("t"+long), "k", "t"+long)
			})
			start := soracache.Stamp{Epoch: g.head().Epoch, Position: g.head().Position}
			g.expectTargets(g.since(start))
			g.load(long, "v", "t"+long, "")
			g.hit(long, "v")
		}},
		{name: "explain tells that a key settles", run: func(f *fixture) {
			f.settle(soracache.MaxSettle, soracache.Key("k"))
			if x := f.explain("k"); x.Stored || x.Reason != l2.Settling(soracache.Key("k")) {
				f.Fatalf("of a key that settles: %+v", x)
			}
			if x := f.explain("other"); x.Reason != "" {
				f.Fatalf("of another key: %+v", x)
			}
			f.settle(soracache.MaxSettle, soracache.Everything())
			if x := f.explain("other"); x.Reason != l2.Settling(soracache.Everything()) {
				f.Fatalf("when everything settles: %+v", x)
			}
		}},
		{name: "a guest is told of what has settled", run: func(f *fixture) {
			var first soracache.Record
			g := f.during(func(g *fixture, d time.Duration) { first = g.settle(d, soracache.Tag("t")) })
			g.expectTargets(g.guest(stampOf(first)).Delta, soracache.Tag("t"))
		}},
		{name: "a clock that is set back does not make things settle for ever", run: func(f *fixture) {
			if f.Wait == nil {
				f.Skip("this engine's test cannot set the clock back")
			}
			f.settle(soracache.MaxSettle, soracache.Tag("t"))
			f.wait(-time.Hour)
			f.expectRefused(soracache.Everything(), "k", "t")
			f.wait(soracache.MaxSettle)
			f.load("k", "v", "t")
		}},
	}
}

// afterwards fills, after the time has come, leases that were given before it.
func afterwards(f *fixture) {
	for _, target := range settlers() {
		var first soracache.Record
		var nonce, late soracache.Lease
		g := f.during(func(g *fixture, d time.Duration) {
			first = g.settle(d, target)
			nonce, _ = g.lease("k")
			late, _ = g.lease("l")
		})
		if target == soracache.Key("k") { // the lease went in the step that recorded it
			if a := g.want("k", g.nonce()); a.Lease != soracache.LeaseGranted {
				g.Fatalf("%s has settled, and its lease keeps others waiting: %+v", target, a)
			}
			g.refuseFill(soracache.ReasonLeaseLost, "k", nonce, "too early", "t")
			g.invalidate(soracache.Key("k"))
			continue
		}
		g.refuseFill(soracache.ReasonSuperseded, "k", nonce, "too early", "t")
		g.refuseFill(soracache.ReasonSuperseded, "l", late, "too early", "t")
		g.miss("k")
		g.expectTargets(g.follow(stampOf(first)), target)
		g.load("k", "new", "t")
		g.hit("k", "new")
		if d := g.follow(stampOf(first)); len(d.Records) != 1 {
			g.Fatalf("%s has settled more than once: %+v", target, d)
		}
	}
}

// everyStepSettles lets each operation be the first after the time.
func everyStepSettles(f *fixture) {
	for _, op := range operations() {
		var first soracache.Record
		g := f.during(func(g *fixture, d time.Duration) { first = g.settle(d, soracache.Tag("settled")) })
		got := targetsOf(op.run(g, stampOf(first)))
		if want := append([]soracache.Target{soracache.Tag("settled")}, op.own...); !slices.Equal(got, want) {
			f.Fatalf("%s told of %v, want %v", op.name, got, want)
		}
	}
	for what, found := range map[string]func(g *fixture) bool{
		"listing":    func(g *fixture) bool { return len(g.list("t", 10)) == 0 },
		"reclaiming": func(g *fixture) bool { return g.reclaim("t") == 1 },
		"walking":    func(g *fixture) bool { return g.reclaim("") == 1 },
		"explaining": func(g *fixture) bool { return !g.explain("k").Live },
	} {
		g := f.during(func(g *fixture, d time.Duration) {
			g.settle(d, soracache.Tag("t"))
			g.put("k", "v", "t")
		})
		if !found(g) {
			g.Fatalf("%s as the first step took what has settled for alive", what)
		}
		g.miss("k")
	}
}

// tooMuchSettles has more targets settle than are remembered one by one.
func tooMuchSettles(f *fixture) {
	many := make([]soracache.Target, l2.MaxSettling)
	for i := range many {
		many[i] = soracache.Tag(fmt.Sprint("t", i))
	}
	f.settle(soracache.MaxSettle/2, many...)
	f.load("k", "v")
	f.settle(soracache.MaxSettle/3, many[7])
	f.hit("k", "v")
	f.load("k", "v")
	f.settle(time.Millisecond, soracache.Key("one too many"))
	f.wait(2 * time.Millisecond)
	f.expectRefused(soracache.Everything(), "l", "t0")
	f.expectRefused(soracache.Everything(), "l", "t9999")
	f.hit("k", "v") // nothing has happened to what was computed before
	if f.Wait == nil {
		return
	}
	f.wait(soracache.MaxSettle / 2)
	f.miss("k")
	f.load("k", "v", "t0")
	f.hit("k", "v")
}
