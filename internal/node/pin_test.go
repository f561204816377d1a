package node_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// doorway is where the work of a test is stopped, until it is let on.
type doorway struct {
	mu     sync.Mutex
	closed chan struct{} // nil: open
	before int           // who come may pass before it shuts
	met    int
}

// shut has the next one who comes wait, and nobody after that.
func (d *doorway) shut() (open func()) { return d.shutAfter(0) }

// shutAfter lets some pass first.
func (d *doorway) shutAfter(some int) (open func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	closed := make(chan struct{})
	d.closed, d.before = closed, some
	return sync.OnceFunc(func() { close(closed) })
}

func (d *doorway) pass() {
	d.mu.Lock()
	closed := d.closed
	switch {
	case closed == nil:
	case d.before > 0:
		d.before--
		closed = nil
	default:
		d.closed = nil
		d.met++
	}
	d.mu.Unlock()
	if closed != nil {
		<-closed
	}
}

func (d *doorway) stopped() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.met
}

// doors is a store with a doorway before each kind of call, for the namespace a.
type doors struct {
	l2.Store
	read, write, since doorway
}

func (s *doors) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	if reqs[0].Partition.Namespace == "a" {
		s.read.pass()
	}
	return s.Store.Read(ctx, reqs)
}

func (s *doors) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	if reqs[0].Partition.Namespace == "a" {
		s.write.pass()
	}
	return s.Store.Write(ctx, reqs)
}

func (s *doors) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	if reqs[0].Partition.Namespace == "a" {
		s.since.pass()
	}
	return s.Store.Since(ctx, reqs)
}

// crowded is a node that has room for two namespaces, where a is about to be
// forgotten for idleness: whoever works on it is stopped while others come who
// want the room.
type crowded struct {
	t     *testing.T
	model *l2model.Model
	store *doors
	node  *node.Node
	// clock is before each look at the node's clock, recorded where a record of a
	// peer has been taken in, told before an acknowledgement.
	clock, recorded doorway
	told            atomic.Int64
}

// inACrowd runs a test on such a node. The namespace a has the key k in memory,
// with the value "old"; a and b have been idle for long.
func inACrowd(t *testing.T, test func(c *crowded)) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		c := &crowded{t: t, model: l2model.New(l2model.Config{})}
		c.store = &doors{Store: c.model}
		n, err := node.New(node.Config{
			Name: "n0", Store: c.store, Bound: bound, L1MaxBytes: 4 << 20, MaxPartitions: 2, IdleAfter: 6 * time.Second, MeterEvery: -1,
			Ahead: func() time.Duration {
				c.clock.pass()
				return 0
			},
			Observer: node.Observer{Recorded: func(string, int, soracache.Record, node.Source) { c.recorded.pass() }},
			Peers:    tellers{&c.told},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		c.node = n
		c.keep("a", "old")
		c.keep("b", "other")
		time.Sleep(20*time.Second + time.Millisecond) // nobody is registered any more either, and no tick is due
		test(c)
	})
}

// tellers counts what is told.
type tellers struct{ count *atomic.Int64 }

func (tellers) Publish(invalidation.Notice)        {}
func (t tellers) Tell(string, invalidation.Notice) { t.count.Add(1) }
func (tellers) Bound() time.Duration               { return bound }
func (tellers) Left(string) bool                   { return false }

func (c *crowded) keep(namespace, value string) {
	c.t.Helper()
	if _, err := c.node.Write(context.Background(), soracache.WriteRequest{Namespace: namespace, Writes: []soracache.Write{{
		Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte(value)}, Lifetime: soracache.Lifetime{TTL: time.Hour},
	}}}); err != nil {
		c.t.Fatal(err)
	}
	c.get(namespace)
}

func (c *crowded) get(namespace string) (soracache.ReadResult, error) {
	rs, err := c.node.Get(context.Background(), soracache.GetRequest{Namespace: namespace, Reads: []soracache.Read{{Key: "k"}}})
	if err != nil {
		return soracache.ReadResult{}, err
	}
	return rs[0], nil
}

// crowd has others come, who take the room of what is not in use.
func (c *crowded) crowd() {
	c.t.Helper()
	for _, other := range []string{"c", "d", "e"} {
		_, err := c.get(other)
		for range 10 { // a confirmation may be working on the only other one
			if !errors.Is(err, soracache.ErrTooLarge) {
				break
			}
			time.Sleep(time.Millisecond)
			_, err = c.get(other)
		}
		if err != nil {
			c.t.Errorf("%s: %v", other, err)
		}
	}
	if !slices.ContainsFunc(c.node.Partitions(), func(p node.PartitionState) bool { return p.Namespace == "a" }) {
		c.t.Error("a was forgotten")
	}
}

func (c *crowded) follows(namespace string) bool {
	return slices.ContainsFunc(c.node.Partitions(), func(p node.PartitionState) bool { return p.Namespace == namespace })
}

