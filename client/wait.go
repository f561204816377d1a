package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/batches"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/internal/service"
	"github.com/soracache/soracache/internal/flight"
)

// waitAtOnce is how long several keys are waited for in one go. An answer may bring the
// leases of some while others are waited for still, and nobody renews them until
// it is there.
const waitAtOnce = time.Second

// atOnceFor is how long so many keys are waited for in one go.
func atOnceFor(keys int) time.Duration {
	if keys == 1 {
		return longestWait
	}
	rounds := 1 + (keys-1)/(service.RequestsAtOnce*batches.Most) // of requests
	return waitAtOnce / time.Duration(rounds)
}

// maxWaits is how often one run asks to wait for another's load without being let wait.
const maxWaits = 3

// await waits for what others load, and loads what they do not. What takes too
// long is loaded without being stored.
//
// A wait may end early with nothing: the service allows no longer one at a time, or a
// node drains and sends away whoever waits there. The rest of it is then waited anew
// or elsewhere, or a restart would have everybody load at once; but not for ever with
// a service that never waits.
//
// What was waited already counts, unless that was all of the wait, and others are left
// whom the run is for: then they came later. If something was loaded meanwhile, the keys
// are asked for at least once more.
func (r *run[T]) await(ctx context.Context, others []*item[T], waited time.Duration, later bool) {
	others, ended := r.waitFor(ctx, others)
	began := time.Now()
	end := began
	for idle := 0; len(others) > 0 && idle < maxWaits; {
		end = r.waitUntil(began, waited, others)
		wait := r.client.service.Waits.Most(min(time.Until(end), atOnceFor(len(others))))
		if wait <= 0 && !later || r.hurried(ctx) && time.Until(end) > r.patience() {
			break
		}
		asked, before := time.Now(), len(others)
		for _, it := range others {
			it.next = stepAsk
		}
		why := r.ask(ctx, others, max(wait, 0), end)
		if why == abandoned { // what it waited for is over
			for _, it := range others {
				it.next = stepAsk
			}
			r.ask(ctx, others, 0, end)
		}
		leased := those(others, stepLoad)
		others = those(others, stepWait)
		r.loadAll(ctx, leased)
		if later = false; why == hurried {
			break
		}
		if len(others) == before && time.Since(asked) < wait/2 && r.client.service.Waits.Most(wait) == wait {
			idle++ // the service does not wait, or drains
		}
	}
	ended()
	r.waitedInVain(ctx, others, time.Until(end) <= 0)
}

// waitFor notes that this run waits for those of this client that load keys. It fails
// the keys of those that wait for this one, and returns the others.
func (r *run[T]) waitFor(ctx context.Context, items []*item[T]) (rest []*item[T], ended func()) {
	var all []func()
	rest = slices.DeleteFunc(items, func(it *item[T]) bool {
		own, here := r.kind.loads.of(it.key)
		if !here {
			return false
		}
		over, err := flight.RunOf(ctx).Await(own.run)
		if err != nil {
			it.end(outcome[T]{}, fmt.Errorf("client: %w: %q", err, it.key))
			return true
		}
		all = append(all, over)
		return false
	})
	return rest, func() {
		for _, over := range all {
			over()
		}
	}
}

// waitUntil is until when keys are waited for, of whom somebody else loads some, and
// this client others, when that begins at a time.
func (r *run[T]) waitUntil(began time.Time, waited time.Duration, items []*item[T]) time.Time {
	wait := r.settings.policy.wait()
	for _, it := range items {
		if _, here := r.kind.loads.of(it.key); here {
			wait = r.settings.policy.waitHere()
			break
		}
	}
	if waited < wait || !r.joined {
		wait -= waited
	}
	return began.Add(wait)
}

// hurried tells whether somebody who shares the run has waited for as long as its own
// policy says.
func (r *run[T]) hurried(ctx context.Context) bool { return closed(flight.RunOf(ctx).Tired()) }

// waitedInVain is for the keys that are still being loaded, by others or in this process,
// when they were waited for long enough.
func (r *run[T]) waitedInVain(ctx context.Context, items []*item[T], whole bool) {
	p := &r.settings.policy
	timedOut := whole && p.HardTimeout > 0 && p.wait() == p.HardTimeout && ctx.Err() == nil
	var tired, unleased []*item[T]
	for _, it := range items {
		switch _, here := r.kind.loads.of(it.key); {
		case timedOut: // as long as a loader may take
			r.client.observer.miss(it.key)
			it.end(outcome[T]{}, r.tooSlow(it.key))
		case here:
			r.client.observer.miss(it.key)
			it.err = context.DeadlineExceeded
			tired = append(tired, it)
		default:
			it.why = whyNoLease(&it.answer)
			unleased = append(unleased, it)
		}
	}
	r.loadAll(ctx, unleased)
	r.outwaited(ctx, tired)
}

// outwaited is for callers who waited long enough for a load of this process. They
// do not begin one of their own beside it: the one that runs may be waiting for them.
func (r *run[T]) outwaited(ctx context.Context, items []*item[T]) {
	if len(items) == 0 {
		return
	}
	p := &r.settings.policy
	if p.FailSafe > 0 {
		r.again(ctx, items, true)
	}
	for _, it := range items {
		if it.now != nil && p.allows(it.now.freshFor) {
			it.end(r.serve(it.key, it.now, StaleSlowLoader), nil)
		} else if !it.unknown || !r.takeNearby(ctx, it) {
			it.end(outcome[T]{}, r.tooLong(it.key, it.err))
		}
	}
}

// tooLong is what they get otherwise.
func (c *call[T]) tooLong(key string, cause error) error {
	waited := c.settings.policy.waitHere()
	if p := &c.settings.policy; p.HardTimeout > 0 && waited == p.HardTimeout {
		return c.tooSlow(key)
	}
	return fmt.Errorf("client: %q: %w (%s): %w", key, ErrWait, waited, cause)
}

// tooSlow is what callers get who have waited for the loader for long enough.
func (c *call[T]) tooSlow(key string) error {
	return fmt.Errorf("client: loading %q took longer than %s: %w", key, c.settings.policy.HardTimeout, context.DeadlineExceeded)
}

// gaveUp is why a question that waits was given up, if it was.
type gaveUp uint8

const (
	persevered gaveUp = iota
	// hurried: somebody who shares the run has waited for as long as its own policy
	// says: the load then goes on for all of them.
	hurried
	// abandoned: the load of this client is over that was waited for, and the answer
	// has not come since.
	abandoned
)

// readWaiting asks for one key with a question that waits, of all until some time. It
// ends before that, and says so, if there is a reason to give up.
func (r *run[T]) readWaiting(ctx context.Context, it *item[T], asked *near.Inflight, end time.Time) (answer soracache.ReadResult, why gaveUp, err error) {
	own, _ := r.kind.loads.of(it.key)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		answer, err = r.client.service.Read(waiting, it.asked, asked)
	}()
	var late <-chan time.Time
	for why == persevered {
		select {
		case <-done:
			return answer, persevered, err
		case <-flight.RunOf(ctx).Tired():
			why = hurried
		case <-own.over:
			late, own.over = time.After(r.patience()), nil
		case <-late:
			why = abandoned
		}
	}
	if time.Until(end) <= r.patience() { // the answer comes soon enough
		<-done
		return answer, persevered, err
	}
	cancel()
	<-done
	if err == nil || ctx.Err() != nil { // it has come, or nobody wants it
		return answer, persevered, err
	}
	return answer, why, err
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
