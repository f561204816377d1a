package l1

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// op is one Put (or, with value 0, Remove), with when it began and ended on a
// clock that ticks at every beginning and end. end is 0 while it is under way.
type op struct{ begin, end atomic.Int64 }

// history checks reads of one key: what a read returns must not have ended
// before another write of the key began that ended before the read began.
type history struct {
	// newest is the latest beginning among the writes that have ended.
	newest atomic.Int64
}

func (h *history) ended(o *op, now int64) {
	o.end.Store(now)
	for begin, newest := o.begin.Load(), h.newest.Load(); begin > newest; newest = h.newest.Load() {
		if h.newest.CompareAndSwap(newest, begin) {
			return
		}
	}
}

// TestNewestOrNothing has many writers put, put in batches and remove a few
// keys in a cache too small for them, while readers look.
func TestNewestOrNothing(t *testing.T) {
	const keys, writers, readers = 24, 8, 4
	rounds := 4000
	if testing.Short() {
		rounds = 500
	}
	c, err := New(Config[*op]{MaxBytes: leastBytes, Size: func(*op) int {
		return 20_000 + rand.IntN(40_000)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	var (
		clock        atomic.Int64
		histories    [keys]history
		hits, stale  atomic.Int64
		writing, all sync.WaitGroup
		done         = make(chan struct{})
	)
	write := func(w, round int) {
		k := rand.IntN(keys)
		o := new(op)
		o.begin.Store(clock.Add(1))
		switch round % 4 {
		case 0:
			c.Remove(name(k))
		case 1:
			c.PutMany([]Item[*op]{{name(k), o}, {name(keys + w), o}, {name(k), o}})
		default:
			c.Put(name(k), o)
		}
		histories[k].ended(o, clock.Add(1))
	}
	read := func() {
		k := rand.IntN(keys)
		newest := histories[k].newest.Load()
		o, ok := c.Get(name(k))
		if !ok {
			return
		}
		hits.Add(1)
		if end := o.end.Load(); end != 0 && end < newest {
			stale.Add(1)
		}
	}
	for w := range writers {
		writing.Go(func() {
			for round := range rounds {
				write(w, round)
				read()
			}
		})
	}
	for range readers {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					read()
					runtime.Gosched() // leaves the processors to the writers
				}
			}
		})
	}
	writing.Wait()
	close(done)
	all.Wait()
	if n := stale.Load(); n != 0 {
		t.Errorf("%d of %d hits returned what a later write had replaced", n, hits.Load())
	}
	if hits.Load() == 0 {
		t.Error("no read found anything: nothing was tested")
	}
	checkCounts(t, c)
}

// checkCounts compares the cache's own counts with Ristretto's, at rest.
func checkCounts[V any](t *testing.T, c *Cache[V]) {
	t.Helper()
	c.ristretto.Wait()
	var entries, bytes int64
	c.ristretto.IterValues(func(e *entry[V]) bool {
		entries++
		bytes += e.cost
		return false
	})
	used := c.ristretto.MaxCost() - c.ristretto.RemainingCost()
	if entries != c.entries.Load() || bytes != c.bytes.Load() || bytes != used {
		t.Errorf("%d entries of %d bytes are held, %d of %d counted, %d bytes by Ristretto",
			entries, bytes, c.entries.Load(), c.bytes.Load(), used)
	}
}

// TestBytesStayWithinLimit watches the cache from outside while values of
// random sizes come and grow.
func TestBytesStayWithinLimit(t *testing.T) {
	rounds := 10_000
	if testing.Short() {
		rounds = 2000
	}
	const limit = 2 << 20
	c := newBlobs(t, limit)
	check := func() {
		if s := c.Stats(); s.Bytes > s.Limit {
			t.Errorf("%d bytes of at most %d", s.Bytes, s.Limit)
		}
	}
	var writing, watching sync.WaitGroup
	done := make(chan struct{})
	watching.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				check()
			}
		}
	})
	for w := range 4 {
		writing.Go(func() {
			for i := range rounds {
				k := name(rand.IntN(3000))
				size := rand.IntN(1 << rand.IntN(16))
				switch c.Get(k); {
				case i%10 == 0:
					c.Remove(k)
				case i%10 < 5: // grows, in steps, a few keys of the writer's own
					c.Put(name(-w*10-i/5%10), blob{size: i * 10})
				case i%10 == 5:
					c.PutMany([]Item[blob]{{k, blob{size: size}}, {name(-w), blob{size: size}}})
				default:
					c.Put(k, blob{size: size})
				}
				check()
			}
		})
	}
	writing.Wait()
	close(done)
	watching.Wait()
	if s := c.Stats(); s.Evictions == 0 || s.Bytes < s.Limit/4 {
		t.Errorf("the cache was never full: %+v", s)
	}
	checkCounts(t, c)
}

