//go:build !unix

package command

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
