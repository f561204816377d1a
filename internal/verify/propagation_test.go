package verify

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/invalidation/gossip"
	"github.com/soracache/soracache/l2"
)

// startGossiping runs nodes that know each other through real sockets on
// loopback. Each is made of its own store and what edit makes of its
// configuration.
func startGossiping(t *testing.T, open func() l2.Store, count int, bound time.Duration, edit func(i int, cfg *node.Config)) []*node.Node {
	t.Helper()
	var nodes []*node.Node
	var members []*gossip.Gossip
	for i := range count {
		var join []string
		if i > 0 {
			join = []string{members[0].Address()}
		}
		g, err := gossip.New(gossip.Config{
			Name: gossip.UniqueName("node" + strconv.Itoa(i)), Bind: "127.0.0.1:0", Join: join, Bound: bound,
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = g.Close() })
		cfg := node.Config{Name: g.Name(), Store: open(), Peers: g, Bound: bound, L1MaxBytes: 16 << 20}
		if edit != nil {
			edit(i, &cfg)
		}
		n, err := node.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		g.Start(func(notice invalidation.Notice) { n.Receive(notice) })
		nodes, members = append(nodes, n), append(members, g)
	}
	eventually(t, 20*time.Second, "all nodes know each other", func() bool {
		for _, g := range members {
			if len(g.Members()) != count {
				return false
			}
		}
		return true
	})
	return nodes
}

// propagation is what became of a run of numbered invalidations at the nodes
// that they were not made at.
type propagation struct {
	began []time.Time // of each invalidation's call

	mu      sync.Mutex
	taken   []map[int]bool // by node: which were taken in
	took    []time.Duration
	fast    int // first heard of from a peer
	repairs int // first heard of from the ledger
}

// recorded is the Observer of one node.
func (p *propagation) recorded(at int) func(string, int, soracache.Record, node.Source) {
	return func(_ string, _ int, r soracache.Record, from node.Source) {
		now := time.Now()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, target := range r.Targets {
			i, err := strconv.Atoi(strings.TrimPrefix(target.Name, "number"))
			if err != nil || p.taken[at][i] {
				continue
			}
			p.taken[at][i] = true
			p.took = append(p.took, now.Sub(p.began[i]))
			if from == node.FromPeer {
				p.fast++
			} else {
				p.repairs++
			}
		}
	}
}

// pace calls do for each number from from up to to, a thousand times a second,
// whatever earlier calls take, and waits for all of them.
func pace(from, to int, do func(i int)) {
	var wg sync.WaitGroup
	began := time.Now()
	for i := from; i < to; i++ {
		time.Sleep(time.Until(began.Add(time.Duration(i-from) * time.Millisecond)))
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}

// Five nodes, one Redis, a thousand invalidations a second at one of them: how
// long after the start of the call the four others refuse the old value,
// against what Redis itself takes to tell four subscribers, in the same run.
func TestPropagation(t *testing.T) {
	const nodes, block = 5, 1000
	total := count(2*block, 10*block)
	server := redistest.Standalone(t)
	p := &propagation{began: make([]time.Time, total), taken: make([]map[int]bool, nodes)}
	for i := range p.taken {
		p.taken[i] = map[int]bool{}
	}
	var appends sample
	all := startGossiping(t, openRedis(t, server.URL()), nodes, time.Second, func(i int, cfg *node.Config) {
		if i == 0 {
			cfg.Observer.StoreCall = func(kind string, took time.Duration, _ error) {
				if kind == "invalidate" {
					appends.add(took)
				}
			}
			return
		}
		cfg.Observer.Recorded = p.recorded(i)
	})
	for _, n := range all { // the partition is in use everywhere
		read(t, n, soracache.Read{Key: "k"})
	}
	published := subscribe(t, server, nodes-1, total)

	// In turns, so that neither is measured under the other's load.
	for from := 0; from < total; from += block {
		pace(from, from+block, func(i int) {
			p.mu.Lock()
			p.began[i] = time.Now()
			p.mu.Unlock()
			invalidateOnly(t, all[0], soracache.Tag("number"+strconv.Itoa(i)))
		})
		pace(from, from+block, published.publish)
	}
	eventually(t, 10*time.Second, "every invalidation has reached every node", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.took) == total*(nodes-1)
	})
	eventually(t, 10*time.Second, "every message has reached every subscriber", func() bool {
		return published.took.len() == total*(nodes-1)
	})

	var propagated sample
	propagated.all = p.took
	limit := published.took.median() + appends.median()
	ratio := float64(propagated.median()) / float64(limit)
	t.Logf("%d invalidations, each taken in by all %d other nodes: %d by the fast path, %d by repair",
		total, nodes-1, p.fast, p.repairs)
	t.Logf("refused after: %s", &propagated)
	t.Logf("Redis publish to receive: %s", &published.took)
	t.Logf("append: %s", &appends)
	t.Logf("median propagation is %.2f times publish-to-receive plus append", ratio)
	if full() && ratio > 1.2 {
		t.Errorf("%s is more than 1.2 times %s", propagated.median(), limit)
	}
}

