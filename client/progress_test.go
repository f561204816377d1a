package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// door is one of the two ways to ask for a key, the same for every test of what
// holds for both.
type door struct {
	name string
	ask  func(ctx context.Context, c *client.Client, key string, load func(context.Context) (string, error), opts ...client.CallOption) (string, error)
}

var doors = []door{
	{"GetOrSet", func(ctx context.Context, c *client.Client, key string, load func(context.Context) (string, error), opts ...client.CallOption) (string, error) {
		return client.GetOrSet(ctx, c, key, load, opts...)
	}},
	{"GetOrSetMany", func(ctx context.Context, c *client.Client, key string, load func(context.Context) (string, error), opts ...client.CallOption) (string, error) {
		missing := client.ErrNotFound
		values, err := client.NewCache[string](c, client.Default()).GetOrSetMany(ctx, []string{key}, func(ctx context.Context, _ []string) (map[string]string, error) {
			v, err := load(ctx)
			if errors.Is(err, client.ErrNotFound) {
				missing = err
			}
			return map[string]string{key: v}, err
		}, opts...)
		if many, ok := errors.AsType[*client.ManyError](err); ok {
			return "", many.Errors[key]
		}
		v, ok := values[key]
		if err == nil && !ok {
			err = missing
		}
		return v, err
	}},
}

// web is loaders that ask for each other's keys, through one door and each from
// the client that it belongs to.
type web struct {
	*stage
	door  door
	asks  map[string]string // by key: the key that its loader asks for
	of    map[string]*process
	fresh bool // loaders ask under a context that tells nothing
	opts  []client.CallOption
	runs  atomic.Int32
}

func (w *web) ask(ctx context.Context, key string) (string, error) {
	p := w.of[key]
	if p == nil {
		p = w.a
	}
	return w.door.ask(ctx, p.Client, key, func(ctx context.Context) (string, error) {
		w.runs.Add(1)
		time.Sleep(time.Millisecond) // so that all of them are running
		if w.fresh {
			ctx = w.Context()
		}
		if next := w.asks[key]; next != "" {
			return w.ask(ctx, next)
		}
		return "v", nil
	}, w.opts...)
}

func (w *web) start(key string) <-chan result {
	ch := make(chan result, 1)
	go func() {
		v, err := w.ask(w.Context(), key)
		ch <- result{v, err}
	}()
	return ch
}

// Loaders that wait for each other are told at once.
func TestLoadersInACircle(t *testing.T) {
	tests := []struct {
		name string
		asks map[string]string
		two  bool // clients
	}{
		{"two", map[string]string{"a": "b", "b": "a"}, false},
		{"three", map[string]string{"a": "b", "b": "c", "c": "a"}, false},
		{"two of two clients", map[string]string{"a": "b", "b": "a"}, true},
		{"one that asks for its own key", map[string]string{"a": "a"}, false},
	}
	for _, door := range doors {
		for _, tt := range tests {
			t.Run(door.name+"/"+tt.name, func(t *testing.T) {
				onStage(t, func(s *stage) {
					w := &web{stage: s, door: door, asks: tt.asks}
					if tt.two {
						w.of = map[string]*process{"b": s.b}
					}
					start := time.Now()
					var all []<-chan result
					for key := range tt.asks {
						all = append(all, w.start(key), w.start(key))
					}
					for _, ch := range all {
						if r := <-ch; !errors.Is(r.err, client.ErrCycle) {
							s.Errorf("got %v", r)
						}
					}
					if took := time.Since(start); took > 100*time.Millisecond {
						s.Errorf("it took %s", took)
					}
					synctest.Wait()
					for key := range tt.asks {
						if s.leased(key) {
							s.Errorf("%s is still leased", key)
						}
					}
				})
			})
		}
	}
}

// A chain is no circle, though its loaders wait for each other.
func TestLoadersInAChain(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				w := &web{stage: s, door: door, asks: map[string]string{"a": "b", "b": "c", "d": "b", "e": "a"}}
				var all []<-chan result
				for _, key := range []string{"a", "b", "c", "d", "e", "a"} {
					all = append(all, w.start(key))
				}
				for _, ch := range all {
					if r := <-ch; r.value != "v" || r.err != nil {
						s.Errorf("got %v", r)
					}
				}
			})
		})
	}
}

