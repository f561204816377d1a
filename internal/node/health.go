package node

import (
	"context"
	"errors"
	"sync"
	"time"
)

// StorePart is a part of the store, and whether it answers.
type StorePart struct {
	// Name is what the store calls it: empty where the store is one.
	Name string
	// Reachable tells whether it answers, and For for how long that has been so.
	Reachable bool
	For       time.Duration
}

// Store tells of the parts of the store whether they answer, by name: of those that were
// asked for something, or if none was, of the store as a whole since somebody asked
// whether the node is ready. It says nothing of a part that did not answer and that
// nobody has asked since.
func (n *Node) Store() []StorePart {
	var all []StorePart
	for _, pt := range n.parts.list() {
		if health, known := pt.health(); known {
			all = append(all, health)
		}
	}
	if len(all) > 0 {
		return all
	}
	return n.ping.health(n.now())
}

func (pt *part) health() (health StorePart, known bool) {
	now := pt.all.node.now()
	pt.mu.Lock()
	defer pt.mu.Unlock()
	switch {
	case pt.unreachable(now):
		return StorePart{Name: pt.name, For: now - pt.owing}, true
	case pt.up >= 0:
		return StorePart{Name: pt.name, Reachable: true, For: now - pt.up}, true
	}
	return StorePart{}, false
}

// unreachable tells whether the part has owed an answer for too long, or readers are
// refused for its sake. Its mutex is held.
func (pt *part) unreachable(now time.Duration) bool {
	return pt.owing >= 0 && (pt.failures >= failuresUntilDown || now-pt.owing > pt.all.node.silence())
}

// ping is what came of asking the store whether it can answer.
type ping struct {
	mu    sync.Mutex
	known bool          // guarded by mu
	up    bool          // guarded by mu
	since time.Duration // when it came to be so, on the node's clock; guarded by mu
}

// note takes in an answer, and returns it.
func (p *ping) note(err error, now time.Duration) error {
	if errors.Is(err, context.Canceled) {
		return err // it was not waited for
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if up := err == nil; !p.known || up != p.up {
		p.known, p.up, p.since = true, up, now
	}
	return err
}

func (p *ping) health(now time.Duration) []StorePart {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.known {
		return nil
	}
	return []StorePart{{Reachable: p.up, For: now - p.since}}
}
