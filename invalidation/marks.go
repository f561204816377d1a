package invalidation

import (
	"math/bits"
	"sync/atomic"

	"github.com/soracache/soracache"
)

// Marks remembers, in a fixed array, when the latest record that names a
// target was applied in this process. Many targets share a slot: a collision
// makes an entry look dead that is not, which costs one read of the store, and
// never makes a dead one look live.
//
// Time in Marks is a counter of its own, not a ledger's position: positions of
// different ledgers are not comparable, and a slot that held the position of a
// ledger far ahead would refuse the entries of another for ever. An entry that
// is read again after a collision samples a newer count and is live again.
type Marks struct {
	seed  uint64
	shift uint
	slots []atomic.Uint64
	count atomic.Uint64
}

// Mark is a moment in the order in which this process applied records.
type Mark uint64

// Slot is a place in [Marks] that a target hashes to.
type Slot uint32

// NewMarks returns marks of at least size slots, rounded up to a power of two
// (8 bytes each). The seed keys the hash: random in production, so that nobody
// can aim for collisions; fixed in simulations.
func NewMarks(size int, seed uint64) *Marks {
	n := uint(bits.Len(uint(max(size, 2) - 1)))
	return &Marks{seed: seed, shift: 64 - n, slots: make([]atomic.Uint64, 1<<n)}
}

// Now returns the current moment. Sampled before a question is sent, it lies
// before every record that the question's answer might not reflect.
func (m *Marks) Now() Mark { return Mark(m.count.Load()) }

// next returns a moment that lies after all that were sampled before.
func (m *Marks) next() Mark { return Mark(m.count.Add(1)) }

// slot hashes a target of one space (a partition) by FNV-1a with the finalizer
// of MurmurHash3.
func (m *Marks) slot(space uint64, kind soracache.TargetKind, name string) Slot {
	h := (m.seed ^ space) * 0x9e3779b97f4a7c15
	h = (h ^ uint64(kind)) * 1099511628211
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return Slot((h ^ h>>33) >> m.shift) //nolint:gosec // below len(slots)
}

// set marks a slot as named by a record that is being applied now. Counting
// first and storing second is what makes a sample taken in between safe: its
// question is sent after this process knew of the record, so its answer
// reflects it.
func (m *Marks) set(s Slot) {
	mark := m.count.Add(1)
	for {
		old := m.slots[s].Load()
		if old >= mark || m.slots[s].CompareAndSwap(old, mark) {
			return
		}
	}
}

// namedSince tells whether a record that was applied after the moment may name
// one of the slots.
func (m *Marks) namedSince(slots []Slot, moment Mark) bool {
	for _, s := range slots {
		if m.slots[s].Load() > uint64(moment) {
			return true
		}
	}
	return false
}
