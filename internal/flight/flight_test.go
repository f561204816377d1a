package flight_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache/internal/flight"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type answer struct {
	value int
	err   error
}

// ask calls Do in a goroutine and delivers its answer.
func ask(ctx context.Context, g *flight.Group[int], fn func(context.Context) (int, error)) <-chan answer {
	ch := make(chan answer, 1)
	go func() {
		v, err := g.Do(ctx, "k", fn)
		ch <- answer{v, err}
	}()
	return ch
}

// numbered returns a function that answers 1, 2, 3, … at its successive runs,
// each of which takes as long as said.
func numbered(takes time.Duration) (fn func(context.Context) (int, error), runs *atomic.Int32) {
	runs = new(atomic.Int32)
	return func(context.Context) (int, error) {
		n := runs.Add(1)
		time.Sleep(takes)
		return int(n), nil
	}, runs
}

func TestCallersOfOneMomentShareOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		fn, runs := numbered(time.Second)
		block := make(chan struct{})
		running := ask(t.Context(), &g, func(context.Context) (int, error) { <-block; return 0, nil })
		synctest.Wait()

		var sharers []<-chan answer
		for range 100 {
			sharers = append(sharers, ask(t.Context(), &g, fn))
		}
		synctest.Wait()
		if n := runs.Load(); n != 0 {
			t.Fatalf("%d runs began beside the running one", n)
		}
		close(block)
		if a := <-running; a.err != nil || a.value != 0 {
			t.Fatalf("first caller got %v", a)
		}
		for _, s := range sharers {
			if a := <-s; a.err != nil || a.value != 1 {
				t.Fatalf("a sharer got %v, want 1", a)
			}
		}
		if n := runs.Load(); n != 1 {
			t.Fatalf("%d runs for 100 callers, want 1", n)
		}
	})
}

func TestLateCallerGetsTheNextRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		fn, _ := numbered(time.Second)
		first := ask(t.Context(), &g, fn)
		time.Sleep(500 * time.Millisecond)
		late := []<-chan answer{ask(t.Context(), &g, fn), ask(t.Context(), &g, fn)}
		if a := <-first; a.value != 1 {
			t.Fatalf("first caller got %d, want 1", a.value)
		}
		for _, l := range late {
			if a := <-l; a.value != 2 {
				t.Fatalf("a caller that came after the first run began got run %d, want 2", a.value)
			}
		}
	})
}

func TestOneCallerLeavingDoesNotDisturbTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		block := make(chan struct{})
		blocker := ask(t.Context(), &g, func(context.Context) (int, error) { <-block; return 0, nil })
		synctest.Wait()

		fn := func(ctx context.Context) (int, error) {
			select {
			case <-time.After(time.Second):
				return 7, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		var leavers []<-chan answer
		leaving, leave := context.WithCancel(t.Context())
		for range 9 { // the first of them is the one whose function runs
			leavers = append(leavers, ask(leaving, &g, fn))
			synctest.Wait()
		}
		stays := ask(t.Context(), &g, fn)
		synctest.Wait()
		close(block)
		<-blocker
		synctest.Wait()
		leave()
		for _, l := range leavers {
			if a := <-l; !errors.Is(a.err, context.Canceled) {
				t.Errorf("a caller that left got %v", a)
			}
		}
		if a := <-stays; a.err != nil || a.value != 7 {
			t.Errorf("the caller that stayed got %v, want 7", a)
		}
	})
}

func TestRunIsCancelledWhenAllCallersHaveGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		var cancelled atomic.Bool
		fn := func(ctx context.Context) (int, error) {
			<-ctx.Done()
			cancelled.Store(true)
			return 0, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a, b := ask(ctx, &g, fn), ask(ctx, &g, fn)
		for _, ch := range []<-chan answer{a, b} {
			if got := <-ch; !errors.Is(got.err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the caller's deadline", got)
			}
		}
		synctest.Wait()
		if !cancelled.Load() {
			t.Error("all callers have gone, and the function was not told")
		}
	})
}

