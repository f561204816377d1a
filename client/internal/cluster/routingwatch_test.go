package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/cluster"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// A node that ends a stream with a word, because it drains or its tokens were
// read again, answers: if it should not take in requests any more, it will say so
// to those. A stream that breaks off is the end of a node that does not answer.
func TestStreamThatEndsBlamesNobody(t *testing.T) {
	good := &cachev1.WatchItem{Partitions: 1, Epoch: 7, Complete: 50, Reset_: true}
	for name, c := range map[string]struct {
		begun func() error
		opens int32
	}{
		"with a word": {func() error {
			return connect.NewError(connect.CodeUnavailable, errors.New("the tokens were read again"))
		}, 0},
		"cut off": {func() error { panic(http.ErrAbortHandler) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var opened atomic.Int32
			w := &watched{watch: func(_ context.Context, _ *cachev1.WatchRequest, s *connect.ServerStream[cachev1.WatchResponse]) error {
				if err := send(s, good); err != nil {
					return err
				}
				return c.begun()
			}}
			b := reach(t, watchable(t, w, ""), nil, func(string, bool) { opened.Add(1) })
			began := false
			err := b.Watch(t.Context(), soracache.WatchRequest{}, func([]soracache.WatchItem) error {
				began = true
				return nil
			})
			if !began || !errors.Is(err, soracache.ErrUnavailable) {
				t.Fatalf("%v, began %v", err, began)
			}
			if opened.Load() != c.opens {
				t.Errorf("the breaker opened %d times, want %d", opened.Load(), c.opens)
			}
		})
	}
}

// A node that has as many streams as it may have is no reason to do without:
// the next one may have room. It is not held against the node.
func TestWatchMovesOnFromANodeThatHasTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := tallies(3)
		full := fmt.Errorf("%w: too many streams", soracache.ErrTooLarge)
		urls := urlsOf(3)
		for _, url := range urls[:2] {
			nodes[url].fail = func(int) error { return full }
		}
		b := cluster.Routed(quiet(), cluster.ByKey, backends(nodes), func(url string, _ bool) { t.Errorf("%s is blamed", url) })
		ctx, cancel := context.WithCancel(t.Context())
		err := b.Watch(ctx, soracache.WatchRequest{}, func([]soracache.WatchItem) error {
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) || nodes[urls[2]].count() != 1 {
			t.Errorf("%v, and the node that has room was asked %d times", err, nodes[urls[2]].count())
		}
		nodes[urls[2]].fail = nodes[urls[0]].fail
		if err := b.Watch(t.Context(), soracache.WatchRequest{}, nil); !errors.Is(err, soracache.ErrTooLarge) {
			t.Errorf("none has room: %v", err)
		}
	})
}

// A stream that is open is no load.
func TestLeastLoadedDoesNotCountStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := tallies(2)
		b := cluster.Routed(quiet(), cluster.LeastLoaded, backends(nodes), nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- b.Watch(ctx, soracache.WatchRequest{}, func([]soracache.WatchItem) error { return nil })
		}()
		synctest.Wait()
		for range 100 {
			if _, err := b.Get(t.Context(), reads([]string{"k"})); err != nil {
				t.Fatal(err)
			}
		}
		for url, n := range nodes {
			if n.count() < 20 {
				t.Errorf("%s was asked %d times of 100", url, n.count())
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
