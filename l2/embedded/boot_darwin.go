package embedded

import "syscall"

// bootID names this boot of the machine; empty if it cannot be told.
func bootID() string {
	id, err := syscall.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return id
}
