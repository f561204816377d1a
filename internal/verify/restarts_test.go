package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/redistest"
)

const (
	quietKeys = 100 // are loaded once and never invalidated
	busyKeys  = 20  // change all the time
)

// item is a value of the source: what a loader returns is the version that it
// read when it began.
type item struct {
	key  string
	busy bool

	version atomic.Int64
	// floor is the version that whoever calls now must be given at least.
	floor  atomic.Int64
	loads  atomic.Int64
	change sync.Mutex // held by who changes it
}

// traffic is an application on a cluster whose nodes are restarted: clients
// with all URLs, callers of GetOrSet, and changes that are invalidated.
type traffic struct {
	t     *testing.T
	bound time.Duration
	// near means that the clients keep values of their own. Acknowledgement says
	// nothing of these, so it is not asked for.
	near bool
	// pause is how long a caller rests between two calls.
	pause func()
	// rest is how long whoever changes rests between two changes.
	rest time.Duration

	clients []*client.Client
	items   []*item

	calls, wrong, failed, changes, failedChanges atomic.Int64
	hits                                         [4]atomic.Int64 // by tier
	took                                         sample

	mu     sync.Mutex
	excess []time.Time // loads that no invalidation is the reason for
	why    map[string]int
}

func newTraffic(t *testing.T, f fleet, clients int, bound time.Duration, opts ...client.DialOption) *traffic {
	t.Helper()
	tr := &traffic{t: t, bound: bound, why: map[string]int{}, pause: func() { time.Sleep(time.Millisecond) }, rest: 20 * time.Millisecond}
	for range clients {
		c, err := client.Dial(strings.Split(f.urls(), ","), append(opts, client.Logger(nil), client.WithHooks(client.Hooks{
			OnHit:      func(_ string, tier soracache.Tier) { tr.hits[tier].Add(1) },
			OnFailOpen: func(string, error) { tr.extra("without the service") },
			OnNotStored: func(_ string, why error) {
				tr.mu.Lock()
				defer tr.mu.Unlock()
				tr.why["not stored: "+why.Error()]++
			},
		}))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		tr.clients = append(tr.clients, c)
	}
	for i := range quietKeys + busyKeys {
		tr.items = append(tr.items, &item{key: fmt.Sprint("item", i), busy: i >= quietKeys})
	}
	return tr
}

// extra notes a load that a restart must have caused.
func (tr *traffic) extra(why string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.excess = append(tr.excess, time.Now())
	tr.why[why]++
}

// call gets one item and judges what it is given.
func (tr *traffic) call(ctx context.Context, c *client.Client, it *item, floor int64) {
	began := time.Now()
	got, err := client.GetOrSet(ctx, c, it.key, func(context.Context) (int64, error) {
		if it.loads.Add(1) > 1 && !it.busy {
			tr.extra("of what was loaded before")
		}
		version := it.version.Load()
		time.Sleep(2 * time.Millisecond)
		return version, nil
	})
	if ctx.Err() != nil {
		return
	}
	tr.calls.Add(1)
	tr.took.add(time.Since(began))
	if err != nil {
		tr.failed.Add(1)
		tr.t.Errorf("GetOrSet(%s): %v", it.key, err)
	}
	if got < floor {
		tr.wrong.Add(1)
		tr.t.Errorf("GetOrSet(%s) returned version %d to a call that began when %d was due", it.key, got, floor)
	}
}

// alter changes an item at the source and invalidates it. After an acknowledged
// success nobody may be given what was before; after any other, nobody but for
// the bound, and whoever uses this client not at all.
func (tr *traffic) alter(ctx context.Context, c *client.Client, it *item, acknowledge bool) {
	it.change.Lock()
	defer it.change.Unlock()
	version := it.version.Add(1)
	_, err := c.Invalidate(ctx, client.Invalidation{Keys: []string{it.key}, Acknowledge: acknowledge})
	if ctx.Err() != nil {
		return
	}
	tr.changes.Add(1)
	switch {
	case err != nil:
		tr.failedChanges.Add(1)
		tr.t.Errorf("invalidate %s: %v", it.key, err)
	case acknowledge:
		raise(&it.floor, version)
	default:
		time.AfterFunc(tr.bound, func() { raise(&it.floor, version) })
	}
	if err == nil {
		tr.call(ctx, c, it, version) // its own client sees it at once
	}
}

func raise(floor *atomic.Int64, to int64) {
	for at := floor.Load(); at < to && !floor.CompareAndSwap(at, to); at = floor.Load() {
	}
}

// run goes on until ctx ends.
func (tr *traffic) run(ctx context.Context, callers int) {
	var wg sync.WaitGroup
	for _, c := range tr.clients {
		for range callers {
			wg.Go(func() {
				for ctx.Err() == nil {
					it := tr.items[rand.IntN(len(tr.items))]
					tr.call(ctx, c, it, it.floor.Load())
					tr.pause()
				}
			})
		}
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				it := tr.items[quietKeys+rand.IntN(busyKeys)]
				tr.alter(ctx, c, it, i%2 == 0 && !tr.near)
				time.Sleep(tr.rest)
			}
		})
	}
	wg.Wait()
}

