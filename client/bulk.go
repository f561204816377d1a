package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/internal/pacing"
	"github.com/soracache/soracache/client/internal/service"
	"github.com/soracache/soracache/internal/flight"
)

// GetOrSetMany returns the values of many keys, in one call: each from the
// nearest tier that has it, and those that none has from one call of load, with
// all of their keys. It stores what load returned. A key that is given several
// times is asked for once.
//
// What holds for GetOrSet holds for each key. One caller in the whole cluster
// loads it at a time: load is called with the keys that nobody else is loading,
// and only when what it returned is stored does the call wait for those that
// somebody else is. So callers with the same keys in different orders never wait
// for each other in a circle. Within the process, what is being found or loaded is
// shared with other calls, for many keys or for one.
//
// A key that the result of load lacks does not exist: it is absent from the
// result of the call, and remembered as such under a policy with a NotFoundTTL.
// If load returns an error, that is the error of the keys it was called with, and
// what it returned beside it does not count. Only a [*ManyError] that names some of
// these keys, and no other ones, is about the keys that it names: for the rest, the
// result counts if there is one, and what it lacks does not exist. A *ManyError that
// is wrapped, names other keys, or leaves some unnamed is that of another call, and
// an error like any other. Values of keys that load was not called with count for
// nothing. The context of load has the caller's values, no
// deadline, and ends when nobody wants any of its keys any more. What load says by [LoadContextFrom] holds
// for all its keys; see [LoadContext.For] for one of them. Whatever it reads from the
// same client becomes an ingredient of each of its values.
//
// The keys that failed are told by an error of type [*ManyError]. The values of
// all others are returned beside it. If the service is unreachable or slow, all
// that is not in memory is loaded by one call of load, and not stored.
func (c *Cache[T]) GetOrSetMany(ctx context.Context, keys []string, load func(ctx context.Context, missing []string) (map[string]T, error), opts ...CallOption) (map[string]T, error) {
	return c.bulk(ctx, loader[T]{many: load}, opts).all(keys)
}

// bulk is one call for many keys. It belongs to the goroutine of its caller.
type bulk[T any] struct {
	call[T]
	caller context.Context //nolint:containedctx // lasts as long as the call
	outer  *LoadContext
	// warming means that nobody wants the values: see run.
	warming bool
	// singly, if set, is the loader of single keys, in place of one for many.
	singly func(ctx context.Context, key string) (T, error)

	// found has the outcome of each key that has one, and failed the error of each
	// key that has one. One that is cached is in both.
	found  map[string]outcome[T]
	failed map[string]error
	count  Progress

	// tired are the keys that were waited for long enough, and retried means that
	// keys were asked for once more.
	tired   []*item[T]
	retried bool
}

func (c *Cache[T]) bulk(ctx context.Context, load loader[T], opts []CallOption) *bulk[T] {
	s := c.settings.with(opts)
	c = c.in(s.schema)
	ctx, outer := leftBehind(ctx)
	b := &bulk[T]{call: c.call(ctx, &s, load), caller: ctx, outer: outer, found: make(map[string]outcome[T]), failed: make(map[string]error)}
	b.silence = new(service.Silence)
	return b
}

// all is the call.
func (b *bulk[T]) all(keys []string) (map[string]T, error) {
	if err := check[T](b.client, nil, b.settings, ""); err != nil {
		for _, key := range keys {
			b.failed[key] = err
		}
		b.count = Progress{Done: len(keys), Failed: len(keys)}
		return map[string]T{}, fmt.Errorf("client: %w", err)
	}
	ctx, end := b.client.observer.start(b.caller, OpGetOrSetMany, "")
	b.run(ctx, keys)
	values, err := b.result()
	end(Outcome{Loaded: b.count.Loaded > 0, Err: err})
	return values, err
}

// run has the keys found or loaded, together with whoever else wants them.
func (b *bulk[T]) run(ctx context.Context, keys []string) {
	defer func() {
		b.count.Failed = len(b.failed)
		b.passOn()
	}()
	keys = unique(keys)
	b.count.Done = len(keys)
	rest := b.named(b.nearest(ctx, keys))
	if len(rest) == 0 {
		return
	}
	inside, leave, err := b.client.life.Enter(ctx)
	if err != nil {
		for _, key := range rest {
			b.failed[key] = err
		}
		return
	}
	defer leave()
	if b.singly != nil {
		b.loadSingly(inside, rest)
		return
	}
	b.shareAll(inside, rest)
}

