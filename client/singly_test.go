package client_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// A call for many keys whose loader knows single keys waits no longer for all of them
// than its policy says, wherever they are being loaded.
func TestManySingleKeysWaitOnce(t *testing.T) {
	for _, tt := range []struct {
		name        string
		here        bool          // the same process loads them
		ownTakes    time.Duration // a load of the call's own
		most, least time.Duration
	}{
		{"elsewhere", false, 0, 3 * time.Second, 3 * time.Second},
		{"in the same process", true, 0, 3 * time.Second, 3 * time.Second},
		// Four at a time: ten that nobody loads, and four rounds without a wait.
		{"elsewhere, and own loads that take longer", false, 2 * time.Second, 20 * time.Second, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				other := s.b
				if tt.here {
					other = s.a
				}
				src := newOrigin("v")
				src.slow(10 * time.Minute)
				keys := make([]string, 20)
				for i := range keys {
					keys[i] = fmt.Sprint("k", i)
					_ = other.getIn(s.Context(), keys[i], src)
				}
				synctest.Wait()
				cache := client.NewLoadingCache(s.a.Client, client.Default().With(func(p *client.Policy) { p.Wait = 3 * time.Second }), func(context.Context, string) (string, error) {
					time.Sleep(tt.ownTakes)
					return "mine", nil
				})
				began := time.Now()
				got, err := cache.GetMany(s.Context(), keys)
				if took := time.Since(began); took > tt.most+time.Microsecond || took < tt.least {
					s.Errorf("it took %s", took)
				}
				if want := len(keys); tt.here && len(got) > 0 || !tt.here && (len(got) != want || err != nil) {
					s.Errorf("got %d values, %.100v", len(got), err)
				}
				_ = other.Close()
			})
		})
	}
}

// What such a call spends in its own loaders is no wait: a key that somebody else is
// loading by then is waited for.
func TestManySingleKeysOwnLoadsAreNoWait(t *testing.T) {
	onStage(t, func(s *stage) {
		src := newOrigin("theirs")
		src.slow(12 * time.Second)
		theirs := s.b.getIn(s.Context(), "k4", src)
		synctest.Wait()
		cache := client.NewLoadingCache(s.a.Client, client.Default().With(func(p *client.Policy) { p.Wait = 3 * time.Second }), func(context.Context, string) (string, error) {
			time.Sleep(10 * time.Second)
			return "mine", nil
		})
		got, err := cache.GetMany(s.Context(), []string{"k0", "k1", "k2", "k3", "k4"})
		if err != nil || got["k4"] != "theirs" || got["k0"] != "mine" {
			s.Errorf("got %v, %v", got, err)
		}
		<-theirs
	})
}

// hangs is a way to a node that, once it hangs, answers nothing of some kinds.
type hangs struct {
	soracache.Backend

	reads, writes atomic.Bool
	asked         atomic.Int64 // while it hung
}

func (h *hangs) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	if h.reads.Load() {
		h.asked.Add(1)
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
	}
	return h.Backend.Get(ctx, req)
}

func (h *hangs) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	if h.writes.Load() {
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
	}
	return h.Backend.Write(ctx, req)
}

// A service that hangs is waited for once by a call for many keys, whenever it began to
// hang, and whatever stands in for loaders that fail.
func TestManyWaitForAHungServiceOnce(t *testing.T) {
	for _, tt := range []struct {
		name  string
		later bool // it begins to hang under the first loaders
		fails bool // the loaders fail
		most  time.Duration
	}{
		{"from the beginning", false, false, client.DefaultTimeout},
		{"later", true, false, 2 * client.DefaultTimeout},
		{"and loaders fail", false, true, client.DefaultTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				h := &hangs{Backend: s.node}
				h.reads.Store(!tt.later)
				s.a.track.Backend = h
				cache := client.NewLoadingCache(s.a.Client, client.Default().With(func(p *client.Policy) { p.FailSafe = time.Hour }), func(context.Context, string) (string, error) {
					h.reads.Store(true)
					if tt.fails {
						return "", errBoom
					}
					return "mine", nil
				})
				keys := make([]string, 100)
				for i := range keys {
					keys[i] = fmt.Sprint("k", i)
				}
				began := time.Now()
				got, err := cache.GetMany(s.Context(), keys)
				if took := time.Since(began); took > tt.most || h.asked.Load() > 4 {
					s.Errorf("it took %s and %d questions", took, h.asked.Load())
				}
				if want := len(keys); !tt.fails && (err != nil || len(got) != want) || tt.fails && err == nil {
					s.Errorf("got %d values, %.100v", len(got), err)
				}
			}, client.NoNear())
		})
	}
}

