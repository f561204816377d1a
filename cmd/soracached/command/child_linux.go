package command

import "syscall"

// childAttributes has the kernel kill the child when its parent dies, however
// that comes about. A group of its own keeps the terminal's Ctrl-C from it: the
// parent hears it and ends its children in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
