package client

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
)

// loadAll loads the keys that this caller is to load, and returns when they are
// stored. What the policy lets be refreshed in the background is, and its present
// value taken.
func (m *many[T]) loadAll(ctx context.Context, claims []claim[T]) {
	if m.warming {
		claims = m.storable(claims)
	} else {
		claims = m.refreshBehind(ctx, claims)
	}
	if len(claims) == 0 {
		return
	}
	for i := range claims {
		c := &claims[i]
		if turn := m.turns[c.key]; turn != nil && !c.leased() {
			turn.Alone()
		}
		if c.granted.Err != nil && ctx.Err() == nil {
			m.client.observer.failOpen(c.key, c.granted.Err)
		} else {
			m.client.observer.miss(c.key)
		}
	}
	m.wait(ctx, claims)
}

// pending are the keys of a load that have no outcome yet.
type pending[T any] map[string]*claim[T]

// leased tells whether any of them is loaded under a lease.
func (p pending[T]) leased() bool {
	for _, c := range p {
		if c.leased() {
			return true
		}
	}
	return false
}

// wait runs the loader and waits for it: no longer than the caller does, nor than
// the policy says.
func (m *many[T]) wait(ctx context.Context, claims []claim[T]) {
	open := make(pending[T], len(claims))
	for i := range claims {
		open[claims[i].key] = &claims[i]
		if turn := m.turns[claims[i].key]; turn != nil && m.admits {
			turn.Admit()
		}
	}
	l, err := m.begin(ctx, claims, m.hold(ctx, claims))
	if err != nil {
		m.giveUp(ctx, open, err)
		return
	}
	soft, hard := m.timeouts()
	for len(open) > 0 {
		select {
		case part := <-l.done:
			m.takePart(ctx, open, part)
		case <-l.finished:
			for len(l.done) > 0 {
				m.takePart(ctx, open, <-l.done)
			}
			m.giveUp(ctx, open, ErrGoexit) // a hook's
		case <-ctx.Done(): // the loader is told as well
			m.giveUp(ctx, open, ctx.Err())
		case <-soft:
			soft = nil
			m.standIn(ctx, l, open)
		case <-hard:
			if !open.leased() || !l.letGo() {
				l.cancel() // what it would load could not be stored
			}
			m.tooSlow(ctx, open)
		}
	}
}

// timeouts returns what tells that the caller has waited long enough for the
// loader: if there are values to give it, and if not.
func (m *many[T]) timeouts() (soft, hard <-chan time.Time) {
	p := &m.settings.policy
	if p.SoftTimeout > 0 {
		soft = time.After(p.SoftTimeout)
	}
	if p.HardTimeout > 0 {
		hard = time.After(p.HardTimeout)
	}
	return soft, hard
}

// takePart takes what one call of the loader has brought.
func (m *many[T]) takePart(ctx context.Context, open pending[T], part []loaded[T]) {
	failed := make(map[string]error)
	lost := make(pending[T])
	for i := range part {
		r := &part[i]
		delete(open, r.key)
		switch {
		case r.err == nil:
			r.o.stored = r.stored
			m.take(r.key, r.o)
			continue
		case ctx.Err() == nil:
			r.pause()
		}
		failed[r.key], lost[r.key] = r.err, r.claim
	}
	m.rescue(ctx, lost, func(key string) error { return failed[key] }, StaleFailedLoader)
}

// tooSlow has the caller wait no longer.
func (m *many[T]) tooSlow(ctx context.Context, open pending[T]) {
	m.rescue(ctx, open, func(key string) error { return open[key].tooSlow() }, StaleSlowLoader)
	clear(open)
}

func (m *many[T]) giveUp(ctx context.Context, open pending[T], err error) {
	for key := range open {
		m.fail(key, m.client.blame(ctx, err))
	}
	clear(open)
}

// standIn lets values that are to be replaced stand in for a loader that is slow,
// which then goes on by itself. As long as one key has none, the loader has to be
// waited for anyway.
func (m *many[T]) standIn(ctx context.Context, l *manyLoad[T], open pending[T]) {
	for _, c := range open {
		if c.there == nil {
			return
		}
	}
	now, _ := m.again(ctx, open, false)
	if len(now) < len(open) || len(l.done) > 0 || !l.letGo() {
		return
	}
	for key, there := range now {
		m.take(key, open[key].serve(there, StaleSlowLoader))
	}
	clear(open)
}

