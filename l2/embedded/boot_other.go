//go:build !linux && !darwin

package embedded

// bootID names this boot of the machine; empty, for here it cannot be told:
// what an unclean stop leaves behind is then not gone on with.
func bootID() string { return "" }
