package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// condition is what the matter is with a part of a store.
type condition int

const (
	well condition = iota
	refusing
	hanging
)

// brittle is a store whose parts can fail apart. Like a pipeline to several
// servers, a call returns when the last of them has answered.
type brittle struct {
	l2.Store
	part func(l2.Partition) string

	mu     sync.Mutex
	state  map[string]condition // guarded by mu
	large  map[string]bool      // keys whose values take for ever; guarded by mu
	sinces int                  // calls; guarded by mu
	deltas int                  // asked for by them; guarded by mu
	asking int                  // questions under way; guarded by mu
	most   int                  // the most there were; guarded by mu
}

func newBrittle() *brittle {
	return &brittle{
		Store: l2model.New(l2model.Config{}), part: func(l2.Partition) string { return "" },
		state: map[string]condition{}, large: map[string]bool{},
	}
}

func (s *brittle) Part(p l2.Partition) string { return s.part(p) }

func (s *brittle) set(part string, c condition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state[part] = c
}

// pass is nil if the part answers, and takes as long as that takes.
func (s *brittle) pass(ctx context.Context, p l2.Partition) error {
	s.mu.Lock()
	c := s.state[s.part(p)]
	s.mu.Unlock()
	switch c {
	case refusing:
		return fmt.Errorf("%w: refused", soracache.ErrUnavailable)
	case hanging:
		<-ctx.Done()
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
	case well:
	}
	return nil
}

func passing[Q, A any](ctx context.Context, s *brittle, reqs []Q, at func(Q) l2.Partition, call func([]Q) []A, fail func(*A, error)) []A {
	answers := make([]A, len(reqs))
	for i := range reqs {
		if err := s.pass(ctx, at(reqs[i])); err != nil {
			fail(&answers[i], err)
			continue
		}
		answers[i] = call(reqs[i : i+1])[0]
	}
	return answers
}

func (s *brittle) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	for _, r := range reqs {
		for _, k := range r.Keys {
			s.mu.Lock()
			large := s.large[k.Key]
			s.mu.Unlock()
			if large {
				<-ctx.Done()
				return slices.Repeat([]l2.ReadAnswer{{Err: fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())}}, len(reqs))
			}
		}
	}
	return passing(ctx, s, reqs, func(r l2.ReadRequest) l2.Partition { return r.Partition },
		func(rs []l2.ReadRequest) []l2.ReadAnswer { return s.Store.Read(ctx, rs) }, func(a *l2.ReadAnswer, err error) { a.Err = err })
}

func (s *brittle) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	return passing(ctx, s, reqs, func(r l2.WriteRequest) l2.Partition { return r.Partition },
		func(rs []l2.WriteRequest) []l2.WriteAnswer { return s.Store.Write(ctx, rs) }, func(a *l2.WriteAnswer, err error) { a.Err = err })
}

func (s *brittle) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	return passing(ctx, s, reqs, func(r l2.InvalidateRequest) l2.Partition { return r.Partition },
		func(rs []l2.InvalidateRequest) []l2.InvalidateAnswer { return s.Store.Invalidate(ctx, rs) }, func(a *l2.InvalidateAnswer, err error) { a.Err = err })
}

func (s *brittle) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	s.mu.Lock()
	s.sinces++
	s.deltas += len(reqs)
	s.asking++
	s.most = max(s.most, s.asking)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.asking--; s.mu.Unlock() }()
	return passing(ctx, s, reqs, func(r l2.SinceRequest) l2.Partition { return r.Partition },
		func(rs []l2.SinceRequest) []l2.SinceAnswer { return s.Store.Since(ctx, rs) }, func(a *l2.SinceAnswer, err error) { a.Err = err })
}

func (s *brittle) Ping(ctx context.Context) error {
	return s.pass(ctx, l2.Partition{Namespace: "ping"})
}

