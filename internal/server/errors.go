package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// retryAfter is how long, in seconds, who finds no memory or no place should wait.
const retryAfter = "1"

// errInternal is all that callers are told of a failure that is none of the
// sentinels; the log has the rest.
var errInternal = errors.New("internal error")

// wireError is the one place where errors become codes. An error may wrap
// several of the failures that callers can tell apart (a store that gave up
// wraps ErrUnavailable and its own deadline); the first one here decides. Its
// text is left out of the message, because the code says the same.
func wireError(err error) *connect.Error {
	var coded *connect.Error
	if errors.As(err, &coded) {
		return coded
	}
	// Another time it can be, or at another node.
	if errors.Is(err, budget.ErrFull) {
		return tryAgain(fmt.Errorf("%w (--max-inflight-bytes): try again", err))
	}
	if errors.Is(err, errQuestions) {
		return tryAgain(err)
	}
	var incomplete *soracache.IncompleteError
	if errors.As(err, &incomplete) {
		return incompleteError(incomplete)
	}
	if errors.Is(err, soracache.ErrStoreFull) {
		return storeFull(err)
	}
	for _, known := range []struct {
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
	} {
		if errors.Is(err, known.err) {
			return connect.NewError(known.code, errors.New(strings.TrimPrefix(publicText(err), known.err.Error()+": ")))
		}
	}
	return connect.NewError(connect.CodeInternal, errInternal)
}

func tryAgain(err error) *connect.Error {
	wire := connect.NewError(connect.CodeResourceExhausted, err)
	wire.Meta().Set("Retry-After", retryAfter)
	return wire
}

// storeFull tells in a detail what the code leaves open, which is what has run
// out. Its text stays as it is.
func storeFull(err error) *connect.Error {
	wire := connect.NewError(connect.CodeResourceExhausted, err)
	detail, malformed := connect.NewErrorDetail(&soracachev1.Refused{Refusal: soracachev1.Refusal_REFUSAL_STORE_FULL})
	if malformed == nil {
		wire.AddDetail(detail)
	}
	return wire
}

// publicText is what callers may be told of a failure. What a store says of its
// own (see l2.Failure) is for the log: it names addresses, files and scripts. So
// is whatever the operating system or the network says.
func publicText(err error) string {
	var said interface{ Public() string }
	if errors.As(err, &said) {
		return said.Public()
	}
	var network net.Error
	var path *fs.PathError
	var call *os.SyscallError
	var number syscall.Errno
	if errors.As(err, &network) && !errors.Is(network, context.DeadlineExceeded) ||
		errors.As(err, &path) || errors.As(err, &call) || errors.As(err, &number) {
		return "the node cannot reach what it needs"
	}
	return err.Error()
}

// incompleteError tells in a detail that the invalidation is recorded, and who
// has not acknowledged it.
func incompleteError(e *soracache.IncompleteError) *connect.Error {
	wire := connect.NewError(connect.CodeDeadlineExceeded, e)
	detail, err := connect.NewErrorDetail(&soracachev1.InvalidateIncomplete{
		Recorded: true, Stamp: e.Stamp.Encode(), Stragglers: e.Stragglers,
	})
	if err != nil { // a name that is not UTF-8, which no node has
		return connect.NewError(connect.CodeInternal, errInternal)
	}
	wire.AddDetail(detail)
	return wire
}

// batchError is the failure of one item of a batch; nil for none.
func batchError(err error) *soracachev1.BatchError {
	if err == nil {
		return nil
	}
	wire := wireError(err)
	item := &soracachev1.BatchError{Code: wire.Code().String(), Message: wire.Message()}
	if errors.Is(err, soracache.ErrStoreFull) {
		item.Refusal = soracachev1.Refusal_REFUSAL_STORE_FULL
	}
	return item
}
