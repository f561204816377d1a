package near

import (
	"testing"

	"github.com/soracache/soracache"
)

// What is near has to reflect what the context carries and what the client has seen.
// Where these are of two epochs, the near cache may still be in either, and so cannot
// tell.
func TestWhatIsNearHasToReflect(t *testing.T) {
	in := func(epoch soracache.Epoch, at soracache.Position) soracache.Stamps {
		return soracache.Stamps{{Partition: 3, Stamp: soracache.Stamp{Epoch: epoch, Position: at}}}
	}
	for name, c := range map[string]struct {
		seen, carried soracache.Stamps
		want          soracache.Stamp
		unknown       bool
	}{
		"nothing":                    {},
		"seen":                       {seen: in(1, 5), want: soracache.Stamp{Epoch: 1, Position: 5}},
		"carried":                    {carried: in(1, 5), want: soracache.Stamp{Epoch: 1, Position: 5}},
		"more seen":                  {seen: in(1, 7), carried: in(1, 5), want: soracache.Stamp{Epoch: 1, Position: 7}},
		"more carried":               {seen: in(1, 5), carried: in(1, 7), want: soracache.Stamp{Epoch: 1, Position: 7}},
		"carried of another epoch":   {seen: in(2, 9), carried: in(1, 5), unknown: true},
		"carried of a later epoch":   {seen: in(1, 5), carried: in(2, 9), unknown: true},
		"carried of other partition": {seen: in(1, 5), carried: soracache.Stamps{{Partition: 4}}, want: soracache.Stamp{Epoch: 1, Position: 5}},
	} {
		least := c.seen
		if c.carried != nil {
			least = c.seen.Merge(c.carried)
		}
		got, ok := Demand{c.seen, least}.at(3)
		if ok == c.unknown || ok && got != c.want {
			t.Errorf("%s: got %v, %t", name, got, ok)
		}
	}
}
