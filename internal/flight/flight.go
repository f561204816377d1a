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
	id string // the key and the generation, as singleflight knows it
	// previous is the call that has to end before this one begins. It is nil
	// once this one has begun, so that calls do not hold on to their history.
	previous *call // guarded by mu after creation
	callers  int   // who still waits for it; guarded by mu
	begun    bool  // it admits nobody any more; guarded by mu
	over     bool  // it has ended; guarded by mu

	// cancel ends the function's context. It is set when the call begins.
	cancel context.CancelFunc // guarded by mu
	// abandoned is closed when the last caller left before it began.
	abandoned chan struct{}
	// exited is closed if the function called Goexit: singleflight then
	// delivers nothing.
	exited chan struct{}
	// ended is closed when the call is over, and lets the next one begin.
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
	g.generation++
	c := &call{
		id:        strconv.FormatUint(g.generation, 36) + ":" + key,
		previous:  previous,
		abandoned: make(chan struct{}),
		exited:    make(chan struct{}),
		ended:     make(chan struct{}),
	}
	if g.newest == nil {
		g.newest = make(map[string]*call)
	}
	g.newest[key] = c
	return c
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
	c.cancel()
	close(c.ended)
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
