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
	"github.com/soracache/soracache/internal/wire"
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
		if answer, err := wire.Incomplete(incomplete); err == nil {
			return answer
		}
		return connect.NewError(connect.CodeInternal, errInternal) // a name that is not UTF-8, which no node has
	}
	if errors.Is(err, soracache.ErrStoreFull) {
		return wire.StoreFull(err) // its text stays as it is
	}
	if code, kind, ok := wire.CodeOf(err); ok {
		return connect.NewError(code, errors.New(strings.TrimPrefix(publicText(err), kind+": ")))
	}
	return connect.NewError(connect.CodeInternal, errInternal)
}

func tryAgain(err error) *connect.Error {
	answer := connect.NewError(connect.CodeResourceExhausted, err)
	answer.Meta().Set("Retry-After", retryAfter)
	return answer
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

// batchError is the failure of one item of a batch; nil for none.
func batchError(err error) *soracachev1.BatchError {
	if err == nil {
		return nil
	}
	return wire.BatchError(err, wireError(err))
}
