package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/internal/cluster"
	"github.com/soracache/soracache/client/internal/fake"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// How a node on the wire behaves.
const (
	answers  = int32(iota)
	cuts     // closes the connection once the request has come
	drains   // refuses at the gate, as a node does that is draining
	storeOff // begins, and then says that its store is down
	breaks   // answers what is none of ours
	lingers  // begins, and says at the end of the attempt's time that it is over
)

// wireNode is a cache service behind a real listener that can be closed and
// opened again, and misbehave in between.
type wireNode struct {
	t     *testing.T
	addr  string
	mode  atomic.Int32
	calls atomic.Int64 // that arrived
	srv   *http.Server
	rpcs  http.Handler
}

func startWireNode(t *testing.T) *wireNode {
	t.Helper()
	n := &wireNode{t: t, addr: "127.0.0.1:0"}
	n.rpcs = handler(&scripted{
		get: func(ctx context.Context, _ *cachev1.GetRequest) (*cachev1.GetResponse, error) {
			if n.mode.Load() == lingers {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			if err := n.trouble(); err != nil {
				return nil, err
			}
			return &cachev1.GetResponse{Status: cachev1.Status_STATUS_HIT, Value: []byte(n.addr), Encoding: "raw"}, nil
		},
		put: func(*cachev1.SetRequest) (*cachev1.SetResponse, error) {
			return &cachev1.SetResponse{}, n.trouble()
		},
		invalidate: func(*cachev1.InvalidateRequest) (*cachev1.InvalidateResponse, error) {
			return &cachev1.InvalidateResponse{Stamp: stamps(5).Encode()}, n.trouble()
		},
	})
	n.open()
	t.Cleanup(n.close)
	return n
}

func (n *wireNode) trouble() error {
	if n.mode.Load() == storeOff {
		return connect.NewError(connect.CodeUnavailable, errors.New("the store is down"))
	}
	return nil
}

func (n *wireNode) open() {
	n.t.Helper()
	l, err := net.Listen("tcp", n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.addr = l.Addr().String()
	n.srv = &http.Server{Handler: n, ReadHeaderTimeout: time.Second}
	go func() { _ = n.srv.Serve(l) }()
}

func (n *wireNode) close() { _ = n.srv.Close() }

func (n *wireNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/Watch") || strings.HasSuffix(r.URL.Path, "/Head") {
		w.WriteHeader(http.StatusNotFound) // of no concern here
		return
	}
	n.calls.Add(1)
	switch n.mode.Load() {
	case cuts:
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
	case drains:
		w.Header().Set("Soracache-Refused", "1")
		w.Header().Set("Connection", "close")
		_ = connect.NewErrorWriter().Write(w, r, connect.NewError(connect.CodeUnavailable, errors.New("the node is draining")))
	case breaks:
		w.WriteHeader(http.StatusBadGateway)
	default:
		n.rpcs.ServeHTTP(w, r)
	}
}

// twoNodes returns a client of two nodes, the one that it prefers, and the
// other.
func twoNodes(t *testing.T, opts ...client.DialOption) (c *client.Client, preferred, other *wireNode) {
	t.Helper()
	preferred, other = startWireNode(t), startWireNode(t)
	c = dial(t, "http://"+preferred.addr+", http://"+other.addr, append(opts, client.Timeout(5*time.Second), client.StaticNodes())...)
	if answeredBy(t, c) != preferred.addr {
		preferred, other = other, preferred
	}
	preferred.calls.Store(0)
	return c, preferred, other
}

func answeredBy(t *testing.T, c *client.Client) string {
	t.Helper()
	addr, found, err := client.Get[string](t.Context(), c, "k")
	if err != nil || !found {
		t.Fatalf("read: %v, %v", found, err)
	}
	return addr
}

func TestMovesOnToTheNextNode(t *testing.T) {
	set := func(ctx context.Context, c *client.Client) error { return client.Set(ctx, c, "k", "v") }
	get := func(ctx context.Context, c *client.Client) error {
		_, _, err := client.Get[string](ctx, c, "k")
		return err
	}
	clearAll := func(ctx context.Context, c *client.Client) error {
		_, err := c.Clear(ctx)
		return err
	}
	for _, tt := range []struct {
		name    string
		trouble func(*wireNode)
		call    func(context.Context, *client.Client) error
		moves   bool
	}{
		{"refused connection, read", (*wireNode).close, get, true},
		{"refused connection, invalidation", (*wireNode).close, clearAll, true},
		{"refused connection, put", (*wireNode).close, set, true},
		{"cut, read", is(cuts), get, true},
		{"cut, invalidation", is(cuts), clearAll, true},
		{"cut, put: who knows whether it ran", is(cuts), set, false},
		{"draining, read", is(drains), get, true},
		{"draining, invalidation", is(drains), clearAll, true},
		{"draining, put", is(drains), set, true},
		{"store down, read", is(storeOff), get, true},
		{"store down, put: it may have run", is(storeOff), set, false},
		{"no answer of ours, read", is(breaks), get, true},
		{"no answer of ours, put", is(breaks), set, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// On a kept connection, a node that has gone cannot be told from one
			// that was cut off.
			c, preferred, other := twoNodes(t, client.HTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}))
			tt.trouble(preferred)
			calls := int64(1)
			if strings.Contains(tt.name, "invalidation") {
				calls = 2 // they go to the nodes in turn: one of them meets the trouble
			}
			for range calls {
				if err := tt.call(t.Context(), c); (err == nil) != tt.moves || err != nil && !errors.Is(err, soracache.ErrUnavailable) {
					t.Errorf("error %v", err)
				}
			}
			if moved := other.calls.Load() == calls; moved != tt.moves {
				t.Errorf("the other node was asked %d times", other.calls.Load())
			}
			asked := preferred.calls.Load()
			if answeredBy(t, c) != other.addr || preferred.calls.Load() != asked {
				t.Error("a node that has just failed is asked again")
			}
		})
	}
}

