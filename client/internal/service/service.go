// Package service is what one client asks its backend, and what it learns from the answers:
// requests are made under all that the client has seen, within what a backend takes, and
// what they bring is taken in by the session, the near cache and the context.
package service

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/batches"
	"github.com/soracache/soracache/client/internal/lifetime"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/internal/pacing"
)

// Config is what a service stands on.
type Config struct {
	Backend   soracache.Backend
	Namespace string
	Timeout   time.Duration // of reads that the near cache asks for
	Life      *lifetime.Lifetime
	Carrier   Carrier
	// Holder is whose leases are the client's.
	Holder uint64
	// Reset is told that the near cache has begun anew.
	Reset func()
}

// Carrier is what contexts carry between calls.
type Carrier interface {
	// Carried is what a context carries of the namespace.
	Carried(ctx context.Context) soracache.Stamps
	// Leased is what the lease reflects under which the loader runs that a context
	// belongs to.
	Leased(ctx context.Context) soracache.Stamps
	// Carry has a context carry what was seen under it, if it carries anything.
	Carry(ctx context.Context, seen soracache.Stamps)
}

// Service is a backend as one client knows it. Set Near before its first use, if there
// is a near cache.
type Service struct {
	Config
	Near *near.Cache
	// Waits is how long a question may wait.
	Waits   pacing.Waits
	session session
	// partitions is how many the namespace has; zero until an answer has told.
	partitions atomic.Uint32
}

// New returns a service.
func New(cfg Config) *Service { return &Service{Config: cfg} }

// Least returns what an answer must reflect for a request of this context, when
// the client itself has seen so much: that, what the context carries, and what
// the lease reflects under which the calling loader runs.
func (s *Service) least(ctx context.Context, seen soracache.Stamps) soracache.Stamps {
	if leased := s.Carrier.Leased(ctx); len(leased) > 0 {
		seen = both(seen, leased)
	}
	if carried := s.Carrier.Carried(ctx); len(carried) > 0 {
		seen = both(seen, carried)
	}
	return seen
}

// Known is what a value has to reflect that is near.
func (s *Service) Known(ctx context.Context) near.Demand {
	seen := s.session.stamps()
	return near.Demand{Seen: seen, Least: s.least(ctx, seen)}
}

// CarriedMore returns what the context carries, if that is more than the client
// itself has seen.
func (s *Service) CarriedMore(ctx context.Context) soracache.Stamps {
	carried := s.Carrier.Carried(ctx)
	if len(carried) == 0 {
		return nil
	}
	seen := s.session.stamps()
	for _, p := range carried {
		if at, _ := seen.At(p.Partition); at.Epoch != p.Stamp.Epoch || at.Position < p.Stamp.Position {
			return carried
		}
	}
	return nil
}

// HeardMore tells whether anything has been heard of that a value does not reflect which
// is proven at the given stamps.
func (s *Service) HeardMore(proven soracache.Stamps) bool { return s.session.heardMore(proven) }

// Within runs one request to the backend, no longer than limit.
func (s *Service) Within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	if err := s.Life.Admit(); err != nil {
		return err
	}
	defer s.Life.Leave()
	limited := s.Life.Limited(ctx, limit)
	defer limited.End()
	return s.Life.WrapClosed(limited, do(limited))
}

// Read asks the backend for one key, and learns from the answer. That this is a
// batch of one is the backend's to change: whatever comes here at the same time
// may travel together.
func (s *Service) Read(ctx context.Context, read soracache.Read, asked *near.Inflight) (soracache.ReadResult, error) {
	results, seen, err := s.get(ctx, []soracache.Read{read}, false)
	if err != nil {
		return soracache.ReadResult{}, err
	}
	r := &results[0]
	s.learnRead(ctx, seen, r, asked)
	return *r, r.Err
}

// get makes one request for reads, under all that the client has seen, which it
// returns as well.
func (s *Service) get(ctx context.Context, reads []soracache.Read, accept bool) (results []soracache.ReadResult, seen soracache.Stamps, err error) {
	seen = s.session.stamps()
	for i := range reads {
		reads[i].Holder = s.Holder
	}
	req := soracache.GetRequest{Namespace: s.Namespace, Reads: reads, MinStamp: s.least(ctx, seen), AcceptUnconfirmed: accept}
	s.demandApart(&req)
	results, err = s.Backend.Get(ctx, req)
	if err == nil && len(results) != len(reads) {
		err = batches.Miscounted(len(results), len(reads))
	}
	return results, seen, err
}

// demandApart has each read ask for what was seen of its own partition alone, once
// it is known which that is.
func (s *Service) demandApart(req *soracache.GetRequest) {
	partitions := int(s.partitions.Load())
	if partitions <= 1 || len(req.MinStamp) == 0 {
		return
	}
	for i := range req.Reads {
		r := &req.Reads[i]
		r.MinStamp = req.MinStamp.Of(soracache.PartitionOf(r.Key, partitions))
	}
	req.MinStamp = nil
}

