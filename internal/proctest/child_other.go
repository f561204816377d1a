//go:build !linux

package proctest

import "syscall"

// childAttributes is empty: only Linux ties a child's life to its parent's.
func childAttributes() *syscall.SysProcAttr { return nil }
