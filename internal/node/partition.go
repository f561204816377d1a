package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/room"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l1"
	"github.com/soracache/soracache/l2"
)

// partition is what a node knows of one ledger, and the reads on their way to
// it.
type partition struct {
	node     *Node
	ns       *namespace
	id       l2.Partition
	space    uint32 // tells its keys from others' in L1 and in the marks
	follower *invalidation.Follower
	feed     feed // of the follower, to those who watch

	active   atomic.Bool  // may be followed by the node's confirmations
	firstUse atomic.Int64 // on the node's clock, in nanoseconds; zero before
	lastUse  atomic.Int64 // on the node's clock, in nanoseconds
	// useBegan is when the use began that went on until lastUse without a pause of
	// more than a bound; confirmedIdle, until when it is confirmed though that is
	// over. Both are on the node's clock, in nanoseconds.
	useBegan, confirmedIdle atomic.Int64
	// lastPart is the part of the store that held it when that was last looked up.
	lastPart atomic.Pointer[part]
	heard    atomic.Uint64 // the highest position heard of, for measurement only

	// seen caches the last stamp as callers get it, so that a hit in L1 does
	// not allocate one.
	seen atomic.Pointer[soracache.Stamps]

	keeping sync.Mutex // held while a fill is put into L1

	mu      sync.Mutex
	flights flights             // guarded by mu
	parked  map[uint64]*parking // by the name's hash; guarded by mu
	// parkedIn holds, by the hash of a key, under which names of other schemas
	// somebody is parked. Guarded by mu.
	parkedIn map[uint64][]uint64
	// fillings are the fills under way, by key; guarded by mu.
	fillings map[string][]*filling
	// ends counts how often this node heard that leases ended, and endOf holds what
	// it was when that of a key did, by the name's hash. endOfRest holds it for all
	// others: since a clear, or since something was forgotten. They are for those
	// who are about to park. Guarded by mu.
	ends, endOfRest uint64
	endOf           map[uint64]uint64
	// A pull asks the ledger for what is missing; one runs at a time. again
	// means that it is to ask once more; owed, whom to acknowledge records to
	// after the next asking. Guarded by mu.
	pulling, again bool
	owed           []invalidation.Notice
}

// local is an entry as L1 holds it. All but heldUntil is immutable.
type local struct {
	proof invalidation.Proof
	entry soracache.Entry
	stamp soracache.Stamp // the entry's own
	// On the node's clock: when the entry becomes stale, and when this copy
	// (by the entry's keep time or its cap for L1) and the entry itself end.
	freshUntil, until, keepUntil time.Duration
	// staleUntil is until when a stale copy is believed to be the newest.
	staleUntil time.Duration
	bytes      int // of memory, see footprint
	// heldUntil is until when no refresh lease need be asked for, because
	// somebody else was seen to hold it, or because it was refused, and why.
	heldUntil atomic.Int64
	refusal   soracache.Refusal
}

// size is how much memory an entry takes in L1.
func (c *local) size() int { return c.bytes }

// footprint counts what a local refers to, itself included. The value is the
// tail of the bytes that the store returned, so all of them are held; the tags
// are copies.
func (c *local) footprint(key string) int {
	bytes := l1.Footprint(int(unsafe.Sizeof(*c))) + l1.Footprint(c.proof.SlotBytes()) +
		l1.Footprint(l2.HeadBytes+l2.BodySize(key, c.entry)) +
		l1.Footprint(len(c.entry.Encoding)) + l1.Footprint(len(c.entry.ETag)) +
		l1.Footprint(len(c.entry.Tags)*int(unsafe.Sizeof("")))
	for _, t := range c.entry.Tags {
		bytes += l1.Footprint(len(t))
	}
	return bytes
}

func newPartition(n *Node, ns *namespace, id l2.Partition) *partition {
	space := n.spaces.Add(1)
	p := &partition{
		node:     n,
		ns:       ns,
		id:       id,
		space:    space,
		flights:  newFlights(),
		fillings: map[string][]*filling{},
		parked:   map[uint64]*parking{},
		parkedIn: map[uint64][]uint64{},
		endOf:    map[uint64]uint64{},
	}
	p.feed.most, p.feed.start = n.cfg.WatchQueue, n.wg.Go
	p.follower = invalidation.NewFollower(invalidation.Config{
		Marks: n.marks, Space: uint64(space), Bound: n.cfg.Bound, Now: n.now, Feed: p.feed.tell,
	})
	return p
}

