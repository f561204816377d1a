package client

import (
	"context"
	"fmt"

	"github.com/soracache/soracache"
)

// Previous returns, inside a loader, the value that it is to replace and the etag
// that was stored with it, so that the source can be asked whether it has
// changed since: a loader that returns [ErrNotModified] has the value stored for
// another TTL, with the tags that it had and those of this load. It is false if
// there is none, or none of type T: nothing was stored, it was invalidated, or
// the service cannot be asked.
func Previous[T any](ctx context.Context) (value T, etag string, ok bool) {
	f := LoadContextFrom(ctx)
	if f == nil {
		return value, "", false
	}
	previous, ok := f.previous.(*T)
	if !ok {
		return value, "", false
	}
	return *previous, f.before.ETag, true
}

// replaces has the loader know what it is to replace.
func (f *LoadContext) replaces(previous any, before soracache.Entry) {
	f.previous, f.before = previous, before
}

// unmodified is the previous value, whose load has found it right. Its tags, and
// its etag unless there is a new one, become this value's.
func unmodified[T any](f *LoadContext, err error) (T, error) {
	previous, ok := f.previous.(*T)
	if !ok {
		var zero T
		return zero, fmt.Errorf("client: there is no previous value: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tags = append(f.tags[:len(f.tags):len(f.tags)], f.before.Tags...)
	if f.etag == "" {
		f.etag = f.before.ETag
	}
	return *previous, nil
}
