package parking

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// lots runs a test on parked readers whose polls come without jitter.
func lots(t *testing.T, test func(t *testing.T, rs *Readers, s *Shared)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := &Shared{
			Now:      func() time.Duration { return time.Since(began) },
			UpTo:     func(most time.Duration) time.Duration { return most / 2 },
			Draining: make(chan struct{}),
		}
		test(t, New(s), s)
	})
}

// parks has a reader park, who then does what it is to do.
func parks(rs *Readers, name string, left chan<- Left) {
	h := Held{For: time.Hour, Ends: rs.Ends()}
	go func() { left <- rs.Park(context.Background(), name, h, 0, time.Hour) }()
	synctest.Wait()
}

// gone waits until nothing is going on, and tells of how many who have left.
func gone(left <-chan Left) int { synctest.Wait(); return len(left) }

// empty checks that nothing is left of those who were parked.
func empty(t *testing.T, rs *Readers, s *Shared) {
	t.Helper()
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if len(rs.lots) != 0 || len(rs.names) != 0 || s.lots.Load() != 0 {
		t.Errorf("left over: %d lots, %d keys of schemas, %d counted", len(rs.lots), len(rs.names), s.lots.Load())
	}
}

// A reader who was told that the lease is held, and hears of its end before it has
// begun to wait, does not wait: whoever else waited then, and whatever became of
// them. Without that it would not hang, but find out by a poll.
func TestNoWakeIsLostBetweenAskingAndWaiting(t *testing.T) {
	for name, wake := range map[string]func(rs *Readers, leave func()){
		"nobody waits":          func(rs *Readers, leave func()) { leave(); rs.Wake("k", Ended) },
		"one is to read":        func(rs *Readers, _ func()) { rs.Wake("k", Ended) },
		"all go":                func(rs *Readers, _ func()) { rs.Wake("k", Passed) },
		"all go, who lost":      func(rs *Readers, _ func()) { rs.Wake("k", Lost); rs.Wake("k", Lost) },
		"who is to read leaves": func(rs *Readers, leave func()) { rs.Wake("k", Ended); leave() },
		"many others have ended since": func(rs *Readers, leave func()) {
			leave()
			rs.Wake("k", Ended)
			for i := range 2 * mostEnds {
				rs.Wake(strconv.Itoa(i), Ended)
			}
		},
		"all leases end":               func(rs *Readers, leave func()) { leave(); rs.WakeAll(Ended) },
		"who is to read finds nothing": func(rs *Readers, _ func()) { rs.Wake("k", Ended); rs.Wake("k", Passed) },
	} {
		t.Run(name, func(t *testing.T) {
			lots(t, func(t *testing.T, rs *Readers, _ *Shared) {
				told := Held{For: time.Minute, Ends: rs.Ends()}
				l, _ := rs.enter("k", told, 0) // somebody waits whose turn nobody sees
				l.timer.Reset(time.Hour)
				// At the same moment: what came first must not be left to a clock.
				wake(rs, func() {
					rs.mu.Lock()
					defer rs.mu.Unlock()
					l.waiting = 0
					l.abandon()
				})
				const polls = 20 // it has asked for long, so it would be long until the next
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				began := time.Now()
				if left := rs.Park(ctx, "k", told, polls, time.Minute); left.Gone || time.Since(began) != 0 {
					t.Errorf("it waited for %v: %+v", time.Since(began), left)
				}
			})
		})
	}
}

