package node_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2/l2model"
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

// asks reads a cold key on behalf of a process, and waits for whoever holds its
// lease.
func (c *cluster) asks(n int, holder uint64, wait time.Duration) soracache.ReadResult {
	c.t.Helper()
	return c.get(n, soracache.Read{Key: "k", Lease: true, Holder: holder, Wait: wait})
}

// finish releases a lease with an outcome.
func (c *cluster) finish(n int, lease soracache.Lease, outcome soracache.LoadOutcome) {
	c.t.Helper()
	c.write(n, soracache.Write{Op: soracache.OpRelease, Key: "k", Lease: lease, Outcome: outcome})
}

// Everybody who waited for a load that left nothing goes on at once, on every
// node: one with the lease, the others without, and nobody behind another.
func TestLoadThatLeavesNothingLetsEverybodyGoOn(t *testing.T) {
	for _, outcome := range []soracache.LoadOutcome{soracache.LoadFailed, soracache.LoadNotStorable} {
		t.Run(outcome.String(), func(t *testing.T) {
			inCluster(t, 3, func(c *cluster, _ *wires) {
				first := c.asks(0, 1, 0)
				results := make(chan soracache.ReadResult)
				const others = 20
				for i := range others {
					go func() { results <- c.asks(i%3, uint64(2+i), time.Minute) }()
				}
				time.Sleep(time.Second)
				c.finish(0, first.Lease, outcome)
				ended := time.Now()
				granted := 0
				for range others {
					res := <-results
					if res.LeaseState == soracache.LeaseGranted {
						granted++
						continue // and its load goes on
					}
					c.state(res, soracache.LeaseRefused, soracache.RefusalPassed)
				}
				if took := time.Since(ended); granted != 1 || took > 10*time.Millisecond {
					t.Errorf("%d leases, and the last went on after %s; want one lease, and at once", granted, took)
				}
				// Who comes later does not wait either, while it is remembered.
				began := time.Now()
				c.state(c.asks(1, 100, time.Minute), soracache.LeaseRefused, soracache.RefusalPassed)
				if took := time.Since(began); took > 10*time.Millisecond {
					t.Errorf("who came later waited %s", took)
				}
				time.Sleep(3 * time.Second) // which is how long it is
				c.state(c.asks(1, 100, 0), soracache.LeaseHeld, soracache.RefusalNone)
			})
		})
	}
}

// A lease that was handed back says nothing of the load: the others wait for the
// next holder.
func TestLeaseHandedBackIsWaitedForAgain(t *testing.T) {
	inCluster(t, 2, func(c *cluster, _ *wires) {
		first := c.asks(0, 1, 0)
		results := make(chan soracache.ReadResult)
		for i := range 4 {
			go func() { results <- c.asks(i%2, uint64(2+i), time.Minute) }()
		}
		time.Sleep(time.Second)
		c.finish(0, first.Lease, soracache.LoadHandedBack)
		next := <-results
		c.state(next, soracache.LeaseGranted, soracache.RefusalNone)
		time.Sleep(time.Second)
		if len(results) > 0 {
			t.Error("somebody else went on")
		}
		c.fill(1, "k", next.Lease, "v")
		for range 3 {
			if res := <-results; string(res.Entry.Value) != "v" {
				t.Errorf("got %+v, want the value", res)
			}
		}
	})
}

// One process that always fails, and asks again at once, does not keep a key from
// the others.
func TestProcessThatAlwaysFailsKeepsNobodyFromStoring(t *testing.T) {
	inCluster(t, 2, func(c *cluster, _ *wires) {
		const bad, good = 1, 2
		for range 3 {
			c.finish(0, c.asks(0, bad, 0).Lease, soracache.LoadFailed)
		}
		again := c.asks(0, bad, 0)
		c.state(again, soracache.LeaseGranted, soracache.RefusalNone)
		res := c.asks(1, good, time.Minute)
		c.state(res, soracache.LeaseGranted, soracache.RefusalNone)
		c.state(c.asks(1, 3, 0), soracache.LeaseRefused, soracache.RefusalPassed) // nobody else's is taken over
		if reason := c.fill(0, "k", again.Lease, "late").Reason; reason != soracache.ReasonLeaseLost {
			t.Errorf("the fill of who had failed: %s", reason)
		}
		if !c.fill(1, "k", res.Lease, "v").Stored {
			t.Error("the first storable value was not stored")
		}
		c.want(c.asks(0, bad, 0), soracache.StatusHit, soracache.TierL2, "v")
	})
}

