package sim

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/invalidation/gossip"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// namespace is the one that everything happens in.
const namespace = "sim"

// world is a cluster under virtual time: hosts with nodes, the store between
// them, the network, the clients, and what is going to happen. It belongs to
// one goroutine, the scheduler, which alone changes it; the goroutines of nodes
// only leave arrivals and wait.
//
// The scheduler lets exactly one thing happen at a time and waits until
// everything has come to rest:
//
//  1. synctest.Wait: every goroutine is blocked in the store, a flight or a timer
//  2. what they left (calls, packets, results) is taken in, in an order that
//     depends on what it is and not on who ran first, and given a time to happen
//  3. the earliest of all that is due happens; or time passes until it is due,
//     and the nodes' own timers fire meanwhile
type world struct {
	t       *testing.T
	cfg     Config
	rng     *rand.Rand
	began   time.Time
	model   *l2model.Model
	plan    plan
	hosts   []*host
	check   *checker
	count   *counters
	clients []*session
	apps    []*app
	streams int // watches so far
	// old is a primary that was cut off, and still answers some hosts.
	old  *l2model.Model
	skew time.Duration // of the store's clock
	full bool          // the store has no room

	queue  events
	queued uint64 // events ever queued: the order of those due at once
	step   int    // what has happened so far, counted
	undone int    // records that the last restored snapshot undid
	rests  int    // how often everything was at rest
	lastOp int
	// pending holds the operations that clients wait for.
	pending map[*op]struct{}

	mu       sync.Mutex
	arrivals []arrival // guarded by mu
	kick     chan struct{}
	closed   bool // guarded by mu: nothing is taken in any more
	// gossip decides when members hear of each other.
	gossip *rand.Rand

	hash  uint64
	trace *trace // nil: not wanted
}

// event is something that will happen.
type event struct {
	due   time.Duration
	order uint64
	run   func()
}

type events []*event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].due < q[j].due || q[i].due == q[j].due && q[i].order < q[j].order
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(e any)   { *q = append(*q, e.(*event)) }
func (q *events) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}

// arrival is something that a goroutine of a node or a client left for the
// scheduler. Its name orders it among those of the same moment.
type arrival struct {
	name string
	take func()
}

func newWorld(t *testing.T, seed uint64, cfg Config, keepTrace bool) *world {
	w := &world{
		t:     t,
		cfg:   cfg,
		rng:   rand.New(rand.NewPCG(seed, 1)),
		began: time.Now(),
		kick:  make(chan struct{}, 1),
		count: &counters{},

		pending: map[*op]struct{}{},
		gossip:  rand.New(rand.NewPCG(seed, 7)),
		hash:    14695981039346656037,
	}
	if keepTrace {
		w.trace = &trace{}
	}
	epochs := rand.New(rand.NewPCG(seed, 2))
	w.model = l2model.New(l2model.Config{
		Retention: cfg.Retention, Random: epochs.Uint64, Now: func() time.Time { return time.Now().Add(w.skew) },
	})
	w.check = newChecker(w)
	for i := range cfg.Nodes {
		w.hosts = append(w.hosts, &host{w: w, slot: i, rng: rand.New(rand.NewPCG(seed, 100+uint64(i)))})
	}
	return w
}

// now is the virtual time since the world began.
func (w *world) now() time.Duration { return time.Since(w.began) }

// storeNow is the same on the store's clock. It is far from zero, which is none,
// however often that clock is set back.
func (w *world) storeNow() time.Duration { return 10_000*time.Hour + w.now() + w.skew }

// rolls is true as often in a thousand. What never happens takes no dice.
func (w *world) rolls(often int) bool { return often > 0 && w.rng.IntN(1000) < often }

// arrive leaves something for the scheduler. It may be called from anywhere.
func (w *world) arrive(name string, take func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.arrivals = append(w.arrivals, arrival{name, take})
	select {
	case w.kick <- struct{}{}:
	default:
	}
	return true
}

// after lets something happen once a time has passed.
func (w *world) after(d time.Duration, run func()) {
	w.queued++
	heap.Push(&w.queue, &event{due: w.now() + d, order: w.queued, run: run})
}

