package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	"github.com/soracache/soracache/internal/server"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newServer returns a server that must be makeable.
func newServer(t testing.TB, cfg server.Config, node server.Node, hooks server.Hooks) *server.Server {
	t.Helper()
	s, err := server.New(cfg, node, hooks)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// service is a running server on a loopback port.
type service struct {
	node   *fakeNode
	server *server.Server
	addr   string
	url    string
	client *http.Client // of HTTP/1.1
}

// serve runs a server until the test ends.
func serve(t *testing.T, cfg server.Config, node *fakeNode, hooks server.Hooks) *service {
	t.Helper()
	cfg.Listen = "127.0.0.1:0"
	s := newServer(t, cfg, node, hooks)
	listener, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	transport := &http.Transport{}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	addr := listener.Addr().String()
	return &service{node: node, server: s, addr: addr, url: "http://" + addr, client: &http.Client{Transport: transport}}
}

// cache returns a client of the service.
func (s *service) cache(options ...connect.ClientOption) rpc.CacheServiceClient {
	return rpc.NewCacheServiceClient(s.client, s.url, options...)
}

// h2c returns an HTTP client that speaks cleartext HTTP/2 only, as gRPC does.
func h2c(t *testing.T) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// answer is what came back to a plain HTTP request.
type answer struct {
	status int
	header http.Header
	body   string
}

// code is the Connect code in an answer of JSON; "" if it is no error.
func (a answer) code() string {
	var e struct{ Code string }
	_ = json.Unmarshal([]byte(a.body), &e)
	return e.Code
}

func (a answer) message() string {
	var e struct{ Message string }
	_ = json.Unmarshal([]byte(a.body), &e)
	return e.Message
}

// post sends a body of JSON to a procedure of CacheService.
func (s *service) post(t *testing.T, procedure, body string, header ...string) answer {
	t.Helper()
	return s.do(t, http.MethodPost, "/soracache.v1.CacheService/"+procedure, body,
		append([]string{"Content-Type", "application/json"}, header...)...)
}

// do sends a request. The header is a list of keys and values.
func (s *service) do(t *testing.T, method, path, body string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(got)}
}

// handle answers a request without a network. Trailers count as headers.
func handle(s *server.Server, r *http.Request) answer {
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	response := w.Result()
	maps.Copy(response.Header, response.Trailer)
	return answer{w.Code, response.Header, w.Body.String()}
}

// wantCode fails unless an error has the code.
func wantCode(t *testing.T, err error, want connect.Code) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != want {
		t.Errorf("error %v, want code %s", err, want)
	}
}

// logs is where a server under test logs to.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// pipes is a listener without a network, for tests in virtual time.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

// Dial connects to the listener.
func (p *pipes) Dial() (net.Conn, error) {
	client, accepted := net.Pipe()
	select {
	case p.conns <- accepted:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// client returns an HTTP client that dials the listener, whatever the URL.
func (p *pipes) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return p.Dial() },
	}}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
