package client

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/internal/flight"
)

// outcome is what the callers of one load share: the value, and what it brings
// into a loader that asked for it.
type outcome[T any] struct {
	value T
	ingredient
	// marker, if set, is the error that the callers get instead of a value. Unlike
	// others it may be kept, and a loader may depend on it.
	marker error
	// how tells where it comes from.
	how Outcome
	// stored means that it was loaded and is stored now.
	stored bool
	// pure means that it was loaded, and computed from nothing that a cache gave.
	pure bool
}

// give is what one caller gets.
func (o *outcome[T]) give(s *settings) (T, error) {
	if o.marker != nil {
		var zero T
		return zero, o.marker
	}
	return own(s, o.value)
}

// own makes a value the caller's own, if that is asked for.
func own[T any](s *settings, value T) (T, error) {
	if s.clone == nil {
		return value, nil
	}
	clone, ok := s.clone.(func(T) T)
	if !ok || clone == nil {
		var zero T
		return zero, fmt.Errorf("client: %w", misfit[T](s))
	}
	return clone(value), nil
}

// misfit is the error of a cache that has another type's CloneWith.
func misfit[T any](s *settings) error {
	return fmt.Errorf("%w: CloneWith(%T) for values of type %s", soracache.ErrInvalid, s.clone, reflect.TypeFor[T]())
}

// loading is one run of GetOrSet on behalf of all callers that share it. All of
// them came before it began, so none can receive what is older than its call.
type loading[T any] struct {
	client   *Client
	kind     *kind[T]
	pace     *pace
	key      string
	load     func(context.Context) (T, error)
	settings *settings // not changed
	// due is when the callers have to have an answer, for knowing how long the
	// service may take, and came is when the first of them came.
	due  due
	came time.Time
	// inside is the run that the first of them is inside of, if any.
	inside *flight.Run
	// way is how they came to share it, and carried what they carry together; nil:
	// there is one caller.
	way     int
	carried *carrier
	// retried means that the caller has shared another run before, or has waited for
	// other keys of its call. joined means that those whom this run is for have waited
	// for its turn, and that the first of them may have gone.
	retried, joined bool
	// admits means that those who come until the loader begins may share what it
	// returns: nothing was asked for that they would not ask for.
	admits bool
	// silence is what the call knows of a service that does not answer, and unanswered
	// what this key's read failed with that was made together with others'.
	silence    *silence
	unanswered error
	// asked is the last read, as the near cache knows it.
	asked *near.Inflight
	// owed is the lease that came with the last answer, until somebody has taken it
	// over who hands it back.
	owed soracache.Lease
	// waited means that somebody else was waited for, as long as the policy says.
	waited bool
	// replaces means that there is an entry which cannot be read, and which what is
	// loaded replaces.
	replaces bool
	// adrift is set once the callers have been answered, and the loader goes on.
	// It is nil if that cannot be.
	adrift *atomic.Bool
}

// share runs the load together with everybody who asks for the key at this moment,
// whatever stamps they carry: see demands. That the key does not exist is an outcome,
// with an error and what it depends on.
func (l *loading[T]) share(ctx context.Context) (outcome[T], error) {
	more := l.client.carriedMore(ctx)
	defer l.kind.demands.add(l.key, StampFrom(ctx))()
	o, part, err := l.shareBy(ctx, more)
	for part != flight.Led && err == nil {
		behind := !o.reflects(more) && l.way < shareOneStamp
		if !behind && (part != flight.Admitted || o.how.Loaded) {
			break
		}
		way := l.way
		if behind {
			way++
		}
		l = l.anew(ctx)
		l.way, l.retried = way, true
		o, part, err = l.shareBy(ctx, more)
	}
	for _, proof := range o.proofs {
		l.client.carry(ctx, proof)
	}
	return o, err
}

