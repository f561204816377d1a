// Package fake is a cache service for tests of what stands on one.
package fake

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/soracache/soracache"
)

// Service is a cache service for one namespace, by the rule and in memory,
// with faults to switch on.
type Service struct {
	// Partition assigns keys to partitions; all of them share one ledger.
	Partition func(key string) uint16

	mu      sync.Mutex
	epoch   soracache.Epoch
	last    soracache.Position
	records map[soracache.Target]soracache.Position
	entries map[string]*storedEntry
	leases  map[string]*grantedLease
	changed chan struct{} // closed and replaced whenever a parked reader should look again

	// What was asked.
	Gets          []soracache.GetRequest
	Writes        []soracache.Write
	Invalidations []soracache.InvalidateRequest

	// Faults.
	Fail error                           // every call is answered with it
	Hang bool                            // no call is answered
	Lag  time.Duration                   // every call takes this long
	Look func(op string, key string)     // called at the start of every call, unlocked
	Deny func(soracache.Write) error     // a write is answered with it
	Bend func(res *soracache.ReadResult) // changes an answer to a read
}

// limits are those of a service that was told nothing else.
var limits = soracache.DefaultLimits()

type storedEntry struct {
	Entry      soracache.Entry
	Stamp      soracache.Stamp
	FreshUntil time.Time
	KeepUntil  time.Time
}

type grantedLease struct {
	ID    soracache.Lease
	Stamp soracache.Stamp
	Until time.Time
}

// New returns an empty service without faults.
func New() *Service {
	return &Service{
		Partition: func(string) uint16 { return 0 },
		epoch:     7,
		last:      100,
		records:   make(map[soracache.Target]soracache.Position),
		entries:   make(map[string]*storedEntry),
		leases:    make(map[string]*grantedLease),
		changed:   make(chan struct{}),
	}
}

