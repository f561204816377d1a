package client_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// fakeService is a cache service for one namespace, by the rule and in memory,
// with faults to switch on.
type fakeService struct {
	// partition assigns keys to partitions; all of them share one ledger.
	partition func(key string) uint16

	mu      sync.Mutex
	epoch   soracache.Epoch
	head    soracache.Position
	records map[soracache.Target]soracache.Position
	entries map[string]*storedEntry
	leases  map[string]*grantedLease
	changed chan struct{} // closed and replaced whenever a parked reader should look again

	// What was asked.
	gets          []soracache.GetRequest
	writes        []soracache.Write
	invalidations []soracache.InvalidateRequest

	// Faults.
	fail error                           // every call is answered with it
	hang bool                            // no call is answered
	lag  time.Duration                   // every call takes this long
	look func(op string, key string)     // called at the start of every call, unlocked
	deny func(soracache.Write) error     // a write is answered with it
	bend func(res *soracache.ReadResult) // changes an answer to a read
}

// limits are those of a service that was told nothing else.
var limits = soracache.DefaultLimits()

type storedEntry struct {
	entry      soracache.Entry
	stamp      soracache.Stamp
	freshUntil time.Time
	keepUntil  time.Time
}

type grantedLease struct {
	id    soracache.Lease
	stamp soracache.Stamp
	until time.Time
}

func newFakeService() *fakeService {
	return &fakeService{
		partition: func(string) uint16 { return 0 },
		epoch:     7,
		head:      100,
		records:   make(map[soracache.Target]soracache.Position),
		entries:   make(map[string]*storedEntry),
		leases:    make(map[string]*grantedLease),
		changed:   make(chan struct{}),
	}
}

// set changes the service under its lock, mostly its faults.
func (s *fakeService) set(change func(*fakeService)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// arrive is the start of every call.
func (s *fakeService) arrive(ctx context.Context, op, key string) error {
	s.mu.Lock()
	look := s.look
	s.mu.Unlock()
	if look != nil {
		look(op, key)
	}
	s.mu.Lock()
	fail, hang, lag := s.fail, s.hang, s.lag
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

func (s *fakeService) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	s.set(func(s *fakeService) { s.gets = append(s.gets, req) })
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
		if s.bend != nil {
			s.bend(&res)
		}
		results = append(results, res)
	}
	return results, nil
}

