package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2/l2model"
)

// nameDoors are the ways in which a client is given a key beside a good one. Each
// returns what became of it, and fails if the good one suffers.
var nameDoors = map[string]func(ctx context.Context, c *client.Client, key string) error{
	"Get": func(ctx context.Context, c *client.Client, key string) error {
		_, _, err := client.Get[string](ctx, c, key)
		return err
	},
	"GetOrSet": func(ctx context.Context, c *client.Client, key string) error {
		_, err := client.GetOrSet(ctx, c, key, never)
		return err
	},
	"LoadingCache.Get": func(ctx context.Context, c *client.Client, key string) error {
		_, err := client.NewLoadingCache(c, client.Default(), func(ctx context.Context, _ string) (string, error) { return never(ctx) }).Get(ctx, key)
		return err
	},
	"Set": func(ctx context.Context, c *client.Client, key string) error {
		return client.Set(ctx, c, key, "v")
	},
	"GetOrSetMany": func(ctx context.Context, c *client.Client, key string) error {
		got, err := client.NewCache[string](c, client.Default()).GetOrSetMany(ctx, []string{"good", key, "better"}, echo)
		return oneFailed(got, err, key)
	},
	"GetMany, of single keys": func(ctx context.Context, c *client.Client, key string) error {
		one := func(_ context.Context, key string) (string, error) { return key, nil }
		got, err := client.NewLoadingCache(c, client.Default(), one).GetMany(ctx, []string{"good", key, "better"})
		return oneFailed(got, err, key)
	},
	"GetMany, of batches": func(ctx context.Context, c *client.Client, key string) error {
		got, err := client.NewBatchLoadingCache(c, client.Default(), echo).GetMany(ctx, []string{"good", key, "better"})
		return oneFailed(got, err, key)
	},
	"Each": func(ctx context.Context, c *client.Client, key string) error {
		got, failed := map[string]string{}, &client.ManyError{Errors: map[string]error{}}
		for k, r := range client.NewCache[string](c, client.Default()).Each(ctx, slices.Values([]string{"good", key, "better"}), echo) {
			if r.Err != nil {
				failed.Errors[k] = r.Err
			} else {
				got[k] = r.Value
			}
		}
		return oneFailed(got, failed, key)
	},
	"Warm": func(ctx context.Context, c *client.Client, key string) error {
		p, err := client.NewCache[string](c, client.Default()).Warm(ctx, slices.Values([]string{"good", key, "better"}), echo)
		if p.Done != 3 || p.Failed != 1 || p.Loaded+p.Hits != 2 {
			return fmt.Errorf("warmed %+v, %w", p, err)
		}
		return oneFailed(map[string]string{"good": "good", "better": "better"}, err, key)
	},
	"Remove": func(ctx context.Context, c *client.Client, key string) error {
		_, err := c.Remove(ctx, "good", key)
		return err
	},
	"Invalidate": func(ctx context.Context, c *client.Client, key string) error {
		_, err := c.Invalidate(ctx, client.Invalidation{Keys: []string{"good", key}, Tags: []string{"t"}})
		return err
	},
}

// tagDoors are the ways in which it is given a tag.
var tagDoors = map[string]func(ctx context.Context, c *client.Client, tag string) error{
	"GetOrSet": func(ctx context.Context, c *client.Client, tag string) error {
		_, err := client.GetOrSet(ctx, c, "k", never, client.WithTags("t", tag))
		return err
	},
	"GetOrSetMany": func(ctx context.Context, c *client.Client, tag string) error {
		_, err := client.NewCache[string](c, client.Default().WithTags(tag)).GetOrSetMany(ctx, []string{"k"}, echo)
		return err
	},
	"Set": func(ctx context.Context, c *client.Client, tag string) error {
		return client.Set(ctx, c, "k", "v", client.WithTags(tag))
	},
	"InvalidateTags": func(ctx context.Context, c *client.Client, tag string) error {
		_, err := c.InvalidateTags(ctx, "t", tag)
		return err
	},
	"a loader": func(ctx context.Context, c *client.Client, tag string) error {
		v, err := client.GetOrSet(ctx, c, "loaded", func(ctx context.Context) (string, error) {
			client.LoadContextFrom(ctx).AddTags(tag)
			return "v", nil
		})
		if v != "v" || err != nil {
			return fmt.Errorf("the loader's value is %q, %w", v, err)
		}
		return nil // the hook is told
	},
}

func never(context.Context) (string, error) { return "", errors.New("the loader was called") }

func echo(_ context.Context, keys []string) (map[string]string, error) {
	values := map[string]string{}
	for _, k := range keys {
		values[k] = k
	}
	return values, nil
}

