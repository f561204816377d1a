package verify

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/redis"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// network is a cluster whose lines can be cut.
type network struct {
	sites []*site
	// gossip and store cut or mend what a site hears of the others by, and what
	// it reaches Redis by.
	gossip, store func(site int, up bool)
}

// watch is one value that changes all the time, invalidated at site 0, and read
// in a closed loop at every site: how old is what they serve.
type watch struct {
	t     *testing.T
	bound time.Duration
	net   *network

	source atomic.Int64
	mu     sync.Mutex
	// answered is when the invalidation that made way for each version was
	// answered: since then, what comes before it is old.
	answered []time.Time
	seen     []sight // by site
}

// sight is what reads at one site returned since the last report.
type sight struct {
	reads, fromL1, old, errors int
	oldest                     time.Duration // the longest that a version was old that was served
	lastL1                     time.Time     // when the last read began that L1 answered
}

func newWatch(t *testing.T, net *network, bound time.Duration) *watch {
	return &watch{t: t, bound: bound, net: net, answered: make([]time.Time, 1), seen: make([]sight, len(net.sites))}
}

// run goes on until ctx ends.
func (w *watch) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range w.net.sites {
		wg.Go(func() {
			for ctx.Err() == nil {
				w.read(ctx, i)
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			w.change(ctx)
			time.Sleep(20 * time.Millisecond) // so that L1 comes into it
		}
	})
	wg.Wait()
}

func (w *watch) change(ctx context.Context) {
	// By key in every other turn, which also ends the lease that a node may hold
	// that was cut off while it loaded.
	what := &soracachev1.InvalidateRequest{Tags: []string{"watched"}}
	if w.source.Add(1)%2 == 0 {
		what = &soracachev1.InvalidateRequest{Keys: []string{"watched"}}
	}
	for {
		_, err := w.net.sites[0].cache.Invalidate(ctx, what)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			break
		}
		w.t.Errorf("invalidate: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = append(w.answered, time.Now())
}

func (w *watch) read(ctx context.Context, i int) {
	began, s := time.Now(), w.net.sites[i]
	bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res, err := s.cache.Get(bounded, &soracachev1.GetRequest{Key: "watched", Lease: true})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.failed(i, err)
		return
	}
	if len(res.GetLease()) > 0 {
		value := strconv.FormatInt(w.source.Load(), 10)
		_, _ = s.cache.Fill(bounded, &soracachev1.FillRequest{
			Key: "watched", Lease: res.GetLease(), Value: []byte(value), Tags: []string{"watched"}, Ttl: durationpb.New(time.Hour),
		})
		return
	}
	if res.GetStatus() == soracachev1.Status_STATUS_HIT {
		w.judge(i, began, res)
	}
}

// failed counts an error: only that the node is unavailable is in order.
func (w *watch) failed(i int, err error) {
	w.mu.Lock()
	w.seen[i].errors++
	w.mu.Unlock()
	if connect.CodeOf(err) != connect.CodeUnavailable {
		w.t.Errorf("read at %s: %v", w.net.sites[i].url, err)
	}
	time.Sleep(time.Millisecond)
}

func (w *watch) judge(i int, began time.Time, res *soracachev1.GetResponse) {
	version, err := strconv.Atoi(string(res.GetValue()))
	if err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := &w.seen[i]
	seen.reads++
	if res.GetTier() == soracachev1.Tier_TIER_L1 {
		seen.fromL1++
		seen.lastL1 = began
	}
	if next := version + 1; next < len(w.answered) && began.After(w.answered[next]) {
		seen.old++
		seen.oldest = max(seen.oldest, began.Sub(w.answered[next]))
	}
}

// report tells and returns what was seen since the last report.
func (w *watch) report(phase string) []sight {
	w.t.Helper()
	seen := w.judged(phase)
	for i, s := range seen {
		w.t.Logf("%s, node %d: %d reads (%d from L1), %d of what was old, for %s at most; %d errors",
			phase, i, s.reads, s.fromL1, s.old, s.oldest.Round(time.Microsecond), s.errors)
	}
	return seen
}

// judged is report that complains of what is older than the bound, and says
// nothing else.
func (w *watch) judged(phase string) []sight {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = make([]sight, len(seen))
	for i, s := range seen {
		if s.oldest > w.bound {
			w.t.Errorf("%s: node %d served what had been old for %s, with a bound of %s", phase, i, s.oldest, w.bound)
		}
	}
	return seen
}

// cuts takes a network through everything that can be cut.
func cuts(t *testing.T, net *network, bound time.Duration) {
	w := newWatch(t, net, bound)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	defer running.Wait()
	defer stop()
	long := time.Duration(count(int(time.Second), int(30*time.Second)))

	time.Sleep(long)
	for i, s := range w.report("all well") {
		if s.errors > 0 || s.fromL1 == 0 {
			t.Errorf("node %d: %d errors, %d reads from L1", i, s.errors, s.fromL1)
		}
	}
	for i := range net.sites {
		net.gossip(i, false)
	}
	time.Sleep(long)
	for i, s := range w.report("no gossip") {
		if s.errors > 0 || i > 0 && s.old == 0 {
			t.Errorf("node %d: %d errors; %d reads were old, so gossip was blocked: %v", i, s.errors, s.old, s.old > 0)
		}
	}
	w.acknowledged(ctx, len(net.sites)-1)
	for i := range net.sites {
		net.gossip(i, true)
	}
	w.healed(ctx)
	w.judged("gossip is back")

	const victim = 1
	w.cutOff(ctx, "no Redis", victim, long, net.store)
	w.cutOff(ctx, "no Redis and no gossip", victim, long, func(i int, up bool) {
		net.gossip(i, up)
		net.store(i, up)
	})
}