// settle waits until everything is at rest and takes in what arrived.
func (w *world) settle() {
	synctest.Wait()
	select {
	case <-w.kick:
	default:
	}
	w.mu.Lock()
	arrived := w.arrivals
	w.arrivals = nil
	w.mu.Unlock()
	w.rests++
	if len(arrived) == 0 {
		return
	}
	w.step++
	slices.SortStableFunc(arrived, func(a, b arrival) int { return cmp.Compare(a.name, b.name) })
	for _, a := range arrived {
		a.take()
	}
}

// runFor lets everything happen that is due within a time.
func (w *world) runFor(d time.Duration) {
	end := w.now() + d
	w.runUntil(func() bool { return w.now() >= end }, end)
}

// runUntil lets things happen until it is enough, at the latest until a time.
func (w *world) runUntil(enough func() bool, end time.Duration) {
	for {
		w.settle()
		now := w.now()
		if len(w.queue) > 0 && w.queue[0].due <= now {
			e := heap.Pop(&w.queue).(*event)
			w.step++
			e.run()
			continue
		}
		if enough() || now >= end {
			return
		}
		w.check.endOfMoment()
		next := end
		if len(w.queue) > 0 {
			next = min(next, w.queue[0].due)
		}
		w.pass(next - now)
	}
}

// pass lets time pass until something arrives, or for as long as given.
func (w *world) pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.kick:
	}
}

// close ends everything. Nothing happens after it.
func (w *world) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	for _, a := range w.apps {
		a.close()
	}
	for _, h := range w.hosts {
		if h.boot != nil {
			h.boot.kill()
		}
		for _, b := range h.dead {
			<-b.ended
		}
	}
}

// note mixes what happened into the history's hash, and into the trace if one
// is kept. The values are what two runs of one seed must agree on.
func (w *world) note(what string, who int, values ...uint64) {
	mix := func(v uint64) {
		w.hash = (w.hash ^ v) * 1099511628211
		w.hash ^= w.hash >> 29
	}
	for i := range len(what) {
		mix(uint64(what[i]))
	}
	mix(uint64(w.now()))
	mix(uint64(who))
	for _, v := range values {
		mix(v)
	}
	if w.trace != nil {
		w.trace.hashes = append(w.trace.hashes, fmt.Sprintf("%s %d %d %x", what, w.now(), who, values))
	}
}

// logf adds a line to the trace, if one is kept.
func (w *world) logf(format string, args ...any) {
	if w.trace != nil {
		w.trace.add(w.now(), w.step, fmt.Sprintf(format, args...))
	}
}

// tracing tells whether logf is worth its arguments.
func (w *world) tracing() bool { return w.trace != nil }

// trace is the history of a run, for people.
type trace struct {
	lines  []string
	hashes []string
}

func (t *trace) add(at time.Duration, step int, line string) {
	t.lines = append(t.lines, fmt.Sprintf("%11.3fms #%-6d %s", float64(at)/1e6, step, line))
}

// partitionOf is the partition that a key belongs to.
func (w *world) partitionOf(key string) int {
	return int(soracache.PartitionOf(key, w.cfg.Partitions))
}

func (w *world) partition(i int) l2.Partition {
	return l2.Partition{Namespace: namespace, Index: uint16(i), Count: uint16(w.cfg.Partitions)}
}

// evict makes the store lose one entry. It reports whether there was one.
func (w *world) evict(key string) bool {
	return w.model.LoseEntry(w.partition(w.partitionOf(key)), key)
}

// host is a place where one node runs at a time.
type host struct {
	w    *world
	slot int
	rng  *rand.Rand // seeds its nodes
	boot *boot      // nil while it is down
	dead []*boot    // former ones
	// paused: nothing goes in or out. What would waits in held.
	paused bool
	held   []func()
	// misled: it reaches the old primary, while there is one.
	misled bool
	// misfit: its node is told another number of partitions.
	misfit bool
	// odd: it runs another version: see the mixed-version fault.
	odd bool
}

func (h *host) String() string { return fmt.Sprintf("n%d", h.slot+1) }

// bound is B of the node on this host.
func (h *host) bound() time.Duration { return h.w.cfg.Bounds[h.slot%len(h.w.cfg.Bounds)] }

// partitions is what the node on this host is told.
func (h *host) partitions() int {
	if h.misfit {
		return h.w.cfg.Partitions + 1
	}
	return h.w.cfg.Partitions
}

