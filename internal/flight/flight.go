// Package flight lets callers that want the same thing at the same time share
// one computation of it, without ever handing a caller a result that was begun
// before the caller came.
//
// Plain singleflight admits callers until the computation returns, so somebody
// who comes after an invalidation may be given what was read before it. Here a
// computation admits callers only until it begins. Whoever comes later shares
// the next one, which begins when the present one has ended. So at most two
// exist for a key: one running and one collecting callers.
//
// What begins with a step that is nearly always all there is to do can be led:
// see [Group.Lead].
//
// The package knows nothing of caches. It is built on
// golang.org/x/sync/singleflight, keyed by key and generation.
package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"

	"golang.org/x/sync/singleflight"
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

// Group shares computations by key. The zero value is ready for use. It is
// safe for concurrent use and must not be copied.
type Group[V any] struct {
	flights singleflight.Group

	// mu guards what follows, and every field of a call that says so.
	mu sync.Mutex
	// newest holds the latest call of each key: it is collecting, or it is
	// running and nobody has come since it began.
	newest map[string]*call
	// generation numbers calls, so that two calls of a key never meet inside
	// singleflight, which would let the second's callers join the first.
	generation uint64
}

// call is one generation of a key.
type call struct {
	id string // the key and the generation, as singleflight knows it; empty as long as it is led
	// previous is the call that has to end before this one begins. It is nil
	// once this one has begun, so that calls do not hold on to their history.
	previous *call // guarded by mu after creation
	callers  int   // who still waits for it; guarded by mu
	begun    bool  // it admits nobody any more; guarded by mu
	over     bool  // it has ended; guarded by mu

	// cancel ends the function's context. It is set when the call begins; as long
	// as the call is led there is none, and nobody who could leave it.
	cancel context.CancelFunc // guarded by mu
	// abandoned is closed when the last caller left before it began.
	abandoned chan struct{}
	// exited is closed if the function called Goexit: singleflight then
	// delivers nothing.
	exited chan struct{}
	// ended is closed when the call is over, and lets the next one begin. It is
	// made when there is a next one; guarded by mu until then.
	ended chan struct{}
}

// Do returns what fn returns. Callers of one key that come before fn begins
// share it, with the first caller's fn and context values; those that come
// later share the next one, which begins when fn has returned.
//
// fn's context is never cancelled by one caller's end, has no deadline, and is
// cancelled when every caller that shares it has gone. A caller whose own
// context ends returns with its error at once. As long as fn does not return,
// the next one does not begin: fn has to heed its context.
//
// If fn panics, its callers get a [PanicError].
func (g *Group[V]) Do(ctx context.Context, key string, fn func(context.Context) (V, error)) (V, error) {
	var zero V
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	c, result := g.join(ctx, key, fn)
	return g.wait(ctx, key, c, result)
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
func (g *Group[V]) Lead(ctx context.Context, key string, first func(context.Context) (V, func(context.Context) (V, error), error)) (V, error) {
	var zero V
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	c, result := g.leadOrJoin(ctx, key, first)
	if result == nil {
		v, rest, err := g.lead(ctx, key, c, first)
		if rest == nil {
			if ended := ctx.Err(); ended != nil && err != nil {
				return zero, ended // as of any caller that has gone
			}
			return v, err
		}
		result = g.handOver(ctx, key, c, rest)
		if ended := ctx.Err(); ended != nil {
			g.leave(key, c)
			return zero, ended
		}
	}
	return g.wait(ctx, key, c, result)
}

// leadOrJoin makes the caller the leader of a new call, for which there is no
// result to wait; or one of the callers of a shared one.
func (g *Group[V]) leadOrJoin(ctx context.Context, key string, first func(context.Context) (V, func(context.Context) (V, error), error)) (*call, <-chan singleflight.Result) {
	g.mu.Lock()
	if g.newest[key] == nil {
		defer g.mu.Unlock()
		c := &call{callers: 1, begun: true}
		g.enlist(key, c)
		return c, nil
	}
	g.mu.Unlock()
	return g.join(ctx, key, func(ctx context.Context) (V, error) {
		v, rest, err := first(ctx)
		if rest != nil {
			return rest(ctx)
		}
		return v, err
	})
}

// lead runs the first part on the caller's goroutine. The call goes on after it
// only if there is a rest.
func (g *Group[V]) lead(ctx context.Context, key string, c *call, first func(context.Context) (V, func(context.Context) (V, error), error)) (v V, rest func(context.Context) (V, error), err error) {
	returned := false
	defer func() {
		if !returned {
			if p := recover(); p != nil {
				err = &PanicError{Value: p, Stack: debug.Stack()}
			}
		}
		if rest == nil {
			g.end(key, c)
		}
	}()
	v, rest, err = first(ctx)
	returned = true
	return v, rest, err
}

// handOver has a goroutine of its own run the rest of a call that was led.
func (g *Group[V]) handOver(ctx context.Context, key string, c *call, rest func(context.Context) (V, error)) <-chan singleflight.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.name(key, c)
	inside, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if c.cancel = cancel; ctx.Err() != nil {
		cancel() // before it begins, or it would take the caller to be there
	}
	return g.flights.DoChan(c.id, func() (any, error) {
		defer g.end(key, c)
		return guard(inside, c, rest)
	})
}

