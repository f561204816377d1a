package embedded

import (
	"context"
	"encoding/binary"
	"math"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// What settles is found by the key of the ledger's row, and not by the numbers
// of its partition and generation: it outlives the row and its epochs.

// settleKey is where it says until when a target settles, name being folded.
func settleKey(l *ledger, kind soracache.TargetKind, name []byte) []byte {
	return concat(l.key, []byte{'t', byte(kind)}, name)
}

func settleOrderPrefix(l *ledger) []byte { return concat(l.key, []byte{'o'}) }

// settleOrderKey is where a target is among those that settle, by time.
func settleOrderKey(l *ledger, until int64, kind soracache.TargetKind, name []byte) []byte {
	return concat(be64(settleOrderPrefix(l), uint64(until)), []byte{byte(kind)}, name) //nolint:gosec // a time, not negative
}

// splitSettleOrder returns the time, the kind and the folded name of an order
// key.
func splitSettleOrder(l *ledger, k []byte) (until int64, kind soracache.TargetKind, name []byte) {
	k = k[len(l.key)+1:]
	return int64(binary.BigEndian.Uint64(k)), soracache.TargetKind(k[8]), k[9:] //nolint:gosec // as it was written
}

// isDue reports whether something has settled that is to be recorded, or settles
// for so long that the clock must have been set back.
func (t *txn) isDue(l *ledger) bool {
	return l.settling > 0 && (l.settlesFirst <= t.micros() || t.wasSetBack(l))
}

func (t *txn) wasSetBack(l *ledger) bool {
	return l.settlesLast-t.micros() > 2*soracache.MaxSettle.Microseconds()
}

// settle appends the targets whose time has come: leases that were given before
// cannot be filled any more, and what was put is dead.
func (t *txn) settle(l *ledger) {
	if !t.isDue(l) {
		return
	}
	if t.wasSetBack(l) {
		t.settleAll(l, t.micros()+soracache.MaxSettle.Microseconds())
	}
	var due []soracache.Target
	for _, k := range t.settledBy(l, t.micros()) {
		due = append(due, t.endSettling(l, k))
	}
	t.noteSettling(l)
	if len(due) > 0 {
		t.append(l, due)
	}
}

// settledBy returns the order keys of what has settled by a time.
func (t *txn) settledBy(l *ledger, now int64) (keys [][]byte) {
	prefix := settleOrderPrefix(l)
	c := t.cursor(bSettle)
	for k, _ := c.Seek(prefix); k != nil && hasPrefix(k, prefix); k, _ = c.Next() {
		if until, _, _ := splitSettleOrder(l, k); until > now {
			break
		}
		keys = append(keys, k)
	}
	return keys
}

// endSettling forgets that the target at an order key settles, and returns it.
func (t *txn) endSettling(l *ledger, order []byte) soracache.Target {
	_, kind, name := splitSettleOrder(l, order)
	key := settleKey(l, kind, name)
	target := soracache.Target{Kind: kind, Name: string(name)}
	if len(name) == foldedLength {
		target.Name = t.longName(bSettle, key)
		t.deletePrefix(bSettle, key, math.MaxInt)
	}
	t.delete(bSettle, key)
	t.delete(bSettle, order)
	l.settling--
	return target
}

// noteSettling notes in the ledger when the first has settled of what is left.
func (t *txn) noteSettling(l *ledger) {
	l.changed = true
	if l.settling == 0 {
		l.settlesFirst, l.settlesLast = 0, 0
		return
	}
	if first, _ := t.after(bSettle, settleOrderPrefix(l), nil, 1); len(first) > 0 {
		l.settlesFirst, _, _ = splitSettleOrder(l, first[0])
	}
}

// keepSettling notes that targets settle. The number of those that do is
// bounded, at the price that everything does.
func (t *txn) keepSettling(l *ledger, targets []soracache.Target, d time.Duration) {
	if d == 0 {
		return
	}
	until := t.micros() + int64((d+time.Microsecond-1)/time.Microsecond)
	for _, target := range targets {
		t.settleUntil(l, target, until)
	}
	if l.settling > l2.MaxSettling {
		t.settleAll(l, l.settlesLast)
	}
	t.noteSettling(l)
}

// settleUntil has one target settle until a time, or until a later one if it
// does already.
func (t *txn) settleUntil(l *ledger, target soracache.Target, until int64) {
	name := fold(target.Name)
	key := settleKey(l, target.Kind, name)
	if old := t.get(bSettle, key); len(old) == 8 {
		was := int64(binary.BigEndian.Uint64(old)) //nolint:gosec // as it was written
		if was >= until {
			return
		}
		t.delete(bSettle, settleOrderKey(l, was, target.Kind, name))
	} else {
		l.settling++
		t.putLongName(bSettle, key, target.Name)
	}
	t.put(bSettle, key, be64(nil, uint64(until))) //nolint:gosec // a time, not negative
	t.put(bSettle, settleOrderKey(l, until, target.Kind, name), nil)
	l.settlesLast = max(l.settlesLast, until)
}

// settleAll has everything settle until a time, in the place of what did.
func (t *txn) settleAll(l *ledger, until int64) {
	t.deletePrefix(bSettle, l.key, math.MaxInt)
	l.settling, l.settlesLast = 0, 0
	t.settleUntil(l, soracache.Everything(), until)
	t.noteSettling(l)
}

// takeSettling takes over what settled when a ledger's row was lost.
func (t *txn) takeSettling(l *ledger) {
	keys := t.settledBy(l, math.MaxInt64)
	if len(keys) == 0 {
		return
	}
	l.settling = uint32(len(keys)) //nolint:gosec // bounded
	l.settlesFirst, _, _ = splitSettleOrder(l, keys[0])
	l.settlesLast, _, _ = splitSettleOrder(l, keys[len(keys)-1])
}

// unsettled tells whether something settles that names a key, one of some tags
// or everything. It is named with the position of its latest record, zero if
// that is not remembered.
func (t *txn) unsettled(l *ledger, key string, tags []string) death {
	if l.settling == 0 {
		return death{}
	}
	settles := func(target soracache.Target) bool {
		return t.has(bSettle, settleKey(l, target.Kind, fold(target.Name)))
	}
	switch target := soracache.Key(key); {
	case settles(target):
		return death{cause: invalidated, target: target, at: t.latest(l, target.Kind, key)}
	case settles(soracache.Everything()):
		return death{cause: invalidated, target: soracache.Everything(), at: l.cleared}
	}
	for _, tag := range tags {
		if target := soracache.Tag(tag); settles(target) {
			return death{cause: invalidated, target: target, at: t.latest(l, target.Kind, tag)}
		}
	}
	return death{}
}

// settleFirst has what is due in a partition recorded, for a walk to begin.
func (s *Store) settleFirst(ctx context.Context, at l2.Partition) error {
	if ctx.Err() != nil {
		return unavailable(ctx.Err())
	}
	due := false
	err := s.view(func(t *txn) {
		l, err := t.find(at)
		due = err == nil && l != nil && t.isDue(l)
	})
	if err != nil || !due {
		return err
	}
	return s.change(ctx, func(t *txn) { t.ledger(at, soracache.Stamp{}) }) //nolint:errcheck // the walk meets the same error
}