// background does something that outlives the request, or the notice, that asked
// for it. Whoever calls it has the namespace pinned.
func (p *partition) background(do func()) {
	p.ns.pin()
	p.node.wg.Go(func() {
		defer p.ns.unpin()
		do()
	})
}

// touch notes that the partition is in use.
func (p *partition) touch(now time.Duration) {
	active, last := p.active.Load(), time.Duration(p.lastUse.Load())
	if active && now-last <= min(p.node.cfg.IdleAfter/8, p.node.cfg.Bound/4) {
		return
	}
	p.firstUse.CompareAndSwap(0, max(int64(now), 1))
	if !active || now-last > p.node.cfg.Bound {
		p.useBegan.Store(int64(now))
	}
	p.lastUse.Store(int64(now))
	if !active {
		p.active.Store(true)
	}
}

// What is confirmed without being asked for is what is watched, what is in use, and
// of all others the mostIdle that were used last, within IdleAfter. The first read
// of anything else goes to the store, which confirms it and registers this node in
// the same step: nothing is served first and confirmed behind that.

// inUse tells whether the partition is in use: for as long after its last use as it
// was in use before, and for a bound at most. So who reads every bound or more often
// finds it confirmed, and who reads once costs the store nothing but the read.
func (p *partition) inUse(now time.Duration) bool {
	last := time.Duration(p.lastUse.Load())
	return p.active.Load() && now-last < min(last-time.Duration(p.useBegan.Load()), p.node.cfg.Bound)
}

// eager tells whether the partition is confirmed though nobody asks.
func (p *partition) eager(now time.Duration) bool {
	return p.feed.watched() || p.inUse(now) || now < time.Duration(p.confirmedIdle.Load())
}

// insistence is what else may be served from L1 because the store was asked and
// did not answer.
type insistence uint8

const (
	// usual: the store can still be asked.
	usual insistence = iota
	// evenStale: also what the store would be asked to have refreshed.
	evenStale
	// evenUnconfirmed: also what lacks nothing but confirmation, flagged.
	evenUnconfirmed
)

