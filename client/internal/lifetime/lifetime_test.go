package lifetime

import (
	"testing"

	"github.com/soracache/soracache/client/internal/deadline"
)

// What is stored behind callers is bounded in bytes.
func TestFillsBehindTheirCallersAreBounded(t *testing.T) {
	l, release := New(func() {}), make(chan struct{})
	first, ok := l.FillBehind(MaxFillsBehind, func() { <-release })
	if _, more := l.FillBehind(deadline.Bytes, func() { t.Error("too much") }); !ok || more {
		t.Errorf("as much as there may be: %t; more: %t", ok, more)
	}
	close(release)
	<-first
	l.running.Wait()
	if done, ok := l.FillBehind(deadline.Bytes, func() {}); !ok {
		t.Error("nothing, though there is room again")
	} else {
		<-done
	}
}
