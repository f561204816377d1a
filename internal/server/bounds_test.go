package server_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/internal/room"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// A misspelt field of what is to be written or invalidated is refused: it would
// be a success that does nothing. The same field of a read is ignored.
func TestMisspeltFieldsOfWrites(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	s := serve(t, server.Config{}, n, server.Hooks{})
	for procedure, body := range map[string]string{
		"Invalidate": inval("tag", []string{"t"}), "Set": set("tag", []string{"t"}), "Fill": fill("leese", "x"),
		"BatchSet": `{"sets":[` + set("tag", "t") + `]}`, "BatchFill": `{"fills":[` + fill("vallue", "x") + `]}`,
		"Renew":   `{"key":"k","lease":"` + goodLease + `","leasefor":"3s"}`,
		"Release": `{"key":"k","lease":"` + goodLease + `","name_space":"x"}`,
	} {
		if got := s.post(t, procedure, body); got.code() != "invalid_argument" || !strings.Contains(got.message(), "unknown field") {
			t.Errorf("%s %s: %s", procedure, body, got.body)
		}
	}
	// An escape in a name hides nothing.
	for _, body := range []string{`{"key":"k","ttl":"1s","k\u0069nd":"KIND_NOTFOUND"}`, `{"key":"k","ttl":"1s","\u0074ag":["t"]}`} {
		if got := s.post(t, "Set", body); got.code() != "invalid_argument" {
			t.Errorf("%s: %s", body, got.body)
		}
	}
	if n.touched() != 0 {
		t.Error("the node was asked")
	}
	if got := s.post(t, "Get", get("of_a_later_version", 1)); got.status != 200 {
		t.Errorf("a read: %s", got.body)
	}
}

// Who is over the memory for requests in flight is told when to ask again; who
// can never have what it asks for is told that.
func TestOverTheBudget(t *testing.T) {
	t.Parallel()
	b := budget.New(16 << 20)
	s := serve(t, server.Config{Budget: b}, newFakeNode(), server.Hooks{})
	value := bytes.Repeat([]byte("v"), 400<<10)
	put := func(value []byte) error {
		_, err := s.cache().Set(t.Context(), &soracachev1.SetRequest{Key: "k", Value: value, Ttl: seconds(1)})
		return err
	}
	if err := put(value); err != nil {
		t.Fatal(err)
	}
	never := put(bytes.Repeat(value, 6))
	wantCode(t, never, connect.CodeResourceExhausted)
	if !strings.Contains(never.Error(), "an eighth of --max-inflight-bytes") {
		t.Errorf("more than ever: %v", never)
	}
	for range 6 {
		if err := b.Hold(nil).Take(t.Context(), 2<<20); err != nil {
			t.Fatal(err)
		}
	}
	got := s.post(t, "Set", set("value", value))
	if got.code() != "resource_exhausted" || got.header.Get("Retry-After") == "" || got.header.Get("Soracache-Refused") == "" {
		t.Errorf("without room: %d %v %s", got.status, got.header, got.body)
	}
	if err := put([]byte("small")); err != nil {
		t.Errorf("a small one, for which there is a reserve: %v", err)
	}
	if stats := s.server.Stats().Budget; stats.Refusals == 0 || stats.Limit != 16<<20 {
		t.Errorf("stats %+v", stats)
	}
}

