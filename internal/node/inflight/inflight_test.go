package inflight

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/l2"
)

// store is a source under a test's control: every read of it waits for the test.
type store struct {
	wg sync.WaitGroup

	mu       sync.Mutex
	clock    int // counts what happens
	down     error
	asked    []*asked // not answered yet
	most     int      // that were under way at once
	handed   []Lease
	forgot   []string
	onForget func(key string)
}

// asked is one batch that a store was asked for.
type asked struct {
	ctx    context.Context //nolint:containedctx // of this one call
	batch  *Batch[int]
	sent   int // when, by the store's clock
	answer chan func(b *Batch[int])
}

func (a *asked) keys() (names []string) {
	for _, k := range a.batch.Keys() {
		names = append(names, k.Key)
	}
	return names
}

func (st *store) Down() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.down
}

// tick is a moment, later than all before.
func (st *store) tick() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.clock++
	return st.clock
}

func (st *store) Read(ctx context.Context, b *Batch[int]) {
	a := &asked{ctx, b, st.tick(), make(chan func(*Batch[int]))}
	st.mu.Lock()
	st.asked = append(st.asked, a)
	st.most = max(st.most, len(st.asked))
	st.mu.Unlock()
	do := <-a.answer
	do(b)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.asked = slices.DeleteFunc(st.asked, func(other *asked) bool { return other == a })
}

func (st *store) Forget(key string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.forgot = append(st.forgot, key)
	if st.onForget != nil {
		st.onForget(key)
	}
}

func (st *store) HandBack(leases ...Lease) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.handed = append(st.handed, leases...)
}

func (st *store) Go(do func()) { st.wg.Go(do) }

// next waits until everybody waits, and returns what the store is asked for.
func (st *store) next() []*asked {
	synctest.Wait()
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Clone(st.asked)
}

// only is next, where one batch is to be asked for.
func (st *store) only(t *testing.T, keys ...string) *asked {
	t.Helper()
	all := st.next()
	if len(all) != 1 || !slices.Equal(all[0].keys(), keys) {
		for _, a := range all {
			t.Log(a.keys())
		}
		t.Fatalf("%d batches, want one for %v", len(all), keys)
	}
	return all[0]
}

// found answers every key of a batch, with a lease where one is asked for.
func found(value int) func(b *Batch[int]) {
	return func(b *Batch[int]) {
		for i, k := range b.Keys() {
			a := l2.KeyAnswer{}
			if k.Nonce != (soracache.Lease{}) {
				a.Lease, a.LeaseFor, a.LeaseStamp = soracache.LeaseGranted, k.LeaseFor, soracache.Stamp{Epoch: 1, Position: 7}
			}
			b.Answer(i, &a, value)
		}
	}
}

func failed(err error) func(b *Batch[int]) {
	return func(b *Batch[int]) {
		for i := range b.Keys() {
			b.Fail(i, err)
		}
	}
}

// inBubble runs a test on reads that must leave nothing behind.
func inBubble(t *testing.T, limit int64, test func(t *testing.T, rs *Reads[int], st *store)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		life, end := context.WithCancel(context.Background())
		defer end()
		began, leases := time.Now(), byte(0)
		cfg := &Config{
			Life: life, Now: func() time.Duration { return time.Since(began) }, Timeout: time.Second,
			NewLease: func(holder uint64) (l soracache.Lease) { leases++; l[0] = leases; return l.HeldBy(holder) },
		}
		if limit > 0 {
			cfg.Budget = budget.New(limit)
		}
		st := &store{}
		rs := New[int](cfg, st)
		test(t, rs, st)
		st.wg.Wait()
		rs.mu.Lock()
		defer rs.mu.Unlock()
		if len(rs.collecting)+len(rs.queue)+len(rs.sent)+rs.batches+rs.heavy > 0 {
			t.Errorf("left over: %d collecting, %d in the queue, %d sent, %d and %d batches", len(rs.collecting), len(rs.queue), len(rs.sent), rs.batches, rs.heavy)
		}
		if limit > 0 {
			if held := cfg.Budget.Stats().Used; held != 0 {
				t.Errorf("%d bytes were not given back", held)
			}
		}
	})
}

// result is what a reader got.
type result struct {
	value int
	grant Grant
	err   error
}

// reads has a reader read a key.
func reads(ctx context.Context, rs *Reads[int], r soracache.Read) <-chan result {
	got := make(chan result, 1)
	go func() {
		share, a, err := rs.Read(ctx, &r)
		if err != nil {
			got <- result{err: err}
			return
		}
		got <- result{a.Value, share.Claim(), nil}
	}()
	return got
}

