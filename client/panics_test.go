package client_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/l2"
)

// hostile is a value that panics when it is decoded, if it says so.
type hostile struct{ Text string }

func (h *hostile) UnmarshalJSON(data []byte) error {
	if string(data) == `"panic"` {
		panic("decode")
	}
	h.Text = string(data)
	return nil
}

func (h hostile) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(h.Text)), nil }

// What panics between the answer with a lease and the loader that is to run under it:
// nobody waits for the lease to run out, for that key or for its neighbours.
func TestPanicsLeaveNoLeases(t *testing.T) {
	metrics := func() { panic("metrics") }
	hooked := func(s *stage, hooks client.Hooks) *client.Client {
		c, err := client.New(s.a.track, client.Logger(nil), client.WithHooks(hooks))
		if err != nil {
			s.Fatal(err)
		}
		s.Cleanup(func() { _ = c.Close() })
		return c
	}
	// ask survives a panic that is its own caller's to see.
	ask := func(s *stage, c *client.Client, src *origin, opts ...client.CallOption) {
		defer func() { _ = recover() }()
		_, _ = s.a.door.ask(s.Context(), c, "k", src.load, opts...)
	}
	free := func(s *stage, keys ...string) {
		s.Helper()
		synctest.Wait()
		for _, key := range keys {
			if s.leased(key) {
				s.Errorf("the lease of %q is left behind", key)
			}
		}
	}
	keep := policy(func(p client.Policy) client.Policy { return p.With(func(p *client.Policy) { p.Keep = time.Hour }) })
	swr := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
	})
	eager := policy(func(p client.Policy) client.Policy { return p.With(func(p *client.Policy) { p.EagerAt = 0.5 }) })
	// late has a value that is past so much of its life.
	late := func(s *stage, after time.Duration, opts ...client.CallOption) *origin {
		src := newOrigin("v")
		s.b.want("v", src, opts...)
		time.Sleep(after)
		return src
	}
	playAll(t, []act{
		{"OnMiss", func(s *stage) {
			src := newOrigin("v")
			ask(s, hooked(s, client.Hooks{OnMiss: func(string) { metrics() }}), src)
			free(s, "k")
			s.b.want("v", src)
		}},
		{"OnMiss, of a stale value", func(s *stage) {
			src := late(s, 2*time.Minute, keep)
			ask(s, hooked(s, client.Hooks{OnMiss: func(string) { metrics() }}), src, keep)
			free(s, "k")
		}},
		{"OnMiss, under a hard timeout", func(s *stage) {
			ask(s, hooked(s, client.Hooks{OnMiss: func(string) { metrics() }}), newOrigin("v"), client.AdjustPolicy(func(p *client.Policy) { p.HardTimeout = time.Minute }))
			free(s, "k")
		}},
		{"OnMiss, when somebody else's load has failed", func(s *stage) {
			src := newOrigin("v")
			src.slow(time.Second)
			src.fails(errBoom)
			first := s.b.get(src)
			synctest.Wait()
			ask(s, hooked(s, client.Hooks{OnMiss: func(string) { metrics() }}), src)
			<-first
			free(s, "k")
		}},
		{"OnStale, of a value that is loaded anew behind it", func(s *stage) {
			src := late(s, 2*time.Minute, swr)
			ask(s, hooked(s, client.Hooks{OnStale: func(string, soracache.Tier, client.StaleReason) { metrics() }}), src, swr)
			free(s, "k")
			s.wantCalls(src, 2)
		}},
		{"OnRefresh", func(s *stage) {
			src := late(s, 2*time.Minute, swr)
			ask(s, hooked(s, client.Hooks{OnRefresh: func(string, client.RefreshReason) { metrics() }}), src, swr)
			free(s, "k")
		}},
		{"OnStart of a refresh", func(s *stage) {
			src := late(s, 2*time.Minute, swr)
			ask(s, hooked(s, client.Hooks{OnStart: func(ctx context.Context, op client.Op, _ string) (context.Context, func(client.Outcome)) {
				if op == client.OpRefresh {
					metrics()
				}
				return ctx, nil
			}}), src, swr)
			free(s, "k")
		}},
		{"OnRefresh, of a value that is near", func(s *stage) {
			src := newOrigin("v")
			c := hooked(s, client.Hooks{OnRefresh: func(string, client.RefreshReason) { metrics() }})
			ask(s, c, src, eager)
			synctest.Wait()
			ask(s, c, src, eager)
			time.Sleep(45 * time.Second)
			ask(s, c, src, eager)
			free(s, "k")
		}},
		{"CloneWith, of the value that is to be replaced", func(s *stage) {
			src := late(s, 2*time.Minute, keep)
			ask(s, s.a.Client, src, keep, client.CloneWith(func(string) string { panic("clone") }))
			free(s, "k")
		}},
	})
	of := func(s *stage, c *client.Client, keys []string, policy client.Policy) {
		_, _ = client.NewCache[string](c, policy).GetOrSetMany(s.Context(), keys, func(_ context.Context, keys []string) (map[string]string, error) {
			values := map[string]string{}
			for _, key := range keys {
				values[key] = "v"
			}
			return values, nil
		})
	}
	playBy(t, doors[1], []act{
		{"OnHit of a neighbour", func(s *stage) {
			<-s.b.getIn(s.Context(), "hit", newOrigin("v"))
			of(s, hooked(s, client.Hooks{OnHit: func(string, soracache.Tier) { metrics() }}), []string{"a", "hit", "b"}, client.Default())
			free(s, "a", "b")
		}},
		{"OnMiss of a neighbour", func(s *stage) {
			of(s, hooked(s, client.Hooks{OnMiss: func(key string) {
				if key == "b" {
					metrics()
				}
			}}), []string{"a", "b", "c"}, client.Default())
			free(s, "a", "b", "c")
		}},
		{"OnRefresh of a neighbour", func(s *stage) {
			swr := client.Policy{TTL: time.Minute}.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
			keys := []string{"a", "b", "c"}
			of(s, s.b.Client, keys, swr)
			time.Sleep(2 * time.Minute)
			of(s, hooked(s, client.Hooks{OnRefresh: func(key string, _ client.RefreshReason) {
				if key == "b" {
					metrics()
				}
			}}), keys, swr)
			free(s, keys...)
		}},
	})
	playBy(t, doors[0], []act{
		{"what decodes the value that is to be replaced", func(s *stage) {
			p := client.Policy{TTL: time.Minute}.With(func(p *client.Policy) { p.Keep = time.Hour })
			a, b := client.NewCache[hostile](s.a.Client, p), client.NewCache[hostile](s.b.Client, p)
			for _, key := range []string{"k", "k2"} {
				if err := b.Set(s.Context(), key, hostile{"panic"}); err != nil {
					s.Fatal(err)
				}
			}
			time.Sleep(2 * time.Minute)
			_, one := a.GetOrSet(s.Context(), "k", func(context.Context) (hostile, error) { return hostile{"x"}, nil })
			_, many := a.GetOrSetMany(s.Context(), []string{"other", "k2"}, func(context.Context, []string) (map[string]hostile, error) { return nil, nil })
			if _, ok := errors.AsType[*client.PanicError](one); !ok {
				s.Errorf("got %v", one)
			}
			if _, ok := errors.AsType[*client.PanicError](many); !ok {
				s.Errorf("got %v of many", many)
			}
			free(s, "k", "k2", "other")
		}},
	})
}

