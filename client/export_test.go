package client

import (
	"hash/maphash"

	"github.com/soracache/soracache"
)

// ContentsOf returns what a near cache tells entries apart by.
func ContentsOf(entries ...soracache.Entry) (sums []uint64) {
	n := &near{seed: maphash.MakeSeed()}
	for _, e := range entries {
		sums = append(sums, n.sum(e))
	}
	return sums
}
