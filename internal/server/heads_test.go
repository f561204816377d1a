package server_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/internal/server"
)

// Headers that do not end are closed when there are too many bytes of them, the
// oldest first, over TLS as well, and after a first request: together with it, or
// later.
func TestHeadersThatDoNotEnd(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one := "GET /healthz HTTP/1.1\r\nHost: x\r\n"
	half := one + "X: " + strings.Repeat("x", 15<<10) // of which nothing follows
	for name, c := range map[string]struct {
		files server.TLSFiles
		sent  []string
	}{
		"at first":       {server.TLSFiles{}, []string{half}},
		"as a second":    {server.TLSFiles{}, []string{one + "\r\n", half}},
		"with the first": {server.TLSFiles{}, []string{one + "\r\n" + half}},
		"TLS":            {ca.files(t.TempDir(), 1), []string{half}},
		"TLS, second":    {ca.files(t.TempDir(), 2), []string{one + "\r\n", half}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, server.Config{TLS: c.files}, newFakeNode(), server.Hooks{})
			const conns = 100 // 1.5 MB
			for range conns {
				conn, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if c.files.Cert != "" {
					conn = tls.Client(conn, &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1"})
				}
				for i, text := range c.sent {
					_, _ = io.WriteString(conn, text)
					if i+1 < len(c.sent) {
						_, _ = conn.Read(make([]byte, 4<<10))
					}
				}
			}
			for n := 0; s.server.Stats().HeadsEnded < 10 && n < 600; n++ {
				time.Sleep(5 * time.Millisecond)
			}
			if n := s.server.Stats().HeadsEnded; n < 10 || n > 50 {
				t.Errorf("%d of %d were closed", n, conns)
			}
			again := s
			if c.files.Cert != "" {
				again = s.over(t, &tls.Config{RootCAs: ca.pool()})
			}
			if got := again.post(t, "Get", get()); got.status != 200 {
				t.Errorf("another: %d %s", got.status, got.body)
			}
		})
	}
}

// Whatever a connection does that sends its headers whole, nothing is left of it.
func TestHeadersThatEndLeaveNothing(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	two := *s
	two.client = h2c(t)
	for _, s := range []*service{s, &two} {
		for range 200 {
			if got := s.post(t, "Get", get(), "X", strings.Repeat("x", 10<<10)); got.status != 200 {
				t.Fatalf("%d %s", got.status, got.body)
			}
		}
	}
	if n := s.server.Stats().HeadsEnded; n != 0 {
		t.Errorf("%d were closed", n)
	}
}

// The fields of a header are counted at what they take, and are not too many.
func TestManyHeaderFields(t *testing.T) {
	t.Parallel()
	b := budget.New(16 << 20)
	s := serve(t, server.Config{Budget: b}, newFakeNode(), server.Hooks{})
	head := func(fields int) string {
		var h strings.Builder
		h.WriteString("POST /soracache.v1.CacheService/Get HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n")
		for i := range fields {
			fmt.Fprintf(&h, "a%d:\r\n", i)
		}
		return h.String() + "\r\n"
	}
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, head(120))
	for n := 0; b.Stats().Used == 0 && n < 400; n++ {
		time.Sleep(5 * time.Millisecond)
	}
	if used := b.Stats().Used; used < 8<<10+120*160 {
		t.Errorf("120 fields count %d bytes", used)
	}
	two := *s
	two.client = h2c(t)
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprint("A", i), "")
	}
	for _, s := range []*service{s, &two} {
		if got := s.post(t, "Get", get(), many...); got.status != http.StatusTooManyRequests || !strings.Contains(got.body, "header fields") {
			t.Errorf("200 fields: %d %s", got.status, got.body)
		}
	}
	if got := s.post(t, "Get", get(), "X", strings.Repeat("x", 30<<10)); got.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("30 KiB: %d %s", got.status, got.body)
	}
}