func is(mode int32) func(*wireNode) { return func(n *wireNode) { n.mode.Store(mode) } }

func TestNodeComesBack(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	c, preferred, other := twoNodes(t, client.Logger(slog.New(slog.NewTextHandler(&locked{mu: &mu, b: &log}, nil))))
	preferred.close()
	if answeredBy(t, c) != other.addr {
		t.Fatal("not moved on")
	}
	preferred.open()
	eventuallyTrue(t, "the preferred node is used again", func() bool { return answeredBy(t, c) == preferred.addr })
	for range 10 {
		if answeredBy(t, c) != preferred.addr {
			t.Fatal("back, and passed over again")
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if text := log.String(); strings.Count(text, "a node fails") != 1 || strings.Count(text, "answers again") != 1 {
		t.Errorf("logged:\n%s", text)
	}
}

type locked struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func eventuallyTrue(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// With all nodes down GetOrSet still loads, at once; and the first call after
// one is back finds it.
func TestAllNodesDown(t *testing.T) {
	failedOpen := 0
	c, a, b := twoNodes(t, client.WithHooks(client.Hooks{OnFailOpen: func(string, error) { failedOpen++ }}))
	a.close()
	b.close()
	for range 3 {
		began := time.Now()
		if v, err := client.GetOrSet(t.Context(), c, "k", returns("v")); v != "v" || err != nil {
			t.Fatalf("got %q, %v", v, err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %s", took)
		}
	}
	if failedOpen != 3 {
		t.Errorf("failed open %d times", failedOpen)
	}
	b.open()
	if answeredBy(t, c) != b.addr {
		t.Error("the node that is back was not asked")
	}
}

// All clients ask the same node for a key, and different ones for different keys.
func TestClientsAgreeAboutKeys(t *testing.T) {
	a, b := startWireNode(t), startWireNode(t)
	at := map[string]bool{}
	for i := range 20 {
		var answers []string
		for _, urls := range []string{"http://" + a.addr + ",http://" + b.addr, "http://" + b.addr + ",http://" + a.addr + "/"} {
			addr, _, err := client.Get[string](t.Context(), dial(t, urls, client.StaticNodes()), fmt.Sprint("key", i))
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, addr)
			at[addr] = true
		}
		if answers[0] != answers[1] {
			t.Errorf("key %d: one client asks %s, the other %s", i, answers[0], answers[1])
		}
	}
	if len(at) != 2 {
		t.Errorf("all keys are asked of %v", at)
	}
}

// hungBackend never answers.
type hungBackend struct {
	soracache.Backend

	calls atomic.Int64
}

func (h *hungBackend) Get(ctx context.Context, _ soracache.GetRequest) ([]soracache.ReadResult, error) {
	h.calls.Add(1)
	<-ctx.Done()
	return nil, fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
}

func (h *hungBackend) Invalidate(ctx context.Context, _ soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	_, err := h.Get(ctx, soracache.GetRequest{})
	return soracache.InvalidateResult{}, err
}

// quiet discards what the nodes log.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// A paused node costs the first caller half its time, and the next ones none.
func TestNodeThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung, well := &hungBackend{}, fake.New()
		well.Put("k", soracache.Entry{Value: []byte("v"), Encoding: "raw"})
		c, err := client.New(cluster.Nodes(quiet(), hung, well), client.Logger(nil))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		began := time.Now()
		for i := range 100 {
			v, err := client.GetOrSet(t.Context(), c, "k", returns("loaded"))
			if v != "v" || err != nil {
				t.Fatalf("call %d: got %q, %v", i, v, err)
			}
		}
		if took := time.Since(began); took != client.DefaultTimeout/2 || hung.calls.Load() != 1 {
			t.Errorf("a hundred calls took %s, and asked the hung node %d times", took, hung.calls.Load())
		}
	})
}

