package embedded

import (
	"context"
	"errors"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// Read implements [l2.Store].
//
// It judges everything in one read transaction. What it cannot do there it has
// done first and then judges anew: a ledger that is missing or must take a new
// epoch, and damaged entries, which are deleted. A lease is granted with mu
// held, and only on what the latest transaction left: between a reader's
// transaction and its grant
//
//  1. the reader finds nothing under a key, at head 10;
//  2. an invalidation of the key commits, at head 11, finding no lease to end;
//  3. the reader grants the lease, with the stamp 10
//
// must not happen.
func (s *Store) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	answers, now := s.read(ctx, reqs, nil)
	for i := range answers {
		answers[i].Clock = now
	}
	return answers
}

// read is Read; it also tells the moment that the answers are of. Callers are
// registered before anything is looked at: see followers.
func (s *Store) read(ctx context.Context, reqs []l2.ReadRequest, guests map[int]bool) ([]l2.ReadAnswer, time.Time) {
	r := reading{s: s, reqs: reqs, guests: guests}
	r.register()
	for range mostAttempts {
		if ctx.Err() != nil {
			return r.fail(unavailable(ctx.Err())), r.now
		}
		if done := r.attempt(ctx); done {
			r.noteEpochs()
			return r.answers, r.now
		}
	}
	return r.fail(unavailable(errUnsettled)), r.now
}

// mostAttempts is how often a read is judged anew because something had to be
// put right first. More than twice takes somebody who keeps damaging things.
const mostAttempts = 8

var (
	errUnsettled = errors.New("the ledger does not come to rest")
	errNoLedger  = errors.New("the ledger is to be begun anew")
)

// Since implements [l2.Store].
func (s *Store) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	reads := make([]l2.ReadRequest, len(reqs))
	var guests map[int]bool
	for i, req := range reqs {
		reads[i] = l2.ReadRequest{Partition: req.Partition, Since: req.Since, Register: req.Register}
		if req.Guest {
			reads[i].Register = l2.Registration{}
			if guests == nil {
				guests = make(map[int]bool)
			}
			guests[i] = true
		}
	}
	answers := make([]l2.SinceAnswer, len(reqs))
	found, now := s.read(ctx, reads, guests)
	for i, a := range found {
		answers[i] = l2.SinceAnswer{Delta: a.Delta, Err: a.Err}
		if a.Err == nil {
			answers[i].Clock = now
		}
	}
	return answers
}

// reading is one call of Read on its way.
type reading struct {
	s       *Store
	reqs    []l2.ReadRequest
	guests  map[int]bool // which of reqs are a guest's
	answers []l2.ReadAnswer
	db      *database      // where the answers come from,
	txid    int            // and of which transaction,
	now     time.Time      // at which moment
	repairs []func(t *txn) // what must be put right first
	wishes  []wish         // leases that are called for
}

// wish is a lease that an answer calls for.
type wish struct {
	ledger *ledger
	key    l2.ReadKey
	answer *l2.KeyAnswer
}

// attempt judges, puts right and grants, and reports whether the answers stand.
func (r *reading) attempt(ctx context.Context) (done bool) {
	if err := r.judge(); err != nil {
		r.fail(err)
		return true
	}
	if len(r.repairs) == 0 && (len(r.wishes) == 0 || r.grant()) {
		return true
	}
	if err := r.s.change(ctx, r.repairs...); err != nil {
		r.fail(err)
		return true
	}
	return false
}

func (r *reading) fail(err error) []l2.ReadAnswer {
	r.answers = make([]l2.ReadAnswer, len(r.reqs))
	for i := range r.answers {
		r.answers[i].Err = err
	}
	return r.answers
}

// judge answers everything but the leases.
func (r *reading) judge() error {
	r.answers = make([]l2.ReadAnswer, len(r.reqs))
	r.repairs, r.wishes = nil, nil
	return r.s.view(func(t *txn) {
		r.db, r.txid, r.now = r.s.db, t.tx.id, t.now
		for i, req := range r.reqs {
			r.answers[i] = r.judgeOne(t, req, r.guests[i])
		}
	})
}

