package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/soracache/soracache"
)

// many is one call for many keys. It belongs to the goroutine of its caller. What
// may outlast the call, a [manyLoad], shares nothing with it that changes.
type many[T any] struct {
	manyCall[T]
	outer *Fill
	// warming means that nobody wants the values: what is there need not be read,
	// what others load not waited for, and what cannot be stored not loaded.
	warming bool
	// oneByOne, if set, is the loader of single keys, in place of load.
	oneByOne func(ctx context.Context, key string) (T, error)

	// found has the outcome of each key that has one, and failed the error of each
	// key that has one. One that is cached is in both.
	found  map[string]outcome[T]
	failed map[string]error
	count  Progress
}

// manyCall is what a call for many keys and its loads have in common. It never
// changes.
type manyCall[T any] struct {
	client   *Client
	kind     *kind[T]
	pace     *pace
	load     func(context.Context, []string) (map[string]T, error)
	settings settings
	// caller is the context of whoever waits, for knowing how long the service may
	// take.
	caller context.Context //nolint:containedctx // its deadline alone is of use
}

// claim is a key that this caller is to load: under the lease that came with an
// answer, or, if there is none, without storing what it loads.
type claim[T any] struct {
	*loading[T]
	granted soracache.ReadResult
	why     error // why there is no lease
	// there is the value that is to be replaced; nil: there is none.
	there *standby[T]
}

func (c *claim[T]) leased() bool { return c.granted.Lease != soracache.Lease{} }

func (c *Cache[T]) many(ctx context.Context, load func(context.Context, []string) (map[string]T, error), opts []CallOption) *many[T] {
	return &many[T]{
		manyCall: manyCall[T]{client: c.client, kind: c.kind, pace: c.pace, load: load, settings: c.settings.with(opts), caller: ctx},
		outer:    FillFrom(ctx),
		found:    map[string]outcome[T]{},
		failed:   map[string]error{},
	}
}

// of returns what one key's own calls would be, for what they have in common
// with calls for many.
func (m *manyCall[T]) of(key string) *loading[T] {
	return &loading[T]{client: m.client, kind: m.kind, pace: m.pace, key: key, settings: &m.settings, caller: m.caller}
}

func (m *manyCall[T]) patience() time.Duration { return patience(m.caller, m.client.timeout) }

// run finds or loads the keys:
//
//  1. Those that are near are taken from there.
//  2. All others are asked for, and nobody waits for anything. Each has a value,
//     or this caller is given its lease, or somebody else has it.
//  3. Those whose lease this caller has are loaded and stored.
//  4. Only now, when nobody can be waiting for this caller, the rest is waited
//     for. Where a lease comes free, 3 and 4 begin again.
func (m *many[T]) run(ctx context.Context, keys []string) {
	defer func() {
		m.count.Failed = len(m.failed)
		m.passOn()
	}()
	keys = unique(keys)
	m.count.Done = len(keys)
	rest := m.nearest(ctx, keys)
	if len(rest) == 0 {
		return
	}
	inside, leave, err := m.client.enter(ctx)
	if err != nil {
		m.failAll(ctx, rest, err)
		return
	}
	defer leave()
	if m.oneByOne != nil {
		m.loadSingly(inside, rest)
		return
	}
	others, claims := m.ask(inside, rest, 0)
	m.loadAll(inside, claims)
	if m.warming {
		m.count.Elsewhere += len(others)
	} else {
		m.await(inside, others, len(claims) > 0)
	}
}

// nearest takes what is in the application's own memory, and returns the other
// keys. What is so close to its end that it is to be refreshed is, in the
// background.
func (m *many[T]) nearest(ctx context.Context, keys []string) (rest []string) {
	var due []string
	within := make(map[string]time.Duration)
	least := m.client.least(ctx, m.client.session.stamps())
	for _, key := range keys {
		if m.outer.loads(m.client, key) {
			m.fail(key, fmt.Errorf("client: %w: %q", ErrCycle, key))
			continue
		}
		hit, ok := find[T](m.client.near, m.kind.space, key, least)
		if !ok || !hit.fresh || ctx.Err() != nil {
			rest = append(rest, key)
			continue
		}
		m.client.observer.hit(key, soracache.TierNear)
		hit.carry(ctx, m.client)
		m.take(key, hit.outcome())
		if p := &m.settings.policy; hit.freshFor < p.eager(m.pace) {
			if within[key] = p.refreshWithin(m.pace); hit.freshFor <= within[key] {
				due = append(due, key)
			}
		}
	}
	m.refreshNear(ctx, due, within)
	return rest
}