// read answers one read, and parks it as long as it may while another holds
// the lease.
func (s *fakeService) read(ctx context.Context, req soracache.GetRequest, r soracache.Read) (soracache.ReadResult, error) {
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
		leaseEnds := held.until
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
func (s *fakeService) judge(req soracache.GetRequest, r soracache.Read) soracache.ReadResult {
	stamp := s.stampAt(r.Key, s.head)
	res := soracache.ReadResult{Status: soracache.StatusMiss, Stamp: stamp, Tier: soracache.TierL2}
	if shown, ok := req.MinStamp.At(s.partition(r.Key)); ok && shown.Epoch == s.epoch && shown.Position > s.head {
		return res
	}
	now := time.Now()
	e := s.entries[r.Key]
	if e != nil && e.stamp.Epoch == s.epoch && now.Before(e.keepUntil) && !s.namedAfter(e.stamp.Position, r.Key, e.entry.Tags) {
		res.Status, res.Entry = soracache.StatusHit, e.entry
		res.FreshFor, res.KeepFor = e.freshUntil.Sub(now), e.keepUntil.Sub(now)
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
	if held := s.leases[r.Key]; held != nil && now.Before(held.until) {
		res.LeaseState, res.LeaseFor = soracache.LeaseHeld, held.until.Sub(now)
		return res
	}
	g := &grantedLease{stamp: soracache.Stamp{Epoch: s.epoch, Position: s.head}, until: now.Add(soracache.DefaultLease)}
	_, _ = rand.Read(g.id[:])
	s.leases[r.Key] = g
	res.LeaseState, res.Lease, res.LeaseFor = soracache.LeaseGranted, g.id, soracache.DefaultLease
	return res
}

func (s *fakeService) stampAt(key string, p soracache.Position) soracache.Stamps {
	return soracache.Stamps{{Partition: s.partition(key), Stamp: soracache.Stamp{Epoch: s.epoch, Position: p}}}
}

// namedAfter tells whether a record after a position names a value.
func (s *fakeService) namedAfter(p soracache.Position, key string, tags []string) bool {
	latest := max(s.records[soracache.Key(key)], s.records[soracache.Everything()])
	for _, t := range tags {
		latest = max(latest, s.records[soracache.Tag(t)])
	}
	return latest > p
}

func (s *fakeService) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	results := make([]soracache.WriteResult, 0, len(req.Writes))
	for _, w := range req.Writes {
		s.set(func(s *fakeService) { s.writes = append(s.writes, w) })
		name := [...]string{soracache.OpFill: "fill", soracache.OpPut: "put", soracache.OpRenew: "renew", soracache.OpRelease: "release"}[w.Op]
		if err := s.arrive(ctx, name, w.Key); err != nil {
			return nil, err
		}
		if s.deny != nil {
			if err := s.deny(w); err != nil {
				return nil, err
			}
		}
		if w.Op == soracache.OpFill || w.Op == soracache.OpPut {
			if err := limits.CheckLifetime(w.Lifetime); err != nil {
				return nil, err
			}
		}
		results = append(results, s.apply(w))
	}
	return results, nil
}

func (s *fakeService) apply(w soracache.Write) soracache.WriteResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if w.Op == soracache.OpPut {
		p := s.record([]soracache.Target{soracache.Key(w.Key)})
		s.store(w, soracache.Stamp{Epoch: s.epoch, Position: p})
		return soracache.WriteResult{Stored: true, Stamp: s.stampAt(w.Key, p)}
	}
	held := s.leases[w.Key]
	res := soracache.WriteResult{Stamp: s.stampAt(w.Key, s.head)}
	if held == nil || held.id != w.Lease || !now.Before(held.until) {
		res.Reason = soracache.ReasonLeaseLost
		return res
	}
	if w.Op == soracache.OpRenew {
		held.until = now.Add(soracache.DefaultLease)
		res.Stored = true
		return res
	}
	s.endLease(w.Key)
	if w.Op == soracache.OpRelease {
		res.Stored = true
		return res
	}
	if held.stamp.Epoch != s.epoch || s.namedAfter(held.stamp.Position, w.Key, w.Entry.Tags) {
		res.Reason = soracache.ReasonSuperseded
		return res
	}
	s.store(w, held.stamp)
	res.Stored = true
	return res
}

func (s *fakeService) store(w soracache.Write, stamp soracache.Stamp) {
	now := time.Now()
	s.entries[w.Key] = &storedEntry{
		entry:      w.Entry,
		stamp:      stamp,
		freshUntil: now.Add(w.Lifetime.TTL),
		keepUntil:  now.Add(max(w.Lifetime.TTL, w.Lifetime.Keep)),
	}
}

// record appends to the ledger. The lock is held.
func (s *fakeService) record(targets []soracache.Target) soracache.Position {
	s.head++
	for _, t := range targets {
		s.records[t] = s.head
		if t.Kind == soracache.TargetKey {
			delete(s.entries, t.Name)
			s.endLease(t.Name)
		}
	}
	return s.head
}

func (s *fakeService) endLease(key string) {
	delete(s.leases, key)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeService) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	s.set(func(s *fakeService) { s.invalidations = append(s.invalidations, req) })
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

func (s *fakeService) Head(ctx context.Context, _ string) (soracache.HeadResult, error) {
	if err := s.arrive(ctx, "head", ""); err != nil {
		return soracache.HeadResult{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return soracache.HeadResult{Stamp: s.stampAt("", s.head)}, nil
}

// stored returns the entry under a key, live or not.
func (s *fakeService) stored(key string) (soracache.Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[key]; e != nil {
		return e.entry, true
	}
	return soracache.Entry{}, false
}

// put stores an entry as an application in another language would.
func (s *fakeService) put(key string, e soracache.Entry) {
	s.apply(soracache.Write{Op: soracache.OpPut, Key: key, Entry: e, Lifetime: soracache.Lifetime{TTL: time.Hour}})
}

// leased tells whether somebody holds the lease of a key.
func (s *fakeService) leased(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.leases[key]
	return held != nil && time.Now().Before(held.until)
}

// count returns how many writes of a kind were asked for.
func (s *fakeService) count(op soracache.WriteOp) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, w := range s.writes {
		if w.Op == op {
			n++
		}
	}
	return n
}

// asked returns the reads of a key.
func (s *fakeService) asked(key string) []soracache.GetRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var reqs []soracache.GetRequest
	for _, r := range s.gets {
		if r.Reads[0].Key == key {
			reqs = append(reqs, r)
		}
	}
	return reqs
}

