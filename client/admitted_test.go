package client_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// Who comes while the first caller asks shares what the loader returns that begins
// then. It does not share what was found by asking: that may have been invalidated
// before it came.
func TestWhoComesBeforeTheLoaderBegins(t *testing.T) {
	throughDoors(t, func(t *testing.T, door func(int) door) {
		for name, fails := range map[string]bool{"the loader succeeds": false, "it fails, and a stale value stands in": true} {
			t.Run(name, func(t *testing.T) {
				inNearWorld(t, func(w *nearWorld) {
					policy := client.WithPolicy(client.Policy{TTL: time.Minute, FailSafe: time.Hour, Near: -1, Wait: -1})
					w.want(0, "k", "old", "old", false, policy)
					time.Sleep(time.Minute)

					asking := make(chan struct{})
					w.links[0].set(func(l *link) { l.answered = func([]soracache.ReadResult) { <-asking } })
					var loads atomic.Int32
					var all sync.WaitGroup
					type answer struct {
						value string
						err   error
					}
					answers := make([]answer, 5)
					come := func(i int) {
						all.Go(func() {
							a := &answers[i]
							a.value, a.err = door(i).ask(w.Context(), w.client[0], "k", func(context.Context) (string, error) {
								loads.Add(1)
								time.Sleep(time.Second)
								if fails {
									return "", errBoom
								}
								return "new", nil
							}, policy)
						})
						synctest.Wait()
					}
					come(0)
					if _, err := w.client[1].Invalidate(w.Context(), client.Invalidation{Keys: []string{"k"}, Acknowledge: true}); err != nil {
						w.Fatal(err)
					}
					for i := range 4 {
						come(i + 1)
					}
					w.links[0].set(func(l *link) {
						l.answered = nil
						if fails { // and nobody is told that it is invalidated
							l.Backend = isDown{}
						}
					})
					close(asking)
					all.Wait()
					for i, a := range answers {
						switch {
						case !fails && (a.value != "new" || a.err != nil),
							fails && i == 0 && (a.value != "old" || a.err != nil), // it came before the invalidation
							fails && i > 0 && !errors.Is(a.err, errBoom):
							w.Errorf("caller %d: %q, %v", i, a.value, a.err)
						}
					}
					if n := loads.Load(); !fails && n != 1 || n > 3 {
						w.Errorf("%d loads", n)
					}
				}, client.NoNear())
			})
		}
	})
}

// isDown is a service that cannot be reached.
type isDown struct{ soracache.Backend }

func (isDown) Get(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
	return nil, soracache.ErrUnavailable
}

func (isDown) Write(context.Context, soracache.WriteRequest) ([]soracache.WriteResult, error) {
	return nil, soracache.ErrUnavailable
}
