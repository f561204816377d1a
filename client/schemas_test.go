package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
)

// Two versions of a type, as they meet during a deploy: what one writes the other
// reads without an error, and wrongly.
type (
	orderV1 struct {
		Total int `json:"total"`
	}
	orderV2 struct {
		Cents int `json:"cents"`
	}
)

// gate is one way to ask for a value.
type gate[T any] func(ctx context.Context, c *client.Cache[T], key string, load func(context.Context) (T, error), opts ...client.CallOption) (T, error)

// gates are the two front doors.
func gates[T any]() map[string]gate[T] {
	return map[string]gate[T]{
		"GetOrSet": func(ctx context.Context, c *client.Cache[T], key string, load func(context.Context) (T, error), opts ...client.CallOption) (T, error) {
			return c.GetOrSet(ctx, key, load, opts...)
		},
		"GetOrSetMany": func(ctx context.Context, c *client.Cache[T], key string, load func(context.Context) (T, error), opts ...client.CallOption) (T, error) {
			values, err := c.GetOrSetMany(ctx, []string{key}, func(ctx context.Context, missing []string) (map[string]T, error) {
				value, err := load(ctx)
				return map[string]T{missing[0]: value}, err
			}, opts...)
			return values[key], err
		},
	}
}

// counting is a loader of one value that counts its runs.
func counting[T any](runs *atomic.Int64, value T) func(context.Context) (T, error) {
	return func(context.Context) (T, error) {
		runs.Add(1)
		return value, nil
	}
}

// A rolling deploy: two versions of the application ask for the same keys, each in
// a schema of its own. Each loads each key once; nobody's value is replaced, and
// nothing is invalidated.
func TestSchemasSideBySide(t *testing.T) {
	const keys, calls = 10, 2000
	for door := range gates[orderV1]() {
		for tiers, opts := range map[string][]client.Option{"near": nil, "far": {client.NoNear()}} {
			t.Run(door+"/"+tiers, func(t *testing.T) {
				onStage(t, func(s *stage) {
					askV1, askV2 := gates[orderV1]()[door], gates[orderV2]()[door]
					v1 := client.NewCache[orderV1](s.a.Client, client.Default(), client.WithSchema("order/1"))
					v2 := client.NewCache[orderV2](s.b.Client, client.Default(), client.WithSchema("order/2"))
					var loads [2]atomic.Int64
					for i := range calls {
						key := fmt.Sprint("order:", i%keys)
						if i%2 == 0 {
							if got, err := askV1(s.Context(), v1, key, counting(&loads[0], orderV1{i%keys + 1})); err != nil || got.Total != i%keys+1 {
								s.Fatalf("call %d: %+v, %v", i, got, err)
							}
						} else if got, err := askV2(s.Context(), v2, key, counting(&loads[1], orderV2{100 * (i%keys + 1)})); err != nil || got.Cents != 100*(i%keys+1) {
							s.Fatalf("call %d: %+v, %v", i, got, err)
						}
					}
					// Of ten keys, each version asks for every other one.
					if a, b := loads[0].Load(), loads[1].Load(); a != keys/2 || b != keys/2 {
						s.Errorf("%d and %d loads, want %d of each", a, b, keys/2)
					}
					for i := range keys { // and now for the others
						key := fmt.Sprint("order:", i)
						_, _ = askV1(s.Context(), v1, key, counting(&loads[0], orderV1{i + 1}))
						if got, err := askV2(s.Context(), v2, key, counting(&loads[1], orderV2{100 * (i + 1)})); err != nil || got.Cents != 100*(i+1) {
							s.Fatalf("%s: %+v, %v", key, got, err)
						}
						if got, err := askV1(s.Context(), v1, key, counting(&loads[0], orderV1{})); err != nil || got.Total != i+1 {
							s.Fatalf("%s: %+v, %v", key, got, err)
						}
					}
					if a, b := loads[0].Load(), loads[1].Load(); a != keys || b != keys {
						s.Errorf("%d and %d loads, want %d of each", a, b, keys)
					}
					if n := s.node.Stats(); n.Invalidations != 0 || n.Puts != 0 || n.FillsStored != 2*keys {
						s.Errorf("%d invalidations, %d puts, %d fills; want none, none and %d", n.Invalidations, n.Puts, n.FillsStored, 2*keys)
					}
				}, opts...)
			})
		}
	}
}

