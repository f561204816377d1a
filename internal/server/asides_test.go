package server_test

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/soracache/soracache/internal/racetest"
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

// Over HTTP/2 nobody has to take an answer, however short it is. What is asked beside
// the service is bounded all the same: the oldest make room for who comes.
func TestShortAnswersThatNobodyTakes(t *testing.T) {
	racetest.Without(t)
	t.Parallel()
	for name, c := range map[string]struct {
		method, path, contentType, body string
		most                            int
	}{
		"liveness":          {"GET", "/healthz", "", "", 1000},
		"readiness":         {"GET", "/readyz", "", "", 1000},
		"no such page":      {"GET", "/nowhere", "", "", 1000},
		"no such method":    {"PUT", "/nowhere", "", "", 1000},
		"metrics":           {"GET", "/metrics", "", "", 1000},
		"health by gRPC":    {"POST", "/grpc.health.v1.Health/Check", "application/grpc", "\x00\x00\x00\x00\x00", 1000},
		"refusals":          {"POST", "/soracache.v1.CacheService/MadeUp", "application/json", "{}", 1000},
		"refusals by gRPC":  {"POST", "/soracache.v1.CacheService/MadeUp", "application/grpc", "\x00\x00\x00\x00\x00", 1000},
		"refused bodies":    {"POST", "/soracache.v1.CacheService/Get", "application/json", "{\"key\":\"\xff\"}", 1000},
		"health by Connect": {"POST", "/grpc.health.v1.Health/Check", "application/json", "{}", 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onPipes(t, server.Config{}, newFakeNode(), func(t *testing.T, listener *pipes) {
				var all []*frames
				for range 3 {
					f := dialFrames(t, listener, false)
					f.write(func(w *http2.Framer) error {
						return w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
					})
					for stream := range uint32(500) {
						f.send(2*stream+1, c.method, c.path, c.contentType, c.body)
					}
					all = append(all, f)
				}
				synctest.Wait()
				open := 0
				for _, f := range all {
					open += f.open()
				}
				if open > c.most {
					t.Errorf("%d of 1,500 answers that nobody takes are kept, want %d", open, c.most)
				}
				one := (&service{client: listener.client(), url: "http://x"})
				defer one.client.CloseIdleConnections()
				if got := one.do(t, "GET", "/healthz", ""); got.status != 200 || got.header.Get("Content-Length") != "3" {
					t.Errorf("beside them: %+v", got)
				}
				for _, f := range all {
					_ = f.conn.Close()
					<-f.over
				}
			})
		})
	}
}
