package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/l2"
)

func withClock(c *clock) func(*Config) {
	return func(cfg *Config) { cfg.Now, cfg.SweepEvery = c.now, -1 }
}

func mustLoad(t testing.TB, s *Store, key, value string, tags ...string) {
	t.Helper()
	e := soracache.Entry{Value: []byte(value), Tags: soracache.NormalizeTags(tags)}
	if reason, err := load(s, key, e, long); err != nil || reason != soracache.ReasonNone {
		t.Fatalf("fill of %.40q: %s, %v", key, reason, err)
	}
}

func read(t testing.TB, s *Store, key string) l2.KeyAnswer {
	t.Helper()
	a := s.Read(context.Background(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: key}}}})[0]
	if a.Err != nil {
		t.Fatalf("read of %.40q: %v", key, a.Err)
	}
	return a.Keys[0]
}

func mustHit(t testing.TB, s *Store, key, value string) {
	t.Helper()
	if a := read(t, s, key); !a.Found || string(a.Entry.Value) != value {
		t.Fatalf("read of %.40q: found %v, %.40q, want %.40q", key, a.Found, a.Entry.Value, value)
	}
}

func mustMiss(t testing.TB, s *Store, key string) {
	t.Helper()
	if a := read(t, s, key); a.Found {
		t.Fatalf("read of %.40q found %.40q", key, a.Entry.Value)
	}
}

func head(t testing.TB, s *Store) soracache.Stamp {
	t.Helper()
	a := s.Since(context.Background(), []l2.SinceRequest{{Partition: at}})[0]
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	return soracache.Stamp{Epoch: a.Delta.Epoch, Position: a.Delta.Head}
}

// sweep does all the housekeeping that is due.
func sweep(t testing.TB, s *Store) {
	t.Helper()
	for more := true; more; {
		var err error
		if more, err = s.Sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !yes(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	for what, cfg := range map[string]Config{
		"no directory":       {},
		"little room":        {Dir: "d", MaxBytes: MinMaxBytes - 1},
		"negative room":      {Dir: "d", MaxBytes: -1},
		"too much room":      {Dir: "d", MaxBytes: 1 << 50},
		"negative retention": {Dir: "d", Retention: l2.Retention{Age: -1}},
		"negative cap":       {Dir: "d", Retention: l2.Retention{TagRecords: -1}},
		"negative wait":      {Dir: "d", LockWait: -1},
	} {
		if err := cfg.Validate(); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
		if s, err := Open(cfg); err == nil {
			s.Close()
			t.Errorf("%s: opened", what)
		}
	}
	if err := (Config{Dir: "d"}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	s := openIn(t, t.TempDir())
	mustLoad(t, s, "k", "v")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	_, _, listErr := s.ListKeys(ctx, at, "t", "", 1)
	_, _, reclaimErr := s.Reclaim(ctx, at, "t", "")
	_, sweepErr := s.Sweep(ctx)
	_, explainErr := s.Explain(ctx, at, "k")
	for what, err := range map[string]error{
		"read":       s.Read(ctx, []l2.ReadRequest{{Partition: at}})[0].Err,
		"since":      s.Since(ctx, []l2.SinceRequest{{Partition: at}})[0].Err,
		"write":      s.Write(ctx, []l2.WriteRequest{{Partition: at, Op: soracache.OpRelease}})[0].Err,
		"invalidate": s.Invalidate(ctx, []l2.InvalidateRequest{{Partition: at, Targets: []soracache.Target{soracache.Key("k")}}})[0].Err,
		"list":       listErr,
		"reclaim":    reclaimErr,
		"sweep":      sweepErr,
		"explain":    explainErr,
		"ping":       s.Ping(ctx),
	} {
		if !errors.Is(err, soracache.ErrUnavailable) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
}

// TestGrantIsOfTheLatest is the interleaving that Read is numbered against.
func TestGrantIsOfTheLatest(t *testing.T) {
	s := openIn(t, t.TempDir())
	first := head(t, s)
	n := nonce()
	r := reading{s: s, reqs: []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: "k", Nonce: n, LeaseFor: time.Minute}}}}}
	if err := r.judge(); err != nil || len(r.wishes) != 1 {
		t.Fatalf("%d wishes, %v", len(r.wishes), err)
	}
	record := invalidate(t, s, soracache.Key("k"))
	if done := r.grant(); !done {
		t.Fatal("nothing was to be put right")
	}
	a := r.answers[0]
	if a.Keys[0].Lease != soracache.LeaseGranted || a.Keys[0].LeaseStamp.Position != record.Position || a.Delta.Head != record.Position {
		t.Fatalf("granted %+v at %+v; before the invalidation the head was %v", a.Keys[0], a.Delta, first)
	}

	r = reading{s: s, reqs: []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: "l", Nonce: nonce(), LeaseFor: time.Minute}}}}}
	if err := r.judge(); err != nil {
		t.Fatal(err)
	}
	mustLoad(t, s, "l", "filled meanwhile")
	if done := r.grant(); !done || !r.answers[0].Keys[0].Found || r.answers[0].Keys[0].Lease != soracache.LeaseNone {
		t.Fatalf("done %v: %+v", done, r.answers[0].Keys[0])
	}
}