// The lease of a shared flight goes to a reader of the holder that it names.
func TestFlightGivesItsLeaseToItsHolder(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		for _, holders := range [][]uint64{{1, 2, 2, 3}, {2, 1, 1}, {0, 1}, {1, 0, 0}} {
			c.invalidate(0, soracache.Key("k"))
			release := c.store.stall()
			type answer struct {
				holder uint64
				soracache.ReadResult
			}
			answers := make(chan answer)
			for _, holder := range holders {
				go func() { answers <- answer{holder, c.asks(0, holder, 0)} }()
				time.Sleep(time.Millisecond) // one after the other
			}
			// The first has a flight of its own; the others share the next.
			release()
			for range holders {
				a := <-answers
				if a.Lease != (soracache.Lease{}) && a.Lease.Holder() != a.holder && a.Lease.Holder() != 0 {
					t.Errorf("of %v, %d was given the lease of %d", holders, a.holder, a.Lease.Holder())
				}
			}
		}
	})
}

// Nobody is kept waiting by a flight whose lease names somebody who has left.
func TestFlightOfAHolderThatLeft(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		release := c.store.stall()
		for range 2 { // both trips are under way
			go c.get(0, soracache.Read{Key: "other"})
			time.Sleep(time.Millisecond)
			go c.get(0, soracache.Read{Key: "another"})
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithCancel(c.t.Context())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			c.getReq(ctx, 0, soracache.GetRequest{Reads: []soracache.Read{{Key: "k", Lease: true, Holder: 1}}})
		}()
		time.Sleep(time.Millisecond)
		stays := make(chan soracache.ReadResult)
		go func() { stays <- c.asks(0, 2, time.Minute) }()
		time.Sleep(time.Millisecond)
		cancel()
		<-gone
		release()
		began := time.Now()
		res := <-stays
		c.state(res, soracache.LeaseGranted, soracache.RefusalNone)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

// Where the store has no room, nobody waits. The node says so once, and is ready.
func TestStoreWithoutRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		model, log := l2model.New(l2model.Config{}), new(bytes.Buffer)
		n, err := node.New(node.Config{Store: model, Bound: bound, L1MaxBytes: 4 << 20, Logger: slog.New(slog.NewTextHandler(log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		c := &cluster{t: t, model: model, nodes: []*node.Node{n}}
		defer n.Close()
		write := func(w soracache.Write) error {
			w.Entry, w.Lifetime = soracache.Entry{Value: []byte("v")}, soracache.Lifetime{TTL: time.Second, Keep: time.Hour}
			rs, err := n.Write(t.Context(), soracache.WriteRequest{Writes: []soracache.Write{w}})
			if err != nil {
				t.Fatal(err)
			}
			return rs[0].Err
		}
		if err := write(soracache.Write{Op: soracache.OpPut, Key: "there"}); err != nil {
			t.Fatal(err)
		}
		lease := c.asks(0, 1, 0).Lease
		model.SetFull(true)

		// Whoever waits for a fill that is refused goes on, as anybody does.
		waiting := make(chan soracache.ReadResult)
		go func() { waiting <- c.asks(0, 2, time.Minute) }()
		time.Sleep(time.Millisecond)
		if err := write(soracache.Write{Op: soracache.OpFill, Key: "k", Lease: lease}); !errors.Is(err, soracache.ErrStoreFull) {
			t.Errorf("fill: %v", err)
		}
		began := time.Now()
		c.state(<-waiting, soracache.LeaseRefused, soracache.RefusalStoreFull)
		for range 100 {
			c.state(c.asks(0, 3, time.Minute), soracache.LeaseRefused, soracache.RefusalStoreFull)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("readers were kept for %s", took)
		}

		// A stale entry is told to be one that nobody refreshes, each time.
		time.Sleep(2 * time.Second)
		for range 3 {
			res := c.get(0, soracache.Read{Key: "there", Lease: true})
			c.state(res, soracache.LeaseRefused, soracache.RefusalStoreFull)
			if res.Status != soracache.StatusStale {
				t.Errorf("status %d, want stale", res.Status)
			}
		}
		if s := n.Stats(); !s.StoreFull || s.RefusedForRoom < 100 || s.StoreErrors > 0 {
			t.Errorf("full %v, %d refusals, %d errors", s.StoreFull, s.RefusedForRoom, s.StoreErrors)
		}
		if err := n.Ready(t.Context()); err != nil {
			t.Errorf("not ready: %v", err)
		}

		// There is room again: said once too, though not at the first sign.
		model.SetFull(false)
		c.state(c.asks(0, 1, 0), soracache.LeaseGranted, soracache.RefusalNone)
		time.Sleep(10 * time.Second)
		c.state(c.get(0, soracache.Read{Key: "other", Lease: true}), soracache.LeaseGranted, soracache.RefusalNone)
		if n.StoreFull() {
			t.Error("full still")
		}
		if full, room := strings.Count(log.String(), "is full"), strings.Count(log.String(), "room again"); full != 1 || room != 1 {
			t.Errorf("said %d times that it is full, and %d times that there is room:\n%s", full, room, log)
		}
	})
}
