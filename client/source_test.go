package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/internal/fake"
)

// crowd counts how many loaders run at the same time, and have run.
type crowd struct {
	now, most, all atomic.Int64
}

func (c *crowd) enter() (leave func()) {
	n := c.now.Add(1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
		continue
	}
	c.all.Add(1)
	return func() { c.now.Add(-1) }
}

// One call of a loader is one load, however many keys it has. A call whose keys take
// several calls of the loader has no more of them at a time than there are places.
func TestSourceOfManyKeys(t *testing.T) {
	keys := make([]string, 40)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	for name, c := range map[string]struct {
		opts        []client.CallOption
		calls, most int64
	}{
		"one call":                          {nil, 1, 1},
		"ten calls, four at a time":         {[]client.CallOption{client.LoadBatch(4)}, 10, 2},
		"ten calls, all at once":            {[]client.CallOption{client.LoadBatch(4), client.LoadConcurrency(10)}, 10, 2},
		"ten calls, one at a time":          {[]client.CallOption{client.LoadBatch(4), client.LoadConcurrency(1)}, 10, 1},
		"with a timeout, in the background": {[]client.CallOption{client.LoadBatch(4), client.AdjustPolicy(func(p *client.Policy) { p.HardTimeout = time.Hour })}, 10, 2},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				db := client.NewSource("db", client.SourceConfig{MaxLoads: 2, MaxWait: time.Minute})
				cache := client.NewCache[string](s.a.Client, client.Policy{TTL: time.Hour, Source: db})
				var ran crowd
				values, err := cache.GetOrSetMany(s.Context(), keys, func(_ context.Context, missing []string) (map[string]string, error) {
					defer ran.enter()()
					time.Sleep(time.Second)
					values := map[string]string{}
					for _, key := range missing {
						values[key] = key
					}
					return values, nil
				}, c.opts...)
				if len(values) != len(keys) || err != nil || ran.all.Load() != c.calls || ran.most.Load() != c.most {
					t.Errorf("%d values, %v after %d calls, of which %d at a time", len(values), err, ran.all.Load(), ran.most.Load())
				}
				for _, key := range keys {
					if !s.explain(key).Live || s.leased(key) {
						t.Errorf("%s is not stored, or leased still", key)
					}
				}
			})
		})
	}
}

// Some keys of a call wait for a place, while others are hits, and others somebody else's.
func TestSourceOfSomeOfManyKeys(t *testing.T) {
	onStage(t, func(s *stage) {
		db := withPlaces(1)
		p := of(db)
		src := newOrigin("v")
		s.a.want("v", src, p) // k
		src.slow(3 * time.Second)
		theirs := s.b.getIn(s.Context(), "theirs", src)
		synctest.Wait()
		src.slow(time.Second)
		s.a.getIn(s.Context(), "occupied", src, p)
		synctest.Wait()
		start := time.Now()
		var asked []string
		values, err := client.NewCache[string](s.a.Client, client.Default()).GetOrSetMany(s.Context(), []string{"k", "theirs", "mine"},
			func(_ context.Context, missing []string) (map[string]string, error) {
				asked = append(asked, missing...)
				return map[string]string{"mine": "v"}, nil
			}, p)
		if len(values) != 3 || err != nil || time.Since(start) != 3*time.Second || !slices.Equal(asked, []string{"mine"}) {
			t.Errorf("got %v, %v after %s; loaded %q", values, err, time.Since(start), asked)
		}
		<-theirs
	})
}

