package redis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/check"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
)

// Two nodes over a Redis whose clock jumps, by seconds and by an hour, ahead and
// back: what is served obeys the rule, and values are stored and found.
func TestClockJumps(t *testing.T) {
	clock := redistest.NewClock(t)
	server := redistest.Standalone(t, redistest.WithClock(clock))
	const bound = 200 * time.Millisecond
	var backends []soracache.Backend
	for range 2 {
		s := openAt(t, Config{URL: server.URL(), Retention: l2.Retention{TagRecords: 50, KeyRecords: 50, Age: 100 * time.Millisecond}})
		n, err := node.New(node.Config{Store: s, Bound: bound, SweepEvery: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		backends = append(backends, n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	done := make(chan struct{})
	jumps := 0
	go func() {
		defer close(done)
		random := rand.New(rand.NewPCG(12, 0))
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Duration(30+random.IntN(300)) * time.Millisecond):
			}
			seconds := []int{0, 0, -3600, 3600, -1, 1, 5, -5, 20}[random.IntN(9)]
			clock.Set(t, time.Duration(seconds)*time.Second)
			jumps++
		}
	}()
	var reports []*check.Report
	for seed := uint64(1); ctx.Err() == nil; seed++ {
		r := check.Run(ctx, backends, check.Options{
			Namespace: fmt.Sprint("n", seed%3), Goroutines: 8, Operations: 2000, Keys: 12, Seed: seed, Bound: bound, Wait: 20 * time.Millisecond,
		})
		for _, v := range r.Violations {
			t.Errorf("seed %d: %s", seed, v)
		}
		reports = append(reports, r)
	}
	<-done
	t.Logf("%d jumps: %v", jumps, reports)

	// After the last of them a key is loaded and found, within the time of a lease.
	n := backends[0]
	began := time.Now()
	for found := false; !found; {
		rs, err := n.Get(t.Context(), soracache.GetRequest{Namespace: "n0", Reads: []soracache.Read{{Key: "after", Lease: true}}})
		switch {
		case err == nil && rs[0].Status == soracache.StatusHit:
			found = true
		case err == nil && rs[0].Lease != soracache.Lease{}:
			_, _ = n.Write(t.Context(), soracache.WriteRequest{Namespace: "n0", Writes: []soracache.Write{{
				Op: soracache.OpFill, Key: "after", Lease: rs[0].Lease, Lifetime: soracache.Lifetime{TTL: time.Minute},
			}}})
		case time.Since(began) > 10*time.Second:
			t.Fatalf("nothing is stored any more: %+v, %v", rs, err)
		}
	}
}
