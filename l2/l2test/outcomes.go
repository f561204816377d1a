package l2test

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// remember is how long outcomes are remembered where time is not the point.
const remember = 30 * time.Second

// nonceOf returns a nonce of a holder that nobody had.
func (f *fixture) nonceOf(holder uint64) soracache.Lease {
	*f.nonces++
	var n soracache.Lease
	binary.BigEndian.PutUint64(n[:], *f.nonces)
	return n.HeldBy(holder)
}

// finish releases a lease with an outcome.
func (f *fixture) finish(key string, nonce soracache.Lease, outcome soracache.LoadOutcome, d time.Duration) soracache.Reason {
	f.Helper()
	return f.write(l2.WriteRequest{Op: soracache.OpRelease, Key: key, Nonce: nonce, Outcome: outcome, Remember: d}).Reason
}

// answers checks what a wish for a lease is answered.
func (f *fixture) answers(what string, a l2.KeyAnswer, state soracache.LeaseState, why soracache.Refusal) {
	f.Helper()
	if a.Lease != state || a.Refusal != why {
		f.Fatalf("%s: %s (%s), want %s (%s)", what, a.Lease, a.Refusal, state, why)
	}
	if (state == soracache.LeaseGranted || state == soracache.LeaseHeld) != (a.LeaseFor > 0) {
		f.Fatalf("%s: %s for %v", what, a.Lease, a.LeaseFor)
	}
}

// The numbers of the processes in the checks below.
const (
	failing uint64 = 1 + iota
	another
	third
)