// Small bodies that do not come and small answers that nobody takes are cut off
// like large ones, when others need their room.
func TestSmallTransfersThatDoNotMove(t *testing.T) {
	t.Parallel()
	const post = "POST /soracache.v1.CacheService/%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
	for name, request := range map[string]string{
		"bodies":  fmt.Sprintf(post, "Set", 15_000, "{"),
		"answers": fmt.Sprintf(post, "Get", len(`{"key":"large"}`), `{"key":"large"}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newFakeNode()
			n.onGet = func(ctx context.Context, _ soracache.GetRequest) ([]soracache.ReadResult, error) {
				value := make([]byte, 10<<10)
				room.FromContext(ctx).Take(len(value))
				return []soracache.ReadResult{{Status: soracache.StatusHit, Entry: soracache.Entry{Value: value}}}, nil
			}
			b := budget.New(16 << 20)
			listener := newPipes() // which hold nothing themselves
			s := service{client: listener.client(), url: "http://x", server: newServer(t, server.Config{Budget: b}, n, server.Hooks{})}
			ctx, stop := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- s.server.Serve(ctx, listener) }()
			var conns []net.Conn
			for range 600 { // for more than there is room
				conn, err := listener.Dial()
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, conn)
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatal(err)
				}
			}
			for began := time.Now(); b.Stats().Cuts == 0 && time.Since(began) < 3*time.Second; {
				time.Sleep(time.Millisecond)
			}
			for range 5 {
				if got := s.post(t, "Set", set("value", make([]byte, 10<<10))); got.status != 200 {
					t.Errorf("another's call: %s (%+v)", got.body, b.Stats())
				}
			}
			if b.Stats().Cuts == 0 {
				t.Errorf("nothing was cut off: %+v", b.Stats())
			}
			for _, conn := range conns {
				_ = conn.Close()
			}
			s.client.CloseIdleConnections()
			stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever a request took is given back, however it ends.
func TestTheBudgetIsGivenBack(t *testing.T) {
	t.Parallel()
	b := budget.New(64 << 20)
	s := serve(t, server.Config{Budget: b, MessageBytes: 1 << 20}, newFakeNode(), server.Hooks{})
	large := strings.Repeat("v", 100<<10)
	for range 3 {
		s.post(t, "Set", set("value", large))
		s.post(t, "Set", set("key", large))
		s.post(t, "Set", set("value", large, "tag", 1))
		s.post(t, "Set", set("value", strings.Repeat(large, 20)))
		s.post(t, "Set", "garbage", "Content-Encoding", "gzip")
		s.post(t, "Set", string(bomb(t, 2<<20)), "Content-Encoding", "gzip")
		s.post(t, "Get", get())
		s.post(t, "BatchGet", `{"keys":["k","l"]}`)
		s.post(t, "Made/Up", `{}`)
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "POST /soracache.v1.CacheService/Set HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\nContent-Length: 500000\r\n\r\nxyz")
		_ = conn.Close()
	}
	for range 1000 {
		if b.Stats().Used == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%d bytes are still held", b.Stats().Used)
}

// Listings take room for all that they can find before they read, and give back
// what they did not need. Few read at once.
func TestListingsTakeRoomBeforeTheyRead(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	b := budget.New(16 << 20)
	release := make(chan struct{})
	var reading, most atomic.Int64
	n.onListKeys = func(limit int) ([]string, string, error) {
		reading.Add(1)
		if int64(limit) > most.Load() {
			most.Store(int64(limit))
		}
		<-release
		return []string{"k"}, "", nil
	}
	s := serve(t, server.Config{Budget: b}, n, server.Hooks{})
	const calls = 24
	done := make(chan error, calls)
	for range calls {
		go func() {
			_, err := s.cache().ListKeys(context.WithoutCancel(t.Context()), &soracachev1.ListKeysRequest{Tag: "t", PageSize: 1000})
			done <- err
		}()
	}
	refused := 0
	for began := time.Now(); int(reading.Load())+refused < calls && time.Since(began) < 10*time.Second; {
		select {
		case err := <-done:
			wantCode(t, err, connect.CodeResourceExhausted)
			refused++
		case <-time.After(time.Millisecond):
		}
	}
	if can := reading.Load() * most.Load() * int64(n.limits.KeyBytes); can > b.Stats().Used || refused == 0 || reading.Load() == 0 {
		t.Errorf("%d read what may be %d bytes, for which %d are taken; %d were refused", reading.Load(), can, b.Stats().Used, refused)
	}
	close(release)
	for range calls - refused {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := s.cache().ListKeys(t.Context(), &soracachev1.ListKeysRequest{Tag: "t", PageSize: 1000}); err != nil {
		t.Error(err)
	}
	if stats := b.Stats(); stats.Collections != 0 {
		t.Errorf("what was not needed counts as garbage: %+v", stats)
	}
}

// Neither who has not sent its request nor who waits for a lease has a place, and
// there is one for fills when there is none for reads.
func TestPlaces(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	entered, release := make(chan struct{}, 10), make(chan struct{})
	n.onGet = func(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
		if req.Reads[0].Key == "parked" {
			place := room.FromContext(ctx)
			if err := place.Park(); err != nil {
				return nil, err
			}
			defer place.Resume()
		}
		entered <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return []soracache.ReadResult{{Status: soracache.StatusMiss}}, nil
	}
	s := serve(t, server.Config{MaxConcurrent: 1, MaxParked: 2}, n, server.Hooks{})
	done := make(chan error, 10)
	ask := func(key string) {
		go func() {
			_, err := s.cache().Get(context.WithoutCancel(t.Context()), &soracachev1.GetRequest{Key: key})
			done <- err
		}()
		select {
		case <-entered:
		case err := <-done:
			t.Fatalf("%s found no place: %v", key, err)
		}
	}
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /soracache.v1.CacheService/Get HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	ask("parked")
	ask("parked")
	ask("k") // has the one place
	_, err = s.cache().Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
	wantCode(t, err, connect.CodeUnavailable)
	_, err = s.cache().Set(t.Context(), &soracachev1.SetRequest{Key: "k", Ttl: seconds(1)})
	wantCode(t, err, connect.CodeUnavailable)
	if _, err := s.cache().Release(t.Context(), &soracachev1.ReleaseRequest{Key: "k", Lease: make16(1)}); err != nil {
		t.Errorf("a release finds no place: %v", err)
	}
	if _, err := s.cache().Invalidate(t.Context(), &soracachev1.InvalidateRequest{Keys: []string{"k"}}); err != nil {
		t.Errorf("an invalidation finds no place: %v", err)
	}
	stats := s.server.Stats()
	if stats.Working != 1 || stats.Parked != 2 || stats.Refused != 2 {
		t.Errorf("stats %+v", stats)
	}
	close(release)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if stats := s.server.Stats(); stats.Parked != 0 {
		t.Errorf("stats %+v", stats)
	}
}

// Who does not take its answer keeps no place either.
func TestWhoDoesNotTakeItsAnswerHasNoPlace(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.onGet = func(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
		return []soracache.ReadResult{{Status: soracache.StatusHit, Entry: soracache.Entry{Value: make([]byte, 1<<20)}}}, nil
	}
	listener := newPipes()
	s := newServer(t, server.Config{MaxConcurrent: 1, DrainTimeout: 100 * time.Millisecond}, n, server.Hooks{})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	client := listener.client()
	for range 3 {
		conn, err := listener.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		const body = `{"key":"large"}`
		if _, err := fmt.Fprintf(conn, "POST /soracache.v1.CacheService/Get HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil { // the answer has begun
			t.Fatal(err)
		}
	}
	if _, err := (&service{client: client, url: "http://x"}).cache().Head(t.Context(), &soracachev1.HeadRequest{}); err != nil {
		t.Error(err)
	}
	if stats := s.Stats(); stats.Working != 0 || stats.Refused != 0 {
		t.Errorf("stats %+v", stats)
	}
	client.CloseIdleConnections()
	stop()
	<-served
}

// Past the limit of connections, a new one takes the place of an idle one.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{MaxConnections: 2}, newFakeNode(), server.Hooks{})
	for range 5 {
		one := *s
		transport := &http.Transport{}
		one.client = &http.Client{Transport: transport}
		t.Cleanup(transport.CloseIdleConnections)
		if got := one.post(t, "Get", get()); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	if stats := s.server.Stats(); stats.Connections > 2 || stats.ConnectionsClosed != 3 {
		t.Errorf("stats %+v", stats)
	}
}
