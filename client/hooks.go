package client

import (
	"log/slog"
	"sync/atomic"
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

// observer tells the hooks, and the log what an operator should know of.
type observer struct {
	hooks Hooks
	log   *slog.Logger
	// Of each kind of trouble, when it was last logged.
	failedOpen, unread, kept occasion
}

func (o *observer) found(key string, r soracache.ReadResult) {
	on := o.hooks.OnHit
	if r.Status == soracache.StatusStale {
		on = o.hooks.OnStale
	}
	if on != nil {
		on(key, r.Tier)
	}
}

func (o *observer) miss(key string) {
	if o.hooks.OnMiss != nil {
		o.hooks.OnMiss(key)
	}
}

func (o *observer) loaded(key string, took time.Duration, err error) {
	if o.hooks.OnLoad != nil {
		o.hooks.OnLoad(key, took, err)
	}
}

func (o *observer) superseded(key string, reason soracache.Reason) {
	if o.hooks.OnFillSuperseded != nil {
		o.hooks.OnFillSuperseded(key, reason)
	}
}

// notStored reports what is in order.
func (o *observer) notStored(key string, why error) {
	if o.hooks.OnNotStored != nil {
		o.hooks.OnNotStored(key, why)
	}
}

// refused reports a value that could not be stored although it should be.
func (o *observer) refused(key string, err error) {
	o.notStored(key, err)
	if o.kept.due() {
		o.log.Warn("soracache: a loaded value was not stored", "key", key, "error", err)
	}
}

func (o *observer) failOpen(key string, err error) {
	if o.hooks.OnFailOpen != nil {
		o.hooks.OnFailOpen(key, err)
	}
	if o.failedOpen.due() {
		o.log.Warn("soracache: running a loader without the service", "key", key, "error", err)
	}
}

func (o *observer) unreadable(key, encoding string, err error) {
	if o.hooks.OnUnreadable != nil {
		o.hooks.OnUnreadable(key, encoding, err)
	}
	if o.unread.due() {
		o.log.Warn("soracache: an entry cannot be read as what was asked for", "key", key, "encoding", encoding, "error", err)
	}
}

// complainEvery keeps a service that is down from being logged by every call.
const complainEvery = 10 * time.Second

// occasion is when something was last logged, in nanoseconds since 1970.
type occasion struct{ last atomic.Int64 }

// due tells whether it may be logged again, and takes it that it is.
func (o *occasion) due() bool {
	now, last := time.Now().UnixNano(), o.last.Load()
	return now-last >= int64(complainEvery) && o.last.CompareAndSwap(last, now)
}
