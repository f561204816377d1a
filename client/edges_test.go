package client_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/stamps"
)

// Two callers share a load; the second carries a stamp, the first does not.
func TestWhoeverJoinsALoadIsAnsweredUnderItsOwnStamp(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0, 1)
		pol := client.Default().With(func(p *client.Policy) { p.Near = -1 })
		opt := client.WithPolicy(pol.WithTags("t"))
		w.want(0, "k", "1", "1", false, opt)
		w.want(1, "k", "2", "1", false, opt) // in node 1's L1 now
		// first occupies the flight
		hold := make(chan struct{})
		w.links[1].set(func(l *link) { l.answered = func([]soracache.ReadResult) { <-hold } })
		var wg sync.WaitGroup
		get := func(ctx context.Context, out *string) {
			wg.Go(func() {
				*out, _ = client.GetOrSet(ctx, w.client[1], "k", func(context.Context) (string, error) { return "2", nil }, opt)
			})
			synctest.Wait()
		}
		var a, b, c string
		get(w.Context(), &a) // running
		get(w.Context(), &b) // collecting
		ctx := stamps.With(w.Context(), stamps.Stamp{})
		if _, err := w.client[0].InvalidateTags(ctx, "t"); err != nil {
			w.Fatal(err)
		}
		there := stamps.With(w.Context(), stamps.From(ctx))
		get(there, &c) // joins
		w.links[1].set(func(l *link) { l.answered = nil })
		close(hold)
		wg.Wait()
		if c != "2" {
			w.Errorf("carries the stamp and reads %q", c)
		}
	}, client.Bound(nearBound))
}

// A context gathers what near hits have shown, and what others loaded for it.
func TestNearHitsAndSharedLoadsAreGathered(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0, 1)
		w.want(1, "k", "1", "1", false)
		ctx := stamps.With(w.Context(), stamps.Stamp{})
		v, err := client.GetOrSet(ctx, w.client[1], "k", func(context.Context) (string, error) { return "2", nil })
		if v != "1" || err != nil {
			w.Error(v, err)
		}
		if stamps.From(ctx).IsZero() {
			w.Error("a near hit is not carried")
		}
		ctx = stamps.With(w.Context(), stamps.Stamp{})
		c := client.NewCache[string](w.client[1], client.Default())
		_, _ = c.GetOrSetMany(ctx, []string{"k"}, func(context.Context, []string) (map[string]string, error) { return nil, nil })
		if stamps.From(ctx).IsZero() {
			w.Error("a near hit of many is not carried")
		}
		hold := make(chan struct{})
		w.links[1].set(func(l *link) { l.answered = func([]soracache.ReadResult) { <-hold } })
		var wg sync.WaitGroup
		var ctxs []context.Context
		for range 3 {
			ctx := stamps.With(w.Context(), stamps.Stamp{})
			ctxs = append(ctxs, ctx)
			wg.Go(func() {
				_, _ = client.GetOrSet(ctx, w.client[1], "x", func(context.Context) (string, error) { return "2", nil }, client.AdjustPolicy(func(p *client.Policy) { p.Near = -1 }))
			})
			synctest.Wait()
		}
		w.links[1].set(func(l *link) { l.answered = nil })
		close(hold)
		wg.Wait()
		for i := range ctxs {
			if stamps.From(ctxs[i]).IsZero() {
				w.Errorf("caller %d of a shared load carries nothing", i)
			}
		}
	})
}

// A negative Near is no time that could be shorter.
func TestJitterLeavesWhatIsNotToBeKeptNear(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0)
		p := client.Policy{TTL: time.Hour, Near: -1, Jitter: 0.5}
		w.want(0, "k", "1", "1", false, client.WithPolicy(p))
		w.want(0, "k", "1", "1", false, client.WithPolicy(p))
	})
}

// The longest wait that can be said is not too long to be counted.
func TestWaitForEver(t *testing.T) {
	onStage(t, func(s *stage) {
		src := newOrigin("v")
		src.slow(time.Minute)
		first := s.a.get(src)
		synctest.Wait()
		second := s.b.get(src, client.AdjustPolicy(func(p *client.Policy) { p.Wait = math.MaxInt64 }))
		<-first
		<-second
		s.wantCalls(src, 1)
	})
}

