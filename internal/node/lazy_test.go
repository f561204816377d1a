package node_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
)

// asked is how many questions for deltas the store was sent since the last time.
func (s *brittle) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.sinces
	s.sinces = 0
	return n
}

func onLazy(t *testing.T, test func(s *brittle, c *cluster, get func(namespace string) soracache.ReadResult)) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		s := newBrittle()
		n, err := node.New(node.Config{Store: s, Bound: bound, L1MaxBytes: 4 << 20, MeterEvery: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		test(s, &cluster{t: t, nodes: []*node.Node{n}}, func(namespace string) soracache.ReadResult {
			rs, err := n.Get(context.Background(), soracache.GetRequest{Namespace: namespace, Reads: []soracache.Read{{Key: "k"}}})
			if err != nil {
				t.Fatal(err)
			}
			return rs[0]
		})
	})
}

func (c *cluster) putIn(namespace, value string) {
	c.t.Helper()
	if _, err := c.nodes[0].Write(context.Background(), soracache.WriteRequest{Namespace: namespace, Writes: []soracache.Write{{
		Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte(value)}, Lifetime: soracache.Lifetime{TTL: time.Hour},
	}}}); err != nil {
		c.t.Fatal(err)
	}
}

// Namespaces that nobody reads cost the store nothing, though they were read a
// moment ago.
func TestWhatIsNotReadIsNotConfirmed(t *testing.T) {
	onLazy(t, func(s *brittle, c *cluster, get func(string) soracache.ReadResult) {
		for i := range 500 {
			get("ns" + strconv.Itoa(i))
		}
		time.Sleep(6 * bound)
		s.asked()
		before := c.nodes[0].Stats()
		time.Sleep(30 * time.Second)
		if n := s.asked(); n > 0 {
			t.Errorf("%d questions in 30 s", n)
		}
		if after := c.nodes[0].Stats(); after.Confirmations != before.Confirmations {
			t.Errorf("%d confirmations in 30 s", after.Confirmations-before.Confirmations)
		}
		if err := c.nodes[0].Ready(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// What is read now and then is confirmed by that read, which goes to the store, and
// sees what was invalidated meanwhile. What comes after it is served from memory.
func TestFirstReadAfterAWhileGoesToTheStore(t *testing.T) {
	onLazy(t, func(s *brittle, c *cluster, get func(string) soracache.ReadResult) {
		c.putIn("a", "v1")
		for _, pause := range []time.Duration{6 * bound, 10 * time.Second, 50 * time.Second, 10 * time.Minute} {
			c.want(get("a"), soracache.StatusHit, soracache.TierL2, "v1")
			for range 20 { // while it is read it is confirmed
				time.Sleep(bound / 2)
				c.want(get("a"), soracache.StatusHit, soracache.TierL1, "v1")
			}
			time.Sleep(pause)
		}
		other, err := node.New(node.Config{Store: s.Store, L1MaxBytes: 4 << 20}) // which tells nobody
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		began := time.Now()
		if _, err := other.Invalidate(context.Background(), soracache.InvalidateRequest{
			Namespace: "a", Targets: []soracache.Target{soracache.Key("k")}, Acknowledge: true,
		}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("acknowledged after %v", took)
		}
		c.want(get("a"), soracache.StatusMiss, soracache.TierNone, "")
	})
}

// A node that was found registered, and asks no more, is still told, and answers.
func TestWhatIsNotConfirmedIsAcknowledged(t *testing.T) {
	inCluster(t, 2, func(c *cluster, _ *wires) {
		c.inEveryL1("k", "v", "t")
		c.asOldAsTheBound()
		time.Sleep(6 * bound) // nobody reads: still registered, not confirmed any more
		res, took, err := c.acknowledged(context.Background(), 0, soracache.Tag("t"))
		if err != nil || len(res.Stragglers) > 0 || took > bound/2 {
			t.Errorf("acknowledged after %v, stragglers %v, %v", took, res.Stragglers, err)
		}
		c.want(c.get(1, soracache.Read{Key: "k"}), soracache.StatusMiss, soracache.TierNone, "")
	})
}

// What is watched is confirmed whether it is read or not, and so is what a near
// cache asks about.
func TestWhatIsWatchedIsConfirmed(t *testing.T) {
	onLazy(t, func(s *brittle, c *cluster, get func(string) soracache.ReadResult) {
		get("default")
		l := listen(c.nodes[0], nil)
		time.Sleep(time.Minute)
		s.asked()
		time.Sleep(10 * bound)
		if n := s.asked(); n < 28 || n > 32 {
			t.Errorf("watched: %d questions in ten bounds, want three in each", n)
		}
		l.end(t)
		time.Sleep(6 * bound)
		s.asked()
		time.Sleep(10 * bound)
		if n := s.asked(); n > 0 {
			t.Errorf("not watched any more: %d questions", n)
		}
	})
}
