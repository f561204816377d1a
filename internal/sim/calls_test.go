package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// Progress of calls, P3: what a client's caller waits for is a loader, in this
// process or known to be in another one, or a round trip.

// doing is what a key's callers in one process wait for.
type doing uint8

const (
	// idle: nobody here loads the key or asks for it.
	idle doing = iota
	// asking: a request about the key is on its way.
	asking
	// loading: its loader works.
	loading
)

// journey is how long a call has waited for what.
type journey struct {
	now   doing
	spent [3]time.Duration
	// until is when its last wait for somebody else's load is to end.
	until time.Duration
}

// roundTrips is how many requests one call may wait for, one after the other,
// each for as long as the client's timeout: the question and the fill of the load
// before its own, and the release that follows a fill which failed; its own
// question, the one that waits, its fill, and again the release.
const roundTrips = 7

// calls judges the calls of an application at the end of a moment.
func (c *checker) calls(a *app) {
	a.unanswered = slices.DeleteFunc(a.unanswered, func(u *use) bool { return u.done })
	passed := c.w.now() - c.moment
	for _, u := range a.unanswered {
		j := &u.journey
		if u.beganAt <= c.moment {
			j.spent[j.now] += passed
		}
		j.now = a.does(u.key, 0)
		wait := max(u.policy.Wait, 0)
		if u.policy.Wait < 0 && j.until == 0 && a.waitsFor(u.key) { // by the question of another that shares the load
			j.until = c.w.now() + client.DefaultWait
		}
		if u.policy.Wait < 0 && j.until > 0 { // for a load of its own process: see waitsAgain
			wait = client.DefaultWait
		}
		if j.spent[idle] > wait {
			c.violate("P1: %s has waited for %s in its process, where nobody loads or asks", u, j.spent[idle])
		}
		if limit := wait + roundTrips*c.w.cfg.AppTimeout; j.spent[asking] > limit {
			c.violate("P3: %s has waited for %s for answers of the service, and %s is all that it may", u, j.spent[asking], limit)
		}
	}
}

// mostNested is how deep loaders are followed that wait for one another. No dish
// is made of dishes, so who comes so deep goes round in a circle.
const mostNested = 4

// does tells what is done about a key in an application's process.
func (a *app) does(key string, depth int) doing {
	if depth > mostNested {
		return idle
	}
	for _, l := range a.running {
		switch {
		case l.key != key:
		case l.inside == nil || a.does(l.inside.key, depth+1) > idle:
			return loading // what it waits for itself is judged as that call
		}
	}
	if slices.ContainsFunc(a.asked, func(k *ask) bool { return k.concerns(key) }) {
		return asking
	}
	return idle
}

// waitsFor tells whether a question waits at a node for the load of a key.
func (a *app) waitsFor(key string) bool {
	return slices.ContainsFunc(a.asked, func(k *ask) bool {
		return !k.over && len(k.reads) > 0 && k.reads[0].Key == key && k.reads[0].Wait > 0
	})
}

// concerns tells whether a request is about a key.
func (k *ask) concerns(key string) bool {
	return !k.over && (k.write.Key == key || slices.ContainsFunc(k.reads, func(r soracache.Read) bool { return r.Key == key }))
}

// failed judges the failure of a call that may load: its own loader has failed, or
// its own time is over, or it has waited for a load of its own process as long as
// the policy says of the first who shares it.
func (c *checker) failed(u *use) {
	if errors.Is(u.err, client.ErrWait) {
		return
	}
	if c.w.now() < u.beganAt+u.timeout && !errors.Is(u.err, errSource) && len(c.w.cfg.ingredients(u.key)) == 0 {
		c.violate("P3: %s failed before its time, though no loader did: %v", u, u.err)
	}
}

// waitsAgain checks a request that waits for somebody else's load: what the call
// has waited already counts.
func (c *checker) waitsAgain(k *ask) {
	if k.use == nil || k.kind != opGet || k.reads[0].Wait <= 0 {
		return
	}
	j := &k.use.journey
	if j.until == 0 {
		wait := k.use.policy.Wait
		if wait < 0 { // for a load of its own process, as the policy's documentation says
			wait = client.DefaultWait
		}
		j.until = c.w.now() + wait
	}
	if c.w.now()+k.reads[0].Wait > j.until {
		c.violate("P1: %s waits for %s more, and was to be done by %s", k, k.reads[0].Wait, j.until)
	}
}

// loaded checks that the lease of a load that has ended is completed or handed
// back in the same moment.
func (c *checker) loaded(l *loader) {
	if g := l.lease.grant; g != nil && g.ended == 0 && !l.app.cut {
		c.ended = append(c.ended, l)
	}
}

// leftBehind judges the loads that ended at this moment.
func (c *checker) leftBehind() {
	for _, l := range c.ended {
		storable := l.done && !l.unstorable && len(l.parts) == 0
		switch {
		case l.told == 0:
			c.violate("P2: app %d has loaded %s under a lease, and neither fills nor hands it back", l.app.number, l.key)
		case storable && l.told != opFill:
			c.violate("P2: app %d has loaded %s under a lease, and does not fill", l.app.number, l.key)
		}
	}
	c.ended = c.ended[:0]
}
