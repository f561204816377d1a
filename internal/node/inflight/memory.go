package inflight

import (
	"context"
	"fmt"
	"sync"

	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/l2"
)

// batchBytes is about how much one batch brings of what is large, or one entry that
// is larger. Who asks for more gets it with the next, so that those who ask for
// little do not wait for it.
const batchBytes = 8 << 20

// memory is that of what a batch brings: it is taken from the node's budget before
// the store reads it, and given back when the last reader has it.
type memory struct {
	budget *budget.Budget // nil: there is no limit
	hold   *budget.Hold   // nil: there is no limit
	// batches makes the batch a heavy one, or returns what is closed when it may be.
	batches interface {
		burden() (fewer <-chan struct{})
	}

	mu    sync.Mutex
	taken int  // for what is under way; guarded by mu
	large int  // of these, for what is not small; guarded by mu
	heavy bool // guarded by mu while the store reads
	// wanted is what the budget had no room for, and fewer is closed when there
	// are fewer heavy batches. Both are guarded by mu.
	wanted int
	fewer  <-chan struct{}
}

// begin takes what the store may bring without asking.
func (m *memory) begin(ctx context.Context, inline int) error {
	if m.hold == nil {
		return nil
	}
	m.taken = inline
	if err := m.hold.Take(ctx, inline); err != nil {
		m.taken = 0
		return err
	}
	return nil
}

// room takes what is large, if there is room for it.
func (m *memory) room(bytes int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.large > 0 && m.large+bytes > batchBytes {
		return false
	}
	if !m.heavy {
		if m.fewer = m.batches.burden(); m.fewer != nil {
			return false
		}
		m.heavy = true
	}
	if m.hold != nil {
		if !m.hold.Try(bytes) {
			m.wanted = max(m.wanted, bytes)
			return false
		}
		m.taken += bytes
	}
	m.large += bytes
	return true
}

// keep says that so many of the bytes that were taken are in use. It returns how
// many are to be given back later.
func (m *memory) keep(bytes int) int {
	if m.hold == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	bytes = min(bytes, m.taken)
	m.taken -= bytes
	return bytes
}

// end gives back what was taken and not used.
func (m *memory) end() {
	if m.hold != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.hold.Give(m.taken)
		m.taken = 0
	}
}

func (m *memory) giveBack(bytes int) { m.hold.Give(bytes) }

// wait waits until the next batch may have room for what was left out of this one, be
// it in the budget or because there are fewer heavy ones. Without another error it
// returns ErrLeftOut.
func (m *memory) wait(ctx context.Context) error {
	m.mu.Lock()
	wanted, fewer := m.wanted, m.fewer
	m.mu.Unlock()
	if fewer != nil {
		select {
		case <-fewer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if wanted == 0 {
		return ErrLeftOut
	}
	probe := m.budget.Hold(nil)
	defer probe.Close()
	if err := probe.Take(ctx, wanted+l2.InlineBytes); err != nil {
		return fmt.Errorf("reading %d bytes: %w", wanted, err)
	}
	return ErrLeftOut
}
