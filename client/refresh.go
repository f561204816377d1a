package client

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/lease"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/internal/pacing"
	"github.com/soracache/soracache/client/internal/service"
	"github.com/soracache/soracache/internal/flight"
)

// maxBackground is how many loaders a client has running that nobody waits for.
// Beyond that, callers wait for theirs, or leave the refreshing to others.
const maxBackground = 256

// farthest bounds how early chance can refresh a value, in average load times: the
// negative logarithm of a random number is never more.
const farthest = 37

// eager is how long before the end of a value's TTL it is to be refreshed, at
// most and without asking chance: what is farther from its end is left alone. It
// is zero if values are never refreshed early.
func (p *Policy) eager(took *pacing.LoadTime) time.Duration {
	if p.EagerAt == 0 && p.ProbabilisticRefresh == 0 {
		return 0
	}
	return max(p.eagerAt(), time.Duration(farthest*p.ProbabilisticRefresh*took.Average()))
}

// eagerAt is how long before the end of the TTL every value is refreshed.
func (p *Policy) eagerAt() time.Duration {
	if p.EagerAt == 0 {
		return 0
	}
	return time.Duration((1 - p.EagerAt) * float64(p.ttl()))
}

// refreshWithin is how long before the end of its TTL a value is to be refreshed
// that is read now.
func (p *Policy) refreshWithin(took *pacing.LoadTime) time.Duration {
	within := p.eagerAt()
	if p.ProbabilisticRefresh > 0 {
		drawn := -math.Log(1 - rand.Float64()) //nolint:gosec // spread, not secrecy
		within = max(within, time.Duration(drawn*p.ProbabilisticRefresh*took.Average()))
	}
	return min(within, LongestKeep) // no service takes much more
}

// leaveAlone is how long a key is left alone after it was due for a refresh: somebody
// else refreshes it, or refreshing failed.
func leaveAlone(within time.Duration) time.Duration { return min(within/4, time.Second) }

// due tells whether a near hit is so close to its end that it may be due for a refresh.
// Most hits pay for nothing else of eager refreshing.
func (c *Cache[T]) due(s *settings, hit *near.Hit[T]) bool {
	return (s.policy.EagerAt > 0 || s.policy.ProbabilisticRefresh > 0) && hit.FreshFor < s.policy.eager(c.took)
}

// refreshSoon has a value refreshed in the background that was found near, if
// chance says so and nobody does it already.
func (c *Cache[T]) refreshSoon(ctx context.Context, key string, hit *near.Hit[T], load func(context.Context) (T, error), s *settings) {
	if within := s.policy.refreshWithin(c.took); hit.FreshFor <= within {
		r := single(c.call(ctx, s, loader[T]{one: load}), key)
		r.refreshNear(ctx, r.keys[:], []time.Duration{within}, r.refreshDue)
	}
}

// refreshNear has values refreshed in the background that were found near and are
// so close to their end, unless somebody does it already.
func (r *run[T]) refreshNear(ctx context.Context, items []*item[T], within []time.Duration, refresh func(context.Context, []*item[T], []time.Duration)) {
	if r.source().spares() {
		return
	}
	now, running, fresh := r.client.now(), &r.kind.refreshing, &r.kind.fresh
	n := 0
	for i, it := range items {
		if !fresh.Has(it.key, now) && !r.kind.failing.Has(it.key, now) && running.Begin(it.key) {
			items[n], within[n] = it, within[i]
			n++
		}
	}
	if items, within = items[:n], within[:n]; n == 0 {
		return
	}
	r.due = due{}
	begun := r.inBackground(ctx, items[0].key, func(ctx context.Context) {
		defer func() {
			for i, it := range items {
				running.End(it.key)
				fresh.Add(it.key, r.client.now(), leaveAlone(within[i]))
			}
		}()
		refresh(ctx, items, within)
	})
	for _, it := range items {
		if !begun {
			running.End(it.key)
		}
	}
}

// refreshDue asks for the leases to refresh values under. Without, somebody else
// does that, or has done it: the answer is then the newer value.
func (r *run[T]) refreshDue(ctx context.Context, items []*item[T], within []time.Duration) {
	defer r.handBack(ctx, items, func(*item[T]) bool { return true })
	defer r.leave()
	reads, asked := make([]soracache.Read, len(items)), make([]*near.Inflight, len(items))
	for i, it := range items {
		reads[i] = soracache.Read{Key: it.key, Schema: r.kind.schema, Lease: true, RefreshWithin: within[i]}
		asked[i] = r.client.near.Begin(r.kind.space, it.key)
	}
	defer service.EndAll(asked)
	answers := r.client.service.ReadMany(ctx, r.patience(), reads, asked, false)
	for i, it := range items {
		it.owed, it.asked, it.answer = answers[i].Lease, reads[i], answers[i]
	}
	var due []*item[T]
	for i, it := range items {
		if it.answer.Err != nil {
			continue // what is there is fresh still
		}
		it.there = r.read(it)
		if it.there != nil && it.there.fresh() {
			near.Keep(asked[i], it.there.value, keptFrom(&it.answer, &r.settings.policy))
		}
		it.replaces = it.there == nil && it.answer.Status != soracache.StatusMiss
		if it.leased = it.owed != (soracache.Lease{}) && (!it.replaces || r.mayReplace(it)); it.leased {
			due = append(due, it)
		}
	}
	if len(due) > 0 && r.enterBehind(due) == nil {
		r.reload(ctx, due, RefreshEager)
	}
}

