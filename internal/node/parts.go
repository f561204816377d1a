package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// part is what of the store fails together: all of it, or one master of several.
// It knows whether that answers, by whatever is asked of it for whichever
// partition:
//
//  1. a read or a question for a delta is sent: an answer is owed from then on
//  2. anything is answered, or refused, to anybody: nothing is owed any more
//  3. a call ends without an answer, and nothing was answered since it was sent:
//     that is a failure if it ended by itself, or if an answer is owed for as long
//     as a call may take. After two in a row, readers are refused at once.
//  4. from the first such call on a probe asks, again and again, until 2
//
// A call whose caller has gone says nothing. Neither does a value that takes too
// long to be carried over, while others are answered.
type part struct {
	name string
	all  *parts

	mu       sync.Mutex
	answered time.Duration // when it last answered, on the node's clock; guarded by mu
	owing    time.Duration // since when it owes an answer; negative: it does not; guarded by mu
	pending  int           // calls that are under way; guarded by mu
	failures int           // in a row; guarded by mu
	// up is since when it answers; negative: it does not, or nobody has asked. Guarded
	// by mu.
	up time.Duration
	// life counts answers, so that a probe ends by the first: the next failure
	// begins another. probing: one is under way. Guarded by mu.
	life    uint64
	probing bool
	// confirming: the partitions that it holds are being confirmed, in a round that
	// began at round, and next are those to confirm after that. Guarded by mu.
	confirming bool
	round      time.Duration
	next       []*partition
}

// parts are the parts of a store.
type parts struct {
	node *Node

	mu     sync.Mutex
	byName map[string]*part // guarded by mu
}

func newParts(n *Node) *parts { return &parts{node: n, byName: map[string]*part{}} }

func (ps *parts) named(name string) *part {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	pt := ps.byName[name]
	if pt == nil {
		pt = &part{name: name, all: ps, owing: -1, answered: -1, up: -1}
		ps.byName[name] = pt
	}
	return pt
}

// list returns all parts that were asked for something, by name.
func (ps *parts) list() []*part {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	all := make([]*part, 0, len(ps.byName))
	for _, pt := range ps.byName {
		all = append(all, pt)
	}
	slices.SortFunc(all, func(a, b *part) int { return strings.Compare(a.name, b.name) })
	return all
}

// part returns the part of the store that holds the partition now.
func (p *partition) part() *part {
	name := p.node.cfg.Store.Part(p.id)
	if last := p.lastPart.Load(); last != nil && last.name == name {
		return last
	}
	pt := p.node.parts.named(name)
	p.lastPart.Store(pt)
	return pt
}

// down returns why readers are refused at once, or nil.
func (p *partition) down() error {
	if p.part().down() {
		return fmt.Errorf("%w: partition %s: the store does not answer", soracache.ErrUnavailable, p.id)
	}
	return nil
}

// failuresUntilDown is how many calls in a row must fail before readers are
// refused at once.
const failuresUntilDown = 2

func (pt *part) down() bool {
	pt.mu.Lock()
	defer pt.mu.Unlock()
	return pt.failures >= failuresUntilDown
}

// silentFor is for how long the part has owed an answer.
func (pt *part) silentFor() time.Duration {
	now := pt.all.node.now()
	pt.mu.Lock()
	defer pt.mu.Unlock()
	if pt.owing < 0 {
		return 0
	}
	return now - pt.owing
}

// asks notes that a call is about to be sent. It must be ended.
func (pt *part) asks() (sent time.Duration) {
	sent = pt.all.node.now()
	pt.mu.Lock()
	defer pt.mu.Unlock()
	pt.pending++
	if pt.owing < 0 {
		pt.owing = sent
	}
	return sent
}

// answers notes that the part has answered something.
func (pt *part) answers() {
	now := pt.all.node.now()
	pt.mu.Lock()
	was := pt.failures
	if pt.up < 0 || pt.unreachable(now) {
		pt.up = now
	}
	pt.answered, pt.owing, pt.failures = now, -1, 0
	pt.life++
	pt.probing = false
	pt.mu.Unlock()
	if was >= failuresUntilDown {
		pt.all.node.cfg.Logger.Info("the store answers again", "part", pt.name)
	}
}

// ends ends a call that was noted as sent. If it was not answered, ctx tells why
// it ended.
func (pt *part) ends(ctx context.Context, sent time.Duration, answered bool) {
	now := pt.all.node.now()
	pt.mu.Lock()
	defer pt.mu.Unlock()
	pt.pending--
	switch {
	case answered || pt.answered > sent:
		return
	case errors.Is(ctx.Err(), context.Canceled):
		if pt.pending == 0 && !pt.probing {
			pt.owing = -1 // nobody waits any more
		}
		return
	}
	if pt.owing < 0 {
		pt.owing = sent
	}
	if ctx.Err() == nil || now-pt.owing >= pt.all.node.cfg.StoreTimeout {
		if pt.failures++; pt.failures == failuresUntilDown {
			pt.all.node.cfg.Logger.Warn("the store does not answer: readers are refused at once until it does", "part", pt.name)
		}
	}
	if !pt.probing {
		pt.probing = true
		life := pt.life
		pt.all.node.wg.Go(func() { pt.probe(life) })
	}
}

