//go:build unix

package proctest

import (
	"syscall"
	"time"
)

// Pause stops the child by SIGSTOP: it keeps its connections and does nothing until
// [Process.Continue].
func (p *Process) Pause() { p.Signal(syscall.SIGSTOP) }

// Continue ends a [Process.Pause].
func (p *Process) Continue() { p.Signal(syscall.SIGCONT) }

// CPUTime is how long this process has computed so far.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Exists tells whether there is a process with an id.
func Exists(pid int) bool { return syscall.Kill(pid, 0) != syscall.ESRCH }

// Kill kills the process with an id.
func Kill(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }
