package l2test

import (
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// clockChecks are about a clock that is set back. Nothing may be served for it that
// is dead, and nobody waits for what the clock makes look as if it were to come.
func clockChecks() []check {
	return []check{
		{name: "a lease does not outlast a clock that is set back", run: timed(func(f *fixture) {
			first, _ := f.leaseOf("k", time.Second)
			f.wait(-time.Hour)
			f.wait(2 * time.Second)
			second := f.nonce()
			if a := f.want("k", second); a.Lease != soracache.LeaseGranted {
				f.Fatalf("a lease of a second is held for another %v", a.LeaseFor)
			}
			f.refuseFill(soracache.ReasonLeaseLost, "k", first, "late")
			if a := f.fill("k", second, "v"); a.Reason != soracache.ReasonNone {
				f.Fatalf("the fill under the new one: %s", a.Reason)
			}
			f.hit("k", "v")
		})},
		{name: "a holder fills although the clock was set back", run: timed(func(f *fixture) {
			nonce, _ := f.lease("k")
			f.wait(-time.Hour)
			if a := f.renew("k", nonce); a.Reason != soracache.ReasonNone {
				f.Fatalf("renewed: %s", a.Reason)
			}
			if a := f.want("k", f.nonce()); a.Lease != soracache.LeaseHeld || a.LeaseFor > leaseFor {
				f.Fatalf("to others it is %v for %v", a.Lease, a.LeaseFor)
			}
			if a := f.fill("k", nonce, "v", "t"); a.Reason != soracache.ReasonNone {
				f.Fatalf("filled: %s", a.Reason)
			}
			f.hit("k", "v")
		})},
		{name: "no lease lasts longer than any can", run: timed(func(f *fixture) {
			f.leaseOf("k", time.Hour)
			f.wait(soracache.MaxLease + time.Second)
			if a := f.want("k", f.nonce()); a.Lease != soracache.LeaseGranted {
				f.Fatalf("held for another %v", a.LeaseFor)
			}
		})},
		{name: "the rule holds although the clock was set back", run: timed(func(f *fixture) {
			f.load("k", "old", "t")
			nonce, _ := f.lease("late")
			start := f.head()
			f.wait(-time.Hour)
			r := f.invalidate(soracache.Tag("t"))
			if r.Prev != start.Position || r.Position <= start.Position {
				f.Fatalf("after %v comes %+v", start, r)
			}
			f.miss("k")
			f.refuseFill(soracache.ReasonSuperseded, "late", nonce, "v", "t")
			f.expectTargets(f.since(start), soracache.Tag("t"))
			f.load("k", "new", "t")
			f.wait(keep / 2)
			f.hit("k", "new")
		})},
		{name: "no entry outlasts a clock that is set back", run: timed(entriesSetBack)},
		{name: "an entry outlives a clock that is put right in passing", run: timed(func(f *fixture) {
			f.load("k", "v", "t")
			f.expiring("brief", soracache.Lifetime{TTL: time.Second})
			f.wait(-l2.ClockSlack / 2)
			if a := f.hit("k", "v"); a.FreshFor > ttl || a.KeepFor > keep {
				f.Fatalf("it is told to be fresh for %v and kept for %v", a.FreshFor, a.KeepFor)
			}
			if a := f.hit("brief", "v"); a.FreshFor > time.Second || a.KeepFor > time.Second {
				f.Fatalf("it is told to be fresh for %v and kept for %v", a.FreshFor, a.KeepFor)
			}
			nonce := f.nonce()
			if a := f.ask(l2.ReadKey{Key: "k", Nonce: nonce, LeaseFor: leaseFor, RefreshWithin: ttl}); !a.Found || a.Lease != soracache.LeaseGranted {
				f.Fatalf("an entry that is fresh for no longer than that is not due for refresh: %+v", a)
			}
			f.release("k", nonce)
			f.wait(l2.ClockSlack/2 + time.Second)
			f.miss("brief")
			f.hit("k", "v")
		})},
		{name: "no registration outlasts a clock that is set back", run: timed(func(f *fixture) {
			registered := func() ([]l2.Registration, time.Duration) {
				a := f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{{
					Partition: f.at, Followers: true, Targets: []soracache.Target{soracache.Key("k")},
				}})[0]
				if a.Err != nil {
					f.Fatal(a.Err)
				}
				return a.Registered, a.RegisteredFor
			}
			f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at, Register: l2.Registration{Name: "a", Bound: time.Second}}})
			f.wait(-time.Hour)
			if _, whole := registered(); whole > slack {
				f.Fatalf("a list from the future counts as whole for %v", whole)
			}
			f.wait(l2.RegistrationSlack + 2*time.Second)
			all, whole := registered()
			if slices.ContainsFunc(all, func(r l2.Registration) bool { return r.Name == "a" }) {
				f.Fatalf("registered are %v", all)
			}
			if whole < l2.RegistrationSlack {
				f.Fatalf("the list is whole for %v", whole)
			}
		})},
		{name: "a ledger ends although the clock was set back", run: timed(func(f *fixture) {
			f.head()
			f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at, Register: l2.Registration{Name: "a", Bound: time.Second}}})
			f.wait(-time.Hour)
			f.pass(whenOver)
			if !f.ended() {
				f.Fatal("it is still there")
			}
		})},
	}
}

// entriesSetBack has entries that were written at a time that is now to come: how old
// they are nobody knows.
func entriesSetBack(f *fixture) {
	brief := soracache.Lifetime{TTL: time.Second}
	keys := []string{"brief", "brief and tagged", "lasting", "lasting and tagged", "put"}
	f.expiring("brief", brief)
	f.expiring("brief and tagged", brief, "t")
	f.load("lasting", "v")
	f.load("lasting and tagged", "v", "t")
	f.put("put", "v", "t")
	f.load("unread", "v", "t")
	f.load("filled", "old", "t")
	f.wait(-time.Hour)
	f.wait(2 * time.Second)
	if x, err := f.Store.Explain(f.Context(), f.at, "unread"); err != nil || !x.Stored || x.Live || x.Reason != "expired" || x.FreshFor > ttl || x.KeepFor > keep {
		f.Fatalf("explained as %+v, %v", x, err)
	}
	if listed, _, err := f.Store.ListKeys(f.Context(), f.at, "t", "", 10); err != nil || len(listed) > 0 {
		f.Fatalf("listed are %q, %v", listed, err)
	}
	corrupt := f.Store.Counters().Corrupt
	for _, key := range keys {
		f.miss(key)
	}
	if f.Store.Counters().Corrupt != corrupt {
		f.Fatal("they count as damaged")
	}
	f.load("filled", "new", "t")
	f.put("written over", "new", "t")
	f.expiring("new and brief", brief, "t")
	for _, key := range []string{"filled", "written over"} {
		if a := f.hit(key, "new"); !within(a.FreshFor, ttl) || !within(a.KeepFor, keep) {
			f.Fatalf("%s is fresh for %v and kept for %v", key, a.FreshFor, a.KeepFor)
		}
	}
	f.hit("new and brief", "v")
	f.wait(time.Second)
	f.miss("new and brief")
	f.hit("filled", "new")
	f.wait(time.Hour - 2500*time.Millisecond) // it is half a second after they were written
	for _, key := range keys {
		f.miss(key)
	}
	for _, key := range keys {
		f.load(key, "new", "t")
		f.hit(key, "new")
	}
}