// rescue gives the caller, instead of errors, what FailSafe allows. The values
// that were there when the load began may have been invalidated since, so they
// are asked for once more.
func (m *many[T]) rescue(ctx context.Context, lost pending[T], errorOf func(key string) error, why StaleReason) {
	p := &m.settings.policy
	hoped := make(pending[T])
	for key, c := range lost {
		down := c.granted.Err != nil
		hope := c.there != nil && p.allows(c.there.freshFor) || down && p.FailSafe > 0
		switch {
		case ctx.Err() != nil, !hope:
			m.fail(key, m.client.blame(ctx, errorOf(key)))
		case down && m.takeUnconfirmed(ctx, key):
		default:
			hoped[key] = c
		}
	}
	now, unknown := m.again(ctx, hoped, p.FailSafe > 0)
	for key, c := range hoped {
		there := now[key]
		switch {
		case there != nil && p.allows(there.freshFor):
			if c.granted.Err != nil {
				m.take(key, c.serve(there, StaleServiceDown))
			} else {
				m.take(key, c.serve(there, why))
			}
		case unknown[key] && (m.takeUnconfirmed(ctx, key) || m.takeInHand(c)):
		default:
			m.fail(key, m.client.blame(ctx, errorOf(key)))
		}
	}
}

// again asks once more for values that are to be replaced, and tells of which
// keys nothing could be learned. With accept, a value will do that a node has and
// cannot confirm.
func (m *many[T]) again(ctx context.Context, open pending[T], accept bool) (now map[string]*standby[T], unknown map[string]bool) {
	now, unknown = make(map[string]*standby[T], len(open)), make(map[string]bool)
	if m.silence.known() != nil {
		for key := range open {
			unknown[key] = true
		}
		return now, unknown
	}
	reads := make([]soracache.Read, 0, len(open))
	for key := range open {
		reads = append(reads, soracache.Read{Key: key, Schema: m.kind.schema})
	}
	began, limit := time.Now(), m.patience()
	results := m.client.readMany(ctx, limit, reads, make([]*near.Inflight, len(reads)), accept)
	m.noteSilence(ctx, results, began, limit)
	for i, r := range results {
		key := reads[i].Key
		if unknown[key] = r.Err != nil; r.Err != nil {
			continue
		}
		if there, ok := open[key].decoded(r); ok {
			now[key] = there
		}
	}
	return now, unknown
}

// noteSilence notes that a service does not answer which answered none of some reads in
// all the time that they had. One that fails at once may still have what stands in for
// loaders that fail.
func (m *many[T]) noteSilence(ctx context.Context, results []soracache.ReadResult, began time.Time, limit time.Duration) {
	if time.Since(began) < limit-limit/4 { // see silence.heard
		return
	}
	for i := range results {
		if err := results[i].Err; err == nil || refusal(err) {
			return
		}
	}
	if len(results) > 0 && ctx.Err() == nil {
		m.silence.unheard(results[0].Err)
	}
}

// takeInHand takes the value that was there when the load began, if this client has
// heard of nothing that came after it.
func (m *many[T]) takeInHand(c *claim[T]) bool {
	if c.there == nil || !m.settings.policy.allows(c.there.freshFor) || m.client.session.heardMore(c.there.stamps) {
		return false
	}
	c.there.how.Stale, c.there.taint = true, errStale
	m.take(c.key, c.serve(c.there, StaleServiceDown))
	return true
}

// takeUnconfirmed takes a value that is near, that nothing is known against, and
// that nobody confirms.
func (m *many[T]) takeUnconfirmed(ctx context.Context, key string) bool {
	p := &m.settings.policy
	hit, ok := near.Find[T](m.client.near, m.kind.space, key, m.client.known(ctx))
	if !ok || p.FailSafe == 0 || !p.allows(hit.FreshFor) {
		return false
	}
	o := nearOutcome(&hit)
	o.taint, o.how.Stale = errStale, true
	m.client.observer.stale(key, soracache.TierNear, StaleServiceDown)
	m.take(key, o)
	return true
}

// refreshBehind has values refreshed in the background that may be, takes the
// present ones, and returns the keys that are to be waited for.
func (m *many[T]) refreshBehind(ctx context.Context, claims []claim[T]) (rest []claim[T]) {
	var behind []claim[T]
	for _, c := range claims {
		if c.leased() && c.there != nil && (c.there.fresh() || m.settings.policy.revalidates(c.there.freshFor)) {
			behind = append(behind, c)
		} else {
			rest = append(rest, c)
		}
	}
	if len(behind) == 0 {
		return rest
	}
	call := m.manyCall
	call.due = due{}
	if !behind[0].inBackground(ctx, func(ctx context.Context) { call.reload(ctx, behind) }) {
		behind, rest = m.noRoom(ctx, behind, rest)
	} else {
		m.disown(behind) // the other holds them
	}
	for i := range behind {
		m.take(behind[i].key, behind[i].serve(behind[i].there, StaleRefreshing))
	}
	return rest
}