func outcomeChecks() []check {
	const granted, held, refused = soracache.LeaseGranted, soracache.LeaseHeld, soracache.LeaseRefused
	const none, passed = soracache.RefusalNone, soracache.RefusalPassed
	// left has a load leave nothing.
	left := func(f *fixture, key string, holder uint64, outcome soracache.LoadOutcome, d time.Duration) {
		f.Helper()
		nonce := f.nonceOf(holder)
		if a := f.want(key, nonce); a.Lease != granted {
			f.Fatalf("no lease of %s for %d: %+v", key, holder, a)
		}
		if why := f.finish(key, nonce, outcome, d); why != soracache.ReasonNone {
			f.Fatalf("release: %s", why)
		}
	}
	return []check{
		{name: "while a load is remembered that left nothing, nobody waits and a free lease is given", run: func(f *fixture) {
			for key, outcome := range map[string]soracache.LoadOutcome{"failed": soracache.LoadFailed, "refused": soracache.LoadNotStorable} {
				left(f, key, failing, outcome, remember)
				nonce := f.nonceOf(another)
				a := f.want(key, nonce)
				f.answers("the lease that is free", a, granted, passed)
				f.answers("the same nonce again", f.want(key, nonce), granted, passed)
				for _, holder := range []uint64{0, failing, another, third} {
					f.answers("while it is held", f.want(key, f.nonceOf(holder)), refused, passed)
				}
				if a := f.read(key); a.Lease != soracache.LeaseNone || a.Refusal != none {
					f.Fatalf("without a wish: %+v", a)
				}
				f.answers("another key", f.want(key+"2", f.nonceOf(another)), granted, none)
				f.answers("another key, held", f.want(key+"2", f.nonceOf(third)), held, none)
			}
		}},
		{name: "what is stored ends what is remembered", run: func(f *fixture) {
			for key, store := range map[string]func(key string){
				"filled": func(key string) {
					nonce := f.nonceOf(another)
					f.want(key, nonce)
					f.fill(key, nonce, "v")
				},
				"put": func(key string) { f.put(key, "v") },
			} {
				left(f, key, failing, soracache.LoadFailed, remember)
				store(key)
				f.hit(key, "v")
				f.invalidate(soracache.Key(key))
				f.answers("after it", f.want(key, f.nonceOf(failing)), granted, none)
				f.answers("after it, held", f.want(key, f.nonceOf(another)), held, none)
			}
		}},
		{name: "an outcome is remembered for as long as was said", run: func(f *fixture) {
			left(f, "k", failing, soracache.LoadFailed, 40*time.Millisecond)
			f.wait(60 * time.Millisecond)
			f.answers("later", f.want("k", f.nonceOf(failing)), granted, none)
			f.answers("later, held", f.want("k", f.nonceOf(another)), held, none)
		}},
		{name: "nothing is remembered of a lease handed back, nor for no time", run: func(f *fixture) {
			left(f, "back", failing, soracache.LoadHandedBack, remember)
			left(f, "off", failing, soracache.LoadFailed, 0)
			for _, key := range []string{"back", "off"} {
				f.answers(key, f.want(key, f.nonceOf(failing)), granted, none)
				f.answers(key+", held", f.want(key, f.nonceOf(another)), held, none)
			}
		}},
		{name: "only the nonce that holds the lease writes an outcome", run: func(f *fixture) {
			nonce := f.nonceOf(failing)
			f.want("k", nonce)
			for _, foreign := range []soracache.Lease{f.nonceOf(failing), f.nonceOf(another), {}} {
				if why := f.finish("k", foreign, soracache.LoadFailed, remember); why != soracache.ReasonLeaseLost {
					f.Fatalf("a foreign release: %s", why)
				}
			}
			f.answers("after foreign releases", f.want("k", f.nonceOf(another)), held, none)
			f.invalidate(soracache.Key("k")) // ends the lease
			if why := f.finish("k", nonce, soracache.LoadFailed, remember); why != soracache.ReasonLeaseLost {
				f.Fatalf("a late release: %s", why)
			}
			f.answers("after a late release", f.want("k", f.nonceOf(another)), granted, none)
			f.answers("after a late release, held", f.want("k", f.nonceOf(third)), held, none)
		}},
		{name: "the lease of who failed is taken over, and nobody else's", run: func(f *fixture) {
			left(f, "k", failing, soracache.LoadFailed, remember)
			again := f.nonceOf(failing)
			f.answers("it asks again", f.want("k", again), granted, passed)
			f.answers("its other call", f.want("k", f.nonceOf(failing)), refused, passed)
			taken := f.nonceOf(another)
			f.answers("somebody else", f.want("k", taken), granted, passed)
			f.answers("a third", f.want("k", f.nonceOf(third)), refused, passed)
			f.answers("nobody in particular", f.want("k", f.nonceOf(0)), refused, passed)
			f.answers("who failed", f.want("k", f.nonceOf(failing)), refused, passed)
			if why := f.finish("k", again, soracache.LoadFailed, remember); why != soracache.ReasonLeaseLost {
				f.Fatalf("the release of a lease that was taken over: %s", why)
			}
			f.refuseFill(soracache.ReasonLeaseLost, "k", again, "late")
			if a := f.fill("k", taken, "v"); a.Reason != soracache.ReasonNone {
				f.Fatalf("the fill of who took it over: %+v", a)
			}
			f.hit("k", "v")
		}},
		{name: "the last outcome says whose lease is taken over", run: func(f *fixture) {
			left(f, "k", failing, soracache.LoadFailed, remember)
			left(f, "k", another, soracache.LoadNotStorable, remember)
			f.answers("who failed first", f.want("k", f.nonceOf(failing)), granted, passed)
			f.answers("a third", f.want("k", f.nonceOf(third)), refused, passed)
		}},
		{name: "of nobody in particular no lease is taken over", run: func(f *fixture) {
			left(f, "k", 0, soracache.LoadFailed, remember)
			f.answers("nobody in particular", f.want("k", f.nonceOf(0)), granted, passed)
			f.answers("somebody", f.want("k", f.nonceOf(another)), refused, passed)
		}},
		{name: "beside a live entry a failed refresh has nobody load", run: func(f *fixture) {
			f.load("k", "v")
			refresh := func(holder uint64) (soracache.Lease, l2.KeyAnswer) {
				nonce := f.nonceOf(holder)
				return nonce, f.ask(l2.ReadKey{Key: "k", Nonce: nonce, LeaseFor: leaseFor, RefreshWithin: keep})
			}
			nonce, a := refresh(failing)
			f.answers("a refresh", a, granted, none)
			f.finish("k", nonce, soracache.LoadFailed, remember)
			_, a = refresh(another)
			f.answers("the next", a, granted, none)
			_, a = refresh(third)
			f.answers("meanwhile", a, held, none)
			f.invalidate(soracache.Everything()) // the entry is dead, and the lease with it
			f.answers("of what is not there any more", f.want("k", f.nonceOf(another)), granted, passed)
		}},
		{name: "what is remembered survives an invalidation and a new epoch, and means as much", run: func(f *fixture) {
			left(f, "k", failing, soracache.LoadFailed, remember)
			f.invalidate(soracache.Key("k"))
			f.answers("after an invalidation", f.want("k", f.nonceOf(another)), granted, passed)
			f.answers("after an invalidation, held", f.want("k", f.nonceOf(third)), refused, passed)
		}},
	}
}

