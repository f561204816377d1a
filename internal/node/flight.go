package node

import (
	"context"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l1"
	"github.com/soracache/soracache/l2"
)

// A flight is one key's read of the store, shared by every reader that came
// before it was sent. For each key at most two exist: one that was sent and one
// that collects readers, so that a reader never gets an answer that was asked
// for before it came:
//
//  1. reader A joins; the flight is sent
//  2. an invalidation completes
//  3. reader B comes: it may not join A's flight, whose answer may be older
//     than 2. It joins the collecting one, which is sent when A's has landed.
//
// Flights of a partition travel together, in at most maxFlying trips at once:
// whoever comes while they are under way goes with the next.
type flight struct {
	key string

	// Guarded by the partition's mu.
	// nonce is what to ask a lease with; zero: nobody wants one. It is the lease of
	// whoever wanted one first, for an outcome must not be put down to others: who
	// is of another holder is told that it is held, and reads again. If those who
	// may have it left before it was sent, it is nobody's in particular.
	nonce         soracache.Lease
	leaseFor      time.Duration // the longest that anybody asked for
	refreshWithin time.Duration // the widest that anybody asked for
	joiners       int           // readers that have neither collected nor left
	wanting       int           // those of them that want a lease
	entitled      int           // those of them that may have this one
	taken         bool          // the lease was collected, or handed back
	trip          *trip         // nil until sent
	since         time.Duration // when the first reader joined, on the node's clock
	// overtaken means that the key was filled while the flight was under way:
	// what it brings may be older, and is not to be kept.
	overtaken bool

	// Set before done is closed, immutable after.
	done   chan struct{}
	delta  soracache.Delta
	clock  time.Time // the store's
	answer l2.KeyAnswer
	entry  *local // if answer.Found
	err    error
	bytes  int // of the trip's hold, until the last reader has left; guarded by the partition's mu
}

// trip is one read of the store with the flights that it carries.
type trip struct {
	flights []*flight
	waiting int             // flights that somebody still waits for; guarded by the partition's mu
	ctx     context.Context //nolint:containedctx // of this one call
	cancel  context.CancelFunc
	load    *load
	ends    uint64 // what the partition's ends were before it left
}

type flights struct {
	collecting map[string]*flight
	queue      []*flight // those of collecting, in order of arrival
	sent       map[string]*flight
	flying     int // trips, but for the heavy ones
	heavy      int // trips that bring something large
	// unburdened is closed when a heavy trip has ended; nil if nobody waits.
	unburdened chan struct{}
}

const (
	maxFlying = 2
	// So many more may bring what is large: those who ask for little go at once.
	maxHeavy = 2
	// A trip takes as many keys as a batch may have, in requests that hold the
	// store for no longer than keysAtOnce take.
	flightsInTrip = 1024
	keysAtOnce    = 256
)

func newFlights() flights {
	return flights{collecting: map[string]*flight{}, sent: map[string]*flight{}}
}

// join joins the collecting flight of a key.
func (p *partition) join(r *soracache.Read) (f *flight) {
	p.joinAll(func(join func(*soracache.Read) *flight) { f = join(r) })
	return f
}

// joinFirst joins a flight that goes before all others: the key was left out of
// the trip before.
func (p *partition) joinFirst(r *soracache.Read) (f *flight) {
	p.joinAll(func(join func(*soracache.Read) *flight) {
		f = join(r)
		q := p.flights.queue
		at := slices.Index(q, f)
		copy(q[1:at+1], q[:at])
		q[0] = f
	})
	return f
}

// joinAll lets any number of reads join before anything is sent.
func (p *partition) joinAll(joining func(join func(*soracache.Read) *flight)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	joining(p.joinLocked)
	p.depart()
}

func (p *partition) joinLocked(r *soracache.Read) *flight {
	f := p.flights.collecting[r.Key]
	if f == nil {
		f = &flight{key: r.Key, since: p.node.now(), done: make(chan struct{})}
		p.flights.collecting[r.Key] = f
		p.flights.queue = append(p.flights.queue, f)
	} else {
		p.node.totals.flightJoins.Add(1)
	}
	f.joiners++
	if r.Lease {
		if f.wanting++; f.wanting == 1 {
			f.nonce = p.node.newLease(r.Holder)
		}
		if f.entitles(r) {
			f.entitled++
		}
		f.leaseFor = max(f.leaseFor, leaseFor(r.LeaseFor))
		f.refreshWithin = max(f.refreshWithin, r.RefreshWithin)
	}
	return f
}

