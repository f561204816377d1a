package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/lease"
	"github.com/soracache/soracache/client/internal/service"
	"github.com/soracache/soracache/client/internal/source"
	"github.com/soracache/soracache/internal/flight"
)

// loadAll loads keys, and returns when they are stored. What the policy lets be refreshed
// in the background is, and its present value served.
func (r *run[T]) loadAll(ctx context.Context, items []*item[T]) {
	if r.warming {
		items = storable(items)
	} else {
		items = r.refreshBehind(ctx, items)
	}
	items, others := r.admitted(ctx, items)
	if len(items) > 0 {
		r.loadNow(ctx, items)
	}
	if len(others) > 0 {
		r.await(ctx, others, time.Since(r.came), len(items) > 0)
	}
}

// loadNow loads keys whose source lets it.
func (r *run[T]) loadNow(ctx context.Context, items []*item[T]) {
	for _, it := range items {
		if !it.leased {
			it.alone(ctx)
		}
		if it.down && ctx.Err() == nil {
			r.client.observer.failOpen(it.key, it.answer.Err)
		} else {
			r.client.observer.miss(it.key)
		}
		if r.admits {
			it.admit(ctx)
		}
	}
	r.loadWithin(ctx, items)
}

// storable leaves out what would be loaded in vain.
func storable[T any](items []*item[T]) []*item[T] {
	return slices.DeleteFunc(items, func(it *item[T]) bool {
		if !it.leased {
			it.end(outcome[T]{}, it.answer.Err)
		}
		return !it.leased
	})
}

// loadWithin runs the loader for the callers, who wait for it no longer than the policy
// says. Values that are there may stand in for it.
func (r *run[T]) loadWithin(ctx context.Context, items []*item[T]) {
	soft, hard := r.timeouts(items)
	if r.load.one != nil && soft == nil && hard == nil {
		r.take(ctx, r.newLoad(items).here(ctx))
		return
	}
	l := r.newLoad(items)
	if err := l.begin(ctx); err != nil { // the client has ended since the leases were given
		r.giveUp(ctx, items, err)
		return
	}
	for open := items; len(open) > 0; open = unended(open) {
		select {
		case part := <-l.done:
			r.take(ctx, part)
		case <-l.finished:
			for len(l.done) > 0 {
				r.take(ctx, <-l.done)
			}
			r.lose(ctx, open, ErrGoexit)
		case <-ctx.Done(): // the loader is told as well
			r.giveUp(ctx, open, ctx.Err())
		case <-soft:
			soft = nil
			r.standIn(ctx, l, open)
		case <-hard:
			leased := slices.ContainsFunc(open, func(it *item[T]) bool { return it.leased })
			if !leased || !l.letGo() {
				l.cancel() // what it would load could not be stored
			}
			for _, it := range open {
				it.err = r.tooSlow(it.key)
			}
			r.rescue(ctx, open, StaleSlowLoader)
		}
	}
}

// unended returns the items that have no outcome yet.
func unended[T any](items []*item[T]) (rest []*item[T]) {
	for _, it := range items {
		if !it.over {
			rest = append(rest, it)
		}
	}
	return rest
}

// timeouts returns what tells that the callers have waited long enough for the
// loader: if there are values to give them, and if not. As long as one key has none, the
// loader has to be waited for anyway.
func (r *run[T]) timeouts(items []*item[T]) (soft, hard <-chan time.Time) {
	p := &r.settings.policy
	if p.SoftTimeout > 0 && allThere(items) {
		soft = time.After(p.SoftTimeout - r.queued)
	}
	if p.HardTimeout > 0 {
		hard = time.After(p.HardTimeout - r.queued)
	}
	return soft, hard
}

// take takes what one call of the loader has brought.
func (r *run[T]) take(ctx context.Context, part []loaded[T]) {
	var lost, spared []*item[T]
	for i := range part {
		it, result := part[i].item, &part[i]
		if result.err == nil {
			it.end(result.o, nil)
			continue
		}
		it.err = result.err
		if rejected(it.err) {
			spared = append(spared, it)
			continue
		}
		if ctx.Err() == nil {
			r.pause(it.key)
		}
		lost = append(lost, it)
	}
	r.rescue(ctx, lost, StaleFailedLoader)
	r.rescue(ctx, spared, StaleRejected)
}

// lose is for keys whose loader ended without a word.
func (r *run[T]) lose(ctx context.Context, items []*item[T], err error) {
	var lost []*item[T]
	for _, it := range items {
		if !it.over {
			r.pause(it.key)
			it.err = err
			lost = append(lost, it)
		}
	}
	r.rescue(ctx, lost, StaleFailedLoader)
}

