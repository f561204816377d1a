package client

import (
	"context"
	"fmt"

	"github.com/soracache/soracache"
)

// Cache is a typed view of a client's namespace under one policy. It holds
// nothing: any number of caches may share a client, and caches of one type
// share each other's loads. It is safe for concurrent use.
//
// Values are shared between callers, and are to be treated as immutable.
type Cache[T any] struct {
	client   *Client
	settings settings
	kind     *kind[T]
}

// NewCache returns a cache of values of type T. Options hold for every call of
// it.
func NewCache[T any](c *Client, policy Policy, opts ...CallOption) *Cache[T] {
	return &Cache[T]{
		client:   c,
		settings: settings{policy: policy, codec: codecOf[T](c.codecs)}.with(opts),
		kind:     kindOf[T](c),
	}
}

// GetOrSet returns the value of a key, from the nearest tier that has it, or
// else from load, whose value it stores.
//
// One caller in the whole cluster loads a key at a time; the others wait, and
// then read what it stored. A value that was loaded while an invalidation
// named its key or one of its tags is returned, and not stored. Whoever calls
// after an invalidation has returned is never given a value whose load began
// before it.
//
// load is called with the values of the first caller's context, but with no
// deadline: its context ends when all callers that wait for it have gone. Its
// error is returned to them, and nothing is stored; so is its panic, as a
// [PanicError]. It may use [FillFrom].
//
// GetOrSet fails only if load does, if the caller's context ends, if the client
// is closed, or if the request can never be right ([soracache.ErrInvalid]). If
// the service is unreachable, slow, or refuses the client's credentials, it
// runs load, returns its value, and tells Hooks.OnFailOpen.
func (c *Cache[T]) GetOrSet(ctx context.Context, key string, load func(context.Context) (T, error), opts ...CallOption) (T, error) {
	outer := FillFrom(ctx)
	if value, ok := c.near(ctx, outer, key); ok {
		return value, nil
	}
	s := c.settings.with(opts)
	if err := c.check(outer, s, key); err != nil {
		var zero T
		return zero, fmt.Errorf("client: %w", err)
	}
	l := &loading[T]{client: c.client, kind: c.kind, key: key, load: load, settings: s, caller: ctx}
	o, err := c.kind.flights.Do(ctx, key, l.run)
	if err == nil {
		outer.absorb(c.client, o.ingredient)
	}
	return o.value, err
}

// near returns the value of a key if the application's own memory has one that
// may be served without asking anybody. It allocates nothing outside of loaders.
func (c *Cache[T]) near(ctx context.Context, outer *Fill, key string) (value T, ok bool) {
	if ctx.Err() != nil {
		return value, false
	}
	hit, ok := find[T](c.client.near, c.kind.space, key, c.client.least(ctx, nil))
	if !ok || !hit.fresh {
		return value, false
	}
	c.client.observer.hit(key, soracache.TierNear)
	if outer != nil {
		outer.absorb(c.client, hit.outcome().ingredient)
	}
	return hit.item.value, true
}

// check refuses what would never work.
func (c *Cache[T]) check(outer *Fill, s settings, key string) error {
	if outer.loads(c.client, key) {
		return fmt.Errorf("%w: %q", ErrCycle, key)
	}
	return s.validate()
}

// Get returns the value of a key and true, or false if there is no fresh one.
func (c *Cache[T]) Get(ctx context.Context, key string, opts ...CallOption) (T, bool, error) {
	var (
		o     outcome[T]
		found bool
	)
	if value, ok := c.near(ctx, FillFrom(ctx), key); ok {
		return value, true, nil
	}
	s := c.settings.with(opts)
	err := c.client.within(ctx, patience(ctx, c.client.timeout), func(ctx context.Context) error {
		asked := c.client.near.ask(c.kind.space, key)
		defer asked.end()
		read, err := c.client.read(ctx, soracache.Read{Key: key}, asked)
		if err != nil {
			return err
		}
		if read.Status == soracache.StatusHit {
			if o, found = decoded[T](c.client, key, read, s.codec); found {
				keep(asked, o.value, keptFrom(read, s.policy))
			}
		} else {
			c.client.observer.miss(key)
		}
		return nil
	})
	if err != nil {
		return o.value, false, fmt.Errorf("client: get: %w", err)
	}
	if found {
		FillFrom(ctx).absorb(c.client, o.ingredient)
	}
	return o.value, found, nil
}

