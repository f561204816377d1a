package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/source"
)

// Why a loader was not run, and no stale value is allowed in its place. These errors say
// nothing about the key: they are never cached, and a loader that fails with one does
// not count as a failure of its source.
var (
	// ErrSourceOpen: the circuit breaker of the loader's [Source] is open.
	ErrSourceOpen = source.ErrOpen
	// ErrSourceBusy: the loader's [Source] is at its limit of loads, and no place came
	// free in time, or too many wait for one already.
	ErrSourceBusy = source.ErrBusy
)

// rejected tells whether an error says that a loader was not run, to spare its source.
func rejected(err error) bool { return errors.Is(err, ErrSourceOpen) || errors.Is(err, ErrSourceBusy) }

// Source is what loaders ask, such as a database, and how it is kept from being overrun.
// Make one for each, and name it in the [Policy] of all caches whose loaders ask it:
// whatever their type and their client, they share its circuit breaker and its limit.
// It is one process's: other processes have their own. It need not be closed.
type Source struct {
	name    string
	config  SourceConfig
	guard   *source.Guard // nil: the configuration is invalid
	invalid error
	// The errors of this source: they name it.
	open, busy error
}

// SourceConfig says how a source is protected. Each of the three protections is off
// unless its first field is set: MaxLoads, RampUp, FailureRate.
type SourceConfig struct {
	// MaxLoads is how many loads run at the same time, at most [MostSourceLoads]. A call
	// of a loader for many keys is one load. Loads that a loader waits for, of caches of
	// the same source, are a part of its own. Zero means no limit.
	MaxLoads int
	// MaxQueued is how many loads wait for a place at most; zero means 10 times
	// MaxLoads, a negative number that none does.
	MaxQueued int
	// MaxWait is how long a load waits for a place; zero means [DefaultSourceWait], a
	// negative time that it does not. The timeouts of the policy end the wait as well.
	MaxWait time.Duration

	// RampUp is how long it takes until as many as MaxLoads run again after everything
	// was invalidated, or the ledger has begun a new epoch, as far as the client notices:
	// by its own calls, by what its near cache follows, and by what it reads. The limit
	// begins with an eighth, and doubles three times. Zero means that it stays as it is.
	RampUp time.Duration

	// FailureRate is the share of failures, more than 0 to 1, at which the circuit breaker
	// opens: then no load begins. Zero means that there is no breaker.
	FailureRate float64
	// MinLoads is how many loads there have to be in the Window before the breaker may
	// open; zero means [DefaultSourceMinLoads].
	MinLoads int
	// Window is the time that the share is taken of, at least 10 ms; zero means
	// [DefaultSourceWindow].
	Window time.Duration
	// OpenFor is after how long a load is let through on trial, give or take a tenth; zero
	// means [DefaultSourceOpenFor]. If the trial succeeds, the breaker closes.
	OpenFor time.Duration
	// IsFailure tells whether an error that a loader returned is a failure of the source;
	// nil: each one is. It is not asked about [ErrNotFound] and [ErrNotModified], which are
	// answers; about what says nothing of the source, such as the end of the loader's
	// context because nobody wants the value any more; nor about panics, loads that
	// exceed the policy's HardTimeout, and those whose callers all ran out of time,
	// which are failures.
	IsFailure func(error) bool
}

// The defaults of a [SourceConfig], where what they belong to is set.
const (
	// DefaultSourceWait is how long a load waits for a place.
	DefaultSourceWait = time.Second
	// DefaultSourceMinLoads is how many loads there have to be before the breaker may
	// open, and DefaultSourceWindow in which time.
	DefaultSourceMinLoads = 10
	DefaultSourceWindow   = 10 * time.Second
	// DefaultSourceOpenFor is after how long the breaker lets a load through on trial.
	DefaultSourceOpenFor = 5 * time.Second
	// MostSourceLoads is how many loads of a source may run at the same time at most.
	MostSourceLoads = 1 << 16
)

