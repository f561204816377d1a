//go:build !linux

package embedded

import "syscall"

const canFillDisks = false

func limitFileSize(uint64)            { panic("not on this system") }
func ownMounts() *syscall.SysProcAttr { return nil }
func mountSmallDisk(string) error     { return nil }
func growSmallDisk(string)            {}
