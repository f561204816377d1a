//go:build unix && !linux

package command

import "syscall"

// childAttributes gives the child a group of its own, which keeps the
// terminal's Ctrl-C from it: the parent hears it and ends its children in
// order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
