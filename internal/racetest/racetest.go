// Package racetest tells tests whether the race detector is on, which makes them
// several times as long.
package racetest

import "testing"

// Without skips a test under the race detector, where that has nothing to look
// for: the test has one goroutine, or it is about how much of something there is
// and others run the same code. scripts/test finds the tests whose first statement
// this is, and runs them without the detector.
func Without(t *testing.T) {
	t.Helper()
	if Enabled {
		t.Skip("scripts/test runs this without the race detector")
	}
}
