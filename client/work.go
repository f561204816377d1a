package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/deadline"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/internal/flight"
)

// work is one run of the loader.
type work[T any] struct {
	loading *loading[T]
	fill    *Fill
	// granted is the answer whose lease it runs under; without one, why says why
	// not.
	granted soracache.ReadResult
	why     error
	// errors tells whether an error may be kept: not in place of a value that
	// stands in for it.
	errors bool
}

// newFill is the fill of a loader without a lease.
func (l *loading[T]) newFill(ctx context.Context) *Fill {
	return &Fill{client: l.client, schema: l.kind.schema, key: l.key, parent: FillFrom(ctx), policy: l.settings.policy}
}

// leased is work under the lease that came with an answer, which it takes over. The
// lease was given before it begins, so what the loader reads is compared with the
// lease's stamp.
func (l *loading[T]) leased(ctx context.Context, granted soracache.ReadResult, there *standby[T]) *work[T] {
	w := &work[T]{loading: l, granted: granted, fill: l.newFill(ctx), errors: true}
	w.fill.leased, w.fill.stamp = true, granted.Stamp
	if there != nil {
		w.errors = !l.settings.policy.allows(there.freshFor)
		if there.marker == nil {
			if previous, err := own(l.settings, there.value); err == nil {
				w.fill.replaces(&previous, there.entry)
			}
		}
	}
	l.owed = soracache.Lease{}
	return w
}

// do runs the loader, and stores what it returns. The lease ends with this
// function, however the loader ends: with a value, an error, a panic or a Goexit.
func (w *work[T]) do(ctx context.Context) (outcome[T], error) {
	l := w.loading
	if l.admits {
		flight.RunOf(ctx).Admit()
	}
	if w.granted.Lease == (soracache.Lease{}) {
		value, err := l.runLoader(ctx, w.fill)
		return l.finish(w, nil, value, err)
	}
	lease := l.client.hold(ctx, l.kind.schema, l.key, w.granted)
	lease.outcome = soracache.LoadFailed
	l.kind.loads.begin(l.key, flight.RunOf(ctx))
	behind := false // somebody else ends the lease
	defer func() {
		if !behind {
			l.silence.late(!lease.release(l.silence.storing(l.patience())))
			l.kind.loads.end(l.key)
		}
	}()
	value, err := l.runLoader(ctx, w.fill)
	lease.outcome = outcomeOf(ctx, err)
	l.kind.loads.loaded(l.key, flight.RunOf(ctx))
	return l.finish(w, func(d deposit[T]) { behind = l.fill(lease, d) }, value, err)
}

// runLoader calls the application's function.
func (l *loading[T]) runLoader(ctx context.Context, fill *Fill) (value T, err error) {
	if err := ctx.Err(); err != nil {
		return value, err
	}
	start, returned := time.Now(), false
	ctx, end := l.client.observer.start(ctx, OpLoad, l.key)
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		} else if !returned {
			err = ErrGoexit // which goes on
		}
		fill.seal()
		took := time.Since(start)
		if err == nil {
			l.pace.note(took)
		}
		l.client.observer.loaded(l.key, took, err)
		end(Outcome{Loaded: err == nil, Err: err})
	}()
	value, err = l.load(context.WithValue(ctx, fillKey{}, fill))
	returned = true
	return value, err
}

// finish makes of what the loader returned what its callers get, and has it
// stored under the lease. Without a lease, store is nil.
func (l *loading[T]) finish(w *work[T], store func(deposit[T]), value T, err error) (outcome[T], error) {
	if errors.Is(err, ErrNotModified) {
		value, err = unmodified[T](w.fill, err)
	}
	var data encoded
	if err == nil && l.settings.decoded {
		value, data = l.decodedBack(value)
	}
	o := outcome[T]{value: value, marker: original(err), how: Outcome{Loaded: true}}
	mark, marked := markerOf(err, &w.fill.policy)
	switch {
	case err != nil && (!marked || mark.kind == soracache.KindError && !w.errors):
		if errors.Is(err, ErrNotFound) { // an answer: what is made of it depends on it
			o.ingredient = w.fill.asIngredient()
		}
		return outcome[T]{ingredient: o.ingredient}, original(err)
	case store == nil:
		l.client.observer.notStored(l.key, w.why)
	case marked:
		if d, ok := l.markerDeposit(w.fill, mark); ok {
			store(d)
		}
	default:
		if d, ok := l.deposit(w.fill, value, data); ok {
			store(d)
		}
	}
	if err == nil || mark.kind == soracache.KindNotFound {
		l.kind.failing.end(l.key)
	}
	o.ingredient, o.pure = w.fill.asIngredient(), w.fill.pure()
	return o, nil
}

// deposit is what a lease is completed with.
type deposit[T any] struct {
	entry    soracache.Entry
	value    T
	policy   Policy
	lifetime soracache.Lifetime
}

// encoded is what a codec made of a value, or why it could not.
type encoded struct {
	data []byte
	err  error
}