// A node that hangs on its store knows how much time the attempt has, and may say
// that it is over before the client has seen it.
func TestNodeThatRunsOutOfTime(t *testing.T) {
	c, preferred, other := twoNodes(t)
	preferred.mode.Store(lingers)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for range 2 {
		addr, found, err := client.Get[string](ctx, c, "k")
		if addr != other.addr || !found || err != nil {
			t.Fatalf("got %q, %v, %v", addr, found, err)
		}
	}
	if asked := preferred.calls.Load(); asked != 1 {
		t.Errorf("the node that hangs was asked %d times", asked)
	}
}

// All nodes hang: the loader runs after the usual time, not after that time for
// each node.
func TestAllNodesHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := client.New(cluster.Nodes(quiet(), &hungBackend{}, &hungBackend{}, &hungBackend{}), client.Logger(nil))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		for range 3 {
			began := time.Now()
			if v, err := client.GetOrSet(t.Context(), c, "k", returns("v")); v != "v" || err != nil {
				t.Errorf("got %q, %v", v, err)
			}
			if took := time.Since(began); took != client.DefaultTimeout {
				t.Errorf("took %s", took)
			}
		}
	})
}

// breaking answers after a while that it is unavailable.
type breaking struct {
	soracache.Backend

	after time.Duration
	err   error

	mu    sync.Mutex
	calls []time.Time
}

// call notes a call, and fails it after a while.
func (b *breaking) call() error {
	b.mu.Lock()
	b.calls = append(b.calls, time.Now())
	b.mu.Unlock()
	time.Sleep(b.after)
	return b.err
}

func (b *breaking) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.calls)
}

func (b *breaking) Get(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
	return nil, b.call()
}

func (b *breaking) Write(context.Context, soracache.WriteRequest) ([]soracache.WriteResult, error) {
	return nil, b.call()
}

func (b *breaking) Invalidate(context.Context, soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	return soracache.InvalidateResult{}, b.call()
}

var errBroken = fmt.Errorf("%w: broken", soracache.ErrUnavailable)

// The times between which a node that stays down is tried double, up to a
// limit, and differ by chance.
func TestRestGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down, well := &breaking{err: errBroken}, fake.New()
		b := cluster.Nodes(quiet(), down, well)
		for range 60_000 {
			if _, err := b.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if n := len(down.calls); n < 12 || n > 25 {
			t.Fatalf("tried %d times in a minute", n)
		}
		for i := 1; i < len(down.calls); i++ {
			want := min(250*time.Millisecond<<min(i-1, 10), 5*time.Second)
			got := down.calls[i].Sub(down.calls[i-1])
			if got < want*3/4 || got > want*5/4+time.Millisecond {
				t.Errorf("rest %d: %s, want about %s", i, got, want)
			}
		}
	})
}