// What a hook does while a call looks after several keys at once is the call's to know,
// and no key has a value for it that nobody gave.
func TestHooksBesideOtherKeys(t *testing.T) {
	keys := []string{"a", "b", "c", "d", "e", "f"}
	play := func(t *testing.T, hook func(), check func(s *stage, get func() (map[string]string, error))) {
		onStage(t, func(s *stage) {
			p := client.Policy{TTL: time.Minute, FailSafe: time.Hour, Wait: time.Second}
			c, err := client.New(s.a.track, client.Logger(nil), client.NoNear(), client.WithHooks(client.Hooks{
				OnStale: func(key string, _ soracache.Tier, why client.StaleReason) {
					if key == "f" && why == client.StaleSlowLoader {
						hook()
					}
				},
			}))
			if err != nil {
				s.Fatal(err)
			}
			s.Cleanup(func() { _ = c.Close() })
			for _, key := range keys {
				<-s.b.getIn(s.Context(), key, newOrigin("v"), client.WithPolicy(p))
			}
			time.Sleep(2 * time.Minute)
			cache := client.NewLoadingCache(c, p, func(context.Context, string) (string, error) {
				time.Sleep(10 * time.Second)
				return "w", nil
			})
			for _, key := range keys {
				go func() { _, _ = cache.Get(s.Context(), key) }()
			}
			synctest.Wait()
			check(s, func() (map[string]string, error) {
				return cache.GetMany(s.Context(), keys, client.LoadConcurrency(len(keys)))
			})
			time.Sleep(20 * time.Second)
		})
	}
	t.Run("panics", func(t *testing.T) {
		play(t, func() { panic("metrics") }, func(s *stage, get func() (map[string]string, error)) {
			defer func() {
				if p := recover(); p != "metrics" {
					s.Errorf("recovered %v", p)
				}
			}()
			got, err := get()
			s.Errorf("got %v, %v", got, err)
		})
	})
	t.Run("ends its goroutine", func(t *testing.T) {
		play(t, runtime.Goexit, func(s *stage, get func() (map[string]string, error)) {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				got, err := get() // which does not return if it was the caller's own
				many, ok := errors.AsType[*client.ManyError](err)
				if value, there := got["f"]; there || !ok || !errors.Is(many.Errors["f"], client.ErrGoexit) || got["a"] != "v" {
					s.Errorf("got %q of %v, %v", value, got, err)
				}
			}()
			<-ended
		})
	})
}

// Hooks that observe no call take nobody down.
func TestPanicsOfHooksThatObserveNoCall(t *testing.T) {
	t.Run("OnNearReset", func(t *testing.T) {
		var told atomic.Int64
		inNearWorld(t, func(w *nearWorld) {
			w.warm(0)
			w.get(0, "k", "v")
			w.store.LoseLedger(l2.Partition{Namespace: "shop"})
			time.Sleep(5 * time.Second)
			if v, _ := w.get(0, "k2", "v"); v != "v" || told.Load() == 0 {
				w.Errorf("got %q, told %d times", v, told.Load())
			}
		}, client.WithHooks(client.Hooks{OnNearReset: func() { told.Add(1); panic("metrics") }}))
	})
	t.Run("OnBreaker", func(t *testing.T) {
		var told atomic.Int64
		c := dial(t, "http://127.0.0.1:1,http://127.0.0.1:2", client.StaticNodes(), // where nobody listens
			client.WithHooks(client.Hooks{OnBreaker: func(string, bool) { told.Add(1); panic("metrics") }}))
		got, err := client.NewCache[string](c, client.Default()).GetOrSetMany(t.Context(), []string{"a", "b", "c", "d"}, func(_ context.Context, keys []string) (map[string]string, error) {
			values := map[string]string{}
			for _, k := range keys {
				values[k] = "v"
			}
			return values, nil
		})
		if len(got) != 4 || err != nil || told.Load() != 2 {
			t.Errorf("got %v, %v, told %d times", got, err, told.Load())
		}
	})
}
