package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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

// playAll plays each act twice: what holds for GetOrSet holds for each key of
// GetOrSetMany.
func playAll(t *testing.T, acts []act, opts ...client.Option) {
	t.Helper()
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) { playBy(t, door, acts, opts...) })
	}
}

// playBy plays each act with processes that ask by one door.
func playBy(t *testing.T, door door, acts []act, opts ...client.Option) {
	t.Helper()
	for _, a := range acts {
		t.Run(a.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.a.door, s.b.door = door, door
				a.play(s)
			}, opts...)
		})
	}
}

// Values are fresh for a minute in all of these tables.
func policy(change func(p client.Policy) client.Policy) client.CallOption {
	return client.WithPolicy(change(client.Policy{TTL: time.Minute}))
}

func TestStaleWhileRevalidate(t *testing.T) {
	swr := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour }).WithTags("t")
	})
	playAll(t, []act{
		{"past its TTL: stale at once, loaded behind it, fresh on the next call", func(s *stage) {
			src := newOrigin("old")
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
			src := newOrigin("old")
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
			p := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Minute; p.Keep = time.Hour })
			})
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(3 * time.Minute)
			src.becomes("new")
			src.slow(time.Second)
			s.a.wantAfter(time.Second, "new", src, p)
		}},
		{"the value is kept for as long as it may be needed", func(s *stage) {
			s.a.want("v", newOrigin("v"), swr)
			if keep := s.explain("k").KeepFor.Round(time.Second); keep != time.Hour+time.Minute {
				s.Errorf("kept for %s", keep)
			}
		}},
		{"the loader fails behind it: stale, and the loader is left alone for 30 s", func(s *stage) {
			src := newOrigin("old")
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
			src := newOrigin("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.set(func(src *origin) { src.crash = "ouch" })
			s.a.want("old", src, swr)
			var p *client.PanicError
			if len(s.a.told.refreshed) != 1 || !errors.As(s.a.told.refreshed[0], &p) || s.leased("k") {
				s.Errorf("told of %v; leased: %t", s.a.told.refreshed, s.leased("k"))
			}
			s.b.want("old", src, swr)
		}},
		{"tag invalidated while it is loaded behind: what was loaded is not kept, the next caller loads", func(s *stage) {
			src := newOrigin("old")
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
			src := newOrigin("old")
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
			src := newOrigin("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(time.Minute)
			type mine struct{}
			src.set(func(src *origin) {
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
			src := newOrigin("old")
			s.a.want("old", src, swr)
			time.Sleep(2 * time.Minute)
			src.slow(time.Hour)
			s.a.want("old", src, swr)
			if err := s.a.Close(); err != nil || s.leased("k") {
				s.Errorf("close: %v; leased: %t", err, s.leased("k"))
			}
		}},
		{"300 keys at once: no more than 256 loads that nobody waits for", func(s *stage) {
			src := newOrigin("old")
			read := func() (values []string) {
				var waiting []<-chan result
				for i := range 300 {
					waiting = append(waiting, s.a.getIn(s.Context(), strconv.Itoa(i), src, swr))
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
	soft := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.Keep = time.Hour; p.SoftTimeout = time.Second }).WithTags("t")
	})
	hard := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.HardTimeout = 2 * time.Second })
	})
	both := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.HardTimeout = 2 * time.Second; p.FailSafe = time.Hour }).WithTags("t")
	})
	playAll(t, []act{
		{"loader slower than the soft timeout, stale value kept: stale now, fresh on the next call", func(s *stage) {
			src := newOrigin("old")
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
			src := newOrigin("old")
			s.a.want("old", src, soft)
			time.Sleep(2 * time.Minute)
			src.slow(5 * time.Second)
			s.a.wantAfter(time.Second, "old", src, soft)
			s.a.want("old", src, soft)
			s.b.want("old", src, soft)
			s.wantCalls(src, 2)
		}},
		{"loader faster than the soft timeout: fresh", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, soft)
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			src.slow(time.Second / 2)
			s.a.wantAfter(time.Second/2, "new", src, soft)
		}},
		{"loader slower than the soft timeout, and nothing there: it is waited for", func(s *stage) {
			src := newOrigin("v")
			src.slow(5 * time.Second)
			s.a.wantAfter(5*time.Second, "v", src, soft)
		}},
		{"invalidated before the soft timeout is over: the stale value is not served, the loader is waited for", func(s *stage) {
			src := newOrigin("old")
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
			p := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.FailSafe = time.Hour; p.SoftTimeout = time.Second })
			})
			src := newOrigin("old")
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
			src := newOrigin("v")
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
			src := newOrigin("old")
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
			src := newOrigin("old")
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
			src := newOrigin("v")
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
			src := newOrigin("v")
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
			src := newOrigin("v")
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
			src := newOrigin("v")
			ctxs := make(chan context.Context, 1)
			src.set(func(src *origin) { src.takes = time.Hour; src.with = func(ctx context.Context) { ctxs <- ctx } })
			s.a.wantErr(context.DeadlineExceeded, src, hard)
			if (<-ctxs).Err() == nil {
				s.Error("the loader goes on, and could not store anything")
			}
		}},
		{"closed while a loader goes on behind a hard timeout: it is told, and the lease handed back", func(s *stage) {
			src := newOrigin("v")
			src.slow(time.Hour)
			s.a.wantErr(context.DeadlineExceeded, src, hard)
			if err := s.a.Close(); err != nil || s.leased("k") {
				s.Errorf("close: %v; leased: %t", err, s.leased("k"))
			}
		}},
		{"10 callers share a load and 9 cancel: the tenth gets the value", func(s *stage) {
			src := newOrigin("v")
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
			src := newOrigin("v")
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
			src := newOrigin("v")
			src.set(func(src *origin) { src.crash = errBoom })
			s.a.wantErr(errBoom, src, hard)
			src.set(func(src *origin) { src.crash = nil })
			s.a.want("v", src, hard)
		}},
	})
}

