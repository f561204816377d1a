package near

import (
	"hash/maphash"
	"slices"
	"testing"

	"github.com/soracache/soracache"
)

// Of two entries that are on their way at the same time, the near cache keeps one only
// if they are the same. Names may have any bytes in them.
func TestContentsAreToldApart(t *testing.T) {
	v := func(value, encoding, etag string, tags ...string) soracache.Entry {
		return soracache.Entry{Value: []byte(value), Encoding: encoding, ETag: etag, Tags: tags}
	}
	n := &Cache{seed: maphash.MakeSeed()}
	var sums []uint64
	for i, e := range []soracache.Entry{
		v("v", "raw", "", "a", "b"), v("v", "raw", "", "a\x00b"), v("v", "raw", "b", "a"), v("v", "raw", "a\x00b"),
		v("v", "raw\x00a", "b"), v("v\x00raw", "a", "b"), v("v\x00raw\x00a", "b", ""), v("v", "raw", "", "a", "b", ""), v("v", "raw", "", "ab"),
	} {
		sum := n.sum(e)
		if slices.Contains(sums, sum) {
			t.Errorf("%d is told apart from none before it", i)
		}
		sums = append(sums, sum)
	}
}
