package invalidation_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

const bound = time.Second

// world is one ledger and the clock that everybody in a test shares.
type world struct {
	t     *testing.T
	clock time.Duration
	store *l2model.Model
	part  l2.Partition
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, part: l2.Partition{Namespace: "n", Count: 1}}
	rng := rand.New(rand.NewPCG(seed, 1))
	w.store = l2model.New(l2model.Config{
		Now:    func() time.Time { return time.UnixMicro(1_700_000_000_000_000).Add(w.clock) },
		Random: rng.Uint64,
	})
	return w
}

func (w *world) follower(slots int) *invalidation.Follower {
	return invalidation.NewFollower(invalidation.Config{
		Marks: invalidation.NewMarks(slots, 7), Space: 1, Bound: bound,
		Now: func() time.Duration { return w.clock },
	})
}

func (w *world) since(s soracache.Stamp) soracache.Delta {
	w.t.Helper()
	a := w.store.Since(context.Background(), []l2.SinceRequest{{Partition: w.part, Since: s}})[0]
	if a.Err != nil {
		w.t.Fatal(a.Err)
	}
	return a.Delta
}

func (w *world) invalidate(targets ...soracache.Target) soracache.Record {
	w.t.Helper()
	a := w.store.Invalidate(context.Background(), []l2.InvalidateRequest{{Partition: w.part, Targets: targets}})[0]
	if a.Err != nil {
		w.t.Fatal(a.Err)
	}
	return a.Record
}

// ask puts a question and takes in its answer at once.
func (w *world) ask(f *invalidation.Follower) (invalidation.Question, soracache.Delta, invalidation.Outcome) {
	q := f.Ask()
	d := w.since(q.Since)
	return q, d, f.Answer(q, d)
}

func (w *world) prove(f *invalidation.Follower, key string, tags ...string) invalidation.Proof {
	w.t.Helper()
	q, d, _ := w.ask(f)
	p, ok := f.Prove(q, d, key, tags)
	if !ok {
		w.t.Fatal("the answer is not provable")
	}
	return p
}

func (w *world) want(f *invalidation.Follower, p invalidation.Proof, want invalidation.Verdict) {
	w.t.Helper()
	if got := f.Check(&p, soracache.Stamp{}).Verdict; got != want {
		w.t.Fatalf("verdict %s, want %s", got, want)
	}
}

func TestEntryDiesByItsKeyItsTagsAndEverything(t *testing.T) {
	for _, target := range []soracache.Target{
		soracache.Key("k"), soracache.Tag("a"), soracache.Tag("b"), soracache.Everything(),
	} {
		t.Run(target.String(), func(t *testing.T) {
			w := newWorld(t, 1)
			f := w.follower(1 << 16)
			p := w.prove(f, "k", "a", "b")
			w.want(f, p, invalidation.Live)
			f.Record(w.invalidate(soracache.Key("other"), soracache.Tag("other"), soracache.Key("a"), soracache.Tag("k")))
			w.want(f, p, invalidation.Live)
			f.Record(w.invalidate(target))
			w.want(f, p, invalidation.Dead)
			w.want(f, w.prove(f, "k", "a", "b"), invalidation.Live)
		})
	}
}

func TestServesOnlyWhileConfirmed(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(16)
	p := w.prove(f, "k")
	w.clock += bound - 1
	w.want(f, p, invalidation.Live)
	w.clock++
	w.want(f, p, invalidation.Unconfirmed)
	w.ask(f)
	w.want(f, p, invalidation.Live)
	f.Void()
	w.want(f, p, invalidation.Unconfirmed)
}

func TestConfirmationCountsFromWhenTheQuestionWasSent(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(16)
	p := w.prove(f, "k")
	w.clock += bound / 2
	q := f.Ask()
	d := w.since(q.Since)
	w.clock += bound / 2 // the answer takes its time
	f.Answer(q, d)
	w.clock += bound/2 - 1
	w.want(f, p, invalidation.Live)
	w.clock++
	w.want(f, p, invalidation.Unconfirmed)
}

func TestAnswerAskedBeforeASuspensionConfirmsNothing(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(16)
	p := w.prove(f, "k")
	q := f.Ask()
	d := w.since(q.Since)
	f.Void()
	f.Answer(q, d)
	w.want(f, p, invalidation.Unconfirmed)
}

