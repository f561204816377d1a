package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// wires are the ways to open a stream.
func (s *service) wires(t *testing.T, options ...connect.ClientOption) map[string]rpc.CacheServiceClient {
	grpcHTTP := h2c(t)
	with := func(h *http.Client, more ...connect.ClientOption) rpc.CacheServiceClient {
		return rpc.NewCacheServiceClient(h, s.url, append(more, options...)...)
	}
	return map[string]rpc.CacheServiceClient{
		"Connect over HTTP/1.1":  with(s.client),
		"Connect with JSON":      with(s.client, connect.WithProtoJSON()),
		"Connect over HTTP/2":    with(grpcHTTP),
		"gRPC":                   with(grpcHTTP, connect.WithGRPC()),
		"gRPC-Web over HTTP/1.1": with(s.client, connect.WithGRPCWeb()),
	}
}

func TestWatchTellsInOrder(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	errDone := errors.New("the caller has gone")
	n.onWatch = func(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
		if at, _ := req.From.At(0); req.Namespace != "shop" || at.Position != 7 {
			t.Errorf("asked for %+v", req)
		}
		for i := range soracache.Position(3) {
			if err := deliver([]soracache.WatchItem{{
				Partitions: 1, Epoch: 1, Complete: 10 + i,
				Records: []soracache.Record{{Epoch: 1, Position: 10 + i, Targets: []soracache.Target{
					soracache.Key("k"), soracache.Tag("t"), soracache.Everything(), {Kind: 99, Name: "x"},
				}}},
			}}); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return errDone
	}
	s := serve(t, server.Config{}, n, server.Hooks{})
	from := soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 1, Position: 7}}}
	for name, cache := range s.wires(t) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream, err := cache.Watch(ctx, &soracachev1.WatchRequest{Namespace: "shop", Stamp: from.Encode()})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { cancel(); _ = stream.Close() }()
			for i := range uint64(3) {
				if !stream.Receive() {
					t.Fatal(stream.Err())
				}
				items := stream.Msg().Items
				if len(items) != 1 || items[0].Complete != 10+i || len(items[0].Records) != 1 {
					t.Fatalf("message %d: %v", i, items)
				}
				if r := items[0].Records[0]; r.Position != 10+i || len(r.Keys) != 1 || len(r.Tags) != 1 || !r.All {
					t.Errorf("record %v", r)
				}
			}
		})
	}
}

// codeOf tells how a stream ends that has nothing to say.
func codeOf(t *testing.T, stream *connect.ServerStreamForClient[soracachev1.WatchResponse], err error) string {
	t.Helper()
	if err == nil {
		for stream.Receive() {
			t.Errorf("a message: %v", stream.Msg())
		}
		err = stream.Err()
		_ = stream.Close()
	}
	if err == nil {
		return "ok"
	}
	return connect.CodeOf(err).String()
}

func TestWatchTakesTheScopeRead(t *testing.T) {
	t.Parallel()
	path := tokensFile(t,
		"TOKEN(r) reader read *", "TOKEN(w) writer write,invalidate,admin *", "TOKEN(blog) blogger read blog", "TOKEN(shop) shopper read shop")
	n := newFakeNode()
	n.onWatch = func(context.Context, soracache.WatchRequest, func([]soracache.WatchItem) error) error {
		return fmt.Errorf("%w: it is over", soracache.ErrTooLarge)
	}
	s := serve(t, server.Config{AuthTokens: path}, n, server.Hooks{})
	for name, cache := range s.wires(t) {
		for token, want := range map[string]string{
			"": "unauthenticated", "wrong": "unauthenticated", "w": "permission_denied", "blog": "permission_denied",
			"r": "resource_exhausted", "shop": "resource_exhausted", // the node was reached
		} {
			ctx, info := connect.NewClientContext(t.Context())
			if token != "" {
				info.RequestHeader().Set("Authorization", "Bearer "+token)
			}
			stream, err := cache.Watch(ctx, &soracachev1.WatchRequest{Namespace: "shop"})
			if got := codeOf(t, stream, err); got != want {
				t.Errorf("%s with token %q: %s, want %s", name, token, got, want)
			}
		}
	}
}