// due takes partitions that are to be confirmed. If nobody is at it they are to be
// confirmed now, and then what confirmed returns; otherwise it returns those that
// nobody will confirm.
func (pt *part) due(ps []*partition) (rest []*partition, idle bool) {
	now := pt.all.node.now()
	pt.mu.Lock()
	defer pt.mu.Unlock()
	switch {
	case pt.failures >= failuresUntilDown:
		return ps, false
	case pt.confirming && now-pt.round < pt.all.node.cfg.Bound/6:
		return ps, false // it has only just begun
	case pt.confirming:
		rest, pt.next = pt.next, ps
		return rest, false
	}
	pt.confirming, pt.round = true, now
	return ps, true
}

// confirmed ends a round of confirming, and returns what is to be confirmed next:
// nothing if nobody asked for that meanwhile, or the part is down.
func (pt *part) confirmed() (next []*partition) {
	now := pt.all.node.now()
	pt.mu.Lock()
	defer pt.mu.Unlock()
	next, pt.next = pt.next, nil
	if len(next) > 0 && pt.failures >= failuresUntilDown {
		unpin(next)
		next = nil
	}
	pt.confirming, pt.round = len(next) > 0, now
	return next
}

// A probe asks one question at a time: the first after probeFirst, and then at
// growing intervals up to probeMost. It waits for an answer for probePatience at
// first, and longer each time, up to the time that a call may take: a store that
// is slow answers in the end.
const (
	probeFirst    = 20 * time.Millisecond
	probeMost     = 200 * time.Millisecond
	probePatience = 250 * time.Millisecond
)

// probe asks until the part has answered something, or nobody uses it.
func (pt *part) probe(life uint64) {
	n := pt.all.node
	rest, patience := probeFirst, probePatience
	for round := 0; n.rest(pt.spread(rest, round)); round++ {
		p := pt.toProbe(life, round)
		if p == nil {
			return
		}
		_, _ = n.ask(n.ctx, []*partition{p}, min(patience, n.cfg.StoreTimeout)) // what comes of it is noted
		p.ns.unpin()
		rest, patience = min(2*rest, probeMost), 2*patience
	}
}

// toProbe returns what a probe is to ask about, pinned; or nil if it is over.
func (pt *part) toProbe(life uint64, round int) *partition {
	p := pt.used(round)
	pt.mu.Lock()
	defer pt.mu.Unlock()
	switch {
	case pt.life == life && p != nil:
		return p
	case pt.life == life: // nobody uses it: whoever comes next finds out
		pt.owing, pt.failures, pt.probing, pt.up = -1, 0, false, -1
	case p != nil:
		p.ns.unpin()
	}
	return nil
}

// spread returns a time that differs somewhat by node, part and round, so that not
// all nodes ask at once.
func (pt *part) spread(d time.Duration, round int) time.Duration {
	hash := invalidation.KeyHash(pt.all.node.cfg.Name + "/" + pt.name + "/" + strconv.Itoa(round))
	return d*3/4 + time.Duration(hash%uint64(d/2)) //nolint:gosec // below d
}

// used returns one of the partitions in use that the part holds, another one in
// each round, since it may be with one of them that something is wrong; pinned,
// or nil if there is none.
func (pt *part) used(round int) *partition {
	n := pt.all.node
	n.mu.RLock()
	defer n.mu.RUnlock()
	var all []*partition
	for _, ns := range n.namespaces {
		for _, p := range ns.partitions {
			if p.active.Load() && p.part() == pt {
				all = append(all, p)
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b *partition) int { return cmp.Compare(a.space, b.space) })
	p := all[round%len(all)]
	p.ns.pin()
	return p
}

// apart groups partitions by the part of the store that holds them, as indices
// in order.
func apart(ps []*partition) (groups [][]int) {
	at := map[*part]int{}
	for i, p := range ps {
		pt := p.part()
		g, known := at[pt]
		if !known {
			g = len(groups)
			at[pt] = g
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

// together runs do for each group, all at once, and waits for them.
func together(groups [][]int, do func(which []int)) {
	if len(groups) == 1 {
		do(groups[0])
		return
	}
	var wg sync.WaitGroup
	for _, which := range groups {
		wg.Go(func() { do(which) })
	}
	wg.Wait()
}