func TestGapIsNoticedAndDoesNotMoveApplied(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(1 << 16)
	p := w.prove(f, "k")
	before := f.State().Applied
	w.invalidate(soracache.Key("k")) // its push is lost
	second := w.invalidate(soracache.Key("other"))
	if o := f.Record(second); !o.Pull {
		t.Error("a gap asks for nothing")
	}
	if got := f.State().Applied; got != before {
		t.Errorf("applied moved across a gap to %d", got)
	}
	w.want(f, p, invalidation.Live) // within the bound: nobody knows better yet
	w.ask(f)
	w.want(f, p, invalidation.Dead)
	if got := f.State().Applied; got != second.Position {
		t.Errorf("applied %d after the repair, want %d", got, second.Position)
	}
}

func TestForkIsNoticed(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(16)
	w.prove(f, "k")
	s := f.State()
	o := f.Record(soracache.Record{Epoch: s.Epoch, Prev: s.Applied - 1, Position: s.Applied + 5, Targets: []soracache.Target{soracache.Key("x")}})
	if !o.Pull || f.State().Applied != s.Applied {
		t.Errorf("a fork: pull %v, applied moved by %d", o.Pull, f.State().Applied-s.Applied)
	}
}

func TestAnswerMovesAppliedOnlyFromWhereItWasAsked(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(1 << 10)
	p := w.prove(f, "k")
	first, second := f.Ask(), f.Ask()
	empty := w.since(second.Since) // the second is executed first
	w.invalidate(soracache.Key("k"))
	full := w.since(first.Since)
	f.Answer(first, full)
	w.want(f, p, invalidation.Dead)
	if o := f.Answer(second, empty); !o.Confirmed {
		t.Error("an answer asked from a position not above applied must confirm")
	}
	if got := f.State().Applied; got != full.Head {
		t.Errorf("applied %d, want %d", got, full.Head)
	}
	w.want(f, p, invalidation.Dead)
}

func TestEpochIsEnteredOnceAndNeverAgain(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(16)
	cold, late := f.Ask(), f.Ask()
	old := w.since(late.Since) // executed before the epoch changed
	w.since(soracache.Stamp{Epoch: 99, Position: 5})
	now := w.since(cold.Since)
	if old.Epoch == now.Epoch {
		t.Fatal("an unknown epoch did not make a new one")
	}
	f.Answer(cold, now)
	f.Answer(late, old)
	if got := f.State().Epoch; got != now.Epoch {
		t.Fatal("a late answer moved the follower back to an epoch that the ledger has left")
	}
	if _, ok := f.Prove(late, old, "k", nil); ok {
		t.Error("an entry of a dead epoch is provable")
	}
	// And not by a question asked in the present epoch either.
	before := f.State().Epoch
	f.Answer(f.Ask(), w.since(soracache.Stamp{Epoch: 98, Position: 5}))
	q := f.Ask()
	if o := f.Answer(q, soracache.Delta{Epoch: before, Head: q.Since.Position + 1}); o.Reset || f.State().Epoch == before {
		t.Error("an epoch that was left was entered again")
	}
}

func TestNothingProvenBeforeTheFloorIsKept(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(1 << 10)
	p := w.prove(f, "k")
	q := f.Ask()
	d := w.since(q.Since)
	w.invalidate(soracache.Everything())
	w.ask(f)
	w.want(f, p, invalidation.Dead)
	if _, ok := f.Prove(q, d, "k", nil); ok {
		t.Error("a late answer from before the clear is provable")
	}
}

func TestIdlePartitionCatchesUpBeforeItServes(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(1 << 10)
	dead, live := w.prove(f, "k"), w.prove(f, "l")
	w.invalidate(soracache.Key("k"))
	w.clock += bound // nobody asks
	w.want(f, live, invalidation.Unconfirmed)
	w.ask(f)
	w.want(f, dead, invalidation.Dead)
	w.want(f, live, invalidation.Live)
}

// A failover loses the ledger's last record, and another node's next append
// covers the place. Whoever applied the lost record must go on showing it, or
// nobody ever learns that it was lost.
func TestLostTailStaysVisible(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(1 << 10)
	w.prove(f, "k")
	early := f.Ask()
	restore := w.store.Snapshot()
	w.clock++
	f.Record(w.invalidate(soracache.Key("k")))
	restore()
	w.clock += time.Millisecond
	w.invalidate(soracache.Key("other"))
	f.Answer(early, w.since(early.Since))
	epoch := f.State().Epoch
	if _, _, o := w.ask(f); !o.Entered || f.State().Epoch == epoch {
		t.Error("the ledger goes on as if its tail had not been lost")
	}
}