// occupy keeps the writer busy until it is released, which the test's end does
// at the latest.
func occupy(t *testing.T, s *Store) (release func()) {
	t.Helper()
	began, ended := make(chan struct{}), make(chan struct{})
	go s.change(context.Background(), func(*txn) {
		close(began)
		<-ended
	})
	<-began
	release = sync.OnceFunc(func() { close(ended) })
	t.Cleanup(release)
	return release
}

// TestBatches holds the writer up until many requests wait: they must share
// transactions.
func TestBatches(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.SweepEvery = -1 })
	head(t, s)
	const callers = 400
	before := s.Counters().RoundTrips
	release := occupy(t, s)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			if a := s.Write(context.Background(), []l2.WriteRequest{{
				Partition: at, Op: soracache.OpPut, Key: strconv.Itoa(i), Entry: soracache.Entry{Value: []byte("v")}, Lifetime: long,
			}})[0]; a.Err != nil || a.Reason != soracache.ReasonNone {
				t.Errorf("put: %+v", a)
			}
		})
	}
	eventually(t, "all wait", func() bool { return s.queue.waiting() == callers })
	release()
	all.Wait()
	if n := s.Counters().RoundTrips - before; n > 4 {
		t.Errorf("%d puts took %d transactions", callers, n)
	}
	for i := range callers {
		mustHit(t, s, strconv.Itoa(i), "v")
	}
}

// waiting returns how many calls the writer has not begun.
func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.calls)
}

// TestNeighbours lets requests fail in the middle of a batch.
func TestNeighbours(t *testing.T) {
	s := openIn(t, t.TempDir())
	mustLoad(t, s, "old", "v", "t")
	n := nonce()
	s.Read(t.Context(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: "leased", Nonce: n, LeaseFor: time.Minute}}}})
	for what, bad := range map[string]func(*txn){
		"an error": func(x *txn) {
			x.put(bEntry, nil, nil) // bbolt refuses it
		},
		"a panic": func(x *txn) { panic("for the test") },
		"a panic after changes": func(x *txn) {
			x.remove(entryKey(1, "old"))
			x.endLease(leaseKey{1, "leased"})
			panic("for the test")
		},
		"a null pointer": func(x *txn) { x.buckets[bLease].Get(nil) },
	} {
		var failure error
		put := func(key string) *op {
			var a l2.WriteAnswer
			req := l2.WriteRequest{Partition: at, Op: soracache.OpPut, Key: key, Entry: soracache.Entry{Value: []byte(what)}, Lifetime: long}
			return s.writeOps(req, &a)[0]
		}
		ops := []*op{put("a"), {run: bad, fail: func(err error) { failure = err }}, put("b")}
		if err := s.queue.do(t.Context(), ops); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(failure, soracache.ErrUnavailable) {
			t.Errorf("%s: %v", what, failure)
		}
		mustHit(t, s, "a", what)
		mustHit(t, s, "b", what)
		mustHit(t, s, "old", "v")
	}
	a := s.Write(t.Context(), []l2.WriteRequest{{
		Partition: at, Op: soracache.OpFill, Key: "leased", Nonce: n, Entry: soracache.Entry{Value: []byte("v")}, Lifetime: long,
	}})[0]
	if a.Reason != soracache.ReasonNone {
		t.Errorf("the lease that a failed request ended: %s", a.Reason)
	}
	if aside := s.SetAside(); len(aside) > 0 {
		t.Errorf("a sound file was set aside as %q", aside)
	}
	checkInvariants(t, s)
}

