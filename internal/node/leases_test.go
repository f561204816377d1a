package node_test

import (
	"testing"
	"time"

	"github.com/soracache/soracache"
)

// state fails the test unless a read says this of its wish for a lease.
func (c *cluster) state(res soracache.ReadResult, state soracache.LeaseState, why soracache.Refusal) {
	c.t.Helper()
	if res.Err != nil || res.LeaseState != state || res.Refusal != why || (res.Lease != soracache.Lease{}) != (state == soracache.LeaseGranted) {
		c.t.Fatalf("lease %s (%s, %s), error %v; want %s (%s)", res.Lease, res.LeaseState, res.Refusal, res.Err, state, why)
	}
}

// What became of the wish for a lease is told to whoever wished for one, and for
// how long it is held.
func TestAnswersToTheWishForALease(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		wish := soracache.Read{Key: "k", Lease: true, Holder: 7}
		c.state(c.get(0, soracache.Read{Key: "k"}), soracache.LeaseNone, soracache.RefusalNone)
		granted := c.get(0, wish)
		c.state(granted, soracache.LeaseGranted, soracache.RefusalNone)
		if got := granted.Lease.Holder(); got != 7 {
			t.Errorf("the lease is held by %d, want 7", got)
		}
		time.Sleep(time.Second)
		held := c.get(0, wish)
		c.state(held, soracache.LeaseHeld, soracache.RefusalNone)
		if held.LeaseFor <= 8*time.Second || held.LeaseFor > 9*time.Second {
			t.Errorf("it is held for %s more, want about 9s", held.LeaseFor)
		}
		c.state(c.get(0, soracache.Read{Key: "k"}), soracache.LeaseNone, soracache.RefusalNone)
		c.fill(0, "k", granted.Lease, "v")
		c.state(c.get(0, wish), soracache.LeaseNone, soracache.RefusalNone)

		// Beside a live entry that is to be refreshed.
		wish.RefreshWithin = time.Hour
		c.state(c.get(0, wish), soracache.LeaseGranted, soracache.RefusalNone)
		c.state(c.get(0, wish), soracache.LeaseHeld, soracache.RefusalNone)
	})
}

// Of those who share a flight one is given the lease, and for the others it is
// held.
func TestReadersOfOneFlightAreToldWhoLoads(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		release := c.store.stall()
		states := make(chan soracache.LeaseState)
		for range 4 {
			go func() { states <- c.get(0, soracache.Read{Key: "k", Lease: true}).LeaseState }()
		}
		time.Sleep(time.Millisecond)
		release()
		count := map[soracache.LeaseState]int{}
		for range 4 {
			count[<-states]++
		}
		if count[soracache.LeaseGranted] != 1 || count[soracache.LeaseHeld] != 3 {
			t.Errorf("states %v, want one granted and three held", count)
		}
	})
}
