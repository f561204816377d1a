// Package parking is where readers wait while somebody else holds the lease of
// their key.
//
// When the lease may have ended, one of those who wait for a key reads again on
// behalf of all, and the others stay: at most one of them can be given the next
// lease. Only what decides the read for everybody lets everybody out, and then each
// is judged for itself. So twenty thousand who wait cost the store one read now and
// then, and the node one goroutine.
//
// The package decides who reads when. It does not read, and it never hands over a
// value: whoever leaves is to read under the rule.
package parking

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// Shared is what all [Readers] of a node have in common. Its exported fields are not
// changed after the first use.
type Shared struct {
	// Now is the node's monotonic clock.
	Now func() time.Duration
	// UpTo returns a random duration from nothing up to a bound.
	UpTo func(most time.Duration) time.Duration
	// Draining is closed when nobody is to wait any more.
	Draining <-chan struct{}

	lots atomic.Int64 // keys that readers are parked for
}

// Readers are those who are parked in one partition. It is safe for concurrent use.
// It holds its lock while it calls what Shared has, and calls nothing else.
type Readers struct {
	shared *Shared

	// mu guards what follows, and the fields of a lot.
	mu   sync.Mutex
	lots map[uint64]*lot // by the name's hash
	// names holds, by the hash of a key, under which names of other schemas somebody
	// is parked.
	names map[uint64][]uint64
	// ends counts how often this node heard that leases ended, and endOf holds what
	// it was when that of a key did, by the name's hash. endOfRest holds it for all
	// others: since a clear, or since something was forgotten. They are for those
	// who are about to park.
	ends, endOfRest uint64
	endOf           map[uint64]uint64
}

// New returns a partition's parked readers: nobody yet.
func New(s *Shared) *Readers {
	return &Readers{shared: s, lots: map[uint64]*lot{}, names: map[uint64][]uint64{}, endOf: map[uint64]uint64{}}
}

// lot is where the readers of one name wait. Its fields are guarded by the mu of its
// Readers, but for those that are not changed.
type lot struct {
	in    *Readers      // not changed
	hash  uint64        // of the name; not changed
	key   uint64        // the hash of the key, whatever the schema; not changed
	open  chan struct{} // closed to let everybody out
	turn  chan struct{} // has room for one: whoever takes it is to read for all
	timer *time.Timer   // of the next turn

	waiting int  // those inside
	out     bool // a turn was given, and what it brought is not known yet
	again   bool // the lease has ended since it was given
	closed  bool
	turns   int           // without the lease ending, so far as is heard of
	lost    int           // how often an invalidation ended the lease
	ends    time.Duration // when the lease ends at the latest, on the node's clock
}

// Held says that somebody else holds a key's lease. The zero value says that nobody
// does.
type Held struct {
	// For is how long that may last at most.
	For time.Duration
	// Ends is what [Readers.Ends] was before the question was sent that told it.
	Ends uint64
}

// Left says how a reader left.
type Left struct {
	// Gone means that its context ended, and Draining that nobody is to wait.
	Gone, Draining bool
	// Lost is how often an invalidation ended the lease meanwhile.
	Lost int
	// Turns is how many turns were given without the lease ending. It is to be handed
	// in when the reader parks again: where it begins to wait anew, its polls go on
	// from there.
	Turns int
	// Turn is set if the reader is to read for all. What it found is to be told to it.
	Turn *Turn
}

// Turn is the right to read for all who are parked for a name. Whoever has it calls
// one of its methods, once. All do nothing for a nil one.
type Turn lot

// Why says why readers are woken.
type Why uint8

const (
	// Ended means that the lease has ended.
	Ended Why = iota
	// Passed means that it has, and its load left nothing: nobody waits any more.
	Passed
	// Lost means that an invalidation ended it, or superseded its fill.
	Lost
)

// MostLost is how many rounds a reader loses to invalidations before it is not to
// wait any more.
const MostLost = 2

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

// Ends counts how often leases were heard to end. Take it before a question is sent
// that may tell that a lease is held.
func (rs *Readers) Ends() uint64 {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.ends
}

