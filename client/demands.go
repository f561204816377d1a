package client

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/stamps"
)

// Callers share a load whatever stamps they carry: a demand never splits one. What
// the load is made for is its key alone, so:
//
//  1. A load that a caller begins for itself asks for what its context carries. It
//     may, for nobody else can be a part of it.
//  2. A load that several callers wait for asks for what the client has seen. So
//     nobody's stamp has it miss what does for the others, were it made up.
//  3. Each of them compares the outcome with its own stamp (reflects). What the store
//     itself answered, or a loader computed, is nearly always enough: it began after
//     they came, and so after whatever their stamps speak of.
//  4. For whom it is not, a node's memory was behind. They share one more load, which
//     asks for all that any of them carries (demands).
//  5. Whoever is not served by that either, because lives of the ledger contradict
//     each other or the store is behind, asks for itself.

// demands are what the callers carry who wait for keys: the stamps of each key,
// merged. The zero value has none.
type demands struct {
	mu sync.Mutex
	of map[string]*demand // guarded by mu
}

type demand struct {
	callers int
	stamp   stamps.Stamp
}

// add notes a caller who waits for a key, if it carries anything.
func (d *demands) add(key string, s stamps.Stamp) (leave func()) {
	if s.IsZero() {
		return func() {}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.of[key]
	if all == nil {
		if d.of == nil {
			d.of = make(map[string]*demand)
		}
		all = &demand{}
		d.of[key] = all
	}
	all.callers++
	all.stamp = all.stamp.Merge(s)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if all.callers--; all.callers == 0 {
			delete(d.of, key)
		}
	}
}

// merged is what those carry who wait for a key now.
func (d *demands) merged(key string) stamps.Stamp {
	d.mu.Lock()
	defer d.mu.Unlock()
	if all := d.of[key]; all != nil {
		return all.stamp
	}
	return stamps.Stamp{}
}

// The ways in which callers share a load, in the order in which they try them. Each
// has flights of its own.
const (
	sharePlain    = iota // what the client has seen is asked for
	shareDemands         // and what any of the callers carries
	shareOneStamp        // with those who carry the same

	shareWays
)

// sharedSuffix is what follows the key in the name of what callers share who try it
// in one of these ways. Any bytes may be in a key, so what is not empty ends in its
// own length.
func sharedSuffix(way int, more soracache.Stamps) string {
	if way != shareOneStamp {
		return ""
	}
	encoded := more.Encode()
	return string(binary.BigEndian.AppendUint32(encoded, uint32(len(encoded)))) //nolint:gosec // a few kilobytes at most
}

// carriedBy returns the context of a load for several callers, which carries all that
// theirs do instead of what the first one's does. Of the client's own namespace that is
// nothing, unless it is to be asked for.
func (c *Client) carriedBy(ctx context.Context, way int, all stamps.Stamp) context.Context {
	switch way {
	case shareOneStamp:
		return ctx // the same for all of them
	case sharePlain:
		all = all.Without(c.namespace)
	}
	return stamps.Only(ctx, all)
}

// reflects tells whether an outcome will do for a caller who carries so much more
// than the client has seen. The load that brought it began after the caller came.
func (o *outcome[T]) reflects(more soracache.Stamps) bool {
	switch {
	case len(more) == 0, o.pure:
		return true
	case len(o.proofs) == 0, o.how.Loaded && o.taint != nil:
		return false // what it was computed from may be older
	}
	for _, proof := range o.proofs {
		for _, p := range proof {
			want, ok := more.At(p.Partition)
			switch {
			case !ok:
			case want.Epoch != p.Stamp.Epoch:
				// Epochs have no order, and the store is exact whatever is asked for.
				if o.how.Tier != soracache.TierL2 {
					return false
				}
			case want.Position > p.Stamp.Position:
				return false
			}
		}
	}
	return true
}

// carrying is what contexts carry of a client's namespace.
type carrying struct {
	namespace string
	client    *Client
}

// Carried is what a context carries.
func (c carrying) Carried(ctx context.Context) soracache.Stamps {
	return stamps.From(ctx).In(c.namespace)
}

// Leased is what the lease reflects under which the loader runs that a context belongs to.
func (c carrying) Leased(ctx context.Context) soracache.Stamps {
	if fill := LoadContextFrom(ctx); fill != nil && fill.leased && fill.client == c.client {
		return fill.stamp
	}
	return nil
}

// Carry has a context carry what was seen under it.
func (c carrying) Carry(ctx context.Context, seen soracache.Stamps) {
	stamps.Note(ctx, c.namespace, seen)
}
