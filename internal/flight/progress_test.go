package flight_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache/internal/flight"
)

// within calls Lead under a limit of the wait.
func within(ctx context.Context, g *flight.Group[int], key string, most time.Duration, fn func(context.Context) (int, error)) <-chan answer {
	ch := make(chan answer, 1)
	go func() {
		v, _, err := g.Lead(ctx, key, most, parted(fn))
		ch <- answer{v, err}
	}()
	return ch
}

// heeds takes as long as said, unless its context ends.
func heeds(ctx context.Context, takes time.Duration, v int) (int, error) {
	select {
	case <-time.After(takes):
		return v, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Callers who give up after 710 ms come every 100 ms, and a run takes a second. It
// goes on although all have gone whom it began for.
func TestRunGoesOnAsLongAsAnybodyWantsItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		var done, cancelled atomic.Int32
		fn := func(ctx context.Context) (int, error) {
			if n := done.Load(); n > 0 { // what the first one left behind
				return int(n), nil
			}
			v, err := heeds(ctx, time.Second, 1)
			if err != nil {
				cancelled.Add(1)
			} else {
				done.Add(1)
			}
			return v, err
		}
		var callers []<-chan answer
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), 710*time.Millisecond)
			defer cancel()
			callers = append(callers, ask(ctx, &g, fn))
			time.Sleep(100 * time.Millisecond)
		}
		for i, c := range callers {
			a := <-c
			if late := i >= 3; late != (a.err == nil) {
				t.Errorf("the caller of %d00 ms got %v", i, a)
			}
		}
		if done.Load() != 1 || cancelled.Load() != 0 {
			t.Errorf("%d runs were completed and %d cancelled", done.Load(), cancelled.Load())
		}
	})
}

// It ends when nobody wants its key any more, in whichever order they go.
func TestRunEndsWhenNobodyWantsItsKey(t *testing.T) {
	for name, order := range map[string][2]int{"the first callers go first": {0, 1}, "the later ones go first": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g flight.Group[int]
				var ended atomic.Bool
				fn := func(ctx context.Context) (int, error) { <-ctx.Done(); ended.Store(true); return 0, ctx.Err() }
				var leave [2]context.CancelFunc
				for i := range leave {
					ctx, cancel := context.WithCancel(t.Context())
					leave[i] = cancel
					ask(ctx, &g, fn)
					synctest.Wait()
				}
				leave[order[0]]()
				synctest.Wait()
				if ended.Load() {
					t.Error("ended while somebody wanted its key")
				}
				leave[order[1]]()
				synctest.Wait()
				if !ended.Load() {
					t.Error("goes on for nobody")
				}
			})
		})
	}
}

// A run that brings nothing to those who come later is not kept going for them.
func TestRunOfNoUseToOthersEndsWithItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		ctx, leave := context.WithCancel(t.Context())
		first := ask(ctx, &g, func(ctx context.Context) (int, error) {
			flight.RunOf(ctx).Alone()
			return heeds(ctx, time.Hour, 1)
		})
		synctest.Wait()
		start := time.Now()
		second := ask(t.Context(), &g, func(ctx context.Context) (int, error) { return heeds(ctx, time.Second, 2) })
		time.Sleep(time.Second)
		leave()
		<-first
		if a := <-second; a.value != 2 || time.Since(start) != 2*time.Second {
			t.Errorf("got %v after %s", a, time.Since(start))
		}
	})
}

// The deadlines of those whom a run began for are told, not the first one's alone.
func TestLatestDeadlineOfTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			limits []time.Duration
			want   time.Duration
		}{{[]time.Duration{time.Second, 5 * time.Second, 2 * time.Second}, 5 * time.Second}, {[]time.Duration{2 * time.Second, 0}, 0}} {
			var g flight.Group[int]
			release := make(chan struct{})
			ask(t.Context(), &g, func(context.Context) (int, error) { <-release; return 0, nil })
			synctest.Wait()
			began := time.Now()
			for _, limit := range tt.limits {
				ctx := t.Context()
				if limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, limit)
					defer cancel()
				}
				ask(ctx, &g, func(ctx context.Context) (int, error) {
					at, bounded := flight.RunOf(ctx).Latest()
					if bounded != (tt.want > 0) || bounded && at.Sub(began) != tt.want {
						t.Errorf("%v: %s, %t", tt.limits, at.Sub(began), bounded)
					}
					return 0, nil
				})
				synctest.Wait()
			}
			close(release)
			synctest.Wait()
		}
	})
}

