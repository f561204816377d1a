package l2test

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func deltaChecks() []check {
	return []check{
		{name: "one who knows nothing is shown nothing", run: func(f *fixture) {
			f.invalidate(soracache.Tag("a"), soracache.Key("k"))
			f.invalidate(soracache.Everything())
			d := f.since(soracache.Stamp{})
			if len(d.Records) > 0 || d.Reset || d.More {
				f.Fatalf("the delta: %+v", d)
			}
		}},
		{name: "a delta holds what came after, in order", run: func(f *fixture) {
			start := f.head()
			first := f.invalidate(soracache.Tag("a"))
			f.invalidate(soracache.Key("k"), soracache.Tag("k"))
			f.put("p", "v")
			last := f.invalidate(soracache.Tag("b"))
			f.expectTargets(f.since(start),
				soracache.Tag("a"), soracache.Key("k"), soracache.Tag("k"), soracache.Key("p"), soracache.Tag("b"))
			f.expectTargets(f.since(stampOf(first)),
				soracache.Key("k"), soracache.Tag("k"), soracache.Key("p"), soracache.Tag("b"))
			f.expectTargets(f.since(stampOf(last)))
		}},
		{name: "a delta groups targets by their record", run: func(f *fixture) {
			start := f.head()
			one := f.invalidate(soracache.Tag("a"), soracache.Key("k"), soracache.Tag("b"))
			two := f.invalidate(soracache.Everything(), soracache.Tag("c"))
			d := f.since(start)
			if len(d.Records) != 2 || d.Records[0].Position != one.Position || d.Records[1].Position != two.Position {
				f.Fatalf("the delta holds %+v, want the records %+v and %+v", d.Records, one, two)
			}
			f.expectTargets(d, soracache.Key("k"), soracache.Tag("a"), soracache.Tag("b"), soracache.Tag("c"), soracache.Everything())
		}},
		{name: "a delta shows a clear", run: func(f *fixture) {
			start := f.head()
			f.invalidate(soracache.Everything())
			f.expectTargets(f.since(start), soracache.Everything())
			after := f.head()
			f.invalidate(soracache.Key("k"))
			f.expectTargets(f.since(after), soracache.Key("k"))
			f.invalidate(soracache.Everything())
			d := f.since(after)
			if got := targetsOf(d); got[len(got)-1] != soracache.Everything() {
				f.Fatalf("the delta holds %v", got)
			}
		}},
		{name: "a delta holds the latest position of each target", run: func(f *fixture) {
			start := f.head()
			f.invalidate(soracache.Tag("a"))
			f.invalidate(soracache.Tag("b"), soracache.Key("k"))
			f.invalidate(soracache.Tag("a"))
			f.put("k", "v")
			f.expectTargets(f.since(start), soracache.Tag("b"), soracache.Tag("a"), soracache.Key("k"))
		}},
		{name: "a key and a tag of one name are two targets", run: func(f *fixture) {
			start := f.head()
			f.invalidate(soracache.Tag("x"))
			f.invalidate(soracache.Key("x"))
			f.expectTargets(f.since(start), soracache.Tag("x"), soracache.Key("x"))
		}},
		{name: "every operation answers with the delta", run: everyOperationTells},
		{name: "a delta that is too long says so, and the chain holds everything", run: func(f *fixture) {
			const n = 300
			start := f.head()
			var want []soracache.Target
			for i := range n {
				target := soracache.Tag(fmt.Sprint("t", i))
				if i%3 == 0 {
					target = soracache.Key(fmt.Sprint("k", i))
				}
				want = append(want, target)
				f.invalidate(target)
			}
			if d := f.since(start); !d.More || len(targetsOf(d)) != l2.MaxDelta {
				f.Fatalf("the first of the chain holds %d targets, more %v", len(targetsOf(d)), d.More)
			}
			f.expectTargets(f.follow(start), want...)
			f.expectTargets(f.since(f.head()))
		}},
		{name: "a delta of just the most targets is whole", run: func(f *fixture) {
			start := f.head()
			for i := range l2.MaxDelta {
				f.invalidate(soracache.Tag(fmt.Sprint("t", i)))
			}
			if d := f.since(start); d.More || len(d.Records) != l2.MaxDelta {
				f.Fatalf("%d records, more %v", len(d.Records), d.More)
			}
		}},
		{name: "no record is divided between two deltas", run: func(f *fixture) {
			start := f.head()
			sizes := []int{30, 30, 30, 1, 63, 2, 64, 65, 200, 1, 1, 70}
			for i, size := range sizes {
				f.invalidate(manyTargets(fmt.Sprint(i, "/"), size)...)
			}
			whole := f.follow(start)
			if len(whole.Records) != len(sizes) {
				f.Fatalf("%d records in the chain, want %d", len(whole.Records), len(sizes))
			}
			for i, r := range whole.Records {
				if !slices.Equal(sortedTargets(r.Targets), sortedTargets(manyTargets(fmt.Sprint(i, "/"), sizes[i]))) {
					f.Fatalf("record %d holds %d targets, want %d: %v", i, len(r.Targets), sizes[i], r.Targets)
				}
			}
		}},
		{name: "a single record of 200 targets is delivered whole", run: func(f *fixture) {
			start := f.head()
			targets := manyTargets("", 200)
			f.invalidate(targets...)
			d := f.since(start)
			if d.More || len(d.Records) != 1 {
				f.Fatalf("%d records, more %v", len(d.Records), d.More)
			}
			f.expectTargets(d, sortedTargets(targets)...)
		}},
		{name: "what moves while a chain is followed is at its end", run: func(f *fixture) {
			start := f.head()
			for i := range 100 {
				f.invalidate(soracache.Tag(fmt.Sprint("t", i)))
			}
			first := f.since(start)
			last := f.invalidate(soracache.Tag("t90"), soracache.Tag("t0"))
			rest := f.follow(stampOf(first.Records[len(first.Records)-1]))
			if headOf(rest) != stampOf(last) {
				f.Fatalf("the chain ends at %v, want %v", headOf(rest), last)
			}
			got := targetsOf(rest)
			if want := []soracache.Target{soracache.Tag("t0"), soracache.Tag("t90")}; len(got) != 100-l2.MaxDelta+1 ||
				!slices.Equal(got[len(got)-2:], want) {
				f.Fatalf("the rest of the chain holds %v", got)
			}
		}},
		{name: "re-invalidating a target leaves its old position known", run: func(f *fixture) {
			at := stampOf(f.invalidate(soracache.Tag("a"), soracache.Key("k")))
			f.invalidate(soracache.Tag("a"))
			f.put("k", "v")
			f.expectTargets(f.since(at), soracache.Tag("a"), soracache.Key("k"))
		}},
		{name: "an empty batch has no answers, a read of no keys has the delta", run: func(f *fixture) {
			ctx := f.Context()
			if n := len(f.Store.Read(ctx, nil)) + len(f.Store.Write(ctx, nil)) +
				len(f.Store.Invalidate(ctx, nil)) + len(f.Store.Since(ctx, nil)); n != 0 {
				f.Fatalf("%d answers", n)
			}
			start := f.head()
			f.invalidate(soracache.Key("k"))
			f.expectTargets(f.readAll(start).Delta, soracache.Key("k"))
		}},
	}
}

