package client

import (
	"context"
	"errors"
	"time"

	"github.com/soracache/soracache"
)

// outcome is what the callers of one load share: the value, and what it brings
// into a loader that asked for it.
type outcome[T any] struct {
	value T
	ingredient
}

// loading is one run of GetOrSet on behalf of all callers that share it. All of
// them came before it began, so none can receive what is older than its call.
type loading[T any] struct {
	client   *Client
	kind     *kind[T]
	key      string
	load     func(context.Context) (T, error)
	settings settings
	// caller is the context of the first caller. Only its deadline is of use,
	// for knowing how long to wait for the service; its end means nothing.
	caller context.Context
	// asked is the last read, or the fill, as the near cache knows it.
	asked *asking
}

// run is called once, with a context that ends when all callers have gone.
func (l *loading[T]) run(ctx context.Context) (outcome[T], error) {
	ctx, leave, err := l.client.enter(ctx)
	if err != nil {
		return outcome[T]{}, err
	}
	defer leave()
	defer func() { l.asked.end() }()
	o, err := l.readOrLoad(ctx)
	return o, blame(ctx, err)
}

// readOrLoad returns what the service has, or else what the loader returns. An
// entry that cannot be read is removed, so that the second read finds a lease.
func (l *loading[T]) readOrLoad(ctx context.Context) (outcome[T], error) {
	for attempt := 1; ; attempt++ {
		read, err := l.read(ctx)
		switch {
		case errors.Is(err, soracache.ErrInvalid):
			return outcome[T]{}, err
		case err != nil:
			return l.failOpen(ctx, err)
		case read.Lease != soracache.Lease{}:
			l.client.observer.miss(l.key)
			return l.loadAndStore(ctx, read)
		case read.Status == soracache.StatusMiss:
			l.client.observer.miss(l.key)
			return l.loadUnfenced(ctx, errNoLease)
		}
		if o, ok := decoded[T](l.client, l.key, read, l.settings.codec); ok {
			if read.Status == soracache.StatusHit {
				keep(l.asked, o.value, keptFrom(read, l.settings.policy))
			}
			return o, nil
		}
		if attempt == 2 || l.remove(ctx) != nil {
			return l.loadUnfenced(ctx, errNoLease)
		}
	}
}

// read asks first without waiting. The answer has to come soon, or the service
// is as good as absent. Only when it says that somebody else is loading does
// the next question wait, so a service that hangs never costs the whole wait.
//
// A wait may end early with nothing: a node that drains sends away whoever waits
// there. The rest of it is then waited elsewhere, or a restart would have
// everybody load at once; but not for ever with a service that never waits.
func (l *loading[T]) read(ctx context.Context) (soracache.ReadResult, error) {
	read, err := l.ask(ctx, 0)
	end := time.Now().Add(l.settings.policy.wait())
	for range maxWaits {
		wait := time.Until(end)
		if err != nil || wait <= 0 || read.Status != soracache.StatusMiss || read.Lease != (soracache.Lease{}) {
			break
		}
		read, err = l.ask(ctx, wait)
	}
	return read, err
}

// maxWaits is how often one load waits for another's.
const maxWaits = 3

func (l *loading[T]) ask(ctx context.Context, wait time.Duration) (soracache.ReadResult, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+l.patience())
	defer cancel()
	l.asked.end()
	l.asked = l.client.near.ask(l.kind.space, l.key)
	return l.client.read(ctx, soracache.Read{Key: l.key, Lease: true, Wait: wait}, l.asked)
}

// patience is how long to let the service take: the client's timeout, but no
// more than half of what the caller has left, so that its loader has the rest.
func patience(caller context.Context, timeout time.Duration) time.Duration {
	deadline, ok := caller.Deadline()
	if !ok {
		return timeout
	}
	left := time.Until(deadline)
	if left <= 0 { // the first caller has gone; the others are not told of theirs
		return timeout
	}
	return min(timeout, left/2)
}

func (l *loading[T]) patience() time.Duration { return patience(l.caller, l.client.timeout) }

// remove makes room for a value that can be read.
func (l *loading[T]) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.patience())
	defer cancel()
	_, err := l.client.invalidate(ctx, soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Key(l.key)}})
	return err
}