// nearest takes what is in the application's own memory, and returns the other
// keys. What is so close to its end that it is to be refreshed is, in the
// background.
func (b *bulk[T]) nearest(ctx context.Context, keys []string) (rest []string) {
	var due []*item[T]
	var within []time.Duration
	known := b.client.service.Known(ctx)
	for _, key := range keys {
		if b.outer.loads(b.client, b.kind.schema, key) {
			b.failed[key] = fmt.Errorf("client: %w: %q", ErrCycle, key)
			continue
		}
		hit, ok := near.Find[T](b.client.near, b.kind.space, key, known)
		if !ok || !hit.Fresh || ctx.Err() != nil {
			rest = append(rest, key)
			continue
		}
		b.client.observer.hit(key, soracache.TierNear)
		carryHit(ctx, b.client, &hit)
		b.take(ctx, key, nearOutcome(&hit), nil)
		if p := &b.settings.policy; hit.FreshFor < p.eager(b.took) {
			if w := p.refreshWithin(b.took); hit.FreshFor <= w {
				due, within = append(due, &item[T]{key: key}), append(within, w)
			}
		}
	}
	if len(due) > 0 {
		b.refreshNear(ctx, due, within)
	}
	return rest
}

// refreshNear has values refreshed in the background that were found near. Where the
// loader knows single keys alone, each is a run of its own: one of them may be an
// ingredient of another.
func (b *bulk[T]) refreshNear(ctx context.Context, items []*item[T], within []time.Duration) {
	r := &run[T]{call: b.call}
	if b.singly == nil {
		r.refreshNear(ctx, items, within, r.refreshDue)
		return
	}
	r.refreshNear(ctx, items, within, func(ctx context.Context, items []*item[T], within []time.Duration) {
		service.AtOnce(cmp.Or(b.settings.many.concurrency, DefaultLoadConcurrency), len(items), func(i int) {
			defer b.client.observer.survive(items[i].key)
			own := b.one(items[i].key, b.singly)
			own.due = due{}
			own.refreshDue(flight.NewRun(ctx), own.keys[:], within[i:i+1])
		})
	})
}

// one is what one key's own call would be.
func (b *bulk[T]) one(key string, load func(ctx context.Context, key string) (T, error)) *run[T] {
	r := single(b.call, key)
	r.load = loader[T]{one: func(ctx context.Context) (T, error) { return load(ctx, key) }}
	return r
}

// loadSingly loads keys as their own calls would, so that no lease is held by a
// load that has not begun, and one of them may be an ingredient of another.
func (b *bulk[T]) loadSingly(ctx context.Context, keys []string) {
	keys, unanswered := b.peek(ctx, keys)
	if b.warming {
		b.warmSingly(ctx, keys)
		return
	}
	outcomes, errs := make([]outcome[T], len(keys)), make([]error, len(keys))
	for i := range errs {
		errs[i] = ErrGoexit // unless it returns
	}
	own := new(pacing.Stopwatch)
	service.AtOnce(cmp.Or(b.settings.many.concurrency, DefaultLoadConcurrency), len(keys), func(i int) {
		r := b.one(keys[i], func(ctx context.Context, key string) (T, error) {
			defer own.Run()()
			return b.singly(ctx, key)
		})
		// What is waited for one key counts for the next ones. What is loaded does not.
		r.came, r.retried, r.key.unanswered = b.came.Add(own.Time()), true, unanswered[keys[i]]
		outcomes[i], errs[i] = r.share(ctx)
	})
	for i, key := range keys {
		b.take(ctx, key, outcomes[i], errs[i])
	}
}

// warmSingly does so where nobody wants the values: what others load is left to them,
// and nobody shares a run that nobody wants the value of.
func (b *bulk[T]) warmSingly(ctx context.Context, keys []string) {
	parts := make([]*bulk[T], len(keys))
	service.AtOnce(cmp.Or(b.settings.many.concurrency, DefaultLoadConcurrency), len(keys), func(i int) {
		parts[i] = &bulk[T]{call: b.one(keys[i], b.singly).call, warming: true, found: make(map[string]outcome[T]), failed: make(map[string]error)}
		parts[i].shareAll(ctx, keys[i:i+1])
	})
	for _, part := range parts {
		maps.Copy(b.found, part.found)
		maps.Copy(b.failed, part.failed)
		b.count.add(part.count)
	}
}

