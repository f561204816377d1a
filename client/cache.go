package client

import (
	"context"
	"fmt"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/internal/pacing"
)

// Cache is a typed view of a client's namespace under one policy. It holds
// nothing: any number of caches may share a client, and caches of one type
// share each other's loads. It is safe for concurrent use.
//
// Values are shared between callers, and are to be treated as immutable, unless
// [CloneWith] gives each caller its own.
type Cache[T any] struct {
	client   *Client
	settings settings
	kind     *kind[T]
	took     *pacing.LoadTime
}

// NewCache returns a cache of values of type T. Options hold for every call of
// it.
func NewCache[T any](c *Client, policy Policy, opts ...CallOption) *Cache[T] {
	s := settings{policy: policy, codec: codecOf[T](c.codecs)}.with(opts)
	return &Cache[T]{
		client:   c,
		settings: s,
		kind:     kindOf[T](c, s.schema),
		took:     new(pacing.LoadTime),
	}
}

// once is a cache for a single use.
func once[T any](c *Client) *Cache[T] {
	cache := NewCache[T](c, Default())
	cache.took = &cache.kind.took
	return cache
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
// deadline: its context ends when nobody wants the key any more. Its
// error is returned to them, and nothing is stored; so is its panic, as a
// [PanicError]. It may use [LoadContextFrom] and [Previous], and by its error say
// [ErrNotFound], [ErrNotModified] or [CacheError]. The [Policy] says when an
// older value is returned instead, and the loader is not waited for.
//
// GetOrSet fails only if load does, or is what was remembered to have failed; if
// the loader or the caller runs out of time; if loaders wait for each other
// ([ErrCycle]), or a load of this process takes longer than the policy waits
// ([ErrWait]); if the client is closed; or if the request can never be right
// ([soracache.ErrInvalid]). If the service is
// unreachable, slow, or refuses the client's credentials, it runs load, returns
// its value, and tells Hooks.OnFailOpen.
func (c *Cache[T]) GetOrSet(ctx context.Context, key string, load func(context.Context) (T, error), opts ...CallOption) (T, error) {
	s, outer := c.with(opts), LoadContextFrom(ctx)
	c = c.in(s.schema)
	if hit, ok := c.near(ctx, outer, key); ok {
		if c.due(s, &hit) {
			c.refreshSoon(ctx, key, &hit, load, s)
		}
		return giveHit(&hit, s)
	}
	return c.getOrLoad(ctx, key, load, s)
}

// with returns the settings of a call. It allocates nothing unless there are
// options.
func (c *Cache[T]) with(opts []CallOption) *settings {
	if len(opts) == 0 {
		return &c.settings
	}
	changed := c.settings.with(opts)
	return &changed
}

// in returns the cache for calls in a schema, which as a rule is its own.
func (c *Cache[T]) in(schema string) *Cache[T] {
	if schema == c.settings.schema {
		return c
	}
	other := *c
	other.settings.schema, other.kind = schema, kindOf[T](c.client, schema)
	if c.took == &c.kind.took {
		other.took = &other.kind.took
	}
	return &other
}

// near returns the value of a key if the application's own memory has one that
// may be served without asking anybody. It allocates nothing outside of loaders.
func (c *Cache[T]) near(ctx context.Context, outer *LoadContext, key string) (hit near.Hit[T], ok bool) {
	if ctx.Err() != nil {
		return hit, false
	}
	hit, ok = near.Find[T](c.client.near, c.kind.space, key, c.client.service.Known(ctx))
	if !ok || !hit.Fresh {
		return hit, false
	}
	c.client.observer.hit(key, soracache.TierNear)
	if outer != nil {
		outer.absorb(c.client, nearOutcome(&hit).ingredient)
	}
	carryHit(ctx, c.client, &hit)
	return hit, true
}

// getOrLoad asks the service, or else the loader, together with whoever wants the
// same at this moment.
func (c *Cache[T]) getOrLoad(ctx context.Context, key string, load func(context.Context) (T, error), s *settings) (value T, err error) {
	ctx, outer := leftBehind(ctx)
	err = names.CheckKey(key)
	if err == nil {
		err = check[T](c.client, outer, s, key)
	}
	if err != nil {
		return value, fmt.Errorf("client: %w", err)
	}
	ctx, end := c.client.observer.start(ctx, OpGetOrSet, key)
	o, err := single(c.call(ctx, s, loader[T]{one: load}), key).share(ctx)
	outer.absorb(c.client, o.ingredient)
	if err == nil {
		value, err = o.give(s)
	}
	o.how.Err = err
	end(o.how)
	return value, err
}

// check refuses what would never work.
func check[T any](c *Client, outer *LoadContext, s *settings, key string) error {
	if outer.loads(c, s.schema, key) {
		return fmt.Errorf("%w: %q", ErrCycle, key)
	}
	if clone, ok := s.clone.(func(T) T); s.clone != nil && (!ok || clone == nil) {
		return misfit[T](s)
	}
	return s.validate()
}

// Get returns the value of a key and true, or false if there is no fresh one, or
// none that can be read as a T, which Hooks.OnUnreadable is told. If what is cached
// is an error, that is returned: one that wraps [ErrNotFound], or a [*CachedError].
// Any other error says that it is not known what is cached: an application that must not
// run the loader when the cache is away, say, can tell the two apart.
func (c *Cache[T]) Get(ctx context.Context, key string, opts ...CallOption) (value T, found bool, err error) {
	s, outer := c.with(opts), LoadContextFrom(ctx)
	c = c.in(s.schema)
	if hit, ok := c.near(ctx, outer, key); ok {
		value, err = giveHit(&hit, s)
		return value, err == nil, err
	}
	ctx, end := c.client.observer.start(ctx, OpGet, key)
	o, found, err := c.get(ctx, key, s)
	switch {
	case err != nil:
		err = fmt.Errorf("client: get: %w", err)
	case found:
		outer.absorb(c.client, o.ingredient)
		value, err = o.give(s)
	}
	o.how.Err = err
	end(o.how)
	return value, found && err == nil, err
}

// get asks the service.
func (c *Cache[T]) get(ctx context.Context, key string, s *settings) (o outcome[T], found bool, err error) {
	if err := names.CheckKey(key); err != nil {
		return o, false, err
	}
	if err := s.readable(); err != nil {
		return o, false, err
	}
	err = c.client.service.Within(ctx, dueOf(ctx).patience(c.client.timeout), func(ctx context.Context) error {
		asked := c.client.near.Begin(c.kind.space, key)
		defer asked.End()
		read, err := c.client.service.Read(ctx, soracache.Read{Key: key, Schema: s.schema}, asked)
		if err != nil {
			return err
		}
		if read.Status != soracache.StatusHit {
			c.client.observer.miss(key)
			return nil
		}
		var unread error
		if o, unread = decoded[T](c.client, &read, s.codec); unread != nil {
			c.client.observer.unreadable(key, read.Entry.Encoding, unread)
			return nil
		}
		found = true
		c.client.observer.hit(key, read.Tier)
		near.Keep(asked, o.value, keptFrom(&read, &s.policy))
		return nil
	})
	return o, found, err
}

// Set stores a value.
//
// It is not fenced: what it stores was computed at a time that nobody knows,
// and replaces even what was loaded after it. It invalidates the key as Remove
// does, so loads of the key that are in progress are not stored. Prefer
// GetOrSet, or [Client.Invalidate] after a change. It fails, and leaves everything as it
// is, if an interceptor refuses or parks the value.
func (c *Cache[T]) Set(ctx context.Context, key string, value T, opts ...CallOption) error {
	ctx, end := c.client.observer.start(ctx, OpSet, key)
	err := c.set(ctx, key, value, c.settings.with(opts))
	if err != nil {
		err = fmt.Errorf("client: set: %w", err)
	}
	end(Outcome{Err: err})
	return err
}

func (c *Cache[T]) set(ctx context.Context, key string, value T, s settings) error {
	if err := names.CheckKey(key); err != nil {
		return err
	}
	if err := s.validate(); err != nil {
		return err
	}
	if s.policy.notStored {
		return fmt.Errorf("%w: a value that is not to be stored", soracache.ErrInvalid)
	}
	s.policy = s.policy.jittered()
	entry, err := encode(s, value)
	switch {
	case err != nil:
		return err
	case c.client.interceptors != nil || s.interceptors != nil:
		return c.setInside(ctx, key, value, entry, s)
	}
	return c.setEntry(ctx, key, entry, s)
}

func (c *Cache[T]) setEntry(ctx context.Context, key string, entry soracache.Entry, s settings) error {
	return c.client.service.Within(ctx, writeTimeout, func(ctx context.Context) error {
		result, err := c.client.service.Write(ctx, soracache.Write{Op: soracache.OpPut, Key: key, Schema: s.schema, Entry: entry, Lifetime: s.policy.lifetime()}, nil)
		// If it failed, it may have happened all the same.
		c.client.near.Refuse([]soracache.Target{soracache.Key(key)}, result.Stamp)
		return err
	})
}

// Remove makes the values of the keys unservable. See [Client.Remove].
func (c *Cache[T]) Remove(ctx context.Context, keys ...string) (Receipt, error) {
	return c.client.Remove(ctx, keys...)
}

// GetOrSet is [Cache.GetOrSet] for a single use, under the policy [Default]
// unless an option says otherwise.
func GetOrSet[T any](ctx context.Context, c *Client, key string, load func(context.Context) (T, error), opts ...CallOption) (T, error) {
	return once[T](c).GetOrSet(ctx, key, load, opts...)
}

// Get is [Cache.Get] for a single use.
func Get[T any](ctx context.Context, c *Client, key string, opts ...CallOption) (T, bool, error) {
	return once[T](c).Get(ctx, key, opts...)
}

// Set is [Cache.Set] for a single use, under the policy [Default] unless an
// option says otherwise. Like it, it is not fenced.
func Set[T any](ctx context.Context, c *Client, key string, value T, opts ...CallOption) error {
	return once[T](c).Set(ctx, key, value, opts...)
}
