package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/internal/flight"
)

// NewBatchLoadingCache returns a cache of values of type T that load computes
// many at a time, as [Cache.GetOrSetMany] has it: what its result lacks does not
// exist. A single key is loaded by a call of load for it alone; if it does not
// exist, Get returns an error that wraps [ErrNotFound].
func NewBatchLoadingCache[T any](c *Client, policy Policy, load func(ctx context.Context, keys []string) (map[string]T, error), opts ...CallOption) *LoadingCache[T] {
	single := func(ctx context.Context, key string) (T, error) {
		keys := []string{key}
		values, err := load(ctx, keys)
		value, ok := values[key]
		switch err = errorsOf(keys, values, err)(key); {
		case err != nil:
			var zero T
			return zero, err
		case !ok:
			return value, fmt.Errorf("client: %w: %q", ErrNotFound, key)
		}
		return value, nil
	}
	return &LoadingCache[T]{cache: NewCache[T](c, policy, opts...), load: single, loadMany: load}
}

// GetMany returns the values of many keys, loading those that are not there. See
// [Cache.GetOrSetMany].
//
// A cache that [NewLoadingCache] made, whose loader knows single keys alone, asks
// for all keys at once, and then loads what is missing key by key,
// [LoadConcurrency] at a time. A key whose loader returned an error that wraps
// [ErrNotFound] is absent from the result.
func (c *LoadingCache[T]) GetMany(ctx context.Context, keys []string, opts ...CallOption) (map[string]T, error) {
	m := c.cache.many(ctx, c.loadMany, opts)
	if c.loadMany == nil {
		m.oneByOne = c.load
	}
	return m.all(keys)
}

// loadSingly loads keys as their own calls would, so that no lease is held by a
// load that has not begun, and one of them may be an ingredient of another.
func (m *many[T]) loadSingly(ctx context.Context, keys []string) {
	keys, unanswered := m.peek(ctx, keys)
	outcomes, errs := make([]outcome[T], len(keys)), make([]error, len(keys))
	for i := range errs {
		errs[i] = ErrGoexit // unless it returns
	}
	own := new(stopwatch)
	atOnce(cmp.Or(m.settings.many.concurrency, DefaultLoadConcurrency), len(keys), func(i int) {
		l := m.singly(keys[i], func(ctx context.Context, key string) (T, error) {
			defer own.run()()
			return m.oneByOne(ctx, key)
		})
		// What is waited for one key counts for the next ones. What is loaded does not.
		l.came, l.retried, l.unanswered = m.came.Add(own.time()), true, unanswered[l.key]
		outcomes[i], errs[i] = l.share(ctx)
	})
	for i, key := range keys {
		switch err := errs[i]; {
		case errors.Is(err, ErrNotFound):
			m.take(key, outcome[T]{marker: err, ingredient: outcomes[i].ingredient, how: Outcome{Loaded: true}})
		case err != nil:
			m.fail(key, m.client.blame(ctx, err))
		default:
			m.take(key, outcomes[i])
		}
	}
}

// singly is what one key's own call would be.
func (m *manyCall[T]) singly(key string, load func(ctx context.Context, key string) (T, error)) *loading[T] {
	l := m.of(key)
	l.load = func(ctx context.Context) (T, error) { return load(ctx, key) }
	return l
}

// refreshSingly refreshes values that were found near, and nobody waits for it. Each is
// a run of its own, for one of them may be an ingredient of another.
func (m *manyCall[T]) refreshSingly(ctx context.Context, keys []string, within map[string]time.Duration, load func(ctx context.Context, key string) (T, error)) {
	atOnce(cmp.Or(m.settings.many.concurrency, DefaultLoadConcurrency), len(keys), func(i int) {
		defer m.client.observer.survive(keys[i])
		m.singly(keys[i], load).refreshNear(flight.NewRun(ctx), within[keys[i]])
	})
}

// peek takes what is there and fresh, and returns the other keys, and the errors of
// those that were not answered. It asks for no leases.
func (m *many[T]) peek(ctx context.Context, keys []string) (rest []string, unanswered map[string]error) {
	reads, asked := make([]soracache.Read, len(keys)), make([]*near.Inflight, len(keys))
	for i, key := range keys {
		reads[i] = soracache.Read{Key: key, Schema: m.kind.schema}
		asked[i] = m.client.near.Begin(m.kind.space, key)
	}
	defer endAll(asked)
	began, limit := time.Now(), m.patience()
	results := m.client.readMany(ctx, limit, reads, asked, false)
	m.noteSilence(ctx, results, began, limit)
	unanswered = make(map[string]error)
	for i, r := range results {
		l := m.of(keys[i])
		switch {
		case r.Err != nil && !refusal(r.Err):
			unanswered[l.key] = r.Err
		case r.Err == nil:
			// What cannot be read is told when it is asked for once more.
			if there, ok := l.decodedAt(2, r); ok && there.fresh() && r.FreshFor > m.settings.policy.eager(m.pace) {
				near.Keep(asked[i], there.value, keptFrom(r, m.settings.policy))
				m.take(l.key, l.serve(there, StaleRefreshing))
				continue
			}
		}
		rest = append(rest, l.key)
	}
	return rest, unanswered
}
