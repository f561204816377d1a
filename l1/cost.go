package l1

import (
	"math/bits"
	"runtime/metrics"
	"sort"
	"sync"
)

const (
	// tableBytes is the most that Ristretto's two hash tables were seen to take
	// for an entry, over all fill levels and after long churn (90 to 241 bytes,
	// DESIGN.md). It is the worst case that bounds memory, so that is charged.
	tableBytes = 240

	// fixedBytes is what an empty cache takes besides its counters: Ristretto's
	// buffer of 32,768 writes, its 256 shards, and our stripes.
	fixedBytes = 320 << 10

	// bytesPerCounter says how the admission policy is sized: one counter for
	// so many bytes of the limit, rounded down to a power of two. That is ten
	// for an entry of 1.3 KiB, where Ristretto is at its best, and three for
	// the smallest.
	bytesPerCounter = 128

	// counterBytes is what one counter takes: four rows of half a byte in the
	// sketch, and eight bits of the Bloom filter.
	counterBytes = 3

	// countersPerEntry is how many counters there are for each entry of a cache
	// that is bounded by their number.
	countersPerEntry = 10
)

// counters returns how many counters the sketch of a cache of maxBytes has: a
// power of two.
func counters(maxBytes int64) int64 {
	return 1 << (bits.Len64(uint64(maxBytes/bytesPerCounter)) - 1) //nolint:gosec // positive
}

// numCounters returns what to ask of Ristretto to get n counters. It rounds the
// sketch up to a power of two, and the Bloom filter (9.6 bits a counter) too:
// at five sixths both are filled, where n itself would double the filter.
func numCounters(n int64) int64 { return n / 6 * 5 }

// budget returns what is left of maxBytes for entries.
func budget(maxBytes int64) int64 {
	return maxBytes - fixedBytes - counters(maxBytes)*counterBytes
}

// Footprint returns the bytes of memory that an object of n bytes occupies:
// Go's allocator rounds up to its size classes. It is meant for
// [Config.Size] functions.
func Footprint(n int) int {
	const (
		tiny = 16 // smaller objects share blocks of this size
		page = 8 << 10
	)
	switch classes := sizeClasses(); {
	case n <= 0:
		return 0
	case n <= tiny:
		return tiny
	case n <= classes[len(classes)-1]:
		return classes[sort.SearchInts(classes, n)]
	}
	return (n + page - 1) / page * page
}

// sizeClasses returns the allocator's size classes in ascending order. The
// runtime tells them as the bounds of a histogram: each is a class plus one.
//
//nolint:gochecknoglobals // the same for the life of the process
var sizeClasses = sync.OnceValue(func() []int {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs-by-size:bytes"}}
	metrics.Read(sample)
	classes := []int{0}
	if sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return classes // then everything is charged in whole pages
	}
	for _, bound := range sample[0].Value.Float64Histogram().Buckets {
		if bound > 1 && bound <= 1<<20 {
			classes = append(classes, int(bound)-1)
		}
	}
	return classes
})