// Set stores a value.
//
// It is not fenced: what it stores was computed at a time that nobody knows,
// and replaces even what was loaded after it. It invalidates the key as Remove
// does, so loads of the key that are in progress are not stored. Prefer
// GetOrSet, or [Client.Invalidate] after a change.
func (c *Cache[T]) Set(ctx context.Context, key string, value T, opts ...CallOption) error {
	s := c.settings.with(opts)
	if err := s.validate(); err != nil {
		return fmt.Errorf("client: set: %w", err)
	}
	entry, err := encode(s, value)
	if err != nil {
		return fmt.Errorf("client: set: %w", err)
	}
	err = c.client.within(ctx, writeTimeout, func(ctx context.Context) error {
		result, err := c.client.write(ctx, soracache.Write{Op: soracache.OpPut, Key: key, Entry: entry, Lifetime: s.policy.lifetime()}, nil)
		// If it failed, it may have happened all the same.
		c.client.near.refuse([]soracache.Target{soracache.Key(key)}, result.Stamp)
		return err
	})
	if err != nil {
		return fmt.Errorf("client: set: %w", err)
	}
	return nil
}

// Remove makes the values of the keys unservable. See [Client.Remove].
func (c *Cache[T]) Remove(ctx context.Context, keys ...string) error {
	_, err := c.client.Remove(ctx, keys...)
	return err
}

// LoadingCache is a [Cache] that knows how to load any key of it.
type LoadingCache[T any] struct {
	cache *Cache[T]
	load  func(ctx context.Context, key string) (T, error)
}

// NewLoadingCache returns a cache of values of type T that load computes.
// Options hold for every call of it.
func NewLoadingCache[T any](c *Client, policy Policy, load func(ctx context.Context, key string) (T, error), opts ...CallOption) *LoadingCache[T] {
	return &LoadingCache[T]{cache: NewCache[T](c, policy, opts...), load: load}
}

// Get returns the value of a key, loading it if need be. See [Cache.GetOrSet].
func (c *LoadingCache[T]) Get(ctx context.Context, key string, opts ...CallOption) (T, error) {
	if value, ok := c.cache.near(ctx, FillFrom(ctx), key); ok {
		return value, nil
	}
	return c.cache.GetOrSet(ctx, key, func(ctx context.Context) (T, error) { return c.load(ctx, key) }, opts...)
}

// Set stores a value. It is not fenced: see [Cache.Set].
func (c *LoadingCache[T]) Set(ctx context.Context, key string, value T, opts ...CallOption) error {
	return c.cache.Set(ctx, key, value, opts...)
}

// Remove makes the values of the keys unservable. See [Client.Remove].
func (c *LoadingCache[T]) Remove(ctx context.Context, keys ...string) error {
	return c.cache.Remove(ctx, keys...)
}

// GetOrSet is [Cache.GetOrSet] for a single use, under the policy [Default]
// unless an option says otherwise.
func GetOrSet[T any](ctx context.Context, c *Client, key string, load func(context.Context) (T, error), opts ...CallOption) (T, error) {
	return NewCache[T](c, Default).GetOrSet(ctx, key, load, opts...)
}

// Get is [Cache.Get] for a single use.
func Get[T any](ctx context.Context, c *Client, key string, opts ...CallOption) (T, bool, error) {
	return NewCache[T](c, Default).Get(ctx, key, opts...)
}

// Set is [Cache.Set] for a single use, under the policy [Default] unless an
// option says otherwise. Like it, it is not fenced.
func Set[T any](ctx context.Context, c *Client, key string, value T, opts ...CallOption) error {
	return NewCache[T](c, Default).Set(ctx, key, value, opts...)
}