// A call for many keys fails as a whole, or the source has answered.
func TestSourceFailuresOfManyKeys(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		opens bool
	}{
		"for all keys":                      {&client.ManyError{Errors: map[string]error{"a": errBoom, "b": errBoom}}, true},
		"for one of them":                   {&client.ManyError{Errors: map[string]error{"a": errBoom}}, false},
		"for all, and one is not there":     {&client.ManyError{Errors: map[string]error{"a": errBoom, "b": client.ErrNotFound}}, false},
		"for all, and wrapped":              {fmt.Errorf("both: %w", &client.ManyError{Errors: map[string]error{"a": errBoom}}), true},
		"because their parts were rejected": {&client.ManyError{Errors: map[string]error{"a": client.ErrSourceBusy, "b": client.ErrSourceBusy}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				cache := client.NewCache[string](s.a.Client, client.Policy{TTL: time.Minute, Source: breaker()})
				load := func(context.Context, []string) (map[string]string, error) { return nil, c.err }
				for range 2 {
					_, _ = cache.GetOrSetMany(s.Context(), []string{"a", "b"}, load)
				}
				_, err := cache.GetOrSet(s.Context(), "k", returns("v"))
				if errors.Is(err, client.ErrSourceOpen) != c.opens {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// Warming waits for places, and says which keys it had none for.
func TestSourceOfWarm(t *testing.T) {
	onStage(t, func(s *stage) {
		db := withPlaces(1)
		cache := client.NewCache[string](s.a.Client, client.Policy{TTL: time.Hour, Source: db})
		keys := slices.Values([]string{"a", "b", "c", "d"})
		takes := time.Second
		load := func(_ context.Context, missing []string) (map[string]string, error) {
			time.Sleep(takes)
			return map[string]string{missing[0]: "v"}, nil
		}
		p, err := cache.Warm(s.Context(), keys, load, client.LoadBatch(1))
		if p.Stored != 4 || err != nil {
			t.Errorf("%+v, %v", p, err)
		}
		if _, err := s.a.Clear(s.Context()); err != nil {
			t.Fatal(err)
		}
		takes = time.Minute
		p, err = cache.Warm(s.Context(), keys, load, client.LoadBatch(1))
		if p.Stored != 1 || p.Failed != 3 || !errors.Is(err, client.ErrSourceBusy) {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// A loading cache refreshes early only if the source can be asked.
func TestSourceOfEagerRefresh(t *testing.T) {
	onStage(t, func(s *stage) {
		db := withPlaces(1)
		src := newOrigin("old")
		cache := client.NewLoadingCache(s.a.Client, client.Policy{TTL: time.Minute, EagerAt: 0.5, Source: db},
			func(ctx context.Context, _ string) (string, error) { return src.load(ctx) })
		get := func(key, want string) {
			t.Helper()
			if v, err := cache.Get(s.Context(), key); v != want || err != nil {
				t.Errorf("got %q, %v; want %q", v, err, want)
			}
			synctest.Wait()
		}
		get("k", "old")
		src.becomes("new")
		time.Sleep(40 * time.Second)
		other := newOrigin("v")
		other.slow(5 * time.Second)
		occupied := s.a.getIn(s.Context(), "occupied", other, of(db))
		synctest.Wait()
		reads := s.a.track.reads.Load()
		get("k", "old")
		get("k", "old")
		if n := s.a.track.reads.Load() - reads; src.count() != 1 || n != 0 || len(s.a.told.refreshes) != 0 {
			t.Errorf("%d loads, %d questions, refreshes %v", src.count(), n, s.a.told.refreshes)
		}
		<-occupied
		get("k", "old")
		get("k", "new")
	})
}

// Two values become due for an early refresh at the same moment, and there is one place:
// one is refreshed, and the lease of the other is handed back.
func TestSourceOfTwoEagerRefreshes(t *testing.T) {
	onStage(t, func(s *stage) {
		src := newOrigin("v")
		cache := client.NewLoadingCache(s.a.Client, client.Policy{TTL: time.Minute, EagerAt: 0.5, Source: withPlaces(1)},
			func(ctx context.Context, _ string) (string, error) { return src.load(ctx) })
		s.a.track.onGet = func(soracache.GetRequest) { time.Sleep(time.Millisecond) } // so both ask before either has a place
		for range 2 {
			for _, key := range []string{"0", "1"} {
				if v, err := cache.Get(s.Context(), key); v != "v" || err != nil {
					t.Errorf("got %q, %v", v, err)
				}
			}
			time.Sleep(40 * time.Second)
			src.slow(time.Second)
		}
		synctest.Wait()
		if src.count() != 3 || len(s.a.told.refreshes) != 1 || !errors.Is(s.a.told.rejected[0], client.ErrSourceBusy) {
			t.Errorf("%d loads, refreshes %v, rejected %v", src.count(), s.a.told.refreshes, s.a.told.rejected)
		}
	})
}

// What became of a load that the source did not let through goes with the release of its
// lease: nothing did, so others may load at once.
func TestSourceHandsLeasesBack(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := fake.New()
				service.Lag = time.Millisecond
				// Both have their leases, and are admitted, before either load begins.
				slow := client.Hooks{OnMiss: func(string) { time.Sleep(time.Millisecond) }}
				c, err := client.New(service, client.Logger(nil), client.WithHooks(slow))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }()
				p := of(client.NewSource("db", client.SourceConfig{FailureRate: 1, MinLoads: 1}))
				_, _ = door.ask(t.Context(), c, "x", func(context.Context) (string, error) { return "", errBoom }, p)
				time.Sleep(2 * client.DefaultSourceOpenFor)
				var all sync.WaitGroup
				for i := range 2 {
					all.Go(func() {
						_, _ = door.ask(t.Context(), c, strconv.Itoa(i), func(context.Context) (string, error) {
							time.Sleep(time.Second)
							return "v", nil
						}, p)
					})
				}
				all.Wait()
				if got, want := service.Released(), []soracache.LoadOutcome{soracache.LoadFailed, soracache.LoadHandedBack}; !slices.Equal(got, want) {
					t.Errorf("released %v, want %v", got, want)
				}
			})
		})
	}
}

// What a loader says of its policy does not look into a source that is in use.
func TestSourceChangedByLoader(t *testing.T) {
	onStage(t, func(s *stage) {
		a, b := breaker(), breaker()
		src := newOrigin("v")
		src.with = func(ctx context.Context) {
			client.LoadContextFrom(ctx).AdjustPolicy(func(p *client.Policy) { p.Source, p.TTL = b, time.Hour })
		}
		s.a.want("v", src, of(a))
		if got := s.explain("k").FreshFor; got != time.Hour {
			t.Errorf("fresh for %s", got)
		}
	})
}

// OnSource observes no call, so what it panics with is logged.
func TestSourceHookThatPanics(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.a.door = door
				p := of(breaker())
				src := newOrigin("v")
				s.a.trip(src, p)
				s.a.wantErr(client.ErrSourceOpen, src, p)
			}, client.WithHooks(client.Hooks{OnSource: func(string, client.SourceState) { panic("ouch") }}))
		})
	}
}