func (r *run[T]) giveUp(ctx context.Context, items []*item[T], err error) {
	for _, it := range items {
		if !it.over {
			it.end(outcome[T]{}, r.client.life.WrapClosed(ctx, err))
		}
	}
}

// load is the loading of some keys, in one call of the loader or in several.
type load[T any] struct {
	call[T]
	items  []*item[T] // not changed
	run    *run[T]
	leases *lease.Set
	// pass is what the first call of the loader goes to its source with.
	pass atomic.Pointer[source.Pass]
	// holders is how many need the leases: see drop.
	holders atomic.Int32
	// refresh means that there are values, and that nobody waits for the new ones.
	refresh bool
	// detached is set once the callers have been answered, and the loader goes on.
	detached atomic.Bool
	// done receives what became of the keys of each call, and has room for all of
	// them. finished is closed when no more will come.
	done     chan []loaded[T]
	finished chan struct{}
	// detach lets the loader go on when its callers have gone, and cancel ends it.
	detach func() bool
	cancel context.CancelFunc
}

func (r *run[T]) newLoad(items []*item[T]) *load[T] {
	l := &load[T]{call: r.call, items: items, run: r}
	l.pass.Store(r.pass)
	r.pass = nil
	return l
}

func (l *load[T]) patience() time.Duration {
	if l.detached.Load() {
		return l.client.timeout
	}
	return l.call.patience()
}

// here runs the loader of one key in the caller's goroutine.
func (l *load[T]) here(ctx context.Context) []loaded[T] {
	l.hold(ctx)
	defer l.drop(true)
	defer l.leave()
	return l.part(ctx, 0, len(l.items))
}

// begin runs the loader in goroutines of their own. It ends with the client, and
// with its callers unless it is let go.
func (l *load[T]) begin(callers context.Context) error {
	ctx, leave, err := l.client.life.Enter(context.WithoutCancel(callers))
	if err != nil {
		l.leave()
		l.run.hold(callers, l.items, soracache.LoadHandedBack).End(l.patience())
		return err
	}
	ctx, l.cancel = context.WithCancel(ctx)
	l.detach = context.AfterFunc(callers, l.cancel)
	l.hold(ctx)
	size := min(cmp.Or(l.settings.many.batch, len(l.items)), len(l.items))
	parts := (len(l.items) + size - 1) / size
	l.done, l.finished = make(chan []loaded[T], parts), make(chan struct{})
	go func() {
		defer leave()
		defer l.cancel()
		defer close(l.finished)
		defer l.drop(true)
		defer l.leave()
		service.AtOnce(cmp.Or(l.settings.many.concurrency, DefaultLoadConcurrency), parts, func(i int) {
			l.done <- l.part(ctx, i*size, min((i+1)*size, len(l.items)))
		})
	}()
	return nil
}

// hold holds the leases, and notes which keys this client loads. Both end with the last
// drop, whatever became of the loader: a value, an error, a panic or a Goexit.
func (l *load[T]) hold(ctx context.Context) {
	l.leases = l.run.hold(ctx, l.items, soracache.LoadFailed)
	l.holders.Store(1)
	for _, it := range l.items {
		if it.leased {
			l.kind.loads.begin(it.key, flight.RunOf(ctx))
		}
	}
}

// drop is for whoever needs the leases no longer: the load itself, and each fill that
// goes on behind the callers.
func (l *load[T]) drop(waited bool) {
	if l.holders.Add(-1) > 0 {
		return
	}
	limit := l.client.timeout
	if waited {
		limit = l.silence.Storing(l.patience())
	}
	l.silence.Late(!l.leases.End(limit))
	for _, it := range l.items {
		if it.leased {
			l.kind.loads.end(it.key)
		}
	}
}

// letGo has a load go on for which nobody waits any more, unless too much of the
// kind is running.
func (l *load[T]) letGo() bool {
	if !l.client.background.Take() {
		return false
	}
	if !l.detach() { // its callers have gone, and it has been told
		l.client.background.Free()
		return false
	}
	l.detached.Store(true)
	limit := time.AfterFunc(lease.Most, l.cancel)
	go func() {
		defer l.client.background.Free()
		defer limit.Stop()
		l.each(func(r *loaded[T]) {
			if r.err != nil && !rejected(r.err) && !errors.Is(r.err, context.Canceled) {
				l.pause(r.key)
			}
		})
	}()
	return true
}

// each is called with what became of each key, until the load has ended.
func (l *load[T]) each(do func(*loaded[T])) {
	some := func(part []loaded[T]) {
		for i := range part {
			do(&part[i])
		}
	}
	for {
		select {
		case part := <-l.done:
			some(part)
		case <-l.finished:
			for len(l.done) > 0 {
				some(<-l.done)
			}
			return
		}
	}
}

