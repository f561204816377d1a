package embedded

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/tags"
)

// The bounds of one small step.
const (
	stepRows    = 512 // deleted; the last entry may take some more
	stepEntries = 64  // deleted
	stepLeases  = 256 // looked at
	stepKeys    = 256 // looked at by a walk
	stepLedgers = 128 // looked at
)

// keepHouse does one small step of everything that is due, and reports whether
// there is more.
func (s *Store) keepHouse() (more bool) {
	if s.db == nil {
		s.inspect()
		return false
	}
	if s.paused() {
		return false
	}
	s.mu.Lock()
	s.dropLeases()
	s.mu.Unlock()
	s.followers.forget(s.cfg.Now())
	s.numbers.forget(s.cfg.Now())
	err := s.transact(stepRoom, func(t *txn) {
		more = t.expire()
		more = t.dropGarbage(stepRows) >= stepRows || more
		more = t.trimSome() || more
	})
	return more && err == nil
}

func (s *Store) paused() bool { return time.Now().Before(s.pause) }

// expire deletes entries that are past their keep time. It reports whether
// there are more.
func (t *txn) expire() (more bool) {
	now, began := dueKey(t.micros(), nil), t.work
	keys, more := t.after(bDue, nil, nil, stepEntries)
	for _, k := range keys {
		if string(k[:8]) > string(now) {
			return false
		}
		if t.work-began >= stepRows {
			return true
		}
		t.dropDue(k)
	}
	return more
}

// dropDue deletes the entry that is at a place in the order of expiry.
func (t *txn) dropDue(due []byte) (f found, dropped bool) {
	key := due[8:]
	if b := t.get(bEntry, key); b != nil {
		if f, ok := t.peek(b); !ok || string(dueKey(f.head.KeepUntil, key)) == string(due) {
			t.remove(key)
			t.delete(bDue, due)
			return f, ok
		}
	}
	t.delete(bDue, due) // left behind by an entry that could not be read
	return found{}, false
}

// trimSome looks after some ledgers, those that follow the one that it came to
// last: it records what has settled, trims, and ends those that nobody can need any
// more. It reports whether there was more to trim than is done in one step.
func (t *txn) trimSome() (more bool) {
	prefix, began := []byte{'n'}, t.work
	keys, others := t.after(bLedger, prefix, t.s.trimmed, stepLedgers)
	t.s.trimmed = nil
	for i, k := range keys {
		key := slices.Clone(k)
		l := t.findKey(key)
		if l == nil {
			continue // damaged: whoever comes next begins it anew
		}
		t.settle(l)
		if t.overdue(l) {
			more = t.trim(l, stepRows) || more
		}
		if t.over(l) {
			t.endLedger(l)
		}
		if others || i+1 < len(keys) {
			t.s.trimmed = key[1:]
		}
		if t.work-began >= stepRows {
			break
		}
	}
	return more
}

// over reports whether nobody can need a ledger any more: nothing was recorded
// lately, nothing is stored, leased or settles, and nobody has been registered for
// as long as a lease lasts.
func (t *txn) over(l *ledger) bool {
	// (A head that is far ahead was given out before the clock was set back.)
	if l.head > t.before(l2.LedgerQuiet) && l.head <= t.before(-l2.LedgerQuiet) || l.settling > 0 {
		return false
	}
	if stored, _ := t.after(bEntry, be32(nil, l.partition), nil, 1); len(stored) > 0 {
		return false
	}
	at, ok := l.place()
	if !ok || t.s.followers.followed(at, t.now.Add(-soracache.MaxLease)) {
		return false
	}
	for k, held := range t.s.leases {
		if k.partition == l.partition && t.now.Before(held.until) {
			return false
		}
	}
	return true
}

// endLedger deletes all that there is of a ledger; its records in small steps.
func (t *txn) endLedger(l *ledger) {
	t.put(bGarbage, be32([]byte{'g'}, l.generation), nil)
	for _, b := range []bucket{bEpoch, bMember, bSchema} {
		t.deletePrefix(b, be32(nil, l.partition), math.MaxInt)
	}
	t.delete(bLedger, partitionKey(l.partition))
	t.delete(bLedger, l.key)
	delete(t.ledgers, string(l.key))
	if at, ok := l.place(); ok {
		t.s.followers.drop(at)
	}
}

