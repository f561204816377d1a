package server_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache/internal/server"
)

// Who does not read the metrics takes one of few places, and for a short time.
func TestMetricsThatNobodyReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, 64<<10))
		})
		p := newPipes()
		s := newServer(t, server.Config{}, newFakeNode(), server.Hooks{Metrics: metrics})
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, p) }()
		defer func() { stop(); <-served }()
		ask := func() (net.Conn, *http.Response) {
			conn, err := p.Dial()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
			answer, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
			if err != nil {
				t.Fatal(err)
			}
			return conn, answer
		}
		var status []int
		for range 6 {
			conn, answer := ask()
			defer conn.Close()
			defer answer.Body.Close()
			status = append(status, answer.StatusCode)
			if answer.StatusCode == http.StatusServiceUnavailable && answer.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
		if status[0] != 200 || status[3] != 200 || status[4] != 503 || status[5] != 503 || s.Stats().ScrapesRefused != 2 {
			t.Errorf("answers %v, stats %+v", status, s.Stats())
		}
		time.Sleep(6 * time.Second) // those who do not read were cut off
		conn, answer := ask()
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("after that: %d", answer.StatusCode)
		}
		_ = conn.Close()
	})
}