func fullChecks() []check {
	const granted, held, refused = soracache.LeaseGranted, soracache.LeaseHeld, soracache.LeaseRefused
	const none, full = soracache.RefusalNone, soracache.RefusalStoreFull
	return []check{
		{name: "a store without room refuses what takes room, and nothing else", run: func(f *fixture) {
			f.load("there", "v", "t")
			nonce, _ := f.lease("k")
			kept, _ := f.lease("kept")
			f.Full(true)
			refuse := func(w l2.WriteRequest) {
				f.Helper()
				w.Partition, w.Entry, w.Lifetime, w.Remember = f.at, value("v", "t"), soracache.Lifetime{TTL: ttl}, remember
				a := f.Store.Write(f.Context(), []l2.WriteRequest{w})[0]
				if !errors.Is(a.Err, soracache.ErrStoreFull) || errors.Is(a.Err, soracache.ErrUnavailable) {
					f.Fatalf("write %d: %+v, want that the store is full", w.Op, a)
				}
			}
			refuse(l2.WriteRequest{Op: soracache.OpFill, Key: "k", Nonce: nonce})
			refuse(l2.WriteRequest{Op: soracache.OpPut, Key: "put"})
			f.answers("a lease", f.want("cold", f.nonce()), refused, full)
			f.answers("of what a fill was refused", f.want("k", f.nonce()), refused, full)
			f.answers("a lease that was given before", f.want("kept", kept), granted, none)
			f.answers("and is held", f.want("kept", f.nonce()), held, none)
			if a := f.renew("kept", kept); a.Reason != soracache.ReasonNone {
				f.Fatalf("renew: %+v", a)
			}
			f.hit("there", "v")
			if a := f.ask(l2.ReadKey{Key: "there", Nonce: f.nonce(), LeaseFor: leaseFor, RefreshWithin: keep}); !a.Found {
				f.Fatalf("beside a live entry: %+v", a)
			} else {
				f.answers("a refresh", a, refused, full)
			}
			f.invalidate(soracache.Tag("t"))
			f.miss("there")
			if why := f.finish("kept", kept, soracache.LoadFailed, remember); why != soracache.ReasonNone {
				f.Fatalf("release: %s", why)
			}
			f.Full(false)
			f.eventually("leases are given again", func() bool { return f.want("again", f.nonce()).Lease == granted })
			f.refuseFill(soracache.ReasonLeaseLost, "k", nonce, "late")
			f.answers("of what was released", f.want("kept", f.nonceOf(another)), granted, soracache.RefusalPassed)
			f.answers("of what a fill was refused", f.want("k", f.nonceOf(another)), granted, soracache.RefusalPassed)
			f.load("more", "v")
			f.hit("more", "v")
		}},
	}
}
