package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2/l2model"
)

// versionCodec is the codec of one version of an application. It reads nothing that
// another version has written.
type versionCodec string

func (v versionCodec) Name() string { return string(v) }

func (v versionCodec) Marshal(value any) ([]byte, error) {
	return fmt.Appendf(nil, "%s:%v", string(v), value), nil
}

func (v versionCodec) Unmarshal(data []byte, into any) error {
	rest, ok := strings.CutPrefix(string(data), string(v)+":")
	target, isText := into.(*string)
	if !ok || !isText {
		return errors.New("written by another version")
	}
	*target = rest
	return nil
}

// version is the options of the calls of one version.
func version(name string, change func(p client.Policy) client.Policy) []client.CallOption {
	return []client.CallOption{policy(change), client.WithCodec(versionCodec(name))}
}

func unchanged(p client.Policy) client.Policy { return p }

// wantFills checks that nothing was invalidated, and how many values were
// stored by fills.
func (s *stage) wantFills(want uint64) {
	s.Helper()
	stats := s.node.Stats()
	if stats.Invalidations != 0 || stats.FillsStored != want {
		s.Errorf("%d invalidations and %d fills; want none and %d", stats.Invalidations, stats.FillsStored, want)
	}
}

// A value that cannot be read is a miss, which is filled again, and nothing is
// invalidated for it.
func TestUnreadableValues(t *testing.T) {
	one, two := version("one", unchanged), version("two", unchanged)
	notNear := func(p client.Policy) client.Policy { return p.With(func(p *client.Policy) { p.Near = -1 }) }
	oneFar, twoFar := version("one", notNear), version("two", notNear)
	playAll(t, []act{
		{"loaded and replaced at once; who had the former value near still has it", func(s *stage) {
			src := newOrigin("v1")
			s.a.want("v1", src, one...)
			src.becomes("v2")
			s.b.want("v2", src, two...)
			s.b.want("v2", src, two...)
			s.a.want("v1", src, one...)
			s.wantCalls(src, 2)
			s.wantFills(2)
			if e := s.explain("k"); e.Encoding != "two" || s.leased("k") {
				s.Errorf("stored as %q; leased: %t", e.Encoding, s.leased("k"))
			}
		}},
		{"replaced by this process a moment ago: loaded, not stored; 10 s later it is replaced again", func(s *stage) {
			src := newOrigin("v")
			s.a.want("v", src, oneFar...)
			s.b.want("v", src, twoFar...) // replaces it
			s.a.want("v", src, oneFar...) // so does this
			s.wantFills(3)
			for range 5 {
				s.b.want("v", src, twoFar...)
				s.a.want("v", src, oneFar...)
			}
			s.wantCalls(src, 3+5)
			s.wantFills(3)
			if len(s.b.told.notStored) != 5 || !strings.Contains(s.b.told.notStored[0].Error(), "a moment ago") || s.leased("k") {
				s.Errorf("told of %v; leased: %t", s.b.told.notStored, s.leased("k"))
			}
			time.Sleep(10 * time.Second)
			s.b.want("v", src, twoFar...)
			s.b.want("v", src, twoFar...)
			s.wantCalls(src, 9)
			s.wantFills(4)
		}},
		{"20 callers of one process a moment ago: they share loads, as of any miss", func(s *stage) {
			src := newOrigin("v")
			s.a.want("v", src, oneFar...)
			s.b.want("v", src, twoFar...)
			s.a.want("v", src, oneFar...)
			src = newOrigin("w")
			src.slow(time.Second)
			var waiting []<-chan result
			for range 20 {
				waiting = append(waiting, s.b.get(src, twoFar...))
			}
			for _, ch := range waiting {
				if r := <-ch; r.value != "w" || r.err != nil {
					s.Errorf("got %v", r)
				}
			}
			// One for all who came before the first caller's loader began, and one for
			// those who came later, if there were any.
			if n := src.count(); n > 2 {
				s.Errorf("the source was asked %d times, want 2 at most", n)
			}
			s.wantFills(3)
		}},
		{"somebody else replaces it at this moment: nobody waits, one load a process", func(s *stage) {
			s.a.want("v1", newOrigin("v1"), one...)
			src := newOrigin("v2")
			src.slow(time.Second)
			c := s.process()
			c.door = s.b.door
			first := s.b.get(src, two...)
			synctest.Wait()
			c.wantAfter(time.Second, "v2", src, two...)
			if r := <-first; r.value != "v2" || r.err != nil {
				s.Errorf("got %v", r)
			}
			s.wantCalls(src, 2)
			s.wantFills(2)
			c.want("v2", src, two...) // it is stored now
			s.wantCalls(src, 2)
		}},
		{"its loader fails: the loader's error, the entry stays, and the next call may replace it", func(s *stage) {
			s.a.want("v1", newOrigin("v1"), one...)
			src := newOrigin("v2")
			src.fails(errBoom)
			s.b.wantErr(errBoom, src, two...)
			if e := s.explain("k"); e.Encoding != "one" || s.leased("k") {
				s.Errorf("stored as %q; leased: %t", e.Encoding, s.leased("k"))
			}
			src.becomes("v2")
			s.b.want("v2", src, two...)
			s.wantFills(2)
		}},
		{"not to be stored: each call loads, and the entry stays", func(s *stage) {
			s.a.want("v1", newOrigin("v1"), one...)
			src := newOrigin("v2")
			for range 3 {
				s.b.want("v2", src, append(two, client.WithTTL(0))...)
			}
			s.wantCalls(src, 3)
			s.wantFills(1)
		}},
		{"invalidated while it is replaced: what was loaded is not kept", func(s *stage) {
			s.a.want("v1", newOrigin("v1"), one...)
			src := newOrigin("v2")
			src.slow(time.Second)
			got := s.b.get(src, append(two, client.WithTags("t"))...)
			synctest.Wait()
			s.a.invalidate("t")
			if r := <-got; r.value != "v2" || r.err != nil || !slices.Equal(s.b.told.superseded, []soracache.Reason{soracache.ReasonSuperseded}) {
				s.Errorf("got %v, superseded %v", r, s.b.told.superseded)
			}
		}},
		{"past its TTL: no stale value, also for fail-safe; replaced as any stale value is", func(s *stage) {
			keep := func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) {
					p.FailSafe = time.Hour
					p.StaleWhileRevalidate = time.Hour
					p.FailSafeThrottle = -1
					p.Near = -1
				})
			}
			a, b := version("one", keep), version("two", keep)
			s.a.want("v1", newOrigin("v1"), a...)
			time.Sleep(2 * time.Minute)
			src := newOrigin("v2")
			src.fails(errBoom)
			s.b.wantErr(errBoom, src, b...)
			src.becomes("v2")
			src.slow(time.Second)
			s.b.wantAfter(time.Second, "v2", src, b...)
			s.b.wantStale()
			src.slow(0)
			// Past its TTL it is replaced however short ago that happened before.
			s.a.want("v1", newOrigin("v1"), version("one", func(p client.Policy) client.Policy {
				return p.WithTTL(time.Second).With(func(p *client.Policy) { p.Keep = time.Hour })
			})...)
			time.Sleep(2 * time.Second)
			s.b.want("v2", src, twoFar...)
			s.wantFills(4)
		}},
		{"refreshed early: no lease is used for more than one replacement in 10 s", func(s *stage) {
			eager := func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.EagerAt = 0.01; p.Near = -1 })
			}
			a, b := version("one", eager), version("two", eager)
			src := newOrigin("v")
			s.a.want("v", src, a...)
			time.Sleep(time.Second)
			for range 10 {
				s.b.want("v", src, b...)
				s.a.want("v", src, a...)
			}
			if stats := s.node.Stats(); stats.FillsStored > 5 || s.leased("k") {
				s.Errorf("%d fills; leased: %t", stats.FillsStored, s.leased("k"))
			}
		}},
		{"the store is full: loaded, and nobody waits", func(s *stage) {
			s.a.want("v1", newOrigin("v1"), one...)
			s.model().SetFull(true)
			src := newOrigin("v2")
			s.b.want("v2", src, two...)
			if len(s.b.told.notStored) != 1 || !errors.Is(s.b.told.notStored[0], soracache.ErrStoreFull) {
				s.Errorf("told of %v", s.b.told.notStored)
			}
			s.wantFills(1)
		}},
		{"the node is gone when the lease is asked for: loaded", func(s *stage) {
			s.a.want("v1", newOrigin("v1"), one...)
			s.b.track.after.Store(1)
			s.b.want("v2", newOrigin("v2"), two...)
			s.wantFills(1)
		}},
		{"a read without a loader: not there, and nothing happens to it", func(s *stage) {
			s.a.want("v1", newOrigin("v1"), one...)
			for range 2 {
				if v, found, err := client.Get[string](s.Context(), s.b.Client, "k", two...); found || err != nil {
					s.Errorf("got %q, %t, %v", v, found, err)
				}
			}
			s.wantFills(1)
			if v, found, err := client.Get[string](s.Context(), s.a.Client, "k", one...); v != "v1" || !found || err != nil {
				s.Errorf("got %q, %t, %v", v, found, err)
			}
		}},
		{"replaced by way of another node: what is there is read, and the lease handed back", func(s *stage) {
			s.a.want("v1", newOrigin("v1"), one...)
			second, err := node.New(node.Config{Store: s.store, L1MaxBytes: 4 << 20})
			if err != nil {
				s.Fatal(err)
			}
			s.Cleanup(func() { _ = second.Close() })
			c := s.process()
			c.door, c.track.Backend = s.b.door, second
			c.want("v2", newOrigin("v2"), two...)
			// The first node has the former value in its memory.
			s.b.want("v2", newOrigin("never"), two...)
			s.b.want("v2", newOrigin("never"), two...)
			if s.leased("k") || s.b.told.loads != 0 {
				s.Errorf("leased: %t; %d loads", s.leased("k"), s.b.told.loads)
			}
			s.wantFills(1)
		}},
	})
}