func TestFollowerThatLagsBehindTrimmedRecordsIsReset(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(1 << 10)
	p := w.prove(f, "k")
	w.invalidate(soracache.Key("k"))
	for range 3 {
		w.clock += l2.DefaultRetention
		w.invalidate(soracache.Key("other"))
	}
	if _, _, o := w.ask(f); !o.Reset {
		t.Fatal("not reset")
	}
	w.want(f, p, invalidation.Dead)
}

func TestCollisionClearsWithTheNextRead(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(2) // everything collides
	p := w.prove(f, "k")
	for i := range 8 {
		f.Record(w.invalidate(soracache.Key(fmt.Sprint("other", i))))
	}
	w.want(f, p, invalidation.Dead)
	w.want(f, w.prove(f, "k"), invalidation.Live)
}

// A delta is compacted: a target that was invalidated again after the point
// where a delta was cut off is not in it. A follower that took the cut for a
// position it has applied would serve that target to a reader who knows better.
func TestCutOffDeltaIsNotTakenForApplied(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(1 << 16)
	p := w.prove(f, "k")
	known := w.invalidate(soracache.Key("k"))
	for i := range l2.MaxDelta + 10 {
		w.invalidate(soracache.Key(fmt.Sprint("other", i)))
	}
	w.invalidate(soracache.Key("k")) // hides the first record
	if _, d, o := w.ask(f); !d.More || !o.Pull || o.Confirmed {
		t.Fatalf("more %v, pull %v, confirmed %v", d.More, o.Pull, o.Confirmed)
	}
	least := soracache.Stamp{Epoch: known.Epoch, Position: known.Position}
	if f.Check(&p, least).Verdict == invalidation.Live {
		t.Fatal("served to a reader that knows of an invalidation which was not applied")
	}
	for range 3 {
		if _, _, o := w.ask(f); !o.Pull {
			w.want(f, p, invalidation.Dead)
			if f.Check(&p, least).Seen.Position < known.Position {
				t.Error("the chain ended before the record")
			}
			return
		}
	}
	t.Fatal("the chain does not end")
}

func TestCutOffDeltaConfirmsNothing(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(1 << 16)
	p := w.prove(f, "k")
	for i := range l2.MaxDelta + 10 {
		w.invalidate(soracache.Key(fmt.Sprint("other", i)))
	}
	w.clock += bound
	w.ask(f)
	w.want(f, p, invalidation.Unconfirmed)
	w.ask(f)
	w.want(f, p, invalidation.Live)
}

// TestChase lets several followers chase one ledger with questions that are
// executed and answered late, out of order, twice or never, pushes that get
// lost, a ledger that changes its epoch, and entries that are proven by any of
// it. Whatever a follower calls live must not have been dead for as long as the
// bound, nor be older than a stamp that the reader shows.
func TestChase(t *testing.T) {
	racetest.Without(t)
	seeds := 300
	if testing.Short() {
		seeds = 30
	}
	live := 0
	for seed := range seeds {
		live += chase(t, uint64(seed))
	}
	if live < 50*seeds {
		t.Fatalf("only %d checks found something live: the test shows little", live)
	}
	t.Logf("%d checks of live entries", live)
}

type asked struct {
	f    int
	q    invalidation.Question
	d    soracache.Delta
	done bool // executed
	key  string
	tags []string
	seq  int // of the true history, when executed
}

type cached struct {
	f    int
	p    invalidation.Proof
	key  string
	tags []string
	seq  int // true history that it reflects
}

type event struct {
	at     time.Duration
	record soracache.Record // zero: a new epoch, which kills everything
}

func (e event) kills(c *cached) bool {
	if e.record.Epoch == 0 {
		return true
	}
	return slices.ContainsFunc(e.record.Targets, func(t soracache.Target) bool {
		switch t.Kind {
		case soracache.TargetKey:
			return t.Name == c.key
		case soracache.TargetTag:
			return slices.Contains(c.tags, t.Name)
		}
		return true
	})
}

