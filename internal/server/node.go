package server

import (
	"context"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
)

// Node is the cache that a server puts on the wire.
type Node interface {
	soracache.Backend
	Inspector
	// Limits are what the server checks requests against.
	Limits() soracache.Limits
	// Ready reports why the node cannot serve now: nil if it can.
	Ready(ctx context.Context) error
	// StoreFull reports whether the store has no room for anything new. The node
	// is ready all the same.
	StoreFull() bool
	// Silent names the parts of the store that do not answer, though others do.
	Silent() []string
	// Store tells of the parts of the store whether they answer, as far as that is known.
	Store() []node.StorePart
	// Drain ends the waits of parked readers with a miss, at once, and hands
	// back the leases that the node holds for others.
	Drain(ctx context.Context) error
}

// Inspector answers the questions of people.
type Inspector interface {
	// Explain tells why a key, or the name of one in a schema, is a hit, a miss or
	// stale.
	Explain(ctx context.Context, namespace, key string) (node.Explanation, error)
	// ListKeys lists about limit keys that carry a tag. The page token is
	// empty at first and, in the answer, at the end; a malformed one wraps
	// soracache.ErrInvalid.
	ListKeys(ctx context.Context, namespace, tag, pageToken string, limit int) (keys []string, next string, err error)
}
