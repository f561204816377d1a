package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/soracache/soracache"
)

// intercepted tells whether there are interceptors. Without, nothing here is used.
func (c *call[T]) intercepted() bool {
	return c.client.interceptors != nil || c.settings.interceptors != nil
}

// callOne calls the loader of one key, inside of the interceptors.
func (l *load[T]) callOne(ctx context.Context, key string) (T, error) {
	if !l.intercepted() {
		return l.load.one(ctx)
	}
	var zero T
	values, err := l.callInside(ctx, []string{key}, func(ctx context.Context, req LoadRequest) (map[string]any, error) {
		if len(req.Keys) != 1 || req.Keys[0] != key {
			return nil, fmt.Errorf("client: %w: an interceptor has the loader of %q asked for %q", ErrInvalid, key, req.Keys)
		}
		value, err := l.load.one(ctx)
		if err != nil {
			return nil, err
		}
		return map[string]any{key: value}, nil
	})
	if many, ok := err.(*ManyError); ok && many.isAbout([]string{key}) { //nolint:errorlint // one that is wrapped is of another call
		err = many.Errors[key]
	}
	if err != nil {
		return zero, err
	}
	value, ok := values[key]
	if !ok {
		return zero, fmt.Errorf("client: %w: %q", ErrNotFound, key)
	}
	return typed[T](value)
}

// callMany calls a batch loader, inside of the interceptors.
func (l *load[T]) callMany(ctx context.Context, keys []string) (map[string]T, error) {
	if !l.intercepted() {
		return l.load.many(ctx, keys)
	}
	untyped, err := l.callInside(ctx, slices.Clone(keys), func(ctx context.Context, req LoadRequest) (map[string]any, error) {
		values, err := l.load.many(ctx, req.Keys)
		if values == nil { // which says something else than an empty one
			return nil, err
		}
		untyped := make(map[string]any, len(values))
		for key, value := range values {
			untyped[key] = value
		}
		return untyped, err
	})
	if untyped == nil {
		return nil, err
	}
	values, misfits := make(map[string]T, len(untyped)), make(map[string]error)
	for _, key := range keys {
		value, ok := untyped[key]
		if !ok {
			continue
		}
		var misfit error
		if values[key], misfit = typed[T](value); misfit != nil {
			misfits[key] = misfit
		}
	}
	switch many, ok := err.(*ManyError); { //nolint:errorlint // one that is wrapped is of another call
	case len(misfits) == 0:
	case ok:
		maps.Copy(misfits, many.Errors)
		err = &ManyError{Errors: misfits, Unnamed: many.Unnamed}
	case err == nil:
		err = &ManyError{Errors: misfits}
	}
	return values, err
}

// callInside has the interceptors call a loader.
func (l *load[T]) callInside(ctx context.Context, keys []string, loader LoadFunc) (map[string]any, error) {
	req := LoadRequest{
		Namespace: l.client.namespace, Schema: l.kind.schema, Keys: keys, Refresh: l.refresh,
		cache: loader, load: loader,
	}
	if own := l.settings.interceptors; own != nil {
		req.cache = own.load
	}
	if outer := l.client.interceptors; outer != nil {
		return outer.load(ctx, req)
	}
	return req.cache(ctx, req)
}

// typed makes what an interceptor returned a value of the cache.
func typed[T any](value any) (T, error) {
	v, ok := value.(T)
	if !ok && (value != nil || reflect.TypeFor[T]().Kind() != reflect.Interface) {
		return v, fmt.Errorf("client: %w: an interceptor returned a %T for values of type %s", ErrInvalid, value, reflect.TypeFor[T]())
	}
	return v, nil
}

// requestOf describes what is to be stored to interceptors.
func requestOf(namespace, schema, key string, value any, entry soracache.Entry, lifetime soracache.Lifetime) *StoreRequest {
	r := &StoreRequest{
		Namespace: namespace, Schema: schema, Key: key, Value: value, Failure: markedBy(&entry),
		Tags: slices.Clone(entry.Tags), TTL: lifetime.TTL, Keep: max(lifetime.TTL, lifetime.Keep), Size: len(entry.Value),
		entry: entry,
	}
	if r.Failure != nil {
		r.Value = nil
	}
	return r
}