// Whatever names the key is about the values of all schemas, in every tier.
func TestInvalidationsAreOfAllSchemas(t *testing.T) {
	for what, invalidate := range map[string]func(s *stage) error{
		"a key": func(s *stage) error { _, err := s.a.Remove(s.Context(), "k"); return err },
		"a key, by a cache": func(s *stage) error {
			_, err := client.NewCache[string](s.a.Client, client.Default(), client.WithSchema("another")).Remove(s.Context(), "k")
			return err
		},
		"a tag":      func(s *stage) error { _, err := s.a.InvalidateTags(s.Context(), "t"); return err },
		"everything": func(s *stage) error { _, err := s.a.Clear(s.Context()); return err },
		"a set in another": func(s *stage) error {
			return client.Set(s.Context(), s.a.Client, "k", "set", client.WithSchema("another"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			onStage(t, func(s *stage) {
				var loads atomic.Int64
				ask := func(p *process, schema, want string) {
					s.Helper()
					got, err := client.GetOrSet(s.Context(), p.Client, "k", counting(&loads, want), client.WithSchema(schema), client.WithTags("t"))
					if err != nil || got != want {
						s.Fatalf("in %q: %q, %v, want %q", schema, got, err, want)
					}
				}
				for _, schema := range []string{"", "s1", "s2"} {
					for range 2 {
						ask(s.a, schema, "old "+schema)
						ask(s.b, schema, "old "+schema)
					}
				}
				if n := loads.Load(); n != 3 {
					s.Fatalf("%d loads, want 3", n)
				}
				if err := invalidate(s); err != nil {
					s.Fatal(err)
				}
				for _, schema := range []string{"", "s1", "s2"} {
					ask(s.a, schema, "new "+schema) // at once
				}
				time.Sleep(client.DefaultBound)
				for _, schema := range []string{"", "s1", "s2"} {
					ask(s.b, schema, "new "+schema)
				}
				if n := loads.Load(); n != 6 {
					s.Errorf("%d loads, want 6", n)
				}
			})
		})
	}
}

// In one process as well, loads in two schemas neither wait for each other nor
// share: a loader may read its own key in another schema, and not in its own.
func TestSchemasInOneProcess(t *testing.T) {
	for door, ask := range gates[string]() {
		t.Run(door, func(t *testing.T) {
			onStage(t, func(s *stage) {
				cache := func(schema string) *client.Cache[string] {
					return client.NewCache[string](s.a.Client, client.Default(), client.WithSchema(schema))
				}
				gone := make(chan struct{})
				slow := func(ctx context.Context) (string, error) {
					<-gone
					return "slow", nil
				}
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						if v, err := ask(s.Context(), cache("slow"), "k", slow); err != nil || v != "slow" {
							s.Errorf("slow: %q, %v", v, err)
						}
					})
				}
				synctest.Wait()
				began := time.Now()
				if v, err := ask(s.Context(), cache("fast"), "k", returns("fast")); err != nil || v != "fast" {
					s.Errorf("fast: %q, %v", v, err)
				}
				if took := time.Since(began); took > 0 {
					s.Errorf("it waited %s for another schema", took)
				}
				close(gone)
				wg.Wait()
				if s.a.told.loads != 2 {
					s.Errorf("%d loads, want 2", s.a.told.loads)
				}

				// The new form is made of the old one.
				v, err := ask(s.Context(), cache("new"), "migrated", func(ctx context.Context) (string, error) {
					old, err := ask(ctx, cache("old"), "migrated", returns("old"))
					return "new of " + old, err
				})
				if err != nil || v != "new of old" {
					s.Errorf("made of another schema: %q, %v", v, err)
				}
				_, err = ask(s.Context(), cache("circle"), "k", func(ctx context.Context) (string, error) {
					return ask(ctx, cache("circle"), "k", returns("v"))
				})
				if !errors.Is(err, client.ErrCycle) {
					s.Errorf("a loader that asks for itself: %v", err)
				}
			})
		})
	}
}