func chase(t *testing.T, seed uint64) (live int) {
	w := newWorld(t, seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	fs := make([]*invalidation.Follower, 3)
	for i := range fs {
		fs[i] = w.follower(1 << (4 + rng.IntN(8)))
	}
	keys, tags := make([]string, 12), make([]string, 6)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
	}
	for i := range tags {
		tags[i] = fmt.Sprint("tag", i)
	}
	var history []event
	var open []asked
	var entries []cached
	epoch := w.since(soracache.Stamp{}).Epoch
	note := func() {
		if e := w.since(soracache.Stamp{}).Epoch; e != epoch {
			epoch = e
			history = append(history, event{at: w.clock})
		}
	}
	for range 1000 {
		w.clock += time.Duration(rng.IntN(int(bound / 20)))
		f := rng.IntN(len(fs))
		switch roll := rng.IntN(100); {
		case roll < 30:
			key := keys[rng.IntN(len(keys))]
			open = append(open, asked{f: f, q: fs[f].Ask(), key: key, tags: tags[rng.IntN(4):][:rng.IntN(3)]})
		case roll < 50 && len(open) > 0:
			a := &open[rng.IntN(len(open))]
			if !a.done {
				a.d, a.done = w.since(a.q.Since), true
				note()
				a.seq = len(history)
			}
		case roll < 75 && len(open) > 0:
			i := rng.IntN(len(open))
			if a := open[i]; a.done {
				fs[a.f].Answer(a.q, a.d)
				if p, ok := fs[a.f].Prove(a.q, a.d, a.key, a.tags); ok {
					entries = append(entries, cached{f: a.f, p: p, key: a.key, tags: a.tags, seq: a.seq})
				}
			}
			if rng.IntN(4) > 0 { // else answered again later
				open = slices.Delete(open, i, i+1)
			}
		case roll < 90:
			var targets []soracache.Target
			for range 1 + rng.IntN(3) {
				switch n := rng.IntN(24); {
				case n < 12:
					targets = append(targets, soracache.Key(keys[rng.IntN(len(keys))]))
				case n < 23:
					targets = append(targets, soracache.Tag(tags[rng.IntN(len(tags))]))
				default:
					targets = append(targets, soracache.Everything())
				}
			}
			r := w.invalidate(targets...)
			history = append(history, event{at: w.clock, record: r})
			for i := range fs {
				if rng.IntN(2) == 0 {
					fs[i].Record(r)
				}
			}
		case roll == 91 && rng.IntN(3) == 0:
			fs[f].Void()
		case roll == 92 && rng.IntN(4) == 0:
			w.since(soracache.Stamp{Epoch: soracache.Epoch(1000 + rng.IntN(1e6)), Position: 1}) // somebody from elsewhere
			note()
		case roll == 93 && rng.IntN(3) == 0:
			w.clock += time.Duration(rng.IntN(int(2 * bound)))
		}
		for i := range entries {
			live += judge(t, w, seed, fs, &entries[i], history, rng)
		}
	}
	return live
}

// judge compares what a follower says of an entry with the true history.
func judge(t *testing.T, w *world, seed uint64, fs []*invalidation.Follower, c *cached, history []event, rng *rand.Rand) int {
	t.Helper()
	var least soracache.Stamp
	known := -1
	if len(history) > 0 && rng.IntN(2) == 0 {
		known = rng.IntN(len(history))
		r := history[known].record
		least = soracache.Stamp{Epoch: r.Epoch, Position: r.Position}
	}
	checked := fs[c.f].Check(&c.p, least)
	seen := checked.Seen
	if checked.Verdict != invalidation.Live {
		return 0
	}
	for i := c.seq; i < len(history); i++ {
		e := history[i]
		if !e.kills(c) {
			continue
		}
		switch {
		case w.clock-e.at >= bound:
			t.Fatalf("seed %d: %s served %s after %v killed it", seed, c.key, w.clock-e.at, e.record)
		case least.Epoch != 0 && i <= known:
			t.Fatalf("seed %d: %s served to a reader that knew of %v", seed, c.key, e.record)
		case e.record.Epoch == seen.Epoch && e.record.Position <= seen.Position:
			t.Fatalf("seed %d: %s served as reflecting %d, but %v killed it", seed, c.key, seen.Position, e.record)
		}
	}
	return 1
}
