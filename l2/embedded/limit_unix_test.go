//go:build darwin || linux

package embedded

import (
	"os/signal"
	"syscall"
)

const canLimitFileSize = true

// limitFileSize makes writing beyond a size fail, as on a full disk.
func limitFileSize(most uint64) {
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		panic(err)
	}
	limit.Cur = min(most, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		panic(err)
	}
}