// oneFailed returns the error of a key whose neighbours have their values.
func oneFailed(got map[string]string, err error, key string) error {
	many, ok := errors.AsType[*client.ManyError](err)
	if !ok || len(many.Errors) != 1 || got["good"] != "good" || got["better"] != "better" {
		return fmt.Errorf("got %v, %w", got, err)
	}
	return many.Errors[key]
}

// A key or a tag that there cannot be has one error, through whatever door and to
// whatever node it goes, and what goes with it is well.
func TestNamesThatCannotBe(t *testing.T) {
	bare, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), L1MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bare.Close() })
	long := strings.Repeat("x", 2000)
	ways := map[string]func(t *testing.T, hooks client.Option) *client.Client{
		"over the wire": func(t *testing.T, hooks client.Option) *client.Client {
			return dial(t, clienttest.NewServer(t).URL(), hooks)
		},
		"in process": func(t *testing.T, hooks client.Option) *client.Client { return clienttest.NewServer(t).Client(hooks) },
		"a node that trusts its callers": func(t *testing.T, hooks client.Option) *client.Client {
			c, err := client.New(bare, hooks)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			return c
		},
	}
	for way, open := range ways {
		var mu sync.Mutex
		var notStored error
		hooks := client.WithHooks(client.Hooks{OnNotStored: func(_ string, why error) {
			mu.Lock()
			defer mu.Unlock()
			notStored = why
		}})
		judge := func(t *testing.T, name string, want, got error) {
			if !errors.Is(got, soracache.ErrInvalid) || !strings.Contains(got.Error(), want.Error()) || strings.Contains(got.Error(), "marshal") {
				t.Errorf("%.10q: got %v, want %v", name, got, want)
			}
		}
		bad := []string{"", "\xff", "k\xfe", "\xffs\xffk"}
		if way != "a node that trusts its callers" {
			bad = append(bad, long)
		}
		for door, use := range nameDoors {
			t.Run(way+"/key/"+door, func(t *testing.T) {
				c := open(t, hooks)
				for _, key := range bad {
					judge(t, key, soracache.DefaultLimits().CheckKey(key), use(t.Context(), c, key))
				}
			})
		}
		for door, use := range tagDoors {
			t.Run(way+"/tag/"+door, func(t *testing.T) {
				c := open(t, hooks)
				for _, tag := range bad[:4] {
					mu.Lock()
					notStored = nil
					mu.Unlock()
					err := use(t.Context(), c, tag)
					if door == "a loader" && err == nil {
						mu.Lock()
						err = notStored
						mu.Unlock()
					}
					judge(t, tag, soracache.DefaultLimits().CheckTag(tag), err)
				}
			})
		}
	}
}

// odd is a codec with a name that none can have.
type odd struct{ client.Raw }

func (odd) Name() string { return "\xff" }

// A loader's ETag, and a codec's name, that cannot be stored have one error, which says
// so, and the value is the caller's all the same.
func TestValidatorsThatCannotBe(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, hooks client.Option) *client.Client{
		"over the wire": func(t *testing.T, hooks client.Option) *client.Client {
			return dial(t, clienttest.NewServer(t).URL(), hooks)
		},
		"in process": func(t *testing.T, hooks client.Option) *client.Client { return clienttest.NewServer(t).Client(hooks) },
	} {
		for _, door := range doors {
			t.Run(name+"/"+door.name, func(t *testing.T) {
				var mu sync.Mutex
				var told error
				c := open(t, client.WithHooks(client.Hooks{OnNotStored: func(_ string, why error) {
					mu.Lock()
					defer mu.Unlock()
					told = why
				}}))
				notStored := func(key, want string, load func(context.Context) (string, error), opts ...client.CallOption) {
					t.Helper()
					v, err := door.ask(t.Context(), c, key, load, opts...)
					mu.Lock()
					defer mu.Unlock()
					if v != "v" || err != nil || told == nil || told.Error() != "invalid argument: "+want {
						t.Errorf("got %q, %v; told %v", v, err, told)
					}
					told = nil
				}
				for i, etag := range []string{"\xff", strings.Repeat("e", 256)} {
					notStored(fmt.Sprint("k", i), "etag must be at most 255 bytes of UTF-8", func(ctx context.Context) (string, error) {
						client.LoadContextFrom(ctx).SetETag(etag)
						return "v", nil
					})
				}
				notStored("codec", "encoding must be at most 255 bytes of UTF-8", returns("v"), client.WithCodec(odd{}))
				if err := client.Set(t.Context(), c, "codec", "v", client.WithCodec(odd{})); err == nil || strings.Contains(err.Error(), "marshal") {
					t.Errorf("set: %v", err)
				}
			})
		}
	}
}
