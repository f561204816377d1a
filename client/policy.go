package client

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/soracache/soracache"
)

// DefaultWait is how long GetOrSet waits while somebody else loads the key:
// longer than a lease lasts, so that the death of whoever holds it is survived.
const DefaultWait = 15 * time.Second

// Policy says how long values are used, and what they depend on. It is a value, made by
// hand or from a preset: [Short], [Default], [Long].
type Policy struct {
	// TTL is how long a value is fresh, anywhere. Where nothing was said, in a
	// Policy made by hand, that is [Default]'s. Whoever says zero, by WithTTL or
	// [LoadContext.SetTTL], has values returned to those who called for them, and not
	// stored.
	TTL time.Duration
	// L1 caps how long the memory of a cache node may keep a value before it
	// asks the second tier again; zero means no cap but the TTL. It bounds
	// memory, not staleness: an invalidation reaches every tier.
	L1 time.Duration
	// Near caps how long the application's own memory may keep a value before it
	// asks the service again; zero means no cap but the TTL, a negative time not
	// to keep it there at all. Like L1, it does not bound staleness.
	Near time.Duration
	// Keep is how long a value is kept at all; zero, or less than TTL, means
	// TTL. Between TTL and Keep a value is stale: the first caller loads it
	// anew, and as long as that takes the others are given the old one, which
	// is never one that an invalidation names. StaleWhileRevalidate and FailSafe
	// keep values longer where they need to. Whatever these say, no value is kept
	// for longer than its TTL or [LongestKeep], whichever is more. A service that
	// allows less refuses to store what is to be kept for longer, as it refuses a
	// longer TTL: [Hooks.OnNotStored] is told.
	Keep time.Duration
	// Tags name what the values depend on. Invalidating any of them makes the
	// value unservable.
	Tags []string
	// Wait is how long a caller waits while another process loads the key. After
	// that it loads the value itself, and does not store it. Zero means
	// [DefaultWait]; with a negative Wait nobody waits for other processes. The
	// caller's own deadline ends the wait as well. Wait may be longer than the
	// service lets one request wait: the client then asks again.
	//
	// A load of the same process is waited for as long, or for [DefaultWait] if
	// Wait is negative. After that the caller gets [ErrWait]: no process loads a
	// key twice at a time.
	Wait time.Duration

	// Jitter is how much of its times each value may be short of, at random: a
	// fraction of TTL, L1 and Near from 0 to 1. With 0.1, values that are stored
	// together expire spread over the last tenth of their TTL.
	Jitter float64
	// StaleWhileRevalidate is for how long after its TTL a value is returned at
	// once, while it is loaded anew in the background. It makes values be kept
	// for at least that long.
	StaleWhileRevalidate time.Duration
	// FailSafe is for how long after its TTL a value is returned if its loader
	// fails or exceeds HardTimeout. It makes values be kept for at least that
	// long. A value that is known to be invalidated is never returned, and an
	// error that wraps [ErrNotFound] is no failure.
	FailSafe time.Duration
	// FailSafeThrottle is how long this client leaves a key's loader alone after
	// a failure, as long as there is a value that may be returned instead. Zero
	// means [DefaultFailSafeThrottle], a negative time not to leave it alone.
	FailSafeThrottle time.Duration
	// SoftTimeout is how long to wait for the loader if there is a stale value:
	// then that is returned, and the loader goes on in the background. Zero means
	// to wait.
	SoftTimeout time.Duration
	// HardTimeout is how long to wait for the loader, here or elsewhere: then an
	// error that wraps [context.DeadlineExceeded] is returned, or what FailSafe
	// allows. The loader goes on in the background, for 5 minutes at most, and
	// what it loads is stored. Zero means to wait as long as the caller does.
	HardTimeout time.Duration
	// EagerAt is after which fraction of its TTL a value is loaded anew in the
	// background when it is read, from 0 to less than 1; zero: not before its
	// end. One caller in the cluster does so.
	EagerAt float64
	// ProbabilisticRefresh, if positive, has values loaded anew in the background before
	// their end at a random time: the earlier, the longer their loader takes, so that
	// it is probably done in time and callers do not choose the same moment. It is
	// the factor called beta in XFetch (Vattani and others, "Optimal Probabilistic Cache
	// Stampede Prevention", 2015): 1 is the usual value; more is earlier.
	ProbabilisticRefresh float64
	// NotFoundTTL is for how long it is remembered that the loader returned an
	// error which wraps [ErrNotFound]. Zero means not at all.
	NotFoundTTL time.Duration
	// MaxBytes is how long an encoded value is at most; a longer one is returned
	// and not stored. Zero means as long as the service takes.
	MaxBytes int

	// Source is what the loader asks, if that is to be kept from being overrun: by a
	// circuit breaker, and a limit of how many loads run at the same time. While a load
	// would be too much, callers get what FailSafe or StaleWhileRevalidate allows, or else
	// an error that wraps [ErrSourceOpen] or [ErrSourceBusy], at once or after the wait
	// that the source's configuration says, and nothing is refreshed in the background.
	Source *Source

	// notStored means that the TTL was said to be nothing.
	notStored bool
}