// Whoever comes while a run is under way waits for it no longer than it is ready
// to, and does not take the others with it.
func TestWaitForARunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		running := within(t.Context(), &g, "k", time.Second, func(ctx context.Context) (int, error) { return heeds(ctx, 5*time.Second, 1) })
		synctest.Wait()
		start := time.Now()
		two := func(ctx context.Context) (int, error) { return heeds(ctx, time.Second, 2) }
		hasty, patient := within(t.Context(), &g, "k", 2*time.Second, two), within(t.Context(), &g, "k", 10*time.Second, two)
		a := <-hasty
		var tired *flight.WaitError
		if !errors.As(a.err, &tired) || !errors.Is(a.err, context.DeadlineExceeded) || tired.Waited != 2*time.Second || time.Since(start) != 2*time.Second {
			t.Errorf("got %v after %s", a, time.Since(start))
		}
		if a := <-running; a.value != 1 {
			t.Errorf("the run that was waited for gave %v", a)
		}
		if a := <-patient; a.value != 2 || time.Since(start) != 6*time.Second {
			t.Errorf("the other one got %v after %s", a, time.Since(start))
		}
	})
}

// The time to wait is not for one's own run.
func TestOwnRunMayTakeLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		slow := func(ctx context.Context) (int, error) { return heeds(ctx, time.Minute, 1) }
		first := within(t.Context(), &g, "k", 2*time.Minute, slow)
		synctest.Wait()
		second := within(t.Context(), &g, "k", 2*time.Minute, slow)
		for _, ch := range []<-chan answer{first, second} {
			if a := <-ch; a.value != 1 || a.err != nil {
				t.Errorf("got %v", a)
			}
		}
	})
}

// A function that asks for its own key under a context that tells nothing: all is
// over with the wait, for the bystanders too, and it is run once.
func TestFunctionThatWaitsForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		var runs atomic.Int32
		var fn func(context.Context) (int, error)
		fn = func(context.Context) (int, error) {
			runs.Add(1)
			a := <-within(t.Context(), &g, "k", time.Second, fn)
			return a.value, a.err
		}
		start := time.Now()
		all := []<-chan answer{within(t.Context(), &g, "k", time.Second, fn)}
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		for range 10 {
			all = append(all, within(t.Context(), &g, "k", time.Second, fn))
		}
		for _, ch := range all {
			var tired *flight.WaitError
			if a := <-ch; !errors.As(a.err, &tired) {
				t.Errorf("got %v", a)
			}
		}
		if took := time.Since(start); took != time.Second || runs.Load() != 1 {
			t.Errorf("over after %s, %d runs", took, runs.Load())
		}
	})
}

// network is functions that ask for each other.
type network struct {
	group map[string]*flight.Group[int]
	asks  map[string]string
	wait  time.Duration
	runs  atomic.Int32
}

func (n *network) ask(ctx context.Context, key string) (int, error) {
	v, _, err := n.group[key].Lead(ctx, key, n.wait, parted(func(ctx context.Context) (int, error) {
		n.runs.Add(1)
		next := n.asks[strings.TrimRight(key, "'")]
		if next == "" {
			return 1, nil
		}
		time.Sleep(time.Second) // so that all are running
		return n.ask(ctx, next)
	}))
	return v, err
}

func (n *network) start(ctx context.Context, key string) <-chan answer {
	ch := make(chan answer, 1)
	go func() {
		v, err := n.ask(ctx, key)
		ch <- answer{v, err}
	}()
	return ch
}

