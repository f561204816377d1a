package client

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

// Hooks are told what the client does, for metrics, traces and logs. Every
// field may be nil, and then costs nothing. They are called inline, from many
// goroutines at once, and must return quickly; a hook that panics or blocks does
// so in the call that it observes, and leaves no lease behind. OnBreaker, OnNearReset and
// OnSource observe none: what they panic with is logged. [WithHooks] takes several.
type Hooks struct {
	// OnHit reports a fresh value that was found, and in which tier. A hit in
	// the near cache of the process is told to this hook alone.
	OnHit func(key string, tier soracache.Tier)
	// OnStale reports a value past its TTL that was served, in which tier it was
	// found, and why it was good enough. It is never one that an invalidation
	// named.
	OnStale func(key string, tier soracache.Tier, why StaleReason)
	// OnMiss reports that nothing usable was found.
	OnMiss func(key string)
	// OnLoad reports the end of a loader, whoever waited for it. A panic is an
	// error of type [*PanicError].
	OnLoad func(key string, took time.Duration, err error)
	// OnFillSuperseded reports a loaded value that was returned and not stored
	// because an invalidation, or another owner of the lease, came first.
	OnFillSuperseded func(key string, reason soracache.Reason)
	// OnNotStored reports a loaded value that was returned and not stored for
	// any other reason, and says which: no lease, the loader's wish or an
	// interceptor's, an ingredient that forbids it, a value that cannot be encoded, or
	// the service's refusal or absence. A TTL or a keep time above what the service
	// allows is such a refusal: the error says what is allowed.
	OnNotStored func(key string, why error)
	// OnParked hands over a value that an interceptor parked: see [Client.Parked]. If it was
	// loaded, OnNotStored is told as well.
	OnParked func(Parked)
	// OnFailOpen reports that the service could not answer GetOrSet, which
	// therefore runs the loader.
	OnFailOpen func(key string, err error)
	// OnUnreadable reports a live entry that cannot be decoded as the type that
	// was asked for. It counts as a miss, and GetOrSet replaces it.
	OnUnreadable func(key, encoding string, err error)

	// OnRefresh reports that a value which is there already begins to be loaded
	// anew, for the sake of later callers.
	OnRefresh func(key string, why RefreshReason)
	// OnRefreshed reports the end of what OnRefresh reported. The error is the
	// loader's; what became of its value is told to the hooks above.
	OnRefreshed func(key string, took time.Duration, err error)

	// OnSource reports that the circuit breaker of a source, known by its name, has
	// entered a state because of a load of this client: it has opened, a load is on trial
	// (half-open), or it has closed.
	OnSource func(source string, state SourceState)
	// OnRejected reports that a loader was not run, in the foreground or in the background,
	// to spare its source. The error wraps [ErrSourceOpen] or [ErrSourceBusy]. If a stale
	// value was served instead, OnStale is told as well.
	OnRejected func(source, key string, why error)

	// OnInvalidate reports the end of an invalidation that was asked of this
	// client: by Invalidate, InvalidateTags, Remove or Clear. What other clients
	// invalidate is not told.
	OnInvalidate func(what Invalidation, err error)
	// OnBreaker reports that a node, known by its URL, is passed over from now on
	// because it failed (open), or is used again.
	OnBreaker func(node string, open bool)
	// OnNearReset reports that the near cache lost track of the namespace's
	// invalidations and serves nothing that it held before.
	OnNearReset func()

	// OnStart is called where an operation begins, with its context and key, and
	// returns the context to go on with and a function to be told of the end; it
	// may return ctx itself and nil. This is what spans are made of. It is not
	// called for a hit in the near cache, which ends before a span would have
	// begun. OpSet and OpInvalidate are operations too; of an invalidation the
	// key is empty.
	OnStart func(ctx context.Context, op Op, key string) (context.Context, func(Outcome))
}

// Op is a kind of operation that takes time.
type Op string

// The operations that [Hooks.OnStart] is told of.
const (
	// OpGet is a read without a loader.
	OpGet Op = "get"
	// OpGetOrSet is a call of GetOrSet or of a loading cache's Get. Each caller's
	// is one, also of callers that share a load.
	OpGetOrSet Op = "get_or_set"
	// OpGetOrSetMany is a call for many keys; its key is empty.
	OpGetOrSetMany Op = "get_or_set_many"
	// OpLoad is one run of a loader. Its context has the values of the first
	// caller's.
	OpLoad Op = "load"
	// OpRefresh is what is done in the background for the sake of later callers,
	// an OpLoad among it. It may outlast the call that began it.
	OpRefresh Op = "refresh"
	// OpSet is a call of Set.
	OpSet Op = "set"
	// OpInvalidate is a call of Invalidate, InvalidateTags, Remove or Clear.
	OpInvalidate Op = "invalidate"
)

