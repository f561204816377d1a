package client

import (
	"sync"

	"github.com/soracache/soracache/internal/flight"
)

// loads are the keys whose lease this client holds in a schema, of whichever type: what it
// must not wait for as for somebody else's, nor load a second time. The zero value
// has none.
type loads struct {
	mu sync.Mutex
	// by has the latest run of each key, and how many there are. Guarded by mu.
	by map[string]ownLoad
}

type ownLoad struct {
	run  *flight.Run // nil: its loader has returned
	runs int
	over chan struct{} // closed when there are none any more
}

// begin notes that a run loads a key. It ends with end.
func (l *loads) begin(key string, run *flight.Run) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = make(map[string]ownLoad)
	}
	own := l.by[key]
	if own.runs++; own.over == nil {
		own.over = make(chan struct{})
	}
	own.run = run
	l.by[key] = own
}

// loaded notes that the loader of a run has returned. What is stored from then on waits
// for nobody.
func (l *loads) loaded(key string, run *flight.Run) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own, ok := l.by[key]; ok && own.run == run {
		own.run = nil
		l.by[key] = own
	}
}

func (l *loads) end(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.by[key]
	if own.runs--; own.runs > 0 {
		l.by[key] = own
	} else {
		close(own.over)
		delete(l.by, key)
	}
}

// of returns the load of a key by this client, and whether there is one.
func (l *loads) of(key string) (own ownLoad, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, ok = l.by[key]
	return own, ok
}
