package client_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
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
			d := dial(t, watchable(t, w, ""), client.WithHooks(client.Hooks{OnBreaker: func(string, bool) { opened.Add(1) }}))
			began := false
			err := client.BackendOf(d).Watch(t.Context(), soracache.WatchRequest{}, func([]soracache.WatchItem) error {
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
