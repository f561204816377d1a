package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache/internal/redistest"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// versions is a source with one value, a number that only grows, and how much
// of it nobody may be told any more.
type versions struct {
	source atomic.Int64 // what a loader reads
	floor  atomic.Int64 // the least that a read may return that begins now
}

// trial is many acknowledged invalidations, with readers on every node.
type trial struct {
	t     *testing.T
	fleet fleet
	versions

	reads, fromL1, probes, stale atomic.Int64
	clean, straggled             sample // rounds, without stragglers and with
}

const trialKey, trialTag = "k", "t"

// read reads at one node, loads if it is to, and judges what it gets.
func (r *trial) read(ctx context.Context, d *daemon) {
	floor := r.floor.Load()
	res, err := d.cache.Get(ctx, &soracachev1.GetRequest{Key: trialKey, Lease: true})
	if err != nil {
		if ctx.Err() == nil {
			r.t.Errorf("read at %s: %v", d.url, err)
		}
		return
	}
	r.reads.Add(1)
	if res.GetTier() == soracachev1.Tier_TIER_L1 {
		r.fromL1.Add(1)
	}
	if len(res.GetLease()) == 0 {
		if res.GetStatus() == soracachev1.Status_STATUS_HIT {
			r.judge(d, floor, res)
		}
		return
	}
	value := strconv.FormatInt(r.source.Load(), 10)
	_, err = d.cache.Fill(ctx, &soracachev1.FillRequest{
		Key: trialKey, Lease: res.GetLease(), Value: []byte(value), Tags: []string{trialTag}, Ttl: durationpb.New(time.Hour),
	})
	if err != nil && ctx.Err() == nil {
		r.t.Errorf("fill at %s: %v", d.url, err)
	}
}

func (r *trial) judge(d *daemon, floor int64, res *soracachev1.GetResponse) {
	got, err := strconv.ParseInt(string(res.GetValue()), 10, 64)
	if err != nil {
		r.t.Error(err)
	}
	if got < floor {
		if r.stale.Add(1) <= 10 {
			r.t.Errorf("%s served version %d from %s to a read that began after %d was invalidated", d.url, got, res.GetTier(), floor-1)
		}
	}
}

// invalidate changes the source and then invalidates at one node, by key and by
// tag in turns.
func (r *trial) invalidate(ctx context.Context, round int, d *daemon) {
	req := &soracachev1.InvalidateRequest{Tags: []string{trialTag}, Acknowledge: true}
	if round%2 == 0 {
		req = &soracachev1.InvalidateRequest{Keys: []string{trialKey}, Acknowledge: true}
	}
	version := r.source.Add(1)
	began := time.Now()
	res, err := d.cache.Invalidate(ctx, req)
	if err != nil {
		r.t.Errorf("round %d at %s: %v", round, d.url, err)
		return
	}
	r.floor.Store(version)
	if took := time.Since(began); len(res.GetStragglers()) == 0 {
		r.clean.add(took)
	} else {
		r.straggled.add(took)
	}
}

