package node

import (
	"context"
	"errors"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node/inflight"
	"github.com/soracache/soracache/internal/node/parking"
	"github.com/soracache/soracache/internal/room"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l1"
	"github.com/soracache/soracache/l2"
)

// fallback is what else may be served from L1 because the store was asked and
// did not answer.
type fallback uint8

const (
	// noFallback: the store can still be asked.
	noFallback fallback = iota
	// allowStale: also what the store would be asked to have refreshed.
	allowStale
	// allowUnconfirmed: also what lacks nothing but confirmation, flagged.
	allowUnconfirmed
)

// fromL1 answers a read from L1 if an entry is there that may be served: live
// by the rule, confirmed, not behind the request's stamp.
func (p *partition) fromL1(r *soracache.Read, least soracache.Stamps, asking fallback, res *soracache.ReadResult) bool {
	c, ok := p.node.l1.Get(l1.Key{Space: p.space, Name: r.Key})
	if !ok {
		p.touch(p.node.now())
		return false
	}
	checked := p.follower.Check(&c.proof, p.leastOf(r, least))
	now := checked.At
	p.touch(now)
	flagged := asking == allowUnconfirmed && checked.Verdict == invalidation.Unconfirmed
	if checked.Verdict != invalidation.Live && !flagged {
		return false
	}
	fresh := c.freshUntil - now
	switch {
	case now >= c.until:
		return false
	case asking != noFallback:
	case r.Lease && fresh <= r.RefreshWithin && int64(now) >= c.heldUntil.Load():
		return false // the store decides who refreshes it
	case fresh <= 0 && now >= c.staleUntil:
		return false // somebody may have refreshed it
	}
	res.Status = soracache.StatusHit
	if fresh <= 0 || flagged {
		res.Status = soracache.StatusStale
	}
	if c.refusal != soracache.RefusalNone && asking == noFallback && r.Lease && fresh <= r.RefreshWithin {
		res.LeaseState, res.Refusal = soracache.LeaseRefused, c.refusal // a moment ago
	}
	res.Entry = c.entry
	res.FreshFor, res.KeepFor = fresh, c.keepUntil-now
	res.Stamp = p.stamps(checked.Seen)
	res.Tier = soracache.TierL1
	res.Age = checked.Age
	res.Unconfirmed = flagged
	if !flagged {
		p.node.meter.offer(p, r.Key, c, checked)
	}
	return true
}

// leastOf is what the answer to a read must reflect of the ledger.
func (p *partition) leastOf(r *soracache.Read, ofRequest soracache.Stamps) soracache.Stamp {
	if len(r.MinStamp) > 0 {
		ofRequest = r.MinStamp
	}
	least, _ := ofRequest.At(p.id.Index)
	return least
}

// stamps returns a stamp as callers get it.
func (p *partition) stamps(s soracache.Stamp) soracache.Stamps {
	if last := p.seen.Load(); last != nil && (*last)[0].Stamp == s {
		return *last
	}
	stamps := soracache.Stamps{{Partition: p.id.Index, Stamp: s}}
	p.seen.Store(&stamps)
	return stamps
}

// load answers a read that L1 could not: it reads the store, and while
// somebody else holds the key's lease it parks and reads again. It never hands
// over a value that was begun before the reader came: whoever was parked is
// judged again, by L1 or by the store.
func (p *partition) load(ctx context.Context, r *soracache.Read, req *soracache.GetRequest) soracache.ReadResult {
	res, h := p.readStore(ctx, r, req)
	return p.wait(ctx, r, req, res, h)
}

// readStore reads one key with the next batch.
func (p *partition) readStore(ctx context.Context, r *soracache.Read, req *soracache.GetRequest) (soracache.ReadResult, parking.Held) {
	share, a, err := p.reads.Read(ctx, r)
	if err != nil {
		return p.unanswered(ctx, r, req, err), parking.Held{}
	}
	return p.judge(ctx, share, a, r, req)
}

// collect waits for what a share's read brings.
func (p *partition) collect(ctx context.Context, share inflight.Share[fetched], r *soracache.Read, req *soracache.GetRequest) (soracache.ReadResult, parking.Held) {
	a, err := share.Wait(ctx)
	if err != nil {
		return p.unanswered(ctx, r, req, err), parking.Held{}
	}
	return p.judge(ctx, share, a, r, req)
}

// unanswered answers a read that was not done. If that is the store's fault, L1 may
// have something all the same.
func (p *partition) unanswered(ctx context.Context, r *soracache.Read, req *soracache.GetRequest, err error) soracache.ReadResult {
	if err == inflight.ErrLeftOut || err == ctx.Err() { //nolint:errorlint // themselves
		return soracache.ReadResult{Err: err}
	}
	return p.failedRead(r, req, err)
}

