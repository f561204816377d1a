package server

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/hold"
)

// gate counts the requests in flight and holds them under a limit; once it is
// shut it lets nobody in.
type gate struct {
	hold     hold.Gate
	limit    int64 // zero: none
	inFlight atomic.Int64
}

// enter admits a request, which must then leave.
func (g *gate) enter() error {
	if !g.hold.Enter() {
		return fmt.Errorf("%w: the node is draining", soracache.ErrUnavailable)
	}
	if n := g.inFlight.Add(1); g.limit > 0 && n > g.limit {
		g.leave()
		return fmt.Errorf("%w: %d requests are in flight, which is the limit", soracache.ErrUnavailable, g.limit)
	}
	return nil
}

func (g *gate) leave() {
	g.inFlight.Add(-1)
	g.hold.Leave()
}

// wait returns once the gate is shut and nobody is inside, or when the context
// ends.
func (g *gate) wait(ctx context.Context) { _ = g.hold.Wait(ctx) }
