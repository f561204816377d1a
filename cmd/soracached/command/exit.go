package command

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
)

// The exit codes. Scripts rely on them: they are never renumbered.
const (
	exitOK          = 0
	exitNoValue     = 1 // get: nothing live under the key
	exitUsage       = 2 // wrong options, or input that can never be right
	exitUnavailable = 3 // the node (or, in serve, what it needs) cannot be reached or cannot answer now
	exitDenied      = 4 // no token, a wrong one, or one for something else
	exitOther       = 5
	exitFailure     = 6 // get: what is cached under the key is that its loader failed
)

// errNoValue ends a command that has already said that there is nothing.
var errNoValue = errors.New("no value")

// errCachedFailure ends a command that has already said that a failure is cached.
var errCachedFailure = errors.New("a cached failure")

// usageError is the operator's mistake.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usage marks an error as the operator's mistake; nil stays nil.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// exitCode is the one place where errors become exit codes.
func exitCode(err error) int {
	var mistake usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errNoValue):
		return exitNoValue
	case errors.Is(err, errCachedFailure):
		return exitFailure
	case errors.As(err, &mistake), errors.Is(err, soracache.ErrInvalid):
		return exitUsage
	case errors.Is(err, soracache.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return exitUnavailable
	}
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return exitUsage
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeAborted:
		return exitUnavailable
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return exitDenied
	}
	return exitOther
}

// message is what a person is told of an error: the code that an RPC failed
// with, and the text.
func message(err error) string {
	var rpc *connect.Error
	if errors.As(err, &rpc) {
		return rpc.Code().String() + ": " + rpc.Message()
	}
	return err.Error()
}