func (r *reading) judgeOne(t *txn, req l2.ReadRequest, guest bool) l2.ReadAnswer {
	l, err := t.find(req.Partition)
	switch {
	case err != nil:
	case l == nil && guest:
		err = unavailable(errNoLedger)
	default:
		err = errors.Join(req.Register.Validate(), checkNames(req.Keys))
	}
	if err != nil {
		return l2.ReadAnswer{Err: err}
	}
	foreign, shown := l != nil && t.differs(l, req.Since), req.Since
	if guest {
		shown = soracache.Stamp{}
	}
	switch {
	case l == nil, foreign && !guest, t.isDue(l):
		r.repairs = append(r.repairs, func(t *txn) { t.ledger(req.Partition, shown) }) //nolint:errcheck // the next attempt meets the same error
		return l2.ReadAnswer{}
	case foreign:
		return l2.ReadAnswer{Delta: soracache.Delta{Epoch: l.epoch, Head: l.head, Reset: true}}
	}
	a := l2.ReadAnswer{Delta: t.delta(l, req.Since), Keys: make([]l2.KeyAnswer, len(req.Keys))}
	inline := l2.InlineMost
	for i, key := range req.Keys {
		toRemove := t.answer(l, key.Key, &a.Keys[i], func(bytes int) bool {
			if bytes > l2.SmallBytes {
				inline -= bytes
			}
			return req.Room == nil || bytes <= l2.SmallBytes || bytes < l2.InlineBytes && inline >= 0 || req.Room(bytes)
		})
		if toRemove {
			r.repairs = append(r.repairs, func(t *txn) { t.removeUnfit(req.Partition, key.Key) })
		}
		if wanted(key, a.Keys[i]) {
			r.wishes = append(r.wishes, wish{l, key, &a.Keys[i]})
		}
	}
	return a
}

// wanted reports whether an answer calls for a lease.
func wanted(key l2.ReadKey, a l2.KeyAnswer) bool {
	return key.Nonce != soracache.Lease{} && !a.Cut && (!a.Found || max(a.FreshFor, 0) <= key.RefreshWithin)
}

// answer tells what is live under a key, if there is room for it. It reports
// whether there is something that is no entry of that key, or one that was written
// before the clock was set back and would live when the clock comes to that time.
func (t *txn) answer(l *ledger, key string, a *l2.KeyAnswer, room func(bytes int) bool) (toRemove bool) {
	f, stored, readable := t.loadIfLive(l, key, func(bytes int) bool {
		a.Cut = !room(bytes)
		return !a.Cut
	})
	if !stored || !readable {
		return stored
	}
	if t.judge(l, f).cause == alive {
		*a = l2.KeyAnswer{Found: true, Entry: f.entry, Stamp: f.head.Stamp, L1: f.l1}
		a.FreshFor, a.KeepFor = f.head.Left(t.micros())
	}
	return f.head.Impossible(t.micros())
}

// loadIfLive loads an entry, unless its head alone says that it is dead, or
// there is no room: what it returns as not stored may be there. Of one that has
// impossible times it returns the head alone.
func (t *txn) loadIfLive(l *ledger, key string, room func(bytes int) bool) (f found, stored, readable bool) {
	if b := t.get(bEntry, entryKey(l.partition, key)); b == nil {
		return found{}, false, false
	} else if r, ok := parseRow(b); ok {
		head, err := l2.DecodeHead(r.first)
		switch {
		case err != nil:
		case head.Impossible(t.micros()):
			return found{head: head}, true, true
		case t.judgeHead(l, head).cause != alive || !room(r.size):
			return found{}, false, false
		}
	}
	return t.load(l, key)
}

// removeUnfit deletes what is stored under a key if it still is no entry of that
// key, or has impossible times.
func (t *txn) removeUnfit(at l2.Partition, key string) {
	l, err := t.find(at)
	if err != nil || l == nil {
		return
	}
	f, stored, readable := t.load(l, key)
	if stored && !readable {
		t.corrupt++
	}
	if stored && (!readable || f.head.Impossible(t.micros())) {
		t.remove(entryKey(l.partition, key))
	}
}

// grant grants or refuses the leases that the answers call for. It reports
// false if something must be put right first.
func (r *reading) grant() (done bool) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.db != s.db || r.txid != s.txid { // nothing can change while mu is held
		if err := r.judge(); err != nil {
			r.fail(err)
			return true
		}
		if len(r.repairs) > 0 {
			return false
		}
	}
	now := s.cfg.Now()
	for _, w := range r.wishes {
		if victim, ok := s.outOfPlace(w.ledger.partition, w.key.Key, now); ok {
			r.repairs = append(r.repairs, func(t *txn) { t.removeName(w.ledger.partition, victim) })
			return false
		}
		s.grant(w, now)
	}
	return true
}