// refreshBehind has values refreshed in the background that may be, serves the
// present ones, and returns the keys that are to be waited for.
func (r *run[T]) refreshBehind(ctx context.Context, items []*item[T]) (rest []*item[T]) {
	if !slices.ContainsFunc(items, func(it *item[T]) bool { return r.mayRefresh(it) }) {
		return items
	}
	var behind []*item[T]
	for _, it := range items {
		if r.mayRefresh(it) {
			behind = append(behind, it)
		} else {
			rest = append(rest, it)
		}
	}
	other := &run[T]{call: r.call}
	other.due = due{}
	theirs := make([]*item[T], len(behind))
	for i, it := range behind {
		theirs[i] = &item[T]{key: it.key, answer: it.answer, owed: it.owed, leased: true, there: it.there}
	}
	spared := other.enterBehind(behind) != nil
	begun := !spared && other.inBackground(ctx, behind[0].key, func(ctx context.Context) {
		defer other.handBack(ctx, theirs, func(*item[T]) bool { return true })
		defer other.leave()
		other.reload(ctx, theirs, RefreshStale)
	})
	if !begun {
		other.leave()
	}
	why := StaleRefreshing
	if spared {
		why = StaleRejected
	}
	for _, it := range behind {
		switch {
		case begun: // the other holds it
			it.owed = soracache.Lease{}
		case it.there.fresh(), spared: // somebody will do it
			it.leased = false
		default: // too much is running in the background
			rest = append(rest, it)
			continue
		}
		it.end(r.serve(it.key, it.there, why), nil)
	}
	r.handBack(ctx, behind, func(it *item[T]) bool { return !it.leased })
	return rest
}

// mayRefresh tells whether a value may be served while it is loaded anew.
func (r *run[T]) mayRefresh(it *item[T]) bool {
	p := &r.settings.policy
	switch {
	case !it.leased || it.there == nil:
		return false
	case it.there.fresh():
		return p.eager(r.took) > 0
	}
	return p.revalidates(it.there.freshFor)
}

// reload runs the loader under leases, and nobody waits for it. The reason is told of
// what is not fresh any more.
func (r *run[T]) reload(ctx context.Context, items []*item[T], why RefreshReason) {
	start := time.Now()
	for _, it := range items {
		if it.there != nil && it.there.fresh() {
			r.client.observer.refresh(it.key, RefreshEager)
		} else {
			r.client.observer.refresh(it.key, why)
		}
	}
	name := ""
	if r.load.one != nil {
		name = items[0].key
	}
	ctx, end := r.client.observer.start(ctx, OpRefresh, name)
	ended := func(it *item[T], err error) {
		it.over, it.err = true, err
		r.client.observer.refreshed(it.key, time.Since(start), err)
	}
	defer func() {
		failed := &ManyError{Errors: make(map[string]error)}
		for _, it := range items {
			if !it.over { // its loader did not return
				ended(it, ErrGoexit)
			}
			if it.err != nil {
				failed.Errors[it.key] = it.err
			}
		}
		err := failed.orNil()
		if name != "" {
			err = items[0].err
		}
		end(Outcome{Loaded: len(failed.Errors) < len(items), Err: err})
	}()
	took := func(l *loaded[T]) {
		if l.err != nil && !rejected(l.err) && ctx.Err() == nil {
			r.pause(l.key)
		}
		ended(l.item, cmp.Or(l.err, l.o.marker))
	}
	l := r.newLoad(items)
	l.refresh = true
	if name != "" {
		for _, result := range l.here(ctx) {
			took(&result)
		}
		return
	}
	if err := l.begin(ctx); err != nil {
		for _, it := range items {
			ended(it, err)
		}
		return
	}
	l.each(took)
}

// inBackground runs something that nobody waits for, with the values of a
// context: not its end, and not what the loader says that may run under it. It
// is false if too much of the kind is running, or the client is closed.
func (r *run[T]) inBackground(ctx context.Context, key string, do func(context.Context)) bool {
	c := r.client
	if !c.background.Take() {
		return false
	}
	ctx = flight.NewRun(context.WithValue(context.WithoutCancel(ctx), fillKey{}, (*LoadContext)(nil)))
	ctx, leave, err := c.life.Enter(ctx)
	if err != nil {
		c.background.Free()
		return false
	}
	go func() {
		defer c.background.Free()
		defer leave()
		defer c.observer.survive(key)
		ctx, cancel := context.WithTimeout(ctx, lease.Most)
		defer cancel()
		do(ctx)
	}()
	return true
}

// survive is deferred in goroutines whose panics would reach nobody. A loader's panic
// is reported to OnLoad, so what comes here is a hook's.
func (o *observer) survive(key string) {
	if p := recover(); p != nil {
		o.log.Error("soracache: a hook panicked in the background", "key", key, "panic", p, "stack", string(debug.Stack()))
	}
}

// surviveBehind is survive for what is no key's.
func (o *observer) surviveBehind() {
	if p := recover(); p != nil {
		o.log.Error("soracache: a hook panicked in the background", "panic", p, "stack", string(debug.Stack()))
	}
}

// refreshWithin is how long before its end a value is to be refreshed that the
// service has.
func (c *call[T]) refreshWithin(key string) time.Duration {
	p := &c.settings.policy
	if p.EagerAt == 0 && p.ProbabilisticRefresh == 0 || c.kind.fresh.Has(key, c.client.now()) || c.kind.failing.Has(key, c.client.now()) {
		return 0
	}
	return p.refreshWithin(c.took)
}
