package client

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/lifetime"
	"github.com/soracache/soracache/internal/flight"
)

// The failures of the client itself. Those of the service wrap the sentinels
// of package soracache. Test with errors.Is.
var (
	// ErrClosed is what calls get once the client is closed.
	ErrClosed = lifetime.ErrClosed
	// ErrCycle is what a loader gets that asks, under its own context, for the key
	// that it is loading, or for one whose loader waits for it: by itself, or by way
	// of further loaders. It gets that at once, and nobody else does: what its load
	// then fails with is the loader's to say.
	ErrCycle = flight.ErrCycle
	// ErrWait is what callers get who waited, for as long as [Policy].Wait says, for
	// a load of this same process that began before they came, and goes on. The
	// error also wraps [context.DeadlineExceeded].
	ErrWait = errors.New("the load in this process takes longer than the policy waits")
)

// The failures of the service, as in package soracache.
var (
	// ErrInvalid: the request can never be right.
	ErrInvalid = soracache.ErrInvalid
	// ErrTooLarge: a value, or what was asked for at once, is more than the service takes.
	ErrTooLarge = soracache.ErrTooLarge
	// ErrStoreFull: the second tier has no room for the value.
	ErrStoreFull = soracache.ErrStoreFull
	// ErrUnavailable: the service cannot be reached, or cannot answer now.
	ErrUnavailable = soracache.ErrUnavailable
	// ErrUnauthenticated: the client has no credentials that the service accepts.
	ErrUnauthenticated = soracache.ErrUnauthenticated
	// ErrPermissionDenied: the client's credentials do not allow it.
	ErrPermissionDenied = soracache.ErrPermissionDenied
)

// PanicError is what the callers of a loader get when it panicked: the panic's
// value and its stack. Test with errors.As.
type PanicError = flight.PanicError

// panicked is the error of what panicked. What a loader panics with it did not return:
// that there is no such thing, say, was not its answer.
func panicked(value any) *PanicError {
	if err, ok := value.(error); ok && isAnswer(err) {
		value = noAnswer{err}
	}
	return &PanicError{Value: value, Stack: debug.Stack()}
}

// noAnswer is an error that wraps nothing.
type noAnswer struct{ error }

// ErrGoexit is what the callers of a loader get when it called runtime.Goexit,
// as a test's FailNow does.
var ErrGoexit = flight.ErrGoexit

// What loaders may say by their error.
var (
	// ErrNotFound is what a loader returns, or wraps, if there is no such thing.
	// Under a policy with a NotFoundTTL that is remembered, and readers get an
	// error that wraps it.
	ErrNotFound = errors.New("not found")
	// ErrNotModified is what a loader returns, or wraps, if what [Previous] gave
	// it is still right: that is stored for another TTL, and returned. Without a
	// previous value it is an error like any other.
	ErrNotModified = errors.New("not modified")
)

// isAnswer tells whether an error says what a loader may say by its error, as does one
// that is to be kept.
func isAnswer(err error) bool {
	_, kept := errors.AsType[*cacheError](err)
	return kept || errors.Is(err, ErrNotFound) || errors.Is(err, ErrNotModified)
}

// Why a loaded value was not stored, as Hooks.OnNotStored is told.
var (
	errNoLease     = errors.New("somebody else holds the lease")
	errPassed      = errors.New("an earlier load left nothing a moment ago, so nobody waits for who loads now")
	errReplaced    = errors.New("an entry that cannot be read was replaced a moment ago, and there is another")
	errUndecodable = errors.New("what the codec makes of it cannot be decoded")
	errServiceDown = errors.New("the service could not be asked")
	errDoNotCache  = errors.New("the loader said not to cache it")
	errTooLong     = fmt.Errorf("%w: longer than the policy's MaxBytes", soracache.ErrTooLarge)
	errStale       = errors.New("an ingredient was stale")
	errForeign     = errors.New("an ingredient belongs to another client's namespace")
	errUnproven    = errors.New("an ingredient is of another partition, or not proven as new as the lease")
)

// whyNoLease tells why a read was given no lease.
func whyNoLease(read *soracache.ReadResult) error {
	switch {
	case read.LeaseState != soracache.LeaseRefused:
		return errNoLease
	case read.Refusal == soracache.RefusalStoreFull:
		return soracache.ErrStoreFull
	case read.Refusal == soracache.RefusalPassed:
		return errPassed
	}
	return fmt.Errorf("no lease was to be had: %s", read.Refusal)
}
