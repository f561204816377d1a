package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/deadline"
	"github.com/soracache/soracache/client/internal/lease"
	"github.com/soracache/soracache/client/internal/near"
)

// loaded is what became of one key of a load: a value, the answer that there is no
// such thing, or a failure.
type loaded[T any] struct {
	*item[T]
	load *load[T]
	at   int // which of the load's keys it is
	fill *LoadContext
	o    outcome[T]
	err  error
	// deposit is what the lease is to be completed with, if it is.
	deposit *deposit[T]
	// keepsErrors tells whether an error may be kept: not in place of a value that
	// stands in for it.
	keepsErrors bool
}

// prepare readies the fill that the loader gets. The lease was given before, so what the
// loader reads is compared with the lease's stamp.
func (r *loaded[T]) prepare(parent *LoadContext) {
	l, there := r.load, r.there
	r.fill = &LoadContext{client: l.client, schema: l.kind.schema, key: r.key, parent: parent, policy: l.settings.policy}
	if !r.leased {
		return
	}
	r.fill.leased, r.fill.stamp = true, r.answer.Stamp
	if r.keepsErrors = there == nil || !l.settings.policy.allows(there.freshFor); there == nil || there.marker != nil {
		return
	}
	if previous, err := own(l.settings, there.value); err == nil {
		r.fill.replaces(&previous, there.entry)
	}
}

// settle makes of what the loader returned what the key's callers get, and what is to be
// stored. That there is no such thing is an outcome, which its callers depend on.
func (r *loaded[T]) settle(value T, err error) {
	l := r.load
	if errors.Is(err, ErrNotModified) {
		value, err = unmodified[T](r.fill, err)
	}
	var data encoded
	if err == nil && l.settings.decoded {
		value, data = l.decodedBack(value)
	}
	r.o = outcome[T]{value: value, marker: original(err), how: Outcome{Loaded: true}}
	mark, marked := markerOf(err, &r.fill.policy)
	if marked && (mark.kind == soracache.KindError && !r.keepsErrors || rejected(err)) {
		marked = false
	}
	missing := errors.Is(err, ErrNotFound)
	switch {
	case err != nil && !marked && !missing:
		r.o, r.err = outcome[T]{}, original(err)
		return
	case !r.leased:
		if err == nil || marked {
			l.client.observer.notStored(r.key, r.why)
		}
	case marked:
		r.deposit = l.markerDeposit(r.fill, mark)
	case err == nil:
		r.deposit = l.valueDeposit(r.fill, value, data)
	}
	if err == nil || missing {
		l.kind.failing.End(r.key)
	}
	r.o.ingredient, r.o.pure = r.fill.asIngredient(), r.fill.pure()
}

// deposit is what a lease is completed with.
type deposit[T any] struct {
	entry    soracache.Entry
	value    T
	policy   Policy
	lifetime soracache.Lifetime
	stored   bool // it is stored now
}

// encoded is what a codec made of a value, or why it could not.
type encoded struct {
	data []byte
	err  error
}

// decodedBack returns a value as whoever reads it will find it, and what it is
// stored as; or the value itself, and why it is not stored.
func (c *call[T]) decodedBack(value T) (T, encoded) {
	data, err := c.settings.codec.Marshal(value)
	if err != nil {
		return value, encoded{err: err}
	}
	back, err := decode[T](c.client.codecs, c.settings.codec, soracache.Entry{Value: data, Encoding: c.settings.codec.Name()})
	if err != nil {
		return value, encoded{err: fmt.Errorf("%w: %w", errUndecodable, err)}
	}
	return back, encoded{data: data}
}

// valueDeposit makes of a value what is to be stored, or tells the hooks why it is
// not. That it fails, or comes too late, changes nothing for the callers.
func (c *call[T]) valueDeposit(fill *LoadContext, value T, e encoded) *deposit[T] {
	policy, etag, refused := fill.verdict()
	if refused == nil && policy.notStored {
		refused = errDoNotCache
	}
	if refused != nil {
		c.client.observer.notStored(fill.key, refused)
		return nil
	}
	policy = policy.jittered()
	if !c.settings.decoded {
		e.data, e.err = c.settings.codec.Marshal(value)
	}
	entry, err := entryOf(c.settings.codec, &policy, e, etag)
	switch {
	case errors.Is(err, errTooLong):
		c.client.observer.notStored(fill.key, err)
		return nil
	case err != nil:
		c.client.observer.refused(fill.key, err)
		return nil
	}
	return &deposit[T]{entry: entry, value: value, policy: policy, lifetime: policy.lifetime()}
}

// markerDeposit does the same with an error.
func (c *call[T]) markerDeposit(fill *LoadContext, m marker) *deposit[T] {
	policy, _, refused := fill.verdict()
	if refused != nil {
		c.client.observer.notStored(fill.key, refused)
		return nil
	}
	policy.TTL = m.ttl
	policy = policy.jittered()
	return &deposit[T]{
		policy:   policy,
		entry:    soracache.Entry{Kind: m.kind, Value: []byte(m.text), Tags: soracache.NormalizeTags(policy.Tags)},
		lifetime: soracache.Lifetime{TTL: policy.TTL, L1: policy.L1},
	}
}

