// Package capability names what a node of this version can do, as the nodes of a
// cluster tell each other. It knows nothing else.
package capability

import (
	"math/bits"
	"strconv"
)

// What nodes can do, as bits.
const (
	// Records: it takes in records.
	Records uint64 = 1 << iota
	// Freed: it wakes those who wait for leases that ended elsewhere.
	Freed
	// Acknowledge: it acknowledges invalidations.
	Acknowledge

	// All is what this version can do.
	All = Records | Freed | Acknowledge
)

// Names names bits; those of later versions by their number.
func Names(set uint64) []string {
	var names []string
	for set != 0 {
		bit := bits.TrailingZeros64(set)
		set &^= 1 << bit
		switch uint64(1) << bit {
		case Records:
			names = append(names, "records")
		case Freed:
			names = append(names, "freed")
		case Acknowledge:
			names = append(names, "acknowledge")
		default:
			names = append(names, "bit"+strconv.Itoa(bit))
		}
	}
	return names
}