func TestFailSafe(t *testing.T) {
	safe := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.FailSafe = time.Hour }).WithTags("t")
	})
	playAll(t, []act{
		{"the loader fails, stale value kept: stale", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.a.want("old", src, safe)
			s.a.wantStale(client.StaleFailedLoader)
			if s.leased("k") {
				s.Error("the lease was not handed back")
			}
		}},
		{"the loader works again: fresh", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.a.want("old", src, safe)
			src.becomes("new")
			s.b.want("new", src, safe) // another process knows nothing of the failure
			s.a.want("new", src, safe)
		}},
		{"the loader goes on failing: it is asked again after 30 s and not before", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			for range 29 {
				s.a.want("old", src, safe)
				time.Sleep(time.Second)
			}
			s.wantCalls(src, 2)
			time.Sleep(time.Second)
			s.a.want("old", src, safe)
			s.wantCalls(src, 3)
		}},
		{"a policy that does not leave a loader alone", func(s *stage) {
			p := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.FailSafe = time.Hour; p.FailSafeThrottle = -1 })
			})
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.a.want("old", src, p)
			s.a.want("old", src, p)
			s.wantCalls(src, 3)
		}},
		{"fail-safe after invalidation: the error, never the invalidated value", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			s.b.want("old", src, safe)
			src.fails(errBoom)
			s.a.invalidate("t")
			s.a.wantErr(errBoom, src, safe)
			s.b.wantErr(errBoom, src, safe)
		}},
		{"fail-safe after invalidation of what is past its TTL: the error", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.a.want("old", src, safe)
			s.b.invalidate("t")
			s.a.wantErr(errBoom, src, safe) // the loader is left alone no longer: there is nothing else
			s.wantCalls(src, 3)
		}},
		{"invalidated while the loader is failing: the error", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			src.slow(time.Second)
			got := s.a.get(src, safe)
			time.Sleep(time.Second / 2)
			s.b.invalidate("t")
			if r := <-got; !errors.Is(r.err, errBoom) {
				s.Errorf("got %v", r)
			}
		}},
		{"invalidated while the loader is failing, and the node goes away: the error", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			src.slow(time.Second)
			got := s.a.get(src, safe)
			time.Sleep(time.Second / 2)
			s.b.invalidate("t")
			s.cut()
			if r := <-got; !errors.Is(r.err, errBoom) {
				s.Errorf("got %v", r)
			}
		}},
		{"the node goes away while the loader is failing: the value that was there", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			src.slow(time.Second)
			got := s.a.get(src, safe)
			time.Sleep(time.Second / 2)
			s.cut()
			if r := <-got; r.value != "old" || r.err != nil {
				s.Errorf("got %v", r)
			}
			s.a.wantStale(client.StaleServiceDown)
		}},
		{"past the time that fail-safe allows, and kept: the error", func(s *stage) {
			p := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.FailSafe = time.Minute; p.Keep = time.Hour })
			})
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2*time.Minute + time.Second)
			src.fails(errBoom)
			s.a.wantErr(errBoom, src, p)
		}},
		{"kept, and no fail-safe: the error", func(s *stage) {
			p := policy(func(p client.Policy) client.Policy { return p.With(func(p *client.Policy) { p.Keep = time.Hour }) })
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.a.wantErr(errBoom, src, p)
			s.a.wantErr(errBoom, src, p)
			s.wantCalls(src, 3)
		}},
		{"the loader says not found: that is an answer and no failure", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.fails(fmt.Errorf("no such row: %w", client.ErrNotFound))
			s.a.wantErr(client.ErrNotFound, src, safe)
		}},
		{"the loader panics, stale value kept: stale", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.set(func(src *origin) { src.crash = "ouch" })
			s.a.want("old", src, safe)
			s.a.wantStale(client.StaleFailedLoader)
		}},
		{"no node answers and the loader fails: the near copy, flagged", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			s.cut()
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.a.want("old", src, safe)
			s.a.want("old", src, safe)
			s.a.wantStale(client.StaleServiceDown, client.StaleServiceDown)
			s.wantCalls(src, 2) // once to fill it, and once in vain
			s.b.wantErr(errBoom, src, safe)
		}},
		{"no node answers and the loader works: its value, not the near copy", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			s.cut()
			time.Sleep(2 * time.Minute)
			src.becomes("new")
			s.a.want("new", src, safe)
		}},
		{"no node answers, the loader fails, no fail-safe: the error, whatever is near", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src)
			s.cut()
			time.Sleep(time.Minute)
			src.fails(errBoom)
			s.a.wantErr(errBoom, src)
		}},
		{"invalidated, then no node answers and the loader fails: the error", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			s.b.invalidate("t")
			s.cut()
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.a.wantErr(errBoom, src, safe)
		}},
		{"my own invalidation fails, and so do node and loader: the error, for it may have been recorded", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			s.cut()
			if _, err := s.a.InvalidateTags(s.Context(), "t"); err == nil {
				s.Fatal("an invalidation without a node")
			}
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.a.wantErr(errBoom, src, safe)
		}},
		{"a dish of a value that stands in for a failed loader is not kept", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			v, err := client.GetOrSet(s.Context(), s.a.Client, "dish", func(ctx context.Context) (string, error) {
				return client.GetOrSet(ctx, s.a.Client, "k", src.load, safe)
			})
			if v != "old" || err != nil || s.explain("dish").Present {
				s.Errorf("got %q, %v; the dish is kept: %t", v, err, s.explain("dish").Present)
			}
		}},
	})
	playAll(t, []act{
		{"the store is down and the loader fails: what a node has and cannot confirm, flagged", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, safe)
			s.store.down.Store(true)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.b.want("old", src, safe)
			s.b.wantStale(client.StaleServiceDown)
			s.wantCalls(src, 2)
		}},
		{"the store is down, the loader fails, no fail-safe: nobody asks for what is not confirmed", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, policy(func(p client.Policy) client.Policy { return p.With(func(p *client.Policy) { p.Keep = time.Hour }) }))
			s.store.down.Store(true)
			time.Sleep(2 * time.Minute)
			src.fails(errBoom)
			s.a.wantErr(errBoom, src)
			if n := s.a.track.unconfirmed.Load(); n != 0 {
				s.Errorf("%d requests accepted what is not confirmed", n)
			}
		}},
	}, client.NoNear())
}