// recorded appends a record to the namespace a that the node does not hear of.
func (c *crowded) record() soracache.Record {
	a := c.model.Invalidate(context.Background(), []l2.InvalidateRequest{{
		Partition: l2.Partition{Namespace: "a", Count: 1}, Targets: []soracache.Target{soracache.Key("k")},
	}})[0]
	return a.Record
}

// Who opens a namespace and does not get on, at either look at the clock, keeps
// nobody else from opening it, and learns what it has to when it goes on.
func TestWhoOpensANamespaceHoldsNobodyUp(t *testing.T) {
	for look := range 2 { // before it asks for the number, and after that
		inACrowd(t, func(c *crowded) {
			time.Sleep(10 * time.Second) // both are forgotten
			if len(c.node.Partitions()) > 0 {
				t.Fatal("they are followed")
			}
			open := c.clock.shutAfter(look)
			defer open()
			done := make(chan error, 1)
			go func() {
				_, err := c.node.Invalidate(context.Background(), soracache.InvalidateRequest{
					Namespace: "a", Targets: []soracache.Target{soracache.Key("k")}, Acknowledge: true,
				})
				done <- err
			}()
			synctest.Wait()
			if c.clock.stopped() != 1 {
				t.Fatalf("look %d: it was not stopped", look)
			}
			began := time.Now()
			others := make(chan error, 1)
			go func() {
				for _, namespace := range []string{"b", "a", "a"} {
					if _, err := c.get(namespace); err != nil {
						others <- err
						return
					}
				}
				others <- nil
			}()
			select {
			case err := <-others:
				if took := time.Since(began); err != nil || took > 0 {
					t.Errorf("look %d: others waited %v: %v", look, took, err)
				}
			case <-time.After(time.Minute):
				t.Fatalf("look %d: others wait", look)
			}
			open()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if res, err := c.get("a"); err != nil || res.Status != soracache.StatusMiss {
				t.Errorf("look %d: after the acknowledgement: %v %q, %v", look, res.Status, res.Entry.Value, err)
			}
		})
	}
}

