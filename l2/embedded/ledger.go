package embedded

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// ledger is the head of one partition's ledger, as it is stored in its row.
// The records are rows of their own.
type ledger struct {
	key []byte // of its row
	// partition numbers the partition's entries, members and epochs, for ever.
	partition uint32
	// generation numbers the records and issued positions of this epoch, so
	// that a new epoch can forget all of them in one step.
	generation uint32
	count      uint16 // of partitions in the namespace
	epoch      soracache.Epoch
	head       soracache.Position
	// cleared is the position of the last record that named everything.
	cleared soracache.Position
	// tagFloor and keyFloor: records of the kind at or before it may be gone.
	tagFloor, keyFloor soracache.Position
	// longestKeep is the longest keep time of any entry ever stored, in
	// microseconds: how long a tag's record may matter.
	longestKeep int64
	// tags and keys count the records that are held, left the epochs that are
	// remembered as left or shown.
	tags, keys, left uint32
	// untrimmed counts the targets recorded since records were last trimmed,
	// which was at trimmedAt, in microseconds.
	untrimmed uint32
	trimmedAt int64
	// settling counts the targets that settle, settlesFirst and settlesLast are
	// when the first and when the last of them has, in microseconds.
	settling                  uint32
	settlesFirst, settlesLast int64

	changed bool // and not yet saved
}

const ledgerBytes = 1 + 4 + 4 + 2 + 5*8 + 8 + 4 + 4 + 4 + 4 + 8 + 4

// A row of the second version ends with what settles. It is written only while
// something does. A row of any version begins with its number, and ends with the
// sum.
const (
	ledgerVersion  = 1
	settlesVersion = 2
	settlesBytes   = ledgerBytes + 4 + 8 + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (l *ledger) encode() []byte {
	b := make([]byte, 0, settlesBytes)
	if l.settling == 0 {
		b = append(b, ledgerVersion)
	} else {
		b = append(b, settlesVersion)
	}
	b = be32(b, l.partition)
	b = be32(b, l.generation)
	b = binary.BigEndian.AppendUint16(b, l.count)
	for _, n := range []uint64{uint64(l.epoch), uint64(l.head), uint64(l.cleared), uint64(l.tagFloor), uint64(l.keyFloor), uint64(l.longestKeep)} { //nolint:gosec // a duration, not negative
		b = be64(b, n)
	}
	b = be32(b, l.tags)
	b = be32(b, l.keys)
	b = be32(b, l.left)
	b = be32(b, l.untrimmed)
	b = be64(b, uint64(l.trimmedAt)) //nolint:gosec // a time, not negative
	if l.settling != 0 {
		b = be32(b, l.settling)
		b = be64(be64(b, uint64(l.settlesFirst)), uint64(l.settlesLast)) //nolint:gosec // times, not negative
	}
	return be32(b, l.sum(b))
}

// sum is over the row's key too, so that a row cannot pass for another.
func (l *ledger) sum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(l.key, castagnoli), castagnoli, b)
}

// decodeLedger reads a row. It reports false for one that is damaged.
func decodeLedger(key, b []byte) (*ledger, bool) {
	l := &ledger{key: key}
	settles := len(b) == settlesBytes && b[0] == settlesVersion
	if !settles && (len(b) != ledgerBytes || b[0] != ledgerVersion) ||
		l.sum(b[:len(b)-4]) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return nil, false
	}
	at := 1
	next32 := func() uint32 { at += 4; return binary.BigEndian.Uint32(b[at-4:]) }
	next64 := func() uint64 { at += 8; return binary.BigEndian.Uint64(b[at-8:]) }
	l.partition, l.generation = next32(), next32()
	l.count, at = binary.BigEndian.Uint16(b[at:]), at+2
	l.epoch = soracache.Epoch(next64())
	for _, p := range []*soracache.Position{&l.head, &l.cleared, &l.tagFloor, &l.keyFloor} {
		*p = soracache.Position(next64())
	}
	l.longestKeep = int64(next64()) //nolint:gosec // as it was written
	l.tags, l.keys, l.left, l.untrimmed = next32(), next32(), next32(), next32()
	l.trimmedAt = int64(next64()) //nolint:gosec // as it was written
	if settles {
		l.settling = next32()
		l.settlesFirst, l.settlesLast = int64(next64()), int64(next64()) //nolint:gosec // as they were written
	}
	return l, true
}

