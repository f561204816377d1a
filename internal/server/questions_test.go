package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// TestFewQuestionsAtOnce, in virtual time: of listings, explanations and totals as
// many are answered at once as half of the processors, in the order in which they
// came. Reads go on beside them, also with one place for all requests. Who waits for
// longer than a second is told to come again.
func TestFewQuestionsAtOnce(t *testing.T) {
	t.Parallel()
	const asked = 30
	places := max(runtime.GOMAXPROCS(0)/2, 1)
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode()
		var running, most atomic.Int64
		release := make(chan struct{})
		question := func() {
			if now := running.Add(1); now > most.Load() {
				most.Store(now)
			}
			<-release
			running.Add(-1)
		}
		n.onListKeys = func(int) ([]string, string, error) { question(); return []string{"k"}, "", nil }
		n.onExplain = func(context.Context, string, string) (node.Explanation, error) {
			question()
			return node.Explanation{}, nil
		}
		hooks := server.Hooks{Totals: func() map[string]float64 { question(); return nil }}
		s := newServer(t, server.Config{MaxConcurrent: places + 1}, n, hooks)
		listener := newPipes()
		ctx, stop := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, listener) }()
		client := listener.client()
		on := &service{client: client, url: "http://x"}
		done := make(chan error, asked)
		ask := func(i int) {
			var err error
			switch i % 3 {
			case 0:
				_, err = on.cache().ListKeys(t.Context(), &soracachev1.ListKeysRequest{Tag: "t"})
			case 1:
				_, err = on.cache().Explain(t.Context(), &soracachev1.ExplainRequest{Key: "k"})
			default:
				_, err = rpc.NewClusterServiceClient(client, on.url).Stats(t.Context(), &soracachev1.StatsRequest{})
			}
			done <- err
		}
		for i := range asked {
			go ask(i)
		}
		synctest.Wait()
		if now := running.Load(); now != int64(places) {
			t.Errorf("%d are answered at once, want %d", now, places)
		}
		began := time.Now()
		for range 10 {
			if _, err := on.cache().Get(t.Context(), &soracachev1.GetRequest{Key: "k"}); err != nil {
				t.Errorf("a read beside them: %v", err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("reads beside them took %v", took)
		}
		for range asked - places {
			err := <-done
			wantCode(t, err, connect.CodeResourceExhausted)
			var wire *connect.Error
			if !errors.As(err, &wire) || wire.Meta().Get("Retry-After") == "" {
				t.Errorf("no Retry-After: %v", err)
			}
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("the others were told so after %v", took)
		}
		close(release)
		for range places {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		for i := range 3 * places {
			go ask(i)
			if err := <-done; err != nil {
				t.Errorf("afterwards: %v", err)
			}
		}
		if now := most.Load(); now > int64(places) || s.Stats().QuestionsRefused != uint64(asked-places) {
			t.Errorf("%d were answered at once, want %d; stats %+v", now, places, s.Stats())
		}
		client.CloseIdleConnections()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// TestQuestionsGiveTheirPlacesBack, in virtual time: however a question ends, and also
// if nobody takes its answer.
func TestQuestionsGiveTheirPlacesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode()
		n.onExplain = func(ctx context.Context, _, key string) (node.Explanation, error) {
			switch key {
			case "panic":
				panic("as it was told")
			case "slow":
				<-ctx.Done()
				return node.Explanation{}, ctx.Err()
			}
			return node.Explanation{Reason: strings.Repeat("x", 100<<10)}, nil
		}
		listener := newPipes()
		s := newServer(t, server.Config{RequestTimeout: time.Second, MaxConcurrent: 1}, n, server.Hooks{})
		ctx, stop := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, listener) }()
		client := listener.client()
		on := &service{client: client, url: "http://x"}
		for range max(runtime.GOMAXPROCS(0)/2, 1) {
			for key, want := range map[string]connect.Code{
				"panic": connect.CodeInternal, "slow": connect.CodeDeadlineExceeded, "": connect.CodeInvalidArgument,
			} {
				_, err := on.cache().Explain(t.Context(), &soracachev1.ExplainRequest{Key: key})
				wantCode(t, err, want)
			}
			conn, err := listener.Dial()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			const body = `{"key":"large"}`
			_, err = fmt.Fprintf(conn, "POST /soracache.v1.CacheService/Explain HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // the answer has begun
				t.Fatal(err)
			}
		}
		if got := on.post(t, "Explain", `{"key":"k"}`); got.status != http.StatusOK || s.Stats().QuestionsRefused != 0 {
			t.Errorf("%d %.200s; stats %+v", got.status, got.body, s.Stats())
		}
		client.CloseIdleConnections()
		stop()
		<-served
	})
}
