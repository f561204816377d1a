// Package inflight shares reads of the store: every reader of a key that came before
// its read was sent gets what that brings.
//
// For each key at most two reads exist, one that was sent and one that collects
// readers, so that a reader never gets an answer that was asked for before it came:
//
//  1. reader A joins; the read is sent
//  2. an invalidation completes
//  3. reader B comes: it may not join A's read, whose answer may be older than 2. It
//     joins the collecting one, which is sent when A's has been answered.
//
// Reads of a partition travel together, in at most two batches at once: whoever comes
// while they are on their way goes with the next. A read may be given a lease, which
// goes to one of its readers, or back if none is left; and what a batch brings is
// taken from the node's memory for requests until its readers have it.
//
// The package knows the store and what is cached only by [Source], and does not look
// at what a read brought beyond its lease and its size.
package inflight

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/l2"
)

// Source is where the reads of one partition are sent. Only Read may block, and only
// Read may call back.
type Source[V any] interface {
	// Down tells why nothing is sent at present, or nil. It is called with the lock
	// held.
	Down() error
	// Read reads the keys of a batch, and says by its Answer or Fail what became of
	// each. By then, what is to be kept is kept.
	Read(ctx context.Context, b *Batch[V])
	// Forget drops what a read brought and Read may have kept. It is called with the
	// lock held, before any reader learns of it.
	Forget(key string)
	// HandBack gives leases back that nobody uses, in the background. It may be called
	// with the lock held.
	HandBack(leases ...Lease)
	// Go runs something in the background. It is called with the lock held.
	Go(do func())
}

// Lease is a lease that was given, or may have been, for a key.
type Lease struct {
	Key   string
	Nonce soracache.Lease
}

// Config is what the [Reads] of a node have in common.
type Config struct {
	// Life ends all reads when it ends.
	Life context.Context //nolint:containedctx // of the node
	// Now is the node's monotonic clock.
	Now func() time.Duration
	// NewLease returns a new nonce for a holder.
	NewLease func(holder uint64) soracache.Lease
	// Budget is the memory that is taken for what is read; nil: there is no limit.
	Budget *budget.Budget
	// Timeout is how long a call to the store may take. Reads that have waited for as
	// long behind one that fails fail with it.
	Timeout time.Duration
	// Joined is told of every reader that shares a read with an earlier one.
	Joined func()
}

// Reads are the reads of one partition that are collecting or under way. It is safe
// for concurrent use.
type Reads[V any] struct {
	cfg    *Config // not changed
	source Source[V]

	// mu guards what follows, and the fields of reads and batches that do not say
	// otherwise. A batch's memory has a lock of its own, which is taken before mu.
	mu         sync.Mutex
	collecting map[string]*read[V]
	queue      []*read[V] // those of collecting, in the order in which they are sent
	sent       map[string]*read[V]
	batches    int // under way, but for the heavy ones
	heavy      int // that bring something large
	// unburdened is closed when a heavy batch has ended; nil if nobody waits.
	unburdened chan struct{}
}

// New returns the reads of a partition: none yet.
func New[V any](cfg *Config, source Source[V]) *Reads[V] {
	return &Reads[V]{cfg: cfg, source: source, collecting: map[string]*read[V]{}, sent: map[string]*read[V]{}}
}

// read is one key's.
type read[V any] struct {
	reads   *Reads[V] // not changed
	key     string    // not changed
	since   time.Duration
	readers int       // who have neither collected nor left
	lease   wish      // of theirs
	batch   *Batch[V] // nil until sent
	// superseded means that what it brings may be older than what was stored here
	// meanwhile, and is not to be kept.
	superseded bool
	bytes      int // of the batch's memory, until the last reader has left

	done   chan struct{}
	answer Answer[V] // not changed after done is closed
	err    error     // not changed after done is closed
}

// Answer is what a read brought.
type Answer[V any] struct {
	// Store is the store's answer for the key.
	Store l2.KeyAnswer
	// Value is whatever the source made of it.
	Value V
}

const (
	maxBatches = 2
	// So many more may bring what is large: those who ask for little go at once.
	maxHeavy = 2
	// maxKeys is how many keys go in a batch.
	maxKeys = 1024
)

// KeysAtOnce is how many keys of a batch go in one request, so that it holds the store
// for no longer than they take.
const KeysAtOnce = 256

// ErrLeftOut is what a reader gets when its batch had no room for what it reads. It is
// to join again.
var ErrLeftOut = errors.New("left out of the batch")

// Share is a reader's share in a read. It has to be given up once: by Claim, by Leave,
// or by a Wait that fails. The zero value is none.
type Share[V any] struct {
	read   *read[V]
	reader *soracache.Read
}

// Join joins the collecting read of a key.
func (rs *Reads[V]) Join(r *soracache.Read) (s Share[V]) {
	rs.JoinAll(func(join func(*soracache.Read) Share[V]) { s = join(r) })
	return s
}

// JoinAll lets any number of readers join before anything is sent. Their keys are
// asked for together.
func (rs *Reads[V]) JoinAll(joining func(join func(*soracache.Read) Share[V])) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	joining(rs.join)
	rs.send()
}

