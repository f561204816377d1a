package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/cluster"
)

// slowNode answers reads with their keys, and fills with success, when it is
// told to.
type slowNode struct {
	soracache.Backend

	gate    chan struct{} // one call goes on for each message; closed: all do
	refuses func(key string) error
	whole   bool // a refusal is of the whole batch
	lease   bool // answers bring leases

	mu       sync.Mutex
	gets     []soracache.GetRequest
	writes   []soracache.WriteRequest
	contexts []context.Context
	ended    int // calls whose context ended while they were under way
}

func newSlowNode() *slowNode {
	return &slowNode{gate: make(chan struct{}), refuses: func(string) error { return nil }}
}

func (n *slowNode) pass(ctx context.Context) error {
	n.mu.Lock()
	n.contexts = append(n.contexts, ctx)
	n.mu.Unlock()
	select {
	case <-n.gate:
		return nil
	case <-ctx.Done():
		n.mu.Lock()
		defer n.mu.Unlock()
		n.ended++
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
	}
}

func (n *slowNode) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	n.mu.Lock()
	n.gets = append(n.gets, req)
	n.mu.Unlock()
	if err := n.pass(ctx); err != nil {
		return nil, err
	}
	var results []soracache.ReadResult
	for _, r := range req.Reads {
		res := soracache.ReadResult{Status: soracache.StatusHit, Entry: soracache.Entry{Value: []byte(r.Key)}}
		if n.lease {
			res = soracache.ReadResult{Status: soracache.StatusMiss}
			copy(res.Lease[:], r.Key)
		}
		if err := n.refuses(r.Key); err != nil {
			if n.whole {
				return nil, err
			}
			res = soracache.ReadResult{Err: err}
		}
		results = append(results, res)
	}
	return results, nil
}

func (n *slowNode) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	n.mu.Lock()
	n.writes = append(n.writes, req)
	n.mu.Unlock()
	if err := n.pass(ctx); err != nil {
		return nil, err
	}
	var results []soracache.WriteResult
	for _, w := range req.Writes {
		res := soracache.WriteResult{Stored: true, SupersededBy: soracache.Record{Targets: []soracache.Target{soracache.Key(w.Key)}}}
		if err := n.refuses(w.Key); err != nil {
			if n.whole {
				return nil, err
			}
			res = soracache.WriteResult{Err: err}
		}
		results = append(results, res)
	}
	return results, nil
}

// batches returns the keys of the reads that came, call by call.
func (n *slowNode) batches() (keys []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, req := range n.gets {
		var ks []string
		for _, r := range req.Reads {
			ks = append(ks, r.Key)
		}
		keys = append(keys, strings.Join(ks, " "))
	}
	return keys
}

// batching is what the tests of batching play in, within a bubble.
type batching struct {
	*testing.T
	node    *slowNode
	backend soracache.Backend
	callers sync.WaitGroup
}

func inBatching(t *testing.T, play func(*batching)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &batching{T: t, node: newSlowNode()}
		backend, end := cluster.Batched(b.node)
		b.backend = backend
		defer end()
		play(b)
		b.callers.Wait()
	})
}

// get asks for one key in a goroutine, and has the answer judged.
func (b *batching) get(ctx context.Context, req soracache.GetRequest, judge func(soracache.ReadResult, error)) {
	b.callers.Go(func() {
		rs, err := b.backend.Get(ctx, req)
		if err == nil && len(rs) != 1 {
			b.Errorf("%d answers", len(rs))
			return
		}
		judge(append(rs, soracache.ReadResult{})[0], err)
	})
	synctest.Wait()
}

func read(key string) soracache.GetRequest {
	return soracache.GetRequest{Namespace: "shop", Reads: []soracache.Read{{Key: key}}}
}

