package client

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/source"
	"github.com/soracache/soracache/internal/flight"
)

// visit is one call of a loader, to its source. A nil one is to none.
type visit struct {
	source *Source
	client *Client
	pass   *source.Pass
	// late tells of a loader that exceeds the policy's HardTimeout; nil: nobody asks.
	late *time.Timer
	over atomic.Bool
}

// visit begins one call of the loader, if the source lets it through.
func (l *load[T]) visit(ctx context.Context) (*visit, error) {
	s := l.source()
	if s == nil || ctx.Err() != nil { // then the loader is not called
		return nil, nil //nolint:nilerr,nilnil // a visit to no source
	}
	v := &visit{source: s, client: l.client, pass: l.pass.Swap(nil)}
	var err error
	if v.pass == nil { // another call of the loader for the same load has it
		if v.pass, err = s.guard.Enter(s.passIn(ctx)); errors.Is(err, ErrSourceBusy) {
			v.pass, err = s.guard.Wait(ctx, s.config.MaxWait, nil)
		}
	}
	if err == nil {
		err = v.pass.Begin(v.tell)
	}
	if err != nil {
		v.pass.Leave()
		return nil, s.named(err)
	}
	if hard := l.settings.policy.HardTimeout; hard > 0 && v.pass.Judges() {
		v.late = time.AfterFunc(hard, func() { v.pass.Judge(source.Failed, v.tell) })
	}
	return v, nil
}

// tell tells the hooks of the breaker's state.
func (v *visit) tell(to source.State) { v.client.observer.sourceState(v.source.name, stateOf(to)) }

// returned notes that the loader has, which was called for so many keys. Its callers had
// to have an answer when it was due.
func (v *visit) returned(ctx context.Context, due due, keys int, err error) {
	if v != nil {
		v.pass.Judge(v.verdict(ctx, due, keys, err), v.tell)
		v.end()
	}
}

// end ends a visit, if it has not. If the loader was not called, that says nothing about
// the source.
func (v *visit) end() {
	if v == nil || v.over.Swap(true) {
		return
	}
	if v.late != nil {
		v.late.Stop()
	}
	v.pass.Judge(source.Nothing, v.tell)
	v.source.cool(v.client)
	v.pass.Leave()
}

// verdict is what a call of the loader says about its source.
func (v *visit) verdict(ctx context.Context, due due, keys int, err error) source.Verdict {
	if many, ok := err.(*ManyError); ok && !rejected(err) { //nolint:errorlint // one that is wrapped is another call's
		if err = v.worst(many); len(many.Errors) < keys {
			err = nil
		}
	}
	ended := ctx.Err()
	switch {
	case err == nil:
		return source.Succeeded
	case errors.Is(ended, context.DeadlineExceeded), ended != nil && due.past():
		return source.Failed // it was given the time that there was
	case ended != nil, rejected(err), errors.Is(err, ErrCycle), errors.Is(err, ErrWait), errors.Is(err, ErrClosed):
		return source.Nothing
	case v.failed(err):
		return source.Failed
	}
	return source.Succeeded
}

// worst is what a call for many keys has failed with; nil: for one of them at least, the
// source has answered.
func (v *visit) worst(many *ManyError) (err error) {
	for _, err = range many.Errors {
		if !v.failed(err) {
			return nil
		}
	}
	return err
}

// past tells whether an answer had to be there by now.
func (d due) past() bool { return !time.Time(d).IsZero() && !time.Now().Before(time.Time(d)) }

// failed tells whether what a loader has ended with is a failure of the source.
func (v *visit) failed(err error) bool {
	_, panicked := errors.AsType[*PanicError](err)
	switch {
	case panicked, errors.Is(err, ErrGoexit):
		return true
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrNotModified):
		return false
	case v.source.config.IsFailure == nil:
		return true
	}
	failed := true // if it panics
	func() {
		defer v.client.observer.survive("")
		failed = v.source.config.IsFailure(err)
	}()
	return failed
}

// refuse is for a call of the loader that the source does not let through. Its leases are
// handed back.
func (l *load[T]) refuse(ctx context.Context, results []loaded[T], err error) {
	for i := range results {
		r := &results[i]
		r.fill.seal()
		if r.err = err; r.leased {
			l.leases.Settle(r.at, soracache.LoadHandedBack)
			l.kind.loads.loaded(r.key, flight.RunOf(ctx))
		}
		if rejected(err) {
			l.client.observer.rejected(l.source().name, r.key, err)
		}
	}
}

// leave gives the pass back that no call of the loader has taken.
func (l *load[T]) leave() { l.pass.Swap(nil).Leave() }
