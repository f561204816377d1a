package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// act is one row of a table: a user's sentence, played by two processes at a real
// node in virtual time.
type act struct {
	name string
	play func(s *stage)
}

func playAll(t *testing.T, acts []act, opts ...client.Option) {
	t.Helper()
	for _, a := range acts {
		t.Run(a.name, func(t *testing.T) { onStage(t, a.play, opts...) })
	}
}

// Values are fresh for a minute in all of these tables.
func policy(change func(p client.Policy) client.Policy) client.CallOption {
	return client.WithPolicy(change(client.Policy{TTL: time.Minute}))
}

func TestStaleWhileRevalidate(t *testing.T) {
	swr := policy(func(p client.Policy) client.Policy { return p.WithStaleWhileRevalidate(time.Hour).WithTags("t") })
	playAll(t, []act{
		{"past its TTL: stale at once, loaded behind it, fresh on the next call", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(time.Second)
			s.a.want("old", src, swr)
			s.a.wantStale(client.StaleRefreshing)
			time.Sleep(time.Second)
			synctest.Wait()
			s.a.want("new", src, swr)
			if !slices.Equal(s.a.told.refreshes, []client.RefreshReason{client.RefreshStale}) || !slices.Equal(s.a.told.refreshed, []error{nil}) {
				s.Errorf("told of the refreshes %v, which ended with %v", s.a.told.refreshes, s.a.told.refreshed)
			}
		}},
		{"two processes past its TTL: both have the stale value at once, one of them loads", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(time.Second)
			s.a.want("old", src, swr)
			s.b.want("old", src, swr)
			time.Sleep(time.Second)
			synctest.Wait()
			s.wantCalls(src, 2)
			s.b.want("new", src, swr)
		}},
		{"past the time for stale values, and kept: the caller waits for the loader", func(s *stage) {
			p := policy(func(p client.Policy) client.Policy { return p.WithStaleWhileRevalidate(time.Minute).WithKeep(time.Hour) })
			src := newSource("old")
			s.a.want("old", src, p)
			time.Sleep(3 * time.Minute)
			src.becomes("new")
			src.slow(time.Second)
			s.a.wantAfter(time.Second, "new", src, p)
		}},
		{"the value is kept for as long as it may be needed", func(s *stage) {
			s.a.want("v", newSource("v"), swr)
			if keep := s.explain("k").KeepFor.Round(time.Second); keep != time.Hour+time.Minute {
				s.Errorf("kept for %s", keep)
			}
		}},
		{"the loader fails behind it: stale, and the loader is left alone for 30 s", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			for range 3 {
				s.a.want("old", src, swr)
			}
			s.wantCalls(src, 2)
			s.a.wantStale(client.StaleRefreshing, client.StaleThrottled, client.StaleThrottled)
			time.Sleep(client.DefaultFailSafeThrottle)
			src.becomes("new")
			s.a.want("old", src, swr)
			s.a.want("new", src, swr)
		}},
		{"the loader panics behind it: stale, the hook is told, the lease is handed back", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.set(func(src *source) { src.crash = "ouch" })
			s.a.want("old", src, swr)
			var p *client.PanicError
			if len(s.a.told.refreshed) != 1 || !errors.As(s.a.told.refreshed[0], &p) || s.leased("k") {
				s.Errorf("told of %v; leased: %t", s.a.told.refreshed, s.leased("k"))
			}
			s.b.want("old", src, swr)
		}},
		{"tag invalidated while it is loaded behind: what was loaded is not kept, the next caller loads", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.becomes("before")
			src.slow(time.Second)
			s.a.want("old", src, swr)
			src.becomes("after")
			src.slow(0)
			s.b.invalidate("t")
			// It waits for the load that is under way, and then loads itself.
			s.a.wantAfter(time.Second, "after", src, swr)
			if !slices.Equal(s.a.told.superseded, []soracache.Reason{soracache.ReasonSuperseded}) {
				s.Errorf("superseded: %v", s.a.told.superseded)
			}
		}},
		{"key removed while it is loaded behind: what was loaded is not kept, the next caller loads at once", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.becomes("before")
			src.slow(time.Second)
			s.a.want("old", src, swr)
			src.becomes("after")
			src.slow(0)
			if _, err := s.b.Remove(s.Context(), "k"); err != nil {
				s.Fatal(err)
			}
			s.a.want("after", src, swr)
			time.Sleep(time.Second)
			synctest.Wait()
			s.b.want("after", src, swr)
			if !slices.Equal(s.a.told.superseded, []soracache.Reason{soracache.ReasonLeaseLost}) {
				s.Errorf("superseded: %v", s.a.told.superseded)
			}
		}},
		{"the caller has gone: the load goes on, with its context's values and without its deadline", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(time.Minute)
			type mine struct{}
			src.set(func(src *source) {
				src.with = func(ctx context.Context) {
					if _, has := ctx.Deadline(); ctx.Value(mine{}) != "me" || has && time.Until(must(ctx.Deadline())) < time.Minute {
						s.Error("the loader has a deadline of its caller's, or not its values")
					}
				}
			})
			ctx, cancel := context.WithTimeout(context.WithValue(s.Context(), mine{}, "me"), time.Second)
			if r := <-s.a.getIn(ctx, "k", src, swr); r.value != "old" {
				s.Errorf("got %v", r)
			}
			cancel()
			time.Sleep(time.Minute)
			synctest.Wait()
			s.a.want("new", src, swr)
		}},
		{"closed while it is loaded behind: the loader is told, and the lease handed back", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.slow(time.Hour)
			s.a.want("old", src, swr)
			if err := s.a.Close(); err != nil || s.leased("k") {
				s.Errorf("close: %v; leased: %t", err, s.leased("k"))
			}
		}},
		{"300 keys at once: no more than 256 loads that nobody waits for", func(s *stage) {
			src := newSource("old")
			read := func() (values []string) {
				var waiting []<-chan result
				for i := range 300 {
					waiting = append(waiting, s.a.getIn(s.Context(), fmt.Sprint(i), src, swr))
				}
				for _, ch := range waiting {
					values = append(values, (<-ch).value)
				}
				return values
			}
			read()
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(time.Second)
			stale := 0
			for _, v := range read() {
				if v == "old" {
					stale++
				}
			}
			if stale != 256 {
				s.Errorf("%d callers did not wait", stale)
			}
		}},
	})
}

