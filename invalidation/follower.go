// Package invalidation is the rule as a reader of a ledger applies it: marks,
// which remember what was invalidated, and a follower, which knows how far one
// ledger has been followed and since when that is not confirmed any more.
//
// It is pure: it owns no goroutine, reads no clock but the one it is given, and
// sends nothing. A node and a near cache use it alike, and a simulation runs
// it unchanged. It must not know how answers travel or where entries are kept.
//
// It is part of soracache and no promise to anybody else: whatever it exports may
// change or go in any release (docs/architecture.md, "What is public").
package invalidation

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

// Config says how a [Follower] follows.
type Config struct {
	// Marks are shared by all followers of a process.
	Marks *Marks
	// Space tells the targets of this ledger from those of others in Marks.
	Space uint64
	// Bound is B: how long entries may be trusted without confirmation.
	Bound time.Duration
	// Now is a monotonic clock. It is read once for each check.
	Now func() time.Duration
	// Feed, if set, is told of every step, in order and with the follower
	// locked: it must return at once and not call the follower.
	Feed func(Step)
}

// Step is how a follower went on: whoever has been told all steps of one knows
// everything that was recorded up to Applied.
type Step struct {
	Epoch   soracache.Epoch
	Applied soracache.Position
	// New holds records that were not known before. Some may lie beyond Applied:
	// they came ahead of one that is missing still.
	New []soracache.Record
	// Reset means that what lies before Applied is not known.
	Reset bool
}

// Follower follows one ledger. Its methods are safe for concurrent use; Check
// takes no lock.
type Follower struct {
	cfg Config

	// view is replaced as a whole, under mu, and only after the marks that it
	// confirms have been stored.
	view atomic.Pointer[view]

	mu sync.Mutex
	// left holds the epochs that were left: none is ever entered again.
	left map[soracache.Epoch]struct{}
	// cursor is how far an unfinished chain of cut-off deltas has come that
	// began at applied. It equals applied when there is none.
	cursor soracache.Position
	// early holds, by its Prev, the position of each record that came ahead of
	// one that is missing still. Their targets are marked; once applied reaches
	// a Prev, it goes on to the position.
	early map[soracache.Position]soracache.Position
	// life counts withdrawals of the confirmation: what was asked before one
	// confirms nothing after it.
	life uint64
	// promised holds, for a follower of a watch, what answers confirmed that the
	// watch has not come to yet.
	promised []promise
	// made is the last record that this process made in an epoch that is not
	// entered: whatever is kept once it is must reflect that.
	made soracache.Stamp
}

// view is what a reader must see as one: see Follower.
type view struct {
	epoch soracache.Epoch
	// floor: nothing proven before it may be served. Records before it may be
	// missing from the marks.
	floor soracache.Position
	// applied is contiguous: every record after floor and up to it is in the
	// marks. It is never merely the highest position seen.
	applied soracache.Position
	// seen is the highest position of this epoch that is heard of: at least
	// applied.
	seen soracache.Position
	// wiped: nothing asked for before it may be served. This process made
	// everything dead, at a position that it may not know, or a watch has told
	// that a part of the ledger's history is lost.
	wiped Mark
	// confirmed is when the last question was sent whose answer showed that
	// nothing was missing.
	confirmed time.Duration
}

const never = time.Duration(math.MinInt64 / 2)

// NewFollower returns a follower that knows nothing yet.
func NewFollower(cfg Config) *Follower {
	f := &Follower{cfg: cfg, left: map[soracache.Epoch]struct{}{}, early: map[soracache.Position]soracache.Position{}}
	f.view.Store(&view{confirmed: never})
	return f
}

// Question is what a follower knew when something was asked of the ledger. It
// must be taken before the asking is sent.
type Question struct {
	// Since is what to show to the ledger.
	Since soracache.Stamp

	base soracache.Position // applied at that time
	seen soracache.Position // seen at that time
	sent time.Duration
	mark Mark
	life uint64
}

// Sent is when the question was taken, on the follower's clock.
func (q *Question) Sent() time.Duration { return q.sent }

