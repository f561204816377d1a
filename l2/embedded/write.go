package embedded

import (
	"context"
	"errors"
	"fmt"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// Write implements [l2.Store]. A value that is large is written beforehand, in
// pieces, so that no transaction takes long; the request's own transaction then
// only says that they are an entry.
func (s *Store) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	answers := make([]l2.WriteAnswer, len(reqs))
	ops := make([]*op, 0, len(reqs))
	for i, req := range reqs {
		ops = append(ops, s.writeOps(req, &answers[i])...)
	}
	if err := s.queue.do(ctx, ops); err != nil {
		return failedWrites(len(reqs), err)
	}
	for i := range answers {
		if errors.Is(answers[i].Err, soracache.ErrStoreFull) {
			s.refused(reqs[i])
		}
	}
	return answers
}

// failedWrites makes new answers: the others may still be written to.
func failedWrites(n int, err error) []l2.WriteAnswer {
	answers := make([]l2.WriteAnswer, n)
	for i := range answers {
		answers[i].Err = err
	}
	return answers
}

// writeOps returns what the writer has to do for one write: usually one op.
func (s *Store) writeOps(req l2.WriteRequest, answer *l2.WriteAnswer) []*op {
	var f *fresh
	if err := errors.Join(req.Register.Validate(), l2.CheckName(req.Key)); err != nil {
		*answer = l2.WriteAnswer{Err: err}
		return nil
	}
	if req.Op == soracache.OpFill || req.Op == soracache.OpPut {
		var err error
		if f, err = newFresh(req); err != nil {
			*answer = l2.WriteAnswer{Err: err}
			return nil
		}
		if int64(len(f.bytes)) > s.cfg.MaxBytes/4 {
			*answer = l2.WriteAnswer{Err: errTooLarge(len(f.bytes), s.cfg.MaxBytes)}
			return nil
		}
	}
	last := &op{
		run: func(t *txn) {
			var err error
			if *answer, err = t.write(req, f); err != nil {
				*answer = l2.WriteAnswer{Err: err}
			}
		},
		fail: func(err error) { *answer = l2.WriteAnswer{Err: err} },
	}
	if f == nil {
		return []*op{last}
	}
	last.size = max(len(f.bytes), 1)
	if len(f.beyond()) <= stageAbove {
		return []*op{last}
	}
	return s.stage(f, last)
}

// write does one write at the head of the partition's ledger.
func (t *txn) write(req l2.WriteRequest, f *fresh) (l2.WriteAnswer, error) {
	if req.Op < soracache.OpFill || req.Op > soracache.OpRelease {
		return l2.WriteAnswer{}, fmt.Errorf("%w: unknown write %d", soracache.ErrInvalid, req.Op)
	}
	if f != nil && f.staged != nil && !t.s.isStaging(f.staged.id) {
		if errors.Is(f.staged.why, soracache.ErrStoreFull) {
			return l2.WriteAnswer{}, f.staged.why
		}
		return l2.WriteAnswer{}, unavailable(errStaging)
	}
	l, err := t.ledger(req.Partition, req.Since)
	if err != nil {
		return l2.WriteAnswer{}, err
	}
	t.register(l, req.Partition, req.Register)
	var a l2.WriteAnswer
	switch req.Op {
	case soracache.OpFill:
		a = t.fill(l, req, f)
	case soracache.OpPut:
		a = t.putEntry(l, req, f)
	case soracache.OpRenew:
		a = t.renew(l, req)
	case soracache.OpRelease:
		a = t.release(l, req)
	}
	a.Delta = t.delta(l, req.Since)
	return a, nil
}

// fill stores a value under the nonce that holds the lease. Only the nonce
// decides who that is: two leases can have the same stamp, and the later one's
// value must stand. A fill that lost to a record ends the lease too, for
// nothing can come of it.
func (t *txn) fill(l *ledger, req l2.WriteRequest, f *fresh) l2.WriteAnswer {
	k := leaseKey{l.partition, req.Key}
	held, ok := t.s.leases[k]
	if !ok || held.nonce != req.Nonce || !t.now.Before(held.until) {
		return l2.WriteAnswer{Reason: soracache.ReasonLeaseLost}
	}
	t.endLease(k)
	key := soracache.KeyOf(req.Key)
	if d := t.superseded(l, held.stamp, key, req.Entry.Tags); d.cause != alive {
		return l2.WriteAnswer{Reason: soracache.ReasonSuperseded, SupersededBy: d.record(l)}
	}
	if d := t.unsettled(l, key, req.Entry.Tags); d.cause != alive {
		return l2.WriteAnswer{Reason: soracache.ReasonSuperseded, SupersededBy: d.record(l)}
	}
	return t.keep(l, req, f, held.stamp)
}