// part calls the loader once, and stores what it returns.
func (l *load[T]) part(ctx context.Context, from, to int) (results []loaded[T]) {
	results = make([]loaded[T], to-from)
	for i := range results {
		results[i].item, results[i].load, results[i].at = l.items[from+i], l, from+i
	}
	defer func() {
		if p := recover(); p != nil { // a hook's, or what copies values; the loader's does not come here
			for i := range results {
				results[i].o, results[i].err = outcome[T]{}, panicked(p)
			}
		}
	}()
	parent := LoadContextFrom(ctx)
	for i := range results {
		results[i].prepare(parent)
	}
	v, err := l.visit(ctx)
	defer v.end()
	switch {
	case err != nil:
		l.refuse(ctx, results, err)
	case l.load.one != nil:
		results[0].fill.visit = v
		l.loadOne(ctx, &results[0])
	default:
		l.loadMany(ctx, results, parent, v)
	}
	l.store(ctx, results)
	return results
}

// loadOne calls the loader of one key.
func (l *load[T]) loadOne(ctx context.Context, r *loaded[T]) {
	var value T
	took, err := l.observed(ctx, r.fill, r.key, func(ctx context.Context) (err error) {
		value, err = l.callOne(ctx, r.key)
		return err
	})
	l.returned(ctx, r, value, err, took)
}

// loadMany calls a batch loader, in a goroutine that it may end.
func (l *load[T]) loadMany(ctx context.Context, results []loaded[T], parent *LoadContext, v *visit) {
	batch := newBatch(l.client, l.kind.schema, parent, len(results))
	batch.visit = v
	keys := make([]string, len(results))
	for i := range results {
		keys[i] = results[i].key
		batch.add(results[i].fill)
	}
	var values map[string]T
	var took time.Duration
	err := ErrGoexit // unless it returns
	over := make(chan struct{})
	go func() {
		defer close(over)
		took, err = l.observed(ctx, batch, "", func(ctx context.Context) (err error) {
			values, err = l.callMany(ctx, keys)
			return err
		})
	}()
	<-over
	errorOf := errorsOf(keys, values, err)
	for i := range results {
		r := &results[i]
		value, ok := values[r.key]
		failed := errorOf(r.key)
		if failed == nil && !ok {
			failed = ErrNotFound
		}
		l.returned(ctx, r, value, failed, took)
	}
}

// observed calls the application's function, and tells how long that took.
func (l *load[T]) observed(ctx context.Context, fill *LoadContext, key string, do func(context.Context) error) (took time.Duration, err error) {
	if err := ctx.Err(); err != nil {
		fill.seal()
		return 0, err
	}
	start, returned := time.Now(), false
	ctx, end := l.client.observer.start(ctx, OpLoad, key)
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		} else if !returned {
			err = ErrGoexit // which goes on
		}
		fill.seal()
		if took = time.Since(start); err == nil {
			l.took.Note(took)
		}
		fill.visit.returned(ctx, l.due, max(len(fill.parts), 1), err)
		if !returned && err == ErrGoexit && key != "" { //nolint:errorlint // itself
			l.client.observer.loaded(key, took, err)
		}
		end(Outcome{Loaded: err == nil, Err: err})
	}()
	err = do(context.WithValue(ctx, fillKey{}, fill))
	returned = true
	return took, err
}

// returned takes in what the loader returned for a key.
func (l *load[T]) returned(ctx context.Context, r *loaded[T], value T, err error, took time.Duration) {
	if r.leased {
		l.leases.Settle(r.at, outcomeOf(ctx, err))
		l.kind.loads.loaded(r.key, flight.RunOf(ctx))
	}
	r.settle(value, err)
	l.client.observer.loaded(r.key, took, cmp.Or(r.err, r.o.marker))
}

// hold takes over the leases that came with answers. The outcome is what became of the
// loads if nothing else is said.
func (r *run[T]) hold(ctx context.Context, items []*item[T], outcome soracache.LoadOutcome) *lease.Set {
	held := make([]lease.Lease, len(items))
	for i, it := range items {
		held[i] = lease.Lease{Key: it.key, ID: it.owed, For: it.answer.LeaseFor}
		it.owed = soracache.Lease{}
	}
	return lease.Hold(ctx, r.client.service, r.kind.schema, held, outcome)
}

// outcomeOf is what became of a load whose loader returned so, if nothing of it is
// stored. That everybody has gone who wanted it is no failure of the loader's, nor is that its
// source was spared.
func outcomeOf(ctx context.Context, err error) soracache.LoadOutcome {
	switch {
	case err == nil || errors.Is(err, ErrNotFound):
		return soracache.LoadNotStorable
	case ctx.Err() != nil, rejected(err):
		return soracache.LoadHandedBack
	}
	return soracache.LoadFailed
}
