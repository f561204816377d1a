package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
)

// feed hands what the follower of one partition learns to those who watch it. The
// follower is locked only while a step is noted. A goroutine that lasts until nothing
// waits hands the steps to the watchers, in their order.
type feed struct {
	most  int          // targets that may wait; not changed
	start func(func()) // runs something that the node waits for before it ends; not changed
	count atomic.Int32 // of watchers, for those who only ask whether there are any

	// mu is held while steps are handed out, from their taking to the last watcher. So
	// who holds it finds every step either with all watchers or still in line.
	mu       sync.Mutex
	watchers []*watched // guarded by mu

	noting  sync.Mutex // taken after mu, and held for a moment only
	line    backlog    // what was not handed out yet; guarded by noting
	handing bool       // a goroutine hands out; guarded by noting
}

// tell is the follower's Feed: it is called in order, with the follower locked.
func (f *feed) tell(s invalidation.Step) {
	if f.count.Load() == 0 {
		return
	}
	f.noting.Lock()
	defer f.noting.Unlock()
	f.line.add(s, f.most)
	if !f.handing {
		f.handing = true
		f.start(f.run)
	}
}

// run hands out until nothing is in line.
func (f *feed) run() {
	for f.handOut() {
	}
}

// handOut hands out what is in line. It is false if that was nothing.
func (f *feed) handOut() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noting.Lock()
	line := f.take()
	if line.empty() {
		f.handing = false
		f.noting.Unlock()
		return false
	}
	f.noting.Unlock()
	f.spread(line)
	return true
}

// listen returns the state of the follower that a watcher is told of, and has it
// forget what waits of the epochs before. By then, every step that the follower told
// of before is with the watcher. Those that follow are of the state's epoch or of
// later ones, for the follower is in a step before it tells of it.
//
// Otherwise the watcher could be told of the state, and then of a reset to an epoch
// that the follower has left before. It would take the state's for the one that was
// left.
func (f *feed) listen(d *watched) invalidation.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noting.Lock()
	state, line := d.p.follower.State(), f.take()
	f.noting.Unlock()
	f.spread(line)
	d.forget(state.Epoch)
	return state
}

// take takes what is in line. The caller holds both locks.
func (f *feed) take() (line backlog) {
	line, f.line = f.line, backlog{}
	return line
}

// spread gives every watcher what was in line. The caller holds mu.
func (f *feed) spread(line backlog) {
	if line.empty() {
		return
	}
	for _, d := range f.watchers {
		d.push(line)
	}
}

func (f *feed) watched() bool { return f.count.Load() > 0 }

func (f *feed) join(d *watched) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d.place = len(f.watchers)
	f.watchers = append(f.watchers, d)
	f.count.Add(1)
}

func (f *feed) leave(d *watched) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.watchers) - 1
	moved := f.watchers[last]
	f.watchers[d.place], f.watchers[last] = moved, nil
	moved.place = d.place
	f.watchers = f.watchers[:last]
	f.count.Add(-1)
}

// watch is one watcher of a namespace.
type watch struct {
	node   *Node
	gone   <-chan struct{} // closed when the namespace is given up
	all    []*watched      // every partition, by its index; immutable
	wakeup chan struct{}

	mu sync.Mutex
	// ready holds the partitions of which something waits. Guarded by mu.
	ready []*watched
}

// watched is one partition as one watcher sees it.
type watched struct {
	p     *partition
	watch *watch
	place int // in the feed's watchers; guarded by the feed's mu

	queue backlog // guarded by the watch's mu
	// listed: it is in ready. Guarded by the watch's mu.
	listed bool

	// told is up to where the watcher has been told everything. Only the
	// goroutine of the watcher uses it.
	told soracache.Stamp
}

// backlog is what waits, in order.
type backlog struct {
	steps   []invalidation.Step
	targets int
	// lost: more came than may wait. What came is forgotten, and so is what
	// comes, until the partition is begun anew.
	lost bool
}

func (b *backlog) empty() bool { return len(b.steps) == 0 && !b.lost }

