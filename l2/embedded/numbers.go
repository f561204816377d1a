package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// numbers are how many partitions namespaces have, so far as that is not to be
// read off their ledgers. They are kept in memory, as followers are: whoever
// was told a number is in this process, or asks it, and the next process finds
// the ledgers.
type numbers struct {
	// changing counts the namespaces whose number is being changed, for those who
	// only ask whether there are any.
	changing atomic.Int32

	mu sync.Mutex // guards what follows; taken last
	of map[string]number
}

// number is how many partitions a namespace has, as long as somebody asks.
type number struct {
	count int
	until time.Time
	// to is what it is being changed to, zero if it is not; not before the last
	// registration is over that stood when the change began.
	to       int
	earliest time.Time
}

// get returns what is kept of a namespace; zero if nothing is.
func (n *numbers) get(namespace string, now time.Time) number {
	n.mu.Lock()
	defer n.mu.Unlock()
	if known := n.of[namespace]; known.to != 0 || now.Before(known.until) {
		return known
	}
	return number{}
}

// keep keeps the number of a namespace, unless another is kept or it is being
// changed, and returns which is.
func (n *numbers) keep(namespace string, count int, now time.Time) number {
	n.mu.Lock()
	defer n.mu.Unlock()
	known := n.of[namespace]
	if known.to != 0 {
		return known
	}
	if now.Before(known.until) {
		count = known.count
	}
	if n.of == nil {
		n.of = make(map[string]number)
	}
	known = number{count: count, until: now.Add(l2.PartitionsExpiry)}
	n.of[namespace] = known
	return known
}

// forget drops what nobody has asked for.
func (n *numbers) forget(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for namespace, known := range n.of {
		if known.to == 0 && !now.Before(known.until) {
			delete(n.of, namespace)
		}
	}
}

// change begins to change a number, or goes on, and returns when it may be
// another, which registered tells of a change that begins.
func (n *numbers) change(namespace string, to int, now time.Time, registered func() time.Time) (earliest time.Time) {
	n.mu.Lock()
	known := n.of[namespace]
	begins := known.to == 0
	known.to = to
	if begins {
		known.earliest = now.Add(l2.ChangeTakes) // until it is known better
		n.changing.Add(1)
	}
	if n.of == nil {
		n.of = make(map[string]number)
	}
	n.of[namespace] = known
	n.mu.Unlock()
	if !begins {
		return known.earliest
	}
	// Nobody is confirmed any more: who registers from now on is refused.
	earliest = registered()
	n.mu.Lock()
	defer n.mu.Unlock()
	known = n.of[namespace]
	known.earliest = earliest
	n.of[namespace] = known
	return earliest
}

// changed ends the change to a number. It is false if it was changed to another
// meanwhile.
func (n *numbers) changed(namespace string, to int, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of[namespace].to != to {
		return false
	}
	n.changing.Add(-1)
	n.of[namespace] = number{count: to, until: now.Add(l2.PartitionsExpiry)}
	return true
}

// counts reports whether a caller may use a ledger, or begin it if there is none.
func (t *txn) counts(at l2.Partition, l *ledger) error {
	if t.s.numbers.changing.Load() > 0 && t.s.numbers.get(at.Namespace, t.now).to != 0 {
		return l2.ChangingError(at.Namespace)
	}
	var count int
	if l != nil {
		count = int(l.count)
	} else {
		var err error
		if count, err = t.numberOf(at.Namespace); err != nil {
			return err
		}
	}
	if count != 0 && count != int(at.Count) {
		return l2.CountError(at.Namespace, count, int(at.Count))
	}
	return nil
}

// numberOf returns how many partitions a namespace has, zero if none yet. If its
// ledgers differ, the first one counts.
func (t *txn) numberOf(namespace string) (int, error) {
	if known := t.s.numbers.get(namespace, t.now); known.to != 0 {
		return 0, l2.ChangingError(namespace)
	} else if known.count != 0 {
		return known.count, nil
	}
	for _, key := range t.ledgersOf(namespace) {
		if l := t.findKey(key); l != nil {
			return int(l.count), nil
		}
		if isLater(key, t.get(bLedger, key)) {
			return 0, l2.LaterError(l2.Partition{Namespace: namespace, Index: binary.BigEndian.Uint16(key[len(key)-2:])})
		}
	}
	return 0, nil
}

