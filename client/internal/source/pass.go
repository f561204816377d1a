package source

import (
	"context"
	"iter"
	"slices"
	"sync/atomic"
	"time"
)

// Pass is what a load goes to its source with: a place, if their number is limited, and
// the breaker's leave once it has begun. A load inside of another one, its host, is a
// part of that: it has the host's place, and says nothing to the breaker.
//
// A nil pass is to no source.
type Pass struct {
	guard *Guard
	// host is the pass of the load that this one is a part of, and root the outermost of
	// them, which has the place; nil: it is that itself.
	host, root *Pass
	// users are how many passes are at the place of a root. At zero it is given back, and
	// not shared again.
	users atomic.Int32
	// begun is one more than the breaker's generation in which the load began; zero: it
	// has not, or is a part of its host.
	begun atomic.Int64
	ended atomic.Bool
}

func (g *Guard) pass() *Pass {
	p := &Pass{guard: g}
	p.users.Store(1)
	return p
}

// Enter returns a pass without waiting: that of a host, if there is one, or one with a
// place that is free. The error is ErrBusy.
func (g *Guard) Enter(host *Pass) (*Pass, error) {
	if p := g.share(host); p != nil {
		return p, nil
	}
	if g.limit != nil && !g.limit.try() {
		return nil, ErrBusy
	}
	return g.pass(), nil
}

// share returns a pass inside of another; nil: there is none, or it was given back.
func (g *Guard) share(host *Pass) *Pass {
	if host == nil || host.guard != g {
		return nil
	}
	root := host.outermost()
	for {
		n := root.users.Load()
		if n == 0 {
			return nil
		}
		if root.users.CompareAndSwap(n, n+1) {
			return &Pass{guard: g, host: host, root: root}
		}
	}
}

func (p *Pass) outermost() *Pass {
	if p.root != nil {
		return p.root
	}
	return p
}

// lets tells whether the breaker lets a load through because it lets its host.
func (p *Pass) lets() bool {
	for ; p != nil; p = p.host {
		if begun := p.begun.Load(); begun > 0 {
			return p.guard.breaker.is(int(begun - 1))
		}
	}
	return false
}

// Begin has the load begin. Unless the error is ErrOpen, it has to be judged. States of
// the breaker that are entered are told of.
func (p *Pass) Begin(tell func(State)) error {
	b := p.guard.breaker
	if b == nil || p.host.lets() {
		return nil
	}
	generation, err := b.begin(tell)
	if err == nil {
		p.begun.Store(int64(generation) + 1)
	}
	return err
}

// Judges tells whether the load's end is told to a breaker.
func (p *Pass) Judges() bool { return p.begun.Load() > 0 }

// Judge tells the breaker how the load has ended. Only the first verdict counts.
func (p *Pass) Judge(v Verdict, tell func(State)) {
	if begun := p.begun.Load(); begun > 0 && !p.ended.Swap(true) {
		p.guard.breaker.end(int(begun-1), v, tell)
	}
}

// Leave gives a pass back. It is called once.
func (p *Pass) Leave() {
	if p == nil {
		return
	}
	if p.outermost().users.Add(-1) == 0 && p.guard.limit != nil {
		p.guard.limit.release()
	}
}

// waiter is somebody who waits for a place. A pass that is lent to it ends its wait.
type waiter struct {
	cancel context.CancelFunc
	lent   *Pass
}

// Wait waits for a pass for the loads of keys: with a place that comes free, or one that
// is lent to whoever loads one of the keys. The error is ErrBusy, or the context's.
func (g *Guard) Wait(ctx context.Context, most time.Duration, keys []any) (*Pass, error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &waiter{cancel: cancel}
	g.expect(keys, w)
	err := g.limit.wait(waiting, most)
	lent := g.expected(keys, w)
	switch {
	case lent != nil:
		if err == nil {
			g.limit.release()
		}
		return lent, nil
	case err == nil:
		return g.pass(), nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, ErrBusy
}

// expect notes that somebody waits. If a pass is lent already, the wait is over.
func (g *Guard) expect(keys []any, w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range keys {
		g.waiting[key] = append(g.waiting[key], w)
		for _, p := range g.lent[key] {
			w.take(g.share(p))
		}
	}
}

// take takes a pass, unless it has one. The guard's lock is held.
func (w *waiter) take(p *Pass) {
	switch {
	case p == nil:
	case w.lent != nil:
		p.Leave()
	default:
		w.lent = p
		w.cancel()
	}
}

// expected ends a wait, and returns what was lent meanwhile.
func (g *Guard) expected(keys []any, w *waiter) *Pass {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range keys {
		without(g.waiting, key, w)
	}
	return w.lent
}

// Lend lends a pass to whoever loads one of the keys, until the function is called that
// it returns. So a load can wait for another one that could not begin without it.
func (g *Guard) Lend(keys []any, p *Pass) (end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range keys {
		g.lent[key] = append(g.lent[key], p)
		for _, w := range g.waiting[key] {
			w.take(g.share(p))
		}
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, key := range keys {
			without(g.lent, key, p)
		}
	}
}

// Lent returns a pass that is lent to whoever loads one of the keys; nil: there is none.
func (g *Guard) Lent(keys iter.Seq[any]) *Pass {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.lent) == 0 {
		return nil
	}
	for key := range keys {
		for _, p := range g.lent[key] {
			if p.outermost().users.Load() > 0 {
				return p
			}
		}
	}
	return nil
}

// without takes one out of a list.
func without[V comparable](lists map[any][]V, key any, one V) {
	list := lists[key]
	if i := slices.Index(list, one); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(lists, key)
	} else {
		lists[key] = list
	}
}