// shareBy runs the load in one of the ways to share it, and tells what part this caller
// had in the run. Who was admitted to one when its loader began shares what that
// returns, and not what the run had found before.
func (l *loading[T]) shareBy(ctx context.Context, more soracache.Stamps) (o outcome[T], part flight.Part, err error) {
	id, most := l.key+sharedSuffix(l.way, more), l.settings.policy.waitHere()
	if l.retried {
		most = max(most-time.Since(l.came), 1)
	}
	flights := &l.kind.flights[l.way]
	o, part, err = flights.Lead(ctx, id, most, l.lead)
	if part != flight.Led && errors.Is(err, ErrCycle) && flight.RunOf(ctx) == nil {
		// The run began inside of a loader, which is why it fails. This caller is in
		// none, so its own may well succeed.
		o, part, err = flights.Lead(ctx, id, most, l.anew(ctx).lead)
	}
	switch tired, ok := err.(*flight.WaitError); { //nolint:errorlint // not one that a loader returned
	case ok:
		waited := tired.Waited
		if l.retried {
			waited = l.settings.policy.waitHere()
		}
		o, err = l.anew(ctx).outwaited(ctx, waited, err)
		part = flight.Led
	case err == flight.ErrCycle: //nolint:errorlint // itself
		err = fmt.Errorf("client: %w: %q", ErrCycle, l.key)
	case err != nil:
		err = l.client.blame(ctx, err) // who waits is told before the load has ended
	}
	return o, part, err
}

// anew is the load for one caller alone, where the other goes on without it.
func (l *loading[T]) anew(ctx context.Context) *loading[T] {
	return &loading[T]{client: l.client, kind: l.kind, pace: l.pace, key: l.key, load: l.load, settings: l.settings, due: dueOf(ctx), came: l.came, inside: flight.RunOf(ctx), way: l.way, retried: l.retried, silence: l.silence, unanswered: l.unanswered}
}

// outwaited is for callers who waited long enough for a load of this process. They
// do not begin one of their own beside it: the one that runs may be waiting for them.
func (l *loading[T]) outwaited(ctx context.Context, waited time.Duration, cause error) (outcome[T], error) {
	if p := &l.settings.policy; p.FailSafe > 0 {
		if ctx, leave, err := l.client.enter(ctx); err == nil {
			defer leave()
			if there, err := l.again(ctx, true); err == nil && there != nil && p.allows(there.freshFor) {
				return l.serve(there, StaleSlowLoader), nil
			} else if o, ok := l.nearby(ctx); err != nil && ok {
				return o, nil
			}
		}
	}
	return outcome[T]{}, l.tooLong(waited, cause)
}

// tooLong is what they get otherwise.
func (l *loading[T]) tooLong(waited time.Duration, cause error) error {
	if p := &l.settings.policy; p.HardTimeout > 0 && waited == p.HardTimeout {
		return l.tooSlow()
	}
	return fmt.Errorf("client: %q: %w (%s): %w", l.key, ErrWait, waited, cause)
}

// lead is called once. Nearly always a value is there, and it returns that.
// Otherwise the rest goes on with the answer that it got, with a context that ends
// when all callers have gone.
func (l *loading[T]) lead(ctx context.Context) (o outcome[T], rest func(context.Context) (outcome[T], error), err error) {
	if err := l.client.admit(); err != nil {
		return o, nil, err
	}
	l.board(ctx)
	ctx = l.jointly(ctx)
	l.admits = l.client.carriedMore(ctx) == nil
	defer func() {
		if rest == nil {
			l.quit(ctx)
			l.client.leave()
		}
	}()
	var first *answer[T]
	if !l.throttling() {
		limited := l.client.limited(ctx, l.patience())
		first = l.first(limited)
		limited.End()
		if first.err == nil && first.read.Lease == (soracache.Lease{}) && first.read.Status != soracache.StatusMiss {
			first.decoded = true
			if first.there, first.readable = l.decoded(first.read); first.readable && !l.unattended(&first.read, first.there) {
				l.keepNear(first.read, first.there)
				return l.serve(first.there, StaleRefreshing), nil, nil
			}
		}
	}
	leader := ctx
	return o, func(ctx context.Context) (outcome[T], error) {
		defer l.client.leave()
		defer l.quit(ctx)
		ctx, end := l.client.bound(l.jointly(ctx))
		defer end()
		if first != nil && first.err != nil && leader.Err() != nil {
			first = nil // whoever asked has gone, and says nothing about the service
		}
		o, err := l.goOn(ctx, first)
		return o, l.client.blame(ctx, err)
	}, nil
}

// answer is what the first question brought.
type answer[T any] struct {
	asked soracache.Read
	read  soracache.ReadResult
	err   error
	// If it was decoded: whether that went well, and what it gave.
	decoded, readable bool
	there             *standby[T]
}

