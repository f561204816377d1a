package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/flight/open"
	"github.com/soracache/soracache/internal/node/parking"
	"github.com/soracache/soracache/l2"
)

// How many partitions a namespace has is the namespace's, and this node was told
// a number as well. If they differ, the node has nothing to do with it:
//
//   - before a namespace is first followed, the store is asked for its number;
//   - it is asked again every numberFor, in the background, for all of them at
//     once, and as soon as a ledger refuses this node's number;
//   - when they differ, all that the node knows of the namespace is given up, its
//     callers are refused, so that they load or ask other nodes, and the node is
//     not ready;
//   - which ends when the number is what the node was told, or nobody's.
//
// No answer rests on the node being quick here: every ledger knows its count, and
// none is begun before the number was looked up.
type numbers struct {
	// asking shares a question for a number among all who want to know it meanwhile,
	// by namespace. Joining one that was sent already is no harm here: see above.
	asking *open.Group[struct{}]

	mu      sync.Mutex
	refused map[string]*refusal // by namespace; guarded by mu
}

func newNumbers() numbers {
	return numbers{asking: open.New[struct{}](maxInquiries), refused: map[string]*refusal{}}
}

// refusal is why a namespace is refused.
type refusal struct {
	err   error
	asked time.Duration // when the store was last asked, on the node's clock
}

const (
	// numberFor is how long a number is believed without asking again.
	numberFor = 30 * time.Second
	// numberTick is how often it is looked at whether one is to be asked for.
	numberTick = 5 * time.Second
	// refusedFor is how long callers are refused without asking again.
	refusedFor = time.Second
	// maxRefused bounds how many refusals are remembered.
	maxRefused = 1024
	// maxInquiries bounds how many namespaces are asked for at once. Who asks for
	// one more waits for a place, for as long as a call to the store may take.
	maxInquiries = 512
)

// agree reports whether a namespace has as many partitions as this node was told.
// Those who ask at once ask together. The question goes on without them, for as long as
// a call to the store may take.
func (n *Node) agree(ctx context.Context, name string) error {
	now := n.now()
	n.numbers.mu.Lock()
	r := n.numbers.refused[name]
	n.numbers.mu.Unlock()
	if r != nil && now-r.asked < refusedFor {
		return r.err
	}
	_, err := n.numbers.asking.Do(ctx, name, n.cfg.StoreTimeout, func() (struct{}, error) {
		return struct{}{}, n.askNumbers([]l2.PartitionsRequest{{Namespace: name, Want: n.cfg.Partitions(name)}})[0]
	})
	if err == open.ErrFull { //nolint:errorlint // itself
		return fmt.Errorf("%w: namespace %s: %d others are looked up at this moment", soracache.ErrUnavailable, name, maxInquiries)
	}
	return err
}

// askNumbers asks for the numbers of namespaces, refuses those that are not as
// this node was told, and lets in those that are again. It returns why a namespace
// cannot be used.
func (n *Node) askNumbers(reqs []l2.PartitionsRequest) []error {
	answers := callStore(n.ctx, n, "partitions", func(ctx context.Context) ([]l2.PartitionsAnswer, error) {
		as := n.cfg.Store.Partitions(ctx, reqs)
		return as, firstError(as, func(a *l2.PartitionsAnswer) error { return a.Err })
	})
	errs := make([]error, len(reqs))
	for i, a := range answers {
		name := reqs[i].Namespace
		told := n.cfg.Partitions(name)
		switch {
		case errors.Is(a.Err, l2.ErrPartitions):
			errs[i] = a.Err
		case a.Err != nil:
			errs[i] = a.Err
			continue // nothing was learnt
		case a.Count != 0 && a.Count != told:
			errs[i] = l2.CountError(name, a.Count, told)
		}
		if errs[i] != nil {
			n.refuse(name, errs[i])
		} else {
			n.letIn(name)
		}
	}
	return errs
}

