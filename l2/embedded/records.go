package embedded

import (
	"encoding/binary"
	"math"
	"time"

	"go.etcd.io/bbolt"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// recordKey is where the latest position of a target is, name being folded.
func recordKey(l *ledger, kind soracache.TargetKind, name []byte) []byte {
	return append(append(be32(nil, l.generation), byte(kind)), name...)
}

func orderPrefix(l *ledger, kind soracache.TargetKind) []byte {
	return append(be32(nil, l.generation), byte(kind))
}

// orderKey is where a target is among those of its kind, by position.
func orderKey(l *ledger, kind soracache.TargetKind, at soracache.Position, name []byte) []byte {
	return append(be64(orderPrefix(l, kind), uint64(at)), name...)
}

const orderFixed = 4 + 1 + 8

// splitOrderKey returns the position and the folded name of an order key.
func splitOrderKey(k []byte) (soracache.Position, []byte) {
	return soracache.Position(binary.BigEndian.Uint64(k[orderFixed-8:])), k[orderFixed:]
}

// latest returns the position of the latest record that names a target; zero
// if none is remembered.
func (t *txn) latest(l *ledger, kind soracache.TargetKind, name string) soracache.Position {
	v := t.get(bRecord, recordKey(l, kind, fold(name)))
	if len(v) < 8 {
		return 0
	}
	return soracache.Position(binary.BigEndian.Uint64(v))
}

// record notes that the latest record to name a target is at a position.
func (t *txn) record(l *ledger, target soracache.Target, at soracache.Position) {
	name := fold(target.Name)
	key := recordKey(l, target.Kind, name)
	if old := t.get(bRecord, key); len(old) == 8 {
		was := soracache.Position(binary.BigEndian.Uint64(old))
		if was == at {
			return
		}
		t.delete(bOrder, orderKey(l, target.Kind, was, name))
	} else {
		*l.held(target.Kind)++
		t.putLongName(bRecord, key, target.Name)
	}
	t.put(bRecord, key, be64(nil, uint64(at)))
	t.put(bOrder, orderKey(l, target.Kind, at, name), nil)
}

// held is the count of the records of a kind.
func (l *ledger) held(kind soracache.TargetKind) *uint32 {
	if kind == soracache.TargetTag {
		return &l.tags
	}
	return &l.keys
}

// forget deletes the record at an order key.
func (t *txn) forget(l *ledger, kind soracache.TargetKind, order []byte) {
	_, name := splitOrderKey(order)
	key := recordKey(l, kind, name)
	if len(name) == foldedLength {
		t.deletePrefix(bRecord, key, math.MaxInt)
	}
	t.delete(bRecord, key)
	t.delete(bOrder, order)
	*l.held(kind)--
	l.changed = true
}

// putLongName keeps a name that key holds folded, in rows that follow it.
func (t *txn) putLongName(b bucket, key []byte, name string) {
	if len(name) <= longestPlain {
		return
	}
	for n := uint16(0); name != ""; n++ {
		piece := min(len(name), room(len(key)+2))
		t.put(b, binary.BigEndian.AppendUint16(key[:len(key):len(key)], n), []byte(name[:piece]))
		name = name[piece:]
	}
}

// nameOf returns the whole name that an order key holds folded.
func (t *txn) nameOf(l *ledger, kind soracache.TargetKind, name []byte) string {
	if len(name) < foldedLength {
		return string(name)
	}
	return t.longName(bRecord, recordKey(l, kind, name))
}

// longName puts together the pieces of the name that key holds folded.
func (t *txn) longName(b bucket, key []byte) string {
	var whole []byte
	c := t.cursor(b)
	for k, v := c.Seek(append(key[:len(key):len(key)], 0, 0)); k != nil && hasPrefix(k, key); k, v = c.Next() {
		whole = append(whole, v...)
	}
	return string(whole)
}

// walk goes over the targets of one kind in order of position.
type walk struct {
	kind   soracache.TargetKind
	prefix []byte
	cursor *bbolt.Cursor
	at     soracache.Position // of the current one; the greatest of all at the end
	name   []byte
}

const atEnd = soracache.Position(math.MaxUint64)

func (t *txn) walkAfter(l *ledger, kind soracache.TargetKind, after soracache.Position) *walk {
	w := &walk{kind: kind, prefix: orderPrefix(l, kind), cursor: t.cursor(bOrder)}
	k, _ := w.cursor.Seek(orderKey(l, kind, after+1, nil))
	w.set(k)
	return w
}

func (w *walk) next() {
	k, _ := w.cursor.Next()
	w.set(k)
}

func (w *walk) set(k []byte) {
	w.at = atEnd
	if hasPrefix(k, w.prefix) && len(k) >= orderFixed {
		w.at, w.name = splitOrderKey(k)
	}
}

// recordsAfter returns what was recorded after a position, the two kinds merged
// in ascending order, and whether that was cut off. No record is divided.
func (t *txn) recordsAfter(l *ledger, after soracache.Position) (records []soracache.Record, more bool) {
	walks := []*walk{t.walkAfter(l, soracache.TargetKey, after), t.walkAfter(l, soracache.TargetTag, after)}
	cleared := l.cleared
	if cleared <= after {
		cleared = atEnd
	}
	held := 0
	for {
		at := min(walks[0].at, walks[1].at, cleared)
		if at == atEnd {
			return records, false
		}
		r := soracache.Record{Epoch: l.epoch, Position: at}
		for _, w := range walks {
			for ; w.at == at; w.next() {
				r.Targets = append(r.Targets, soracache.Target{Kind: w.kind, Name: t.nameOf(l, w.kind, w.name)})
			}
		}
		if cleared == at {
			r.Targets = append(r.Targets, soracache.Everything())
			cleared = atEnd
		}
		if held += len(r.Targets); held > l2.MaxDelta && len(records) > 0 {
			return records, true
		}
		records = append(records, r)
	}
}

// trimEvery is after how many recorded targets records are trimmed at the
// latest.
const trimEvery = 256

// trimIfDue trims now and then rather than with every record.
func (t *txn) trimIfDue(l *ledger) {
	r := t.s.cfg.Retention
	often := uint32(max(1, min(trimEvery, r.TagRecords/8, r.KeyRecords/8)))
	if l.untrimmed >= often || t.micros()-l.trimmedAt >= (r.Age/8).Microseconds() || t.micros() < l.trimmedAt {
		t.trim(l, 64+2*int(l.untrimmed))
	}
}

// trim raises the floors to what the retention asks for and deletes up to
// about most records and positions below them. It reports whether there are
// more.
//
// What is below a floor is as good as gone, so deleting it can wait. By age the
// floor is raised to a position that was issued, the newest old enough: whoever
// has applied that one has missed nothing, however long nothing happens.
func (t *txn) trim(l *ledger, most int) (more bool) {
	r := t.s.cfg.Retention
	horizon := t.before(r.Age)
	if p, ok := t.newestIssued(l, horizon); ok {
		l.keyFloor = max(l.keyFloor, p)
	}
	if p, ok := t.newestRecord(l, soracache.TargetTag, t.tagHorizon(l)); ok {
		l.tagFloor = max(l.tagFloor, p)
	}
	more = t.trimRecords(l, soracache.TargetKey, &l.keyFloor, r.KeyRecords, most)
	more = t.trimRecords(l, soracache.TargetTag, &l.tagFloor, r.TagRecords, most) || more
	more = t.trimIssued(l, horizon, most) || more
	l.untrimmed, l.trimmedAt, l.changed = 0, t.micros(), true
	return more
}

// before is the position of a moment that is so long ago.
func (t *txn) before(age time.Duration) soracache.Position {
	return soracache.Position(max(t.micros()-age.Microseconds(), 0))
}

// tagHorizon is up to where tags' records are old enough to be forgotten: they
// must also outlive the entries that they kill.
func (t *txn) tagHorizon(l *ledger) soracache.Position {
	keep := time.Duration(l.longestKeep) * time.Microsecond
	return t.before(max(t.s.cfg.Retention.Age, keep))
}

// newestIssued returns the newest issued position that is not after a horizon.
func (t *txn) newestIssued(l *ledger, horizon soracache.Position) (soracache.Position, bool) {
	k := t.lastBefore(bIssued, be32(nil, l.generation), issuedKey(l.generation, horizon+1))
	if k == nil {
		return 0, false
	}
	return issuedPosition(k), true
}

func (t *txn) newestRecord(l *ledger, kind soracache.TargetKind, horizon soracache.Position) (soracache.Position, bool) {
	k := t.lastBefore(bOrder, orderPrefix(l, kind), orderKey(l, kind, horizon+1, nil))
	if k == nil {
		return 0, false
	}
	p, _ := splitOrderKey(k)
	return p, true
}

// lastBefore returns the last key with a prefix that sorts before a bound. It may
// find none in a transaction that has deleted the rows just before the bound:
// bbolt's cursors do not go back over a page that has become empty.
func (t *txn) lastBefore(b bucket, prefix, bound []byte) []byte {
	c := t.cursor(b)
	k, _ := c.Seek(bound)
	if k == nil {
		k, _ = c.Last()
	} else {
		k, _ = c.Prev()
	}
	if !hasPrefix(k, prefix) {
		return nil
	}
	return k
}

// trimRecords deletes the oldest records of a kind: those not after its floor,
// and as many as there are above the cap, for which it raises the floor.
func (t *txn) trimRecords(l *ledger, kind soracache.TargetKind, floor *soracache.Position, limit, most int) (more bool) {
	keys, more := t.after(bOrder, orderPrefix(l, kind), nil, most)
	for _, k := range keys {
		at, _ := splitOrderKey(k)
		if at > *floor && int(*l.held(kind)) <= limit {
			return false
		}
		*floor = max(*floor, at)
		t.forget(l, kind, k)
	}
	return more
}

// trimIssued forgets the positions before the newest one that is old enough.
func (t *txn) trimIssued(l *ledger, horizon soracache.Position, most int) (more bool) {
	keys, more := t.after(bIssued, be32(nil, l.generation), nil, most+1)
	for i := 0; i+1 < len(keys); i++ {
		if issuedPosition(keys[i+1]) > horizon {
			return false
		}
		t.delete(bIssued, keys[i])
	}
	return more
}