// judge turns what a read brought into the reader's answer, and gives up its share. If
// the read is undecided because somebody else holds the lease, it also returns for how
// long that may last.
func (p *partition) judge(
	ctx context.Context, share inflight.Share[fetched], a *inflight.Answer[fetched], r *soracache.Read, req *soracache.GetRequest,
) (soracache.ReadResult, parking.Held) {
	brought := &a.Value
	head := soracache.Stamp{Epoch: brought.delta.Epoch, Position: brought.delta.Head}
	res := soracache.ReadResult{
		Status: soracache.StatusMiss,
		Stamp:  p.stamps(head),
	}
	want := p.leastOf(r, req.MinStamp)
	if want.Epoch == head.Epoch && want.Position > head.Position && want.Position <= brought.utmost() {
		// The store is behind what the caller knows: nothing it says counts.
		share.Leave()
		if r.Lease {
			res.LeaseState, res.Refusal = soracache.LeaseRefused, soracache.RefusalBehind
		}
		return res, parking.Held{}
	}
	if c := brought.copy; c != nil {
		if !roomFor(ctx, c.entry) {
			share.Leave()
			return soracache.ReadResult{Err: errNoRoom}, parking.Held{}
		}
		p.fillIn(&res, c)
	}
	g := share.Claim()
	res.LeaseState, res.Refusal, res.LeaseFor, res.Lease = g.State, g.Refusal, g.For, g.Lease
	if g.Lease != (soracache.Lease{}) {
		res.Stamp = p.stamps(g.Stamp)
	}
	if brought.copy == nil && g.State == soracache.LeaseHeld {
		return res, parking.Held{For: g.For, Ends: brought.ends}
	}
	return res, parking.Held{}
}

// fillIn copies an entry that the store found live into an answer.
func (p *partition) fillIn(res *soracache.ReadResult, c *local) {
	now := p.node.now()
	res.Status = soracache.StatusHit
	if c.freshUntil <= now {
		res.Status = soracache.StatusStale
	}
	res.Entry = c.entry
	res.FreshFor, res.KeepFor = c.freshUntil-now, c.keepUntil-now
	res.Tier = soracache.TierL2
}

// failedRead answers a read that the store could not: from L1 if that has what
// is live and confirmed, though the store would have been asked to have it
// refreshed, or what the request accepts without confirmation.
func (p *partition) failedRead(r *soracache.Read, req *soracache.GetRequest, err error) soracache.ReadResult {
	asking := allowStale
	if req.AcceptUnconfirmed {
		asking = allowUnconfirmed
	}
	var res soracache.ReadResult
	if p.fromL1(r, req.MinStamp, asking, &res) {
		return res
	}
	return soracache.ReadResult{Err: err}
}

// wait parks until the read is decided, or its time to wait is over.
func (p *partition) wait(ctx context.Context, r *soracache.Read, req *soracache.GetRequest, res soracache.ReadResult, h parking.Held) soracache.ReadResult {
	if h.For <= 0 || r.Wait <= 0 {
		return res
	}
	place := room.FromContext(ctx)
	if err := place.Park(); err != nil {
		return soracache.ReadResult{Err: err}
	}
	defer place.Resume()
	began := p.node.now()
	p.node.totals.waits.Add(1)
	defer func() {
		if p.node.cfg.Observer.WaitEnd != nil {
			p.node.cfg.Observer.WaitEnd(p.node.now() - began)
		}
	}()
	again := *r
	lost := 0
	for turns := 0; h.For > 0; {
		left := r.Wait - (p.node.now() - began)
		if left <= 0 {
			p.node.totals.waitTimeouts.Add(1)
			return res
		}
		parked := p.parked.Park(ctx, r.Key, h, turns, left)
		turns = parked.Turns
		switch {
		case parked.Gone:
			return soracache.ReadResult{Err: ctx.Err()}
		case parked.Draining:
			return res
		}
		// Whoever loses twice to invalidations is to load for itself and keep
		// nothing, rather than wait for luck.
		if lost += parked.Lost; lost >= parking.MostLost {
			again.Lease = false
		}
		var hit soracache.ReadResult
		if p.fromL1(&again, req.MinStamp, noFallback, &hit) {
			tell(ctx, parked.Turn, &hit, parking.Held{})
			if !roomFor(ctx, hit.Entry) {
				hit = soracache.ReadResult{Err: errNoRoom}
			}
			return hit
		}
		res, h = p.readStore(ctx, &again, req)
		tell(ctx, parked.Turn, &res, h)
	}
	if lost >= parking.MostLost && res.Err == nil && res.Status == soracache.StatusMiss {
		res.LeaseState, res.Refusal = soracache.LeaseRefused, soracache.RefusalSuperseded
	}
	return res
}

// tell tells those for whom a reader has read what it found.
func tell(ctx context.Context, t *parking.Turn, res *soracache.ReadResult, h parking.Held) {
	switch {
	case h.For > 0:
		t.Held(h.For)
	case ctx.Err() != nil:
		t.Nothing()
	case res.Lease != (soracache.Lease{}):
		t.Held(res.LeaseFor)
	default:
		t.Decided()
	}
}

