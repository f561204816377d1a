package budget

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const mib = 1 << 20

func take(t *testing.T, h *Hold, n int) {
	t.Helper()
	if err := h.Take(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// No connection holds over an eighth, and who can never have what it asks for is
// told so at once.
func TestShareOfAConnection(t *testing.T) {
	t.Parallel()
	b := New(256 * mib)
	conn := &Connection{}
	one, two, other := b.Hold(conn), b.Hold(conn), b.Hold(&Connection{})
	take(t, one, 30*mib)
	if err := one.Take(t.Context(), 3*mib); !errors.Is(err, ErrShare) {
		t.Errorf("over an eighth: %v", err)
	}
	if err := two.Take(t.Context(), 3*mib); !errors.Is(err, ErrFull) {
		t.Errorf("with another of its connection over an eighth: %v", err)
	}
	take(t, other, 3*mib)
	one.Close()
	take(t, two, 32*mib)
	if s := b.Stats(); s.Used != 35*mib || s.Highest != 35*mib || s.Refusals != 2 {
		t.Errorf("stats %+v", s)
	}
}

// Those who hold much leave a quarter to those who want little.
func TestReserve(t *testing.T) {
	t.Parallel()
	b := New(256 * mib)
	var all []*Hold
	for range 6 {
		h := b.Hold(&Connection{})
		take(t, h, 32*mib)
		all = append(all, h)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Hold(nil).Take(ctx, mib); !errors.Is(err, context.Canceled) {
		t.Errorf("a large one beyond three quarters: %v", err)
	}
	if all[0].Try(1) || b.Hold(nil).Try(mib) {
		t.Error("a large one has got more without waiting")
	}
	small := b.Hold(nil)
	for range 256 {
		take(t, b.Hold(nil), 200<<10)
	}
	if !small.Try(mib / 8) {
		t.Error("a small one is refused")
	}
}

// Who waits gets the room that comes back; who holds much does not wait.
func TestWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(64 * mib)
		var all []*Hold
		for range 6 {
			h := b.Hold(&Connection{})
			take(t, h, 8*mib)
			all = append(all, h)
		}
		began := time.Now()
		if err := all[0].Take(t.Context(), 1); !errors.Is(err, ErrShare) || time.Since(began) > 0 {
			t.Errorf("one that holds much: %v after %s", err, time.Since(began))
		}
		all[1].Give(mib)
		if err := all[0].Take(t.Context(), 0); err != nil {
			t.Error(err)
		}
		take(t, b.Hold(nil), mib)
		var got atomic.Bool
		var waiting sync.WaitGroup
		waiting.Go(func() {
			take(t, b.Hold(nil), mib)
			got.Store(true)
		})
		synctest.Wait()
		if got.Load() {
			t.Fatal("it did not wait")
		}
		all[2].Close()
		waiting.Wait()
		if time.Since(began) > 0 || !got.Load() {
			t.Errorf("woken after %s", time.Since(began))
		}
		take(t, b.Hold(nil), 7*mib)
		if err := b.Hold(nil).Take(t.Context(), mib); !errors.Is(err, ErrFull) || time.Since(began) != patience {
			t.Errorf("%v after %s, want %s", err, time.Since(began), patience)
		}
	})
}

// What was taken and not used is no garbage.
func TestReturn(t *testing.T) {
	t.Parallel()
	b := New(64 * mib)
	for range 64 {
		h := b.Hold(nil)
		take(t, h, 4*mib)
		h.Return(4*mib - 1)
		if h.Held() != 1 {
			t.Fatalf("it holds %d", h.Held())
		}
		h.Close()
	}
	if s := b.Stats(); s.Collections != 0 || s.Used != 0 {
		t.Errorf("%+v", s)
	}
}

