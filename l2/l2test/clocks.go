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
