package deadline

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The ends of a limit: its caller's, the client's, its time, and its own.
func TestItEnds(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		end   func(caller, client context.CancelFunc, l *Context)
		after time.Duration // from the beginning
		want  error
	}{
		"its caller goes":       {func(caller, _ context.CancelFunc, _ *Context) { caller() }, 0, context.Canceled},
		"the client is closed":  {func(_, client context.CancelFunc, _ *Context) { client() }, 0, context.Canceled},
		"its time is over":      {func(_, _ context.CancelFunc, _ *Context) {}, time.Second, context.DeadlineExceeded},
		"it is not used longer": {func(_, _ context.CancelFunc, l *Context) { l.End() }, 0, context.Canceled},
	}
	for name, c := range cases {
		for how, wait := range map[string]func(*Context) error{
			"seen by Done": func(l *Context) error { <-l.Done(); return l.Err() },
			"seen by a context derived from it": func(l *Context) error {
				ctx, cancel := context.WithCancel(l)
				defer cancel()
				<-ctx.Done()
				return ctx.Err()
			},
			"seen by who waits for something": func(l *Context) error {
				var timer *time.Timer
				err := Wait(l, make(chan struct{}), &timer)
				if timer.Stop() {
					t.Error("the timer still runs")
				}
				return err
			},
		} {
			if name == "it is not used longer" && how == "seen by who waits for something" {
				continue // nobody waits under a limit that was ended
			}
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					caller, callerGoes := context.WithCancel(t.Context())
					defer callerGoes()
					closing, clientCloses := context.WithCancel(context.Background())
					defer clientCloses()
					began := time.Now()
					l := New(caller, closing, began.Add(time.Second))
					defer l.End()
					if err := l.Err(); err != nil {
						t.Fatalf("%v at first", err)
					}
					ended := make(chan error)
					go func() { ended <- wait(l) }()
					synctest.Wait()
					c.end(callerGoes, clientCloses, l)
					if err := <-ended; !errors.Is(err, c.want) {
						t.Errorf("%v, want %v", err, c.want)
					}
					if took := time.Since(began); took != c.after {
						t.Errorf("after %v, want %v", took, c.after)
					}
					if err := l.Err(); !errors.Is(err, c.want) {
						t.Errorf("it says %v, want %v", err, c.want)
					}
				})
			})
		}
		t.Run(name+", and nobody has waited", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				caller, callerGoes := context.WithCancel(t.Context())
				defer callerGoes()
				closing, clientCloses := context.WithCancel(context.Background())
				defer clientCloses()
				l := New(caller, closing, time.Now().Add(time.Second))
				c.end(callerGoes, clientCloses, l)
				time.Sleep(c.after)
				if err := l.Err(); !errors.Is(err, c.want) {
					t.Errorf("it says %v, want %v", err, c.want)
				}
				select {
				case <-l.Done():
				case <-time.After(time.Nanosecond):
					t.Error("it is not done")
				}
				l.End()
			})
		})
	}
}

// A limit's time is its caller's, if that is sooner; one that is sooner than
// another ends with the same.
func TestIsTheSoonest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		caller, cancel := context.WithDeadline(t.Context(), now.Add(2*time.Second))
		defer cancel()
		closing, clientCloses := context.WithCancel(context.Background())
		defer clientCloses()
		for _, c := range []struct{ limit, sooner, want time.Duration }{
			{3 * time.Second, 4 * time.Second, 2 * time.Second},
			{time.Second, 4 * time.Second, time.Second},
			{time.Second, time.Millisecond, time.Millisecond},
		} {
			l := New(caller, closing, now.Add(c.limit)).Sooner(now.Add(c.sooner))
			if at, ok := l.Deadline(); !ok || at != now.Add(c.want) {
				t.Errorf("%+v: %v, %v", c, at.Sub(now), ok)
			}
		}
		l := New(caller, closing, now.Add(time.Second)).Sooner(now.Add(time.Second))
		clientCloses()
		if <-l.Done(); !errors.Is(l.Err(), context.Canceled) {
			t.Errorf("%v as the client closes", l.Err())
		}
	})
}

// Contexts that are derived from a limit need no goroutine each to watch it.
func TestNeedsNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(t.Context(), context.Background(), time.Now().Add(time.Second))
		defer l.End()
		before := runtime.NumGoroutine()
		const derived = 1000
		for range derived {
			_, cancel := context.WithCancel(l)
			defer cancel()
		}
		if more := runtime.NumGoroutine() - before; more > derived/2 { // other tests may leave some
			t.Errorf("%d goroutines more", more)
		}
	})
}

// A limit is put off for as long as the call that it follows makes progress.
func TestFollowsProgress(t *testing.T) {
	t.Parallel()
	const second, kib = time.Second, 1 << 10
	tests := map[string]struct {
		caller     time.Duration // its deadline; zero: none
		begin      time.Duration // when the first bytes move
		rate, size int           // in KiB, of each 10 ms and of all
		up         bool
		want       time.Duration
	}{
		"nothing moves":                        {0, second, 100, 0, false, 250 * time.Millisecond},
		"much moves":                           {0, 0, 30, 6000, false, 2250 * time.Millisecond},
		"much moves, and begins late":          {0, 200 * time.Millisecond, 30, 6000, false, 2450 * time.Millisecond},
		"little moves":                         {0, 0, 1, 6000, false, 260 * time.Millisecond},
		"the caller's own deadline":            {second, 0, 30, 6000, false, second},
		"what was sent is still on its way":    {0, 0, 2048, 2048, true, 260*time.Millisecond + 2*second},
		"a part of a limit, and the whole one": {0, 0, 30, 3000, false, 1250 * time.Millisecond},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if c.caller > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.caller)
					defer cancel()
				}
				began := time.Now()
				whole := New(ctx, context.Background(), began.Add(Within))
				defer whole.End()
				l := whole.Sooner(began.Add(Within))
				defer l.End()
				var progress Progress
				Follow(l, &progress)
				var moving sync.WaitGroup
				defer moving.Wait()
				moving.Go(func() {
					time.Sleep(c.begin)
					note := progress.Received
					if c.up {
						note = progress.Sent
					}
					for left := c.size; left > 0; left -= c.rate {
						time.Sleep(10 * time.Millisecond)
						note(c.rate * kib)
					}
				})
				for _, l := range []*Context{l, whole} {
					<-l.Done()
					if took := time.Since(began); !errors.Is(l.Err(), context.DeadlineExceeded) || took < c.want-Within/5 || took > c.want+2*Within { // who looks late sees one more
						t.Errorf("%v after %s, want %s", l.Err(), took, c.want)
					}
				}
				var timer *time.Timer
				if err := Wait(whole, make(chan struct{}), &timer); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}
