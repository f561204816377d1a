package client

import "time"

// maxFillsBehind is how many bytes of values a client is storing at most for
// callers who have their value and do not wait any longer. Beyond that, a value is
// stored while its caller waits, as long as the client's timeout, or not at all.
const maxFillsBehind = 64 << 20

// fillBehind stores a value in a goroutine of its own, and returns what is closed when
// it is done. It is false if too much is being stored that way, or the client is closed.
// Close waits for it.
func (c *Client) fillBehind(size int, store func()) (done <-chan struct{}, ok bool) {
	if c.storing.Add(int64(size)) > maxFillsBehind || c.admitFill() != nil {
		c.storing.Add(-int64(size))
		return nil, false
	}
	ended := make(chan struct{})
	go func() {
		defer c.leaveFill()
		defer c.storing.Add(-int64(size))
		defer close(ended)
		defer c.observer.survive("")
		store()
	}()
	return ended, true
}

// behind does something short that has a time of its own, and waits for it no longer
// than so long. If too much of the kind is being done already, that is all the time
// there is.
func (c *Client) behind(limit time.Duration, do func(limit time.Duration)) (inTime bool) {
	if !c.short.take() {
		began := time.Now()
		do(limit)
		return time.Since(began) < limit
	}
	if c.admit() != nil { // closed: whoever is inside finishes all the same
		defer c.short.free()
		do(c.timeout)
		return true
	}
	done := make(chan struct{})
	go func() {
		defer c.leave()
		defer c.short.free()
		defer close(done)
		do(c.timeout)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