// overdue reports whether trimming would find something to forget by age.
func (t *txn) overdue(l *ledger) bool {
	horizon := t.before(t.s.cfg.Retention.Age)
	issued, _ := t.after(bIssued, be32(nil, l.generation), nil, 2)
	return len(issued) == 2 && issuedPosition(issued[1]) <= horizon ||
		t.oldestRecord(l, soracache.TargetKey) <= l.keyFloor ||
		t.oldestRecord(l, soracache.TargetTag) <= max(l.tagFloor, t.tagHorizon(l))
}

// oldestRecord returns the position of the oldest record of a kind that is held.
func (t *txn) oldestRecord(l *ledger, kind soracache.TargetKind) soracache.Position {
	keys, _ := t.after(bOrder, orderPrefix(l, kind), nil, 1)
	if len(keys) == 0 {
		return atEnd
	}
	at, _ := splitOrderKey(keys[0])
	return at
}

// crowded reports whether the store is so full that it should evict something
// before somebody has to wait for it.
func (s *Store) crowded() bool {
	return s.db != nil && !s.paused() && s.used.Load() > s.cfg.MaxBytes-s.cfg.MaxBytes/64 && s.evict() > 0
}

// makeRoom evicts until so many more bytes fit, and reports if they do not, or if
// the disk has no space for them. It makes a little more room than is needed, so
// as not to be needed every time.
func (s *Store) makeRoom(size int) error {
	need := roomFor(size)
	if s.used.Load()+need > s.cfg.MaxBytes {
		for s.used.Load()+need+evictAhead > s.cfg.MaxBytes && s.evict() > 0 {
		}
	}
	if s.used.Load()+need > s.cfg.MaxBytes {
		return errFull
	}
	err := s.reserve(need + headroom)
	if now := time.Now(); err != nil && now.After(s.complainAfter) {
		s.complainAfter = now.Add(mostPause)
		s.log.Error("embedded store: entries cannot be stored", "dir", s.cfg.Dir, "error", err)
	}
	return err
}

const (
	evictAhead = 256 << 10
	// headroom is the space on the disk that entries leave to invalidations, which
	// need next to none: a disk that is full must not keep them from being recorded.
	headroom = 1 << 20
)

// evict deletes some of what is closest to its expiry, and garbage before it.
// It returns how many rows it deleted, entries counting as one.
func (s *Store) evict() (dropped int) {
	err := s.transact(stepRoom, func(t *txn) {
		if dropped = t.dropGarbage(stepRows); dropped > 0 {
			return
		}
		keys, _ := t.after(bDue, nil, nil, stepEntries)
		for _, k := range keys {
			if t.work >= stepRows {
				break
			}
			f, ok := t.dropDue(k)
			if l := t.ledgerOf(binary.BigEndian.Uint32(k[8:])); ok && l != nil && t.judge(l, f).cause == alive {
				t.evicted++
			}
			dropped++
		}
	})
	if err != nil {
		return 0
	}
	return dropped
}

// Sweep implements [l2.Store]. What has outlived its time is found in one order
// for all partitions; ledgers are looked after in turn.
func (s *Store) Sweep(ctx context.Context) (more bool, err error) {
	s.followers.forget(s.cfg.Now())
	err = s.change(ctx, func(t *txn) {
		more = t.expire()
		more = t.dropGarbage(stepRows) >= stepRows || more
		more = t.trimSome() || more
		t.s.dropLeases()
	})
	return more && err == nil, err
}

// The walks that cursors belong to.
const (
	walkList = iota + 1
	walkReclaim
)

// page is some of the keys of a tag, or with an empty tag of a partition.
type page struct {
	ledger *ledger
	keys   [][]byte // of bEntry
	next   string   // how to go on; empty at the end
}