// peek takes what is there and fresh, and returns the other keys, and the errors of
// those that were not answered. It asks for no leases.
func (b *bulk[T]) peek(ctx context.Context, keys []string) (rest []string, unanswered map[string]error) {
	reads, asked := make([]soracache.Read, len(keys)), make([]*near.Inflight, len(keys))
	for i, key := range keys {
		reads[i] = soracache.Read{Key: key, Schema: b.kind.schema}
		asked[i] = b.client.near.Begin(b.kind.space, key)
	}
	defer service.EndAll(asked)
	began, limit := time.Now(), b.patience()
	answers := b.client.service.ReadMany(ctx, limit, reads, asked, false)
	b.noteSilence(ctx, answers, began, limit)
	unanswered = make(map[string]error)
	for i, key := range keys {
		answer := &answers[i]
		switch {
		case answer.Err != nil && !service.Refused(answer.Err):
			unanswered[key] = answer.Err
		case answer.Err == nil:
			// What cannot be read is told when it is asked for once more.
			if there := b.decoded(key, answer, false); there != nil && there.fresh() && answer.FreshFor > b.settings.policy.eager(b.took) {
				near.Keep(asked[i], there.value, keptFrom(answer, &b.settings.policy))
				b.take(ctx, key, b.serve(key, there, StaleRefreshing), nil)
				continue
			}
		}
		rest = append(rest, key)
	}
	return rest, unanswered
}

// outwaited is for the keys that were waited for as long as the policy says, while
// this process loads them.
func (b *bulk[T]) outwaited(ctx context.Context) {
	r := &run[T]{call: b.call}
	r.outwaited(ctx, b.tired)
	for _, it := range b.tired {
		b.take(ctx, it.key, it.o, it.err)
	}
}

// take takes what became of a key.
func (b *bulk[T]) take(ctx context.Context, key string, o outcome[T], err error) {
	switch {
	case err == flight.ErrElsewhere: //nolint:errorlint // itself
		b.count.Elsewhere++
		return
	case err == flight.ErrCycle: //nolint:errorlint // itself
		b.failed[key] = fmt.Errorf("client: %w: %q", ErrCycle, key)
		return
	case err != nil:
		b.failed[key] = b.client.life.WrapClosed(ctx, err)
		return
	}
	b.found[key] = o
	if o.stored {
		b.count.Stored++
	}
	switch {
	case errors.Is(o.marker, ErrNotFound):
		b.count.NotFound++
	case o.marker != nil:
		b.failed[key] = o.marker
	case o.how.Loaded:
		b.count.Loaded++
	default:
		b.count.Hits++
	}
}

// passOn has the loader that this call was made in depend on what it is given.
func (b *bulk[T]) passOn() {
	if b.outer == nil || len(b.found) == 0 {
		return
	}
	var all ingredient
	for _, o := range b.found {
		all.tags = append(all.tags, o.tags...)
		all.proofs = append(all.proofs, o.proofs...)
		if all.taint == nil {
			all.taint = o.taint
		}
	}
	all.tags = soracache.NormalizeTags(all.tags)
	b.outer.absorb(b.client, all)
}

// result is what the caller gets.
func (b *bulk[T]) result() (map[string]T, error) {
	values := make(map[string]T, len(b.found))
	for key, o := range b.found {
		if o.marker != nil {
			continue // there is none, or it is among those that failed
		}
		value, err := own(b.settings, o.value)
		if err != nil {
			b.failed[key] = err
			continue
		}
		values[key] = value
	}
	return values, (&ManyError{Errors: b.failed}).orNil()
}

// manySettings are what holds for one call for many keys.
type manySettings struct {
	batch, concurrency int // zero: the default
	progress           func(Progress)
	total              int
}

// LoadBatch is how many keys a batch loader is called with at most. The default
// of GetOrSetMany is all of them, and that of [Cache.Each] and [Cache.Warm]
// [DefaultLoadBatch]; what is less than 1 means the default.
func LoadBatch(n int) CallOption { return func(s *settings) { s.many.batch = max(n, 0) } }

// LoadConcurrency is how many calls of a batch loader run at the same time on
// behalf of one caller. What is less than 1 means [DefaultLoadConcurrency].
func LoadConcurrency(n int) CallOption {
	return func(s *settings) { s.many.concurrency = max(n, 0) }
}

// The defaults of loads of many keys.
const (
	// DefaultLoadBatch is how many keys are read, and loaded, together where there
	// may be too many of them for memory, unless [LoadBatch] says otherwise.
	DefaultLoadBatch = 256
	// DefaultLoadConcurrency is how many calls of a batch loader run at the same
	// time, unless [LoadConcurrency] says otherwise.
	DefaultLoadConcurrency = 4
)

// unique returns the keys in their order, each once.
func unique(keys []string) []string {
	seen := make(map[string]struct{}, len(keys))
	once := make([]string, 0, len(keys))
	for _, key := range keys {
		if _, again := seen[key]; !again {
			seen[key] = struct{}{}
			once = append(once, key)
		}
	}
	return once
}
