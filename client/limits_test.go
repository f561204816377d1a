package client_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// What the edges of the times in a policy mean.
func TestTimesAtTheirEdges(t *testing.T) {
	const forEver = time.Duration(math.MaxInt64)
	bad := func(context.Context) (string, error) { return "", errBoom }
	tests := []struct {
		name string
		play func(w *world)
	}{
		{"fail-safe for ever serves what is stale", func(w *world) {
			opts := []client.CallOption{client.WithTTL(time.Minute), client.AdjustPolicy(func(p *client.Policy) { p.FailSafe = forEver })}
			w.must("k", returns("v"), opts...)
			time.Sleep(24 * time.Hour)
			if v := w.must("k", bad, opts...); v != "v" {
				w.Errorf("got %q", v)
			}
		}},
		{"stale-while-revalidate for ever serves what is stale", func(w *world) {
			opts := []client.CallOption{client.WithTTL(time.Minute), client.AdjustPolicy(func(p *client.Policy) { p.StaleWhileRevalidate = forEver })}
			w.must("k", returns("v"), opts...)
			time.Sleep(24 * time.Hour)
			if v := w.must("k", takes(time.Second, "w"), opts...); v != "v" {
				w.Errorf("got %q", v)
			}
			time.Sleep(2 * time.Second)
			if v := w.must("k", bad, opts...); v != "w" {
				w.Errorf("got %q", v)
			}
		}},
		{"what is kept for longer than a service takes is stored all the same", func(w *world) {
			for i, o := range []client.CallOption{
				client.AdjustPolicy(func(p *client.Policy) { p.Keep = forEver }), client.AdjustPolicy(func(p *client.Policy) { p.FailSafe = 60 * 24 * time.Hour }), client.AdjustPolicy(func(p *client.Policy) { p.StaleWhileRevalidate = client.LongestKeep }),
			} {
				key := fmt.Sprint("k", i)
				w.must(key, returns("v"), client.WithTTL(20*24*time.Hour), o)
				if v := w.must(key, bad); v != "v" {
					w.Errorf("%s: got %q", key, v)
				}
			}
		}},
		{"a TTL of nothing means not to store, wherever it is said", func(w *world) {
			loads := 0
			load := func(context.Context) (string, error) { loads++; return "v", nil }
			for _, opt := range []client.CallOption{
				client.WithTTL(0), client.WithPolicy(client.Default().WithTTL(0)), client.WithPolicy(client.Policy{}.WithTTL(0)),
			} {
				w.must("k", load, opt)
				w.must("k", load, opt)
			}
			if loads != 6 {
				w.Errorf("%d loads of 6", loads)
			}
			if err := client.Set(w.Context(), w.client, "k", "v", client.WithTTL(0)); !errors.Is(err, soracache.ErrInvalid) {
				w.Errorf("set: %v", err)
			}
			w.must("k", load, client.WithPolicy(client.Policy{})) // the default's
			w.must("k", load)
			if loads != 7 {
				w.Errorf("%d loads of 7", loads)
			}
		}},
		{"what is not to be stored may still be remembered as not found", func(w *world) {
			loads := 0
			none := func(context.Context) (string, error) { loads++; return "", client.ErrNotFound }
			for range 3 {
				if _, err := client.GetOrSet(w.Context(), w.client, "k", none, client.WithTTL(0), client.AdjustPolicy(func(p *client.Policy) { p.NotFoundTTL = time.Minute })); !errors.Is(err, client.ErrNotFound) {
					w.Error(err)
				}
			}
			if loads != 1 {
				w.Errorf("%d loads", loads)
			}
		}},
		{"refreshing eagerly, of what is fresh for years, is no reason to fail", func(w *world) {
			w.must("k", returns("v"), client.WithTTL(60*24*time.Hour), client.AdjustPolicy(func(p *client.Policy) { p.EagerAt = 0.01 }))
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test.play(newWorld(t)) })
		})
	}
}

// An invalidation of more names than a request may have is made in parts.
func TestInvalidatingManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var keys, tags []string
		for i := range 2*client.MostAtOnce + 1 {
			keys = append(keys, fmt.Sprint("k", i))
			tags = append(tags, fmt.Sprint("t", i))
		}
		first, last := keys[0], keys[len(keys)-1]
		loads := 0
		load := func(context.Context) (string, error) { loads++; return "v", nil }
		read := func() {
			for _, key := range []string{first, last} {
				w.must(key, load, client.WithTags("t"+key[1:]))
			}
		}
		read()
		receipt, err := w.client.Remove(w.Context(), keys...)
		if err != nil || receipt.Stamp.IsZero() {
			t.Fatal(receipt, err)
		}
		read()
		if _, err := w.client.InvalidateTags(w.Context(), tags...); err != nil {
			t.Fatal(err)
		}
		read()
		if loads != 6 {
			t.Errorf("%d loads of 6", loads)
		}
	})
}

// takesFew is a service that takes few names in one invalidation.
type takesFew struct {
	soracache.Backend

	most, made, refused int
}

func (f *takesFew) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	if len(req.Targets) > f.most {
		f.refused++
		return soracache.InvalidateResult{}, soracache.ErrTooLarge
	}
	f.made++
	return f.Backend.Invalidate(ctx, req)
}

// A service may take fewer names in one request than its default. One that has no
// room at all is not asked for each of them.
func TestInvalidatingMoreThanTheServiceTakes(t *testing.T) {
	for _, test := range []struct{ most, made, refused int }{
		{1000, 1, 0},
		{100, 9, 3}, // 700, 350, 175, and then 87
		{1, 700, 9},
		{0, 0, 10},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			few := &takesFew{Backend: w.service, most: test.most}
			c, err := client.New(few)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			var keys []string
			for i := range 700 {
				keys = append(keys, fmt.Sprint("k", i))
			}
			first, last := keys[0], keys[len(keys)-1]
			w.must(first, returns("old"))
			w.must(last, returns("old"))
			_, err = c.Remove(t.Context(), keys...)
			if made, refused := few.made, few.refused; made != test.made || refused != test.refused {
				t.Errorf("%d requests and %d refused, want %d and %d", made, refused, test.made, test.refused)
			}
			if test.most == 0 {
				if !errors.Is(err, soracache.ErrTooLarge) {
					t.Errorf("removed where there is no room: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{first, last} {
				if v := w.must(key, returns("new")); v != "new" {
					t.Errorf("%s is %q still", key, v)
				}
			}
		})
	}
}
