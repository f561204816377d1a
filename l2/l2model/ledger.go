package l2model

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// ledger is the model's record of invalidations in one partition.
type ledger struct {
	count uint16
	epoch soracache.Epoch
	head  soracache.Position // the last of issued
	// cleared is the position of the last record that named everything; zero
	// if none did. It is never forgotten.
	cleared soracache.Position
	tags    records
	keys    records
	// issued holds, ascending, the positions that were given out. It is never
	// empty, and goes back to the newest one that is older than the retention.
	issued []soracache.Position
	// left holds the epochs that this ledger left or was shown when it took a
	// new one, newest last.
	left []soracache.Epoch
	// longestKeep is the longest keep time of any entry ever stored: how long
	// a tag's record may matter.
	longestKeep time.Duration
}

// mostLeft is how many left epochs are remembered.
const mostLeft = 1000

// mint returns the ledger's next life. The receiver is nil if there is none to
// go on from. The new head is above everything known, so that no position is
// given out twice even if an epoch were met again.
func (l *ledger) mint(epoch soracache.Epoch, count uint16, now time.Time, shown soracache.Stamp) *ledger {
	if l == nil {
		l = &ledger{count: count}
	}
	left := slices.Clone(l.left)
	for _, e := range []soracache.Epoch{l.epoch, shown.Epoch} {
		if e != 0 && !slices.Contains(left, e) {
			left = append(left, e)
		}
	}
	for slices.Contains(left, epoch) {
		epoch++
	}
	head := max(l.head, positionAt(now), shown.Position) + 1
	return &ledger{
		count:       count,
		epoch:       epoch,
		head:        head,
		tags:        newRecords(),
		keys:        newRecords(),
		issued:      []soracache.Position{head},
		left:        left[max(0, len(left)-mostLeft):],
		longestKeep: l.longestKeep,
	}
}

func positionAt(t time.Time) soracache.Position {
	return soracache.Position(max(t.UnixMicro(), 0))
}

func (l *ledger) stamp() soracache.Stamp {
	return soracache.Stamp{Epoch: l.epoch, Position: l.head}
}

// differs reports whether what a caller shows belongs to a history that is
// neither this ledger's nor one that it knows it left.
func (l *ledger) differs(shown soracache.Stamp) bool {
	switch {
	case shown.Epoch == 0:
		return false
	case shown.Epoch != l.epoch:
		return !slices.Contains(l.left, shown.Epoch)
	case shown.Position > l.head:
		return true
	case shown.Position < l.issued[0]:
		return false // too old to tell: a reset will do
	}
	_, issued := slices.BinarySearch(l.issued, shown.Position)
	return !issued
}

// append records the targets at a new position.
func (l *ledger) append(targets []soracache.Target, now time.Time, keep l2.Retention) soracache.Record {
	r := soracache.Record{
		Epoch:    l.epoch,
		Prev:     l.head,
		Position: max(l.head+1, positionAt(now)),
		Targets:  targets,
	}
	for _, t := range targets {
		switch t.Kind {
		case soracache.TargetKey:
			l.keys.put(t.Name, r.Position)
		case soracache.TargetTag:
			l.tags.put(t.Name, r.Position)
		case soracache.TargetAll:
			l.cleared = r.Position
		}
	}
	l.head = r.Position
	l.issued = append(l.issued, r.Position)
	l.trim(now, keep)
	return r
}

// trim forgets what is older than the retention and what is over the caps. A
// tag's record stays at least as long as an entry that it could kill.
func (l *ledger) trim(now time.Time, keep l2.Retention) {
	horizon := positionAt(now.Add(-keep.Age))
	l.keys.trim(horizon, keep.KeyRecords)
	l.tags.trim(min(horizon, positionAt(now.Add(-l.longestKeep))), keep.TagRecords)
	for len(l.issued) > 1 && l.issued[1] <= horizon {
		l.issued = l.issued[1:]
	}
}

// floor is the least position from which the ledger can tell what came after.
func (l *ledger) floor() soracache.Position {
	return max(l.issued[0], l.tags.floor, l.keys.floor)
}

// judge applies the one rule to something with a stamp: it says why it is
// dead, and which record killed it if one is known. The reason is empty if it
// is live.
func (l *ledger) judge(stamp soracache.Stamp, name string, tags []string) (string, soracache.Record) {
	if stamp.Epoch != l.epoch {
		return "of another epoch", soracache.Record{}
	}
	if stamp.Position > l.head { // the ledger lost its tail: no stamp is ahead of its head
		return "ahead of the ledger", soracache.Record{}
	}
	if deaths := l.killers(stamp.Position, name, tags); len(deaths) > 0 {
		return deaths[0].Targets[0].String() + " was invalidated", deaths[0]
	}
	if len(tags) > 0 && stamp.Position < l.tags.floor {
		return "has tags and is older than the tag records", soracache.Record{}
	}
	return "", soracache.Record{}
}

