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
	// partition assigns keys to partitions; all of them share one ledger.
	Partition func(key string) uint16

	Mu      sync.Mutex
	Epoch   soracache.Epoch
	Last    soracache.Position
	Records map[soracache.Target]soracache.Position
	Entries map[string]*StoredEntry
	Leases  map[string]*GrantedLease
	Changed chan struct{} // closed and replaced whenever a parked reader should look again

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

type StoredEntry struct {
	Entry      soracache.Entry
	Stamp      soracache.Stamp
	FreshUntil time.Time
	KeepUntil  time.Time
}

type GrantedLease struct {
	Id    soracache.Lease
	Stamp soracache.Stamp
	Until time.Time
}

func New() *Service {
	return &Service{
		Partition: func(string) uint16 { return 0 },
		Epoch:     7,
		Last:      100,
		Records:   make(map[soracache.Target]soracache.Position),
		Entries:   make(map[string]*StoredEntry),
		Leases:    make(map[string]*GrantedLease),
		Changed:   make(chan struct{}),
	}
}

// Set changes the service under its lock, mostly its faults.
func (s *Service) Set(change func(*Service)) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	change(s)
}

// Arrive is the start of every call.
func (s *Service) Arrive(ctx context.Context, op, key string) error {
	s.Mu.Lock()
	look := s.Look
	s.Mu.Unlock()
	if look != nil {
		look(op, key)
	}
	s.Mu.Lock()
	fail, hang, lag := s.Fail, s.Hang, s.Lag
	s.Mu.Unlock()
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

func (s *Service) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	s.Set(func(s *Service) { s.Gets = append(s.Gets, req) })
	results := make([]soracache.ReadResult, 0, len(req.Reads))
	for _, r := range req.Reads {
		if r.RefreshWithin > limits.TTL {
			return nil, fmt.Errorf("%w: refresh_within of %s", soracache.ErrInvalid, r.RefreshWithin)
		}
		if err := s.Arrive(ctx, "get", r.Key); err != nil {
			return nil, err
		}
		res, err := s.Read(ctx, req, r)
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

// Read answers one read, and parks it as long as it may while another holds
// the lease.
func (s *Service) Read(ctx context.Context, req soracache.GetRequest, r soracache.Read) (soracache.ReadResult, error) {
	waitEnds := time.Now().Add(r.Wait)
	for {
		s.Mu.Lock()
		res := s.Judge(req, r)
		changed := s.Changed
		held := s.Leases[r.Key]
		if res.Status != soracache.StatusMiss || res.Lease != (soracache.Lease{}) || held == nil || !time.Now().Before(waitEnds) {
			s.Mu.Unlock()
			return res, nil
		}
		leaseEnds := held.Until
		s.Mu.Unlock()
		select {
		case <-changed:
		case <-time.After(time.Until(leaseEnds)):
		case <-time.After(time.Until(waitEnds)):
		case <-ctx.Done():
			return soracache.ReadResult{}, ctx.Err()
		}
	}
}

// Judge reads one key under the rule. The lock is held.
func (s *Service) Judge(req soracache.GetRequest, r soracache.Read) soracache.ReadResult {
	stamp := s.StampAt(r.Key, s.Last)
	res := soracache.ReadResult{Status: soracache.StatusMiss, Stamp: stamp, Tier: soracache.TierL2}
	if shown, ok := req.MinStamp.At(s.Partition(r.Key)); ok && shown.Epoch == s.Epoch && shown.Position > s.Last {
		return res
	}
	now := time.Now()
	e := s.Entries[r.Key]
	if e != nil && e.Stamp.Epoch == s.Epoch && now.Before(e.KeepUntil) && !s.NamedAfter(e.Stamp.Position, r.Key, e.Entry.Tags) {
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
	if held := s.Leases[r.Key]; held != nil && now.Before(held.Until) {
		res.LeaseState, res.LeaseFor = soracache.LeaseHeld, held.Until.Sub(now)
		return res
	}
	g := &GrantedLease{Stamp: soracache.Stamp{Epoch: s.Epoch, Position: s.Last}, Until: now.Add(soracache.DefaultLease)}
	_, _ = rand.Read(g.Id[:])
	s.Leases[r.Key] = g
	res.LeaseState, res.Lease, res.LeaseFor = soracache.LeaseGranted, g.Id, soracache.DefaultLease
	return res
}

func (s *Service) StampAt(key string, p soracache.Position) soracache.Stamps {
	return soracache.Stamps{{Partition: s.Partition(key), Stamp: soracache.Stamp{Epoch: s.Epoch, Position: p}}}
}

// NamedAfter tells whether a record after a position names a value.
func (s *Service) NamedAfter(p soracache.Position, key string, tags []string) bool {
	latest := max(s.Records[soracache.Key(key)], s.Records[soracache.Everything()])
	for _, t := range tags {
		latest = max(latest, s.Records[soracache.Tag(t)])
	}
	return latest > p
}

func (s *Service) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	results := make([]soracache.WriteResult, 0, len(req.Writes))
	for _, w := range req.Writes {
		s.Set(func(s *Service) { s.Writes = append(s.Writes, w) })
		name := [...]string{soracache.OpFill: "fill", soracache.OpPut: "put", soracache.OpRenew: "renew", soracache.OpRelease: "release"}[w.Op]
		if err := s.Arrive(ctx, name, w.Key); err != nil {
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

func (s *Service) Apply(w soracache.Write) soracache.WriteResult {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	now := time.Now()
	if w.Op == soracache.OpPut {
		p := s.Record([]soracache.Target{soracache.Key(w.Key)})
		s.Store(w, soracache.Stamp{Epoch: s.Epoch, Position: p})
		return soracache.WriteResult{Stored: true, Stamp: s.StampAt(w.Key, p)}
	}
	held := s.Leases[w.Key]
	res := soracache.WriteResult{Stamp: s.StampAt(w.Key, s.Last)}
	if held == nil || held.Id != w.Lease || !now.Before(held.Until) {
		res.Reason = soracache.ReasonLeaseLost
		return res
	}
	if w.Op == soracache.OpRenew {
		held.Until = now.Add(soracache.DefaultLease)
		res.Stored = true
		return res
	}
	s.EndLease(w.Key)
	if w.Op == soracache.OpRelease {
		res.Stored = true
		return res
	}
	if held.Stamp.Epoch != s.Epoch || s.NamedAfter(held.Stamp.Position, w.Key, w.Entry.Tags) {
		res.Reason = soracache.ReasonSuperseded
		return res
	}
	s.Store(w, held.Stamp)
	res.Stored = true
	return res
}

func (s *Service) Store(w soracache.Write, stamp soracache.Stamp) {
	now := time.Now()
	s.Entries[w.Key] = &StoredEntry{
		Entry:      w.Entry,
		Stamp:      stamp,
		FreshUntil: now.Add(w.Lifetime.TTL),
		KeepUntil:  now.Add(max(w.Lifetime.TTL, w.Lifetime.Keep)),
	}
}

// Record appends to the ledger. The lock is held.
func (s *Service) Record(targets []soracache.Target) soracache.Position {
	s.Last++
	for _, t := range targets {
		s.Records[t] = s.Last
		if t.Kind == soracache.TargetKey {
			delete(s.Entries, t.Name)
			s.EndLease(t.Name)
		}
	}
	return s.Last
}

func (s *Service) EndLease(key string) {
	delete(s.Leases, key)
	close(s.Changed)
	s.Changed = make(chan struct{})
}

func (s *Service) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	s.Set(func(s *Service) { s.Invalidations = append(s.Invalidations, req) })
	if err := s.Arrive(ctx, "invalidate", req.Targets[0].Name); err != nil {
		return soracache.InvalidateResult{}, err
	}
	if len(req.Targets) > limits.Batch {
		return soracache.InvalidateResult{}, fmt.Errorf("%w: %d names", soracache.ErrTooLarge, len(req.Targets))
	}
	s.Mu.Lock()
	defer s.Mu.Unlock()
	p := s.Record(req.Targets)
	return soracache.InvalidateResult{Stamp: s.StampAt("", p)}, nil
}

func (s *Service) Head(ctx context.Context, _ string) (soracache.HeadResult, error) {
	if err := s.Arrive(ctx, "head", ""); err != nil {
		return soracache.HeadResult{}, err
	}
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return soracache.HeadResult{Stamp: s.StampAt("", s.Last)}, nil
}

// Stored returns the entry under a key, live or not.
func (s *Service) Stored(key string) (soracache.Entry, bool) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	if e := s.Entries[key]; e != nil {
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
	s.Mu.Lock()
	defer s.Mu.Unlock()
	held := s.Leases[key]
	return held != nil && time.Now().Before(held.Until)
}

// Count returns how many writes of a kind were asked for.
func (s *Service) Count(op soracache.WriteOp) int {
	s.Mu.Lock()
	defer s.Mu.Unlock()
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
	s.Mu.Lock()
	defer s.Mu.Unlock()
	var reqs []soracache.GetRequest
	for _, r := range s.Gets {
		if r.Reads[0].Key == key {
			reqs = append(reqs, r)
		}
	}
	return reqs
}

var _ soracache.Backend = (*Service)(nil)

func (s *Service) Watch(context.Context, soracache.WatchRequest, func([]soracache.WatchItem) error) error {
	return soracache.ErrUnimplemented
}

// Lease reads a key with a lease, as a process that never comes back.
func (s *Service) Lease(key string) soracache.ReadResult {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return s.Judge(soracache.GetRequest{}, soracache.Read{Key: key, Lease: true})
}

// Released returns the outcomes of the releases so far.
func (s *Service) Released() (outcomes []soracache.LoadOutcome) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	for _, w := range s.Writes {
		if w.Op == soracache.OpRelease {
			outcomes = append(outcomes, w.Outcome)
		}
	}
	return outcomes
}
