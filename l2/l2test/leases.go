package l2test

import (
	"bytes"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func leaseChecks() []check {
	return []check{
		{name: "a miss without a nonce takes no lease", run: func(f *fixture) {
			if a := f.read("k"); a.Found || a.Lease != soracache.LeaseNone {
				f.Fatalf("cold read without a nonce: %+v", a)
			}
			if a := f.want("k", f.nonce()); a.Lease != soracache.LeaseGranted {
				f.Fatalf("cold read with a nonce: %+v", a)
			}
			if a := f.read("k"); a.Found || a.Lease != soracache.LeaseNone {
				f.Fatalf("read without a nonce while leased: %+v", a)
			}
		}},
		{name: "a miss grants the lease with the head as its stamp", run: func(f *fixture) {
			f.invalidate(soracache.Tag("t"))
			a := f.readAll(soracache.Stamp{}, l2.ReadKey{Key: "k", Nonce: f.nonce(), LeaseFor: leaseFor})
			k := a.Keys[0]
			if k.Found || k.Lease != soracache.LeaseGranted || k.LeaseStamp != headOf(a.Delta) || !within(k.LeaseFor, leaseFor) {
				f.Fatalf("cold read: %+v at %+v", k, a.Delta)
			}
		}},
		{name: "a second reader sees the lease held, and for how long", run: func(f *fixture) {
			f.lease("k")
			second := f.want("k", f.nonce())
			if second.Found || second.Lease != soracache.LeaseHeld || !within(second.LeaseFor, leaseFor) || second.LeaseFor <= 0 {
				f.Fatalf("second reader: %+v", second)
			}
			f.wait(5 * time.Millisecond)
			if third := f.want("k", f.nonce()); third.Lease != soracache.LeaseHeld || third.LeaseFor >= second.LeaseFor {
				f.Fatalf("third reader: %+v, after %v were left", third, second.LeaseFor)
			}
		}},
		{name: "one read asking twice is granted once", run: func(f *fixture) {
			a := f.readAll(soracache.Stamp{},
				l2.ReadKey{Key: "k", Nonce: f.nonce(), LeaseFor: leaseFor},
				l2.ReadKey{Key: "k", Nonce: f.nonce(), LeaseFor: leaseFor})
			if a.Keys[0].Lease != soracache.LeaseGranted || a.Keys[1].Lease != soracache.LeaseHeld {
				f.Fatalf("the same key twice: %+v", a.Keys)
			}
		}},
		{name: "the same nonce is granted again with the lease's own stamp", run: func(f *fixture) {
			nonce, stamp := f.lease("k")
			f.invalidate(soracache.Key("other"), soracache.Tag("other"))
			for range 2 {
				a := f.want("k", nonce)
				if a.Lease != soracache.LeaseGranted || a.LeaseStamp != stamp || a.LeaseFor <= 0 || a.LeaseFor > leaseFor {
					f.Fatalf("asked again: %+v, want the stamp %v", a, stamp)
				}
			}
			if a := f.want("k", f.nonce()); a.Lease != soracache.LeaseHeld {
				f.Fatalf("somebody else: %+v", a)
			}
			if a := f.fill("k", nonce, "v"); a.Reason != soracache.ReasonNone || a.Stamp != stamp {
				f.Fatalf("fill: %+v", a)
			}
		}},
		{name: "a fill stores all particulars with the lease's stamp", run: fillStoresAll},
		{name: "a fill ends the lease", run: func(f *fixture) {
			nonce, _ := f.lease("k")
			f.fill("k", nonce, "first")
			f.refuseFill(soracache.ReasonLeaseLost, "k", nonce, "second")
			f.hit("k", "first")
			f.lease("k")
		}},
		{name: "a fill without the lease is not stored", run: func(f *fixture) {
			f.refuseFill(soracache.ReasonLeaseLost, "k", f.nonce(), "nobody's")
			nonce, _ := f.lease("k")
			f.refuseFill(soracache.ReasonLeaseLost, "k", f.nonce(), "foreign")
			f.miss("k")
			f.refuseFill(soracache.ReasonLeaseLost, "k2", nonce, "of another key")
			f.miss("k2")
			if a := f.fill("k", nonce, "v"); a.Reason != soracache.ReasonNone {
				f.Fatalf("the holder's fill after foreign ones: %+v", a)
			}
			f.hit("k", "v")
		}},
		{name: "a late fill with an equal stamp does not overwrite a newer one", run: lateFill},
		{name: "a lease that ran out cannot be filled or renewed", run: func(f *fixture) {
			nonce, _ := f.leaseOf("k", 20*time.Millisecond)
			f.wait(40 * time.Millisecond)
			if a := f.renew("k", nonce); a.Reason != soracache.ReasonLeaseLost {
				f.Fatalf("renewed: %+v", a)
			}
			f.refuseFill(soracache.ReasonLeaseLost, "k", nonce, "late")
			f.miss("k")
			f.lease("k")
		}},
		{name: "a live entry grants no lease unless it is due for refresh", run: func(f *fixture) {
			f.load("k", "v")
			for _, c := range []struct {
				within time.Duration
				nonce  soracache.Lease
				want   soracache.LeaseState
			}{
				{0, f.nonce(), soracache.LeaseNone},
				{ttl - slack, f.nonce(), soracache.LeaseNone},
				{ttl, soracache.Lease{}, soracache.LeaseNone},
				{ttl, f.nonce(), soracache.LeaseGranted},
				{ttl, f.nonce(), soracache.LeaseHeld},
				{0, f.nonce(), soracache.LeaseNone},
			} {
				a := f.ask(l2.ReadKey{Key: "k", Nonce: c.nonce, LeaseFor: leaseFor, RefreshWithin: c.within})
				if !a.Found || string(a.Entry.Value) != "v" || a.Lease != c.want {
					f.Fatalf("refresh within %v, nonce %v: %+v, want lease state %d", c.within, c.nonce, a, c.want)
				}
			}
		}},
		{name: "a refresh replaces the entry", run: func(f *fixture) {
			first := f.load("k", "old")
			f.invalidate(soracache.Tag("other"))
			second := f.load("k", "new")
			if a := f.hit("k", "new"); a.Stamp != second || second == first {
				f.Fatalf("after the refresh: %+v; the leases were %v and %v", a, first, second)
			}
		}},
		{name: "release frees the lease and keeps the entry", run: func(f *fixture) {
			f.load("k", "v")
			nonce, _ := f.lease("k")
			if a := f.release("k", f.nonce()); a.Reason != soracache.ReasonLeaseLost {
				f.Fatalf("foreign release: %+v", a)
			}
			if a := f.ask(l2.ReadKey{Key: "k", Nonce: f.nonce(), RefreshWithin: keep, LeaseFor: leaseFor}); a.Lease != soracache.LeaseHeld {
				f.Fatalf("after a foreign release: %+v", a)
			}
			if a := f.release("k", nonce); a.Reason != soracache.ReasonNone {
				f.Fatalf("release: %+v", a)
			}
			f.refuseFill(soracache.ReasonLeaseLost, "k", nonce, "after release")
			f.hit("k", "v")
			f.lease("k")
		}},
		{name: "renew extends the lease", run: func(f *fixture) {
			nonce, stamp := f.leaseOf("k", 60*time.Millisecond)
			if a := f.renew("k", f.nonce()); a.Reason != soracache.ReasonLeaseLost {
				f.Fatalf("somebody else's renewal: %+v", a)
			}
			if a := f.renew("k", nonce); a.Reason != soracache.ReasonNone || a.Stamp != stamp {
				f.Fatalf("renew: %+v, want the stamp %v", a, stamp)
			}
			f.wait(80 * time.Millisecond)
			if a := f.want("k", f.nonce()); a.Lease != soracache.LeaseHeld || !within(a.LeaseFor, leaseFor) {
				f.Fatalf("another reader after the renewal: %+v", a)
			}
			if a := f.fill("k", nonce, "v"); a.Reason != soracache.ReasonNone || a.Stamp != stamp {
				f.Fatalf("fill after the renewal: %+v", a)
			}
		}},
		{name: "a lease that ended cannot be renewed or released", run: lostLeases},
		{name: "the zero nonce holds no lease", run: func(f *fixture) {
			for _, op := range []soracache.WriteOp{soracache.OpFill, soracache.OpRenew, soracache.OpRelease} {
				a := f.Store.Write(f.Context(), []l2.WriteRequest{{
					Partition: f.at, Op: op, Key: "k", LeaseFor: leaseFor,
					Entry: value("v"), Lifetime: soracache.Lifetime{TTL: ttl},
				}})[0]
				if a.Err == nil && a.Reason == soracache.ReasonNone {
					f.Fatalf("write %d without a nonce took effect: %+v", op, a)
				}
			}
			f.miss("k")
		}},
	}
}

func fillStoresAll(f *fixture) {
	big := bytes.Repeat([]byte{0, 1, 0xff, '\r', '\n'}, 200_000)
	entries := map[string]soracache.Entry{
		"plain":     {Value: []byte("v")},
		"empty":     {Encoding: "json"},
		"binary":    {Value: []byte{0, 0xff, '\r', '\n', 0}, Encoding: "raw", ETag: `W/"1"`},
		"big":       {Value: big, Tags: []string{"t"}},
		"tagged":    {Value: []byte("v"), Tags: []string{"a", "b", "c"}, Encoding: "proto"},
		"many tags": {Value: []byte("v"), Tags: sorted(strings.Split("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_", ""))},
		"not found": {Kind: soracache.KindNotFound, Tags: []string{"t"}},

		strings.Repeat("long", 256): {Value: []byte("v"), Tags: []string{strings.Repeat("t", 256)}},
		"error":                     {Kind: soracache.KindError, Value: []byte("boom"), Encoding: "x-own", ETag: strings.Repeat("e", 255)},
	}
	for key, e := range entries {
		nonce, stamp := f.lease(key)
		f.invalidate(soracache.Tag("unrelated")) // the head moves on, the stamp does not
		w := l2.WriteRequest{
			Op: soracache.OpFill, Key: key, Nonce: nonce, Entry: e,
			Lifetime: soracache.Lifetime{TTL: ttl, Keep: keep, L1: 90 * time.Second},
		}
		if a := f.write(w); a.Reason != soracache.ReasonNone || a.Stamp != stamp {
			f.Fatalf("fill of %q: %+v", key, a)
		}
		a := f.read(key)
		if !a.Found || !sameEntry(a.Entry, e) || a.Stamp != stamp || a.L1 != 90*time.Second {
			f.Fatalf("%q was read back otherwise: stamp %v, want %v; %+.300v", key, a.Stamp, stamp, a)
		}
		if !within(a.FreshFor, ttl) || !within(a.KeepFor, keep) {
			f.Fatalf("%q: fresh for %v, kept for %v", key, a.FreshFor, a.KeepFor)
		}
	}
}

// lateFill is trap 4: two leases of one stamp, and the first holder comes
// last.
func lateFill(f *fixture) {
	first, stamp := f.leaseOf("k", 20*time.Millisecond)
	var second soracache.Lease
	f.eventually("the first lease runs out", func() bool {
		second = f.nonce()
		a := f.want("k", second)
		if a.Lease == soracache.LeaseGranted && a.LeaseStamp != stamp {
			f.Fatalf("the second lease is of %v, want %v", a.LeaseStamp, stamp)
		}
		return a.Lease == soracache.LeaseGranted
	})
	f.refuseFill(soracache.ReasonLeaseLost, "k", first, "old")
	f.miss("k")
	if a := f.fill("k", second, "new"); a.Reason != soracache.ReasonNone {
		f.Fatalf("the holder's fill: %+v", a)
	}
	f.refuseFill(soracache.ReasonLeaseLost, "k", first, "old")
	f.hit("k", "new")
}

func lostLeases(f *fixture) {
	endings := map[string]func(nonce soracache.Lease){
		"filled":      func(n soracache.Lease) { f.fill("k", n, "v") },
		"released":    func(n soracache.Lease) { f.release("k", n) },
		"key removed": func(soracache.Lease) { f.invalidate(soracache.Key("k")) },
		"cleared":     func(soracache.Lease) { f.invalidate(soracache.Everything()) },
		"overwritten": func(soracache.Lease) { f.put("k", "v") },
		"superseded": func(n soracache.Lease) {
			f.invalidate(soracache.Tag("t"))
			f.refuseFill(soracache.ReasonSuperseded, "k", n, "v", "t")
		},
	}
	for name, end := range endings {
		nonce, _ := f.lease("k")
		end(nonce)
		for _, n := range []soracache.Lease{nonce, f.nonce()} {
			if a := f.renew("k", n); a.Reason != soracache.ReasonLeaseLost {
				f.Fatalf("%s, then renew: %+v", name, a)
			}
		}
		next, _ := f.lease("k")
		if a := f.release("k", nonce); a.Reason != soracache.ReasonLeaseLost {
			f.Fatalf("%s, leased again, then release: %+v", name, a)
		}
		if a := f.fill("k", next, "next"); a.Reason != soracache.ReasonNone {
			f.Fatalf("%s, and the next fill: %+v", name, a)
		}
	}
}

func lifetimeChecks() []check {
	return []check{
		{name: "past its TTL an entry is found stale, and due for refresh", run: func(f *fixture) {
			stamp := f.expiring("k", soracache.Lifetime{TTL: 10 * time.Millisecond, Keep: keep}, "t")
			f.eventually("it becomes stale", func() bool { return f.hit("k", "v").FreshFor <= 0 })
			nonce := f.nonce()
			a := f.want("k", nonce)
			if !a.Found || a.Stamp != stamp || !within(a.KeepFor, keep) || a.Lease != soracache.LeaseGranted {
				f.Fatalf("stale, with a nonce: %+v", a)
			}
			if a := f.want("k", f.nonce()); !a.Found || a.Lease != soracache.LeaseHeld {
				f.Fatalf("stale, second reader: %+v", a)
			}
			f.fill("k", nonce, "v2", "t")
			if a := f.hit("k", "v2"); !within(a.FreshFor, ttl) {
				f.Fatalf("refreshed: %+v", a)
			}
		}},
		{name: "a stale entry dies by invalidation like a fresh one", run: func(f *fixture) {
			f.expiring("k", soracache.Lifetime{TTL: 10 * time.Millisecond, Keep: keep}, "t")
			f.eventually("it becomes stale", func() bool { return f.hit("k", "v").FreshFor <= 0 })
			f.invalidate(soracache.Tag("t"))
			f.miss("k")
		}},
		{name: "past its keep time an entry is a miss", run: func(f *fixture) {
			f.expiring("k", soracache.Lifetime{TTL: 10 * time.Millisecond, Keep: 25 * time.Millisecond}, "t")
			f.eventually("it expires", func() bool { return !f.read("k").Found })
			f.lease("k")
		}},
		{name: "without a keep time an entry is kept for its TTL", run: func(f *fixture) {
			f.expiring("k", soracache.Lifetime{TTL: 20 * time.Millisecond}, "t")
			f.eventually("it expires", func() bool {
				a := f.read("k")
				if a.Found && a.FreshFor <= 0 {
					f.Fatalf("stale, though it has no keep time: %+v", a)
				}
				return !a.Found
			})
		}},
		{name: "a refresh prolongs the entry's life", run: func(f *fixture) {
			f.expiring("k", soracache.Lifetime{TTL: 10 * time.Millisecond, Keep: 30 * time.Millisecond}, "t")
			f.load("k", "long", "t")
			f.wait(60 * time.Millisecond)
			f.hit("k", "long")
		}},
		{name: "a put shortens and prolongs like a fill", run: func(f *fixture) {
			f.load("k", "long")
			f.write(l2.WriteRequest{
				Op: soracache.OpPut, Key: "k", Entry: value("short"), Lifetime: soracache.Lifetime{TTL: 20 * time.Millisecond},
			})
			f.eventually("it expires", func() bool { return !f.read("k").Found })
			f.put("k", "again")
			f.wait(30 * time.Millisecond)
			f.hit("k", "again")
		}},
	}
}

// expiring loads the value "v" for a short time.
func (f *fixture) expiring(key string, life soracache.Lifetime, tags ...string) soracache.Stamp {
	f.Helper()
	nonce, stamp := f.lease(key)
	a := f.write(l2.WriteRequest{
		Op: soracache.OpFill, Key: key, Nonce: nonce, Entry: value("v", tags...), Lifetime: life,
	})
	if a.Reason != soracache.ReasonNone {
		f.Fatalf("fill: %+v", a)
	}
	return stamp
}
