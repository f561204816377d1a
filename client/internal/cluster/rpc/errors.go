package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// Error turns the service's codes into the errors that callers can tell apart. The original stays wrapped, so a context's own end can be seen too.
func Error(err error) error {
	if connect.CodeOf(err) == connect.CodeInternal && !connect.IsWireError(err) && errors.Is(err, proto.Error) {
		// It was not sent: some name in it is not UTF-8.
		return fmt.Errorf("%w: %w", soracache.ErrInvalid, err)
	}
	if connect.CodeOf(err) == connect.CodeInvalidArgument && !connect.IsWireError(err) {
		// The answer is none, which says nothing against the request.
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	if connect.CodeOf(err) == connect.CodeResourceExhausted && isStoreFull(err) {
		return fmt.Errorf("%w: %w", soracache.ErrStoreFull, err)
	}
	var wire *connect.Error
	if errors.As(err, &wire) && wire.Code() == connect.CodeResourceExhausted && wire.Meta().Get("Retry-After") != "" {
		// The node has no memory for it now, which another may have.
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	kind := sentinelOf(connect.CodeOf(err))
	if errors.Is(kind, soracache.ErrInvalid) && wire != nil {
		return &invalidError{wire}
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// invalidError is what the service said against a request, in the words that a node
// in the same process has for it.
type invalidError struct{ said *connect.Error }

// Error implements error.
func (e *invalidError) Error() string { return soracache.ErrInvalid.Error() + ": " + e.said.Message() }

// Unwrap returns what it is and what was said.
func (e *invalidError) Unwrap() []error { return []error{soracache.ErrInvalid, e.said} }

// isStoreFull tells of what a limit is that was reached: the service says so in
// a detail of its error.
func isStoreFull(err error) bool {
	var failed *connect.Error
	if !errors.As(err, &failed) {
		return false
	}
	for _, detail := range failed.Details() {
		message, unknown := detail.Value()
		refused, ok := message.(*cachev1.Refused)
		if unknown == nil && ok && refused.Refusal == cachev1.Refusal_REFUSAL_STORE_FULL {
			return true
		}
	}
	return false
}

func sentinelOf(code connect.Code) error {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange, connect.CodeFailedPrecondition:
		return soracache.ErrInvalid
	case connect.CodeResourceExhausted:
		return soracache.ErrTooLarge
	case connect.CodeUnauthenticated:
		return soracache.ErrUnauthenticated
	case connect.CodePermissionDenied:
		return soracache.ErrPermissionDenied
	case connect.CodeUnimplemented, connect.CodeNotFound:
		return soracache.ErrUnimplemented // nothing of ours is at that URL
	default:
		return soracache.ErrUnavailable
	}
}

// invalidateError is [Error], but for an invalidation that is recorded and not
// acknowledged: the service tells so in a detail of its error.
func invalidateError(err error) error {
	var failed *connect.Error
	if !errors.As(err, &failed) {
		return Error(err)
	}
	for _, detail := range failed.Details() {
		message, unknown := detail.Value()
		incomplete, ok := message.(*cachev1.InvalidateIncomplete)
		if unknown != nil || !ok || !incomplete.Recorded {
			continue
		}
		stamp, malformed := wireStamps(incomplete.Stamp)
		if malformed != nil {
			return malformed
		}
		return &soracache.IncompleteError{Stamp: stamp, Stragglers: incomplete.Stragglers, Cause: context.DeadlineExceeded}
	}
	return Error(err)
}

// batchError is the failure of one item of a batch.
func batchError(e *cachev1.BatchError) error {
	if e == nil {
		return nil
	}
	return itemError(e.Code, e.Message, e.Refusal)
}

func itemError(name, message string, refusal cachev1.Refusal) error {
	if refusal == cachev1.Refusal_REFUSAL_STORE_FULL {
		return fmt.Errorf("%w: %s", soracache.ErrStoreFull, message)
	}
	var code connect.Code
	if err := code.UnmarshalText([]byte(name)); err != nil {
		code = connect.CodeUnknown
	}
	return fmt.Errorf("%w: %s", sentinelOf(code), message)
}

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

// refusedHeader is in answers to requests that the node has not begun.
const refusedHeader = "Soracache-Refused"

// NotBegun tells whether an error came about before the node began what it was
// asked: there was no connection, or it refused the request at its gate, as a
// node does that is draining.
func NotBegun(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var answer *connect.Error
	return errors.As(err, &answer) && connect.IsWireError(err) && answer.Meta().Get(refusedHeader) != ""
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
