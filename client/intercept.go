package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
)

// An Interceptor does something around the loading and the storing of values: it checks
// or changes what loaders return, retries them, adds tags, keeps certain values out of
// the cache, or reports what becomes of them. [Interceptors] gives some to a client, and
// [WithInterceptors] to a cache. Most do one of the two: see [LoadInterceptor] and
// [StoreInterceptor].
//
// The first one that was given is the outermost, and those of the client are around those
// of the cache. Values that are found in the cache pass by none of them. Callers that
// share a load share the first one's, as they do its options: caches that have keys in
// common are to have the same ones.
//
// Each method is called when a client or a cache is made, and may be called again for a cache
// that is given more. What it returns is called by many goroutines at once.
type Interceptor interface {
	// WrapLoad returns what is called in place of next to load values, and as a
	// rule calls it.
	WrapLoad(next LoadFunc) LoadFunc
	// WrapStore does the same for what stores values.
	WrapStore(next StoreFunc) StoreFunc
}

// A Describer is an interceptor that tells operators about itself: see
// [Client.Interceptors].
type Describer interface {
	// Describe returns the interceptor's name, and what keeps it from doing its work,
	// if anything does. It returns at once, with what is known already.
	Describe() (name string, health error)
}

// A LoadInterceptor is an [Interceptor] around loaders alone.
type LoadInterceptor func(next LoadFunc) LoadFunc

// WrapLoad applies the interceptor.
func (i LoadInterceptor) WrapLoad(next LoadFunc) LoadFunc { return i(next) }

// WrapStore returns next.
func (LoadInterceptor) WrapStore(next StoreFunc) StoreFunc { return next }

// A StoreInterceptor is an [Interceptor] around the storing of values alone.
type StoreInterceptor func(next StoreFunc) StoreFunc

// WrapLoad returns next.
func (StoreInterceptor) WrapLoad(next LoadFunc) LoadFunc { return next }

// WrapStore applies the interceptor.
func (i StoreInterceptor) WrapStore(next StoreFunc) StoreFunc { return i(next) }

// LoadFunc calls a loader once, and returns what that returned: the values of the keys,
// each of the type of the cache, or an error. As with [Cache.GetOrSetMany], a key that
// the result lacks does not exist, and a [*ManyError] is about the keys that it names. The
// loader of a single key returns one value, or the error.
//
// An interceptor is to its callers a part of the loader: it may return other values of the
// same type, or an error; its panic is the loader's, and its time counts as the loader's in
// all timeouts. It has the context that the loader gets, which ends when nobody wants the
// values any more, and may say by [LoadContextFrom] all that a loader may, before and after
// the loader runs. If it does not call next, what it returns counts as loaded. It may call
// next several times, one after the other or at once: the loader runs as often, what was
// said to the LoadContext stays said, and what the interceptor returns counts.
type LoadFunc func(ctx context.Context, req LoadRequest) (map[string]any, error)

// LoadRequest is one call of a loader.
type LoadRequest struct {
	// Namespace is the client's, and Schema that of the values.
	Namespace, Schema string
	// Keys are what is to be loaded: one, or those of one call of a batch loader. An
	// interceptor that has some of the values already may have next load the others
	// alone.
	Keys []string
	// Refresh tells that there are values, and that nobody waits for the new ones.
	Refresh bool

	// cache runs the cache's interceptors, and load the loader.
	cache, load LoadFunc
}

// StoreFunc stores values: those of one call of a loader that can be stored, or the one of
// a [Cache.Set]. When it returns, each request tells what became of it. The values are given
// to their callers all the same, as they are.
//
// An interceptor may have some of them not be stored, by [StoreRequest.Refuse] and
// [StoreRequest.Park]. What is not passed on to next is refused as well, and so is all that
// is open when it panics. Passing on a request twice does nothing. What it adds to the time
// of a load is at most [Timeout]: then its context ends, and the values that were not passed
// on are not stored. That context has the values of the load's, and no LoadContext: what is
// stored is decided.
type StoreFunc func(ctx context.Context, reqs []*StoreRequest)

// StoreRequest is a value that is to be stored. It belongs to the call of the interceptors
// that it was given to. Changing its fields changes nothing.
type StoreRequest struct {
	// Namespace is the client's, and Schema that of the value.
	Namespace, Schema string
	Key               string
	// Value is what the callers get. If Failure is set, that is stored in its place:
	// [ErrNotFound], or a [*CachedError].
	Value   any
	Failure error
	// Tags are all that the value will carry, TTL is how long it is to be fresh, and
	// Keep how long it is to be kept at all.
	Tags      []string
	TTL, Keep time.Duration
	// Size is how many bytes the encoded value has.
	Size int
	// Set tells that it comes from [Cache.Set], which fails if it is not stored.
	Set bool

	at    int // which of the batch it is
	batch *storeBatch
	entry soracache.Entry
	state storeState
	err   error
}

// storeState is what became of a request to store.
type storeState uint8

const (
	storeOpen    storeState = iota
	storePassed             // to what stores it, which answered or will
	storeDone               // it is stored
	storeRefused            // by an interceptor
	storeParked             // by an interceptor
	storeFailed             // what was to pass it on did not
)

// Refuse has the value not be stored. Hooks.OnNotStored is told the reason. It has no effect
// on what is refused, parked or passed on already.
func (r *StoreRequest) Refuse(why error) { r.decline(storeRefused, why) }

// Park refuses the value, and has it kept aside for people to look at: see
// [Client.Parked]. It is never served.
func (r *StoreRequest) Park(why error) { r.decline(storeParked, why) }

