package server_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
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

// virtualWires are the ways to open a stream to a listener of pipes, in virtual
// time.
func virtualWires(t *testing.T, listener *pipes) map[string]rpc.CacheServiceClient {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	one := listener.client()
	two := &http.Client{Transport: &http.Transport{
		Protocols:   protocols,
		HTTP2:       &http.HTTP2Config{MaxReceiveBufferPerStream: 256 << 10}, // what a reader who does not read takes
		DialContext: func(context.Context, string, string) (net.Conn, error) { return listener.Dial() },
	}}
	t.Cleanup(one.CloseIdleConnections)
	t.Cleanup(two.CloseIdleConnections)
	return map[string]rpc.CacheServiceClient{
		"Connect over HTTP/1.1":  rpc.NewCacheServiceClient(one, "http://x"),
		"Connect over HTTP/2":    rpc.NewCacheServiceClient(two, "http://x"),
		"gRPC":                   rpc.NewCacheServiceClient(two, "http://x", connect.WithGRPC()),
		"gRPC-Web over HTTP/1.1": rpc.NewCacheServiceClient(one, "http://x", connect.WithGRPCWeb()),
	}
}

// virtually runs a test on a server in virtual time, for each way to open a
// stream. The server drains at the end.
func virtually(t *testing.T, cfg server.Config, hooks server.Hooks, prepare func(n *fakeNode), test func(t *testing.T, cache rpc.CacheServiceClient, stop func())) {
	t.Helper()
	for _, name := range []string{"Connect over HTTP/1.1", "Connect over HTTP/2", "gRPC", "gRPC-Web over HTTP/1.1"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newFakeNode()
				prepare(n)
				s := newServer(t, cfg, n, hooks)
				listener := newPipes()
				ctx, stop := context.WithCancel(context.Background())
				served := make(chan error, 1)
				go func() { served <- s.Serve(ctx, listener) }()
				test(t, virtualWires(t, listener)[name], stop)
				stop()
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func open(ctx context.Context, t *testing.T, cache rpc.CacheServiceClient) *connect.ServerStreamForClient[soracachev1.WatchResponse] {
	t.Helper()
	stream, err := cache.Watch(ctx, &soracachev1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	return stream
}

// TestStreamOutlivesTheTimeoutsOfRequests, in virtual time.
func TestStreamOutlivesTheTimeoutsOfRequests(t *testing.T) {
	t.Parallel()
	cfg := server.Config{ReadTimeout: time.Second, RequestTimeout: time.Second, MaxWait: time.Second, IdleTimeout: 10 * time.Second}
	more := make(chan struct{})
	virtually(t, cfg, server.Hooks{}, func(n *fakeNode) {
		n.onWatch = func(ctx context.Context, _ soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
			more = make(chan struct{})
			for i := range soracache.Position(3) {
				if err := deliver([]soracache.WatchItem{{Partitions: 1, Epoch: 1, Complete: i + 1, Reset: true}}); err != nil {
					return err
				}
				select {
				case <-more:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return fmt.Errorf("%w: that was all", soracache.ErrUnavailable)
		}
	}, func(t *testing.T, cache rpc.CacheServiceClient, _ func()) {
		stream := open(t.Context(), t, cache)
		for i := range uint64(2) {
			time.Sleep(time.Hour)
			more <- struct{}{}
			if !stream.Receive() || stream.Msg().Items[0].Complete != i+2 {
				t.Fatalf("after hours: %v, error %v", stream.Msg(), stream.Err())
			}
		}
		more <- struct{}{}
		if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnavailable {
			t.Errorf("the end: %v", stream.Err())
		}
	})
}

// flood delivers without end, and notes when it was stopped, how much it had
// delivered, and with what error.
type flood struct {
	began, ended time.Time
	messages     int
	err          error
	over         chan struct{}
}

func (f *flood) watch(_ context.Context, _ soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	defer close(f.over)
	f.began = time.Now()
	var key strings.Builder
	for key.Len() < 64<<10 {
		key.WriteString(rand.Text()) // which cannot be compressed much
	}
	record := soracache.Record{Epoch: 1, Position: 1, Targets: []soracache.Target{soracache.Key(key.String())}}
	for f.err == nil {
		f.err = deliver([]soracache.WatchItem{{Partitions: 1, Epoch: 1, Complete: 1, Records: []soracache.Record{record}}})
		f.ended = time.Now()
		f.messages++
	}
	return f.err
}

// TestStalledReader, in virtual time: who does not read is cut off after a
// while, and costs no more than what the connection holds until then.
func TestStalledReader(t *testing.T) {
	t.Parallel()
	var f *flood
	virtually(t, server.Config{}, server.Hooks{}, func(n *fakeNode) {
		f = &flood{over: make(chan struct{})}
		n.onWatch = f.watch
	}, func(t *testing.T, cache rpc.CacheServiceClient, _ func()) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream := open(ctx, t, cache)
		<-f.over
		if took := f.ended.Sub(f.began); took < 10*time.Second || took > 11*time.Second || f.err == nil || f.messages > 200 {
			t.Errorf("cut off after %v and %d messages: %v", took, f.messages, f.err)
		}
		cancel()
		_ = stream.Close()
	})
}

// TestDrainEndsStreams, in virtual time: neither those that do nothing nor those
// whose reader does not read are waited for.
func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	var f *flood
	flooded := false
	virtually(t, server.Config{DrainTimeout: time.Minute}, server.Hooks{}, func(n *fakeNode) {
		f, flooded = &flood{over: make(chan struct{})}, false
		n.onWatch = func(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
			if req.Namespace == "flood" {
				return f.watch(ctx, req, deliver)
			}
			if err := deliver([]soracache.WatchItem{{Partitions: 1, Epoch: 1, Complete: 1, Reset: true}}); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
	}, func(t *testing.T, cache rpc.CacheServiceClient, stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stalled, err := cache.Watch(ctx, &soracachev1.WatchRequest{Namespace: "flood"})
		flooded = err == nil && stalled.Receive()
		if !flooded {
			t.Fatal(err)
		}
		var streams []*connect.ServerStreamForClient[soracachev1.WatchResponse]
		for range 100 {
			streams = append(streams, open(ctx, t, cache))
		}
		began := time.Now()
		stop()
		for _, stream := range streams {
			if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnavailable {
				t.Fatalf("the end: %v", stream.Err())
			}
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("streams ended after %v", took)
		}
		<-f.over
		if took := time.Since(began); took > time.Second {
			t.Errorf("the stream that is not read ended after %v", took)
		}
		if _, err := cache.Head(ctx, &soracachev1.HeadRequest{}); err == nil {
			t.Error("served after the drain began")
		}
		cancel()
		_ = stalled.Close()
	})
}

// TestWatcherThatGoes, in virtual time: the node hears of it though it has
// nothing to tell.
func TestWatcherThatGoes(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	virtually(t, server.Config{}, server.Hooks{}, func(n *fakeNode) {
		ended = make(chan error, 1)
		n.onWatch = func(ctx context.Context, _ soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
			if err := deliver([]soracache.WatchItem{{Partitions: 1, Epoch: 1, Complete: 1, Reset: true}}); err != nil {
				return err
			}
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}
	}, func(t *testing.T, cache rpc.CacheServiceClient, _ func()) {
		ctx, cancel := context.WithCancel(t.Context())
		stream := open(ctx, t, cache)
		time.Sleep(time.Hour)
		began := time.Now()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || time.Since(began) > time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		_ = stream.Close()
	})
}

func TestLimitOfWatches(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{MaxWatches: 2, MaxConcurrent: 1}, newFakeNode(), server.Hooks{})
	cache := s.cache()
	var cancels []context.CancelFunc
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		cancels = append(cancels, cancel)
		defer func(s *connect.ServerStreamForClient[soracachev1.WatchResponse]) { _ = s.Close() }(open(ctx, t, cache))
	}
	for name, cache := range s.wires(t) {
		stream, err := cache.Watch(t.Context(), &soracachev1.WatchRequest{})
		if got := codeOf(t, stream, err); got != "resource_exhausted" {
			t.Errorf("%s: the third watch: %s", name, got)
		}
	}
	if _, err := cache.Head(t.Context(), &soracachev1.HeadRequest{}); err != nil {
		t.Errorf("watches take the place of requests: %v", err)
	}
	cancels[0]()
	for { // until the server has noticed
		stream, err := cache.Watch(t.Context(), &soracachev1.WatchRequest{})
		if err == nil && stream.Receive() {
			break
		}
		if err := stream.Err(); connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Fatal(err)
		}
		_ = stream.Close()
	}
	for _, cancel := range cancels {
		cancel()
	}
}

func TestBadWatches(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	s := serve(t, server.Config{}, n, server.Hooks{})
	stamp := soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 1, Position: 7}}}.Encode()
	damaged := append([]byte{}, stamp...)
	damaged[3]++
	for name, cache := range s.wires(t) {
		for what, request := range map[string]*soracachev1.WatchRequest{
			"malformed namespace":     {Namespace: "no spaces"},
			"namespace that is long":  {Namespace: strings.Repeat("n", 1000)},
			"garbage for a stamp":     {Stamp: []byte("garbage")},
			"stamp that was cut off":  {Stamp: stamp[:len(stamp)-1]},
			"stamp that is damaged":   {Stamp: damaged},
			"stamp with a tail":       {Stamp: append(append([]byte{}, stamp...), 0)},
			"stamp of one bare byte":  {Stamp: []byte{1}},
			"stamp of 32 KiB":         {Stamp: make([]byte, 32<<10)},
			"stamp without a version": {Stamp: stamp[1:]},
		} {
			stream, err := cache.Watch(t.Context(), request)
			if got := codeOf(t, stream, err); got != "invalid_argument" {
				t.Errorf("%s, %s: %s", name, what, got)
			}
		}
		// No stamp is that long, so that it is not even read.
		stream, err := cache.Watch(t.Context(), &soracachev1.WatchRequest{Stamp: make([]byte, 1<<20)})
		if got := codeOf(t, stream, err); got != "resource_exhausted" {
			t.Errorf("%s, stamp of a mebibyte: %s", name, got)
		}
	}
	if len(n.watches) != 0 {
		t.Errorf("the node was asked for %+v", n.watches)
	}
}