// A reader that comes when the read of its key has been sent is not given what that
// brings: it waits for the next one, which is sent when that has been answered.
func TestNobodyJoinsWhatWasSent(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, rs *Reads[int], st *store) {
		ctx := t.Context()
		a := reads(ctx, rs, soracache.Read{Key: "k"})
		first := st.only(t, "k")
		b, c := reads(ctx, rs, soracache.Read{Key: "k"}), reads(ctx, rs, soracache.Read{Key: "k"})
		st.only(t, "k") // still the first one alone, though there is room for another batch
		first.answer <- found(1)
		second := st.only(t, "k")
		if got := <-a; got.value != 1 {
			t.Errorf("who came before got %+v", got)
		}
		if len(b)+len(c) != 0 {
			t.Error("who came later was given what had been sent")
		}
		second.answer <- found(2)
		if got, got2 := <-b, <-c; got.value != 2 || got2.value != 2 {
			t.Errorf("who came later got %+v, %+v", got, got2)
		}
	})
}

// Whoever comes while batches are under way goes with the next, however many they are.
func TestReadsTravelTogether(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, rs *Reads[int], st *store) {
		const more = 100
		var got []<-chan result
		read := func(key string) { got = append(got, reads(t.Context(), rs, soracache.Read{Key: key})); synctest.Wait() }
		for i := range maxBatches + maxKeys + more {
			read(strconv.Itoa(i))
		}
		for all := st.next(); len(all) > 0; all = st.next() {
			for _, a := range all {
				if n := len(a.keys()); n != 1 && n != maxKeys && n != more {
					t.Errorf("%d keys in a batch", n)
				}
			}
			all[0].answer <- found(1)
		}
		for _, g := range got {
			if r := <-g; r.err != nil || r.value != 1 {
				t.Fatal(r)
			}
		}
		if st.most != maxBatches {
			t.Errorf("%d batches at once", st.most)
		}
		var shares []Share[int]
		rs.JoinAll(func(join func(*soracache.Read) Share[int]) {
			for _, key := range []string{"a", "b", "a"} {
				shares = append(shares, join(&soracache.Read{Key: key}))
			}
		})
		st.only(t, "a", "b").answer <- found(2)
		for _, s := range shares {
			if a, err := s.Wait(t.Context()); err != nil || a.Value != 2 {
				t.Error(a, err)
			}
			s.Leave()
		}
	})
}

// A batch is cancelled once nobody waits for any of its reads, and not before.
func TestUnwantedBatchIsCancelled(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, rs *Reads[int], st *store) {
		ctx, cancel := context.WithCancel(t.Context())
		var shares []Share[int]
		rs.JoinAll(func(join func(*soracache.Read) Share[int]) {
			for _, key := range []string{"a", "a", "b"} {
				shares = append(shares, join(&soracache.Read{Key: key}))
			}
		})
		batch := st.only(t, "a", "b")
		cancel()
		for i, s := range shares {
			if err := batch.ctx.Err(); err != nil {
				t.Errorf("cancelled with %d left", len(shares)-i)
			}
			if _, err := s.Wait(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		}
		if batch.ctx.Err() == nil {
			t.Error("not cancelled, though nobody waits")
		}
		later := reads(t.Context(), rs, soracache.Read{Key: "a"})
		batch.answer <- failed(context.Canceled)
		st.only(t, "a").answer <- found(3)
		if got := <-later; got.value != 3 || got.err != nil {
			t.Errorf("who came later got %+v", got)
		}
		// And a read that all have left is not sent at all.
		blocks := []<-chan result{reads(t.Context(), rs, soracache.Read{Key: "a"}), reads(t.Context(), rs, soracache.Read{Key: "b"})}
		synctest.Wait()
		rs.Join(&soracache.Read{Key: "c"}).Leave()
		for _, a := range st.next() {
			a.answer <- found(4)
		}
		for _, b := range blocks {
			<-b
		}
		if all := st.next(); len(all) != 0 {
			t.Errorf("%v was asked for, which nobody wants", all[0].keys())
		}
	})
}

// What a read brought is forgotten, before any reader learns of it, if something newer
// may have been stored meanwhile.
func TestSupersededReadsAreForgotten(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, rs *Reads[int], st *store) {
		rs.Superseded("a") // nothing of it is under way
		got := reads(t.Context(), rs, soracache.Read{Key: "a"})
		batch := st.only(t, "a")
		st.onForget = func(string) {
			if len(got) > 0 {
				t.Error("a reader knows what is to be forgotten")
			}
		}
		rs.Superseded("a")
		rs.Superseded("b")
		batch.answer <- found(1)
		if r := <-got; r.value != 1 {
			t.Error(r)
		}
		if !slices.Equal(st.forgot, []string{"a"}) {
			t.Errorf("forgot %v", st.forgot)
		}
		got = reads(t.Context(), rs, soracache.Read{Key: "a"})
		st.only(t, "a").answer <- found(2)
		<-got
		if len(st.forgot) != 1 {
			t.Error("the next read was forgotten as well")
		}
	})
}

