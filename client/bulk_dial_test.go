package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
)

// Over the wire, through what batches and routes: keys and tags that the service
// refuses, or that cannot even be sent, do their neighbours no harm.
func TestGetOrSetManyOverTheWire(t *testing.T) {
	s := clienttest.NewServer(t)
	src := &source{during: func(ctx context.Context) error {
		client.LoadContextFrom(ctx).For("0007").AddTags("\xff")
		client.LoadContextFrom(ctx).For("0008").AddTags(strings.Repeat("t", 300))
		return nil
	}}
	long := strings.Repeat("k", 2000)
	keys := append(numberedKeys(2000), "", long, "\xff")
	for range 2 { // each by another process
		values, err := client.NewCache[string](s.Dial(client.Timeout(10*time.Second)), client.Default()).GetOrSetMany(t.Context(), keys, src.load)
		var many *client.ManyError
		if len(values) != 2000 || !errors.As(err, &many) || len(many.Errors) != 3 {
			t.Fatalf("%d values, %v", len(values), err)
		}
		for key, err := range many.Errors {
			if !errors.Is(err, soracache.ErrInvalid) {
				t.Errorf("%.10q: %v", key, err)
			}
		}
	}
	if n := len(src.loads()); n != 2000 || src.count() != 2 || len(src.calls[1]) != 2 {
		t.Errorf("%d keys in %d calls, %q in the second", n, src.count(), src.calls[1:])
	}
	if _, err := client.GetOrSet(t.Context(), s.Dial(), "\xff", returns("v")); !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("a single key that is not UTF-8: %v", err)
	}
}
