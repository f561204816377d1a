package client

import (
	"context"
	"errors"
	"time"

	"github.com/soracache/soracache"
)

// step is what is to be done about a key.
type step uint8

const (
	stepAsk   step = iota // it is to be asked for
	stepUse               // what was found is good
	stepWait              // somebody else loads it
	stepLoad              // it is to be loaded: under the lease that came with the answer, or without being stored
	stepSpare             // it could not be asked for, and the loader is to be left alone
	stepFail              // the request can never be right
)

// question is what is asked about a key next. A key whose loader failed a moment ago is
// asked for without its lease, if another value may stand in for it. So is one whose
// source cannot be asked now.
func (r *run[T]) question(ctx context.Context, it *item[T], wait time.Duration) soracache.Read {
	it.blocked = nil
	if it.replacing > 0 {
		it.asked.Wait = wait
		return it.asked
	}
	lease := it.unsparing || !r.throttling(it.key)
	if lease {
		it.blocked = r.blocked(ctx, it, wait)
	}
	return soracache.Read{
		Key: it.key, Schema: r.kind.schema, Wait: wait, RefreshWithin: r.refreshWithin(it.key),
		Lease: lease && it.blocked == nil,
	}
}

// classify decides what the answer to a question means. It reads the value, and says
// why a key is to be loaded without a lease.
func (r *run[T]) classify(it *item[T]) step {
	answer := &it.answer
	leased := answer.Lease != soracache.Lease{}
	it.there, it.why, it.down, it.leased = nil, nil, false, false
	switch {
	case answer.Err == nil:
	case errors.Is(answer.Err, soracache.ErrInvalid) && it.replacing == 0:
		return stepFail
	default:
		if it.why, it.down = errServiceDown, true; !it.asked.Lease {
			return stepSpare
		}
		return stepLoad
	}
	if r.warming && !leased { // nobody wants to know the value
		if answer.Status == soracache.StatusHit {
			return stepUse
		}
		return stepWait
	}
	if it.there = r.read(it); it.there != nil {
		return r.classifyFound(it, leased)
	}
	it.replaces = answer.Status != soracache.StatusMiss
	switch {
	case leased && it.replaces && !r.mayReplace(it):
		return r.loadAside(it, errReplaced)
	case leased:
		it.leased = true
		return stepLoad
	case it.blocked != nil: // which is decided before it is loaded
		return stepLoad
	case !it.asked.Lease && it.replacing == 0:
		it.unsparing = true
		return stepAsk
	case it.replaces:
		return r.askToReplace(it)
	case waitable(answer):
		return stepWait
	}
	it.why = whyNoLease(answer)
	return stepLoad
}

// classifyFound is classify for an answer with a value that can be read.
func (r *run[T]) classifyFound(it *item[T], leased bool) step {
	p, fresh := &r.settings.policy, it.there.fresh()
	switch {
	case leased && it.replacing > 0 && fresh: // somebody has replaced what could not be read
		return stepUse
	case leased:
		it.replaces, it.leased = false, true
		return stepLoad
	case it.blocked != nil && !fresh && !r.useBlocked(it):
		return stepLoad
	case it.blocked != nil:
		return stepUse
	case !it.asked.Lease && -it.there.freshFor > max(p.FailSafe, p.StaleWhileRevalidate):
		it.unsparing = true
		return stepAsk
	case it.asked.Lease && r.unattended(it):
		it.why = whyNoLease(&it.answer)
		return stepLoad
	}
	return stepUse
}

// loadAside has a key loaded without replacing its entry, if anybody wants its value.
func (r *run[T]) loadAside(it *item[T], why error) step {
	if r.warming {
		return stepWait
	}
	it.why = why
	return stepLoad
}

// read returns the value of an answer; nil: it has none that can be read.
func (r *run[T]) read(it *item[T]) *found[T] {
	return r.decoded(it.key, &it.answer, it.replacing == 0)
}

// waitable tells whether there is somebody to wait for: only a lease that is held
// is worth it.
func waitable(answer *soracache.ReadResult) bool {
	return answer.Status == soracache.StatusMiss && answer.LeaseState == soracache.LeaseHeld
}

// unattended tells whether a value is stale that nobody refreshes, because no
// lease can be given, and that may not be served for that reason.
func (r *run[T]) unattended(it *item[T]) bool {
	return it.answer.LeaseState == soracache.LeaseRefused && !it.there.fresh() && !r.settings.policy.revalidates(it.there.freshFor)
}

// An entry may be live and yet be of no use here: another version of the
// application stored it, or a cache of another type, under another codec. To this
// process it is a miss. The process asks for the lease beside the entry, loads, and
// stores its value in the entry's place. Nothing is invalidated, so whoever can
// read the entry goes on reading it until then.
//
// Two versions that cannot read each other's values would replace them in turns.
// So a process replaces an entry of a key no more often than every replaceEvery;
// meanwhile its loader runs for those who call, and nothing is stored.
//
// Nobody waits for somebody else who holds the lease beside such an entry: what
// that one stores may be as unreadable, and the holders are not told apart. Each
// process then loads once, as if it were alone.

// replaceEvery is how long a process leaves the entry of a key alone that it cannot
// read, after it has replaced one.
const replaceEvery = 10 * time.Second

// maxQuestions is how often one run asks about an entry that it cannot read: what
// a node remembers of it may be older than what the store has.
const maxQuestions = 3

// mayReplace tells whether an entry that cannot be read may be replaced now. One
// past its TTL always may.
func (r *run[T]) mayReplace(it *item[T]) bool {
	return it.answer.FreshFor <= 0 || !r.client.replaced.Has(r.name(it.key), r.client.now())
}

// name is what the entry of a key stands under in the schema.
func (c *call[T]) name(key string) string { return soracache.Name(c.kind.schema, key) }

// askToReplace has a question, whose answer has an entry that cannot be read, asked once
// more: for the lease beside it. If that was asked for in vain, or is not to be
// asked for, the key is loaded without replacing its entry.
func (r *run[T]) askToReplace(it *item[T]) step {
	if !r.mayReplace(it) {
		return r.loadAside(it, errReplaced)
	}
	inVain := it.asked.Lease && (it.asked.RefreshWithin >= it.answer.FreshFor || it.answer.LeaseState != soracache.LeaseNone)
	if inVain || it.replacing+1 >= maxQuestions {
		return r.loadAside(it, whyNoLease(&it.answer))
	}
	// What asks alike travels together, so the policy's time is better than what is
	// left of each entry's.
	within := min(r.settings.policy.ttl(), LongestKeep)
	it.asked.Lease, it.asked.RefreshWithin = true, max(within, it.asked.RefreshWithin, it.answer.FreshFor)
	it.replacing++
	return stepAsk
}

// askAlike makes the questions alike that ask for leases beside entries which cannot be
// read.
func askAlike[T any](items []*item[T]) {
	var within time.Duration
	for _, it := range items {
		if it.replacing > 0 {
			within = max(within, it.asked.RefreshWithin)
		}
	}
	for _, it := range items {
		if it.replacing > 0 {
			it.asked.RefreshWithin = within
		}
	}
}