// Ask begins a question.
func (f *Follower) Ask() Question {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.view.Load()
	return Question{
		Since: soracache.Stamp{Epoch: v.epoch, Position: f.cursor},
		base:  v.applied,
		seen:  v.seen,
		sent:  f.cfg.Now(),
		mark:  f.cfg.Marks.Now(),
		life:  f.life,
	}
}

// Outcome is what an answer or a record did.
type Outcome struct {
	// Pull: something is missing; ask again now.
	Pull bool
	// Reset: the floor rose to a new epoch's head or past what was missed, so
	// everything that was proven before is dead.
	Reset bool
	// Entered: the reset was a move from one epoch to another.
	Entered bool
	// Confirmed: the follower is now confirmed as of the question.
	Confirmed bool
	// Missed: a pushed record showed that others are missing, or that the
	// ledger's history is another one.
	Missed bool
	// Marked: nothing that the pushed record killed is served any more.
	Marked bool
	// New holds the records that were not known before.
	New []soracache.Record
}

// Answer takes in the delta that came back for a question. Answers may come
// late, twice, and in any order.
func (f *Follower) Answer(q Question, d soracache.Delta) Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := *f.view.Load()
	if q.life != f.life || d.Epoch == 0 {
		return Outcome{}
	}
	if d.Epoch != v.epoch {
		return f.enter(v, q, d)
	}
	if q.Since.Epoch != v.epoch {
		// Asked before this epoch was entered, answered within it: its delta
		// does not start from a position of this epoch.
		return Outcome{}
	}
	if d.Reset {
		return f.leap(v, q, d)
	}
	v.floor = max(v.floor, f.merge(d.Records))
	news := f.unknown(v.applied, d.Records)
	switch {
	case d.More:
		if q.base == v.applied && len(d.Records) > 0 {
			f.cursor = max(f.cursor, d.Records[len(d.Records)-1].Position)
		}
		f.store(&v, news)
		return Outcome{Pull: true, New: news}
	case q.base == v.applied:
		// Only from the very position it was asked from: applied may have
		// moved along another branch of history meanwhile, and moving on
		// would erase the evidence.
		f.advance(&v, max(v.applied, d.Head))
	case q.base > v.applied:
		f.store(&v, news)
		return Outcome{New: news}
	}
	v.confirmed = max(v.confirmed, q.sent)
	f.store(&v, news)
	return Outcome{Confirmed: true, New: news}
}

// store replaces the view, and tells the feed if it learns by that.
func (f *Follower) store(v *view, news []soracache.Record) {
	moved := v.applied != f.view.Load().applied
	v.seen = max(v.seen, v.applied)
	for _, r := range news {
		v.seen = max(v.seen, r.Position)
	}
	f.view.Store(v)
	if f.cfg.Feed != nil && (moved || len(news) > 0) {
		f.cfg.Feed(Step{Epoch: v.epoch, Applied: v.applied, New: news})
	}
}

// advance moves applied to a position, and on over the records that came early.
func (f *Follower) advance(v *view, to soracache.Position) {
	for next, more := to, true; more; next, more = f.early[v.applied] {
		v.applied = next
	}
	f.cursor = v.applied
	for prev := range f.early {
		if prev <= v.applied {
			delete(f.early, prev)
		}
	}
}

// unknown returns the records of a delta that were neither applied nor early.
func (f *Follower) unknown(applied soracache.Position, records []soracache.Record) (news []soracache.Record) {
	for _, r := range records {
		if r.Position > applied && !f.isEarly(r.Position) {
			news = append(news, r)
		}
	}
	return news
}

func (f *Follower) isEarly(at soracache.Position) bool {
	for _, position := range f.early {
		if position == at {
			return true
		}
	}
	return false
}

// maxEarly bounds how many records may be ahead of a missing one. What is
// beyond comes from the ledger.
const maxEarly = 1024

// enter moves to another epoch, if the question was asked in the present one.
// An answer that was asked earlier may come from an epoch that the ledger has
// left since, however late it arrives; and an epoch that was left is dead.
func (f *Follower) enter(v view, q Question, d soracache.Delta) Outcome {
	if _, dead := f.left[d.Epoch]; dead || q.Since.Epoch != v.epoch {
		return Outcome{}
	}
	if v.epoch != 0 {
		f.left[v.epoch] = struct{}{}
	}
	f.restart(d.Epoch, d.Head, q.sent)
	return Outcome{Reset: true, Confirmed: true, Entered: v.epoch != 0}
}

