package node

import (
	"slices"

	"github.com/soracache/soracache"
)

// Once a request has come in, a key in a schema is one string, its name (see
// [soracache.Name]): L1, flights, fills under way and parked readers go by it, and
// so does the store. What judges goes by the key itself: partitions, records and
// marks, and who is woken by a record.

// named returns the reads with names in the place of their keys. The caller's stay
// as they are.
func named(reads []soracache.Read) ([]soracache.Read, error) {
	first := slices.IndexFunc(reads, func(r soracache.Read) bool { return r.Schema != "" })
	if first < 0 {
		return reads, nil
	}
	reads = slices.Clone(reads)
	for i := first; i < len(reads); i++ {
		r := &reads[i]
		if err := soracache.CheckSchema(r.Schema); err != nil {
			return nil, err
		}
		r.Key = soracache.Name(r.Schema, r.Key)
	}
	return reads, nil
}
