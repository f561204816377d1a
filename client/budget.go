package client

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
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
	if l, ok := ctx.(*limit); ok {
		l = l.sooner(at)
		return l, l.end
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

// failed tells whether an error is the node's failure to answer, after which
// another node may do better: it cannot be reached, was cut off or silent, says
// that it is unavailable or that time is over (it counts down the attempt's time
// as well, and is often the first to see its end), or answers what is none of
// ours.
func failed(err error) bool {
	if !errors.Is(err, soracache.ErrUnavailable) {
		return false
	}
	code := connect.CodeOf(err)
	return code == connect.CodeUnavailable || code == connect.CodeDeadlineExceeded || !connect.IsWireError(err)
}

// always is for what may be done twice.
func always(error) bool { return true }

// refusedHeader is in answers to requests that the node has not begun.
const refusedHeader = "Soracache-Refused"

// notBegun tells whether an error came about before the node began what it was
// asked: there was no connection, or it refused the request at its gate, as a
// node does that is draining.
func notBegun(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var answer *connect.Error
	return errors.As(err, &answer) && connect.IsWireError(err) && answer.Meta().Get(refusedHeader) != ""
}

// cutOff tells whether an error came about between the two ends: the node was
// not heard, and may be there by now, as after a restart that a kept connection
// did not survive.
func cutOff(err error) bool {
	var dial *net.OpError
	return failed(err) && !connect.IsWireError(err) &&
		!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrClosed) &&
		(!errors.As(err, &dial) || dial.Op != "dial")
}
