package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
)

// follow confirms what is to be confirmed without being asked for (see partition.eager),
// three times in each bound. It is the one owner of that clockwork.
func (n *Node) follow() {
	tick := time.NewTicker(n.cfg.Bound / 3)
	defer tick.Stop()
	suspended := n.cfg.Suspended()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		if now := n.cfg.Suspended(); now-suspended > n.cfg.Bound/10 {
			n.cfg.Logger.Warn("the machine was suspended: its memory is given up", "for", now-suspended)
			suspended = now
			n.each(func(p *partition) { p.follower.Void() })
			n.l1.Clear() // its expiry was counted on a clock that stood still
		}
		due := n.toConfirm()
		for _, which := range apart(due) {
			ps := make([]*partition, len(which))
			for k, i := range which {
				ps[k] = due[i]
			}
			n.confirmPart(ps)
		}
	}
}

// mostIdle is how many partitions that are not in use any more are confirmed all the
// same: a node of few partitions serves from memory what is rarely read, and one of
// many costs the store no more than one of these few.
const mostIdle = 16

// idlePartition is one that is not in use any more.
type idlePartition struct {
	p    *partition
	used time.Duration // last, on the node's clock
}

// compare puts what was used later first, and of two the one that was opened later.
func (i idlePartition) compare(other idlePartition) int {
	return cmp.Or(cmp.Compare(other.used, i.used), cmp.Compare(other.p.space, i.p.space))
}

// toConfirm returns the partitions that are to be confirmed now, pinned.
func (n *Node) toConfirm() (due []*partition) {
	now := n.now()
	var last []idlePartition // the mostIdle that were used last, the latest first
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, ns := range n.namespaces {
		for _, p := range ns.partitions {
			used := time.Duration(p.lastUse.Load())
			switch {
			case p.feed.watched():
				p.touch(now)
			case !p.active.Load():
				continue
			case used < now-n.cfg.IdleAfter:
				p.active.Store(false)
				continue
			case !p.inUse(now):
				i := idlePartition{p, used}
				if at, _ := slices.BinarySearchFunc(last, i, idlePartition.compare); at < mostIdle {
					last = slices.Insert(last, at, i)
					last = last[:min(len(last), mostIdle)]
				}
				continue
			}
			ns.pin()
			due = append(due, p)
		}
	}
	for _, i := range last {
		i.p.confirmedIdle.Store(int64(now + n.cfg.Bound/2)) // it is looked at again before that
		i.p.ns.pin()
		due = append(due, i.p)
	}
	// By which of them was used last, their order would differ from one run to the next.
	slices.SortFunc(due, func(a, b *partition) int { return cmp.Compare(a.space, b.space) })
	return due
}

// confirmPart has the partitions confirmed that one part of the store holds, unless
// the part is down: then a probe asks. It takes over a pin of each. That one part is
// slow must not keep the others from being asked in time, so it does not wait: if
// the part is still being asked, it is asked again right after that.
func (n *Node) confirmPart(ps []*partition) {
	pt := ps[0].part()
	ps, idle := pt.due(ps)
	if !idle {
		unpin(ps)
		return
	}
	n.wg.Go(func() {
		for ; len(ps) > 0; ps = pt.confirmed() {
			_ = n.confirm(n.ctx, ps) // what failed is counted, and asked again
			unpin(ps)
		}
	})
}

func unpin(ps []*partition) {
	for _, p := range ps {
		p.ns.unpin()
	}
}

func (n *Node) each(do func(*partition)) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, ns := range n.namespaces {
		for _, p := range ns.partitions {
			do(p)
		}
	}
}

// confirm asks for the deltas of partitions.
func (n *Node) confirm(ctx context.Context, parts []*partition) error {
	_, err := n.ask(ctx, parts, n.cfg.Bound)
	return err
}

// ask asks for the deltas of partitions, all at once, and takes each in when it is
// there. It waits for no longer than patience; what comes later than the bound
// would confirm nothing.
func (n *Node) ask(ctx context.Context, ps []*partition, patience time.Duration) ([]soracache.Delta, error) {
	deltas := make([]soracache.Delta, len(ps))
	errs := make([]error, len(ps))
	together(apart(ps), func(which []int) {
		reqs := make([]l2.SinceRequest, len(which))
		asked := make([]invalidation.Question, len(which))
		for k, i := range which {
			asked[k] = ps[i].follower.Ask()
			reqs[k] = l2.SinceRequest{Partition: ps[i].id, Since: asked[k].Since, Register: n.registration}
		}
		answers := callStore(ctx, n, "since", func(ctx context.Context) ([]l2.SinceAnswer, error) {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			as := n.cfg.Store.Since(ctx, reqs)
			return as, firstError(as, func(a *l2.SinceAnswer) error { return a.Err })
		})
		for k, i := range which {
			if errs[i] = answers[k].Err; errs[i] == nil {
				deltas[i] = answers[k].Delta
				ps[i].answer(asked[k], deltas[i], 0)
			}
		}
	})
	return deltas, errors.Join(errs...)
}

