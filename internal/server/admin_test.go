package server_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/server"
)

// TestAdminPort: health and metrics have a port of their own if they are given
// one, and are then on no other; nothing else is on it. While the server drains it
// still says so there.
func TestAdminPort(t *testing.T) {
	t.Parallel()
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("numbers")) })
	path := tokensFile(t, "TOKEN(a) monitor admin *")
	s := newServer(t, server.Config{
		Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", AuthTokens: path, MetricsAuth: true, DrainDelay: 3 * time.Second,
	}, newFakeNode(), server.Hooks{Metrics: metrics})
	if s.AdminAddr() != nil {
		t.Error("it serves already")
	}
	listener, err := s.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	for s.AdminAddr() == nil {
		select {
		case err := <-served:
			t.Fatal(err)
		default:
			time.Sleep(time.Millisecond)
		}
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	both := map[string]*service{}
	for name, addr := range map[string]string{"main": listener.Addr().String(), "admin": s.AdminAddr().String()} {
		both[name] = &service{server: s, addr: addr, url: "http://" + addr, client: &http.Client{Transport: transport}}
	}
	for _, c := range []struct {
		port, method, path, token string
		status                    int
	}{
		{"admin", http.MethodGet, "/healthz", "", 200},
		{"admin", http.MethodGet, "/readyz", "", 200},
		{"admin", http.MethodGet, "/metrics", "", 401},
		{"admin", http.MethodGet, "/metrics", "a", 200},
		{"admin", http.MethodPost, "/soracache.v1.ClusterService/Stats", "a", 404},
		{"main", http.MethodGet, "/healthz", "", 405},
		{"main", http.MethodGet, "/readyz", "", 405},
		{"main", http.MethodGet, "/metrics", "a", 405},
		{"main", http.MethodPost, "/soracache.v1.ClusterService/Stats", "a", 200},
	} {
		header := []string{"Content-Type", "application/json", "Authorization", "Bearer " + c.token}
		if got := both[c.port].do(t, c.method, c.path, "{}", header...); got.status != c.status {
			t.Errorf("%s %s with token %q: %d %s, want %d", c.port, c.path, c.token, got.status, got.body, c.status)
		}
	}
	// While it leaves, readiness is off there; then the port is closed, too.
	stop()
	for off := false; !off; {
		got := both["admin"].do(t, http.MethodGet, "/readyz", "")
		off = got.status == 503 && strings.Contains(got.body, "draining")
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.AdminAddr().String()); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
}

// TestAdminPortIsAsGuarded: what holds for the one port holds for the other.
func TestAdminPortIsAsGuarded(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"0.0.0.0:9090": "refusing to listen on 0.0.0.0:9090", "nowhere": "must be host:port", "127.0.0.1:9090": "", "": "",
	} {
		err := server.Config{AdminListen: address}.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", address, err, want)
		}
	}
}

// TestAdminPortHasALimitOfConnections: whoever does not ask for anything does not
// pile up there either.
func TestAdminPortHasALimitOfConnections(t *testing.T) {
	t.Parallel()
	s := newServer(t, server.Config{Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", MaxConnections: 4}, newFakeNode(), server.Hooks{})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, newPipes()) }()
	defer func() { stop(); <-served }()
	for s.AdminAddr() == nil {
		time.Sleep(time.Millisecond)
	}
	for range 12 {
		conn, err := net.Dial("tcp", s.AdminAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: ") // without its end
	}
	for range 400 {
		if stats := s.Stats(); stats.Connections == 4 && stats.ConnectionsClosed == 8 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("with 12 connections: %+v", s.Stats())
}
