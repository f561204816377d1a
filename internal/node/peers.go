package node

import (
	"time"

	"github.com/soracache/soracache/invalidation"
)

// Peers carries notices to the other nodes of a cluster. All of it is best
// effort: what is lost costs time, for at most the bound, and nothing else.
// None of it blocks, and none of it calls back into the node.
type Peers interface {
	// Publish sends a notice to every other member.
	Publish(n invalidation.Notice)
	// Tell sends a notice to one member, by its name.
	Tell(member string, n invalidation.Notice)
	// Bound is the largest bound that any member is known to have.
	Bound() time.Duration
}

// alone is the Peers of a node that has none.
type alone struct{}

func (alone) Publish(invalidation.Notice)      {}
func (alone) Tell(string, invalidation.Notice) {}
func (alone) Bound() time.Duration             { return 0 }

// Receive takes in a notice from a peer. It does not block.
func (n *Node) Receive(_ invalidation.Notice) {}