// NewSource returns a source. The name is for hooks, metrics and errors. If the
// configuration can never be right, calls under a policy that names the source fail: see
// [SourceConfig.Validate].
func NewSource(name string, config SourceConfig) *Source {
	s := &Source{
		name: name, config: config.withDefaults(), invalid: config.Validate(),
		open: fmt.Errorf("client: %w: %q", ErrSourceOpen, name),
		busy: fmt.Errorf("client: %w: %q", ErrSourceBusy, name),
	}
	if name == "" {
		s.invalid = fmt.Errorf("%w: a source without a name", soracache.ErrInvalid)
	}
	if s.invalid == nil {
		c := &s.config
		s.guard = source.New(source.Config{
			MaxLoads: c.MaxLoads, MaxQueued: c.MaxQueued, RampUp: c.RampUp,
			FailureRate: c.FailureRate, MinLoads: c.MinLoads, Window: c.Window, OpenFor: c.OpenFor,
		})
	}
	return s
}

// Name returns the name that the source was made with.
func (s *Source) Name() string { return s.name }

// Validate reports the first field that can never be right.
func (c SourceConfig) Validate() error {
	switch {
	case c.MaxLoads < 0 || c.MaxLoads > MostSourceLoads:
		return fmt.Errorf("%w: source: MaxLoads must be 0 to %d", soracache.ErrInvalid, MostSourceLoads)
	case c.RampUp < 0:
		return fmt.Errorf("%w: source: negative RampUp", soracache.ErrInvalid)
	case c.RampUp > 0 && c.MaxLoads == 0:
		return fmt.Errorf("%w: source: RampUp without MaxLoads", soracache.ErrInvalid)
	case !(c.FailureRate >= 0 && c.FailureRate <= 1): // and not NaN
		return fmt.Errorf("%w: source: FailureRate must be 0 to 1", soracache.ErrInvalid)
	case c.MinLoads < 0:
		return fmt.Errorf("%w: source: negative MinLoads", soracache.ErrInvalid)
	case c.Window != 0 && c.Window < leastSourceWindow:
		return fmt.Errorf("%w: source: Window must be at least %s", soracache.ErrInvalid, leastSourceWindow)
	case c.OpenFor < 0:
		return fmt.Errorf("%w: source: negative OpenFor", soracache.ErrInvalid)
	}
	return nil
}

// leastSourceWindow has room for the parts in which failures are counted.
const leastSourceWindow = 10 * time.Millisecond

// The queue of a limited source, unless MaxQueued says otherwise, in places.
const queuePerPlace = 10

func (c SourceConfig) withDefaults() SourceConfig {
	if c.MaxQueued == 0 {
		c.MaxQueued = queuePerPlace * c.MaxLoads
	}
	if c.MaxWait == 0 {
		c.MaxWait = DefaultSourceWait
	}
	if c.MinLoads == 0 {
		c.MinLoads = DefaultSourceMinLoads
	}
	if c.Window == 0 {
		c.Window = DefaultSourceWindow
	}
	if c.OpenFor == 0 {
		c.OpenFor = DefaultSourceOpenFor
	}
	return c
}

// validate is that of a policy that names the source, or none.
func (s *Source) validate() error {
	if s == nil {
		return nil
	}
	return s.invalid
}

// named makes of why a load does not begin an error that names the source.
func (s *Source) named(err error) error {
	switch {
	case errors.Is(err, source.ErrOpen):
		return s.open
	case errors.Is(err, source.ErrBusy):
		return s.busy
	}
	return err
}

// SourceState is the state of a source's circuit breaker.
type SourceState uint8

// The states of a circuit breaker.
const (
	// SourceClosed: loads run.
	SourceClosed SourceState = iota
	// SourceOpen: too many have failed, and none begins.
	SourceOpen
	// SourceHalfOpen: one load runs on trial.
	SourceHalfOpen
)

// String returns closed, open or half_open.
func (s SourceState) String() string {
	return [...]string{"closed", "open", "half_open"}[min(s, SourceHalfOpen)]
}

func stateOf(s source.State) SourceState {
	switch s {
	case source.Open:
		return SourceOpen
	case source.HalfOpen:
		return SourceHalfOpen
	case source.Closed:
	}
	return SourceClosed
}
