package invalidation_test

import (
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

func stampOf(r soracache.Record) soracache.Stamp {
	return soracache.Stamp{Epoch: r.Epoch, Position: r.Position}
}

// Records that overtake each other on their way are put in order again without
// the ledger's help, and each is marked the moment that it comes.
func TestRecordsOutOfOrder(t *testing.T) {
	w := newWorld(t, 1)
	f := w.follower(1 << 12)
	a, b, c := w.prove(f, "a"), w.prove(f, "b"), w.prove(f, "c")
	first, second, third := w.invalidate(soracache.Key("a")), w.invalidate(soracache.Key("b")), w.invalidate(soracache.Key("c"))

	if o := f.Record(third); !o.Missed || !o.Pull || !o.Marked || len(o.New) != 1 {
		t.Errorf("third: %+v", o)
	}
	w.want(f, c, invalidation.Dead)
	w.want(f, a, invalidation.Live)
	if o := f.Record(third); len(o.New) != 0 {
		t.Errorf("third again: %+v", o)
	}
	f.Record(second)
	if got := f.State().Applied; got >= first.Position {
		t.Fatalf("applied %d before the first record at %d came", got, first.Position)
	}
	if o := f.Record(first); o.Missed || o.Pull || len(o.New) != 1 {
		t.Errorf("first: %+v", o)
	}
	if got := f.State().Applied; got != third.Position {
		t.Errorf("applied %d, want %d: all three have come", got, third.Position)
	}
	w.want(f, a, invalidation.Dead)
	w.want(f, b, invalidation.Dead)
}

// What came early is not counted as new when the ledger repeats it.
func TestLedgerTellsOnlyWhatWasNotPushed(t *testing.T) {
	w := newWorld(t, 2)
	f := w.follower(1 << 12)
	w.ask(f)
	lost, early := w.invalidate(soracache.Key("a")), w.invalidate(soracache.Key("b"))
	f.Record(early)
	_, _, o := w.ask(f)
	if len(o.New) != 1 || o.New[0].Position != lost.Position {
		t.Errorf("new: %+v", o.New)
	}
	if got := f.State().Applied; got != early.Position {
		t.Errorf("applied %d, want %d", got, early.Position)
	}
}

func TestRecordWithoutTargetsMovesNothing(t *testing.T) {
	w := newWorld(t, 3)
	f := w.follower(1 << 12)
	p := w.prove(f, "a")
	r := w.invalidate(soracache.Key("a"))
	hint := r
	hint.Targets = nil
	if o := f.Record(hint); !o.Pull || o.Marked {
		t.Errorf("got %+v", o)
	}
	w.want(f, p, invalidation.Live)
	if f.Reflects(stampOf(r)) {
		t.Error("reflects a record that it was only told of")
	}
	w.ask(f)
	w.want(f, p, invalidation.Dead)
	if !f.Reflects(stampOf(r)) {
		t.Error("does not reflect a record that it asked for")
	}
}

// A record that leads nowhere, or back, must not make the follower run in
// circles.
func TestImpossibleRecordsOnlyMakeItAsk(t *testing.T) {
	w := newWorld(t, 4)
	f := w.follower(1 << 12)
	w.ask(f)
	before := f.State()
	for _, prev := range []soracache.Position{before.Applied, before.Applied + 5, before.Applied - 5} {
		for back := range soracache.Position(3) {
			o := f.Record(soracache.Record{Epoch: before.Epoch, Prev: prev, Position: prev - back, Targets: []soracache.Target{soracache.Key("a")}})
			if !o.Pull || o.Marked {
				t.Errorf("prev %+d, %d back: %+v", int64(prev-before.Applied), back, o)
			}
		}
	}
	if got := f.State().Applied; got != before.Applied {
		t.Errorf("applied moved from %d to %d", before.Applied, got)
	}
}

// Whoever has left an epoch cannot confirm records of it: the node that
// appended one may be attached to a primary that was cut off.
func TestRecordOfALeftEpochIsNotReflected(t *testing.T) {
	w := newWorld(t, 5)
	f := w.follower(1 << 12)
	w.ask(f)
	r := w.invalidate(soracache.Key("a"))
	w.ask(f)
	w.store.LoseLedger(w.part)
	w.ask(f)
	if o := f.Record(r); o.Marked || o.Pull {
		t.Errorf("got %+v", o)
	}
	if f.Reflects(stampOf(r)) {
		t.Error("reflects a record of an epoch that it left")
	}
}
