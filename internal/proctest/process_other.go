//go:build !unix

package proctest

import "time"

const unsupported = "proctest: not on this system"

// Pause panics: processes cannot be paused here.
func (*Process) Pause() { panic(unsupported) }

// Continue panics.
func (*Process) Continue() { panic(unsupported) }

// CPUTime panics.
func CPUTime() time.Duration { panic(unsupported) }

// Exists panics.
func Exists(int) bool { panic(unsupported) }

// Kill panics.
func Kill(int) error { panic(unsupported) }