// isLater reports whether a row is whole, and of a version that is not known
// here. It is somebody's ledger: to take it for a damaged one would make
// everything that it judges dead.
func isLater(key, b []byte) bool {
	if len(b) < 5 || b[0] <= settlesVersion {
		return false
	}
	l := ledger{key: key}
	return l.sum(b[:len(b)-4]) == binary.BigEndian.Uint32(b[len(b)-4:])
}

func (l *ledger) stamp() soracache.Stamp { return soracache.Stamp{Epoch: l.epoch, Position: l.head} }

// floor is the least position from which the ledger can tell what came after.
func (l *ledger) floor() soracache.Position { return max(l.tagFloor, l.keyFloor) }

func ledgerKey(at l2.Partition) []byte {
	b := append([]byte{'n'}, at.Namespace...)
	return binary.BigEndian.AppendUint16(append(b, 0), at.Index)
}

// place is where the ledger is, as its row's key tells.
func (l *ledger) place() (place, bool) {
	end := len(l.key) - 3
	if end < 1 || l.key[end] != 0 {
		return place{}, false
	}
	return place{string(l.key[1:end]), binary.BigEndian.Uint16(l.key[end+1:])}, true
}

func partitionKey(partition uint32) []byte { return be32([]byte{'p'}, partition) }

// find returns a partition's ledger, or nil if there is none or it is damaged.
func (t *txn) find(at l2.Partition) (*ledger, error) {
	if at.Index >= at.Count {
		return nil, fmt.Errorf("%w: partition %s of %d", soracache.ErrInvalid, at, at.Count)
	}
	key := ledgerKey(at)
	l := t.findKey(key)
	if l == nil && isLater(key, t.get(bLedger, key)) {
		return nil, l2.LaterError(at)
	}
	if err := t.counts(at, l); err != nil {
		return nil, err
	}
	return l, nil
}

func (t *txn) findKey(key []byte) *ledger {
	if t.changes != nil {
		if l := t.ledgers[string(key)]; l != nil {
			return l
		}
	}
	l, ok := decodeLedger(key, t.get(bLedger, key))
	if !ok {
		return nil
	}
	if t.changes != nil {
		t.keepLedger(l)
	}
	return l
}

// ledgerOf returns the ledger of a numbered partition, or nil.
func (t *txn) ledgerOf(partition uint32) *ledger {
	key := t.get(bLedger, partitionKey(partition))
	if key == nil {
		return nil
	}
	l := t.findKey(slices.Clone(key))
	if l == nil || l.partition != partition {
		return nil
	}
	return l
}

func (t *txn) keepLedger(l *ledger) {
	if t.ledgers == nil {
		t.ledgers = make(map[string]*ledger)
	}
	t.ledgers[string(l.key)] = l
}

func (t *txn) saveLedgers() {
	for _, l := range t.ledgers {
		if l.changed {
			t.put(bLedger, l.key, l.encode())
			l.changed = false
		}
	}
}

// ledger returns a partition's ledger for an operation to work on: it creates
// one that is not there, and takes a new epoch if the caller shows another
// history. That comes before anything else, so that no append of the caller's
// own can cover up that the ledger lost its tail. Then it appends what is due.
func (t *txn) ledger(at l2.Partition, shown soracache.Stamp) (*ledger, error) {
	l, err := t.find(at)
	switch {
	case err != nil:
		return nil, err
	case l == nil:
		l = &ledger{key: ledgerKey(at), count: at.Count, partition: uint32(t.next(bLedger))} //nolint:gosec // partitions ever made
		t.put(bLedger, partitionKey(l.partition), l.key)
		t.keepLedger(l)
		t.s.numbers.keep(at.Namespace, int(at.Count), t.now)
		t.takeSettling(l)
		t.mint(l, shown)
	case t.differs(l, shown):
		t.mint(l, shown)
	}
	t.settle(l)
	return l, nil
}

