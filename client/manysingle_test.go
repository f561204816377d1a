package client_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache/client"
)

// A call for many keys whose loader knows single keys waits no longer for all of them
// than its policy says, wherever they are being loaded.
func TestManySingleKeysWaitOnce(t *testing.T) {
	for _, tt := range []struct {
		name        string
		here        bool          // the same process loads them
		ownTakes    time.Duration // a load of the call's own
		most, least time.Duration
	}{
		{"elsewhere", false, 0, 3 * time.Second, 3 * time.Second},
		{"in the same process", true, 0, 3 * time.Second, 3 * time.Second},
		// Four at a time: ten that nobody loads, and four rounds without a wait.
		{"elsewhere, and own loads that take longer", false, 2 * time.Second, 20 * time.Second, 3 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				other := s.b
				if tt.here {
					other = s.a
				}
				src := newOrigin("v")
				src.slow(10 * time.Minute)
				keys := make([]string, 20)
				for i := range keys {
					keys[i] = fmt.Sprint("k", i)
					_ = other.getIn(s.Context(), keys[i], src)
				}
				synctest.Wait()
				cache := client.NewLoadingCache(s.a.Client, client.Default.WithWait(3*time.Second), func(context.Context, string) (string, error) {
					time.Sleep(tt.ownTakes)
					return "mine", nil
				})
				began := time.Now()
				got, err := cache.GetMany(s.Context(), keys)
				if took := time.Since(began); took > tt.most || took < tt.least {
					s.Errorf("it took %s", took)
				}
				if want := len(keys); tt.here && len(got) > 0 || !tt.here && (len(got) != want || err != nil) {
					s.Errorf("got %d values, %.100v", len(got), err)
				}
				_ = other.Close()
			})
		})
	}
}

// What such a call spends in its own loaders is no wait: a key that somebody else is
// loading by then is waited for.
func TestManySingleKeysOwnLoadsAreNoWait(t *testing.T) {
	onStage(t, func(s *stage) {
		src := newOrigin("theirs")
		src.slow(12 * time.Second)
		theirs := s.b.getIn(s.Context(), "k4", src)
		synctest.Wait()
		cache := client.NewLoadingCache(s.a.Client, client.Default.WithWait(3*time.Second), func(context.Context, string) (string, error) {
			time.Sleep(10 * time.Second)
			return "mine", nil
		})
		got, err := cache.GetMany(s.Context(), []string{"k0", "k1", "k2", "k3", "k4"})
		if err != nil || got["k4"] != "theirs" || got["k0"] != "mine" {
			s.Errorf("got %v, %v", got, err)
		}
		<-theirs
	})
}
