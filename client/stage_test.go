package client_test

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// stage is two processes of an application, a cache node and its store, in
// virtual time.
type stage struct {
	*testing.T
	store *brittleStore
	node  *node.Node
	// a and b are the processes.
	a, b *process
}

// process has a client, a way to the node, and what its hooks were told.
type process struct {
	*testing.T
	*client.Client
	track *track
	told  *told
	door  door // by which it asks
}

// brittleStore fails on demand.
type brittleStore struct {
	l2.Store
	down atomic.Bool
}

func (s *brittleStore) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	if s.down.Load() {
		return slices.Repeat([]l2.ReadAnswer{{Err: soracache.ErrUnavailable}}, len(reqs))
	}
	return s.Store.Read(ctx, reqs)
}

func (s *brittleStore) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	if s.down.Load() {
		return slices.Repeat([]l2.WriteAnswer{{Err: soracache.ErrUnavailable}}, len(reqs))
	}
	return s.Store.Write(ctx, reqs)
}

func (s *brittleStore) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	if s.down.Load() {
		return slices.Repeat([]l2.SinceAnswer{{Err: soracache.ErrUnavailable}}, len(reqs))
	}
	return s.Store.Since(ctx, reqs)
}

// track is a process's way to the node. It counts what is asked, and can be cut.
type track struct {
	soracache.Backend
	reads, writes, unconfirmed atomic.Int64
	down                       atomic.Bool
	after                      atomic.Int64 // it is cut after so many more requests for reads, if not zero
	onGet                      func(soracache.GetRequest)
	// mostWait is how long a read may wait, if that is limited, and refused counts
	// those that asked for more.
	mostWait atomic.Pointer[time.Duration]
	refused  atomic.Int64
}

func (r *track) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	r.reads.Add(int64(len(req.Reads)))
	if req.AcceptUnconfirmed {
		r.unconfirmed.Add(1)
	}
	if r.onGet != nil {
		r.onGet(req)
	}
	if r.down.Load() {
		return nil, soracache.ErrUnavailable
	}
	if r.after.Load() > 0 && r.after.Add(-1) == 0 {
		defer r.down.Store(true)
	}
	if most := r.mostWait.Load(); most != nil && slices.ContainsFunc(req.Reads, func(read soracache.Read) bool { return read.Wait > *most }) {
		r.refused.Add(1)
		return nil, fmt.Errorf("%w: a longer wait than %s", soracache.ErrInvalid, *most)
	}
	return r.Backend.Get(ctx, req)
}

func (r *track) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	r.writes.Add(int64(len(req.Writes)))
	if r.down.Load() {
		return nil, soracache.ErrUnavailable
	}
	return r.Backend.Write(ctx, req)
}

func (r *track) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	if r.down.Load() {
		return soracache.InvalidateResult{}, soracache.ErrUnavailable
	}
	return r.Backend.Invalidate(ctx, req)
}

func (r *track) Head(ctx context.Context, namespace string) (soracache.HeadResult, error) {
	if r.down.Load() {
		return soracache.HeadResult{}, soracache.ErrUnavailable
	}
	return r.Backend.Head(ctx, namespace)
}

// told is what hooks were told.
type told struct {
	mu         sync.Mutex
	stale      []client.StaleReason
	refreshes  []client.RefreshReason
	refreshed  []error
	superseded []soracache.Reason
	notStored  []error
	loads      int
	states     []client.SourceState
	rejected   []error
}

func (o *told) hooks() client.Hooks {
	locked := func(do func()) {
		o.mu.Lock()
		defer o.mu.Unlock()
		do()
	}
	return client.Hooks{
		OnStale: func(_ string, _ soracache.Tier, why client.StaleReason) {
			locked(func() { o.stale = append(o.stale, why) })
		},
		OnRefresh: func(_ string, why client.RefreshReason) { locked(func() { o.refreshes = append(o.refreshes, why) }) },
		OnRefreshed: func(_ string, _ time.Duration, err error) {
			locked(func() { o.refreshed = append(o.refreshed, err) })
		},
		OnFillSuperseded: func(_ string, r soracache.Reason) { locked(func() { o.superseded = append(o.superseded, r) }) },
		OnNotStored:      func(_ string, why error) { locked(func() { o.notStored = append(o.notStored, why) }) },
		OnLoad:           func(string, time.Duration, error) { locked(func() { o.loads++ }) },
		OnSource: func(_ string, state client.SourceState) {
			locked(func() { o.states = append(o.states, state) })
		},
		OnRejected: func(_, _ string, why error) { locked(func() { o.rejected = append(o.rejected, why) }) },
	}
}

// onStage plays in virtual time. One that does not end would go on for ever: L1
// has a clockwork of its own.
func onStage(t *testing.T, play func(s *stage), opts ...client.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		endless := time.AfterFunc(100*time.Hour, func() {
			debug.SetTraceback("all")
			panic(t.Name() + " does not end")
		})
		defer endless.Stop()
		s := &stage{T: t, store: &brittleStore{Store: l2model.New(l2model.Config{})}}
		n, err := node.New(node.Config{Store: s.store, L1MaxBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		s.node = n
		s.a, s.b = s.process(opts...), s.process(opts...)
		play(s)
	})
}

