package cluster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache/client/internal/deadline"
)

// detachedRequest is one request to a node, made in a goroutine of its own, so that it may
// go on when whoever wants it has gone. It is the context of the request, too: it
// has the values of the first who wanted it, its progress, and an end of its own.
type detachedRequest struct {
	context.Context

	// due is what the node is told of the callers' time, so that it need not work
	// longer for them than they wait. It is zero where that would be wrong: a node
	// would hold what it is sent to the time for which callers wait for nothing but a
	// first sign of life.
	due time.Time

	progress deadline.Progress
	cancel   context.CancelFunc
	state    atomic.Int32
	done     chan struct{}
	// lingers ends it when it has gone on without its caller for long enough. The
	// backend's mutex guards it.
	lingers *time.Timer
}

func newDetachedRequest(ctx context.Context) *detachedRequest {
	e := &detachedRequest{done: make(chan struct{})}
	e.Context, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	e.follow(ctx)
	return e
}

// tell has the node know the deadline of those who wait.
func (e *detachedRequest) tell(ctx context.Context) { e.due, _ = ctx.Deadline() }

// Deadline implements [context.Context].
func (e *detachedRequest) Deadline() (time.Time, bool) { return e.due, !e.due.IsZero() }

// Value implements [context.Context].
func (e *detachedRequest) Value(key any) any {
	if key == (deadline.Key{}) {
		return &e.progress
	}
	return e.Context.Value(key)
}

// follow has somebody's wait go on for as long as the request makes progress.
func (e *detachedRequest) follow(ctx context.Context) { deadline.Follow(ctx, &e.progress) }

// wait returns nil once the request is done, or why the caller's context ended.
func (e *detachedRequest) wait(ctx context.Context) error {
	var timer *time.Timer
	return deadline.Wait(ctx, e.done, &timer)
}

// How a detached request ends.
const (
	open int32 = iota
	answered
	abandoned
)