// manyTargets returns n targets, keys and tags in turn.
func manyTargets(prefix string, n int) []soracache.Target {
	targets := make([]soracache.Target, n)
	for i := range targets {
		targets[i] = soracache.Tag(fmt.Sprintf("%st%03d", prefix, i))
		if i%2 == 0 {
			targets[i] = soracache.Key(fmt.Sprintf("%sk%03d", prefix, i))
		}
	}
	return targets
}

// operation is something that shows a stamp and answers with a delta.
type operation struct {
	name string
	run  func(f *fixture, since soracache.Stamp) soracache.Delta
	own  []soracache.Target // what the operation itself records
}

// operations are all there are.
func operations() []operation {
	return []operation{
		{name: "since", run: (*fixture).since},
		{name: "read", run: func(f *fixture, since soracache.Stamp) soracache.Delta {
			f.Helper()
			return f.readAll(since, l2.ReadKey{Key: "op"}).Delta
		}},
		{name: "leasing read", run: func(f *fixture, since soracache.Stamp) soracache.Delta {
			f.Helper()
			return f.readAll(since, l2.ReadKey{Key: "op", Nonce: f.nonce(), LeaseFor: leaseFor}).Delta
		}},
		{name: "fill", run: func(f *fixture, since soracache.Stamp) soracache.Delta {
			f.Helper()
			nonce, _ := f.lease("fill")
			return f.write(l2.WriteRequest{
				Op: soracache.OpFill, Key: "fill", Nonce: nonce, Since: since,
				Entry: value("op"), Lifetime: soracache.Lifetime{TTL: ttl},
			}).Delta
		}},
		{name: "lost fill", run: func(f *fixture, since soracache.Stamp) soracache.Delta {
			f.Helper()
			return f.write(l2.WriteRequest{
				Op: soracache.OpFill, Key: "op", Nonce: f.nonce(), Since: since,
				Entry: value("op"), Lifetime: soracache.Lifetime{TTL: ttl},
			}).Delta
		}},
		{name: "renew", run: func(f *fixture, since soracache.Stamp) soracache.Delta {
			f.Helper()
			return f.write(l2.WriteRequest{Op: soracache.OpRenew, Key: "op", Nonce: f.nonce(), LeaseFor: leaseFor, Since: since}).Delta
		}},
		{name: "release", run: func(f *fixture, since soracache.Stamp) soracache.Delta {
			f.Helper()
			return f.write(l2.WriteRequest{Op: soracache.OpRelease, Key: "op", Nonce: f.nonce(), Since: since}).Delta
		}},
		{name: "put", own: []soracache.Target{soracache.Key("op put")}, run: func(f *fixture, since soracache.Stamp) soracache.Delta {
			f.Helper()
			return f.write(l2.WriteRequest{
				Op: soracache.OpPut, Key: "op put", Since: since,
				Entry: value("op"), Lifetime: soracache.Lifetime{TTL: ttl},
			}).Delta
		}},
		{name: "invalidate", own: []soracache.Target{soracache.Tag("op inv")}, run: func(f *fixture, since soracache.Stamp) soracache.Delta {
			f.Helper()
			a := f.invalidateSince(since, soracache.Tag("op inv"))
			if stampOf(a.Record) != headOf(a.Delta) {
				f.Fatalf("the record %+v is not the head of its answer %+v", a.Record, a.Delta)
			}
			return a.Delta
		}},
	}
}