// Nodes are killed, ended in order, and restarted one after the other, while
// applications go on: nobody gets a wrong value or an error, next to nothing is
// loaded again, and nothing any more soon afterwards.
func TestRestartsUnderLoad(t *testing.T) {
	const nodes, bound, settle = 3, 500 * time.Millisecond, 2 * time.Second
	f := startFleet(t, nodes, redistest.Standalone(t).URL(), "--bound", bound.String())
	tr := newTraffic(t, f, 4, bound, client.NoNear())
	for _, it := range tr.items { // all is there before it begins
		tr.call(t.Context(), tr.clients[0], it, 0)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	load.Go(func() { tr.run(ctx, 4) })
	restart := func(d *daemon, end func()) {
		end()
		d.start()
		d.awaitReady()
	}
	for i := range count(1, nodes) {
		tr.phase(fmt.Sprint("kill -9 of node ", i), settle, func() { restart(f[i], f[i].kill) })
	}
	for i := range count(1, nodes) {
		i = nodes - 1 - i
		tr.phase(fmt.Sprint("SIGTERM of node ", i), settle, func() { restart(f[i], f[i].terminate) })
	}
	for range count(1, 3) {
		tr.phase("rolling restart", settle, func() {
			for _, d := range f {
				restart(d, d.terminate)
			}
		})
	}
	stop()
	load.Wait()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	share := 100 * float64(len(tr.excess)) / float64(tr.calls.Load())
	t.Logf("%d calls of GetOrSet: %d errors, %d wrong values; %d invalidations, %d failed; %s",
		tr.calls.Load(), tr.failed.Load(), tr.wrong.Load(), tr.changes.Load(), tr.failedChanges.Load(), &tr.took)
	t.Logf("%d loads that no invalidation is the reason for, %.3f %% of the calls %v", len(tr.excess), share, tr.why)
	if share > 1 {
		t.Error("more than 1 %")
	}
}

// phase does something, lets the load go on for longer than anything may then
// be loaded again, and tells what happened.
func (tr *traffic) phase(what string, settle time.Duration, do func()) {
	tr.t.Helper()
	calls := tr.calls.Load()
	tr.mu.Lock()
	before := len(tr.excess)
	tr.mu.Unlock()
	do()
	over := time.Now()
	time.Sleep(settle + time.Second)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	late := 0
	for _, at := range tr.excess[before:] {
		if at.After(over.Add(settle)) {
			late++
		}
	}
	tr.t.Logf("%s: %d calls, %d excess loads, %d of them more than %s after", what, tr.calls.Load()-calls, len(tr.excess)-before, late, settle)
	if late > 0 {
		tr.t.Errorf("%s: %d loads more than %s after", what, late, settle)
	}
}