// errNoRoom is why a read has no answer: its caller has no room for it. It does not
// leave the package, and neither does inflight.ErrLeftOut.
var errNoRoom = errors.New("no room in the answer")

func unread(err error) bool { return err == inflight.ErrLeftOut || err == errNoRoom } //nolint:errorlint // themselves

// roomFor asks the caller for the room that an entry takes in its answer. Small
// ones are not worth the question.
func roomFor(ctx context.Context, e soracache.Entry) bool {
	return len(e.Value) < l2.SmallBytes || room.FromContext(ctx).Take(len(e.Value))
}

// loadAll answers the reads of a batch that L1 could not.
func (n *Node) loadAll(ctx context.Context, ns *namespace, req *soracache.GetRequest, results []soracache.ReadResult) []soracache.ReadResult {
	joined := ns.joinMissed(req, results)
	began := n.now()
	results, holds, leased := ns.collectAll(ctx, req, results, joined)
	if leased {
		return results
	}
	return n.waitAll(ctx, ns, req, results, holds, began)
}

// joinMissed joins the reads in flight of those that have no answer yet, all of a
// partition together, so that each is asked once.
func (ns *namespace) joinMissed(req *soracache.GetRequest, results []soracache.ReadResult) []inflight.Share[fetched] {
	joined := make([]inflight.Share[fetched], len(results))
	missed := make([][]int, len(ns.partitions))
	for i := range results {
		if results[i].Status == 0 {
			p := soracache.PartitionOf(soracache.KeyOf(req.Reads[i].Key), len(ns.partitions))
			missed[p] = append(missed[p], i)
		}
	}
	for i, at := range missed {
		p := ns.partitions[i]
		if len(at) == 0 {
			continue
		}
		if err := p.down(); err != nil {
			for _, i := range at {
				results[i] = p.failedRead(&req.Reads[i], req, err)
			}
			continue
		}
		p.reads.JoinAll(func(join func(*soracache.Read) inflight.Share[fetched]) {
			for _, i := range at {
				joined[i] = join(&req.Reads[i])
			}
		})
	}
	return joined
}

// collectAll collects what the flights have brought, up to the first for which
// there is no room, and tells whether a lease is among it.
func (ns *namespace) collectAll(
	ctx context.Context, req *soracache.GetRequest, results []soracache.ReadResult, joined []inflight.Share[fetched],
) (_ []soracache.ReadResult, holds []parking.Held, leased bool) {
	var none inflight.Share[fetched]
	holds = make([]parking.Held, len(results))
	for i, share := range joined {
		if share == none {
			continue
		}
		p, r := ns.of(req.Reads[i].Key), &req.Reads[i]
		results[i], holds[i] = p.collect(ctx, share, r, req)
		if results[i].Err == inflight.ErrLeftOut && (i == 0 || !room.Limited(ctx)) { //nolint:errorlint // itself
			results[i], holds[i] = p.readStore(ctx, r, req)
		}
		if unread(results[i].Err) {
			for _, share := range joined[i+1:] {
				if share != none {
					share.Leave()
				}
			}
			return results[:i], holds[:i], leased
		}
		leased = leased || results[i].Lease != (soracache.Lease{})
	}
	return results, holds, leased
}

// waitAll waits for what somebody else loads, one key after the other, until a
// lease is given.
func (n *Node) waitAll(
	ctx context.Context, ns *namespace, req *soracache.GetRequest, results []soracache.ReadResult, holds []parking.Held, began time.Duration,
) []soracache.ReadResult {
	waited := false
	for i := range holds {
		if holds[i].For <= 0 || req.Reads[i].Wait <= 0 {
			continue
		}
		r := req.Reads[i]
		r.Wait -= n.now() - began
		if waited {
			// It may have been decided while another key was waited for.
			p := ns.of(r.Key)
			if results[i] = (soracache.ReadResult{}); p.fromL1(&r, req.MinStamp, noFallback, &results[i]) {
				if !roomFor(ctx, results[i].Entry) {
					return n.endAt(ns, req, results, i)
				}
				continue
			}
			results[i], holds[i] = p.readStore(ctx, &r, req)
			r.Wait = req.Reads[i].Wait - (n.now() - began) // that took time, too
		}
		waited = true
		if results[i] = ns.of(r.Key).wait(ctx, &r, req, results[i], holds[i]); unread(results[i].Err) {
			return n.endAt(ns, req, results, i)
		}
		if results[i].Lease != (soracache.Lease{}) {
			break
		}
	}
	return results
}

// endAt ends the results of a batch before one for which there is no room. Nobody
// learns of the leases after it.
func (n *Node) endAt(ns *namespace, req *soracache.GetRequest, results []soracache.ReadResult, at int) []soracache.ReadResult {
	for i := range results[at:] {
		if lease := results[at+i].Lease; lease != (soracache.Lease{}) {
			p := ns.of(req.Reads[at+i].Key)
			p.handBack(inflight.Lease{Key: req.Reads[at+i].Key, Nonce: lease})
		}
	}
	return results[:at]
}