var _ soracache.Backend = (*fakeService)(nil)

// heard records what hooks are told.
type heard struct {
	mu                                             sync.Mutex
	hits, stale, misses, loads, failOpen, unread   int
	superseded                                     []soracache.Reason
	notStored                                      []error
	lastTier                                       soracache.Tier
	lastFailOpen, lastLoad, lastUnreadableReported error
}

func (h *heard) hooks() client.Hooks {
	locked := func(do func()) {
		h.mu.Lock()
		defer h.mu.Unlock()
		do()
	}
	return client.Hooks{
		OnHit:   func(_ string, tier soracache.Tier) { locked(func() { h.hits++; h.lastTier = tier }) },
		OnStale: func(string, soracache.Tier, client.StaleReason) { locked(func() { h.stale++ }) },
		OnMiss:  func(string) { locked(func() { h.misses++ }) },
		OnLoad:  func(_ string, _ time.Duration, err error) { locked(func() { h.loads++; h.lastLoad = err }) },
		OnFillSuperseded: func(_ string, r soracache.Reason) {
			locked(func() { h.superseded = append(h.superseded, r) })
		},
		OnNotStored: func(_ string, why error) { locked(func() { h.notStored = append(h.notStored, why) }) },
		OnFailOpen:  func(_ string, err error) { locked(func() { h.failOpen++; h.lastFailOpen = err }) },
		OnUnreadable: func(_, _ string, err error) {
			locked(func() { h.unread++; h.lastUnreadableReported = err })
		},
	}
}

// world is what a test of the client plays in.
type world struct {
	*testing.T
	service *fakeService
	client  *client.Client
	heard   *heard
}

func newWorld(t *testing.T, opts ...client.Option) *world {
	t.Helper()
	w := &world{T: t, service: newFakeService(), heard: &heard{}}
	w.client = w.join(opts...)
	return w
}

// join returns another client of the same service, as another process has it.
func (w *world) join(opts ...client.Option) *client.Client {
	w.Helper()
	c, err := client.New(w.service, append([]client.Option{client.Logger(nil), client.WithHooks(w.heard.hooks())}, opts...)...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := c.Close(); err != nil {
			w.Errorf("close: %v", err)
		}
	})
	return c
}

type result struct {
	value string
	err   error
}

// start calls GetOrSet in a goroutine.
func (w *world) start(ctx context.Context, c *client.Client, key string, load func(context.Context) (string, error), opts ...client.CallOption) <-chan result {
	ch := make(chan result, 1)
	go func() {
		v, err := client.GetOrSet(ctx, c, key, load, opts...)
		ch <- result{v, err}
	}()
	return ch
}

// must calls GetOrSet and returns its value.
func (w *world) must(key string, load func(context.Context) (string, error), opts ...client.CallOption) string {
	w.Helper()
	v, err := client.GetOrSet(w.Context(), w.client, key, load, opts...)
	if err != nil {
		w.Fatalf("GetOrSet(%q): %v", key, err)
	}
	return v
}

func (w *world) invalidate(tags ...string) {
	w.Helper()
	if _, err := w.client.InvalidateTags(w.Context(), tags...); err != nil {
		w.Fatal(err)
	}
}

// returns is a loader that answers at once.
func returns(v string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return v, nil }
}

// takes is a loader that heeds its context while it works.
func takes(d time.Duration, v string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		select {
		case <-time.After(d):
			return v, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (s *fakeService) Watch(context.Context, soracache.WatchRequest, func([]soracache.WatchItem) error) error {
	return soracache.ErrUnimplemented
}