// The schema of one call goes before that of its cache, and what happens behind the
// callers (refreshes, renewals, releases) is done in it, too.
func TestSchemaOfACall(t *testing.T) {
	onStage(t, func(s *stage) {
		ctx, c := s.Context(), client.NewCache[string](s.a.Client, client.Default(), client.WithSchema("own"))
		get := func(want string, opts ...client.CallOption) {
			s.Helper()
			if v, found, err := c.Get(ctx, "k", opts...); err != nil || v != want || found != (want != "") {
				s.Errorf("%q, %v, %v, want %q", v, found, err, want)
			}
		}
		other := client.WithSchema("other")
		if _, err := c.GetOrSet(ctx, "k", returns("own")); err != nil {
			s.Fatal(err)
		}
		get("own")
		get("", other)
		get("", client.WithSchema(""))
		if v, err := c.GetOrSet(ctx, "k", returns("other"), other); err != nil || v != "other" {
			s.Fatalf("%q, %v", v, err)
		}
		get("own")
		get("other", other)
		get("", client.WithSchema(""))
		loading := client.NewLoadingCache(s.b.Client, client.Default(), func(context.Context, string) (string, error) { return "loaded", nil }, client.WithSchema("own"))
		if v, err := loading.Get(ctx, "k"); err != nil || v != "own" {
			s.Errorf("%q, %v", v, err)
		}
		if v, err := loading.Get(ctx, "k", client.WithSchema("third")); err != nil || v != "loaded" {
			s.Errorf("%q, %v", v, err)
		}
		many, err := loading.GetMany(ctx, []string{"k"}, other)
		if err != nil || many["k"] != "other" {
			s.Errorf("%q, %v", many, err)
		}
		if err := c.Set(ctx, "k", "set", other); err != nil {
			s.Fatal(err)
		}
		get("set", other)
		get("")
	})
	onStage(t, func(s *stage) {
		src := newOrigin("old")
		opts := []client.CallOption{client.WithSchema("s"), policy(func(p client.Policy) client.Policy {
			return p.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
		})}
		s.a.want("old", src, opts...)
		time.Sleep(2 * time.Minute)
		src.becomes("new")
		src.slow(time.Minute) // which needs renewals
		s.a.want("old", src, opts...)
		time.Sleep(time.Minute)
		synctest.Wait()
		s.a.want("new", src, opts...)
		s.b.want("new", src, opts...)
		s.wantCalls(src, 2)
		if e := s.explain(soracache.Name("s", "k")); !e.Live || s.explain("k").Present {
			s.Errorf("in the schema there is %+v, in the default one %+v", e, s.explain("k"))
		}
		if n := s.node.Stats(); n.Renewals < 10 || n.FillsStored != 2 {
			s.Errorf("%d renewals and %d fills", n.Renewals, n.FillsStored)
		}
		src.fails(errors.New("no"))
		s.b.invalidate("k")
		_, _ = s.a.Remove(s.Context(), "k")
		_, _ = client.GetOrSet(s.Context(), s.a.Client, "k", src.load, opts...)
		synctest.Wait()
		if s.leased(soracache.Name("s", "k")) {
			s.Error("the lease of the load that failed was not handed back")
		}
	})
}

// A name that is none is told apart at once, by both doors, and by those that have
// no loader.
func TestSchemasThatAreNone(t *testing.T) {
	onStage(t, func(s *stage) {
		for _, schema := range []string{"\xff", "a\x00b", "a\nb", strings.Repeat("s", soracache.MaxSchemaBytes+1)} {
			c := client.NewCache[string](s.a.Client, client.Default(), client.WithSchema(schema))
			_, err := c.GetOrSet(s.Context(), "k", returns("v"))
			_, many := c.GetOrSetMany(s.Context(), []string{"k"}, func(context.Context, []string) (map[string]string, error) { return nil, nil })
			_, _, get := c.Get(s.Context(), "k")
			set := c.Set(s.Context(), "k", "v")
			for _, err := range []error{err, many, get, set} {
				if !errors.Is(err, soracache.ErrInvalid) || !strings.Contains(err.Error(), "schema") {
					s.Errorf("%q: %v", schema, err)
				}
			}
		}
		if n := s.a.told.loads; n != 0 {
			s.Errorf("%d loads", n)
		}
		longest := strings.Repeat("ä", soracache.MaxSchemaBytes/2)
		if v, err := client.GetOrSet(s.Context(), s.a.Client, "k", returns("v"), client.WithSchema(longest)); err != nil || v != "v" {
			s.Errorf("%q, %v", v, err)
		}
	})
}

// Over the wire, what travels together is of one schema.
func TestSchemasOverTheWire(t *testing.T) {
	s := clienttest.NewServer(t)
	for _, c := range []*client.Client{s.Dial(client.NoNear()), s.Dial(client.NoNear())} {
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				schema, key := fmt.Sprint("s", i%4), fmt.Sprint("k", i%10)
				want := schema + " of " + key
				for range 5 {
					if v, err := client.GetOrSet(t.Context(), c, key, returns(want), client.WithSchema(schema)); err != nil || v != want {
						t.Errorf("%s in %s: %q, %v", key, schema, v, err)
					}
				}
				keys := []string{"m1", "m2", "m3"}
				values, err := client.NewCache[string](c, client.Default(), client.WithSchema(schema)).GetOrSetMany(t.Context(), keys,
					func(_ context.Context, missing []string) (map[string]string, error) {
						values := map[string]string{}
						for _, key := range missing {
							values[key] = schema + " of " + key
						}
						return values, nil
					})
				for _, key := range keys {
					if want := schema + " of " + key; err != nil || values[key] != want {
						t.Errorf("%s in %s: %q, %v", key, schema, values[key], err)
					}
				}
			})
		}
		wg.Wait()
	}
	c := s.Dial()
	if _, err := c.Remove(t.Context(), "m1"); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		schema := client.WithSchema(fmt.Sprint("s", i))
		if _, found, err := client.Get[string](t.Context(), c, "m1", schema); err != nil || found {
			t.Errorf("found %v, %v after it was removed", found, err)
		}
		if v, found, err := client.Get[string](t.Context(), c, "m2", schema); err != nil || v != fmt.Sprintf("s%d of m2", i) {
			t.Errorf("%q, %v, %v", v, found, err)
		}
	}
}
