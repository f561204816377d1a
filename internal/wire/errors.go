package wire

import (
	"context"
	"errors"
	"fmt"

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

// codes says which code stands for which error. Of an error that wraps several, the
// first one decides.
var codes = []struct {
	err  error
	code connect.Code
}{
	{soracache.ErrInvalid, connect.CodeInvalidArgument},
	{soracache.ErrTooLarge, connect.CodeResourceExhausted},
	{soracache.ErrUnauthenticated, connect.CodeUnauthenticated},
	{soracache.ErrPermissionDenied, connect.CodePermissionDenied},
	{soracache.ErrUnimplemented, connect.CodeUnimplemented},
	{soracache.ErrUnavailable, connect.CodeUnavailable},
	{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
	{context.Canceled, connect.CodeCanceled},
}

// CodeOf returns the code for an error, and in the error's own words what the code says;
// false if it is none of those that callers can tell apart.
func CodeOf(err error) (code connect.Code, kind string, ok bool) {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code, c.err.Error(), true
		}
	}
	return connect.CodeInternal, "", false
}

// sentinelOf returns the error for a code.
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

// StoreFull is the answer for a store without room. A detail tells what the code
// leaves open, which is what has run out.
func StoreFull(err error) *connect.Error {
	answer := connect.NewError(connect.CodeResourceExhausted, err)
	detail, malformed := connect.NewErrorDetail(&cachev1.Refused{Refusal: cachev1.Refusal_REFUSAL_STORE_FULL})
	if malformed == nil {
		answer.AddDetail(detail)
	}
	return answer
}

// Incomplete is the answer for an invalidation that is recorded and not acknowledged. A
// detail tells so, and who has not acknowledged it. It fails if a name is not UTF-8.
func Incomplete(e *soracache.IncompleteError) (*connect.Error, error) {
	answer := connect.NewError(connect.CodeDeadlineExceeded, e)
	detail, err := connect.NewErrorDetail(&cachev1.InvalidateIncomplete{
		Recorded: true, Stamp: e.Stamp.Encode(), Stragglers: e.Stragglers,
	})
	if err != nil {
		return nil, fmt.Errorf("tell what is incomplete: %w", err)
	}
	answer.AddDetail(detail)
	return answer, nil
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
		stamp, malformed := stampsOf(incomplete.Stamp)
		if malformed != nil {
			return malformed
		}
		return &soracache.IncompleteError{Stamp: stamp, Stragglers: incomplete.Stragglers, Cause: context.DeadlineExceeded}
	}
	return Error(err)
}

// BatchError puts the failure of one item of a batch on the wire, which by itself would
// be the given answer.
func BatchError(err error, answer *connect.Error) *cachev1.BatchError {
	item := &cachev1.BatchError{Code: answer.Code().String(), Message: answer.Message()}
	if errors.Is(err, soracache.ErrStoreFull) {
		item.Refusal = cachev1.Refusal_REFUSAL_STORE_FULL
	}
	return item
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
