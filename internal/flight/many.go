package flight

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Turn is the call of one key, for whoever serves it.
type Turn[V any] struct{ call *call[V] }

// Key is what it is the call of.
func (t *Turn[V]) Key() string { return t.call.key }

// Led tells whether the caller who has it served began it at once, so that nobody
// else is a part of it. A run has turns of one kind.
func (t *Turn[V]) Led() bool { return t.call.start == nil }

// End has the callers get this. Of two ends the first counts.
func (t *Turn[V]) End(v V, err error) { t.call.group.end(t.call, v, err) }

// Alone is [Run.Alone] for one key.
func (t *Turn[V]) Alone() { t.call.group.alone([]*call[V]{t.call}) }

// Admit is [Run.Admit] for one key.
func (t *Turn[V]) Admit() { t.call.group.admit([]*call[V]{t.call}) }

// ErrElsewhere is what Many tells of a key that somebody else computes and that is
// not to be waited for.
var ErrElsewhere = errors.New("somebody else computes it")

// Many takes part in the calls of many keys, of which each is given once. It
// returns when take was called with what became of each, in the order of the keys,
// and in the caller's goroutine: also what part the caller had in it.
//
// Those that nobody is computing are served together, at once. Those whose
// computation is running are waited for as by Lead; and if this caller was the
// first to come since they began, it has them served when they have ended, together
// with others for which that holds at the same moment. With a negative time to
// wait, they are left to those who compute them: take gets [ErrElsewhere].
//
// serve has to end each of its turns. It runs as Do runs a function, in a goroutine
// of its own, and its context is cancelled when nobody wants any of its keys. So it
// must not wait for calls of other keys.
func (g *Group[V]) Many(ctx context.Context, keys []string, most time.Duration, serve func(context.Context, []*Turn[V]), take func(i int, v V, part Part, err error)) {
	calls, errs, led := g.enterMany(ctx, keys, most >= 0, serve)
	defer g.awaitMany(ctx, calls, errs)()
	if len(led) > 0 {
		inside, t := g.newBatchRun(context.WithoutCancel(ctx), led)
		go g.runBatch(inside, t, serve)
	}
	g.waitMany(ctx, calls, errs, most, take)
}

// enterMany makes the caller one of each key's callers, and returns those calls
// that begin now.
func (g *Group[V]) enterMany(ctx context.Context, keys []string, join bool, serve func(context.Context, []*Turn[V])) (calls []*call[V], errs []error, led []*call[V]) {
	calls, errs = make([]*call[V], len(keys)), make([]error, len(keys))
	q := &queue[V]{group: g, ctx: context.WithoutCancel(ctx), serve: serve}
	gone := ctx.Err()
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, key := range keys {
		switch {
		case gone != nil:
			errs[i] = gone
		case g.newest[key] == nil:
			calls[i] = g.begin(ctx, key)
			led = append(led, calls[i])
		case !join:
			errs[i] = ErrElsewhere
		default:
			c, first := g.join(ctx, key)
			if calls[i] = c; first {
				c.start = func() { q.ready(c) }
			}
		}
	}
	return calls, errs, led
}

// awaitMany notes that the caller's run waits for the calls that it has no error
// of, and gives the caller an error of those for which that would never end.
func (g *Group[V]) awaitMany(ctx context.Context, calls []*call[V], errs []error) (ended func()) {
	run := RunOf(ctx)
	if run == nil {
		return func() {}
	}
	awaited := make([]*call[V], 0, len(calls))
	for i, c := range calls {
		if errs[i] != nil {
			continue
		}
		if _, errs[i] = g.await(ctx, c); errs[i] == nil {
			awaited = append(awaited, c)
		}
	}
	return func() {
		for _, c := range awaited {
			run.awaited(c)
		}
	}
}

// waitMany waits for each call that it has no error of, and leaves all that are
// left when the caller's context ends.
func (g *Group[V]) waitMany(ctx context.Context, calls []*call[V], errs []error, most time.Duration, take func(i int, v V, part Part, err error)) {
	w, end := newPatience[V](most)
	defer end()
	for i, c := range calls {
		var v V
		err := errs[i]
		if err == nil {
			v, err = w.wait(ctx, c)
		}
		if w.gone {
			g.leaveAll(calls[i:], errs[i:])
			for ; i < len(calls); i++ {
				take(i, v, Led, err)
			}
			return
		}
		part := Led
		if errs[i] == nil && c.start != nil {
			part = c.part()
		}
		take(i, v, part, err)
	}
}

// leaveAll takes the caller off the calls that it has no error of.
func (g *Group[V]) leaveAll(calls []*call[V], errs []error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	runs := make(map[*batchRun[V]]struct{})
	for i, c := range calls {
		if errs[i] != nil {
			continue
		}
		if t := g.depleted(c); t != nil {
			runs[t] = struct{}{}
		}
	}
	for t := range runs {
		g.endUnwanted(t)
	}
}

// queue is the calls that a caller of many is to have served when their turn has
// come. Those of one moment are served together.
type queue[V any] struct {
	group *Group[V]
	ctx   context.Context //nolint:containedctx // what serve runs under, but for its end
	serve func(context.Context, []*Turn[V])

	mu      sync.Mutex
	waiting []*call[V] // guarded by mu
}

// ready has a call served with whatever else is ready by the time that a goroutine
// gets to it.
func (q *queue[V]) ready(c *call[V]) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting = append(q.waiting, c); len(q.waiting) == 1 {
		go q.run()
	}
}

func (q *queue[V]) run() {
	q.mu.Lock()
	calls := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	q.group.run(q.ctx, calls, q.serve)
}