// boot is one life of a node.
type boot struct {
	host   *host
	w      *world
	number int
	name   string
	node   *node.Node
	ended  chan struct{} // closed once it is gone for good, after kill
	// roster is what it knows of the others, and says what it has told them of itself.
	roster *gossip.Roster
	says   gossip.State
	// misled: it has reached an old primary. Once that is gone, unmet are the
	// partitions of which it has not heard from the new one, and recovered is when
	// it had of all.
	misled    bool
	unmet     map[int]bool
	recovered int
	misfit    bool // it was told another number of partitions
	// streams are the watches that came to it.
	streams []*stream

	mu     sync.Mutex
	rng    *rand.Rand // guarded by mu
	jitter uint64     // seeds what decides when something happens; immutable
	dead   bool       // guarded by mu
	drain  bool       // guarded by mu: it has been asked to end
	// failed: a call to the store has, at last at failedAt; guarded by mu.
	failed   bool
	failedAt time.Duration
	calls    map[*call]struct{} // that wait for an answer; guarded by mu
}

// start begins a new life on a host.
func (h *host) start() {
	b := &boot{
		host: h, w: h.w, number: len(h.dead) + 1, says: gossip.StateAlive, rng: rand.New(rand.NewPCG(h.rng.Uint64(), 1)),
		ended: make(chan struct{}), calls: map[*call]struct{}{},
	}
	b.jitter = b.rng.Uint64()
	b.name = fmt.Sprintf("n%d-%d", h.slot+1, b.number)
	b.misled, b.misfit = h.w.old != nil && h.misled, h.misfit
	b.joins()
	n, err := node.New(node.Config{
		Store:        link{b},
		Name:         b.name,
		Peers:        peers{b},
		L1MaxBytes:   1 << 20,
		Bound:        h.bound(),
		Partitions:   func(string) int { return h.partitions() },
		StoreTimeout: h.w.cfg.StoreTimeout,
		IdleAfter:    h.w.cfg.IdleAfter,
		ReclaimAfter: h.w.cfg.ReclaimAfter,
		SweepEvery:   h.w.cfg.SweepEvery,
		MeterEvery:   -1,
		HitForMiss:   hitForMiss,
		WatchQueue:   h.w.cfg.WatchQueue,
		// At its cap, a node can follow one namespace.
		MaxPartitions: map[bool]int{true: h.w.cfg.Partitions}[h.w.cfg.Crowd > 0],
		Suspended:     func() time.Duration { return 0 },
		Rand:          b,
		Observer:      node.Observer{Recorded: b.recorded},
	})
	if err != nil {
		h.w.t.Fatalf("node: %v", err)
	}
	b.node = n
	h.boot = b
	h.w.check.started(b)
	h.w.logf("%s starts", b.name)
}

// jitterBytes is how much randomness a node takes to spread what it does in time.
const jitterBytes = 4

// Read gives the node its randomness. Where that decides when something happens,
// it depends on the moment alone: which of two goroutines that wake at one moment
// draws first is up to the scheduler of the machine.
func (b *boot) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	from := b.rng
	if len(p) == jitterBytes {
		from = rand.New(rand.NewPCG(b.jitter, uint64(b.w.now())))
	}
	for i := range p {
		p[i] = byte(from.Uint32())
	}
	return len(p), nil
}

// alive tells whether the node has not been killed.
func (b *boot) alive() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.dead
}

// drains tells whether the node has been asked to end.
func (b *boot) drains() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.drain
}

// kill ends a node as a crash does: nothing of it is heard any more. What it
// has sent may still arrive.
func (b *boot) kill() {
	b.mu.Lock()
	if b.dead {
		b.mu.Unlock()
		return
	}
	b.dead = true
	for c := range b.calls {
		close(c.gone)
	}
	clear(b.calls)
	b.mu.Unlock()
	for _, s := range b.streams {
		close(s.gone)
	}
	b.host.boot = nil
	b.host.dead = append(b.host.dead, b)
	go func() {
		defer close(b.ended)
		_ = b.node.Close()
	}()
}

// hold keeps something back while the host is paused; it reports whether it did.
func (h *host) hold(then func()) bool {
	if h.paused {
		h.held = append(h.held, then)
	}
	return h.paused
}

// resume ends a pause: all at once, what was held back happens.
func (h *host) resume() {
	if !h.paused {
		return
	}
	h.paused = false
	held := h.held
	h.held = nil
	h.w.logf("%s resumes: %d things were held back", h, len(held))
	for _, then := range held {
		h.w.after(time.Duration(h.w.rng.IntN(200_000)), then)
	}
}