// filled takes in what became of a deposit, and keeps near what is stored.
func (r *loaded[T]) filled(asked *near.Inflight, result soracache.WriteResult) {
	l, d := r.load, r.deposit
	switch {
	case result.Err != nil:
		l.client.observer.refused(r.key, result.Err)
		return
	case !result.Stored:
		l.client.observer.superseded(r.key, result.Reason)
		return
	}
	if r.replaces {
		l.client.replaced.Add(l.name(r.key), l.client.now(), replaceEvery)
	}
	near.Keep(asked, d.value, near.Kept{
		Entry: d.entry, Stamps: result.Stamp, Most: d.policy.Near,
		FreshFor: d.lifetime.TTL, KeepFor: d.lifetime.Keep,
	})
	if at := l.settings.policy.EagerAt; at > 0 && d.lifetime.TTL < l.settings.policy.ttl() {
		// Of what the policy does not tell others cannot know.
		l.kind.fresh.Add(r.key, l.client.now(), time.Duration(at*float64(d.lifetime.TTL)))
	}
}

// encode makes the entry that a value is stored as.
func encode(s settings, value any) (soracache.Entry, error) {
	data, err := s.codec.Marshal(value)
	return entryOf(s.codec, &s.policy, encoded{data, err}, "")
}

// entryOf makes the entry of what a codec made of a value, and refuses one that there
// cannot be.
func entryOf(codec Codec, p *Policy, e encoded, etag string) (soracache.Entry, error) {
	entry := soracache.Entry{
		Value:    e.data,
		Tags:     soracache.NormalizeTags(p.Tags),
		Encoding: codec.Name(),
		ETag:     etag,
	}
	switch {
	case e.err != nil:
		return entry, e.err
	case p.MaxBytes > 0 && len(e.data) > p.MaxBytes:
		return entry, fmt.Errorf("%w: %d bytes, at most %d", errTooLong, len(e.data), p.MaxBytes)
	}
	return entry, names.CheckEntry(entry)
}

// store completes the leases of what is to be stored, and hands the others back.
// What is large may take longer than the callers are to wait: then it goes on
// behind them, with its leases. So does all that the call stores after something was
// not stored in time.
func (l *load[T]) store(ctx context.Context, results []loaded[T]) {
	var (
		deposits []*loaded[T]
		rest     []int
		bytes    int
	)
	for i := range results {
		switch r := &results[i]; {
		case r.deposit != nil:
			deposits = append(deposits, r)
			bytes += len(r.deposit.entry.Value)
		case r.leased:
			rest = append(rest, r.at)
		}
	}
	l.silence.Late(!l.leases.Release(l.silence.Storing(l.patience()), rest...))
	if len(deposits) == 0 {
		return
	}
	most := l.silence.Storing(l.patience())
	if bytes >= deadline.Bytes || most == 0 {
		l.holders.Add(1)
		done, ok := l.client.life.FillBehind(bytes, func() {
			defer l.drop(false)
			l.complete(ctx, deposits, l.client.timeout, true)
		})
		if !ok {
			l.holders.Add(-1)
		} else {
			select {
			case <-done:
				for _, r := range deposits {
					r.o.stored = r.deposit.stored
				}
			case <-time.After(most): // whoever is told that it is not stored need not care
				l.silence.Late(true)
			}
			return
		}
	}
	l.complete(ctx, deposits, l.patience(), false)
	for _, r := range deposits {
		r.o.stored = r.deposit.stored
	}
}

// complete stores deposits, in so much time.
func (l *load[T]) complete(ctx context.Context, deposits []*loaded[T], limit time.Duration, behind bool) {
	if l.intercepted() {
		for i, stored := range l.completeInside(ctx, deposits, limit, behind) {
			deposits[i].deposit.stored = stored
		}
		return
	}
	for i, result := range l.deposit(deposits, limit, behind) {
		deposits[i].deposit.stored = result.Err == nil && result.Stored
	}
}

// deposit completes leases with what there is to store, and takes in what became of that.
func (l *load[T]) deposit(deposits []*loaded[T], limit time.Duration, behind bool) []soracache.WriteResult {
	fills := make([]lease.Fill, len(deposits))
	for i, r := range deposits {
		fills[i] = lease.Fill{At: r.at, Entry: r.deposit.entry, Lifetime: r.deposit.lifetime, Asked: l.client.near.Begin(l.kind.space, r.key)}
	}
	defer func() {
		for i := range fills {
			fills[i].Asked.End()
		}
	}()
	results, inTime := l.leases.Fill(limit, l.silence.Storing(l.patience()), behind, fills)
	l.silence.Late(!inTime)
	for i, r := range deposits {
		r.filled(fills[i].Asked, results[i])
	}
	return results
}