// Whoever works on a namespace keeps it from being forgotten, from when it has
// looked it up to when it is done: otherwise a successor would be opened, which
// does not learn what the work makes its own follower learn.
func TestNamespaceIsNotForgottenWhileSomebodyWorksOnIt(t *testing.T) {
	ctx := context.Background()
	a := soracache.GetRequest{Namespace: "a", Reads: []soracache.Read{{Key: "other", Lease: true}}}
	clock := func(c *crowded) *doorway { return &c.clock }
	for name, work := range map[string]struct {
		where func(c *crowded) *doorway
		do    func(c *crowded) error
	}{
		"get": {clock, func(c *crowded) error { _, err := c.get("a"); return err }},
		"batch": {clock, func(c *crowded) error {
			_, err := c.node.Get(ctx, soracache.GetRequest{Namespace: "a", Reads: []soracache.Read{{Key: "x"}, {Key: "y"}}})
			return err
		}},
		"write": {clock, func(c *crowded) error {
			_, err := c.node.Write(ctx, soracache.WriteRequest{Namespace: "a", Writes: []soracache.Write{{Op: soracache.OpRelease, Key: "k"}}})
			return err
		}},
		"invalidate": {clock, func(c *crowded) error {
			_, err := c.node.Invalidate(ctx, soracache.InvalidateRequest{Namespace: "a", Targets: []soracache.Target{soracache.Key("x")}})
			return err
		}},
		"head":     {clock, func(c *crowded) error { _, err := c.node.Head(ctx, "a"); return err }},
		"explain":  {clock, func(c *crowded) error { _, err := c.node.Explain(ctx, "a", "k"); return err }},
		"listkeys": {clock, func(c *crowded) error { _, _, err := c.node.ListKeys(ctx, "a", "t", "", 10); return err }},
		"watch": {clock, func(c *crowded) error {
			enough := errors.New("enough")
			err := c.node.Watch(ctx, soracache.WatchRequest{Namespace: "a"}, func([]soracache.WatchItem) error { return enough })
			if errors.Is(err, enough) {
				return nil
			}
			return err
		}},
		"notice": {func(c *crowded) *doorway { return &c.recorded }, func(c *crowded) error {
			c.node.Receive(invalidation.Notice{Kind: invalidation.NoticeRecord, Namespace: "a", Record: c.record(), Acknowledge: true, From: "n1"})
			return nil
		}},
		// These go on in the background, when the caller has left.
		"flight": {func(c *crowded) *doorway { return &c.store.read }, func(c *crowded) error {
			gone, cancel := context.WithCancel(ctx)
			cancel()
			_, err := c.node.Get(gone, a)
			return err
		}},
		"handed back": {func(c *crowded) *doorway { return &c.store.write }, func(c *crowded) error {
			gone, cancel := context.WithCancel(ctx)
			cancel()
			_, err := c.node.Get(gone, a)
			return err
		}},
		"pull": {func(c *crowded) *doorway { return &c.store.since }, func(c *crowded) error {
			c.node.Receive(invalidation.Notice{Kind: invalidation.NoticeRecord, Namespace: "a", Record: soracache.Record{Epoch: 1}, Acknowledge: true, From: "n1"})
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inACrowd(t, func(c *crowded) {
				door := work.where(c)
				open := door.shut()
				defer open()
				done := make(chan error, 1)
				go func() { done <- work.do(c) }()
				synctest.Wait()
				if door.stopped() != 1 {
					t.Fatal("it was not stopped on its way")
				}
				time.Sleep(5 * time.Second) // what it touched is idle again
				c.crowd()
				if !c.follows("a") {
					t.Error("a was forgotten")
				}
				open()
				if err := <-done; err != nil {
					t.Error(err)
				}
				// And when the work is done, it makes room like any other.
				time.Sleep(20 * time.Second)
				for _, other := range []string{"f", "g"} {
					if _, err := c.get(other); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// A node that is stopped between looking a namespace up and invalidating in it,
// while its successor takes in the old value, would go on serving that after the
// invalidation was acknowledged.
func TestAcknowledgedInvalidationOfANamespaceAboutToBeForgotten(t *testing.T) {
	inACrowd(t, func(c *crowded) {
		open := c.clock.shut()
		defer open()
		done := make(chan error, 1)
		go func() {
			_, err := c.node.Invalidate(context.Background(), soracache.InvalidateRequest{
				Namespace: "a", Targets: []soracache.Target{soracache.Key("k")}, Acknowledge: true,
			})
			done <- err
		}()
		synctest.Wait()
		c.crowd()
		time.Sleep(5 * time.Second) // whoever came is idle again
		for range 2 {               // from the store, then from memory
			if r, err := c.get("a"); err != nil || string(r.Entry.Value) != "old" {
				t.Fatalf("before it is recorded: %v %v", r, err)
			}
		}
		open()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if r, err := c.get("a"); err != nil || r.Status != soracache.StatusMiss {
			t.Errorf("after it was acknowledged: %d %q from %s, %v", r.Status, r.Entry.Value, r.Tier, err)
		}
	})
}

// A watcher that was stopped before it joined the feeds hears of what is recorded.
func TestWatchOfANamespaceAboutToBeForgotten(t *testing.T) {
	inACrowd(t, func(c *crowded) {
		open := c.clock.shut()
		defer open()
		heard := make(chan []soracache.WatchItem, 64)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			done <- c.node.Watch(ctx, soracache.WatchRequest{Namespace: "a"}, func(items []soracache.WatchItem) error {
				heard <- items
				return nil
			})
		}()
		synctest.Wait()
		c.crowd()
		time.Sleep(5 * time.Second) // whoever came is idle again
		if _, err := c.get("a"); err != nil {
			t.Fatal(err)
		}
		open()
		<-heard // where it begins
		if _, err := c.node.Invalidate(ctx, soracache.InvalidateRequest{Namespace: "a", Targets: []soracache.Target{soracache.Key("k")}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case items := <-heard:
			if len(items[0].Records) != 1 {
				t.Errorf("told of %+v", items)
			}
		default:
			t.Error("not told of a record that this node made")
		}
		cancel()
		<-done
	})
}

// A notice that is taken in while its namespace is forgotten and opened again must
// not be acknowledged for the one that nobody reads any more.
func TestNoticeForANamespaceAboutToBeForgotten(t *testing.T) {
	inACrowd(t, func(c *crowded) {
		record := c.record()
		open := c.recorded.shut()
		defer open()
		go c.node.Receive(invalidation.Notice{Kind: invalidation.NoticeRecord, Namespace: "a", Record: record, Acknowledge: true, From: "n1"})
		synctest.Wait()
		c.crowd()
		time.Sleep(5 * time.Second) // whoever came is idle again
		open()
		synctest.Wait()
		if c.told.Load() == 0 {
			t.Error("not acknowledged")
		}
		if r, err := c.get("a"); err != nil || r.Status != soracache.StatusMiss {
			t.Errorf("after it was acknowledged: %d %q from %s, %v", r.Status, r.Entry.Value, r.Tier, err)
		}
	})
}

// A node that follows a namespace in another number of partitions does not know
// which of its memory a notice is about.
func TestNoticeForAPartitionThatIsNot(t *testing.T) {
	inACrowd(t, func(c *crowded) {
		if _, err := c.get("a"); err != nil {
			t.Fatal(err)
		}
		for at, want := range map[string]int64{"a": 0, "never-heard-of": 1} {
			c.told.Store(0)
			c.node.Receive(invalidation.Notice{
				Kind: invalidation.NoticeRecord, Namespace: at, Partition: 7, Record: c.record(), Acknowledge: true, From: "n1",
			})
			time.Sleep(bound)
			if got := c.told.Load(); got != want {
				t.Errorf("%s: acknowledged %d times, want %d", at, got, want)
			}
		}
	})
}