// storeInside has the interceptors store, and parks what they had parked. When it returns,
// each request has been decided, also if one of them panics or ends its goroutine.
func (c *Client) storeInside(ctx context.Context, own *chain, reqs []*StoreRequest, store StoreFunc) {
	batch := &storeBatch{cache: storeAll, store: store}
	if own != nil {
		batch.cache = own.store
	}
	for i, r := range reqs {
		r.at, r.batch = i, batch
	}
	through, why := batch.cache, ErrGoexit // unless they return
	if c.interceptors != nil {
		through = c.interceptors.store
	}
	defer func() {
		if p := recover(); p != nil {
			why = panicked(p)
		}
		batch.mu.Lock()
		defer batch.mu.Unlock()
		for _, r := range reqs {
			switch {
			case r.state == storeOpen:
				r.decline(storeFailed, why)
			case r.state == storePassed && r.err == nil: // it was cut off when it was being stored
				r.err = why
			case r.state == storeParked:
				c.park(r)
			}
		}
	}()
	through(ctx, slices.Clone(reqs))
	why = errNotPassed
	if err := ctx.Err(); err != nil {
		why = fmt.Errorf("%w in time: %w", errNotPassed, err)
	}
}

// completeInside is complete, inside of the interceptors.
func (l *load[T]) completeInside(ctx context.Context, deposits []*loaded[T], limit time.Duration, behind bool) (stored []bool) {
	stored = make([]bool, len(deposits))
	reqs := make([]*StoreRequest, len(deposits))
	for i, r := range deposits {
		d := r.deposit
		reqs[i] = requestOf(l.client.namespace, l.kind.schema, r.key, d.value, d.entry, d.lifetime)
	}
	ctx, cancel := context.WithTimeout(context.WithValue(context.WithoutCancel(ctx), fillKey{}, (*LoadContext)(nil)), limit)
	defer cancel()
	defer l.notStored(reqs, deposits)
	l.client.storeInside(ctx, l.settings.interceptors, reqs, func(ctx context.Context, reqs []*StoreRequest) {
		if err := ctx.Err(); err != nil {
			for _, r := range reqs {
				r.state, r.err = storeFailed, fmt.Errorf("%w in time: %w", errNotPassed, err)
			}
			return
		}
		passed := make([]*loaded[T], len(reqs))
		for i, r := range reqs {
			passed[i] = deposits[r.at]
		}
		for i, result := range l.deposit(passed, limit, behind) {
			stored[reqs[i].at] = result.Err == nil && result.Stored
			reqs[i].answered(&result)
		}
	})
	return stored
}

// notStored tells of what interceptors had not be stored, and hands its leases back.
func (l *load[T]) notStored(reqs []*StoreRequest, deposits []*loaded[T]) {
	var declined []int
	defer func() { l.silence.Late(!l.leases.Release(l.silence.Storing(l.patience()), declined...)) }()
	for i, r := range reqs {
		switch r.state {
		case storeRefused, storeParked:
			declined = append(declined, deposits[i].at)
			l.client.observer.notStored(r.Key, r.err)
		case storeFailed:
			declined = append(declined, deposits[i].at)
			l.client.observer.refused(r.Key, r.err)
		default: // who stores has told
		}
	}
}

// setInside is setEntry, inside of the interceptors.
func (c *Cache[T]) setInside(ctx context.Context, key string, value T, entry soracache.Entry, s settings) error {
	r := requestOf(c.client.namespace, s.schema, key, value, entry, s.policy.lifetime())
	r.Set = true
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	c.client.storeInside(ctx, s.interceptors, []*StoreRequest{r}, func(ctx context.Context, reqs []*StoreRequest) {
		if err := c.setEntry(ctx, key, entry, s); err != nil {
			reqs[0].err = err
		} else {
			reqs[0].state = storeDone
		}
	})
	if r.Stored() {
		return nil
	}
	return cmp.Or(r.err, errors.New("not stored"))
}