// goOn does the rest: all of it, if nothing was asked yet.
func (l *loading[T]) goOn(ctx context.Context, first *answer[T]) (outcome[T], error) {
	if first == nil {
		if o, done, err := l.throttled(ctx); done {
			return o, err
		}
	}
	return l.readOrLoad(ctx, first)
}

// readOrLoad returns what the service has, or else what the loader returns. Beside
// an entry that cannot be read it asks for the lease to replace it under.
func (l *loading[T]) readOrLoad(ctx context.Context, known *answer[T]) (outcome[T], error) {
	if known == nil {
		limited := l.client.limited(ctx, l.patience())
		known = l.first(limited)
		limited.End()
	}
	for question := 1; ; question++ {
		read, err := l.waitOn(ctx, known)
		switch {
		case errors.Is(err, soracache.ErrInvalid) && question == 1, errors.Is(err, ErrCycle):
			return outcome[T]{}, err
		case err != nil:
			return l.failOpen(ctx, err)
		}
		there, readable := known.there, known.readable
		if !known.decoded {
			there, readable = l.decodedAt(question, read)
		}
		leased := read.Lease != soracache.Lease{}
		switch {
		case readable && leased && question > 1 && there.fresh(): // somebody has replaced it
			l.unneeded(ctx, read)
			l.keepNear(read, there)
			return l.serve(there, StaleRefreshing), nil
		case readable && leased:
			return l.refresh(ctx, read, there)
		case readable && l.unattended(&read, there):
			l.client.observer.miss(l.key)
			return l.wait(ctx, &work[T]{loading: l, why: whyNoLease(&read), fill: l.newFill(ctx)}, there)
		case readable:
			l.keepNear(read, there)
			return l.serve(there, StaleRefreshing), nil
		case leased && unreadable(&read, readable) && !l.mayReplace(&read):
			l.unneeded(ctx, read)
			l.client.observer.miss(l.key)
			return l.loadUnfenced(ctx, errReplaced)
		case leased:
			l.replaces = unreadable(&read, readable)
			l.client.observer.miss(l.key)
			return l.loadAndStore(ctx, read, nil)
		case read.Status == soracache.StatusMiss:
			l.client.observer.miss(l.key)
			if p := &l.settings.policy; l.waited && p.HardTimeout > 0 && p.wait() == p.HardTimeout {
				return outcome[T]{}, l.tooSlow()
			}
			if _, here := l.kind.loads.of(l.key); here && waitable(&read) {
				return l.outwaited(ctx, l.settings.policy.waitHere(), context.DeadlineExceeded)
			}
			return l.loadUnfenced(ctx, whyNoLease(&read))
		default:
			ask, useful := l.toReplace(known.asked, &read)
			if !useful || question == maxQuestions {
				l.client.observer.miss(l.key)
				return l.loadUnfenced(ctx, l.notReplaced(&read))
			}
			known = &answer[T]{asked: ask}
			known.read, known.err = l.ask(ctx, ask)
		}
	}
}

// refresh is for the caller that is to load a value anew which is still there.
// Where the policy says so, the callers get that at once, and the loader runs in
// the background. Otherwise they wait for it.
func (l *loading[T]) refresh(ctx context.Context, granted soracache.ReadResult, there *standby[T]) (outcome[T], error) {
	p := &l.settings.policy
	switch {
	case there.fresh() && p.eager(l.pace) > 0:
		l.keepNear(granted, there)
		if !l.refreshBehind(ctx, granted, there, RefreshEager) {
			l.unneeded(ctx, granted) // somebody will do it
		}
		return l.serve(there, StaleRefreshing), nil
	case !there.fresh() && p.revalidates(there.freshFor):
		if l.refreshBehind(ctx, granted, there, RefreshStale) {
			return l.serve(there, StaleRefreshing), nil
		}
	}
	l.client.observer.miss(l.key)
	return l.loadAndStore(ctx, granted, there)
}

// first asks without waiting. The answer has to come soon, or the service is as
// good as absent. Only when it says that somebody else is loading does the next
// question wait, so a service that hangs never costs the whole wait.
func (l *loading[T]) first(ctx context.Context) *answer[T] {
	a := &answer[T]{asked: soracache.Read{Key: l.key, Schema: l.kind.schema, Lease: true, RefreshWithin: l.refreshWithin()}}
	a.read, a.err = l.question(ctx, a.asked)
	return a
}

