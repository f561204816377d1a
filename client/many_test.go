package client_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/soracache/soracache/client"
)

// batches is a batch loader that remembers what it was called with.
type batches struct {
	mu    sync.Mutex
	calls [][]string // each sorted
}

func (b *batches) load(_ context.Context, keys []string) (map[string]string, error) {
	b.note(keys)
	values := make(map[string]string, len(keys))
	for _, key := range keys {
		values[key] = "value of " + key
	}
	return values, nil
}

func (b *batches) note(keys []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, slices.Sorted(slices.Values(keys)))
}

func TestGetOrSetManyLoadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cache := client.NewCache[string](w.client, client.Default)
		var b batches
		for range 2 {
			values, err := cache.GetOrSetMany(t.Context(), []string{"a", "b", "a", "c"}, b.load)
			want := map[string]string{"a": "value of a", "b": "value of b", "c": "value of c"}
			if err != nil || !maps.Equal(values, want) {
				t.Errorf("got %v, %v", values, err)
			}
		}
		if len(b.calls) != 1 || !slices.Equal(b.calls[0], []string{"a", "b", "c"}) {
			t.Errorf("loaded %v", b.calls)
		}
	})
}
