package inflight

import (
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// wish is what the readers of one read want of the lease of its key, and what became
// of that. It has no lock: whoever has it guards it.
type wish struct {
	// nonce is what to ask a lease with; zero: nobody wants one. It is the lease of
	// whoever wanted one first, for an outcome must not be put down to others: who
	// is of another holder is told that it is held, and reads again. If those who
	// may have it left before it was asked for, it is nobody's in particular.
	nonce         soracache.Lease
	leaseFor      time.Duration // the longest that anybody asked for
	refreshWithin time.Duration // the widest that anybody asked for
	wanting       int           // readers that want a lease, and have neither collected nor left
	entitled      int           // those of them that may have this one
	taken         bool          // it was collected, or is handed back
}

// Grant is what became of a reader's wish for a lease.
type Grant struct {
	State   soracache.LeaseState
	Refusal soracache.Refusal
	// For is how long it lasts, the reader's own or somebody else's.
	For time.Duration
	// Lease is the reader's own, if it was granted, and Stamp that of what it loads.
	Lease soracache.Lease
	Stamp soracache.Stamp
}

// LeaseFor is how long a lease is to last that was asked for like this.
func LeaseFor(asked time.Duration) time.Duration {
	if asked <= 0 {
		return soracache.DefaultLease
	}
	return min(asked, soracache.MaxLease)
}

// add adds what a reader wants.
func (w *wish) add(r *soracache.Read, newLease func(holder uint64) soracache.Lease) {
	if !r.Lease {
		return
	}
	if w.wanting++; w.wanting == 1 {
		w.nonce = newLease(r.Holder)
	}
	if w.entitles(r) {
		w.entitled++
	}
	w.leaseFor = max(w.leaseFor, LeaseFor(r.LeaseFor))
	w.refreshWithin = max(w.refreshWithin, r.RefreshWithin)
}

// remove takes a reader off.
func (w *wish) remove(r *soracache.Read) {
	if r.Lease {
		w.wanting--
	}
	if w.entitles(r) {
		w.entitled--
	}
}

// entitles tells whether the lease may be a reader's.
func (w *wish) entitles(r *soracache.Read) bool {
	holder := w.nonce.Holder()
	return r.Lease && (holder == 0 || holder == r.Holder)
}

// close decides what is asked for: nobody can be added any more.
func (w *wish) close() {
	switch {
	case w.wanting == 0:
		w.nonce = soracache.Lease{} // who wanted it has left
	case w.entitled == 0:
		w.nonce, w.entitled = w.nonce.HeldBy(0), w.wanting
	}
}

// grant tells a reader what became of its wish. A lease that was given goes to the
// first reader that it entitles. For the others it is held from then on, or, if an
// earlier load left nothing, to be passed.
func (w *wish) grant(r *soracache.Read, a *l2.KeyAnswer) (g Grant) {
	if !r.Lease || a.Found && a.FreshFor > 0 && a.FreshFor > r.RefreshWithin {
		return Grant{}
	}
	g.State, g.Refusal = a.Lease, a.Refusal
	switch {
	case g.State == soracache.LeaseGranted && !w.taken && w.entitles(r):
		w.taken = true
		return Grant{State: soracache.LeaseGranted, For: a.LeaseFor, Lease: w.nonce, Stamp: a.LeaseStamp}
	case g.State == soracache.LeaseGranted && g.Refusal == soracache.RefusalPassed && !a.Found:
		g.State = soracache.LeaseRefused
	case g.State == soracache.LeaseGranted || g.State == soracache.LeaseHeld:
		g.State = soracache.LeaseHeld
		g.For = max(a.LeaseFor, time.Millisecond)
	}
	return g
}

// orphaned tells whether a lease was given that nobody is left to collect. It is to be
// handed back then, for which it is told once.
func (w *wish) orphaned(a *l2.KeyAnswer) bool {
	if w.entitled > 0 || w.taken || a.Lease != soracache.LeaseGranted {
		return false
	}
	w.taken = true
	return true
}