// page returns up to most keys from where a cursor says. There is no ledger if
// nothing was ever stored.
func (t *txn) page(at l2.Partition, walk uint8, tag string, c tags.Cursor, most int) (p page, err error) {
	if p.ledger, err = t.find(at); err != nil || p.ledger == nil {
		return p, err
	}
	b, prefix := bEntry, be32(nil, p.ledger.partition)
	if tag != "" {
		b, prefix = bMember, memberPrefix(p.ledger.partition, tag)
	}
	var from []byte
	if c.After != "" {
		from = []byte(c.After)
	}
	keys, more := t.after(b, prefix, from, most)
	for _, k := range keys {
		p.keys = append(p.keys, append(be32(nil, p.ledger.partition), k[len(prefix):]...))
	}
	if more {
		p.next = tags.Cursor{Walk: walk, After: string(p.keys[len(p.keys)-1][4:])}.Encode()
	}
	return p, nil
}

// ListKeys implements [l2.Store].
func (s *Store) ListKeys(ctx context.Context, at l2.Partition, tag, cursor string, limit int) (keys []string, next string, err error) {
	c, err := tags.DecodeCursor(walkList, cursor)
	if err != nil {
		return nil, "", err
	}
	if err := s.settleFirst(ctx, at); err != nil {
		return nil, "", err
	}
	viewErr := s.view(func(t *txn) {
		var p page
		if p, err = t.page(at, walkList, tag, c, min(max(limit, 1), 4*stepKeys)); err != nil {
			return
		}
		for _, k := range p.keys {
			if f, ok := t.peek(t.get(bEntry, k)); ok && carries(f, tag) && t.judge(p.ledger, f).cause == alive {
				keys = append(keys, soracache.KeyOf(f.key))
			}
		}
		next = p.next
	})
	if viewErr != nil {
		return nil, "", viewErr
	}
	return keys, next, err
}

// carries reports whether an entry has a tag; every entry has the empty one.
func carries(f found, tag string) bool {
	return tag == "" || slices.Contains(f.tags, tag)
}

// Reclaim implements [l2.Store]. It looks for what is dead in a read
// transaction, and has that deleted if it still is.
func (s *Store) Reclaim(ctx context.Context, at l2.Partition, tag, cursor string) (next string, deleted int, err error) {
	c, err := tags.DecodeCursor(walkReclaim, cursor)
	if err != nil {
		return "", 0, err
	}
	if err := s.settleFirst(ctx, at); err != nil {
		return "", 0, err
	}
	var p page
	var dead [][]byte
	viewErr := s.view(func(t *txn) {
		if p, err = t.page(at, walkReclaim, tag, c, stepKeys); err != nil {
			return
		}
		for _, k := range p.keys {
			if t.isDead(p.ledger, k, tag) {
				dead = append(dead, k)
			}
		}
	})
	if viewErr != nil || err != nil {
		return "", 0, firstOf(viewErr, err)
	}
	for len(dead) > 0 && err == nil {
		var looked, n int
		err = s.change(ctx, func(t *txn) { looked, n = t.reclaim(at, tag, dead) })
		if err == nil {
			dead, deleted = dead[looked:], deleted+n
		}
	}
	if err != nil {
		return "", deleted, err
	}
	return p.next, deleted, nil
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// isDead reports whether the entry at a key of bEntry is dead, or is not there
// though a tag says so.
func (t *txn) isDead(l *ledger, key []byte, tag string) bool {
	f, ok := t.peek(t.get(bEntry, key))
	return !ok || !carries(f, tag) || t.judge(l, f).cause != alive
}

// reclaim deletes the entries at keys of bEntry that are dead, and what a tag
// says of entries that are not there, until that is enough for one step. It
// returns how many of the keys it came to and how many entries it deleted.
func (t *txn) reclaim(at l2.Partition, tag string, keys [][]byte) (looked, deleted int) {
	l, err := t.find(at)
	if err != nil || l == nil {
		return len(keys), 0
	}
	began := t.work
	for _, k := range keys {
		if t.work-began >= stepRows {
			break
		}
		looked++
		b := t.get(bEntry, k)
		f, ok := t.peek(b)
		mine := ok && carries(f, tag) || b != nil && tag == ""
		if ok && mine && t.judge(l, f).cause == alive {
			continue // written anew since
		}
		if mine {
			t.remove(k)
			deleted++
		}
		if tag != "" {
			t.delete(bMember, memberKey(k, tag))
		}
	}
	return looked, deleted
}
