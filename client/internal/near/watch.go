package near

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

const (
	// idleAfter is how long after the last read a near cache is confirmed.
	idleAfter = time.Minute
	// firstRewatch and lastRewatch bound how long after its end a watch is begun
	// again, before jitter: the time doubles from one failure to the next.
	firstRewatch = 50 * time.Millisecond
	lastRewatch  = 5 * time.Second
	// noWatch is how long a service that cannot be watched is left alone.
	noWatch = time.Minute
	// stalledAfter is how long a watch may be behind what other answers tell,
	// beyond the bound, until it is begun anew elsewhere.
	stalledAfter = time.Second
	// firstMessageTimeout is how long a watch may deliver nothing at all. A node sends at
	// once how far it is.
	firstMessageTimeout = 10 * time.Second
)

// follow watches until the client is closed, and confirms what is followed.
func (n *Cache) follow(ctx context.Context) {
	var confirming sync.WaitGroup
	confirming.Go(func() { n.confirm(ctx) })
	defer confirming.Wait()
	wait := firstRewatch
	for ctx.Err() == nil {
		delivered, err := n.watch(ctx)
		switch {
		case delivered:
			wait = firstRewatch
		case n.owner.Refuses(err) && !errors.Is(err, soracache.ErrTooLarge): // which is a node without room, for the moment
			wait = noWatch
		default:
			wait = min(2*wait, lastRewatch)
		}
		rest(ctx, time.Duration(float64(wait)*(0.75+n.random()/2)))
	}
}

// watch runs one watch until it breaks, and tells whether it delivered anything.
func (n *Cache) watch(ctx context.Context) (delivered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n.mu.Lock()
	n.stopWatching = cancel
	n.mu.Unlock()
	from := n.stamps()
	mute := time.AfterFunc(firstMessageTimeout, cancel)
	defer mute.Stop()
	var item soracache.WatchItem // which was not taken in
	var left bool                // because its epoch was left
	err = n.owner.Watch(ctx, from,
		func(items []soracache.WatchItem) error {
			mute.Stop()
			for i := range items {
				if err := n.take(&items[i], !delivered && i == 0); err != nil {
					item, left = items[i], errors.Is(err, errLeft) // a copy: the items are the backend's
					return err
				}
			}
			delivered = true
			return nil
		})
	if left {
		n.readIn(ctx, item.Partition, int(item.Partitions))
	}
	return delivered, err
}

// readIn reads some key of a partition, whether or not the application reads anything
// there. The answer tells the session whether the store has gone back to an epoch.
func (n *Cache) readIn(ctx context.Context, partition uint16, partitions int) {
	key := ""
	for i := 0; key == "" || soracache.PartitionOf(key, partitions) != partition; i++ {
		key = fmt.Sprint("near", i)
	}
	n.owner.Touch(ctx, key)
}

// stamps returns what was followed so far.
func (n *Cache) stamps() (stamps soracache.Stamps) {
	ledgers := n.ledgers.Load()
	if ledgers == nil {
		return nil
	}
	for _, l := range *ledgers {
		if s := l.follower.State(); s.Epoch != 0 {
			stamps = append(stamps, soracache.PartitionStamp{
				Partition: l.partition, Stamp: soracache.Stamp{Epoch: s.Epoch, Position: s.Applied},
			})
		}
	}
	return stamps
}

// errBadWatch ends a watch that cannot be what it should be.
var errBadWatch = fmt.Errorf("%w: the watch does not go on from where it was", soracache.ErrUnavailable)

// errLeft ends one that tells of an epoch that was left here.
var errLeft = fmt.Errorf("%w: of an epoch that was left", errBadWatch)

// take takes in one step. The first one of a watch may tell that the namespace has
// another number of partitions now. Then all begins anew.
func (n *Cache) take(item *soracache.WatchItem, first bool) error {
	ledgers := n.ledgers.Load()
	switch {
	case ledgers == nil:
		ledgers = n.open(int(item.Partitions))
	case int(item.Partitions) != len(*ledgers) && first:
		n.giveUp(*ledgers)
		ledgers = n.open(int(item.Partitions))
	}
	if int(item.Partitions) != len(*ledgers) || item.Partition >= item.Partitions {
		return fmt.Errorf("%w: partition %d of %d", errBadWatch, item.Partition, item.Partitions)
	}
	l := (*ledgers)[item.Partition]
	if item.Reset && n.wentBack(l, item.Epoch) {
		l = n.again(*ledgers, l)
	}
	before := l.follower.State()
	o := l.follower.Push(invalidation.Step{Epoch: item.Epoch, Applied: item.Complete, New: item.Records, Reset: item.Reset})
	switch {
	case o.Missed && l.follower.Left(item.Epoch):
		return errLeft
	case o.Missed:
		return errBadWatch
	}
	if o.Reset && before.Epoch != 0 {
		n.owner.Restarted()
	}
	after := l.follower.State()
	seen := soracache.Stamps{{Partition: item.Partition, Stamp: soracache.Stamp{Epoch: after.Epoch, Position: after.Seen}}}
	shown := soracache.Stamps{{Partition: item.Partition, Stamp: soracache.Stamp{Epoch: before.Epoch}}}
	n.owner.Observe(shown, seen)
	return nil
}

