// Package flight lets callers that want the same thing at the same time share
// one computation of it, without ever handing a caller a result that was begun
// before the caller came.
//
// golang.org/x/sync/singleflight shares a computation with whoever comes until it
// returns. Where that does no harm it is what is used: see package flight/open. A [Group]
// is for results that go out of date, and for that singleflight is not enough:
//
//   - Who comes while it runs joins it, so somebody who comes after an invalidation may
//     be given what was read before it. A computation of a Group admits callers only
//     until it begins. Whoever comes later shares the next one.
//   - Forget lets who comes later begin another one, but at once, beside the first. Here
//     it begins when the first has ended, so that at most two exist for a key: one
//     running and one collecting callers. What would be collected in singleflight has
//     nothing to be collected in: a call of it runs from its first caller on.
//   - It does not know how many still wait, so nothing is cancelled when the last of them
//     has gone. Nor do those who have come since keep going what they will build on.
//   - It computes one key at a time. See [Group.Many] for what is done best for many.
//   - Every call has a goroutine or takes its caller's for as long as it lasts, which
//     cannot go then. See [Group.Lead] for what is nearly always done at once.
//   - It hangs where a function waits for itself, or for one that waits for it. See
//     [ErrCycle] and [WaitError].
//   - A panic of a function ends the process if somebody waits by a channel.
//
// So a Group counts callers, links each call with the one behind it, and runs it; what
// would be left to singleflight is one look into a map, for a goroutine for each key
// that is waited for and a channel for each caller.
//
// A function that does something else first, and has yet to begin with what may be
// shared, can admit those who have come meanwhile: see [Run.Admit].
//
// A computation lives as long as anybody wants its key, those included who came
// too late for it: what it leaves behind may be what they find when their own
// begins. A wait for one that began earlier ends: by the caller's context, by the
// time that it is ready to wait, or with [ErrCycle] if it would never end.
//
// What begins with a step that is nearly always all there is to do can be led:
// see [Group.Lead]. What is done best for many keys at once, see [Group.Many].
//
// The package knows nothing of caches.
package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// ErrGoexit is what callers get when their function called runtime.Goexit, as
// testing's FailNow does.
var ErrGoexit = errors.New("function called runtime.Goexit")

// PanicError is what callers get when their function panicked.
type PanicError struct {
	// Value is what the function panicked with.
	Value any
	// Stack is the stack of the panic, as runtime/debug prints it.
	Stack []byte
}

// Error returns the panic's value and its stack.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.Value, e.Stack) }

// Unwrap returns the panic's value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// WaitError is what a caller gets who waited for as long as it was ready to, and
// the computation was still running that had begun before the caller came. It
// wraps [context.DeadlineExceeded].
//
// A function that returns the very error that somebody got who waited for it has
// been waiting for itself, by a context that did not tell. To run it again would
// take as long again, so everybody who waits for it by then gets that error, too.
type WaitError struct {
	// Waited is for how long.
	Waited time.Duration
	behind waitable
}

// Error says how long it was.
func (e *WaitError) Error() string {
	return fmt.Sprintf("one that began earlier was still running after %s: %v", e.Waited, context.DeadlineExceeded)
}

// Unwrap returns [context.DeadlineExceeded].
func (e *WaitError) Unwrap() error { return context.DeadlineExceeded }

// Group shares computations by key. The zero value is ready for use. It is
// safe for concurrent use and must not be copied.
type Group[V any] struct {
	// Closing, if set before the first use, ends all waiting when it is closed: who
	// waits gets [context.Canceled], as if its own context had ended.
	Closing <-chan struct{}

	// mu guards what follows, and every field of a call and of a batch run that does
	// not say otherwise.
	mu sync.Mutex
	// newest holds the latest call of each key: it is collecting, or it is
	// running and nobody has come since it began.
	newest map[string]*call[V]
}

