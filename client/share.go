package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/stamps"
	"github.com/soracache/soracache/internal/flight"
)

// share has a key found or loaded together with everybody who asks for it at this moment,
// whatever stamps they carry: see demands. That the key does not exist is an outcome,
// with an error and what it depends on.
func (r *run[T]) share(ctx context.Context) (outcome[T], error) {
	more := r.client.service.CarriedMore(ctx)
	defer r.kind.demands.add(r.key.key, stamps.From(ctx))()
	if r.source() != nil {
		defer r.lend(ctx, r.key.key)()
	}
	o, part, err := r.shareBy(ctx, more)
	for part != flight.Led && err == nil {
		behind := !o.reflects(more) && r.way < shareOneStamp
		if !behind && (part != flight.Admitted || o.how.Loaded) {
			break
		}
		way := r.way
		if behind {
			way++
		}
		r = r.anew(ctx)
		r.way, r.retried = way, true
		o, part, err = r.shareBy(ctx, more)
	}
	for _, proof := range o.proofs {
		r.client.service.Carrier.Carry(ctx, proof)
	}
	return o, err
}

// shareBy runs the load in one of the ways to share it, and tells what part this caller
// had in the run. Who was admitted to one when its loader began shares what that
// returns, and not what the run had found before.
func (r *run[T]) shareBy(ctx context.Context, more soracache.Stamps) (o outcome[T], part flight.Part, err error) {
	id, most := r.key.key+sharedSuffix(r.way, more), r.settings.policy.waitHere()
	if r.retried {
		most = max(most-time.Since(r.came), 1)
	}
	flights := &r.kind.flights[r.way]
	o, part, err = flights.Lead(ctx, id, most, r.lead)
	if part != flight.Led && errors.Is(err, ErrCycle) && flight.RunOf(ctx) == nil {
		// The run began inside of a loader, which is why it fails. This caller is in
		// none, so its own may well succeed.
		o, part, err = flights.Lead(ctx, id, most, r.anew(ctx).lead)
	}
	switch _, tired := err.(*flight.WaitError); { //nolint:errorlint // not one that a loader returned
	case tired:
		o, err = r.anew(ctx).tired(ctx, err)
		part = flight.Led
	case err == flight.ErrCycle: //nolint:errorlint // itself
		err = fmt.Errorf("client: %w: %q", ErrCycle, r.key.key)
	case err != nil:
		err = r.client.life.WrapClosed(ctx, err) // who waits is told before the load has ended
	}
	return o, part, err
}

// anew is the run for one caller alone, where the other goes on without it.
func (r *run[T]) anew(ctx context.Context) *run[T] {
	c := call[T]{ // not a copy: the other may be finding out at this moment when it is due
		client: r.client, kind: r.kind, took: r.took, settings: r.settings, load: r.load,
		due: dueOf(ctx), came: r.came, inside: flight.RunOf(ctx), silence: r.silence,
	}
	own := single(c, r.key.key)
	own.way, own.retried, own.key.unanswered = r.way, r.retried, r.key.unanswered
	return own
}

// tired is for a caller that has waited for long enough for the run of others.
func (r *run[T]) tired(ctx context.Context, err error) (outcome[T], error) {
	it := &r.key
	ctx, leave, closed := r.client.life.Enter(ctx)
	if closed != nil {
		return outcome[T]{}, r.tooLong(it.key, err)
	}
	defer leave()
	it.err = err
	r.outwaited(ctx, r.keys[:])
	return it.o, it.err
}

// lead is called once. Nearly always a value is there, and it returns that.
// Otherwise the rest goes on with the answer that it got, with a context that ends
// when all callers have gone.
func (r *run[T]) lead(ctx context.Context) (o outcome[T], rest func(context.Context) (outcome[T], error), err error) {
	if err := r.client.life.Admit(); err != nil {
		return o, nil, err
	}
	it := &r.key
	defer func() {
		if rest == nil {
			r.handBack(ctx, r.keys[:], func(*item[T]) bool { return true })
			r.client.life.Leave()
		}
	}()
	ctx = r.join(ctx, r.keys[:], flight.RunOf(ctx) != r.inside)
	if !r.throttling(it.key) {
		limited := r.client.life.Limited(ctx, r.patience())
		r.askForOne(limited, it, 0, time.Time{})
		limited.End()
		if it.over {
			return it.o, nil, it.err
		}
	}
	leader := ctx
	return o, func(ctx context.Context) (outcome[T], error) {
		defer r.client.life.Leave()
		if r.carried != nil {
			ctx = r.carried(ctx)
		}
		ctx, end := r.client.life.Bound(ctx)
		defer end()
		if it.down && leader.Err() != nil {
			it.next = stepAsk // whoever asked has gone, and says nothing about the service
		}
		r.findOrLoad(ctx, r.keys[:])
		return it.o, r.client.life.WrapClosed(ctx, it.err)
	}, nil
}

