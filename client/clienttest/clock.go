package clienttest

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/virtual"
)

// Clock is a clock that goes as the real one does, and can be put forward. It
// decides what is fresh, what is stale and what has expired; it moves no timers.
type Clock struct {
	offset atomic.Int64 // nanoseconds; only ever grows
}

// Now returns the present time.
func (c *Clock) Now() time.Time { return time.Now().Add(c.ahead()) }

// Advance puts the clock forward. Whoever calls the cache after it has returned
// finds everything older by d; so are leases, so a loader that has been running
// for that long may find its lease lost. It panics if d is negative.
func (c *Clock) Advance(d time.Duration) {
	if d < 0 {
		panic(fmt.Sprintf("clienttest: Advance(%v): time does not go back", d))
	}
	c.offset.Add(int64(d))
}

// Option has a client keep this clock's time, if it was not made by the
// [Server] whose clock it is.
func (c *Clock) Option() client.Option {
	option, _ := virtual.Option(virtual.Settings{Ahead: c.ahead}).(client.Option) // it is nothing else
	return option
}

func (c *Clock) ahead() time.Duration { return time.Duration(c.offset.Load()) }
