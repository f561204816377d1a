package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/batches"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/internal/flight"
)

// many is one call for many keys, and belongs to the goroutine of its caller; or one
// run for the keys of several such calls, and then has their turns. What may outlast
// it, a [manyLoad], shares nothing with it that changes.
type many[T any] struct {
	manyCall[T]
	caller context.Context //nolint:containedctx // lasts as long as the call
	outer  *Fill
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

	// turns has, in a run, those of its keys: each ends with the key's outcome.
	// Those who come until the loader begins are admitted to them where admits is true:
	// nothing was asked for that they would not ask for.
	turns  map[string]*flight.Turn[outcome[T]]
	admits bool
	// joined means that those whom the run is for have waited for its turn, and that the
	// first of them may have gone.
	joined bool
	// tired are the keys that were waited for long enough, and retried means that
	// keys were asked for once more.
	tired   map[string]error
	retried bool
	// owed are leases that came with answers, until somebody has taken them over who
	// hands them back.
	owed grants
}

// manyCall is what a call for many keys and its loads have in common. It never
// changes.
type manyCall[T any] struct {
	client   *Client
	kind     *kind[T]
	pace     *pace
	load     func(context.Context, []string) (map[string]T, error)
	settings settings
	// due is when whoever waits has to have an answer, for knowing how long the
	// service may take.
	due due
	// came is when the first of those came, and inside the run that it is inside of,
	// if any.
	came   time.Time
	inside *flight.Run
	// silence is what is known of a service that does not answer.
	silence *silence
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
	s := c.settings.with(opts)
	c = c.in(s.schema)
	ctx, outer := leftBehind(ctx)
	return &many[T]{
		manyCall: manyCall[T]{client: c.client, kind: c.kind, pace: c.pace, load: load, settings: s, due: dueOf(ctx), came: time.Now(), inside: flight.RunOf(ctx), silence: new(silence)},
		caller:   ctx,
		outer:    outer,
		found:    map[string]outcome[T]{},
		failed:   map[string]error{},
	}
}

// of returns what one key's own calls would be, for what they have in common
// with calls for many.
func (m *manyCall[T]) of(key string) *loading[T] {
	return &loading[T]{client: m.client, kind: m.kind, pace: m.pace, key: key, settings: &m.settings, due: m.due, came: m.came, inside: m.inside, silence: m.silence}
}

func (m *manyCall[T]) patience() time.Duration { return m.due.patience(m.client.timeout) }

// run has the keys found or loaded, together with whoever else wants them.
func (m *many[T]) run(ctx context.Context, keys []string) {
	defer func() {
		m.count.Failed = len(m.failed)
		m.passOn()
	}()
	keys = unique(keys)
	m.count.Done = len(keys)
	rest := m.named(m.nearest(ctx, keys))
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
	m.shareAll(inside, rest)
}

// findOrLoad finds or loads the keys of a run:
//
//  1. All are asked for, and nobody waits for anything. Each has a value, or this
//     client is given its lease, or somebody else has it.
//  2. Those whose lease this client has are loaded and stored.
//  3. Only now, when nobody can be waiting for this run, the rest is waited for.
//     Where a lease comes free, 2 and 3 begin again.
func (m *many[T]) findOrLoad(ctx context.Context, keys []string) {
	m.owed = make(grants)
	defer m.handBack(ctx, m.owed) // a hook may panic, or what decodes a value
	waited := time.Since(m.came)
	others, claims := m.ask(ctx, keys, 0)
	m.loadAll(ctx, claims)
	if m.warming {
		for _, key := range others {
			m.end(key, outcome[T]{}, flight.ErrElsewhere)
		}
		return
	}
	m.await(ctx, m.circles(ctx, others), waited, len(claims) > 0)
}