func everyOperationTells(f *fixture) {
	for _, op := range operations() {
		since := stampOf(f.invalidate(soracache.Tag("before")))
		f.invalidate(soracache.Tag("a"), soracache.Key("k"))
		d := op.run(f, since)
		want := append([]soracache.Target{soracache.Key("k"), soracache.Tag("a")}, op.own...)
		if got := targetsOf(d); !slices.Equal(got, want) {
			f.Fatalf("%s told %+v, want %v", op.name, d, want)
		}
	}
}

func retentionChecks() []check {
	return []check{
		{name: "removals of other keys kill no entry", run: func(f *fixture) {
			removals(f, counts(20_000, 200_000))
		}},
		{name: "removals past the cap kill no entry", retention: small(), run: func(f *fixture) {
			removals(f, 5_000)
		}},
		{name: "a follower behind the key records gets a reset", retention: small(), run: func(f *fixture) {
			lagging(f, func(i int) soracache.Target { return soracache.Key(fmt.Sprint("other ", i)) })
		}},
		{name: "a follower behind the tag records gets a reset", retention: small(), run: func(f *fixture) {
			lagging(f, func(i int) soracache.Target { return soracache.Tag(fmt.Sprint("other ", i)) })
		}},
		{name: "a follower behind the retention gets a reset", retention: brief(), run: func(f *fixture) {
			start := f.head()
			f.invalidate(soracache.Key("k"))
			f.invalidate(soracache.Key("l"))
			f.eventually("it is reset", func() bool {
				f.invalidate(soracache.Key("m"))
				return f.since(start).Reset
			})
		}},
		{name: "a follower of the last position is never reset", retention: brief(), run: func(f *fixture) {
			at := f.head()
			for i := range 5 {
				f.wait(3 * brief().Age)
				key := soracache.Key(fmt.Sprint("k", i))
				f.invalidate(key)
				d := f.since(at)
				f.expectTargets(d, key)
				for j := range 20 { // a burst, of which the follower sees all
					f.invalidate(soracache.Key(fmt.Sprint("burst", j)))
				}
				at = f.head()
			}
		}},
		{name: "a follower of the last position is not reset by its own put", retention: brief(), run: func(f *fixture) {
			at := stampOf(f.invalidate(soracache.Tag("a")))
			for range 3 {
				f.wait(3 * brief().Age)
				for _, op := range operations() {
					d := op.run(f, at)
					f.expectTargets(d, op.own...)
					at = headOf(d)
				}
			}
		}},
		{name: "too many tags: nothing stale, untagged entries live", retention: small(), run: func(f *fixture) {
			manyTags(f, 3_000)
		}},
		{name: "tags up to and past the default cap: nothing stale", run: func(f *fixture) {
			if !Verifying() {
				f.Skip("takes long: SORACACHE_VERIFY=1 runs it")
			}
			manyTags(f, 300_000)
		}},
		{name: "a lease older than the tag records fills no tagged entry", retention: small(), run: func(f *fixture) {
			nonce, _ := f.lease("k")
			f.invalidate(soracache.Tag("t"))
			f.invalidateMany(3_000, func(i int) soracache.Target { return soracache.Tag(fmt.Sprint("other ", i)) })
			f.refuseFill(soracache.ReasonSuperseded, "k", nonce, "stale", "t")
			f.miss("k")
			f.load("k", "new", "t")
			f.hit("k", "new")
		}},
		{name: "a clear is never forgotten", retention: small(), run: func(f *fixture) {
			f.load("k", "old")
			restore := f.dump("k")
			nonce, _ := f.lease("leased")
			f.invalidate(soracache.Everything())
			f.invalidateMany(2_000, func(i int) soracache.Target { return soracache.Tag(strconv.Itoa(i)) })
			f.invalidateMany(2_000, func(i int) soracache.Target { return soracache.Key(strconv.Itoa(i)) })
			if a := f.fill("leased", nonce, "stale"); a.Reason == soracache.ReasonNone {
				f.Fatalf("a fill from before the clear was stored: %+v", a)
			}
			f.miss("leased")
			f.miss("k")
			if restore != nil {
				restore()
				f.miss("k")
			}
		}},
		{name: "a tag's record lasts as long as what it kills", retention: brief(), run: func(f *fixture) {
			f.load("k", "old", "t")
			restore := f.dump("k")
			f.invalidate(soracache.Tag("t"))
			for range 5 {
				f.wait(brief().Age)
				f.invalidate(soracache.Tag("other"))
			}
			f.miss("k")
			if restore != nil {
				restore()
				f.miss("k")
			}
			f.load("k", "new", "t")
			f.hit("k", "new")
		}},
	}
}

