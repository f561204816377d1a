package node

import (
	"context"
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
// Flights of a partition travel together, in at most maxFlying reads at once:
// whoever comes while they are under way goes with the next.
type flight struct {
	key string

	// Guarded by the partition's mu.
	nonce         soracache.Lease // what to ask a lease with; zero: nobody wants one
	leaseFor      time.Duration   // the longest that anybody asked for
	refreshWithin time.Duration   // the widest that anybody asked for
	joiners       int             // readers that have neither collected nor left
	wanting       int             // those of them that want a lease
	taken         bool            // the lease was collected, or handed back
	trip          *trip           // nil until sent

	// Set before done is closed, immutable after.
	done   chan struct{}
	delta  soracache.Delta
	answer l2.KeyAnswer
	entry  *local // if answer.Found
	err    error
}

// trip is one read of the store with the flights that it carries.
type trip struct {
	flights []*flight
	waiting int             // flights that somebody still waits for; guarded by the partition's mu
	ctx     context.Context //nolint:containedctx // of this one call
	cancel  context.CancelFunc
}

type flights struct {
	collecting map[string]*flight
	queue      []*flight // those of collecting, in order of arrival
	sent       map[string]struct{}
	flying     int
}

const (
	maxFlying     = 2
	flightsInTrip = 256
)

func newFlights() flights {
	return flights{collecting: map[string]*flight{}, sent: map[string]struct{}{}}
}

// join joins the collecting flight of a key.
func (p *partition) join(r *soracache.Read) (f *flight) {
	p.joinAll(func(join func(*soracache.Read) *flight) { f = join(r) })
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
		f = &flight{key: r.Key, done: make(chan struct{})}
		p.flights.collecting[r.Key] = f
		p.flights.queue = append(p.flights.queue, f)
	} else {
		p.node.totals.flightJoins.Add(1)
	}
	f.joiners++
	if r.Lease {
		f.wanting++
		if f.nonce == (soracache.Lease{}) {
			f.nonce = p.node.newLease()
		}
		f.leaseFor = max(f.leaseFor, leaseFor(r))
		f.refreshWithin = max(f.refreshWithin, r.RefreshWithin)
	}
	return f
}

func leaseFor(r *soracache.Read) time.Duration {
	if r.LeaseFor == 0 {
		return soracache.DefaultLease
	}
	return r.LeaseFor
}

// depart sends what has collected, as far as trips are free. It holds mu.
func (p *partition) depart() {
	for p.flights.flying < maxFlying {
		fs := p.flights.board()
		if len(fs) == 0 {
			return
		}
		p.flights.flying++
		ctx, cancel := context.WithCancel(p.node.ctx)
		t := &trip{flights: fs, waiting: len(fs), ctx: ctx, cancel: cancel}
		keys := make([]l2.ReadKey, len(fs))
		for i, f := range fs {
			f.trip = t
			keys[i] = l2.ReadKey{Key: f.key, Nonce: f.nonce, LeaseFor: f.leaseFor, RefreshWithin: f.refreshWithin}
		}
		p.node.wg.Go(func() { p.fly(t, keys) })
	}
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
			fl.sent[f.key] = struct{}{}
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
	answers := callStore(t.ctx, p.node, "read", func(ctx context.Context) ([]l2.ReadAnswer, error) {
		as := p.node.cfg.Store.Read(ctx, []l2.ReadRequest{{Partition: p.id, Since: q.Since, Keys: keys}})
		return as, as[0].Err
	})
	p.land(t, q, &answers[0])
}

