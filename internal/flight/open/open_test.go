package open_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/singleflight"

	"github.com/soracache/soracache/internal/flight"
	"github.com/soracache/soracache/internal/flight/open"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type answer struct {
	value int
	err   error
}

// numbered returns a function that answers 1, 2, 3, … at its successive runs,
// each of which takes as long as said.
func numbered(takes time.Duration) (fn func() (int, error), runs *atomic.Int32) {
	runs = new(atomic.Int32)
	return func() (int, error) {
		n := runs.Add(1)
		time.Sleep(takes)
		return int(n), nil
	}, runs
}

// ask calls Do in a goroutine and delivers its answer.
func ask(ctx context.Context, g *open.Group[int], key string, fn func() (int, error)) <-chan answer {
	ch := make(chan answer, 1)
	go func() {
		v, err := g.Do(ctx, key, time.Second, fn)
		ch <- answer{v, err}
	}()
	synctest.Wait()
	return ch
}

// Whoever comes before it ends shares it, and whoever comes then begins anew.
func TestGroupAdmitsUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := open.New[int](10)
		fn, runs := numbered(time.Second)
		early := ask(t.Context(), g, "k", fn)
		time.Sleep(time.Second / 2)
		var late []<-chan answer
		for range 100 {
			late = append(late, ask(t.Context(), g, "k", fn))
		}
		other := ask(t.Context(), g, "other", func() (int, error) { return 0, errors.New("its own") })
		if a := <-other; a.err == nil {
			t.Error("another key's was shared")
		}
		if a := <-early; a != (answer{1, nil}) {
			t.Error(a)
		}
		for _, ch := range late {
			if a := <-ch; a != (answer{1, nil}) {
				t.Error(a)
			}
		}
		if a := <-ask(t.Context(), g, "k", fn); a != (answer{2, nil}) || runs.Load() != 2 {
			t.Errorf("%+v after %d runs", a, runs.Load())
		}
	})
}

// A caller leaves when its context ends. What it began goes on, for the others and for
// Wait.
func TestGroupGoesOnWithoutItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := open.New[int](10)
		fn, runs := numbered(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := ask(ctx, g, "k", fn), ask(t.Context(), g, "k", fn)
		cancel()
		if a := <-first; !errors.Is(a.err, context.Canceled) {
			t.Error(a)
		}
		began := time.Now()
		g.Wait()
		if a := <-second; a != (answer{1, nil}) || time.Since(began) != time.Minute || runs.Load() != 1 {
			t.Errorf("%+v after %v and %d runs", a, time.Since(began), runs.Load())
		}
	})
}

// So many run at once, and no more. Who joins needs no place; who waits for one in vain
// is told, or leaves; and who has waited while somebody else began joins that.
func TestGroupIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		g := open.New[int](most)
		var now, highest atomic.Int32
		takes := func(d time.Duration) func() (int, error) {
			return func() (int, error) {
				highest.Store(max(highest.Load(), now.Add(1)))
				defer now.Add(-1)
				time.Sleep(d)
				return 7, nil
			}
		}
		for i := range most {
			ask(t.Context(), g, strconv.Itoa(i), takes(time.Minute))
		}
		joined := ask(t.Context(), g, "0", nil)
		began := time.Now()
		if a := <-ask(t.Context(), g, "full", nil); !errors.Is(a.err, open.ErrFull) || time.Since(began) != time.Second {
			t.Errorf("%+v after %v", a, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if a := <-ask(ctx, g, "full", nil); !errors.Is(a.err, context.DeadlineExceeded) {
			t.Error(a)
		}
		time.Sleep(time.Minute - time.Since(began) - time.Second/2)
		a, b := ask(t.Context(), g, "new", takes(time.Hour)), ask(t.Context(), g, "new", takes(time.Hour))
		if got := <-joined; got != (answer{7, nil}) {
			t.Error(got)
		}
		if a, b := <-a, <-b; a != (answer{7, nil}) || b != a {
			t.Error(a, b)
		}
		if highest.Load() != most || now.Load() != 0 {
			t.Errorf("%d at once, %d left", highest.Load(), now.Load())
		}
		g.Wait()
		for i := range most { // all places are free again
			ask(t.Context(), g, strconv.Itoa(i), takes(time.Minute))
		}
		if now.Load() != most {
			t.Errorf("%d run, want %d", now.Load(), most)
		}
		g.Wait()
	})
}

// A panic is an error of all who share it, and leaves nothing behind.
func TestGroupContainsPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := open.New[int](1)
		for range 2 {
			first := ask(t.Context(), g, "k", func() (int, error) { time.Sleep(time.Second); panic("no") })
			for _, ch := range []<-chan answer{first, ask(t.Context(), g, "k", nil)} {
				if p, ok := errors.AsType[*flight.PanicError]((<-ch).err); !ok || p.Value != "no" {
					t.Errorf("got %v", p)
				}
			}
		}
		g.Wait()
	})
}

// What package flight says of singleflight is so, and not so of a flight.Group. If one
// of these fails, singleflight has learned something, and may be of more use there.
func TestWhatSingleflightDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fn, runs := numbered(time.Second)
		var now, highest atomic.Int32
		read := func() (int, error) {
			highest.Store(max(highest.Load(), now.Add(1)))
			defer now.Add(-1)
			return fn()
		}
		boxed := func() (any, error) { return read() }
		var plain singleflight.Group
		plain.DoChan("k", boxed)
		synctest.Wait()
		// An invalidation completes here. Who comes now must not get what was read before.
		if r := <-plain.DoChan("k", boxed); r.Val != 1 || runs.Load() != 1 {
			t.Errorf("it does not admit late callers any more: %+v", r)
		}
		plain.DoChan("k", boxed)
		synctest.Wait()
		plain.Forget("k")
		if r := <-plain.DoChan("k", boxed); r.Val != 3 || highest.Load() != 2 {
			t.Errorf("what begins after Forget waits for what runs: %+v, %d at once", r, highest.Load())
		}
		synctest.Wait()

		runs.Store(0)
		highest.Store(0)
		var g flight.Group[int]
		ask := func() <-chan answer {
			ch := make(chan answer, 1)
			go func() {
				v, err := g.Do(t.Context(), "k", func(context.Context) (int, error) { return read() })
				ch <- answer{v, err}
			}()
			synctest.Wait()
			return ch
		}
		ask()
		a, b := ask(), ask()
		if a, b := <-a, <-b; a != (answer{2, nil}) || b != a || runs.Load() != 2 || highest.Load() != 1 {
			t.Errorf("%+v, %+v after %d runs, %d at once", a, b, runs.Load(), highest.Load())
		}
	})
}

// One that begins at the moment at which another ends is its own.
func TestGroupBeginsAnew(t *testing.T) {
	g := open.New[int](2)
	var runs atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50_000 {
				begun := int(runs.Load())
				// What it gets may have begun before, but cannot have ended then.
				if v, err := g.Do(t.Context(), "k", time.Minute, func() (int, error) { return int(runs.Add(1)), nil }); err != nil || v < begun {
					t.Errorf("got %d, %v; %d had begun", v, err, begun)
					return
				}
			}
		})
	}
	all.Wait()
	g.Wait()
}
