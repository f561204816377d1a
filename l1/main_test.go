package l1

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if filling := os.Getenv(fillingVar); filling != "" {
		if err := fillAndReport(os.Stdout, filling); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// blob is a value that says itself how large it is.
type blob struct {
	id   int
	size int
}

func (b blob) bytes() int { return b.size }

func blobConfig(maxBytes int64) Config[blob] {
	return Config[blob]{MaxBytes: maxBytes, Size: blob.bytes}
}

func newBlobs(t testing.TB, maxBytes int64) *Cache[blob] {
	t.Helper()
	c, err := New(blobConfig(maxBytes))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func name(i int) Key { return Key{Name: fmt.Sprintf("product:%08d", i)} }
