package client

import (
	"context"
	"fmt"
	"iter"
)

// LoadingCache is a [Cache] that knows how to load any key of it.
type LoadingCache[T any] struct {
	cache *Cache[T]
	load  func(ctx context.Context, key string) (T, error)
	// loadMany is nil if the loader knows single keys alone.
	loadMany func(ctx context.Context, keys []string) (map[string]T, error)
}

// NewLoadingCache returns a cache of values of type T that load computes.
// Options hold for every call of it.
func NewLoadingCache[T any](c *Client, policy Policy, load func(ctx context.Context, key string) (T, error), opts ...CallOption) *LoadingCache[T] {
	return &LoadingCache[T]{cache: NewCache[T](c, policy, opts...), load: load}
}

// Get returns the value of a key, loading it if need be. See [Cache.GetOrSet].
func (c *LoadingCache[T]) Get(ctx context.Context, key string, opts ...CallOption) (T, error) {
	s, outer := c.cache.with(opts), LoadContextFrom(ctx)
	cache := c.cache.in(s.schema)
	if hit, ok := cache.near(ctx, outer, key); ok {
		if cache.due(s, &hit) {
			cache.refreshSoon(ctx, key, &hit, c.loader(key), s)
		}
		return giveHit(&hit, s)
	}
	return cache.getOrLoad(ctx, key, c.loader(key), s)
}

func (c *LoadingCache[T]) loader(key string) func(context.Context) (T, error) {
	return func(ctx context.Context) (T, error) { return c.load(ctx, key) }
}

// Set stores a value. It is not fenced: see [Cache.Set].
func (c *LoadingCache[T]) Set(ctx context.Context, key string, value T, opts ...CallOption) error {
	return c.cache.Set(ctx, key, value, opts...)
}

// Remove makes the values of the keys unservable. See [Client.Remove].
func (c *LoadingCache[T]) Remove(ctx context.Context, keys ...string) (Receipt, error) {
	return c.cache.Remove(ctx, keys...)
}

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
	return c.bulk(ctx, opts).all(keys)
}

// Each is [LoadingCache.GetMany] for more keys than should be in memory: see
// [Cache.Each].
func (c *LoadingCache[T]) Each(ctx context.Context, keys iter.Seq[string], opts ...CallOption) iter.Seq2[string, Result[T]] {
	return each(ctx, c.cache.settings.with(opts), func(ctx context.Context) *bulk[T] { return c.bulk(ctx, opts) }, keys)
}

// Warm fills in advance what is missing, or due to be loaded anew: see [Cache.Warm].
func (c *LoadingCache[T]) Warm(ctx context.Context, keys iter.Seq[string], opts ...CallOption) (Progress, error) {
	return warm(ctx, c.cache.settings.with(opts), func(ctx context.Context) *bulk[T] { return c.bulk(ctx, opts) }, keys)
}

func (c *LoadingCache[T]) bulk(ctx context.Context, opts []CallOption) *bulk[T] {
	b := c.cache.bulk(ctx, loader[T]{many: c.loadMany}, opts)
	if c.loadMany == nil {
		b.singly = c.load
	}
	return b
}