// cutOff cuts one node off from Redis: within the bound it serves nothing from
// L1, and says so. Once it is mended it works again.
func (w *watch) cutOff(ctx context.Context, phase string, victim int, long time.Duration, line func(site int, up bool)) {
	w.t.Helper()
	w.judged("before " + phase)
	began := time.Now()
	line(victim, false)
	cut := time.Now()
	took := eventually(w.t, 10*time.Second, "it says that it is not ready", func() bool { return !w.net.sites[victim].ready() })
	eventually(w.t, 10*time.Second, "it answers that it is not available", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.seen[victim].errors > 0
	})
	time.Sleep(long)
	for i, s := range w.report(phase) {
		if i == victim {
			served := max(0, s.lastL1.Sub(cut)) // less than nothing: not at all
			w.t.Logf("%s: node %d served from L1 for %s after the cut (which took %s), and was not ready after %s",
				phase, i, served.Round(time.Millisecond), cut.Sub(began).Round(time.Millisecond), took.Round(time.Millisecond))
			if served > w.bound || s.errors == 0 {
				w.t.Errorf("%s: it served from L1 for %s, with a bound of %s, and answered %d errors", phase, served, w.bound, s.errors)
			}
		} else if s.errors > 0 || s.fromL1 == 0 {
			w.t.Errorf("%s: node %d suffers: %d errors, %d reads from L1", phase, i, s.errors, s.fromL1)
		}
	}
	line(victim, true)
	mended := eventually(w.t, 30*time.Second, "it is ready again", w.net.sites[victim].ready)
	w.t.Logf("%s: ready again %s after it was mended", phase, mended.Round(time.Millisecond))
	w.healed(ctx)
	w.judged("after " + phase)
}

// acknowledged has invalidations acknowledged while nobody is heard: all others
// are waited out.
func (w *watch) acknowledged(ctx context.Context, stragglers int) {
	w.t.Helper()
	var took sample
	for range count(3, 20) {
		began := time.Now()
		res, err := w.net.sites[0].cache.Invalidate(ctx, &soracachev1.InvalidateRequest{Keys: []string{"other"}, Acknowledge: true})
		if err != nil || len(res.GetStragglers()) != stragglers {
			w.t.Errorf("acknowledged without gossip: %d stragglers, want %d: %v", len(res.GetStragglers()), stragglers, err)
		}
		took.add(time.Since(began))
	}
	w.t.Logf("acknowledged without gossip, %d stragglers: %s", stragglers, &took)
}

// healed waits until every node acknowledges so soon that none had to be
// reminded: each hears the others at once, is heard, and follows the ledger.
func (w *watch) healed(ctx context.Context) {
	w.t.Helper()
	took := eventually(w.t, time.Minute, "all nodes acknowledge again", func() bool {
		for _, s := range w.net.sites {
			began := time.Now()
			res, err := s.cache.Invalidate(ctx, &soracachev1.InvalidateRequest{Keys: []string{"other"}, Acknowledge: true})
			if err != nil || len(res.GetStragglers()) > 0 || time.Since(began) > w.bound/10 {
				return false
			}
		}
		return true
	})
	w.t.Logf("every node acknowledges every other %s later", took.Round(time.Millisecond))
}

// The same without any privilege: nodes in this process behind real servers,
// with a transport that drops, and a proxy in front of Redis that stalls.
func TestLinesCutByDroppingTransports(t *testing.T) {
	t.Parallel() // it mostly waits
	const nodes, bound = 3, 500 * time.Millisecond
	redisServer := redistest.Standalone(t)
	net := &network{}
	var lines []*droppable
	var proxies []*redistest.Proxy
	open := func() l2.Store {
		proxy := redistest.NewProxy(t)
		proxies = append(proxies, proxy)
		store, err := redis.Open(t.Context(), redis.Config{URL: redisServer.URL(), Prefix: prefixOf(t), Dial: proxy.Dial})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		return store
	}
	all := startGossiping(t, open, nodes, bound, func(_ int, cfg *node.Config) {
		line := &droppable{Peers: cfg.Peers}
		cfg.Peers = line
		lines = append(lines, line)
	})
	for _, n := range all {
		net.sites = append(net.sites, serve(t, n))
	}
	net.gossip = func(i int, up bool) { lines[i].cut.Store(!up) }
	net.store = func(i int, up bool) { proxies[i].Stall(!up) }
	cuts(t, net, bound)
}

// droppable is Peers that may send nothing.
type droppable struct {
	node.Peers

	cut atomic.Bool
}

func (d *droppable) Publish(n invalidation.Notice) {
	if !d.cut.Load() {
		d.Peers.Publish(n)
	}
}

func (d *droppable) Tell(member string, n invalidation.Notice) {
	if !d.cut.Load() {
		d.Peers.Tell(member, n)
	}
}

// serve puts a node of this process on the wire.
func serve(t *testing.T, n *node.Node) *site {
	t.Helper()
	srv, err := server.New(server.Config{Listen: "127.0.0.1:0"}, n, server.Hooks{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l, err := srv.Listen(ctx)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return newSite(t, l.Addr().String())
}