// onBrittle runs a test on a node whose namespaces have eight partitions.
func onBrittle(t *testing.T, bound time.Duration, s *brittle, test func(c *cluster)) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		n, err := node.New(node.Config{
			Store: s, Bound: bound, L1MaxBytes: 4 << 20, MeterEvery: -1, IdleAfter: time.Hour, Partitions: func(string) int { return 8 },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		test(&cluster{t: t, nodes: []*node.Node{n}})
	})
}

// inEach is one key of each of eight partitions, in order.
func inEach() (keys [8]string) {
	for i, found := 0, 0; found < len(keys); i++ {
		key := "k" + strconv.Itoa(i)
		if p := soracache.PartitionOf(key, len(keys)); keys[p] == "" {
			keys[p] = key
			found++
		}
	}
	return keys
}

// A store that was away for a moment is used again a moment later, by all
// partitions and whatever the bound, not when it is time to confirm them.
func TestStoreThatWasAwayForAMoment(t *testing.T) {
	for _, bound := range []time.Duration{100 * time.Millisecond, 10 * time.Second, time.Minute} {
		for _, how := range []condition{refusing, hanging} {
			t.Run(fmt.Sprint(bound, how), func(t *testing.T) {
				s := newBrittle()
				onBrittle(t, bound, s, func(c *cluster) {
					read := func() (failed int) {
						for _, key := range inEach() {
							if c.get(0, soracache.Read{Key: key}).Err != nil {
								failed++
							}
						}
						return failed
					}
					if read() > 0 {
						t.Fatal("not well from the beginning")
					}
					s.set("", how)
					if how == hanging {
						time.Sleep(5 * time.Second)
					}
					for range 3 {
						if read() != 8 {
							t.Error("answered by a store that is away")
						}
						time.Sleep(10 * time.Millisecond)
					}
					s.set("", well)
					// A probe that hangs is given up when a call is, at the latest.
					patience := map[condition]time.Duration{refusing: 250 * time.Millisecond, hanging: 2250 * time.Millisecond}[how]
					time.Sleep(patience)
					if failed := read(); failed > 0 {
						t.Errorf("after %v: %d of 8 partitions are still refused", patience, failed)
					}
				})
			})
		}
	}
}

// Whatever the store answers, and for whichever partition, proves that it answers.
func TestAnyAnswerOfTheStoreCounts(t *testing.T) {
	keys := inEach()
	ctx := context.Background()
	for name, ask := range map[string]func(c *cluster) error{
		"write": func(c *cluster) error {
			c.put(0, keys[1], "v")
			return nil
		},
		"invalidate": func(c *cluster) error {
			c.invalidate(0, soracache.Key(keys[1]))
			return nil
		},
		"watch": func(c *cluster) error {
			enough := errors.New("enough")
			if err := c.nodes[0].Watch(ctx, soracache.WatchRequest{}, func([]soracache.WatchItem) error { return enough }); !errors.Is(err, enough) {
				return err
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newBrittle()
			onBrittle(t, 10*time.Second, s, func(c *cluster) {
				s.set("", refusing)
				for range 2 {
					if c.get(0, soracache.Read{Key: keys[0]}).Err == nil {
						t.Fatal("answered by a store that is away")
					}
				}
				s.set("", well)
				if c.get(0, soracache.Read{Key: keys[0]}).Err == nil {
					t.Fatal("not refused, so this test shows nothing")
				}
				if err := ask(c); err != nil {
					t.Fatal(err)
				}
				if err := c.get(0, soracache.Read{Key: keys[0]}).Err; err != nil {
					t.Errorf("after the store has answered: %v", err)
				}
			})
		})
	}
}