// DefaultFailSafeThrottle is how long the loader of a key is left alone after it
// failed, unless [Policy].FailSafeThrottle says otherwise.
const DefaultFailSafeThrottle = 30 * time.Second

// Short keeps values for 5 minutes, and 1 minute in the memory of a node and in
// the application's own.
func Short() Policy { return Policy{TTL: 5 * time.Minute, L1: time.Minute, Near: time.Minute} }

// Default keeps values for 30 minutes, and 5 minutes in the memory of a node and in
// the application's own.
func Default() Policy {
	return Policy{TTL: defaultTTL, L1: 5 * time.Minute, Near: 5 * time.Minute}
}

// Long keeps values for 2 hours, and 15 minutes in the memory of a node and in
// the application's own.
func Long() Policy { return Policy{TTL: 2 * time.Hour, L1: 15 * time.Minute, Near: 15 * time.Minute} }

const defaultTTL = 30 * time.Minute

// With returns a copy of the policy with a change:
//
//	client.Default().With(func(p *client.Policy) { p.FailSafe = time.Hour })
func (p Policy) With(change func(*Policy)) Policy {
	p.Tags = slices.Clip(p.Tags) // others have them, too: who appends gets their own
	change(&p)
	p.notStored = p.notStored && p.TTL == 0
	return p
}

// WithTags returns the policy with these tags beside those that it has.
func (p Policy) WithTags(tags ...string) Policy {
	p.Tags = slices.Concat(p.Tags, tags)
	return p
}

// WithTTL returns the policy with another TTL. Zero means not to store.
func (p Policy) WithTTL(ttl time.Duration) Policy {
	p.TTL, p.notStored = ttl, ttl == 0
	return p
}

// Validate reports the first field that can never be right, a tag among them. Calls
// with such a policy fail with its error. The service has limits of its own.
func (p Policy) Validate() error {
	for _, d := range []struct {
		name string
		time time.Duration
	}{
		{"TTL", p.TTL}, {"L1", p.L1}, {"Keep", p.Keep}, {"StaleWhileRevalidate", p.StaleWhileRevalidate},
		{"FailSafe", p.FailSafe}, {"SoftTimeout", p.SoftTimeout}, {"HardTimeout", p.HardTimeout}, {"NotFoundTTL", p.NotFoundTTL},
	} {
		if d.time < 0 {
			return fmt.Errorf("%w: policy: negative %s", soracache.ErrInvalid, d.name)
		}
	}
	switch {
	case !(p.Jitter >= 0 && p.Jitter <= 1): // and not NaN
		return fmt.Errorf("%w: policy: Jitter must be 0 to 1", soracache.ErrInvalid)
	case !(p.EagerAt >= 0 && p.EagerAt < 1):
		return fmt.Errorf("%w: policy: EagerAt must be 0 to less than 1", soracache.ErrInvalid)
	case !(p.ProbabilisticRefresh >= 0 && p.ProbabilisticRefresh <= 1000):
		return fmt.Errorf("%w: policy: ProbabilisticRefresh must be 0 to 1000", soracache.ErrInvalid)
	case p.MaxBytes < 0:
		return fmt.Errorf("%w: policy: negative MaxBytes", soracache.ErrInvalid)
	}
	if err := p.Source.validate(); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	return checkTags(p.Tags)
}