func TestCancelledWhileWaiting(t *testing.T) {
	s := openIn(t, t.TempDir())
	head(t, s)
	release := occupy(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan error, 4)
	for i := range 2 {
		go func() {
			answers <- s.Write(ctx, []l2.WriteRequest{{
				Partition: at, Op: soracache.OpPut, Key: fmt.Sprint("k", i), Entry: soracache.Entry{Value: make([]byte, 1<<20)}, Lifetime: long,
			}})[0].Err
		}()
		go func() {
			answers <- s.Invalidate(ctx, []l2.InvalidateRequest{{Partition: at, Targets: []soracache.Target{soracache.Tag("t")}}})[0].Err
		}()
	}
	eventually(t, "all wait", func() bool { return s.queue.waiting() == 4 })
	cancel()
	for range 4 {
		if err := <-answers; !errors.Is(err, soracache.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
	release()
	mustLoad(t, s, "after", "v")
	mustHit(t, s, "after", "v")
	sweep(t, s)
	if n := rows(t, s); n[bChunk] > 0 && n[bEntry] == 1 {
		t.Errorf("%d pieces of values that were given up stay behind", n[bChunk])
	}
	checkInvariants(t, s)
}

// TestLargeValues stores values of sizes around every bound, under names short
// and long, over one another.
func TestLargeValues(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.MaxBytes, c.SweepEvery = 256<<20, -1 })
	long := strings.Repeat("a long name ", 90)
	names := []string{"k", long + "1", long + "2", strings.Repeat("y", 127), strings.Repeat("y", 128), strings.Repeat("y", 129)}
	sizes := []int{0, 1, 700, 800, 850, 900, 1000, 1100, chunkBytes, 2*chunkBytes - 1, 5000, 64 << 10, 65 << 10, stageAbove, stageAbove + 2000, 3*stagePiece + 900, 8 << 20}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range sizes {
		some := names
		if size > 1<<20 {
			some = names[:2]
		}
		for _, name := range some {
			value := make([]byte, size, size+8)
			for i := 0; i < size; i += 8 {
				binary.LittleEndian.PutUint64(value[i:i+8:i+8], rng.Uint64())
			}
			mustLoad(t, s, name, string(value), "all", long+"tag", name)
			if a := read(t, s, name); !bytes.Equal(a.Entry.Value, value) {
				t.Fatalf("%d bytes under a name of %d were read back otherwise", size, len(name))
			}
		}
	}
	sweep(t, s)
	checkInvariants(t, s)
	for _, tag := range []string{"all", long + "tag"} {
		keys, next, err := s.ListKeys(t.Context(), at, tag, "", 100)
		if slices.Sort(keys); err != nil || next != "" || len(keys) != len(names) {
			t.Fatalf("tag %.20q lists %d keys, next %q, %v", tag, len(keys), next, err)
		}
	}
	since := head(t, s)
	var targets []soracache.Target
	for _, n := range names {
		targets = append(targets, soracache.Key(n), soracache.Tag(n))
	}
	invalidate(t, s, targets...)
	d := s.Since(t.Context(), []l2.SinceRequest{{Partition: at, Since: since}})[0].Delta
	if len(d.Records) != 1 || len(d.Records[0].Targets) != len(targets) {
		t.Fatalf("the delta: %+v", d)
	}
	for _, want := range targets {
		if !slices.Contains(d.Records[0].Targets, want) {
			t.Errorf("the delta lacks %.60s", want)
		}
	}
	sweep(t, s)
	if n := rows(t, s); n[bEntry]+n[bChunk]+n[bDue]+n[bMember]+n[bGarbage] > 0 {
		t.Errorf("rows left of what was removed: %v", n)
	}
}

// TestStagedFillSuperseded invalidates while a large value is on its way in.
func TestStagedFillSuperseded(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.SweepEvery = -1 })
	e := soracache.Entry{Value: make([]byte, 4<<20), Tags: []string{"t"}}
	n := nonce()
	s.Read(t.Context(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: "k", Nonce: n, LeaseFor: time.Minute}}}})
	f := make(chan l2.WriteAnswer, 1)
	release := occupy(t, s)
	go func() {
		f <- s.Write(context.Background(), []l2.WriteRequest{{Partition: at, Op: soracache.OpFill, Key: "k", Nonce: n, Entry: e, Lifetime: long}})[0]
	}()
	inv := make(chan struct{})
	eventually(t, "the fill waits", func() bool { return s.queue.waiting() == 1 })
	go func() {
		invalidate(t, s, soracache.Tag("t"))
		close(inv)
	}()
	eventually(t, "the invalidation waits", func() bool { return s.queue.waiting() == 2 })
	release()
	<-inv
	select {
	case a := <-f:
		t.Logf("the fill was done before the invalidation: %+v", a)
		t.Error("an op of each call in turn: the invalidation should not have waited for the whole value")
	default:
	}
	if a := <-f; a.Reason != soracache.ReasonSuperseded {
		t.Errorf("the superseded fill: %+v", a)
	}
	mustMiss(t, s, "k")
	sweep(t, s)
	if n := rows(t, s); n[bChunk]+n[bGarbage] > 0 || len(s.staging) > 0 {
		t.Errorf("%d pieces stay behind, %d garbage, %d staging", n[bChunk], n[bGarbage], len(s.staging))
	}
}

