package client

import (
	"sync"
	"sync/atomic"
	"time"
)

// now is the time on the client's clock.
func (c *Client) now() time.Time {
	if c.ahead != nil {
		return time.Now().Add(c.ahead())
	}
	return time.Now()
}

// maxPauses bounds how many keys are remembered. Of a key that is forgotten, the
// loader runs once more than need be.
const maxPauses = 4096

// pauses are keys that something is not to be done for until some time. The
// zero value has none.
type pauses struct {
	count atomic.Int64 // how many there are, to be read without the lock
	mu    sync.Mutex
	until map[string]time.Time // guarded by mu
}

// has tells whether a key is to be left alone now.
func (p *pauses) has(key string, now time.Time) bool {
	if p.count.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.until[key]
	if ok && !now.Before(until) {
		p.drop(key)
		return false
	}
	return ok
}

// add has a key left alone for some time from now on, or for as long as it was
// to be already.
func (p *pauses) add(key string, now time.Time, d time.Duration) {
	if d <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = make(map[string]time.Time)
	}
	if until, ok := p.until[key]; ok && until.After(now.Add(d)) {
		return
	}
	if len(p.until) >= maxPauses {
		p.makeRoom(now)
	}
	p.until[key] = now.Add(d)
	p.count.Store(int64(len(p.until)))
}

// makeRoom drops what is over, or else any one key. The lock is held.
func (p *pauses) makeRoom(now time.Time) {
	some := ""
	for key, until := range p.until {
		if some = key; !now.Before(until) {
			delete(p.until, key)
		}
	}
	if len(p.until) >= maxPauses {
		delete(p.until, some)
	}
}

// end lets a key be no longer left alone.
func (p *pauses) end(key string) {
	if p.count.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(key)
}

// drop holds the lock.
func (p *pauses) drop(key string) {
	delete(p.until, key)
	p.count.Store(int64(len(p.until)))
}
