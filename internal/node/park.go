package node

import (
	"context"
	"math/rand/v2"
	"time"
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
	wokenRead  woken = iota // read again
	wokenLost               // an invalidation ended the lease, or beat its fill
	wokenDrain              // the node is draining
	wokenGone               // the reader's context ended
)

// Polls begin at pollFirst and grow twofold to pollMost. They are what wakes
// readers on nodes other than the one that took the fill.
const (
	pollFirst = 10 * time.Millisecond
	pollMost  = 100 * time.Millisecond
)

// park waits until the key's lease may have ended, but no longer than most.
func (p *partition) park(ctx context.Context, key string, round int, most time.Duration) woken {
	p.mu.Lock()
	lot := p.parked[key]
	if lot == nil {
		lot = &parking{open: make(chan struct{})}
		p.parked[key] = lot
		poll := min(pollFirst<<min(round, 10), pollMost)
		poll = poll*3/4 + rand.N(poll/2) //nolint:gosec // jitter
		lot.timer = time.AfterFunc(poll, func() { p.empty(key, lot, wokenRead) })
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
func (p *partition) wake(key string, why woken) {
	p.mu.Lock()
	lot := p.parked[key]
	p.mu.Unlock()
	if lot != nil && lot.timer.Stop() {
		p.empty(key, lot, why)
	}
}

func (p *partition) empty(key string, lot *parking, why woken) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parked[key] == lot {
		delete(p.parked, key)
	}
	lot.why = why
	close(lot.open)
}
