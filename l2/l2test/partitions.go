package l2test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// refused expects an error that says the request can never succeed.
func (f *fixture) refused(err error) {
	f.Helper()
	if !errors.Is(err, soracache.ErrInvalid) {
		f.Fatalf("error %v, want one that wraps ErrInvalid", err)
	}
}

// miscounted expects an error that says that the caller believes in a wrong
// number of partitions. It is no fault of whoever asks for a key.
func (f *fixture) miscounted(err error) {
	f.Helper()
	if !errors.Is(err, l2.ErrPartitions) || !errors.Is(err, soracache.ErrUnavailable) || errors.Is(err, soracache.ErrInvalid) {
		f.Fatalf("error %v, want one that wraps ErrPartitions, and so ErrUnavailable", err)
	}
}

func partitionChecks() []check {
	return []check{
		{name: "partitions and namespaces are worlds of their own", run: isolation},
		{name: "a partition of another count is refused", run: otherCount},
		{name: "a batch over partitions is answered in order", run: batches},
		{name: "one request's failure leaves the rest of its batch", run: func(f *fixture) {
			bad := f.at
			bad.Count++
			f.load("k", "v")
			reads := f.Store.Read(f.Context(), []l2.ReadRequest{
				{Partition: bad, Keys: []l2.ReadKey{{Key: "k"}}},
				{Partition: f.at, Keys: []l2.ReadKey{{Key: "k"}}},
				{Partition: bad, Keys: []l2.ReadKey{{Key: "k"}}},
			})
			f.miscounted(reads[0].Err)
			f.miscounted(reads[2].Err)
			if reads[1].Err != nil || !reads[1].Keys[0].Found {
				f.Fatalf("the read between them: %+v", reads[1])
			}
			invalidations := f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{
				{Partition: bad, Targets: []soracache.Target{soracache.Key("k")}},
				{Partition: f.at, Targets: []soracache.Target{soracache.Key("k")}},
			})
			f.miscounted(invalidations[0].Err)
			if invalidations[1].Err != nil {
				f.Fatalf("the invalidation after it: %+v", invalidations[1])
			}
			f.miss("k")
		}},
		{name: "two clients of one store see one store", run: func(f *fixture) {
			if f.Another == nil {
				f.Skip("this engine has one client only")
			}
			g := f.on(f.Another())
			f.load("k", "v", "t")
			g.hit("k", "v")
			nonce, _ := g.lease("k2")
			if a := f.want("k2", f.nonce()); a.Lease != soracache.LeaseHeld {
				f.Fatalf("leased through the other client: %+v", a)
			}
			r := f.invalidate(soracache.Tag("t"))
			g.refuseFill(soracache.ReasonSuperseded, "k2", nonce, "stale", "t")
			g.miss("k")
			if head := g.head(); head != stampOf(r) {
				f.Fatalf("one sees the head %v, the other appended %v", head, r)
			}
		}},
		{name: "a cancelled call answers or is unavailable", run: cancelled},
		{name: "round trips are counted, and the store can be pinged", run: func(f *fixture) {
			if err := f.Store.Ping(f.Context()); err != nil {
				f.Fatal(err)
			}
			f.head()
			before := f.Store.Counters().RoundTrips
			for range 10 {
				f.read("k")
			}
			if n := f.Store.Counters().RoundTrips - before; n != 10 {
				f.Fatalf("10 reads took %d round trips", n)
			}
		}},
	}
}

func isolation(f *fixture) {
	var all []*fixture
	for _, at := range []l2.Partition{
		{Namespace: "a", Index: 0, Count: 20},
		{Namespace: "a", Index: 1, Count: 20},
		{Namespace: "a", Index: 11, Count: 20},
		{Namespace: "a1", Index: 1, Count: 20},
		{Namespace: "a-1", Index: 1, Count: 20},
		{Namespace: "b", Index: 0, Count: 1},
	} {
		all = append(all, f.in(at))
	}
	hurt := []func(g *fixture){
		func(g *fixture) { g.invalidate(soracache.Key("k")) },
		func(g *fixture) { g.invalidate(soracache.Tag("t")) },
		func(g *fixture) { g.invalidate(soracache.Everything()) },
		func(g *fixture) { g.since(soracache.Stamp{Epoch: f.unknown(), Position: 1}) },
		func(g *fixture) { g.put("k", "other") },
	}
	for i, damage := range hurt {
		for _, g := range all {
			g.load("k", fmt.Sprintf("%s %d", g.at, i), "t")
			g.load("l", fmt.Sprintf("%s %d", g.at, i), "t")
		}
		damage(all[i])
		for j, g := range all {
			want := fmt.Sprintf("%s %d", g.at, i)
			if got := g.read("k"); (string(got.Entry.Value) == want) != (i != j) {
				f.Fatalf("damage %d to %s: %s then holds %+v", i, all[i].at, g.at, got)
			}
			if i != j {
				g.hit("l", want)
			}
			keys, _, err := g.Store.ListKeys(g.Context(), g.at, "t", "", 100)
			if err != nil || i != j && len(keys) != 2 {
				f.Fatalf("damage %d to %s: the tag in %s has the keys %q, %v", i, all[i].at, g.at, keys, err)
			}
		}
	}
	for _, g := range all {
		g.lease("leased") // which is free here, whoever leased it elsewhere
	}
}

