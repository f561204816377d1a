package server

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// connections holds the open connections under a limit.
type connections struct {
	limit int

	mu   sync.Mutex
	open map[net.Conn]bool // whether it is idle; guarded by mu

	refused atomic.Uint64
}

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
		all.open = map[net.Conn]bool{}
	}
	all.open[conn] = state == http.StateIdle
	if state != http.StateNew || len(all.open) <= all.limit {
		return nil
	}
	for other, idle := range all.open {
		if idle {
			delete(all.open, other)
			return other
		}
	}
	return conn
}

func (all *connections) count() int {
	all.mu.Lock()
	defer all.mu.Unlock()
	return len(all.open)
}