// A page without a user, though that was not remembered, is made anew once there is one.
func TestThatThereIsNoSuchThingIsAnIngredient(t *testing.T) {
	for _, how := range []string{"get", "loading", "batchloading", "many", "manysingly"} {
		t.Run(how, func(t *testing.T) {
			onStage(t, func(s *stage) {
				there := false
				single := client.NewLoadingCache(s.a.Client, client.Default().WithTags("users"), func(context.Context, string) (string, error) {
					if there {
						return "bob", nil
					}
					return "", client.ErrNotFound
				})
				loadMany := func(_ context.Context, keys []string) (map[string]string, error) {
					if there {
						return map[string]string{keys[0]: "bob"}, nil
					}
					return nil, nil
				}
				batch := client.NewBatchLoadingCache(s.a.Client, client.Default().WithTags("users"), loadMany)
				dish := func(ctx context.Context) (string, error) {
					var v string
					var err error
					switch how {
					case "get", "loading":
						v, err = single.Get(ctx, "user")
					case "batchloading":
						v, err = batch.Get(ctx, "user")
					case "many":
						var vs map[string]string
						vs, err = batch.GetMany(ctx, []string{"user"})
						v = vs["user"]
					case "manysingly":
						var vs map[string]string
						vs, err = single.GetMany(ctx, []string{"user"})
						v = vs["user"]
					}
					if err != nil && !errors.Is(err, client.ErrNotFound) {
						return "", err
					}
					return "page of " + v, nil
				}
				page := func() string {
					v, err := client.GetOrSet(s.Context(), s.a.Client, "page", dish)
					if err != nil {
						s.Error(err)
					}
					return v
				}
				if v := page(); v != "page of " {
					s.Error(v)
				}
				there = true
				s.a.invalidate("users")
				if v := page(); v != "page of bob" {
					s.Errorf("%q", v)
				}
			})
		})
	}
}

// Loaders that append to the tags of a policy do not write into the same array.
func TestChangedTagsAreNotShared(t *testing.T) {
	onStage(t, func(s *stage) {
		tags := make([]string, 1, 10)
		tags[0] = "all"
		c := client.NewCache[string](s.a.Client, client.Policy{TTL: time.Hour, Tags: tags})
		var wg sync.WaitGroup
		hold := make(chan struct{})
		for i := range 2 {
			wg.Go(func() {
				_, _ = c.GetOrSet(s.Context(), fmt.Sprint("k", i), func(ctx context.Context) (string, error) {
					client.LoadContextFrom(ctx).AdjustPolicy(func(p *client.Policy) {
						p.Tags = append(p.Tags, fmt.Sprint("t", i))
					})
					<-hold
					return "v", nil
				})
			})
			synctest.Wait()
		}
		close(hold)
		wg.Wait()
		s.a.invalidate("t0")
		if _, ok, _ := c.Get(s.Context(), "k0"); ok {
			s.Error("k0 has lost its tag")
		}
	})
}

// At that moment nothing is stale enough for a policy without stale values.
func TestManyAtTheVeryEndOfATTL(t *testing.T) {
	onStage(t, func(s *stage) {
		n := 0
		c := client.NewCache[string](s.a.Client, client.Policy{TTL: time.Minute, Keep: time.Hour})
		load := func(_ context.Context, keys []string) (map[string]string, error) {
			n++
			return map[string]string{"k": strconv.Itoa(n)}, nil
		}
		get := func() string {
			m, err := c.GetOrSetMany(s.Context(), []string{"k"}, load)
			if err != nil {
				s.Error(err)
			}
			return m["k"]
		}
		if v := get(); v != "1" {
			s.Error(v)
		}
		time.Sleep(time.Minute)
		if v := get(); v != "2" {
			s.Errorf("got %q of a policy without stale values", v)
		}
	})
}

