package l2

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/soracache/soracache"
)

// Failure is why an engine could not answer. It wraps [soracache.ErrUnavailable]
// and its cause. Its text is for the log: it may name addresses, files and
// scripts, which are nobody's business who merely reads a cache. Callers are told
// [Failure.Public].
type Failure struct {
	// Reason says what is the matter, such as "the store did not answer in time".
	Reason string
	// Cause is what happened.
	Cause error
}

// Unavailable returns the failure that an error is the cause of, with a reason
// for what is known of it, or the one that is given for others.
func Unavailable(cause error, otherwise string) *Failure {
	return &Failure{Reason: reasonOf(cause, otherwise), Cause: cause}
}

// PublicText is what callers may be told of an engine's error.
func PublicText(err error) string {
	if f := new(Failure); errors.As(err, &f) {
		return f.Reason
	}
	return strings.TrimPrefix(err.Error(), soracache.ErrUnavailable.Error()+": ")
}

// Error is for the log.
func (f *Failure) Error() string { return fmt.Sprintf("%v: %v", soracache.ErrUnavailable, f.Cause) }

// Public is what callers may be told.
func (f *Failure) Public() string { return f.Reason }

// Unwrap makes it a soracache.ErrUnavailable, and what was its cause.
func (f *Failure) Unwrap() []error { return []error{soracache.ErrUnavailable, f.Cause} }

// reasonOf knows the errors of the operating system and the network.
func reasonOf(err error, otherwise string) string {
	var network net.Error
	var name *net.DNSError
	var unverified *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.Is(err, context.Canceled):
		return "the call was cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		return "the store did not answer in time"
	case errors.As(err, &name):
		return "the name of the store cannot be resolved"
	case errors.As(err, &unverified), errors.As(err, &authority):
		return "the certificate of the store is not accepted"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the store refuses connections"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return "the store has no space left"
	case errors.As(err, &network) && network.Timeout():
		return "the store did not answer in time"
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "the connection to the store failed"
	}
	return otherwise
}