func TestEagerRefresh(t *testing.T) {
	// With a minute's TTL: in the last 15 seconds.
	eager := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.EagerAt = 0.75 }).WithTags("t")
	})
	playAll(t, []act{
		{"read late in its TTL: the value at once, loaded anew behind it", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, eager)
			src.becomes("new")
			time.Sleep(44 * time.Second)
			s.a.want("old", src, eager)
			s.wantCalls(src, 1)
			time.Sleep(2 * time.Second)
			s.a.want("old", src, eager)
			s.wantCalls(src, 2)
			s.a.want("new", src, eager)
			s.b.want("new", src, eager)
			s.a.wantStale()
			if !slices.Equal(s.a.told.refreshes, []client.RefreshReason{client.RefreshEager}) {
				s.Errorf("told of %v", s.a.told.refreshes)
			}
		}},
		{"by two processes at once: one refresh", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, eager)
			s.b.want("old", src, eager)
			time.Sleep(50 * time.Second)
			src.becomes("new")
			src.slow(time.Second)
			s.a.want("old", src, eager)
			s.b.want("old", src, eager)
			time.Sleep(time.Second)
			synctest.Wait()
			s.wantCalls(src, 2)
		}},
		{"by a hundred callers at once: one refresh, and few questions", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, eager)
			s.b.want("old", src, eager)
			time.Sleep(50 * time.Second)
			src.slow(5 * time.Second)
			before := s.b.track.reads.Load()
			for range 100 {
				s.a.want("old", src, eager)
				s.b.want("old", src, eager)
				time.Sleep(10 * time.Millisecond)
			}
			s.wantCalls(src, 2)
			if n := s.b.track.reads.Load() - before; n > 2 {
				s.Errorf("the other process asked %d times in a second who refreshes it", n)
			}
		}},
		{"a loading cache refreshes what it finds near, and a read without a loader does not", func(s *stage) {
			src := newOrigin("old")
			cache := client.NewLoadingCache(s.a.Client, client.Policy{TTL: time.Minute, EagerAt: 0.5}, func(ctx context.Context, _ string) (string, error) { return src.load(ctx) })
			get := func(want string) {
				s.Helper()
				if v, err := cache.Get(s.Context(), "k"); v != want || err != nil {
					s.Errorf("got %q, %v; want %q", v, err, want)
				}
				synctest.Wait()
			}
			get("old")
			src.becomes("new")
			time.Sleep(40 * time.Second)
			if v, ok, err := client.Get[string](s.Context(), s.a.Client, "k"); v != "old" || !ok || err != nil {
				s.Errorf("got %q, %t, %v", v, ok, err)
			}
			synctest.Wait()
			s.wantCalls(src, 1)
			get("old")
			get("new")
		}},
		{"the loader fails early: nobody notices, and it is left alone for a while", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, eager)
			time.Sleep(50 * time.Second)
			src.fails(errBoom)
			for range 5 {
				s.a.want("old", src, eager)
				time.Sleep(time.Second)
			}
			s.wantCalls(src, 2)
		}},
		{"the loader set a TTL shorter than the policy knows: the value is not refreshed all the time", func(s *stage) {
			src := newOrigin("v")
			src.set(func(src *origin) {
				src.with = func(ctx context.Context) { client.LoadContextFrom(ctx).SetTTL(10 * time.Second) }
			})
			s.a.want("v", src, eager)
			for range 7 {
				time.Sleep(time.Second)
				s.a.want("v", src, eager)
			}
			s.wantCalls(src, 1)
			time.Sleep(time.Second)
			s.a.want("v", src, eager)
			s.wantCalls(src, 2)
		}},
		{"tag invalidated while it is refreshed early: what was loaded is not kept", func(s *stage) {
			src := newOrigin("old")
			s.a.want("old", src, eager)
			time.Sleep(50 * time.Second)
			src.becomes("before")
			src.slow(time.Second)
			s.a.want("old", src, eager)
			s.b.invalidate("t")
			src.becomes("after")
			src.slow(0)
			s.a.wantAfter(time.Second, "after", src, eager)
			s.b.want("after", src, eager)
		}},
		{"by chance: a loader of a second and a high Beta is refreshed long before the end, and only once", func(s *stage) {
			cache := client.NewCache[string](s.a.Client, client.Policy{TTL: time.Hour, ProbabilisticRefresh: 1000})
			src := newOrigin("old")
			src.slow(time.Second)
			get := func() string {
				v, err := cache.GetOrSet(s.Context(), "k", src.load)
				if err != nil {
					s.Error(err)
				}
				return v
			}
			get()
			src.becomes("new")
			reads := 0
			for get() != "new" {
				if reads++; reads > 3600 {
					s.Fatal("not refreshed within its TTL")
				}
				time.Sleep(time.Second)
			}
			if n := src.count(); n > 3 { // the read that ended the loop may have begun one more
				s.Errorf("%d loads", n)
			}
		}},
		{"by chance: a loader that takes no time is not refreshed early", func(s *stage) {
			cache := client.NewCache[string](s.a.Client, client.Policy{TTL: time.Hour, ProbabilisticRefresh: 1})
			src := newOrigin("v")
			for range 3000 {
				if _, err := cache.GetOrSet(s.Context(), "k", src.load); err != nil {
					s.Fatal(err)
				}
				time.Sleep(time.Second)
			}
			s.wantCalls(src, 1)
		}},
	})
}

