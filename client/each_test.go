package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// counted yields keys 0000 to n-1 and counts those that were taken.
func counted(n int, taken *atomic.Int64) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range n {
			taken.Add(1)
			if !yield(fmt.Sprintf("%04d", i)) {
				return
			}
		}
	}
}

func TestEachAndWarm(t *testing.T) {
	tests := []struct {
		name string
		play func(w *manyWorld)
	}{
		{"10,000 keys come in their order, with few in memory and few loads at a time", func(w *manyWorld) {
			w.source.takes = 10 * time.Millisecond
			var taken atomic.Int64
			yielded, ahead := 0, int64(0)
			for key, r := range w.cache[0].Each(w.Context(), counted(10_000, &taken), w.source.load, client.LoadBatch(100), client.LoadConcurrency(3)) {
				if want := fmt.Sprintf("%04d", yielded); key != want || r.Value != want || !r.Found || r.Err != nil {
					w.Fatalf("%d: %q, %v", yielded, key, r)
				}
				yielded++
				ahead = max(ahead, taken.Load()-int64(yielded))
			}
			if yielded != 10_000 || ahead > 300 || w.source.most > 3 || w.source.count() != 100 {
				w.Errorf("%d results, %d keys ahead, %d of %d loads at a time", yielded, ahead, w.source.most, w.source.count())
			}
		}},
		{"the consumer stops: no more keys are taken, the loads under way end, their leases are free", func(w *manyWorld) {
			var taken atomic.Int64
			for key := range w.cache[0].Each(w.Context(), counted(10_000, &taken), w.source.load, client.LoadBatch(10), client.LoadConcurrency(2)) {
				if key == "0004" {
					w.source.mu.Lock()
					w.source.takes = time.Hour
					w.source.mu.Unlock()
				}
				if key == "0014" {
					break
				}
			}
			synctest.Wait()
			if n := taken.Load(); n > 40 || w.source.running != 0 {
				w.Errorf("%d keys taken, %d loads go on", n, w.source.running)
			}
			w.source.takes = 0
			start := time.Now()
			w.must(1, "0031", "0031=0031")
			if time.Since(start) > 100*time.Millisecond {
				w.Errorf("it took %s", time.Since(start))
			}
		}},
		{"each key has a result of its own: found, not found, failed, and twice if it was asked for twice", func(w *manyWorld) {
			w.source.lacks = []string{"x"}
			w.lanes[0].refuse = "bad"
			var got []string
			for key, r := range w.cache[0].Each(w.Context(), slices.Values(strings.Fields("a x bad a")), w.source.load) {
				got = append(got, fmt.Sprint(key, " ", r.Value, " ", r.Found, " ", errors.Is(r.Err, soracache.ErrInvalid)))
			}
			if want := []string{"a a true false", "x  false false", "bad  false true", "a a true false"}; !slices.Equal(got, want) {
				w.Errorf("got %q", got)
			}
		}},
		{"equal keys have a copy each", func(w *manyWorld) {
			clones := 0
			opt := client.CloneWith(func(v string) string { clones++; return v })
			results := 0
			for range w.cache[0].Each(w.Context(), slices.Values(strings.Fields("a b a a")), w.source.load, opt) {
				if results++; clones < results {
					w.Errorf("%d copies for %d results", clones, results)
				}
			}
			if results != 4 || clones != 4 {
				w.Errorf("%d results, %d copies", results, clones)
			}
		}},
		{"progress is told after each batch, with the total if it is known", func(w *manyWorld) {
			w.must(0, "0000 0001", "0000=0000 0001=0001")
			w.source.lacks = []string{"0011"}
			var told []client.Progress
			for range w.cache[0].Each(w.Context(), slices.Values(numberedKeys(12)), w.source.load,
				client.LoadBatch(10), client.LoadConcurrency(1), client.Total(12), client.OnProgress(func(p client.Progress) { told = append(told, p) })) {
			}
			want := []client.Progress{
				{Total: 12, Done: 10, Hits: 2, Loaded: 8, Stored: 8},
				{Total: 12, Done: 12, Hits: 2, Loaded: 9, NotFound: 1, Stored: 9},
			}
			if !slices.Equal(told, want) {
				w.Errorf("told %+v", told)
			}
		}},
		{"the loader fails in the middle: its batch fails, the others are there", func(w *manyWorld) {
			failed := 0
			load := func(ctx context.Context, keys []string) (map[string]string, error) {
				if slices.Contains(keys, "0015") {
					return nil, errBoom
				}
				return w.source.load(ctx, keys)
			}
			for _, r := range w.cache[0].Each(w.Context(), slices.Values(numberedKeys(30)), load, client.LoadBatch(10)) {
				if errors.Is(r.Err, errBoom) {
					failed++
				}
			}
			if failed != 10 {
				w.Errorf("%d failed", failed)
			}
		}},
		{"warming stores what is missing and what is due, and leaves the rest alone", func(w *manyWorld) {
			w.must(0, "a b", "a=a b=b")
			time.Sleep(40 * time.Second)
			w.must(0, "c", "c=c")
			time.Sleep(30 * time.Second) // a and b are stale
			report, err := w.cache[1].Warm(w.Context(), slices.Values(strings.Fields("a b c d e")), w.source.load)
			if want := (client.Progress{Done: 5, Hits: 1, Loaded: 4, Stored: 4}); report != want || err != nil {
				w.Errorf("%+v, %v", report, err)
			}
			w.must(0, "a b c d e", "a=a b=b c=c d=d e=e")
			w.wantLoads(map[string]int{"a": 2, "b": 2, "c": 1, "d": 1, "e": 1})
		}},
		{"warming what somebody else is loading: it is left to them", func(w *manyWorld) {
			w.source.takes = time.Second
			go func() { _, _ = w.get(0, "a") }()
			synctest.Wait()
			report, err := w.cache[1].Warm(w.Context(), slices.Values(strings.Fields("a b")), w.source.load)
			if want := (client.Progress{Done: 2, Loaded: 1, Elsewhere: 1, Stored: 1}); report != want || err != nil {
				w.Errorf("%+v, %v", report, err)
			}
		}},
		{"warming without the service: nothing is loaded, every key says why", func(w *manyWorld) {
			w.lanes[0].down = soracache.ErrUnavailable
			report, err := w.cache[0].Warm(w.Context(), slices.Values(numberedKeys(500)), w.source.load)
			if want := (client.Progress{Done: 500, Failed: 500}); report != want || w.source.count() != 0 {
				w.Errorf("%+v after %d loads", report, w.source.count())
			}
			var many *client.ManyError
			if !errors.As(err, &many) || !errors.Is(err, soracache.ErrUnavailable) || len(many.Errors) != client.MostWarmErrors {
				w.Errorf("got %v", err)
			}
			if many.Unnamed != 400 || !strings.HasPrefix(err.Error(), "500 of the keys failed") || !strings.HasSuffix(err.Error(), "and 497 more") {
				w.Errorf("%d are not named; %v", many.Unnamed, err)
			}
		}},
		{"warming is cancelled: it says so, and how far it came", func(w *manyWorld) {
			ctx, cancel := context.WithCancel(w.Context())
			report, err := w.cache[0].Warm(ctx, slices.Values(numberedKeys(100)), w.source.load, client.LoadBatch(10), client.LoadConcurrency(1),
				client.OnProgress(func(p client.Progress) {
					if p.Done == 30 {
						cancel()
					}
				}))
			if !errors.Is(err, context.Canceled) || report.Done != 30 {
				w.Errorf("%+v, %v", report, err)
			}
		}},
		{"a loading cache of batches gets one and many", func(w *manyWorld) {
			w.source.lacks = []string{"x"}
			cache := client.NewBatchLoadingCache(w.client[0], client.Default(), w.source.load)
			if v, err := cache.Get(w.Context(), "a"); v != "a" || err != nil {
				w.Error(v, err)
			}
			if _, err := cache.Get(w.Context(), "x"); !errors.Is(err, client.ErrNotFound) {
				w.Error(err)
			}
			values, err := cache.GetMany(w.Context(), strings.Fields("a b c x"))
			if listed(values) != "a=a b=b c=c" || err != nil || w.source.count() != 3 {
				w.Errorf("%v, %v after %v", values, err, w.source.calls)
			}
		}},
		{"a loading cache of single keys gets many, and a dish among them may read its ingredient among them", func(w *manyWorld) {
			var loads atomic.Int64
			var cache *client.LoadingCache[string]
			cache = client.NewLoadingCache(w.client[0], client.Default(), func(ctx context.Context, key string) (string, error) {
				loads.Add(1)
				switch {
				case key == "x":
					return "", client.ErrNotFound
				case key == "bad":
					return "", errBoom
				case strings.HasPrefix(key, "dish"):
					part, err := cache.Get(ctx, "part")
					return "dish of " + part, err
				}
				return key, nil
			})
			start := time.Now()
			values, err := cache.GetMany(w.Context(), strings.Fields("dish1 dish2 dish3 dish4 dish5 part x bad"))
			if len(values) != 6 || values["dish5"] != "dish of part" || time.Since(start) > time.Second {
				w.Errorf("%v in %s", values, time.Since(start))
			}
			w.wantFailed(err, errBoom, "bad")
			if n := loads.Load(); n != 8 {
				w.Errorf("%d loads", n)
			}
			if values, err := cache.GetMany(w.Context(), strings.Fields("dish1 part"), client.LoadConcurrency(1)); len(values) != 2 || err != nil || loads.Load() != 8 {
				w.Error(values, err, loads.Load())
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tt.play(newManyWorld(t, client.Policy{TTL: time.Minute, Keep: time.Hour})) })
		})
	}
}

// Equal keys are copied from what was found, and not from the copy that was given away.
func TestEachCopiesWhatNobodyHasChanged(t *testing.T) {
	onStage(t, func(s *stage) {
		cache := client.NewCache[[]int](s.a.Client, client.Default(), client.CloneWith(slices.Clone[[]int]))
		load := func(context.Context, []string) (map[string][]int, error) { return map[string][]int{"a": {1}}, nil }
		for range 2 {
			n := 0
			for _, r := range cache.Each(s.Context(), slices.Values([]string{"a", "a", "a"}), load) {
				if n++; r.Err != nil || !slices.Equal(r.Value, []int{1}) {
					t.Errorf("result %d: %v, %v", n, r.Value, r.Err)
				}
				r.Value[0]++
			}
		}
	})
}
