// Package lease holds the leases of a load: it renews them while the loader works, and
// completes them or hands them back.
package lease

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/internal/service"
)

// Most is how long a lease is renewed for one loader. A loader that takes
// longer goes on, but somebody else may then load the key beside it.
const Most = 5 * time.Minute

// Set is the leases of one load, in the order of its keys. One goroutine renews them,
// until each is filled, handed back or lost.
type Set struct {
	service *service.Service
	schema  string
	// detached has the load's values but not its end: a lease is completed, or
	// handed back, also when everybody who waited has gone.
	detached context.Context //nolint:containedctx // lasts as long as the leases

	stopRenewing context.CancelFunc
	renewing     sync.WaitGroup
	// kept means that they are renewed although everybody has gone who waited.
	kept atomic.Bool

	mu   sync.Mutex
	held []Lease // guarded by mu
}

// Lease is the lease of one key.
type Lease struct {
	Key string
	ID  soracache.Lease // zero: none is held, or the service was told of its end
	For time.Duration   // how long it lasts unless it is renewed; zero: the default
	// lost means that it is not to be renewed any more: it is lost, or being filled.
	lost bool
	// outcome is what became of the load, if the lease is handed back.
	outcome soracache.LoadOutcome
}

// Hold begins to renew leases, which become the set's. The outcome is what became of the
// loads if nothing else is said.
func Hold(ctx context.Context, svc *service.Service, schema string, held []Lease, outcome soracache.LoadOutcome) *Set {
	s := &Set{service: svc, schema: schema, detached: context.WithoutCancel(ctx), stopRenewing: func() {}, held: held}
	lasts, some := soracache.MaxLease, false
	for i := range held {
		h := &held[i]
		if h.outcome = outcome; h.ID == (soracache.Lease{}) {
			continue
		}
		if some = true; h.For <= 0 {
			h.For = soracache.DefaultLease
		}
		lasts = min(lasts, h.For)
	}
	if some {
		var renewing context.Context
		renewing, s.stopRenewing = context.WithTimeout(s.detached, Most)
		s.renewing.Go(func() { s.renew(renewing, ctx, lasts) })
	}
	return s
}

// leastRenewal is how often a lease is renewed at most, whatever the service says that
// it lasts.
const leastRenewal = 10 * time.Millisecond

// renew extends the leases well before they run out, so that a lost answer or two
// do no harm. That ends with the context of those who wait, unless the leases are kept.
func (s *Set) renew(ctx, waiting context.Context, lasts time.Duration) {
	ticker := time.NewTicker(max(lasts/3, leastRenewal))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if waiting.Err() != nil && !s.kept.Load() {
			continue
		}
		at, writes := s.renewals()
		for i, result := range s.service.WriteMany(ctx, s.service.Timeout, writes, nil) {
			if result.Err == nil && !result.Stored {
				s.lose(at[i]) // or superseded: the fill will be told
			}
		}
	}
}

func (s *Set) renewals() (at []int, writes []soracache.Write) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, h := range s.held {
		if h.ID != (soracache.Lease{}) && !h.lost {
			at = append(at, i)
			writes = append(writes, soracache.Write{Op: soracache.OpRenew, Key: h.Key, Schema: s.schema, Lease: h.ID})
		}
	}
	return at, writes
}

// lose has a lease renewed no longer.
func (s *Set) lose(at int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[at].lost = true
}

// holds tells whether a lease is held that the service was not told the end of.
func (s *Set) holds(at int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[at].ID != soracache.Lease{}
}

// Settle says what became of a load, for when its lease is handed back.
func (s *Set) Settle(at int, outcome soracache.LoadOutcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[at].outcome = outcome
}

// Fill completes leases with entries, within so much time: more, if behind says that
// nobody waits for it, as long as it makes progress. They are renewed meanwhile. Then
// it hands back those of which that fails: who is waited for no longer than so much, and
// nobody where the service did not answer. It tells what became of each, and whether
// all was in time.
func (s *Set) Fill(limit, storing time.Duration, behind bool, fills []Fill) (results []soracache.WriteResult, inTime bool) {
	ctx, began := s.detached, time.Now()
	if behind {
		s.kept.Store(true)
	} else {
		bounded, cancel := context.WithTimeout(ctx, limit) // which is not put off
		defer cancel()
		ctx = bounded
	}
	writes, asked := make([]soracache.Write, len(fills)), make([]*near.Inflight, len(fills))
	s.mu.Lock()
	for i, f := range fills {
		h := &s.held[f.At]
		h.lost = h.lost || !behind
		writes[i] = soracache.Write{Op: soracache.OpFill, Key: h.Key, Schema: s.schema, Lease: h.ID, Entry: f.Entry, Lifetime: f.Lifetime}
		asked[i] = f.Asked
	}
	s.mu.Unlock()
	results = s.service.WriteMany(ctx, limit, writes, asked)
	inTime = behind || time.Since(began) < limit
	var refused, unanswered []int
	for i := range results {
		switch err := results[i].Err; {
		case err == nil:
			s.Forget(fills[i].At)
		case service.Refused(err):
			s.Settle(fills[i].At, soracache.LoadNotStorable)
			refused = append(refused, fills[i].At)
		default: // there is nothing to say about the load
			s.Settle(fills[i].At, soracache.LoadHandedBack)
			unanswered = append(unanswered, fills[i].At)
		}
	}
	inTime = s.Release(storing, refused...) && inTime
	s.Release(0, unanswered...)
	return results, inTime
}

// Fill is what one lease is to be completed with.
type Fill struct {
	At       int // which lease
	Entry    soracache.Entry
	Lifetime soracache.Lifetime
	Asked    *near.Inflight
}

// Forget notes that the service was told of the end of a lease.
func (s *Set) Forget(at int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[at].ID = soracache.Lease{}
}

// Release hands back leases that are held, with what became of the loads, so that
// whoever waits need not wait for them to run out. That has a time of its own, of which
// the caller waits for so much: what it had may be spent. It tells whether that was
// enough.
func (s *Set) Release(limit time.Duration, which ...int) (inTime bool) {
	if len(which) == 0 {
		return true
	}
	writes := make([]soracache.Write, 0, len(which))
	s.mu.Lock()
	for _, at := range which {
		if h := &s.held[at]; h.ID != (soracache.Lease{}) {
			writes = append(writes, soracache.Write{Op: soracache.OpRelease, Key: h.Key, Schema: s.schema, Lease: h.ID, Outcome: h.outcome})
			h.ID = soracache.Lease{}
		}
	}
	s.mu.Unlock()
	return len(writes) == 0 || s.service.Life.Behind(s.service.Timeout, limit, func(limit time.Duration) {
		beside := time.Duration(len(writes)-1) * 10 * time.Millisecond // they are one request each
		s.service.WriteMany(s.detached, limit+beside, writes, nil)
	})
}

// End stops renewing, and hands back what is still held.
func (s *Set) End(limit time.Duration) (inTime bool) {
	s.stopRenewing()
	s.renewing.Wait()
	var all []int
	for at := range s.held {
		if s.holds(at) {
			all = append(all, at)
		}
	}
	return s.Release(limit, all...)
}
