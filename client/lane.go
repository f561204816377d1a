package client

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
)

const (
	// tripsPerNode is how many calls of one kind are under way to a node
	// before others wait for the next.
	tripsPerNode = 2
	// mostTrips bounds the calls under way when slow ones are not counted.
	mostTrips = 64
	// slowTrip is how long a call is under way before it no longer keeps
	// others waiting.
	slowTrip = 10 * time.Millisecond
	// mostTogether is how many requests travel in one call.
	mostTogether = 256
)

// lane has concurrent requests of one kind travel together to one node. Nobody
// ever waits for company:
//
//  1. While no call is under way, a request is sent at once, by its caller's own
//     goroutine.
//  2. Whoever comes while one is joins the first batch that has room and asks
//     alike. No batch that was sent is ever joined, so what an answer reflects
//     is never older than the request.
//  3. While fewer than tripsPerNode calls are under way, the batch that waits
//     longest is sent.
//
// A call that takes long, because the node has to wait for its store, does not
// keep others back: it is no longer counted, and one more is sent.
type lane[Q, R any] struct {
	// alone sends one request, and send many. The answers are as many as the
	// requests, and in their order.
	alone func(ctx context.Context, q Q) (R, error)
	send  func(ctx context.Context, batch []*request[Q, R]) ([]R, error)
	// join tells whether a request may travel with those whose last is given,
	// and notes in it what it must know of them for the next one's sake.
	join func(last, q *Q) bool
	// orphaned is given an answer whose caller has gone.
	orphaned func(q Q, r R)

	pool sync.Pool // of *request[Q, R] that nobody else knows of

	mu      sync.Mutex
	closed  bool
	trips   []trip[Q, R]
	lastID  uint64
	busy    int // trips that are not slow
	idle    int // those of them whose carriers have no batch yet
	waiting []*batch[Q, R]
	relief  *time.Timer // runs if armed: looks for slow trips
	armed   bool
	running sync.WaitGroup // of carriers
}

// trip is one call under way.
type trip[Q, R any] struct {
	id    uint64
	began time.Time
	slow  bool
	batch *batch[Q, R] // nil: a request that its caller sends alone
}

// batch is what travels in one call.
type batch[Q, R any] struct {
	requests []*request[Q, R]
	// callers are those that have not gone. The lane's mutex guards it, and the
	// two that follow.
	callers int
	sent    bool
	cancel  context.CancelFunc // once it is sent
}

// request is one caller's. It goes back to the pool only with a caller that was
// answered, for only then does nobody else know of it.
type request[Q, R any] struct {
	q     Q
	ctx   context.Context //nolint:containedctx // its values and its deadline are for the batch
	batch *batch[Q, R]

	state  atomic.Int32 // how it ended: whoever changes it first decides
	result R
	err    error
	done   chan struct{} // receives once, if it was answered
	timer  *time.Timer   // for the caller's wait; nil if none was needed yet
}

// How a request ends.
const (
	open int32 = iota
	answered
	abandoned
)

// do has one request answered.
func (l *lane[Q, R]) do(ctx context.Context, q Q) (R, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		var none R
		return none, errLaneClosed()
	}
	if l.busy == 0 && len(l.waiting) == 0 && len(l.trips) < mostTrips {
		id := l.takeOff()
		l.mu.Unlock()
		r, err := l.alone(ctx, q)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.land(id)
		l.dispatch()
		return r, err
	}
	r := l.enqueue(ctx, q)
	l.dispatch()
	l.mu.Unlock()
	return l.await(ctx, r)
}

func errLaneClosed() error { return fmt.Errorf("%w: %w", soracache.ErrUnavailable, ErrClosed) }

// takeOff notes a call that begins. The lock is held.
func (l *lane[Q, R]) takeOff() uint64 {
	l.lastID++
	l.busy++
	l.trips = append(l.trips, trip[Q, R]{id: l.lastID, began: time.Now()})
	return l.lastID
}

