package l2test

import (
	"fmt"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func ruleChecks() []check {
	return []check{
		{name: "a fill that an invalidation superseded is not stored", run: supersededFills},
		{name: "a fill that nothing that concerns it supersedes is stored", run: func(f *fixture) {
			nonce, stamp := f.lease("k")
			f.invalidate(soracache.Key("a"), soracache.Key("t"), soracache.Tag("k"), soracache.Tag("aa"))
			f.put("other", "v", "a")
			if a := f.fill("k", nonce, "v", "a", "t"); a.Reason != soracache.ReasonNone || a.Stamp != stamp {
				f.Fatalf("fill: %+v", a)
			}
			f.hit("k", "v")
		}},
		{name: "the tags of the fill count, not those of the entry it replaces", run: func(f *fixture) {
			f.load("k", "old", "a")
			nonce, _ := f.lease("k")
			f.invalidate(soracache.Tag("a"))
			f.miss("k")
			if a := f.fill("k", nonce, "new", "b"); a.Reason != soracache.ReasonNone {
				f.Fatalf("fill: %+v", a)
			}
			f.invalidate(soracache.Tag("a"))
			f.hit("k", "new")
		}},
		{name: "an entry dies with its key, any of its tags, or everything", run: deaths},
		{name: "an entry lives through what does not name it", run: func(f *fixture) {
			f.load("k", "v", "a", "b")
			f.load("plain", "v")
			f.invalidate(soracache.Key("a"), soracache.Key("b"), soracache.Key("kk"), soracache.Key("K"))
			f.invalidate(soracache.Tag("k"), soracache.Tag("ab"), soracache.Tag("A"), soracache.Tag("plain"), soracache.Tag("a "))
			f.put("other", "v", "a", "b")
			f.hit("k", "v")
			f.hit("plain", "v")
		}},
		{name: "what is filled after an invalidation lives", run: func(f *fixture) {
			for _, target := range []soracache.Target{soracache.Key("k"), soracache.Tag("a"), soracache.Everything()} {
				f.load("k", "old", "a", "b")
				f.invalidate(target)
				f.miss("k")
				f.load("k", "new", "a", "b")
				f.hit("k", "new")
			}
		}},
		{name: "a clear kills everything before it and nothing after it", run: func(f *fixture) {
			for i := range 20 {
				f.load(fmt.Sprint("tagged ", i), "v", "t", fmt.Sprint("t", i))
				f.load(fmt.Sprint("plain ", i), "v")
			}
			f.invalidate(soracache.Everything())
			for i := range 20 {
				f.miss(fmt.Sprint("tagged ", i))
				f.miss(fmt.Sprint("plain ", i))
			}
			f.load("tagged 1", "new", "t", "t1")
			f.put("plain 1", "new")
			f.hit("tagged 1", "new")
			f.hit("plain 1", "new")
			f.invalidate(soracache.Everything(), soracache.Key("x"))
			f.miss("tagged 1")
			f.miss("plain 1")
		}},
		{name: "a clear keeps nobody waiting for a lease from before it", run: func(f *fixture) {
			old, _ := f.lease("k")
			f.invalidate(soracache.Everything())
			fresh, _ := f.lease("k")
			f.refuseFill(soracache.ReasonLeaseLost, "k", old, "old")
			f.miss("k")
			if a := f.fill("k", fresh, "new"); a.Reason != soracache.ReasonNone {
				f.Fatalf("fill: %+v", a)
			}
			f.hit("k", "new")
		}},
		{name: "a nonce from before a clear is granted anew after it", run: func(f *fixture) {
			nonce, stamp := f.lease("k")
			everything := f.invalidate(soracache.Everything())
			if a := f.want("k", nonce); a.Lease != soracache.LeaseGranted || a.LeaseStamp != stampOf(everything) {
				f.Fatalf("asked again after the clear: %+v; the lease was of %v", a, stamp)
			}
		}},
		{name: "a key's invalidation frees its lease", run: func(f *fixture) {
			f.lease("k")
			r := f.invalidate(soracache.Key("k"))
			if _, stamp := f.lease("k"); stamp != stampOf(r) {
				f.Fatalf("the next lease is of %v, want %v", stamp, r)
			}
		}},
		{name: "every key of a record loses its entry and its lease", run: func(f *fixture) {
			keys := []string{"a", "b", "c"}
			for _, key := range keys {
				f.load(key, "v", "t")
				f.lease(key)
			}
			f.invalidate(soracache.Key("x"), soracache.Key("a"), soracache.Tag("y"), soracache.Key("b"), soracache.Key("c"))
			for _, key := range keys {
				if x := f.explain(key); x.Stored || x.Leased {
					f.Fatalf("%s was named, and is explained as %+v", key, x)
				}
				f.lease(key)
			}
		}},
		{name: "a new epoch keeps nobody waiting for a lease from before it", run: func(f *fixture) {
			old, _ := f.lease("k")
			f.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
			if x := f.explain("k"); x.Leased {
				f.Fatalf("the lease is of another epoch: %+v", x)
			}
			if a := f.renew("k", old); a.Reason != soracache.ReasonLeaseLost {
				f.Fatalf("renewed: %+v", a)
			}
			fresh, _ := f.lease("k")
			f.refuseFill(soracache.ReasonLeaseLost, "k", old, "old")
			if a := f.fill("k", fresh, "new"); a.Reason != soracache.ReasonNone {
				f.Fatalf("fill: %+v", a)
			}
			f.hit("k", "new")
		}},
		{name: "a put appends, writes, is live, and ends the lease", run: putDoesAll},
		{name: "a put after a put wins", run: func(f *fixture) {
			f.put("k", "first", "a")
			f.put("k", "second", "b")
			f.hit("k", "second")
			f.invalidate(soracache.Tag("a"))
			f.hit("k", "second")
			f.invalidate(soracache.Tag("b"))
			f.miss("k")
		}},
		{name: "records are in one order", run: func(f *fixture) {
			last := f.head()
			for i := range 50 {
				var r soracache.Record
				targets := []soracache.Target{soracache.Key("k")}
				if i%3 == 0 {
					r = f.put("k", "v").Record
				} else {
					targets = append(targets, soracache.Tag("t"))
					r = f.invalidate(targets...)
				}
				if r.Epoch != last.Epoch || r.Prev != last.Position || r.Position <= r.Prev {
					f.Fatalf("record %+v after %v", r, last)
				}
				if !slices.Equal(sortedTargets(r.Targets), targets) {
					f.Fatalf("record of %v, want %v", r.Targets, targets)
				}
				last = stampOf(r)
				if head := f.head(); head != last {
					f.Fatalf("the head is %v after the record %v", head, last)
				}
			}
		}},
		{name: "a record's age can be read off its position", run: func(f *fixture) {
			for range 3 {
				r := f.invalidate(soracache.Key("k"))
				age := f.now().Sub(time.UnixMicro(int64(r.Position)))
				if age < -slack || age > slack {
					f.Fatalf("the record at %d is %v old", r.Position, age)
				}
				f.wait(time.Millisecond)
			}
		}},
		{name: "an invalidation may name a target twice", run: func(f *fixture) {
			f.load("k", "v", "a")
			since := f.head()
			f.invalidate(soracache.Tag("a"), soracache.Key("k"), soracache.Tag("a"), soracache.Key("k"))
			f.miss("k")
			f.expectTargets(f.since(since), soracache.Key("k"), soracache.Tag("a"))
		}},
		{name: "an invalidation of nothing known is refused", run: func(f *fixture) {
			head := f.head()
			for _, targets := range [][]soracache.Target{nil, {{Kind: 9, Name: "x"}}, {{}}} {
				a := f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{{Partition: f.at, Targets: targets}})[0]
				f.refused(a.Err)
			}
			if got := f.head(); got != head {
				f.Fatalf("the head went from %v to %v", head, got)
			}
			a := f.Store.Write(f.Context(), []l2.WriteRequest{{Partition: f.at, Op: 99, Key: "k", Nonce: f.nonce()}})[0]
			f.refused(a.Err)
		}},
	}
}

