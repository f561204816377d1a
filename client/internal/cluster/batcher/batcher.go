// Package batcher has concurrent requests travel together in one call. Nobody waits
// for company. It knows calls, their callers and their deadlines, and nothing of what
// is asked.
package batcher

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/batches"
	"github.com/soracache/soracache/client/internal/deadline"
)

const (
	// callsAtOnce is how many calls are in flight before further requests wait for
	// the next.
	callsAtOnce = 2
	// mostCalls bounds the calls in flight when slow ones are not counted.
	mostCalls = 64
	// slowCall is how long a call is in flight before it no longer keeps others
	// waiting.
	slowCall = 10 * time.Millisecond
)

// ErrClosed is what requests get once the batcher is closed, together with
// [soracache.ErrUnavailable].
var ErrClosed = errors.New("client is closed")

// Closed is the error of a request to what is closed.
func Closed() error { return fmt.Errorf("%w: %w", soracache.ErrUnavailable, ErrClosed) }

// Config says how a batcher's requests Q are answered by an R each.
type Config[Q, R any] struct {
	// One sends one request, and Many several. The answers are as many as the
	// requests, and in their order.
	One  func(ctx context.Context, q Q) (R, error)
	Many func(ctx context.Context, batch []*Request[Q, R]) ([]R, error)
	// Join tells whether a request may travel with those whose last is given, and
	// notes in it what it must know of them for the next one's sake.
	Join func(last, q *Q) bool
	// Orphaned is given an answer whose caller has gone.
	Orphaned func(q Q, r R)
}

// Batcher has concurrent requests of one kind travel together to one node:
//
//  1. While no call is in flight, a request is sent at once, by its caller's own
//     goroutine.
//  2. A request that comes while one is in flight joins the first batch that has
//     room and asks alike. No batch that was sent is ever joined, so what an answer
//     reflects is never older than the request.
//  3. While fewer than callsAtOnce calls are in flight, the batch that has waited
//     longest is sent.
//
// A call that takes long, because the node has to wait for its store, does not keep
// others back: it is no longer counted, and one more is sent.
type Batcher[Q, R any] struct {
	cfg  Config[Q, R]
	pool sync.Pool // of *Request[Q, R] that nobody else knows of

	mu      sync.Mutex
	closed  bool
	calls   []call[Q, R]
	lastID  uint64
	busy    int // calls that are not slow
	idle    int // those of them whose senders have no batch yet
	waiting []*batch[Q, R]
	relief  *time.Timer // runs if armed: looks for slow calls
	armed   bool
	running sync.WaitGroup // of senders
}

// call is one call in flight.
type call[Q, R any] struct {
	id    uint64
	began time.Time
	slow  bool
	batch *batch[Q, R] // nil: a request that its caller sends alone
}

// batch is what travels in one call.
type batch[Q, R any] struct {
	requests []*Request[Q, R]
	// callers are those that have not gone. The batcher's mutex guards it, and the
	// two that follow.
	callers int
	sent    bool
	cancel  context.CancelFunc // once it is sent
}

// Request is one caller's request. It goes back to the pool only with a caller that
// was answered, for only then does nobody else know of it.
type Request[Q, R any] struct {
	// Q is what is asked.
	Q Q

	ctx   context.Context //nolint:containedctx // its values and its deadline are for the batch
	batch *batch[Q, R]

	state  atomic.Int32 // how it ended: whoever changes it first decides
	result R
	err    error
	done   chan struct{} // receives once, if it was answered
	timer  *time.Timer   // for the caller's wait; nil if none was needed yet
}

// Context returns the caller's context.
func (r *Request[Q, R]) Context() context.Context { return r.ctx }

// How a request ends.
const (
	open int32 = iota
	answered
	abandoned
)

// New returns a batcher. It must be closed.
func New[Q, R any](cfg Config[Q, R]) *Batcher[Q, R] { return &Batcher[Q, R]{cfg: cfg} }

// Do has one request answered.
func (b *Batcher[Q, R]) Do(ctx context.Context, q Q) (R, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		var none R
		return none, Closed()
	}
	if b.busy == 0 && len(b.waiting) == 0 && len(b.calls) < mostCalls {
		id := b.begin()
		b.mu.Unlock()
		r, err := b.cfg.One(ctx, q)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.finish(id)
		b.dispatch()
		return r, err
	}
	r := b.enqueue(ctx, q)
	b.dispatch()
	b.mu.Unlock()
	return b.await(ctx, r)
}