// Set changes the service under its lock, mostly its faults.
func (s *Service) Set(change func(*Service)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// arrive is the start of every call.
func (s *Service) arrive(ctx context.Context, op, key string) error {
	s.mu.Lock()
	look := s.Look
	s.mu.Unlock()
	if look != nil {
		look(op, key)
	}
	s.mu.Lock()
	fail, hang, lag := s.Fail, s.Hang, s.Lag
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	select {
	case <-time.After(lag):
		return fail
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Get implements [soracache.Backend].
func (s *Service) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	s.Set(func(s *Service) { s.Gets = append(s.Gets, req) })
	results := make([]soracache.ReadResult, 0, len(req.Reads))
	for _, r := range req.Reads {
		if r.RefreshWithin > limits.TTL {
			return nil, fmt.Errorf("%w: refresh_within of %s", soracache.ErrInvalid, r.RefreshWithin)
		}
		if err := s.arrive(ctx, "get", r.Key); err != nil {
			return nil, err
		}
		res, err := s.read(ctx, req, r)
		if err != nil {
			return nil, err
		}
		if s.Bend != nil {
			s.Bend(&res)
		}
		results = append(results, res)
	}
	return results, nil
}

// read answers one read, and parks it as long as it may while another holds
// the lease.
func (s *Service) read(ctx context.Context, req soracache.GetRequest, r soracache.Read) (soracache.ReadResult, error) {
	waitEnds := time.Now().Add(r.Wait)
	for {
		s.mu.Lock()
		res := s.judge(req, r)
		changed := s.changed
		held := s.leases[r.Key]
		if res.Status != soracache.StatusMiss || res.Lease != (soracache.Lease{}) || held == nil || !time.Now().Before(waitEnds) {
			s.mu.Unlock()
			return res, nil
		}
		leaseEnds := held.Until
		s.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(time.Until(leaseEnds)):
		case <-time.After(time.Until(waitEnds)):
		case <-ctx.Done():
			return soracache.ReadResult{}, ctx.Err()
		}
	}
}

// judge reads one key under the rule. The lock is held.
func (s *Service) judge(req soracache.GetRequest, r soracache.Read) soracache.ReadResult {
	stamp := s.stampAt(r.Key, s.last)
	res := soracache.ReadResult{Status: soracache.StatusMiss, Stamp: stamp, Tier: soracache.TierL2}
	if shown, ok := req.MinStamp.At(s.Partition(r.Key)); ok && shown.Epoch == s.epoch && shown.Position > s.last {
		return res
	}
	now := time.Now()
	e := s.entries[r.Key]
	if e != nil && e.Stamp.Epoch == s.epoch && now.Before(e.KeepUntil) && !s.namedAfter(e.Stamp.Position, r.Key, e.Entry.Tags) {
		res.Status, res.Entry = soracache.StatusHit, e.Entry
		res.FreshFor, res.KeepFor = e.FreshUntil.Sub(now), e.KeepUntil.Sub(now)
		if res.FreshFor > max(r.RefreshWithin, 0) {
			return res
		}
		if res.FreshFor <= 0 {
			res.Status = soracache.StatusStale
		}
	}
	if !r.Lease {
		return res
	}
	if held := s.leases[r.Key]; held != nil && now.Before(held.Until) {
		res.LeaseState, res.LeaseFor = soracache.LeaseHeld, held.Until.Sub(now)
		return res
	}
	g := &grantedLease{Stamp: soracache.Stamp{Epoch: s.epoch, Position: s.last}, Until: now.Add(soracache.DefaultLease)}
	_, _ = rand.Read(g.ID[:])
	s.leases[r.Key] = g
	res.LeaseState, res.Lease, res.LeaseFor = soracache.LeaseGranted, g.ID, soracache.DefaultLease
	return res
}

func (s *Service) stampAt(key string, p soracache.Position) soracache.Stamps {
	return soracache.Stamps{{Partition: s.Partition(key), Stamp: soracache.Stamp{Epoch: s.epoch, Position: p}}}
}

// namedAfter tells whether a record after a position names a value.
func (s *Service) namedAfter(p soracache.Position, key string, tags []string) bool {
	latest := max(s.records[soracache.Key(key)], s.records[soracache.Everything()])
	for _, t := range tags {
		latest = max(latest, s.records[soracache.Tag(t)])
	}
	return latest > p
}

// Write implements [soracache.Backend].
func (s *Service) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	results := make([]soracache.WriteResult, 0, len(req.Writes))
	for _, w := range req.Writes {
		s.Set(func(s *Service) { s.Writes = append(s.Writes, w) })
		name := [...]string{soracache.OpFill: "fill", soracache.OpPut: "put", soracache.OpRenew: "renew", soracache.OpRelease: "release"}[w.Op]
		if err := s.arrive(ctx, name, w.Key); err != nil {
			return nil, err
		}
		if s.Deny != nil {
			if err := s.Deny(w); err != nil {
				return nil, err
			}
		}
		if w.Op == soracache.OpFill || w.Op == soracache.OpPut {
			if err := limits.CheckLifetime(w.Lifetime); err != nil {
				return nil, err
			}
		}
		results = append(results, s.Apply(w))
	}
	return results, nil
}

// Apply does one write.
func (s *Service) Apply(w soracache.Write) soracache.WriteResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if w.Op == soracache.OpPut {
		p := s.record([]soracache.Target{soracache.Key(w.Key)})
		s.store(w, soracache.Stamp{Epoch: s.epoch, Position: p})
		return soracache.WriteResult{Stored: true, Stamp: s.stampAt(w.Key, p)}
	}
	held := s.leases[w.Key]
	res := soracache.WriteResult{Stamp: s.stampAt(w.Key, s.last)}
	if held == nil || held.ID != w.Lease || !now.Before(held.Until) {
		res.Reason = soracache.ReasonLeaseLost
		return res
	}
	if w.Op == soracache.OpRenew {
		held.Until = now.Add(soracache.DefaultLease)
		res.Stored = true
		return res
	}
	s.endLease(w.Key)
	if w.Op == soracache.OpRelease {
		res.Stored = true
		return res
	}
	if held.Stamp.Epoch != s.epoch || s.namedAfter(held.Stamp.Position, w.Key, w.Entry.Tags) {
		res.Reason = soracache.ReasonSuperseded
		return res
	}
	s.store(w, held.Stamp)
	res.Stored = true
	return res
}

