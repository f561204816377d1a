package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// A service that lets no question wait as long as its caller wants to is asked
// again, until somebody has loaded the value or the caller's own wait is over.
func TestWaitAboveWhatTheServiceAllows(t *testing.T) {
	const noLimit = -1
	tests := []struct {
		name                string
		limit, wait, loader time.Duration
		after               time.Duration // a's answer
		shared              bool          // and it is b's value
		refused, asked      int64         // most questions
	}{
		{"no limit", noLimit, 15 * time.Second, 10 * time.Second, 10 * time.Second, true, 0, 12},
		{"a lower limit, and the value comes", 300 * time.Millisecond, 15 * time.Second, 10 * time.Second, 10 * time.Second, true, 7, 70},
		{"a lower limit, and the wait is over", 300 * time.Millisecond, 3 * time.Second, 10 * time.Second, 3 * time.Second, false, 5, 25},
		{"the usual limit, and a longer wait", time.Minute, 5 * time.Minute, 200 * time.Second, 200 * time.Second, true, 0, 210},
		{"a limit below what can be told from none", 10 * time.Millisecond, 15 * time.Second, 10 * time.Second, 0, false, 12, 15},
		{"no waiting at all", 0, 15 * time.Second, 10 * time.Second, 0, false, 12, 15},
	}
	for _, door := range doors {
		for _, tt := range tests {
			t.Run(door.name+"/"+tt.name, func(t *testing.T) {
				onStage(t, func(s *stage) {
					s.a.door = door
					if tt.limit != noLimit {
						s.a.track.mostWait.Store(&tt.limit)
					}
					elsewhere, here := newOrigin("b's"), newOrigin("a's")
					elsewhere.slow(tt.loader)
					first := s.b.get(elsewhere)
					synctest.Wait()
					s.a.track.reads.Store(0)
					start, want := time.Now(), "a's"
					if tt.shared {
						want = "b's"
					}
					r := <-s.a.get(here, client.AdjustPolicy(func(p *client.Policy) { p.Wait = tt.wait }))
					if took := time.Since(start); r.err != nil || r.value != want || took != tt.after {
						s.Errorf("got %v after %s, want %q after %s", r, took, want, tt.after)
					}
					if asked, refused := s.a.track.reads.Load(), s.a.track.refused.Load(); asked > tt.asked || refused > tt.refused || tt.limit == 300*time.Millisecond && asked-refused < 6 {
						s.Errorf("asked %d times, and refused %d times", asked, refused)
					}
					<-first
				})
			})
		}
	}
}

// That a service allowed less is forgotten after a while: it may allow more by then.
func TestLimitOfWaitsIsForgotten(t *testing.T) {
	onStage(t, func(s *stage) {
		play := func(key string) (asked, refused int64) {
			source := newOrigin("v")
			source.slow(4 * time.Second)
			first := s.b.getIn(s.Context(), key, source)
			synctest.Wait()
			s.a.track.reads.Store(0)
			s.a.track.refused.Store(0)
			if r := <-s.a.getIn(s.Context(), key, source); r.err != nil {
				s.Error(r)
			}
			<-first
			s.wantCalls(source, 1)
			return s.a.track.reads.Load(), s.a.track.refused.Load()
		}
		limit := time.Second
		s.a.track.mostWait.Store(&limit)
		if _, refused := play("k1"); refused != 4 {
			s.Errorf("refused %d times while it was not known", refused)
		}
		s.a.track.mostWait.Store(nil)
		if asked, _ := play("k2"); asked < 5 {
			s.Errorf("asked %d times while it was remembered", asked)
		}
		time.Sleep(time.Minute)
		if asked, refused := play("k3"); asked > 2 || refused > 0 {
			s.Errorf("asked %d times, refused %d times after it was forgotten", asked, refused)
		}
	})
}

// limited is a service with limits of its own.
type limited struct {
	soracache.Backend
	limits soracache.Limits
}

func (l limited) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	results := make([]soracache.WriteResult, len(req.Writes))
	for i, w := range req.Writes {
		if w.Op == soracache.OpFill || w.Op == soracache.OpPut {
			if results[i].Err = l.limits.CheckLifetime(w.Lifetime); results[i].Err != nil {
				continue
			}
		}
		one, err := l.Backend.Write(ctx, soracache.WriteRequest{Namespace: req.Namespace, Writes: req.Writes[i : i+1]})
		if err != nil {
			return nil, err
		}
		results[i] = one[0]
	}
	return results, nil
}

// Whoever wants values kept for longer than the service allows has them, and is told
// why they are not stored. The lease ends with that, so nobody waits for them.
func TestTimesAboveWhatTheServiceAllowsAreTold(t *testing.T) {
	for name, opts := range map[string][]client.CallOption{
		"TTL":  {client.WithTTL(2 * time.Hour)},
		"keep": {client.WithTTL(time.Minute), client.AdjustPolicy(func(p *client.Policy) { p.FailSafe = 2 * time.Hour })},
	} {
		for _, door := range doors {
			t.Run(name+"/"+door.name, func(t *testing.T) {
				onStage(t, func(s *stage) {
					s.a.door, s.b.door = door, door
					limits := soracache.DefaultLimits()
					limits.TTL = time.Hour
					s.a.track.Backend = limited{s.node, limits}
					src := newOrigin("v")
					src.slow(time.Second)
					first := s.a.get(src, opts...)
					synctest.Wait()
					second := s.b.get(newOrigin("w"))
					if r := <-first; r.value != "v" || r.err != nil {
						s.Errorf("got %v", r)
					}
					start := time.Now()
					if r := <-second; r.value != "w" || r.err != nil || time.Since(start) > 100*time.Millisecond {
						s.Errorf("who waited got %v after %s", r, time.Since(start))
					}
					synctest.Wait()
					why := s.a.told.notStored
					if len(why) != 1 || !errors.Is(why[0], soracache.ErrInvalid) || !strings.Contains(why[0].Error(), "at most 1h0m0s") {
						s.Errorf("told %v", why)
					}
					if s.leased("k") {
						s.Error("the lease is still held")
					}
				})
			})
		}
	}
}

