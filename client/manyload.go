package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/deadline"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/internal/flight"
)

// manyLoad is the loading of some keys, in one call of the loader or in several.
type manyLoad[T any] struct {
	manyCall[T]
	leases *manyLeases
	// done receives what became of the keys of each call, and has room for all of
	// them. finished is closed when no more will come.
	done     chan []loaded[T]
	finished chan struct{}
	// untie lets the loader go on when its caller has gone, and cancel ends it.
	untie  func() bool
	cancel context.CancelFunc
	// filling are the fills that go on behind the callers.
	filling sync.WaitGroup
}

// loaded is what became of a key: a value, the answer that there is no such
// thing, or a failure.
type loaded[T any] struct {
	*claim[T]
	work *work[T]
	o    outcome[T]
	err  error
	// deposit is what the lease is to be completed with, if it is, and outcome what
	// became of the load if not.
	deposit *deposit[T]
	outcome soracache.LoadOutcome
	stored  bool
}

// begin runs the loader in goroutines of their own. It ends with the client, and
// with its caller unless it is let go. The leases end with it, however it ends.
func (m *manyCall[T]) begin(ctx context.Context, claims []claim[T], leases *manyLeases) (*manyLoad[T], error) {
	callers := ctx
	l := &manyLoad[T]{manyCall: *m, leases: leases, finished: make(chan struct{})}
	ctx, leave, err := m.client.enter(context.WithoutCancel(ctx))
	if err != nil {
		l.leases.end(m.patience())
		return nil, err
	}
	ctx, l.cancel = context.WithCancel(ctx)
	l.untie = context.AfterFunc(callers, l.cancel)
	parts := slices.Collect(slices.Chunk(claims, cmp.Or(m.settings.many.batch, len(claims))))
	l.done = make(chan []loaded[T], len(parts))
	go func() {
		defer leave()
		defer l.cancel()
		defer close(l.finished)
		defer l.loads(ctx, claims)()
		defer func() {
			l.filling.Wait()
			l.leases.end(m.patience())
		}()
		atOnce(cmp.Or(m.settings.many.concurrency, DefaultLoadConcurrency), len(parts), func(i int) { l.done <- l.part(ctx, parts[i]) })
	}()
	return l, nil
}

// loads notes which keys this client loads.
func (l *manyLoad[T]) loads(ctx context.Context, claims []claim[T]) (ended func()) {
	for i := range claims {
		if claims[i].leased() {
			l.kind.loads.begin(claims[i].key, flight.RunOf(ctx))
		}
	}
	return func() {
		for i := range claims {
			if claims[i].leased() {
				l.kind.loads.end(claims[i].key)
			}
		}
	}
}

// letGo has a load go on for which nobody waits any more, unless too much of the
// kind is running.
func (l *manyLoad[T]) letGo() bool {
	if !l.client.background.take() {
		return false
	}
	if !l.untie() { // its caller has gone, and it has been told
		l.client.background.free()
		return false
	}
	limit := time.AfterFunc(maxHold, l.cancel)
	go func() {
		defer l.client.background.free()
		defer limit.Stop()
		l.each(func(r *loaded[T]) {
			if r.err != nil && !errors.Is(r.err, context.Canceled) {
				r.pause()
			}
		})
	}()
	return true
}