func TestCollectingCallIsDroppedWhenItsCallersHaveGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		block := make(chan struct{})
		running := ask(t.Context(), &g, func(context.Context) (int, error) { <-block; return 1, nil })
		synctest.Wait()

		for range 1000 { // none of them may leave anything behind the running call
			ctx, cancel := context.WithCancel(t.Context())
			gone := ask(ctx, &g, func(context.Context) (int, error) { t.Error("ran for nobody"); return 0, nil })
			synctest.Wait()
			cancel()
			<-gone
			synctest.Wait()
		}
		if n := runtime.NumGoroutine(); n > 50 {
			t.Errorf("%d goroutines after 1000 abandoned calls", n)
		}
		next := ask(t.Context(), &g, func(context.Context) (int, error) { return 2, nil })
		synctest.Wait()
		select {
		case a := <-next:
			t.Fatalf("the next call answered %v while one was running", a)
		default:
		}
		close(block)
		if a := <-running; a.value != 1 {
			t.Errorf("running call answered %v", a)
		}
		if a := <-next; a.value != 2 || a.err != nil {
			t.Errorf("next call answered %v", a)
		}
	})
}

func TestAbandonedRunHoldsItsPlaceUntilItReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		ctx, cancel := context.WithCancel(t.Context())
		deaf := ask(ctx, &g, func(context.Context) (int, error) { time.Sleep(time.Minute); return 1, nil })
		synctest.Wait()
		cancel()
		<-deaf
		start := time.Now()
		if a := <-ask(t.Context(), &g, func(context.Context) (int, error) { return 2, nil }); a.value != 2 {
			t.Fatalf("got %v, want 2", a)
		}
		if took := time.Since(start); took != time.Minute {
			t.Fatalf("the next call began after %s, beside one that had not returned", took)
		}
	})
}

func TestFailuresReachEveryCallerAndLockNothing(t *testing.T) {
	boom := errors.New("boom")
	tests := map[string]struct {
		fn    func(context.Context) (int, error)
		check func(error) bool
	}{
		"it returns an error":   {func(context.Context) (int, error) { return 0, boom }, func(err error) bool { return errors.Is(err, boom) }},
		"it panics":             {func(context.Context) (int, error) { panic("ouch") }, isPanic("ouch")},
		"it panics with error":  {func(context.Context) (int, error) { panic(boom) }, func(err error) bool { return errors.Is(err, boom) }},
		"it panics with nil":    {func(context.Context) (int, error) { panic(nil) }, isPanic("")}, //nolint:govet // on purpose
		"it calls Goexit":       {func(context.Context) (int, error) { runtime.Goexit(); return 0, nil }, func(err error) bool { return errors.Is(err, flight.ErrGoexit) }},
		"it panics when called": {nil, func(err error) bool { var re runtime.Error; return errors.As(err, &re) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g flight.Group[int]
				block := make(chan struct{})
				blocker := ask(t.Context(), &g, func(context.Context) (int, error) { <-block; return 0, nil })
				synctest.Wait()
				callers := []<-chan answer{ask(t.Context(), &g, tt.fn), ask(t.Context(), &g, tt.fn)}
				synctest.Wait()
				close(block)
				<-blocker
				for _, c := range callers {
					if a := <-c; !tt.check(a.err) {
						t.Errorf("a caller got %v", a.err)
					}
				}
				if a := <-ask(t.Context(), &g, func(context.Context) (int, error) { return 5, nil }); a.value != 5 || a.err != nil {
					t.Errorf("the next caller got %v", a)
				}
			})
		})
	}
}

func isPanic(value string) func(error) bool {
	return func(err error) bool {
		var p *flight.PanicError
		return errors.As(err, &p) && strings.Contains(p.Error(), value) && strings.Contains(string(p.Stack), "flight_test.go")
	}
}

func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type ctxKey struct{}
		var g flight.Group[string]
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), ctxKey{}, "first"), time.Second)
		defer cancel()
		got, err := g.Do(ctx, "k", func(ctx context.Context) (string, error) {
			if _, has := ctx.Deadline(); has {
				t.Error("the function has one caller's deadline")
			}
			return fmt.Sprint(ctx.Value(ctxKey{})), nil
		})
		if err != nil || got != "first" {
			t.Errorf("got %q, %v: want the first caller's values", got, err)
		}

		cancel()
		_, err = g.Do(ctx, "k", func(context.Context) (string, error) { t.Error("ran for a caller that had gone"); return "", nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v for a context that had ended", err)
		}
	})
}

func TestKeysDoNotShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 10 {
			wg.Go(func() {
				v, err := g.Do(t.Context(), strconv.Itoa(i), func(context.Context) (int, error) {
					time.Sleep(time.Second)
					return i, nil
				})
				if v != i || err != nil {
					t.Errorf("key %d got %d, %v", i, v, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("10 keys took %s, one after the other", took)
		}
	})
}

func TestNilInterfaceIsAValue(t *testing.T) {
	var g flight.Group[error]
	if v, err := g.Do(t.Context(), "k", func(context.Context) (error, error) { return nil, nil }); v != nil || err != nil {
		t.Errorf("got %v, %v", v, err)
	}
}

// Readers race with a writer that bumps a version. A reader must never be given
// a version older than the one that was current when it came.
func TestNoCallerGetsWhatBeganBeforeIt(t *testing.T) {
	var (
		g                 flight.Group[uint64]
		version           atomic.Uint64
		running, overlaps atomic.Int32
		runs              atomic.Int64
		wg                sync.WaitGroup
	)
	const readers, reads = 16, 500
	for r := range readers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 1))
			for range reads {
				ctx, cancel := context.WithCancel(t.Context())
				if rng.IntN(4) == 0 {
					go cancel()
				}
				atLeast := version.Load()
				do := func(context.Context) (uint64, error) {
					if running.Add(1) > 1 {
						overlaps.Add(1)
					}
					defer running.Add(-1)
					runs.Add(1)
					v := version.Load()
					runtime.Gosched()
					return v, nil
				}
				inParts := rng.IntN(2) == 0
				v, _, err := g.Lead(ctx, "k", 0, func(ctx context.Context) (uint64, func(context.Context) (uint64, error), error) {
					if inParts {
						return 0, do, nil
					}
					v, err := do(ctx)
					return v, nil, err
				})
				cancel()
				if err == nil && v < atLeast {
					t.Errorf("given version %d, came at version %d", v, atLeast)
				}
				version.Add(1)
			}
		})
	}
	wg.Wait()
	if overlaps.Load() > 0 {
		t.Errorf("%d runs beside another", overlaps.Load())
	}
	if n := runs.Load(); n >= readers*reads {
		t.Errorf("%d runs for %d calls: nothing was shared", n, readers*reads)
	}
}

func BenchmarkDo(b *testing.B) {
	var g flight.Group[int]
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = g.Do(ctx, "key", func(context.Context) (int, error) { return 1, nil })
	}
}

// step is a first part that has a rest, or not.
type step = func(context.Context) (int, func(context.Context) (int, error), error)

// whole makes a first part of all that there is to do.
func whole(fn func(context.Context) (int, error)) step {
	return func(ctx context.Context) (int, func(context.Context) (int, error), error) {
		v, err := fn(ctx)
		return v, nil, err
	}
}

// parted makes a rest of it.
func parted(fn func(context.Context) (int, error)) step {
	return func(context.Context) (int, func(context.Context) (int, error), error) { return -1, fn, nil }
}

func lead(ctx context.Context, g *flight.Group[int], first step) <-chan answer {
	ch := make(chan answer, 1)
	go func() {
		ended := true
		defer func() {
			if ended {
				close(ch) // by Goexit
			}
		}()
		v, _, err := g.Lead(ctx, "k", 0, first)
		ended = false
		ch <- answer{v, err}
	}()
	return ch
}

// Whoever comes while a call is led, in either part, shares the next one, which
// runs both parts.
func TestNobodyJoinsACallThatIsLed(t *testing.T) {
	for name, parts := range map[string]func(func(context.Context) (int, error)) step{"first part": whole, "rest": parted} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g flight.Group[int]
				fn, runs := numbered(time.Second)
				first := lead(t.Context(), &g, parts(fn))
				time.Sleep(500 * time.Millisecond)
				var late []<-chan answer
				for range 10 {
					late = append(late, lead(t.Context(), &g, parts(fn)), ask(t.Context(), &g, fn))
				}
				if a := <-first; a.value != 1 || a.err != nil {
					t.Errorf("the leader got %v", a)
				}
				for _, l := range late {
					if a := <-l; a.value != 2 || a.err != nil {
						t.Errorf("a caller that came later got %v", a)
					}
				}
				if n := runs.Load(); n != 2 {
					t.Errorf("%d runs", n)
				}
				if a := <-lead(t.Context(), &g, parts(fn)); a.value != 3 {
					t.Errorf("afterwards: %v", a)
				}
			})
		})
	}
}

