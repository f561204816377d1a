package client_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
	"github.com/soracache/soracache/client/internal/cluster/rpc"
	"github.com/soracache/soracache/l2/l2test"
)

// line is a way to a server that takes so many bytes a second, for each connection
// and in each direction.
type line struct {
	listener net.Listener
	to       string
	rate     atomic.Int64
	wg       sync.WaitGroup
}

func newLine(t *testing.T, url string, rate int64) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{listener: listener, to: strings.TrimPrefix(url, "http://")}
	l.rate.Store(rate)
	var mu sync.Mutex
	var open []net.Conn
	l.wg.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", l.to)
			if err != nil {
				_ = in.Close()
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				_ = way[0].(*net.TCPConn).SetReadBuffer(64 << 10)
				_ = way[1].(*net.TCPConn).SetWriteBuffer(64 << 10)
				l.wg.Go(func() { l.carry(way[0], way[1]) })
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		l.wg.Wait()
	})
	return l
}

func (l *line) carry(from, to net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	free := time.Now() // when the line is free again
	for {
		rate := l.rate.Load()
		n, err := from.Read(buf[:min(int64(len(buf)), max(rate/100, 1))])
		if n > 0 {
			free = later(free, time.Now()).Add(time.Duration(n) * time.Second / time.Duration(rate))
			time.Sleep(time.Until(free))
			if _, failed := to.Write(buf[:n]); failed != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (l *line) url() string { return "http://" + l.listener.Addr().String() }

const (
	hundredMbit = 12_000_000 // bytes a second
	big         = 4 << 20
	// transfer is how long the big value takes on the line.
	transfer = big * time.Second / hundredMbit
)

// slack is what a call may take beside the transfer: 300 ms; and more where it runs
// beside other tests.
func slack() time.Duration {
	if l2test.Verifying() {
		return 300 * time.Millisecond
	}
	return time.Second
}

// A large value over a slow line is stored at the first load, and found by the next
// process, and nobody waits longer than that takes.
func TestLargeValueOverASlowLine(t *testing.T) {
	for _, door := range doors {
		t.Run(door.name, func(t *testing.T) {
			srv := clienttest.NewServer(t)
			l := newLine(t, srv.URL(), hundredMbit)
			var breaker atomic.Int32
			open := func() *client.Client {
				return dial(t, l.url(), client.NoNear(), client.StaticNodes(), client.WithHooks(client.Hooks{
					OnBreaker: func(string, bool) { breaker.Add(1) },
				}))
			}
			var loads atomic.Int32
			const loading = 200 * time.Millisecond
			load := func(context.Context) (string, error) {
				loads.Add(1)
				time.Sleep(loading)
				return strings.Repeat("x", big), nil
			}
			ask := func(c *client.Client, most time.Duration) {
				began := time.Now()
				v, err := door.ask(t.Context(), c, "report", load)
				if err != nil || len(v) != big {
					t.Errorf("got %d bytes, %v", len(v), err)
				}
				if took := time.Since(began); took > most {
					t.Errorf("it took %s, want %s at most", took, most)
				}
			}
			first := open()
			var both sync.WaitGroup
			both.Go(func() { ask(first, loading+transfer+slack()) })
			time.Sleep(loading / 2)
			both.Go(func() { ask(open(), loading+2*transfer+slack()) }) // it waits for the other
			both.Wait()
			ask(first, transfer+slack())
			ask(open(), transfer+slack())
			if n := loads.Load(); n != 1 {
				t.Errorf("%d loads", n)
			}
			if breaker.Load() > 0 {
				t.Error("the breaker of the node has opened")
			}
		})
	}
}

// A line on which a byte a second moves makes no progress: nobody waits for it.
func TestTrickleIsNoProgress(t *testing.T) {
	srv := clienttest.NewServer(t)
	if err := client.Set(t.Context(), srv.Client(), "report", strings.Repeat("x", big)); err != nil {
		t.Fatal(err)
	}
	l := newLine(t, srv.URL(), 200_000)
	c := dial(t, l.url(), client.NoNear(), client.StaticNodes())
	began := time.Now()
	v, err := client.GetOrSet(t.Context(), c, "report", returns("mine"))
	if took := time.Since(began); v != "mine" || err != nil || took > 3*time.Second {
		t.Errorf("got %d bytes, %v after %s", len(v), err, took)
	}
}

// A fill that makes no progress does not keep its caller, and its lease is handed
// back as soon as the line lets it.
func TestFillThatFailsHandsItsLeaseBack(t *testing.T) {
	srv := clienttest.NewServer(t)
	l := newLine(t, srv.URL(), 50_000)
	c := dial(t, l.url(), client.NoNear(), client.StaticNodes())
	began := time.Now()
	v, err := client.GetOrSet(t.Context(), c, "report", returns(strings.Repeat("x", big)))
	if took := time.Since(began); len(v) != big || err != nil || took > 2*time.Second {
		t.Errorf("got %d bytes, %v after %s", len(v), err, took)
	}
	l.rate.Store(hundredMbit)
	if v, err := client.GetOrSet(t.Context(), srv.Client(), "report", returns("next")); v == "" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	if took := time.Since(began); took > 9*time.Second { // a lease lasts for ten
		t.Errorf("the next caller had to wait until the lease had run out: %s", took)
	}
}

// Callers with hardly any time leave no leases behind.
func TestShortDeadlinesLeaveNoLeases(t *testing.T) {
	srv := clienttest.NewServer(t)
	c := dial(t, srv.URL(), client.NoNear())
	const keys = 100
	many := client.NewCache[string](c, client.Default())
	never := func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }
	var callers sync.WaitGroup
	for i := range 400 {
		callers.Go(func() {
			time.Sleep(time.Duration(i) * time.Millisecond / 4)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%5)*time.Millisecond)
			defer cancel()
			key := fmt.Sprint("k", i%keys)
			if i%2 == 0 {
				_, _ = client.GetOrSet(ctx, c, key, never)
				return
			}
			_, _ = many.GetOrSetMany(ctx, []string{key, fmt.Sprint("k", (i+1)%keys)}, func(ctx context.Context, _ []string) (map[string]string, error) {
				_, err := never(ctx)
				return nil, err
			})
		})
	}
	callers.Wait()
	node := rpc.New(http.DefaultClient, srv.URL(), nil)
	var left int
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left = 0
		for i := range keys {
			key := fmt.Sprint("k", i)
			r, err := node.Get(t.Context(), soracache.GetRequest{Namespace: soracache.DefaultNamespace, Reads: []soracache.Read{{Key: key, Lease: true}}})
			if err != nil {
				t.Fatal(err)
			}
			if r[0].Lease == (soracache.Lease{}) {
				left++
				continue
			}
			_, _ = node.Write(t.Context(), soracache.WriteRequest{Namespace: soracache.DefaultNamespace, Writes: []soracache.Write{{Op: soracache.OpRelease, Key: key, Lease: r[0].Lease}}})
		}
		if left == 0 || time.Now().After(end) {
			break
		}
	}
	if left > 0 {
		t.Errorf("%d of %d keys are still leased", left, keys)
	}
}