// Outcome is how an operation ended.
type Outcome struct {
	// Tier is where the value was found; TierNone if it was not, or if the
	// operation is no read.
	Tier soracache.Tier
	// Stale tells that the value was past its TTL.
	Stale bool
	// Loaded tells that the value comes from a loader.
	Loaded bool
	// Err is the error that the caller gets.
	Err error
}

// StaleReason says why a value past its TTL was served.
type StaleReason uint8

// The reasons to serve a stale value.
const (
	// StaleRefreshing: it is being loaded anew, here or elsewhere.
	StaleRefreshing StaleReason = iota
	// StaleSlowLoader: the loader took longer than the caller was to wait.
	StaleSlowLoader
	// StaleFailedLoader: the loader failed.
	StaleFailedLoader
	// StaleThrottled: the loader failed a moment ago, and is not asked again yet.
	StaleThrottled
	// StaleServiceDown: the service could not be asked for a lease to load under.
	StaleServiceDown
	// StaleRejected: the loader was not run, to spare its source.
	StaleRejected
)

// String returns refreshing, slow_loader, failed_loader, throttled, service_down or
// rejected.
func (r StaleReason) String() string {
	return [...]string{"refreshing", "slow_loader", "failed_loader", "throttled", "service_down", "rejected"}[min(r, StaleRejected)]
}

// RefreshReason says why a value that is there is loaded anew.
type RefreshReason uint8

// The reasons to refresh.
const (
	// RefreshStale: it is past its TTL.
	RefreshStale RefreshReason = iota
	// RefreshEager: it will be soon.
	RefreshEager
)

// String returns stale or eager.
func (r RefreshReason) String() string {
	return [...]string{"stale", "eager"}[min(r, RefreshEager)]
}

// observer tells the hooks, and the log what an operator should know of.
type observer struct {
	hooks Hooks
	log   *slog.Logger
	// Of each kind of trouble, when it was last logged.
	failedOpen, unread, kept occasion
}

// start tells of an operation that begins. The function must be called with
// its outcome.
func (o *observer) start(ctx context.Context, op Op, key string) (context.Context, func(Outcome)) {
	if o.hooks.OnStart == nil {
		return ctx, unobserved
	}
	ctx, end := o.hooks.OnStart(ctx, op, key)
	if end == nil {
		end = unobserved
	}
	return ctx, end
}

func unobserved(Outcome) {}

func (o *observer) hit(key string, tier soracache.Tier) {
	if o.hooks.OnHit != nil {
		o.hooks.OnHit(key, tier)
	}
}

// stale tells of a value past its TTL that a caller is given.
func (o *observer) stale(key string, tier soracache.Tier, why StaleReason) {
	if o.hooks.OnStale != nil {
		o.hooks.OnStale(key, tier, why)
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

// refresh tells that a value begins to be loaded anew, and refreshed that this
// has ended.
func (o *observer) refresh(key string, why RefreshReason) {
	if o.hooks.OnRefresh != nil {
		o.hooks.OnRefresh(key, why)
	}
}

func (o *observer) refreshed(key string, took time.Duration, err error) {
	if o.hooks.OnRefreshed != nil {
		o.hooks.OnRefreshed(key, took, err)
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

func (o *observer) parked(p Parked) {
	if o.hooks.OnParked != nil {
		o.hooks.OnParked(p)
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

func (o *observer) invalidated(what Invalidation, err error) {
	if o.hooks.OnInvalidate != nil {
		o.hooks.OnInvalidate(what, err)
	}
}

// sourceState tells of the state of a source's breaker.
func (o *observer) sourceState(source string, state SourceState) {
	if o.hooks.OnSource != nil {
		defer o.survive("")
		o.hooks.OnSource(source, state)
	}
}

// rejected tells that a loader was not run.
func (o *observer) rejected(source, key string, why error) {
	if o.hooks.OnRejected != nil {
		o.hooks.OnRejected(source, key, why)
	}
}

func (o *observer) nearReset() {
	if o.hooks.OnNearReset != nil {
		defer o.survive("")
		o.hooks.OnNearReset()
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
