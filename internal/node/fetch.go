package node

import (
	"context"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node/inflight"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l1"
	"github.com/soracache/soracache/l2"
)

// source is where the reads of a partition are sent.
type source struct{ p *partition }

var _ inflight.Source[fetched] = source{}

// fetched is what a read brought, apart from the store's answer for its key.
type fetched struct {
	delta soracache.Delta
	clock time.Time // the store's
	ends  uint64    // of leases, before it was sent
	copy  *local    // of the entry that was found, or nil
}

// Read asks the store, takes in the delta, and keeps what was found.
func (s source) Read(ctx context.Context, b *inflight.Batch[fetched]) {
	p, keys := s.p, b.Keys()
	ends, q := p.parked.Ends(), p.follower.Ask()
	p.node.totals.flights.Add(1)
	p.node.totals.flightKeys.Add(uint64(len(keys)))
	var reqs []l2.ReadRequest
	for chunk := range slices.Chunk(keys, inflight.KeysAtOnce) {
		reqs = append(reqs, l2.ReadRequest{Partition: p.id, Since: q.Since, Register: p.node.registration, Keys: chunk, Room: b.Room})
	}
	answers := callStore(ctx, p.node, "read", func(ctx context.Context) ([]l2.ReadAnswer, error) {
		as := p.node.cfg.Store.Read(ctx, reqs)
		return as, firstError(as, func(a *l2.ReadAnswer) error { return a.Err })
	})
	at := 0
	for i := range answers {
		s.answered(b, at, reqs[i].Keys, q, ends, &answers[i])
		at += len(reqs[i].Keys)
	}
}

// answered takes in the answer to one request, which is for the keys of the batch
// from an index on.
func (s source) answered(b *inflight.Batch[fetched], from int, keys []l2.ReadKey, q invalidation.Question, ends uint64, a *l2.ReadAnswer) {
	p := s.p
	if a.Err != nil {
		for i := range keys {
			b.Fail(from+i, a.Err)
		}
		return
	}
	p.answer(q, a.Delta, 0)
	var kept []l1.Item[*local]
	for i := range keys {
		k := &a.Keys[i]
		p.node.roomFor(k.Lease, k.Refusal, q.Sent())
		brought := fetched{delta: a.Delta, clock: a.Clock, ends: ends}
		if k.Found {
			var keep bool
			if brought.copy, keep = p.copies.local(q, a.Delta, keys[i].Key, k); keep {
				kept = append(kept, l1.Item[*local]{Key: l1.Key{Space: p.space, Name: keys[i].Key}, Value: brought.copy})
			}
		}
		b.Answer(from+i, k, brought)
	}
	p.copies.read(keys, kept)
}

func (s source) Down() error                       { return s.p.down() }
func (s source) Forget(key string)                 { s.p.copies.forget(key) }
func (s source) Go(do func())                      { s.p.background(do) }
func (s source) HandBack(leases ...inflight.Lease) { s.p.handBack(leases...) }

// utmost is the highest position that anybody can have seen of the ledger. A
// stamp beyond it was made up, and asks for nothing.
func (f *fetched) utmost() soracache.Position {
	clock := soracache.Position(max(f.clock.UnixMicro(), 0))
	return max(f.delta.Head, clock) + soracache.Position(soracache.MaxAhead/time.Microsecond)
}

// handBack releases leases in the background. It outlives the node's context,
// not the node.
func (p *partition) handBack(leases ...inflight.Lease) {
	p.background(func() {
		q := p.follower.Ask()
		reqs := make([]l2.WriteRequest, len(leases))
		for i, l := range leases {
			reqs[i] = l2.WriteRequest{
				Partition: p.id, Since: q.Since, Register: p.node.registration, Op: soracache.OpRelease, Key: l.Key, Nonce: l.Nonce,
			}
		}
		answers := callStore(context.WithoutCancel(p.node.ctx), p.node, "write", func(ctx context.Context) ([]l2.WriteAnswer, error) {
			as := p.node.cfg.Store.Write(ctx, reqs)
			return as, firstError(as, func(a *l2.WriteAnswer) error { return a.Err })
		})
		for i := range answers {
			p.written(&soracache.Write{Op: soracache.OpRelease, Key: reqs[i].Key}, q, &answers[i], nil)
		}
	})
}