// begin notes a call that begins. The lock is held.
func (b *Batcher[Q, R]) begin() (id uint64) {
	b.lastID++
	b.busy++
	b.calls = append(b.calls, call[Q, R]{id: b.lastID, began: time.Now()})
	return b.lastID
}

// finish notes the end of a call. The lock is held.
func (b *Batcher[Q, R]) finish(id uint64) {
	i := b.indexOf(id)
	if !b.calls[i].slow {
		b.busy--
	}
	last := len(b.calls) - 1
	b.calls[i], b.calls[last] = b.calls[last], call[Q, R]{}
	b.calls = b.calls[:last]
}

func (b *Batcher[Q, R]) indexOf(id uint64) int {
	return slices.IndexFunc(b.calls, func(c call[Q, R]) bool { return c.id == id })
}

// dispatch starts senders for the batches that wait, as far as calls may be made.
// The lock is held.
func (b *Batcher[Q, R]) dispatch() {
	for b.idle < len(b.waiting) && b.busy < callsAtOnce && len(b.calls) < mostCalls && !b.closed {
		id := b.begin()
		b.idle++
		b.running.Go(func() { b.sendBatches(id) })
	}
}

// sendBatches sends batch after batch, until none waits. Before each it yields to
// every goroutine that can run, such as those of callers who were just answered: what
// they ask next then travels together, and the wait is over when there is nobody.
func (b *Batcher[Q, R]) sendBatches(id uint64) {
	for {
		runtime.Gosched()
		next := b.nextBatch(id)
		if next == nil {
			return
		}
		ctx, cancel := b.contextOf(next)
		b.deliver(ctx, next.requests)
		cancel()
		b.mu.Lock()
		if b.calls[b.indexOf(id)].slow { // others have taken its place
			b.finish(id)
			b.dispatch()
			b.mu.Unlock()
			return
		}
		b.idle++
		b.mu.Unlock()
	}
}

// nextBatch takes the batch that has waited longest, for an idle sender. If there is
// none, the sender is to end.
func (b *Batcher[Q, R]) nextBatch(id uint64) *batch[Q, R] {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle--
	if len(b.waiting) == 0 || b.closed {
		b.finish(id)
		return nil
	}
	next := b.waiting[0]
	b.waiting = slices.Delete(b.waiting, 0, 1)
	next.sent = true
	c := &b.calls[b.indexOf(id)]
	c.batch, c.began = next, time.Now()
	return next
}

// enqueue adds a request to what waits. The lock is held.
func (b *Batcher[Q, R]) enqueue(ctx context.Context, q Q) *Request[Q, R] {
	r, ok := b.pool.Get().(*Request[Q, R])
	if !ok {
		r = &Request[Q, R]{done: make(chan struct{}, 1)}
	}
	r.ctx, r.Q = ctx, q
	for _, w := range b.waiting {
		n := len(w.requests)
		if n < batches.Most && b.cfg.Join(&w.requests[n-1].Q, &r.Q) {
			r.batch = w
			break
		}
	}
	if r.batch == nil {
		r.batch = &batch[Q, R]{requests: make([]*Request[Q, R], 0, 16)}
		b.waiting = append(b.waiting, r.batch)
	}
	r.batch.requests = append(r.batch.requests, r)
	r.batch.callers++
	b.arm()
	return r
}

// await returns the answer, or the end of the caller's context.
func (b *Batcher[Q, R]) await(ctx context.Context, r *Request[Q, R]) (R, error) {
	if gone := deadline.Wait(ctx, r.done, &r.timer); gone != nil {
		if r.state.CompareAndSwap(open, abandoned) {
			b.left(r.batch)
			var none R
			return none, fmt.Errorf("%w: %w", soracache.ErrUnavailable, gone)
		}
		<-r.done // it was answered at the same time
	}
	result, err := r.result, r.err
	*r = Request[Q, R]{done: r.done, timer: r.timer}
	b.pool.Put(r)
	return result, err
}