// ask asks for keys, and waits so long for what others load. It takes what there
// is, and returns the keys that others still load and those that this caller is
// to load.
func (m *many[T]) ask(ctx context.Context, keys []string, wait time.Duration) (others []string, claims []claim[T]) {
	sorted := m.askOnce(ctx, keys, wait, true)
	if again := append(sorted.unreadable, sorted.again...); len(again) > 0 {
		second := m.askOnce(ctx, m.removed(ctx, sorted.unreadable, again), wait, false)
		sorted.others = append(sorted.others, second.others...)
		sorted.claims = append(sorted.claims, second.claims...)
		for _, key := range second.unreadable {
			sorted.claims = append(sorted.claims, claim[T]{loading: m.of(key), why: errNoLease})
		}
	}
	return sorted.others, sorted.claims
}

// removed makes room for values that can be read, and returns the keys that are
// to be asked for again.
func (m *many[T]) removed(ctx context.Context, unreadable, again []string) []string {
	if len(unreadable) == 0 {
		return again
	}
	ctx, cancel := context.WithTimeout(ctx, m.patience())
	defer cancel()
	for from := 0; from < len(unreadable); from += mostTogether {
		var targets []soracache.Target
		for _, key := range unreadable[from:min(from+mostTogether, len(unreadable))] {
			targets = append(targets, soracache.Key(key))
		}
		// If it fails, the next answer is the same, and the keys are loaded without
		// being stored.
		_, _ = m.client.invalidate(ctx, soracache.InvalidateRequest{Targets: targets})
	}
	return again
}

// sorted is what answers say about the keys that have no value yet.
type sorted[T any] struct {
	claims     []claim[T]
	others     []string // somebody else loads them
	unreadable []string // their entry has to be removed
	again      []string // they were asked for in vain without their lease
}

// askOnce asks for keys in one go. Keys whose loader failed a moment ago are asked
// for without their lease, as long as that is spared.
func (m *many[T]) askOnce(ctx context.Context, keys []string, wait time.Duration, spare bool) (s sorted[T]) {
	p := &m.settings.policy
	spare = spare && (p.FailSafe > 0 || p.StaleWhileRevalidate > 0)
	now := m.client.now()
	reads, asked := make([]soracache.Read, len(keys)), make([]*asking, len(keys))
	for i, key := range keys {
		reads[i] = soracache.Read{
			Key: key, Wait: wait, RefreshWithin: m.of(key).refreshWithin(),
			Lease: !spare || !m.kind.failing.has(key, now),
		}
		asked[i] = m.client.near.ask(m.kind.space, key)
	}
	defer endAll(asked)
	for i, r := range m.client.readMany(ctx, wait+m.patience(), reads, asked, false) {
		m.sort(&s, m.of(keys[i]), r, asked[i], reads[i].Lease)
	}
	return s
}

// sort takes what one answer brought, or notes what is to be done about its key.
func (m *many[T]) sort(s *sorted[T], l *loading[T], r soracache.ReadResult, asked *asking, wanted bool) {
	leased := r.Lease != soracache.Lease{}
	switch {
	case errors.Is(r.Err, soracache.ErrInvalid):
		m.fail(l.key, r.Err)
		return
	case r.Err != nil:
		s.claims = append(s.claims, claim[T]{loading: l, granted: soracache.ReadResult{Err: r.Err}, why: errServiceDown})
		return
	}
	if m.warming && !leased {
		m.sortUnread(s, l.key, r.Status)
		return
	}
	there, readable := l.decoded(r)
	switch {
	case leased:
		if readable && there.fresh() {
			keep(asked, there.value, keptFrom(r, m.settings.policy))
		}
		s.claims = append(s.claims, claim[T]{loading: l, granted: r, there: there})
	case readable && !wanted && !there.fresh():
		if p := &m.settings.policy; -there.freshFor > max(p.FailSafe, p.StaleWhileRevalidate) {
			s.again = append(s.again, l.key)
		} else {
			m.take(l.key, l.serve(there, StaleThrottled))
		}
	case readable && l.unattended(&r, there):
		s.claims = append(s.claims, claim[T]{loading: l, why: whyNoLease(&r), there: there})
	case readable:
		if there.fresh() {
			keep(asked, there.value, keptFrom(r, m.settings.policy))
		}
		m.take(l.key, l.serve(there, StaleRefreshing))
	case r.Status != soracache.StatusMiss:
		s.unreadable = append(s.unreadable, l.key)
	case !wanted:
		s.again = append(s.again, l.key)
	case waitable(&r):
		s.others = append(s.others, l.key)
	default:
		s.claims = append(s.claims, claim[T]{loading: l, why: whyNoLease(&r)})
	}
}

