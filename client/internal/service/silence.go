package service

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Silence is what the parts of one call for many keys tell each other of a service that
// does not answer: the call waits for it once, and not again for each part. A nil
// Silence is that of a call for one key, and learns nothing.
type Silence struct {
	// reads is what a read failed with that was not answered; nil: there was none.
	reads atomic.Pointer[error]
	// tardy means that a write was not answered in time. The others go on behind the
	// call.
	tardy atomic.Bool
}

// Storing is how much of so long whoever stores something is to wait for that.
func (s *Silence) Storing(limit time.Duration) time.Duration {
	if s != nil && s.tardy.Load() {
		return 0
	}
	return limit
}

// Late notes that a write was not answered in time, if so.
func (s *Silence) Late(is bool) {
	if s != nil && is {
		s.tardy.Store(true)
	}
}

// Known is what the call's reads fail with; nil: the service is to be asked.
func (s *Silence) Known() error {
	if s == nil {
		return nil
	}
	if err := s.reads.Load(); err != nil {
		return *err
	}
	return nil
}

// Unheard notes that a read was not answered.
func (s *Silence) Unheard(err error) {
	if s != nil {
		s.reads.Store(&err)
	}
}

// Heard notes what a read brought that was made within a context, if it has spent all
// the time that it had: so much, and whatever it was to wait.
func (s *Silence) Heard(ctx context.Context, limit time.Duration, err error) {
	if s == nil || err == nil || Refused(err) || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	// A node counts down the time, too, and may be the first to see its end.
	if until, ok := ctx.Deadline(); ok && time.Until(until) < limit/4 {
		s.Unheard(err)
	}
}
