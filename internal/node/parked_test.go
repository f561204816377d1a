package node_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/l2/l2model"
)

// Readers who wait for one key: one of them at a time reads again, and more rarely
// the longer it takes. The others stay until there is something for them.
func TestOneOfThoseWhoWaitReadsForAll(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		lease := c.lease(1, "k")
		const many = 1000
		results := make(chan soracache.ReadResult, many)
		for range many {
			go func() { results <- c.get(0, soracache.Read{Key: "k", Lease: true, Wait: time.Minute}) }()
		}
		synctest.Wait()
		time.Sleep(time.Millisecond)
		before, joins := c.store.reads.Load(), c.nodes[0].Stats().FlightJoins
		time.Sleep(9 * time.Second)
		if reads := c.store.reads.Load() - before; reads < 9 || reads > 25 {
			t.Errorf("%d reads of the store in 9 s, want 10 to 20", reads)
		}
		if joined := c.nodes[0].Stats().FlightJoins - joins; joined > 0 {
			t.Errorf("%d readers read again who need not have", joined)
		}
		// These two nodes tell each other nothing, so it takes a poll to hear of it.
		c.fill(1, "k", lease, "v")
		filled := time.Now()
		for range many {
			if r := <-results; r.Status != soracache.StatusHit || string(r.Entry.Value) != "v" {
				t.Fatalf("got %+v", r)
			}
		}
		if took := time.Since(filled); took > 1300*time.Millisecond {
			t.Errorf("heard of the value after %v, want within a second and a quarter", took)
		}
	})
}

// When the reader that reads for all goes away, another takes its place; and when
// it is given the lease, the others wait for that.
func TestTheNextTakesTheTurn(t *testing.T) {
	inBubble(t, 1, func(c *cluster) {
		lease := c.lease(0, "k")
		read := soracache.Read{Key: "k", Lease: true, Wait: time.Minute}
		ctx, cancel := context.WithCancel(context.Background())
		first := make(chan soracache.ReadResult, 1)
		go func() { first <- c.getReq(ctx, 0, soracache.GetRequest{Reads: []soracache.Read{read}}) }()
		synctest.Wait()
		time.Sleep(time.Millisecond)
		results := make(chan soracache.ReadResult, 10)
		for range 10 {
			go func() { results <- c.get(0, read) }()
		}
		time.Sleep(2 * time.Millisecond)
		release := c.store.stall()
		began := time.Now()
		c.write(0, soracache.Write{Op: soracache.OpRelease, Key: "k", Lease: lease})
		synctest.Wait() // the first one reads, and hangs
		cancel()
		<-first
		release()
		leased := <-results
		if leased.Lease == (soracache.Lease{}) || time.Since(began) > 10*time.Millisecond {
			t.Fatalf("after %v: %+v", time.Since(began), leased)
		}
		time.Sleep(time.Second)
		if n := len(results); n != 0 {
			t.Fatalf("%d did not wait for who loads", n)
		}
		c.fill(0, "k", leased.Lease, "v")
		for range 9 {
			c.want(<-results, soracache.StatusHit, soracache.TierL1, "v")
		}
	})
}

// Twenty thousand readers who wait cost next to nothing, be it for one key, for as
// many, or for one in each of ten thousand namespaces. It measures what this process takes, so it takes real time.
func TestParkedReadersAreCheap(t *testing.T) {
	racetest.Without(t)
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const many = 20_000
	for name, of := range map[string]func(int) (namespace, key string){
		"one key":         func(int) (string, string) { return "n", "k" },
		"many keys":       func(i int) (string, string) { return "n", strconv.Itoa(i) },
		"many namespaces": func(i int) (string, string) { return strconv.Itoa(i / 2), "k" },
	} {
		n, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), L1MaxBytes: 4 << 20, MeterEvery: -1})
		if err != nil {
			t.Fatal(err)
		}
		get := func(ctx context.Context, i int, wait time.Duration) {
			namespace, key := of(i)
			_, _ = n.Get(ctx, soracache.GetRequest{
				Namespace: namespace, Reads: []soracache.Read{{Key: key, Lease: true, LeaseFor: time.Minute, Wait: wait}},
			})
		}
		for i := range many {
			get(t.Context(), i, 0) // the first takes the lease
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range many {
			wg.Go(func() { get(ctx, i, time.Minute) })
		}
		for n.Stats().Waits < many {
			<-time.After(10 * time.Millisecond)
		}
		<-time.After(2 * time.Second) // the first polls are closer together
		before, began := proctest.CPUTime(), time.Now()
		<-time.After(2 * time.Second)
		used := (proctest.CPUTime() - before).Seconds() / time.Since(began).Seconds()
		t.Logf("%s: %d who wait take %.3f of a core", name, many, used)
		if used > 0.1 {
			t.Errorf("%s: %d who wait take %.2f of a core, want less than 0.1", name, many, used)
		}
		cancel()
		wg.Wait()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}
