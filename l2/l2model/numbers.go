package l2model

import (
	"context"
	"fmt"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// number is how many partitions a namespace has.
type number struct {
	count int
	// to is what the number is being changed to; zero: it is not.
	to int
	// until is when it is forgotten if nobody asks.
	until time.Time
}

// tomb stands where a ledger was.
type tomb struct {
	since time.Time // zero: there is none
	// done is the number that the namespace has instead; zero while it is being
	// changed. Of one that is done, until is how long it stands yet.
	done  int
	until time.Time
}

func (t tomb) stands(now time.Time) bool {
	return !t.since.IsZero() && (t.done == 0 || now.Before(t.until))
}

// numberOf returns how many partitions a namespace has, zero if none, and gives
// it as many as are wanted then. The model is locked.
func (m *Model) numberOf(namespace string, want int) (int, error) {
	now := m.config.Now()
	n, known := m.numbers[namespace]
	if known && n.to == 0 && !now.Before(n.until) {
		known = false
	}
	if !known {
		var err error
		if n.count, err = m.ledgersSay(namespace); err != nil {
			return 0, err
		}
		if n.count == 0 {
			n.count = want
		}
	}
	if n.to != 0 {
		return 0, l2.ChangingError(namespace)
	}
	if want > 0 || !known && n.count > 0 {
		n.until = now.Add(l2.PartitionsExpiry)
		m.numbers[namespace] = n
	}
	return n.count, nil
}

// ledgersSay returns how many partitions the ledgers that are there make a
// namespace have, the first of them if they differ; zero if there are none.
func (m *Model) ledgersSay(namespace string) (count int, err error) {
	buried := 0
	for i := range soracache.MaxPartitions {
		p := m.partitions[place{namespace, uint16(i)}]
		switch {
		case p == nil:
		case p.later:
			return 0, l2.LaterError(l2.Partition{Namespace: namespace, Index: uint16(i)})
		case p.ledger != nil && count == 0:
			count = int(p.ledger.count)
		case p.tomb.stands(m.config.Now()) && p.tomb.done == 0:
			return 0, l2.ChangingError(namespace)
		case p.tomb.stands(m.config.Now()):
			buried = p.tomb.done
		}
	}
	if count == 0 {
		count = buried
	}
	return count, nil
}

// counts reports whether a ledger may be begun.
func (m *Model) counts(at l2.Partition) error {
	n, err := m.numberOf(at.Namespace, int(at.Count))
	if err == nil && n != int(at.Count) {
		err = l2.CountError(at.Namespace, n, int(at.Count))
	}
	return err
}

// Partitions implements [l2.Store].
func (m *Model) Partitions(ctx context.Context, reqs []l2.PartitionsRequest) []l2.PartitionsAnswer {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counters.RoundTrips++
	answers := make([]l2.PartitionsAnswer, len(reqs))
	for i, req := range reqs {
		err := l2.CheckPartitions(req.Namespace, max(req.Want, 1))
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
		}
		if err == nil {
			answers[i].Count, err = m.numberOf(req.Namespace, req.Want)
		}
		answers[i].Err = err
	}
	return answers
}

// Repartition implements [l2.Store].
func (m *Model) Repartition(ctx context.Context, namespace string, count int) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counters.RoundTrips++
	if err := l2.CheckPartitions(namespace, count); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	now := m.config.Now()
	if n, err := m.numberOf(namespace, 0); err == nil && n == count && m.agree(namespace, count) {
		return 0, nil
	}
	m.numbers[namespace] = number{count: count, to: count}
	var left time.Duration
	for i := range soracache.MaxPartitions {
		p := m.partitions[place{namespace, uint16(i)}]
		if p == nil || p.ledger == nil && !p.tomb.stands(now) {
			continue
		}
		if p.ledger != nil || p.tomb.done != 0 {
			p.bury(now)
		}
		left = max(left, l2.ChangeTakes-now.Sub(p.tomb.since))
	}
	if left > 0 {
		return left, nil
	}
	m.numbers[namespace] = number{count: count, until: now.Add(l2.PartitionsExpiry)}
	for i := range soracache.MaxPartitions {
		if p := m.partitions[place{namespace, uint16(i)}]; p != nil && p.tomb.stands(now) {
			p.tomb.done, p.tomb.until = count, now.Add(l2.PartitionsExpiry)
			if i < count {
				p.tomb = tomb{} // the ledger is begun anew
			}
		}
	}
	return 0, nil
}

// agree reports whether no ledger is of another number, or buried to become one.
func (m *Model) agree(namespace string, count int) bool {
	for i := range soracache.MaxPartitions {
		p := m.partitions[place{namespace, uint16(i)}]
		if p != nil && (p.ledger != nil && int(p.ledger.count) != count || p.tomb.stands(m.config.Now()) && p.tomb.done != count) {
			return false
		}
	}
	return true
}

// bury ends the ledger, of which no more is remembered than the epochs that it
// has left.
func (p *partition) bury(now time.Time) {
	if p.ledger != nil {
		clear(p.entries)
		clear(p.leases)
		clear(p.schemas)
		p.attach = false
	}
	p.ledger, p.tomb = nil, tomb{since: now}
}
