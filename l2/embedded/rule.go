package embedded

import (
	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// death is why something is dead. The zero death is life.
type death struct {
	cause cause
	// target and at are what was recorded, and where, if that is the cause.
	target soracache.Target
	at     soracache.Position
}

type cause uint8

const (
	alive cause = iota
	expired
	otherEpoch
	ahead
	invalidated
	belowFloor
	unlisted
)

// String says it in the words of [l2.Explanation].
func (d death) String() string {
	switch d.cause {
	case expired:
		return "expired"
	case otherEpoch:
		return "of another epoch"
	case ahead:
		return "ahead of the ledger"
	case invalidated:
		return d.target.String() + " was invalidated"
	case belowFloor:
		return "has tags and is older than the tag records"
	case unlisted:
		return "of a schema that is not known to have an entry"
	case alive:
	}
	return ""
}

// record is the record that is the cause, as far as it is known.
func (d death) record(l *ledger) soracache.Record {
	if d.cause != invalidated {
		return soracache.Record{}
	}
	return soracache.Record{Epoch: l.epoch, Position: d.at, Targets: []soracache.Target{d.target}}
}

// judgeHead is as much of judge as an entry's head is enough for.
func (t *txn) judgeHead(l *ledger, h l2.EntryHead) death {
	switch {
	case h.KeepUntil <= t.micros(), h.Impossible(t.micros()):
		return death{cause: expired}
	case h.Stamp.Epoch != l.epoch:
		return death{cause: otherEpoch}
	case h.Stamp.Position > l.head: // restored from a time that the ledger has lost
		return death{cause: ahead}
	case h.Stamp.Position < l.cleared:
		return death{cause: invalidated, target: soracache.Everything(), at: l.cleared}
	}
	return death{}
}

// judge applies the rule to a stored entry.
func (t *txn) judge(l *ledger, f found) death {
	if d := t.judgeHead(l, f.head); d.cause != alive {
		return d
	}
	if !t.listed(l.partition, f.key) {
		return death{cause: unlisted}
	}
	return t.superseded(l, f.head.Stamp, soracache.KeyOf(f.key), f.tags)
}

// superseded applies the rule to a stamp: is there a record after it that names
// everything, the key or one of the tags?
func (t *txn) superseded(l *ledger, stamp soracache.Stamp, key string, tags []string) death {
	switch {
	case stamp.Epoch != l.epoch:
		return death{cause: otherEpoch}
	case l.cleared > stamp.Position:
		return death{cause: invalidated, target: soracache.Everything(), at: l.cleared}
	case l.head == stamp.Position:
		return death{} // nothing at all was recorded after it
	}
	if at := t.latest(l, soracache.TargetKey, key); at > stamp.Position {
		return death{cause: invalidated, target: soracache.Key(key), at: at}
	}
	for _, tag := range tags {
		if at := t.latest(l, soracache.TargetTag, tag); at > stamp.Position {
			return death{cause: invalidated, target: soracache.Tag(tag), at: at}
		}
	}
	if len(tags) > 0 && stamp.Position < l.tagFloor {
		return death{cause: belowFloor}
	}
	return death{}
}

// removed says which record was the last to remove what stood under a key.
func (t *txn) removed(l *ledger, key string) death {
	if at := t.latest(l, soracache.TargetKey, key); at > l.cleared {
		return death{cause: invalidated, target: soracache.Key(key), at: at}
	}
	if l.cleared > 0 {
		return death{cause: invalidated, target: soracache.Everything(), at: l.cleared}
	}
	return death{}
}