func (s *stage) model() *l2model.Model {
	m, _ := s.store.Store.(*l2model.Model)
	return m
}

// Two versions of a struct, side by side during a deploy.
type (
	orderThen struct{ Total int }
	orderNow  struct{ Total string }
)

// sideBySide has two processes of two versions call 2,000 times in 3 s.
func sideBySide(s *stage, many bool, opts ...client.CallOption) (loadsThen, loadsNow int) {
	then := client.NewCache[orderThen](s.a.Client, client.Policy{TTL: time.Minute}, opts...)
	now := client.NewCache[orderNow](s.b.Client, client.Policy{TTL: time.Minute}, opts...)
	for range 1000 {
		if v, err := askBy(s.Context(), many, then, orderThen{7}, &loadsThen); v.Total != 7 || err != nil {
			s.Fatalf("the former version got %v, %v", v, err)
		}
		if v, err := askBy(s.Context(), many, now, orderNow{"7 EUR"}, &loadsNow); v.Total != "7 EUR" || err != nil {
			s.Fatalf("the new version got %v, %v", v, err)
		}
		time.Sleep(3 * time.Millisecond)
	}
	return loadsThen, loadsNow
}

// askBy asks for the key k by one of the two ways.
func askBy[T any](ctx context.Context, many bool, cache *client.Cache[T], value T, loads *int) (T, error) {
	return callBy(ctx, many, cache, func() (T, error) { *loads++; return value, nil })
}