// housekeep does what is due by time in the store, of whichever partitions: the
// nodes of a cluster share that work. It also forgets the namespaces that nobody
// uses.
func (n *Node) housekeep() {
	tick := time.NewTicker(n.cfg.SweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-tick.C:
		}
		n.forgetIdle()
		for more := true; more && n.ctx.Err() == nil; {
			var err error
			if more, err = n.cfg.Store.Sweep(n.ctx); err != nil {
				break // due again at the next tick
			}
		}
	}
}

// chore is a walk that deletes what is dead: of one tag's keys, or, without a
// tag, of a whole partition. It names the partition and does not hold it, so that
// a namespace can be forgotten while its chores wait.
type chore struct {
	at  l2.Partition
	tag string
}

// chores is a queue in which the same chore waits once.
type chores struct {
	mu      sync.Mutex
	queue   []chore            // guarded by mu
	waiting map[chore]struct{} // those in queue; guarded by mu
	wakeup  chan struct{}      // has room for one
}

// maxChores bounds the queue. What does not fit is left to expiry: deleting is
// housekeeping.
const maxChores = 10_000

func newChores() *chores {
	return &chores{waiting: map[chore]struct{}{}, wakeup: make(chan struct{}, 1)}
}

func (c *chores) add(ch chore) {
	c.mu.Lock()
	if _, waits := c.waiting[ch]; !waits && len(c.queue) < maxChores {
		c.waiting[ch] = struct{}{}
		c.queue = append(c.queue, ch)
	}
	c.mu.Unlock()
	select {
	case c.wakeup <- struct{}{}:
	default:
	}
}

func (c *chores) take() (chore, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return chore{}, false
	}
	ch := c.queue[0]
	c.queue = c.queue[1:]
	delete(c.waiting, ch)
	return ch, true
}

// reclaim does the chores, one after the other, resting after each step for as
// long as the step took, so that the store is never kept busy by them.
func (n *Node) reclaim() {
	for {
		ch, ok := n.chores.take()
		if !ok {
			select {
			case <-n.ctx.Done():
				return
			case <-n.chores.wakeup:
			}
			if !n.rest(n.cfg.ReclaimAfter) {
				return
			}
			continue
		}
		if err := n.do(ch); err != nil && n.ctx.Err() == nil {
			n.cfg.Logger.Info("reclaim interrupted; what is left expires by itself", "partition", ch.at.String(), "tag", ch.tag, "error", err)
		}
		if n.ctx.Err() != nil {
			return
		}
	}
}

// do does a chore. Of all nodes only one walks a whole partition at a time.
func (n *Node) do(ch chore) error {
	if ch.tag != "" {
		return n.walk(ch)
	}
	lease := n.newLease(0)
	if !n.chosenToWalk(ch.at, lease) {
		return nil
	}
	defer n.walked(ch.at, lease)
	return n.walk(ch)
}

func (n *Node) walk(ch chore) error {
	for cursor := ""; ; {
		began := n.now()
		next, deleted, err := n.cfg.Store.Reclaim(n.ctx, ch.at, ch.tag, cursor)
		if err != nil {
			return err
		}
		n.totals.reclaimed.Add(uint64(deleted)) //nolint:gosec // a count
		if next == "" {
			return nil
		}
		if !n.rest(n.now() - began) {
			return n.ctx.Err()
		}
		cursor = next
	}
}

// rest lets time pass. It returns false if the node ends meanwhile.
func (n *Node) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-n.ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// walkKey is a key that no text can be typed as; its lease elects the node that
// walks a partition after a clear or a new epoch.
const walkKey = "\x00soracache:walk"

// walkLease is how long one election holds.
const walkLease = 30 * time.Second

func (n *Node) chosenToWalk(at l2.Partition, lease soracache.Lease) bool {
	answers := callStore(n.ctx, n, "read", func(ctx context.Context) ([]l2.ReadAnswer, error) {
		as := n.cfg.Store.Read(ctx, []l2.ReadRequest{{
			Partition: at,
			Keys:      []l2.ReadKey{{Key: walkKey, Nonce: lease, LeaseFor: walkLease}},
		}})
		return as, as[0].Err
	})
	return answers[0].Err == nil && answers[0].Keys[0].Lease == soracache.LeaseGranted
}

// walked gives the election up, also if the node ends: another may have to walk.
func (n *Node) walked(at l2.Partition, lease soracache.Lease) {
	callStore(context.WithoutCancel(n.ctx), n, "write", func(ctx context.Context) ([]l2.WriteAnswer, error) {
		as := n.cfg.Store.Write(ctx, []l2.WriteRequest{{Partition: at, Op: soracache.OpRelease, Key: walkKey, Nonce: lease}})
		return as, as[0].Err
	})
}