// putEntry names the key in a record of its own, so that whatever was begun
// before it is dead, and writes with the stamp of that record.
func (t *txn) putEntry(l *ledger, req l2.WriteRequest, f *fresh) l2.WriteAnswer {
	record := t.append(l, []soracache.Target{soracache.Key(soracache.KeyOf(req.Key))})
	a := t.keep(l, req, f, l.stamp())
	a.Record = record
	return a
}

// keep stores an entry with a stamp.
func (t *txn) keep(l *ledger, req l2.WriteRequest, f *fresh, stamp soracache.Stamp) l2.WriteAnswer {
	ttl := req.Lifetime.TTL.Microseconds()
	keep := max(req.Lifetime.Keep.Microseconds(), ttl)
	if k := (leaseKey{l.partition, req.Key}); len(t.s.passed) > 0 {
		t.rememberPassed(k)
		delete(t.s.passed, k)
	}
	if l.longestKeep < keep {
		l.longestKeep, l.changed = keep, true
	}
	now := t.micros()
	t.store(l, f, l2.EntryHead{Stamp: stamp, Written: now, FreshUntil: now + ttl, KeepUntil: now + keep})
	return l2.WriteAnswer{Stamp: stamp}
}

// holding returns the lease of a key if a request's nonce holds it.
func (t *txn) holding(l *ledger, req l2.WriteRequest) (leaseKey, lease, bool) {
	k := leaseKey{l.partition, req.Key}
	held, ok := t.s.leases[k]
	return k, held, ok && held.holds(l, t.now) && held.nonce == req.Nonce
}

func (t *txn) renew(l *ledger, req l2.WriteRequest) l2.WriteAnswer {
	k, held, ok := t.holding(l, req)
	if !ok {
		return l2.WriteAnswer{Reason: soracache.ReasonLeaseLost}
	}
	held.until = t.now.Add(req.LeaseFor)
	t.setLease(k, held)
	return l2.WriteAnswer{Stamp: held.stamp}
}

func (t *txn) release(l *ledger, req l2.WriteRequest) l2.WriteAnswer {
	k, held, ok := t.holding(l, req)
	if !ok {
		return l2.WriteAnswer{Reason: soracache.ReasonLeaseLost}
	}
	t.endLease(k)
	if req.Outcome != soracache.LoadHandedBack {
		t.rememberPassed(k)
		t.s.leftNothing(k, held, req.Remember, t.now)
	}
	return l2.WriteAnswer{}
}

// Invalidate implements [l2.Store].
func (s *Store) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	answers := make([]l2.InvalidateAnswer, len(reqs))
	ops := make([]*op, len(reqs))
	for i, req := range reqs {
		answer := &answers[i]
		ops[i] = &op{
			run: func(t *txn) {
				var err error
				if *answer, err = t.invalidate(req); err != nil {
					*answer = l2.InvalidateAnswer{Err: err}
				}
			},
			fail:  func(err error) { *answer = l2.InvalidateAnswer{Err: err} },
			after: func() { s.listFollowers(req, answer) }, // see followers for why not before
		}
	}
	if err := s.queue.do(ctx, ops); err != nil {
		failed := make([]l2.InvalidateAnswer, len(reqs)) // the others may still be written to
		for i := range failed {
			failed[i].Err = err
		}
		return failed
	}
	return answers
}

func (t *txn) invalidate(req l2.InvalidateRequest) (l2.InvalidateAnswer, error) {
	if len(req.Targets) == 0 {
		return l2.InvalidateAnswer{}, fmt.Errorf("%w: nothing to invalidate", soracache.ErrInvalid)
	}
	for _, target := range req.Targets {
		if target.Kind < soracache.TargetKey || target.Kind > soracache.TargetAll {
			return l2.InvalidateAnswer{}, fmt.Errorf("%w: unknown target %s", soracache.ErrInvalid, target)
		}
		if err := l2.CheckTarget(target); err != nil {
			return l2.InvalidateAnswer{}, err
		}
	}
	if err := errors.Join(req.Register.Validate(), l2.CheckSettle(req.Settle)); err != nil {
		return l2.InvalidateAnswer{}, err
	}
	l, err := t.ledger(req.Partition, req.Since)
	if err != nil {
		return l2.InvalidateAnswer{}, err
	}
	t.register(l, req.Partition, req.Register)
	record := t.append(l, req.Targets)
	t.keepSettling(l, req.Targets, req.Settle)
	return l2.InvalidateAnswer{Record: record, Delta: t.delta(l, req.Since)}, nil
}

// register registers the caller of a write, in the transaction that answers it.
func (t *txn) register(l *ledger, at l2.Partition, r l2.Registration) {
	t.s.followers.register(at, r, t.now)
	t.s.followers.inEpoch(at, r, l.epoch, t.now)
}

// listFollowers adds to the answer who was registered, if that was asked for.
func (s *Store) listFollowers(req l2.InvalidateRequest, answer *l2.InvalidateAnswer) {
	if req.Followers && answer.Err == nil {
		s.followers.list(req.Partition, answer, s.cfg.Now())
	}
}
