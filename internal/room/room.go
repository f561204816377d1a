// Package room is what a node knows of the room that a caller has: how much its
// answer may take, and that it holds nobody up while it waits. It travels in the
// context of a request; without it there is no limit.
package room

import "context"

// Room is one caller's. Its methods are called by one goroutine at a time.
type Room interface {
	// Take asks whether a value of so many bytes may be added to the answer. It
	// is asked in the order of the reads; at the first no, the answer ends.
	Take(bytes int) bool
	// Park says that the caller is about to wait for others: a read for somebody
	// else's lease, an invalidation for acknowledgements; unless too many do, which
	// is then the error. Resume says that its waiting is over.
	Park() error
	Resume()
}

type contextKey struct{}

// NewContext returns a context with the caller's room.
func NewContext(ctx context.Context, r Room) context.Context {
	return context.WithValue(ctx, contextKey{}, r)
}

// FromContext returns the caller's room, or one that has no end.
func FromContext(ctx context.Context) Room {
	if r, ok := ctx.Value(contextKey{}).(Room); ok {
		return r
	}
	return endless{}
}

// Limited tells whether the context has a caller's room.
func Limited(ctx context.Context) bool {
	_, ok := ctx.Value(contextKey{}).(Room)
	return ok
}

type endless struct{}

func (endless) Take(int) bool { return true }
func (endless) Park() error   { return nil }
func (endless) Resume()       {}
