package client

import (
	"context"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
)

// The defaults of the near cache.
const (
	// DefaultNearBytes is how much memory a client's near cache takes at most,
	// unless [NearBytes] or [NearEntries] says otherwise.
	DefaultNearBytes = 64 << 20
	// DefaultBound is the longest that a near cache trusts itself without
	// confirmation, unless [Bound] says otherwise.
	DefaultBound = time.Second
)

// newNear returns the near cache of a client; nil: it has none.
func newNear(c *Client, cfg config) (*near.Cache, error) {
	if cfg.nearBytes == 0 && cfg.nearEntries == 0 {
		return nil, nil //nolint:nilnil // no near cache is one that keeps nothing
	}
	return near.New(nearOwner{c}, near.Config{
		MaxBytes: cfg.nearBytes, MaxEntries: cfg.nearEntries, Bound: cfg.bound,
		Ahead: cfg.virtual.Ahead, Random: cfg.virtual.Random, Suspended: cfg.virtual.Suspended,
	})
}

// nearOwner is a client as its near cache knows it.
type nearOwner struct{ client *Client }

var _ near.Owner = nearOwner{}

func (o nearOwner) Watch(ctx context.Context, from soracache.Stamps, deliver func([]soracache.WatchItem) error) error {
	return o.client.backend.Watch(ctx, soracache.WatchRequest{Namespace: o.client.namespace, From: from}, func(items []soracache.WatchItem) error {
		o.client.session.noticeClear(items)
		return deliver(items)
	})
}

func (o nearOwner) Head(ctx context.Context) (soracache.HeadResult, error) {
	return o.client.backend.Head(ctx, o.client.namespace)
}

func (o nearOwner) Read(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(ctx, o.client.timeout)
	defer cancel()
	_, _ = o.client.read(ctx, soracache.Read{Key: key}, nil) // the session learns what there is to learn
}

func (o nearOwner) Observe(shown, seen soracache.Stamps) { o.client.session.observe(shown, seen) }
func (o nearOwner) Seen() soracache.Stamps               { return o.client.session.stamps() }
func (o nearOwner) Begin(do func(context.Context))       { o.client.inBackground(do) }
func (o nearOwner) Reset()                               { o.client.observer.nearReset() }
func (o nearOwner) Refuses(err error) bool               { return refusal(err) }

// nearOutcome is what a loader or a caller makes of a near hit.
func nearOutcome[T any](h *near.Hit[T]) outcome[T] {
	return outcome[T]{
		value: h.Value(),
		ingredient: ingredient{
			tags:   h.Entry().Tags,
			proofs: []soracache.Stamps{h.Stamps()},
		},
		marker: markedBy(h.Entry()),
		how:    Outcome{Tier: soracache.TierNear},
	}
}

// carryHit lets the context carry what a near hit has shown.
func carryHit[T any](ctx context.Context, c *Client, h *near.Hit[T]) {
	if carrierFrom(ctx) != nil {
		c.carry(ctx, h.Stamps())
	}
}

// giveHit is what a caller gets of a near hit.
func giveHit[T any](h *near.Hit[T], s *settings) (T, error) {
	if e := h.Entry(); e.Kind != soracache.KindValue {
		var zero T
		return zero, markedBy(e)
	}
	return own(s, h.Value())
}