func callBy[T any](ctx context.Context, many bool, cache *client.Cache[T], load func() (T, error)) (T, error) {
	if !many {
		return cache.GetOrSet(ctx, "k", func(context.Context) (T, error) { return load() })
	}
	values, err := cache.GetOrSetMany(ctx, []string{"k"}, func(context.Context, []string) (map[string]T, error) {
		value, err := load()
		return map[string]T{"k": value}, err
	})
	return values["k"], err
}

func TestTwoVersionsSideBySide(t *testing.T) {
	for name, many := range map[string]bool{"one key": false, "many keys": true} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				then, now := sideBySide(s, many)
				if then+now > 4 {
					s.Errorf("%d loads", then+now)
				}
				s.wantFills(uint64(then + now))
			})
		})
		// Without a near cache, one of the two finds the other's value. It loads for each
		// of its calls, but does not store.
		t.Run(name+", without a near cache", func(t *testing.T) {
			onStage(t, func(s *stage) {
				then, now := sideBySide(s, many)
				if then != 2 || now != 1000 {
					s.Errorf("%d and %d loads", then, now)
				}
				s.wantFills(3)
			}, client.NoNear())
		})
	}
}

// Many keys that cannot be read are asked for together, and replaced together.
func TestManyUnreadableValues(t *testing.T) {
	onStage(t, func(s *stage) {
		keys := make([]string, 500)
		for i := range keys {
			keys[i] = fmt.Sprint("k", i)
		}
		all := func(value string) func(context.Context, []string) (map[string]string, error) {
			return func(_ context.Context, missing []string) (map[string]string, error) {
				values := map[string]string{}
				for _, key := range missing {
					values[key] = value
				}
				return values, nil
			}
		}
		former := client.NewCache[string](s.a.Client, client.Policy{TTL: time.Hour}, client.WithCodec(versionCodec("one")))
		for _, key := range keys { // each is fresh for another time
			time.Sleep(time.Millisecond)
			if _, err := former.GetOrSet(s.Context(), key, returns("v1")); err != nil {
				s.Fatal(err)
			}
		}
		var calls atomic.Int64
		s.b.track.onGet = func(req soracache.GetRequest) {
			calls.Add(1)
			for _, r := range req.Reads {
				if r.RefreshWithin != req.Reads[0].RefreshWithin {
					s.Errorf("reads that do not ask alike: %s, %s", r.RefreshWithin, req.Reads[0].RefreshWithin)
					break
				}
			}
		}
		current := client.NewCache[string](s.b.Client, client.Policy{TTL: time.Minute}, client.WithCodec(versionCodec("two")))
		for range 2 {
			values, err := current.GetOrSetMany(s.Context(), keys, all("v2"))
			if err != nil || len(values) != len(keys) || values["k7"] != "v2" {
				s.Errorf("%d values, %v", len(values), err)
			}
		}
		if n := calls.Load(); n != 4 { // two requests, twice
			s.Errorf("%d requests for reads", n)
		}
		s.wantFills(1000)
		s.b.told.mu.Lock()
		defer s.b.told.mu.Unlock()
		if s.b.told.loads != 500 {
			s.Errorf("%d loads", s.b.told.loads)
		}
	})
}

// Warm replaces what it is due to load anyway, and counts the rest as it would
// without looking.
func TestWarmLeavesUnreadableValues(t *testing.T) {
	onStage(t, func(s *stage) {
		s.a.want("v1", newOrigin("v1"), version("one", unchanged)...)
		cache := client.NewCache[string](s.b.Client, client.Policy{TTL: time.Minute}, client.WithCodec(versionCodec("two")))
		load := func(_ context.Context, keys []string) (map[string]string, error) {
			return map[string]string{"k": "v2"}, nil
		}
		p, err := cache.Warm(s.Context(), slices.Values([]string{"k"}), load)
		if p.Done != 1 || p.Hits != 1 || err != nil {
			s.Errorf("%+v, %v", p, err)
		}
		time.Sleep(2 * time.Minute)
		s.wantFills(1)
		s.a.want("v1", newOrigin("v1"), version("one", func(p client.Policy) client.Policy { return p.With(func(p *client.Policy) { p.Keep = time.Hour }) })...)
		time.Sleep(2 * time.Minute)
		p, err = cache.Warm(s.Context(), slices.Values([]string{"k"}), load)
		if p.Done != 1 || p.Stored != 1 || err != nil {
			s.Errorf("%+v, %v", p, err)
		}
	})
}