// wait waits for a call on behalf of one of its callers.
func (g *Group[V]) wait(ctx context.Context, key string, c *call, result <-chan singleflight.Result) (V, error) {
	var zero V
	select {
	case r := <-result:
		v, _ := r.Val.(V) // a nil interface is no V, and is V's zero
		return v, r.Err
	case <-c.exited:
		return zero, ErrGoexit
	case <-ctx.Done():
		g.leave(key, c)
		return zero, ctx.Err()
	}
}

// join makes the caller one of the newest call's, or of a new one behind it.
//
// The lock is held until singleflight has the caller. The call can neither
// begin nor end in between, so a caller never finds singleflight's entry gone
// and starts it a second time.
func (g *Group[V]) join(ctx context.Context, key string, fn func(context.Context) (V, error)) (*call, <-chan singleflight.Result) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.newest[key]
	if c == nil || c.begun {
		c = g.follow(key, c)
	}
	c.callers++
	return c, g.flights.DoChan(c.id, func() (any, error) { return g.run(ctx, key, c, fn) })
}

// follow makes a new call of the key the newest one. The lock is held.
func (g *Group[V]) follow(key string, previous *call) *call {
	c := &call{previous: previous, abandoned: make(chan struct{})}
	if previous != nil && previous.ended == nil {
		previous.ended = make(chan struct{})
	}
	g.name(key, c)
	g.enlist(key, c)
	return c
}

// name makes a call one that singleflight can run. The lock is held.
func (g *Group[V]) name(key string, c *call) {
	g.generation++
	c.id = strconv.FormatUint(g.generation, 36) + ":" + key
	c.exited = make(chan struct{})
}

// enlist makes a call the newest one of its key. The lock is held.
func (g *Group[V]) enlist(key string, c *call) {
	if g.newest == nil {
		g.newest = make(map[string]*call)
	}
	g.newest[key] = c
}

// leave takes one caller off. When the last one leaves, a running call is told
// to stop, and a collecting one gives up its place.
func (g *Group[V]) leave(key string, c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.callers--; c.callers > 0 || c.over {
		return
	}
	if c.begun {
		c.cancel()
		return
	}
	close(c.abandoned)
	if c.previous != nil && !c.previous.over {
		g.newest[key] = c.previous
	} else {
		delete(g.newest, key)
	}
}

// run is the body of one call, in the goroutine that singleflight gives it.
func (g *Group[V]) run(ctx context.Context, key string, c *call, fn func(context.Context) (V, error)) (any, error) {
	g.awaitTurn(c)
	ctx, ok := g.begin(context.WithoutCancel(ctx), c)
	if !ok {
		return nil, context.Canceled // nobody is left to see it
	}
	defer g.end(key, c)
	return guard(ctx, c, fn)
}

// awaitTurn waits for the call before this one. Only a call's own goroutine
// clears previous, and this is it, so reading it needs no lock.
func (g *Group[V]) awaitTurn(c *call) {
	if c.previous == nil {
		return
	}
	select {
	case <-c.previous.ended:
	case <-c.abandoned:
	}
}

// begin closes the call to further callers, unless all of them have gone.
func (g *Group[V]) begin(ctx context.Context, c *call) (context.Context, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.callers == 0 {
		return nil, false
	}
	c.begun = true
	c.previous = nil
	ctx, c.cancel = context.WithCancel(ctx)
	return ctx, true
}

// end lets the next call begin.
func (g *Group[V]) end(key string, c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
	if c.ended != nil {
		close(c.ended)
	}
	if g.newest[key] == c {
		delete(g.newest, key)
	}
}

// guard turns a panic of fn into an error, and reports a Goexit, which nothing
// can stop.
func guard[V any](ctx context.Context, c *call, fn func(context.Context) (V, error)) (v any, err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			v, err = nil, &PanicError{Value: p, Stack: debug.Stack()}
			return
		}
		close(c.exited) // recover gives nil only to Goexit: panic(nil) gives an error
	}()
	v, err = fn(ctx)
	returned = true
	return v, err
}
