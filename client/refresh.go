package client

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/internal/flight"
)

// maxBackground is how many loaders a client has running that nobody waits for.
// Beyond that, callers wait for theirs, or leave the refreshing to others.
const maxBackground = 256

// slots are places for loaders that nobody waits for. The zero value has all of
// them free.
type slots struct{ taken atomic.Int64 }

func (s *slots) take() bool {
	if s.taken.Add(1) <= maxBackground {
		return true
	}
	s.free()
	return false
}

func (s *slots) free() { s.taken.Add(-1) }

// pace is a moving average of how long the loaders of a cache take. The zero value
// has seen none; a nil pace never does.
type pace struct{ nanoseconds atomic.Int64 }

func (p *pace) average() float64 {
	if p == nil {
		return 0
	}
	return float64(p.nanoseconds.Load())
}

func (p *pace) note(took time.Duration) {
	if p == nil {
		return
	}
	old := p.nanoseconds.Load()
	if old == 0 {
		old = int64(took)
	}
	p.nanoseconds.Store(max(old+(int64(took)-old)/4, 1)) // of two at once, one may be lost
}

// farthest bounds how early chance can refresh a value, in average load times: the
// negative logarithm of a random number is never more.
const farthest = 37

// eager is how long before the end of a value's TTL it is to be refreshed, at
// most and without asking chance: what is farther from its end is left alone. It
// is zero if values are never refreshed early.
func (p *Policy) eager(pace *pace) time.Duration {
	if p.EagerAt == 0 && p.Beta == 0 {
		return 0
	}
	return max(p.eagerAt(), time.Duration(farthest*p.Beta*pace.average()))
}

// revalidates tells whether a value may be served although it is past its TTL by
// as much, while it is loaded anew in the background.
func (p *Policy) revalidates(freshFor time.Duration) bool {
	return p.StaleWhileRevalidate > 0 && -freshFor <= p.StaleWhileRevalidate
}

// eagerAt is how long before the end of the TTL every value is refreshed.
func (p *Policy) eagerAt() time.Duration {
	if p.EagerAt == 0 {
		return 0
	}
	return time.Duration((1 - p.EagerAt) * float64(p.ttl()))
}

// refreshWithin is how long before the end of its TTL a value is to be refreshed
// that is read now.
func (p *Policy) refreshWithin(pace *pace) time.Duration {
	within := p.eagerAt()
	if p.Beta > 0 {
		drawn := -math.Log(1 - rand.Float64()) //nolint:gosec // spread, not secrecy
		within = max(within, time.Duration(drawn*p.Beta*pace.average()))
	}
	return min(within, LongestKeep) // no service takes much more
}

// refreshes are the loads of one type that are begun by near hits.
type refreshes struct {
	// quiet are the keys that are fresh enough, or in somebody else's care.
	quiet pauses

	mu      sync.Mutex
	running map[string]struct{} // guarded by mu
}

// begin makes the caller the one to refresh a key, unless there is one.
func (r *refreshes) begin(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.running[key]; ok {
		return false
	}
	if r.running == nil {
		r.running = make(map[string]struct{})
	}
	r.running[key] = struct{}{}
	return true
}

func (r *refreshes) end(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, key)
}

// leaveAlone is how long a key is left alone after it was due for a refresh: somebody
// else refreshes it, or refreshing failed.
func leaveAlone(within time.Duration) time.Duration { return min(within/4, time.Second) }

// due tells whether a near hit is so close to its end that it may be due for a refresh.
// Most hits pay for nothing else of eager refreshing.
func (c *Cache[T]) due(s *settings, hit *near.Hit[T]) bool {
	return (s.policy.EagerAt > 0 || s.policy.Beta > 0) && hit.FreshFor < s.policy.eager(c.pace)
}

