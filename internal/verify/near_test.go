package verify

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/redistest"
)

// streams is a transport on which watches can be cut and stalled, while all else
// passes.
type streams struct {
	http.RoundTripper

	mu     sync.Mutex
	open   map[*stream]struct{}
	paused chan struct{} // nil: they are not stalled; closed when they go on

	cuts, stalls atomic.Int64
}

// stream is the body of one watch's answer.
type stream struct {
	io.ReadCloser

	of  *streams
	cut context.CancelFunc
}

func (s *streams) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(r.URL.Path, "/Watch") {
		return s.RoundTripper.RoundTrip(r)
	}
	ctx, cut := context.WithCancel(r.Context())
	res, err := s.RoundTripper.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cut()
		return nil, err
	}
	body := &stream{res.Body, s, cut}
	res.Body = body
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[body] = struct{}{}
	return res, nil
}

// Read waits as long as streams are stalled: what the server sends stays in the
// buffers of the connection.
func (b *stream) Read(p []byte) (int, error) {
	b.of.mu.Lock()
	paused := b.of.paused
	b.of.mu.Unlock()
	if paused != nil {
		<-paused
	}
	return b.ReadCloser.Read(p)
}

func (b *stream) Close() error {
	b.of.mu.Lock()
	delete(b.of.open, b)
	b.of.mu.Unlock()
	b.cut()
	return b.ReadCloser.Close()
}

// cut breaks all streams.
func (s *streams) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.open {
		s.cuts.Add(1)
		b.cut()
	}
}

// stall has nobody read for a while.
func (s *streams) stall(ctx context.Context, long time.Duration) {
	paused := make(chan struct{})
	s.mu.Lock()
	s.paused = paused
	s.mu.Unlock()
	s.stalls.Add(1)
	select {
	case <-time.After(long):
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.paused = nil
	s.mu.Unlock()
	close(paused)
}

// Clients with near caches go on while their streams are cut and stalled and the
// nodes are killed and restarted: nobody gets a value whose load began before an
// invalidation that had succeeded more than the bound before.
func TestNearWhileStreamsBreak(t *testing.T) {
	const nodes, bound = 5, 400 * time.Millisecond
	f := startFleet(t, nodes, redistest.Standalone(t).URL(), "--bound", bound.String())
	s := &streams{RoundTripper: &http.Transport{MaxIdleConnsPerHost: 100}, open: map[*stream]struct{}{}}
	tr := newTraffic(t, f, 3, bound, client.Bound(bound), client.HTTPClient(&http.Client{Transport: s}))
	tr.near, tr.rest = true, 5*time.Millisecond
	tr.pause = func() { // some hundred microseconds a call: near hits take one
		if rand.IntN(20) == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	for _, it := range tr.items {
		tr.call(t.Context(), tr.clients[0], it, 0)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { tr.run(ctx, 3) })
	wg.Go(func() {
		for ctx.Err() == nil {
			if rand.IntN(3) == 0 {
				s.stall(ctx, time.Duration(rand.Int64N(int64(4*bound))))
			} else {
				s.cut()
			}
			time.Sleep(time.Duration(rand.Int64N(int64(bound / 4))))
		}
	})
	restarts := 0
	for want := int64(count(50_000, 1_000_000)); tr.calls.Load() < want || restarts < count(4, 60); restarts++ {
		d := f[rand.IntN(nodes)]
		if rand.IntN(2) == 0 {
			d.kill()
		} else {
			d.terminate()
		}
		time.Sleep(time.Duration(rand.Int64N(int64(bound))))
		d.start()
		d.awaitReady()
		if t.Failed() {
			break
		}
	}
	stop()
	wg.Wait()
	t.Logf("%d reads (%d near, %d in L1, %d in L2), %d wrong; %d invalidations; %d restarts, %d streams cut, %d times stalled; %v",
		tr.calls.Load(), tr.hits[1].Load(), tr.hits[2].Load(), tr.hits[3].Load(), tr.wrong.Load(), tr.changes.Load(),
		restarts, s.cuts.Load(), s.stalls.Load(), tr.why)
	if tr.hits[1].Load() < tr.calls.Load()/10 {
		t.Error("too few reads were served near to mean anything")
	}
}