// decodedBack returns a value as whoever reads it will find it, and what it is
// stored as; or the value itself, and why it is not stored.
func (l *loading[T]) decodedBack(value T) (T, encoded) {
	data, err := l.settings.codec.Marshal(value)
	if err != nil {
		return value, encoded{err: err}
	}
	back, err := decode[T](l.client.codecs, l.settings.codec, soracache.Entry{Value: data, Encoding: l.settings.codec.Name()})
	if err != nil {
		return value, encoded{err: fmt.Errorf("%w: %w", errUndecodable, err)}
	}
	return back, encoded{data: data}
}

// deposit makes of a value what is to be stored, or tells the hooks why it is
// not. That it fails, or comes too late, changes nothing for the callers.
func (l *loading[T]) deposit(fill *Fill, value T, e encoded) (d deposit[T], ok bool) {
	policy, etag, refused := fill.verdict()
	if refused != nil {
		l.client.observer.notStored(l.key, refused)
		return d, false
	}
	if policy.notStored {
		l.client.observer.notStored(l.key, errDoNotCache)
		return d, false
	}
	s := *l.settings
	s.policy = policy.jittered()
	if !s.decoded {
		e.data, e.err = s.codec.Marshal(value)
	}
	entry, err := entryOf(s, e, etag)
	switch {
	case errors.Is(err, errTooLong):
		l.client.observer.notStored(l.key, err)
		return d, false
	case err != nil:
		l.client.observer.refused(l.key, err)
		return d, false
	}
	return deposit[T]{entry, value, s.policy, s.policy.lifetime()}, true
}

// markerDeposit does the same with an error.
func (l *loading[T]) markerDeposit(fill *Fill, m marker) (d deposit[T], ok bool) {
	policy, _, refused := fill.verdict()
	if refused != nil {
		l.client.observer.notStored(l.key, refused)
		return d, false
	}
	policy.TTL = m.ttl
	d.policy = policy.jittered()
	d.entry = soracache.Entry{Kind: m.kind, Value: []byte(m.text), Tags: soracache.NormalizeTags(d.policy.Tags)}
	d.lifetime = soracache.Lifetime{TTL: d.policy.TTL, L1: d.policy.L1}
	return d, true
}

// fill completes the lease, and keeps near what is stored. What is large may take
// longer than its callers are to wait: then it goes on behind them, with the lease. So
// does all that a call stores after something was not stored in time.
func (l *loading[T]) fill(lease *lease, d deposit[T]) (behind bool) {
	complete := func(behind bool) {
		asked := l.client.near.Begin(l.kind.space, l.key)
		defer asked.End()
		limit, began := l.client.timeout, time.Now()
		if !behind {
			limit = l.patience()
		}
		result, err := lease.fill(limit, behind, d.entry, d.lifetime, asked)
		l.silence.late(err != nil && time.Since(began) >= limit)
		l.filled(asked, &d, result, err)
	}
	most := l.silence.storing(l.patience())
	if len(d.entry.Value) < deadline.Bytes && most > 0 {
		complete(false)
		return false
	}
	done, ok := l.client.fillBehind(len(d.entry.Value), func() {
		defer l.kind.loads.end(l.key)
		defer func() { lease.release(l.client.timeout) }()
		lease.holdOn()
		complete(true)
	})
	if !ok {
		complete(false)
		return false
	}
	select {
	case <-done:
	case <-time.After(most):
		l.silence.late(true)
	}
	return true
}

// filled takes in what became of it.
func (l *loading[T]) filled(asked *near.Inflight, d *deposit[T], result soracache.WriteResult, err error) {
	switch {
	case err != nil:
		l.client.observer.refused(l.key, err)
	case !result.Stored:
		l.client.observer.superseded(l.key, result.Reason)
	default:
		if l.replaces {
			l.client.replaced.add(l.name(), l.client.now(), replaceEvery)
		}
		near.Keep(asked, d.value, near.Kept{
			Entry: d.entry, Stamps: result.Stamp, Most: d.policy.Near,
			FreshFor: d.lifetime.TTL, KeepFor: d.lifetime.Keep,
		})
		if at := l.settings.policy.EagerAt; at > 0 && d.lifetime.TTL < l.settings.policy.ttl() {
			// Of what the policy does not tell others cannot know.
			l.kind.refreshes.quiet.add(l.key, l.client.now(), time.Duration(at*float64(d.lifetime.TTL)))
		}
	}
}

// keptFrom is what is to be kept of an answer.
func keptFrom(read soracache.ReadResult, policy Policy) near.Kept {
	return near.Kept{
		Entry: read.Entry, Stamps: read.Stamp, Most: policy.Near,
		FreshFor: read.FreshFor, KeepFor: read.KeepFor,
	}
}

// encode makes the entry that a value is stored as.
func encode(s settings, value any) (soracache.Entry, error) {
	data, err := s.codec.Marshal(value)
	return entryOf(s, encoded{data, err}, "")
}

