package node

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/soracache/soracache/invalidation"
)

// parking is where the readers of one key wait while somebody else holds its
// lease. One timer polls for all of them, so that a thousand waiters cost the
// store one read now and then.
type parking struct {
	open  chan struct{} // closed to let everybody out
	why   woken         // set before open is closed
	timer *time.Timer
}

type woken uint8

const (
	wokenRead   woken = iota // read again
	wokenPassed              // read again: the load left nothing
	wokenLost                // an invalidation ended the lease, or beat its fill
	wokenDrain               // the node is draining
	wokenGone                // the reader's context ended
)

// Polls begin at pollFirst and grow twofold to pollMost. They are what wakes
// readers on other nodes when the notice of the one that took the fill is lost.
const (
	pollFirst = 10 * time.Millisecond
	pollMost  = 100 * time.Millisecond
)

// park waits until the key's lease may have ended, but no longer than most. It
// does not wait if that was heard of after the question was asked which told
// that the lease is held.
func (p *partition) park(ctx context.Context, key string, round int, asked, most time.Duration) woken {
	hash := invalidation.KeyHash(key)
	p.mu.Lock()
	if at, ok := p.freedAt[hash]; ok && at > asked || p.allFreedAt > asked {
		p.mu.Unlock()
		return wokenRead
	}
	lot := p.parked[hash]
	if lot == nil {
		lot = &parking{open: make(chan struct{})}
		p.parked[hash] = lot
		poll := min(pollFirst<<min(round, 10), pollMost)
		poll = poll*3/4 + p.node.upTo(poll/2)
		lot.timer = time.AfterFunc(poll, func() { p.empty(hash, lot, wokenRead) })
	}
	p.mu.Unlock()
	end := time.NewTimer(most)
	defer end.Stop()
	select {
	case <-lot.open:
		return lot.why
	case <-end.C:
		return wokenRead
	case <-p.node.draining:
		return wokenDrain
	case <-ctx.Done():
		return wokenGone
	}
}

// wake lets out whoever is parked for a key.
func (p *partition) wake(key string, why woken) { p.wakeHash(invalidation.KeyHash(key), why) }

// mostFreed bounds what is remembered for those who are about to park. Whoever
// misses it polls.
const mostFreed = 1024

func (p *partition) wakeHash(hash uint64, why woken) {
	p.mu.Lock()
	lot := p.parked[hash]
	if lot == nil {
		if len(p.freedAt) >= mostFreed {
			clear(p.freedAt)
		}
		p.freedAt[hash] = p.node.now()
	}
	p.mu.Unlock()
	if lot != nil && lot.timer.Stop() {
		p.empty(hash, lot, why)
	}
}

// wakeAll lets out whoever is parked for any key.
func (p *partition) wakeAll(why woken) {
	p.mu.Lock()
	p.allFreedAt = p.node.now()
	all := slices.Sorted(maps.Keys(p.parked))
	p.mu.Unlock()
	for _, hash := range all {
		p.wakeHash(hash, why)
	}
}

func (p *partition) empty(hash uint64, lot *parking, why woken) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parked[hash] == lot {
		delete(p.parked, hash)
	}
	lot.why = why
	close(lot.open)
}
