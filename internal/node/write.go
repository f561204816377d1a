package node

import (
	"errors"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node/parking"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
)

// written takes in the answer to a write. Of a fill, f was noted when it was
// sent.
func (p *partition) written(w *soracache.Write, q invalidation.Question, a *l2.WriteAnswer, f *filling) soracache.WriteResult {
	if f != nil {
		defer p.copies.fillAnswered(w.Key, f)
	}
	if a.Err != nil {
		if errors.Is(a.Err, soracache.ErrStoreFull) {
			p.node.refusedForRoom()
			if w.Op == soracache.OpFill {
				p.freed(w.Key, parking.Passed)
			}
		}
		return soracache.WriteResult{Err: a.Err}
	}
	p.learn(q, a.Delta, a.Record)
	if a.Reason == soracache.ReasonNone && (w.Op == soracache.OpFill || w.Op == soracache.OpPut) {
		p.node.foundRoom(q.Sent())
	}
	res := soracache.WriteResult{
		Stored: a.Reason == soracache.ReasonNone, Reason: a.Reason, SupersededBy: a.SupersededBy,
		Stamp: p.stamps(soracache.Stamp{Epoch: a.Delta.Epoch, Position: a.Delta.Head}),
	}
	t := &p.node.totals
	switch w.Op {
	case soracache.OpFill:
		switch a.Reason {
		case soracache.ReasonNone:
			t.fillsStored.Add(1)
			c, keep := p.copies.local(q, a.Delta, w.Key, &l2.KeyAnswer{
				Entry: w.Entry, Stamp: a.Stamp, FreshFor: w.Lifetime.TTL, KeepFor: w.Lifetime.Keep, L1: w.Lifetime.L1,
			})
			p.copies.filled(w.Key, f, c, keep)
			p.freed(w.Key, parking.Ended)
		case soracache.ReasonSuperseded:
			t.fillsSuperseded.Add(1)
			p.freed(w.Key, parking.Lost)
		case soracache.ReasonLeaseLost:
			// Whatever ended the lease has woken those who lost by it.
			t.fillsLeaseLost.Add(1)
			p.parked.Wake(w.Key, parking.Ended)
		}
	case soracache.OpPut:
		// It is not kept in L1: its own record, once marked, cannot be told
		// from a later one in the same slot.
		t.puts.Add(1)
		p.publish(a.Record, false)
		p.freed(w.Key, parking.Ended)
		p.parked.WakeOthers(w.Key)
	case soracache.OpRenew:
		t.renewals.Add(1)
		if res.Stored {
			res.LeaseFor = w.LeaseFor
		}
	case soracache.OpRelease:
		t.releases.Add(1)
		if w.Outcome == soracache.LoadHandedBack {
			p.freed(w.Key, parking.Ended)
		} else {
			p.freed(w.Key, parking.Passed)
		}
	}
	return res
}

// invalidated takes in the answer to an invalidation: the record first, then
// the peers, then whoever waited for a lease that it ended.
func (p *partition) invalidated(q invalidation.Question, a *l2.InvalidateAnswer, acknowledge bool) {
	p.learn(q, a.Delta, a.Record)
	p.publish(a.Record, acknowledge)
	for _, t := range a.Record.Targets {
		switch t.Kind {
		case soracache.TargetKey:
			p.parked.WakeKey(t.Name, parking.Lost)
		case soracache.TargetTag:
			p.node.chores.add(chore{at: p.id, tag: t.Name})
		case soracache.TargetAll:
			p.parked.WakeAll(parking.Lost)
			p.node.chores.add(chore{at: p.id})
		}
	}
}
