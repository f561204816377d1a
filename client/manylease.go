package client

import (
	"context"
	"sync"
	"time"

	"github.com/soracache/soracache"
)

// manyLeases are the leases of one load of many keys. One goroutine renews them,
// until each is filled, released or lost.
type manyLeases struct {
	client *Client
	schema string
	// detached has the load's values but not its end: see lease.detached.
	detached context.Context //nolint:containedctx // lasts as long as the leases

	stopRenewing context.CancelFunc
	renewing     sync.WaitGroup

	mu   sync.Mutex
	held map[string]soracache.Lease // by key; guarded by mu
	lost map[string]struct{}        // not to be renewed any more; guarded by mu
}

// holdMany begins to renew the leases that came with answers.
func holdMany[T any](ctx context.Context, c *Client, schema string, claims []claim[T]) *manyLeases {
	l := &manyLeases{client: c, schema: schema, detached: context.WithoutCancel(ctx), held: make(map[string]soracache.Lease, len(claims))}
	lasts := soracache.MaxLease
	for i := range claims {
		granted := &claims[i].granted
		if granted.Lease == (soracache.Lease{}) {
			continue
		}
		l.held[claims[i].key] = granted.Lease
		if granted.LeaseFor <= 0 {
			lasts = min(lasts, soracache.DefaultLease)
		} else {
			lasts = min(lasts, granted.LeaseFor)
		}
	}
	ctx, l.stopRenewing = context.WithTimeout(l.detached, maxHold)
	if len(l.held) > 0 {
		l.renewing.Go(func() { l.renew(ctx, lasts) })
	}
	return l
}

// grants are leases that nobody holds yet, by key.
type grants map[string]soracache.Lease

// grantsOf are those that came with answers.
func grantsOf(keys []string, answers []soracache.ReadResult) grants {
	g := make(grants)
	for i := range answers {
		if id := answers[i].Lease; id != (soracache.Lease{}) {
			g[keys[i]] = id
		}
	}
	return g
}

// hold begins to renew leases that came with answers of the run.
func (m *many[T]) hold(ctx context.Context, claims []claim[T]) *manyLeases {
	m.disown(claims)
	return holdMany(ctx, m.client, m.kind.schema, claims)
}

// disown notes that somebody has taken leases over.
func (m *many[T]) disown(claims []claim[T]) {
	for i := range claims {
		delete(m.owed, claims[i].key)
	}
}

// handBack hands back what nobody has taken over.
func (m *manyCall[T]) handBack(ctx context.Context, owed grants) {
	if len(owed) == 0 {
		return
	}
	claims := make([]claim[T], 0, len(owed))
	for key, id := range owed {
		claims = append(claims, claim[T]{loading: m.of(key), granted: soracache.ReadResult{Lease: id}})
	}
	holdMany(ctx, m.client, m.kind.schema, claims).end(m.patience())
}

// renew extends the leases well before they run out, so that a lost answer or two
// do no harm.
func (l *manyLeases) renew(ctx context.Context, lasts time.Duration) {
	ticker := time.NewTicker(renewalOf(lasts))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		writes := l.writes(soracache.OpRenew)
		for i, result := range l.client.writeMany(ctx, l.client.timeout, writes, nil) {
			if result.Err == nil && !result.Stored {
				l.lose(writes[i].Key) // or overtaken: the fill will be told
			}
		}
	}
}

// writes are the same to all leases that are held. Those that are lost are not
// renewed.
func (l *manyLeases) writes(op soracache.WriteOp) []soracache.Write {
	l.mu.Lock()
	defer l.mu.Unlock()
	writes := make([]soracache.Write, 0, len(l.held))
	for key, id := range l.held {
		if _, lost := l.lost[key]; !lost || op != soracache.OpRenew {
			writes = append(writes, soracache.Write{Op: op, Key: key, Schema: l.schema, Lease: id})
		}
	}
	return writes
}

func (l *manyLeases) lose(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost == nil {
		l.lost = make(map[string]struct{})
	}
	l.lost[key] = struct{}{}
}

// of returns the lease of a key, which is held on until it is given up.
func (l *manyLeases) of(key string) (id soracache.Lease, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id, ok = l.held[key]
	return id, ok
}

// ended notes that the service was told of the end of a lease.
func (l *manyLeases) ended(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, key)
}

// release hands back some leases, with what became of the loads, so that whoever
// waits need not wait for them to run out. It tells whether so much time was enough.
func (l *manyLeases) release(limit time.Duration, outcomes map[string]soracache.LoadOutcome) (inTime bool) {
	writes := make([]soracache.Write, 0, len(outcomes))
	for key, outcome := range outcomes {
		if id, ok := l.of(key); ok {
			writes = append(writes, soracache.Write{Op: soracache.OpRelease, Key: key, Schema: l.schema, Lease: id, Outcome: outcome})
			l.ended(key)
		}
	}
	return l.writeBehind(limit, writes)
}

// writeBehind does releases in a time of their own, of which the caller waits for so
// much, and tells whether that was enough.
func (l *manyLeases) writeBehind(limit time.Duration, writes []soracache.Write) (inTime bool) {
	return len(writes) == 0 || l.client.behind(limit, func(limit time.Duration) {
		l.client.writeMany(l.detached, limit+timeOf(writes), writes, nil)
	})
}

// timeOf is what a number of releases may take beside the first: they are one
// request each.
func timeOf(writes []soracache.Write) time.Duration {
	return time.Duration(len(writes)) * 10 * time.Millisecond
}

// end stops renewing, and hands back what is still held.
func (l *manyLeases) end(limit time.Duration) {
	l.stopRenewing()
	l.renewing.Wait()
	l.writeBehind(limit, l.writes(soracache.OpRelease))
}