// left notes that a caller of a batch has gone. A call that nobody waits for any more
// ends, or is not made.
func (b *Batcher[Q, R]) left(of *batch[Q, R]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	of.callers--
	switch {
	case of.callers > 0:
	case of.cancel != nil:
		of.cancel()
	case !of.sent:
		if i := slices.Index(b.waiting, of); i >= 0 {
			b.waiting = slices.Delete(b.waiting, i, i+1)
		}
	}
}

// contextOf returns the context of a batch's call: it has the values of the first
// caller's and the deadline of the caller who gives up last, and ends when all callers
// have gone.
func (b *Batcher[Q, R]) contextOf(of *batch[Q, R]) (context.Context, context.CancelFunc) {
	var latest time.Time
	bounded := true
	for _, r := range of.requests {
		at, ok := r.ctx.Deadline()
		bounded = bounded && ok
		if at.After(latest) {
			latest = at
		}
	}
	values := context.WithoutCancel(of.requests[0].ctx)
	gone, cancel := context.WithCancel(context.Background())
	b.mu.Lock()
	defer b.mu.Unlock()
	of.cancel = cancel
	if of.callers == 0 || b.closed {
		cancel()
	}
	var ctx *deadline.Context
	if bounded {
		ctx = deadline.New(values, gone, latest)
	} else {
		ctx = deadline.Endless(values, gone)
	}
	return ctx, func() {
		cancel()
		ctx.End()
	}
}

// deliver sends requests together and hands out the answers.
func (b *Batcher[Q, R]) deliver(ctx context.Context, requests []*Request[Q, R]) {
	fail := func(some []*Request[Q, R], err error) {
		var none R
		for _, r := range some {
			b.answer(r, none, err)
		}
	}
	err := batches.Send(requests, func(_ int, part []*Request[Q, R]) error {
		part = wanted(part)
		if len(part) == 0 {
			return nil
		}
		results, err := b.cfg.Many(ctx, part)
		switch {
		case err != nil:
			return err
		case len(results) != len(part):
			return batches.Miscounted(len(results), len(part))
		}
		for i, r := range part {
			b.answer(r, results[i], nil)
		}
		return nil
	}, func(at, count int, err error) { fail(requests[at:at+count], err) })
	if err != nil {
		fail(requests, err)
	}
}

// wanted returns the requests whose callers are still there.
func wanted[Q, R any](requests []*Request[Q, R]) []*Request[Q, R] {
	gone := func(r *Request[Q, R]) bool { return r.state.Load() != open }
	if !slices.ContainsFunc(requests, gone) {
		return requests
	}
	return slices.DeleteFunc(slices.Clone(requests), gone)
}

// answer hands an answer to its caller. From the moment that the caller is told, the
// request may be another's.
func (b *Batcher[Q, R]) answer(r *Request[Q, R], result R, err error) {
	r.result, r.err = result, err
	if r.state.CompareAndSwap(open, answered) {
		r.done <- struct{}{}
	} else if err == nil {
		b.cfg.Orphaned(r.Q, result)
	}
}

// arm has the calls looked at once they may be slow. The lock is held.
func (b *Batcher[Q, R]) arm() {
	switch {
	case b.armed:
		return
	case b.relief == nil:
		b.relief = time.AfterFunc(slowCall, b.relieve)
	default:
		b.relief.Reset(slowCall)
	}
	b.armed = true
}

// relieve sends what waits behind slow calls.
func (b *Batcher[Q, R]) relieve() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed = false
	if b.closed || len(b.waiting) == 0 {
		return
	}
	now := time.Now()
	for i := range b.calls {
		c := &b.calls[i]
		if !c.slow && now.Sub(c.began) >= slowCall {
			c.slow = true
			b.busy--
		}
	}
	b.dispatch()
	if len(b.waiting) > 0 {
		b.arm()
	}
}

// Close ends what is in flight, and returns when nothing is left of it.
func (b *Batcher[Q, R]) Close() {
	b.mu.Lock()
	b.closed = true
	if b.relief != nil {
		b.relief.Stop()
	}
	for _, c := range b.calls {
		if c.batch != nil && c.batch.cancel != nil {
			c.batch.cancel()
		}
	}
	waiting := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	for _, w := range waiting {
		for _, r := range w.requests {
			var none R
			b.answer(r, none, Closed())
		}
	}
	b.running.Wait()
}
