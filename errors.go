package soracache

import (
	"errors"
	"fmt"
	"strings"
)

// The failures that callers can tell apart, each with the RPC code it maps to.
// They are wrapped with the particulars; test with errors.Is.
var (
	// ErrInvalid is input that can never be right (invalid_argument).
	ErrInvalid = errors.New("invalid argument")
	// ErrTooLarge is a value, batch or message over its limit (resource_exhausted).
	ErrTooLarge = errors.New("over a limit")
	// ErrStoreFull is what a store without room does not take
	// (resource_exhausted). Reads and invalidations go on.
	ErrStoreFull = errors.New("the store is full")
	// ErrUnavailable means that the store or the service cannot answer now
	// (unavailable). What was asked may or may not have happened; repeating an
	// invalidation is safe.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnimplemented is a valid request for what this build cannot do
	// (unimplemented).
	ErrUnimplemented = errors.New("not implemented")
	// ErrUnauthenticated is a request without a valid credential (unauthenticated).
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrPermissionDenied is a valid credential of the wrong scope or for
	// another namespace (permission_denied).
	ErrPermissionDenied = errors.New("permission denied")
)

// IncompleteError says that an invalidation that was to be acknowledged is
// recorded, but that not every node had acknowledged it when the caller's time
// was over (deadline_exceeded). The nodes that had not may serve old values for
// at most their bound from then on. It wraps what ended the wait.
type IncompleteError struct {
	// Stamp is where the invalidation is recorded.
	Stamp Stamps
	// Stragglers names the nodes that had not acknowledged it. It is empty if
	// all known ones had, and the store could not tell whether that was all.
	Stragglers []string
	// Cause is what ended the wait: the context's error.
	Cause error
}

// Error names the stragglers.
func (e *IncompleteError) Error() string {
	if len(e.Stragglers) == 0 {
		return fmt.Sprintf("recorded, but there may be nodes that the store has forgotten: %v", e.Cause)
	}
	return fmt.Sprintf("recorded, but not acknowledged by %s: %v", strings.Join(e.Stragglers, ", "), e.Cause)
}

// Unwrap returns the cause.
func (e *IncompleteError) Unwrap() error { return e.Cause }
