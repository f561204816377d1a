package l2test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// list pages through the keys of a tag and returns them sorted, each once.
func (f *fixture) list(tag string, limit int) []string {
	f.Helper()
	var all []string
	cursor := ""
	for range 10_000 {
		keys, next, err := f.Store.ListKeys(f.Context(), f.at, tag, cursor, limit)
		if err != nil {
			f.Fatalf("list %.40q from %q: %v", tag, cursor, err)
		}
		all = append(all, keys...)
		if next == "" {
			return sorted(all)
		}
		cursor = next
	}
	f.Fatalf("listing %.40q does not end", tag)
	return nil
}

// reclaim walks to the end and returns how many entries were deleted.
func (f *fixture) reclaim(tag string) (deleted int) {
	f.Helper()
	cursor := ""
	for range 10_000 {
		next, n, err := f.Store.Reclaim(f.Context(), f.at, tag, cursor)
		if err != nil {
			f.Fatalf("reclaim %.40q from %q: %v", tag, cursor, err)
		}
		deleted += n
		if next == "" {
			return deleted
		}
		cursor = next
	}
	f.Fatalf("reclaiming %.40q does not end", tag)
	return 0
}

// sweep does all the housekeeping that is due.
func (f *fixture) sweep() {
	f.Helper()
	if f.Overdue != nil {
		f.Overdue(f.at)
	}
	for range 10_000 {
		more, err := f.Store.Sweep(f.Context())
		if err != nil {
			f.Fatalf("sweep: %v", err)
		}
		if !more {
			return
		}
	}
	f.Fatalf("sweeping does not end")
}

func (f *fixture) explain(key string) l2.Explanation {
	f.Helper()
	x, err := f.Store.Explain(f.Context(), f.at, key)
	if err != nil {
		f.Fatalf("explain %q: %v", key, err)
	}
	return x
}

// loadMany loads keys by name with the given tags, for times that spread over
// several buckets.
func (f *fixture) loadMany(prefix string, n int, tags ...string) []string {
	f.Helper()
	var keys []string
	var reads []l2.ReadKey
	var fills []l2.WriteRequest
	for i := range n {
		r := l2.ReadKey{Key: fmt.Sprintf("%s%04d", prefix, i), Nonce: f.nonce(), LeaseFor: leaseFor}
		keys, reads = append(keys, r.Key), append(reads, r)
		fills = append(fills, l2.WriteRequest{
			Partition: f.at, Op: soracache.OpFill, Key: r.Key, Nonce: r.Nonce,
			Entry: value(prefix, tags...), Lifetime: soracache.Lifetime{TTL: time.Minute << (i % 10)},
		})
	}
	f.readAll(soracache.Stamp{}, reads...)
	for i, a := range f.Store.Write(f.Context(), fills) {
		if a.Err != nil || a.Reason != soracache.ReasonNone {
			f.Fatalf("fill of %q: %+v", keys[i], a)
		}
	}
	return keys
}

