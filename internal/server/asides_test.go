package server_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/server"
)

// Of those who ask for the health and do not end their request, the oldest make
// room for who comes.
func TestHealthChecksThatDoNotEnd(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	for range 1002 {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	}
	if got := s.do(t, "POST", "/grpc.health.v1.Health/Check", "{}", "Content-Type", "application/json"); got.status != 200 {
		t.Errorf("a health check beside those that do not end: %d %s", got.status, got.body)
	}
	for n := 0; s.server.Stats().HealthChecksEnded < 2 && n < 400; n++ {
		time.Sleep(5 * time.Millisecond)
	}
	if stats := s.server.Stats(); stats.HealthChecksEnded < 2 {
		t.Errorf("stats %+v", stats)
	}
}
