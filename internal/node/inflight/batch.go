package inflight

import (
	"context"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// Batch is one call of the store, with the reads that it is for.
type Batch[V any] struct {
	of      []*read[V]      // not changed
	keys    []l2.ReadKey    // not changed
	waiting int             // reads that somebody still waits for; guarded by mu of the Reads
	ctx     context.Context //nolint:containedctx // of this one call
	cancel  context.CancelFunc
	memory  memory
}

// newBatch holds mu.
func (rs *Reads[V]) newBatch(of []*read[V]) *Batch[V] {
	b := &Batch[V]{of: of, keys: make([]l2.ReadKey, len(of)), waiting: len(of)}
	b.ctx, b.cancel = context.WithCancel(rs.cfg.Life) //nolint:gosec // run cancels it
	b.memory.batches = rs
	if rs.cfg.Budget != nil {
		b.memory.budget, b.memory.hold = rs.cfg.Budget, rs.cfg.Budget.Hold(nil)
	}
	for i, rd := range of {
		rd.batch = b
		rd.lease.close()
		b.keys[i] = l2.ReadKey{Key: rd.key, Nonce: rd.lease.nonce, LeaseFor: rd.lease.leaseFor, RefreshWithin: rd.lease.refreshWithin}
	}
	return b
}

// Keys are what is to be read. They are not to be changed.
func (b *Batch[V]) Keys() []l2.ReadKey { return b.keys }

// Room is asked by the store whether it may bring so many bytes more than what it may
// bring without asking.
func (b *Batch[V]) Room(bytes int) bool { return b.memory.room(bytes) }

// Answer says what the read of the key at an index brought.
func (b *Batch[V]) Answer(i int, a *l2.KeyAnswer, v V) {
	rd := b.of[i]
	rd.answer = Answer[V]{Store: *a, Value: v}
	if a.Cut {
		rd.err = ErrLeftOut
	}
	if a.Found {
		rd.bytes = b.memory.keep(len(a.Entry.Value) + l2.SmallBytes)
	}
}

// Fail says why the key at an index could not be read.
func (b *Batch[V]) Fail(i int, err error) { b.of[i].err = err }

// run reads a batch.
func (rs *Reads[V]) run(b *Batch[V]) {
	defer b.cancel()
	defer b.memory.end()
	if err := b.memory.begin(b.ctx, inline(len(b.keys))); err != nil {
		rs.turnAway(b, err)
		return
	}
	rs.source.Read(b.ctx, b)
	rs.finish(b)
}

// inline is how many bytes the store may bring for so many keys without asking.
func inline(keys int) int {
	full, rest := keys/KeysAtOnce, keys%KeysAtOnce
	return full*min(KeysAtOnce*l2.InlineBytes, l2.InlineMost) + min(rest*l2.InlineBytes, l2.InlineMost)
}

// turnAway fails a batch for which there is no memory. That says nothing of the store.
func (rs *Reads[V]) turnAway(b *Batch[V], err error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, rd := range b.of {
		rd.err = err
		rs.done(rd)
	}
	rs.ended(b)
}

// finish hands to the readers what their batch has brought.
func (rs *Reads[V]) finish(b *Batch[V]) {
	var unknown []Lease
	for _, rd := range b.of {
		if rd.err != nil && rd.lease.nonce != (soracache.Lease{}) { // it may have been given all the same
			unknown = append(unknown, Lease{rd.key, rd.lease.nonce})
		}
	}
	if len(unknown) > 0 {
		rs.source.HandBack(unknown...)
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, rd := range b.of {
		if rd.superseded {
			rs.source.Forget(rd.key)
		}
		rs.done(rd)
		rd.settle()
	}
	if err := b.of[0].err; err != nil && err != ErrLeftOut && b.ctx.Err() == nil { //nolint:errorlint // itself
		// Whoever has waited behind it for as long as a call may take is not to wait
		// for another.
		now := rs.cfg.Now()
		rs.fail(err, func(rd *read[V]) bool { return now-rd.since >= rs.cfg.Timeout })
	}
	rs.ended(b)
}

// done wakes the readers. It holds mu.
func (rs *Reads[V]) done(rd *read[V]) {
	delete(rs.sent, rd.key)
	close(rd.done)
}

// ended lets the next batch go. It holds mu.
func (rs *Reads[V]) ended(b *Batch[V]) {
	if b.memory.heavy {
		rs.heavy--
		if rs.unburdened != nil {
			close(rs.unburdened)
			rs.unburdened = nil
		}
	} else {
		rs.batches--
	}
	rs.send()
}

// burden makes a batch a heavy one, unless there are enough of them. It returns what
// is closed when there may be fewer.
func (rs *Reads[V]) burden() (fewer <-chan struct{}) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.heavy >= maxHeavy {
		if rs.unburdened == nil {
			rs.unburdened = make(chan struct{})
		}
		return rs.unburdened
	}
	rs.heavy++
	rs.batches--
	rs.send()
	return nil
}
