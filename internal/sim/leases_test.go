package sim

import (
	"errors"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// hitForMiss is how long nodes have it remembered that a load left nothing.
const hitForMiss = 60 * ms

// leases is what the checker knows of the leases of the keys, by what the store
// has answered: who holds one for certain, and what may be remembered of the last
// load that left nothing.
type leases struct {
	keys map[string]*leased
	// blind is until when what is remembered may be from before a loss, and latest
	// until when at the latest anything was to be remembered, both by the store's
	// clock.
	blind, latest time.Duration
	// forgot is the step of the last loss.
	forgot int
}

type leased struct {
	nonce soracache.Lease
	until time.Duration // zero: perhaps nobody holds it
	// failed is whose load left nothing, and remembered until when that is known.
	failed     uint64
	remembered time.Duration
	// loading is the latest step in which the store told that somebody loads who is
	// worth waiting for.
	loading int
}

func (l *leases) of(key string) *leased {
	if l.keys == nil {
		l.keys = map[string]*leased{}
	}
	if l.keys[key] == nil {
		l.keys[key] = &leased{loading: -1}
	}
	return l.keys[key]
}

// unsure forgets who holds what: a step may have ended any lease.
func (l *leases) unsure() {
	for _, k := range l.keys {
		k.until = 0
	}
}

// runOut forgets the leases that are over, before the clock is set back: the store may
// have dropped them.
func (l *leases) runOut(now time.Duration) {
	for _, k := range l.keys {
		if k.until <= now {
			k.until = 0
		}
	}
}

// lost forgets all: what comes back may be from before, and is remembered for
// longer than usual where the clock has been set back since.
func (l *leases) lost(now time.Duration, step int) {
	l.keys, l.forgot = nil, step
	l.blind = max(now+2*hitForMiss, min(l.latest, now+l2.MaxRemember))
}

// wished checks what the wish for a lease was answered. It returns whether the
// lease is one that may be taken over.
func (c *checker) wished(req *l2.ReadKey, a *l2.KeyAnswer) (takenOver bool) {
	if req.Nonce == (soracache.Lease{}) || isChore(req.Key) {
		return false // nobody asks, or nodes elect one of them, which they do in every partition
	}
	now, k := c.w.storeNow(), c.leases.of(req.Key)
	if a.Refusal == soracache.RefusalNone {
		k.loading = c.w.step
	}
	// What lies further ahead than can be is from before the clock was set back.
	remembered := k.remembered != 0 && now < k.remembered && k.remembered <= now+l2.MaxRemember
	other := k.until != 0 && now < k.until && k.until <= now+soracache.MaxLease && k.nonce != req.Nonce
	taken := remembered && k.failed != 0 && k.nonce.Holder() == k.failed && req.Nonce.Holder() != k.failed
	blind := now < c.leases.blind
	switch {
	case blind:
	case a.Refusal == soracache.RefusalPassed && !remembered:
		c.violate("the load of %s is to be passed, though none has left nothing of late", req.Key)
	case a.Lease == soracache.LeaseGranted && other && !taken:
		c.violate("the lease of %s was given to %s, while %s holds it, whose load has not left nothing", req.Key, req.Nonce, k.nonce)
	case a.Lease != soracache.LeaseGranted && a.Lease != soracache.LeaseNone && other && taken && a.Refusal != soracache.RefusalStoreFull &&
		k.remembered <= now+hitForMiss: // else the clock was set back, and it may have been forgotten before
		c.violate("%s was not given the lease of %s, which is that of who left nothing", req.Nonce, req.Key)
	}
	if a.Lease == soracache.LeaseGranted {
		k.nonce, k.until = req.Nonce, now+a.LeaseFor
	}
	return taken || blind // who failed may have been forgotten here
}

// leaseEnded takes in a write that may end a lease.
func (c *checker) leaseEnded(req *l2.WriteRequest, a *l2.WriteAnswer) {
	k, full := c.leases.of(req.Key), errors.Is(a.Err, soracache.ErrStoreFull)
	if a.Err != nil && !full || a.Reason == soracache.ReasonLeaseLost || req.Op == soracache.OpRenew {
		if k.nonce == req.Nonce {
			k.until = 0 // renewed for how long is not known here
		}
		return
	}
	k.until = 0
	switch {
	case full && req.Op == soracache.OpPut:
	case full || req.Op == soracache.OpRelease && req.Outcome != soracache.LoadHandedBack && req.Remember > 0:
		k.failed, k.remembered = req.Nonce.Holder(), c.w.storeNow()+req.Remember
		c.leases.latest = max(c.leases.latest, k.remembered)
	case req.Op == soracache.OpPut || req.Op == soracache.OpFill && a.Reason == soracache.ReasonNone:
		k.remembered = 0
	}
}

// waitsFor checks what a node says of the wish for a lease: that somebody holds
// it is true only if the store has told so since it was asked.
func (c *checker) waitsFor(o *op, key string, r *soracache.ReadResult) {
	if o.err != nil || r.Err != nil || r.LeaseState != soracache.LeaseHeld || r.Status != soracache.StatusMiss {
		return
	}
	if k := c.leases.of(key); c.leases.forgot < o.began && k.loading < o.began {
		c.violate("%s: %s is said to be loaded by somebody, and nobody does", o, key)
	}
}
