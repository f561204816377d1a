package embedded

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/soracache/soracache"
)

// leaseKey names what a lease is on.
type leaseKey struct {
	partition uint32
	key       string
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

// setLease changes a lease in a write transaction, for as long as that is not
// rolled back.
func (t *txn) setLease(k leaseKey, l lease) {
	t.rememberLease(k)
	t.s.leases[k] = l
}

// endLease ends a lease, if there is one, in a write transaction.
func (t *txn) endLease(k leaseKey) {
	if _, ok := t.s.leases[k]; ok {
		t.rememberLease(k)
		delete(t.s.leases, k)
	}
}

func (t *txn) rememberLease(k leaseKey) {
	was, existed := t.s.leases[k]
	t.undo = append(t.undo, func() {
		if existed {
			t.s.leases[k] = was
		} else {
			delete(t.s.leases, k)
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
		}
		if among--; among == 0 {
			return
		}
	}
}

// A lease's row while the store is closed: nonce, epoch, position, until when it
// lasts, for how long that was when the store was closed (both in microseconds),
// partition, key. Of leases on very long keys a row may not fit its part of a
// page (see maxElement), which does no harm to a closed store.
const leaseFixed = 16 + 8 + 8 + 8 + 8 + 4

// leaveLeases writes the leases down, at an orderly end.
func (t *txn) leaveLeases() {
	for k, l := range t.s.leases {
		left := l.until.Sub(t.now)
		if left <= 0 {
			continue
		}
		b := append(make([]byte, 0, leaseFixed+len(k.key)), l.nonce[:]...)
		b = be64(be64(b, uint64(l.stamp.Epoch)), uint64(l.stamp.Position))
		b = be64(be64(b, uint64(l.until.UnixMicro())), uint64(left.Microseconds())) //nolint:gosec // after now
		b = append(be32(b, k.partition), k.key...)
		t.put(bLease, be64(nil, t.next(bLease)), b)
	}
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
	t.setLease(leaseKey{binary.BigEndian.Uint32(b[48:]), string(b[leaseFixed:])}, l)
}
