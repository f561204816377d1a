package node_test

import (
	"context"
	"testing"
	"time"
)

// finding is what is known of a part, for about how long.
type finding struct {
	part      string
	reachable bool
	about     time.Duration
}

// expectHealth compares what the node knows of its store. It asks three times a second,
// and a question that hangs has to end before the next is asked.
func (c *cluster) expectHealth(what string, want ...finding) {
	c.t.Helper()
	got := c.nodes[0].Store()
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		w := want[i]
		same = got[i].Name == w.part && got[i].Reachable == w.reachable && (got[i].For-w.about).Abs() <= 3*time.Second
	}
	if !same {
		c.t.Errorf("%s: %+v, want %+v", what, got, want)
	}
}

// The node knows of each part of its store whether it answers, and since when. Who asks
// for that asks nothing of the store.
func TestHealthOfTheStore(t *testing.T) {
	keys := inEach()
	s := halves()
	onBrittle(t, time.Second, s, func(c *cluster) {
		c.expectHealth("at first")
		if err := c.nodes[0].Ready(c.t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		c.expectHealth("asked whether it is ready", finding{"", true, 20 * time.Second})
		c.put(0, keys[0], "v")
		c.expectHealth("one part is used", finding{"even", true, 0})
		c.put(0, keys[1], "v")
		time.Sleep(time.Minute)
		c.expectHealth("both are", finding{"even", true, time.Minute}, finding{"odd", true, time.Minute})

		s.set("odd", hanging)
		time.Sleep(30 * time.Second)
		c.expectHealth("one hangs", finding{"even", true, 90 * time.Second}, finding{"odd", false, 30 * time.Second})
		s.set("odd", well)
		time.Sleep(10 * time.Second)
		c.expectHealth("it answers again", finding{"even", true, 100 * time.Second}, finding{"odd", true, 10 * time.Second})
		s.set("even", refusing)
		time.Sleep(10 * time.Second)
		c.expectHealth("the other refuses", finding{"even", false, 10 * time.Second}, finding{"odd", true, 20 * time.Second})

		s.mu.Lock()
		asked := s.sinces
		s.mu.Unlock()
		for range 1000 {
			c.nodes[0].Store()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sinces != asked {
			t.Errorf("%d questions to tell of it", s.sinces-asked)
		}
	})
}

// Nobody has used it: all that is known is what came of asking whether the node is ready.
func TestHealthOfAStoreThatIsAway(t *testing.T) {
	s := newBrittle()
	s.set("", refusing)
	onBrittle(t, time.Second, s, func(c *cluster) {
		for range 3 {
			if err := c.nodes[0].Ready(c.t.Context()); err == nil {
				t.Error("it is ready")
			}
			time.Sleep(10 * time.Second)
		}
		c.expectHealth("away", finding{"", false, 30 * time.Second})
		s.set("", hanging)
		ctx, cancel := context.WithCancel(c.t.Context())
		cancel()
		_ = c.nodes[0].Ready(ctx)
		c.expectHealth("asked in passing", finding{"", false, 30 * time.Second})
		s.set("", well)
		_ = c.nodes[0].Ready(c.t.Context())
		c.expectHealth("back", finding{"", true, 0})
	})
}
