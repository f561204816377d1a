package embedded

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// leaseKey names what a lease is on.
type leaseKey struct {
	partition uint32
	key       string // a name: see [soracache.Name]
}

// lease is who computes a key. Leases are kept in memory: a process that is
// killed loses them, and fills under them are then refused.
type lease struct {
	nonce soracache.Lease
	stamp soracache.Stamp
	until time.Time
}

// holds reports whether the lease keeps others waiting. One that no fill can
// complete any more, because it is of another epoch or from before a clear,
// does not.
func (l lease) holds(led *ledger, now time.Time) bool {
	return now.Before(l.until) && l.stamp.Epoch == led.epoch && l.stamp.Position >= led.cleared
}

// passed says whose load left nothing, and until when that is remembered. Like
// leases, it is kept in memory.
type passed struct {
	holder uint64
	until  time.Time
}

// mostPassed bounds what is remembered. What is too much is not.
const mostPassed = 100_000

// leftNothing notes that the load under a lease left nothing. mu is held.
func (s *Store) leftNothing(k leaseKey, held lease, d time.Duration, now time.Time) {
	if d = min(d, l2.MaxRemember); d > 0 && len(s.passed) < mostPassed {
		s.passed[k] = passed{holder: held.nonce.Holder(), until: now.Add(d)}
	}
}

// remembered returns whose load left nothing, if that is remembered. mu is held.
func (s *Store) remembered(k leaseKey, now time.Time) (holder uint64, ok bool) {
	p, ok := s.passed[k]
	if left := p.until.Sub(now); left <= 0 || left > l2.MaxRemember { // or the clock was set back
		return 0, false
	}
	return p.holder, ok
}

// refused takes in that there was no room for what a fill or a put was to store.
// A fill that is refused ends its lease. For a little while leases are refused
// then, since nothing that they are for could be stored; after that, one that is
// given tells whether there is room again.
func (s *Store) refused(req l2.WriteRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	s.fullUntil = now.Add(staysFull)
	if req.Op != soracache.OpFill {
		return
	}
	_ = s.view(func(t *txn) {
		l, err := t.find(req.Partition)
		if err != nil || l == nil {
			return
		}
		k := leaseKey{l.partition, req.Key}
		if held, ok := s.leases[k]; ok && held.nonce == req.Nonce {
			delete(s.leases, k)
			s.noteNoLease(k)
			s.leftNothing(k, held, req.Remember, now)
		}
	})
}

// staysFull is for how long leases are refused after an entry was.
const staysFull = time.Second

// isFull tells whether leases are to be refused. mu is held.
func (s *Store) isFull(now time.Time) bool {
	left := s.fullUntil.Sub(now)
	return left > 0 && left <= staysFull
}

// setLease changes a lease in a write transaction, for as long as that is not
// rolled back.
func (t *txn) setLease(k leaseKey, l lease) {
	t.rememberLease(k)
	t.s.leases[k] = l
	t.s.noteLease(k)
}

// endLease ends a lease, if there is one, in a write transaction.
func (t *txn) endLease(k leaseKey) {
	if _, ok := t.s.leases[k]; ok {
		t.rememberLease(k)
		delete(t.s.leases, k)
		t.s.noteNoLease(k)
	}
}

func (t *txn) rememberLease(k leaseKey) {
	was, existed := t.s.leases[k]
	t.undo = append(t.undo, func() {
		if existed {
			t.s.leases[k] = was
			t.s.noteLease(k)
		} else {
			delete(t.s.leases, k)
			t.s.noteNoLease(k)
		}
	})
}

// rememberPassed has what is remembered of a key come back if the transaction is
// rolled back.
func (t *txn) rememberPassed(k leaseKey) {
	was, existed := t.s.passed[k]
	t.undo = append(t.undo, func() {
		delete(t.s.passed, k)
		if existed {
			t.s.passed[k] = was
		}
	})
}

// undoLeases takes back what the transaction did to leases.
func (t *txn) undoLeases() {
	for i := len(t.undo) - 1; i >= 0; i-- {
		t.undo[i]()
	}
	t.undo = nil
}

// dropLeases deletes leases that ran out, among a part of all: which they are is
// up to the map, so that in time all are met. mu is held.
func (s *Store) dropLeases() {
	now, among := s.cfg.Now(), stepLeases+len(s.leases)/16
	for k, l := range s.leases {
		if !now.Before(l.until) {
			delete(s.leases, k)
			s.noteNoLease(k)
		}
		if among--; among == 0 {
			break
		}
	}
	among = stepLeases + len(s.passed)/16
	for k, p := range s.passed {
		if !now.Before(p.until) {
			delete(s.passed, k)
		}
		if among--; among == 0 {
			return
		}
	}
}

// A lease's row while the store is closed: nonce, epoch, position, until when it
// lasts, for how long that was when the store was closed (both in microseconds),
// partition, key. Of leases on very long keys a row may not fit its part of a
// page (see maxElement), which does no harm to a closed store. What is remembered
// of loads that left nothing is written as leases of no epoch, which hold nobody up.
const leaseFixed = 16 + 8 + 8 + 8 + 8 + 4

// leaveLeases writes the leases down, at an orderly end.
func (t *txn) leaveLeases() {
	for k, l := range t.s.leases {
		t.leaveLease(k, l)
	}
	for k, p := range t.s.passed {
		t.leaveLease(k, lease{nonce: soracache.Lease{}.HeldBy(p.holder), until: p.until})
	}
}

func (t *txn) leaveLease(k leaseKey, l lease) {
	left := l.until.Sub(t.now)
	if left <= 0 {
		return
	}
	b := append(make([]byte, 0, leaseFixed+len(k.key)), l.nonce[:]...)
	b = be64(be64(b, uint64(l.stamp.Epoch)), uint64(l.stamp.Position))
	b = be64(be64(b, uint64(l.until.UnixMicro())), uint64(left.Microseconds())) //nolint:gosec // after now
	b = append(be32(b, k.partition), k.key...)
	t.put(bLease, be64(nil, t.next(bLease)), b)
}

// takeLeases takes the leases that were written down, each once.
func (t *txn) takeLeases() {
	keys, _ := t.after(bLease, nil, nil, math.MaxInt)
	for _, k := range keys {
		if b := t.get(bLease, k); len(b) >= leaseFixed {
			t.takeLease(b)
		}
		t.delete(bLease, k)
	}
}

// takeLease takes one lease. It lasts no longer than it did when the store was
// closed, even if the clock was set back since.
func (t *txn) takeLease(b []byte) {
	next := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	var l lease
	copy(l.nonce[:], b)
	l.stamp = soracache.Stamp{Epoch: soracache.Epoch(next(16)), Position: soracache.Position(next(24))}
	until := time.UnixMicro(int64(next(32)))           //nolint:gosec // as it was written
	left := time.Duration(next(40)) * time.Microsecond //nolint:gosec // as it was written
	l.until = t.now.Add(min(until.Sub(t.now), left))
	k := leaseKey{binary.BigEndian.Uint32(b[48:]), string(b[leaseFixed:])}
	if t.s.home.unaware && ofSchema(k.key) {
		return // an invalidation of its key may not have ended it
	}
	if l.stamp.Epoch == 0 {
		t.rememberPassed(k)
		t.s.passed[k] = passed{holder: l.nonce.Holder(), until: l.until}
		return
	}
	t.setLease(k, l)
}