func must[T, R any](v T, _ R) T { return v }

func TestTimeouts(t *testing.T) {
	soft := policy(func(p client.Policy) client.Policy { return p.WithKeep(time.Hour).WithSoftTimeout(time.Second).WithTags("t") })
	hard := policy(func(p client.Policy) client.Policy { return p.WithHardTimeout(2 * time.Second) })
	both := policy(func(p client.Policy) client.Policy {
		return p.WithHardTimeout(2 * time.Second).WithFailSafe(time.Hour).WithTags("t")
	})
	playAll(t, []act{
		{"loader slower than the soft timeout, stale value kept: stale now, fresh on the next call", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, soft)
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(5 * time.Second)
			s.a.wantAfter(time.Second, "old", src, soft)
			s.a.wantStale(client.StaleSlowLoader)
			time.Sleep(4 * time.Second)
			synctest.Wait()
			s.a.want("new", src, soft)
			s.wantCalls(src, 2)
		}},
		{"loader slower than the soft timeout: who comes meanwhile has the stale value at once", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, soft)
			time.Sleep(2 * time.Minute)
			src.slow(5 * time.Second)
			s.a.wantAfter(time.Second, "old", src, soft)
			s.a.want("old", src, soft)
			s.b.want("old", src, soft)
			s.wantCalls(src, 2)
		}},
		{"loader faster than the soft timeout: fresh", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, soft)
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(time.Second / 2)
			s.a.wantAfter(time.Second/2, "new", src, soft)
		}},
		{"loader slower than the soft timeout, and nothing there: it is waited for", func(s *stage) {
			src := newSource("v")
			src.slow(5 * time.Second)
			s.a.wantAfter(5*time.Second, "v", src, soft)
		}},
		{"invalidated before the soft timeout is over: the stale value is not served, the loader is waited for", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, soft)
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(5 * time.Second)
			got := s.a.get(src, soft)
			time.Sleep(time.Second / 2)
			s.b.invalidate("t")
			if r := <-got; r.value != "new" || r.err != nil {
				s.Errorf("got %v", r)
			}
		}},
		{"slow, and then it fails: stale, and the loader is left alone", func(s *stage) {
			p := policy(func(p client.Policy) client.Policy { return p.WithFailSafe(time.Hour).WithSoftTimeout(time.Second) })
			src := newSource("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			src.slow(5 * time.Second)
			s.a.wantAfter(time.Second, "old", src, p)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			s.a.want("old", src, p)
			s.a.wantStale(client.StaleSlowLoader, client.StaleThrottled)
			s.wantCalls(src, 2)
		}},
		{"loader slower than the hard timeout, nothing there: an error in time, the value on a later call", func(s *stage) {
			src := newSource("v")
			src.slow(5 * time.Second)
			start := time.Now()
			s.a.wantErr(context.DeadlineExceeded, src, hard)
			if took := time.Since(start); took != 2*time.Second {
				s.Errorf("it took %s", took)
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			s.a.want("v", src, hard)
			s.b.want("v", src, hard)
			s.wantCalls(src, 1)
		}},
		{"loader slower than the hard timeout, stale value kept: stale under fail-safe", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, both)
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(5 * time.Second)
			s.a.wantAfter(2*time.Second, "old", src, both)
			s.a.wantStale(client.StaleSlowLoader)
			time.Sleep(3 * time.Second)
			synctest.Wait()
			s.a.want("new", src, both)
		}},
		{"loader slower than the hard timeout, invalidated meanwhile: an error", func(s *stage) {
			src := newSource("old")
			s.a.want("old", src, both)
			time.Sleep(2 * time.Minute)
			src.slow(5 * time.Second)
			got := s.a.get(src, both)
			time.Sleep(time.Second)
			s.b.invalidate("t")
			if r := <-got; !errors.Is(r.err, context.DeadlineExceeded) {
				s.Errorf("got %v", r)
			}
		}},
		{"loader of a minute behind a hard timeout: its lease is renewed, and the value stored at the end", func(s *stage) {
			src := newSource("v")
			src.slow(time.Minute)
			s.a.wantErr(context.DeadlineExceeded, src, hard)
			time.Sleep(30 * time.Second)
			if !s.leased("k") {
				s.Error("the lease was not renewed")
			}
			time.Sleep(28 * time.Second)
			synctest.Wait()
			s.b.want("v", src, hard)
			s.wantCalls(src, 1)
		}},
		{"loader that never ends behind a hard timeout: it is told to end after 5 minutes", func(s *stage) {
			src := newSource("v")
			src.slow(24 * time.Hour)
			s.a.wantErr(context.DeadlineExceeded, src, hard)
			time.Sleep(5*time.Minute + time.Second)
			synctest.Wait()
			if s.leased("k") {
				s.Error("the lease is still held")
			}
			src.slow(0)
			s.a.want("v", src, hard)
		}},
		{"another process loads for longer than my hard timeout: an error in time, and no load of my own", func(s *stage) {
			src := newSource("v")
			src.slow(10 * time.Second)
			first := s.b.get(src)
			synctest.Wait()
			start := time.Now()
			s.a.wantErr(context.DeadlineExceeded, src, hard)
			if took := time.Since(start); took != 2*time.Second {
				s.Errorf("it took %s", took)
			}
			<-first
			s.wantCalls(src, 1)
		}},
		{"no node answers and the loader is slower than the hard timeout: an error, and the loader is told", func(s *stage) {
			s.cut()
			src := newSource("v")
			var ctx context.Context
			src.set(func(src *source) { src.takes = time.Hour; src.with = func(c context.Context) { ctx = c } })
			s.a.wantErr(context.DeadlineExceeded, src, hard)
			if ctx.Err() == nil {
				s.Error("the loader goes on, and could not store anything")
			}
		}},
		{"closed while a loader goes on behind a hard timeout: it is told, and the lease handed back", func(s *stage) {
			src := newSource("v")
			src.slow(time.Hour)
			s.a.wantErr(context.DeadlineExceeded, src, hard)
			if err := s.a.Close(); err != nil || s.leased("k") {
				s.Errorf("close: %v; leased: %t", err, s.leased("k"))
			}
		}},
		{"10 callers share a load and 9 cancel: the tenth gets the value", func(s *stage) {
			src := newSource("v")
			src.slow(time.Second)
			leaving, leave := context.WithCancel(s.Context())
			var left []<-chan result
			for range 9 {
				left = append(left, s.a.getIn(leaving, "k", src, hard))
			}
			stays := s.a.get(src, hard)
			time.Sleep(time.Second / 2)
			leave()
			for _, ch := range left {
				if r := <-ch; !errors.Is(r.err, context.Canceled) {
					s.Errorf("a caller that left got %v", r)
				}
			}
			if r := <-stays; r.value != "v" || r.err != nil {
				s.Errorf("the caller that stayed got %v", r)
			}
		}},
		{"all callers cancel before the hard timeout: the loader is told, and the lease handed back", func(s *stage) {
			src := newSource("v")
			src.slow(time.Hour)
			ctx, cancel := context.WithCancel(s.Context())
			got := s.a.getIn(ctx, "k", src, hard)
			synctest.Wait()
			cancel()
			<-got
			synctest.Wait()
			if s.leased("k") {
				s.Error("the lease is still held")
			}
			src.slow(0)
			s.a.want("v", src, hard)
		}},
		{"the loader panics before the hard timeout: the caller gets the panic, the next one loads", func(s *stage) {
			src := newSource("v")
			src.set(func(src *source) { src.crash = errBoom })
			s.a.wantErr(errBoom, src, hard)
			src.set(func(src *source) { src.crash = nil })
			s.a.want("v", src, hard)
		}},
	})
}
