package client

import (
	"time"

	"github.com/soracache/soracache"
)

// Hooks are told what the client does, for metrics, traces and logs. Every
// field may be nil. They are called inline, from many goroutines at once, and
// must return quickly.
type Hooks struct {
	// OnHit reports a value that was found, and in which tier.
	OnHit func(key string, tier soracache.Tier)
	// OnStale reports a value past its TTL that was served because somebody
	// else is refreshing it.
	OnStale func(key string, tier soracache.Tier)
	// OnMiss reports that nothing usable was found.
	OnMiss func(key string)
	// OnLoad reports the end of a loader.
	OnLoad func(key string, took time.Duration, err error)
	// OnFillSuperseded reports a loaded value that was returned and not stored
	// because an invalidation, or another owner of the lease, came first.
	OnFillSuperseded func(key string, reason soracache.Reason)
	// OnNotStored reports a loaded value that was returned and not stored for
	// any other reason, and says which: no lease, the loader's wish, an
	// ingredient that forbids it, a value that cannot be encoded, or the
	// service's refusal or absence.
	OnNotStored func(key string, why error)
	// OnFailOpen reports that the service could not answer GetOrSet, which
	// therefore runs the loader.
	OnFailOpen func(key string, err error)
	// OnUnreadable reports a live entry that cannot be decoded as the type that
	// was asked for. It counts as a miss, and GetOrSet replaces it.
	OnUnreadable func(key, encoding string, err error)
}

func (h *Hooks) found(key string, r soracache.ReadResult) {
	on := h.OnHit
	if r.Status == soracache.StatusStale {
		on = h.OnStale
	}
	if on != nil {
		on(key, r.Tier)
	}
}

func (h *Hooks) miss(key string) {
	if h.OnMiss != nil {
		h.OnMiss(key)
	}
}

func (h *Hooks) load(key string, took time.Duration, err error) {
	if h.OnLoad != nil {
		h.OnLoad(key, took, err)
	}
}

func (h *Hooks) fillSuperseded(key string, reason soracache.Reason) {
	if h.OnFillSuperseded != nil {
		h.OnFillSuperseded(key, reason)
	}
}

func (h *Hooks) notStored(key string, why error) {
	if h.OnNotStored != nil {
		h.OnNotStored(key, why)
	}
}

func (h *Hooks) failOpen(key string, err error) {
	if h.OnFailOpen != nil {
		h.OnFailOpen(key, err)
	}
}

func (h *Hooks) unreadable(key, encoding string, err error) {
	if h.OnUnreadable != nil {
		h.OnUnreadable(key, encoding, err)
	}
}