// Park waits until the reader of a name is to read again, but no longer than most. It
// does not wait if the lease is heard to have ended after the question was asked which
// told that it is held. Turns is what the reader was told when it left before.
func (rs *Readers) Park(ctx context.Context, name string, h Held, turns int, most time.Duration) Left {
	l, lost := rs.enter(name, h, turns)
	if l == nil {
		return Left{}
	}
	end := time.NewTimer(most)
	defer end.Stop()
	var left Left
	mine := false
	select {
	case <-l.open:
	case <-l.turn:
		mine = true
	case <-end.C:
	case <-rs.shared.Draining:
		left.Draining = true
	case <-ctx.Done():
		left.Gone = true
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	l.waiting--
	left.Lost, left.Turns = l.lost-lost, l.turns
	if mine {
		left.Turn = (*Turn)(l)
	} else {
		l.abandon()
	}
	return left
}

// enter lets a reader in where those of its name wait, unless it need not wait. It
// returns how often the lease was lost there before.
func (rs *Readers) enter(name string, h Held, turns int) (_ *lot, lost int) {
	hash := invalidation.KeyHash(name)
	ofKey := hash
	if bare := soracache.KeyOf(name); bare != name {
		ofKey = invalidation.KeyHash(bare)
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.endedSince(hash, h.Ends) || rs.endedSince(ofKey, h.Ends) {
		return nil, 0
	}
	l := rs.lots[hash]
	if l == nil {
		l = &lot{in: rs, hash: hash, key: ofKey, open: make(chan struct{}), turn: make(chan struct{}, 1), turns: turns}
		rs.lots[hash] = l
		l.listed(true)
		rs.shared.lots.Add(1)
		l.ends = rs.shared.Now() + h.For
		l.timer = time.AfterFunc(l.poll(), l.due)
	}
	l.waiting++
	return l, l.lost
}

// listed notes, or forgets, that somebody is parked under the name of a schema. mu is
// held.
func (l *lot) listed(is bool) {
	if l.key == l.hash {
		return // the default schema
	}
	names := l.in.names
	rest := slices.DeleteFunc(names[l.key], func(other uint64) bool { return other == l.hash })
	if is {
		rest = append(rest, l.hash)
	}
	if names[l.key] = rest; len(rest) == 0 {
		delete(names, l.key)
	}
}

// poll returns when the next turn is due, if nothing is heard. mu is held.
func (l *lot) poll() time.Duration {
	shared := l.in.shared
	poll := pollFirst
	for i := 0; i < l.turns && poll < pollMost; i++ {
		poll += poll * 3 / 10
	}
	poll = min(poll, pollMost)
	lots := shared.lots.Load()
	poll = max(poll, time.Duration(lots)*time.Second/pollsPerSecond)
	poll = poll*3/4 + shared.UpTo(poll/2)
	if now := shared.Now(); lots > pollTogether {
		poll += pollTick - (now+poll)%pollTick
	}
	return max(min(poll, l.ends-shared.Now()), time.Millisecond)
}

// due gives a turn because it is time.
func (l *lot) due() {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	if !l.out && !l.closed {
		l.turns++
		l.give()
	}
}

// give has somebody read for all. mu is held.
func (l *lot) give() {
	l.timer.Stop()
	l.out, l.again = true, false
	l.turn <- struct{}{}
}

// Decided says that what was read decides the read for everybody.
func (t *Turn) Decided() { t.end(func(l *lot) { l.letOut() }) }

// Held says that the lease is held, for so long at most: by somebody else, or by
// whoever has read.
func (t *Turn) Held(most time.Duration) {
	t.end(func(l *lot) {
		l.ends = l.in.shared.Now() + most
		l.next()
	})
}

// Nothing says that nothing was found out: somebody else is to read.
func (t *Turn) Nothing() {
	t.end(func(l *lot) {
		l.again = true
		l.next()
	})
}

// end ends a turn, unless everybody was let out meanwhile.
func (t *Turn) end(found func(*lot)) {
	if t == nil {
		return
	}
	l := (*lot)(t)
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	if l.out = false; !l.closed {
		found(l)
	}
}

// next gives the next turn, now or when it is due. mu is held.
func (l *lot) next() {
	switch {
	case l.abandon():
	case l.again:
		l.give()
	default:
		l.timer.Reset(l.poll())
	}
}

// letOut lets everybody out. mu is held.
func (l *lot) letOut() {
	l.closed = true
	l.timer.Stop()
	delete(l.in.lots, l.hash)
	l.listed(false)
	l.in.shared.lots.Add(-1)
	close(l.open)
}

// abandon ends a lot in which nobody is left, and tells whether it has ended. mu is
// held.
func (l *lot) abandon() bool {
	if l.closed || l.waiting > 0 {
		return l.closed
	}
	select {
	case <-l.turn: // which nobody took
		l.out = false
	default:
	}
	if l.out {
		return false // whoever is out comes back
	}
	l.letOut()
	return true
}

// Wake has the readers of a name read again: one of them for all, unless each is to
// go its own way, because they have lost so often or the load left nothing.
func (rs *Readers) Wake(name string, why Why) { rs.WakeHash(invalidation.KeyHash(name), why) }

// WakeKey has the readers of a key read again, in whichever schema: a record of it
// has ended all their leases.
func (rs *Readers) WakeKey(key string, why Why) {
	rs.Wake(key, why)
	rs.wakeSchemas(key, invalidation.KeyHash(key), why)
}

// WakeOthers does so after a put under a name, for the readers of its key in other
// schemas.
func (rs *Readers) WakeOthers(name string) {
	key := soracache.KeyOf(name)
	if key != name {
		rs.Wake(key, Lost)
	}
	rs.wakeSchemas(key, invalidation.KeyHash(name), Lost)
}

// wakeSchemas wakes the readers of a key in other schemas than the default one, but
// for those of one name.
func (rs *Readers) wakeSchemas(key string, but uint64, why Why) {
	hash := invalidation.KeyHash(key)
	rs.mu.Lock()
	rs.noteEnd(hash)
	names := slices.Clone(rs.names[hash])
	rs.mu.Unlock()
	for _, name := range names {
		if name != but {
			rs.WakeHash(name, why)
		}
	}
}

// mostEnds bounds how many keys are remembered whose lease has ended, for those who
// are about to park. When they are forgotten, whoever is about to reads again.
const mostEnds = 1024

// noteEnd notes that the lease of a name has ended, or those of a key. mu is held.
func (rs *Readers) noteEnd(hash uint64) {
	if len(rs.endOf) >= mostEnds {
		rs.noteEnds()
	}
	rs.ends++
	rs.endOf[hash] = rs.ends
}

// noteEnds notes that any lease may have ended. mu is held.
func (rs *Readers) noteEnds() {
	rs.ends++
	rs.endOfRest = rs.ends
	clear(rs.endOf)
}

// endedSince tells whether a lease may have ended since the ends were so many. mu is
// held.
func (rs *Readers) endedSince(hash, ends uint64) bool {
	return max(rs.endOf[hash], rs.endOfRest) > ends
}

// WakeHash is Wake for who knows the name's hash alone.
func (rs *Readers) WakeHash(hash uint64, why Why) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	// Also for those who have been told that it is held, and come now: whoever waits
	// at this moment may be gone by then, and nobody left to read for them.
	rs.noteEnd(hash)
	l := rs.lots[hash]
	if l == nil {
		return
	}
	l.turns = 0
	if why == Lost {
		l.lost++
	}
	switch {
	case l.lost >= MostLost, why == Passed:
		l.letOut()
	case l.out:
		l.again = true
	default:
		l.give()
	}
}

// WakeAll is Wake for all names.
func (rs *Readers) WakeAll(why Why) {
	rs.mu.Lock()
	rs.noteEnds()
	all := slices.Sorted(maps.Keys(rs.lots))
	rs.mu.Unlock()
	for _, hash := range all {
		rs.WakeHash(hash, why)
	}
}