// supersededFills is the promise that gave the design its shape, for each kind
// of target.
func supersededFills(f *fixture) {
	tags := []string{"a", "b", "c"}
	supersede := func(targets ...soracache.Target) func() soracache.Record {
		return func() soracache.Record { return f.invalidate(targets...) }
	}
	cases := []struct {
		name  string
		by    func() soracache.Record
		why   soracache.Reason
		named soracache.Target // of the record that the answer names
		left  string           // the value that must be found afterwards, if any
	}{
		{"its key", supersede(soracache.Key("k")), soracache.ReasonLeaseLost, soracache.Target{}, ""},
		{"its first tag", supersede(soracache.Tag("a")), soracache.ReasonSuperseded, soracache.Tag("a"), ""},
		{"its second tag", supersede(soracache.Tag("b")), soracache.ReasonSuperseded, soracache.Tag("b"), ""},
		{"its third tag", supersede(soracache.Tag("c")), soracache.ReasonSuperseded, soracache.Tag("c"), ""},
		{"a tag among others", supersede(soracache.Tag("x"), soracache.Tag("b"), soracache.Key("y")), soracache.ReasonSuperseded, soracache.Tag("b"), ""},
		{"everything", supersede(soracache.Everything()), soracache.ReasonSuperseded, soracache.Everything(), ""},
		{"a put", func() soracache.Record { return f.put("k", "put", tags...).Record }, soracache.ReasonLeaseLost, soracache.Target{}, "put"},
	}
	for _, before := range []string{"", "refreshed"} {
		for _, c := range cases {
			f.invalidate(soracache.Key("k"))
			if before != "" {
				f.load("k", before, tags...)
			}
			nonce, stamp := f.lease("k")
			record := c.by()
			f.invalidate(soracache.Key("unrelated"), soracache.Tag("unrelated"))
			a := f.fill("k", nonce, "stale", tags...)
			if a.Reason != c.why {
				f.Fatalf("superseded by %s: %s, want %s", c.name, a.Reason, c.why)
			}
			if by := a.SupersededBy; c.named.Kind != 0 &&
				(stampOf(by) != stampOf(record) || !slices.Contains(by.Targets, c.named)) {
				f.Fatalf("superseded by %s: superseded by %+v, want %+v", c.name, by, record)
			}
			if got := f.read("k"); got.Found != (c.left != "") || string(got.Entry.Value) != c.left {
				f.Fatalf("superseded by %s: then found %+v", c.name, got)
			}
			if _, next := f.lease("k"); next.Position <= stamp.Position {
				f.Fatalf("superseded by %s: the next lease is of %v, the lost one was of %v", c.name, next, stamp)
			}
		}
	}
}