// Functions that wait for each other are told at once, however many they are, and
// whichever groups their keys belong to.
func TestCircles(t *testing.T) {
	one, other := new(flight.Group[int]), new(flight.Group[int])
	tests := map[string]struct {
		asks   map[string]string
		begin  []string
		groups map[string]*flight.Group[int]
		want   map[string]bool // an error
	}{
		"two":                {map[string]string{"a": "b", "b": "a"}, []string{"a", "b"}, map[string]*flight.Group[int]{"a": one, "b": one}, map[string]bool{"a": true, "b": true}},
		"two of two groups":  {map[string]string{"a": "b", "b": "a"}, []string{"a", "b"}, map[string]*flight.Group[int]{"a": one, "b": other}, map[string]bool{"a": true, "b": true}},
		"three":              {map[string]string{"a": "b", "b": "c", "c": "a"}, []string{"a", "b", "c"}, map[string]*flight.Group[int]{"a": one, "b": other, "c": one}, map[string]bool{"a": true, "b": true, "c": true}},
		"a chain is none":    {map[string]string{"a": "b", "b": "c"}, []string{"a", "b", "c"}, map[string]*flight.Group[int]{"a": one, "b": one, "c": one}, map[string]bool{}},
		"one that asks them": {map[string]string{"a": "b", "b": "a", "d": "a"}, []string{"a", "b", "d"}, map[string]*flight.Group[int]{"a": one, "b": one, "d": one}, map[string]bool{"a": true, "b": true, "d": true}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{group: tt.groups, asks: tt.asks, wait: time.Hour}
				start := time.Now()
				answers := map[string]<-chan answer{}
				for _, key := range tt.begin {
					answers[key] = n.start(t.Context(), key)
				}
				for key, ch := range answers {
					if a := <-ch; errors.Is(a.err, flight.ErrCycle) != tt.want[key] || tt.want[key] != (a.err != nil) {
						t.Errorf("%s: %v", key, a)
					}
				}
				if took := time.Since(start); took > 5*time.Second { // each run takes one
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// A bystander who waits for the same call as somebody in a circle is left alone:
// whoever closes the circle gets the error.
func TestBystanderOfACircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		ask := func(ctx context.Context, key string, fn func(context.Context) (int, error)) <-chan answer {
			return within(ctx, &g, key, time.Hour, fn)
		}
		inA, inB := make(chan context.Context, 1), make(chan context.Context, 1)
		goOn := make(chan struct{})
		fn := func(inside chan context.Context, v int) func(context.Context) (int, error) {
			return func(ctx context.Context) (int, error) {
				inside <- ctx
				<-goOn
				return v, nil
			}
		}
		quick := func(context.Context) (int, error) { return 7, nil }
		a := ask(t.Context(), "a", fn(inA, 1))
		b := ask(t.Context(), "b", fn(inB, 2))
		synctest.Wait()
		bystander := ask(t.Context(), "a", quick)
		synctest.Wait()
		fromB := ask(context.WithoutCancel(<-inB), "a", quick)
		synctest.Wait()
		if got := <-ask(context.WithoutCancel(<-inA), "b", quick); !errors.Is(got.err, flight.ErrCycle) {
			t.Errorf("the one who closed the circle got %v", got)
		}
		close(goOn)
		for want, ch := range map[int]<-chan answer{1: a, 2: b} {
			if got := <-ch; got.value != want || got.err != nil {
				t.Errorf("got %v, want %d", got, want)
			}
		}
		for _, ch := range []<-chan answer{bystander, fromB} {
			if got := <-ch; got.value != 7 || got.err != nil {
				t.Errorf("somebody who closed no circle got %v", got)
			}
		}
	})
}

// What is begun inside of a run and not waited for is no part of a circle.
func TestRunOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		result := make(chan answer, 1)
		a := within(t.Context(), &g, "a", time.Hour, func(ctx context.Context) (int, error) {
			go func() {
				result <- <-within(flight.NewRun(context.WithoutCancel(ctx)), &g, "b", time.Hour, func(ctx context.Context) (int, error) {
					got := <-within(ctx, &g, "a", time.Hour, func(context.Context) (int, error) { return 3, nil })
					return got.value, got.err
				})
			}()
			time.Sleep(time.Second)
			return 1, nil
		})
		if got := <-a; got.value != 1 {
			t.Errorf("got %v", got)
		}
		if got := <-result; got.value != 3 || got.err != nil {
			t.Errorf("got %v", got)
		}
	})
}
