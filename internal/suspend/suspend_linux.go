package suspend

import (
	"time"

	"golang.org/x/sys/unix"
)

// Time is how long the machine has been suspended since it started: by
// how much the clock that counts suspension is ahead of the one that does not,
// and on which bounds are kept.
func Time() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - mono.Nano())
}
