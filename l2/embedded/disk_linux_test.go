package embedded

import (
	"os"
	"os/signal"
	"syscall"
)

const canFillDisks = true

// limitFileSize makes writing beyond a size fail.
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

// ownMounts gives a process mounts of its own, without any privilege, where the
// system allows it.
func ownMounts() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
}

// mountSmallDisk puts a small disk in the place of a directory, for this
// process alone.
func mountSmallDisk(dir string) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m")
}

func growSmallDisk(dir string) {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		panic(err)
	}
}