// sortUnread counts a key that nobody wants to know the value of.
func (m *many[T]) sortUnread(s *sorted[T], key string, status soracache.Status) {
	if status == soracache.StatusHit {
		m.count.Hits++
		m.client.observer.hit(key, soracache.TierL2)
	} else {
		s.others = append(s.others, key)
	}
}

// storable leaves out what would be loaded in vain.
func (m *many[T]) storable(claims []claim[T]) []claim[T] {
	return slices.DeleteFunc(claims, func(c claim[T]) bool {
		if c.granted.Err != nil {
			m.fail(c.key, c.granted.Err)
		}
		return !c.leased()
	})
}

// waitAtOnce is how long keys are waited for in one go. An answer may bring the
// leases of some while others are waited for still, and nobody renews them until
// it is there.
const waitAtOnce = time.Second

// await waits for what others load, and loads what they do not. What takes too
// long is loaded without being stored.
func (m *many[T]) await(ctx context.Context, others []string, later bool) {
	end := time.Now().Add(m.settings.policy.wait())
	for idle := 0; len(others) > 0 && idle < maxWaits; {
		rounds := 1 + (len(others)-1)/(requestsAtOnce*mostTogether) // of requests
		wait := min(time.Until(end), waitAtOnce/time.Duration(rounds))
		if wait <= 0 && !later {
			break
		}
		began, before := time.Now(), len(others)
		var claims []claim[T]
		others, claims = m.ask(ctx, others, max(wait, 0))
		m.loadAll(ctx, claims)
		later = false
		if len(others) == before && time.Since(began) < wait/2 {
			idle++ // the service does not wait, or drains
		}
	}
	p := &m.settings.policy
	tooLong := p.HardTimeout > 0 && p.wait() == p.HardTimeout && time.Until(end) <= 0 && ctx.Err() == nil
	claims := make([]claim[T], 0, len(others))
	for _, key := range others {
		l := m.of(key)
		if tooLong { // as long as a loader may take
			m.client.observer.miss(key)
			m.fail(key, l.tooSlow())
			continue
		}
		claims = append(claims, claim[T]{loading: l, why: errNoLease})
	}
	m.loadAll(ctx, claims)
}

// take notes the outcome of a key.
func (m *many[T]) take(key string, o outcome[T]) {
	m.found[key] = o
	switch {
	case errors.Is(o.marker, ErrNotFound):
		m.count.NotFound++
	case o.marker != nil:
		m.fail(key, o.marker)
	case o.how.Loaded:
		m.count.Loaded++
	default:
		m.count.Hits++
	}
}

func (m *many[T]) fail(key string, err error) { m.failed[key] = err }

func (m *many[T]) failAll(ctx context.Context, keys []string, err error) {
	for _, key := range keys {
		m.fail(key, m.client.blame(ctx, err))
	}
}

// passOn has the loader that this call was made in depend on what it is given.
func (m *many[T]) passOn() {
	if m.outer == nil || len(m.found) == 0 {
		return
	}
	var all ingredient
	for _, o := range m.found {
		all.tags = append(all.tags, o.tags...)
		all.proofs = append(all.proofs, o.proofs...)
		if all.taint == nil {
			all.taint = o.taint
		}
	}
	all.tags = soracache.NormalizeTags(all.tags)
	m.outer.absorb(m.client, all)
}