// As GetOrSet: whoever waited that long for another loader does not begin one.
func TestHardTimeoutOfManyHoldsForLoadsElsewhere(t *testing.T) {
	onStage(t, func(s *stage) {
		src := newOrigin("v")
		src.slow(time.Minute)
		first := s.a.get(src)
		synctest.Wait()
		c := client.NewCache[string](s.b.Client, client.Default().With(func(p *client.Policy) { p.HardTimeout = time.Second }))
		start := time.Now()
		n := 0
		_, err := c.GetOrSetMany(s.Context(), []string{"k"}, func(ctx context.Context, _ []string) (map[string]string, error) {
			n++
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if took := time.Since(start); n > 0 || took != time.Second || !errors.Is(err, context.DeadlineExceeded) {
			s.Errorf("%v after %s and %d loads", err, took, n)
		}
		<-first
	})
}

// Proxies may add a header rather than replace it.
func TestStampHeadersThatCameTwiceAreMerged(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0, 1)
		h := http.Header{}
		old := stamps.With(w.Context(), stamps.Stamp{})
		if _, err := w.client[0].InvalidateTags(old, "t"); err != nil {
			w.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		ctx := stamps.With(w.Context(), stamps.Stamp{})
		if _, err := w.client[0].InvalidateTags(ctx, "t"); err != nil {
			w.Fatal(err)
		}
		h.Add(stamps.Header, stamps.From(ctx).String())
		h.Add(stamps.Header, stamps.From(old).String())
		if got := stamps.From(stamps.WithHeader(w.Context(), h)); got.String() != stamps.From(ctx).String() {
			w.Error("the last counts, not the highest")
		}
	})
}

// Where no lease is to be had, at once, nobody was waited for.
func TestHardTimeoutIsNoReasonNotToLoad(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		w.warm(0)
		_, _ = w.client[0].InvalidateTags(w.Context(), "t")
		ctx := stamps.With(w.Context(), stamps.Stamp{})
		if _, err := w.client[0].InvalidateTags(ctx, "t"); err != nil {
			w.Fatal(err)
		}
		ahead := stamps.From(ctx).In("shop")[0]
		ahead.Stamp.Position += 1 << 40
		text := "shop=" + base64.RawURLEncoding.EncodeToString(soracache.Stamps{ahead}.Encode())
		future, err := stamps.Parse(text)
		if err != nil {
			w.Fatal(err)
		}
		opt := client.AdjustPolicy(func(p *client.Policy) { p.HardTimeout = time.Second })
		c := client.NewCache[string](w.client[0], client.Default())
		start := time.Now()
		v, err := c.GetOrSet(stamps.With(w.Context(), future), "k", func(context.Context) (string, error) { return "v", nil }, opt)
		if v != "v" || err != nil {
			w.Errorf("%q, %v after %s", v, err, time.Since(start))
		}
		start = time.Now()
		m, err := c.GetOrSetMany(stamps.With(w.Context(), future), []string{"k"}, func(context.Context, []string) (map[string]string, error) {
			return map[string]string{"k": "v"}, nil
		}, opt)
		if m["k"] != "v" || err != nil {
			w.Errorf("%q, %v after %s", m, err, time.Since(start))
		}
	})
}

// A change whose answer was lost may have been recorded.
type answerLost struct{ soracache.Backend }

func (l answerLost) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	_, err := l.Backend.Invalidate(ctx, req)
	return soracache.InvalidateResult{}, errors.Join(soracache.ErrUnavailable, err)
}

func TestNearRefusesWhatMayHaveBeenInvalidated(t *testing.T) {
	for name, what := range map[string]client.Invalidation{"key": {Keys: []string{"k"}}, "tag": {Tags: []string{"t"}}, "everything": {All: true}} {
		t.Run(name, func(t *testing.T) {
			inNearWorld(t, func(w *nearWorld) {
				w.links[0].Backend = answerLost{w.links[0].Backend}
				w.warm(0)
				w.want(0, "k", "1", "1", false, client.WithTags("t"))
				w.want(0, "k", "2", "1", true)
				hold := make(chan struct{}) // the watch does not tell
				w.links[0].set(func(l *link) { l.hold = hold })
				if _, err := w.client[0].Invalidate(w.Context(), what); !errors.Is(err, soracache.ErrUnavailable) {
					w.Fatal(err)
				}
				w.want(0, "k", "2", "2", false, client.WithTags("t"))
				close(hold)
				synctest.Wait()
				w.get(0, "k", "3", client.WithTags("t"))
				w.want(0, "k", "3", "2", true)
			})
		})
	}
}

