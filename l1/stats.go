package l1

// Stats are a cache's running totals since it was made.
type Stats struct {
	Hits, Misses uint64
	// Puts that were taken in, and puts that were turned away by the admission
	// policy or because the entry alone is larger than the cache.
	Puts, Rejections uint64
	// Evictions are entries that had to go for others.
	Evictions uint64
	// Bytes is the cost of what is held, and Limit the most it may be.
	Bytes, Limit uint64
	// Entries is how many are held.
	Entries uint64
}
