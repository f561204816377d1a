package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/server"
)

// wire carries requests to a node in virtual time, each at so many bytes a second.
type wire struct {
	node http.Handler
	rate atomic.Int64 // zero: nothing moves any more
	// lost has fills not be answered, once they have been sent, and late is for how
	// long they are on their way, in nanoseconds.
	lost atomic.Bool
	late atomic.Int64
}

// dial returns a client of the stage's node at the end of a wire.
func (s *stage) dial(rate int64, opts ...client.DialOption) (*client.Client, *wire) {
	s.Helper()
	srv, err := server.New(server.Config{}, s.node, server.Hooks{})
	if err != nil {
		s.Fatal(err)
	}
	w := &wire{node: srv.Handler()}
	w.rate.Store(rate)
	c, err := client.Dial([]string{"http://node"}, append([]client.DialOption{
		client.Logger(nil), client.NoNear(), client.StaticNodes(), client.HTTPClient(&http.Client{Transport: w}),
	}, opts...)...)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = c.Close() })
	return c, w
}

// RoundTrip implements [http.RoundTripper].
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	defer req.Body.Close()
	ctx := req.Context()
	rest := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var body bytes.Buffer
	for {
		n, err := io.CopyN(&body, req.Body, 16<<10)
		rate := w.rate.Load()
		if rate == 0 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if failed := rest(time.Duration(n) * time.Second / time.Duration(rate)); failed != nil {
			return nil, failed
		}
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
	}
	if strings.HasSuffix(req.URL.Path, "Fill") {
		if w.lost.Load() {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if failed := rest(time.Duration(w.late.Load())); failed != nil {
			return nil, failed
		}
	}
	there := req.Clone(ctx)
	there.Body = io.NopCloser(&body)
	answer := httptest.NewRecorder()
	w.node.ServeHTTP(answer, there)
	return answer.Result(), nil
}

// Close waits for what is stored behind callers while it moves, and says what it did
// not wait for.
func TestCloseWaitsForFills(t *testing.T) {
	const slow = 1_300_000 // bytes a second
	moves := func(bytes int) time.Duration { return time.Duration(bytes) * time.Second / slow }
	tests := []struct {
		name string
		// size is of the value, and after happens when its caller has it.
		size  int
		after func(w *wire)
		opts  []client.DialOption
		// deaf means that there is a loader that does not heed its context.
		deaf   bool
		stored bool
		within [2]time.Duration
		says   string
	}{
		{
			name: "a fill that moves", size: big, stored: true,
			within: [2]time.Duration{moves(big) - time.Second, moves(big) + time.Second},
		},
		{
			name: "a fill that does not move any longer", size: big, after: func(w *wire) { w.rate.Store(0); time.AfterFunc(300*time.Millisecond, func() { w.rate.Store(slow) }) },
			within: [2]time.Duration{0, time.Second},
		},
		{
			name: "a fill that is not answered", size: 1 << 20, after: func(w *wire) { w.lost.Store(true) }, opts: []client.DialOption{client.Timeout(10 * time.Minute)},
			within: [2]time.Duration{70 * time.Second, 71 * time.Second}, says: "values of 1048576 bytes",
		},
		{
			name: "a fill that moves, and a deaf loader", size: big, stored: true, deaf: true,
			within: [2]time.Duration{moves(big) - time.Second, moves(big) + time.Second}, says: "does not heed its context",
		},
		{
			name: "a deaf loader", size: 10, stored: true, deaf: true,
			within: [2]time.Duration{2 * time.Second, 2 * time.Second}, says: "does not heed its context",
		},
	}
	for _, door := range doors {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s/%s", door.name, tt.name), func(t *testing.T) {
				onStage(t, func(s *stage) {
					c, w := s.dial(slow, tt.opts...)
					if tt.deaf {
						begun := make(chan struct{})
						go func() {
							_, _ = door.ask(s.Context(), c, "deaf", func(context.Context) (string, error) {
								close(begun)
								time.Sleep(time.Minute)
								return "v", nil
							})
						}()
						<-begun
						defer time.Sleep(2 * time.Minute) // it ends
					}
					ctx, cancel := context.WithTimeout(s.Context(), 400*time.Millisecond)
					defer cancel()
					if v, err := door.ask(ctx, c, "k", returns(strings.Repeat("x", tt.size))); len(v) != tt.size || err != nil {
						s.Fatalf("got %d bytes, %v", len(v), err)
					}
					if tt.after != nil {
						tt.after(w)
					}
					began := time.Now()
					err := c.Close()
					if took := time.Since(began); took < tt.within[0] || took > tt.within[1] {
						s.Errorf("it took %s, want %s to %s", took, tt.within[0], tt.within[1])
					}
					if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
						s.Errorf("it says %v, want %q", err, tt.says)
					}
					if stored := s.explain("k").Live; stored != tt.stored {
						s.Errorf("stored: %v, want %v", stored, tt.stored)
					}
					if s.leased("k") {
						s.Error("its lease is left")
					}
				})
			})
		}
	}
}

// The lease of a fill that goes on behind its caller is renewed, for as long as that
// takes.
func TestFillBehindKeepsItsLease(t *testing.T) {
	const takes = 25 * time.Second // a lease lasts for ten
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				c, w := s.dial(1<<40, client.Timeout(time.Minute))
				w.late.Store(int64(takes))
				ctx, cancel := context.WithTimeout(s.Context(), 400*time.Millisecond)
				defer cancel()
				value := strings.Repeat("x", 1<<20)
				if v, err := door.ask(ctx, c, "k", returns(value)); v != value || err != nil {
					s.Fatalf("got %d bytes, %v", len(v), err)
				}
				began := time.Now()
				v, err := door.ask(s.Context(), s.b.Client, "k", returns("another"), client.AdjustPolicy(func(p *client.Policy) { p.Wait = 30 * time.Second }))
				if v != value || err != nil {
					s.Errorf("another process got %d bytes, %v after %s", len(v), err, time.Since(began))
				}
				if !s.explain("k").Live || s.leased("k") {
					s.Errorf("stored: %v, leased: %v", s.explain("k").Live, s.leased("k"))
				}
			})
		})
	}
}
