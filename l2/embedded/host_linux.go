package embedded

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// bootID names this boot of the machine; empty if it cannot be told.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// keepSize is FALLOC_FL_KEEP_SIZE: the space is there, the file no larger.
const keepSize = 1

// reserve makes the disk set space aside for a part of a file.
func reserve(f *os.File, from, size int64) error {
	for {
		err := syscall.Fallocate(int(f.Fd()), keepSize, from, size)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
			return nil // this file system cannot: writing will tell
		}
		return err
	}
}