// add has one more step wait, of no more targets than so many with what waits
// already. A reset takes the place of all that waits: what lies before it is not
// wanted any more, and the follower has forgotten what came early beyond it, and
// will tell that again.
func (b *backlog) add(s invalidation.Step, most int) {
	size := sizeOf(s.New)
	n := len(b.steps)
	switch {
	case s.Reset:
		b.steps, b.targets, b.lost = append(b.steps[:0], s), 1, false
	case b.lost:
	case n > 0 && b.targets+size > most:
		b.lose()
	case n > 0 && !b.steps[n-1].Reset && b.steps[n-1].Epoch == s.Epoch:
		last := &b.steps[n-1]
		last.Applied = s.Applied
		last.New = append(last.New, s.New...)
		b.targets += size
	default:
		s.New = slices.Clip(s.New) // it is shared with others
		b.steps = append(b.steps, s)
		b.targets += size
	}
}

func (b *backlog) lose() { b.steps, b.targets, b.lost = nil, 0, true }

// push notes for the watcher what was in line for all.
func (d *watched) push(line backlog) {
	w := d.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	before := d.queue.lost
	if line.lost {
		d.queue.lose()
	}
	for _, s := range line.steps {
		d.queue.add(s, w.node.cfg.WatchQueue)
	}
	switch lost := d.queue.lost; {
	case lost && before:
		return
	case lost:
		w.node.totals.watchOverflows.Add(1)
	}
	w.list(d)
}

// list holds mu.
func (w *watch) list(d *watched) {
	if !d.listed {
		d.listed = true
		w.ready = append(w.ready, d)
	}
	select {
	case w.wakeup <- struct{}{}:
	default:
	}
}

func sizeOf(records []soracache.Record) (targets int) {
	for _, r := range records {
		targets += len(r.Targets)
	}
	return max(targets, 1)
}

// Watch delivers what is recorded in a namespace, as soon as the node's own
// followers learn of it. A watcher that takes in too slowly loses what waits for
// it, and gets a reset.
//
// The beginning, for each partition:
//
//  1. The watcher joins the feed: what the follower learns from now on waits.
//  2. How far the follower has heard by now is noted: State().Seen.
//  3. The ledger is asked, until the follower has applied all that it had heard
//     by 2, or all that the ledger held at an asking after it.
//  4. State() says where that is: at A, in the epoch E.
//  5. If the watcher has followed the epoch E to F, a chain of questions for what
//     came after F tells it everything up to a head H, and H >= A. Otherwise it
//     is told of a reset at A.
//  6. What waits is delivered, and then what comes.
//
// Nothing is missed that is recorded beyond the H or the A that the watcher was
// told. If the follower had heard of it before 1, it lies at or before the Seen
// of 2. If the ledger has it, then since before the asking of 3, so A is at or
// past it: that is why it does not do that the follower be confirmed already,
// with a record in its hands that came early, was fed to nobody, and will be
// applied by a step that does not name it. And if the ledger does not have it,
// nobody need hear of it. What the follower heard of after 1 is in what waits.
// It may also lie before H or A. Then the watcher hears of it twice, or of what
// it need not know.
//
// A chain that is cut off tells of each target once, at its latest position, so
// it counts only as a whole: until it ends, the watcher is at F. Whatever is
// recorded meanwhile, the end of the chain has it, or it waits.
//
// A new epoch before 2 is E. One that the follower enters between 2 and 4 is E
// too, and all that the follower has learnt of it waits, from the reset on; what
// waits of the epochs before is forgotten at 4, in one step with the reading of
// the state, which is never behind what waits (see feed.listen). One that it enters
// later is a step like any other, and so is one that the ledger took and the follower has
// not noticed: the chain then breaks off, for the epoch is not E or the position
// is unknown, the watcher is told of a reset at A, and the new epoch will follow.
//
// What was lost because too much waited is the same beginning from 1, without
// the chain: the ledger has no use for whoever is too slow already.
func (n *Node) Watch(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	ns, err := n.begin(ctx, req.Namespace)
	if err != nil {
		return err
	}
	defer n.leave(ns)
	w := n.joinFeeds(ns)
	defer w.end()
	n.totals.watchers.Add(1)
	defer n.totals.watchers.Add(-1)
	out := &outlet{watch: w, deliver: deliver}
	if err := w.start(ctx, w.all, req.From, out); err != nil {
		return err
	}
	for {
		if err := out.flush(); err != nil {
			return err
		}
		if err := w.await(ctx); err != nil {
			return err
		}
		lost, err := w.take(out)
		if err != nil {
			return err
		}
		if len(lost) > 0 {
			if err := w.start(ctx, lost, nil, out); err != nil {
				return err
			}
		}
	}
}

