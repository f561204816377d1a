package node

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// parking is where the readers of one key wait while somebody else holds its
// lease. When that may have ended, one of them reads again on behalf of all, and
// the others stay: at most one of them can be given the lease. Only what decides
// the read for everybody lets everybody out, and then each is judged for itself.
// So twenty thousand who wait cost the store one read now and then, and the node
// one goroutine.
type parking struct {
	key   uint64        // the hash of the key, whatever the schema
	open  chan struct{} // closed to let everybody out
	turn  chan struct{} // has room for one: whoever takes it is to read for all
	timer *time.Timer   // of the next turn

	// Guarded by the partition's mu.
	waiting int  // those inside
	out     bool // a turn was given, and what it brought is not known yet
	again   bool // the lease has ended since it was given
	closed  bool
	turns   int           // without the lease ending, so far as is heard of
	lost    int           // how often an invalidation ended the lease
	ends    time.Duration // when the lease ends at the latest, on the node's clock
}

// leftPark says how a reader left a parking lot.
type leftPark struct {
	gone, draining bool // its context ended; the node is draining
	// lost is how often an invalidation ended the lease meanwhile.
	lost int
	// turns is how many turns were given without the lease ending: where a lot is
	// begun anew, its polls go on from there.
	turns int
	// lot is set if the reader is to read for all. What it found is to be told by
	// scouted.
	lot *parking
}

// woken says why the readers of a key are woken.
type woken uint8

const (
	wokenRead   woken = iota // the lease has ended
	wokenPassed              // it has, and its load left nothing: nobody waits any more
	wokenLost                // an invalidation ended it, or beat its fill
)

// Polls begin at pollFirst and grow by three tenths each time, to pollMost, so that
// who has waited for long learns of the end a third of that later at most. They are
// what wakes readers on other nodes when the notice of the one that took the fill is
// lost, or nodes tell each other nothing. A node asks for no more than pollsPerSecond
// keys, however many are waited for, of whichever namespaces: beyond that it takes
// longer.
const (
	pollFirst      = 10 * time.Millisecond
	pollMost       = time.Second
	pollsPerSecond = 500

	// Where more keys than pollTogether are waited for, they are polled at the same
	// moments, so that their reads travel together.
	pollTogether = 64
	pollTick     = 100 * time.Millisecond
)

// parkedUnder notes, or forgets, that somebody is parked under a name. It holds mu.
func (p *partition) parkedUnder(lot *parking, hash uint64, is bool) {
	if lot.key == hash {
		return // the default schema
	}
	rest := slices.DeleteFunc(p.parkedIn[lot.key], func(other uint64) bool { return other == hash })
	if is {
		rest = append(rest, hash)
	}
	if p.parkedIn[lot.key] = rest; len(rest) == 0 {
		delete(p.parkedIn, lot.key)
	}
}

// park waits until the reader is to read again, but no longer than most. It does
// not wait if the lease is heard to have ended after the question was asked which
// told that it is held.
func (p *partition) park(ctx context.Context, key string, h held, turns int, most time.Duration) leftPark {
	hash := invalidation.KeyHash(key)
	ofKey := hash
	if bare := soracache.KeyOf(key); bare != key {
		ofKey = invalidation.KeyHash(bare)
	}
	p.mu.Lock()
	if p.endedSince(hash, h.ends) || p.endedSince(ofKey, h.ends) {
		p.mu.Unlock()
		return leftPark{}
	}
	lot := p.parked[hash]
	if lot == nil {
		lot = &parking{key: ofKey, open: make(chan struct{}), turn: make(chan struct{}, 1), turns: turns}
		p.parked[hash] = lot
		p.parkedUnder(lot, hash, true)
		p.node.lots.Add(1)
		lot.ends = p.node.now() + h.left
		lot.timer = time.AfterFunc(p.poll(lot), func() { p.due(lot) })
	}
	lot.waiting++
	lost := lot.lost
	p.mu.Unlock()
	end := time.NewTimer(most)
	defer end.Stop()
	var left leftPark
	mine := false
	select {
	case <-lot.open:
	case <-lot.turn:
		mine = true
	case <-end.C:
	case <-p.node.draining:
		left.draining = true
	case <-ctx.Done():
		left.gone = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	lot.waiting--
	left.lost, left.turns = lot.lost-lost, lot.turns
	if mine {
		left.lot = lot
	} else {
		p.abandon(hash, lot)
	}
	return left
}

// poll returns when the next turn is due, if nothing is heard. It holds mu.
func (p *partition) poll(lot *parking) time.Duration {
	poll := pollFirst
	for i := 0; i < lot.turns && poll < pollMost; i++ {
		poll += poll * 3 / 10
	}
	poll = min(poll, pollMost)
	lots := p.node.lots.Load()
	poll = max(poll, time.Duration(lots)*time.Second/pollsPerSecond)
	poll = poll*3/4 + p.node.upTo(poll/2)
	if now := p.node.now(); lots > pollTogether {
		poll += pollTick - (now+poll)%pollTick
	}
	return max(min(poll, lot.ends-p.node.now()), time.Millisecond)
}

// due gives a turn because it is time.
func (p *partition) due(lot *parking) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !lot.out && !lot.closed {
		lot.turns++
		lot.give()
	}
}