// One of those who wait reads for all. What it finds decides whether the others stay,
// another reads, or all go.
func TestOneReadsForAll(t *testing.T) {
	lots(t, func(t *testing.T, rs *Readers, s *Shared) {
		left := make(chan Left, 10)
		for range 4 {
			parks(rs, "k", left)
		}
		rs.Wake("k", Ended)
		if n := gone(left); n != 1 {
			t.Fatalf("%d were let out by the end of a lease, want one", n)
		}
		turn := (<-left).Turn
		rs.Wake("k", Ended) // while it reads: what it finds may be older than this
		if n := gone(left); n != 0 {
			t.Fatalf("%d were let out while one reads", n)
		}
		turn.Held(time.Hour)
		if n := gone(left); n != 1 {
			t.Fatalf("%d read after a lease has ended that one was reading past, want one", n)
		}
		turn = (<-left).Turn
		turn.Nothing()
		if n := gone(left); n != 1 {
			t.Fatalf("%d read for one who has found nothing out, want one", n)
		}
		turn = (<-left).Turn
		turn.Decided()
		if n := gone(left); n != 1 {
			t.Fatalf("%d left of those for whom it was decided, want the last one", n)
		}
		if last := <-left; last.Turn != nil {
			t.Error("it is to read for all, of whom there are no more")
		}
		empty(t, rs, s)
	})
}

// Whoever leaves with a turn that nobody took does not leave the others behind, and
// the last one leaves nothing behind.
func TestTurnIsNotLostWithItsReader(t *testing.T) {
	lots(t, func(t *testing.T, rs *Readers, s *Shared) {
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan Left, 10)
		go func() { left <- rs.Park(ctx, "k", Held{For: time.Hour}, 0, time.Hour) }()
		synctest.Wait()
		cancel()
		rs.Wake("k", Ended) // it may take its turn, or see its context end
		if first := <-left; first.Turn != nil {
			first.Turn.Nothing()
		}
		empty(t, rs, s)
		for range 2 {
			parks(rs, "k", left)
		}
		rs.Wake("k", Ended)
		(<-left).Turn.Nothing() // it is gone
		(<-left).Turn.Decided()
		empty(t, rs, s)
	})
}

// A load that left nothing, or two that invalidations superseded, let everybody go.
func TestWhatLetsEverybodyGo(t *testing.T) {
	for name, wakes := range map[string][]Why{"passed": {Passed}, "lost twice": {Lost, Lost}} {
		t.Run(name, func(t *testing.T) {
			lots(t, func(t *testing.T, rs *Readers, s *Shared) {
				left := make(chan Left, 10)
				for range 3 {
					parks(rs, "k", left)
				}
				lost := 0
				for _, why := range wakes {
					rs.Wake("k", why)
					if why == Lost {
						lost++
					}
				}
				if n := gone(left); n != 3 {
					t.Fatalf("%d of 3 went", n)
				}
				most := 0
				for range 3 {
					most = max(most, (<-left).Lost)
				}
				if most != lost {
					t.Errorf("they were told of %d losses, want %d", most, lost)
				}
				empty(t, rs, s)
			})
		})
	}
}