// removed says which record was the last to remove a name under which nothing
// is stored, if one is known.
func (l *ledger) removed(name string) (string, soracache.Record) {
	key := soracache.KeyOf(name)
	at, target := l.keys.latest[key], soracache.Key(key)
	if l.cleared > at {
		at, target = l.cleared, soracache.Everything()
	}
	if at == 0 {
		return "", soracache.Record{}
	}
	return target.String() + " was invalidated",
		soracache.Record{Epoch: l.epoch, Position: at, Targets: []soracache.Target{target}}
}

// killers returns the records after a position that name everything, the key of
// a name, or one of the tags.
func (l *ledger) killers(after soracache.Position, name string, tags []string) []soracache.Record {
	key := soracache.KeyOf(name)
	var all []soracache.Record
	add := func(at soracache.Position, t soracache.Target) {
		if at > after {
			all = append(all, soracache.Record{Epoch: l.epoch, Position: at, Targets: []soracache.Target{t}})
		}
	}
	add(l.cleared, soracache.Everything())
	add(l.keys.latest[key], soracache.Key(key))
	for _, t := range tags {
		add(l.tags.latest[t], soracache.Tag(t))
	}
	return all
}

// delta is what an answer tells a caller that has shown a stamp which does not
// differ.
func (l *ledger) delta(shown soracache.Stamp) soracache.Delta {
	d := soracache.Delta{Epoch: l.epoch, Head: l.head}
	switch {
	case shown.Epoch == 0:
		return d
	case shown.Epoch != l.epoch || shown.Position < l.floor():
		d.Reset = true
		return d
	}
	held := 0
	for rest := l.after(shown.Position); len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].at == rest[0].at {
			n++
		}
		if held > 0 && held+n > l2.MaxDelta {
			d.More = true
			break
		}
		d.Records = append(d.Records, grouped(l.epoch, rest[:n]))
		held += n
		rest = rest[n:]
	}
	return d
}

// mark is the latest position of one target.
type mark struct {
	at     soracache.Position
	target soracache.Target
}

// after returns the targets whose latest position is after one, ascending.
func (l *ledger) after(position soracache.Position) []mark {
	marks := l.tags.after(position, soracache.TargetTag)
	marks = append(marks, l.keys.after(position, soracache.TargetKey)...)
	if l.cleared > position {
		marks = append(marks, mark{l.cleared, soracache.Everything()})
	}
	slices.SortStableFunc(marks, func(a, b mark) int { return cmp.Compare(a.at, b.at) })
	return marks
}

func grouped(epoch soracache.Epoch, marks []mark) soracache.Record {
	r := soracache.Record{Epoch: epoch, Position: marks[0].at}
	for _, m := range marks {
		r.Targets = append(r.Targets, m.target)
	}
	return r
}

// records holds the latest position of each target of one kind.
type records struct {
	latest map[string]soracache.Position
	// order holds what latest holds, ascending, and among it some that a later
	// one of the same name has replaced.
	order []named
	// floor is the newest position that was forgotten.
	floor soracache.Position
}

type named struct {
	at   soracache.Position
	name string
}

func newRecords() records { return records{latest: make(map[string]soracache.Position)} }

func (r *records) put(name string, at soracache.Position) {
	if r.latest[name] == at {
		return
	}
	r.latest[name] = at
	r.order = append(r.order, named{at, name})
	if len(r.order) > 2*len(r.latest)+64 {
		r.order = slices.DeleteFunc(r.order, r.replaced)
	}
}

func (r *records) replaced(n named) bool { return r.latest[n.name] != n.at }

// trim forgets the oldest: those not after the horizon, and as many as there
// are too many.
func (r *records) trim(horizon soracache.Position, most int) {
	for len(r.order) > 0 {
		oldest := r.order[0]
		if !r.replaced(oldest) {
			if oldest.at > horizon && len(r.latest) <= most {
				return
			}
			delete(r.latest, oldest.name)
			r.floor = oldest.at
		}
		r.order = r.order[1:]
	}
}

func (r *records) after(position soracache.Position, kind soracache.TargetKind) []mark {
	from, _ := slices.BinarySearchFunc(r.order, position+1, func(n named, p soracache.Position) int {
		return cmp.Compare(n.at, p)
	})
	var marks []mark
	for _, n := range r.order[from:] {
		if !r.replaced(n) {
			marks = append(marks, mark{n.at, soracache.Target{Kind: kind, Name: n.name}})
		}
	}
	return marks
}

// clone copies a partition deeply enough that neither copy can change the
// other. Entries, and the list of epochs left, are never changed in place.
func (p *partition) clone() *partition {
	c := &partition{
		entries: maps.Clone(p.entries), leases: maps.Clone(p.leases), passed: maps.Clone(p.passed),
		schemas:    cloneSchemas(p.schemas),
		registered: p.registered.clone(), attach: p.attach, keptUntil: p.keptUntil, settling: maps.Clone(p.settling), later: p.later, tomb: p.tomb,
	}
	if p.ledger != nil {
		l := *p.ledger
		l.tags, l.keys, l.issued = l.tags.clone(), l.keys.clone(), slices.Clone(l.issued)
		c.ledger = &l
	}
	return c
}

func (r *records) clone() records {
	return records{latest: maps.Clone(r.latest), order: slices.Clone(r.order), floor: r.floor}
}
