package client

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
)

// maxHold is how long a lease is renewed for one loader. A loader that takes
// longer goes on, but somebody else may then load the key beside it.
const maxHold = 5 * time.Minute

// leases are those of one load, in the order of its keys. One goroutine renews them,
// until each is filled, handed back or lost.
type leases struct {
	client *Client
	schema string
	// detached has the load's values but not its end: a lease is completed, or
	// handed back, also when everybody who waited has gone.
	detached context.Context //nolint:containedctx // lasts as long as the leases

	stopRenewing context.CancelFunc
	renewing     sync.WaitGroup
	// kept means that they are renewed although everybody has gone who waited.
	kept atomic.Bool

	mu   sync.Mutex
	held []lease // guarded by mu
}

// lease is the lease of one key.
type lease struct {
	key string
	id  soracache.Lease // zero: none is held, or the service was told of its end
	// lost means that it is not to be renewed any more: it is lost, or being filled.
	lost bool
	// outcome is what became of the load, if the lease is handed back.
	outcome soracache.LoadOutcome
}

// hold takes over the leases that came with answers, and begins to renew them. The
// outcome is what became of the loads if nothing else is said.
func (r *run[T]) hold(ctx context.Context, items []*item[T], outcome soracache.LoadOutcome) *leases {
	l := &leases{client: r.client, schema: r.kind.schema, detached: context.WithoutCancel(ctx), held: make([]lease, len(items))}
	lasts, some := soracache.MaxLease, false
	for i, it := range items {
		l.held[i] = lease{key: it.key, id: it.owed, outcome: outcome}
		if it.owed == (soracache.Lease{}) {
			continue
		}
		it.owed, some = soracache.Lease{}, true
		if it.answer.LeaseFor <= 0 {
			lasts = min(lasts, soracache.DefaultLease)
		} else {
			lasts = min(lasts, it.answer.LeaseFor)
		}
	}
	if !some {
		l.stopRenewing = func() {}
		return l
	}
	var renewing context.Context
	renewing, l.stopRenewing = context.WithTimeout(l.detached, maxHold)
	l.renewing.Go(func() { l.renew(renewing, ctx, lasts) })
	return l
}

// leastRenewal is how often a lease is renewed at most, whatever the service says that
// it lasts.
const leastRenewal = 10 * time.Millisecond

// renew extends the leases well before they run out, so that a lost answer or two
// do no harm. That ends with the context of those who wait, unless the leases are kept.
func (l *leases) renew(ctx, waiting context.Context, lasts time.Duration) {
	ticker := time.NewTicker(max(lasts/3, leastRenewal))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if waiting.Err() != nil && !l.kept.Load() {
			continue
		}
		at, writes := l.renewals()
		for i, result := range l.client.writeMany(ctx, l.client.timeout, writes, nil) {
			if result.Err == nil && !result.Stored {
				l.lose(at[i]) // or superseded: the fill will be told
			}
		}
	}
}

func (l *leases) renewals() (at []int, writes []soracache.Write) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, h := range l.held {
		if h.id != (soracache.Lease{}) && !h.lost {
			at = append(at, i)
			writes = append(writes, soracache.Write{Op: soracache.OpRenew, Key: h.key, Schema: l.schema, Lease: h.id})
		}
	}
	return at, writes
}

// lose has a lease renewed no longer.
func (l *leases) lose(at int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[at].lost = true
}

// holds tells whether a lease is held that the service was not told the end of.
func (l *leases) holds(at int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[at].id != soracache.Lease{}
}

// settle says what became of a load, for when its lease is handed back.
func (l *leases) settle(at int, outcome soracache.LoadOutcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[at].outcome = outcome
}

// fill completes leases with entries, within so much time: more, if behind says that
// nobody waits for it, as long as it makes progress. They are renewed meanwhile. Then
// it hands back those of which that fails: who is waited for no longer than so much, and
// nobody where the service did not answer. It tells what became of each, and whether
// all was in time.
func (l *leases) fill(limit, storing time.Duration, behind bool, fills []fill) (results []soracache.WriteResult, inTime bool) {
	ctx, began := l.detached, time.Now()
	if behind {
		l.kept.Store(true)
	} else {
		bounded, cancel := context.WithTimeout(ctx, limit) // which is not put off
		defer cancel()
		ctx = bounded
	}
	writes, asked := make([]soracache.Write, len(fills)), make([]*near.Inflight, len(fills))
	l.mu.Lock()
	for i, f := range fills {
		h := &l.held[f.at]
		h.lost = h.lost || !behind
		writes[i] = soracache.Write{Op: soracache.OpFill, Key: h.key, Schema: l.schema, Lease: h.id, Entry: f.entry, Lifetime: f.lifetime}
		asked[i] = f.asked
	}
	l.mu.Unlock()
	results = l.client.writeMany(ctx, limit, writes, asked)
	inTime = behind || time.Since(began) < limit
	var refused, unanswered []int
	for i := range results {
		switch err := results[i].Err; {
		case err == nil:
			l.forget(fills[i].at)
		case refusal(err):
			l.settle(fills[i].at, soracache.LoadNotStorable)
			refused = append(refused, fills[i].at)
		default: // there is nothing to say about the load
			l.settle(fills[i].at, soracache.LoadHandedBack)
			unanswered = append(unanswered, fills[i].at)
		}
	}
	inTime = l.release(storing, refused...) && inTime
	l.release(0, unanswered...)
	return results, inTime
}

// fill is what one lease is to be completed with.
type fill struct {
	at       int
	entry    soracache.Entry
	lifetime soracache.Lifetime
	asked    *near.Inflight
}

// forget notes that the service was told of the end of a lease.
func (l *leases) forget(at int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[at].id = soracache.Lease{}
}

// outcomeOf is what became of a load whose loader returned so, if nothing of it is
// stored. That everybody has gone who wanted it is no failure of the loader's, nor is
// that its source was spared.
func outcomeOf(ctx context.Context, err error) soracache.LoadOutcome {
	switch {
	case err == nil || errors.Is(err, ErrNotFound):
		return soracache.LoadNotStorable
	case ctx.Err() != nil, rejected(err):
		return soracache.LoadHandedBack
	}
	return soracache.LoadFailed
}

// release hands back leases that are held, with what became of the loads, so that
// whoever waits need not wait for them to run out. That has a time of its own, of which
// the caller waits for so much: what it had may be spent. It tells whether that was
// enough.
func (l *leases) release(limit time.Duration, which ...int) (inTime bool) {
	if len(which) == 0 {
		return true
	}
	writes := make([]soracache.Write, 0, len(which))
	l.mu.Lock()
	for _, at := range which {
		if h := &l.held[at]; h.id != (soracache.Lease{}) {
			writes = append(writes, soracache.Write{Op: soracache.OpRelease, Key: h.key, Schema: l.schema, Lease: h.id, Outcome: h.outcome})
			h.id = soracache.Lease{}
		}
	}
	l.mu.Unlock()
	return len(writes) == 0 || l.client.behind(limit, func(limit time.Duration) {
		beside := time.Duration(len(writes)-1) * 10 * time.Millisecond // they are one request each
		l.client.writeMany(l.detached, limit+beside, writes, nil)
	})
}

// end stops renewing, and hands back what is still held.
func (l *leases) end(limit time.Duration) (inTime bool) {
	l.stopRenewing()
	l.renewing.Wait()
	var all []int
	for at := range l.held {
		if l.holds(at) {
			all = append(all, at)
		}
	}
	return l.release(limit, all...)
}