// call is one generation of a key.
type call[V any] struct {
	group *Group[V]
	key   string
	// previous is the call that has to end before this one begins, and next the one
	// that collects callers behind this one. A call that has begun has no previous
	// one, so calls do not hold on to their history.
	previous, next *call[V]
	callers        int  // who still waits for it
	begun          bool // it admits nobody any more
	over           bool // it has ended
	// alone means that it is of no use to whoever came after it began.
	alone bool
	// tired means that one of its callers has waited for as long as it was ready to.
	tired bool
	// late are the calls that were admitted after this one had begun, and admitted
	// means that this is one of those: it ends with the other.
	late     []*call[V]
	admitted bool
	// latest is when the last of its callers has to have an answer; endless: one of
	// them has all the time there is.
	latest  time.Time
	endless bool
	// start has a call that collected callers be run, once its turn has come. It is
	// called without the lock.
	start func()
	// batch is the run that it is a part of; nil: it is led, or is about to be run.
	batch *batchRun[V]
	// done is closed when the call is over: then v and err may be read.
	done chan struct{}
	v    V
	err  error
}

// batchRun is one run of a function, for one call or for several.
type batchRun[V any] struct {
	Run
	calls  []*call[V]
	cancel context.CancelFunc
	// unwanted means that it was told to end, because nobody wants its calls.
	unwanted bool
}

// Do returns what fn returns. Callers of one key that come before fn begins
// share it, with the first caller's fn and context values; those that come
// later share the next one, which begins when fn has returned.
//
// fn's context is never cancelled by one caller's end, has no deadline, and is
// cancelled when nobody wants the key any more. A caller whose own context ends
// returns with its error at once. As long as fn does not return, the next one does
// not begin: fn has to heed its context.
//
// If fn panics, its callers get a [PanicError].
func (g *Group[V]) Do(ctx context.Context, key string, fn func(context.Context) (V, error)) (V, error) {
	var zero V
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	c, led := g.enter(ctx, key, fn)
	r, err := g.await(ctx, c)
	if err != nil {
		return zero, err
	}
	defer r.awaited(c)
	if led {
		if err := g.handOver(ctx, c, fn); err != nil {
			return zero, err
		}
	}
	return g.wait(ctx, c, 0)
}

// Lead is Do for a function in two parts. The first part returns what is to be
// returned, or else the rest, which is then called once, whether or not anybody
// still waits for it.
//
// If no call of the key is collecting or running, the caller's own goroutine runs
// the first part, with the caller's context: this call has begun, so nobody else
// can be a part of it, and it has no other caller whom the end of that context
// could concern. So the first part has to heed its context, and if it calls
// runtime.Goexit, that ends the caller. The rest, and both parts of a call that is
// shared, run as Do runs a function.
//
// Whoever finds a call running that began earlier waits for its end no longer than
// so long, and then gets a [WaitError]; zero: as long as its context does. The
// caller is told what part it had in the call.
func (g *Group[V]) Lead(ctx context.Context, key string, most time.Duration, first func(context.Context) (V, func(context.Context) (V, error), error)) (v V, part Part, err error) {
	var zero V
	if err := ctx.Err(); err != nil {
		return zero, Led, err
	}
	c, led := g.enter(ctx, key, func(ctx context.Context) (V, error) {
		value, rest, err := first(ctx)
		if rest != nil {
			return rest(ctx)
		}
		return value, err
	})
	if !led {
		r, err := g.await(ctx, c)
		if err != nil {
			return zero, Joined, err
		}
		defer r.awaited(c)
		v, err = g.wait(ctx, c, most)
		return v, c.part(), err
	}
	v, rest, err := g.lead(ctx, c, first)
	if rest == nil {
		if ended := ctx.Err(); ended != nil && err != nil {
			return zero, Led, ended // as of any caller that has gone
		}
		return v, Led, err
	}
	r, _ := g.await(ctx, c) // it waits for nothing yet, so this closes no circle
	defer r.awaited(c)
	if err := g.handOver(ctx, c, rest); err != nil {
		return zero, Led, err
	}
	v, err = g.wait(ctx, c, 0)
	return v, Led, err
}

