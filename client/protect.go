package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/soracache/soracache/client/internal/source"
	"github.com/soracache/soracache/internal/flight"
)

// How a policy's source is kept from being overrun:
//
//  1. While its breaker is open, or all places are taken, a key is asked for without its
//     lease (blocked). Who holds a lease decides for the whole cluster, and this process
//     cannot load.
//  2. Before a load begins it gets a pass (admitted): the breaker is not open, and there
//     is a place. If none is free the leases are handed back, so that another process may
//     load meanwhile, and the load waits in the queue. With the place it asks for the
//     leases once more.
//  3. Who is inside of a loader has that one's pass, and lends it to the run of others
//     that it waits for (lend). So loads that need each other are one load.
//  4. Each call of the loader is let through by the breaker, and tells it in the end how
//     it went (visit). It has its place until the loader has returned, whoever waits.
//  5. What is refreshed in the background is not, unless it gets a pass at once.

// source is that of the call's policy; nil: it has none.
func (c *call[T]) source() *Source {
	if s := c.settings.policy.Source; s != nil && s.invalid == nil {
		return s
	}
	return nil
}

// lentKey is what a pass is lent for.
type lentKey struct {
	kind any // a *kind[T]
	key  string
}

// hostOf returns the pass of the loader that a load of keys is a part of: one that the
// run is inside of, or that waits for the run. nil: there is none.
func (c *call[T]) hostOf(ctx context.Context, items ...*item[T]) *source.Pass {
	if host := c.source().passIn(ctx); host != nil {
		return host
	}
	return c.source().guard.Lent(func(yield func(any) bool) {
		for _, it := range items {
			if !yield(lentKey{c.kind, it.key}) {
				return
			}
		}
	})
}

// passIn returns the pass of the innermost loader of the source that a context is in.
func (s *Source) passIn(ctx context.Context) *source.Pass {
	for f := LoadContextFrom(ctx); f != nil; f = f.parent {
		if v := f.visit; v != nil && v.source == s && !f.ended() {
			return v.pass
		}
	}
	return nil
}

// lend lends the pass of the loader that the caller is inside of to whoever loads the
// keys, until the function is called that it returns.
func (c *call[T]) lend(ctx context.Context, keys ...string) (end func()) {
	s := c.source()
	if s == nil || LoadContextFrom(ctx) == nil {
		return func() {}
	}
	pass := s.passIn(ctx)
	if pass == nil {
		return func() {}
	}
	return s.guard.Lend(c.lentKeys(keys), pass)
}

func (c *call[T]) lentKeys(keys []string) []any {
	all := make([]any, len(keys))
	for i, key := range keys {
		all[i] = lentKey{c.kind, key}
	}
	return all
}

// blocked is why the lease of a key is not worth asking for, if it is not.
func (r *run[T]) blocked(ctx context.Context, it *item[T], wait time.Duration) error {
	s := r.source()
	if s == nil || wait > 0 || r.warming || r.pass != nil {
		return nil
	}
	full := s.guard.Full()
	if !full && s.guard.Check(nil) == nil {
		return nil
	}
	host := r.hostOf(ctx, it)
	if err := s.guard.Check(host); err != nil {
		return s.named(err)
	}
	if full && host == nil {
		return s.busy
	}
	return nil
}

// useBlocked tells whether a stale value is served at once whose lease is not worth
// asking for. While there is hope for a place, FailSafe alone is no reason to.
func (r *run[T]) useBlocked(it *item[T]) bool {
	p := &r.settings.policy
	return p.revalidates(it.there.freshFor) || errors.Is(it.blocked, ErrSourceOpen) && p.allows(it.there.freshFor)
}

// unleased is why a stale value is served whose lease was not asked for.
func (r *run[T]) unleased(it *item[T]) StaleReason {
	if it.blocked == nil {
		return StaleThrottled
	}
	if !it.there.fresh() {
		r.client.observer.rejected(r.source().name, it.key, it.blocked)
	}
	return StaleRejected
}

// admitted gets a pass for the load of some keys, and returns those that are to be loaded
// now, and those that somebody else loads meanwhile. The others have their outcome.
func (r *run[T]) admitted(ctx context.Context, items []*item[T]) (now, others []*item[T]) {
	s := r.source()
	if s == nil || len(items) == 0 {
		return items, nil
	}
	var again []*item[T] // are asked for once more, because they have no lease
	for _, it := range items {
		if it.next = stepLoad; it.blocked != nil && !it.down {
			again = append(again, it)
		}
	}
	host := r.hostOf(ctx, items...)
	err := s.guard.Check(host)
	if err == nil && r.pass == nil {
		s.cool(r.client)
		r.pass, err = s.guard.Enter(host)
		if errors.Is(err, ErrSourceBusy) && s.config.MaxWait > 0 {
			for _, it := range items {
				if it.leased {
					again = append(again, it)
				}
			}
			r.handBack(ctx, items, func(*item[T]) bool { return true })
			if items, err = r.queue(ctx, items); len(items) == 0 {
				return nil, nil
			}
		}
	}
	if err != nil {
		r.reject(ctx, items, s.named(err))
		return nil, nil
	}
	return r.askAgain(ctx, items, again)
}