// fromL1 answers a read from L1 if an entry is there that may be served: live
// by the rule, confirmed, not behind the request's stamp.
func (p *partition) fromL1(r *soracache.Read, least soracache.Stamps, asking insistence, res *soracache.ReadResult) bool {
	c, ok := p.node.l1.Get(l1.Key{Space: p.space, Name: r.Key})
	if !ok {
		p.touch(p.node.now())
		return false
	}
	checked := p.follower.Check(&c.proof, p.leastOf(r, least))
	now := checked.At
	p.touch(now)
	flagged := asking == evenUnconfirmed && checked.Verdict == invalidation.Unconfirmed
	if checked.Verdict != invalidation.Live && !flagged {
		return false
	}
	fresh := c.freshUntil - now
	switch {
	case now >= c.until:
		return false
	case asking != usual:
	case r.Lease && fresh <= r.RefreshWithin && int64(now) >= c.heldUntil.Load():
		return false // the store decides who refreshes it
	case fresh <= 0 && now >= c.staleUntil:
		return false // somebody may have refreshed it
	}
	res.Status = soracache.StatusHit
	if fresh <= 0 || flagged {
		res.Status = soracache.StatusStale
	}
	if c.refusal != soracache.RefusalNone && asking == usual && r.Lease && fresh <= r.RefreshWithin {
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

// held says that somebody else holds a key's lease: for how long at most, and
// which ends of leases the node had heard of before it asked. The zero value says
// that a read is decided.
type held struct {
	left time.Duration
	ends uint64 // see partition.ends
}

// readStore reads one key with the next flight.
func (p *partition) readStore(ctx context.Context, r *soracache.Read, req *soracache.GetRequest) (soracache.ReadResult, held) {
	if err := p.down(); err != nil {
		return p.failedRead(r, req, err), held{}
	}
	res, h := p.collect(ctx, p.join(r), r, req)
	for res.Err == errLeftOut && ctx.Err() == nil { //nolint:errorlint // it is ours
		res, h = p.collect(ctx, p.joinFirst(r), r, req)
	}
	if res.Err == errLeftOut { //nolint:errorlint // it is ours
		res.Err = ctx.Err()
	}
	return res, h
}

// wait parks until the read is decided, or its time to wait is over.
func (p *partition) wait(ctx context.Context, r *soracache.Read, req *soracache.GetRequest, res soracache.ReadResult, h held) soracache.ReadResult {
	if h.left <= 0 || r.Wait <= 0 {
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
	for turns := 0; h.left > 0; {
		left := r.Wait - (p.node.now() - began)
		if left <= 0 {
			p.node.totals.waitTimeouts.Add(1)
			return res
		}
		parked := p.park(ctx, r.Key, h, turns, left)
		turns = parked.turns
		switch {
		case parked.gone:
			return soracache.ReadResult{Err: ctx.Err()}
		case parked.draining:
			return res
		}
		// Whoever loses twice to invalidations is to load for itself and keep
		// nothing, rather than wait for luck.
		if lost += parked.lost; lost >= maxLost {
			again.Lease = false
		}
		var hit soracache.ReadResult
		if p.fromL1(&again, req.MinStamp, usual, &hit) {
			p.scouted(ctx, r.Key, parked.lot, &hit, held{})
			if !roomFor(ctx, hit.Entry) {
				hit = soracache.ReadResult{Err: errNoRoom}
			}
			return hit
		}
		res, h = p.readStore(ctx, &again, req)
		p.scouted(ctx, r.Key, parked.lot, &res, h)
	}
	if lost >= maxLost && res.Err == nil && res.Status == soracache.StatusMiss {
		res.LeaseState, res.Refusal = soracache.LeaseRefused, soracache.RefusalOvertaken
	}
	return res
}

// maxLost is how many rounds a waiter loses to invalidations before it gets a
// miss without a lease.
const maxLost = 2

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

// joinMissed joins the flights of the reads that have no answer yet, all of a
// partition together, so that each is asked once.
func (ns *namespace) joinMissed(req *soracache.GetRequest, results []soracache.ReadResult) []*flight {
	joined := make([]*flight, len(results))
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
		p.joinAll(func(join func(*soracache.Read) *flight) {
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
	ctx context.Context, req *soracache.GetRequest, results []soracache.ReadResult, joined []*flight,
) (_ []soracache.ReadResult, holds []held, leased bool) {
	holds = make([]held, len(results))
	for i, f := range joined {
		if f == nil {
			continue
		}
		p, r := ns.of(req.Reads[i].Key), &req.Reads[i]
		results[i], holds[i] = p.collect(ctx, f, r, req)
		if results[i].Err == errLeftOut && (i == 0 || !room.Limited(ctx)) { //nolint:errorlint // it is ours
			results[i], holds[i] = p.readStore(ctx, r, req)
		}
		if unread(results[i].Err) {
			for j, f := range joined[i+1:] {
				if f != nil {
					ns.of(req.Reads[i+1+j].Key).leave(f, &req.Reads[i+1+j])
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
	ctx context.Context, ns *namespace, req *soracache.GetRequest, results []soracache.ReadResult, holds []held, began time.Duration,
) []soracache.ReadResult {
	waited := false
	for i := range holds {
		if holds[i].left <= 0 || req.Reads[i].Wait <= 0 {
			continue
		}
		r := req.Reads[i]
		r.Wait -= n.now() - began
		if waited {
			// It may have been decided while another key was waited for.
			p := ns.of(r.Key)
			if results[i] = (soracache.ReadResult{}); p.fromL1(&r, req.MinStamp, usual, &results[i]) {
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
			p.handBack([]l2.WriteRequest{p.releaseOf(req.Reads[at+i].Key, lease)})
		}
	}
	return results[:at]
}

// local builds the local form of what a store's answer brought. It may be kept
// in L1 if the follower will see every record that could kill it.
func (p *partition) local(q invalidation.Question, d soracache.Delta, key string, k *l2.KeyAnswer) (c *local, keep bool) {
	asked := q.Sent()
	c = &local{
		entry: k.Entry, stamp: k.Stamp,
		// Counted from when the question was sent, so never too long.
		freshUntil: asked + k.FreshFor,
		keepUntil:  asked + k.KeepFor,
	}
	c.until = c.keepUntil
	if k.L1 > 0 && k.L1 < k.KeepFor {
		c.until = asked + k.L1
	}
	c.staleUntil = p.node.now() + refreshPatience
	switch k.Lease {
	case soracache.LeaseRefused:
		c.refusal = k.Refusal
		c.heldUntil.Store(int64(p.node.now() + refreshPatience))
	case soracache.LeaseHeld:
		c.heldUntil.Store(int64(p.node.now() + min(k.LeaseFor, refreshPatience)))
	}
	c.proof, keep = p.follower.Prove(q, d, soracache.KeyOf(key), k.Entry.Tags)
	c.bytes = c.footprint(key)
	return c, keep
}

// filling is a fill that was sent and not answered yet.
type filling struct {
	// overtaken means that another fill of the key was answered, or a read of it,
	// while this one was under way. An answer that comes late may be of a fill
	// that others have followed: nobody here knows which is the newer, so neither
	// is kept.
	overtaken bool
}

// fillSent notes that a fill is about to be sent.
func (p *partition) fillSent(key string) *filling {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := &filling{}
	p.fillings[key] = append(p.fillings[key], f)
	return f
}

// fillAnswered ends a fill, whatever became of it.
func (p *partition) fillAnswered(key string, f *filling) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endFill(key, f)
}

// endFill holds mu.
func (p *partition) endFill(key string, f *filling) {
	rest := slices.DeleteFunc(p.fillings[key], func(other *filling) bool { return other == f })
	if p.fillings[key] = rest; len(rest) == 0 {
		delete(p.fillings, key)
	}
}

// filled puts what a fill stored into L1, in place of whatever a read or another
// fill that is still under way is about to put there.
func (p *partition) filled(key string, f *filling, c *local, keep bool) {
	p.keeping.Lock()
	defer p.keeping.Unlock()
	at := l1.Key{Space: p.space, Name: key}
	p.mu.Lock()
	overtaken := f.overtaken
	p.endFill(key, f)
	p.overtake(key)
	p.mu.Unlock()
	switch {
	case overtaken:
		p.node.l1.Remove(at)
	case keep:
		p.node.l1.Put(at, c)
	}
}

// refreshPatience is how long a node believes that a stale entry is the newest,
// or that somebody else is refreshing one, before it asks the store again.
const refreshPatience = 250 * time.Millisecond

// written takes in the answer to a write. Of a fill, f was noted when it was
// sent.
func (p *partition) written(w *soracache.Write, q invalidation.Question, a *l2.WriteAnswer, f *filling) soracache.WriteResult {
	if f != nil {
		defer p.fillAnswered(w.Key, f)
	}
	if a.Err != nil {
		if errors.Is(a.Err, soracache.ErrStoreFull) {
			p.node.refusedForRoom()
			if w.Op == soracache.OpFill {
				p.freed(w.Key, wokenPassed)
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
			c, keep := p.local(q, a.Delta, w.Key, &l2.KeyAnswer{
				Entry: w.Entry, Stamp: a.Stamp, FreshFor: w.Lifetime.TTL, KeepFor: w.Lifetime.Keep, L1: w.Lifetime.L1,
			})
			p.filled(w.Key, f, c, keep)
			p.freed(w.Key, wokenRead)
		case soracache.ReasonSuperseded:
			t.fillsSuperseded.Add(1)
			p.freed(w.Key, wokenLost)
		case soracache.ReasonLeaseLost:
			// Whatever ended the lease has woken those who lost by it.
			t.fillsLeaseLost.Add(1)
			p.wake(w.Key, wokenRead)
		}
	case soracache.OpPut:
		// It is not kept in L1: its own record, once marked, cannot be told
		// from a later one in the same slot.
		t.puts.Add(1)
		p.publish(a.Record, false)
		p.freed(w.Key, wokenRead)
		p.wakeOthers(w.Key)
	case soracache.OpRenew:
		t.renewals.Add(1)
		if res.Stored {
			res.LeaseFor = w.LeaseFor
		}
	case soracache.OpRelease:
		t.releases.Add(1)
		if w.Outcome == soracache.LoadHandedBack {
			p.freed(w.Key, wokenRead)
		} else {
			p.freed(w.Key, wokenPassed)
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
			p.wakeKey(t.Name, wokenLost)
		case soracache.TargetTag:
			p.node.chores.add(chore{at: p.id, tag: t.Name})
		case soracache.TargetAll:
			p.wakeAll(wokenLost)
			p.node.chores.add(chore{at: p.id})
		}
	}
}

// learn takes in the answer to what may have appended a record of this node's
// own. The answer's delta holds the record, so it need only be applied itself
// where the delta was cut off or could not be taken in.
func (p *partition) learn(q invalidation.Question, d soracache.Delta, own soracache.Record) {
	o := p.answer(q, d, own.Position)
	if own.Position == 0 {
		return
	}
	if !o.Confirmed {
		o = p.follower.Record(own)
		if !o.Marked {
			// It is in an epoch that this node has not entered, and whose answer
			// came too late to lead there; or in one that it has left, to which the
			// store may have gone back. Until the ledger was asked anew, nothing is
			// served here.
			p.follower.Void()
		}
		p.act(o)
	}
	p.node.observe(p, own, FromSelf)
}

// answer takes in the delta of an answer, which may hold a record of this
// node's own at a position.
func (p *partition) answer(q invalidation.Question, d soracache.Delta, own soracache.Position) invalidation.Outcome {
	o := p.takeIn(q, d, own)
	p.act(o)
	return o
}

func (p *partition) takeIn(q invalidation.Question, d soracache.Delta, own soracache.Position) invalidation.Outcome {
	o := p.follower.Answer(q, d)
	if o.Reset {
		p.heard.Store(uint64(d.Head))
	}
	p.hear(d.Head)
	for _, r := range o.New {
		if r.Position != own {
			p.node.totals.recordsRepaired.Add(1)
			p.node.observe(p, r, FromLedger)
		}
	}
	return o
}

// hear notes the highest position heard of.
func (p *partition) hear(at soracache.Position) {
	for {
		old := p.heard.Load()
		if old >= uint64(at) || p.heard.CompareAndSwap(old, uint64(at)) {
			return
		}
	}
}

// act acts on what the follower made of an answer or a record.
func (p *partition) act(o invalidation.Outcome) {
	if o.Reset {
		p.node.totals.resets.Add(1)
	}
	if o.Confirmed {
		p.node.totals.confirmations.Add(1)
	}
	if o.Entered {
		p.node.cfg.Logger.Warn("new epoch: everything older is dead", "partition", p.id.String(), "epoch", p.follower.State().Epoch)
		p.node.chores.add(chore{at: p.id})
	}
	if o.Pull {
		p.pull(invalidation.Notice{})
	}
}

// pull has the ledger asked for what is missing, after which the notice, if it
// asks for that, is acknowledged. A pull that is under way asks once more, since
// its question may have been sent before what is missing was appended.
func (p *partition) pull(notice invalidation.Notice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if notice.Acknowledge && len(p.owed) < maxOwed {
		p.owed = append(p.owed, notice)
	}
	if p.again = p.pulling; p.again {
		return
	}
	p.pulling = true
	p.background(p.pullAll)
}

// maxOwed bounds the acknowledgements that wait for a pull. Whoever wants one
// asks again.
const maxOwed = 1024

func (p *partition) pullAll() {
	for {
		p.mu.Lock()
		owed := p.owed
		p.owed, p.again = nil, false
		p.mu.Unlock()
		caughtUp := p.catchUp()
		for _, notice := range owed {
			r := notice.Record
			if caughtUp && p.follower.Reflects(soracache.Stamp{Epoch: r.Epoch, Position: r.Position}) {
				p.node.acknowledge(notice)
			}
		}
		p.mu.Lock()
		if p.pulling = p.again && caughtUp; !p.pulling {
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// catchUp asks until nothing is missing. It is false if the ledger could not be
// asked; the next confirmation asks again.
func (p *partition) catchUp() bool {
	for p.node.ctx.Err() == nil {
		p.node.totals.pulls.Add(1)
		q := p.follower.Ask()
		answers := callStore(p.node.ctx, p.node, "since", func(ctx context.Context) ([]l2.SinceAnswer, error) {
			as := p.node.cfg.Store.Since(ctx, []l2.SinceRequest{{Partition: p.id, Since: q.Since, Register: p.node.registration}})
			return as, as[0].Err
		})
		if answers[0].Err != nil {
			return false
		}
		o := p.takeIn(q, answers[0].Delta, 0)
		again := o.Pull
		o.Pull = false
		p.act(o)
		if !again {
			return true
		}
	}
	return false
}