// differs reports whether what a caller shows belongs to a history that is
// neither this ledger's nor one that it knows it left.
func (t *txn) differs(l *ledger, shown soracache.Stamp) bool {
	switch {
	case shown.Epoch == 0:
		return false
	case shown.Epoch != l.epoch:
		return !t.has(bEpoch, epochKey(l.partition, shown.Epoch))
	case shown.Position == l.head:
		return false
	case shown.Position > l.head:
		return true
	case t.has(bIssued, issuedKey(l.generation, shown.Position)):
		return false
	}
	// Never issued, or issued too long ago to be remembered.
	oldest, _ := t.after(bIssued, be32(nil, l.generation), nil, 1)
	return len(oldest) == 0 || shown.Position > issuedPosition(oldest[0])
}

// mint begins the ledger's next life. The new head is above everything known,
// so that no position is given out twice even if an epoch were met again.
func (t *txn) mint(l *ledger, shown soracache.Stamp) {
	t.leave(l, l.epoch)
	t.leave(l, shown.Epoch)
	before := l.epoch
	for l.epoch == before || l.epoch == 0 || t.has(bEpoch, epochKey(l.partition, l.epoch)) {
		l.epoch = soracache.Epoch(t.s.cfg.Rand() & (1<<52 - 1))
	}
	if l.generation != 0 {
		t.put(bGarbage, be32([]byte{'g'}, l.generation), nil)
	}
	l.generation = uint32(t.next(bLedger)) //nolint:gosec // epochs ever made
	l.head = max(l.head, t.position(), shown.Position) + 1
	l.tagFloor, l.keyFloor, l.cleared = l.head, l.head, 0
	l.tags, l.keys, l.untrimmed, l.trimmedAt = 0, 0, 0, t.micros()
	l.changed = true
	t.put(bIssued, issuedKey(l.generation, l.head), nil)
	t.changes.epochs++
}

// mostLeft is how many left epochs a partition remembers.
const mostLeft = 1000

// leave remembers that an epoch was left, or shown by one who came from
// elsewhere.
func (t *txn) leave(l *ledger, epoch soracache.Epoch) {
	if epoch == 0 || t.has(bEpoch, epochKey(l.partition, epoch)) {
		return
	}
	order := append(be32(nil, l.partition), 's')
	if oldest, _ := t.after(bEpoch, order, nil, 1); l.left >= mostLeft && len(oldest) > 0 {
		forgotten := t.get(bEpoch, oldest[0])
		t.delete(bEpoch, concat(be32(nil, l.partition), []byte{'e'}, forgotten))
		t.delete(bEpoch, oldest[0])
		l.left--
	}
	n := be64(nil, t.next(bEpoch))
	t.put(bEpoch, epochKey(l.partition, epoch), n)
	t.put(bEpoch, append(order, n...), be64(nil, uint64(epoch)))
	l.left++
}

func epochKey(partition uint32, epoch soracache.Epoch) []byte {
	return be64(append(be32(nil, partition), 'e'), uint64(epoch))
}

func issuedKey(generation uint32, p soracache.Position) []byte {
	return be64(be32(nil, generation), uint64(p))
}

func issuedPosition(key []byte) soracache.Position {
	return soracache.Position(binary.BigEndian.Uint64(key[4:]))
}

// append records targets at a new position, and deletes the entries and leases
// of the keys among them.
func (t *txn) append(l *ledger, targets []soracache.Target) soracache.Record {
	r := soracache.Record{
		Epoch:    l.epoch,
		Prev:     l.head,
		Position: max(l.head+1, t.position()),
		Targets:  targets,
	}
	for _, target := range targets {
		switch target.Kind {
		case soracache.TargetAll:
			l.cleared = r.Position
		case soracache.TargetKey:
			t.record(l, target, r.Position)
			t.removeKey(l.partition, target.Name)
		case soracache.TargetTag:
			t.record(l, target, r.Position)
		}
	}
	l.head = r.Position
	l.untrimmed += uint32(len(targets)) //nolint:gosec // a request's
	l.changed = true
	t.put(bIssued, issuedKey(l.generation, r.Position), nil)
	t.trimIfDue(l)
	return r
}

// delta is what an answer tells a caller who has shown a stamp that does not
// differ.
func (t *txn) delta(l *ledger, shown soracache.Stamp) soracache.Delta {
	d := soracache.Delta{Epoch: l.epoch, Head: l.head}
	switch {
	case shown.Epoch == 0:
		return d
	case shown.Epoch != l.epoch || shown.Position < l.floor():
		d.Reset = true
		return d
	}
	if shown.Position < l.head {
		d.Records, d.More = t.recordsAfter(l, shown.Position)
	}
	return d
}