// askAgain asks once more for those of some keys that have no lease, and may have one now.
func (r *run[T]) askAgain(ctx context.Context, items, again []*item[T]) (now, others []*item[T]) {
	if len(again) > 0 {
		for _, it := range again {
			it.next, it.leased, it.blocked = stepAsk, false, nil
		}
		r.ask(ctx, again, 0, time.Time{})
	}
	now, others = those(items, stepLoad), those(items, stepWait)
	if len(now) == 0 {
		r.leave()
	}
	if r.warming {
		for _, it := range others {
			it.end(outcome[T]{}, flight.ErrElsewhere)
		}
		others = nil
	}
	return now, others
}

// queue waits for a pass, no longer than the timeouts of the policy. Where stale values
// may stand in for a loader that is slow, they stand in for the wait, too. It returns the
// keys that have no outcome yet.
func (r *run[T]) queue(ctx context.Context, items []*item[T]) (open []*item[T], err error) {
	p, s, began := &r.settings.policy, r.source(), time.Now()
	defer func() { r.queued += time.Since(began) }()
	keys := make([]string, len(items))
	for i, it := range items {
		keys[i] = it.key
	}
	most := s.config.MaxWait - r.queued
	if p.HardTimeout > 0 {
		most = min(most, p.HardTimeout-r.queued)
	}
	if soft := p.SoftTimeout - r.queued; p.SoftTimeout > 0 && soft < most && allThere(items) {
		if r.pass, err = s.guard.Wait(ctx, soft, r.lentKeys(keys)); !errors.Is(err, ErrSourceBusy) {
			return items, err
		}
		if items = r.standInForQueue(ctx, items); len(items) == 0 {
			return nil, nil
		}
		most -= time.Since(began)
	}
	r.pass, err = s.guard.Wait(ctx, most, r.lentKeys(keys))
	return items, err
}

// standInForQueue serves the values that are to be replaced, and returns the keys that
// have none any more.
func (r *run[T]) standInForQueue(ctx context.Context, items []*item[T]) []*item[T] {
	s := r.source()
	r.again(ctx, items, false)
	for _, it := range items {
		if it.now != nil {
			r.client.observer.rejected(s.name, it.key, s.busy)
			it.end(r.serve(it.key, it.now, StaleRejected), nil)
		}
	}
	return unended(items)
}

// allThere tells whether there is a value for each key.
func allThere[T any](items []*item[T]) bool {
	return !slices.ContainsFunc(items, func(it *item[T]) bool { return it.there == nil })
}

// reject is for keys whose loader is not run.
func (r *run[T]) reject(ctx context.Context, items []*item[T], err error) {
	r.handBack(ctx, items, func(*item[T]) bool { return true })
	for _, it := range items {
		it.err = err
		r.client.observer.miss(it.key)
		if rejected(err) {
			r.client.observer.rejected(r.source().name, it.key, err)
		}
	}
	r.rescue(ctx, items, StaleRejected)
}

// leave gives a pass back that no load has taken over.
func (r *run[T]) leave() {
	r.pass.Leave()
	r.pass = nil
}

// enterBehind gets a pass for a refresh in the background, if there is one at once.
func (r *run[T]) enterBehind(items []*item[T]) error {
	s := r.source()
	if s == nil {
		return nil
	}
	err := s.guard.Check(nil)
	if err == nil {
		s.cool(r.client)
		r.pass, err = s.guard.Enter(nil)
	}
	if err == nil {
		return nil
	}
	for _, it := range items {
		r.client.observer.rejected(s.name, it.key, s.named(err))
	}
	return s.named(err)
}

// spares tells whether nothing is to be refreshed now. A nil source spares nothing.
func (s *Source) spares() bool { return s != nil && (s.guard.Full() || s.guard.Check(nil) != nil) }

// cool has the limit ramp up if the client has noticed that nothing is cached any more.
func (s *Source) cool(c *Client) {
	if at, cold := c.service.Cold(); cold {
		s.guard.Cold(at)
	}
}
