package rpc

import (
	"context"
	"errors"
	"net"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/wire"
)

// Failed tells whether an error is the node's failure to answer, after which
// another node may do better: it cannot be reached, was cut off or silent, says
// that it is unavailable or that time is over (it counts down the attempt's time
// as well, and is often the first to see its end), or answers what is none of
// ours.
func Failed(err error) bool {
	if !errors.Is(err, soracache.ErrUnavailable) {
		return false
	}
	code := connect.CodeOf(err)
	return code == connect.CodeUnavailable || code == connect.CodeDeadlineExceeded || !connect.IsWireError(err)
}

// NotBegun tells whether an error came about before the node began what it was
// asked: there was no connection, or it refused the request at its gate, as a
// node does that is draining.
func NotBegun(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var answer *connect.Error
	return errors.As(err, &answer) && connect.IsWireError(err) && answer.Meta().Get(wire.RefusedHeader) != ""
}

// CutOff tells whether an error came about between the two ends: the node was
// not heard, and may be there by now, as after a restart that a kept connection
// did not survive.
func CutOff(err error) bool {
	var dial *net.OpError
	return Failed(err) && !Said(err) && !errors.Is(err, context.DeadlineExceeded) &&
		(!errors.As(err, &dial) || dial.Op != "dial")
}

// Said tells whether an error is what the node said.
func Said(err error) bool { return connect.IsWireError(err) }

// TimedOut tells whether the time of the call is what ended it, as the node or its
// own end says.
func TimedOut(err error) bool { return connect.CodeOf(err) == connect.CodeDeadlineExceeded }