// land takes in the answer, keeps what it brought, and wakes the readers.
func (p *partition) land(t *trip, q invalidation.Question, a *l2.ReadAnswer) {
	if a.Err == nil {
		p.answered()
		p.act(p.follower.Answer(q, a.Delta))
	} else if t.ctx.Err() == nil {
		p.failed(a.Err)
	}
	var kept []l1.Item[*local]
	for i, f := range t.flights {
		f.delta, f.err = a.Delta, a.Err
		if a.Err != nil {
			if f.nonce != (soracache.Lease{}) && t.ctx.Err() != nil && p.node.ctx.Err() == nil {
				p.handBack(f.key, f.nonce) // the cancelled read may have been given it
			}
			continue
		}
		f.answer = a.Keys[i]
		if f.answer.Found {
			var keep bool
			if f.entry, keep = p.local(q, a.Delta, f.key, &f.answer); keep {
				kept = append(kept, l1.Item[*local]{Key: l1.Key{Space: p.space, Name: f.key}, Value: f.entry})
			}
		}
	}
	p.node.l1.PutMany(kept)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flights.flying--
	for _, f := range t.flights {
		delete(p.flights.sent, f.key)
		close(f.done)
		p.dropLease(f)
	}
	p.depart()
}

// collect waits for a flight and turns its answer into the reader's. If the
// read is undecided because somebody else holds the lease, it also returns for
// how long that may last.
func (p *partition) collect(ctx context.Context, f *flight, r *soracache.Read, req *soracache.GetRequest) (soracache.ReadResult, time.Duration) {
	select {
	case <-f.done:
	case <-ctx.Done():
		p.leave(f, r)
		return soracache.ReadResult{Err: ctx.Err()}, 0
	}
	if f.err != nil {
		p.leave(f, r)
		return p.failedRead(r, req, f.err), 0
	}
	res := soracache.ReadResult{
		Status: soracache.StatusMiss,
		Stamp:  p.stamps(soracache.Stamp{Epoch: f.delta.Epoch, Position: f.delta.Head}),
	}
	want, _ := req.MinStamp.At(p.id.Index)
	if want.Epoch == f.delta.Epoch && want.Position > f.delta.Head {
		// The store is behind what the caller knows: nothing it says counts.
		p.leave(f, r)
		return res, 0
	}
	if f.entry != nil {
		p.fillIn(&res, f.entry)
	}
	leased := p.claim(f, r, &res)
	if f.entry == nil && r.Lease && !leased {
		return res, max(f.answer.LeaseFor, time.Millisecond)
	}
	return res, 0
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

// claim takes the lease that a flight was given, for the first reader that
// wants it, and counts the reader out.
func (p *partition) claim(f *flight, r *soracache.Read, res *soracache.ReadResult) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	mine := r.Lease && f.answer.Lease == l2.LeaseGranted && !f.taken &&
		(f.entry == nil || f.answer.FreshFor <= r.RefreshWithin || f.answer.FreshFor <= 0)
	if mine {
		f.taken = true
		res.Lease, res.LeaseFor = f.nonce, f.answer.LeaseFor
		res.Stamp = p.stamps(f.answer.LeaseStamp)
	}
	p.countOut(f, r)
	return mine
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
	if f.err == nil && f.wanting == 0 && !f.taken && f.answer.Lease == l2.LeaseGranted {
		f.taken = true
		p.handBack(f.key, f.nonce)
	}
}

// handBack releases a lease in the background.
func (p *partition) handBack(key string, lease soracache.Lease) {
	p.node.wg.Go(func() {
		q := p.follower.Ask()
		w := soracache.Write{Op: soracache.OpRelease, Key: key, Lease: lease}
		answers := callStore(context.WithoutCancel(p.node.ctx), p.node, "write", func(ctx context.Context) ([]l2.WriteAnswer, error) {
			as := p.node.cfg.Store.Write(ctx, []l2.WriteRequest{{Partition: p.id, Since: q.Since, Op: w.Op, Key: key, Nonce: lease}})
			return as, as[0].Err
		})
		p.written(&w, q, &answers[0])
	})
}

// failedRead answers a read that the store could not. A request may accept
// what L1 has without confirmation.
func (p *partition) failedRead(r *soracache.Read, req *soracache.GetRequest, err error) soracache.ReadResult {
	var res soracache.ReadResult
	if req.AcceptUnconfirmed && p.fromL1(r, req.MinStamp, true, &res) {
		return res
	}
	return soracache.ReadResult{Err: err}
}