func tagSetChecks() []check {
	return []check{
		{name: "a listing holds the live keys of the tag and no others", run: func(f *fixture) {
			want := f.loadMany("live", 300, "t")
			want = append(want, f.loadMany("both", 50, "t", "u")...)
			f.loadMany("other", 100, "u")
			f.loadMany("plain", 50)
			f.loadMany("dead", 60, "t", "killed")
			f.invalidate(soracache.Tag("killed"))
			removed := f.loadMany("removed", 20, "t")
			f.invalidateMany(len(removed), func(i int) soracache.Target { return soracache.Key(removed[i]) })
			for _, key := range f.loadMany("retagged", 20, "t") {
				f.load(key, "v", "u")
			}
			for _, key := range f.loadMany("put over", 20, "t") {
				f.put(key, "v")
			}
			f.put("put", "v", "t")
			want = append(want, "put")
			for _, limit := range []int{1, 50, 1000} {
				if got := f.list("t", limit); !slices.Equal(got, sorted(want)) {
					f.Fatalf("pages of %d list %d keys, want %d", limit, len(got), len(want))
				}
			}
			if keys, _, _ := f.Store.ListKeys(f.Context(), f.at, "t", "", 20); len(keys) > 100 {
				f.Fatalf("a page of about 20 holds %d keys", len(keys))
			}
			if got := f.list("nobody has it", 10); len(got) > 0 {
				f.Fatalf("an unknown tag lists %q", got)
			}
		}},
		{name: "an invalidated tag lists nothing, at once", run: func(f *fixture) {
			f.loadMany("k", 100, "t", "u")
			f.invalidate(soracache.Tag("t"))
			if got := f.list("t", 10); len(got) > 0 {
				f.Fatalf("listed %q", got)
			}
			if got := f.list("u", 10); len(got) > 0 {
				f.Fatalf("listed %q by their other tag", got)
			}
			f.load("k0001", "new", "t")
			if got := f.list("t", 10); !slices.Equal(got, []string{"k0001"}) {
				f.Fatalf("listed %q", got)
			}
			f.invalidate(soracache.Everything())
			if got := f.list("t", 10); len(got) > 0 {
				f.Fatalf("listed %q after a clear", got)
			}
		}},
		{name: "what is there during the whole listing is listed", run: func(f *fixture) {
			want := f.loadMany("stays", 200, "t")
			var got []string
			cursor := ""
			for i := 0; i == 0 || cursor != ""; i++ {
				keys, next, err := f.Store.ListKeys(f.Context(), f.at, "t", cursor, 10)
				if err != nil || i > 10_000 {
					f.Fatalf("page %d: %v", i, err)
				}
				got = append(got, keys...)
				cursor = next
				if i < 30 {
					f.loadMany(fmt.Sprint("comes", i), 10, "t")
					f.put(fmt.Sprintf("comes%d%04d", i, 3), "goes")
				}
			}
			got = sorted(got)
			for _, key := range want {
				if _, found := slices.BinarySearch(got, key); !found {
					f.Fatalf("%q was not listed", key)
				}
			}
		}},
		{name: "an expired key is not listed", run: func(f *fixture) {
			f.expiring("short", soracache.Lifetime{TTL: 15 * time.Millisecond}, "t")
			f.load("long", "v", "t")
			f.eventually("one key is left", func() bool { return slices.Equal(f.list("t", 10), []string{"long"}) })
		}},
		{name: "a refreshed key stays listed for its new time", run: func(f *fixture) {
			f.expiring("k", soracache.Lifetime{TTL: 15 * time.Millisecond}, "t")
			f.load("k", "new", "t")
			f.wait(40 * time.Millisecond)
			f.sweep()
			f.reclaim("t")
			if got := f.list("t", 10); !slices.Equal(got, []string{"k"}) {
				f.Fatalf("listed %q", got)
			}
		}},
		{name: "a malformed cursor is refused", run: func(f *fixture) {
			f.loadMany("k", 50, "t")
			for _, cursor := range []string{"garbage!", "\x00\xff\xfe", "-1:-1:-1:-1:-1", " ", "{}", "日本"} {
				_, _, err := f.Store.ListKeys(f.Context(), f.at, "t", cursor, 10)
				f.refused(err)
				for _, tag := range []string{"t", ""} {
					_, _, err = f.Store.Reclaim(f.Context(), f.at, tag, cursor)
					f.refused(err)
				}
			}
		}},
		{name: "reclaim by tag deletes the dead and only the dead", run: func(f *fixture) {
			dead := f.loadMany("k", 300, "t")
			f.invalidate(soracache.Tag("t"))
			for _, key := range dead[:50] {
				f.load(key, "new", "t")
			}
			f.loadMany("other", 50, "u")
			f.lease(dead[60])
			if n := f.reclaim("t"); n != 250 && n != 249 { // one was met by a reader
				f.Fatalf("reclaimed %d, want 250", n)
			}
			for i, key := range dead {
				if x := f.explain(key); x.Stored != (i < 50) || x.Live != (i < 50) {
					f.Fatalf("after the reclaim %q is %+v", key, x)
				}
			}
			if got := f.list("u", 100); len(got) != 50 {
				f.Fatalf("of another tag %d are left", len(got))
			}
			if got := f.list("t", 100); !slices.Equal(got, dead[:50]) {
				f.Fatalf("of the tag %d are left", len(got))
			}
			if a := f.want(dead[60], f.nonce()); a.Lease != soracache.LeaseHeld {
				f.Fatalf("the lease did not survive: %+v", a)
			}
			if n := f.reclaim("t"); n != 0 {
				f.Fatalf("a second reclaim deleted %d", n)
			}
		}},
		{name: "reclaim of a partition deletes what a clear killed", run: func(f *fixture) {
			reclaimAll(f, 0, func() { f.invalidate(soracache.Everything()) })
		}},
		{name: "reclaim of a partition deletes what an epoch killed", run: func(f *fixture) {
			reclaimAll(f, 0, func() { f.since(soracache.Stamp{Epoch: f.unknown(), Position: 1}) })
		}},
		{name: "reclaim of a partition deletes what a tag killed", run: func(f *fixture) {
			reclaimAll(f, 100, func() { f.invalidate(soracache.Tag("t")) })
		}},
		{name: "sweeping takes nothing that lives", run: func(f *fixture) {
			f.expiring("short", soracache.Lifetime{TTL: 10 * time.Millisecond, Keep: 20 * time.Millisecond}, "t", "only")
			f.expiring("stale", soracache.Lifetime{TTL: 10 * time.Millisecond, Keep: keep}, "t")
			f.load("long", "v", "t")
			f.load("plain", "v")
			f.lease("leased")
			f.eventually("the short one expires", func() bool { return !f.read("short").Found })
			f.sweep()
			f.hit("stale", "v")
			f.hit("long", "v")
			f.hit("plain", "v")
			if a := f.want("leased", f.nonce()); a.Lease != soracache.LeaseHeld {
				f.Fatalf("the lease did not survive: %+v", a)
			}
			if got := f.list("t", 10); !slices.Equal(got, []string{"long", "stale"}) {
				f.Fatalf("listed %q", got)
			}
			f.miss("short")
		}},
	}
}

