package proctest

import "syscall"

// childAttributes has the kernel kill the child when its parent dies, however
// that comes about.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