// refreshSoon has a value refreshed in the background that was found near, if
// chance says so and nobody does it already.
func (c *Cache[T]) refreshSoon(ctx context.Context, key string, hit *near.Hit[T], load func(context.Context) (T, error), s *settings) {
	within := s.policy.refreshWithin(c.pace)
	if hit.FreshFor > within {
		return
	}
	r, now := &c.kind.refreshes, c.client.now()
	if r.quiet.has(key, now) || c.kind.failing.has(key, now) || !r.begin(key) {
		return
	}
	l := &loading[T]{client: c.client, kind: c.kind, pace: c.pace, key: key, load: load, settings: s}
	begun := l.inBackground(ctx, func(ctx context.Context) {
		defer r.end(key)
		l.refreshNear(ctx, within)
		r.quiet.add(key, l.client.now(), leaveAlone(within))
	})
	if !begun {
		r.end(key)
	}
}

// refreshNear asks for the lease to refresh a value under. Without, somebody else
// does that, or has done it: the answer is then the newer value.
func (l *loading[T]) refreshNear(ctx context.Context, within time.Duration) {
	defer l.quit(ctx)
	read, err := l.ask(ctx, soracache.Read{Key: l.key, Schema: l.kind.schema, Lease: true, RefreshWithin: within})
	if err != nil {
		return // what is there is fresh still
	}
	there, ok := l.decoded(read)
	if ok {
		l.keepNear(read, there)
	}
	switch l.replaces = unreadable(&read, ok); {
	case read.Lease == (soracache.Lease{}):
	case l.replaces && !l.mayReplace(&read):
		l.unneeded(ctx, read)
	default:
		l.reload(ctx, read, there, RefreshEager)
	}
}

// refreshBehind refreshes a value in the background, under a lease that came with
// it, and tells whether it could.
func (l *loading[T]) refreshBehind(ctx context.Context, granted soracache.ReadResult, there *standby[T], why RefreshReason) bool {
	behind := *l // the other goes on with its callers
	behind.asked, behind.due, behind.admits = nil, due{}, false
	begun := behind.inBackground(ctx, func(ctx context.Context) {
		defer behind.quit(ctx)
		behind.reload(ctx, granted, there, why)
	})
	if begun {
		l.owed = soracache.Lease{} // which the other has
	}
	return begun
}

// reload runs the loader under a lease, and nobody waits for it.
func (l *loading[T]) reload(ctx context.Context, granted soracache.ReadResult, there *standby[T], why RefreshReason) {
	l.client.observer.refresh(l.key, why)
	start := time.Now()
	ctx, end := l.client.observer.start(ctx, OpRefresh, l.key)
	o, err := outcome[T]{}, ErrGoexit // unless it returns
	defer func() {
		if l.failed(ctx, err) {
			l.pause()
		}
		l.client.observer.refreshed(l.key, time.Since(start), err)
		end(Outcome{Loaded: o.how.Loaded, Err: err})
	}()
	o, err = l.leased(ctx, granted, there).do(ctx)
}

// inBackground runs something that nobody waits for, with the values of a
// context: not its end, and not what the loader says that may run under it. It
// is false if too much of the kind is running, or the client is closed.
func (l *loading[T]) inBackground(ctx context.Context, do func(context.Context)) bool {
	c := l.client
	if !c.background.take() {
		return false
	}
	ctx = flight.NewRun(context.WithValue(context.WithoutCancel(ctx), fillKey{}, (*Fill)(nil)))
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		c.background.free()
		return false
	}
	go func() {
		defer c.background.free()
		defer leave()
		defer c.observer.survive(l.key)
		ctx, cancel := context.WithTimeout(ctx, maxHold)
		defer cancel()
		do(ctx)
	}()
	return true
}

// survive is deferred in goroutines whose panics would reach nobody. A loader's panic
// is reported to OnLoad, so what comes here is a hook's.
func (o *observer) survive(key string) {
	if p := recover(); p != nil {
		o.log.Error("soracache: a hook panicked in the background", "key", key, "panic", p, "stack", string(debug.Stack()))
	}
}

// refreshWithin is how long before its end a value is to be refreshed that the
// service has.
func (l *loading[T]) refreshWithin() time.Duration {
	p := &l.settings.policy
	if p.EagerAt == 0 && p.Beta == 0 || l.kind.refreshes.quiet.has(l.key, l.client.now()) || l.kind.failing.has(l.key, l.client.now()) {
		return 0
	}
	return p.refreshWithin(l.pace)
}