// Part is what part a caller had in a call.
type Part uint8

const (
	// Led means that the caller began it.
	Led Part = iota
	// Joined means that it came before the call began.
	Joined
	// Admitted means that it came after the call had begun, and was admitted then:
	// see [Run.Admit].
	Admitted
)

// part is that of a caller that did not lead.
func (c *call[V]) part() Part {
	c.group.mu.Lock()
	defer c.group.mu.Unlock()
	if c.admitted {
		return Admitted
	}
	return Joined
}

// enter makes the caller the leader of a new call; or one of the callers of the
// one that collects, which fn is to run if there is none yet.
func (g *Group[V]) enter(ctx context.Context, key string, fn func(context.Context) (V, error)) (c *call[V], led bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.newest[key] == nil {
		return g.begin(ctx, key), true
	}
	c, first := g.join(ctx, key)
	if first {
		inside := context.WithoutCancel(ctx)
		c.start = func() {
			go g.run(inside, []*call[V]{c}, func(ctx context.Context, _ []*Turn[V]) { g.serve(ctx, c, fn) })
		}
	}
	return c, false
}

// begin makes a call that has begun. The lock is held.
func (g *Group[V]) begin(ctx context.Context, key string) *call[V] {
	c := &call[V]{group: g, key: key, begun: true}
	c.addCaller(ctx)
	g.makeNewest(c)
	return c
}

// join makes the caller one of those who wait for the call behind the running one,
// and tells whether it is the first of them. The lock is held.
func (g *Group[V]) join(ctx context.Context, key string) (c *call[V], first bool) {
	c = g.newest[key]
	if first = c.begun; first {
		c = &call[V]{group: g, key: key, previous: c}
		c.previous.next = c
		g.makeNewest(c)
	}
	c.addCaller(ctx)
	return c, first
}

// addCaller adds a caller. The lock is held.
func (c *call[V]) addCaller(ctx context.Context) {
	c.callers++
	deadline, bounded := ctx.Deadline()
	c.endless = c.endless || !bounded
	if deadline.After(c.latest) {
		c.latest = deadline
	}
}

// makeNewest makes a call the newest one of its key. The lock is held.
func (g *Group[V]) makeNewest(c *call[V]) {
	if g.newest == nil {
		g.newest = make(map[string]*call[V])
	}
	g.newest[c.key] = c
}

// lead runs the first part on the caller's goroutine. The call goes on after it
// only if there is a rest.
func (g *Group[V]) lead(ctx context.Context, c *call[V], first func(context.Context) (V, func(context.Context) (V, error), error)) (v V, rest func(context.Context) (V, error), err error) {
	returned := false
	defer func() {
		if !returned {
			err = ErrGoexit // which goes on
			if p := recover(); p != nil {
				err = &PanicError{Value: p, Stack: debug.Stack()}
			}
		}
		if rest == nil {
			g.end(c, v, err)
		}
	}()
	v, rest, err = first(ctx)
	returned = true
	return v, rest, err
}

// handOver has a goroutine of its own run the rest of a call that was led. The
// error is that of a leader who has gone meanwhile.
func (g *Group[V]) handOver(ctx context.Context, c *call[V], rest func(context.Context) (V, error)) error {
	inside, t := g.newBatchRun(context.WithoutCancel(ctx), []*call[V]{c})
	gone := ctx.Err()
	if gone != nil {
		g.leave(c) // before it begins, or it would take its caller to be there
	}
	go g.runBatch(inside, t, func(ctx context.Context, _ []*Turn[V]) { g.serve(ctx, c, rest) })
	return gone
}

