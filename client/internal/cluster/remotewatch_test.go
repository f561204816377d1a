package cluster_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
	"github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// watched is the service's side of a watch.
type watched struct {
	scripted
	watch func(context.Context, *cachev1.WatchRequest, *connect.ServerStream[cachev1.WatchResponse]) error
	// opened counts the requests that came, whatever they were.
	opened atomic.Int64
}

func (w *watched) Watch(ctx context.Context, r *cachev1.WatchRequest, s *connect.ServerStream[cachev1.WatchResponse]) error {
	return w.watch(ctx, r, s)
}

// watchable serves a watch, to those who have the token.
func watchable(t *testing.T, w *watched, token string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(soracachev1connect.NewCacheServiceHandler(w))
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.opened.Add(1)
		if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
			_ = connect.NewErrorWriter().Write(rw, r, connect.NewError(connect.CodeUnauthenticated, errors.New("who is it")))
			return
		}
		mux.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func send(s *connect.ServerStream[cachev1.WatchResponse], items ...*cachev1.WatchItem) error {
	return s.Send(&cachev1.WatchResponse{Items: items})
}

func TestWatchOverTheWire(t *testing.T) {
	w := &watched{watch: func(ctx context.Context, r *cachev1.WatchRequest, s *connect.ServerStream[cachev1.WatchResponse]) error {
		asked(t, r, &cachev1.WatchRequest{Namespace: "shop", Stamp: stamps(40).Encode()})
		err := send(s, &cachev1.WatchItem{Partitions: 1, Epoch: 7, Complete: 50, Records: []*cachev1.WatchRecord{{Position: 50, Keys: []string{"k"}}}})
		err = errors.Join(err, send(s)) // nothing, which is fine
		err = errors.Join(err, send(s, &cachev1.WatchItem{Partitions: 1, Epoch: 8, Complete: 1, Reset_: true}))
		<-ctx.Done()
		return errors.Join(err, ctx.Err())
	}}
	b := reach(t, watchable(t, w, "secret"), func(context.Context) (string, error) { return "secret", nil }, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var got []soracache.WatchItem
	calls := 0
	err := b.Watch(ctx, soracache.WatchRequest{Namespace: "shop", From: stamps(40)}, func(items []soracache.WatchItem) error {
		got = append(got, items...)
		if calls++; calls == 2 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || calls != 2 || len(got) != 2 {
		t.Fatalf("%d calls, %+v, error %v", calls, got, err)
	}
	if first := got[0]; first.Complete != 50 || first.Epoch != 7 || first.Reset || len(first.Records) != 1 ||
		!slices.Equal(first.Records[0].Targets, []soracache.Target{soracache.Key("k")}) || first.Records[0].Position != 50 {
		t.Errorf("%+v", first)
	}
	if second := got[1]; second.Epoch != 8 || !second.Reset {
		t.Errorf("%+v", second)
	}
}

func TestWatchesEnd(t *testing.T) {
	enough := errors.New("enough")
	good := &cachev1.WatchItem{Partitions: 1, Epoch: 7, Complete: 50, Reset_: true}
	for name, c := range map[string]struct {
		watch func(*connect.ServerStream[cachev1.WatchResponse]) error
		want  error
	}{
		"the node drains": {func(*connect.ServerStream[cachev1.WatchResponse]) error {
			return connect.NewError(connect.CodeUnavailable, errors.New("draining"))
		}, soracache.ErrUnavailable},
		"the node has too many": {func(*connect.ServerStream[cachev1.WatchResponse]) error {
			return connect.NewError(connect.CodeResourceExhausted, errors.New("10000 streams"))
		}, soracache.ErrTooLarge},
		"the token does not do": {func(*connect.ServerStream[cachev1.WatchResponse]) error {
			return connect.NewError(connect.CodePermissionDenied, errors.New("no scope read"))
		}, soracache.ErrPermissionDenied},
		"a node that knows no watches": {func(*connect.ServerStream[cachev1.WatchResponse]) error {
			return connect.NewError(connect.CodeUnimplemented, errors.New("watch"))
		}, soracache.ErrUnimplemented},
		"without an error": {func(s *connect.ServerStream[cachev1.WatchResponse]) error { return send(s, good) }, soracache.ErrUnavailable},
		"a malformed step": {func(s *connect.ServerStream[cachev1.WatchResponse]) error {
			return send(s, &cachev1.WatchItem{Partitions: 1, Complete: 50, Reset_: true})
		}, soracache.ErrUnavailable},
		"the connection breaks": {func(s *connect.ServerStream[cachev1.WatchResponse]) error {
			_ = send(s, good)
			panic(http.ErrAbortHandler)
		}, soracache.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			w := &watched{watch: func(_ context.Context, _ *cachev1.WatchRequest, s *connect.ServerStream[cachev1.WatchResponse]) error {
				return c.watch(s)
			}}
			err := node(t, watchable(t, w, "")).Watch(t.Context(), soracache.WatchRequest{}, func([]soracache.WatchItem) error { return nil })
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	t.Run("the watcher has enough", func(t *testing.T) {
		w := &watched{watch: func(ctx context.Context, _ *cachev1.WatchRequest, s *connect.ServerStream[cachev1.WatchResponse]) error {
			for ctx.Err() == nil {
				if err := send(s, good); err != nil {
					return err
				}
			}
			return ctx.Err()
		}}
		err := node(t, watchable(t, w, "")).Watch(t.Context(), soracache.WatchRequest{}, func([]soracache.WatchItem) error { return enough })
		if !errors.Is(err, enough) {
			t.Errorf("%v", err)
		}
	})
	t.Run("there is no token", func(t *testing.T) {
		w := &watched{}
		none := errors.New("the vault is closed")
		b := reach(t, watchable(t, w, "secret"), func(context.Context) (string, error) { return "", none }, nil)
		err := b.Watch(t.Context(), soracache.WatchRequest{}, func([]soracache.WatchItem) error { return nil })
		if !errors.Is(err, soracache.ErrUnauthenticated) || w.opened.Load() != 0 {
			t.Errorf("%v after %d requests", err, w.opened.Load())
		}
	})
}

func TestAgesOverTheWire(t *testing.T) {
	s := &scripted{
		get: func(_ context.Context, r *cachev1.GetRequest) (*cachev1.GetResponse, error) {
			a := &cachev1.GetResponse{Status: cachev1.Status_STATUS_MISS, Stamp: stamps(1).Encode()}
			if r.Key == "old" {
				a.Age = durationpb.New(70e6)
			}
			return a, nil
		},
	}
	b := node(t, listen(t, s))
	for key, want := range map[string]int64{"old": 70e6, "new": 0} {
		got, err := b.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: key}}})
		if err != nil || got[0].Age.Nanoseconds() != want {
			t.Errorf("%s: %+v, error %v", key, got, err)
		}
	}
}
