package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/internal/fake"
)

func TestInvalidations(t *testing.T) {
	type target = soracache.Target
	tests := []struct {
		name string
		do   func(context.Context, *client.Client) (client.Receipt, error)
		want []target
	}{
		{"tags", func(ctx context.Context, c *client.Client) (client.Receipt, error) {
			return c.InvalidateTags(ctx, "a", "b")
		}, []target{soracache.Tag("a"), soracache.Tag("b")}},
		{"keys", func(ctx context.Context, c *client.Client) (client.Receipt, error) { return c.Remove(ctx, "k", "l") }, []target{soracache.Key("k"), soracache.Key("l")}},
		{"everything", func(ctx context.Context, c *client.Client) (client.Receipt, error) { return c.Clear(ctx) }, []target{soracache.Everything()}},
		{"all at once", func(ctx context.Context, c *client.Client) (client.Receipt, error) {
			return c.Invalidate(ctx, client.Invalidation{Keys: []string{"k"}, Tags: []string{"a"}, All: true})
		}, []target{soracache.Key("k"), soracache.Tag("a"), soracache.Everything()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, client.Namespace("shop"))
				receipt, err := tt.do(t.Context(), w.client)
				if err != nil || !reflect.DeepEqual(receipt.Stamp.In("shop"), soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 7, Position: 101}}}) {
					t.Errorf("got %v, %v", receipt, err)
				}
				want := []soracache.InvalidateRequest{{Namespace: "shop", Targets: tt.want}}
				if !reflect.DeepEqual(w.service.Invalidations, want) {
					t.Errorf("asked %v", w.service.Invalidations)
				}
				_, _, _ = client.Get[string](t.Context(), w.client, "k")
				if got := w.service.Gets[0].MinStamp; !reflect.DeepEqual(got, receipt.Stamp.In("shop")) {
					t.Errorf("the next read carried %v, so it need not reflect the invalidation", got)
				}
				w.service.Set(func(s *fake.Service) { s.Fail = soracache.ErrUnavailable })
				if _, err := tt.do(t.Context(), w.client); !errors.Is(err, soracache.ErrUnavailable) {
					t.Errorf("while the service is down: %v", err)
				}
			})
		})
	}
}

func TestInvalidationOfNothingIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.client.InvalidateTags(t.Context()); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWritesDoNotHangWithoutADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.service.Set(func(s *fake.Service) { s.Hang = true })
		start := time.Now()
		if _, err := w.client.Clear(t.Context()); err == nil || time.Since(start) > 10*time.Second {
			t.Errorf("Clear: %v after %s", err, time.Since(start))
		}
		start = time.Now()
		if err := client.Set(t.Context(), w.client, "k", "v"); err == nil || time.Since(start) > 10*time.Second {
			t.Errorf("Set: %v after %s", err, time.Since(start))
		}
		start = time.Now()
		if _, _, err := client.Get[string](t.Context(), w.client, "k"); err == nil || time.Since(start) > client.DefaultTimeout {
			t.Errorf("Get: %v after %s", err, time.Since(start))
		}
	})
}

func TestGetSetRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cache := client.NewCache[product](w.client, client.Short().WithTags("products"))
		ctx := t.Context()
		expect := func(when string, want product, wantFound bool) {
			t.Helper()
			if v, found, err := cache.Get(ctx, "k"); v != want || found != wantFound || err != nil {
				t.Errorf("%s: got %v, %t, %v", when, v, found, err)
			}
		}
		expect("at first", product{}, false)
		if err := cache.Set(ctx, "k", product{ID: 7}, client.WithTags("mine")); err != nil {
			t.Fatal(err)
		}
		expect("after Set", product{ID: 7}, true)
		if got := w.service.Writes[0]; !slices.Equal(got.Entry.Tags, []string{"mine", "products"}) || got.Lifetime.TTL != client.Short().TTL {
			t.Errorf("stored %+v", got)
		}
		if _, err := cache.Remove(ctx, "k"); err != nil {
			t.Fatal(err)
		}
		expect("after Remove", product{}, false)
		if w.heard.misses != 2 || w.heard.hits != 1 {
			t.Errorf("heard %d misses, %d hits", w.heard.misses, w.heard.hits)
		}
		if err := cache.Set(ctx, "k", product{}, client.WithTTL(-1)); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("Set under a bad policy: %v", err)
		}
		if err := client.Set(ctx, w.client, "k", func() {}); err == nil {
			t.Error("Set of what cannot be encoded: no error")
		}
	})
}

func TestGetDoesNotReturnWhatIsPastItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.must("k", returns("v"), client.WithPolicy(client.Policy{TTL: time.Minute, Keep: time.Hour}))
		time.Sleep(2 * time.Minute)
		if v, found, err := client.Get[string](t.Context(), w.client, "k"); found || err != nil {
			t.Errorf("got %q, %t, %v", v, found, err)
		}
	})
}

func TestLoadingCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var loads atomic.Int32
		byID := client.NewLoadingCache(w.client, client.Default(), func(_ context.Context, key string) (product, error) {
			return product{ID: int(loads.Add(1)), Name: key}, nil
		}, client.WithTags("products"))
		ctx := t.Context()
		for range 2 {
			if p, err := byID.Get(ctx, "a"); p != (product{1, "a"}) || err != nil {
				t.Errorf("got %v, %v", p, err)
			}
		}
		if _, err := byID.Remove(ctx, "a"); err != nil {
			t.Fatal(err)
		}
		if p, err := byID.Get(ctx, "a"); p != (product{2, "a"}) || err != nil {
			t.Errorf("after Remove: %v, %v", p, err)
		}
		if err := byID.Set(ctx, "b", product{9, "set"}); err != nil {
			t.Fatal(err)
		}
		if p, err := byID.Get(ctx, "b"); p != (product{9, "set"}) || err != nil {
			t.Errorf("after Set: %v, %v", p, err)
		}
	})
}

// Caches of one type share loads, whoever made them; those of different types
// never meet, so nobody is handed a value of the wrong type.
func TestSharingIsByType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.service.Set(func(s *fake.Service) { s.Fail = soracache.ErrUnavailable })
		ctx, unblock := t.Context(), make(chan struct{})
		first := w.start(ctx, w.client, "k", func(context.Context) (string, error) { <-unblock; return "", nil })
		synctest.Wait()

		var loads atomic.Int32
		done := make(chan error, 2)
		for _, policy := range []client.Policy{client.Short(), client.Long()} {
			go func() {
				_, err := client.NewCache[string](w.client, policy).GetOrSet(ctx, "k", func(context.Context) (string, error) {
					loads.Add(1)
					return "v", nil
				})
				done <- err
			}()
		}
		synctest.Wait()
		if v, err := client.GetOrSet(ctx, w.client, "k", func(context.Context) (int, error) { return 5, nil }); v != 5 || err != nil {
			t.Errorf("another type got %d, %v", v, err)
		}
		close(unblock)
		if err := errors.Join((<-first).err, <-done, <-done); err != nil {
			t.Error(err)
		}
		if n := loads.Load(); n != 1 {
			t.Errorf("%d loads by two caches of one type", n)
		}
	})
}

func TestPolicy(t *testing.T) {
	base := client.Default().WithTags("a")
	left, right := base.WithTags("b"), base.WithTags("c")
	if !slices.Equal(left.Tags, []string{"a", "b"}) || !slices.Equal(right.Tags, []string{"a", "c"}) || len(client.Default().Tags) != 0 {
		t.Errorf("policies share their tags: %v, %v, %v", left.Tags, right.Tags, client.Default().Tags)
	}
	got := client.Policy{}.WithTTL(1).With(func(p *client.Policy) { p.Keep = 2; p.L1 = 3; p.Wait = 4 }).WithTags("t")
	if want := (client.Policy{TTL: 1, Keep: 2, L1: 3, Wait: 4, Tags: []string{"t"}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	for p, ok := range map[*client.Policy]bool{
		{}: true, {TTL: 1}: true, {TTL: time.Hour, Keep: time.Minute}: true, {Wait: -1}: true,
		{TTL: -1}: false, {Keep: -1}: false, {L1: -1}: false,
	} {
		if err := p.Validate(); (err == nil) != ok || err != nil && !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestPresets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, tt := range []struct {
			policy client.Policy
			want   soracache.Lifetime
		}{
			{client.Short(), soracache.Lifetime{TTL: 5 * time.Minute, Keep: 5 * time.Minute, L1: time.Minute}},
			{client.Default(), soracache.Lifetime{TTL: 30 * time.Minute, Keep: 30 * time.Minute, L1: 5 * time.Minute}},
			{client.Long(), soracache.Lifetime{TTL: 2 * time.Hour, Keep: 2 * time.Hour, L1: 15 * time.Minute}},
			{client.Policy{}, soracache.Lifetime{TTL: 30 * time.Minute, Keep: 30 * time.Minute}},
			{client.Policy{TTL: time.Hour, Keep: time.Minute}, soracache.Lifetime{TTL: time.Hour, Keep: time.Hour}},
		} {
			if err := client.NewCache[string](w.client, tt.policy).Set(t.Context(), "k", "v"); err != nil {
				t.Fatal(err)
			}
			if got := w.service.Writes[len(w.service.Writes)-1].Lifetime; got != tt.want {
				t.Errorf("%+v is stored as %+v", tt.policy, got)
			}
		}
	})
}

// A service that is down is reported, but not by every call.
func TestTroubleIsLoggedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := newWorld(t, client.Logger(slog.New(slog.NewTextHandler(&log, nil))))
		w.service.Set(func(s *fake.Service) { s.Fail = soracache.ErrUnavailable })
		for range 100 {
			w.must("k", returns("v"))
		}
		time.Sleep(time.Minute)
		w.must("k", returns("v"))
		if n := strings.Count(log.String(), "level=WARN"); n != 2 {
			t.Errorf("%d lines:\n%s", n, log.String())
		}
	})
}

