package invalidation_test

import (
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// A watch that is begun anew, and goes back to before where it had been, tells
// that the ledger has lost what it had recorded since, perhaps more than this
// follower had heard of. Nothing that was kept before is served any more,
// whatever is confirmed: a record that killed it may be among what is lost.
func TestResetToAnEarlierPosition(t *testing.T) {
	now := time.Hour
	f := invalidation.NewFollower(invalidation.Config{
		Marks: invalidation.NewMarks(1<<12, 1), Space: 1, Bound: time.Second, Now: func() time.Duration { return now },
	})
	at := func(p soracache.Position) soracache.Stamp { return soracache.Stamp{Epoch: 7, Position: p} }
	admit := func(proven soracache.Position) (invalidation.Proof, bool) {
		q := f.Ask()
		f.Confirm(q, at(proven), 0)
		return f.Admit(q, at(proven), "k", nil)
	}
	want := func(p *invalidation.Proof, want invalidation.Verdict) {
		t.Helper()
		if got := f.Check(p, soracache.Stamp{}).Verdict; got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	f.Push(invalidation.Step{Epoch: 7, Applied: 100, Reset: true})
	old, ok := admit(100)
	if !ok {
		t.Fatal("not admitted")
	}
	want(&old, invalidation.Live)
	late := f.Ask() // answered before the loss

	// What was recorded at 110 has not come, and is lost with all after 60.
	if o := f.Push(invalidation.Step{Epoch: 7, Applied: 60, Reset: true}); !o.Reset || o.Entered || o.Missed {
		t.Errorf("a reset to before: %+v", o)
	}
	want(&old, invalidation.Dead)
	f.Confirm(late, at(100), 0)
	if p, ok := f.Admit(late, at(100), "k", nil); ok {
		want(&p, invalidation.Dead)
	}
	for range 3 {
		now += time.Second / 2
		f.Confirm(f.Ask(), at(60), 0)
		want(&old, invalidation.Dead)
	}
	if _, ok := admit(60); ok {
		t.Error("admitted what need not reflect all that was heard of")
	}

	// It goes on with what comes after.
	f.Push(invalidation.Step{Epoch: 7, Applied: 200, New: []soracache.Record{{Epoch: 7, Prev: 60, Position: 200, Targets: []soracache.Target{soracache.Key("x")}}}})
	next, ok := admit(200)
	if !ok {
		t.Fatal("nothing is admitted any more")
	}
	want(&next, invalidation.Live)
	want(&old, invalidation.Dead)

	// A reset to where it is takes nothing away.
	if o := f.Push(invalidation.Step{Epoch: 7, Applied: 200, Reset: true}); o.Reset {
		t.Errorf("a reset to where it is: %+v", o)
	}
	want(&next, invalidation.Live)
}

// What was asked before the confirmation was withdrawn confirms nothing after it:
// the clock that its age is counted on has stood still, or the answer is of before
// what withdrew it.
func TestAnswerAskedBeforeAWithdrawalConfirmsNothing(t *testing.T) {
	for _, c := range []struct {
		name     string
		withdraw func(*invalidation.Follower)
	}{
		{"a suspension", (*invalidation.Follower).Void},
		{"a watch that goes back", func(f *invalidation.Follower) {
			f.Push(invalidation.Step{Epoch: 7, Applied: 60, Reset: true})
		}},
		{"a record in an epoch that was not entered", func(f *invalidation.Follower) {
			f.Mark(soracache.Record{Epoch: 8, Position: 10, Targets: []soracache.Target{soracache.Key("other")}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := invalidation.NewFollower(invalidation.Config{
				Marks: invalidation.NewMarks(1<<12, 1), Space: 1, Bound: time.Second, Now: func() time.Duration { return time.Hour },
			})
			head := soracache.Stamp{Epoch: 7, Position: 100}
			f.Push(invalidation.Step{Epoch: 7, Applied: 100, Reset: true})
			q := f.Ask()
			c.withdraw(f)
			if f.Confirm(q, head, 0).Confirmed || f.State().Age >= 0 {
				t.Error("an answer from before it confirms what is kept")
			}
			if q = f.Ask(); !f.Confirm(q, head, 0).Confirmed {
				t.Error("an answer from after it does not")
			}
		})
	}
}
