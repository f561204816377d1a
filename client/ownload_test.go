package client_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/l2"
)

// Who does not wait for others shares the loads of its own process all the same. When
// such a load has lost its lease to another process, that is not waited for.
func TestOwnLoadThatLosesItsLease(t *testing.T) {
	doors := map[string]func(context.Context, *client.Cache[string], func() string) error{
		"one key": func(ctx context.Context, c *client.Cache[string], load func() string) error {
			_, err := c.GetOrSet(ctx, "k", func(context.Context) (string, error) { return load(), nil })
			return err
		},
		"many keys": func(ctx context.Context, c *client.Cache[string], load func() string) error {
			_, err := c.GetOrSetMany(ctx, []string{"k"}, func(_ context.Context, keys []string) (map[string]string, error) {
				return map[string]string{keys[0]: load()}, nil
			})
			return err
		},
	}
	for name, door := range doors {
		t.Run(name, func(t *testing.T) {
			inNearWorld(t, func(w *nearWorld) {
				const own, others = time.Second, 10 * time.Second
				policy := client.Policy{TTL: time.Minute, Wait: -1}
				policy.StaleWhileRevalidate = time.Hour
				cache := client.NewCache[string](w.client[0], policy)
				takes := func(d time.Duration) func() string {
					return func() string { time.Sleep(d); return "v" }
				}
				must := func(err error) {
					if err != nil {
						w.Fatal(err)
					}
				}
				must(door(w.Context(), cache, takes(0)))
				time.Sleep(policy.TTL)
				must(door(w.Context(), cache, takes(own))) // behind it
				time.Sleep(own / 10)
				_, err := w.client[1].Remove(w.Context(), "k")
				must(err)
				go func() { _ = door(w.Context(), client.NewCache[string](w.client[1], client.Default()), takes(others)) }()
				time.Sleep(own / 10)
				began, ran := time.Now(), false
				err = door(w.Context(), cache, func() string { ran = true; return "v" })
				if took := time.Since(began); err != nil || !ran || took > 2*own {
					w.Errorf("after %s: ran its own loader %t, %v", took, ran, err)
				}
				time.Sleep(others)
			}, client.NoNear())
		})
	}
}

// losesWaits is a line on which questions that wait are lost, and nobody is told.
type losesWaits struct {
	soracache.Backend

	lost atomic.Int32
}

func (l *losesWaits) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	if req.Reads[0].Wait > 0 {
		l.lost.Add(1)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.Backend.Get(ctx, req)
}

// Who waits for a load of its own process, and does not hear from the service when that
// is over, asks again.
func TestOwnLoadWhoseEndIsNotHeardOf(t *testing.T) {
	inNearWorld(t, func(w *nearWorld) {
		const own = time.Second
		line := &losesWaits{Backend: w.nodes[0]}
		w.links[0].Backend = line
		policy := client.Default().WithTTL(time.Minute)
		policy.StaleWhileRevalidate = time.Hour
		cache := client.NewCache[string](w.client[0], policy)
		read := func(value string, takes time.Duration) string {
			w.Helper()
			v, err := cache.GetOrSet(w.Context(), "k", func(context.Context) (string, error) {
				time.Sleep(takes)
				return value, nil
			})
			if err != nil {
				w.Fatal(err)
			}
			return v
		}
		read("1", 0)
		time.Sleep(policy.TTL)
		if v := read("2", own); v != "1" { // it refreshes behind
			w.Errorf("read %s", v)
		}
		if _, err := w.client[1].InvalidateTags(w.Context(), "other"); err != nil {
			w.Fatal(err)
		}
		w.store.LoseEntry(l2.Partition{Namespace: "shop"}, "k") // so that a reader has to wait
		time.Sleep(nearBound)
		began := time.Now()
		v := read("3", 0)
		if took := time.Since(began); v != "2" || took > own || line.lost.Load() != 1 {
			w.Errorf("read %s after %s, %d lost", v, took, line.lost.Load())
		}
	}, client.NoNear())
}
