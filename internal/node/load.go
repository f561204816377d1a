package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/internal/room"
	"github.com/soracache/soracache/l2"
)

// Why a read has no answer that is no fault of the store's. They do not leave
// the package.
var (
	// errLeftOut: there was no room for it on its trip. It goes with the next.
	errLeftOut = errors.New("left out of the trip")
	// errNoRoom: its caller has no room for it.
	errNoRoom = errors.New("no room in the answer")
)

func unread(err error) bool { return err == errLeftOut || err == errNoRoom } //nolint:errorlint // they are ours

// roomFor asks the caller for the room that an entry takes in its answer. Small
// ones are not worth the question.
func roomFor(ctx context.Context, e soracache.Entry) bool {
	return len(e.Value) < l2.SmallBytes || room.FromContext(ctx).Take(len(e.Value))
}

// loadBytes is about how much one trip brings of what is large, or one entry that
// is larger. Who asks for more gets it with the next, so that those who ask for
// little do not wait for it.
const loadBytes = 8 << 20

// load is the memory of what a trip brings: it is taken from the node's budget
// before the store reads it, and given back when the last reader has it.
type load struct {
	partition *partition
	hold      *budget.Hold // nil: there is no budget

	mu    sync.Mutex
	taken int // for what is under way
	large int // of these, for what is not small
	heavy bool
	// wanted is what the budget had no room for, and fewer is closed when there
	// are fewer heavy trips.
	wanted int
	fewer  <-chan struct{}
}

func (p *partition) newLoad() *load {
	l := &load{partition: p}
	if p.node.cfg.Budget != nil {
		l.hold = p.node.cfg.Budget.Hold(nil)
	}
	return l
}

// begin takes what the store may bring without asking.
func (l *load) begin(ctx context.Context, inline int) error {
	if l.hold == nil {
		return nil
	}
	l.taken = inline
	if err := l.hold.Take(ctx, inline); err != nil {
		l.taken = 0
		return err
	}
	return nil
}

// room is asked by the store for what is large.
func (l *load) room(bytes int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.large > 0 && l.large+bytes > loadBytes {
		return false
	}
	if !l.heavy {
		if l.fewer = l.partition.burden(); l.fewer != nil {
			return false
		}
		l.heavy = true
	}
	if l.hold != nil {
		if !l.hold.Try(bytes) {
			l.wanted = max(l.wanted, bytes)
			return false
		}
		l.taken += bytes
	}
	l.large += bytes
	return true
}

// keep says that so many of the bytes that were taken are in use. It returns how
// many are to be given back later.
func (l *load) keep(bytes int) int {
	if l.hold == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	bytes = min(bytes, l.taken)
	l.taken -= bytes
	return bytes
}

// end gives back what was taken and not used.
func (l *load) end() {
	if l.hold != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.hold.Give(l.taken)
		l.taken = 0
	}
}

func (l *load) giveBack(bytes int) { l.hold.Give(bytes) }

// turnAway fails the flights of a trip for which there is no memory. That says
// nothing of the store.
func (p *partition) turnAway(t *trip, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range t.flights {
		f.err = err
		delete(p.flights.sent, f.key)
		close(f.done)
	}
	p.landed(t)
}

// leftOut waits for memory or for other trips, if that is why a read was left out, so that it goes
// with the next trip.
func (p *partition) leftOut(ctx context.Context, f *flight, r *soracache.Read, req *soracache.GetRequest) soracache.ReadResult {
	l := f.trip.load
	l.mu.Lock()
	wanted, fewer := l.wanted, l.fewer
	l.mu.Unlock()
	if fewer != nil {
		select {
		case <-fewer:
		case <-ctx.Done():
			return soracache.ReadResult{Err: ctx.Err()}
		}
	}
	if wanted == 0 {
		return soracache.ReadResult{Err: errLeftOut}
	}
	probe := p.node.cfg.Budget.Hold(nil)
	defer probe.Close()
	if err := probe.Take(ctx, wanted+l2.InlineBytes); err != nil {
		return p.failedRead(r, req, fmt.Errorf("reading %d bytes: %w", wanted, err))
	}
	return soracache.ReadResult{Err: errLeftOut}
}