// refuse gives up what is known of a namespace, and has its callers refused.
func (n *Node) refuse(name string, why error) {
	now := n.now()
	n.numbers.mu.Lock()
	r := n.numbers.refused[name]
	fresh := r == nil || r.err.Error() != why.Error()
	if r != nil || len(n.numbers.refused) < maxRefused {
		n.numbers.refused[name] = &refusal{err: why, asked: now}
	}
	n.numbers.mu.Unlock()
	if fresh {
		n.cfg.Logger.Error("a namespace is refused: give this node the number of partitions that it has, or change it (soracached repartition)",
			"namespace", name, "error", why)
	}
	n.mu.Lock()
	ns := n.namespaces[name]
	if ns != nil {
		delete(n.namespaces, name)
		n.count -= len(ns.partitions)
	}
	n.mu.Unlock()
	if ns != nil {
		ns.giveUp()
	}
}

// giveUp ends what goes on in a namespace that was dropped: nothing is served from
// memory, waiters ask the store, and watches end.
func (ns *namespace) giveUp() {
	close(ns.gone)
	for _, p := range ns.partitions {
		p.active.Store(false)
		p.follower.Void()
		p.parked.WakeAll(parking.Ended)
	}
}

// letIn ends the refusal of a namespace, and notes that its number was looked up.
func (n *Node) letIn(name string) {
	n.numbers.mu.Lock()
	was := n.numbers.refused[name]
	delete(n.numbers.refused, name)
	n.numbers.mu.Unlock()
	if was != nil {
		n.cfg.Logger.Info("a namespace is served again", "namespace", name)
	}
	n.mu.RLock()
	ns := n.namespaces[name]
	n.mu.RUnlock()
	if ns != nil {
		ns.numbered.Store(int64(n.now()))
	}
}

// doubt has the number of a namespace looked up, because a ledger refused it.
func (n *Node) doubt(name string) {
	n.mu.RLock()
	ns := n.namespaces[name]
	n.mu.RUnlock()
	if ns == nil || n.ctx.Err() != nil || !ns.doubted.CompareAndSwap(false, true) {
		return
	}
	n.wg.Go(func() {
		defer ns.doubted.Store(false)
		n.askNumbers([]l2.PartitionsRequest{{Namespace: name}})
	})
}

// recount asks again for numbers that were not asked for in a while.
func (n *Node) recount() {
	tick := time.NewTicker(numberTick)
	defer tick.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		if reqs := n.recountable(); len(reqs) > 0 {
			n.askNumbers(reqs)
		}
	}
}

// recountable are the namespaces to ask for: those in use, which keeps their
// numbers, and, without that, those refused.
func (n *Node) recountable() (reqs []l2.PartitionsRequest) {
	now := n.now()
	n.mu.RLock()
	for name, ns := range n.namespaces {
		used := slices.ContainsFunc(ns.partitions, func(p *partition) bool { return p.active.Load() })
		if used && now-time.Duration(ns.numbered.Load()) >= numberFor {
			reqs = append(reqs, l2.PartitionsRequest{Namespace: name, Want: len(ns.partitions)})
		}
	}
	n.mu.RUnlock()
	n.numbers.mu.Lock()
	for name := range n.numbers.refused {
		reqs = append(reqs, l2.PartitionsRequest{Namespace: name})
	}
	n.numbers.mu.Unlock()
	slices.SortFunc(reqs, func(a, b l2.PartitionsRequest) int { return cmp.Compare(a.Namespace, b.Namespace) })
	return reqs
}

// refusals returns why the node is not ready for some namespaces, or nil.
func (n *Node) refusals() error {
	n.numbers.mu.Lock()
	defer n.numbers.mu.Unlock()
	if len(n.numbers.refused) == 0 {
		return nil
	}
	first := slices.Min(slices.Collect(maps.Keys(n.numbers.refused)))
	if others := len(n.numbers.refused) - 1; others > 0 {
		return fmt.Errorf("%w (and %d more namespaces)", n.numbers.refused[first].err, others)
	}
	return n.numbers.refused[first].err
}

// refusedCount is how many namespaces are refused.
func (n *Node) refusedCount() int {
	n.numbers.mu.Lock()
	defer n.numbers.mu.Unlock()
	return len(n.numbers.refused)
}

// counted has the node doubt a namespace's number when a ledger refuses it.
func counted[R, A any](n *Node, reqs []R, answers []A, of func(*R) string, err func(*A) error) {
	for i := range answers {
		if errors.Is(err(&answers[i]), l2.ErrPartitions) {
			n.doubt(of(&reqs[i]))
		}
	}
}
