package client

import (
	"context"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/stamps"
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
func newNear(owner near.Owner, cfg config) (*near.Cache, error) {
	if cfg.nearBytes == 0 && cfg.nearEntries == 0 {
		return nil, nil //nolint:nilnil // no near cache is one that keeps nothing
	}
	return near.New(owner, near.Config{
		MaxBytes: cfg.nearBytes, MaxEntries: cfg.nearEntries, Bound: cfg.bound,
		Ahead: cfg.virtual.Ahead, Random: cfg.virtual.Random, Suspended: cfg.virtual.Suspended,
	})
}

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
	if stamps.Gathers(ctx) {
		c.service.Carrier.Carry(ctx, h.Stamps())
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