func TestKeptErrors(t *testing.T) {
	negative := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.NotFoundTTL = 10 * time.Second }).WithTags("t")
	})
	missing := fmt.Errorf("no such row: %w", client.ErrNotFound)
	playAll(t, []act{
		{"not found: remembered in every tier, for its own TTL", func(s *stage) {
			src := newOrigin("")
			src.fails(missing)
			s.a.wantErr(missing, src, negative)
			reads := s.a.track.reads.Load()
			s.a.wantErr(client.ErrNotFound, src, negative)
			if n := s.a.track.reads.Load() - reads; n != 0 {
				s.Errorf("%d questions for what is known near", n)
			}
			s.b.wantErr(client.ErrNotFound, src, negative)
			if _, found, err := client.Get[string](s.Context(), s.b.Client, "k"); found || !errors.Is(err, client.ErrNotFound) {
				s.Errorf("Get: %t, %v", found, err)
			}
			s.wantCalls(src, 1)
			time.Sleep(10 * time.Second)
			src.becomes("there")
			s.b.want("there", src, negative)
			s.a.want("there", src, negative)
		}},
		{"not found, and the policy does not remember that: the loader is asked each time", func(s *stage) {
			src := newOrigin("")
			src.fails(missing)
			s.a.wantErr(missing, src)
			s.a.wantErr(missing, src)
			s.wantCalls(src, 2)
			if s.explain("k").Present {
				s.Error("something was stored")
			}
		}},
		{"not found is invalidated by key, like a value", func(s *stage) {
			src := newOrigin("")
			src.fails(missing)
			s.a.wantErr(missing, src, negative)
			s.b.wantErr(client.ErrNotFound, src, negative)
			src.becomes("there")
			if _, err := s.a.Remove(s.Context(), "k"); err != nil {
				s.Fatal(err)
			}
			synctest.Wait()
			s.a.want("there", src, negative)
			s.b.want("there", src, negative)
		}},
		{"not found is invalidated by tag, like a value", func(s *stage) {
			src := newOrigin("")
			src.fails(missing)
			s.a.wantErr(missing, src, negative)
			src.becomes("there")
			s.b.invalidate("t")
			s.a.want("there", src, negative)
		}},
		{"invalidated while the loader finds nothing: that is not remembered", func(s *stage) {
			src := newOrigin("")
			src.fails(missing)
			src.slow(time.Second)
			got := s.a.get(src, negative)
			time.Sleep(time.Second / 2)
			s.b.invalidate("t")
			if r := <-got; !errors.Is(r.err, missing) {
				s.Errorf("got %v", r)
			}
			src.slow(0)
			src.becomes("there")
			s.a.want("there", src, negative)
		}},
		{"a dish made without what is not found: invalid as soon as that is there", func(s *stage) {
			src := newOrigin("")
			src.fails(missing)
			dish := newOrigin("without")
			dish.set(func(d *origin) {
				d.with = func(ctx context.Context) { _, _ = client.GetOrSet(ctx, s.a.Client, "part", src.load, negative) }
			})
			s.a.want("without", dish)
			dish.becomes("with")
			s.b.invalidate("t")
			s.a.want("with", dish)
		}},
		{"by choice an error is kept: its callers get it, others its text, until its TTL is over", func(s *stage) {
			src := newOrigin("")
			src.fails(client.CacheError(errBoom, 10*time.Second))
			if r := <-s.a.get(src); r.err != errBoom { //nolint:errorlint // the very error
				s.Errorf("the loader's caller got %v", r.err)
			}
			for _, p := range []*process{s.a, s.b} {
				r := <-p.get(src)
				if kept, ok := errors.AsType[*client.CachedError](r.err); !ok || kept.Text != "boom" || errors.Is(r.err, errBoom) {
					s.Errorf("got %v", r.err)
				}
			}
			s.wantCalls(src, 1)
			time.Sleep(10 * time.Second)
			src.becomes("v")
			s.a.want("v", src)
		}},
		{"an error that is to be kept, where fail-safe allows an older value: the value, and the error is not kept", func(s *stage) {
			p := policy(func(p client.Policy) client.Policy { return p.With(func(p *client.Policy) { p.FailSafe = time.Hour }) })
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			src.fails(client.CacheError(errBoom, time.Minute))
			s.a.want("old", src, p)
			s.b.want("old", src, p)
		}},
		{"no node answers: an error that is to be kept is returned, and nothing is", func(s *stage) {
			s.cut()
			src := newOrigin("")
			src.fails(client.CacheError(errBoom, time.Minute))
			s.a.wantErr(errBoom, src)
			src.fails(missing)
			s.a.wantErr(missing, src, negative)
			s.wantCalls(src, 2)
		}},
	})
}

