package embedded

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// interrupter is a clock at which something else happens the nth time that it is
// looked at: a place where goroutines may interleave, chosen.
type interrupter struct {
	left   atomic.Int64
	happen func()
}

func (c *interrupter) now() time.Time {
	if c.left.Add(-1) == 0 {
		c.happen()
	}
	return time.Now()
}

// arm makes fn happen the nth time from now.
func (c *interrupter) arm(n int, fn func()) {
	c.happen = fn
	c.left.Store(int64(n))
}

// While one of a read that registers and an append that lists is on its way, the
// other happens in between, at every place where the store looks at its clock.
// Either the answer reflects the append, or the list has the reader.
func TestRegistrationInterleaved(t *testing.T) {
	clock := new(interrupter)
	s := openIn(t, t.TempDir(), func(c *Config) { c.Now, c.SweepEvery = clock.now, -1 })
	head(t, s)
	var answer l2.SinceAnswer
	var appended []l2.InvalidateAnswer
	ask := func(name string) {
		answer = s.Since(t.Context(), []l2.SinceRequest{{
			Partition: at, Register: l2.Registration{Name: name, Bound: time.Second},
		}})[0]
	}
	appendTwo := func() {
		one := l2.InvalidateRequest{Partition: at, Followers: true, Targets: []soracache.Target{soracache.Tag("t")}}
		appended = s.Invalidate(t.Context(), []l2.InvalidateRequest{one, one})
	}
	check := func(name string) (reflected int) {
		if answer.Err != nil || answer.Delta.Head == 0 || len(appended) != 2 {
			t.Fatalf("%s: answered %+v, appended %+v", name, answer, appended)
		}
		for _, a := range appended {
			listed := slices.ContainsFunc(a.Registered, func(r l2.Registration) bool { return r.Name == name })
			if a.Err != nil || answer.Delta.Head < a.Record.Position && !listed {
				t.Errorf("%s was answered at %d and is not on the list of the append at %d: %+v", name, answer.Delta.Head, a.Record.Position, a)
			}
			if answer.Delta.Head >= a.Record.Position {
				reflected++
			}
		}
		return reflected
	}
	seen := make(map[int]bool)
	for n := 1; ; n++ {
		name := fmt.Sprint("an append in the read, ", n)
		happened := false
		clock.arm(n, func() { happened = true; appendTwo() })
		ask(name)
		if !happened {
			break
		}
		seen[check(name)] = true
	}
	for n := 1; ; n++ {
		name := fmt.Sprint("a read in the append, ", n)
		happened := false
		clock.arm(n, func() { happened = true; ask(name) })
		appendTwo()
		if !happened {
			break
		}
		seen[check(name)] = true
	}
	if !seen[0] || !seen[2] {
		t.Errorf("the answers reflected so many of two appends: %v", seen)
	}
}

// Lists on which nobody is registered any more do not stay.
func TestFollowersAreForgotten(t *testing.T) {
	clock := newClock()
	s := openIn(t, t.TempDir(), withClock(clock))
	register := func(p l2.Partition, name string) {
		s.Since(t.Context(), []l2.SinceRequest{{Partition: p, Register: l2.Registration{Name: name, Bound: l2.MaxBound}}})
	}
	other := l2.Partition{Namespace: "other", Count: 1}
	register(at, "a")
	register(other, "b")
	clock.advance(l2.MaxBound)
	register(at, "c")
	clock.advance(l2.RegistrationSlack + time.Second)
	clock.advance(soracache.MaxLease)
	s.followers.forget(clock.now())
	if len(s.followers.lists) != 1 || s.followers.lists[placeOf(at)] == nil {
		t.Fatalf("%d lists are kept, want that of c", len(s.followers.lists))
	}
	clock.advance(l2.MaxBound)
	s.followers.forget(clock.now())
	if len(s.followers.lists) != 0 {
		t.Fatalf("%d lists are kept, want none", len(s.followers.lists))
	}
}