// grant grants one lease, or tells for how long it is held. mu is held.
func (s *Store) grant(w wish, now time.Time) {
	k, a := leaseKey{w.ledger.partition, w.key.Key}, w.answer
	held, ok := s.leases[k]
	ok = ok && held.holds(w.ledger, now) && held.until.Sub(now) <= soracache.MaxLease // else the clock was set back
	failed, pass := s.remembered(k, now)
	if ok && pass && failed != 0 && held.nonce.Holder() == failed && w.key.Nonce.Holder() != failed {
		ok = false // taken over
	}
	if !ok && s.isFull(now) {
		a.Lease, a.Refusal = soracache.LeaseRefused, soracache.RefusalStoreFull
		return
	}
	if !ok {
		held = lease{nonce: w.key.Nonce, stamp: w.ledger.stamp(), until: now.Add(min(w.key.LeaseFor, soracache.MaxLease))}
		s.leases[k] = held
		s.noteLease(k)
	}
	// Beside a live entry nobody waits, so that there is nothing to pass: the
	// others must not all load because a refresh failed.
	pass = pass && !a.Found
	switch {
	case held.nonce == w.key.Nonce:
		a.Lease, a.LeaseStamp, a.LeaseFor = soracache.LeaseGranted, held.stamp, held.until.Sub(now)
	case pass:
		a.Lease = soracache.LeaseRefused
	default:
		a.Lease, a.LeaseFor = soracache.LeaseHeld, held.until.Sub(now)
	}
	if pass {
		a.Refusal = soracache.RefusalPassed
	}
}

// Explain implements [l2.Store].
func (s *Store) Explain(ctx context.Context, at l2.Partition, key string) (l2.Explanation, error) {
	if err := l2.CheckName(key); err != nil {
		return l2.Explanation{}, err
	}
	for range mostAttempts {
		if ctx.Err() != nil {
			break
		}
		x, missing, err := s.explain(at, key)
		if err != nil || !missing {
			return x, err
		}
		create := func(t *txn) { t.ledger(at, soracache.Stamp{}) } //nolint:errcheck // the next attempt meets the same error
		if err := s.change(ctx, create); err != nil {
			return l2.Explanation{}, err
		}
	}
	return l2.Explanation{}, unavailable(errors.Join(ctx.Err(), errUnsettled))
}

func (s *Store) explain(at l2.Partition, key string) (x l2.Explanation, missing bool, err error) {
	s.mu.Lock() // so that the lease and the entry are of one moment
	defer s.mu.Unlock()
	viewErr := s.view(func(t *txn) {
		var l *ledger
		if l, err = t.find(at); err != nil || l == nil {
			missing = err == nil
			return
		}
		if missing = t.isDue(l); missing {
			return
		}
		x = t.explain(l, key)
		if held, ok := s.leases[leaseKey{l.partition, key}]; ok && held.holds(l, t.now) {
			x.Leased, x.LeaseFor, x.LeaseStamp = true, held.until.Sub(t.now), held.stamp
		}
	})
	if viewErr != nil {
		return l2.Explanation{}, false, viewErr
	}
	return x, missing, err
}

// register registers those who ask to be.
func (r *reading) register() {
	for _, req := range r.reqs {
		if req.Register.Validate() == nil {
			r.s.followers.register(req.Partition, req.Register, r.s.cfg.Now())
		}
	}
}

// noteEpochs tells the lists of followers which epochs the answers are of.
func (r *reading) noteEpochs() {
	for i, req := range r.reqs {
		if r.answers[i].Err == nil {
			r.s.followers.inEpoch(req.Partition, req.Register, r.answers[i].Delta.Epoch, r.now)
		}
	}
}

func (t *txn) explain(l *ledger, key string) l2.Explanation {
	x := l2.Explanation{Ledger: l.stamp()}
	b := t.get(bEntry, entryKey(l.partition, key))
	if x.Stored = b != nil; !x.Stored {
		d := t.removed(l, soracache.KeyOf(key))
		x.Reason, x.KilledBy = d.String(), d.record(l)
		if d = t.unsettled(l, soracache.KeyOf(key), nil); d.cause != alive {
			x.Reason = l2.Settling(d.target)
		}
		return x
	}
	f, ok := t.peek(b)
	if ok {
		b, ok = t.beginning(f)
	}
	if ok {
		f.head = x.Read(b, f.size, key)
	}
	if !x.Readable {
		x.Reason = "not an entry of this key: damaged, foreign or of another version"
		return x
	}
	x.FreshFor, x.KeepFor = f.head.Left(t.micros())
	d := t.judge(l, f)
	x.Live, x.Reason, x.KilledBy = d.cause == alive, d.String(), d.record(l)
	return x
}
