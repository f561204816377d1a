package command

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// What the developer has set for nodes of his own must not reach the tests.
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "SORACACHE_") && !strings.HasPrefix(name, "SORACACHE_TEST_") {
			_ = os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(tests{m})
}

// tests are the package's tests, and the removal of what they built.
type tests struct{ *testing.M }

func (m tests) Run() int {
	defer func() { _ = os.RemoveAll(buildDir) }() // nothing, if nothing was built
	return m.M.Run()
}

// result is what a command left behind.
type result struct {
	code     int
	out, err string
}

// invoke runs a command as a script would, with in as its standard input.
func invoke(t *testing.T, in string, args ...string) result {
	t.Helper()
	return invokeOn(t, false, in, args...)
}

func invokeOn(t *testing.T, terminal bool, in string, args ...string) result {
	t.Helper()
	// A command that serves where it should refuse ends with the context.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return invokeWith(ctx, terminal, in, args...)
}

func invokeWith(ctx context.Context, terminal bool, in string, args ...string) result {
	var out, errs bytes.Buffer
	code := run(ctx, args, console{in: strings.NewReader(in), out: &out, err: &errs, terminal: terminal})
	return result{code, out.String(), errs.String()}
}