// waitOn goes on with the answer to the first question, for as long as it says
// that somebody else is loading.
//
// A wait may end early with nothing: the service allows no longer one at a time, or a
// node drains and sends away whoever waits there. The rest of it is then waited anew
// or elsewhere, or a restart would have everybody load at once; but not for ever with
// a service that never waits.
func (l *loading[T]) waitOn(ctx context.Context, first *answer[T]) (soracache.ReadResult, error) {
	ask, read, err := first.asked, first.read, first.err
	if err != nil || !waitable(&read) {
		return read, err
	}
	own, here := l.kind.loads.of(l.key)
	if here {
		ended, err := flight.RunOf(ctx).Await(own.run)
		if err != nil {
			return read, fmt.Errorf("client: %w: %q", err, l.key)
		}
		defer ended()
	}
	began := time.Now()
	end := l.waitUntil(began, here)
	for idle := 0; idle < maxWaits; {
		ask.Wait = l.client.waits.most(time.Until(end))
		if err != nil || ask.Wait <= 0 || !waitable(&read) {
			break
		}
		asked := time.Now()
		answer, gaveUp, failed := l.askHurried(ctx, ask, end, own.over)
		switch gaveUp {
		case persevered:
		case hurried: // not for as long as this one's policy says
			return read, nil
		case forsaken:
			ask.Wait = 0
			answer, failed = l.ask(ctx, ask)
		}
		if !l.client.waits.refused(ask.Wait, failed) {
			read, err = answer, failed
		}
		if here && closed(own.over) { // whoever holds the lease now is another
			here, own.over = false, nil
			end = l.waitUntil(began, false)
			continue
		}
		if time.Since(asked) < ask.Wait/2 && l.client.waits.most(ask.Wait) == ask.Wait {
			idle++ // the service does not wait, or drains
		}
	}
	l.waited = time.Until(end) <= 0
	return read, err
}

// waitUntil is until when the policy has it wait for somebody else, or for a load of
// this client, when it begins to wait at a time. What was waited before counts. If that
// was all of the wait, and others are left whom the run is for, they came later.
func (l *loading[T]) waitUntil(began time.Time, here bool) time.Time {
	wait := l.settings.policy.wait()
	if here {
		wait = l.settings.policy.waitHere()
	}
	if end := l.came.Add(wait); began.Before(end) || !l.joined {
		return end
	}
	return began.Add(wait)
}

// closed tells whether a channel is closed on which nothing is sent.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// gaveUp is why a question that waits was given up, if it was.
type gaveUp uint8

const (
	persevered gaveUp = iota
	// hurried: somebody who shares the run has waited for as long as its own policy
	// says: the load then goes on for all of them.
	hurried
	// forsaken: the load of this client is over that was waited for, and the answer
	// has not come since.
	forsaken
)

// askHurried is ask for a question that waits, of all until some time. It ends before
// that, and says so, if there is a reason to give up. What it waits for, if that is
// a load of this client, is over when a channel is closed; otherwise that is nil.
func (l *loading[T]) askHurried(ctx context.Context, read soracache.Read, end time.Time, over <-chan struct{}) (r soracache.ReadResult, why gaveUp, err error) {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, err = l.ask(asking, read)
	}()
	var late <-chan time.Time
	for why == persevered {
		select {
		case <-done:
			return r, persevered, err
		case <-flight.RunOf(ctx).Tired():
			why = hurried
		case <-over:
			late, over = time.After(l.patience()), nil
		case <-late:
			why = forsaken
		}
	}
	if time.Until(end) <= l.patience() { // the answer comes soon enough
		<-done
		return r, persevered, err
	}
	cancel()
	<-done
	if err == nil || ctx.Err() != nil { // it has come, or nobody wants it
		return r, persevered, err
	}
	return r, why, err
}

// waitable tells whether there is somebody to wait for: only a lease that is held
// is worth it.
func waitable(read *soracache.ReadResult) bool {
	return read.Status == soracache.StatusMiss && read.LeaseState == soracache.LeaseHeld
}

// unattended tells whether a value is stale that nobody refreshes, because no
// lease can be given, and that may not be served for that reason.
func (l *loading[T]) unattended(read *soracache.ReadResult, there *standby[T]) bool {
	return read.LeaseState == soracache.LeaseRefused && !there.fresh() && !l.settings.policy.revalidates(there.freshFor)
}