// circles fails the keys that this client loads in a run which waits for this one,
// and returns the others.
func (m *many[T]) circles(ctx context.Context, keys []string) []string {
	return slices.DeleteFunc(keys, func(key string) bool {
		own, here := m.kind.loads.of(key)
		if !here {
			return false
		}
		ended, err := flight.RunOf(ctx).Await(own.run)
		if err != nil {
			m.fail(key, fmt.Errorf("client: %w: %q", err, key))
			return true
		}
		context.AfterFunc(ctx, ended)
		return false
	})
}

// nearest takes what is in the application's own memory, and returns the other
// keys. What is so close to its end that it is to be refreshed is, in the
// background.
func (m *many[T]) nearest(ctx context.Context, keys []string) (rest []string) {
	var due []string
	within := make(map[string]time.Duration)
	known := m.client.known(ctx)
	for _, key := range keys {
		if m.outer.loads(m.client, m.kind.schema, key) {
			m.fail(key, fmt.Errorf("client: %w: %q", ErrCycle, key))
			continue
		}
		hit, ok := near.Find[T](m.client.near, m.kind.space, key, known)
		if !ok || !hit.Fresh || ctx.Err() != nil {
			rest = append(rest, key)
			continue
		}
		m.client.observer.hit(key, soracache.TierNear)
		carryHit(ctx, m.client, &hit)
		m.take(key, nearOutcome(&hit))
		if p := &m.settings.policy; hit.FreshFor < p.eager(m.pace) {
			if within[key] = p.refreshWithin(m.pace); hit.FreshFor <= within[key] {
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
	sorted := m.askOnce(ctx, keys, wait, true, nil)
	sorted.claims = append(sorted.claims, m.spare(ctx, sorted.spared)...)
	for question := 2; len(sorted.again)+len(sorted.unread) > 0; question++ {
		next := m.askOnce(ctx, slices.AppendSeq(sorted.again, maps.Keys(sorted.unread)), wait, false, askAlike(sorted.unread))
		sorted.others = append(sorted.others, next.others...)
		sorted.claims = append(sorted.claims, next.claims...)
		sorted.again, sorted.unread = next.again, next.unread
		if question == maxQuestions {
			for key := range next.unread {
				sorted.claims = append(sorted.claims, claim[T]{loading: m.of(key), why: errNoLease})
			}
			break
		}
	}
	return sorted.others, sorted.claims
}

// spare takes values that nobody can confirm in place of loaders that are to be left
// alone, and returns the keys for which there is none.
func (m *many[T]) spare(ctx context.Context, spared []claim[T]) (rest []claim[T]) {
	p := &m.settings.policy
	if p.FailSafe == 0 {
		return spared
	}
	open := make(pending[T])
	for i := range spared {
		if c := &spared[i]; !m.takeUnconfirmed(ctx, c.key) {
			open[c.key] = c
		}
	}
	if len(open) == 0 {
		return nil
	}
	now, _ := m.again(ctx, open, true)
	for key, c := range open {
		if there := now[key]; there != nil && p.allows(there.freshFor) {
			m.take(key, c.serve(there, StaleServiceDown))
		} else {
			rest = append(rest, *c)
		}
	}
	return rest
}

// sorted is what answers say about the keys that have no value yet.
type sorted[T any] struct {
	claims []claim[T]
	others []string // somebody else loads them
	again  []string // they were asked for in vain without their lease
	// unread has, by key, the question that gets the lease beside an entry which
	// cannot be read, and unneeded the leases of which nothing will come.
	unread   map[string]soracache.Read
	unneeded []claim[T]
	// spared are those that could not be asked for, and whose loader is to be left
	// alone.
	spared []claim[T]
}

// askOnce asks for keys in one go. Keys whose loader failed a moment ago are asked
// for without their lease, as long as that is spared. Some keys may have been asked
// for before, and have a question of their own.
func (m *many[T]) askOnce(ctx context.Context, keys []string, wait time.Duration, spare bool, own map[string]soracache.Read) (s sorted[T]) {
	p := &m.settings.policy
	spare = spare && (p.FailSafe > 0 || p.StaleWhileRevalidate > 0)
	now := m.client.now()
	reads, asked := make([]soracache.Read, len(keys)), make([]*near.Inflight, len(keys))
	for i, key := range keys {
		reads[i] = soracache.Read{
			Key: key, Schema: m.kind.schema, Wait: wait, RefreshWithin: m.of(key).refreshWithin(),
			Lease: !spare || !m.kind.failing.has(key, now),
		}
		if ask, again := own[key]; again {
			reads[i] = ask
		}
		asked[i] = m.client.near.Begin(m.kind.space, key)
	}
	defer endAll(asked)
	answers := m.client.readMany(ctx, wait+m.patience(), reads, asked, false)
	maps.Copy(m.owed, grantsOf(keys, answers))
	for i, r := range answers {
		if m.client.waits.refused(wait, r.Err) {
			s.others = append(s.others, keys[i])
			continue
		}
		_, again := own[keys[i]]
		m.sort(&s, m.of(keys[i]), r, asked[i], reads[i], again)
	}
	if len(s.unneeded) > 0 {
		m.hold(ctx, s.unneeded).end(m.patience())
	}
	return s
}

// sort takes what one answer brought, or notes what is to be done about its key.
// If it is asked for again, what was there could not be read.
func (m *many[T]) sort(s *sorted[T], l *loading[T], r soracache.ReadResult, asked *near.Inflight, read soracache.Read, again bool) {
	leased, wanted := r.Lease != soracache.Lease{}, read.Lease
	switch {
	case errors.Is(r.Err, soracache.ErrInvalid) && !again:
		m.fail(l.key, r.Err)
		return
	case r.Err != nil:
		c := claim[T]{loading: l, granted: soracache.ReadResult{Err: r.Err}, why: errServiceDown}
		if wanted {
			s.claims = append(s.claims, c)
		} else {
			s.spared = append(s.spared, c)
		}
		return
	}
	if m.warming && !leased {
		m.sortUnread(s, l.key, r.Status)
		return
	}
	question := 1
	if again {
		question++
	}
	there, readable := l.decodedAt(question, r)
	switch {
	case leased && again && readable && there.fresh(): // somebody has replaced it
		s.unneeded = append(s.unneeded, claim[T]{loading: l, granted: r})
		near.Keep(asked, there.value, keptFrom(r, m.settings.policy))
		m.take(l.key, l.serve(there, StaleRefreshing))
	case leased && unreadable(&r, readable) && !l.mayReplace(&r):
		s.unneeded = append(s.unneeded, claim[T]{loading: l, granted: r})
		m.leaveThere(s, l, errReplaced)
	case leased:
		l.replaces = unreadable(&r, readable)
		if readable && there.fresh() {
			near.Keep(asked, there.value, keptFrom(r, m.settings.policy))
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
			near.Keep(asked, there.value, keptFrom(r, m.settings.policy))
		}
		m.take(l.key, l.serve(there, StaleRefreshing))
	case !wanted:
		s.again = append(s.again, l.key)
	case unreadable(&r, readable):
		m.sortUnreadable(s, l, &r, read)
	case waitable(&r):
		s.others = append(s.others, l.key)
	default:
		s.claims = append(s.claims, claim[T]{loading: l, why: whyNoLease(&r)})
	}
}

// sortUnreadable notes what is to be done about an entry that cannot be read.
func (m *many[T]) sortUnreadable(s *sorted[T], l *loading[T], r *soracache.ReadResult, read soracache.Read) {
	ask, useful := l.toReplace(read, r)
	if !useful {
		m.leaveThere(s, l, l.notReplaced(r))
		return
	}
	if s.unread == nil {
		s.unread = make(map[string]soracache.Read)
	}
	s.unread[l.key] = ask
}

// leaveThere has a key loaded without replacing its entry, if anybody wants its
// value.
func (m *many[T]) leaveThere(s *sorted[T], l *loading[T], why error) {
	if m.warming {
		s.others = append(s.others, l.key)
		return
	}
	s.claims = append(s.claims, claim[T]{loading: l, why: why})
}

// sortUnread counts a key that nobody wants to know the value of.
func (m *many[T]) sortUnread(s *sorted[T], key string, status soracache.Status) {
	if status == soracache.StatusHit {
		m.count.Hits++
		m.client.observer.hit(key, soracache.TierL2)
		m.end(key, outcome[T]{how: Outcome{Tier: soracache.TierL2}}, nil)
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
//
// What was waited in this process already counts, unless that was all of the wait, and
// others are left whom the run is for: then they came later.
func (m *many[T]) await(ctx context.Context, others []string, waited time.Duration, later bool) {
	began := time.Now()
	end := began
	for idle := 0; len(others) > 0 && idle < maxWaits; {
		end = m.waitUntil(began, waited, others)
		rounds := 1 + (len(others)-1)/(requestsAtOnce*batches.Most) // of requests
		wait := m.client.waits.most(min(time.Until(end), waitAtOnce/time.Duration(rounds)))
		if wait <= 0 && !later || m.hurried(ctx) && time.Until(end) > m.patience() {
			break
		}
		asked, before := time.Now(), len(others)
		var claims []claim[T]
		others, claims = m.ask(ctx, others, max(wait, 0))
		m.loadAll(ctx, claims)
		later = false
		if len(others) == before && time.Since(asked) < wait/2 && m.client.waits.most(wait) == wait {
			idle++ // the service does not wait, or drains
		}
	}
	p := &m.settings.policy
	timedOut := p.HardTimeout > 0 && p.wait() == p.HardTimeout && time.Until(end) <= 0 && ctx.Err() == nil
	claims := make([]claim[T], 0, len(others))
	for _, key := range others {
		l := m.of(key)
		if timedOut { // as long as a loader may take
			m.client.observer.miss(key)
			m.fail(key, l.tooSlow())
			continue
		}
		if _, here := m.kind.loads.of(key); here {
			m.client.observer.miss(key)
			m.tire(key, context.DeadlineExceeded)
			continue
		}
		claims = append(claims, claim[T]{loading: l, why: errNoLease})
	}
	m.loadAll(ctx, claims)
	m.outwaited(ctx)
}

// waitUntil is until when keys are waited for, of whom somebody else loads some, and
// this client others, when that begins at a time.
func (m *many[T]) waitUntil(began time.Time, waited time.Duration, keys []string) time.Time {
	wait := m.settings.policy.wait()
	for _, key := range keys {
		if _, here := m.kind.loads.of(key); here {
			wait = m.settings.policy.waitHere()
			break
		}
	}
	if waited < wait || !m.joined {
		wait -= waited
	}
	return began.Add(wait)
}

// hurried tells whether somebody who shares the run has waited for as long as its own
// policy says.
func (m *many[T]) hurried(ctx context.Context) bool {
	select {
	case <-flight.RunOf(ctx).Tired():
		return true
	default:
		return false
	}
}

// take notes the outcome of a key.
func (m *many[T]) take(key string, o outcome[T]) {
	m.end(key, o, nil)
	m.found[key] = o
	if o.stored {
		m.count.Stored++
	}
	switch {
	case errors.Is(o.marker, ErrNotFound):
		m.count.NotFound++
	case o.marker != nil:
		m.failed[key] = o.marker
	case o.how.Loaded:
		m.count.Loaded++
	default:
		m.count.Hits++
	}
}

func (m *many[T]) fail(key string, err error) {
	m.end(key, outcome[T]{}, err)
	m.failed[key] = err
}

// end gives those who share a run what became of a key.
func (m *many[T]) end(key string, o outcome[T], err error) {
	if turn := m.turns[key]; turn != nil {
		turn.End(o, err)
	}
}

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