// shareAll has keys found or loaded together with whoever wants any of them at this
// moment, by this call or by others, for one key or for many, and whatever stamps
// they carry: see demands. Those that are begun in a moment, and that nobody else is
// about to find or load, are served together.
func (b *bulk[T]) shareAll(ctx context.Context, keys []string) {
	if carried := stamps.From(ctx); !carried.IsZero() {
		for _, key := range keys {
			defer b.kind.demands.add(key, carried)()
		}
	}
	if b.source() != nil {
		defer b.lend(ctx, keys...)()
	}
	more := b.client.service.CarriedMore(ctx)
	for way := sharePlain; len(keys) > 0; way++ {
		b.retried = false
		again, behind := b.shareOnce(ctx, keys, way, more)
		for len(again) > 0 {
			var too []string
			again, too = b.shareOnce(ctx, again, way, more)
			behind = append(behind, too...)
		}
		keys = behind
	}
	b.outwaited(ctx)
}

// shareOnce returns the keys to be asked for again. Of some the run began inside of a
// loader, and failed because of that: a caller that is in none asks for them once more.
// To others this caller was admitted when their loader began, and it brought something
// else than what that returned. And it returns those whose outcome does not reflect what
// this caller carries.
func (b *bulk[T]) shareOnce(ctx context.Context, keys []string, way int, more soracache.Stamps) (again, behind []string) {
	ids, suffix := keys, sharedSuffix(way, more)
	if suffix != "" {
		ids = make([]string, len(keys))
		for i, key := range keys {
			ids[i] = key + suffix
		}
	}
	most := max(b.settings.policy.waitHere()-time.Since(b.came), 1)
	if b.warming {
		most = -1
	}
	b.kind.flights[way].Many(ctx, ids, most, b.serving(way, len(suffix)), func(i int, o outcome[T], part flight.Part, err error) {
		switch {
		case part == flight.Led || err != nil:
		case way < shareOneStamp && !o.reflects(more):
			behind = append(behind, keys[i])
			return
		case part == flight.Admitted && !o.how.Loaded:
			again = append(again, keys[i])
			return
		}
		for _, proof := range o.proofs {
			b.client.service.Carrier.Carry(ctx, proof)
		}
		switch _, tired := err.(*flight.WaitError); { //nolint:errorlint // not one that a loader returned
		case tired:
			b.tired = append(b.tired, &item[T]{key: keys[i], err: err})
		case part != flight.Led && b.inside == nil && !b.retried && errors.Is(err, ErrCycle):
			again = append(again, keys[i])
		default:
			b.take(ctx, keys[i], o, err)
		}
	})
	b.retried = true
	return again, behind
}

// serving returns what finds or loads the keys of a run, which is shared in one of
// the ways to do so. They end with as many bytes that are no part of them.
func (b *bulk[T]) serving(way, suffix int) func(context.Context, []*flight.Turn[outcome[T]]) {
	shared, warming := b.call, b.warming
	return func(ctx context.Context, turns []*flight.Turn[outcome[T]]) {
		r := &run[T]{call: shared, way: way, warming: warming}
		items := make([]*item[T], len(turns))
		for i, turn := range turns {
			id := turn.Key()
			items[i] = &item[T]{key: id[:len(id)-suffix], turn: turn}
		}
		ctx = r.join(ctx, items, !turns[0].Led()) // as are all of a run, or none
		inside, leave, err := r.client.life.Enter(ctx)
		if err != nil {
			r.giveUp(ctx, items, err)
			return
		}
		defer leave()
		r.findOrLoad(inside, items)
	}
}
