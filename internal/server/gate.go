package server

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/hold"
)

// gate counts the requests that are worked on and holds them under a limit; once
// it is shut it lets nobody in. Who sends a body, waits for others (see
// [room.Room]) or is sent its answer is not worked on.
type gate struct {
	hold hold.Gate
	// limit is how many may be worked on, and reserve how many of the urgent
	// ones beyond that. Zero: no limit.
	limit, reserve int

	mu       sync.Mutex
	inFlight int
	// Who waits for a place, the urgent ones and the others, in order. Each is
	// told by closing its channel that it has one. Guarded by mu.
	urgent, others []chan struct{}

	// parked are the reads that wait for leases; mostParked may.
	parked     atomic.Int64
	mostParked int64

	refused, parkRefused atomic.Uint64
}

// gatePatience is how long a request waits for a place. Longer would only make
// those wait who could ask another node.
const gatePatience = 250 * time.Millisecond

// open reports whether there is any use in reading a body.
func (g *gate) open() error {
	if !g.hold.Enter() {
		return errGateShut
	}
	g.hold.Leave()
	return nil
}

var errGateShut = fmt.Errorf("%w: the node is draining", soracache.ErrUnavailable)

// enter admits a request, which must then free its place and leave the hold. The urgent ones (see procedure)
// go before others, and there is room for them when there is none for others.
func (g *gate) enter(ctx context.Context, urgent bool) error {
	if !g.hold.Enter() {
		return errGateShut
	}
	timer := time.NewTimer(gatePatience)
	defer timer.Stop()
	if err := g.place(ctx, urgent, timer.C); err != nil {
		g.hold.Leave()
		g.refused.Add(1)
		return err
	}
	return nil
}

// place waits for a place. It fails when the context ends, or there is none in
// time.
func (g *gate) place(ctx context.Context, urgent bool, timeout <-chan time.Time) error {
	queue := &g.others
	if urgent {
		queue = &g.urgent
	}
	g.mu.Lock()
	if g.room(urgent) && len(*queue) == 0 {
		g.inFlight++
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	*queue = append(*queue, turn)
	g.mu.Unlock()
	var err error
	select {
	case <-turn:
		return nil
	case <-timeout:
		err = fmt.Errorf("%w: %d requests are in flight, which is the limit (--max-concurrent)", soracache.ErrUnavailable, g.limit)
	case <-ctx.Done():
		err = ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := slices.Index(*queue, turn); at >= 0 {
		*queue = slices.Delete(*queue, at, at+1)
		return err
	}
	return nil // it was let in meanwhile
}

// room holds mu.
func (g *gate) room(urgent bool) bool {
	if urgent {
		return g.limit == 0 || g.inFlight < g.limit+g.reserve
	}
	return g.limit == 0 || g.inFlight < g.limit
}

// free gives up a place, to whoever is next.
func (g *gate) free() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	for _, next := range []struct {
		queue  *[]chan struct{}
		urgent bool
	}{{&g.urgent, true}, {&g.others, false}} {
		for len(*next.queue) > 0 && g.room(next.urgent) {
			close((*next.queue)[0])
			*next.queue = (*next.queue)[1:]
			g.inFlight++
		}
	}
}

func (g *gate) working() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inFlight
}

// wait returns once the gate is shut and nobody is inside, or when the context
// ends.
func (g *gate) wait(ctx context.Context) { _ = g.hold.Wait(ctx) }
