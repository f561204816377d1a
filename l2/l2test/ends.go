package l2test

import (
	"errors"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// whenOver is how long after its last use, and after all that it stored has
// expired, a ledger is gone at the latest.
const whenOver = 10 * time.Minute

// timed skips a check where time cannot be moved.
func timed(run func(f *fixture)) func(f *fixture) {
	return func(f *fixture) {
		if f.Wait == nil {
			f.Skip("the clock of this store cannot be moved")
		}
		run(f)
	}
}

// ended reports whether the partition has no ledger.
func (f *fixture) ended() bool {
	f.Helper()
	a := f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at, Guest: true}})[0]
	if a.Err != nil && !errors.Is(a.Err, soracache.ErrUnavailable) {
		f.Fatal(a.Err)
	}
	return a.Err != nil
}

// pass lets time pass in pieces, with sweeps, as it does in life.
func (f *fixture) pass(d time.Duration) {
	f.Helper()
	for ; d > 0; d -= time.Minute {
		f.wait(min(d, time.Minute))
		f.sweep()
	}
}

func endChecks() []check {
	follower := l2.Registration{Name: "a", Bound: time.Second}
	follow := func(f *fixture) {
		f.Helper()
		if a := f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at, Register: follower}})[0]; a.Err != nil {
			f.Fatal(a.Err)
		}
	}
	return []check{
		{name: "a ledger that was only read ends", run: timed(func(f *fixture) {
			start := f.head()
			follow(f)
			f.lease("k")
			f.miss("other")
			f.pass(time.Minute)
			if f.ended() || f.head() != start {
				f.Fatal("ended within a minute of its last use")
			}
			f.pass(whenOver)
			if !f.ended() {
				f.Fatal("a ledger that stores nothing is still there")
			}
			if d := f.since(start); !d.Reset || d.Epoch == start.Epoch {
				f.Fatalf("who comes back gets %+v", d)
			}
		})},
		{name: "a ledger that only recorded invalidations ends", run: timed(func(f *fixture) {
			f.invalidateMany(300, func(i int) soracache.Target { return soracache.Tag(string(rune('a' + i))) })
			f.invalidate(soracache.Key("k"), soracache.Everything())
			f.pass(whenOver)
			if !f.ended() {
				f.Fatal("a ledger that stores nothing is still there")
			}
		})},
		{name: "a ledger stays while somebody is registered", run: timed(func(f *fixture) {
			start := f.head()
			for range 20 {
				follow(f)
				f.pass(time.Minute)
			}
			if f.head() != start {
				f.Fatalf("it was %v and is %v", start, f.head())
			}
		})},
		{name: "a ledger stays while a lease is renewed", run: timed(func(f *fixture) {
			nonce, _ := f.lease("k")
			for range 12 {
				a := f.write(l2.WriteRequest{
					Op: soracache.OpRenew, Key: "k", Nonce: nonce, LeaseFor: soracache.MaxLease, Register: follower,
				})
				if a.Reason != soracache.ReasonNone {
					f.Fatalf("the lease was lost: %s", a.Reason)
				}
				f.pass(50 * time.Second)
			}
			if a := f.fill("k", nonce, "v"); a.Reason != soracache.ReasonNone {
				f.Fatalf("filled after ten minutes: %s", a.Reason)
			}
		})},
		{name: "a ledger stays while what it stored is kept, and ends then", run: timed(func(f *fixture) {
			for _, tags := range [][]string{nil, {"t"}} {
				g := f.in(l2.Partition{Namespace: map[bool]string{true: "tagged", false: "plain"}[tags != nil], Count: 1})
				g.load("k", "v", tags...) // kept for 20 minutes
				g.load("removed", "v", tags...)
				g.invalidate(soracache.Key("removed"))
				g.pass(keep - time.Minute)
				if a := g.hit("k", "v"); a.FreshFor > 0 {
					g.Fatalf("fresh for %v", a.FreshFor)
				}
				g.pass(keep/4 + whenOver) // what is listed by time may go a little later
				if !g.ended() {
					g.Fatal("all has expired, and the ledger is still there")
				}
			}
		})},
		{name: "sweeping forgets records that nobody needs", retention: brief(), run: timed(func(f *fixture) {
			start := f.head()
			f.invalidate(soracache.Tag("t"), soracache.Key("k"))
			middle := f.head()
			f.wait(time.Second)
			f.sweep()
			if d := f.since(start); !d.Reset {
				f.Fatalf("after the retention, one who comes from before gets %+v", d)
			}
			if d := f.since(middle); d.Reset || len(d.Records) > 0 {
				f.Fatalf("one who missed nothing gets %+v", d)
			}
		})},
		{name: "sweeping keeps the records of tags that entries carry", retention: brief(), run: timed(func(f *fixture) {
			f.load("dead", "v", "t")
			f.load("live", "v", "u")
			f.invalidate(soracache.Tag("t"))
			f.pass(keep / 2)
			f.miss("dead")
			f.hit("live", "v")
		})},
	}
}
