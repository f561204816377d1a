package clienttest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// Kind is a kind of [Event].
type Kind string

// What clients do.
const (
	// Hit: a fresh value was found.
	Hit Kind = "hit"
	// Stale: a value past its TTL was served.
	Stale Kind = "stale"
	// Miss: nothing usable was found.
	Miss Kind = "miss"
	// Load: a loader ended.
	Load Kind = "load"
	// Refresh: a value that was there began to be loaded anew.
	Refresh Kind = "refresh"
	// Superseded: a loaded value was not stored, because an invalidation came
	// first.
	Superseded Kind = "superseded"
	// NotStored: a loaded value was not stored, for another reason.
	NotStored Kind = "not stored"
	// FailOpen: a loader ran because the service could not answer.
	FailOpen Kind = "fail open"
	// InvalidateKey, InvalidateTag and InvalidateAll: somebody asked for that,
	// and it was recorded.
	InvalidateKey Kind = "invalidate key"
	InvalidateTag Kind = "invalidate tag"
	InvalidateAll Kind = "invalidate all"
)

// Event is one thing that a client did.
type Event struct {
	Kind Kind
	// Name is the key, or the tag, or empty for [InvalidateAll].
	Name string
	// Tier is where the value of a Hit or Stale was found.
	Tier soracache.Tier
	// Err is a loader's error, or why something happened that should not.
	Err error
}

// String returns the event as in `hit product:42 (near)`.
func (e Event) String() string {
	s := string(e.Kind)
	if e.Name != "" {
		s += " " + e.Name
	}
	if e.Tier != soracache.TierNone {
		s += fmt.Sprintf(" (%v)", e.Tier)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Recorder records what clients do. Its methods may be called from any
// goroutine.
type Recorder struct {
	mu     sync.Mutex
	events []Event
}

// NewRecorder returns an empty recorder, for a client that no [Server] made:
//
//	c, err := client.Dial([]string{url}, client.WithHooks(rec.Hooks()))
func NewRecorder() *Recorder { return &Recorder{} }

// Hooks are what a client is to be given.
func (r *Recorder) Hooks() client.Hooks {
	return client.Hooks{
		OnHit: func(key string, tier soracache.Tier) { r.add(Event{Kind: Hit, Name: key, Tier: tier}) },
		OnStale: func(key string, tier soracache.Tier, _ client.StaleReason) {
			r.add(Event{Kind: Stale, Name: key, Tier: tier})
		},
		OnMiss:    func(key string) { r.add(Event{Kind: Miss, Name: key}) },
		OnLoad:    func(key string, _ time.Duration, err error) { r.add(Event{Kind: Load, Name: key, Err: err}) },
		OnRefresh: func(key string, _ client.RefreshReason) { r.add(Event{Kind: Refresh, Name: key}) },
		OnFillSuperseded: func(key string, _ soracache.Reason) {
			r.add(Event{Kind: Superseded, Name: key})
		},
		OnNotStored: func(key string, why error) { r.add(Event{Kind: NotStored, Name: key, Err: why}) },
		OnFailOpen:  func(key string, err error) { r.add(Event{Kind: FailOpen, Name: key, Err: err}) },
		OnInvalidate: func(what client.Invalidation, err error) {
			if err == nil {
				r.add(invalidated(what)...)
			}
		},
	}
}

func invalidated(what client.Invalidation) (events []Event) {
	for _, k := range what.Keys {
		events = append(events, Event{Kind: InvalidateKey, Name: k})
	}
	for _, t := range what.Tags {
		events = append(events, Event{Kind: InvalidateTag, Name: t})
	}
	if what.All {
		events = append(events, Event{Kind: InvalidateAll})
	}
	return events
}

func (r *Recorder) add(events ...Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, events...)
}

// Events returns all that happened since the beginning or the last Reset, in
// the order in which it was told.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Reset forgets what happened.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = nil
}

// Count returns how often something happened to a key or a tag.
func (r *Recorder) Count(kind Kind, name string) int {
	n := 0
	for _, e := range r.Events() {
		if e.Kind == kind && e.Name == name {
			n++
		}
	}
	return n
}

// Loads returns how often the key's loader ran.
func (r *Recorder) Loads(key string) int { return r.Count(Load, key) }

// Hits returns how often the key was found fresh, in any tier.
func (r *Recorder) Hits(key string) int { return r.Count(Hit, key) }

// Stales returns how often a stale value of the key was served.
func (r *Recorder) Stales(key string) int { return r.Count(Stale, key) }

// Misses returns how often nothing usable was found under the key.
func (r *Recorder) Misses(key string) int { return r.Count(Miss, key) }

// Removed returns how often the key was invalidated by its name.
func (r *Recorder) Removed(key string) int { return r.Count(InvalidateKey, key) }

// Invalidated returns how often the tag was invalidated.
func (r *Recorder) Invalidated(tag string) int { return r.Count(InvalidateTag, tag) }