// entryOf makes the entry of what a codec made of a value, and refuses one that there
// cannot be.
func entryOf(s settings, e encoded, etag string) (soracache.Entry, error) {
	entry := soracache.Entry{
		Value:    e.data,
		Tags:     soracache.NormalizeTags(s.policy.Tags),
		Encoding: s.codec.Name(),
		ETag:     etag,
	}
	switch {
	case e.err != nil:
		return entry, e.err
	case s.policy.MaxBytes > 0 && len(e.data) > s.policy.MaxBytes:
		return entry, fmt.Errorf("%w: %d bytes, at most %d", errTooLong, len(e.data), s.policy.MaxBytes)
	}
	return entry, names.CheckEntry(entry)
}

// decoded returns the value of an answer that has one. The error says why it cannot
// be read as a T.
func decoded[T any](c *Client, read soracache.ReadResult, codec Codec) (o outcome[T], err error) {
	o.tags, o.proofs = read.Entry.Tags, []soracache.Stamps{read.Stamp}
	o.how = Outcome{Tier: read.Tier, Stale: read.Status == soracache.StatusStale}
	if o.how.Stale {
		o.taint = errStale
	}
	if o.marker = markedBy(&read.Entry); o.marker == nil {
		o.value, err = decode[T](c.codecs, codec, read.Entry)
	}
	return o, err
}

// run is work whose callers may stop waiting for it.
type run[T any] struct {
	done chan struct{}
	// o and err may be read once done is closed.
	o   outcome[T]
	err error
	// untie lets it go on when its callers have gone, and cancel ends it.
	untie  func() bool
	cancel context.CancelFunc
}

// wait runs the loader for the callers, who wait for it no longer than the policy
// says. A value that is there may stand in for it.
func (l *loading[T]) wait(ctx context.Context, w *work[T], there *standby[T]) (outcome[T], error) {
	if w.granted.Lease == (soracache.Lease{}) {
		flight.RunOf(ctx).Alone() // it leaves nothing behind for whoever comes later
	}
	soft, hard := l.timeouts(there)
	if soft == nil && hard == nil {
		o, err := w.do(ctx)
		return l.orStale(ctx, there, o, err, StaleFailedLoader)
	}
	l.adrift = new(atomic.Bool)
	r, err := l.start(ctx, w)
	if err != nil { // the client has ended since the lease was given
		if w.granted.Lease != (soracache.Lease{}) {
			l.client.hold(ctx, l.kind.schema, l.key, w.granted).release(l.patience())
		}
		return outcome[T]{}, err
	}
	for {
		select {
		case <-r.done:
			return l.orStale(ctx, there, r.o, r.err, StaleFailedLoader)
		case <-soft:
			soft = nil
			now, err := l.again(ctx, false)
			if err != nil || now == nil || r.over() || !l.letGo(r) {
				continue
			}
			return l.serve(now, StaleSlowLoader), nil
		case <-hard:
			if w.granted.Lease == (soracache.Lease{}) || !l.letGo(r) {
				r.cancel() // what it would load could not be stored
			}
			return l.orStale(ctx, there, outcome[T]{}, l.tooSlow(), StaleSlowLoader)
		}
	}
}

// timeouts returns what tells that the callers have waited long enough for the
// loader: if there is a value to give them, and if not.
func (l *loading[T]) timeouts(there *standby[T]) (soft, hard <-chan time.Time) {
	p := &l.settings.policy
	if p.SoftTimeout > 0 && there != nil {
		soft = time.After(p.SoftTimeout)
	}
	if p.HardTimeout > 0 {
		hard = time.After(p.HardTimeout)
	}
	return soft, hard
}

// tooSlow is what the callers get then.
func (l *loading[T]) tooSlow() error {
	return fmt.Errorf("client: loading %q took longer than %s: %w", l.key, l.settings.policy.HardTimeout, context.DeadlineExceeded)
}

// start runs the loader in a goroutine of its own. It ends with the client, and
// with its callers unless it was let go.
func (l *loading[T]) start(ctx context.Context, w *work[T]) (*run[T], error) {
	callers := ctx
	ctx, leave, err := l.client.enter(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	r := &run[T]{done: make(chan struct{}), err: ErrGoexit} // unless it returns
	ctx, r.cancel = context.WithCancel(ctx)
	r.untie = context.AfterFunc(callers, r.cancel)
	go func() {
		defer leave()
		defer r.cancel()
		defer close(r.done)
		defer func() {
			if p := recover(); p != nil { // a hook's; a loader's does not come here
				r.err = panicked(p)
			}
		}()
		r.o, r.err = w.do(ctx)
	}()
	return r, nil
}

func (r *run[T]) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// letGo has work go on for which nobody waits any more, unless too much of the
// kind is running.
func (l *loading[T]) letGo(r *run[T]) bool {
	if !l.client.background.take() {
		return false
	}
	if !r.untie() { // its callers have gone, and it has been told
		l.client.background.free()
		return false
	}
	l.adrift.Store(true)
	limit := time.AfterFunc(maxHold, r.cancel)
	go func() {
		defer l.client.background.free()
		<-r.done
		limit.Stop()
		if r.err != nil && !errors.Is(r.err, ErrNotFound) && !errors.Is(r.err, context.Canceled) {
			l.pause()
		}
	}()
	return true
}