// entitles tells whether the flight's lease may be a reader's.
func (f *flight) entitles(r *soracache.Read) bool {
	holder := f.nonce.Holder()
	return r.Lease && (holder == 0 || holder == r.Holder)
}

// leaseFor is how long a lease is to last that was asked for like this.
func leaseFor(asked time.Duration) time.Duration {
	if asked <= 0 {
		return soracache.DefaultLease
	}
	return min(asked, soracache.MaxLease)
}

// depart sends what has collected, as far as trips are free. It holds mu.
func (p *partition) depart() {
	if err := p.down(); err != nil {
		p.ground(err)
		return
	}
	for p.flights.flying < maxFlying {
		fs := p.flights.board()
		if len(fs) == 0 {
			return
		}
		p.flights.flying++
		ctx, cancel := context.WithCancel(p.node.ctx)
		t := &trip{flights: fs, waiting: len(fs), ctx: ctx, cancel: cancel, load: p.newLoad(), ends: p.ends}
		keys := make([]l2.ReadKey, len(fs))
		for i, f := range fs {
			f.trip = t
			switch {
			case f.wanting == 0:
				f.nonce = soracache.Lease{} // who wanted it has left
			case f.entitled == 0:
				f.nonce, f.entitled = f.nonce.HeldBy(0), f.wanting
			}
			keys[i] = l2.ReadKey{Key: f.key, Nonce: f.nonce, LeaseFor: f.leaseFor, RefreshWithin: f.refreshWithin}
		}
		p.background(func() { p.fly(t, keys) })
	}
}

// ground fails what has collected: the store is known not to answer. It holds mu.
func (p *partition) ground(err error) {
	for _, f := range p.flights.queue {
		f.err = err
		close(f.done)
	}
	clear(p.flights.collecting)
	clear(p.flights.queue)
	p.flights.queue = p.flights.queue[:0]
}

// board takes the flights of the next trip out of the queue: those whose key is
// not under way already.
func (fl *flights) board() []*flight {
	var aboard []*flight
	rest := fl.queue[:0]
	for _, f := range fl.queue {
		_, underway := fl.sent[f.key]
		switch {
		case f.joiners == 0: // all have left
			delete(fl.collecting, f.key)
		case underway || len(aboard) == flightsInTrip:
			rest = append(rest, f)
		default:
			delete(fl.collecting, f.key)
			fl.sent[f.key] = f
			aboard = append(aboard, f)
		}
	}
	clear(fl.queue[len(rest):])
	fl.queue = rest
	return aboard
}

