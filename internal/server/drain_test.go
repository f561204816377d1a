package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// diary records what happens when, in virtual time since its start.
type diary struct {
	start time.Time
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf("%s %s", time.Since(d.start), what))
}

// TestDrainInOrder, in virtual time: readiness goes first, nothing in flight is
// lost, a parked reader gets a miss, and the leases go last.
func TestDrainInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &diary{start: time.Now()}
		n := newFakeNode()
		drained := make(chan struct{})
		n.onGet = func(_ context.Context, r soracache.GetRequest) ([]soracache.ReadResult, error) {
			if r.Reads[0].Wait > 0 { // parked behind somebody's lease
				<-drained
			}
			return []soracache.ReadResult{{Status: soracache.StatusMiss}}, nil
		}
		n.onWrite = func(context.Context, soracache.WriteRequest) ([]soracache.WriteResult, error) {
			time.Sleep(5100 * time.Millisecond)
			return []soracache.WriteResult{{Stored: true}}, nil
		}
		n.onDrain = func(context.Context) error {
			d.note("node drains")
			close(drained)
			return nil
		}
		s := newServer(t, server.Config{DrainDelay: 5 * time.Second, DrainTimeout: 20 * time.Second}, n, server.Hooks{})
		listener := newPipes()
		ctx, stop := context.WithCancel(t.Context())
		var served error
		var all sync.WaitGroup
		all.Go(func() {
			served = s.Serve(ctx, listener)
			d.note("serve returned")
		})
		client := listener.client()
		cache := (&service{client: client, url: "http://x"}).cache()
		all.Go(func() {
			got, err := cache.Get(t.Context(), &soracachev1.GetRequest{Key: "k", Wait: seconds(60)})
			if err != nil || got.Status != soracachev1.Status_STATUS_MISS {
				t.Errorf("parked get: %v, error %v, want a miss", got, err)
			}
			d.note("parked get answered")
		})
		all.Go(func() {
			got, err := cache.Fill(t.Context(), &soracachev1.FillRequest{Key: "k", Lease: make16(1), Ttl: seconds(1)})
			if err != nil || !got.Stored {
				t.Errorf("fill: %v, error %v", got, err)
			}
			d.note("fill answered")
		})
		synctest.Wait()

		stop()
		synctest.Wait()
		time.Sleep(time.Second) // within the delay: not ready, but serving
		if got := ask(t, s, http.MethodGet, "/readyz", ""); got.status != 503 || !strings.Contains(got.body, "draining") {
			t.Errorf("readyz: %d %s", got.status, got.body)
		}
		if got := ask(t, s, http.MethodPost, "/grpc.health.v1.Health/Check", "{}"); !strings.Contains(got.body, "NOT_SERVING") {
			t.Errorf("health: %s", got.body)
		}
		if got := ask(t, s, http.MethodGet, "/healthz", ""); got.status != 200 {
			t.Errorf("healthz: %d", got.status)
		}
		if _, err := cache.Get(t.Context(), &soracachev1.GetRequest{Key: "k"}); err != nil {
			t.Errorf("get within the delay: %v", err)
		}

		time.Sleep(4050 * time.Millisecond) // after the delay: the gate is shut
		if got := ask(t, s, http.MethodPost, "/soracache.v1.CacheService/Get", get()); got.code() != "unavailable" ||
			got.header.Get("Connection") != "close" || got.header.Get("Soracache-Refused") == "" {
			t.Errorf("get after the delay: %s %v", got.body, got.header)
		}
		if got := ask(t, s, http.MethodPost, "/grpc.health.v1.Health/Check", "{}"); !strings.Contains(got.body, "NOT_SERVING") {
			t.Errorf("health: %s", got.body)
		}
		if _, err := listener.Dial(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial after the delay: %v", err)
		}
		all.Wait()
		client.CloseIdleConnections()
		if served != nil {
			t.Errorf("serve: %v", served)
		}
		var order []string
		for _, line := range d.lines {
			order = append(order, line[strings.IndexByte(line, ' ')+1:])
		}
		want := []string{"fill answered", "node drains", "parked get answered", "serve returned"}
		if !slices.Equal(order, want) {
			t.Errorf("happened %v, want %v", d.lines, want)
		}
		if n.drains != 1 {
			t.Errorf("the node was drained %d times", n.drains)
		}
		t.Logf("%v", d.lines)
	})
}

// ask answers a request of JSON without a network.
func ask(t *testing.T, s *server.Server, method, path, body string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return handle(s, r)
}

// TestDrainRunsOutOfTime, in virtual time: what does not end is cut off.
func TestDrainRunsOutOfTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode()
		n.onGet = func(ctx context.Context, _ soracache.GetRequest) ([]soracache.ReadResult, error) {
			<-ctx.Done() // deaf to Drain
			return nil, ctx.Err()
		}
		n.onDrain = func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		s := newServer(t, server.Config{DrainTimeout: 3 * time.Second, RequestTimeout: time.Hour}, n, server.Hooks{})
		listener := newPipes()
		ctx, stop := context.WithCancel(t.Context())
		client := listener.client()
		got := make(chan error, 1)
		go func() {
			_, err := (&service{client: client, url: "http://x"}).cache().Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
			got <- err
		}()
		began := time.Now()
		time.AfterFunc(time.Second, stop)
		err := s.Serve(ctx, listener)
		if took := time.Since(began); took < 4*time.Second || took > 4100*time.Millisecond {
			t.Errorf("returned after %s, want 4s", took)
		}
		if err == nil || !strings.Contains(err.Error(), "1 requests were cut off") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want how many were cut off, and the node's", err)
		}
		if err := <-got; err == nil {
			t.Error("the request that was cut off was answered")
		}
		client.CloseIdleConnections()
	})
}

