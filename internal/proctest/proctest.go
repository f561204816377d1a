// Package proctest runs child processes for tests. A child is killed when its
// test ends, and (on Linux) also when the test's own process dies, so that no
// server is left behind on anybody's machine.
package proctest

import (
	"bytes"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a child.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it was waited for
}

// Start starts a command that is killed when the test ends. What the command
// writes goes where its Stdout and Stderr say.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p, err := Launch(cmd)
	if err != nil {
		t.Fatalf("%s: %v", cmd.Path, err)
	}
	t.Cleanup(p.Kill)
	return p
}

// Launch is [Start] for a child whose end the caller sees to.
//
// One goroutine starts the child and waits for it, locked to its thread: the
// kernel kills the child when the thread that started it ends.
func Launch(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	dieWithParent(cmd.SysProcAttr)
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	return p, <-started
}

// Signal sends a signal. It does nothing once the process has ended.
func (p *Process) Signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// ID is the process's.
func (p *Process) ID() int { return p.cmd.Process.Pid }

// Kill ends the process by SIGKILL and returns once it is gone. Killing it
// twice is harmless.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ExitCode waits for the process to end and returns its exit code: -1 if a
// signal ended it. It fails the test if the process goes on for longer than
// within.
func (p *Process) ExitCode(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("%s still runs after %s", p.cmd.Path, within)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Output collects what a process writes. It is safe for concurrent use.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

var _ io.Writer = (*Output)(nil)

// Write implements io.Writer.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// String returns what was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