// newBatchRun makes a batch run of calls that have begun.
func (g *Group[V]) newBatchRun(ctx context.Context, calls []*call[V]) (context.Context, *batchRun[V]) {
	t := &batchRun[V]{calls: calls}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, runKey{}, &t.Run)) //nolint:gosec // the batch run cancels it
	t.alone = func() { g.alone(calls) }
	t.admit = func() { g.admit(calls) }
	g.mu.Lock()
	defer g.mu.Unlock()
	t.cancel = cancel
	endless := false
	for _, c := range calls {
		c.batch = t
		if c.tired {
			t.tire()
		}
		endless = endless || c.endless
		if c.latest.After(t.latest) {
			t.latest = c.latest
		}
	}
	if endless {
		t.latest = time.Time{}
	}
	g.endUnwanted(t)
	return ctx, t
}

// run has calls served whose turn has come.
func (g *Group[V]) run(ctx context.Context, calls []*call[V], do func(context.Context, []*Turn[V])) {
	ctx, t := g.newBatchRun(ctx, calls)
	g.runBatch(ctx, t, do)
}

// runBatch has the calls of a batch run served. However that ends, so do they.
func (g *Group[V]) runBatch(ctx context.Context, t *batchRun[V], do func(context.Context, []*Turn[V])) {
	err := ErrGoexit // unless it returns: recover gives nil only to Goexit
	defer t.cancel()
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
		for _, c := range t.calls {
			var zero V
			g.end(c, zero, err) // unless it has ended
		}
	}()
	turns := make([]*Turn[V], len(t.calls))
	for i, c := range t.calls {
		turns[i] = &Turn[V]{c}
	}
	do(ctx, turns)
}

// serve has one call return what a function does.
func (g *Group[V]) serve(ctx context.Context, c *call[V], fn func(context.Context) (V, error)) {
	v, err := fn(ctx)
	g.end(c, v, err)
}

// await notes that the caller's run, if it is inside of one, waits for a call. If
// that would never end, the caller is taken off.
func (g *Group[V]) await(ctx context.Context, c *call[V]) (waiting, error) {
	r := RunOf(ctx)
	if r == nil {
		return waiting{}, nil
	}
	if err := r.await(c); err != nil {
		g.leave(c)
		return waiting{}, err
	}
	return waiting{r}, nil
}

// waiting is a wait of a run, if there is one.
type waiting struct{ run *Run }

func (w waiting) awaited(c waitable) {
	if w.run != nil {
		w.run.awaited(c)
	}
}

// wait waits for a call on behalf of one of its callers: for its turn no longer
// than so long.
func (g *Group[V]) wait(ctx context.Context, c *call[V], most time.Duration) (V, error) {
	w, end := newPatience[V](most)
	defer end()
	v, err := w.wait(ctx, c)
	if w.gone {
		g.leave(c)
	}
	return v, err
}

// patience is how long one caller waits for the turns of calls: not longer for
// several than for one.
type patience[V any] struct {
	most time.Duration
	over <-chan time.Time
	// tired means that it is over, and gone that the caller's context is.
	tired, gone bool
}

func newPatience[V any](most time.Duration) (_ patience[V], end func()) {
	if most <= 0 {
		return patience[V]{}, func() {}
	}
	timer := time.NewTimer(most)
	return patience[V]{most: most, over: timer.C}, func() { timer.Stop() }
}

func (w *patience[V]) wait(ctx context.Context, c *call[V]) (v V, err error) {
	for {
		if w.tired {
			if err := c.group.tired(c, w.most); err != nil {
				return v, err
			}
		}
		select {
		case <-c.finished():
			return c.v, c.err
		case <-ctx.Done():
			w.gone = true
			return v, ctx.Err()
		case <-c.group.Closing:
			w.gone = true
			return v, context.Canceled
		case <-w.over:
			w.tired = true
		}
	}
}

// tired takes a caller off that has waited long enough, unless its turn has come.
func (g *Group[V]) tired(c *call[V], waited time.Duration) error {
	g.mu.Lock()
	behind, t := c.previous, c.batch
	c.tired = c.tired || behind == nil
	g.mu.Unlock()
	if behind == nil {
		if t != nil {
			t.tire()
		}
		return nil
	}
	g.leave(c)
	return &WaitError{Waited: waited, behind: behind}
}

