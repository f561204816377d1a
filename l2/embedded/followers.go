package embedded

import (
	"maps"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// followers are all who are registered. They are kept in memory: who follows a
// ledger in this file is in this process, or asks it.
//
// An append must find everybody registered whose answer does not reflect it.
// Reads take no lock that appends hold, so this is a matter of order:
//
//  1. a read registers its caller,
//  2. then begins its transaction, which shows the last commit;
//  3. an append commits,
//  4. then lists who is registered.
//
// If 3 comes before 2, the answer reflects the append. Otherwise 1 comes before
// 4, and the list has the caller. Were 1 after 2, or 4 before 3, an append could
// pass in between, with nobody told. (A write registers its caller inside its
// own transaction; those of appends come before or after that.)
type followers struct {
	mu    sync.Mutex // guards what follows; taken last
	lists map[place]*list
}

// place is where a partition's ledger lives. A list stays when the ledger is
// lost, so it does not belong to the numbered partition.
type place struct {
	namespace string
	index     uint16
}

func placeOf(at l2.Partition) place { return place{at.Namespace, at.Index} }

// list is who is registered with one ledger.
type list struct {
	// epoch is the ledger's that the list has been whole in since born. Whatever
	// made a ledger take a new epoch may have cost registrations as well.
	epoch   soracache.Epoch
	born    time.Time
	members map[string]member
}

// member is a registration that stands until a time.
type member struct {
	bound time.Duration
	until time.Time
}

// possible returns a registration that stands for no longer than it can: the clock
// may have been set back.
func (m member) possible(now time.Time) member {
	if most := now.Add(m.bound + l2.RegistrationSlack); m.until.After(most) {
		m.until = most
	}
	return m
}

// at returns the list of a partition, and makes it if there is none. mu is held.
func (f *followers) at(p place, now time.Time) *list {
	l := f.lists[p]
	if l == nil {
		if f.lists == nil {
			f.lists = make(map[place]*list)
		}
		l = &list{born: now, members: make(map[string]member)}
		f.lists[p] = l
	}
	return l
}

// register notes that a follower asks. A registration that stands for long is
// left as it is, unless the bound is larger. A smaller bound replaces it when
// half of the slack is used up, by when no answer that was asked for with the
// larger one is trusted any longer than the smaller one says.
func (f *followers) register(at l2.Partition, r l2.Registration, now time.Time) {
	if r.Name == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.at(placeOf(at), now)
	m, ok := l.members[r.Name]
	if !ok || m.bound < r.Bound || m.until.Sub(now) < r.Bound+l2.RegistrationSlack/2 || m.until.Sub(now) > m.bound+l2.RegistrationSlack {
		l.members[r.Name] = member{r.Bound, now.Add(r.Bound + l2.RegistrationSlack)}
	}
}

// inEpoch notes which epoch one who registered was answered in.
func (f *followers) inEpoch(at l2.Partition, r l2.Registration, epoch soracache.Epoch, now time.Time) {
	if r.Name == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at(placeOf(at), now).inEpoch(epoch, now)
}

func (l *list) inEpoch(epoch soracache.Epoch, now time.Time) {
	if l.epoch != epoch {
		l.epoch, l.born = epoch, now
	}
}

// list answers who is registered, and forgets those who are no more.
func (f *followers) list(at l2.Partition, a *l2.InvalidateAnswer, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.at(placeOf(at), now)
	l.inEpoch(a.Record.Epoch, now)
	a.Registered = make([]l2.Registration, 0, len(l.members))
	for name, m := range l.members {
		if !now.Before(m.until) {
			delete(l.members, name)
			continue
		}
		l.members[name] = m.possible(now)
		a.Registered = append(a.Registered, l2.Registration{Name: name, Bound: m.bound})
	}
	if l.born.After(now) { // the clock was set back
		l.born = now
	}
	a.RegisteredFor = now.Sub(l.born)
}

// followed reports whether somebody's registration with a ledger was not over yet
// at a time.
func (f *followers) followed(p place, at time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lists[p]
	if l == nil {
		return false
	}
	for _, m := range l.members {
		if at.Before(m.until) {
			return true
		}
	}
	return false
}

// drop forgets who followed a ledger that has ended.
func (f *followers) drop(p place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.lists, p)
}

// last returns when the last registration with a namespace is over.
func (f *followers) last(namespace string) (last time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at, l := range f.lists {
		if at.namespace != namespace {
			continue
		}
		for _, m := range l.members {
			if m.until.After(last) {
				last = m.until
			}
		}
	}
	return last
}

// forget drops those whose registrations have been over for as long as a lease
// lasts, and the lists on which there is nobody else.
func (f *followers) forget(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at, l := range f.lists {
		for name, m := range l.members {
			l.members[name] = m.possible(now)
		}
		maps.DeleteFunc(l.members, func(_ string, m member) bool { return !now.Before(m.until.Add(soracache.MaxLease)) })
		if len(l.members) == 0 && now.Sub(l.born) > l2.MaxBound+l2.RegistrationSlack {
			delete(f.lists, at)
		}
	}
}
