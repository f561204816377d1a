package batches

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/soracache/soracache"
)

// What is refused for one item's sake is sent apart until that is alone, and nothing is
// sent twice that was taken.
func TestSend(t *testing.T) {
	t.Parallel()
	down := fmt.Errorf("%w: down", soracache.ErrUnavailable)
	for name, c := range map[string]struct {
		bad    []int // items that are refused
		fails  []int // items at which the service is down
		sent   [][]int
		failed []int
		whole  error
	}{
		"all is taken":          {sent: [][]int{{0, 1, 2, 3, 4}}},
		"one is refused":        {bad: []int{3}, sent: [][]int{{0, 1}, {2}, {4}}, failed: []int{3}},
		"all are refused":       {bad: []int{0, 1, 2, 3, 4}, failed: []int{0, 1, 2, 3, 4}},
		"down":                  {fails: []int{1}, whole: down},
		"down for one half":     {bad: []int{0}, fails: []int{4}, sent: [][]int{{1}}, failed: []int{0, 2, 3, 4}},
		"too large, as a whole": {bad: []int{0, 4}, sent: [][]int{{1}, {2}, {3}}, failed: []int{0, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var sent [][]int
			var failed []int
			err := Send([]int{0, 1, 2, 3, 4}, func(at int, part []int) error {
				if part[0] != at {
					t.Errorf("%v is sent as what is at %d", part, at)
				}
				has := func(some []int) bool {
					return slices.ContainsFunc(part, func(i int) bool { return slices.Contains(some, i) })
				}
				switch {
				case has(c.bad) && len(part) > 2:
					return fmt.Errorf("%w: large", soracache.ErrTooLarge)
				case has(c.bad):
					return fmt.Errorf("%w: bad", soracache.ErrInvalid)
				case has(c.fails):
					return down
				}
				sent = append(sent, part)
				return nil
			}, func(at, count int, err error) {
				for i := range count {
					failed = append(failed, at+i)
				}
				if err == nil {
					t.Error("failed with nothing")
				}
			})
			if !errors.Is(err, c.whole) || (err == nil) != (c.whole == nil) {
				t.Errorf("all of it: %v, want %v", err, c.whole)
			}
			if !reflect.DeepEqual(sent, c.sent) || !slices.Equal(failed, c.failed) {
				t.Errorf("sent %v, want %v; failed %v, want %v", sent, c.sent, failed, c.failed)
			}
		})
	}
}

// A single item that is refused is refused.
func TestSendOne(t *testing.T) {
	t.Parallel()
	calls := 0
	err := Send([]int{7}, func(int, []int) error {
		calls++
		return soracache.ErrInvalid
	}, func(int, int, error) { t.Error("a part") })
	if !errors.Is(err, soracache.ErrInvalid) || calls != 1 {
		t.Errorf("%v in %d calls", err, calls)
	}
}
