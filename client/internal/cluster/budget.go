package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/cluster/batcher"
	"github.com/soracache/soracache/client/internal/cluster/rpc"
	"github.com/soracache/soracache/client/internal/deadline"
)

// budget is how a call's time is spent on several nodes: beyond the time that
// it is meant to wait, each node but the last gets half of what is left. The
// zero budget gives each node all of it.
type budget struct {
	deadline time.Time
	wait     time.Duration // what the caller asked for
	slack    time.Duration // what it gave beyond that
}

func budgetOf(ctx context.Context, wait time.Duration) budget {
	deadline, ok := ctx.Deadline()
	switch {
	case !ok:
		return budget{}
	case wait == 0:
		return budget{deadline: deadline}
	}
	return budget{deadline, wait, time.Until(deadline) - wait}
}

// waitLeft is the wait that an attempt which begins now has time for: all of
// it, as long as no time to speak of has passed.
func (b budget) waitLeft() time.Duration {
	if b.wait == 0 {
		return 0
	}
	left := time.Until(b.deadline) - b.slack
	if left > b.wait-time.Millisecond {
		return b.wait
	}
	return max(0, left)
}

func (b budget) attempt(ctx context.Context, last bool) (context.Context, context.CancelFunc) {
	if last || b.deadline.IsZero() {
		return ctx, func() {}
	}
	wait, now := b.waitLeft(), time.Now()
	at := now.Add(wait + (b.deadline.Sub(now)-wait)/2)
	if c, ok := ctx.(*deadline.Context); ok {
		c = c.Sooner(at)
		return c, c.End
	}
	return context.WithDeadline(ctx, at)
}

// clamp shortens the waits of reads to what is left.
func (b budget) clamp(req soracache.GetRequest) soracache.GetRequest {
	left := b.waitLeft()
	if left == b.wait {
		return req
	}
	req.Reads = slices.Clone(req.Reads)
	for i := range req.Reads {
		req.Reads[i].Wait = min(req.Reads[i].Wait, left)
	}
	return req
}

// always is for what may be done twice.
func always(error) bool { return true }

// cutOff is [rpc.CutOff], but for what was cut off by the client's own end.
func cutOff(err error) bool { return rpc.CutOff(err) && !errors.Is(err, batcher.ErrClosed) }