// Without the service, a loader that takes too long has not failed: it is asked again by
// the next caller.
func TestHardTimeoutWithoutTheService(t *testing.T) {
	p := policy(func(p client.Policy) client.Policy {
		return p.With(func(p *client.Policy) { p.FailSafe = time.Hour; p.HardTimeout = time.Second; p.Near = -1 })
	})
	playAll(t, []act{{"both", func(s *stage) {
		src := newOrigin("old")
		s.b.want("old", src, p)
		time.Sleep(2 * time.Minute)
		src.becomes("new")
		src.slow(5 * time.Second)
		s.a.track.down.Store(true)
		s.a.wantErr(context.DeadlineExceeded, src, p)
		s.a.track.down.Store(false)
		src.slow(0)
		s.a.want("new", src, p)
		s.wantCalls(src, 3)
		time.Sleep(2 * time.Minute)
		s.a.track.down.Store(true)
		src.fails(errBoom)
		s.a.wantErr(errBoom, src, p) // which is a failure
		s.a.track.down.Store(false)
		s.a.want("new", src, p)
		s.wantCalls(src, 4)
	}}})
}

// Whoever waits for a loader that does not heed its context is told of Close at once,
// by whichever door it came.
func TestCloseBesideALoaderThatDoesNotHeedItsContext(t *testing.T) {
	for _, opts := range [][]client.CallOption{nil, {client.AdjustPolicy(func(p *client.Policy) { p.HardTimeout = time.Hour })}} {
		playAll(t, []act{{fmt.Sprintf("%d options", len(opts)), func(s *stage) {
			src := newOrigin("v")
			src.slow(time.Minute)
			src.set(func(o *origin) { o.deaf = true })
			start := time.Now()
			waiting := []<-chan result{s.a.get(src, opts...)}
			synctest.Wait()
			for range 3 { // who wait for its end
				waiting = append(waiting, s.a.get(src, opts...))
			}
			synctest.Wait()
			if err := s.a.Close(); err == nil {
				s.Error("the loader has ended")
			}
			for i, ch := range waiting {
				if r := <-ch; !errors.Is(r.err, client.ErrClosed) || time.Since(start) > 2*time.Second {
					s.Errorf("caller %d: %q, %v after %s", i, r.value, r.err, time.Since(start))
				}
			}
			time.Sleep(2 * time.Minute) // the loader ends
		}}})
	}
}

// laggard answers questions after some time.
type laggard struct {
	soracache.Backend
	by time.Duration
}

func (l *laggard) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	select {
	case <-time.After(l.by):
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
	}
	return l.Backend.Get(ctx, req)
}

// The caller who asked the service goes, and others have come: that is no failure of the
// service's.
func TestWhoeverAskedGoes(t *testing.T) {
	for _, stored := range []bool{true, false} {
		playAll(t, []act{{fmt.Sprintf("there is a value: %t", stored), func(s *stage) {
			src := newOrigin("v")
			if stored {
				s.b.want("v", src)
			}
			slow := &laggard{Backend: s.node}
			var open atomic.Int32
			c, err := client.New(slow, client.Logger(nil), client.NoNear(), client.WithHooks(client.Hooks{OnFailOpen: func(string, error) { open.Add(1) }}))
			if err != nil {
				s.Fatal(err)
			}
			s.Cleanup(func() { _ = c.Close() })
			slow.by = 100 * time.Millisecond
			ctx, cancel := context.WithCancel(s.Context())
			ask := func(ctx context.Context) <-chan result {
				got := make(chan result, 1)
				go func() {
					v, err := s.a.door.ask(ctx, c, "k", src.load)
					got <- result{v, err}
				}()
				time.Sleep(5 * time.Millisecond)
				return got
			}
			goes, stays := ask(ctx), ask(s.Context())
			cancel()
			if r := <-goes; !errors.Is(r.err, context.Canceled) {
				s.Errorf("who went got %v", r.err)
			}
			if r := <-stays; r.value != "v" || r.err != nil || open.Load() > 0 {
				s.Errorf("who stayed got %v; failed open %d times", r, open.Load())
			}
			s.wantCalls(src, 1)
			synctest.Wait()
			if !s.explain("k").Live {
				s.Error("nothing is stored")
			}
		}}})
	}
}