// hits asks for keys, each of which is to be answered with itself.
func (b *batching) hits(keys ...string) {
	for _, key := range keys {
		b.get(b.Context(), read(key), func(r soracache.ReadResult, err error) {
			if err != nil || r.Err != nil || string(r.Entry.Value) != key {
				b.Errorf("%s: got %q, %v, %v", key, r.Entry.Value, r.Err, err)
			}
		})
	}
}

func (b *batching) came(want ...string) {
	b.Helper()
	synctest.Wait()
	if got := b.node.batches(); !slices.Equal(got, want) {
		b.Errorf("calls %q, want %q", got, want)
	}
}

func keysFrom(n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprint("k", i))
	}
	return keys
}

func TestConcurrentReadsTravelTogether(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.hits("a", "b", "c", "d", "d", "e")
		b.came("a", "b") // two calls are under way, and nobody waited for company
		b.node.gate <- struct{}{}
		b.came("a", "b", "c d d e")
		b.hits("f")
		b.came("a", "b", "c d d e")
		close(b.node.gate)
		b.came("a", "b", "c d d e", "f")
		b.hits("g")
		b.came("a", "b", "c d d e", "f", "g")
	})
}

func TestLargeCrowdsAreSplit(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.hits(keysFrom(602)...)
		close(b.node.gate)
		synctest.Wait()
		var sizes []int
		for _, keys := range b.node.batches() {
			sizes = append(sizes, len(strings.Fields(keys)))
		}
		if slices.Sort(sizes); !slices.Equal(sizes, []int{1, 1, 88, 256, 256}) {
			t.Errorf("batches of %d", sizes)
		}
	})
}

func stampsOf(epoch soracache.Epoch, positions ...soracache.Position) (s soracache.Stamps) {
	for i, p := range positions {
		if p > 0 {
			s = append(s, soracache.PartitionStamp{Partition: uint16(i), Stamp: soracache.Stamp{Epoch: epoch, Position: p}})
		}
	}
	return s
}

func TestWhoTravelsTogether(t *testing.T) {
	plain := soracache.Read{Key: "k"}
	with := func(change func(*soracache.Read)) soracache.Read {
		r := plain
		change(&r)
		return r
	}
	one := func(r soracache.Read) soracache.GetRequest {
		return soracache.GetRequest{Namespace: "shop", Reads: []soracache.Read{r}}
	}
	since := func(s soracache.Stamps) soracache.GetRequest {
		req := one(plain)
		req.MinStamp = s
		return req
	}
	for _, tt := range []struct {
		name     string
		a, b     soracache.GetRequest
		together bool
	}{
		{"asks the same", one(plain), one(plain), true},
		{"another namespace", one(plain), soracache.GetRequest{Namespace: "other", Reads: []soracache.Read{plain}}, false},
		{"one wants the lease", one(plain), one(with(func(r *soracache.Read) { r.Lease = true })), false},
		{"leases of other lengths", one(plain), one(with(func(r *soracache.Read) { r.LeaseFor = time.Second })), false},
		{"one wants to refresh early", one(plain), one(with(func(r *soracache.Read) { r.RefreshWithin = time.Second })), false},
		{"another schema", one(plain), one(with(func(r *soracache.Read) { r.Schema = "s" })), false},
		{"another holder", one(plain), one(with(func(r *soracache.Read) { r.Holder = 7 })), false},
		{
			"one accepts what is not confirmed", one(plain),
			soracache.GetRequest{Namespace: "shop", Reads: []soracache.Read{plain}, AcceptUnconfirmed: true}, false,
		},
		{"both have seen the same", since(stampsOf(1, 7)), since(stampsOf(1, 7)), true},
		{"the first has seen more", since(stampsOf(1, 7)), since(stampsOf(1, 5)), true},
		{"the second has seen more", since(stampsOf(1, 5)), since(stampsOf(1, 7)), true},
		{"each has seen something else", since(stampsOf(1, 5, 0)), since(stampsOf(1, 0, 6)), true},
		{"the first has seen nothing", since(nil), since(stampsOf(1, 7)), true},
		{"the second has seen nothing", since(stampsOf(1, 7)), since(nil), true},
		{"of two epochs", since(stampsOf(1, 7)), since(stampsOf(2, 5)), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBatching(t, func(b *batching) {
				b.hits("busy", "busy")
				answered := func(_ soracache.ReadResult, err error) {
					if err != nil {
						t.Error(err)
					}
				}
				b.get(b.Context(), tt.a, answered)
				b.get(b.Context(), tt.b, answered)
				b.node.gate <- struct{}{}
				synctest.Wait()
				sent := b.node.gets[2]
				if together := len(sent.Reads) == 2; together != tt.together {
					t.Errorf("together: %v", together)
				}
				for i, asked := range []soracache.GetRequest{tt.a, tt.b}[:len(sent.Reads)] {
					if got := leastOf(sent, i); !slices.Equal(got, asked.MinStamp) {
						t.Errorf("read %d is to reflect %v, and its caller has seen %v", i, got, asked.MinStamp)
					}
				}
				close(b.node.gate)
			})
		})
	}
}

