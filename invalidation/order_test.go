package invalidation

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
)

// A reader that is held up between two of its loads must not put together the
// marks of before a record with a confirmation of after it: it would serve what
// was killed longer ago than the bound. (Loading the view after the marks in
// Check makes this fail within a second.)
func TestReaderNeverJoinsOldMarksWithANewConfirmation(t *testing.T) {
	const bound = time.Second
	var clock atomic.Int64 // virtual nanoseconds
	f := NewFollower(Config{
		Marks: NewMarks(1<<10, 1), Bound: bound,
		Now: func() time.Duration { return time.Duration(clock.Load()) },
	})
	type entry struct {
		proof Proof
		// killedAt is when the record that names it was appended; it is set
		// before anything is done about that.
		killedAt atomic.Int64
	}
	head := soracache.Position(1)
	f.Answer(f.Ask(), soracache.Delta{Epoch: 1, Head: head})
	fresh := func() *entry {
		q := f.Ask()
		p, ok := f.Prove(q, soracache.Delta{Epoch: 1, Head: head}, "k", nil)
		if !ok {
			t.Fatal("no proof")
		}
		return &entry{proof: p}
	}
	var present atomic.Pointer[entry]
	present.Store(fresh())

	stop := make(chan struct{})
	var wg sync.WaitGroup
	var served atomic.Int64
	// Many more than there are processors, so that readers are held up anywhere.
	for range 16 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for range 1000 {
					e := present.Load()
					j := f.Check(&e.proof, soracache.Stamp{})
					killed := time.Duration(e.killedAt.Load())
					if j.Verdict == Live && killed != 0 && j.At >= killed+bound {
						t.Errorf("served %v after it was killed, with a bound of %v", j.At-killed, bound)
						return
					}
					served.Add(1)
				}
			}
		})
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end) && !t.Failed(); {
		for range 100 {
			e := present.Load()
			e.killedAt.Store(clock.Add(1))
			r := soracache.Record{Epoch: 1, Prev: head, Position: head + 1, Targets: []soracache.Target{soracache.Key("k")}}
			clock.Add(int64(2 * bound))
			q := f.Ask()
			head++
			f.Answer(q, soracache.Delta{Epoch: 1, Head: head, Records: []soracache.Record{r}})
			present.Store(fresh())
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d checks against %d records", served.Load(), head)
}