func (s *stage) process(opts ...client.Option) *process {
	p := &process{T: s.T, track: &track{Backend: s.node}, told: &told{}, door: doors[0]}
	c, err := client.New(p.track, append([]client.Option{client.Logger(nil), client.WithHooks(p.told.hooks())}, opts...)...)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = c.Close() })
	p.Client = c
	// Its near cache begins to watch with the first read.
	_, _, _ = client.Get[string](s.Context(), c, "warm")
	synctest.Wait()
	return p
}

// cut makes the node unreachable for everybody.
func (s *stage) cut() {
	s.a.track.down.Store(true)
	s.b.track.down.Store(true)
}

// explain tells what is stored under a key.
func (s *stage) explain(key string) node.Copy {
	s.Helper()
	e, err := s.node.Explain(s.Context(), soracache.DefaultNamespace, key)
	if err != nil {
		s.Fatal(err)
	}
	return e.L2
}

func (s *stage) leased(key string) bool {
	s.Helper()
	e, err := s.node.Explain(s.Context(), soracache.DefaultNamespace, key)
	if err != nil {
		s.Fatal(err)
	}
	return e.Leased
}

// origin is what loaders ask: a table with one row, with faults.
type origin struct {
	mu    sync.Mutex
	value string
	err   error
	takes time.Duration
	deaf  bool          // loaders do not heed their context
	crash any           // loaders panic with it
	wait  chan struct{} // loaders wait until it is closed
	with  func(ctx context.Context)

	calls int
}

func newOrigin(value string) *origin { return &origin{value: value} }

func (s *origin) set(change func(*origin)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// becomes has the source give another value from now on.
func (s *origin) becomes(value string) { s.set(func(s *origin) { s.value, s.err = value, nil }) }

func (s *origin) fails(err error) { s.set(func(s *origin) { s.err = err }) }

func (s *origin) slow(d time.Duration) { s.set(func(s *origin) { s.takes = d }) }

func (s *origin) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// load reads the source as it is when the loader begins.
func (s *origin) load(ctx context.Context) (string, error) {
	s.mu.Lock()
	s.calls++
	value, err, takes, deaf, crash, wait, with := s.value, s.err, s.takes, s.deaf, s.crash, s.wait, s.with
	s.mu.Unlock()
	if with != nil {
		with(ctx)
	}
	ended := ctx.Done()
	if deaf {
		ended = nil
	}
	select {
	case <-time.After(takes):
	case <-ended:
		return "", ctx.Err()
	}
	if wait != nil {
		select {
		case <-wait:
		case <-ended:
			return "", ctx.Err()
		}
	}
	if crash != nil {
		panic(crash)
	}
	return value, err
}

// get is GetOrSet of the key k in a goroutine.
func (p *process) get(src *origin, opts ...client.CallOption) <-chan result {
	return p.getIn(p.Context(), "k", src, opts...)
}

func (p *process) getIn(ctx context.Context, key string, src *origin, opts ...client.CallOption) <-chan result {
	ch := make(chan result, 1)
	go func() {
		v, err := p.door.ask(ctx, p.Client, key, src.load, opts...)
		ch <- result{v, err}
	}()
	return ch
}

// want is GetOrSet of the key k, which is to give this value at once.
func (p *process) want(want string, src *origin, opts ...client.CallOption) {
	p.Helper()
	p.wantAfter(0, want, src, opts...)
}

// wantAfter is want, when it has taken some time.
func (p *process) wantAfter(took time.Duration, want string, src *origin, opts ...client.CallOption) {
	p.Helper()
	start := time.Now()
	if r := <-p.get(src, opts...); r.err != nil || r.value != want || time.Since(start) != took {
		p.Errorf("got %q, %v after %s; want %q after %s", r.value, r.err, time.Since(start), want, took)
	}
	synctest.Wait() // for what goes on behind it, unless that takes time
}

// wantErr is GetOrSet of the key k, which is to fail.
func (p *process) wantErr(target error, src *origin, opts ...client.CallOption) {
	p.Helper()
	if r := <-p.get(src, opts...); !errors.Is(r.err, target) {
		p.Errorf("got %q, %v; want the error %v", r.value, r.err, target)
	}
	synctest.Wait()
}

func (p *process) invalidate(tags ...string) {
	p.Helper()
	if _, err := p.InvalidateTags(p.Context(), tags...); err != nil {
		p.Fatal(err)
	}
	synctest.Wait()
}

// stale tells why stale values were served, since it was last asked.
func (p *process) stale() []client.StaleReason {
	p.told.mu.Lock()
	defer p.told.mu.Unlock()
	defer func() { p.told.stale = nil }()
	return p.told.stale
}

func (p *process) wantStale(why ...client.StaleReason) {
	p.Helper()
	if got := p.stale(); !slices.Equal(got, why) {
		p.Errorf("stale values were served because of %v, want %v", got, why)
	}
}

func (s *stage) wantCalls(src *origin, want int) {
	s.Helper()
	if n := src.count(); n != want {
		s.Errorf("the source was asked %d times, want %d", n, want)
	}
}