// finished returns what is closed when the call is over.
func (c *call[V]) finished() <-chan struct{} {
	c.group.mu.Lock()
	defer c.group.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.over {
			close(c.done)
		}
	}
	return c.done
}

// before implements waitable: a call waits for its turn, and then for its run.
func (c *call[V]) before() []waitable {
	c.group.mu.Lock()
	defer c.group.mu.Unlock()
	switch {
	case c.previous != nil:
		return []waitable{c.previous}
	case c.batch != nil && !c.over:
		return []waitable{&c.batch.Run}
	}
	return nil
}

// leave takes one caller off.
func (g *Group[V]) leave(c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.depleted(c); t != nil {
		g.endUnwanted(t)
	}
}

// depleted takes one caller off. Where it was the last one, a call that collects
// gives up its place. It returns the batch run that may be wanted by nobody now. The
// lock is held.
func (g *Group[V]) depleted(c *call[V]) *batchRun[V] {
	c.callers--
	switch {
	case c.callers > 0 || c.over:
		return nil
	case c.begun:
		return c.batch
	}
	running := c.previous
	running.next, c.previous = nil, nil
	g.newest[c.key] = running
	return running.batch
}

// wanted tells whether anybody wants what a call brings: those who wait for it,
// and those whose turn comes after it, unless it is of no use to them. The lock is
// held.
func (c *call[V]) wanted() bool {
	if slices.ContainsFunc(c.late, func(c *call[V]) bool { return c.callers > 0 }) {
		return true
	}
	return c.callers > 0 || !c.alone && c.next != nil
}

// endUnwanted tells a batch run to end if nobody wants any of its calls. The lock is
// held.
func (g *Group[V]) endUnwanted(t *batchRun[V]) {
	for _, c := range t.calls {
		if !c.over && c.wanted() {
			return
		}
	}
	t.unwanted = true
	t.cancel()
}

// alone says of calls of one batch run that they are of no use to who comes later.
func (g *Group[V]) alone(calls []*call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range calls {
		c.alone = true
	}
	if t := calls[0].batch; t != nil {
		g.endUnwanted(t)
	}
}

// admit has those who have come since calls of one batch run began share what they bring,
// unless it was told to end.
func (g *Group[V]) admit(calls []*call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range calls {
		n := c.next
		if n == nil || c.over || c.batch != nil && c.batch.unwanted {
			continue
		}
		n.previous, n.begun, n.admitted, n.batch = nil, true, true, c.batch
		c.next, c.late = nil, append(c.late, n)
		g.newest[c.key] = c
	}
}

// end ends a call, unless it has ended, and lets the next one begin.
func (g *Group[V]) end(c *call[V], v V, err error) {
	if start := g.finish(c, v, err); start != nil {
		start()
	}
}

func (g *Group[V]) finish(c *call[V], v V, err error) (start func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.over {
		return nil
	}
	c.finish(v, err)
	for _, late := range c.late {
		late.finish(v, err)
	}
	next := c.next
	c.next, c.late = nil, nil
	switch {
	case next == nil:
		delete(g.newest, c.key) // it is the newest one
		return nil
	case waitedForItself(c, err):
		next.previous, next.begun = nil, true
		next.finish(v, err)
		delete(g.newest, c.key)
		return nil
	}
	next.previous, next.begun = nil, true
	return next.start
}

// finish notes what a call brought. The lock is held.
func (c *call[V]) finish(v V, err error) {
	c.over, c.v, c.err = true, v, err
	if c.done != nil {
		close(c.done)
	}
}

// waitedForItself tells whether a function returned what somebody got who waited
// for it.
func waitedForItself[V any](c *call[V], err error) bool {
	tired, ok := errors.AsType[*WaitError](err)
	return ok && tired.behind == waitable(c)
}