// A listener that breaks ends the service as gracefully as can be.
func TestListenerBreaks(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	s := newServer(t, server.Config{DrainDelay: time.Hour}, n, server.Hooks{})
	listener := &brokenListener{newPipes()}
	err := s.Serve(t.Context(), listener)
	if !errors.Is(err, io.ErrUnexpectedEOF) || n.drains != 1 {
		t.Errorf("error %v, %d drains", err, n.drains)
	}
}

type brokenListener struct{ *pipes }

func (*brokenListener) Accept() (net.Conn, error) { return nil, io.ErrUnexpectedEOF }

// TestDrainOfHTTP2 on real sockets: with streams open, and an idle connection.
func TestDrainOfHTTP2(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	parked, drained := make(chan struct{}), make(chan struct{})
	n.onGet = func(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
		parked <- struct{}{}
		<-drained
		return []soracache.ReadResult{{Status: soracache.StatusMiss}}, nil
	}
	n.onDrain = func(context.Context) error {
		close(drained)
		return nil
	}
	s := newServer(t, server.Config{Listen: "127.0.0.1:0"}, n, server.Hooks{})
	listener, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	busy := (&service{client: h2c(t), url: "http://" + listener.Addr().String()}).cache(connect.WithGRPC())
	idle := (&service{client: h2c(t), url: "http://" + listener.Addr().String()}).cache(connect.WithGRPC())
	if _, err := idle.Head(t.Context(), &soracachev1.HeadRequest{}); err != nil {
		t.Fatal(err)
	}
	const streams = 300
	results := make(chan error, streams)
	for range streams {
		go func() {
			got, err := busy.Get(t.Context(), &soracachev1.GetRequest{Key: "k", Wait: seconds(60)})
			if err == nil && got.Status != soracachev1.Status_STATUS_MISS {
				err = fmt.Errorf("status %v", got.Status)
			}
			results <- err
		}()
	}
	for range streams {
		<-parked
	}
	stop()
	for range streams {
		if err := <-results; err != nil {
			t.Errorf("parked: %v", err)
		}
	}
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := idle.Head(t.Context(), &soracachev1.HeadRequest{}); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("after the end: %v, want unavailable", err)
	}
}

// TestReadiness: the outside learns that the store is away, and the log why,
// once for each change.
func TestReadiness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode()
		var down error
		n.onReady = func(context.Context) error { return down }
		var out logs
		s := newServer(t, server.Config{}, n, server.Hooks{Log: textLog(&out)})
		if got := ask(t, s, http.MethodGet, "/readyz", ""); got.status != 200 || got.body != "ready\n" {
			t.Errorf("ready: %d %s", got.status, got.body)
		}
		down = fmt.Errorf("%w: dial tcp 10.1.2.3:6379", soracache.ErrUnavailable)
		for range 3 {
			time.Sleep(500 * time.Millisecond) // what was said is told for as long
			got := ask(t, s, http.MethodGet, "/readyz", "")
			if got.status != 503 || got.body != "not ready: the store cannot be reached\n" {
				t.Errorf("down: %d %s", got.status, got.body)
			}
		}
		down, n.full = nil, true
		time.Sleep(500 * time.Millisecond)
		if got := ask(t, s, http.MethodGet, "/readyz", ""); got.status != 200 || !strings.Contains(got.body, "ready, but the store is full") {
			t.Errorf("ready again, and full: %d %s", got.status, got.body)
		}
		if log := out.String(); strings.Count(log, "not ready") != 1 || strings.Count(log, "ready again") != 1 || !strings.Contains(log, "10.1.2.3") {
			t.Errorf("the log says:\n%s", log)
		}
	})
}

// TestOneQuestionForAll: however many ask whether the node is ready, the node asks
// its store once, and not again for half a second. Who asked first and went away
// takes the answer from nobody, and one that drains says so at once.
func TestOneQuestionForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode()
		var asked atomic.Int64
		n.onReady = func(ctx context.Context) error {
			asked.Add(1)
			select {
			case <-time.After(100 * time.Millisecond): // the store's round trip
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s := newServer(t, server.Config{}, n, server.Hooks{})
		get := func(ctx context.Context) int {
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/readyz", nil))
			return w.Code
		}
		gone, leave := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer leave()
		var callers sync.WaitGroup
		callers.Go(func() {
			if code := get(gone); code != 503 {
				t.Errorf("who went away: %d", code)
			}
		})
		for range 200 {
			callers.Go(func() {
				if code := get(t.Context()); code != 200 {
					t.Errorf("%d", code)
				}
			})
		}
		callers.Wait()
		for time.Sleep(299 * time.Millisecond); get(t.Context()) != 200; {
			t.Error("not ready")
		}
		if got := asked.Load(); got != 1 {
			t.Errorf("the node was asked %d times", got)
		}
		time.Sleep(101 * time.Millisecond)
		if code := get(t.Context()); code != 200 || asked.Load() != 2 {
			t.Errorf("later: %d, asked %d times", code, asked.Load())
		}
	})
}

// A node that does not answer is not ready, and does not hold the question up.
func TestReadinessTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode()
		n.onReady = func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		s := newServer(t, server.Config{}, n, server.Hooks{})
		began := time.Now()
		if got := ask(t, s, http.MethodGet, "/readyz", ""); got.status != 503 || time.Since(began) != 2*time.Second {
			t.Errorf("%d after %s", got.status, time.Since(began))
		}
	})
}
