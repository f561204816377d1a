package soracache

import "errors"

// The failures that callers can tell apart, each with the RPC code it maps to.
// They are wrapped with the particulars; test with errors.Is.
var (
	// ErrInvalid is input that can never be right (invalid_argument).
	ErrInvalid = errors.New("invalid argument")
	// ErrTooLarge is a value, batch or message over its limit (resource_exhausted).
	ErrTooLarge = errors.New("over a limit")
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