// Of many calls that find a node's rest over, one tries it; and of many that
// fail together, one counts.
func TestOneCallTriesANodeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &breaking{err: errBroken, after: 10 * time.Millisecond}
		b := cluster.Nodes(quiet(), down, fake.New())
		all := func() {
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					if _, err := b.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		all()
		if n := down.count(); n != 50 {
			t.Fatalf("tried %d times while it was not known to fail", n)
		}
		time.Sleep(400 * time.Millisecond) // longer than the first rest, shorter than the second
		all()
		if n := down.count() - 50; n != 1 {
			t.Errorf("tried %d times after its rest, want once", n)
		}
	})
}

// A caller who gives up says nothing about the node.
func TestCancelledCallBlamesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung, well := &hungBackend{}, fake.New()
		b := cluster.Nodes(quiet(), hung, well)
		for i := range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			if _, err := b.Get(ctx, soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}}); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if hung.calls.Load() != int64(i+1) || len(well.Asked("k")) != 0 {
				t.Error("a cancelled call moved on, or the next one avoids the node")
			}
			cancel()
		}
	})
}

// So does one that had next to no time.
func TestHurriedCallBlamesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := &hungBackend{}
		b := cluster.Nodes(quiet(), hung, fake.New())
		for i := range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Millisecond)
			if _, err := b.Get(ctx, soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}}); err != nil {
				t.Errorf("got %v", err)
			}
			if hung.calls.Load() != int64(i+1) {
				t.Error("the node was passed over")
			}
			cancel()
		}
	})
}

// A wait that moves on goes on for as long as is left of it.
func TestWaitMovesOn(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration
		waits time.Duration
	}{
		{0, 10 * time.Second},
		{7 * time.Second, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			well := fake.New()
			b := cluster.Nodes(quiet(), &breaking{err: errBroken, after: tt.after}, well)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+client.DefaultTimeout)
			defer cancel()
			if _, err := b.Get(ctx, soracache.GetRequest{Reads: []soracache.Read{{Key: "k", Wait: 10 * time.Second}}}); err != nil {
				t.Fatal(err)
			}
			if got := well.Asked("k")[0].Reads[0].Wait; got != tt.waits {
				t.Errorf("after %s it waits for %s, want %s", tt.after, got, tt.waits)
			}
		})
	}
}

// The node hangs while the reader waits: the other is asked before the
// reader's time is over.
func TestWaitAtANodeThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		well := fake.New()
		well.Put("k", soracache.Entry{Value: []byte("v")})
		b := cluster.Nodes(quiet(), &hungBackend{}, well)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+client.DefaultTimeout)
		defer cancel()
		rs, err := b.Get(ctx, soracache.GetRequest{Reads: []soracache.Read{{Key: "k", Wait: 10 * time.Second}}})
		if err != nil || rs[0].Status != soracache.StatusHit {
			t.Errorf("got %v, %v", rs, err)
		}
	})
}

// leavingBackend is a node that drains while a reader waits there: it sends the
// reader away, and then refuses everybody.
type leavingBackend struct {
	*fake.Service

	waits, gone chan struct{}
}

func (l *leavingBackend) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	select {
	case <-l.gone:
		return nil, errBroken
	default:
	}
	if req.Reads[0].Wait > 0 {
		close(l.waits)
		<-l.gone
		return []soracache.ReadResult{{Status: soracache.StatusMiss, LeaseState: soracache.LeaseHeld}}, nil
	}
	return l.Service.Get(ctx, req)
}

// Whoever waited at a node that drains goes on waiting at another: a restart
// must not make everybody load.
func TestWaitIsResumedWhenANodeDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := fake.New()
		leaving := &leavingBackend{shared, make(chan struct{}), make(chan struct{})}
		join := func(b soracache.Backend) *client.Client {
			c, err := client.New(b, client.Logger(nil))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		loader, waiter := join(shared), join(cluster.Nodes(quiet(), leaving, shared))
		defer func() { _, _ = loader.Close(), waiter.Close() }()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = client.GetOrSet(t.Context(), loader, "k", func(context.Context) (string, error) {
				<-leaving.waits
				time.Sleep(time.Second)
				close(leaving.gone)
				time.Sleep(time.Second)
				return "loaded", nil
			})
		})
		synctest.Wait()
		v, err := client.GetOrSet(t.Context(), waiter, "k", returns("loaded again"))
		if v != "loaded" || err != nil {
			t.Errorf("got %q, %v", v, err)
		}
		wg.Wait()
	})
}