func TestConditionalRefresh(t *testing.T) {
	p := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.Keep = time.Hour }).WithTags("t")
	})
	// A source that has an etag, and answers by it.
	conditional := func(s *stage, src *origin, etag string) {
		src.with = func(ctx context.Context) {
			prev, was, ok := client.Previous[string](ctx)
			if _, _, other := client.Previous[int](ctx); other {
				s.Error("a previous value of another type")
			}
			src.mu.Lock()
			defer src.mu.Unlock()
			client.LoadContextFrom(ctx).AddTags("found")
			if ok && was == etag && prev == src.value {
				return
			}
			client.LoadContextFrom(ctx).SetETag(etag)
		}
	}
	playBy(t, doors[0], []act{
		{"not modified: the value with its tags and etag, for another TTL", func(s *stage) {
			src := newOrigin("v")
			src.set(func(src *origin) { conditional(s, src, "e1") })
			s.a.want("v", src, p)
			time.Sleep(2 * time.Minute)
			src.set(func(src *origin) {
				src.with = func(ctx context.Context) {
					if prev, etag, ok := client.Previous[string](ctx); prev != "v" || etag != "e1" || !ok {
						s.Errorf("before: %q, %q, %t", prev, etag, ok)
					}
					client.LoadContextFrom(ctx).AddTags("more")
				}
				src.value, src.err = "", fmt.Errorf("304: %w", client.ErrNotModified)
			})
			s.b.want("v", src, p)
			if e := s.explain("k"); !slices.Equal(e.Tags, []string{"found", "more", "t"}) || e.FreshFor != time.Minute {
				s.Errorf("stored with tags %v for %s", e.Tags, e.FreshFor)
			}
			time.Sleep(2 * time.Minute)
			s.a.want("v", src, p) // the etag is there still
			s.wantCalls(src, 3)
			s.b.invalidate("found")
			s.a.wantErr(client.ErrNotModified, newUnmodified(), p)
		}},
		{"not modified, and nothing was there: an error", func(s *stage) {
			s.a.wantErr(client.ErrNotModified, newUnmodified(), p)
			if s.explain("k").Present {
				s.Error("something was stored")
			}
		}},
		{"not modified, and what was there is invalidated: an error, not the invalidated value", func(s *stage) {
			s.a.want("v", newOrigin("v"), p)
			s.b.invalidate("t")
			s.a.wantErr(client.ErrNotModified, newUnmodified(), p)
		}},
		{"not modified, but invalidated meanwhile: returned, and not kept", func(s *stage) {
			s.a.want("v", newOrigin("v"), p)
			time.Sleep(2 * time.Minute)
			src := newUnmodified()
			src.slow(time.Second)
			got := s.a.get(src, p)
			time.Sleep(time.Second / 2)
			s.b.invalidate("t")
			if r := <-got; r.value != "v" || r.err != nil {
				s.Errorf("got %v", r)
			}
			s.a.want("new", newOrigin("new"), p)
		}},
		{"not modified, behind a stale value", func(s *stage) {
			swr := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
			})
			s.a.want("v", newOrigin("v"), swr)
			time.Sleep(2 * time.Minute)
			src := newUnmodified()
			s.a.want("v", src, swr)
			s.a.wantStale(client.StaleRefreshing)
			s.a.want("v", src, swr)
			s.a.wantStale()
			s.wantCalls(src, 1)
		}},
		{"modified: the new value and its etag, without the tags of the old one", func(s *stage) {
			src := newOrigin("v")
			src.set(func(src *origin) { conditional(s, src, "e1") })
			s.a.want("v", src, p)
			time.Sleep(2 * time.Minute)
			src.becomes("w")
			src.set(func(src *origin) { src.with = func(ctx context.Context) { client.LoadContextFrom(ctx).SetETag("e2") } })
			s.a.want("w", src, p)
			if e := s.explain("k"); !slices.Equal(e.Tags, []string{"t"}) {
				s.Errorf("stored with tags %v", e.Tags)
			}
		}},
	})
}