// leastOf is what the answer to one read of a request must reflect.
func leastOf(req soracache.GetRequest, i int) soracache.Stamps {
	if own := req.Reads[i].MinStamp; len(own) > 0 {
		return own
	}
	return req.MinStamp
}

// What epochs disagree about is each read's own affair.
func TestThreeOfTwoEpochs(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.hits("busy", "busy")
		for i, min := range []soracache.Stamps{stampsOf(1, 7), stampsOf(1, 0, 5), stampsOf(2, 7)} {
			req := read(strconv.Itoa(i))
			req.MinStamp = min
			b.get(b.Context(), req, func(_ soracache.ReadResult, err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		close(b.node.gate)
		b.came("busy", "busy", "0 1 2")
	})
}

func TestReadThatWaitsTravelsAlone(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.hits("busy", "busy", "queued")
		req := read("waits")
		req.Reads[0].Wait = time.Second
		b.get(b.Context(), req, func(soracache.ReadResult, error) {})
		b.came("busy", "busy", "waits")
		close(b.node.gate)
	})
}

func TestCallerWhoGoesHarmsNobody(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.hits("busy", "busy")
		ctx, cancel := context.WithCancel(b.Context())
		gone := 0
		goes := func(r soracache.ReadResult, err error) {
			gone++
			if !errors.Is(err, context.Canceled) || !errors.Is(err, soracache.ErrUnavailable) {
				t.Errorf("got %v, %v", r, err)
			}
		}
		b.get(ctx, read("goes"), goes)
		b.hits("stays")
		b.node.gate <- struct{}{}
		b.came("busy", "busy", "goes stays") // sent: what now goes is under way
		cancel()
		synctest.Wait()
		if gone != 1 || b.node.ended != 0 {
			t.Errorf("%d gone, %d calls ended", gone, b.node.ended)
		}
		b.get(ctx, read("late"), goes)
		b.hits("next")
		close(b.node.gate)
	})
}

func TestCallThatNobodyWaitsForEnds(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.hits("busy", "busy")
		ctx, cancel := context.WithCancel(b.Context())
		sent, unsent := read("sent"), read("unsent")
		unsent.AcceptUnconfirmed = true
		for range 2 {
			b.get(ctx, sent, func(soracache.ReadResult, error) {})
		}
		b.node.gate <- struct{}{}
		b.came("busy", "busy", "sent sent")
		for range 2 {
			b.get(ctx, unsent, func(soracache.ReadResult, error) {})
		}
		cancel()
		synctest.Wait()
		if b.node.ended != 1 {
			t.Errorf("%d calls ended", b.node.ended)
		}
		close(b.node.gate)
		b.came("busy", "busy", "sent sent")
	})
}

