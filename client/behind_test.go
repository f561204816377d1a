package client

import (
	"testing"

	"github.com/soracache/soracache/client/internal/deadline"
)

// What is stored behind callers is bounded in bytes.
func TestFillsBehindTheirCallersAreBounded(t *testing.T) {
	c, release := new(Client), make(chan struct{})
	first, ok := c.fillBehind(maxFillsBehind, func() { <-release })
	if _, more := c.fillBehind(deadline.Bytes, func() { t.Error("too much") }); !ok || more {
		t.Errorf("as much as there may be: %t; more: %t", ok, more)
	}
	close(release)
	<-first
	c.running.Wait()
	if done, ok := c.fillBehind(deadline.Bytes, func() {}); !ok {
		t.Error("nothing, though there is room again")
	} else {
		<-done
	}
}
