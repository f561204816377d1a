//go:build !linux

package suspend

import "time"

var processStart = time.Now()

// Time is by how much the wall clock has moved ahead of the monotonic
// one. It takes a correction of the wall clock for a suspension, which costs a
// confirmation and nothing more.
func Time() time.Duration {
	return time.Now().Round(0).Sub(processStart.Round(0)) - time.Since(processStart)
}
