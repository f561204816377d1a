package client

import (
	"fmt"
	"reflect"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
)

// outcome is what the callers of one key share: the value, and what it brings
// into a loader that asked for it.
type outcome[T any] struct {
	value T
	ingredient
	// marker, if set, is the error that the callers get instead of a value. Unlike
	// others it may be kept, and a loader may depend on it.
	marker error
	// how tells where it comes from.
	how Outcome
	// stored means that it was loaded and is stored now.
	stored bool
	// pure means that it was loaded, and computed from nothing that a cache gave.
	pure bool
}

// give is what one caller gets.
func (o *outcome[T]) give(s *settings) (T, error) {
	if o.marker != nil {
		var zero T
		return zero, o.marker
	}
	return own(s, o.value)
}

// own makes a value the caller's own, if that is asked for.
func own[T any](s *settings, value T) (T, error) {
	if s.clone == nil {
		return value, nil
	}
	clone, ok := s.clone.(func(T) T)
	if !ok || clone == nil {
		var zero T
		return zero, fmt.Errorf("client: %w", misfit[T](s))
	}
	return clone(value), nil
}

// misfit is the error of a cache that has another type's CloneWith.
func misfit[T any](s *settings) error {
	return fmt.Errorf("%w: CloneWith(%T) for values of type %s", soracache.ErrInvalid, s.clone, reflect.TypeFor[T]())
}

// found is a value that the service has.
type found[T any] struct {
	outcome[T]
	entry soracache.Entry
	tier  soracache.Tier
	// freshFor is what was left of its TTL; not positive if it was stale.
	freshFor time.Duration
	// stamps are what it was proven to reflect.
	stamps soracache.Stamps
	// unconfirmed means that a node could not tell whether it is live.
	unconfirmed bool
}

// fresh tells whether the value was within its TTL, and confirmed.
func (f *found[T]) fresh() bool { return !f.how.Stale }

// decoded returns the value of an answer; nil: it has none, or cannot be read. The
// hooks are told of one that cannot, if so asked.
func (c *call[T]) decoded(key string, answer *soracache.ReadResult, tell bool) *found[T] {
	if answer.Status == soracache.StatusMiss {
		return nil
	}
	o, err := decoded[T](c.client, answer, c.settings.codec)
	if err != nil {
		if tell {
			c.client.observer.unreadable(key, answer.Entry.Encoding, err)
		}
		return nil
	}
	return &found[T]{o, answer.Entry, answer.Tier, answer.FreshFor, answer.Stamp, answer.Unconfirmed}
}

// decoded returns the value of an answer that has one. The error says why it cannot
// be read as a T.
func decoded[T any](c *Client, answer *soracache.ReadResult, codec Codec) (o outcome[T], err error) {
	o.tags, o.proofs = answer.Entry.Tags, []soracache.Stamps{answer.Stamp}
	o.how = Outcome{Tier: answer.Tier, Stale: answer.Status == soracache.StatusStale}
	if o.how.Stale {
		o.taint = errStale
	}
	if o.marker = markedBy(&answer.Entry); o.marker == nil {
		o.value, err = decode[T](c.codecs, codec, answer.Entry)
	}
	return o, err
}

// serve gives the callers of a key a value that was found.
func (c *call[T]) serve(key string, f *found[T], why StaleReason) outcome[T] {
	switch {
	case f.fresh():
		c.client.observer.hit(key, f.tier)
	case f.unconfirmed:
		c.client.observer.stale(key, f.tier, StaleServiceDown)
	default:
		c.client.observer.stale(key, f.tier, why)
	}
	return f.outcome
}

// keptFrom is what is to be kept near of an answer.
func keptFrom(answer *soracache.ReadResult, policy *Policy) near.Kept {
	return near.Kept{
		Entry: answer.Entry, Stamps: answer.Stamp, Most: policy.Near,
		FreshFor: answer.FreshFor, KeepFor: answer.KeepFor,
	}
}