// TestStreamsAreObserved: once, when they have begun or could not, with how they
// failed; the log has their end.
func TestStreamsAreObserved(t *testing.T) {
	t.Parallel()
	type ended struct{ procedure, code string }
	seen := make(chan ended, 100)
	var inFlight atomic.Int64
	n := newFakeNode()
	n.onWatch = func(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
		switch req.Namespace {
		case "panics":
			panic("the roof is on fire")
		case "fails":
			return errors.New("disk sector 7")
		case "none":
			return fmt.Errorf("%w: no store", soracache.ErrUnavailable)
		}
		if err := deliver([]soracache.WatchItem{{Partitions: 1, Epoch: 1, Complete: 1, Reset: true}}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	var out logs
	s := serve(t, server.Config{MaxWatches: 1}, n, server.Hooks{
		Log:   slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Began: func() { inFlight.Add(1) },
		Ended: func(procedure, _, code string, _ time.Duration) {
			inFlight.Add(-1)
			seen <- ended{procedure, code}
		},
	})
	for name, cache := range s.wires(t) {
		for namespace, want := range map[string]string{"panics": "internal", "fails": "internal", "none": "unavailable", "no spaces": "invalid_argument"} {
			stream, err := cache.Watch(t.Context(), &soracachev1.WatchRequest{Namespace: namespace})
			if got := codeOf(t, stream, err); got != want {
				t.Errorf("%s: %s: %s, want %s", name, namespace, got, want)
			}
			if got := <-seen; got.code != want || got.procedure != rpc.CacheServiceWatchProcedure {
				t.Errorf("%s: %s observed as %v, want %s", name, namespace, got, want)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := open(ctx, t, s.cache())
	if got := <-seen; got.code != "ok" || inFlight.Load() != 0 {
		t.Errorf("observed as %v, %d in flight", got, inFlight.Load())
	}
	refused, err := s.cache().Watch(t.Context(), &soracachev1.WatchRequest{})
	if got := codeOf(t, refused, err); got != "resource_exhausted" {
		t.Error(got)
	}
	if got := <-seen; got.code != "resource_exhausted" {
		t.Errorf("observed as %v", got)
	}
	cancel()
	_ = stream.Close()
	if log := out.String(); !strings.Contains(log, "the roof is on fire") || !strings.Contains(log, "disk sector 7") ||
		!strings.Contains(log, "code=resource_exhausted") || !strings.Contains(log, "code=internal") {
		t.Errorf("the log:\n%s", log)
	}
	select {
	case again := <-seen:
		t.Errorf("observed again as %v", again)
	default:
	}
}

// TestStreamsEndWhenTokensChange: a token that was revoked hears of nothing more.
func TestStreamsEndWhenTokensChange(t *testing.T) {
	t.Parallel()
	path := tokensFile(t, "TOKEN(r) reader read *", "TOKEN(s) second read *")
	s := serve(t, server.Config{AuthTokens: path}, newFakeNode(), server.Hooks{})
	with := func(token string) (*connect.ServerStreamForClient[soracachev1.WatchResponse], error) {
		ctx, info := connect.NewClientContext(t.Context())
		info.RequestHeader().Set("Authorization", "Bearer "+token)
		return s.cache().Watch(ctx, &soracachev1.WatchRequest{})
	}
	stream, err := with("r")
	if err != nil || !stream.Receive() {
		t.Fatal(err)
	}
	writeTokens(t, path, "TOKEN(s) second read *")
	if err := s.server.Reload(); err != nil {
		t.Fatal(err)
	}
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnavailable {
		t.Errorf("the stream goes on: %v", stream.Err())
	}
	_ = stream.Close()
	stream, err = with("r")
	if got := codeOf(t, stream, err); got != "unauthenticated" {
		t.Errorf("the token that was revoked: %s", got)
	}
	stream, err = with("s")
	if err != nil || !stream.Receive() {
		t.Errorf("the token that was not: %v", err)
	}
	_ = stream.Close()
}

// Watches that have nothing to say take little of the memory for requests, and
// those whose request has not arrived take no place.
func TestIdleWatchesTakeLittle(t *testing.T) {
	t.Parallel()
	b := budget.New(16 << 20)
	s := serve(t, server.Config{Budget: b, MaxWatches: 100}, newFakeNode(), server.Hooks{})
	for range 100 { // the request is not all there
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /soracache.v1.CacheService/Watch HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\nContent-Length: 100\r\n\r\n{")
	}
	for n := 0; b.Stats().Used < 100*8<<10 && n < 400; n++ {
		time.Sleep(5 * time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cache := rpc.NewCacheServiceClient(h2c(t), s.url)
	for range 100 {
		open(ctx, t, cache)
	}
	stats := s.server.Stats()
	if stats.Watches != 100 || stats.Budget.Used > 200*10<<10 {
		t.Errorf("%d watches, %d KiB each of those and of 100 that do not begin", stats.Watches, stats.Budget.Used/200>>10)
	}
	if _, err := s.cache().Set(t.Context(), &soracachev1.SetRequest{Key: "k", Value: make([]byte, 500<<10), Ttl: seconds(1)}); err != nil {
		t.Errorf("beside them: %v", err)
	}
}

// What a watcher who does not read was sent is in the budget, and goes when others
// need the room.
func TestUnreadWatchesAreInTheBudget(t *testing.T) {
	t.Parallel()
	b := budget.New(16 << 20)
	n := newFakeNode()
	key := strings.Repeat("k", 200<<10)
	n.onWatch = func(_ context.Context, _ soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
		record := soracache.Record{Epoch: 1, Position: 1, Targets: []soracache.Target{soracache.Key(key)}}
		for {
			if err := deliver([]soracache.WatchItem{{Partitions: 1, Epoch: 1, Complete: 1, Records: []soracache.Record{record}}}); err != nil {
				return err
			}
		}
	}
	s := serve(t, server.Config{Budget: b}, n, server.Hooks{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 20 {
		// Compressed, thousands of messages would fit into what a client has asked for.
		cache := rpc.NewCacheServiceClient(h2c(t), s.url, connect.WithAcceptCompression("gzip", nil, nil))
		if stream, err := cache.Watch(ctx, &soracachev1.WatchRequest{}); err == nil {
			defer func() { cancel(); _ = stream.Close() }()
		}
	}
	for n := 0; b.Stats().Used < 10<<20 && n < 400; n++ {
		time.Sleep(5 * time.Millisecond)
	}
	if used := b.Stats().Highest; used < 10<<20 || used > 16<<20 {
		t.Errorf("they took %d KiB of the budget", used>>10)
	}
	for began := time.Now(); time.Since(began) < 6*time.Second; { // who is not cut off has 10 s
		if _, err := s.cache().Set(t.Context(), &soracachev1.SetRequest{Key: "k", Value: make([]byte, 500<<10), Ttl: seconds(1)}); err == nil {
			return
		}
	}
	t.Error("another client finds no room")
}