// dump returns a function that puts the entry under a key back, or nil if this
// cannot be done.
func (f *fixture) dump(key string) (restore func()) {
	f.Helper()
	switch {
	case f.Dump != nil:
		return f.Dump(f.at, key)
	case f.Tamper == nil:
		return nil
	}
	var saved []byte
	f.Tamper(f.at, key, func(stored []byte) []byte {
		saved = slices.Clone(stored)
		return stored
	})
	return func() { f.Tamper(f.at, key, func([]byte) []byte { return saved }) }
}

func removals(f *fixture, n int) {
	const entries = 50
	for i := range entries {
		f.load(fmt.Sprint("plain ", i), "v")
		f.load(fmt.Sprint("tagged ", i), "v", "t", fmt.Sprint("t", i))
	}
	nonce, _ := f.lease("leased")
	f.invalidateMany(n, func(i int) soracache.Target { return soracache.Key(fmt.Sprint("other ", i)) })
	for i := range entries {
		f.hit(fmt.Sprint("plain ", i), "v")
		f.hit(fmt.Sprint("tagged ", i), "v")
	}
	if a := f.fill("leased", nonce, "v", "t"); a.Reason != soracache.ReasonNone {
		f.Fatalf("the fill of an old lease: %+v", a)
	}
	f.hit("leased", "v")
}

// lagging is trap 16: a follower that was away while more was recorded than is
// remembered.
func lagging(f *fixture, target func(i int) soracache.Target) {
	const n = 3_000
	start := f.head()
	first := f.invalidate(target(0))
	f.invalidateMany(n, target)
	for _, old := range []soracache.Stamp{start, stampOf(first)} {
		if d := f.since(old); !d.Reset || d.Epoch != start.Epoch {
			f.Fatalf("the follower of %v was told %+v", old, d)
		}
	}
	at := f.head()
	f.invalidate(target(n))
	f.expectTargets(f.since(at), target(n))
}

func manyTags(f *fixture, n int) {
	tag := func(i int) string { return fmt.Sprint("t", i) }
	const entries = 200
	for i := range entries {
		f.load(fmt.Sprint("tagged ", i), "old", tag(i*n/entries))
		f.load(fmt.Sprint("plain ", i), "v")
	}
	f.load("bystander", "v", "never invalidated")
	f.invalidateMany(n, func(i int) soracache.Target { return soracache.Tag(tag(i)) })
	for i := range entries {
		f.miss(fmt.Sprint("tagged ", i))
		f.hit(fmt.Sprint("plain ", i), "v")
	}
	f.miss("bystander") // the price: it is older than the ledger remembers
	for i := range entries {
		f.load(fmt.Sprint("tagged ", i), "new", tag(i*n/entries))
	}
	for i := range entries {
		f.hit(fmt.Sprint("tagged ", i), "new")
		f.hit(fmt.Sprint("plain ", i), "v")
	}
}
