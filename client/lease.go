package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/soracache/soracache"
)

// maxHold is how long a lease is renewed for one loader. A loader that takes
// longer goes on, but somebody else may then load the key beside it.
const maxHold = 5 * time.Minute

// lease is held while a loader works, and renewed until it is filled, released
// or lost.
type lease struct {
	client *Client
	key    string
	id     soracache.Lease
	// detached has the load's values but not its end: a lease is completed, or
	// handed back, also when everybody who waited has gone.
	detached context.Context

	stopRenewing context.CancelFunc
	renewing     sync.WaitGroup
	// done means that the service was told of the lease's end.
	done bool
	// outcome is what became of the load, if the lease is handed back.
	outcome soracache.LoadOutcome
}

// hold begins to renew a lease that an answer granted.
func (c *Client) hold(ctx context.Context, key string, granted soracache.ReadResult) *lease {
	l := &lease{client: c, key: key, id: granted.Lease, detached: context.WithoutCancel(ctx)}
	ctx, l.stopRenewing = context.WithTimeout(ctx, maxHold)
	l.renewing.Go(func() { l.renew(ctx, granted.LeaseFor) })
	return l
}

// renew extends the lease well before it runs out, so that a lost answer or
// two do no harm.
func (l *lease) renew(ctx context.Context, lasts time.Duration) {
	if lasts <= 0 {
		lasts = soracache.DefaultLease
	}
	ticker := time.NewTicker(lasts / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		bounded, cancel := context.WithTimeout(ctx, l.client.timeout)
		result, err := l.client.write(bounded, soracache.Write{Op: soracache.OpRenew, Key: l.key, Lease: l.id}, nil)
		cancel()
		if err == nil && !result.Stored {
			return // lost, or overtaken: the fill will be told
		}
	}
}

// fill completes the lease with an entry.
func (l *lease) fill(limit time.Duration, e soracache.Entry, lifetime soracache.Lifetime, asked *asking) (soracache.WriteResult, error) {
	l.endRenewal()
	result, err := l.write(limit, soracache.Write{
		Op:       soracache.OpFill,
		Key:      l.key,
		Lease:    l.id,
		Entry:    e,
		Lifetime: lifetime,
	}, asked)
	// A service that refused the entry still has the lease, and one that did
	// not answer would not answer a release either.
	l.done = err == nil || !refusal(err)
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
// need not wait for it to run out.
func (l *lease) release(limit time.Duration) {
	l.endRenewal()
	if !l.done {
		_, _ = l.write(limit, soracache.Write{Op: soracache.OpRelease, Key: l.key, Lease: l.id, Outcome: l.outcome}, nil)
	}
}

func (l *lease) endRenewal() {
	l.stopRenewing()
	l.renewing.Wait()
}

func (l *lease) write(limit time.Duration, w soracache.Write, asked *asking) (soracache.WriteResult, error) {
	ctx, cancel := context.WithTimeout(l.detached, limit)
	defer cancel()
	return l.client.write(ctx, w, asked)
}