// leap gives up what lies between and goes on from the ledger's head.
func (f *Follower) leap(v view, q Question, d soracache.Delta) Outcome {
	if q.base != v.applied {
		return Outcome{Pull: true}
	}
	f.restart(d.Epoch, max(d.Head, v.applied), q.sent)
	return Outcome{Reset: true, Confirmed: true}
}

func (f *Follower) restart(epoch soracache.Epoch, head soracache.Position, confirmed time.Duration) {
	f.cursor, f.promised = head, nil
	clear(f.early)
	last := f.view.Load()
	next := view{epoch: epoch, floor: head, applied: head, seen: head, wiped: last.wiped, confirmed: confirmed}
	if last.epoch == epoch {
		next.floor, next.seen = max(head, last.floor), max(head, last.seen)
	} else if f.made.Epoch == epoch {
		next.seen = max(head, f.made.Position)
	}
	f.view.Store(&next)
	if f.cfg.Feed != nil {
		f.cfg.Feed(Step{Epoch: epoch, Applied: head, Reset: true})
	}
}

// Record takes in one record that was pushed: this process's own, or one that
// a peer sent. Its targets are marked whatever its place in the order. A record
// without targets, or one that cannot be, only tells that there is something to
// ask for.
func (f *Follower) Record(r soracache.Record) Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := *f.view.Load()
	if r.Epoch != v.epoch {
		_, dead := f.left[r.Epoch]
		return Outcome{Pull: !dead, Missed: !dead}
	}
	if r.Position <= r.Prev {
		return Outcome{Pull: true}
	}
	if len(r.Targets) == 0 {
		missing := r.Position > v.applied
		return Outcome{Pull: missing, Missed: missing}
	}
	v.floor = max(v.floor, f.merge([]soracache.Record{r}))
	o := Outcome{Marked: true}
	switch {
	case r.Position <= v.applied: // known, or of a history that the ledger will tell us to leave
	case r.Prev == v.applied:
		f.advance(&v, r.Position)
		o.New = []soracache.Record{r}
	default: // Prev above applied: a gap; below: a fork
		o.Pull, o.Missed = true, true
		if _, again := f.early[r.Prev]; r.Prev > v.applied && !again {
			o.New = []soracache.Record{r}
			if len(f.early) >= maxEarly {
				clear(f.early)
			}
			f.early[r.Prev] = r.Position
		}
	}
	f.store(&v, o.New)
	return o
}

// Reflects reports whether everything that the record at a position killed is
// refused, provided that the follower has asked the ledger since the record was
// appended: only the ledger can tell that the two share a history.
//
// Of an epoch that was left it is false: whoever appended to it later, to a
// primary that was cut off, did so after entries of the present one were made.
func (f *Follower) Reflects(s soracache.Stamp) bool {
	v := f.view.Load()
	return v.epoch == s.Epoch && v.applied >= s.Position
}

// Left tells whether an epoch was left. What is recorded in it may have come too
// late to count.
func (f *Follower) Left(epoch soracache.Epoch) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, left := f.left[epoch]
	return left
}

// merge stores the marks of records and returns the position of the last one
// that names everything.
func (f *Follower) merge(records []soracache.Record) (cleared soracache.Position) {
	for _, r := range records {
		for _, t := range r.Targets {
			if t.Kind == soracache.TargetAll {
				cleared = max(cleared, r.Position)
				continue
			}
			f.cfg.Marks.set(f.cfg.Marks.slot(f.cfg.Space, t.Kind, t.Name))
		}
	}
	return cleared
}

// Void withdraws the confirmation: nothing is served until a question that is
// asked from now on is answered. It is for when the clock cannot be trusted, as
// after a suspension of the machine.
//
// A follower that is not asked for a while, because nobody uses it, needs
// nothing of the kind: its confirmation runs out, applied stays where it was,
// and the next answer brings what was missed or a reset.
func (f *Follower) Void() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life++
	v := *f.view.Load()
	v.confirmed = never
	f.view.Store(&v)
}

