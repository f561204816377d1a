package invalidation

import (
	"time"

	"github.com/soracache/soracache"
)

// A near cache follows a ledger at second hand. What is recorded comes by a
// watch of some node (Push); that nothing is missing, any answer of any node
// shows which tells how far the ledger had come (Confirm); and what may be kept
// is up to what the answer that brought it was proven to reflect (Admit). The
// methods of this file are for such followers; Answer, Record and Prove are for
// those that ask the ledger itself.

// promise is what an answer confirmed: that the ledger held nothing beyond a
// position at a time.
type promise struct {
	at   soracache.Position
	when time.Duration
}

// maxPromised bounds how many promises wait for the watch.
const maxPromised = 16

// Push takes in a step of a watch. It is Missed if the watch cannot be the
// continuation of what was followed, and has to be begun anew.
func (f *Follower) Push(s Step) Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := *f.view.Load()
	if s.Epoch != v.epoch {
		return f.pushEpoch(v, s)
	}
	if s.Reset && s.Applied > v.applied {
		f.restart(s.Epoch, s.Applied, never)
		return Outcome{Reset: true}
	}
	if s.Reset && s.Applied < v.applied {
		return f.resetTrust(v)
	}
	// A reset to where this follower is takes nothing away: the watch tells
	// everything from there on.
	v.floor = max(v.floor, f.merge(s.New))
	if s.Applied > v.applied {
		f.advance(&v, s.Applied)
	}
	kept := f.promised[:0]
	for _, p := range f.promised {
		if p.at <= v.applied {
			v.confirmed = max(v.confirmed, p.when)
		} else {
			kept = append(kept, p)
		}
	}
	f.promised = kept
	f.store(&v, s.New)
	return Outcome{New: s.New}
}

// resetTrust gives up everything that was kept, because the ledger has not come as
// far as this follower, or cannot have issued the position where it is: a part of
// its history is lost, and the follower need not have heard of all of that. It
// stays where it is, so that nothing is kept which does not reflect what it did
// hear of.
func (f *Follower) resetTrust(v view) Outcome {
	f.life++
	f.promised = nil
	v.wiped, v.confirmed = f.cfg.Marks.next(), never
	f.store(&v, nil)
	return Outcome{Reset: true}
}

// pushEpoch enters another epoch, unless it was left before: a node that has not
// noticed yet may still watch a dead one.
func (f *Follower) pushEpoch(v view, s Step) Outcome {
	if _, dead := f.left[s.Epoch]; dead || !s.Reset || s.Epoch == 0 {
		return Outcome{Missed: true}
	}
	if v.epoch != 0 {
		f.left[v.epoch] = struct{}{}
	}
	f.restart(s.Epoch, s.Applied, never)
	return Outcome{Reset: true, Entered: v.epoch != 0}
}

// Confirm takes in what the answer to a question says: age before it was made, the
// ledger held nothing beyond the stamp. It confirms the follower as of then
// once the watch has come to the stamp, and not before: until then what lies
// between is not known.
func (f *Follower) Confirm(q Question, s soracache.Stamp, age time.Duration) Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := *f.view.Load()
	if q.life != f.life || s.Epoch == 0 || s.Epoch != v.epoch {
		return Outcome{}
	}
	p := promise{at: s.Position, when: q.sent - max(age, 0)}
	if p.at > v.applied {
		if len(f.promised) == maxPromised {
			f.promised = f.promised[:maxPromised-1] // the oldest will be kept first
		}
		f.promised = append(f.promised, p)
		return Outcome{}
	}
	v.confirmed = max(v.confirmed, p.when)
	f.store(&v, nil)
	return Outcome{Confirmed: true}
}

// Mark takes in a record that this process made, as its answer tells: what it
// names is refused from now on. It does not count as followed, for what came
// before it is not known. A record of an epoch that was not entered withdraws
// the confirmation.
func (f *Follower) Mark(r soracache.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := *f.view.Load()
	cleared := f.merge([]soracache.Record{r})
	if cleared > 0 {
		v.wiped = f.cfg.Marks.next()
	}
	if r.Epoch == v.epoch {
		v.floor = max(v.floor, cleared)
		v.seen = max(v.seen, r.Position)
	} else if _, dead := f.left[r.Epoch]; !dead {
		f.life++
		v.confirmed = never
		if f.made.Epoch != r.Epoch || f.made.Position < r.Position {
			f.made = soracache.Stamp{Epoch: r.Epoch, Position: r.Position}
		}
	}
	f.store(&v, nil)
}

// Admit returns the proof of an entry that the answer to a question brought,
// proven at a stamp. It is false if the entry may not be kept: it was proven in
// another epoch, before the watch began, or before a record that had been heard
// of when the question was asked. Marks made before the question do not count
// against an entry, so its answer has to reflect all of them.
func (f *Follower) Admit(q Question, at soracache.Stamp, key string, tags []string) (Proof, bool) {
	v := f.view.Load()
	if at.Epoch == 0 || at.Epoch != v.epoch || q.Since.Epoch != v.epoch || at.Position < max(v.floor, q.seen) {
		return Proof{}, false
	}
	return f.proof(q, at, key, tags), true
}
