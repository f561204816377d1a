package client

import (
	"fmt"
	"slices"
	"time"

	"github.com/soracache/soracache"
)

// DefaultWait is how long GetOrSet waits while somebody else loads the key:
// longer than a lease lasts, so that the death of whoever holds it is survived.
const DefaultWait = 15 * time.Second

// Policy says how long values are used, and what they depend on. It is a value:
// the With methods return a changed copy, so presets can be shared.
type Policy struct {
	// TTL is how long a value is fresh, anywhere; zero means [Default]'s.
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
	// is never one that an invalidation names.
	Keep time.Duration
	// Tags name what the values depend on. Invalidating any of them makes the
	// value unservable.
	Tags []string
	// Wait is how long to wait while somebody else loads the key, before
	// loading it without storing the result. Zero means [DefaultWait], a
	// negative time not to wait at all. A caller's own deadline also ends it.
	Wait time.Duration
}

// The presets. They are values to start from, and are not to be assigned to.
var (
	// Short keeps values for 5 minutes, and 1 minute in the memory of a node and in
	// the application's own.
	Short = Policy{TTL: 5 * time.Minute, L1: time.Minute, Near: time.Minute}
	// Default keeps values for 30 minutes, and 5 minutes in the memory of a node and in
	// the application's own.
	Default = Policy{TTL: 30 * time.Minute, L1: 5 * time.Minute, Near: 5 * time.Minute}
	// Long keeps values for 2 hours, and 15 minutes in the memory of a node and in
	// the application's own.
	Long = Policy{TTL: 2 * time.Hour, L1: 15 * time.Minute, Near: 15 * time.Minute}
)

// WithTags returns the policy with these tags beside those that it has.
func (p Policy) WithTags(tags ...string) Policy {
	p.Tags = slices.Concat(p.Tags, tags)
	return p
}

// WithTTL returns the policy with another TTL.
func (p Policy) WithTTL(ttl time.Duration) Policy {
	p.TTL = ttl
	return p
}

// WithL1 returns the policy with another cap on a node's memory.
func (p Policy) WithL1(l1 time.Duration) Policy {
	p.L1 = l1
	return p
}

// WithNear returns the policy with another cap on the application's memory.
func (p Policy) WithNear(near time.Duration) Policy {
	p.Near = near
	return p
}

// WithKeep returns the policy with another keep time.
func (p Policy) WithKeep(keep time.Duration) Policy {
	p.Keep = keep
	return p
}

// WithWait returns the policy with another wait.
func (p Policy) WithWait(wait time.Duration) Policy {
	p.Wait = wait
	return p
}

// Validate reports the first field that can never be right. Calls with such a
// policy fail with its error. The service has limits of its own.
func (p Policy) Validate() error {
	switch {
	case p.TTL < 0:
		return fmt.Errorf("%w: policy: negative TTL", soracache.ErrInvalid)
	case p.L1 < 0:
		return fmt.Errorf("%w: policy: negative L1", soracache.ErrInvalid)
	case p.Keep < 0:
		return fmt.Errorf("%w: policy: negative Keep", soracache.ErrInvalid)
	}
	return nil
}

// lifetime is the policy as an entry carries it.
func (p Policy) lifetime() soracache.Lifetime {
	ttl := p.TTL
	if ttl == 0 {
		ttl = Default.TTL
	}
	return soracache.Lifetime{TTL: ttl, Keep: max(ttl, p.Keep), L1: p.L1}
}

// wait is how long to wait behind another's lease.
func (p Policy) wait() time.Duration {
	if p.Wait == 0 {
		return DefaultWait
	}
	return max(p.Wait, 0)
}