// A broken backend is an absent one.
func TestWrongNumberOfAnswers(t *testing.T) {
	c, err := client.New(silentBackend{}, client.Logger(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if v, err := client.GetOrSet(t.Context(), c, "k", returns("v")); v != "v" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	if err := client.Set(t.Context(), c, "k", "v"); !errors.Is(err, soracache.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

type silentBackend struct{ soracache.Backend }

func (silentBackend) Get(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
	return nil, nil
}

func (silentBackend) Write(context.Context, soracache.WriteRequest) ([]soracache.WriteResult, error) {
	return nil, nil
}

func (silentBackend) Watch(context.Context, soracache.WatchRequest, func([]soracache.WatchItem) error) error {
	return soracache.ErrUnimplemented
}

// Applications carry all that this package imports.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const ours = "github.com/soracache/soracache"
	allowed := []string{
		ours, ours + "/client", ours + "/internal/flight",
		ours + "/proto/soracache/v1", ours + "/proto/soracache/v1/soracachev1connect",
		ours + "/client/stamps", ours + "/client/internal/batches", ours + "/client/internal/lease", ours + "/client/internal/service", ours + "/client/internal/lifetime", ours + "/client/internal/pacing", ours + "/client/internal/deadline", ours + "/client/internal/cluster", ours + "/client/internal/near", ours + "/client/internal/source",
		ours + "/client/internal/bounded",
		ours + "/client/internal/cluster/batcher", ours + "/client/internal/cluster/rpc", ours + "/internal/wire",
		// For the near cache.
		ours + "/l1", ours + "/invalidation", ours + "/internal/suspend", ours + "/internal/virtual",
	}
	forbidden := []string{"redis", "memberlist", "bbolt", "prometheus", "opentelemetry", "google.golang.org/grpc"}
	for dep := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(dep, ours) && !slices.Contains(allowed, dep) {
			t.Errorf("the client imports %s", dep)
		}
		for _, f := range forbidden {
			if strings.Contains(strings.TrimPrefix(dep, ours), f) {
				t.Errorf("the client imports %s", dep)
			}
		}
	}
}

// invalidates is a way to a service whose invalidations take some time.
type invalidates struct {
	soracache.Backend

	takes        time.Duration
	acknowledges bool
	calls        []soracache.InvalidateRequest
}

func (i *invalidates) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	i.calls = append(i.calls, req)
	if req.Acknowledge && !i.acknowledges {
		<-ctx.Done()
		return soracache.InvalidateResult{}, &soracache.IncompleteError{Cause: ctx.Err()}
	}
	select {
	case <-time.After(i.takes):
		return soracache.InvalidateResult{}, nil
	case <-ctx.Done():
		return soracache.InvalidateResult{}, fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
	}
}

// Without a deadline, an invalidation of many names gives up once nothing has succeeded
// for 10 s, and does not wait so long for each of its parts.
func TestInvalidationsGiveUp(t *testing.T) {
	for name, tt := range map[string]struct {
		service invalidates
		ack     bool
		took    time.Duration
		calls   int
		failed  error
	}{
		"the service hangs":               {invalidates{takes: time.Hour}, false, 10 * time.Second, 1, soracache.ErrUnavailable},
		"each part takes some time":       {invalidates{takes: 4 * time.Second}, false, 20 * time.Second, 5, nil},
		"it is acknowledged":              {invalidates{takes: 4 * time.Second, acknowledges: true}, true, 20 * time.Second, 5, nil},
		"a part is not acknowledged":      {invalidates{takes: time.Second}, true, 14 * time.Second, 5, context.DeadlineExceeded},
		"not acknowledged, then it hangs": {invalidates{takes: time.Hour}, true, 20 * time.Second, 2, soracache.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				service := &tt.service
				service.Backend = s.node
				s.a.track.Backend = service
				keys := make([]string, 5*client.MostAtOnce)
				for i := range keys {
					keys[i] = fmt.Sprint("k", i)
				}
				began := time.Now()
				_, err := s.a.Invalidate(s.Context(), client.Invalidation{Keys: keys, Acknowledge: tt.ack})
				if took := time.Since(began); took != tt.took || len(service.calls) != tt.calls || !errors.Is(err, tt.failed) {
					s.Errorf("%d calls took %s: %v", len(service.calls), took, err)
				}
			}, client.NoNear())
		})
	}
}
