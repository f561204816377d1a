package client_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/internal/fake"
)

// What became of a load goes with the release of its lease, by either way of
// loading.
func TestReleaseSaysWhatBecameOfTheLoad(t *testing.T) {
	const failed, refused, back = soracache.LoadFailed, soracache.LoadNotStorable, soracache.LoadHandedBack
	for name, c := range map[string]struct {
		load func(ctx context.Context, cancel func()) (string, error)
		deny error // of the fill
		want []soracache.LoadOutcome
	}{
		"a value":       {func(context.Context, func()) (string, error) { return "v", nil }, nil, nil},
		"an error":      {func(context.Context, func()) (string, error) { return "", errBoom }, nil, []soracache.LoadOutcome{failed}},
		"no such thing": {func(context.Context, func()) (string, error) { return "", client.ErrNotFound }, nil, []soracache.LoadOutcome{refused}},
		"a panic":       {func(context.Context, func()) (string, error) { panic("boom") }, nil, []soracache.LoadOutcome{failed}},
		"a source spared": {func(context.Context, func()) (string, error) {
			return "", fmt.Errorf("a part: %w", client.ErrSourceBusy)
		}, nil, []soracache.LoadOutcome{back}},
		"a Goexit":          {func(context.Context, func()) (string, error) { runtime.Goexit(); return "", nil }, nil, []soracache.LoadOutcome{failed}},
		"a refused entry":   {func(context.Context, func()) (string, error) { return "v", nil }, soracache.ErrTooLarge, []soracache.LoadOutcome{refused}},
		"no answer to it":   {func(context.Context, func()) (string, error) { return "v", nil }, soracache.ErrUnavailable, []soracache.LoadOutcome{back}},
		"a full store":      {func(context.Context, func()) (string, error) { return "v", nil }, soracache.ErrStoreFull, []soracache.LoadOutcome{refused}},
		"nobody to wait":    {func(ctx context.Context, cancel func()) (string, error) { cancel(); <-ctx.Done(); return "", ctx.Err() }, nil, []soracache.LoadOutcome{back}},
		"an error all same": {func(context.Context, func()) (string, error) { return "", context.Canceled }, nil, []soracache.LoadOutcome{failed}},
		"not to be cached": {func(ctx context.Context, _ func()) (string, error) {
			client.LoadContextFrom(ctx).DoNotCache()
			client.LoadContextFrom(ctx).For("k").DoNotCache()
			return "v", nil
		}, nil, []soracache.LoadOutcome{refused}},
	} {
		for way, get := range map[string]func(ctx context.Context, cache *client.Cache[string], load func(context.Context) (string, error)) error{
			"one": func(ctx context.Context, cache *client.Cache[string], load func(context.Context) (string, error)) error {
				_, err := cache.GetOrSet(ctx, "k", load)
				return err
			},
			"many": func(ctx context.Context, cache *client.Cache[string], load func(context.Context) (string, error)) error {
				_, err := cache.GetOrSetMany(ctx, []string{"k"}, func(ctx context.Context, _ []string) (map[string]string, error) {
					v, err := load(ctx)
					return map[string]string{"k": v}, err
				})
				return err
			},
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					service := fake.New()
					service.Deny = func(w soracache.Write) error {
						if w.Op == soracache.OpFill {
							return c.deny
						}
						return nil
					}
					cl, err := client.New(service, client.Logger(nil))
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = cl.Close() }()
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					_ = get(ctx, client.NewCache[string](cl, client.Default()), func(ctx context.Context) (string, error) { return c.load(ctx, cancel) })
					time.Sleep(time.Second) // a load that nobody waits for ends
					if got := service.Released(); !slices.Equal(got, c.want) {
						t.Errorf("released %v, want %v", got, c.want)
					}
				})
			})
		}
	}
}

// A value that is stale, and that nobody refreshes because the store is full, is
// loaded and not kept; it stands in where that fails, and where the policy says
// that it may be served anyway.
func TestStaleValueThatNobodyRefreshes(t *testing.T) {
	for name, c := range map[string]struct {
		policy client.Policy
		err    error
		want   string
		loads  int
	}{
		"loaded":                {client.Policy{TTL: time.Minute, FailSafe: time.Hour}, nil, "new", 1},
		"the loader fails":      {client.Policy{TTL: time.Minute, FailSafe: time.Hour}, errBoom, "old", 1},
		"while it revalidates":  {client.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour}, nil, "old", 0},
		"past its revalidation": {client.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Second, FailSafe: time.Hour}, nil, "new", 1},
	} {
		for _, way := range []string{"one", "many"} {
			t.Run(name+"/"+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					service := fake.New()
					heard := &heard{}
					cl, err := client.New(service, client.Logger(nil), client.WithHooks(heard.hooks()))
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = cl.Close() }()
					cache := client.NewCache[string](cl, c.policy)
					if _, err := cache.GetOrSet(t.Context(), "k", func(context.Context) (string, error) { return "old", nil }); err != nil {
						t.Fatal(err)
					}
					time.Sleep(2 * time.Minute)
					service.Bend = func(res *soracache.ReadResult) {
						if res.Lease != (soracache.Lease{}) {
							res.Lease, res.LeaseFor = soracache.Lease{}, 0
							res.LeaseState, res.Refusal = soracache.LeaseRefused, soracache.RefusalStoreFull
						}
					}
					loads := 0
					load := func(context.Context) (string, error) { loads++; return "new", c.err }
					var got string
					if way == "one" {
						got, err = cache.GetOrSet(t.Context(), "k", load)
					} else {
						var values map[string]string
						values, err = cache.GetOrSetMany(t.Context(), []string{"k"}, func(ctx context.Context, _ []string) (map[string]string, error) {
							v, err := load(ctx)
							return map[string]string{"k": v}, err
						})
						got = values["k"]
					}
					if got != c.want || err != nil || loads != c.loads {
						t.Errorf("%q, %v after %d loads; want %q after %d", got, err, loads, c.want, c.loads)
					}
					if c.want == "new" && (len(heard.notStored) != 1 || !errors.Is(heard.notStored[0], soracache.ErrStoreFull)) {
						t.Errorf("not stored because of %v", heard.notStored)
					}
				})
			})
		}
	}
}
