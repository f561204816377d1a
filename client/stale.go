package client

import (
	"context"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/internal/service"
)

// allows tells whether a value may be served although it is past its TTL by as
// much, when its loader failed.
func (p *Policy) allows(freshFor time.Duration) bool {
	return freshFor > 0 || p.FailSafe > 0 && -freshFor <= p.FailSafe
}

// revalidates tells whether a value may be served although it is past its TTL by
// as much, while it is loaded anew in the background.
func (p *Policy) revalidates(freshFor time.Duration) bool {
	return p.StaleWhileRevalidate > 0 && -freshFor <= p.StaleWhileRevalidate
}

// pause has the loader of a key left alone for a while.
func (c *call[T]) pause(key string) {
	c.kind.failing.Add(key, c.client.now(), c.settings.policy.throttle())
}

// throttling tells whether the loader of a key is to be left alone, if there is a value.
func (c *call[T]) throttling(key string) bool {
	p := &c.settings.policy
	return max(p.FailSafe, p.StaleWhileRevalidate) > 0 && c.kind.failing.Has(key, c.client.now())
}

// spare takes values that nobody can confirm in place of loaders that are to be left
// alone. The keys for which there is none are to be loaded.
func (r *run[T]) spare(ctx context.Context, items []*item[T]) {
	p := &r.settings.policy
	if p.FailSafe > 0 {
		items = slices.DeleteFunc(items, func(it *item[T]) bool { return r.takeNearby(ctx, it) })
		r.again(ctx, items, true)
	}
	for _, it := range items {
		if p.FailSafe > 0 && it.now != nil && p.allows(it.now.freshFor) {
			it.end(r.serve(it.key, it.now, StaleServiceDown), nil)
		} else {
			it.next = stepLoad
		}
	}
}

// standIn lets values that are to be replaced stand in for a loader that is slow,
// which then goes on by itself.
func (r *run[T]) standIn(ctx context.Context, l *load[T], items []*item[T]) {
	r.again(ctx, items, false)
	if slices.ContainsFunc(items, func(it *item[T]) bool { return it.now == nil }) || len(l.done) > 0 || closed(l.finished) || !l.letGo() {
		return
	}
	for _, it := range items {
		it.end(r.serve(it.key, it.now, StaleSlowLoader), nil)
	}
}

// rescue gives the callers of a loader that failed, or that they do not wait for any
// longer, what FailSafe allows instead of their errors.
//
// The values that were there when the load began may have been invalidated since, so
// they are asked for once more. Where that is not possible, they will do unless this
// client has heard of anything that came after them. Where the service could not be
// asked in the first place, one will do that nothing is known against and that nobody
// confirms: in the near cache, or else at a node that is cut off from its store.
func (r *run[T]) rescue(ctx context.Context, lost []*item[T], why StaleReason) {
	p := &r.settings.policy
	var hoped []*item[T]
	for _, it := range lost {
		hope := it.there != nil && p.allows(it.there.freshFor) || it.down && p.FailSafe > 0
		switch {
		case ctx.Err() != nil, !hope:
			it.end(outcome[T]{}, r.client.life.WrapClosed(ctx, it.err))
		case it.down && r.takeNearby(ctx, it):
		default:
			hoped = append(hoped, it)
		}
	}
	r.again(ctx, hoped, p.FailSafe > 0)
	for _, it := range hoped {
		switch {
		case it.now != nil && p.allows(it.now.freshFor):
			if it.down {
				it.end(r.serve(it.key, it.now, StaleServiceDown), nil)
			} else {
				it.end(r.serve(it.key, it.now, why), nil)
			}
		case it.unknown && (r.takeNearby(ctx, it) || r.takeInHand(it)):
		default:
			it.end(outcome[T]{}, r.client.life.WrapClosed(ctx, it.err))
		}
	}
}

// takeInHand takes the value that was there when the load began, if this client has
// heard of nothing that came after it.
func (r *run[T]) takeInHand(it *item[T]) bool {
	if it.there == nil || !r.settings.policy.allows(it.there.freshFor) || r.client.service.HeardMore(it.there.stamps) {
		return false
	}
	there := *it.there // which the loader has as well
	there.how.Stale, there.taint = true, errStale
	it.end(r.serve(it.key, &there, StaleServiceDown), nil)
	return true
}

// takeNearby takes a value of the near cache that nothing is known against, and that
// nobody confirms.
func (r *run[T]) takeNearby(ctx context.Context, it *item[T]) bool {
	p := &r.settings.policy
	hit, ok := near.Find[T](r.client.near, r.kind.space, it.key, r.client.service.Known(ctx))
	if !ok || p.FailSafe == 0 || !p.allows(hit.FreshFor) {
		return false
	}
	o := nearOutcome(&hit)
	o.taint, o.how.Stale = errStale, true
	r.client.observer.stale(it.key, soracache.TierNear, StaleServiceDown)
	it.end(o, nil)
	return true
}

// again asks once more for values that are to be replaced. With accept, a value will do
// that a node has and cannot confirm.
func (r *run[T]) again(ctx context.Context, items []*item[T], accept bool) {
	if len(items) == 0 {
		return
	}
	silent := r.silence.Known() != nil
	reads := make([]soracache.Read, len(items))
	for i, it := range items {
		it.now, it.unknown = nil, silent
		reads[i] = soracache.Read{Key: it.key, Schema: r.kind.schema}
	}
	if silent {
		return
	}
	began, limit := time.Now(), r.patience()
	answers := r.client.service.ReadMany(ctx, limit, reads, nil, accept)
	r.noteSilence(ctx, answers, began, limit)
	for i, it := range items {
		if it.unknown = answers[i].Err != nil; !it.unknown {
			it.now = r.decoded(it.key, &answers[i], true)
		}
	}
}

// noteSilence notes that a service does not answer which answered none of some reads in
// all the time that they had. One that fails at once may still have what stands in for
// loaders that fail.
func (c *call[T]) noteSilence(ctx context.Context, answers []soracache.ReadResult, began time.Time, limit time.Duration) {
	// A node counts down the time, too, and may be the first to see its end.
	if time.Since(began) < limit-limit/4 || ctx.Err() != nil {
		return
	}
	for i := range answers {
		if err := answers[i].Err; err == nil || service.Refused(err) {
			return
		}
	}
	c.silence.Unheard(answers[0].Err)
}
