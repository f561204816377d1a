package node

import (
	"strconv"
	"sync"
	"testing"

	"github.com/soracache/soracache"
)

// What is done with the follower locked does not grow with who watches: of 10,000
// watchers none is looked at (there is nothing to look at), and the lock is not asked
// for that is held while they are handed what is new. They are told afterwards.
func TestFollowerIsLockedForNoWatcher(t *testing.T) {
	const records = 100
	f := fanOut(t, 3, 4096)
	feed := &f.p.feed
	feed.noting.Lock()
	feed.handing = true // by nobody
	feed.noting.Unlock()
	feed.mu.Lock()
	there := feed.watchers
	feed.watchers = make([]*watched, 10_000)
	feed.count.Store(10_000)
	back := sync.OnceFunc(func() {
		feed.watchers = there
		feed.count.Store(3)
		feed.mu.Unlock()
	})
	t.Cleanup(back)
	within(t, "recording", func() {
		for i := range records {
			at := f.p.follower.State()
			f.p.follower.Record(soracache.Record{
				Epoch: at.Epoch, Prev: at.Applied, Position: at.Applied + 1, Targets: []soracache.Target{soracache.Key(strconv.Itoa(i))},
			})
		}
	})
	back()
	feed.run()
	for i, w := range f.watches {
		if names, lost := f.told(w); len(names) != records || lost != 0 {
			t.Errorf("watcher %d: told of %d records, lost %d", i, len(names), lost)
		}
	}
}