// While the source is down, nobody waits and nothing is sent; and when a read fails,
// it takes those with it that have waited behind it for as long as a call may take.
func TestFailures(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, rs *Reads[int], st *store) {
		fails := errors.New("it failed")
		first, second := reads(t.Context(), rs, soracache.Read{Key: "a", Lease: true}), reads(t.Context(), rs, soracache.Read{Key: "b"})
		synctest.Wait()
		old := reads(t.Context(), rs, soracache.Read{Key: "a"})
		time.Sleep(time.Second)
		young := reads(t.Context(), rs, soracache.Read{Key: "c"})
		for _, a := range st.next() {
			if a.keys()[0] == "a" {
				a.answer <- failed(fails)
			}
		}
		for name, got := range map[string]<-chan result{"its reader": first, "who waited behind it": old} {
			if r := <-got; !errors.Is(r.err, fails) {
				t.Errorf("%s got %+v", name, r)
			}
		}
		if len(st.handed) != 1 || st.handed[0].Key != "a" {
			t.Errorf("handed back: %v, want the lease that may have been given", st.handed)
		}
		synctest.Wait()
		if len(young) != 0 {
			t.Error("who came a moment ago was failed")
		}
		st.mu.Lock()
		st.down = errors.New("down")
		st.mu.Unlock()
		if r := <-reads(t.Context(), rs, soracache.Read{Key: "d"}); !errors.Is(r.err, st.down) {
			t.Errorf("while it is down: %+v", r)
		}
		waits := rs.Join(&soracache.Read{Key: "e"})
		if _, err := waits.Wait(t.Context()); !errors.Is(err, st.down) {
			t.Errorf("who joined while it is down: %v", err)
		}
		for _, a := range st.next() {
			a.answer <- found(1)
		}
		<-second
		<-young
	})
}

// What there is no room for is left out, and goes first with the next batch, or fails
// if there is none for long. All memory is given back.
func TestMemory(t *testing.T) {
	const limit, size = 64 << 20, 1 << 20
	inBubble(t, limit, func(t *testing.T, rs *Reads[int], st *store) {
		taken := false
		large := func(b *Batch[int]) {
			a := l2.KeyAnswer{}
			if taken = b.Room(size); taken {
				a.Found, a.Entry.Value = true, make([]byte, size)
			}
			a.Cut = !taken
			b.Answer(0, &a, 1)
		}
		// Others hold all but half of it, as far as those may who hold much.
		var others []*budget.Hold
		for range 47 {
			h := rs.cfg.Budget.Hold(nil)
			if !h.Try(size) {
				t.Fatal("no room")
			}
			others = append(others, h)
		}
		if h := rs.cfg.Budget.Hold(nil); h.Try(size / 2) {
			others = append(others, h)
		}
		late := reads(t.Context(), rs, soracache.Read{Key: "a", Lease: true})
		st.only(t, "a").answer <- large
		if all := st.next(); taken || len(all) != 0 || len(late) != 0 {
			t.Fatalf("there was room: %v; %d batches, %d answers", taken, len(all), len(late))
		}
		if len(st.handed) != 1 {
			t.Errorf("handed back: %v, want the lease that was asked for with what was left out", st.handed)
		}
		more := reads(t.Context(), rs, soracache.Read{Key: "b"})
		st.only(t, "b").answer <- large // there is no room for that either
		for _, h := range others[:5] {
			h.Close()
		}
		for range 2 {
			for _, a := range st.next() {
				a.answer <- large
			}
		}
		if r, r2 := <-late, <-more; r.err != nil || r2.err != nil || !taken {
			t.Error(r, r2, taken)
		}
		for range 5 {
			h := rs.cfg.Budget.Hold(nil)
			_ = h.Take(t.Context(), size)
			others = append(others, h)
		}
		late = reads(t.Context(), rs, soracache.Read{Key: "c"})
		st.only(t, "c").answer <- large
		if r := <-late; !errors.Is(r.err, budget.ErrFull) || taken {
			t.Error(r, taken)
		}
		for _, h := range others {
			h.Close()
		}
	})
}

// What was left out goes before what came since.
func TestWhatWasLeftOutGoesFirst(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, rs *Reads[int], st *store) {
		var got []<-chan result
		for _, key := range []string{"a", "b", "c", "d"} {
			got = append(got, reads(t.Context(), rs, soracache.Read{Key: key}))
			synctest.Wait()
		}
		rs.joinFirst(&soracache.Read{Key: "d"}).Leave() // its other reader stays
		first := rs.joinFirst(&soracache.Read{Key: "e"})
		st.next()[0].answer <- found(1)
		if all := st.next(); !slices.Equal(all[1].keys(), []string{"e", "d", "c"}) {
			t.Errorf("what goes next is %v", all[1].keys())
		}
		for all := st.next(); len(all) > 0; all = st.next() {
			all[0].answer <- found(1)
		}
		first.Leave()
		for _, g := range got {
			if r := <-g; r.err != nil {
				t.Error(r)
			}
		}
	})
}

