package client

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// silence is what the parts of one call for many keys tell each other of a service that
// does not answer: the call waits for it once, and not again for each part. A nil
// silence is that of a call for one key, and learns nothing.
type silence struct {
	// reads is what a read failed with that was not answered; nil: there was none.
	reads atomic.Pointer[error]
	// tardy means that a write was not answered in time. The others go on behind the
	// call.
	tardy atomic.Bool
}

// storing is how much of so long whoever stores something is to wait for that.
func (s *silence) storing(limit time.Duration) time.Duration {
	if s != nil && s.tardy.Load() {
		return 0
	}
	return limit
}

// late notes that a write was not answered in time, if so.
func (s *silence) late(is bool) {
	if s != nil && is {
		s.tardy.Store(true)
	}
}

// known is what the call's reads fail with; nil: the service is to be asked.
func (s *silence) known() error {
	if s == nil {
		return nil
	}
	if err := s.reads.Load(); err != nil {
		return *err
	}
	return nil
}

// unheard notes that a read was not answered.
func (s *silence) unheard(err error) {
	if s != nil {
		s.reads.Store(&err)
	}
}

// heard notes what a read brought that was made within a context, if it has spent all
// the time that it had: so much, and whatever it was to wait.
func (s *silence) heard(ctx context.Context, limit time.Duration, err error) {
	if s == nil || err == nil || refusal(err) || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	// A node counts down the time, too, and may be the first to see its end.
	if until, ok := ctx.Deadline(); ok && time.Until(until) < limit/4 {
		s.unheard(err)
	}
}
