package client

import (
	"context"
	"errors"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
)

// standby is a value that was found, and that a loader is to replace.
type standby[T any] struct {
	outcome[T]
	entry soracache.Entry
	tier  soracache.Tier
	// freshFor is what was left of its TTL; not positive if it was stale.
	freshFor time.Duration
	// stamps are what it was proven to reflect.
	stamps soracache.Stamps
	// unconfirmed means that a node could not tell whether it is live.
	unconfirmed bool
}

// decoded returns the value of an answer that has one, and false if it has none
// or cannot be read.
func (l *loading[T]) decoded(read soracache.ReadResult) (*standby[T], bool) {
	return l.decodedAt(1, read)
}

// decodedAt does so with the answer to one of several questions about the same
// entry. If that cannot be read, the first one tells the hooks.
func (l *loading[T]) decodedAt(question int, read soracache.ReadResult) (*standby[T], bool) {
	if read.Status == soracache.StatusMiss {
		return nil, false
	}
	o, err := decoded[T](l.client, read, l.settings.codec)
	if err != nil {
		if question == 1 {
			l.client.observer.unreadable(l.key, read.Entry.Encoding, err)
		}
		return nil, false
	}
	return &standby[T]{o, read.Entry, read.Tier, read.FreshFor, read.Stamp, read.Unconfirmed}, true
}

// fresh tells whether the value was within its TTL, and confirmed.
func (s *standby[T]) fresh() bool { return !s.how.Stale }

// serve gives the callers a value that was found.
func (l *loading[T]) serve(s *standby[T], why StaleReason) outcome[T] {
	switch {
	case s.fresh():
		l.client.observer.hit(l.key, s.tier)
	case s.unconfirmed:
		l.client.observer.stale(l.key, s.tier, StaleServiceDown)
	default:
		l.client.observer.stale(l.key, s.tier, why)
	}
	return s.outcome
}

// allows tells whether a value may be served although it is past its TTL by as
// much, when its loader failed.
func (p *Policy) allows(freshFor time.Duration) bool {
	return freshFor > 0 || p.FailSafe > 0 && -freshFor <= p.FailSafe
}

// failed tells whether a loader failed, in a way that another value may stand in
// for. That there is no such thing is an answer, and that everybody who waited
// has gone is no failure.
func (l *loading[T]) failed(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotFound)
}

// pause has the loader left alone for a while.
func (l *loading[T]) pause() {
	l.kind.failing.add(l.key, l.client.now(), l.settings.policy.throttle())
}

// throttling tells whether the loader is to be left alone, if there is a value.
func (l *loading[T]) throttling() bool {
	p := &l.settings.policy
	return max(p.FailSafe, p.StaleWhileRevalidate) > 0 && l.kind.failing.has(l.key, l.client.now())
}

// throttled asks for a value that stands in for a loader which is to be left
// alone. If there is none, the loader is to be asked all the same.
func (l *loading[T]) throttled(ctx context.Context) (o outcome[T], ok bool, err error) {
	if !l.throttling() {
		return o, false, nil
	}
	p := &l.settings.policy
	most := max(p.FailSafe, p.StaleWhileRevalidate)
	read, err := l.ask(ctx, soracache.Read{Key: l.key, Schema: l.kind.schema})
	if err != nil {
		if o, ok = l.unconfirmed(ctx); ok {
			return o, true, nil
		}
		o, err = l.failOpen(ctx, err)
		return o, true, err
	}
	there, ok := l.decoded(read)
	if !ok || -there.freshFor > most {
		return o, false, nil
	}
	l.keepNear(read, there)
	return l.serve(there, StaleThrottled), true, nil
}

// orStale is what the callers get of a loader that has ended, or that they do not
// wait for any longer: if it failed, what FailSafe allows in its stead.
//
// The value that was there when the load began may have been invalidated since,
// so it is asked for once more. If that is not possible, it will do unless this
// client has heard of anything that came after it.
func (l *loading[T]) orStale(ctx context.Context, there *standby[T], o outcome[T], err error, why StaleReason) (outcome[T], error) {
	if !l.failed(ctx, err) {
		return o, err
	}
	if why == StaleFailedLoader {
		l.pause()
	}
	p := &l.settings.policy
	if there == nil || !p.allows(there.freshFor) {
		return o, err
	}
	now, silence := l.again(ctx, p.FailSafe > 0)
	if silence == nil {
		if now == nil || !p.allows(now.freshFor) {
			return o, err
		}
		return l.serve(now, why), nil
	}
	if stale, ok := l.nearby(ctx); ok {
		return stale, nil
	}
	if l.client.session.heardMore(there.stamps) {
		return o, err
	}
	there.how.Stale, there.taint = true, errStale
	return l.serve(there, StaleServiceDown), nil
}

// unconfirmed looks for a value that nothing is known against and that nobody
// confirms, because the service cannot be asked: in the near cache, or else at a
// node that is cut off from its store.
func (l *loading[T]) unconfirmed(ctx context.Context) (o outcome[T], ok bool) {
	p := &l.settings.policy
	if p.FailSafe == 0 {
		return o, false
	}
	if o, ok = l.nearby(ctx); ok {
		return o, true
	}
	there, err := l.again(ctx, true)
	if err != nil || there == nil || !p.allows(there.freshFor) {
		return o, false
	}
	return l.serve(there, StaleServiceDown), true
}

// nearby looks for such a value in the near cache.
func (l *loading[T]) nearby(ctx context.Context) (o outcome[T], ok bool) {
	hit, ok := near.Find[T](l.client.near, l.kind.space, l.key, l.client.known(ctx))
	if !ok || !l.settings.policy.allows(hit.FreshFor) {
		return o, false
	}
	o = nearOutcome(&hit)
	o.taint, o.how.Stale = errStale, true
	l.client.observer.stale(l.key, soracache.TierNear, StaleServiceDown)
	return o, true
}

// again asks once more for the value that is to be replaced. With accept, one
// will do that a node has and cannot confirm.
func (l *loading[T]) again(ctx context.Context, accept bool) (*standby[T], error) {
	if err := l.silence.known(); err != nil {
		return nil, err
	}
	limit := l.patience()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	results, seen, err := l.client.get(ctx, []soracache.Read{{Key: l.key, Schema: l.kind.schema}}, accept)
	l.silence.heard(ctx, limit, err)
	switch {
	case err != nil:
		return nil, err
	case results[0].Err != nil:
		return nil, results[0].Err
	}
	l.client.learnRead(ctx, seen, &results[0], nil)
	there, _ := l.decoded(results[0])
	return there, nil
}