// noRoom is for when too much is running in the background: somebody else will
// refresh what is still fresh, and what is not has to be waited for.
func (m *many[T]) noRoom(ctx context.Context, behind, rest []claim[T]) (fresh, waited []claim[T]) {
	for _, c := range behind {
		if c.there.fresh() {
			fresh = append(fresh, c)
		} else {
			rest = append(rest, c)
		}
	}
	m.hold(ctx, fresh).end(m.patience())
	return fresh, rest
}

// reload runs the loader for values that are there, and nobody waits for it.
func (m *manyCall[T]) reload(ctx context.Context, claims []claim[T]) {
	start := time.Now()
	leases, begun := holdMany(ctx, m.client, m.kind.schema, claims), false
	defer func() {
		if !begun { // a hook panicked
			leases.end(m.patience())
		}
	}()
	for i := range claims {
		why := RefreshStale
		if claims[i].there != nil && claims[i].there.fresh() {
			why = RefreshEager
		}
		m.client.observer.refresh(claims[i].key, why)
	}
	ctx, end := m.client.observer.start(ctx, OpRefresh, "")
	failed := &ManyError{Errors: map[string]error{}}
	ended := func(key string, err error) {
		if err != nil {
			failed.Errors[key] = err
		}
		m.client.observer.refreshed(key, time.Since(start), err)
	}
	begun = true
	l, err := m.begin(ctx, claims, leases)
	if err != nil {
		for i := range claims {
			ended(claims[i].key, err)
		}
	} else {
		l.each(func(r *loaded[T]) {
			if r.err != nil && ctx.Err() == nil {
				r.pause()
			}
			ended(r.key, cmp.Or(r.err, r.o.marker))
		})
	}
	end(Outcome{Loaded: len(failed.Errors) < len(claims), Err: failed.orNil()})
}

// refreshNear has values refreshed in the background that were found near and are
// close to their end, unless somebody does it already.
func (m *many[T]) refreshNear(ctx context.Context, soon []string, within map[string]time.Duration) {
	now, r := m.client.now(), &m.kind.refreshes
	soon = slices.DeleteFunc(soon, func(key string) bool {
		return r.quiet.has(key, now) || m.kind.failing.has(key, now) || !r.begin(key)
	})
	if len(soon) == 0 {
		return
	}
	call, oneByOne := m.manyCall, m.oneByOne
	call.due = due{}
	begun := call.of(soon[0]).inBackground(ctx, func(ctx context.Context) {
		defer func() {
			for _, key := range soon {
				r.end(key)
				r.quiet.add(key, m.client.now(), leaveAlone(within[key]))
			}
		}()
		if oneByOne != nil {
			call.refreshSingly(ctx, soon, within, oneByOne)
		} else if claims := call.claimDue(ctx, soon, within); len(claims) > 0 {
			call.reload(ctx, claims)
		}
	})
	for _, key := range soon {
		if !begun {
			r.end(key)
		}
	}
}

// claimDue asks for the leases to refresh values under. Without, somebody else
// does that, or has done it: the answer is then the newer value.
func (m *manyCall[T]) claimDue(ctx context.Context, due []string, within map[string]time.Duration) (claims []claim[T]) {
	reads, asked := make([]soracache.Read, len(due)), make([]*near.Inflight, len(due))
	for i, key := range due {
		reads[i] = soracache.Read{Key: key, Schema: m.kind.schema, Lease: true, RefreshWithin: within[key]}
		asked[i] = m.client.near.Begin(m.kind.space, key)
	}
	defer endAll(asked)
	var unneeded []claim[T]
	answers, sorted := m.client.readMany(ctx, m.patience(), reads, asked, false), false
	defer func() {
		if !sorted { // what decodes a value panicked
			m.handBack(ctx, grantsOf(due, answers))
		}
	}()
	for i, r := range answers {
		if r.Err != nil {
			continue // what is there is fresh still
		}
		l := m.of(due[i])
		there, ok := l.decoded(r)
		if ok && there.fresh() {
			near.Keep(asked[i], there.value, keptFrom(r, m.settings.policy))
		}
		switch l.replaces = unreadable(&r, ok); {
		case r.Lease == (soracache.Lease{}):
		case l.replaces && !l.mayReplace(&r):
			unneeded = append(unneeded, claim[T]{loading: l, granted: r})
		default:
			claims = append(claims, claim[T]{loading: l, granted: r, there: there})
		}
	}
	if sorted = true; len(unneeded) > 0 {
		holdMany(ctx, m.client, m.kind.schema, unneeded).end(m.patience())
	}
	return claims
}