// That a large value takes too long says nothing of the store.
func TestValueThatTakesTooLongIsNotTheStore(t *testing.T) {
	keys := inEach()
	s := newBrittle()
	s.large[keys[0]], s.large[keys[2]] = true, true
	onBrittle(t, time.Minute, s, func(c *cluster) {
		for range 10 {
			var wg sync.WaitGroup
			for _, key := range []string{keys[0], keys[2]} {
				wg.Go(func() {
					if c.get(0, soracache.Read{Key: key}).Err == nil {
						t.Error("answered")
					}
				})
			}
			time.Sleep(time.Second)
			for range 2 { // in the middle of it, and when it has failed
				if err := c.get(0, soracache.Read{Key: keys[1]}).Err; err != nil {
					t.Fatalf("refused: %v", err)
				}
				wg.Wait()
			}
		}
	})
}

// However many partitions wait for a store that does not answer, one probe at a
// time asks for all of them, now and then.
func TestProbesArePaced(t *testing.T) {
	for _, how := range []condition{refusing, hanging} {
		s := newBrittle()
		onBrittle(t, time.Minute, s, func(c *cluster) {
			read := func() {
				for i := range 50 {
					_, _ = c.nodes[0].Get(context.Background(), soracache.GetRequest{
						Namespace: "ns" + strconv.Itoa(i), Reads: []soracache.Read{{Key: "k"}}, AcceptUnconfirmed: true,
					})
				}
			}
			read()
			s.set("", how)
			time.Sleep(time.Minute)
			read()
			s.mu.Lock()
			s.sinces, s.most = 0, 0
			s.mu.Unlock()
			for range 60 {
				time.Sleep(time.Second)
				read()
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.most > 1 || s.sinces < 25 || s.sinces > 305 {
				t.Errorf("%v: %d questions in a minute, up to %d at once: want 30 to 300, one at a time", how, s.sinces, s.most)
			}
		})
	}
}

// halves is a store of two parts, which hold the even and the odd partitions.
func halves() *brittle {
	s := newBrittle()
	s.part = func(p l2.Partition) string {
		return map[uint16]string{0: "even", 1: "odd"}[p.Index%2]
	}
	return s
}

// A part of the store that hangs takes nothing away from the partitions that
// others hold.
func TestOnePartOfTheStoreHangs(t *testing.T) {
	keys := inEach()
	ctx := context.Background()
	s := halves()
	onBrittle(t, time.Second, s, func(c *cluster) {
		for _, key := range keys {
			c.put(0, key, "v")
			c.get(0, soracache.Read{Key: key})
		}
		time.Sleep(2 * time.Second)
		s.set("odd", hanging)
		for range 200 {
			time.Sleep(50 * time.Millisecond)
			for i := 0; i < 8; i += 2 {
				c.want(c.get(0, soracache.Read{Key: keys[i]}), soracache.StatusHit, soracache.TierL1, "v")
			}
			for _, p := range c.nodes[0].Partitions() {
				if p.Partition%2 == 0 && p.ConfirmedAgo < 0 {
					t.Fatalf("partition %d is not confirmed", p.Partition)
				}
			}
			if err := c.nodes[0].Ready(ctx); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			head, err := c.nodes[0].Head(ctx, "")
			if took := time.Since(began); err != nil || took > 334*time.Millisecond || head.Age > time.Second {
				t.Fatalf("head after %v: age %v, %v", took, head.Age, err)
			}
			for i := range uint16(8) {
				if _, ok := head.Stamp.At(i); !ok && i%2 == 0 {
					t.Fatalf("the head leaves out partition %d: %v", i, head.Stamp)
				}
			}
		}
		if head, err := c.nodes[0].Head(ctx, ""); err != nil || len(head.Stamp) != 4 {
			t.Errorf("the head names what is not confirmed: %v %v", head.Stamp, err)
		}
		if silent := c.nodes[0].Silent(); len(silent) != 1 || !strings.HasPrefix(silent[0], "odd for ") {
			t.Errorf("silent: %q", silent)
		}
		s.set("even", hanging)
		time.Sleep(2 * time.Second)
		if err := c.nodes[0].Ready(ctx); !errors.Is(err, soracache.ErrUnavailable) || !strings.Contains(err.Error(), "even for") {
			t.Errorf("nothing answers, and the node says %v", err)
		}
		if _, err := c.nodes[0].Head(ctx, ""); !errors.Is(err, soracache.ErrUnavailable) {
			t.Errorf("nothing answers, and the head is told: %v", err)
		}
		s.set("odd", well)
		s.set("even", well)
		time.Sleep(3 * time.Second)
		if err := c.nodes[0].Ready(ctx); err != nil || len(c.nodes[0].Silent()) > 0 {
			t.Errorf("all is well, and the node says %v, silent: %q", err, c.nodes[0].Silent())
		}
		if head, err := c.nodes[0].Head(ctx, ""); err != nil || len(head.Stamp) != 8 {
			t.Errorf("all is well, and the head is %v %v", head.Stamp, err)
		}
	})
}

// What is written to one part of the store takes effect while another hangs: those
// who wait for it go on.
func TestWriteToTwoParts(t *testing.T) {
	keys := inEach()
	s := halves()
	onBrittle(t, time.Second, s, func(c *cluster) {
		ctx := context.Background()
		lease := c.lease(0, keys[0])
		waiter := make(chan soracache.ReadResult, 1)
		go func() { waiter <- c.get(0, soracache.Read{Key: keys[0], Lease: true, Wait: time.Minute}) }()
		synctest.Wait()
		s.set("odd", hanging)
		began := time.Now()
		go func() {
			_, _ = c.nodes[0].Write(ctx, soracache.WriteRequest{Writes: []soracache.Write{
				{Op: soracache.OpFill, Key: keys[0], Lease: lease, Entry: soracache.Entry{Value: []byte("v")}, Lifetime: soracache.Lifetime{TTL: time.Hour}},
				{Op: soracache.OpRelease, Key: keys[1]},
			}})
		}()
		c.want(<-waiter, soracache.StatusHit, soracache.TierL1, "v")
		if took := time.Since(began); took > time.Millisecond {
			t.Errorf("after %v", took)
		}
	})
}

// boastful is a cluster in which a member claims a bound that no node can have.
type boastful struct{ alone }

type alone struct{}

func (alone) Publish(invalidation.Notice)      {}
func (alone) Tell(string, invalidation.Notice) {}
func (alone) Left(string) bool                 { return false }
func (boastful) Bound() time.Duration          { return 24 * time.Hour }

// registrar is a store that lists such a member among the followers.
type registrar struct{ l2.Store }

func (s registrar) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	answers := s.Store.Invalidate(ctx, reqs)
	for i := range answers {
		answers[i].Registered = append(answers[i].Registered, l2.Registration{Name: "old", Bound: 24 * time.Hour})
	}
	return answers
}

// Who claims a bound that no node can have is not waited out: it can never have
// been confirmed. Who is in the store's list all the same is, for the longest bound
// that there is.
func TestClaimedBoundIsNobodys(t *testing.T) {
	for name, c := range map[string]struct {
		store l2.Store
		most  time.Duration
	}{
		"by a member":   {l2model.New(l2model.Config{}), bound},
		"by a follower": {registrar{l2model.New(l2model.Config{})}, l2.MaxBound},
	} {
		bubble(t, func(t *testing.T) {
			n, err := node.New(node.Config{Store: c.store, Bound: bound, Peers: boastful{}, L1MaxBytes: 4 << 20})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = n.Close() }()
			ctx, cancel := context.WithTimeout(context.Background(), 3*l2.MaxBound)
			defer cancel()
			began := time.Now()
			_, err = n.Invalidate(ctx, soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Key("k")}, Acknowledge: true})
			if took := time.Since(began); err != nil || took > c.most+c.most/100 {
				t.Errorf("%s: acknowledged after %v, want %v at most: %v", name, took, c.most, err)
			}
		})
	}
}