// joinFeeds begins a watch of all partitions of a namespace. It must be ended.
func (n *Node) joinFeeds(ns *namespace) *watch {
	w := &watch{node: n, gone: ns.gone, wakeup: make(chan struct{}, 1)}
	for _, p := range ns.partitions {
		d := &watched{p: p, watch: w}
		w.all = append(w.all, d)
		p.feed.join(d)
		p.touch(n.now())
	}
	return w
}

// errGivenUp ends a watch of a namespace that the node refuses now.
var errGivenUp = fmt.Errorf("%w: the namespace was given up", l2.ErrPartitions)

func (w *watch) end() {
	for _, d := range w.all {
		d.p.feed.leave(d)
	}
}

// await returns when something waits.
func (w *watch) await(ctx context.Context) error {
	select {
	case <-w.wakeup:
		return ctx.Err()
	case <-w.node.draining:
		return errDraining
	case <-w.gone:
		return errGivenUp
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take puts out what waits, and returns the partitions to begin anew.
func (w *watch) take(out *outlet) ([]*watched, error) {
	var lost []*watched
	type batch struct {
		d     *watched
		steps []invalidation.Step
	}
	var batches []batch
	w.mu.Lock()
	for _, d := range w.ready {
		d.listed = false
		if d.queue.lost {
			lost = append(lost, d)
			continue
		}
		batches = append(batches, batch{d, d.queue.steps})
		d.queue = backlog{}
	}
	clear(w.ready)
	w.ready = w.ready[:0]
	w.mu.Unlock()
	for _, b := range batches {
		for _, s := range b.steps {
			if err := b.d.step(s, out); err != nil {
				return nil, err
			}
		}
	}
	return lost, nil
}

// step puts out one step of the feed, so far as it is news to the watcher.
func (d *watched) step(s invalidation.Step, out *outlet) error {
	if s.Epoch != d.told.Epoch && !s.Reset {
		return nil // of an epoch that was left while the watch began
	}
	ahead := s.Epoch != d.told.Epoch || s.Applied > d.told.Position
	if ahead {
		d.told = soracache.Stamp{Epoch: s.Epoch, Position: s.Applied}
	} else if len(s.New) == 0 {
		return nil
	}
	return out.put(d, s.New, s.Reset && ahead)
}

// start takes partitions through the beginning of a watch, from 2 on; see
// [Node.Watch].
func (w *watch) start(ctx context.Context, parts []*watched, from soracache.Stamps, out *outlet) error {
	if err := w.catchUp(ctx, parts); err != nil {
		return err
	}
	var chained []*chain
	for _, d := range parts {
		state := d.p.feed.listen(d)
		d.told = soracache.Stamp{Epoch: state.Epoch, Position: state.Applied}
		if f, _ := from.At(d.p.id.Index); f.Epoch == d.told.Epoch {
			chained = append(chained, &chain{d: d, told: f, next: f})
			continue
		}
		if err := out.put(d, nil, true); err != nil {
			return err
		}
	}
	return w.backfill(ctx, chained, out)
}

// catchUp has the followers apply what they had heard of when it was called.
func (w *watch) catchUp(ctx context.Context, parts []*watched) error {
	heard := make(map[*partition]invalidation.State, len(parts))
	var asking []*partition
	for _, d := range parts {
		d.hear()
		heard[d.p] = d.p.follower.State()
		asking = append(asking, d.p)
	}
	for len(asking) > 0 {
		deltas, err := w.node.ask(ctx, asking, w.node.cfg.Bound)
		if err != nil {
			return err
		}
		var again []*partition
		idle := true
		for i, p := range asking {
			if !applied(p.follower.State(), heard[p], deltas[i]) {
				again = append(again, p)
				idle = idle && !deltas[i].More
			}
		}
		if asking = again; len(asking) > 0 && idle {
			if err := w.rest(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// applied tells whether a follower has applied what it had heard of, or at
// least what the ledger held that was asked since.
func applied(now, heard invalidation.State, d soracache.Delta) bool {
	switch {
	case now.Epoch == 0:
		return false
	case now.Epoch != heard.Epoch:
		return true // it entered it since, so whoever listens has heard all of it
	default:
		return d.Epoch == now.Epoch && now.Applied >= min(heard.Seen, d.Head)
	}
}

// rest lets a little time pass before the ledger is asked again.
func (w *watch) rest(ctx context.Context) error {
	t := time.NewTimer(w.node.cfg.Bound / 10)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-w.node.draining:
		return errDraining
	case <-w.gone:
		return errGivenUp
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hear makes what comes wait again, if too much had come before.
func (d *watched) hear() {
	d.watch.mu.Lock()
	defer d.watch.mu.Unlock()
	d.queue.lost = false
}

// forget forgets what waits of all epochs but one.
func (d *watched) forget(epoch soracache.Epoch) {
	d.watch.mu.Lock()
	defer d.watch.mu.Unlock()
	d.queue.steps = slices.DeleteFunc(d.queue.steps, func(s invalidation.Step) bool { return s.Epoch != epoch })
}

// chain is what a partition's ledger is asked for one watcher.
type chain struct {
	d    *watched
	told soracache.Stamp // where the watcher is until the chain ends
	next soracache.Stamp // where the next question goes on
}

// backfill tells watchers what came after where they had been.
func (w *watch) backfill(ctx context.Context, open []*chain, out *outlet) error {
	for len(open) > 0 {
		reqs := make([]l2.SinceRequest, len(open))
		for i, c := range open {
			// A watcher may show what it likes: no ledger takes a new epoch for it.
			reqs[i] = l2.SinceRequest{Partition: c.d.p.id, Since: c.next, Guest: true}
		}
		answers := callStore(ctx, w.node, "since", func(ctx context.Context) ([]l2.SinceAnswer, error) {
			as := w.node.cfg.Store.Since(ctx, reqs)
			return as, firstError(as, func(a *l2.SinceAnswer) error { return a.Err })
		})
		var unfinished []*chain
		for i, c := range open {
			if err := answers[i].Err; err != nil {
				return err
			}
			more, err := c.answered(answers[i].Delta, out)
			if err != nil {
				return err
			}
			if more {
				unfinished = append(unfinished, c)
			}
		}
		open = unfinished
	}
	return nil
}

// answered puts out one answer to a chain. It is true if the chain goes on.
func (c *chain) answered(delta soracache.Delta, out *outlet) (more bool, err error) {
	d := c.d
	n := len(delta.Records)
	switch {
	case delta.Reset, delta.Epoch != c.told.Epoch, delta.Head < max(c.told.Position, d.told.Position), delta.More && n == 0:
		return false, out.put(d, nil, true)
	case delta.More:
		c.next.Position = delta.Records[n-1].Position
		return true, out.putAt(d, c.told, delta.Records, false)
	}
	d.told.Position = delta.Head
	return false, out.put(d, delta.Records, false)
}

// outlet collects items, so that they are delivered together.
type outlet struct {
	watch   *watch
	deliver func([]soracache.WatchItem) error
	items   []soracache.WatchItem
	targets int
}

// put adds what a partition's watcher is told, up to where it is then.
func (o *outlet) put(d *watched, records []soracache.Record, reset bool) error {
	return o.putAt(d, d.told, records, reset)
}

func (o *outlet) putAt(d *watched, at soracache.Stamp, records []soracache.Record, reset bool) error {
	if reset {
		o.watch.node.totals.watchResets.Add(1)
	}
	o.items = append(o.items, soracache.WatchItem{
		Partition: d.p.id.Index, Partitions: d.p.id.Count,
		Epoch: at.Epoch, Complete: at.Position, Records: records, Reset: reset,
	})
	if o.targets += sizeOf(records); o.targets < o.watch.node.cfg.WatchQueue {
		return nil
	}
	return o.flush()
}

// flush delivers what was collected.
func (o *outlet) flush() error {
	if len(o.items) == 0 {
		return nil
	}
	select {
	case <-o.watch.node.draining:
		return errDraining
	default:
	}
	items := o.items
	o.items, o.targets = nil, 0
	o.watch.node.totals.watchItems.Add(uint64(len(items)))
	return o.deliver(items)
}