func newUnmodified() *origin {
	src := newOrigin("")
	src.fails(client.ErrNotModified)
	return src
}

func TestWhatLoadersAndCallsDecide(t *testing.T) {
	says := func(say func(f *client.LoadContext)) *origin {
		src := newOrigin("v")
		src.with = func(ctx context.Context) { say(client.LoadContextFrom(ctx)) }
		return src
	}
	playAll(t, []act{
		{"the loader shortens the TTL, and the keep time follows", func(s *stage) {
			p := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.FailSafe = time.Minute })
			})
			s.a.want("v", says(func(f *client.LoadContext) { f.SetTTL(10 * time.Second) }), p)
			if e := s.explain("k"); e.FreshFor != 10*time.Second || e.KeepFor != 70*time.Second {
				s.Errorf("fresh for %s, kept for %s", e.FreshFor, e.KeepFor)
			}
			time.Sleep(10 * time.Second)
			s.a.want("new", newOrigin("new"), p)
			s.a.wantStale()
		}},
		{"the loader keeps a value for longer", func(s *stage) {
			s.a.want("v", says(func(f *client.LoadContext) { f.AdjustPolicy(func(p *client.Policy) { p.Keep = time.Hour }) }))
			if e := s.explain("k"); e.KeepFor != time.Hour {
				s.Errorf("kept for %s", e.KeepFor)
			}
		}},
		{"the loader keeps a value out of the near cache", func(s *stage) {
			src := says(func(f *client.LoadContext) { f.AdjustPolicy(func(p *client.Policy) { p.Near = -1 }) })
			s.a.want("v", src)
			before := s.a.track.reads.Load()
			s.a.want("v", src, client.AdjustPolicy(func(p *client.Policy) { p.Near = -1 }))
			if s.a.track.reads.Load() == before {
				s.Error("found near")
			}
		}},
		{"the loader keeps a value out of the node's memory", func(s *stage) {
			s.a.want("v", says(func(f *client.LoadContext) { f.AdjustPolicy(func(p *client.Policy) { p.L1 = time.Second }) }))
			time.Sleep(2 * time.Second)
			e, err := s.node.Explain(s.Context(), soracache.DefaultNamespace, "k")
			if err != nil || e.L1.Live || !e.L2.Live {
				s.Errorf("%+v, %v", e, err)
			}
		}},
		{"the loader changes anything in the policy", func(s *stage) {
			s.a.want("v", says(func(f *client.LoadContext) {
				f.AdjustPolicy(func(p *client.Policy) { *p = p.WithTTL(time.Hour).WithTags("late") })
			}))
			if e := s.explain("k"); e.FreshFor != time.Hour || !slices.Equal(e.Tags, []string{"late"}) {
				s.Errorf("fresh for %s, tags %v", e.FreshFor, e.Tags)
			}
		}},
		{"the loader changes the policy into nonsense: the value is returned and not kept", func(s *stage) {
			s.a.want("v", says(func(f *client.LoadContext) {
				f.AdjustPolicy(func(p *client.Policy) { *p = p.WithTTL(-1) })
			}))
			if s.explain("k").Present || len(s.a.told.notStored) != 1 || !errors.Is(s.a.told.notStored[0], soracache.ErrInvalid) {
				s.Errorf("told of %v", s.a.told.notStored)
			}
		}},
		{"the loader changes the policy after it read something: the tags of what it read stay", func(s *stage) {
			src := newOrigin("v")
			src.with = func(ctx context.Context) {
				_, _ = client.GetOrSet(ctx, s.a.Client, "part", returns("p"), client.WithTags("part"))
				client.LoadContextFrom(ctx).AdjustPolicy(func(p *client.Policy) { *p = client.Short() })
			}
			s.a.want("v", src, client.WithTags("gone"))
			if e := s.explain("k"); !slices.Equal(e.Tags, []string{"part"}) {
				s.Errorf("tags %v", e.Tags)
			}
		}},
		{"tags changed between loads: the old one does not invalidate the new value, the new one does", func(s *stage) {
			s.a.want("1", newOrigin("1"), client.WithTags("old"))
			if _, err := s.a.Remove(s.Context(), "k"); err != nil {
				s.Fatal(err)
			}
			s.a.want("2", newOrigin("2"), client.WithTags("new"))
			s.b.want("2", newOrigin("?"))
			s.b.invalidate("old")
			s.a.want("2", newOrigin("3"))
			s.b.want("2", newOrigin("3"))
			s.b.invalidate("new")
			s.a.want("3", newOrigin("3"))
			s.b.want("3", newOrigin("?"))
		}},
		{"a value longer than the policy allows: returned and not kept", func(s *stage) {
			p := client.AdjustPolicy(func(p *client.Policy) { p.MaxBytes = 3 })
			s.a.want("long", newOrigin("long"), p)
			if s.explain("k").Present || s.leased("k") || len(s.a.told.notStored) != 1 || !errors.Is(s.a.told.notStored[0], soracache.ErrTooLarge) {
				s.Errorf("told of %v", s.a.told.notStored)
			}
			s.a.want("fit", newOrigin("fit"), p)
			s.a.want("fit", newOrigin("?"), p)
		}},
		{"values stored together do not expire together", func(s *stage) {
			src := newOrigin("v")
			for i := range 100 {
				<-s.a.getIn(s.Context(), strconv.Itoa(i), src, client.WithTTL(time.Minute), client.AdjustPolicy(func(p *client.Policy) { p.Jitter = 0.5 }))
			}
			time.Sleep(45 * time.Second)
			loads := src.count()
			for i := range 100 {
				<-s.a.getIn(s.Context(), strconv.Itoa(i), src, client.WithTTL(time.Minute), client.AdjustPolicy(func(p *client.Policy) { p.Jitter = 0.5 }))
			}
			if n := src.count() - loads; n < 20 || n > 80 {
				s.Errorf("%d of 100 expired after three quarters of their TTL", n)
			}
		}},
		{"each caller has a copy of its own", func(s *stage) {
			cache := client.NewCache[[]int](s.a.Client, client.Default(), client.CloneWith(slices.Clone[[]int]))
			for range 3 {
				v, err := cache.GetOrSet(s.Context(), "k", func(context.Context) ([]int, error) { return []int{1, 2}, nil })
				if err != nil || !slices.Equal(v, []int{1, 2}) {
					s.Errorf("got %v, %v", v, err)
				}
				v[0] = 7
				got, _, err := cache.Get(s.Context(), "k")
				if err != nil || !slices.Equal(got, []int{1, 2}) {
					s.Errorf("Get: %v, %v", got, err)
				}
				got[0] = 8
			}
		}},
		{"a copy of another type is a mistake, said at once", func(s *stage) {
			src := newOrigin("v")
			s.a.want("v", src)
			wrong := client.CloneWith(slices.Clone[[]int])
			s.a.wantErr(soracache.ErrInvalid, src, wrong)
			if _, err := s.a.Remove(s.Context(), "k"); err != nil {
				s.Fatal(err)
			}
			s.a.wantErr(soracache.ErrInvalid, src, wrong)
			s.wantCalls(src, 1)
		}},
		{"a policy that can never be right is said at once", func(s *stage) {
			for _, wrong := range []client.CallOption{
				client.WithTTL(-1), client.AdjustPolicy(func(p *client.Policy) { p.L1 = -1 }), client.AdjustPolicy(func(p *client.Policy) { p.Keep = -1 }), client.AdjustPolicy(func(p *client.Policy) { p.Jitter = 1.1 }), client.AdjustPolicy(func(p *client.Policy) { p.StaleWhileRevalidate = -1 }),
				client.AdjustPolicy(func(p *client.Policy) { p.FailSafe = -1 }), client.AdjustPolicy(func(p *client.Policy) { p.SoftTimeout = -1 }), client.AdjustPolicy(func(p *client.Policy) { p.HardTimeout = -1 }), client.AdjustPolicy(func(p *client.Policy) { p.EagerAt = 1 }),
				client.AdjustPolicy(func(p *client.Policy) { p.ProbabilisticRefresh = -1 }), client.AdjustPolicy(func(p *client.Policy) { p.NotFoundTTL = -1 }), client.AdjustPolicy(func(p *client.Policy) { p.MaxBytes = -1 }),
			} {
				s.a.wantErr(soracache.ErrInvalid, newOrigin("v"), wrong)
			}
		}},
	})
}

