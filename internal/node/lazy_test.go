package node_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/racetest"
)

// asked is how many deltas the store was asked for since the last time.
func (s *brittle) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.deltas
	s.deltas = 0
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

// mostIdle is how many partitions that are not in use are confirmed all the same.
const mostIdle = 16

// others has a node be asked for so many other namespaces that none of those which
// were asked for before is among the last.
func (c *cluster) others(n int) {
	c.t.Helper()
	for i := range 2 * mostIdle {
		read := soracache.GetRequest{Namespace: "other" + strconv.Itoa(i), Reads: []soracache.Read{{Key: "k"}}}
		if _, err := c.nodes[n].Get(context.Background(), read); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Namespaces that nobody reads cost the store next to nothing, however many there
// are and however often they were read at a time; and nothing after a while.
func TestWhatIsNotReadIsNotConfirmed(t *testing.T) {
	racetest.Without(t)
	onLazy(t, func(s *brittle, c *cluster, get func(string) soracache.ReadResult) {
		const many = 4000
		for range 3 {
			for i := range many {
				get("ns" + strconv.Itoa(i))
			}
		}
		time.Sleep(bound / 2)
		s.asked()
		time.Sleep(90 * bound)
		// Each of a few, three times in each bound.
		if n, most := s.asked(), mostIdle*(90*3+1); n > most {
			t.Errorf("%d idle namespaces: the store was asked for %d deltas in 90 bounds, want %d at most", many, n, most)
		}
		if eager := c.eager(); eager != mostIdle {
			t.Errorf("%d of %d idle namespaces are confirmed, want %d", eager, many, mostIdle)
		}
		time.Sleep(time.Minute)
		s.asked()
		time.Sleep(time.Minute)
		if n := s.asked(); n > 0 {
			t.Errorf("the store was asked for %d deltas of what nobody had read for a minute", n)
		}
		if eager := c.eager(); eager > 0 {
			t.Errorf("%d namespaces count as confirmed after a minute", eager)
		}
		if err := c.nodes[0].Ready(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// eager counts the partitions of a node that are confirmed without being asked for,
// each of which has to be.
func (c *cluster) eager() (n int) {
	c.t.Helper()
	for _, p := range c.nodes[0].Partitions() {
		if p.Eager {
			if n++; p.ConfirmedAgo < 0 {
				c.t.Errorf("%s is not confirmed", p.Namespace)
			}
		}
	}
	return n
}

// The few that were read last are served from memory for a minute, whether anybody
// else reads or not.
func TestTheLastThatWereReadStayConfirmed(t *testing.T) {
	onLazy(t, func(_ *brittle, c *cluster, get func(string) soracache.ReadResult) {
		c.others(0)
		time.Sleep(2 * bound)
		for i := range mostIdle {
			name := "ns" + strconv.Itoa(i)
			c.putIn(name, "v")
			c.want(get(name), soracache.StatusHit, soracache.TierL2, "v")
		}
		for range 400 {
			time.Sleep(100 * time.Millisecond)
			for _, p := range c.nodes[0].Partitions() {
				if strings.HasPrefix(p.Namespace, "ns") && p.ConfirmedAgo < 0 {
					t.Errorf("%s is not confirmed", p.Namespace)
				}
			}
		}
		for i := range mostIdle {
			c.want(get("ns"+strconv.Itoa(i)), soracache.StatusHit, soracache.TierL1, "v")
		}
	})
}

// However many are in use, all of them are confirmed, and who reads once in a bound
// is served from memory.
func TestWhatIsInUseIsConfirmed(t *testing.T) {
	onLazy(t, func(_ *brittle, c *cluster, get func(string) soracache.ReadResult) {
		const many = 10 * mostIdle
		for i := range many {
			c.putIn("ns"+strconv.Itoa(i), "v")
			get("ns" + strconv.Itoa(i))
		}
		for range 50 {
			time.Sleep(bound * 9 / 10)
			for i := range many {
				c.want(get("ns"+strconv.Itoa(i)), soracache.StatusHit, soracache.TierL1, "v")
			}
		}
	})
}

// What is read now and then is confirmed by that read, which goes to the store, and
// sees what was invalidated meanwhile. What comes after it is served from memory.
func TestFirstReadAfterAWhileGoesToTheStore(t *testing.T) {
	onLazy(t, func(s *brittle, c *cluster, get func(namespace string) soracache.ReadResult) {
		c.putIn("a", "v1")
		for _, pause := range []time.Duration{3 * bound, 10 * time.Second, 50 * time.Second, 10 * time.Minute} {
			c.want(get("a"), soracache.StatusHit, soracache.TierL2, "v1")
			for range 20 { // while it is read it is confirmed
				time.Sleep(bound / 2)
				c.want(get("a"), soracache.StatusHit, soracache.TierL1, "v1")
			}
			c.others(0)
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
		c.others(1)
		time.Sleep(6 * bound) // nobody reads: still registered, not confirmed any more
		for _, p := range c.nodes[1].Partitions() {
			if p.Namespace == soracache.DefaultNamespace && p.ConfirmedAgo >= 0 {
				t.Fatal("it is confirmed")
			}
		}
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
		time.Sleep(time.Minute + bound)
		s.asked()
		time.Sleep(10 * bound)
		if n := s.asked(); n > 0 {
			t.Errorf("not watched any more: %d questions", n)
		}
	})
}