// A wait ends with the reader's context, its time, and the node.
func TestWaitsEnd(t *testing.T) {
	lots(t, func(t *testing.T, rs *Readers, s *Shared) {
		draining := make(chan struct{})
		s.Draining = draining
		s.UpTo = func(time.Duration) time.Duration { return 2 * time.Hour } // nothing is polled
		held := Held{For: 3 * time.Hour}
		if left := rs.Park(t.Context(), "k", held, 0, time.Second); left != (Left{}) || s.Now() != time.Second {
			t.Errorf("after %v: %+v", s.Now(), left)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if left := rs.Park(ctx, "k", held, 0, time.Hour); left != (Left{Gone: true}) || s.Now() != 2*time.Second {
			t.Errorf("after %v: %+v", s.Now(), left)
		}
		time.AfterFunc(time.Second, func() { close(draining) })
		if left := rs.Park(t.Context(), "k", held, 0, time.Hour); left != (Left{Draining: true}) || s.Now() != 3*time.Second {
			t.Errorf("after %v: %+v", s.Now(), left)
		}
		empty(t, rs, s)
	})
}

// Polls become rarer, go on where they were, come at the end of the lease at the
// latest, and are spread over all that is waited for at a node.
func TestPolls(t *testing.T) {
	lots(t, func(t *testing.T, rs *Readers, s *Shared) {
		poll := func(h Held, turns int) time.Duration {
			began := s.Now()
			left := rs.Park(t.Context(), "k", h, turns, time.Hour)
			if left.Turn == nil || left.Turns != turns+1 {
				t.Fatalf("%+v", left)
			}
			left.Turn.Nothing()
			return s.Now() - began
		}
		long := Held{For: time.Hour}
		for turns, want := range map[int]time.Duration{0: pollFirst, 1: pollFirst * 13 / 10, 5: 37 * time.Millisecond, 100: pollMost} {
			if got := poll(long, turns); got.Truncate(time.Millisecond) != want {
				t.Errorf("after %d polls the next came after %v, want %v", turns, got, want)
			}
		}
		if got := poll(Held{For: 5 * time.Millisecond}, 100); got != 5*time.Millisecond {
			t.Errorf("a lease that ends in 5ms was looked at after %v", got)
		}
		if got := poll(Held{For: -time.Second}, 0); got != time.Millisecond {
			t.Errorf("a lease that has ended was looked at after %v", got)
		}
		s.lots.Add(20 * pollsPerSecond)
		if got := poll(long, 0); got < 20*time.Second || got > 20*time.Second+2*pollTick {
			t.Errorf("with %d keys waited for, the next poll came after %v", s.lots.Load(), got)
		}
	})
}

// Readers of a key in a schema are woken by what ends the leases of the key, and not
// by what ends the lease of another name of it.
func TestSchemas(t *testing.T) {
	const key = "k"
	a, b := soracache.Name("a", key), soracache.Name("b", key)
	for _, c := range []struct {
		name string
		wake func(rs *Readers)
		want []string
	}{
		{"a record of the key", func(rs *Readers) { rs.WakeKey(key, Ended) }, []string{a, b, key}},
		{"a put under a", func(rs *Readers) { rs.WakeOthers(a) }, []string{b, key}},
		{"a put under the key", func(rs *Readers) { rs.WakeOthers(key) }, []string{a, b}},
		{"the lease of a", func(rs *Readers) { rs.Wake(a, Ended) }, []string{a}},
		{"everything", func(rs *Readers) { rs.WakeAll(Ended) }, []string{a, b, key}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lots(t, func(t *testing.T, rs *Readers, s *Shared) {
				left := map[string]chan Left{}
				for _, name := range []string{a, b, key} {
					left[name] = make(chan Left, 1)
					parks(rs, name, left[name])
				}
				before := rs.Ends()
				c.wake(rs)
				woken := map[string]bool{}
				for _, name := range c.want {
					woken[name] = true
				}
				for name, ch := range left {
					if n := gone(ch); (n == 1) != woken[name] {
						t.Errorf("%q: %d went", name, n)
					}
					// The same is so for who is about to park.
					ctx, cancel := context.WithCancel(t.Context())
					cancel()
					if in := rs.Park(ctx, name, Held{For: time.Hour, Ends: before}, 0, time.Hour).Gone; in && woken[name] {
						t.Errorf("%q: whoever came then waited", name)
					}
				}
				rs.WakeAll(Passed)
				synctest.Wait()
				empty(t, rs, s)
			})
		})
	}
}

// However many leases end, what is remembered of them is bounded.
func TestEndsAreBounded(t *testing.T) {
	lots(t, func(t *testing.T, rs *Readers, _ *Shared) {
		for i := range 10 * mostEnds {
			rs.Wake(strconv.Itoa(i), Ended)
		}
		if n := len(rs.endOf); n > mostEnds {
			t.Errorf("%d are remembered, want %d at most", n, mostEnds)
		}
		if !rs.endedSince(invalidation.KeyHash("0"), 0) {
			t.Error("what was forgotten is taken not to have ended")
		}
	})
}
