package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
)

// maxHold is how long a lease is renewed for one loader. A loader that takes
// longer goes on, but somebody else may then load the key beside it.
const maxHold = 5 * time.Minute

// lease is held while a loader works, and renewed until it is filled, released
// or lost.
type lease struct {
	client *Client
	schema string
	key    string
	id     soracache.Lease
	lasts  time.Duration
	// detached has the load's values but not its end: a lease is completed, or
	// handed back, also when everybody who waited has gone.
	detached context.Context

	stopRenewing context.CancelFunc
	renewing     sync.WaitGroup
	// done means that the service was told of the lease's end, and failed that it may
	// not have been, by a fill that was not answered.
	done, failed bool
	// outcome is what became of the load, if the lease is handed back.
	outcome soracache.LoadOutcome
}

// hold begins to renew a lease that an answer granted.
func (c *Client) hold(ctx context.Context, schema, key string, granted soracache.ReadResult) *lease {
	l := &lease{client: c, schema: schema, key: key, id: granted.Lease, lasts: granted.LeaseFor, detached: context.WithoutCancel(ctx)}
	ctx, l.stopRenewing = context.WithTimeout(ctx, maxHold)
	l.renewing.Go(func() { l.renew(ctx, granted.LeaseFor) })
	return l
}

// holdOn renews the lease further, though everybody who waited for it may go.
func (l *lease) holdOn() {
	l.endRenewal()
	ctx, stop := context.WithTimeout(l.detached, maxHold)
	l.stopRenewing = stop
	l.renewing.Go(func() { l.renew(ctx, l.lasts) })
}

// leastRenewal is how often a lease is renewed at most, whatever the service says that
// it lasts.
const leastRenewal = 10 * time.Millisecond

// renewalOf is how often a lease is renewed that lasts so long.
func renewalOf(lasts time.Duration) time.Duration { return max(lasts/3, leastRenewal) }

// renew extends the lease well before it runs out, so that a lost answer or
// two do no harm.
func (l *lease) renew(ctx context.Context, lasts time.Duration) {
	if lasts <= 0 {
		lasts = soracache.DefaultLease
	}
	ticker := time.NewTicker(renewalOf(lasts))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		bounded := detached(ctx, l.client.timeout)
		result, err := l.client.write(bounded, soracache.Write{Op: soracache.OpRenew, Key: l.key, Schema: l.schema, Lease: l.id}, nil)
		bounded.End()
		if err == nil && !result.Stored {
			return // lost, or overtaken: the fill will be told
		}
	}
}

// fill completes the lease with an entry, within so much time: more, if behind says
// that nobody waits for it, as long as it makes progress. The lease is renewed
// meanwhile.
func (l *lease) fill(limit time.Duration, behind bool, e soracache.Entry, lifetime soracache.Lifetime, asked *near.Inflight) (soracache.WriteResult, error) {
	ctx := l.detached
	if !behind {
		l.endRenewal()
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = bounded // which is not put off
	}
	result, err := l.write(ctx, limit, soracache.Write{
		Op:       soracache.OpFill,
		Key:      l.key,
		Schema:   l.schema,
		Lease:    l.id,
		Entry:    e,
		Lifetime: lifetime,
	}, asked)
	l.done, l.failed = err == nil, err != nil && !refusal(err)
	return result, err
}

// outcomeOf is what became of a load whose loader returned so, if nothing of it is
// stored. That everybody has gone who wanted it is no failure of the loader's.
func outcomeOf(ctx context.Context, err error) soracache.LoadOutcome {
	switch {
	case err == nil || errors.Is(err, ErrNotFound):
		return soracache.LoadNotStorable
	case ctx.Err() != nil:
		return soracache.LoadHandedBack
	}
	return soracache.LoadFailed
}

// release hands the lease back, unless it was filled, so that whoever waits
// need not wait for it to run out. That has a time of its own, of which the caller
// waits for so much: what it had may be spent. It tells whether that was enough, unless
// a fill failed: then nobody waits.
func (l *lease) release(limit time.Duration) (inTime bool) {
	l.endRenewal()
	if l.done {
		return true
	}
	if l.failed { // the fill: there is nothing to say about the load
		l.outcome, limit = soracache.LoadHandedBack, 0
	}
	inTime = l.client.behind(limit, func(limit time.Duration) {
		_, _ = l.write(l.detached, limit, soracache.Write{Op: soracache.OpRelease, Key: l.key, Schema: l.schema, Lease: l.id, Outcome: l.outcome}, nil)
	})
	return inTime || l.failed
}

func (l *lease) endRenewal() {
	l.stopRenewing()
	l.renewing.Wait()
}

func (l *lease) write(ctx context.Context, limit time.Duration, w soracache.Write, asked *near.Inflight) (soracache.WriteResult, error) {
	bounded := l.client.toWrite(ctx, limit, w.Op)
	defer bounded.End()
	return l.client.write(bounded, w, asked)
}
