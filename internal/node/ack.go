package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
)

// An acknowledged invalidation succeeds once no node can serve what it killed:
//
//  1. whatever may confirm a node's memory registers the node in the store, in
//     the same step (see [l2.Registration]);
//  2. the append returns who is registered: nobody else is confirmed, or will
//     be by an answer that does not hold the record;
//  3. each of those either acknowledges, which it does once it refuses what the
//     record names, or is waited out: it was confirmed by a question that it
//     sent before the append ran, so counting its bound from when the append's
//     answer came outlasts that.
//
// That gossip calls a member dead plays no part in it: it may well be serving.
// But who has said of itself that it serves nothing any more need not be asked.

// ackKey is one record of this process's.
type ackKey struct {
	namespace string
	partition uint16
	stamp     soracache.Stamp
}

// acks are the invalidations of this node's that wait to be acknowledged.
type acks struct {
	mu    sync.Mutex
	waits map[ackKey][]*ackWait // guarded by mu
}

// ackWait waits for the acknowledgements of all records of one invalidation.
type ackWait struct {
	node *Node
	// answered is when the append's answers had come, on the node's clock.
	answered time.Duration
	records  []ackRecord
	left     int           // acknowledgements missing; guarded by acks.mu
	done     chan struct{} // closed when none is missing
	// blind is for how long after answered there may be nodes that the store
	// does not know of.
	blind time.Duration
}

type ackRecord struct {
	p       *partition
	key     ackKey
	record  soracache.Record
	missing map[string]time.Duration // followers and their bounds; guarded by acks.mu
}

func (n *Node) newAckWait() *ackWait {
	return &ackWait{node: n, answered: n.now(), done: make(chan struct{})}
}

// expect notes who must acknowledge the records. It must be called before
// anybody is told of them.
func (w *ackWait) expect(parts []*partition, answers []l2.InvalidateAnswer) {
	all := &w.node.acks
	all.mu.Lock()
	defer all.mu.Unlock()
	for i := range answers {
		a := &answers[i]
		if a.Err != nil {
			continue
		}
		r := ackRecord{p: parts[i], record: a.Record, missing: map[string]time.Duration{}, key: ackKey{
			parts[i].id.Namespace, parts[i].id.Index,
			soracache.Stamp{Epoch: a.Record.Epoch, Position: a.Record.Position},
		}}
		longest := max(w.node.cfg.Bound, credible(w.node.cfg.Peers.Bound()))
		for _, f := range a.Registered {
			f.Bound = min(f.Bound, l2.MaxBound)
			longest = max(longest, f.Bound)
			if f.Name != w.node.cfg.Name && !w.node.cfg.Peers.Left(f.Name) {
				r.missing[f.Name] = f.Bound
			}
		}
		w.blind = max(w.blind, longest-a.RegisteredFor)
		w.left += len(r.missing)
		w.records = append(w.records, r)
		all.waits[r.key] = append(all.waits[r.key], w)
	}
}

// credible is the bound that somebody claims, or none if no node can have it: no
// store registers a follower with a longer one than [l2.MaxBound], so that nothing
// ever confirms it, and it serves nothing from memory.
func credible(claimed time.Duration) time.Duration {
	if claimed > l2.MaxBound {
		return 0
	}
	return claimed
}

// take takes in an acknowledgement. It may come late, twice, or for nothing.
func (a *acks) take(notice invalidation.Notice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := ackKey{notice.Namespace, notice.Partition, notice.Stamp}
	for _, w := range a.waits[key] {
		for i := range w.records {
			if _, expected := w.records[i].missing[notice.From]; !expected || w.records[i].key != key {
				continue
			}
			delete(w.records[i].missing, notice.From)
			if w.left--; w.left == 0 {
				close(w.done)
			}
		}
	}
}

func (a *acks) forget(w *ackWait) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range w.records {
		rest := slices.DeleteFunc(a.waits[r.key], func(other *ackWait) bool { return other == w })
		if a.waits[r.key] = rest; len(rest) == 0 {
			delete(a.waits, r.key)
		}
	}
}

// stragglers returns who has not acknowledged, sorted, and the longest bound
// among them.
func (w *ackWait) stragglers() (names []string, longest time.Duration) {
	w.node.acks.mu.Lock()
	defer w.node.acks.mu.Unlock()
	for _, r := range w.records {
		for name, bound := range r.missing {
			names, longest = append(names, name), max(longest, bound)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), longest
}

// remindEvery is how often those who have not acknowledged are told again, in
// parts of the bound: a lost packet must not cost the whole of it.
const remindEvery = 8

// acknowledged waits until everybody has acknowledged, or has been waited out,
// and returns who that was. If ctx ends before, it returns its error and who is
// missing.
func (n *Node) acknowledged(ctx context.Context, w *ackWait) ([]string, error) {
	missing, longest := w.stragglers()
	if len(missing) > 0 {
		n.remind(ctx, w, w.answered+outlast(longest))
		missing, longest = w.stragglers()
	}
	if len(missing) == 0 {
		n.totals.acknowledged.Add(1)
	}
	n.totals.stragglers.Add(uint64(len(missing)))
	until := w.answered + outlast(w.blind)
	if len(missing) > 0 {
		until = max(until, w.answered+outlast(longest))
	}
	return missing, n.sleepUntil(ctx, until)
}

// outlast is how long to wait until a bound has certainly passed on another
// machine, whose clock may run slower, though not by as much as a hundredth.
func outlast(bound time.Duration) time.Duration { return bound + bound/100 }

// remind waits until all have acknowledged or the time has come, and tells
// those again who have not.
func (n *Node) remind(ctx context.Context, w *ackWait, until time.Duration) {
	end := time.NewTimer(until - n.now())
	defer end.Stop()
	again := time.NewTicker(max(n.cfg.Bound/remindEvery, time.Millisecond))
	defer again.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-end.C:
			return
		case <-ctx.Done():
			return
		case <-again.C:
			w.tellAgain()
		}
	}
}

func (w *ackWait) tellAgain() {
	all := &w.node.acks
	for _, r := range w.records {
		all.mu.Lock()
		var names []string
		for name := range r.missing {
			names = append(names, name)
		}
		all.mu.Unlock()
		slices.Sort(names)
		for _, name := range names {
			w.node.cfg.Peers.Tell(name, r.p.recordNotice(r.record, true))
		}
	}
}

// sleepUntil lets time pass. It fails if ctx ends before.
func (n *Node) sleepUntil(ctx context.Context, until time.Duration) error {
	left := until - n.now()
	if left <= 0 {
		return nil
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// acknowledge tells the node that asked for it that this one serves nothing
// any more that a record killed.
func (n *Node) acknowledge(notice invalidation.Notice) {
	n.cfg.Peers.Tell(notice.From, invalidation.Notice{
		Kind: invalidation.NoticeApplied, Namespace: notice.Namespace, Partition: notice.Partition,
		Stamp: soracache.Stamp{Epoch: notice.Record.Epoch, Position: notice.Record.Position},
		From:  n.cfg.Name,
	})
}