// Each caller has its own deadline, and the call has the latest.
func TestDeadlinesAreTheCallers(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.hits("busy", "busy")
		began := time.Now()
		for _, d := range []time.Duration{3 * time.Second, time.Second, 5 * time.Second, 2 * time.Second} {
			ctx, cancel := context.WithTimeout(b.Context(), d)
			defer cancel()
			b.get(ctx, read(d.String()), func(_ soracache.ReadResult, err error) {
				if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != d {
					t.Errorf("caller with %s: %v after %s", d, err, took)
				}
			})
		}
		b.node.gate <- struct{}{}
		synctest.Wait()
		deadline, ok := b.node.contexts[2].Deadline()
		if !ok || deadline.Sub(began) != 5*time.Second {
			t.Errorf("deadline after %s, %v", deadline.Sub(began), ok)
		}
		time.Sleep(6 * time.Second)
		b.hits("forever") // has no deadline, and so has its call
		close(b.node.gate)
	})
}

// One caller without a deadline is enough for a call to have none.
func TestOneCallerHasAllTheTime(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.hits("busy", "busy", "patient")
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		b.get(ctx, read("hurried"), func(_ soracache.ReadResult, err error) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
		b.node.gate <- struct{}{}
		b.came("busy", "busy", "patient hurried")
		if deadline, ok := b.node.contexts[2].Deadline(); ok {
			t.Errorf("deadline %s", deadline)
		}
		time.Sleep(2 * time.Second)
		close(b.node.gate)
	})
}

// The lease that comes for a caller who has gone is handed back.
func TestLeaseOfACallerWhoHasGone(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.node.lease = true
		leased := func(r soracache.ReadResult, err error) {
			if err != nil || r.Lease == (soracache.Lease{}) {
				t.Errorf("got %v, %v", r, err)
			}
		}
		b.get(b.Context(), read("busy"), leased)
		b.get(b.Context(), read("busy"), leased)
		ctx, cancel := context.WithCancel(b.Context())
		b.get(ctx, read("goes"), func(soracache.ReadResult, error) {})
		b.get(b.Context(), read("stays"), leased)
		b.node.gate <- struct{}{}
		b.came("busy", "busy", "goes stays")
		cancel()
		synctest.Wait()
		close(b.node.gate)
		synctest.Wait()
		if len(b.node.writes) != 1 {
			t.Fatalf("%d writes", len(b.node.writes))
		}
		w := b.node.writes[0]
		if w.Namespace != "shop" || w.Writes[0].Op != soracache.OpRelease || w.Writes[0].Key != "goes" || string(w.Writes[0].Lease[:4]) != "goes" {
			t.Errorf("got %+v", w)
		}
	})
}

// close ends the handing back of leases to a node that does not answer.
func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newSlowNode()
		node.lease = true
		backend, end := cluster.Batched(node)
		var callers sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		ask := func(ctx context.Context, key string) {
			callers.Go(func() { _, _ = backend.Get(ctx, read(key)) })
			synctest.Wait()
		}
		ask(t.Context(), "busy")
		ask(t.Context(), "busy")
		ask(ctx, "goes")
		ask(t.Context(), "stays")
		ask(t.Context(), "stays")
		node.gate <- struct{}{}
		synctest.Wait()
		cancel()
		synctest.Wait()
		for range 2 {
			node.gate <- struct{}{}
		}
		synctest.Wait()
		if len(node.writes) != 1 {
			t.Fatalf("%d writes", len(node.writes))
		}
		began := time.Now()
		end()
		if took := time.Since(began); took != 0 {
			t.Errorf("took %s", took)
		}
		callers.Wait()
		if _, err := backend.Get(t.Context(), read("late")); !errors.Is(err, cluster.ErrClosed) || !errors.Is(err, soracache.ErrUnavailable) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestOneBadKeyFailsAlone(t *testing.T) {
	for _, refusal := range []error{soracache.ErrInvalid, soracache.ErrTooLarge, soracache.ErrPermissionDenied} {
		for _, whole := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, of the whole batch: %v", refusal, whole), func(t *testing.T) {
				inBatching(t, func(b *batching) {
					b.node.whole = whole
					b.node.refuses = func(key string) error {
						if key == "bad" {
							return refusal
						}
						return nil
					}
					b.hits("busy", "busy")
					all := whole && errors.Is(refusal, soracache.ErrPermissionDenied) // which no item can be the reason for
					for _, key := range []string{"a", "b", "bad", "c", "d", "e", "f", "g", "h"} {
						b.get(b.Context(), read(key), func(r soracache.ReadResult, err error) {
							if bad := errors.Is(err, refusal) || errors.Is(r.Err, refusal); bad != (key == "bad" || all) {
								t.Errorf("%s: %v, %v", key, r.Err, err)
							}
						})
					}
					close(b.node.gate)
				})
			})
		}
	}
}

