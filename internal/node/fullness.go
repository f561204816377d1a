package node

import (
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

// fullness is whether the store has room for anything new, as its answers tell. A
// store that is full still answers reads and takes invalidations, so the node is
// ready; but nobody's load is stored.
type fullness struct {
	full atomic.Bool
	// refused is when the last refusal came, on the node's clock.
	refused atomic.Int64
}

// leastFull is how long after a refusal the store still counts as full, so that
// one at the edge is not told of for each key.
const leastFull = 5 * time.Second

// StoreFull reports whether the store has no room for anything new.
func (n *Node) StoreFull() bool { return n.fullness.full.Load() }

// roomFor takes in what an answer says of the wish for a lease, which was asked
// for at a time on the node's clock.
func (n *Node) roomFor(state soracache.LeaseState, why soracache.Refusal, asked time.Duration) {
	switch {
	case state == soracache.LeaseRefused && why == soracache.RefusalStoreFull:
		n.refusedForRoom()
	case state == soracache.LeaseGranted:
		n.foundRoom(asked)
	}
}

// refusedForRoom notes that the store had no room for something.
func (n *Node) refusedForRoom() {
	n.totals.refusedForRoom.Add(1)
	n.fullness.refused.Store(int64(n.now()))
	if !n.fullness.full.Swap(true) {
		n.cfg.Logger.Warn("the store is full: nothing new is stored, and every client loads for itself")
	}
}

// foundRoom notes that the store had room for what was asked at a time.
func (n *Node) foundRoom(asked time.Duration) {
	if n.fullness.full.Load() && asked > time.Duration(n.fullness.refused.Load())+leastFull && n.fullness.full.Swap(false) {
		n.cfg.Logger.Info("the store has room again")
	}
}
