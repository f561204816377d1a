package service

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/batches"
	"github.com/soracache/soracache/client/internal/deadline"
	"github.com/soracache/soracache/client/internal/lifetime"
	"github.com/soracache/soracache/client/internal/near"
)

// RequestsAtOnce is how many requests one call for many keys has under way.
const RequestsAtOnce = 4

// ReadMany asks the backend for many keys, in requests that are within what it
// takes, a few at a time, each no longer than limit, and learns from the answers.
// They are as many as the reads, and in their order. What a request failed with
// is the answer to each of its keys, and of what was not sent by then.
func (s *Service) ReadMany(ctx context.Context, limit time.Duration, reads []soracache.Read, asked []*near.Inflight, accept bool) []soracache.ReadResult {
	results := make([]soracache.ReadResult, len(reads))
	if asked == nil {
		asked = make([]*near.Inflight, len(reads))
	}
	inRequests(len(reads), func(from, to int) error {
		ctx := lifetime.Detached(ctx, limit)
		defer ctx.End()
		return s.readPart(ctx, reads[from:to], asked[from:to], results[from:to], accept)
	}, func(i int, err error) { results[i].Err = err })
	return results
}

func (s *Service) readPart(ctx context.Context, reads []soracache.Read, asked []*near.Inflight, results []soracache.ReadResult, accept bool) error {
	return batches.Send(reads, func(at int, part []soracache.Read) error {
		answers, seen, err := s.get(ctx, part, accept)
		if err != nil {
			return err
		}
		copy(results[at:], answers)
		for i := range answers {
			s.learnRead(ctx, seen, &results[at+i], asked[at+i])
		}
		return nil
	}, func(at, count int, err error) {
		for i := range count {
			results[at+i].Err = err
		}
	})
}

// WriteMany has the backend do many writes, in the same manner.
func (s *Service) WriteMany(ctx context.Context, limit time.Duration, writes []soracache.Write, asked []*near.Inflight) []soracache.WriteResult {
	results := make([]soracache.WriteResult, len(writes))
	if len(writes) == 0 {
		return results
	}
	if asked == nil {
		asked = make([]*near.Inflight, len(writes))
	}
	if len(writes) == 1 {
		ctx := s.toWrite(ctx, limit, writes[0].Op)
		defer ctx.End()
		answers, seen, err := s.put(ctx, writes)
		if err != nil {
			results[0].Err = err
			return results
		}
		s.learnWrite(ctx, seen, &answers[0], asked[0])
		return answers
	}
	inRequests(len(writes), func(from, to int) error {
		ctx := s.toWrite(ctx, limit, writes[from].Op)
		defer ctx.End()
		return s.writePart(ctx, writes[from:to], asked[from:to], results[from:to])
	}, func(i int, err error) { results[i].Err = err })
	return results
}

func (s *Service) writePart(ctx context.Context, writes []soracache.Write, asked []*near.Inflight, results []soracache.WriteResult) error {
	return batches.Send(writes, func(at int, part []soracache.Write) error {
		answers, seen, err := s.put(ctx, part)
		if err != nil {
			return err
		}
		copy(results[at:], answers)
		for i := range answers {
			s.learnWrite(ctx, seen, &results[at+i], asked[at+i])
		}
		return nil
	}, func(at, count int, err error) {
		for i := range count {
			results[at+i].Err = err
		}
	})
}

// inRequests does something to parts of so many items, a few parts at a time.
// Once one has failed as a whole, with what asking again may change, so have all
// that were not begun by then: a service that hangs is not waited for once for
// each part.
func inRequests(count int, do func(from, to int) error, failed func(i int, err error)) {
	var down atomic.Pointer[error]
	AtOnce(RequestsAtOnce, (count+batches.Most-1)/batches.Most, func(part int) {
		from, to := part*batches.Most, min((part+1)*batches.Most, count)
		var err error
		if seen := down.Load(); seen != nil {
			err = *seen
		} else if err = do(from, to); err != nil && !Refused(err) {
			down.Store(&err)
		}
		for i := from; err != nil && i < to; i++ {
			failed(i, err)
		}
	})
}

// AtOnce does count things, so many of them at the same time, and returns when
// all are done. The last worker is the caller itself, and if another one panics, so
// does the caller.
func AtOnce(limit, count int, do func(i int)) {
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
			do(i)
		}
	}
	var others sync.WaitGroup
	var crash atomic.Pointer[any]
	for range min(limit, count) - 1 {
		others.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					crash.Store(&p)
				}
			}()
			work()
		})
	}
	defer func() {
		others.Wait()
		if p := crash.Load(); p != nil {
			panic(*p)
		}
	}()
	work()
}

// EndAll ends what was asked of the near cache.
func EndAll(asked []*near.Inflight) {
	for _, a := range asked {
		a.End()
	}
}

// toWrite limits the time of writes of one kind, which go on when the client is closed.
func (s *Service) toWrite(ctx context.Context, limit time.Duration, op soracache.WriteOp) *deadline.Context {
	if op == soracache.OpFill {
		return s.Life.Filling(ctx, limit)
	}
	return lifetime.Detached(ctx, limit)
}