// land notes the end of a call. The lock is held.
func (l *lane[Q, R]) land(id uint64) {
	i := l.indexOf(id)
	if !l.trips[i].slow {
		l.busy--
	}
	last := len(l.trips) - 1
	l.trips[i], l.trips[last] = l.trips[last], trip[Q, R]{}
	l.trips = l.trips[:last]
}

func (l *lane[Q, R]) indexOf(id uint64) int {
	return slices.IndexFunc(l.trips, func(t trip[Q, R]) bool { return t.id == id })
}

// dispatch starts carriers for the batches that wait, as far as calls may be
// made. The lock is held.
func (l *lane[Q, R]) dispatch() {
	for l.idle < len(l.waiting) && l.busy < tripsPerNode && len(l.trips) < mostTrips && !l.closed {
		id := l.takeOff()
		l.idle++
		l.running.Go(func() { l.carry(id) })
	}
}

// carry sends batch after batch, until none waits. Before each it lets everybody
// go first who can run at once, as those can who were just answered: what they
// ask next then travels together, and the wait is over when there is nobody.
func (l *lane[Q, R]) carry(id uint64) {
	for {
		runtime.Gosched()
		b := l.board(id)
		if b == nil {
			return
		}
		ctx, cancel := l.contextOf(b)
		l.deliver(ctx, b.requests)
		cancel()
		l.mu.Lock()
		if l.trips[l.indexOf(id)].slow { // others have taken its place
			l.land(id)
			l.dispatch()
			l.mu.Unlock()
			return
		}
		l.idle++
		l.mu.Unlock()
	}
}

// board takes the batch that waits longest, for an idle carrier; or else the
// carrier is to end.
func (l *lane[Q, R]) board(id uint64) *batch[Q, R] {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle--
	if len(l.waiting) == 0 || l.closed {
		l.land(id)
		return nil
	}
	b := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	b.sent = true
	t := &l.trips[l.indexOf(id)]
	t.batch, t.began = b, time.Now()
	return b
}

// enqueue adds a request to what waits. The lock is held.
func (l *lane[Q, R]) enqueue(ctx context.Context, q Q) *request[Q, R] {
	r, ok := l.pool.Get().(*request[Q, R])
	if !ok {
		r = &request[Q, R]{done: make(chan struct{}, 1)}
	}
	r.ctx, r.q = ctx, q
	for _, b := range l.waiting {
		n := len(b.requests)
		if n < mostTogether && l.join(&b.requests[n-1].q, &r.q) {
			r.batch = b
			break
		}
	}
	if r.batch == nil {
		r.batch = &batch[Q, R]{requests: make([]*request[Q, R], 0, 16)}
		l.waiting = append(l.waiting, r.batch)
	}
	r.batch.requests = append(r.batch.requests, r)
	r.batch.callers++
	l.arm()
	return r
}

// await returns the answer, or the end of the caller's context.
func (l *lane[Q, R]) await(ctx context.Context, r *request[Q, R]) (R, error) {
	if gone := r.wait(ctx); gone != nil {
		if r.state.CompareAndSwap(open, abandoned) {
			l.left(r.batch)
			var none R
			return none, fmt.Errorf("%w: %w", soracache.ErrUnavailable, gone)
		}
		<-r.done // it was answered at the same time
	}
	result, err := r.result, r.err
	*r = request[Q, R]{done: r.done, timer: r.timer}
	l.pool.Put(r)
	return result, err
}

