package client_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache/client"
)

// What a cache whose loader knows single keys does for many keys as they come.
func TestLoadingCacheEachAndWarm(t *testing.T) {
	keys := slices.Values([]string{"k0", "k1", "k2", "k1", "k3"})
	onStage(t, func(s *stage) {
		var loads, atOnce, most atomic.Int64
		load := func(ctx context.Context, key string) (string, error) {
			loads.Add(1)
			most.Store(max(most.Load(), atOnce.Add(1)))
			defer atOnce.Add(-1)
			time.Sleep(time.Second)
			if key == "k3" {
				return "", client.ErrNotFound
			}
			return "v:" + key, nil
		}
		cache := client.NewLoadingCache(s.a.Client, client.Default().With(func(p *client.Policy) { p.NotFoundTTL = time.Minute }), load)
		other := client.NewLoadingCache(s.b.Client, client.Default(), load)

		// What somebody else loads is left to them.
		go func() { _, _ = other.Get(s.Context(), "k0") }()
		synctest.Wait()
		done, err := cache.Warm(s.Context(), keys, client.LoadConcurrency(2), client.Total(5))
		if want := (client.Progress{Total: 5, Done: 4, Loaded: 2, NotFound: 1, Stored: 3, Elsewhere: 1}); done != want || err != nil {
			s.Errorf("warmed %+v, %v; want %+v", done, err, want)
		}
		if loads.Load() != 4 || most.Load() > 3 {
			s.Errorf("%d loads, %d at a time", loads.Load(), most.Load())
		}
		if done, err = cache.Warm(s.Context(), keys); done.Hits != 3 || done.NotFound != 1 || loads.Load() != 4 || err != nil {
			s.Errorf("warmed again: %+v, %v, %d loads", done, err, loads.Load())
		}
		var got []string
		for key, r := range cache.Each(s.Context(), keys) {
			got = append(got, fmt.Sprint(key, " ", r.Value, " ", r.Found, " ", r.Err))
		}
		if want := []string{"k0 v:k0 true <nil>", "k1 v:k1 true <nil>", "k2 v:k2 true <nil>", "k1 v:k1 true <nil>", "k3  false <nil>"}; !slices.Equal(got, want) {
			s.Errorf("each: %q", got)
		}
	})
}

// Who wants a value that is being warmed gets it, from the load that warms it or after it.
func TestWarmingGivesNobodyNothing(t *testing.T) {
	onStage(t, func(s *stage) {
		var loads atomic.Int64
		cache := client.NewLoadingCache(s.a.Client, client.Default(), func(ctx context.Context, key string) (string, error) {
			loads.Add(1)
			time.Sleep(time.Second)
			return "v", nil
		})
		results := make(chan string, 3)
		get := func() {
			v, err := cache.Get(s.Context(), "k")
			results <- fmt.Sprint(v, err)
		}
		go get()
		synctest.Wait()
		go get() // which collects callers while the first one loads
		synctest.Wait()
		go func() {
			_, err := cache.Warm(s.Context(), slices.Values([]string{"k"}))
			results <- fmt.Sprint("v", err)
		}()
		for range 3 {
			if got := <-results; got != "v<nil>" {
				s.Errorf("got %s", got)
			}
		}
		if loads.Load() != 1 {
			s.Errorf("%d loads", loads.Load())
		}
	})
}