// So it is with what is to be stored: the call does not wait for each part of it. What
// it does not wait for is stored all the same once the service answers.
func TestManyWaitForHungFillsOnce(t *testing.T) {
	type cache = client.LoadingCache[string]
	for _, tt := range []struct {
		name string
		opts []client.CallOption
		most time.Duration
		make func(c *client.Client, load func(string) (string, error), opts ...client.CallOption) *cache
	}{
		{"one key at a time", nil, client.DefaultTimeout, func(c *client.Client, load func(string) (string, error), opts ...client.CallOption) *cache {
			return client.NewLoadingCache(c, client.Default(), func(_ context.Context, key string) (string, error) { return load(key) }, opts...)
		}},
		{"parts of one key", []client.CallOption{client.LoadBatch(1)}, client.DefaultTimeout, func(c *client.Client, load func(string) (string, error), opts ...client.CallOption) *cache {
			return client.NewBatchLoadingCache(c, client.Default(), func(_ context.Context, keys []string) (map[string]string, error) {
				v, err := load(keys[0])
				return map[string]string{keys[0]: v}, err
			}, opts...)
		}},
	} {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", loaders fail: ", fails), func(t *testing.T) {
				onStage(t, func(s *stage) {
					h := &hangs{Backend: s.node}
					h.writes.Store(true)
					s.a.track.Backend = h
					keys := make([]string, 40)
					for i := range keys {
						keys[i] = fmt.Sprint("k", i)
					}
					cache := tt.make(s.a.Client, func(key string) (string, error) {
						switch {
						case fails:
							return "", errBoom
						case key == keys[len(keys)-1]:
							h.writes.Store(false)
						}
						return "v", nil
					}, tt.opts...)
					began := time.Now()
					got, err := cache.GetMany(s.Context(), keys)
					if took := time.Since(began); took > tt.most {
						s.Errorf("it took %s", took)
					}
					if fails {
						if err == nil {
							s.Error("no error")
						}
						time.Sleep(time.Minute)
						return
					}
					if err != nil || len(got) != len(keys) {
						s.Errorf("got %d values, %.100v", len(got), err)
					}
					synctest.Wait()
					if !s.explain(keys[len(keys)-1]).Live {
						s.Error("what was loaded last is not stored")
					}
					time.Sleep(time.Minute)
				}, client.NoNear())
			})
		}
	}
}

// Where a service answers that it cannot say what is live, the loaders fail, and the
// policy allows it, what a node has and cannot confirm stands in, as for one key.
func TestManySingleKeysServeWhatIsNotConfirmed(t *testing.T) {
	onStage(t, func(s *stage) {
		keys := []string{"a", "b", "c", "d", "e"}
		p := client.Policy{TTL: time.Minute, FailSafe: time.Hour}
		src := newOrigin("old")
		of := func(proc *process) *client.LoadingCache[string] {
			return client.NewLoadingCache(proc.Client, p, func(ctx context.Context, _ string) (string, error) { return src.load(ctx) })
		}
		if _, err := of(s.a).GetMany(s.Context(), keys); err != nil {
			s.Fatal(err)
		}
		s.store.down.Store(true)
		time.Sleep(2 * time.Minute)
		src.fails(errBoom)
		got, err := of(s.b).GetMany(s.Context(), keys)
		if err != nil || len(got) != len(keys) || got["e"] != "old" {
			s.Errorf("got %v, %.100v", got, err)
		}
		s.wantCalls(src, 2*len(keys))
	})
}