func TestTooLarge(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.MaxBytes = MinMaxBytes })
	e := soracache.Entry{Value: make([]byte, MinMaxBytes/2)}
	if _, err := load(s, "k", e, long); !errors.Is(err, soracache.ErrTooLarge) {
		t.Errorf("half the store: %v", err)
	}
	e.Value = e.Value[:MinMaxBytes/5]
	if reason, err := load(s, "l", e, long); err != nil || reason != soracache.ReasonNone {
		t.Errorf("a fifth of the store: %s, %v", reason, err)
	}
}

func TestExpiry(t *testing.T) {
	c := newClock()
	s := openIn(t, t.TempDir(), withClock(c))
	empty := s.Counters().Bytes
	for i, value := range []int{10, 900, 5_000, 200_000} {
		e := soracache.Entry{Value: make([]byte, value), Tags: []string{"a", "b"}}
		fillKeys(t, s, keysNamed(strconv.Itoa(i), 200/(i*i*i+1)), e, soracache.Lifetime{TTL: time.Duration(i+1) * time.Minute})
	}
	for i := range 4 {
		before := rows(t, s)
		c.advance(59 * time.Second)
		sweep(t, s)
		if n := rows(t, s); n[bEntry] != before[bEntry] {
			t.Errorf("%d entries left of %d before their time", n[bEntry], before[bEntry])
		}
		c.advance(time.Second)
		mustMiss(t, s, fmt.Sprintf("%d%07d", i, 0))
		sweep(t, s)
		if n, want := rows(t, s), before[bEntry]-200/(i*i*i+1); n[bEntry] != want || n[bDue] != want || n[bMember] != 2*want {
			t.Errorf("after minute %d: %v, want %d entries", i+1, n, want)
		}
		checkInvariants(t, s)
	}
	if n := rows(t, s); n[bEntry]+n[bChunk]+n[bDue]+n[bMember]+n[bGarbage] > 0 {
		t.Errorf("rows left when everything has expired: %v", n)
	}
	if used := s.Counters().Bytes; used > empty+256<<10 {
		t.Errorf("%d bytes in use when everything has expired, %d in the beginning", used, empty)
	}
}

// TestExpiryByItself leaves the housekeeping to the store.
func TestExpiryByItself(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.SweepEvery = 5 * time.Millisecond })
	fillKeys(t, s, keysNamed("k", 500), soracache.Entry{Value: make([]byte, 3000), Tags: []string{"t"}}, soracache.Lifetime{TTL: 50 * time.Millisecond})
	s.Read(t.Context(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: "k", Nonce: nonce(), LeaseFor: time.Millisecond}}}})
	s.Since(t.Context(), []l2.SinceRequest{{Partition: at, Since: soracache.Stamp{Epoch: 1, Position: 1}}}) // a new epoch
	eventually(t, "all has expired", func() bool {
		n := rows(t, s)
		s.mu.Lock()
		defer s.mu.Unlock()
		return n[bEntry]+n[bChunk]+n[bDue]+n[bMember]+n[bGarbage] == 0 && len(s.leases) == 0
	})
}

