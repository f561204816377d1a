package proctest

import "syscall"

// dieWithParent has the kernel kill the child when its parent dies, however
// that comes about.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
