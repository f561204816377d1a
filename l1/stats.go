package l1

import (
	"runtime"
	"sync/atomic"
)

// Stats are a cache's running totals since it was made, and what it holds now.
type Stats struct {
	Hits, Misses uint64
	// Puts that were taken in, and puts that were turned away by the admission
	// policy or because the entry alone is larger than the cache.
	Puts, Rejections uint64
	// Evictions are entries that had to go for others.
	Evictions uint64
	// Bytes is the cost of what is held, the cache's fixed structures included,
	// and Limit the most it may be. Bytes never exceeds Limit.
	Bytes, Limit uint64
	// Idle is kept out of use for hash tables that grew for more entries than
	// are held now, because Go's maps do not shrink. Clear gives it back.
	Idle uint64
	// Entries is how many are held.
	Entries uint64
}

const (
	readerStripes    = 64 // a power of two, so that a hash's top bits choose
	readerStripeBits = 6
	cacheLinePair    = 128 // processors fetch lines in pairs
)

// readers counts the outcomes of Gets and knows whether any is under way: the
// two share their additions. It is striped so that Gets of different keys
// do not fight over a cache line.
type readers [readerStripes]readerStripe

// readerStripe holds hits + misses <= entered, and equality when no Get of the
// stripe is under way.
type readerStripe struct {
	entered, hits, misses atomic.Uint64
	_                     [cacheLinePair - 3*8]byte
}

func (r *readers) stripe(hash uint64) *readerStripe {
	return &r[hash>>(64-readerStripeBits)]
}

// drain returns once every Get that had entered has left. The caller has
// closed the door, so that no others enter.
func (r *readers) drain() {
	for i := range r {
		for !r[i].idle() {
			runtime.Gosched() // a Get takes nanoseconds
		}
	}
}

// idle reads what has left before what has entered: were it the other way
// about, a Get that comes and goes between could make up for one still inside.
func (s *readerStripe) idle() bool {
	left := s.hits.Load() + s.misses.Load()
	return left == s.entered.Load()
}

func (r *readers) totals() (hits, misses uint64) {
	for i := range r {
		hits += r[i].hits.Load()
		misses += r[i].misses.Load()
	}
	return hits, misses
}