// A lease from one node is completed at another, and a fill whose answer is
// lost is not taken for one that came too late.
func TestFillMovesOn(t *testing.T) {
	l2 := fake.New() // what the nodes share
	lease := func() soracache.Lease {
		l2.Apply(soracache.Write{Op: soracache.OpPut, Key: "other"})
		rs, err := l2.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k", Lease: true}}})
		if err != nil || rs[0].Lease == (soracache.Lease{}) {
			t.Fatalf("no lease: %v, %v", rs, err)
		}
		return rs[0].Lease
	}
	fill := func(b soracache.Backend, id soracache.Lease) (soracache.WriteResult, error) {
		rs, err := b.Write(t.Context(), soracache.WriteRequest{Writes: []soracache.Write{{
			Op: soracache.OpFill, Key: "k", Lease: id, Lifetime: soracache.Lifetime{TTL: time.Hour}, Entry: soracache.Entry{Value: []byte("v")},
		}}})
		if err != nil {
			return soracache.WriteResult{}, err
		}
		return rs[0], rs[0].Err
	}
	id := lease()
	if res, err := fill(cluster.Nodes(quiet(), &breaking{err: errBroken}, l2), id); err != nil || !res.Stored {
		t.Errorf("the first node lost it: %+v, %v", res, err)
	}
	l2.Put("k", soracache.Entry{})
	l2.Clear()
	id = lease()
	if res, err := fill(cluster.Nodes(quiet(), &ranAndBroke{l2}, l2), id); !errors.Is(err, errBroken) {
		t.Errorf("the first node stored it and broke: %+v, %v; want to be told that nobody knows", res, err)
	}
	if _, stored := l2.Stored("k"); !stored {
		t.Error("not stored")
	}
	if res, err := fill(cluster.Nodes(quiet(), l2), id); err != nil || res.Reason != soracache.ReasonLeaseLost {
		t.Errorf("a lost lease: %+v, %v", res, err)
	}
}

// ranAndBroke does what it is asked, and its answer is lost.
type ranAndBroke struct{ *fake.Service }

func (r *ranAndBroke) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	_, _ = r.Service.Write(ctx, req)
	return nil, errBroken
}

// An invalidation that is to be acknowledged has all the time of its caller at
// one node; another moves on in half of it.
func TestInvalidationAtANodeThatHangs(t *testing.T) {
	for _, acknowledge := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			well := fake.New()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := cluster.Nodes(quiet(), &hungBackend{}, well).Invalidate(ctx, soracache.InvalidateRequest{
				Targets: []soracache.Target{soracache.Everything()}, Acknowledge: acknowledge,
			})
			if moved := len(well.Invalidations) == 1; moved == acknowledge || (err == nil) == acknowledge {
				t.Errorf("acknowledge %v: moved on %v, error %v", acknowledge, moved, err)
			}
		})
	}
}

// What is wrong with the request is wrong at every node, and an invalidation
// that was recorded and not acknowledged in time is not done again.
func TestRefusalsDoNotMoveOn(t *testing.T) {
	for _, refusal := range []error{
		soracache.ErrInvalid, soracache.ErrTooLarge, soracache.ErrUnauthenticated, soracache.ErrPermissionDenied,
		soracache.ErrUnimplemented, &soracache.IncompleteError{Cause: context.DeadlineExceeded},
	} {
		first, well := &breaking{err: refusal}, fake.New()
		b := cluster.Nodes(quiet(), first, well)
		for range 2 {
			_, err := b.Invalidate(t.Context(), soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Everything()}})
			if !errors.Is(err, refusal) {
				t.Errorf("%v: got %v", refusal, err)
			}
		}
		if len(well.Invalidations) > 0 || len(first.calls) != 2 {
			t.Errorf("%v: moved on", refusal)
		}
	}
}

func (*breaking) Watch(context.Context, soracache.WatchRequest, func([]soracache.WatchItem) error) error {
	return soracache.ErrUnimplemented
}

func (*hungBackend) Watch(context.Context, soracache.WatchRequest, func([]soracache.WatchItem) error) error {
	return soracache.ErrUnimplemented
}
