package client

import (
	"errors"
	"time"

	"github.com/soracache/soracache"
)

// cacheError is an error that is to be kept.
type cacheError struct {
	err error
	ttl time.Duration
}

func (e *cacheError) Error() string { return e.err.Error() }
func (e *cacheError) Unwrap() error { return e.err }

// CacheError is for a loader to return: its callers get err, and until ttl is
// over everybody else gets a [CachedError] with its text, rather than have the
// loader run. Where FailSafe allows an older value, that is returned instead, and
// the error is not kept. A nil error, or a ttl of nothing, gives err itself.
func CacheError(err error, ttl time.Duration) error {
	if err == nil || ttl <= 0 {
		return err
	}
	return &cacheError{err, ttl}
}

// CachedError is what readers get of an error that was kept (see [CacheError]).
// Test with errors.As: that it once was some other error is not known.
type CachedError struct {
	// Text is the error's.
	Text string
}

// Error returns the text.
func (e *CachedError) Error() string { return e.Text }

// marker is an error that is kept like a value.
type marker struct {
	kind soracache.Kind
	text string
	ttl  time.Duration
}

// markerOf tells whether an error that a loader returned is to be kept.
func markerOf(err error, policy *Policy) (m marker, ok bool) {
	if kept, ok := errors.AsType[*cacheError](err); ok {
		return marker{soracache.KindError, kept.Error(), kept.ttl}, true
	}
	if errors.Is(err, ErrNotFound) && policy.NotFoundTTL > 0 {
		return marker{soracache.KindNotFound, "", policy.NotFoundTTL}, true
	}
	return marker{}, false
}

// markedBy is the error that an entry stands for, or nil if it has a value.
func markedBy(e *soracache.Entry) error {
	switch e.Kind {
	case soracache.KindNotFound:
		return ErrNotFound
	case soracache.KindError:
		return &CachedError{Text: string(e.Value)}
	case soracache.KindValue:
	}
	return nil
}

// original is what the loader's own callers get of an error.
func original(err error) error {
	if kept, ok := err.(*cacheError); ok { //nolint:errorlint // what is wrapped stays wrapped
		return kept.err
	}
	return err
}