// A caller that shares a run which began inside of a loader, and failed because of
// that, asks once more.
func TestBystanderOfACircleHasAValue(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				ask := func(ctx context.Context, key string, load func(context.Context) (string, error)) <-chan result {
					ch := make(chan result, 1)
					go func() {
						v, err := door.ask(ctx, s.a.Client, key, load)
						ch <- result{v, err}
					}()
					time.Sleep(time.Millisecond)
					return ch
				}
				hold := make(chan struct{})
				var inner, bystander <-chan result
				first := ask(s.Context(), "a", func(context.Context) (string, error) { <-hold; return "", errBoom })
				outer := ask(s.Context(), "b", func(ctx context.Context) (string, error) {
					// It asks for a behind the run that is under way, and a bystander joins.
					// What it has a do is to ask for b, which this loader is loading.
					inner = ask(ctx, "a", func(ctx context.Context) (string, error) {
						r := <-ask(ctx, "b", returns("?"))
						return r.value, r.err
					})
					bystander = ask(s.Context(), "a", returns("v"))
					close(hold)
					r := <-inner
					return r.value, r.err
				})
				if r := <-first; !errors.Is(r.err, errBoom) {
					s.Errorf("the first caller got %v", r)
				}
				if r := <-outer; !errors.Is(r.err, client.ErrCycle) {
					s.Errorf("the loader that closed the circle got %v", r)
				}
				if r := <-bystander; r.value != "v" || r.err != nil {
					s.Errorf("the bystander got %v", r)
				}
			})
		})
	}
}

// Where no context tells that a loader asks for its own key, all is over when the
// wait is.
func TestLoaderThatWaitsForItself(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				w := &web{stage: s, door: door, asks: map[string]string{"a": "a"}, fresh: true, opts: []client.CallOption{client.AdjustPolicy(func(p *client.Policy) { p.Wait = 2 * time.Second })}}
				start := time.Now()
				all := []<-chan result{w.start("a")}
				time.Sleep(time.Second / 2)
				for range 5 {
					all = append(all, w.start("a"))
				}
				for _, ch := range all {
					if r := <-ch; !errors.Is(r.err, client.ErrWait) || !errors.Is(r.err, context.DeadlineExceeded) {
						s.Errorf("got %v", r)
					}
				}
				if took := time.Since(start); took > 2*time.Second+100*time.Millisecond || w.runs.Load() != 1 {
					s.Errorf("over after %s, with %d runs", took, w.runs.Load())
				}
			})
		})
	}
}

// Of two loaders that ask for each other's keys in the same way each wait ends. One
// of them may have its turn at the very end of its wait, and then runs once more.
func TestLoadersThatWaitForEachOtherUntold(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				w := &web{stage: s, door: door, asks: map[string]string{"a": "b", "b": "a"}, fresh: true, opts: []client.CallOption{client.AdjustPolicy(func(p *client.Policy) { p.Wait = 2 * time.Second })}}
				start := time.Now()
				for _, ch := range []<-chan result{w.start("a"), w.start("b")} {
					if r := <-ch; !errors.Is(r.err, client.ErrWait) {
						s.Errorf("got %v", r)
					}
				}
				if took := time.Since(start); took > 4*time.Second+100*time.Millisecond || w.runs.Load() > 3 {
					s.Errorf("over after %s, %d runs", took, w.runs.Load())
				}
			})
		})
	}
}