// ledgersOf returns the keys of a namespace's ledgers.
func (t *txn) ledgersOf(namespace string) (keys [][]byte) {
	prefix := ledgerKey(l2.Partition{Namespace: namespace})
	prefix = prefix[:len(prefix)-2]
	c := t.cursor(bLedger)
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		keys = append(keys, slices.Clone(k))
	}
	return keys
}

// Partitions implements [l2.Store].
func (s *Store) Partitions(ctx context.Context, reqs []l2.PartitionsRequest) []l2.PartitionsAnswer {
	answers := make([]l2.PartitionsAnswer, len(reqs))
	if err := ctx.Err(); err != nil {
		for i := range answers {
			answers[i].Err = unavailable(err)
		}
		return answers
	}
	err := s.view(func(t *txn) {
		for i, req := range reqs {
			if answers[i].Err = l2.CheckPartitions(req.Namespace, max(req.Want, 1)); answers[i].Err == nil {
				answers[i] = t.partitions(req)
			}
		}
	})
	if err != nil {
		for i := range answers {
			answers[i] = l2.PartitionsAnswer{Err: err}
		}
	}
	return answers
}

func (t *txn) partitions(req l2.PartitionsRequest) l2.PartitionsAnswer {
	count, err := t.numberOf(req.Namespace)
	if err != nil || req.Want == 0 {
		return l2.PartitionsAnswer{Count: count, Err: err}
	}
	if count == 0 {
		count = req.Want
	}
	known := t.s.numbers.keep(req.Namespace, count, t.now)
	if known.to != 0 {
		return l2.PartitionsAnswer{Err: l2.ChangingError(req.Namespace)}
	}
	return l2.PartitionsAnswer{Count: known.count}
}

// Repartition implements [l2.Store]. Those whose memory has to be waited out are
// in this process, so it remembers that the number is being changed; if it ends,
// nothing has changed.
func (s *Store) Repartition(ctx context.Context, namespace string, count int) (time.Duration, error) {
	if err := l2.CheckPartitions(namespace, count); err != nil {
		return 0, err
	}
	settled := false
	err := s.view(func(t *txn) {
		now, err := t.numberOf(namespace)
		settled = err == nil && now == count && t.agree(namespace, count)
	})
	if err != nil || settled {
		return 0, err
	}
	earliest := s.numbers.change(namespace, count, s.cfg.Now(), func() time.Time { return s.followers.last(namespace) })
	if left := earliest.Sub(s.cfg.Now()); left > 0 && !s.unused(namespace) {
		return min(left, l2.ChangeTakes), nil
	}
	var failure error
	err = s.change(ctx, func(t *txn) {
		if failure = t.dropLedgers(namespace); failure == nil && t.err == nil {
			s.numbers.changed(namespace, count, t.now)
		}
	})
	if err != nil || failure != nil {
		return 0, errors.Join(err, failure)
	}
	// A ledger keeps the number for the next process.
	first := l2.Partition{Namespace: namespace, Count: uint16(count)} //nolint:gosec // checked above
	err = s.change(ctx, func(t *txn) { _, failure = t.ledger(first, soracache.Stamp{}) })
	return 0, errors.Join(err, failure)
}

// unused reports whether a namespace has no ledger.
func (s *Store) unused(namespace string) (none bool) {
	err := s.view(func(t *txn) { none = len(t.ledgersOf(namespace)) == 0 })
	return err == nil && none
}

// agree reports whether no ledger is of another number.
func (t *txn) agree(namespace string, count int) bool {
	for _, key := range t.ledgersOf(namespace) {
		if l := t.findKey(key); l != nil && int(l.count) != count {
			return false
		}
	}
	return true
}

// dropLedgers forgets all ledgers of a namespace. Without them their entries are
// dead; these go when their time is over.
func (t *txn) dropLedgers(namespace string) error {
	keys := t.ledgersOf(namespace)
	for _, key := range keys {
		if isLater(key, t.get(bLedger, key)) {
			return l2.LaterError(l2.Partition{Namespace: namespace, Index: binary.BigEndian.Uint16(key[len(key)-2:])})
		}
	}
	for _, key := range keys {
		l := t.findKey(key)
		t.delete(bLedger, key)
		if l == nil {
			continue
		}
		delete(t.ledgers, string(key))
		t.delete(bLedger, partitionKey(l.partition))
		t.put(bGarbage, be32([]byte{'g'}, l.generation), nil)
		t.deletePrefix(bEpoch, be32(nil, l.partition), math.MaxInt)
		for k := range t.s.leases {
			if k.partition == l.partition {
				t.endLease(k)
			}
		}
	}
	return nil
}
