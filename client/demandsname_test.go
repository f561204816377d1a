package client

import (
	"testing"

	"github.com/soracache/soracache"
)

// No two keys share a load, whatever bytes they are made of.
func TestNoTwoKeysShareALoad(t *testing.T) {
	one := soracache.Stamps{{Partition: 0, Stamp: soracache.Stamp{Epoch: 1, Position: 2}}}
	two := soracache.Stamps{{Partition: 1, Stamp: soracache.Stamp{Epoch: 3, Position: 4}}}
	names := map[string]string{}
	for _, key := range []string{
		"a", "a\x00", "a" + string(one.Encode()), "a\x00" + string(one.Encode()), "a" + sharedSuffix(shareOneStamp, one), "a" + string(two.Encode()),
	} {
		for _, more := range []soracache.Stamps{one, two} {
			name := key + sharedSuffix(shareOneStamp, more)
			if other, taken := names[name]; taken {
				t.Errorf("%q and %q have one name", key, other)
			}
			names[name] = key
		}
		if key+sharedSuffix(sharePlain, one) != key || key+sharedSuffix(shareDemands, one) != key {
			t.Errorf("%q has another name", key)
		}
	}
}