func (s *Service) store(w soracache.Write, stamp soracache.Stamp) {
	now := time.Now()
	s.entries[w.Key] = &storedEntry{
		Entry:      w.Entry,
		Stamp:      stamp,
		FreshUntil: now.Add(w.Lifetime.TTL),
		KeepUntil:  now.Add(max(w.Lifetime.TTL, w.Lifetime.Keep)),
	}
}

// record appends to the ledger. The lock is held.
func (s *Service) record(targets []soracache.Target) soracache.Position {
	s.last++
	for _, t := range targets {
		s.records[t] = s.last
		if t.Kind == soracache.TargetKey {
			delete(s.entries, t.Name)
			s.endLease(t.Name)
		}
	}
	return s.last
}

func (s *Service) endLease(key string) {
	delete(s.leases, key)
	close(s.changed)
	s.changed = make(chan struct{})
}

// Invalidate implements [soracache.Backend].
func (s *Service) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	s.Set(func(s *Service) { s.Invalidations = append(s.Invalidations, req) })
	if err := s.arrive(ctx, "invalidate", req.Targets[0].Name); err != nil {
		return soracache.InvalidateResult{}, err
	}
	if len(req.Targets) > limits.Batch {
		return soracache.InvalidateResult{}, fmt.Errorf("%w: %d names", soracache.ErrTooLarge, len(req.Targets))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.record(req.Targets)
	return soracache.InvalidateResult{Stamp: s.stampAt("", p)}, nil
}

// Head implements [soracache.Backend].
func (s *Service) Head(ctx context.Context, _ string) (soracache.HeadResult, error) {
	if err := s.arrive(ctx, "head", ""); err != nil {
		return soracache.HeadResult{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return soracache.HeadResult{Stamp: s.stampAt("", s.last)}, nil
}

// Stored returns the entry under a key, live or not.
func (s *Service) Stored(key string) (soracache.Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[key]; e != nil {
		return e.Entry, true
	}
	return soracache.Entry{}, false
}

// Put stores an entry as an application in another language would.
func (s *Service) Put(key string, e soracache.Entry) {
	s.Apply(soracache.Write{Op: soracache.OpPut, Key: key, Entry: e, Lifetime: soracache.Lifetime{TTL: time.Hour}})
}

// Leased tells whether somebody holds the lease of a key.
func (s *Service) Leased(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.leases[key]
	return held != nil && time.Now().Before(held.Until)
}

// Count returns how many writes of a kind were asked for.
func (s *Service) Count(op soracache.WriteOp) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, w := range s.Writes {
		if w.Op == op {
			n++
		}
	}
	return n
}

// Asked returns the reads of a key.
func (s *Service) Asked(key string) []soracache.GetRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var reqs []soracache.GetRequest
	for _, r := range s.Gets {
		if r.Reads[0].Key == key {
			reqs = append(reqs, r)
		}
	}
	return reqs
}

var _ soracache.Backend = (*Service)(nil)

// Watch implements [soracache.Backend]. It cannot be watched.
func (s *Service) Watch(context.Context, soracache.WatchRequest, func([]soracache.WatchItem) error) error {
	return soracache.ErrUnimplemented
}

// Lease reads a key with a lease, as a process that never comes back.
func (s *Service) Lease(key string) soracache.ReadResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.judge(soracache.GetRequest{}, soracache.Read{Key: key, Lease: true})
}

// Released returns the outcomes of the releases so far.
func (s *Service) Released() (outcomes []soracache.LoadOutcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.Writes {
		if w.Op == soracache.OpRelease {
			outcomes = append(outcomes, w.Outcome)
		}
	}
	return outcomes
}

// Clear forgets all entries.
func (s *Service) Clear() { s.Set(func(s *Service) { clear(s.entries) }) }