func otherCount(f *fixture) {
	at := l2.Partition{Namespace: "counted", Index: 1, Count: 4}
	g := f.in(at)
	g.load("k", "v", "t")
	head := g.head()
	at.Count = 8
	ctx := f.Context()
	f.miscounted(f.Store.Read(ctx, []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: "k"}}}})[0].Err)
	for op := soracache.OpFill; op <= soracache.OpRelease; op++ {
		f.miscounted(f.Store.Write(ctx, []l2.WriteRequest{{
			Partition: at, Op: op, Key: "k", Nonce: f.nonce(), LeaseFor: leaseFor,
			Entry: value("w"), Lifetime: soracache.Lifetime{TTL: ttl},
		}})[0].Err)
	}
	f.miscounted(f.Store.Invalidate(ctx, []l2.InvalidateRequest{{Partition: at, Targets: []soracache.Target{soracache.Everything()}}})[0].Err)
	f.miscounted(f.Store.Since(ctx, []l2.SinceRequest{{Partition: at, Since: head}})[0].Err)
	f.miscounted(f.Store.Since(ctx, []l2.SinceRequest{{Partition: at, Since: soracache.Stamp{Epoch: f.unknown(), Position: 1}}})[0].Err)
	_, err := f.Store.Explain(ctx, at, "k")
	f.miscounted(err)
	_, _, err = f.Store.ListKeys(ctx, at, "t", "", 10)
	f.miscounted(err)
	if got := g.head(); got != head {
		f.Fatalf("the head went from %v to %v", head, got)
	}
	g.hit("k", "v")
}

func batches(f *fixture) {
	const count = 5
	at := func(i int) l2.Partition {
		return l2.Partition{Namespace: "batch", Index: uint16(i % count), Count: count}
	}
	var writes []l2.WriteRequest
	for i := range 3 * count {
		writes = append(writes, l2.WriteRequest{
			Partition: at(i), Op: soracache.OpPut, Key: fmt.Sprint("k", i),
			Entry: value(fmt.Sprint("v", i), "t"), Lifetime: soracache.Lifetime{TTL: ttl},
		})
	}
	heads := make(map[l2.Partition]soracache.Stamp)
	for i, a := range f.Store.Write(f.Context(), writes) {
		if a.Err != nil || a.Record.Targets[0] != soracache.Key(fmt.Sprint("k", i)) {
			f.Fatalf("answer %d: %+v", i, a)
		}
		heads[at(i)] = a.Stamp
	}

	var reads []l2.ReadRequest
	for i := range count {
		r := l2.ReadRequest{Partition: at(i), Since: heads[at(i)]}
		for j := range 3 * count { // of which only those of the partition are there
			r.Keys = append(r.Keys, l2.ReadKey{Key: fmt.Sprint("k", j)})
		}
		reads = append(reads, r)
	}
	for i, a := range f.Store.Read(f.Context(), reads) {
		if a.Err != nil || headOf(a.Delta) != heads[at(i)] {
			f.Fatalf("answer %d: %+v, want the head %v", i, a, heads[at(i)])
		}
		for j, k := range a.Keys {
			if k.Found != (j%count == i) || k.Found && string(k.Entry.Value) != fmt.Sprint("v", j) {
				f.Fatalf("answer %d, key %d: %+v", i, j, k)
			}
		}
	}

	var invalidations []l2.InvalidateRequest
	var sinces []l2.SinceRequest
	for i := range count {
		invalidations = append(invalidations, l2.InvalidateRequest{
			Partition: at(i), Targets: []soracache.Target{soracache.Tag(fmt.Sprint("t", i))},
		})
		sinces = append(sinces, l2.SinceRequest{Partition: at(i), Since: heads[at(i)]})
	}
	for i, a := range f.Store.Invalidate(f.Context(), invalidations) {
		if a.Err != nil || a.Record.Prev != heads[at(i)].Position {
			f.Fatalf("answer %d: %+v, want a record after %v", i, a, heads[at(i)])
		}
	}
	for i, a := range f.Store.Since(f.Context(), sinces) {
		if a.Err != nil {
			f.Fatalf("answer %d: %v", i, a.Err)
		}
		f.expectTargets(a.Delta, soracache.Tag(fmt.Sprint("t", i)))
	}
}