// The first part runs under the leader's context; the rest does not, and is told
// when the leader has gone. A rest that is returned runs in any case.
func TestContextOfALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a := <-lead(ctx, &g, whole(func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, errors.New("cut off")
		})); a.err != context.DeadlineExceeded { //nolint:errorlint // itself
			t.Errorf("a leader whose time ended in the first part got %v", a)
		}
		told := make(chan bool, 2)
		slow := func(ctx context.Context) (int, error) {
			_, bounded := ctx.Deadline()
			<-ctx.Done()
			time.Sleep(time.Minute) // deaf for a while
			told <- bounded
			return 0, ctx.Err()
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if a := <-lead(ctx, &g, parted(slow)); a.err != context.DeadlineExceeded || time.Since(began) != time.Second { //nolint:errorlint // itself
			t.Errorf("a leader whose time ended in the rest got %v after %s", a, time.Since(began))
		}
		if <-told {
			t.Error("the rest has the leader's deadline")
		}
		ctx, cancel = context.WithCancel(t.Context())
		if a := <-lead(ctx, &g, func(context.Context) (int, func(context.Context) (int, error), error) {
			cancel()
			return 0, func(ctx context.Context) (int, error) {
				told <- ctx.Err() != nil
				return 0, nil
			}, nil
		}); !errors.Is(a.err, context.Canceled) {
			t.Errorf("got %v", a)
		}
		if !<-told {
			t.Error("a rest that began after its leader had gone was not told")
		}
	})
}

// However a part fails, its leader gets that, and the key is free again.
func TestFailuresOfACallThatIsLed(t *testing.T) {
	boom := errors.New("boom")
	exits := func(context.Context) (int, error) { runtime.Goexit(); return 0, nil }
	panics := func(context.Context) (int, error) { panic("ouch") }
	fails := func(context.Context) (int, error) { return 0, boom }
	for name, tt := range map[string]struct {
		first step
		check func(error) bool
	}{
		"first part: an error":   {whole(fails), func(err error) bool { return errors.Is(err, boom) }},
		"first part: a panic":    {whole(panics), isPanic("ouch")},
		"first part: no parts":   {nil, func(err error) bool { var re runtime.Error; return errors.As(err, &re) }},
		"first part: it Goexits": {whole(exits), func(err error) bool { return err == nil }}, // there is nobody to get it
		"rest: an error":         {parted(fails), func(err error) bool { return errors.Is(err, boom) }},
		"rest: a panic":          {parted(panics), isPanic("ouch")},
		"rest: it Goexits":       {parted(exits), func(err error) bool { return errors.Is(err, flight.ErrGoexit) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g flight.Group[int]
				if a := <-lead(t.Context(), &g, tt.first); !tt.check(a.err) {
					t.Errorf("the leader got %v", a.err)
				}
				if a := <-lead(t.Context(), &g, whole(func(context.Context) (int, error) { return 5, nil })); a.value != 5 || a.err != nil {
					t.Errorf("the next caller got %v", a)
				}
			})
		})
	}
}

func BenchmarkLead(b *testing.B) {
	var g flight.Group[int]
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = g.Lead(ctx, "key", 0, whole(func(context.Context) (int, error) { return 1, nil }))
	}
}

// Who comes later is not admitted to a run that has ended for all who wanted it.
func TestNobodyIsAdmittedToARunThatNobodyWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		first, cancel := context.WithCancel(t.Context())
		begun := make(chan struct{})
		go func() {
			_, _ = g.Do(first, "k", func(ctx context.Context) (int, error) {
				close(begun)
				time.Sleep(time.Second)
				flight.RunOf(ctx).Alone()
				flight.RunOf(ctx).Admit()
				return 0, ctx.Err()
			})
		}()
		<-begun
		cancel()
		v, err := g.Do(t.Context(), "k", func(context.Context) (int, error) { return 1, nil })
		if v != 1 || err != nil {
			t.Errorf("got %d, %v", v, err)
		}
	})
}
