package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// bomb is n zeros, compressed a thousandfold.
func bomb(t *testing.T, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.Copy(w, io.LimitReader(zeros{}, int64(n))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// grpcFrame puts a message in the frame of gRPC.
func grpcFrame(compressed byte, message []byte) []byte {
	n := len(message)
	return append([]byte{compressed, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, message...)
}

// TestCompressedBombs: what inflates past the limit is refused, and is not
// inflated to its end, as the message tells.
func TestCompressedBombs(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	s := newServer(t, server.Config{MessageBytes: 64 << 10}, n, server.Hooks{})
	packed := bomb(t, 8<<20)
	if len(packed) > 64<<10 {
		t.Fatalf("the bomb has %d bytes", len(packed))
	}
	for name, c := range map[string]struct {
		header []string
		body   []byte
		code   func(answer) string
	}{
		"connect": {
			[]string{"Content-Type", "application/proto", "Content-Encoding", "gzip"}, packed,
			answer.code,
		},
		"JSON": {
			[]string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, packed,
			answer.code,
		},
		"grpc": {
			[]string{"Content-Type", "application/grpc", "Grpc-Encoding", "gzip"}, grpcFrame(1, packed),
			func(a answer) string { return a.header.Get("Grpc-Status") },
		},
		"grpc-web": {
			[]string{"Content-Type", "application/grpc-web+proto", "Grpc-Encoding", "gzip"}, grpcFrame(1, packed),
			func(a answer) string { return a.header.Get("Grpc-Status") },
		},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/soracache.v1.CacheService/Set", bytes.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(c.header); i += 2 {
			r.Header.Set(c.header[i], c.header[i+1])
		}
		got := handle(s, r)
		if code := c.code(got); code != "resource_exhausted" && code != "8" {
			t.Errorf("%s: code %q: %v %s", name, code, got.header, got.body)
		}
		if !strings.Contains(got.body+got.header.Get("Grpc-Message"), "the inflated message is over its limit") {
			t.Errorf("%s: inflated to its end: %v %s", name, got.header, got.body)
		}
	}
	if n.touched() != 0 {
		t.Error("the node was asked")
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// TestMessageLimit: a message of exactly the limit is taken, of one byte more
// it is not, compressed or not; and no more than the limit is read of what is
// much larger.
func TestMessageLimit(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	n := newFakeNode()
	s := newServer(t, server.Config{MessageBytes: limit}, n, server.Hooks{})
	message := func(size int) []byte {
		frame := `{"key":"k","of_a_later_version":""}`
		return []byte(strings.Replace(frame, `""}`, `"`+strings.Repeat("x", size-len(frame))+`"}`, 1))
	}
	send := func(body io.Reader, length int64, encoding string) answer {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/soracache.v1.CacheService/Get", body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = length
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Content-Encoding", encoding)
		return handle(s, r)
	}
	packed := func(b []byte) []byte {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		_, _ = w.Write(b)
		_ = w.Close()
		return buf.Bytes()
	}
	for name, c := range map[string]struct {
		body     []byte
		encoding string
		code     string
	}{
		"at the limit":             {message(limit), "identity", ""},
		"over the limit":           {message(limit + 1), "identity", "resource_exhausted"},
		"at the limit, inflated":   {packed(message(limit)), "gzip", ""},
		"over the limit, inflated": {packed(message(limit + 1)), "gzip", "resource_exhausted"},
	} {
		if got := send(bytes.NewReader(c.body), int64(len(c.body)), c.encoding); got.code() != c.code {
			t.Errorf("%s: %d %s, want %q", name, got.status, got.body, c.code)
		}
	}

	// A body that says how large it is is not read at all.
	said := &countingReader{r: zeros{}}
	if got := send(said, 1<<40, "identity"); got.code() != "resource_exhausted" || said.n != 0 {
		t.Errorf("a large Content-Length: %s after %d bytes", got.body, said.n)
	}
	// One that does not is read no further than the limit and its envelope.
	endless := &countingReader{r: zeros{}}
	if got := send(endless, -1, "identity"); got.code() != "resource_exhausted" || endless.n > 3*limit {
		t.Errorf("an endless body: %s after %d bytes", got.body, endless.n)
	}
}

// Who needs no token is given no memory: the health check takes small messages
// only, compressed or not.
func TestOpenProceduresTakeLittle(t *testing.T) {
	t.Parallel()
	s := newServer(t, server.Config{AuthTokens: tokensFile(t, "TOKEN(r) reader read *")}, newFakeNode(), server.Hooks{})
	for name, c := range map[string]struct {
		body     io.Reader
		length   int64
		encoding string
	}{
		"said":       {zeros{}, 1 << 20, "identity"},
		"unsaid":     {io.LimitReader(zeros{}, 5<<10), -1, "identity"},
		"endless":    {zeros{}, -1, "identity"},
		"compressed": {bytes.NewReader(bomb(t, 1<<20)), -1, "gzip"},
	} {
		body := &countingReader{r: c.body}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/grpc.health.v1.Health/Check", body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = c.length
		r.Header.Set("Content-Type", "application/proto")
		r.Header.Set("Content-Encoding", c.encoding)
		if got := handle(s, r); got.code() != "resource_exhausted" || body.n > 128<<10 {
			t.Errorf("%s: %d %s after %d bytes", name, got.status, got.body, body.n)
		}
	}
}

// A frame of gRPC that promises gigabytes is refused without them.
func TestGRPCFrameOverTheLimit(t *testing.T) {
	t.Parallel()
	s := newServer(t, server.Config{MessageBytes: 64 << 10}, newFakeNode(), server.Hooks{})
	body := &countingReader{r: io.MultiReader(bytes.NewReader([]byte{0, 0xff, 0xff, 0xff, 0xff}), zeros{})}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/soracache.v1.CacheService/Set", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	got := handle(s, r)
	if got.header.Get("Grpc-Status") != "8" || body.n > 192<<10 {
		t.Errorf("%v after %d bytes", got.header, body.n)
	}
}

// A value at its limit is taken, in every codec.
func TestLargestValue(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	value := bytes.Repeat([]byte{0xff}, 8<<20)
	for _, option := range []connect.ClientOption{connect.WithGRPCWeb(), connect.WithProtoJSON()} {
		if _, err := s.cache(option).Set(t.Context(), &soracachev1.SetRequest{Key: "k", Value: value, Ttl: seconds(1)}); err != nil {
			t.Error(err)
		}
		got, err := s.cache(option).Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
		if err != nil || !bytes.Equal(got.Value, value) {
			t.Errorf("%d bytes, error %v", len(got.GetValue()), err)
		}
	}
}

func TestConfiguredLimits(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.limits.KeyBytes, n.limits.TagBytes, n.limits.Tags, n.limits.Batch = 4, 2, 1, 2
	n.limits.TTL = time.Minute
	s := serve(t, server.Config{MaxWait: time.Second}, n, server.Hooks{})
	for body, code := range map[string]string{
		set("key", "12345"):               "invalid_argument",
		set("tags", []string{"abc"}):      "invalid_argument",
		set("tags", []string{"a", "b"}):   "invalid_argument",
		set("ttl", "61s"):                 "invalid_argument",
		set("key", "1234", "ttl", "59s"):  "",
		set("tags", []string{"ab", "ab"}): "invalid_argument", // counted as sent
	} {
		if got := s.post(t, "Set", body); got.code() != code {
			t.Errorf("%s: %s, want %q", body, got.body, code)
		}
	}
	if got := s.post(t, "BatchGet", `{"keys":["a","b","c"]}`); got.code() != "resource_exhausted" {
		t.Errorf("batch of 3: %s", got.body)
	}
	if got := s.post(t, "Get", get("wait", "1.1s")); got.code() != "invalid_argument" {
		t.Errorf("wait: %s", got.body)
	}
}

func TestTooManyAtOnce(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	entered, release := make(chan struct{}), make(chan struct{})
	n.onGet = func(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
		entered <- struct{}{}
		<-release
		return []soracache.ReadResult{{Status: soracache.StatusMiss}}, nil
	}
	s := serve(t, server.Config{MaxConcurrent: 2}, n, server.Hooks{})
	done := make(chan error)
	for range 2 {
		go func() {
			_, err := s.cache().Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
			done <- err
		}()
		<-entered
	}
	_, err := s.cache().Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
	wantCode(t, err, connect.CodeUnavailable)
	// Health checks are not held up.
	if got := s.do(t, http.MethodGet, "/readyz", ""); got.status != 200 {
		t.Errorf("readyz: %d %s", got.status, got.body)
	}
	if got := s.do(t, http.MethodPost, "/grpc.health.v1.Health/Check", "{}", "Content-Type", "application/json"); got.status != 200 {
		t.Errorf("health: %d %s", got.status, got.body)
	}
	close(release)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	go func() { <-entered }()
	if _, err = s.cache().Get(t.Context(), &soracachev1.GetRequest{Key: "k"}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestDeadlines, in virtual time: a request is worked on no longer than its
// timeout and the wait it asked for, or than its caller allows.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		request *soracachev1.GetRequest
		timeout time.Duration // of the caller; zero: none
		want    time.Duration
	}{
		{"no wait", &soracachev1.GetRequest{Key: "k"}, 0, 5 * time.Second},
		{"with a wait", &soracachev1.GetRequest{Key: "k", Wait: seconds(20)}, 0, 25 * time.Second},
		{"the caller's", &soracachev1.GetRequest{Key: "k", Wait: seconds(20)}, 3 * time.Second, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newFakeNode()
			var worked time.Duration
			ended := make(chan struct{})
			n.onGet = func(ctx context.Context, _ soracache.GetRequest) ([]soracache.ReadResult, error) {
				defer close(ended)
				began := time.Now()
				<-ctx.Done()
				worked = time.Since(began)
				return nil, ctx.Err()
			}
			s := newServer(t, server.Config{RequestTimeout: 5 * time.Second}, n, server.Hooks{})
			listener := newPipes()
			ctx, stop := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- s.Serve(ctx, listener) }()
			client := listener.client()
			call := t.Context()
			if c.timeout > 0 {
				var cancel context.CancelFunc
				call, cancel = context.WithTimeout(call, c.timeout)
				defer cancel()
			}
			_, err := (&service{client: client, url: "http://x"}).cache().Get(call, c.request)
			wantCode(t, err, connect.CodeDeadlineExceeded)
			if <-ended; worked != c.want {
				t.Errorf("%s: worked on for %s, want %s", c.name, worked, c.want)
			}
			client.CloseIdleConnections()
			stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSlowBody, in virtual time: whoever sends too slowly is cut off, together
// with the connection: what comes late is not taken for another request.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNode()
		s := newServer(t, server.Config{ReadTimeout: 7 * time.Second}, n, server.Hooks{})
		listener := newPipes()
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, listener) }()
		conn, err := listener.Dial()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = io.WriteString(conn, "POST /soracache.v1.CacheService/Get HTTP/1.1\r\nHost: x\r\n"+
			"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"key\":")
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 7*time.Second || took > 8*time.Second {
			t.Errorf("cut off after %s, want 7s", took)
		}
		if !strings.Contains(string(answer), "deadline_exceeded") || n.touched() != 0 {
			t.Errorf("answer %q", answer)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// TestPanic: a panic is an error of the one request, with its stack in the log.
func TestPanic(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.onGet = func(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
		panic("the roof is on fire")
	}
	var out logs
	var codes atomic.Value
	s := serve(t, server.Config{MaxConcurrent: 1}, n, server.Hooks{
		Log:   slog.New(slog.NewTextHandler(&out, nil)),
		Ended: func(_, _, code string, _ time.Duration) { codes.Store(code) },
	})
	for range 3 { // no place is lost
		_, err := s.cache().Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
		wantCode(t, err, connect.CodeInternal)
		if strings.Contains(err.Error(), "roof") {
			t.Errorf("the caller is told: %v", err)
		}
	}
	if log := out.String(); !strings.Contains(log, "the roof is on fire") || !strings.Contains(log, "TestPanic") {
		t.Errorf("the log lacks the panic or its stack:\n%s", log)
	}
	if codes.Load() != "internal" {
		t.Errorf("observed as %v", codes.Load())
	}
	if _, err := s.cache().Set(t.Context(), &soracachev1.SetRequest{Key: "k", Ttl: seconds(1)}); err != nil {
		t.Error(err)
	}
}

// An error that is nobody's fault outside is logged in full and told in
// general.
func TestInternalErrorsAreLogged(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.onHead = func(context.Context, string) (soracache.HeadResult, error) {
		return soracache.HeadResult{}, errors.New("disk sector 7")
	}
	var out logs
	s := serve(t, server.Config{}, n, server.Hooks{Log: slog.New(slog.NewTextHandler(&out, nil))})
	_, err := s.cache().Head(t.Context(), &soracachev1.HeadRequest{})
	wantCode(t, err, connect.CodeInternal)
	if strings.Contains(err.Error(), "sector") || !strings.Contains(out.String(), "disk sector 7") {
		t.Errorf("told %v, logged %s", err, out.String())
	}
}

// TestHooks: each RPC is reported once, under a name that callers cannot make
// up.
func TestHooks(t *testing.T) {
	t.Parallel()
	type ended struct{ procedure, protocol, code string }
	seen := make(chan ended, 100)
	var inFlight atomic.Int64
	hooks := server.Hooks{
		Began: func() { inFlight.Add(1) },
		Ended: func(procedure, protocol, code string, took time.Duration) {
			inFlight.Add(-1)
			if took < 0 {
				t.Errorf("took %s", took)
			}
			seen <- ended{procedure, protocol, code}
		},
	}
	s := serve(t, server.Config{}, newFakeNode(), hooks)
	overH2C := *s
	overH2C.client = h2c(t)
	const getPath = "/soracache.v1.CacheService/Get"
	for _, c := range []struct {
		do   func()
		want ended
	}{
		{func() { s.post(t, "Get", get()) }, ended{getPath, "connect", "ok"}},
		{func() { s.post(t, "Get", `{`) }, ended{getPath, "connect", "invalid_argument"}},
		{func() { s.post(t, "Invalidate", inval("acknowledge", true)) }, ended{"/soracache.v1.CacheService/Invalidate", "connect", "ok"}},
		{func() { s.post(t, "Made/Up", `{}`) }, ended{"other", "connect", "unimplemented"}},
		{func() { _, _ = overH2C.cache(connect.WithGRPC()).Get(t.Context(), &soracachev1.GetRequest{Key: "k"}) }, ended{getPath, "grpc", "ok"}},
		{func() { _, _ = overH2C.cache(connect.WithGRPC()).Get(t.Context(), &soracachev1.GetRequest{}) }, ended{getPath, "grpc", "invalid_argument"}},
		{func() { _, _ = s.cache(connect.WithGRPCWeb()).Get(t.Context(), &soracachev1.GetRequest{Key: "k"}) }, ended{getPath, "grpcweb", "ok"}},
		{func() { _, _ = s.cache(connect.WithGRPCWeb()).Get(t.Context(), &soracachev1.GetRequest{}) }, ended{getPath, "grpcweb", "invalid_argument"}},
		{func() { s.post(t, "Get", get(), "Content-Type", "text/plain") }, ended{getPath, "connect", "unknown"}},
	} {
		c.do()
		if got := <-seen; got != c.want {
			t.Errorf("reported %v, want %v", got, c.want)
		}
	}
	if n := inFlight.Load(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{Name: "n1", Version: "v1.2.3"}, newFakeNode(), server.Hooks{
		Totals: func() map[string]float64 { return map[string]float64{`soracache_hits_total{tier="l1"}`: 3} },
	})
	got := s.do(t, http.MethodPost, "/soracache.v1.ClusterService/Stats", "{}", "Content-Type", "application/json")
	for _, part := range []string{`"node":"n1"`, `"version":"v1.2.3"`, `"uptime":"`, `"soracache_hits_total{tier=\"l1\"}":3`} {
		if !strings.Contains(got.body, part) {
			t.Errorf("stats lack %s: %s", part, got.body)
		}
	}
}
