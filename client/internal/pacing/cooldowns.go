package pacing

import (
	"sync"
	"sync/atomic"
	"time"
)

// maxCooldowns bounds how many keys are remembered. Of a key that is forgotten, the
// loader runs once more than need be.
const maxCooldowns = 4096

// Cooldowns are keys that something is not to be done for until some time. The
// zero value has none. Of very many, some are forgotten.
type Cooldowns struct {
	count atomic.Int64 // how many there are, to be read without the lock
	mu    sync.Mutex
	until map[string]time.Time // guarded by mu
}

// Has tells whether a key is to be left alone now.
func (c *Cooldowns) Has(key string, now time.Time) bool {
	if c.count.Load() == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.until[key]
	if ok && !now.Before(until) {
		c.drop(key)
		return false
	}
	return ok
}

// Add has a key left alone for some time from now on, or for as long as it was
// to be already.
func (c *Cooldowns) Add(key string, now time.Time, d time.Duration) {
	if d <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until == nil {
		c.until = make(map[string]time.Time)
	}
	if until, ok := c.until[key]; ok && until.After(now.Add(d)) {
		return
	}
	if len(c.until) >= maxCooldowns {
		c.makeRoom(now)
	}
	c.until[key] = now.Add(d)
	c.count.Store(int64(len(c.until)))
}

// makeRoom drops what is over, or else any one key. The lock is held.
func (c *Cooldowns) makeRoom(now time.Time) {
	some := ""
	for key, until := range c.until {
		if some = key; !now.Before(until) {
			delete(c.until, key)
		}
	}
	if len(c.until) >= maxCooldowns {
		delete(c.until, some)
	}
}

// End lets a key be no longer left alone.
func (c *Cooldowns) End(key string) {
	if c.count.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(key)
}

// drop holds the lock.
func (c *Cooldowns) drop(key string) {
	delete(c.until, key)
	c.count.Store(int64(len(c.until)))
}