// Those who bring something large leave their places to others, but only so many do,
// and one does not bring too much at once.
func TestLargeReadsHoldNobodyUp(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, rs *Reads[int], st *store) {
		var got []<-chan result
		// ask has the store ask for room for what is large, and returns what it was
		// told, and what has it answer.
		ask := func(key string) (took bool, end func()) {
			told, ends := make(chan bool), make(chan struct{})
			got = append(got, reads(t.Context(), rs, soracache.Read{Key: key}))
			for _, a := range st.next() {
				if a.keys()[0] == key {
					a.answer <- func(b *Batch[int]) {
						took := b.Room(batchBytes)
						told <- took
						<-ends
						if took && b.Room(1) {
							t.Error("it may bring more than that")
						}
						b.Answer(0, &l2.KeyAnswer{Cut: !took}, 1)
					}
				}
			}
			return <-told, func() { close(ends) }
		}
		var ends []func()
		for i := range maxHeavy {
			took, end := ask(fmt.Sprint("large", i))
			if ends = append(ends, end); !took {
				t.Fatal("there is no room for a large one")
			}
		}
		took, end := ask("one too many")
		if took {
			t.Fatal("there is room for one too many")
		}
		small := reads(t.Context(), rs, soracache.Read{Key: "small"})
		for _, a := range st.next() {
			if a.keys()[0] == "small" {
				a.answer <- found(2)
			}
		}
		if r := <-small; r.value != 2 {
			t.Error(r)
		}
		end() // what was left out waits
		if all := st.next(); len(all) != maxHeavy {
			t.Errorf("%d batches, want the %d large ones", len(all), maxHeavy)
		}
		ends[0]() // now there may be another
		all := st.next()
		i := slices.IndexFunc(all, func(a *asked) bool { return a.keys()[0] == "one too many" })
		if i < 0 {
			t.Fatal("what was left out was not asked for again")
		}
		all[i].answer <- found(3)
		ends[1]()
		for _, g := range got {
			if r := <-g; r.err != nil {
				t.Error(r)
			}
		}
	})
}

// At random: nobody gets what was sent before it came, every lease that was given is
// claimed or handed back, once, and nothing is left over.
func TestRandom(t *testing.T) {
	const seeds, readers, keys = 50, 60, 5
	for seed := range uint64(seeds) {
		inBubble(t, 1<<20, func(t *testing.T, rs *Reads[int], st *store) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			out := map[soracache.Lease]int{} // what became of leases that were given; guarded by the store's mu
			answer := func(a *asked) {
				cut := rnd.IntN(20) == 0
				a.answer <- func(b *Batch[int]) {
					for i, k := range b.Keys() {
						ans := l2.KeyAnswer{Cut: cut}
						if !cut && k.Nonce != (soracache.Lease{}) {
							ans.Lease, ans.LeaseFor = soracache.LeaseGranted, time.Second
							st.mu.Lock()
							out[k.Nonce] = 0
							st.mu.Unlock()
						}
						b.Answer(i, &ans, a.sent)
					}
				}
			}
			var all sync.WaitGroup
			for range readers {
				r := soracache.Read{Key: strconv.Itoa(rnd.IntN(keys)), Lease: rnd.IntN(2) == 0, Holder: rnd.Uint64N(2)}
				patience := time.Duration(1+rnd.IntN(30)) * time.Millisecond
				begin := time.Duration(rnd.IntN(20)) * time.Millisecond
				all.Go(func() {
					time.Sleep(begin)
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					came := st.tick()
					share, a, err := rs.Read(ctx, &r)
					if err != nil {
						return
					}
					if a.Value < came {
						t.Errorf("seed %d: who came at %d got what was sent at %d", seed, came, a.Value)
					}
					if g := share.Claim(); g.Lease != (soracache.Lease{}) {
						st.mu.Lock()
						out[g.Lease]++
						st.mu.Unlock()
					}
				})
			}
			for range 100 {
				for _, a := range st.next() {
					if rnd.IntN(2) == 0 {
						answer(a)
					}
				}
				time.Sleep(time.Millisecond)
			}
			for all := st.next(); len(all) > 0; all = st.next() {
				answer(all[0])
			}
			all.Wait()
			for _, l := range st.handed {
				if _, given := out[l.Nonce]; given {
					out[l.Nonce]++
				}
			}
			for l, n := range out {
				if n != 1 {
					t.Errorf("seed %d: lease %x was claimed or handed back %d times", seed, l[:1], n)
				}
			}
			if len(out) == 0 {
				t.Error("no lease was given")
			}
		})
	}
}
