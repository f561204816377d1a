package embedded

import (
	"context"
	"sync"
)

// op is one atomic change that the writer is asked for. Its functions are called
// by the writer. Ops that come together
// share a transaction, and nothing else: if one fails, the others are done
// without it.
type op struct {
	// run makes the change and keeps its answer where the caller finds it once
	// the call is done. It may run again, after a transaction that was rolled
	// back.
	run func(t *txn)
	// fail keeps the reason why the change was not, or perhaps not, made.
	fail func(err error)
	// size is about how many bytes the change adds. Zero for changes that are
	// made even if there is no room.
	size int
	// after, if set, is called once the op is done or has failed for good.
	after func()

	call *call
}

// call is what one caller waits for: some ops, done in order.
type call struct {
	ctx  context.Context
	ops  []*op // not yet taken by the writer
	left int   // not yet done; the writer's own
	done chan struct{}
}

// queue holds the calls that wait for the writer. It is taken from in turn, an
// op from each call, so that a call of many ops does not hold up the others.
type queue struct {
	mu     sync.Mutex // guards the fields up to wake
	calls  []*call
	closed bool
	wake   chan struct{} // holds one token if there may be something to do
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// nudge makes the writer look at what there is to do.
func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// close refuses further calls. Those that wait are still to be done.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.nudge()
}

// do queues ops and waits until they are done. If the caller stops waiting
// earlier, or the store is closed, it returns an error, and then the answers
// that ops keep must not be looked at.
func (q *queue) do(ctx context.Context, ops []*op) error {
	if len(ops) == 0 {
		return nil
	}
	c := &call{ctx: ctx, ops: ops, left: len(ops), done: make(chan struct{})}
	for _, o := range ops {
		o.call = c
	}
	if err := q.add(c); err != nil {
		return unavailable(err)
	}
	q.nudge()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
}

func (q *queue) add(c *call) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return errClosed
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	}
	q.calls = append(q.calls, c)
	return nil
}

// take takes ops out of the queue until enough says that they are.
func (q *queue) take(enough func(o *op) bool) (taken []*op) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.calls) > 0 {
		c := q.calls[0]
		o := c.ops[0]
		q.calls[0] = nil
		if q.calls, c.ops = q.calls[1:], c.ops[1:]; len(c.ops) > 0 {
			q.calls = append(q.calls, c)
		}
		if taken = append(taken, o); enough(o) {
			break
		}
	}
	return taken
}

// over reports whether the queue is closed and empty.
func (q *queue) over() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && len(q.calls) == 0
}

// finish notes that an op is done, and its call with the last of them.
func (o *op) finish() {
	if o.call.left--; o.call.left == 0 {
		close(o.call.done)
	}
}