// State is how far a follower has come.
type State struct {
	Epoch          soracache.Epoch
	Floor, Applied soracache.Position
	// Seen is the highest position heard of: at least Applied.
	Seen soracache.Position
	// Age is how long ago that was confirmed; negative if it is not confirmed
	// within the bound.
	Age time.Duration
}

// State returns how far the follower has come.
func (f *Follower) State() State {
	v := f.view.Load()
	age := f.cfg.Now() - v.confirmed
	if v.confirmed == never || age >= f.cfg.Bound {
		age = -1
	}
	return State{Epoch: v.epoch, Floor: v.floor, Applied: v.applied, Seen: v.seen, Age: age}
}

// Proof is what an entry in a local tier carries to be judged by: where it was
// proven live, and the slots of its key and its tags. It is immutable.
type Proof struct {
	// Stamp is the head that the answer reported which brought the entry.
	Stamp soracache.Stamp
	mark  Mark
	slots []Slot
}

// SlotBytes is how much memory a proof holds beside itself.
func (p *Proof) SlotBytes() int { return 4 * len(p.slots) }

// Prove returns the proof of an entry that an answer brought as live at its
// head. It is false if the answer may not be kept: it is of another epoch, or
// proven before the floor.
func (f *Follower) Prove(q Question, d soracache.Delta, key string, tags []string) (Proof, bool) {
	v := f.view.Load()
	if d.Epoch != v.epoch || d.Head < v.floor {
		return Proof{}, false
	}
	return f.proof(q, soracache.Stamp{Epoch: d.Epoch, Position: d.Head}, key, tags), true
}

func (f *Follower) proof(q Question, at soracache.Stamp, key string, tags []string) Proof {
	m := f.cfg.Marks
	slots := make([]Slot, 1, 1+len(tags))
	slots[0] = m.slot(f.cfg.Space, soracache.TargetKey, key)
	for _, t := range tags {
		slots = append(slots, m.slot(f.cfg.Space, soracache.TargetTag, t))
	}
	return Proof{Stamp: at, mark: q.mark, slots: slots}
}

// Verdict is the outcome of a check.
type Verdict uint8

// The verdicts.
const (
	// Live: it may be served.
	Live Verdict = iota
	// Dead: something that came after it names it, or may name it.
	Dead
	// Behind: the request wants more than this follower has applied.
	Behind
	// Unconfirmed: nothing known speaks against it, but the follower has not
	// been confirmed within the bound.
	Unconfirmed
)

// String returns live, dead, behind or unconfirmed.
func (v Verdict) String() string {
	return [...]string{"live", "dead", "behind", "unconfirmed"}[min(v, Unconfirmed)]
}

// Judgement is what a check found.
type Judgement struct {
	Verdict Verdict
	// Seen is what a live entry is known to reflect.
	Seen soracache.Stamp
	// At is the time of the check, on the follower's clock.
	At time.Duration
	// Age is how long before that the follower was confirmed.
	Age time.Duration
}

// Check judges an entry by the rule, for a request that wants at least the
// stamp least (the zero Stamp wants nothing).
//
// A writer stores marks, then the view; a reader loads the view, then the
// marks, then the clock. So a view that claims a position is never seen without
// its marks, and a confirmation is never counted against an older clock.
func (f *Follower) Check(p *Proof, least soracache.Stamp) Judgement {
	v := f.view.Load()
	dead := p.Stamp.Epoch != v.epoch || p.Stamp.Position < v.floor || p.mark < v.wiped || f.cfg.Marks.namedSince(p.slots, p.mark)
	j := Judgement{Seen: soracache.Stamp{Epoch: v.epoch, Position: v.applied}, At: f.cfg.Now()}
	j.Age = j.At - v.confirmed
	switch {
	case dead:
		j.Verdict = Dead
	case least.Epoch != 0 && (least.Epoch != v.epoch || least.Position > v.applied):
		j.Verdict = Behind
	case j.Age >= f.cfg.Bound:
		j.Verdict = Unconfirmed
	}
	return j
}