func TestDishesAndIngredients(t *testing.T) {
	dishOf := func(s *stage, parts ...string) *origin {
		src := newOrigin("dish")
		src.with = func(ctx context.Context) {
			for _, part := range parts {
				if _, err := client.GetOrSet(ctx, s.a.Client, part, returns(part), client.WithTags("tag of "+part)); err != nil {
					s.Error(err)
				}
			}
		}
		return src
	}
	playAll(t, []act{
		{"an ingredient is invalidated: so is the dish, in every process", func(s *stage) {
			s.a.want("dish", dishOf(s, "flour", "milk"))
			s.b.want("dish", newOrigin("?"))
			s.b.invalidate("tag of milk")
			s.a.want("new", newOrigin("new"))
			s.b.want("new", newOrigin("?"))
		}},
		{"an ingredient that is near: its tags are the dish's all the same", func(s *stage) {
			for range 2 {
				if _, err := client.GetOrSet(s.Context(), s.a.Client, "milk", returns("milk"), client.WithTags("tag of milk")); err != nil {
					s.Fatal(err)
				}
			}
			s.a.want("dish", dishOf(s, "milk"))
			if e := s.explain("k"); !slices.Equal(e.Tags, []string{"tag of milk"}) {
				s.Errorf("tags %v", e.Tags)
			}
		}},
		{"an ingredient invalidated by another process while the dish is cooked: the dish is not kept", func(s *stage) {
			src := dishOf(s, "milk")
			src.takes = time.Second
			got := s.a.get(src)
			time.Sleep(time.Second / 2)
			s.b.invalidate("tag of milk")
			if r := <-got; r.value != "dish" {
				s.Errorf("got %v", r)
			}
			if s.explain("k").Live {
				s.Error("the dish is kept")
			}
		}},
		{"a dish refreshed behind its stale value: its ingredients are asked for anew, and their tags are its own", func(s *stage) {
			swr := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
			})
			s.a.want("dish", dishOf(s, "milk"), swr)
			time.Sleep(2 * time.Minute)
			s.a.want("dish", dishOf(s, "flour"), swr)
			if e := s.explain("k"); !e.Live || !slices.Equal(e.Tags, []string{"tag of flour"}) {
				s.Errorf("live: %t, tags %v", e.Live, e.Tags)
			}
		}},
		{"a stale ingredient that is being refreshed behind: the dish is not kept, and cooked anew", func(s *stage) {
			swr := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
			})
			part := newOrigin("old")
			dish := newOrigin("dish")
			dish.with = func(ctx context.Context) { _, _ = client.GetOrSet(ctx, s.a.Client, "part", part.load, swr) }
			s.a.want("dish", dish)
			if _, err := s.a.Remove(s.Context(), "k"); err != nil {
				s.Fatal(err)
			}
			time.Sleep(2 * time.Minute)
			s.a.want("dish", dish)
			if s.explain("k").Present {
				s.Error("a dish of a stale ingredient is kept")
			}
			s.a.want("dish", dish)
			if !s.explain("k").Live {
				s.Error("a dish of a fresh ingredient is not kept")
			}
		}},
		{"no node answers for a moment, and an ingredient's near copy stands in: the dish is not kept", func(s *stage) {
			safe := policy(func(p client.Policy) client.Policy { return p.With(func(p *client.Policy) { p.FailSafe = time.Hour }) })
			part := newOrigin("old")
			dish := newOrigin("dish")
			<-s.a.getIn(s.Context(), "part", part, safe)
			time.Sleep(2 * time.Minute)
			part.fails(errBoom)
			dish.with = func(ctx context.Context) {
				s.cut()
				if r := <-s.a.getIn(ctx, "part", part, safe); r.value != "old" {
					s.Errorf("the ingredient: %v", r)
				}
				s.a.track.down.Store(false)
			}
			s.a.want("dish", dish)
			s.a.wantStale(client.StaleServiceDown)
			if s.explain("k").Present {
				s.Error("the dish is kept")
			}
		}},
		{"no node answers while the dish is cooked: it is returned, and the next one is kept", func(s *stage) {
			src := dishOf(s, "milk")
			s.cut()
			s.a.want("dish", src)
			s.a.track.down.Store(false)
			s.a.want("dish", src)
			if !s.explain("k").Live {
				s.Error("the dish is not kept")
			}
		}},
	})
}

func TestNearHitOfAnEagerPolicyAllocatesNothing(t *testing.T) {
	onStage(t, func(s *stage) {
		load := func(context.Context, string) (string, error) { return "v", nil }
		cache := client.NewLoadingCache(s.a.Client, client.Policy{TTL: time.Hour, EagerAt: 0.9, ProbabilisticRefresh: 1}, load)
		get := func() {
			if _, err := cache.Get(s.Context(), "k"); err != nil {
				s.Error(err)
			}
		}
		get()
		reads := s.a.track.reads.Load()
		if n := testing.AllocsPerRun(1000, get); n != 0 {
			s.Errorf("%v allocations", n)
		}
		if s.a.track.reads.Load() != reads {
			s.Error("not found near")
		}
	})
}