// learnRead takes in what an answer to a read shows, when the client had seen so
// much as it asked. Of an answer with a lease the stamp is the lease's, and
// confirms nothing.
func (s *Service) learnRead(ctx context.Context, seen soracache.Stamps, r *soracache.ReadResult, asked *near.Inflight) {
	if r.Err != nil {
		return
	}
	if n := uint32(r.Partitions); n > 0 && n != s.partitions.Load() {
		s.partitions.Store(n)
	}
	s.session.observe(seen, r.Stamp)
	s.Carrier.Carry(ctx, r.Stamp)
	if r.Lease == (soracache.Lease{}) && !r.Unconfirmed {
		asked.Confirm(r.Stamp, r.Age)
	}
}

// Write has the backend do one write, and learns from the answer.
func (s *Service) Write(ctx context.Context, w soracache.Write, asked *near.Inflight) (soracache.WriteResult, error) {
	results, seen, err := s.put(ctx, []soracache.Write{w})
	if err != nil {
		return soracache.WriteResult{}, err
	}
	r := &results[0]
	s.learnWrite(ctx, seen, r, asked)
	return *r, r.Err
}

// put makes one request for writes, and returns what the client had seen before.
func (s *Service) put(ctx context.Context, writes []soracache.Write) (results []soracache.WriteResult, seen soracache.Stamps, err error) {
	seen = s.session.stamps()
	results, err = s.Backend.Write(ctx, soracache.WriteRequest{Namespace: s.Namespace, Writes: writes})
	if err == nil && len(results) != len(writes) {
		err = batches.Miscounted(len(results), len(writes))
	}
	return results, seen, err
}

// learnWrite takes in what the answer to a write shows, which was done after all that
// the client had seen when it asked.
func (s *Service) learnWrite(ctx context.Context, seen soracache.Stamps, r *soracache.WriteResult, asked *near.Inflight) {
	if r.Err != nil {
		return
	}
	s.session.observe(seen, r.Stamp)
	s.Carrier.Carry(ctx, r.Stamp)
	asked.Confirm(r.Stamp, 0)
}

// Invalidate makes one request for an invalidation, no longer than limit, and learns from
// the answer. The error may be a [*soracache.IncompleteError]: it is recorded then.
func (s *Service) Invalidate(ctx context.Context, limit time.Duration, req soracache.InvalidateRequest) (stamp soracache.Stamps, stragglers []string, err error) {
	asked, seen := s.Near.BeginAll(), s.session.stamps()
	err = s.Within(ctx, limit, func(ctx context.Context) error {
		result, err := s.Backend.Invalidate(ctx, req)
		var incomplete *soracache.IncompleteError
		switch {
		case err == nil:
			asked.Confirm(result.Stamp, 0)
		case errors.As(err, &incomplete):
			result.Stamp = incomplete.Stamp
		}
		// If it failed, it may have been recorded all the same.
		s.Near.Refuse(req.Targets, result.Stamp)
		s.session.observe(seen, result.Stamp)
		s.Carrier.Carry(ctx, result.Stamp)
		stamp, stragglers = result.Stamp, result.Stragglers
		return err
	})
	return stamp, stragglers, err
}

// Refused tells whether the service answered with an error that asking again
// would not change.
func Refused(err error) bool {
	return errors.Is(err, soracache.ErrInvalid) ||
		errors.Is(err, soracache.ErrTooLarge) ||
		errors.Is(err, soracache.ErrStoreFull) ||
		errors.Is(err, soracache.ErrUnauthenticated) ||
		errors.Is(err, soracache.ErrPermissionDenied) ||
		errors.Is(err, soracache.ErrUnimplemented)
}

var _ near.Owner = (*Service)(nil)

// Watch is for the near cache, as are the others below.
func (s *Service) Watch(ctx context.Context, from soracache.Stamps, deliver func([]soracache.WatchItem) error) error {
	return s.Backend.Watch(ctx, soracache.WatchRequest{Namespace: s.Namespace, From: from}, func(items []soracache.WatchItem) error {
		for i := range items {
			for _, record := range items[i].Records {
				if slices.Contains(record.Targets, soracache.Everything()) {
					s.Cool()
				}
			}
		}
		return deliver(items)
	})
}

// Cool notes that nothing is cached any more.
func (s *Service) Cool() { s.session.cool() }

// Cold is since when nothing is cached, if the client has noticed that: a clear, or a new
// life of a ledger.
func (s *Service) Cold() (since time.Time, is bool) {
	if at := s.session.cold.Load(); at != nil {
		return *at, true
	}
	return since, false
}

// Head asks for the head of each ledger.
func (s *Service) Head(ctx context.Context) (soracache.HeadResult, error) {
	return s.Backend.Head(ctx, s.Namespace)
}

// Touch reads a key for what the session learns.
func (s *Service) Touch(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	_, _ = s.Read(ctx, soracache.Read{Key: key}, nil)
}

// Observe takes in what the near cache has seen.
func (s *Service) Observe(shown, seen soracache.Stamps) { s.session.observe(shown, seen) }

// Seen is what the client has seen.
func (s *Service) Seen() soracache.Stamps { return s.session.stamps() }

// Begin runs something that ends with the client.
func (s *Service) Begin(do func(context.Context)) { s.Life.Begin(do) }

// Restarted tells that the near cache has begun anew.
func (s *Service) Restarted() { s.Reset() }

// Refuses tells whether an error is a refusal: see [Refused].
func (s *Service) Refuses(err error) bool { return Refused(err) }