// changed returns the policy with whatever is different in two others.
func (p Policy) changed(before, after Policy) Policy {
	own, old, now := reflect.ValueOf(&p).Elem(), reflect.ValueOf(before), reflect.ValueOf(after)
	for i := range own.NumField() {
		if own.Field(i).CanSet() && !same(old.Field(i), now.Field(i)) {
			own.Field(i).Set(now.Field(i))
		}
	}
	if before.notStored != after.notStored {
		p.notStored = after.notStored
	}
	return p
}

// same tells whether a field of two policies is the same. What it points to is not looked
// at: it is in use.
func same(a, b reflect.Value) bool {
	if a.Comparable() {
		return a.Equal(b)
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// ttl is how long a value is fresh.
func (p *Policy) ttl() time.Duration {
	if p.TTL == 0 {
		return defaultTTL
	}
	return p.TTL
}

// jittered is the policy for one value: each of its times as much shorter as
// chance has it.
func (p Policy) jittered() Policy {
	p.TTL = p.ttl()
	if p.Jitter == 0 {
		return p
	}
	rest := 1 - p.Jitter*rand.Float64() //nolint:gosec // spread, not secrecy
	p.TTL = max(time.Duration(float64(p.TTL)*rest), time.Millisecond)
	for _, limit := range []*time.Duration{&p.NotFoundTTL, &p.L1, &p.Near} {
		if *limit > 0 { // zero and less mean something else, and stay what they are
			*limit = max(time.Duration(float64(*limit)*rest), 1)
		}
	}
	return p
}

// LongestKeep is for how long at most a value is kept that is kept beyond its TTL:
// what a service takes that was told nothing else.
const LongestKeep = 30 * 24 * time.Hour

// lifetime is the policy as an entry carries it.
func (p Policy) lifetime() soracache.Lifetime {
	ttl := p.ttl()
	keep := max(ttl, p.Keep)
	if beyond := max(p.StaleWhileRevalidate, p.FailSafe); beyond > LongestKeep-ttl { // their sum could overflow
		keep = max(keep, LongestKeep)
	} else {
		keep = max(keep, ttl+beyond)
	}
	return soracache.Lifetime{TTL: ttl, Keep: min(keep, max(ttl, LongestKeep)), L1: p.L1}
}

// throttle is how long to leave a loader alone that failed.
func (p *Policy) throttle() time.Duration {
	if p.FailSafeThrottle == 0 {
		return DefaultFailSafeThrottle
	}
	return p.FailSafeThrottle
}

// longestWait is for ever: no lease lasts as long. More could overflow.
const longestWait = 24 * time.Hour

// waitHere is how long to wait for a load of this process. A policy that does not
// wait for others shares loads with its own callers all the same.
func (p *Policy) waitHere() time.Duration {
	wait := p.wait()
	if wait == 0 {
		wait = DefaultWait
		if p.HardTimeout > 0 {
			wait = min(wait, p.HardTimeout)
		}
	}
	return wait
}

// wait is how long to wait behind another's lease.
func (p Policy) wait() time.Duration {
	wait := min(max(p.Wait, 0), longestWait)
	if p.Wait == 0 {
		wait = DefaultWait
	}
	if p.HardTimeout > 0 {
		wait = min(wait, p.HardTimeout)
	}
	return wait
}
