// Package virtual replaces what a client takes from chance and from the machine, for
// simulations and for tests that let values expire without waiting.
package virtual

import "time"

// Settings are what is replaced. What is nil stays as it is.
type Settings struct {
	// Ahead is how far the client's clock is ahead of the real one. It must never become
	// less.
	Ahead func() time.Duration
	// Random returns numbers from 0 to less than 1. What policies leave to chance, as by
	// Jitter, is not among it.
	Random func() float64
	// Suspended is for how long the machine has been suspended so far.
	Suspended func() time.Duration
}

// With returns the settings with what others replace.
func (s Settings) With(other Settings) Settings {
	if other.Ahead != nil {
		s.Ahead = other.Ahead
	}
	if other.Random != nil {
		s.Random = other.Random
	}
	if other.Suspended != nil {
		s.Suspended = other.Suspended
	}
	return s
}

// Option returns a client.Option with the settings. Package client sets it.
var Option func(Settings) any //nolint:gochecknoglobals // set once, while the program starts
