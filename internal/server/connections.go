package server

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// connections holds the open connections under a limit.
type connections struct {
	limit int

	mu   sync.Mutex
	open map[net.Conn]seen // guarded by mu

	refused atomic.Uint64
}

// seen is what is known of a connection: its state, and since when.
type seen struct {
	state http.ConnState
	since time.Time
}

// headPatience is how long a connection may be without a first request before it
// has to go for a new one.
const headPatience = time.Second

// changed is told by net/http what a connection does.
func (all *connections) changed(conn net.Conn, state http.ConnState) {
	if victim := all.note(conn, state); victim != nil {
		all.refused.Add(1)
		_ = victim.Close()
	}
}

// note returns the connection that has to go for a new one, if one has.
func (all *connections) note(conn net.Conn, state http.ConnState) net.Conn {
	all.mu.Lock()
	defer all.mu.Unlock()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(all.open, conn)
		return nil
	}
	if all.open == nil {
		all.open = map[net.Conn]seen{}
	}
	all.open[conn] = seen{state, time.Now()}
	if state != http.StateNew || len(all.open) <= all.limit {
		return nil
	}
	victim, oldest := conn, time.Now().Add(-headPatience)
	for other, is := range all.open {
		if is.state == http.StateIdle {
			victim = other
			break
		}
		if is.state == http.StateNew && is.since.Before(oldest) {
			victim, oldest = other, is.since
		}
	}
	if victim != conn {
		delete(all.open, victim)
	}
	return victim
}

func (all *connections) count() int {
	all.mu.Lock()
	defer all.mu.Unlock()
	return len(all.open)
}