func (r *StoreRequest) decline(state storeState, why error) {
	if r.state != storeOpen {
		return
	}
	if r.state, r.err = state, why; why == nil {
		r.err = errNoReason
	}
}

// Stored tells whether the value is stored now.
func (r *StoreRequest) Stored() bool { return r.state == storeDone }

// Err is why the value is not stored, or will not be: the reason of who refused it,
// [ErrSuperseded], or what the service said. It is nil as long as nothing is decided.
func (r *StoreRequest) Err() error { return r.err }

// answered takes in what the service said.
func (r *StoreRequest) answered(result *soracache.WriteResult) {
	switch {
	case result.Err != nil:
		r.err = result.Err
	case !result.Stored:
		r.err = fmt.Errorf("%w: %s", ErrSuperseded, result.Reason)
	default:
		r.state = storeDone
	}
}

// ErrSuperseded is what an interceptor finds in a [StoreRequest] whose value came too late:
// an invalidation, or another owner of the lease, came first.
var ErrSuperseded = errors.New("superseded")

// Why an interceptor had a value not be stored that did not say so.
var (
	errNoReason  = errors.New("an interceptor refused it, and did not say why")
	errNotPassed = errors.New("an interceptor did not pass it on")
	errMadeUp    = fmt.Errorf("%w: an interceptor passed on a LoadRequest that it was not given", soracache.ErrInvalid)
)

// Interceptors has a client load and store by way of interceptors, in their order: inside
// of those that it was given before.
func Interceptors(interceptors ...Interceptor) Option {
	return func(c *config) { c.interceptors = append(slices.Clip(c.interceptors), interceptors...) }
}

// WithInterceptors has a cache load and store by way of interceptors, in their order: inside
// of those that it has, and of the client's.
func WithInterceptors(interceptors ...Interceptor) CallOption {
	return func(s *settings) {
		s.interceptors = chained(append(s.interceptors.all(), interceptors...), runLoader, storeAll)
	}
}

// chain is interceptors as one. A nil chain has none.
type chain struct {
	interceptors []Interceptor
	load         LoadFunc
	store        StoreFunc
}

// chained makes interceptors one, around what loads and stores.
func chained(interceptors []Interceptor, load LoadFunc, store StoreFunc) *chain {
	interceptors = slices.DeleteFunc(interceptors, func(i Interceptor) bool { return i == nil })
	if len(interceptors) == 0 {
		return nil
	}
	for _, i := range slices.Backward(interceptors) {
		load, store = i.WrapLoad(load), i.WrapStore(store)
	}
	return &chain{interceptors, load, store}
}

// all returns a copy of the interceptors.
func (c *chain) all() []Interceptor {
	if c == nil {
		return nil
	}
	return slices.Clone(c.interceptors)
}

// runLoader and runCaches are what the interceptors of a cache and of a client are around:
// composed once, they find what is inside of them in the request.
func runLoader(ctx context.Context, req LoadRequest) (map[string]any, error) {
	if req.load == nil {
		return nil, errMadeUp
	}
	return req.load(ctx, req)
}

func runCaches(ctx context.Context, req LoadRequest) (map[string]any, error) {
	if req.cache == nil {
		return nil, errMadeUp
	}
	return req.cache(ctx, req)
}

// storeBatch is what some requests have in common: the cache's interceptors, and what
// stores.
type storeBatch struct {
	cache, store StoreFunc

	// mu is held while something is stored, and guards what becomes of the requests: an
	// interceptor may have next run in a goroutine, and return before it.
	mu sync.Mutex
}

// storeAll and storeByCaches are the same for storing.
func storeAll(ctx context.Context, reqs []*StoreRequest) {
	if len(reqs) == 0 {
		return
	}
	batch, open := reqs[0].batch, make([]*StoreRequest, 0, len(reqs))
	batch.mu.Lock()
	defer batch.mu.Unlock()
	for _, r := range reqs {
		if r.state == storeOpen && r.batch == batch {
			r.state = storePassed
			open = append(open, r)
		}
	}
	if len(open) > 0 {
		batch.store(ctx, open)
	}
}

func storeByCaches(ctx context.Context, reqs []*StoreRequest) {
	if len(reqs) > 0 {
		reqs[0].batch.cache(ctx, reqs)
	}
}

// InterceptorStatus is what an interceptor says of itself.
type InterceptorStatus struct {
	// Name is what [Describer] says, or the interceptor's type.
	Name string
	// Health is what keeps it from doing its work; nil: nothing that it told.
	Health error
}

// Interceptors tells the client's interceptors, the outermost first. Those that only a cache
// has are in [Cache.Interceptors].
func (c *Client) Interceptors() []InterceptorStatus { return c.interceptors.describe() }

// Interceptors tells the interceptors that the cache loads and stores by, the outermost
// first: the client's, and then its own.
func (c *Cache[T]) Interceptors() []InterceptorStatus {
	return append(c.client.Interceptors(), c.settings.interceptors.describe()...)
}

// Interceptors is [Cache.Interceptors].
func (c *LoadingCache[T]) Interceptors() []InterceptorStatus { return c.cache.Interceptors() }

func (c *chain) describe() (all []InterceptorStatus) {
	for _, i := range c.all() {
		status := InterceptorStatus{Name: fmt.Sprintf("%T", i)}
		if d, ok := i.(Describer); ok {
			status.Name, status.Health = d.Describe()
		}
		all = append(all, status)
	}
	return all
}
