package node

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l1"
	"github.com/soracache/soracache/l2"
)

// local is an entry as L1 holds it. All but heldUntil is immutable.
type local struct {
	proof invalidation.Proof
	entry soracache.Entry
	stamp soracache.Stamp // the entry's own
	// On the node's clock: when the entry becomes stale, and when this copy
	// (by the entry's keep time or its cap for L1) and the entry itself end.
	freshUntil, until, keepUntil time.Duration
	// staleUntil is until when a stale copy is believed to be the newest.
	staleUntil time.Duration
	bytes      int // of memory, see footprint
	// heldUntil is until when no refresh lease need be asked for, because
	// somebody else was seen to hold it, or because it was refused, and why.
	heldUntil atomic.Int64
	refusal   soracache.Refusal
}

// size is how much memory an entry takes in L1.
func (c *local) size() int { return c.bytes }

// footprint counts what a local refers to, itself included. The value is the
// tail of the bytes that the store returned, so all of them are held; the tags
// are copies.
func (c *local) footprint(key string) int {
	bytes := l1.Footprint(int(unsafe.Sizeof(*c))) + l1.Footprint(c.proof.SlotBytes()) +
		l1.Footprint(l2.HeadBytes+l2.BodySize(key, c.entry)) +
		l1.Footprint(len(c.entry.Encoding)) + l1.Footprint(len(c.entry.ETag)) +
		l1.Footprint(len(c.entry.Tags)*int(unsafe.Sizeof("")))
	for _, t := range c.entry.Tags {
		bytes += l1.Footprint(len(t))
	}
	return bytes
}

// copies puts into L1 what reads and fills of one partition brought.
//
// What is on its way at the same time may arrive in any order, and nobody here knows
// which is the newer: an answer that comes late may be of a fill that others have
// followed. So of a fill and a read that were under way together, or of two fills,
// whichever is answered supersedes the others, and those are not kept:
//
//  1. a fill is sent, and so is a read; either may reach the store first
//  2. whichever is answered first says so of the other, and then puts what it has
//  3. the other one, when it is answered, takes away what is there
//
// The marks do not help here: a fill is no invalidation.
type copies struct {
	l1       *l1.Cache[*local] // not changed
	space    uint32            // not changed
	follower *invalidation.Follower
	now      func() time.Duration
	// reads is told that a read which is under way is superseded.
	reads interface{ Superseded(key string) }

	keeping sync.Mutex // held while a fill is put into L1; taken before mu

	mu    sync.Mutex
	fills map[string][]*filling // under way, by key; guarded by mu
}

// filling is a fill that was sent and not answered yet.
type filling struct {
	// superseded means that another fill of the key was answered, or a read of it,
	// while this one was under way. Guarded by the copies' mu.
	superseded bool
}

// refreshPatience is how long a node believes that a stale entry is the newest,
// or that somebody else is refreshing one, before it asks the store again.
const refreshPatience = 250 * time.Millisecond

// local builds the local form of what a store's answer brought. It may be kept
// in L1 if the follower will see every record that could kill it.
func (cs *copies) local(q invalidation.Question, d soracache.Delta, key string, k *l2.KeyAnswer) (c *local, keep bool) {
	asked := q.Sent()
	c = &local{
		entry: k.Entry, stamp: k.Stamp,
		// Counted from when the question was sent, so never too long.
		freshUntil: asked + k.FreshFor,
		keepUntil:  asked + k.KeepFor,
	}
	c.until = c.keepUntil
	if k.L1 > 0 && k.L1 < k.KeepFor {
		c.until = asked + k.L1
	}
	c.staleUntil = cs.now() + refreshPatience
	switch k.Lease {
	case soracache.LeaseRefused:
		c.refusal = k.Refusal
		c.heldUntil.Store(int64(cs.now() + refreshPatience))
	case soracache.LeaseHeld:
		c.heldUntil.Store(int64(cs.now() + min(k.LeaseFor, refreshPatience)))
	}
	c.proof, keep = cs.follower.Prove(q, d, soracache.KeyOf(key), k.Entry.Tags)
	c.bytes = c.footprint(key)
	return c, keep
}

// read puts what an answer of the store to a read of keys brought into L1.
func (cs *copies) read(keys []l2.ReadKey, found []l1.Item[*local]) {
	if len(found) == 0 {
		return
	}
	cs.mu.Lock()
	for i := range keys {
		cs.supersedeFills(keys[i].Key) // before L1 has it: see filled
	}
	cs.mu.Unlock()
	cs.l1.PutMany(found)
}

// forget takes away what a read put there that was superseded.
func (cs *copies) forget(key string) { cs.l1.Remove(l1.Key{Space: cs.space, Name: key}) }

// fillSent notes that a fill is about to be sent. It has to be ended by fillAnswered.
func (cs *copies) fillSent(key string) *filling {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	f := &filling{}
	cs.fills[key] = append(cs.fills[key], f)
	return f
}

// fillAnswered ends a fill, whatever became of it.
func (cs *copies) fillAnswered(key string, f *filling) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.endFill(key, f)
}

// endFill holds mu.
func (cs *copies) endFill(key string, f *filling) {
	rest := slices.DeleteFunc(cs.fills[key], func(other *filling) bool { return other == f })
	if cs.fills[key] = rest; len(rest) == 0 {
		delete(cs.fills, key)
	}
}

// filled puts what a fill stored into L1, in place of whatever a read or another
// fill that is still under way is about to put there.
func (cs *copies) filled(key string, f *filling, c *local, keep bool) {
	cs.keeping.Lock()
	defer cs.keeping.Unlock()
	cs.mu.Lock()
	superseded := f.superseded
	cs.endFill(key, f)
	cs.supersedeFills(key)
	cs.mu.Unlock()
	cs.reads.Superseded(key)
	switch {
	case superseded:
		cs.forget(key)
	case keep:
		cs.l1.Put(l1.Key{Space: cs.space, Name: key}, c)
	}
}

// supersedeFills notes that the store has told what is under a key, while fills
// of it are under way. It holds mu.
func (cs *copies) supersedeFills(key string) {
	for _, f := range cs.fills[key] {
		f.superseded = true
	}
}