// Whatever callers, loaders and the service do: no more loads run than there are places,
// nobody waits for ever, nobody is given anything else than the key's own value, and in the
// end all places are free.
func TestSourceUnderStress(t *testing.T) {
	const places = 4
	for seed := range uint64(6) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			onStage(t, func(s *stage) {
				random := rand.New(rand.NewPCG(seed, 1))
				var mu sync.Mutex
				chance := func(n int) bool {
					mu.Lock()
					defer mu.Unlock()
					return random.IntN(n) == 0
				}
				pause := func(most time.Duration) time.Duration {
					mu.Lock()
					defer mu.Unlock()
					return time.Duration(random.Int64N(int64(most)))
				}
				db := client.NewSource("db", client.SourceConfig{
					MaxLoads: places, MaxQueued: 50, RampUp: time.Second,
					FailureRate: 0.7, MinLoads: 20, OpenFor: 100 * time.Millisecond,
				})
				p := of(db, func(p *client.Policy) {
					p.TTL, p.FailSafe, p.StaleWhileRevalidate, p.FailSafeThrottle = 50*time.Millisecond, time.Minute, 20*time.Millisecond, -1
					p.HardTimeout = 400 * time.Millisecond
				})
				var ran crowd
				ask := func(ctx context.Context, p *process, key string, load func(ctx context.Context) (string, error), opt client.CallOption) {
					by := doors[0]
					if chance(2) {
						by = doors[1]
					}
					v, err := by.ask(ctx, p.Client, key, load, opt)
					if err == nil && v != key {
						t.Errorf("%q was given for %q", v, key)
					}
				}
				var load func(process *process, key string, depth int) func(ctx context.Context) (string, error)
				load = func(process *process, key string, depth int) func(ctx context.Context) (string, error) {
					return func(ctx context.Context) (string, error) {
						if depth == 0 { // a nested one is a part of its host
							defer ran.enter()()
						}
						if depth < 2 && chance(3) {
							part := strconv.Itoa(20 + int(pause(20)))
							ask(ctx, process, part, load(process, part, depth+1), p)
						}
						time.Sleep(pause(50 * time.Millisecond))
						switch {
						case chance(4):
							return "", errBoom
						case chance(40):
							panic("ouch")
						case chance(40):
							time.Sleep(time.Second) // past the hard timeout, and deaf
						}
						return key, nil
					}
				}
				var all sync.WaitGroup
				for range 40 {
					all.Go(func() {
						for range 30 {
							process := s.a
							if chance(2) {
								process = s.b
							}
							ctx, cancel := context.WithTimeout(s.Context(), 10*time.Millisecond+pause(2*time.Second))
							key := strconv.Itoa(int(pause(40)))
							// Who asks for an ingredient by itself leads its load, too.
							ask(ctx, process, key, load(process, key, 0), p)
							cancel()
							if chance(100) {
								_, _ = process.Clear(s.Context())
							}
							if chance(100) {
								s.store.down.Store(!s.store.down.Load())
							}
						}
					})
				}
				all.Wait()
				s.store.down.Store(false)
				time.Sleep(time.Minute)
				synctest.Wait()
				if ran.now.Load() != 0 {
					t.Errorf("%d loads run still", ran.now.Load())
				}
				// All places are free, and no more than these.
				src, most := busy(time.Second / 2)
				var last []<-chan result
				for i := range 2 * places {
					last = append(last, s.a.getIn(s.Context(), "last"+strconv.Itoa(i), src, of(db)))
				}
				for _, ch := range last {
					if r := <-ch; r.err != nil {
						t.Error(r.err)
					}
				}
				if most() != places {
					t.Errorf("%d loads at a time in the end, want %d", most(), places)
				}
			})
		})
	}
}