// failOpen does without the service, unless the error was nothing but the end
// of everybody who waited.
func (l *loading[T]) failOpen(ctx context.Context, err error) (outcome[T], error) {
	if ctx.Err() != nil {
		return outcome[T]{}, ctx.Err()
	}
	l.client.observer.failOpen(l.key, err)
	return l.loadUnfenced(ctx, errServiceDown)
}

// loadUnfenced runs the loader without a lease. Its value is good for the
// callers, who all came before it began, and for nobody else.
func (l *loading[T]) loadUnfenced(ctx context.Context, why error) (outcome[T], error) {
	fill := &Fill{client: l.client, key: l.key, parent: FillFrom(ctx), policy: l.settings.policy}
	value, err := l.runLoader(ctx, fill)
	if err != nil {
		return outcome[T]{}, err
	}
	l.client.observer.notStored(l.key, why)
	return outcome[T]{value, fill.asIngredient()}, nil
}

// loadAndStore runs the loader under the lease that came with the answer. The
// lease ends with this function, however the loader ends: with a value, an
// error, a panic or a Goexit.
func (l *loading[T]) loadAndStore(ctx context.Context, granted soracache.ReadResult) (outcome[T], error) {
	lease := l.client.hold(ctx, l.key, granted)
	defer func() { lease.release(l.patience()) }()
	fill := &Fill{
		client: l.client,
		key:    l.key,
		parent: FillFrom(ctx),
		leased: true,
		stamp:  granted.Stamp,
		policy: l.settings.policy,
	}
	value, err := l.runLoader(ctx, fill)
	if err != nil {
		return outcome[T]{}, err
	}
	l.store(lease, fill, value)
	return outcome[T]{value, fill.asIngredient()}, nil
}

// runLoader calls the application's function.
func (l *loading[T]) runLoader(ctx context.Context, fill *Fill) (T, error) {
	if err := ctx.Err(); err != nil {
		var zero T
		return zero, err
	}
	start := time.Now()
	value, err := l.load(context.WithValue(ctx, fillKey{}, fill))
	fill.seal()
	l.client.observer.loaded(l.key, time.Since(start), err)
	return value, err
}

// store completes the lease with the value. That it fails, or comes too late,
// changes nothing for the callers.
func (l *loading[T]) store(lease *lease, fill *Fill, value T) {
	policy, refused := fill.verdict()
	if refused != nil {
		l.client.observer.notStored(l.key, refused)
		return
	}
	s := l.settings
	s.policy = policy
	entry, err := encode(s, value)
	if err != nil {
		l.client.observer.refused(l.key, err)
		return
	}
	l.asked.end()
	l.asked = l.client.near.ask(l.kind.space, l.key)
	lifetime := policy.lifetime()
	result, err := lease.fill(l.patience(), entry, lifetime, l.asked)
	switch {
	case err != nil:
		l.client.observer.refused(l.key, err)
	case !result.Stored:
		l.client.observer.superseded(l.key, result.Reason)
	default:
		keep(l.asked, value, kept{
			entry: entry, stamps: result.Stamp, near: policy.Near,
			freshFor: lifetime.TTL, keepFor: lifetime.Keep,
		})
	}
}

// keptFrom is what is to be kept of an answer.
func keptFrom(read soracache.ReadResult, policy Policy) kept {
	return kept{
		entry: read.Entry, stamps: read.Stamp, near: policy.Near,
		freshFor: read.FreshFor, keepFor: read.KeepFor,
	}
}

// encode makes the entry that a value is stored as.
func encode(s settings, value any) (soracache.Entry, error) {
	data, err := s.codec.Marshal(value)
	return soracache.Entry{
		Value:    data,
		Tags:     soracache.NormalizeTags(s.policy.Tags),
		Encoding: s.codec.Name(),
	}, err
}

// decoded returns the value of an answer that has one, and false if it cannot
// be read as a T.
func decoded[T any](c *Client, key string, read soracache.ReadResult, codec Codec) (outcome[T], bool) {
	value, err := decode[T](c.codecs, codec, read.Entry)
	if err != nil {
		c.observer.unreadable(key, read.Entry.Encoding, err)
		return outcome[T]{}, false
	}
	c.observer.found(key, read)
	o := outcome[T]{value, ingredient{tags: read.Entry.Tags, proofs: []soracache.Stamps{read.Stamp}}}
	if read.Status == soracache.StatusStale {
		o.taint = errStale
	}
	return o, true
}