// Of those who share a load, each is answered when its own wait is over, though the
// first of them would wait for longer: the load then goes on for all of them.
func TestNobodyWaitsForLongerThanItsOwnPolicySays(t *testing.T) {
	throughDoors(t, func(t *testing.T, door func(int) door) {
		onStage(t, func(s *stage) {
			ask := func(load func(context.Context) (string, error), wait time.Duration) func(context.Context, int) (string, error) {
				return func(ctx context.Context, i int) (string, error) {
					return door(i).ask(ctx, s.a.Client, "k", load, client.AdjustPolicy(func(p *client.Policy) { p.Wait = wait }))
				}
			}
			elsewhere := newOrigin("elsewhere")
			elsewhere.slow(20 * time.Second)
			go func() { _, _ = doors[0].ask(s.Context(), s.b.Client, "k", elsewhere.load) }()
			synctest.Wait()
			here := newOrigin("here")
			var all visitors
			began := time.Now()
			all.come([]context.Context{s.Context()}, ask(here.load, time.Second))
			time.Sleep(100 * time.Millisecond)
			all.come([]context.Context{s.Context()}, ask(here.load, 12*time.Second)) // begins the next, behind the first
			synctest.Wait()
			all.come([]context.Context{s.Context()}, ask(here.load, 3*time.Second))
			all.all.Wait()
			for i, r := range all.results {
				if r.value != "here" || r.err != nil {
					s.Errorf("caller %d got %v", i, *r)
				}
			}
			if took := time.Since(began); took > 4*time.Second+500*time.Millisecond {
				s.Errorf("it took %s", took)
			}
		}, client.NoNear())
	})
}

// Who shares a load with somebody who waits for less goes on to load when that one's
// wait is over. Its own hard timeout is not over by then.
func TestHardTimeoutBesideAShorterWait(t *testing.T) {
	throughDoors(t, func(t *testing.T, door func(int) door) {
		onStage(t, func(s *stage) {
			var all visitors
			come := func(src *origin, opts ...client.CallOption) {
				all.come([]context.Context{s.Context()}, func(ctx context.Context, i int) (string, error) {
					return door(i).ask(ctx, s.a.Client, "k", src.load, opts...)
				})
				synctest.Wait()
			}
			elsewhere, unstored, here := newOrigin("elsewhere"), newOrigin("unstored"), newOrigin("here")
			elsewhere.slow(20 * time.Second)
			unstored.slow(2 * time.Second)
			_ = s.b.get(elsewhere)
			synctest.Wait()
			began := time.Now()
			come(unstored, client.AdjustPolicy(func(p *client.Policy) { p.Wait = -1 }))
			come(here, client.AdjustPolicy(func(p *client.Policy) { p.HardTimeout = 12 * time.Second })) // begins the next, behind the first
			come(here, client.AdjustPolicy(func(p *client.Policy) { p.Wait = 3 * time.Second }))
			all.all.Wait()
			for i, want := range []string{"unstored", "here", "here"} {
				if r := all.results[i]; r.value != want || r.err != nil {
					s.Errorf("caller %d got %v", i, *r)
				}
			}
			if took := time.Since(began); took > 4500*time.Millisecond {
				s.Errorf("it took %s", took)
			}
		}, client.NoNear())
	})
}

// Who asks once more, because what it was given reflects less than it has seen, does not
// wait for others once more.
func TestWhoAsksOnceMoreHasWaited(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				foreign, err := client.New(s.node, client.Namespace("foreign"), client.Logger(nil), client.NoNear())
				if err != nil {
					s.Fatal(err)
				}
				s.Cleanup(func() { _ = foreign.Close() })
				if err := client.Set(s.Context(), foreign, "x", "x"); err != nil {
					s.Fatal(err)
				}
				elsewhere, first, own := newOrigin("elsewhere"), newOrigin("first"), newOrigin("own")
				elsewhere.slow(time.Hour)
				first.slow(2 * time.Second)
				own.slow(time.Second)
				own.with = func(ctx context.Context) { _, _, _ = client.Get[string](ctx, foreign, "x") }
				_ = s.b.get(elsewhere)
				synctest.Wait()
				go func() {
					_, _ = door.ask(s.Context(), s.a.Client, "k", first.load, client.AdjustPolicy(func(p *client.Policy) { p.Wait = -1 }))
				}()
				synctest.Wait()
				began := time.Now()
				ctx := visitor(s.T, s.b.Client, "other")
				const wait = 5 * time.Second
				v, err := door.ask(ctx, s.a.Client, "k", own.load, client.AdjustPolicy(func(p *client.Policy) { p.Wait = wait }))
				s.wantCalls(own, 2)
				if took := time.Since(began); v != "own" || err != nil || took != wait+2*time.Second {
					s.Errorf("got %q, %v after %s", v, err, took)
				}
				_ = s.b.Close()
			}, client.NoNear())
		})
	}
}