func cancelled(f *fixture) {
	f.load("k", "v")
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	var errs []error
	for _, a := range f.Store.Read(ctx, []l2.ReadRequest{{Partition: f.at, Keys: []l2.ReadKey{{Key: "k"}}}, {Partition: f.at}}) {
		errs = append(errs, a.Err)
	}
	for _, a := range f.Store.Write(ctx, []l2.WriteRequest{{Partition: f.at, Op: soracache.OpRelease, Key: "k", Nonce: f.nonce()}}) {
		errs = append(errs, a.Err)
	}
	for _, a := range f.Store.Invalidate(ctx, []l2.InvalidateRequest{{Partition: f.at, Targets: []soracache.Target{soracache.Key("x")}}}) {
		errs = append(errs, a.Err)
	}
	for _, a := range f.Store.Since(ctx, []l2.SinceRequest{{Partition: f.at}, {Partition: f.at}}) {
		errs = append(errs, a.Err)
	}
	if len(errs) != 6 {
		f.Fatalf("%d answers to 6 requests", len(errs))
	}
	for i, err := range errs {
		if err != nil && !errors.Is(err, soracache.ErrUnavailable) {
			f.Fatalf("answer %d: %v", i, err)
		}
	}
	f.hit("k", "v")
}

func nameChecks() []check {
	return []check{
		{name: "no name is special", run: func(f *fixture) {
			for _, n := range names() {
				f.load(n, "value of "+n, n, "all")
			}
			for i, n := range names() {
				var reads []l2.ReadKey
				for _, m := range names() {
					reads = append(reads, l2.ReadKey{Key: m})
				}
				for j, got := range f.readAll(soracache.Stamp{}, reads...).Keys {
					m := reads[j].Key
					if got.Found != (j >= i) || got.Found && string(got.Entry.Value) != "value of "+m {
						f.Fatalf("%d names removed, and %.40q is found: %v, %.40q", i, m, got.Found, got.Entry.Value)
					}
				}
				since := f.head()
				target := soracache.Key(n)
				if i%2 == 0 {
					target = soracache.Tag(n)
				}
				f.invalidate(target)
				f.expectTargets(f.since(since), target)
			}
		}},
		{name: "every name can be leased, put and released", run: func(f *fixture) {
			for _, n := range names() {
				nonce, _ := f.lease(n)
				if a := f.renew(n, nonce); a.Reason != soracache.ReasonNone {
					f.Fatalf("renew %.40q: %s", n, a.Reason)
				}
				if a := f.release(n, nonce); a.Reason != soracache.ReasonNone {
					f.Fatalf("release %.40q: %s", n, a.Reason)
				}
				since := f.head()
				f.put(n, "put "+n, n)
				f.expectTargets(f.since(since), soracache.Key(n))
				f.hit(n, "put "+n)
				f.lease(n)
			}
			for _, n := range names() {
				f.hit(n, "put "+n)
			}
		}},
		{name: "every name can be listed by", run: func(f *fixture) {
			for _, n := range names() {
				f.load(n, "v", n, "all")
			}
			for _, n := range names() {
				if keys := f.list(n, 10); len(keys) != 1 || keys[0] != n {
					f.Fatalf("tag %.40q lists %.80q", n, keys)
				}
			}
			if got, want := f.list("all", 7), sorted(names()); strings.Join(got, "\n") != strings.Join(want, "\n") {
				f.Fatalf("listed %d names, want %d: %.2000q", len(got), len(want), got)
			}
		}},
	}
}

// names are keys and tags that an engine's own keys, patterns, separators or
// reserved members might take for something else.
func names() []string {
	return []string{
		"k", "kk", "K", "t", "tk", "tt", "e", "e:k", "l:k", "x", "h", "p", "p1",
		"{", "}", "{}", "{k}", "a}b{c", "}{", "{suite/0}", "{suite/0}t",
		"!", "!e", "!h", "!f", "!a", "!m", "!r", "!n", "t!e", "k!h",
		":", "::", "a:b", "/", "a/b", "..", "../k", "*", "?", "[a]", "k*", "\\", "\\x00", "%s", "%00", "$1",
		"\x00", "a\x00", "\x00a", "a\x00b", "a\x00c", "\x01", "\x7f", " ", " k", "k ", "\t", "\n", "\r\n", "k\n",
		"'", "\"", "`", "0", "1", "-1", "1e9", "nan", "+inf", "-inf", "(1", "[1", "nil", "null", "false",
		"é", "e\u0301", "日本語", "🦊", "\u2028", "\ufeff", "ß",
		strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("日", 85),
	}
}
