package redistest

import (
	_ "embed"
	encoding "encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

//go:embed clock/clock.c
var clockSource []byte

// Clock moves the wall clock of the servers that are started with it. It begins
// at the real time.
type Clock struct {
	library, file string

	mu    sync.Mutex // guards ahead, and the file
	ahead time.Duration
}

// NewClock returns a clock for servers of one test. It takes Linux and a C
// compiler, and skips the test where there is none.
func NewClock(t testing.TB) *Clock {
	t.Helper()
	compiler, err := exec.LookPath("cc")
	if err != nil || runtime.GOOS != "linux" {
		t.Skip("the clock of a server can be moved only on Linux, with a C compiler")
	}
	dir := tempDir(t)
	c := &Clock{library: filepath.Join(dir, "clock.so"), file: filepath.Join(dir, "ahead")}
	source := filepath.Join(dir, "clock.c")
	if err := os.WriteFile(source, clockSource, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(compiler, "-shared", "-fPIC", "-O1", "-o", c.library, source, "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("compiling the clock: %v\n%s", err, out)
	}
	c.Set(t, 0)
	return c
}

// Set sets how far the clock is ahead of the real one; behind it, if negative.
func (c *Clock) Set(t testing.TB, ahead time.Duration) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(t, ahead)
}

// Move lets so much more time pass on the clock, or sets it back by so much.
func (c *Clock) Move(t testing.TB, by time.Duration) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(t, c.ahead+by)
}

// set holds mu. It writes in place, since servers have the file mapped.
func (c *Clock) set(t testing.TB, ahead time.Duration) {
	t.Helper()
	f, err := os.OpenFile(c.file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteAt(encoding.NativeEndian.AppendUint64(nil, uint64(ahead.Microseconds())), 0)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}
	if err != nil {
		t.Fatalf("moving the clock: %v", err)
	}
	c.ahead = ahead
}

// Now is what the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// WithClock starts a server with a clock that can be moved.
func WithClock(c *Clock) Option {
	return func(o *options) { o.env = append(o.env, "LD_PRELOAD="+c.library, "REDISTEST_CLOCK="+c.file) }
}