// reclaimAll loads entries with a tag and 100 without, kills some, loads one
// more and expects a walk over the partition to delete what is dead.
func reclaimAll(f *fixture, survivors int, kill func()) {
	tagged, plain := f.loadMany("tagged", 200, "t"), f.loadMany("plain", 100)
	kill()
	f.load("new", "v", "t")
	if n, want := f.reclaim(""), len(tagged)+len(plain)-survivors; n != want {
		f.Fatalf("reclaimed %d, want %d", n, want)
	}
	for _, key := range tagged {
		if x := f.explain(key); x.Stored {
			f.Fatalf("after the reclaim %q is %+v", key, x)
		}
	}
	for _, key := range plain[:survivors] {
		f.hit(key, "plain")
	}
	f.hit("new", "v")
}

func explainChecks() []check {
	return []check{
		{name: "explain tells of nothing", run: func(f *fixture) {
			head := f.head()
			if x := f.explain("k"); x.Stored || x.Readable || x.Live || x.Leased || x.Ledger != head {
				f.Fatalf("of nothing: %+v, the head is %v", x, head)
			}
		}},
		{name: "explain tells of a live entry and takes no lease", run: func(f *fixture) {
			stamp := f.load("k", "v", "a", "b")
			f.invalidate(soracache.Tag("other"))
			x := f.explain("k")
			if !x.Stored || !x.Readable || !x.Live || x.Reason != "" || x.Stamp != stamp || x.Ledger != f.head() ||
				!sameEntry(x.Entry, soracache.Entry{Tags: []string{"a", "b"}, Encoding: "raw"}) || x.ValueBytes != 1 || !within(x.FreshFor, ttl) || !within(x.KeepFor, keep) || x.Leased {
				f.Fatalf("of a live entry: %+v", x)
			}
			f.lease("k")
		}},
		{name: "explain reads the beginning of a large entry", run: func(f *fixture) {
			for _, size := range []int{l2.InlineBytes - 200, l2.InlineBytes - 54, l2.InlineBytes - 53, l2.InlineBytes, 3 << 20} {
				f.put("k", strings.Repeat("v", size), "a", "b")
				if x := f.explain("k"); !x.Live || x.ValueBytes != size || x.Entry.Value != nil || !slices.Equal(x.Entry.Tags, []string{"a", "b"}) {
					f.Fatalf("of a live entry of %d bytes: %+v", size, x)
				}
			}
			if f.Tamper != nil { // what is wrong with the end is not seen
				f.Tamper(f.at, "k", func(b []byte) []byte { b[len(b)-1]++; return b })
				if x := f.explain("k"); !x.Readable || x.ValueBytes != 3<<20 {
					f.Fatalf("its end is damaged: %+v", x)
				}
				f.Tamper(f.at, "k", func(b []byte) []byte { b[3]++; return b })
				if x := f.explain("k"); x.Readable || x.ValueBytes != 0 {
					f.Fatalf("its head is damaged: %+v", x)
				}
			}
			f.put("k", strings.Repeat("v", 3<<20), "a", "b")
			r := f.invalidate(soracache.Tag("b"))
			if x := f.explain("k"); x.Live || x.KilledBy.Position != r.Position || x.ValueBytes != 3<<20 {
				f.Fatalf("killed by %+v, explained as %+v", r, x)
			}
		}},
		{name: "explain names the record that killed an entry", run: func(f *fixture) {
			for _, target := range []soracache.Target{soracache.Tag("b"), soracache.Everything()} {
				f.load("k", "v", "a", "b")
				r := f.invalidate(target, soracache.Tag("x"))
				f.invalidate(soracache.Tag("y"))
				x := f.explain("k")
				if !x.Stored || !x.Readable || x.Live || x.Reason == "" || stampOf(x.KilledBy) != stampOf(r) ||
					!slices.Contains(x.KilledBy.Targets, target) {
					f.Fatalf("killed by %s, explained as %+v, want the record %+v", target, x, r)
				}
			}
		}},
		{name: "explain names the record that removed a key", run: func(f *fixture) {
			f.load("k", "v", "a")
			r := f.invalidate(soracache.Key("k"), soracache.Tag("x"))
			f.expectRemoved("k", r, soracache.Key("k"))
			f.expectRemoved("other", soracache.Record{}, soracache.Target{})
			r = f.invalidate(soracache.Everything())
			f.expectRemoved("k", r, soracache.Everything())
			f.expectRemoved("other", r, soracache.Everything())
			r = f.invalidate(soracache.Key("k"))
			f.expectRemoved("k", r, soracache.Key("k"))
			f.put("k", "v")
			if x := f.explain("k"); !x.Live || x.Reason != "" || x.KilledBy.Position != 0 {
				f.Fatalf("put after it was removed, explained as %+v", x)
			}
		}},
		{name: "explain tells of an entry of another epoch", run: func(f *fixture) {
			stamp := f.load("k", "v", "a")
			f.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
			x := f.explain("k")
			if x.Live || x.Ledger.Epoch == stamp.Epoch || x.Stored && x.Reason == "" {
				f.Fatalf("of another epoch: %+v", x)
			}
		}},
		{name: "explain tells of a lease", run: func(f *fixture) {
			_, stamp := f.lease("k")
			x := f.explain("k")
			if x.Stored || !x.Leased || x.LeaseStamp != stamp || !within(x.LeaseFor, leaseFor) {
				f.Fatalf("leased at %v, explained as %+v", stamp, x)
			}
			f.invalidate(soracache.Everything())
			if x := f.explain("k"); x.Leased {
				f.Fatalf("the lease is from before a clear: %+v", x)
			}
		}},
		{name: "explain tells of an entry that has expired", run: func(f *fixture) {
			f.expiring("k", soracache.Lifetime{TTL: 10 * time.Millisecond}, "a")
			f.eventually("it is dead", func() bool {
				x := f.explain("k")
				if !x.Live && x.Stored && x.Reason == "" {
					f.Fatalf("dead for no reason: %+v", x)
				}
				return !x.Live
			})
		}},
	}
}

// expectRemoved expects that nothing is stored under a key, and which record is
// said to have removed it.
func (f *fixture) expectRemoved(key string, by soracache.Record, named soracache.Target) {
	f.Helper()
	x := f.explain(key)
	why := ""
	if by.Position != 0 {
		why = named.String() + " was invalidated"
	}
	if x.Stored || x.Live || x.Reason != why || stampOf(x.KilledBy) != stampOf(by) ||
		by.Position != 0 && !slices.Equal(x.KilledBy.Targets, []soracache.Target{named}) {
		f.Fatalf("%q is explained as %+v, want %q by %+v", key, x, why, by)
	}
}