// maxWaits is how often one load asks to wait for another's without being let wait.
const maxWaits = 3

// ask asks, for as long as the client is to be patient beyond the wait.
func (l *loading[T]) ask(ctx context.Context, read soracache.Read) (soracache.ReadResult, error) {
	limited := l.client.limited(ctx, read.Wait+l.patience())
	defer limited.End()
	return l.question(limited, read)
}

// question asks within the time of the context, which is for nothing else.
func (l *loading[T]) question(ctx context.Context, read soracache.Read) (soracache.ReadResult, error) {
	l.asked.End()
	if err := l.silent(); err != nil {
		l.asked = nil
		return soracache.ReadResult{}, err
	}
	l.asked = l.client.near.Begin(l.kind.space, l.key)
	r, err := l.client.read(ctx, read, l.asked)
	l.owed = r.Lease
	l.silence.heard(ctx, l.patience(), err)
	return r, err
}

// quit ends what a load has of its last answer. If a hook panicked, or what decodes or
// copies a value, that may be a lease: whoever waits need not wait for it to run out.
func (l *loading[T]) quit(ctx context.Context) {
	l.asked.End()
	if l.owed != (soracache.Lease{}) {
		l.unneeded(ctx, soracache.ReadResult{Lease: l.owed})
	}
}

// silent is what reads of the key fail with, if the service did not answer its call; nil:
// it is to be asked.
func (l *loading[T]) silent() error {
	if l.unanswered != nil {
		return l.unanswered
	}
	return l.silence.known()
}

// keepNear keeps in the application's own memory what an answer brought, if it is
// fresh.
func (l *loading[T]) keepNear(read soracache.ReadResult, there *standby[T]) {
	if there.fresh() {
		near.Keep(l.asked, there.value, keptFrom(read, l.settings.policy))
	}
}

// due is when an answer has to be there; zero: whenever.
type due time.Time

func dueOf(ctx context.Context) due {
	at, _ := ctx.Deadline()
	return due(at)
}

// patience is how long to let the service take: the client's timeout, but no
// more than half of what is left until an answer is due, so that the loader has
// the rest. If nothing is left, who wants the answer came later.
func (d due) patience(timeout time.Duration) time.Duration {
	left := time.Until(time.Time(d))
	if time.Time(d).IsZero() || left <= 0 {
		return timeout
	}
	return min(timeout, left/2)
}

func (l *loading[T]) patience() time.Duration {
	if l.adrift != nil && l.adrift.Load() {
		return l.client.timeout
	}
	return l.due.patience(l.client.timeout)
}

// board finds out what is due to whom, and what they carry, if this is a run for
// several callers.
func (l *loading[T]) board(ctx context.Context) {
	if run := flight.RunOf(ctx); run != nil && run != l.inside {
		at, _ := run.Latest()
		l.due, l.joined = due(at), true
		l.carried = l.client.carriedBy(ctx, l.way, l.kind.demands.merged(l.key))
	}
}

// jointly returns the context to go on with: it carries what those do whom this is
// for.
func (l *loading[T]) jointly(ctx context.Context) context.Context { return l.carried.in(ctx) }

// failOpen does without the service, unless the error was nothing but the end
// of everybody who waited.
func (l *loading[T]) failOpen(ctx context.Context, err error) (outcome[T], error) {
	if ctx.Err() != nil {
		return outcome[T]{}, ctx.Err()
	}
	l.client.observer.failOpen(l.key, err)
	o, err := l.loadUnfenced(ctx, errServiceDown)
	if l.failed(ctx, err) {
		if stale, ok := l.unconfirmed(ctx); ok {
			return stale, nil
		}
	}
	return o, err
}

// loadUnfenced runs the loader without a lease. Its value is good for the
// callers, who all came before it began, and for nobody else.
func (l *loading[T]) loadUnfenced(ctx context.Context, why error) (outcome[T], error) {
	return l.wait(ctx, &work[T]{loading: l, why: why, fill: l.newFill(ctx)}, nil)
}

// loadAndStore runs the loader under the lease that came with the answer. If it
// fails, a value that is there may stand in for it.
func (l *loading[T]) loadAndStore(ctx context.Context, granted soracache.ReadResult, there *standby[T]) (outcome[T], error) {
	l.asked.End()
	return l.wait(ctx, l.leased(ctx, granted, there), there)
}