// A timeout of centuries is one, wherever something is added to it.
func TestTimeoutForEver(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.a.door = door
				theirs, own := newOrigin("b's"), newOrigin("own")
				theirs.slow(2 * time.Second)
				first := s.b.get(theirs)
				synctest.Wait()
				if r := <-s.a.get(own); r.value != "b's" || r.err != nil {
					s.Errorf("got %v", r)
				}
				<-first
				if r := <-s.a.getIn(s.Context(), "k2", own); r.value != "own" || r.err != nil {
					s.Errorf("got %v", r)
				}
				synctest.Wait()
				if !s.explain("k2").Live {
					s.Error("it is not stored")
				}
				own.fails(errBoom)
				<-s.a.getIn(s.Context(), "k3", own)
				synctest.Wait()
				if s.leased("k3") {
					s.Error("the lease is not handed back")
				}
			}, client.Timeout(math.MaxInt64))
		})
	}
}

func TestLoadBatchForEver(t *testing.T) {
	onStage(t, func(s *stage) {
		cache := client.NewCache[string](s.a.Client, client.Default())
		opts := []client.CallOption{client.LoadBatch(math.MaxInt), client.LoadConcurrency(math.MaxInt)}
		src := &source{}
		if got, err := cache.GetOrSetMany(s.Context(), []string{"k"}, src.load, opts...); err != nil || got["k"] != "k" {
			s.Errorf("got %v, %v", got, err)
		}
		if p, err := cache.Warm(s.Context(), slices.Values([]string{"l", "m"}), src.load, opts...); err != nil || p.Stored != 2 {
			s.Errorf("got %+v, %v", p, err)
		}
	})
}

// A loader may read from the cache while it changes its policy, and what is said
// meanwhile is not lost.
func TestChangeOfAPolicyThatAsksTheCache(t *testing.T) {
	playAll(t, []act{{"", func(s *stage) {
		src := newOrigin("v")
		src.with = func(ctx context.Context) {
			fill := client.LoadContextFrom(ctx)
			fill.AdjustPolicy(func(p *client.Policy) {
				if _, err := client.GetOrSet(ctx, s.a.Client, "flag", returns("x"), client.WithTags("flags")); err != nil {
					s.Error(err)
				}
				fill.SetTTL(time.Second)
				fill.AddTags("said")
				p.Keep = time.Hour
			})
		}
		s.a.want("v", src)
		at := s.explain("k")
		if fresh := at.FreshFor.Round(time.Second); fresh != time.Second || at.KeepFor.Round(time.Second) != time.Hour {
			s.Errorf("fresh for %s, kept for %s", fresh, at.KeepFor)
		}
		for i, tag := range []string{"flags", "said"} {
			s.a.invalidate(tag)
			s.a.want("v", src)
			s.wantCalls(src, i+2)
		}
	}}})
}

// The service may say that a lease lasts next to nothing.
func TestLeaseThatLastsNextToNothing(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.service.Bend = func(res *soracache.ReadResult) { res.LeaseFor = min(res.LeaseFor, 2) }
				if v, err := door.ask(t.Context(), w.client, "k", takes(time.Second, "v")); v != "v" || err != nil {
					t.Errorf("got %q, %v", v, err)
				}
				renewed := 0
				for _, write := range w.service.Writes {
					if write.Op == soracache.OpRenew {
						renewed++
					}
				}
				if renewed == 0 || renewed > 100 {
					t.Errorf("renewed %d times", renewed)
				}
			})
		})
	}
}