// fly reads the store and lands.
func (p *partition) fly(t *trip, keys []l2.ReadKey) {
	defer t.cancel()
	q := p.follower.Ask()
	p.node.totals.flights.Add(1)
	p.node.totals.flightKeys.Add(uint64(len(keys)))
	var reqs []l2.ReadRequest
	inline := 0
	for chunk := range slices.Chunk(keys, keysAtOnce) {
		reqs = append(reqs, l2.ReadRequest{Partition: p.id, Since: q.Since, Register: p.node.registration, Keys: chunk, Room: t.load.room})
		inline += min(len(chunk)*l2.InlineBytes, l2.InlineMost)
	}
	if err := t.load.begin(t.ctx, inline); err != nil {
		p.turnAway(t, err)
		return
	}
	answers := callStore(t.ctx, p.node, "read", func(ctx context.Context) ([]l2.ReadAnswer, error) {
		as := p.node.cfg.Store.Read(ctx, reqs)
		return as, firstError(as, func(a *l2.ReadAnswer) error { return a.Err })
	})
	flights := t.flights
	defer t.load.end()
	for i := range answers {
		p.land(t, flights[:len(reqs[i].Keys)], q, &answers[i])
		flights = flights[len(reqs[i].Keys):]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := answers[0].Err; err != nil && t.ctx.Err() == nil {
		p.giveUp(err)
	}
	p.landed(t)
}

// landed ends a trip. It holds mu.
func (p *partition) landed(t *trip) {
	if t.load.heavy {
		p.flights.heavy--
		if p.flights.unburdened != nil {
			close(p.flights.unburdened)
			p.flights.unburdened = nil
		}
	} else {
		p.flights.flying--
	}
	p.depart()
}

// burden makes a trip a heavy one, unless there are enough of them. It returns
// what is closed when there may be fewer.
func (p *partition) burden() (fewer <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flights.heavy >= maxHeavy {
		if p.flights.unburdened == nil {
			p.flights.unburdened = make(chan struct{})
		}
		return p.flights.unburdened
	}
	p.flights.heavy++
	p.flights.flying--
	p.depart()
	return nil
}

// giveUp fails the flights that have waited behind one that failed for as long as a
// call may take: their readers are not to wait for another. It holds mu.
func (p *partition) giveUp(err error) {
	fl, now := &p.flights, p.node.now()
	fl.queue = slices.DeleteFunc(fl.queue, func(f *flight) bool {
		if now-f.since < p.node.cfg.StoreTimeout {
			return false
		}
		delete(fl.collecting, f.key)
		f.err = err
		close(f.done)
		return true
	})
}

// land takes in one answer, keeps what it brought, and wakes the readers.
func (p *partition) land(t *trip, fs []*flight, q invalidation.Question, a *l2.ReadAnswer) {
	if a.Err == nil {
		p.answer(q, a.Delta, 0)
	}
	var kept []l1.Item[*local]
	var lost []l2.WriteRequest
	for i, f := range fs {
		f.delta, f.clock, f.err = a.Delta, a.Clock, a.Err
		if a.Err != nil {
			if f.nonce != (soracache.Lease{}) { // it may have been given all the same
				lost = append(lost, p.releaseOf(f.key, f.nonce))
			}
			continue
		}
		f.answer = a.Keys[i]
		p.node.roomFor(f.answer.Lease, f.answer.Refusal, q.Sent())
		if f.answer.Cut {
			f.err = errLeftOut
			if f.nonce != (soracache.Lease{}) {
				lost = append(lost, p.releaseOf(f.key, f.nonce))
			}
		}
		if f.answer.Found {
			f.bytes = t.load.keep(len(f.answer.Entry.Value) + l2.SmallBytes)
			var keep bool
			if f.entry, keep = p.local(q, a.Delta, f.key, &f.answer); keep {
				kept = append(kept, l1.Item[*local]{Key: l1.Key{Space: p.space, Name: f.key}, Value: f.entry})
			}
		}
	}
	if len(kept) > 0 {
		p.mu.Lock()
		for _, f := range fs {
			p.overtakeFills(f.key) // before L1 has it: see filled
		}
		p.mu.Unlock()
	}
	p.node.l1.PutMany(kept)
	p.handBack(lost)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range fs {
		if f.overtaken {
			p.node.l1.Remove(l1.Key{Space: p.space, Name: f.key})
		}
		delete(p.flights.sent, f.key)
		close(f.done)
		p.dropLease(f)
	}
}

// overtake notes that a key has been filled: the read of it that is under way,
// if there is one, may bring what was there before, and so may the answer to
// another fill. It holds mu.
func (p *partition) overtake(key string) {
	if f := p.flights.sent[key]; f != nil {
		f.overtaken = true
	}
	p.overtakeFills(key)
}

// overtakeFills notes that the store has told what is under a key, while fills
// of it are under way. It holds mu.
func (p *partition) overtakeFills(key string) {
	for _, f := range p.fillings[key] {
		f.overtaken = true
	}
}

// collect waits for a flight and turns its answer into the reader's. If the
// read is undecided because somebody else holds the lease, it also returns for
// how long that may last.
func (p *partition) collect(ctx context.Context, f *flight, r *soracache.Read, req *soracache.GetRequest) (soracache.ReadResult, held) {
	select {
	case <-f.done:
	case <-ctx.Done():
		p.leave(f, r)
		return soracache.ReadResult{Err: ctx.Err()}, held{}
	}
	if f.err == errLeftOut { //nolint:errorlint // it is ours
		p.leave(f, r)
		return p.leftOut(ctx, f, r, req), held{}
	}
	if f.err != nil {
		p.leave(f, r)
		return p.failedRead(r, req, f.err), held{}
	}
	res := soracache.ReadResult{
		Status: soracache.StatusMiss,
		Stamp:  p.stamps(soracache.Stamp{Epoch: f.delta.Epoch, Position: f.delta.Head}),
	}
	want := p.leastOf(r, req.MinStamp)
	if want.Epoch == f.delta.Epoch && want.Position > f.delta.Head && want.Position <= f.utmost() {
		// The store is behind what the caller knows: nothing it says counts.
		p.leave(f, r)
		if r.Lease {
			res.LeaseState, res.Refusal = soracache.LeaseRefused, soracache.RefusalBehind
		}
		return res, held{}
	}
	if f.entry != nil {
		if !roomFor(ctx, f.entry.entry) {
			p.leave(f, r)
			return soracache.ReadResult{Err: errNoRoom}, held{}
		}
		p.fillIn(&res, f.entry)
	}
	p.claim(f, r, &res)
	if f.entry == nil && res.LeaseState == soracache.LeaseHeld {
		return res, held{left: res.LeaseFor, ends: f.trip.ends}
	}
	return res, held{}
}

// utmost is the highest position that anybody can have seen of the ledger. A
// stamp beyond it was made up, and asks for nothing.
func (f *flight) utmost() soracache.Position {
	clock := soracache.Position(max(f.clock.UnixMicro(), 0))
	return max(f.delta.Head, clock) + soracache.Position(soracache.MaxAhead/time.Microsecond)
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

// claim tells a reader what became of its wish for a lease, and counts it out.
// The lease that a flight was given goes to the first reader that it entitles. For
// the others it is held from then on, or, if an earlier load left nothing, to be
// passed.
func (p *partition) claim(f *flight, r *soracache.Read, res *soracache.ReadResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Lease && (f.entry == nil || f.answer.FreshFor <= r.RefreshWithin || f.answer.FreshFor <= 0) {
		res.LeaseState, res.Refusal = f.answer.Lease, f.answer.Refusal
		switch {
		case res.LeaseState == soracache.LeaseGranted && !f.taken && f.entitles(r):
			f.taken = true
			res.Refusal = soracache.RefusalNone
			res.Lease, res.LeaseFor = f.nonce, f.answer.LeaseFor
			res.Stamp = p.stamps(f.answer.LeaseStamp)
		case res.LeaseState == soracache.LeaseGranted && res.Refusal == soracache.RefusalPassed && f.entry == nil:
			res.LeaseState = soracache.LeaseRefused
		case res.LeaseState == soracache.LeaseGranted || res.LeaseState == soracache.LeaseHeld:
			res.LeaseState = soracache.LeaseHeld
			res.LeaseFor = max(f.answer.LeaseFor, time.Millisecond)
		}
	}
	p.countOut(f, r)
}

// leave counts a reader out that will not use its flight's answer. A trip that
// nobody waits for any more is cancelled.
func (p *partition) leave(f *flight, r *soracache.Read) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.countOut(f, r)
	if f.joiners > 0 || f.trip == nil {
		return
	}
	if f.trip.waiting--; f.trip.waiting == 0 {
		f.trip.cancel()
	}
}

// countOut holds mu.
func (p *partition) countOut(f *flight, r *soracache.Read) {
	f.joiners--
	if r.Lease {
		f.wanting--
	}
	if f.entitles(r) {
		f.entitled--
	}
	p.dropLease(f)
}

// dropLease hands back a granted lease that nobody is left to collect. It
// holds mu.
func (p *partition) dropLease(f *flight) {
	select {
	case <-f.done:
	default:
		return
	}
	if f.joiners == 0 && f.bytes > 0 {
		f.trip.load.giveBack(f.bytes)
		f.bytes = 0
	}
	if f.err == nil && f.entitled == 0 && !f.taken && f.answer.Lease == soracache.LeaseGranted {
		f.taken = true
		p.handBack([]l2.WriteRequest{p.releaseOf(f.key, f.nonce)})
	}
}

func (p *partition) releaseOf(key string, lease soracache.Lease) l2.WriteRequest {
	return l2.WriteRequest{Partition: p.id, Op: soracache.OpRelease, Key: key, Nonce: lease}
}

// handBack releases leases in the background. It outlives the node's context,
// not the node.
func (p *partition) handBack(reqs []l2.WriteRequest) {
	if len(reqs) == 0 {
		return
	}
	p.background(func() {
		q := p.follower.Ask()
		for i := range reqs {
			reqs[i].Since, reqs[i].Register = q.Since, p.node.registration
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

// failedRead answers a read that the store could not: from L1 if that has what
// is live and confirmed, though the store would have been asked to have it
// refreshed, or what the request accepts without confirmation.
func (p *partition) failedRead(r *soracache.Read, req *soracache.GetRequest, err error) soracache.ReadResult {
	asking := evenStale
	if req.AcceptUnconfirmed {
		asking = evenUnconfirmed
	}
	var res soracache.ReadResult
	if p.fromL1(r, req.MinStamp, asking, &res) {
		return res
	}
	return soracache.ReadResult{Err: err}
}
