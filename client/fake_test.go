package client_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/internal/fake"
)

// heard records what hooks are told.
type heard struct {
	mu                                             sync.Mutex
	hits, stale, misses, loads, failOpen, unread   int
	superseded                                     []soracache.Reason
	notStored                                      []error
	lastTier                                       soracache.Tier
	lastFailOpen, lastLoad, lastUnreadableReported error
}

func (h *heard) hooks() client.Hooks {
	locked := func(do func()) {
		h.mu.Lock()
		defer h.mu.Unlock()
		do()
	}
	return client.Hooks{
		OnHit:   func(_ string, tier soracache.Tier) { locked(func() { h.hits++; h.lastTier = tier }) },
		OnStale: func(string, soracache.Tier, client.StaleReason) { locked(func() { h.stale++ }) },
		OnMiss:  func(string) { locked(func() { h.misses++ }) },
		OnLoad:  func(_ string, _ time.Duration, err error) { locked(func() { h.loads++; h.lastLoad = err }) },
		OnFillSuperseded: func(_ string, r soracache.Reason) {
			locked(func() { h.superseded = append(h.superseded, r) })
		},
		OnNotStored: func(_ string, why error) { locked(func() { h.notStored = append(h.notStored, why) }) },
		OnFailOpen:  func(_ string, err error) { locked(func() { h.failOpen++; h.lastFailOpen = err }) },
		OnUnreadable: func(_, _ string, err error) {
			locked(func() { h.unread++; h.lastUnreadableReported = err })
		},
	}
}

// world is what a test of the client plays in.
type world struct {
	*testing.T
	service *fake.Service
	client  *client.Client
	heard   *heard
}

func newWorld(t *testing.T, opts ...client.Option) *world {
	t.Helper()
	w := &world{T: t, service: fake.New(), heard: &heard{}}
	w.client = w.join(opts...)
	return w
}

// join returns another client of the same service, as another process has it.
func (w *world) join(opts ...client.Option) *client.Client {
	w.Helper()
	c, err := client.New(w.service, append([]client.Option{client.Logger(nil), client.WithHooks(w.heard.hooks())}, opts...)...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := c.Close(); err != nil {
			w.Errorf("close: %v", err)
		}
	})
	return c
}

type result struct {
	value string
	err   error
}

// start calls GetOrSet in a goroutine.
func (w *world) start(ctx context.Context, c *client.Client, key string, load func(context.Context) (string, error), opts ...client.CallOption) <-chan result {
	ch := make(chan result, 1)
	go func() {
		v, err := client.GetOrSet(ctx, c, key, load, opts...)
		ch <- result{v, err}
	}()
	return ch
}

// must calls GetOrSet and returns its value.
func (w *world) must(key string, load func(context.Context) (string, error), opts ...client.CallOption) string {
	w.Helper()
	v, err := client.GetOrSet(w.Context(), w.client, key, load, opts...)
	if err != nil {
		w.Fatalf("GetOrSet(%q): %v", key, err)
	}
	return v
}

func (w *world) invalidate(tags ...string) {
	w.Helper()
	if _, err := w.client.InvalidateTags(w.Context(), tags...); err != nil {
		w.Fatal(err)
	}
}

// returns is a loader that answers at once.
func returns(v string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return v, nil }
}

// takes is a loader that heeds its context while it works.
func takes(d time.Duration, v string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		select {
		case <-time.After(d):
			return v, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}