// TestCloseBesideEverything closes caches while every method is in use.
// Ristretto itself panics or races there.
func TestCloseBesideEverything(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		c, err := New(blobConfig(leastBytes))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			c.Put(name(i), blob{size: 10})
		}
		var all sync.WaitGroup
		var busy atomic.Int64
		closed := make(chan struct{})
		for _, use := range []func(int){
			func(i int) { c.Get(name(i % 100)) },
			func(i int) { c.Get(name(i % 100)) },
			func(i int) { c.Put(name(i%1000), blob{size: i % 5000}) },
			func(i int) { c.PutMany([]Item[blob]{{name(i), blob{}}, {name(i), blob{}}, {name(i + 1), blob{}}}) },
			func(i int) { c.Remove(name(i % 100)) },
			func(i int) {
				if i%100 == 0 {
					c.Clear()
				}
				c.Stats()
			},
		} {
			all.Go(func() {
				for i := 0; ; i++ {
					use(i)
					busy.Add(1)
					select {
					case <-closed:
						use(i + 1)
						return
					default:
					}
				}
			})
		}
		for busy.Load() < 2000 {
			c.Get(name(0))
		}
		for range 2 { // at once, and again
			all.Go(c.Close)
		}
		c.Close()
		close(closed)
		all.Wait()
		checkClosed(t, c)
	}
}

func checkClosed(t *testing.T, c *Cache[blob]) {
	t.Helper()
	c.Clear()
	c.Remove(name(1))
	if c.Put(name(1), blob{}) || c.PutMany([]Item[blob]{{name(1), blob{}}}) != 0 {
		t.Error("a closed cache took something in")
	}
	if _, ok := c.Get(name(1)); ok {
		t.Error("a closed cache returned something")
	}
	s := c.Stats()
	if s.Entries != 0 {
		t.Errorf("a closed cache holds %d entries", s.Entries)
	}
	if hits, misses := c.readers.totals(); hits+misses != sumEntered(c) {
		t.Errorf("%d Gets entered and %d left", sumEntered(c), hits+misses)
	}
}

func sumEntered(c *Cache[blob]) (sum uint64) {
	for i := range c.readers {
		sum += c.readers[i].entered.Load()
	}
	return sum
}

// TestNoRejectionWithRoom has puts and removals of the same keys meet: a
// removal half done would make Ristretto take a put for an update.
func TestNoRejectionWithRoom(t *testing.T) {
	c := newBlobs(t, leastBytes)
	var all sync.WaitGroup
	for w := range 6 {
		all.Go(func() {
			for i := range 4000 {
				if k := name(i % 3); w%2 == 0 {
					c.Remove(k)
				} else if !c.Put(k, blob{size: i % 7}) {
					t.Error("a put was rejected with room left")
					return
				}
			}
		})
	}
	all.Wait()
	checkCounts(t, c)
}

// TestWritersWaitForLife holds every writer to keeping out of the way of Clear
// and Close, which Ristretto allows beside nothing else.
func TestWritersWaitForLife(t *testing.T) {
	c := newBlobs(t, leastBytes)
	for what, write := range map[string]func(){
		"Put":     func() { c.Put(name(1), blob{}) },
		"PutMany": func() { c.PutMany([]Item[blob]{{name(1), blob{}}}) },
		"Remove":  func() { c.Remove(name(1)) },
		"Clear":   c.Clear,
	} {
		c.life.Lock()
		done := make(chan struct{})
		go func() {
			write()
			close(done)
		}()
		stays(t, what, done)
		c.life.Unlock()
		<-done
	}
	c.life.RLock()
	done := make(chan struct{})
	go func() {
		c.Close()
		close(done)
	}()
	stays(t, "Close", done)
	c.life.RUnlock()
	<-done
}

// stays fails the test if done is closed while others get their turns.
func stays(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	for range 10_000 {
		select {
		case <-done:
			t.Errorf("%s did not wait", what)
			return
		default:
			runtime.Gosched()
		}
	}
}

// TestDrainWaits holds Close to waiting for a Get that has entered.
func TestDrainWaits(t *testing.T) {
	c := newBlobs(t, leastBytes)
	inside := &c.readers[17]
	inside.entered.Add(1)
	closed := make(chan struct{})
	go func() {
		c.Close()
		close(closed)
	}()
	for !c.closed.Load() {
		c.Get(name(1))
	}
	stays(t, "Close", closed)
	inside.misses.Add(1)
	<-closed
}