// What waits too long for a load of its own process does not begin another.
func TestWaitInAProcessEnds(t *testing.T) {
	for _, door := range doors {
		get := func(p *process, src *origin, opts ...client.CallOption) <-chan result {
			ch := make(chan result, 1)
			go func() {
				v, err := door.ask(p.Context(), p.Client, "k", src.load, opts...)
				ch <- result{v, err}
			}()
			return ch
		}
		playBy(t, door, []act{
			{door.name + ": the wait is over: an error in time, and one run", func(s *stage) {
				src := newOrigin("v")
				src.slow(10 * time.Second)
				first := get(s.a, src)
				synctest.Wait()
				start := time.Now()
				r := <-get(s.a, src, client.AdjustPolicy(func(p *client.Policy) { p.Wait = 3 * time.Second }))
				if !errors.Is(r.err, client.ErrWait) || time.Since(start) != 3*time.Second {
					s.Errorf("got %v after %s", r, time.Since(start))
				}
				if r := <-first; r.value != "v" {
					s.Errorf("the first caller got %v", r)
				}
				s.wantCalls(src, 1)
			}},
			{door.name + ": the wait is over, and fail-safe allows the old value: that", func(s *stage) {
				safe := policy(func(p client.Policy) client.Policy {
					return p.With(func(p *client.Policy) { p.FailSafe = time.Hour; p.Wait = 3 * time.Second })
				})
				src := newOrigin("old")
				<-get(s.a, src, safe)
				time.Sleep(2 * time.Minute)
				src.slow(10 * time.Second)
				src.becomes("new")
				first := get(s.a, src, safe)
				synctest.Wait()
				if r := <-get(s.a, src, safe); r.value != "old" || r.err != nil {
					s.Errorf("got %v", r)
				}
				if r := <-first; r.value != "new" {
					s.Errorf("the first caller got %v", r)
				}
				s.wantCalls(src, 2)
			}},
			{door.name + ": a policy that does not wait for others shares a load of its process", func(s *stage) {
				src := newOrigin("v")
				src.slow(time.Second)
				first, second := get(s.a, src, client.AdjustPolicy(func(p *client.Policy) { p.Wait = -1 })), get(s.a, src, client.AdjustPolicy(func(p *client.Policy) { p.Wait = -1 }))
				for _, ch := range []<-chan result{first, second} {
					if r := <-ch; r.value != "v" || r.err != nil {
						s.Errorf("got %v", r)
					}
				}
				s.wantCalls(src, 1)
			}},
			{door.name + ": the loader goes on behind its caller, and asks for its own key: no second run", func(s *stage) {
				src := newOrigin("v")
				inner := make(chan result, 1)
				src.set(func(src *origin) {
					src.takes = 2 * time.Second
					src.with = func(context.Context) {
						if src.count() > 1 {
							return
						}
						time.Sleep(time.Second)
						inner <- <-get(s.a, src, client.AdjustPolicy(func(p *client.Policy) { p.Wait = 3 * time.Second }))
					}
				})
				hard := client.AdjustPolicy(func(p *client.Policy) { p.HardTimeout = 500 * time.Millisecond })
				if r := <-get(s.a, src, hard); !errors.Is(r.err, context.DeadlineExceeded) {
					s.Errorf("got %v", r)
				}
				if r := <-inner; !errors.Is(r.err, client.ErrWait) {
					s.Errorf("the loader got %v", r)
				}
				time.Sleep(10 * time.Second)
				s.wantCalls(src, 1)
			}},
			{door.name + ": callers of another type wait for the load, and do not load beside it", func(s *stage) {
				src := newOrigin("v")
				src.slow(10 * time.Second)
				first := get(s.a, src)
				synctest.Wait()
				_, err := client.GetOrSet(s.Context(), s.a.Client, "k", func(context.Context) (int, error) {
					s.Error("a second load")
					return 1, nil
				}, client.AdjustPolicy(func(p *client.Policy) { p.Wait = 3 * time.Second }))
				if !errors.Is(err, client.ErrWait) {
					s.Errorf("got %v", err)
				}
				<-first
			}},
		})
	}
}

// Callers who give up after 700 ms come every 100 ms, and the loader takes a second.
func TestLoadLivesAsLongAsAnybodyWantsItsKey(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				src := newOrigin("v")
				src.slow(time.Second)
				var all []<-chan result
				for range 50 {
					ch := make(chan result, 1)
					all = append(all, ch)
					go func() {
						ctx, cancel := context.WithTimeout(s.Context(), 700*time.Millisecond)
						defer cancel()
						v, err := door.ask(ctx, s.a.Client, "k", src.load)
						ch <- result{v, err}
					}()
					time.Sleep(100 * time.Millisecond)
				}
				for i, ch := range all {
					r := <-ch
					if i >= 4 && (r.value != "v" || r.err != nil) || i < 3 && !errors.Is(r.err, context.DeadlineExceeded) {
						s.Errorf("the caller of %d00 ms got %v", i, r)
					}
				}
				s.wantCalls(src, 1)
				if !s.explain("k").Live {
					s.Error("the key is not cached")
				}
			})
		})
	}
}

