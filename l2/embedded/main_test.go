package embedded

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childEnv names what a test binary that was started by a test is to do.
const childEnv = "SORACACHE_EMBEDDED_CHILD"

func TestMain(m *testing.M) {
	if task := os.Getenv(childEnv); task != "" {
		runChild(task, os.Args[1])
		return
	}
	goleak.VerifyTestMain(m)
}