// fileSize returns the size of the store's file.
func fileSize(t testing.TB, s *Store) int64 {
	t.Helper()
	info, err := os.Stat(s.home.path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestMaxBytes churns through many times the room with values of all sizes,
// removals of many keys, and readers that hold on to pages.
func TestMaxBytes(t *testing.T) {
	racetest.Without(t)
	const room = 8 << 20
	s := openIn(t, t.TempDir(), func(c *Config) { c.MaxBytes = room })
	ctx, stop := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	readers.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			key := fmt.Sprint("k", i*37%3000)
			s.Read(context.Background(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: key}}}})
			runtime.Gosched()
		}
	})
	rng := rand.New(rand.NewPCG(3, 4))
	var largest, used int64
	written := 0
	for written < 5*room {
		var writes []l2.WriteRequest
		for range 16 {
			size := 1 << rng.IntN(13)
			switch rng.IntN(60) {
			case 0:
				size = rng.IntN(512 << 10)
			case 1, 2:
				size = rng.IntN(100 << 10)
			}
			written += size
			writes = append(writes, l2.WriteRequest{
				Partition: at, Op: soracache.OpPut, Key: fmt.Sprint("k", rng.IntN(3000)),
				Entry:    soracache.Entry{Value: make([]byte, size), Tags: []string{"all", fmt.Sprint("t", rng.IntN(50))}},
				Lifetime: soracache.Lifetime{TTL: time.Duration(1+rng.IntN(600)) * time.Second},
			})
		}
		for _, a := range s.Write(t.Context(), writes) {
			if a.Err != nil {
				t.Fatal(a.Err)
			}
		}
		if rng.IntN(40) == 0 {
			var targets []soracache.Target
			for i := range 1000 {
				targets = append(targets, soracache.Key(fmt.Sprint("k", i*3)))
			}
			invalidate(t, s, targets...)
		}
		largest, used = max(largest, fileSize(t, s)), max(used, int64(s.Counters().Bytes))
	}
	stop()
	readers.Wait()
	c := s.Counters()
	t.Logf("%d MiB written into room for %d MiB: at most %.1f MiB in use, file %.1f MiB, %d live entries evicted, %d left",
		written>>20, room>>20, float64(used)/(1<<20), float64(largest)/(1<<20), c.Evicted, rows(t, s)[bEntry])
	if used > room {
		t.Errorf("%d bytes were in use, with room for %d", used, room)
	}
	if most := room + Slack(room); largest > most {
		t.Errorf("the file grew to %d bytes, %d are allowed", largest, most)
	}
	if c.Evicted == 0 {
		t.Error("nothing was evicted")
	}
	if c.Bytes < room/2 {
		t.Errorf("only %d bytes are in use after all this", c.Bytes)
	}
	checkInvariants(t, s)
}

func TestEvictsWhatExpiresFirst(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.MaxBytes, c.SweepEvery = 8<<20, -1 })
	const n = 200
	e := soracache.Entry{Value: make([]byte, 16<<10)}
	for i := range n { // the first filled is the last to expire
		fillKeys(t, s, []string{fmt.Sprint("k", i)}, e, soracache.Lifetime{TTL: time.Duration(n-i) * time.Hour})
	}
	if s.Counters().Evicted != 0 {
		t.Fatalf("%d evicted while there was room", s.Counters().Evicted)
	}
	fillKeys(t, s, keysNamed("new", 300), e, soracache.Lifetime{TTL: 1000 * time.Hour})
	evicted := s.Counters().Evicted
	if evicted == 0 || evicted == n {
		t.Fatalf("%d of %d evicted", evicted, n)
	}
	for i := range n {
		if found, want := read(t, s, fmt.Sprint("k", i)).Found, i < n-int(evicted); found != want {
			t.Errorf("entry %d of %d, of which %d were evicted: found %v", i, n, evicted, found)
		}
	}
	for _, k := range keysNamed("new", 300) {
		if !read(t, s, k).Found {
			t.Errorf("%s was evicted", k)
		}
	}
}

// TestDeadAreNotCounted: only live entries count as evicted.
func TestDeadAreNotCounted(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.MaxBytes, c.SweepEvery = 8<<20, -1 })
	fillKeys(t, s, keysNamed("old", 300), soracache.Entry{Value: make([]byte, 16<<10), Tags: []string{"t"}}, soracache.Lifetime{TTL: time.Minute})
	invalidate(t, s, soracache.Tag("t"))
	fillKeys(t, s, keysNamed("new", 300), soracache.Entry{Value: make([]byte, 16<<10)}, soracache.Lifetime{TTL: time.Hour})
	if n := s.Counters().Evicted; n != 0 {
		t.Errorf("%d evicted, though there were only dead ones to go", n)
	}
	for _, k := range keysNamed("new", 300) {
		mustHit(t, s, k, string(make([]byte, 16<<10)))
	}
}