// give has somebody read for all. It holds the partition's mu.
func (lot *parking) give() {
	lot.timer.Stop()
	lot.out, lot.again = true, false
	lot.turn <- struct{}{}
}

// scouted takes in what a reader found that read for all.
func (p *partition) scouted(ctx context.Context, key string, lot *parking, res *soracache.ReadResult, h held) {
	if lot == nil {
		return
	}
	hash := invalidation.KeyHash(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	lot.out = false
	leased := res.Lease != (soracache.Lease{})
	switch {
	case lot.closed:
		return
	case h.left <= 0 && !leased && ctx.Err() == nil:
		p.letOut(hash, lot)
		return
	case ctx.Err() != nil && h.left <= 0: // it has found nothing out
		lot.again = true
	case leased:
		lot.ends = p.node.now() + res.LeaseFor
	default:
		lot.ends = p.node.now() + h.left
	}
	if p.abandon(hash, lot) {
		return
	}
	if lot.again {
		lot.give()
		return
	}
	lot.timer.Reset(p.poll(lot))
}

// letOut lets everybody out. It holds mu.
func (p *partition) letOut(hash uint64, lot *parking) {
	lot.closed = true
	lot.timer.Stop()
	delete(p.parked, hash)
	p.parkedUnder(lot, hash, false)
	p.node.lots.Add(-1)
	close(lot.open)
}

// abandon ends a parking lot in which nobody is left, and tells whether it did. It
// holds mu.
func (p *partition) abandon(hash uint64, lot *parking) bool {
	if lot.closed || lot.waiting > 0 {
		return lot.closed
	}
	select {
	case <-lot.turn: // which nobody took
		lot.out = false
	default:
	}
	if lot.out {
		return false // whoever is out comes back
	}
	p.letOut(hash, lot)
	return true
}

// wake has the readers of a name read again: one of them for all, unless each is to
// go its own way, because they have lost so often or the load left nothing.
func (p *partition) wake(key string, why woken) { p.wakeHash(invalidation.KeyHash(key), why) }

// wakeKey has the readers of a key read again, in whichever schema: a record of it
// has ended all their leases.
func (p *partition) wakeKey(key string, why woken) {
	p.wake(key, why)
	p.wakeSchemas(key, invalidation.KeyHash(key), why)
}

// wakeOthers does so after a put, for the readers of the key in other schemas.
func (p *partition) wakeOthers(name string) {
	key := soracache.KeyOf(name)
	if key != name {
		p.wake(key, wokenLost)
	}
	p.wakeSchemas(key, invalidation.KeyHash(name), wokenLost)
}

// wakeSchemas wakes the readers of a key in other schemas than the default one, but
// for those of one name.
func (p *partition) wakeSchemas(key string, but uint64, why woken) {
	hash := invalidation.KeyHash(key)
	p.mu.Lock()
	p.noteEnd(hash)
	names := slices.Clone(p.parkedIn[hash])
	p.mu.Unlock()
	for _, name := range names {
		if name != but {
			p.wakeHash(name, why)
		}
	}
}

// mostEnds bounds how many keys are remembered whose lease has ended, for those who
// are about to park. When they are forgotten, whoever is about to reads again.
const mostEnds = 1024

// noteEnd notes that the lease of a name has ended, or those of a key. It holds mu.
func (p *partition) noteEnd(hash uint64) {
	if len(p.endOf) >= mostEnds {
		p.noteEnds()
	}
	p.ends++
	p.endOf[hash] = p.ends
}

// noteEnds notes that any lease may have ended. It holds mu.
func (p *partition) noteEnds() {
	p.ends++
	p.endOfRest = p.ends
	clear(p.endOf)
}

// endedSince tells whether a lease may have ended since the partition's ends were so
// many. It holds mu.
func (p *partition) endedSince(hash, ends uint64) bool {
	return max(p.endOf[hash], p.endOfRest) > ends
}

func (p *partition) wakeHash(hash uint64, why woken) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Also for those who have been told that it is held, and come now: whoever waits
	// at this moment may be gone by then, and nobody left to read for them.
	p.noteEnd(hash)
	lot := p.parked[hash]
	if lot == nil {
		return
	}
	lot.turns = 0
	if why == wokenLost {
		lot.lost++
	}
	switch {
	case lot.lost >= maxLost, why == wokenPassed:
		p.letOut(hash, lot)
	case lot.out:
		lot.again = true
	default:
		lot.give()
	}
}

// wakeAll does the same for all keys.
func (p *partition) wakeAll(why woken) {
	p.mu.Lock()
	p.noteEnds()
	all := slices.Sorted(maps.Keys(p.parked))
	p.mu.Unlock()
	for _, hash := range all {
		p.wakeHash(hash, why)
	}
}
