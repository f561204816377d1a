package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServersDieWithTheProcess runs this test binary once more, as a process
// that starts a server and is then killed before it can clean up.
func TestServersDieWithTheProcess(t *testing.T) {
	const victim = "REDISTEST_VICTIM"
	if os.Getenv(victim) != "" {
		fmt.Printf("addr=%s.\n", Standalone(t).Addr)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	requireServer(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), victim+"=1", "TMPDIR="+t.TempDir())
	out, _ := cmd.Output() // it was killed
	_, rest, _ := strings.Cut(string(out), "addr=")
	addr, _, ok := strings.Cut(rest, ".\n")
	if !ok {
		t.Fatalf("no server was started: %s", out)
	}
	Eventually(t, 5*time.Second, "the server is gone", func() bool {
		var d net.Dialer
		c, err := d.DialContext(context.Background(), "tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
}
