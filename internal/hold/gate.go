// Package hold lets a component wait for what is inside it before it ends.
package hold

import (
	"context"
	"sync"
)

// Gate counts who is inside and can be shut: nobody enters any more, and
// whoever shut it can wait until all have left. The zero Gate is open.
type Gate struct {
	mu     sync.Mutex
	inside int
	shut   bool
	empty  chan struct{} // closed when shut and nobody is inside; nil until shut
}

// Enter goes in, unless the gate is shut. Whoever went in must leave once.
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.inside++
	return true
}

// Leave goes out again.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.shut && g.inside == 0 {
		close(g.empty)
	}
}

// Shut lets nobody in any more. Shutting twice is the same as once.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return
	}
	g.shut = true
	g.empty = make(chan struct{})
	if g.inside == 0 {
		close(g.empty)
	}
}

// Wait returns when all have left a gate that was shut before, or when ctx
// ends.
func (g *Gate) Wait(ctx context.Context) error {
	g.mu.Lock()
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