// wait returns nil once there is an answer, or why the caller's context ended.
func (r *request[Q, R]) wait(ctx context.Context) error {
	if limited, ok := ctx.(*limit); ok {
		if r.timer == nil {
			r.timer = time.NewTimer(time.Hour)
		}
		return limited.wait(r.done, r.timer)
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// left notes that a caller has gone. A call that nobody waits for any more
// ends, or is not made.
func (l *lane[Q, R]) left(b *batch[Q, R]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b.callers--
	switch {
	case b.callers > 0:
	case b.cancel != nil:
		b.cancel()
	case !b.sent:
		for i, w := range l.waiting {
			if w == b {
				l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
				break
			}
		}
	}
}

// contextOf returns what a call lives in: it has the values of the batch's
// first caller, the deadline of the last one to give up, and ends when all have
// gone.
func (l *lane[Q, R]) contextOf(b *batch[Q, R]) (context.Context, context.CancelFunc) {
	var latest time.Time
	bounded := true
	for _, r := range b.requests {
		deadline, ok := r.ctx.Deadline()
		bounded = bounded && ok
		if deadline.After(latest) {
			latest = deadline
		}
	}
	values := context.WithoutCancel(b.requests[0].ctx)
	gone, cancel := context.WithCancel(context.Background())
	l.mu.Lock()
	defer l.mu.Unlock()
	b.cancel = cancel
	if b.callers == 0 || l.closed {
		cancel()
	}
	if !bounded {
		latest = time.Now().Add(longestWait)
	}
	ctx := newLimit(values, gone, latest)
	ctx.endless = !bounded
	return ctx, func() {
		cancel()
		ctx.end()
	}
}

// deliver sends requests together and hands out the answers. If the node
// refuses them as a whole, for what may be the fault of one of them, they are
// sent apart.
func (l *lane[Q, R]) deliver(ctx context.Context, requests []*request[Q, R]) {
	asked := requests[:0:len(requests)] // those whose callers are still there
	for _, r := range requests {
		if r.state.Load() == open {
			asked = append(asked, r)
		}
	}
	if len(asked) == 0 {
		return
	}
	results, err := l.send(ctx, asked)
	if err == nil && len(results) != len(asked) {
		err = errMiscounted(len(results), len(asked))
	}
	if err != nil && len(asked) > 1 && mayBeOneItem(err) {
		half := len(asked) / 2
		l.deliver(ctx, asked[:half:half])
		l.deliver(ctx, asked[half:])
		return
	}
	for i, r := range asked {
		var result R
		if err == nil {
			result = results[i]
		}
		l.answer(r, result, err)
	}
}

func errMiscounted(answers, requests int) error {
	return fmt.Errorf("%w: %d answers to %d requests", soracache.ErrUnavailable, answers, requests)
}

// answer hands an answer to its caller. From the moment that the caller is told,
// the request may be another's.
func (l *lane[Q, R]) answer(r *request[Q, R], result R, err error) {
	r.result, r.err = result, err
	if r.state.CompareAndSwap(open, answered) {
		r.done <- struct{}{}
	} else if err == nil {
		l.orphaned(r.q, result)
	}
}

// mayBeOneItem tells whether a batch may have been refused for the sake of one
// item of it.
func mayBeOneItem(err error) bool {
	return errors.Is(err, soracache.ErrInvalid) || errors.Is(err, soracache.ErrTooLarge)
}

// arm has the trips looked at once they may be slow. The lock is held.
func (l *lane[Q, R]) arm() {
	switch {
	case l.armed:
		return
	case l.relief == nil:
		l.relief = time.AfterFunc(slowTrip, l.relieve)
	default:
		l.relief.Reset(slowTrip)
	}
	l.armed = true
}

// relieve sends what waits behind slow trips.
func (l *lane[Q, R]) relieve() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if l.closed || len(l.waiting) == 0 {
		return
	}
	now := time.Now()
	for i := range l.trips {
		f := &l.trips[i]
		if !f.slow && now.Sub(f.began) >= slowTrip {
			f.slow = true
			l.busy--
		}
	}
	l.dispatch()
	if len(l.waiting) > 0 {
		l.arm()
	}
}

// close ends what is under way, and returns when nothing is left of it.
func (l *lane[Q, R]) close() {
	l.mu.Lock()
	l.closed = true
	if l.relief != nil {
		l.relief.Stop()
	}
	for _, f := range l.trips {
		if f.batch != nil && f.batch.cancel != nil {
			f.batch.cancel()
		}
	}
	waiting := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	for _, b := range waiting {
		for _, r := range b.requests {
			var none R
			l.answer(r, none, errLaneClosed())
		}
	}
	l.running.Wait()
}