// joinFirst joins a read that goes before all others: the key was left out of the
// batch before.
func (rs *Reads[V]) joinFirst(r *soracache.Read) (s Share[V]) {
	rs.JoinAll(func(join func(*soracache.Read) Share[V]) {
		s = join(r)
		at := slices.Index(rs.queue, s.read)
		copy(rs.queue[1:at+1], rs.queue[:at])
		rs.queue[0] = s.read
	})
	return s
}

// Read joins the read of a key and waits for it, and joins again as long as it is left
// out. Without an error, the share is still to be given up.
func (rs *Reads[V]) Read(ctx context.Context, r *soracache.Read) (Share[V], *Answer[V], error) {
	if err := rs.source.Down(); err != nil {
		return Share[V]{}, nil, err
	}
	s := rs.Join(r)
	a, err := s.Wait(ctx)
	for err == ErrLeftOut && ctx.Err() == nil { //nolint:errorlint // itself
		s = rs.joinFirst(r)
		a, err = s.Wait(ctx)
	}
	if err == ErrLeftOut { //nolint:errorlint // itself
		err = ctx.Err()
	}
	return s, a, err
}

// join holds mu.
func (rs *Reads[V]) join(r *soracache.Read) Share[V] {
	rd := rs.collecting[r.Key]
	if rd == nil {
		rd = &read[V]{reads: rs, key: r.Key, since: rs.cfg.Now(), done: make(chan struct{})}
		rs.collecting[r.Key] = rd
		rs.queue = append(rs.queue, rd)
	} else if rs.cfg.Joined != nil {
		rs.cfg.Joined()
	}
	rd.readers++
	rd.lease.add(r, rs.cfg.NewLease)
	return Share[V]{rd, r}
}

// send sends what has collected, as far as batches are free. It holds mu.
func (rs *Reads[V]) send() {
	if err := rs.source.Down(); err != nil {
		rs.fail(err, func(*read[V]) bool { return true })
		return
	}
	for rs.batches < maxBatches {
		next := rs.next()
		if len(next) == 0 {
			return
		}
		rs.batches++
		b := rs.newBatch(next)
		rs.source.Go(func() { rs.run(b) })
	}
}

// next takes the reads of the next batch out of the queue: those whose key is not
// under way already.
func (rs *Reads[V]) next() []*read[V] {
	var next []*read[V]
	rest := rs.queue[:0]
	for _, rd := range rs.queue {
		_, sent := rs.sent[rd.key]
		switch {
		case rd.readers == 0: // all have left
			delete(rs.collecting, rd.key)
		case sent || len(next) == maxKeys:
			rest = append(rest, rd)
		default:
			delete(rs.collecting, rd.key)
			rs.sent[rd.key] = rd
			next = append(next, rd)
		}
	}
	clear(rs.queue[len(rest):])
	rs.queue = rest
	return next
}

// fail fails those reads that collect and are so. It holds mu.
func (rs *Reads[V]) fail(err error, so func(*read[V]) bool) {
	rs.queue = slices.DeleteFunc(rs.queue, func(rd *read[V]) bool {
		if !so(rd) {
			return false
		}
		delete(rs.collecting, rd.key)
		rd.err = err
		close(rd.done)
		return true
	})
}

// Superseded says that what a read of the key brings that is under way, if there is
// one, may be older than what was stored here meanwhile. It is not kept then.
func (rs *Reads[V]) Superseded(key string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rd := rs.sent[key]; rd != nil {
		rd.superseded = true
	}
}

// Wait waits for what the read brings. With an error, the share is given up: it is
// that of the context, [ErrLeftOut], or why the store could not be read.
func (s Share[V]) Wait(ctx context.Context) (*Answer[V], error) {
	select {
	case <-s.read.done:
	case <-ctx.Done():
		s.Leave()
		return nil, ctx.Err()
	}
	err := s.read.err
	if err == nil {
		return &s.read.answer, nil
	}
	s.Leave()
	if err == ErrLeftOut { //nolint:errorlint // itself
		err = s.read.batch.memory.wait(ctx)
	}
	return nil, err
}

// Claim gives the share up, and tells the reader what became of its wish for a lease.
func (s Share[V]) Claim() Grant {
	rs := s.read.reads
	rs.mu.Lock()
	defer rs.mu.Unlock()
	g := s.read.lease.grant(s.reader, &s.read.answer.Store)
	s.read.countOut(s.reader)
	return g
}

// Leave gives the share up without using what the read brings. A batch that nobody
// waits for any more is cancelled.
func (s Share[V]) Leave() {
	rd := s.read
	rd.reads.mu.Lock()
	defer rd.reads.mu.Unlock()
	rd.countOut(s.reader)
	if rd.readers > 0 || rd.batch == nil {
		return
	}
	if rd.batch.waiting--; rd.batch.waiting == 0 {
		rd.batch.cancel()
	}
}

// countOut takes a reader off. mu is held.
func (rd *read[V]) countOut(r *soracache.Read) {
	rd.readers--
	rd.lease.remove(r)
	rd.settle()
}

// settle gives back what nobody is left to collect of a read that is done: its memory,
// and its lease. mu is held.
func (rd *read[V]) settle() {
	select {
	case <-rd.done:
	default:
		return
	}
	if rd.readers == 0 && rd.bytes > 0 {
		rd.batch.memory.giveBack(rd.bytes)
		rd.bytes = 0
	}
	if rd.err == nil && rd.lease.orphaned(&rd.answer.Store) {
		rd.reads.source.HandBack(Lease{rd.key, rd.lease.nonce})
	}
}