// A transfer that does not move is cut off when others need its room, one that
// moves at 10 Mbit/s is not, and nobody is while there is room.
func TestStalledTransfersAreCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(64 * mib)
		var cut [3]atomic.Bool
		var holds [3]*Hold
		for i := range holds {
			holds[i] = b.Hold(&Connection{})
			take(t, holds[i], 8*mib)
			holds[i].Begin(func() { cut[i].Store(true) })
		}
		others := b.Hold(nil)
		take(t, others, 8*mib)
		ctx, end := context.WithCancel(t.Context())
		var moving sync.WaitGroup
		moving.Go(func() { // 10 Mbit/s, in packets; a byte a tick; nothing
			for ctx.Err() == nil {
				holds[0].Moved(12_500)
				holds[1].Moved(1)
				time.Sleep(10 * time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		if cut[0].Load() || cut[1].Load() || cut[2].Load() {
			t.Fatal("cut off while there is room")
		}
		take(t, b.Hold(nil), 8*mib)
		take(t, b.Hold(nil), 8*mib)
		if err := b.Hold(nil).Take(t.Context(), 8*mib); !errors.Is(err, ErrFull) { // those cut do not give back here
			t.Errorf("%v", err)
		}
		if cut[0].Load() || !cut[1].Load() || !cut[2].Load() {
			t.Errorf("cut off: moving %v, trickling %v, still %v", cut[0].Load(), cut[1].Load(), cut[2].Load())
		}
		end()
		moving.Wait()
		holds[0].End()
		if b.Stats().Cuts != 2 {
			t.Errorf("%d cuts", b.Stats().Cuts)
		}
	})
}

// Who waits for room itself is not cut off meanwhile: it does not wait for its
// caller.
func TestWhoWaitsForRoomIsNotStalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(64 * mib)
		for range 6 {
			take(t, b.Hold(&Connection{}), 8*mib)
		}
		var cut atomic.Int64
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				h := b.Hold(nil)
				take(t, h, 1)
				h.Begin(func() { cut.Add(1) })
				if err := h.Take(t.Context(), mib); !errors.Is(err, ErrFull) {
					t.Errorf("%v", err)
				}
				time.Sleep(stallTime / 2)
				if !b.Hold(nil).Try(1) {
					t.Error("no room for a small one")
				}
				h.Close()
				h.End()
			})
		}
		all.Wait()
		if cut.Load() != 0 {
			t.Error("cut off while it waited for room")
		}
	})
}

// What was given back counts until the collector has run, and the budget has it
// run when that stands in the way.
func TestGarbageCounts(t *testing.T) {
	b := New(64 * mib)
	for range 64 {
		h := b.Hold(nil)
		take(t, h, 4*mib)
		h.Close()
	}
	s := b.Stats()
	if s.Collections < 2 || s.Highest != 4*mib {
		t.Errorf("%d collections for 256 MiB in turn: %+v", s.Collections, s)
	}
	// A collector that runs by itself spares the call.
	runtime.GC()
	runtime.GC()
	before := b.Stats().Collections
	h := b.Hold(nil)
	take(t, h, 8*mib)
	if after := b.Stats().Collections; after != before {
		t.Errorf("called for the collector after it had run")
	}
}

func TestConcurrentHolds(t *testing.T) {
	t.Parallel()
	b := New(64 * mib)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			conn := &Connection{}
			for i := range 200 {
				h := b.Hold(conn)
				if h.Take(t.Context(), (i%8+1)*mib/2) == nil {
					h.Begin(func() {})
					h.Moved(1)
					h.End()
				}
				h.Close()
			}
		})
	}
	all.Wait()
	if s := b.Stats(); s.Used != 0 || s.Highest > 48*mib {
		t.Errorf("%+v", s)
	}
}

func TestDefault(t *testing.T) {
	t.Parallel()
	const unlimited = 1<<63 - 1
	for name, c := range map[string]struct {
		files   map[string]string
		goLimit int64
		want    int64
	}{
		"nothing known":  {nil, unlimited, 256 * mib},
		"the machine's":  {map[string]string{"proc/meminfo": "MemTotal:  8388608 kB\nMemFree: 1 kB\n"}, unlimited, 2048 * mib},
		"GOMEMLIMIT":     {map[string]string{"proc/meminfo": "MemTotal:  8388608 kB\n"}, 400 * mib, 100 * mib},
		"hardly any":     {nil, mib, Least},
		"cgroup 2":       {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1073741824\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, unlimited, 256 * mib},
		"in a container": {map[string]string{"proc/self/cgroup": "0::/docker/x\n", "sys/fs/cgroup/memory.max": "536870912\n"}, unlimited, 128 * mib},
		"cgroup 1": {map[string]string{
			"proc/self/cgroup": "5:cpu,memory:/x\n3:pids:/y\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "268435456\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n",
			"sys/fs/cgroup/memory/y/memory.limit_in_bytes": "1\n",
			"proc/meminfo": "MemTotal: 8388608 kB\n",
			"sys/fs/cgroup/memory/x/y/memory.limit_in_bytes":  "1\n",
			"sys/fs/cgroup/memory/xy/z/memory.limit_in_bytes": "garbage\n",
		}, unlimited, 64 * mib},
		"garbage": {map[string]string{"proc/self/cgroup": "\n::\n0::/a\nmemory", "sys/fs/cgroup/a/memory.max": "lots\n", "proc/meminfo": "MemTotal:\n"}, unlimited, 256 * mib},
	} {
		root := t.TempDir()
		for file, content := range c.files {
			path := filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := defaultOf(root, c.goLimit); got != c.want {
			t.Errorf("%s: %d MiB, want %d MiB", strings.TrimSpace(name), got/mib, c.want/mib)
		}
	}
	if Default() < Least {
		t.Error("this machine's is too small")
	}
}

func (b *Budget) garbage() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fresh + b.older
}

