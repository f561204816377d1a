package l2model

import (
	"maps"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// followers are those who are registered with one partition.
type followers struct {
	// epoch is the ledger's life in which the list is known to be whole, and
	// born since when it is.
	epoch   soracache.Epoch
	born    time.Time
	members map[string]follower
}

// follower is one registration, which stands until a time.
type follower struct {
	bound time.Duration
	until time.Time
}

// followers returns the partition's list, made if it is not there. Whatever
// made the ledger take a new epoch may have cost registrations too: the list
// keeps those that it has, but counts as whole only from now on.
func (s step) followers() *followers {
	if s.registered == nil {
		s.registered = &followers{members: make(map[string]follower)}
	}
	if s.registered.epoch != s.ledger.epoch {
		s.registered.epoch, s.registered.born = s.ledger.epoch, s.now
	}
	return s.registered
}

// register notes that a follower asks. A smaller bound than that of a
// registration which still stands for long replaces it only once no answer to
// a request made with the larger one can be trusted for longer.
func (s step) register(r l2.Registration) {
	if r.Name == "" {
		return
	}
	list := s.followers()
	known, ok := list.members[r.Name]
	if ok && known.bound >= r.Bound && known.until.Sub(s.now) >= r.Bound+l2.RegistrationSlack/2 && known.until.Sub(s.now) <= known.bound+l2.RegistrationSlack {
		return
	}
	list.members[r.Name] = follower{r.Bound, s.now.Add(r.Bound + l2.RegistrationSlack)}
}

// listFollowers answers who is registered, and forgets those who are no more.
func (s step) listFollowers(a *l2.InvalidateAnswer) {
	list := s.followers()
	list.forget(s.now, s.now)
	for _, name := range slices.Sorted(maps.Keys(list.members)) {
		a.Registered = append(a.Registered, l2.Registration{Name: name, Bound: list.members[name].bound})
	}
	if list.born.After(s.now) { // the clock was set back
		list.born = s.now
	}
	a.RegisteredFor = s.now.Sub(list.born)
}

// forget drops those whose registrations were over at a time. What would stand for
// longer than it can, because the clock was set back, stands for as long as it can.
func (f *followers) forget(at, now time.Time) {
	for name, m := range f.members {
		if most := now.Add(m.bound + l2.RegistrationSlack); m.until.After(most) {
			f.members[name] = follower{m.bound, most}
		}
	}
	maps.DeleteFunc(f.members, func(_ string, m follower) bool { return !at.Before(m.until) })
}

func (f *followers) clone() *followers {
	if f == nil {
		return nil
	}
	return &followers{epoch: f.epoch, born: f.born, members: maps.Clone(f.members)}
}