// Two calls that take long do not keep back whoever comes after them.
func TestSlowCallsKeepNobodyBack(t *testing.T) {
	inBatching(t, func(b *batching) {
		ctx, cancel := context.WithCancel(b.Context())
		began := time.Now()
		for _, key := range []string{"slow", "slow", "a", "b"} {
			b.get(ctx, read(key), func(soracache.ReadResult, error) {})
		}
		b.came("slow", "slow")
		time.Sleep(15 * time.Millisecond)
		b.came("slow", "slow", "a b")
		for i := range 200 {
			b.get(ctx, read(strconv.Itoa(i)), func(soracache.ReadResult, error) {})
			time.Sleep(time.Second)
		}
		if n := len(b.node.batches()); n != 64 {
			t.Errorf("%d calls under way", n)
		}
		cancel()
		synctest.Wait()
		close(b.node.gate)
		b.hits("well")
		if took := time.Since(began); took > 201*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestFillsTravelTogether(t *testing.T) {
	inBatching(t, func(b *batching) {
		b.node.refuses = func(key string) error {
			if key == "bad" {
				return soracache.ErrTooLarge
			}
			return nil
		}
		fill := func(key string, size int) {
			b.callers.Go(func() {
				rs, err := b.backend.Write(b.Context(), soracache.WriteRequest{Namespace: "shop", Writes: []soracache.Write{{
					Op: soracache.OpFill, Key: key, Entry: soracache.Entry{Value: make([]byte, size)},
				}}})
				switch {
				case err != nil || len(rs) != 1:
					t.Errorf("%s: %v, %v", key, rs, err)
				case key == "bad":
					if !errors.Is(rs[0].Err, soracache.ErrTooLarge) {
						t.Errorf("%s: %v", key, rs[0])
					}
				case !rs[0].Stored || rs[0].SupersededBy.Targets[0].Name != key:
					t.Errorf("%s: %+v", key, rs[0])
				}
			})
			synctest.Wait()
		}
		const half = 1 << 19
		fill("a", 1)
		fill("b", 1)
		fill("c", half)
		fill("bad", 10)
		fill("d", half-1000)
		fill("e", half)
		fill("huge", 2<<20) // at once, and alone
		b.callers.Go(func() {
			put := soracache.Write{Op: soracache.OpPut, Key: "put"}
			if _, err := b.backend.Write(b.Context(), soracache.WriteRequest{Writes: []soracache.Write{put}}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		close(b.node.gate)
		synctest.Wait()
		var calls []string
		for _, req := range b.node.writes {
			var keys []string
			for _, w := range req.Writes {
				keys = append(keys, w.Key)
			}
			calls = append(calls, strings.Join(keys, " "))
		}
		slices.Sort(calls)
		if want := []string{"a", "b", "c bad d", "e", "huge", "put"}; !slices.Equal(calls, want) {
			t.Errorf("calls %q, want %q", calls, want)
		}
	})
}

func TestBatchesAreSentInParts(t *testing.T) {
	inBatching(t, func(b *batching) {
		close(b.node.gate)
		b.node.whole = true
		b.node.refuses = func(key string) error {
			if key == "k300" {
				return soracache.ErrInvalid
			}
			return nil
		}
		var reads []soracache.Read
		var writes []soracache.Write
		for _, key := range keysFrom(600) {
			reads = append(reads, soracache.Read{Key: key})
			writes = append(writes, soracache.Write{Op: soracache.OpPut, Key: key, Entry: soracache.Entry{Value: make([]byte, 10_000)}})
		}
		rs, err := b.backend.Get(b.Context(), soracache.GetRequest{Reads: reads})
		ws, werr := b.backend.Write(b.Context(), soracache.WriteRequest{Writes: writes})
		if err != nil || werr != nil || len(rs) != 600 || len(ws) != 600 {
			t.Fatalf("%d answers, %v; %d answers, %v", len(rs), err, len(ws), werr)
		}
		for i := range rs {
			bad := i == 300
			if errors.Is(rs[i].Err, soracache.ErrInvalid) != bad || !bad && string(rs[i].Entry.Value) != reads[i].Key {
				t.Errorf("%s: got %q, %v", reads[i].Key, rs[i].Entry.Value, rs[i].Err)
			}
			if ws[i].Stored == bad || !bad && ws[i].SupersededBy.Targets[0].Name != writes[i].Key {
				t.Errorf("%s: %+v", writes[i].Key, ws[i])
			}
		}
		for _, req := range b.node.gets {
			if len(req.Reads) > 256 {
				t.Errorf("%d reads in one call", len(req.Reads))
			}
		}
		for _, req := range b.node.writes {
			if len(req.Writes) > 105 {
				t.Errorf("%d bytes in one call", len(req.Writes)*10_000)
			}
		}
		if _, err := b.backend.Get(b.Context(), soracache.GetRequest{Reads: reads[300:301]}); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("alone: %v", err)
		}
	})
}

// versionedNode answers with the version that was current when it was asked,
// after a while, and fails at times.
type versionedNode struct {
	soracache.Backend

	version *atomic.Int64
	random  func(n int) int
}

func (n *versionedNode) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	version := n.version.Load()
	select {
	case <-time.After(time.Duration(n.random(3000)) * time.Microsecond):
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
	}
	switch n.random(12) {
	case 0:
		return nil, errBroken
	case 1:
		return nil, soracache.ErrInvalid
	}
	var results []soracache.ReadResult
	for _, r := range req.Reads {
		res := soracache.ReadResult{Status: soracache.StatusHit, Entry: soracache.Entry{Value: []byte(r.Key), ETag: strconv.FormatInt(version, 10)}}
		if n.random(50) == 0 {
			res = soracache.ReadResult{Err: soracache.ErrUnavailable}
		}
		results = append(results, res)
	}
	return results, nil
}

// Whatever fails and whoever goes: every caller is answered with its own key,
// as it was after it came.
func TestEveryCallerGetsItsOwnAnswer(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			source := rand.New(rand.NewPCG(seed, 1))
			random := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return source.IntN(n)
			}
			var version, answers atomic.Int64
			backend, end := cluster.Batched(&versionedNode{version: &version, random: random})
			defer end()
			var callers sync.WaitGroup
			for range 100 {
				callers.Go(func() {
					for range 50 {
						time.Sleep(time.Duration(random(500)) * time.Microsecond)
						key, floor := strconv.Itoa(random(1000)), version.Add(1)
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random(8000))*time.Microsecond)
						rs, err := backend.Get(ctx, read(key))
						cancel()
						if err != nil || rs[0].Err != nil {
							continue
						}
						answers.Add(1)
						var was int64
						_, _ = fmt.Sscan(rs[0].Entry.ETag, &was)
						if string(rs[0].Entry.Value) != key || was < floor {
							t.Errorf("seed %d: asked for %s at %d, got %s of %d", seed, key, floor, rs[0].Entry.Value, was)
						}
					}
				})
			}
			callers.Wait()
			if answers.Load() < 1000 {
				t.Errorf("seed %d: only %d answers", seed, answers.Load())
			}
		})
	}
}