// Whoever came after an invalidation is not given what was begun before it, though
// it is what kept that load alive.
func TestLateCallersReadAfterTheLoad(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				src := newOrigin("before")
				src.slow(time.Second)
				tagged := client.WithTags("t")
				ctx, leave := context.WithTimeout(s.Context(), 700*time.Millisecond)
				defer leave()
				go func() { _, _ = door.ask(ctx, s.a.Client, "k", src.load, tagged) }()
				time.Sleep(500 * time.Millisecond)
				s.b.invalidate("t")
				src.becomes("after")
				v, err := door.ask(s.Context(), s.a.Client, "k", src.load, tagged)
				if v != "after" || err != nil {
					s.Errorf("got %q, %v", v, err)
				}
			})
		})
	}
}

// Callers of one moment share a load also when there is no service to ask, or when
// what the loader returns may not be stored.
func TestOneLoadForTheCallersOfAMoment(t *testing.T) {
	for _, door := range doors {
		share := func(s *stage, src *origin) {
			src.slow(time.Second)
			start := time.Now()
			var all []<-chan result
			for range 20 {
				ch := make(chan result, 1)
				all = append(all, ch)
				go func() {
					v, err := door.ask(s.Context(), s.a.Client, "k", src.load)
					ch <- result{v, err}
				}()
			}
			for _, ch := range all {
				if r := <-ch; r.value != "v" || r.err != nil {
					s.Errorf("got %v", r)
				}
			}
			// The first one begins at once, and the others share the next.
			if took := time.Since(start); src.count() > 2 || took > 2*time.Second+10*time.Millisecond {
				s.Errorf("%d loads, after %s", src.count(), took)
			}
		}
		playBy(t, door, []act{
			{door.name + ": no node answers", func(s *stage) {
				s.cut()
				share(s, newOrigin("v"))
			}},
			{door.name + ": not to be stored", func(s *stage) {
				src := newOrigin("v")
				src.with = func(ctx context.Context) { client.LoadContextFrom(ctx).DoNotCache() }
				share(s, src)
			}},
		})
	}
}

// storesSlowly is a way to a node on which fills take some time.
type storesSlowly struct {
	soracache.Backend

	takes time.Duration
}

func (b storesSlowly) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	if req.Writes[0].Op == soracache.OpFill {
		select {
		case <-time.After(b.takes):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
		}
	}
	return b.Backend.Write(ctx, req)
}

// What a loader left behind may ask for the loader's key once that has returned: while
// its callers wait for the value to be stored, and when that goes on behind them.
func TestWhatALoaderLeavesBehindIsNoPartOfIt(t *testing.T) {
	for _, door := range doors {
		for _, after := range []time.Duration{client.DefaultTimeout / 2, client.DefaultTimeout + 50*time.Millisecond} {
			for _, size := range []int{1 << 10, 1 << 20} {
				t.Run(fmt.Sprintf("%s/after %s/%d bytes", door.name, after, size), func(t *testing.T) {
					onStage(t, func(s *stage) {
						takes := client.DefaultTimeout + 100*time.Millisecond
						if size < 1<<20 {
							takes = client.DefaultTimeout * 3 / 4
						}
						c, err := client.New(storesSlowly{s.node, takes}, client.Logger(nil), client.NoNear(), client.Timeout(client.DefaultTimeout))
						if err != nil {
							s.Fatal(err)
						}
						defer func() { _ = c.Close() }()
						value := strings.Repeat("v", size)
						left := make(chan result, 1)
						_, err = door.ask(s.Context(), c, "k", func(ctx context.Context) (string, error) {
							go func() {
								time.Sleep(after)
								v, err := door.ask(context.WithoutCancel(ctx), c, "k", func(context.Context) (string, error) { return value, nil })
								left <- result{v, err}
							}()
							return value, nil
						})
						if err != nil {
							s.Error(err)
						}
						if r := <-left; r.err != nil || r.value != value {
							s.Errorf("what was left behind got %d bytes, %v", len(r.value), r.err)
						}
						time.Sleep(time.Second)
					})
				})
			}
		}
	}
}