// wentBack tells whether a ledger has gone back to an epoch that was left here, as
// that of a store which was restored may. A watch alone does not show it: its node
// may be the last to notice that the epoch was left. But an answer does which was
// asked for by who had seen the present epoch, and that is what the session takes in.
func (n *Cache) wentBack(l *ledger, epoch soracache.Epoch) bool {
	seen, _ := n.owner.Seen().At(l.partition)
	return seen.Epoch == epoch && l.follower.Left(epoch)
}

// again begins to follow a partition anew, and keeps nothing of what was kept of it.
func (n *Cache) again(ledgers []*ledger, l *ledger) *ledger {
	anew := n.newLedger(l.partition)
	ledgers = slices.Clone(ledgers)
	ledgers[l.partition] = anew
	l.over.Store(true)
	l.follower.Void()
	n.ledgers.Store(&ledgers)
	n.owner.Restarted()
	return anew
}

// giveUp ends following partitions that the namespace has no more, with all that
// was kept of them.
func (n *Cache) giveUp(ledgers []*ledger) {
	for _, l := range ledgers {
		l.over.Store(true)
		l.follower.Void()
	}
	n.values.Clear()
	n.owner.Restarted()
}

// open begins to follow so many partitions.
func (n *Cache) open(partitions int) *[]*ledger {
	ledgers := make([]*ledger, 0, partitions)
	for i := range partitions {
		ledgers = append(ledgers, n.newLedger(uint16(i)))
	}
	n.ledgers.Store(&ledgers)
	return &ledgers
}

func (n *Cache) newLedger(partition uint16) *ledger {
	return &ledger{
		partition: partition,
		follower: invalidation.NewFollower(invalidation.Config{
			Marks: n.marks, Space: uint64(partition), Bound: n.bound, Now: n.now,
		}),
	}
}

// confirm asks about three times in a bound how far the ledgers have come, unless
// other answers told so or nobody reads.
func (n *Cache) confirm(ctx context.Context) {
	tick := time.NewTicker(n.bound / 3)
	defer tick.Stop()
	slept := n.suspended()
	var behindSince time.Duration // zero: the watch is not behind
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ledgers := n.ledgers.Load()
		if ledgers == nil {
			continue
		}
		if now := n.suspended(); now-slept > n.bound/10 {
			slept = now
			for _, l := range *ledgers {
				l.follower.Void()
			}
			n.values.Clear() // its expiry was counted on a clock that stood still
		}
		if n.now()-time.Duration(n.lastUse.Load()) > idleAfter || n.confirmed(*ledgers) {
			behindSince = 0
			continue
		}
		switch behind := n.head(ctx); {
		case !behind:
			behindSince = 0
		case behindSince == 0:
			behindSince = n.now()
		case n.now()-behindSince > n.bound+stalledAfter:
			behindSince = 0
			n.rewatch()
		}
	}
}

// confirmed tells whether all ledgers were confirmed of late by other answers.
func (n *Cache) confirmed(ledgers []*ledger) bool {
	for _, l := range ledgers {
		if age := l.follower.State().Age; age < 0 || age > n.bound/3 {
			return false
		}
	}
	return true
}

// head asks how far the ledgers have come, and tells whether the watch is behind
// that.
func (n *Cache) head(ctx context.Context) (behind bool) {
	ctx, cancel := context.WithTimeout(ctx, n.bound)
	defer cancel()
	asked := n.BeginAll()
	head, err := n.owner.Head(ctx)
	if err != nil {
		return false // the watch cannot be blamed
	}
	return asked.Confirm(head.Stamp, head.Age)
}

// rewatch ends the present watch, so that another one is begun.
func (n *Cache) rewatch() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopWatching != nil {
		n.stopWatching()
	}
}

// rest lets time pass, or the context end.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