// invalidateOnly is invalidate for goroutines of a test.
func invalidateOnly(t *testing.T, b soracache.Backend, targets ...soracache.Target) {
	if _, err := b.Invalidate(context.Background(), soracache.InvalidateRequest{Targets: targets}); err != nil {
		t.Error(err)
	}
}

// publication measures Redis's own publish and subscribe.
type publication struct {
	t      *testing.T
	client *goredis.Client
	began  []atomic.Int64 // of each message's publication, in nanoseconds since start
	start  time.Time
	took   sample
}

func subscribe(t *testing.T, server *redistest.Server, subscribers, messages int) *publication {
	t.Helper()
	p := &publication{t: t, client: server.Client(t), began: make([]atomic.Int64, messages), start: time.Now()}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for range subscribers {
		sub := server.Client(t).Subscribe(t.Context(), "verify")
		t.Cleanup(func() { _ = sub.Close() })
		if _, err := sub.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for {
				m, err := sub.ReceiveMessage(context.Background())
				if err != nil {
					return // closed
				}
				now := time.Since(p.start)
				if i, err := strconv.Atoi(m.Payload); err == nil {
					p.took.add(now - time.Duration(p.began[i].Load()))
				}
			}
		})
	}
	return p
}

func (p *publication) publish(i int) {
	p.began[i].Store(int64(time.Since(p.start)))
	if err := p.client.Publish(context.Background(), "verify", strconv.Itoa(i)).Err(); err != nil {
		p.t.Error(err)
	}
}

// The report of a record is what the last test counts by: from then on, a node
// that holds the old value in memory does not serve it.
func TestRecordedMeansRefused(t *testing.T) {
	const nodes = 3
	rounds := count(100, 2000)
	type report struct {
		node int
		tag  string
	}
	reports := make(chan report, 10*nodes*rounds) // it must not block
	all := startGossiping(t, openRedis(t, redistest.Standalone(t).URL()), nodes, time.Minute, func(i int, cfg *node.Config) {
		cfg.Observer.Recorded = func(_ string, _ int, r soracache.Record, _ node.Source) {
			for _, target := range r.Targets {
				reports <- report{i, target.Name}
			}
		}
	})
	for round := range rounds {
		key, tag, old := "k"+strconv.Itoa(round%10), "t"+strconv.Itoa(round), "old "+strconv.Itoa(round)
		lease := read(t, all[0], soracache.Read{Key: key, Lease: true}).Lease
		write(t, all[0], fill(key, lease, old, tag))
		for _, n := range all {
			eventually(t, 5*time.Second, "the value is in memory", func() bool {
				res := read(t, n, soracache.Read{Key: key})
				return res.Tier == soracache.TierL1 && string(res.Entry.Value) == old
			})
		}
		go invalidateOnly(t, all[round%nodes], soracache.Tag(tag))
		for reported := map[int]bool{}; len(reported) < nodes; {
			r := <-reports
			if r.tag != tag || reported[r.node] {
				continue // a record may be reported again
			}
			reported[r.node] = true
			if res := read(t, all[r.node], soracache.Read{Key: key}); string(res.Entry.Value) == old {
				t.Fatalf("round %d: node %d took the record in and serves the old value from %s", round, r.node, res.Tier)
			}
		}
	}
}
