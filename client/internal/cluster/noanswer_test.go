package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// garbled answers every call with what is no message.
func garbled(t *testing.T) (url string, calls *atomic.Int64) {
	t.Helper()
	calls = new(atomic.Int64)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Content-Type", "application/proto")
		_, _ = w.Write([]byte("\xffno message"))
	}))
	t.Cleanup(srv.Close)
	return srv.URL, calls
}

// An answer that cannot be read is the node's fault, whatever was asked.
func TestAnswerThatIsNoneIsTheNodesFault(t *testing.T) {
	url, calls := garbled(t)
	node := node(t, url)
	ctx := t.Context()
	reads := func(keys ...string) soracache.GetRequest {
		req := soracache.GetRequest{Namespace: "shop"}
		for _, k := range keys {
			req.Reads = append(req.Reads, soracache.Read{Key: k})
		}
		return req
	}
	writes := func(op soracache.WriteOp, keys ...string) soracache.WriteRequest {
		req := soracache.WriteRequest{Namespace: "shop"}
		for _, k := range keys {
			req.Writes = append(req.Writes, soracache.Write{Op: op, Key: k})
		}
		return req
	}
	get := func(req soracache.GetRequest) func() error {
		return func() error { _, err := node.Get(ctx, req); return err }
	}
	write := func(req soracache.WriteRequest) func() error {
		return func() error { _, err := node.Write(ctx, req); return err }
	}
	for name, call := range map[string]func() error{
		"get":        get(reads("a")),
		"batch get":  get(reads("a", "b")),
		"fill":       write(writes(soracache.OpFill, "a")),
		"batch fill": write(writes(soracache.OpFill, "a", "b")),
		"put":        write(writes(soracache.OpPut, "a")),
		"batch put":  write(writes(soracache.OpPut, "a", "b")),
		"renew":      write(writes(soracache.OpRenew, "a")),
		"release":    write(writes(soracache.OpRelease, "a")),
		"invalidate": func() error {
			_, err := node.Invalidate(ctx, soracache.InvalidateRequest{
				Namespace: "shop", Targets: []soracache.Target{{Kind: soracache.TargetKey, Name: "a"}},
			})
			return err
		},
		"head": func() error { _, err := node.Head(ctx, "shop"); return err },
		"watch": func() error {
			return node.Watch(ctx, soracache.WatchRequest{Namespace: "shop"}, func([]soracache.WatchItem) error { return nil })
		},
	} {
		before := calls.Load()
		if err := call(); !errors.Is(err, soracache.ErrUnavailable) || errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%s: error %v, want unavailable", name, err)
		}
		if calls.Load() == before {
			t.Errorf("%s: the node was not called", name)
		}
	}
}

// A client with another node gets its answer there.
func TestAnswerThatIsNoneIsAskedForElsewhere(t *testing.T) {
	bad, calls := garbled(t)
	good := listen(t, &scripted{get: func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error) {
		return &cachev1.GetResponse{Status: cachev1.Status_STATUS_HIT, Value: []byte("elsewhere"), Encoding: "raw"}, nil
	}})
	c := dial(t, bad+","+good, client.StaticNodes(), client.Timeout(10*time.Second))
	for i := range 20 {
		v, found, err := client.Get[string](t.Context(), c, fmt.Sprint("key", i))
		if err != nil || !found || v != "elsewhere" {
			t.Fatalf("got %q, %v, %v", v, found, err)
		}
	}
	if calls.Load() == 0 {
		t.Error("the bad node was never asked")
	}
}