// Acknowledged invalidations with a short bound, a reader on every node in a
// closed loop, and nodes that are paused at random: no read that begins after a
// success returns what the invalidation killed. A read that is sent to a node
// while it is paused is one of them.
func TestAcknowledgedWhileNodesPause(t *testing.T) {
	const nodes, bound = 5, 100 * time.Millisecond
	rounds, pauses := count(300, 10_000), count(10, 200)
	r := &trial{t: t, fleet: startFleet(t, nodes, redistest.Standalone(t).URL(), "--bound", bound.String())}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers, others sync.WaitGroup
	for _, d := range r.fleet {
		readers.Go(func() {
			for ctx.Err() == nil {
				r.read(ctx, d)
			}
		})
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		if round%(rounds/pauses) == rounds/pauses/2 {
			others.Wait()
			paused := r.fleet[random.IntN(nodes)]
			length := bound/2 + time.Duration(random.Int64N(int64(2*bound)))
			paused.pause()
			others.Go(func() {
				time.Sleep(length)
				paused.resume()
			})
		}
		r.invalidate(ctx, round, r.fleet[random.IntN(nodes)])
		// Whoever is paused has this read waiting when it goes on.
		for _, d := range r.fleet {
			if random.IntN(8) == 0 {
				others.Go(func() {
					r.probes.Add(1)
					r.read(ctx, d)
				})
			}
		}
	}
	others.Wait()
	stop()
	readers.Wait()
	t.Logf("seed %d: %d rounds, %d pauses, %d reads in closed loops (%d from L1), %d more sent right after a round: %d stale",
		seed, rounds, pauses, r.reads.Load()-r.probes.Load(), r.fromL1.Load(), r.probes.Load(), r.stale.Load())
	t.Logf("rounds without stragglers: %s", &r.clean)
	t.Logf("rounds with stragglers:    %s", &r.straggled)
	if r.straggled.len() == 0 || r.clean.len() < rounds/2 || r.fromL1.Load() == 0 {
		t.Error("the trial shows little: no stragglers, few undisturbed rounds, or no reads from L1")
	}
}

// Three thousand raw Gets, a thousand on each of three nodes: one of them is
// given the lease, and the others get its value as soon as it is there.
func TestOneLeaseInACluster(t *testing.T) {
	f := startFleet(t, 3, redistest.Standalone(t).URL())
	t.Run("thousands", func(t *testing.T) {
		callers := count(900, 3000)
		w := coldKey(t, f, "cold", callers)
		t.Logf("%d gets: %d leases, %d hits; after the fill began they were answered in: %s", callers, w.leases.Load(), w.took.len(), &w.took)
		if w.leases.Load() != 1 || w.took.len() != callers-1 {
			t.Error("want one lease, and hits for all others")
		}
	})
	// With few of them, what it takes is not what it takes to answer thousands.
	t.Run("woken by notices", func(t *testing.T) {
		var all sample
		for round := range count(5, 50) {
			w := coldKey(t, f, "few"+strconv.Itoa(round), 9)
			if w.leases.Load() != 1 || w.took.len() != 8 {
				t.Errorf("%d leases, %d hits", w.leases.Load(), w.took.len())
			}
			for _, took := range w.took.all {
				all.add(took)
			}
		}
		t.Logf("after the fill began, eight waiters on three nodes were answered in: %s", &all)
		if all.median() > 30*time.Millisecond { // polls come every 75 to 125 ms by then
			t.Error("waiters are not woken by notices")
		}
	})
}

// waiters is what became of those who wanted one key.
type waiters struct {
	leases atomic.Int64
	filled atomic.Int64 // when the fill was sent, in nanoseconds since 1970
	took   sample       // from then until each other's answer
}

// coldKey has so many callers get one key, with a lease and waiting, spread over
// the nodes; the loader takes 200 ms.
func coldKey(t *testing.T, f fleet, key string, callers int) *waiters {
	t.Helper()
	w := &waiters{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for i := range callers {
		c := f[i%len(f)].cache
		wg.Go(func() {
			res, err := c.Get(ctx, &soracachev1.GetRequest{Key: key, Lease: true, Wait: durationpb.New(30 * time.Second)})
			switch {
			case err != nil:
				t.Error(err)
			case len(res.GetLease()) > 0:
				w.leases.Add(1)
				time.Sleep(200 * time.Millisecond) // the load
				w.filled.Store(time.Now().UnixNano())
				filled, err := c.Fill(ctx, &soracachev1.FillRequest{
					Key: key, Lease: res.GetLease(), Value: []byte(key), Ttl: durationpb.New(time.Minute),
				})
				if err != nil || !filled.GetStored() {
					t.Errorf("fill: %v, %v", filled, err)
				}
			case string(res.GetValue()) == key:
				w.took.add(time.Duration(time.Now().UnixNano() - w.filled.Load()))
			default:
				t.Error(fmt.Sprint("caller ", i, ": ", res))
			}
		})
	}
	wg.Wait()
	return w
}