// TestRecordsAreBounded lets ledgers record far more than they may remember.
func TestRecordsAreBounded(t *testing.T) {
	racetest.Without(t)
	c := newClock()
	s := openIn(t, t.TempDir(), withClock(c), func(cfg *Config) {
		cfg.Retention = l2.Retention{TagRecords: 1000, KeyRecords: 500, Age: time.Minute}
	})
	fillKeys(t, s, []string{"k"}, soracache.Entry{}, soracache.Lifetime{TTL: 10 * time.Minute})
	for i := range 300 {
		var targets []soracache.Target
		for j := range 20 {
			targets = append(targets, soracache.Tag(fmt.Sprint("tag", i*20+j)), soracache.Key(strings.Repeat("key", 50)+strconv.Itoa(i*20+j)))
		}
		invalidate(t, s, targets...)
		c.advance(10 * time.Millisecond)
		if n := rows(t, s); n[bOrder] > 1500+2*(trimEvery+64) {
			t.Fatalf("%d records are held", n[bOrder])
		}
	}
	checkInvariants(t, s)
	c.advance(30 * time.Second)
	invalidate(t, s, soracache.Tag("x"))
	sweep(t, s)
	if n := rows(t, s); n[bIssued] < 301 || n[bOrder] < 1000 {
		t.Errorf("forgotten too early: %v", n)
	}
	c.advance(31 * time.Second)
	sweep(t, s)
	if n := rows(t, s); n[bIssued] > 2 {
		t.Errorf("%d positions are remembered after their time", n[bIssued])
	}
	c.advance(10 * time.Minute)
	sweep(t, s)
	if n := rows(t, s); n != [bucketCount]int{} {
		t.Errorf("after all time, when nothing is stored any more: %v", n)
	}
	invalidate(t, s, soracache.Key("k"))
	checkInvariants(t, s)
}

// TestNewEpochForgetsInSteps: what earlier epochs recorded goes, step by step.
func TestNewEpochForgetsInSteps(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.SweepEvery = -1 })
	var targets []soracache.Target
	for j := range 1000 {
		targets = append(targets, soracache.Tag(fmt.Sprint("tag", j)))
	}
	for range 3 {
		invalidate(t, s, targets...)
		s.Since(t.Context(), []l2.SinceRequest{{Partition: at, Since: soracache.Stamp{Epoch: soracache.Epoch(nonces.Add(1)), Position: 1}}})
	}
	if n := rows(t, s); n[bGarbage] != 3 || n[bOrder] != 3000 {
		t.Fatalf("after three epochs: %v", n)
	}
	sweep(t, s)
	if n := rows(t, s); n[bGarbage] != 0 || n[bOrder] != 0 || n[bRecord] != 0 || n[bIssued] != 1 {
		t.Errorf("after sweeping: %v", n)
	}
	checkInvariants(t, s)
}

func TestLeftEpochsAreBounded(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.SweepEvery = -1 })
	for i := range mostLeft {
		a := s.Since(t.Context(), []l2.SinceRequest{{Partition: at, Since: soracache.Stamp{Epoch: soracache.Epoch(1<<50 + i), Position: 1}}})[0]
		if a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	if n := rows(t, s); n[bEpoch] != 2*mostLeft {
		t.Errorf("%d rows for %d epochs", n[bEpoch], mostLeft)
	}
}

// TestTransactions is the price list of an engine without a network.
func TestTransactions(t *testing.T) {
	s := openIn(t, t.TempDir(), func(c *Config) { c.SweepEvery = -1 })
	since := head(t, s)
	n := nonce()
	for _, op := range []struct {
		name string
		run  func()
	}{
		{"a miss with a lease", func() {
			s.Read(t.Context(), []l2.ReadRequest{{Partition: at, Since: since, Keys: []l2.ReadKey{{Key: "k", Nonce: n, LeaseFor: time.Minute}}}})
		}},
		{"a fill", func() {
			s.Write(t.Context(), []l2.WriteRequest{{Partition: at, Op: soracache.OpFill, Key: "k", Nonce: n, Lifetime: long}})
		}},
		{"a read of 100 keys", func() {
			var keys []l2.ReadKey
			for _, k := range keysNamed("k", 100) {
				keys = append(keys, l2.ReadKey{Key: k})
			}
			s.Read(t.Context(), []l2.ReadRequest{{Partition: at, Since: since, Keys: keys}})
		}},
		{"an invalidation", func() { invalidate(t, s, soracache.Tag("t")) }},
		{"since", func() { head(t, s) }},
	} {
		before := s.Counters().RoundTrips
		op.run()
		if got := s.Counters().RoundTrips - before; got != 1 {
			t.Errorf("%s takes %d transactions", op.name, got)
		}
	}
}
