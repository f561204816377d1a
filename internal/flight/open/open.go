// Package open lets callers share a computation with whoever comes while it runs, also
// with those who come late. So it is for results that may have begun before a caller
// came: they do not go out of date, or are checked again where they are used. For others,
// see package flight.
//
// It is golang.org/x/sync/singleflight, with what that does not do: callers leave when
// their contexts end, no more than so many computations run at once, a panic is an
// error, and what runs can be waited for.
package open

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/soracache/soracache/internal/flight"
)

// ErrFull is what a caller of an [Group] gets when too much else was running for as
// long as it was ready to wait.
var ErrFull = errors.New("too many others are running")

// Group shares computations by key. It is safe for concurrent use.
type Group[V any] struct {
	sharing singleflight.Group
	places  chan struct{} // holds a token for each that runs
	all     sync.WaitGroup

	mu sync.Mutex
	// running holds the keys that singleflight knows, which does not tell; guarded
	// by mu. The two change together.
	running map[string]struct{}
}

// New returns a group of which most computations run at once.
func New[V any](most int) *Group[V] {
	return &Group[V]{places: make(chan struct{}, most), running: map[string]struct{}{}}
}

// Do returns what fn returns, or what the fn returns that runs for this key already. It
// goes on without its callers, each of whom returns when its own context ends. Whoever
// has to begin waits for its place for at most so long, and then gets [ErrFull].
//
// If fn panics, its callers get a [flight.PanicError]. It must not call runtime.Goexit: they
// would wait until their contexts end.
func (g *Group[V]) Do(ctx context.Context, key string, most time.Duration, fn func() (V, error)) (V, error) {
	var zero V
	result := g.join(key)
	if result == nil {
		if err := g.place(ctx, most); err != nil {
			return zero, err
		}
		result = g.begin(key, fn)
	}
	select {
	case r := <-result:
		v, _ := r.Val.(V)
		return v, r.Err
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

// Wait waits until nothing runs. Nothing may be begun meanwhile.
func (g *Group[V]) Wait() { g.all.Wait() }

// join joins what runs for a key. It returns nil if nothing does.
func (g *Group[V]) join(key string) <-chan singleflight.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, runs := g.running[key]; !runs {
		return nil
	}
	return g.sharing.DoChan(key, nil) // it is there
}

// place waits for a place.
func (g *Group[V]) place(ctx context.Context, most time.Duration) error {
	select {
	case g.places <- struct{}{}:
		return nil
	default:
	}
	patience := time.NewTimer(most)
	defer patience.Stop()
	select {
	case g.places <- struct{}{}:
		return nil
	case <-patience.C:
		return ErrFull
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin runs fn in the caller's place, or gives that back and joins whoever was first.
func (g *Group[V]) begin(key string, fn func() (V, error)) <-chan singleflight.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, runs := g.running[key]; runs {
		<-g.places
		return g.sharing.DoChan(key, nil)
	}
	g.running[key] = struct{}{}
	g.all.Add(1)
	return g.sharing.DoChan(key, func() (any, error) {
		defer g.ended(key)
		return contained(fn)
	})
}

func (g *Group[V]) ended(key string) {
	g.mu.Lock()
	delete(g.running, key)
	g.sharing.Forget(key)
	g.mu.Unlock()
	<-g.places
	g.all.Done()
}

// contained makes a panic of fn an error.
func contained[V any](fn func() (V, error)) (v V, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &flight.PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	return fn()
}
