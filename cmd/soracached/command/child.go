package command

import (
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// child is a process that runs until it is ended, or ends by itself. On Linux
// it also dies with this one.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it was waited for
}

// startChild starts a command. One goroutine starts it and waits for it, on one
// thread: the kernel kills the child when the thread that started it ends.
func startChild(cmd *exec.Cmd, out, log io.Writer) (*child, error) {
	cmd.Stdout, cmd.Stderr = out, log
	cmd.SysProcAttr = childAttributes()
	cmd.WaitDelay = time.Second // for what its own children hold open
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its state
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// how tells how the process ended.
func (c *child) how() string { return c.cmd.ProcessState.String() }

// end asks the process to end, and kills it when it has not after a while. It
// returns once the process is gone.
func (c *child) end(within time.Duration) error {
	if c.ended() {
		return nil // that was reported when it happened
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	patience := time.NewTimer(within)
	defer patience.Stop()
	select {
	case <-c.done:
	case <-patience.C:
		_ = c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("did not end within %s", within)
	}
	if !c.cmd.ProcessState.Success() {
		return fmt.Errorf("ended with %s", c.how())
	}
	return nil
}