func deaths(f *fixture) {
	tags := []string{"a", "b", "c"}
	for _, targets := range [][]soracache.Target{
		{soracache.Key("k")},
		{soracache.Tag("a")},
		{soracache.Tag("b")},
		{soracache.Tag("c")},
		{soracache.Tag("x"), soracache.Tag("c"), soracache.Key("y")},
		{soracache.Everything()},
		{soracache.Everything(), soracache.Key("x")},
	} {
		for _, put := range []bool{false, true} {
			f.load("other", "v", "y")
			if put {
				f.put("k", "v", tags...)
			} else {
				f.load("k", "v", tags...)
			}
			f.hit("k", "v")
			f.invalidate(targets...)
			f.miss("k")
			if targets[0].Kind != soracache.TargetAll {
				f.hit("other", "v")
			}
		}
	}
}

func putDoesAll(f *fixture) {
	f.load("k", "old", "a")
	nonce, _ := f.lease("k")
	before := f.head()
	a := f.write(l2.WriteRequest{
		Op: soracache.OpPut, Key: "k", Since: before, Entry: value("put", "b"),
		Lifetime: soracache.Lifetime{TTL: ttl, Keep: keep, L1: time.Minute},
	})
	if r := a.Record; r.Epoch != before.Epoch || r.Prev != before.Position || r.Position <= r.Prev ||
		!slices.Equal(r.Targets, []soracache.Target{soracache.Key("k")}) || a.Stamp != stampOf(r) {
		f.Fatalf("put after %v: %+v", before, a)
	}
	f.expectTargets(a.Delta, soracache.Key("k"))
	got := f.hit("k", "put")
	if got.Stamp != a.Stamp || !within(got.FreshFor, ttl) || !within(got.KeepFor, keep) || got.L1 != time.Minute ||
		!slices.Equal(got.Entry.Tags, []string{"b"}) {
		f.Fatalf("the put was read back otherwise: %+v", got)
	}
	f.refuseFill(soracache.ReasonLeaseLost, "k", nonce, "superseded")
	f.hit("k", "put")
	f.lease("k")
}