func collections() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return uint64(s.NumGC)
}

// What is given back after the collector ran is still there, however often it ran
// before: a crowd that comes after a lull does not take its memory twice.
func TestGarbageAfterALull(t *testing.T) {
	for range 20 {
		b := New(64 * mib)
		runtime.GC()
		runtime.GC()
		before := collections()
		for range 11 {
			h := b.Hold(nil)
			take(t, h, 4*mib)
			h.Close()
		}
		take(t, b.Hold(nil), 8*mib)
		counted := b.garbage()
		if collections() != before {
			continue // the collector has run meanwhile
		}
		if counted < (44-64/8)*mib {
			t.Errorf("%d MiB count as garbage, and 44 were given back since the collector ran", counted/mib)
		}
		return
	}
	t.Skip("the collector runs all the time")
}

// What is given back while the collector runs may have been too late for it.
func TestGarbageWhileTheCollectorRuns(t *testing.T) {
	b := New(64 * mib)
	h, late := b.Hold(nil), b.Hold(nil)
	take(t, late, 6*mib)
	take(t, h, 20*mib)
	h.Close()
	b.mu.Lock()
	done := b.collect()
	b.mu.Unlock()
	late.Close()
	b.mu.Lock()
	b.look()
	b.mu.Unlock()
	<-done
	if counted := b.garbage(); counted != 6*mib {
		t.Errorf("%d MiB count as garbage, want the 6 that were given back while the collector ran", counted/mib)
	}
	runtime.GC()
	runtime.GC()
	take(t, b.Hold(nil), 7*mib)
	if counted := b.garbage(); counted != 6*mib {
		t.Errorf("%d MiB: there was no need to look", counted/mib)
	}
	b.mu.Lock()
	b.look()
	b.mu.Unlock()
	if counted := b.garbage(); counted != 0 {
		t.Errorf("%d MiB count as garbage after two more collections", counted/mib)
	}
}

// Who goes does not wait for the collector.
func TestWhoGoesDoesNotWaitForTheCollector(t *testing.T) {
	t.Parallel()
	b := New(64 * mib)
	b.collecting = make(chan struct{}) // it is slow
	b.cycle = collections() + 10
	b.older = 60 * mib
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Hold(nil).Take(ctx, 4*mib+1) }()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits")
	}
}

// Who waits for room and holds nothing is in no account, so that few do. Others are
// refused at once.
func TestFewWaitWithoutHoldingAnything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New(16 * mib)
		for range 16 * 16 {
			take(t, b.Hold(nil), mib/16)
		}
		var atOnce, later atomic.Int64
		began := time.Now()
		wait := func() {
			if err := b.Hold(nil).Take(t.Context(), 8<<10); !errors.Is(err, ErrFull) {
				t.Errorf("%v", err)
			}
			if time.Since(began) == 0 {
				atOnce.Add(1)
			} else {
				later.Add(1)
			}
		}
		for range 3 {
			began = time.Now()
			var all sync.WaitGroup
			for range mostWaiting + 500 {
				all.Go(wait)
			}
			all.Wait()
		}
		if atOnce.Load() != 3*500 || later.Load() != 3*mostWaiting {
			t.Errorf("%d were refused at once, %d later", atOnce.Load(), later.Load())
		}
	})
}