// each is called with what became of each key, until the load has ended.
func (l *manyLoad[T]) each(do func(*loaded[T])) {
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
func (l *manyLoad[T]) part(ctx context.Context, claims []claim[T]) (results []loaded[T]) {
	defer func() {
		if p := recover(); p != nil { // a hook's; the loader's does not come here
			results = results[:0]
			for i := range claims {
				results = append(results, loaded[T]{claim: &claims[i], err: panicked(p)})
			}
		}
	}()
	batch := newBatch(l.client, l.kind.schema, FillFrom(ctx), len(claims))
	keys := make([]string, len(claims))
	results = make([]loaded[T], len(claims))
	for i := range claims {
		results[i] = loaded[T]{claim: &claims[i], work: claims[i].newWork(ctx)}
		keys[i] = claims[i].key
		batch.add(results[i].work.fill)
	}
	start := time.Now()
	values, err := l.call(ctx, batch, keys)
	took := time.Since(start)
	if err == nil {
		l.pace.note(took)
	}
	errorOf := errorsOf(keys, values, err)
	for i := range results {
		r := &results[i]
		value, ok := values[r.key]
		r.outcome = outcomeOf(ctx, errorOf(r.key))
		if r.leased() {
			l.kind.loads.loaded(r.key, flight.RunOf(ctx))
		}
		r.settle(value, ok, errorOf(r.key))
		l.client.observer.loaded(r.key, took, cmp.Or(r.err, r.o.marker))
	}
	l.store(results)
	return results
}

// call calls the application's function, in a goroutine that it may end.
func (l *manyLoad[T]) call(ctx context.Context, batch *Fill, keys []string) (values map[string]T, err error) {
	defer batch.seal()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, end := l.client.observer.start(ctx, OpLoad, "")
	returned := make(chan struct{})
	err = ErrGoexit // unless it returns
	go func() {
		defer close(returned)
		defer func() {
			if p := recover(); p != nil {
				err = panicked(p)
			}
		}()
		values, err = l.load(context.WithValue(ctx, fillKey{}, batch), keys)
	}()
	<-returned
	end(Outcome{Loaded: err == nil, Err: err})
	return values, err
}

// errorsOf returns what the error of a batch loader means for each of the keys that it
// was called with. A [*ManyError] speaks of single keys if it is about these: see
// [Cache.GetOrSetMany]. One of another call, which the loader hands on, is an error
// like any other. So is one beside which there is no result for those that it does not
// name: that they do not exist was not said.
func errorsOf[T any](keys []string, values map[string]T, err error) func(key string) error {
	many, ok := err.(*ManyError) //nolint:errorlint // one that is wrapped is of another call
	switch {
	case !ok:
		return func(string) error { return err }
	case !many.isAbout(keys):
		return func(string) error { return othersError{many} }
	}
	return func(key string) error {
		if own := many.Errors[key]; own != nil || values != nil {
			return own
		}
		return othersError{many}
	}
}

// othersError is a ManyError to a key that it is not about. An answer to one of its
// keys, such as that there is no such thing, is none to that key.
type othersError struct{ *ManyError }

// Unwrap returns what is no answer.
func (e othersError) Unwrap() []error {
	return slices.DeleteFunc(e.ManyError.Unwrap(), isAnswer)
}

// newWork is what the loader is to do for this key.
func (c *claim[T]) newWork(ctx context.Context) *work[T] {
	if c.leased() {
		return c.loading.leased(ctx, c.granted, c.there)
	}
	return &work[T]{loading: c.loading, why: c.why, fill: c.newFill(ctx)}
}

// settle makes of what the loader returned what the key's callers get, and what
// is to be stored.
func (r *loaded[T]) settle(value T, ok bool, err error) {
	if err == nil && !ok {
		err = ErrNotFound
	}
	var store func(deposit[T])
	if r.leased() {
		store = func(d deposit[T]) { r.deposit = &d }
	}
	r.o, r.err = r.finish(r.work, store, value, err)
	if r.err != nil && errors.Is(r.err, ErrNotFound) { // which is not to be kept
		r.o = outcome[T]{marker: r.err, ingredient: r.work.fill.asIngredient(), how: Outcome{Loaded: true}, pure: r.work.fill.pure()}
		r.err = nil
		r.kind.failing.end(r.key)
	}
}

// store completes the leases of what is to be stored, and hands the others back.
// What is large may take longer than the callers are to wait: then it goes on
// behind them, with its leases. So does all that the call stores after something was
// not stored in time.
func (l *manyLoad[T]) store(results []loaded[T]) {
	var (
		fills []*loaded[T]
		rest  = make(map[string]soracache.LoadOutcome)
		bytes int
	)
	for i := range results {
		r := &results[i]
		_, held := l.leases.of(r.key)
		switch {
		case !held:
		case r.deposit == nil:
			rest[r.key] = r.outcome
		default:
			fills = append(fills, r)
			bytes += len(r.deposit.entry.Value)
		}
	}
	l.silence.late(!l.leases.release(l.silence.storing(l.patience()), rest))
	stored := make([]bool, len(fills))
	most, behind := l.silence.storing(l.patience()), false
	l.filling.Add(1)
	var done <-chan struct{}
	if bytes >= deadline.Bytes || most == 0 {
		done, behind = l.client.fillBehind(bytes, func() {
			defer l.filling.Done()
			l.complete(l.leases.detached, l.client.timeout, fills, stored)
		})
	}
	if behind {
		select {
		case <-done:
		case <-time.After(most):
			l.silence.late(true)
			return // whoever is told that it is not stored need not care
		}
	} else {
		began, limit := time.Now(), l.patience()
		bounded, cancel := context.WithTimeout(l.leases.detached, limit) // which is not put off
		l.complete(bounded, limit, fills, stored)
		l.silence.late(time.Since(began) >= limit)
		cancel()
		l.filling.Done()
	}
	for i, r := range fills {
		r.stored = stored[i]
	}
}

// complete completes leases, and hands those back of which that fails.
func (l *manyLoad[T]) complete(ctx context.Context, limit time.Duration, fills []*loaded[T], stored []bool) {
	rest, refused := make(map[string]soracache.LoadOutcome), make(map[string]soracache.LoadOutcome)
	writes, asked := make([]soracache.Write, len(fills)), make([]*near.Inflight, len(fills))
	for i, r := range fills {
		id, _ := l.leases.of(r.key)
		writes[i] = soracache.Write{Op: soracache.OpFill, Key: r.key, Schema: l.kind.schema, Lease: id, Entry: r.deposit.entry, Lifetime: r.deposit.lifetime}
		asked[i] = l.client.near.Begin(l.kind.space, r.key)
	}
	defer endAll(asked)
	for i, result := range l.client.writeMany(ctx, limit, writes, asked) {
		r := fills[i]
		stored[i] = result.Err == nil && result.Stored
		r.filled(asked[i], r.deposit, result, result.Err)
		switch {
		case result.Err == nil:
			l.leases.ended(r.key)
		case refusal(result.Err):
			refused[r.key] = soracache.LoadNotStorable
		default:
			rest[r.key] = soracache.LoadHandedBack
		}
	}
	l.silence.late(!l.leases.release(l.silence.storing(l.patience()), refused))
	l.leases.release(0, rest) // see lease.release
}
