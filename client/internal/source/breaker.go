package source

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// ErrOpen is why no load begins: the breaker is open, or another one is on trial.
var ErrOpen = errors.New("the circuit breaker of the source is open")

// State is the state of a breaker.
type State = circuitbreaker.State

// The states of a breaker.
const (
	Closed   = circuitbreaker.ClosedState
	Open     = circuitbreaker.OpenState
	HalfOpen = circuitbreaker.HalfOpenState
)

// openJitter is by which part the time varies for which a breaker is open, so that the
// breakers of many processes do not try the source at the same moment.
const openJitter = 0.1

// breaker is a circuit breaker. A nil one is closed.
type breaker struct {
	// troubled means that the breaker is not closed, to be read without the lock.
	troubled atomic.Bool

	mu      sync.Mutex
	circuit circuitbreaker.CircuitBreaker[any] // used under mu alone
	// generation is how often the state has changed. What began in an earlier one says
	// nothing about the present one. Guarded by mu.
	generation int
	// trial means that a load is on trial. Guarded by mu.
	trial bool
	// changes are the states that were entered since mu was taken. Guarded by mu.
	changes []State
}

func newBreaker(cfg Config) *breaker {
	b := &breaker{}
	b.circuit = circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(cfg.FailureRate, uint(cfg.MinLoads), cfg.Window).
		WithSuccessThreshold(1).
		WithDelay(cfg.OpenFor).
		WithJitterFactor(openJitter).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) { b.changed(e.NewState) }).
		Build()
	return b
}

// changed is called by whoever holds mu, and must not panic.
func (b *breaker) changed(to State) {
	b.generation++
	b.trial = false
	b.troubled.Store(to != Closed)
	b.changes = append(b.changes, to)
}

// do runs something under the lock, and then tells of the states that were entered.
func (b *breaker) do(tell func(State), something func()) {
	b.mu.Lock()
	something()
	changes := b.changes
	b.changes = nil
	b.mu.Unlock()
	for _, to := range changes {
		tell(to)
	}
}

// check returns ErrOpen if a load that begins now would be refused. It changes nothing.
func (b *breaker) check() error {
	if b == nil || !b.troubled.Load() {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.trial || b.circuit.RemainingDelay() > 0 {
		return ErrOpen
	}
	return nil
}

// begin has a load begin. Unless the error is ErrOpen, it has to be ended, in the
// generation that is returned. States that are entered are told of.
func (b *breaker) begin(tell func(State)) (generation int, err error) {
	b.do(tell, func() {
		if !b.circuit.TryAcquirePermit() {
			err = ErrOpen
			return
		}
		b.trial = b.circuit.IsHalfOpen()
		generation = b.generation
	})
	return generation, err
}

// Verdict is what a load says about the source.
type Verdict uint8

// The verdicts.
const (
	// Nothing: it was not seen to its end. If it was on trial, the breaker opens again:
	// the next trial is a later load's.
	Nothing Verdict = iota
	// Succeeded: the source has answered.
	Succeeded
	// Failed: the source has not.
	Failed
)

// is tells whether the state is the one of a generation.
func (b *breaker) is(generation int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.generation == generation
}

// end ends a load that has begun in a generation.
func (b *breaker) end(generation int, v Verdict, tell func(State)) {
	b.do(tell, func() {
		switch {
		case generation != b.generation:
		case v == Succeeded:
			b.circuit.RecordSuccess()
		case v == Failed:
			b.circuit.RecordFailure()
		case b.trial:
			b.circuit.Open()
		}
	})
}
