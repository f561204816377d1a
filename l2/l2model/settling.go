package l2model

import (
	"cmp"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// settling holds the targets of a partition that settle, each until when.
type settling map[soracache.Target]time.Time

// last returns until when the last of them settles.
func (s settling) last() (last time.Time) {
	for _, until := range s {
		if until.After(last) {
			last = until
		}
	}
	return last
}

// settle appends the targets whose time has come: leases that were given before
// cannot be filled any more, and what was put is dead.
func (s step) settle() {
	if latest := s.now.Add(soracache.MaxSettle); s.settling.last().Sub(latest) > soracache.MaxSettle {
		s.partition.settling = settling{soracache.Everything(): latest} // the clock was set back
	}
	var due []soracache.Target
	for target, until := range s.settling {
		if !s.now.Before(until) {
			due = append(due, target)
			delete(s.settling, target)
		}
	}
	if len(due) > 0 {
		s.append(sortedTargets(due))
	}
}

// sortedTargets returns the targets by kind and name, each once: what is recorded must
// not depend on the order of a map.
func sortedTargets(targets []soracache.Target) []soracache.Target {
	s := slices.Clone(targets)
	slices.SortFunc(s, func(a, b soracache.Target) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(s)
}

// keepSettling notes that targets settle. The number of those that do is
// bounded, at the price that everything does.
func (s step) keepSettling(targets []soracache.Target, d time.Duration) {
	if d == 0 {
		return
	}
	if s.settling == nil {
		s.partition.settling = make(settling)
	}
	until := s.now.Add(d)
	for _, t := range targets {
		if until.After(s.settling[t]) {
			s.settling[t] = until
		}
	}
	if len(s.settling) > l2.MaxSettling {
		s.partition.settling = settling{soracache.Everything(): s.settling.last()}
	}
}

// settles tells whether something settles that names a key, one of some tags or
// everything, and what: the latest record of it, as far as that is remembered.
func (s step) settles(name string, tags []string) (soracache.Record, bool) {
	key := soracache.KeyOf(name)
	named := []soracache.Target{soracache.Key(key), soracache.Everything()}
	for _, tag := range tags {
		named = append(named, soracache.Tag(tag))
	}
	i := slices.IndexFunc(named, func(t soracache.Target) bool { return !s.settling[t].IsZero() })
	if i < 0 {
		return soracache.Record{}, false
	}
	at := map[soracache.TargetKind]soracache.Position{
		soracache.TargetKey: s.ledger.keys.latest[key],
		soracache.TargetAll: s.ledger.cleared,
		soracache.TargetTag: s.ledger.tags.latest[named[i].Name],
	}[named[i].Kind]
	return soracache.Record{Epoch: s.ledger.epoch, Position: at, Targets: named[i : i+1]}, true
}
