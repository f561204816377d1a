// Package node is one cache node: get, fill, put and invalidate over an
// in-process tier and a shared store, under the one rule.
//
// A read goes Get -> fromL1 -> load -> inflight.Reads -> source.Read -> Store.Read,
// and back; an invalidation goes Invalidate -> Store.Invalidate -> Follower. The
// node blocks only in the store, the clock, its own reads and where readers are
// parked. It knows no transport and no engine.
//
// A partition brings together what knows nothing of it: inflight shares reads of the
// store, parking has readers wait, copies keeps what was read or filled in L1. Each has
// its own lock, and holds no other's, but for two: inflight calls its source with its
// lock held, and copies tells inflight what is superseded while it puts a fill.
package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/internal/hold"
	"github.com/soracache/soracache/internal/node/inflight"
	"github.com/soracache/soracache/internal/node/parking"
	"github.com/soracache/soracache/internal/room"
	"github.com/soracache/soracache/internal/suspend"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l1"
	"github.com/soracache/soracache/l2"
)

// Config says what a [Node] is made of. Only Store is required.
type Config struct {
	// Store is the second tier. The node uses it and does not close it.
	Store l2.Store
	// Name tells the node from all others, and its present life from former
	// ones: at most 255 bytes (default: random). Members of a cluster know it
	// by this name.
	Name string
	// Peers are the other nodes of the cluster (default: there are none). The
	// node uses them and does not close them; what they receive is to be given
	// to [Node.Receive].
	Peers Peers
	// L1MaxBytes bounds the in-process tier (default 256 MiB).
	L1MaxBytes int64
	// Bound is B: the longest that L1 is trusted without confirmation
	// (default 1s, 10ms to 1 min). The node confirms three times as often.
	Bound time.Duration
	// Limits is what callers are to check requests against (default
	// [soracache.DefaultLimits]); the node answers with it when asked, and
	// itself checks namespaces and bounds leases.
	Limits soracache.Limits
	// Partitions says how many partitions a namespace has (default 1). It has to be
	// the same on all nodes: the number belongs to the namespace, and a node that
	// was told another refuses the namespace, as unavailable, and is not ready. It
	// may be called often.
	Partitions func(namespace string) int
	// MaxPartitions bounds how many partitions are followed (default 16,384). For
	// others there is room as long as there are some that nobody is using at that
	// moment.
	MaxPartitions int
	// Budget is the memory of requests in flight, of which the node takes what it
	// reads for answers (default: there is no limit).
	Budget *budget.Budget
	// StoreTimeout bounds each call to the store (default 2s).
	StoreTimeout time.Duration
	// IdleAfter is how long after its last use a partition is followed
	// (default 1 min). After four times as long its namespace is forgotten.
	IdleAfter time.Duration
	// ReclaimAfter is how long after an invalidation the deleting of what it
	// killed begins, so that a burst of invalidations makes one walk (default
	// 100ms).
	ReclaimAfter time.Duration
	// SweepEvery is how often housekeeping that is due by time is done
	// (default 2s).
	SweepEvery time.Duration
	// MeterEvery is of how many hits in L1 one is checked against the store
	// afterwards, to measure how stale it was (default 1024; negative: none).
	MeterEvery int
	// WatchQueue bounds how many targets of each partition may wait for a
	// watcher that is slow (default 4096). One that has more loses all of them,
	// and begins anew with a reset. As many may wait to be handed to all of them.
	WatchQueue int
	// HitForMiss is how long it is remembered that a load left nothing: it failed,
	// or what it brought may not be stored. Meanwhile nobody waits for who loads the
	// key, and each client loads for itself (default 3s, at most [l2.MaxRemember];
	// negative: it is not remembered).
	HitForMiss time.Duration
	// Logger defaults to discarding.
	Logger *slog.Logger
	// Observer is told of store calls, waits and records.
	Observer Observer
	// Suspended tells for how long the machine has been suspended since it
	// started (default: what the system says).
	Suspended func() time.Duration
	// Ahead tells how far the node's clock is ahead of the real one, for tests
	// that do not want to wait (default: not at all). It never goes down.
	Ahead func() time.Duration
	// Rand gives leases and the hash seed (default crypto/rand). It is read
	// from many goroutines.
	Rand io.Reader
}

// Validate reports the first field that is not usable.
func (c Config) Validate() error {
	switch {
	case c.Store == nil:
		return fmt.Errorf("%w: node needs a store", soracache.ErrInvalid)
	case c.L1MaxBytes < 0:
		return fmt.Errorf("%w: L1 size must not be negative", soracache.ErrInvalid)
	case c.Bound != 0 && (c.Bound < 10*time.Millisecond || c.Bound > l2.MaxBound):
		return fmt.Errorf("%w: bound must be 10ms to %v", soracache.ErrInvalid, l2.MaxBound)
	case c.HitForMiss > l2.MaxRemember:
		return fmt.Errorf("%w: hit-for-miss must be at most %v", soracache.ErrInvalid, l2.MaxRemember)
	case len(c.Name) > 255:
		return fmt.Errorf("%w: a node's name has at most 255 bytes", soracache.ErrInvalid)
	case c.StoreTimeout < 0 || c.IdleAfter < 0 || c.SweepEvery < 0 || c.ReclaimAfter < 0 || c.MaxPartitions < 0 || c.WatchQueue < 0:
		return fmt.Errorf("%w: durations and counts must not be negative", soracache.ErrInvalid)
	}
	if c.Limits != (soracache.Limits{}) {
		return c.Limits.Validate()
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.L1MaxBytes == 0 {
		c.L1MaxBytes = 256 << 20
	}
	if c.Bound == 0 {
		c.Bound = time.Second
	}
	if c.Peers == nil {
		c.Peers = alone{}
	}
	if c.Limits == (soracache.Limits{}) {
		c.Limits = soracache.DefaultLimits()
	}
	if c.Partitions == nil {
		c.Partitions = func(string) int { return 1 }
	}
	if c.MaxPartitions == 0 {
		c.MaxPartitions = 16_384
	}
	if c.StoreTimeout == 0 {
		c.StoreTimeout = 2 * time.Second
	}
	if c.IdleAfter == 0 {
		c.IdleAfter = time.Minute
	}
	if c.MeterEvery == 0 {
		c.MeterEvery = 1024
	}
	if c.WatchQueue == 0 {
		c.WatchQueue = 4096
	}
	if c.ReclaimAfter == 0 {
		c.ReclaimAfter = 100 * time.Millisecond
	}
	if c.HitForMiss == 0 {
		c.HitForMiss = 3 * time.Second
	}
	if c.SweepEvery == 0 {
		c.SweepEvery = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Suspended == nil {
		c.Suspended = suspend.Time
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return c
}

// errDraining is what a node answers once Drain has begun.
var errDraining = fmt.Errorf("%w: draining", soracache.ErrUnavailable)

var _ soracache.Backend = (*Node)(nil)

// Node is one cache node. It implements [soracache.Backend] and is safe for
// concurrent use.
type Node struct {
	cfg   Config
	start time.Time
	l1    *l1.Cache[*local]
	marks *invalidation.Marks

	mu         sync.RWMutex
	namespaces map[string]*namespace // guarded by mu
	count      int                   // partitions in namespaces; guarded by mu
	numbers    numbers               // of partitions, of namespaces
	spaces     atomic.Uint32         // the last space given to a partition

	// registration is what makes the store remember that this node follows.
	registration l2.Registration
	parts        *parts   // of the store
	ping         ping     // of the store as a whole
	acks         acks     // of invalidations of this node's
	fullness     fullness // of the store
	meter        meter    // how stale hits in L1 were

	requests  hold.Gate     // open while requests are taken
	notices   hold.Gate     // open while notices are taken in
	draining  chan struct{} // closed when Drain begins
	drainOnce sync.Once

	// The background: follow, housekeep, reclaim, pulls, flights, releases.
	ctx    context.Context //nolint:containedctx // the node's own life, ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	chores *chores

	// What those parts of all partitions have in common.
	parking  parking.Shared
	inflight inflight.Config

	totals totals
}

type namespace struct {
	name       string
	partitions []*partition
	// pins counts who works on it: requests, what they left to be done in the
	// background, and whoever takes in a notice. It is not forgotten while there
	// is one, for whoever works on it must work on the one that others read: what
	// a forgotten one learns is lost on its successor. The first pin is taken with
	// the node's mu held; whoever holds one may take more.
	pins atomic.Int64
	gone chan struct{} // closed when it is given up: see numbers
	// numbered is when its number of partitions was last looked up, on the node's
	// clock; doubted: it is being looked up because a ledger refused it.
	numbered atomic.Int64
	doubted  atomic.Bool
}

func (ns *namespace) pin()   { ns.pins.Add(1) }
func (ns *namespace) unpin() { ns.pins.Add(-1) }

// of returns the partition of a name: see names.go.
func (ns *namespace) of(name string) *partition {
	return ns.partitions[soracache.PartitionOf(soracache.KeyOf(name), len(ns.partitions))]
}

// New returns a running node. Close ends it.
func New(cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	var seed [16]byte
	if _, err := io.ReadFull(cfg.Rand, seed[:]); err != nil {
		return nil, fmt.Errorf("node: random seed: %w", err)
	}
	if cfg.Name == "" {
		cfg.Name = "node-" + strconv.FormatUint(binary.BigEndian.Uint64(seed[:]), 36)
	}
	cache, err := l1.New(l1.Config[*local]{MaxBytes: cfg.L1MaxBytes, Size: (*local).size})
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:   cfg,
		start: time.Now(),
		l1:    cache,
		// One slot for each 256 bytes of L1: an entry of ordinary size has
		// about as many slots of its own as targets.
		marks:      invalidation.NewMarks(int(max(cfg.L1MaxBytes/256, 1<<12)), binary.BigEndian.Uint64(seed[8:])),
		namespaces: map[string]*namespace{},
		draining:   make(chan struct{}),
		chores:     newChores(),
		numbers:    newNumbers(),

		registration: l2.Registration{Name: cfg.Name, Bound: cfg.Bound},
		acks:         acks{waits: map[ackKey][]*ackWait{}},
		meter:        newMeter(cfg.MeterEvery),
	}
	n.parts = newParts(n)
	n.cfg.Store = guard{cfg.Store, n, n.parts, cfg.Logger, cfg.StoreTimeout}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.parking = parking.Shared{Now: n.now, UpTo: n.upTo, Draining: n.draining}
	n.inflight = inflight.Config{
		Life: n.ctx, Now: n.now, NewLease: n.newLease, Budget: cfg.Budget, Timeout: cfg.StoreTimeout,
		Joined: func() { n.totals.flightJoins.Add(1) },
	}
	n.wg.Go(n.follow)
	n.wg.Go(n.recount)
	n.wg.Go(n.housekeep)
	n.wg.Go(n.reclaim)
	n.wg.Go(n.measure)
	return n, nil
}

// now is the node's monotonic clock.
func (n *Node) now() time.Duration {
	if n.cfg.Ahead != nil {
		return time.Since(n.start) + n.cfg.Ahead()
	}
	return time.Since(n.start)
}

// Limits returns what the node takes in.
func (n *Node) Limits() soracache.Limits { return n.cfg.Limits }

// Get answers every read, or, if the context has the caller's room (see that package), those
// for which there is room, in order. It does so from L1 if that may be trusted, else from the store,
// else with a lease or after waiting for whoever holds it. A batch that was
// given a lease answers at once and waits for no other key: whoever computes
// one key must not be made to wait for another.
func (n *Node) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	ns, err := n.begin(ctx, req.Namespace)
	if err != nil {
		return nil, err
	}
	defer n.leave(ns)
	if req.Reads, err = named(req.Reads); err != nil {
		return nil, err
	}
	results := make([]soracache.ReadResult, len(req.Reads))
	missed := 0
	for i := range results {
		if p := ns.of(req.Reads[i].Key); !p.fromL1(&req.Reads[i], req.MinStamp, noFallback, &results[i]) {
			missed++
		} else if !roomFor(ctx, results[i].Entry) {
			results = results[:i]
			break
		}
	}
	switch {
	case missed == 0:
	case len(req.Reads) == 1:
		if results[0] = ns.of(req.Reads[0].Key).load(ctx, &req.Reads[0], &req); results[0].Err == errNoRoom { //nolint:errorlint // it is ours
			results = nil
		}
	default:
		results = n.loadAll(ctx, ns, &req, results)
	}
	n.settle(ctx, ns, &req, results)
	return results, nil
}

// settle counts the outcomes, and hands back the leases of a caller that is
// not there any more to use them.
func (n *Node) settle(ctx context.Context, ns *namespace, req *soracache.GetRequest, results []soracache.ReadResult) {
	gone := ctx.Err() != nil
	for i := range results {
		r := &results[i]
		r.Partitions = uint16(len(ns.partitions)) //nolint:gosec // at most MaxPartitions
		if r.Lease != (soracache.Lease{}) {
			if gone {
				ns.of(req.Reads[i].Key).handBack(inflight.Lease{Key: req.Reads[i].Key, Nonce: r.Lease})
				r.Lease, r.LeaseState = soracache.Lease{}, soracache.LeaseNone
			} else {
				n.totals.leases.Add(1)
			}
		}
		n.totals.count(r)
	}
}

// Write performs every write, in one call to each part of the store.
func (n *Node) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	ns, err := n.begin(ctx, req.Namespace)
	if err != nil {
		return nil, err
	}
	defer n.leave(ns)
	reqs := make([]l2.WriteRequest, len(req.Writes))
	asked := make([]invalidation.Question, len(req.Writes))
	writes := slices.Clone(req.Writes) // the caller's stay as they are
	fills := make([]*filling, len(writes))
	parts := make([]*partition, len(writes))
	for i := range writes {
		w := &writes[i]
		if err := soracache.CheckSchema(w.Schema); err != nil {
			return nil, err
		}
	}
	for i := range writes {
		w := &writes[i]
		w.Key = soracache.Name(w.Schema, w.Key) // from here on
		p := ns.of(w.Key)
		parts[i] = p
		p.touch(n.now())
		w.Entry.Tags = soracache.NormalizeTags(w.Entry.Tags)
		w.LeaseFor = inflight.LeaseFor(w.LeaseFor)
		if w.Lifetime.Keep == 0 {
			w.Lifetime.Keep = w.Lifetime.TTL
		}
		if w.Op == soracache.OpFill {
			fills[i] = p.copies.fillSent(w.Key)
		}
		asked[i] = p.follower.Ask()
		reqs[i] = l2.WriteRequest{
			Partition: p.id, Since: asked[i].Since, Register: n.registration, Op: w.Op, Key: w.Key, Nonce: w.Lease,
			LeaseFor: w.LeaseFor, Outcome: w.Outcome, Remember: max(n.cfg.HitForMiss, 0), Entry: w.Entry, Lifetime: w.Lifetime,
		}
	}
	results := make([]soracache.WriteResult, len(reqs))
	together(apart(parts), func(which []int) {
		some := make([]l2.WriteRequest, len(which))
		for k, i := range which {
			some[k] = reqs[i]
		}
		answers := callStore(ctx, n, "write", func(ctx context.Context) ([]l2.WriteAnswer, error) {
			as := n.cfg.Store.Write(ctx, some)
			return as, firstError(as, func(a *l2.WriteAnswer) error { return a.Err })
		})
		for k, i := range which {
			results[i] = parts[i].written(&writes[i], asked[i], &answers[k], fills[i])
		}
	})
	return results, nil
}

// Invalidate records the targets in every partition that they concern, applies
// what was recorded, so that this node refuses the old values by the time the
// caller hears of it, and tells the other nodes. Deleting is left to the
// background. If it is to be acknowledged, it also waits until no node can serve
// the old values.
func (n *Node) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	if len(req.Targets) == 0 {
		return soracache.InvalidateResult{}, fmt.Errorf("%w: nothing to invalidate", soracache.ErrInvalid)
	}
	ns, err := n.begin(ctx, req.Namespace)
	if err != nil {
		return soracache.InvalidateResult{}, err
	}
	defer n.leave(ns)
	parts, reqs, asked := ns.spread(n.now(), req.Targets)
	for i := range reqs {
		reqs[i].Followers, reqs[i].Settle = req.Acknowledge, req.Settle
	}
	answers := callStore(ctx, n, "invalidate", func(ctx context.Context) ([]l2.InvalidateAnswer, error) {
		as := n.cfg.Store.Invalidate(ctx, reqs)
		return as, firstError(as, func(a *l2.InvalidateAnswer) error { return a.Err })
	})
	wait := n.newAckWait()
	if req.Acknowledge {
		wait.expect(parts, answers)
		defer n.acks.forget(wait)
	}
	var stamps soracache.Stamps
	var failed error
	for i := range answers {
		a := &answers[i]
		if a.Err != nil {
			failed = errors.Join(failed, fmt.Errorf("partition %s: %w", parts[i].id, a.Err))
			continue
		}
		parts[i].invalidated(asked[i], a, req.Acknowledge)
		if parts[i].follower.Left(a.Record.Epoch) {
			// If a primary took it that was cut off, what is in L2 and here was
			// made without it.
			failed = errors.Join(failed, fmt.Errorf("%w: partition %s took a new epoch meanwhile", soracache.ErrUnavailable, parts[i].id))
		}
		stamps = append(stamps, soracache.PartitionStamp{
			Partition: parts[i].id.Index, Stamp: soracache.Stamp{Epoch: a.Record.Epoch, Position: a.Record.Position},
		})
	}
	if failed != nil {
		return soracache.InvalidateResult{}, failed
	}
	n.totals.invalidations.Add(1)
	n.totals.targets.Add(uint64(len(req.Targets)))
	if !req.Acknowledge {
		return soracache.InvalidateResult{Stamp: stamps}, nil
	}
	// Who waits holds no place, unless too many wait already.
	if place := room.FromContext(ctx); place.Park() == nil {
		defer place.Resume()
	}
	stragglers, err := n.acknowledged(ctx, wait)
	if err != nil {
		return soracache.InvalidateResult{}, &soracache.IncompleteError{Stamp: stamps, Stragglers: stragglers, Cause: err}
	}
	return soracache.InvalidateResult{Stamp: stamps, Stragglers: stragglers}, nil
}

// spread groups targets by partition: a key concerns its own, a tag and
// everything concern all.
func (ns *namespace) spread(now time.Duration, targets []soracache.Target) ([]*partition, []l2.InvalidateRequest, []invalidation.Question) {
	own, all := make(map[uint16][]soracache.Target), make([]soracache.Target, 0, len(targets))
	for _, t := range targets {
		if t.Kind == soracache.TargetKey {
			i := soracache.PartitionOf(t.Name, len(ns.partitions))
			own[i] = append(own[i], t)
		} else {
			all = append(all, t)
		}
	}
	var parts []*partition
	var reqs []l2.InvalidateRequest
	var asked []invalidation.Question
	for i, p := range ns.partitions {
		g := all // which those share that have no keys of their own: there may be many
		if keys := own[uint16(i)]; len(keys) > 0 {
			g = append(keys, all...)
		}
		if len(g) == 0 {
			continue
		}
		p.touch(now)
		q := p.follower.Ask()
		parts = append(parts, p)
		asked = append(asked, q)
		reqs = append(reqs, l2.InvalidateRequest{Partition: p.id, Since: q.Since, Register: p.node.registration, Targets: g})
	}
	return parts, reqs, asked
}

// Head tells how far the node has followed a namespace: the stamp of every
// partition that it could confirm, and the age of the oldest confirmation among
// them. What is not confirmed is confirmed first. If a part of the store does not
// answer, the partitions that it holds are left out; it is an error if no others
// are left.
func (n *Node) Head(ctx context.Context, namespace string) (soracache.HeadResult, error) {
	ns, err := n.begin(ctx, namespace)
	if err != nil {
		return soracache.HeadResult{}, err
	}
	defer n.leave(ns)
	for _, p := range ns.partitions {
		p.touch(n.now())
	}
	failed := fmt.Errorf("%w: position cannot be confirmed", soracache.ErrUnavailable)
	for range 3 {
		res, unconfirmed := ns.head()
		if len(unconfirmed) == 0 {
			return res, nil
		}
		var asking []*partition
		for _, p := range unconfirmed {
			if err := p.down(); err != nil {
				failed = err
				continue
			}
			asking = append(asking, p)
		}
		if len(asking) == 0 {
			break
		}
		patience := n.cfg.Bound
		if len(res.Stamp) > 0 {
			patience /= 3 // whoever can be answered already must not wait for long
		}
		if _, err := n.ask(ctx, asking, patience); err != nil {
			failed = err
			break
		}
	}
	if res, _ := ns.head(); len(res.Stamp) > 0 {
		return res, nil
	}
	return soracache.HeadResult{}, failed
}

// head returns how far the partitions have been followed that are confirmed, and
// those that are not.
func (ns *namespace) head() (res soracache.HeadResult, unconfirmed []*partition) {
	for _, p := range ns.partitions {
		s := p.follower.State()
		if s.Age < 0 {
			unconfirmed = append(unconfirmed, p)
			continue
		}
		res.Age = max(res.Age, s.Age)
		res.Stamp = append(res.Stamp, soracache.PartitionStamp{
			Partition: p.id.Index, Stamp: soracache.Stamp{Epoch: s.Epoch, Position: s.Applied},
		})
	}
	return res, unconfirmed
}

// Ready reports whether the node can do its work: it is not draining, and the
// store answers. That it has not answered for a while is known without asking. If
// the store has several parts it is enough that one answers: see [Node.Silent].
func (n *Node) Ready(ctx context.Context) error {
	select {
	case <-n.draining:
		return errDraining
	default:
	}
	if silent, all := n.silent(); len(silent) > 0 && all {
		return fmt.Errorf("%w: the store has not answered: %s", soracache.ErrUnavailable, strings.Join(silent, ", "))
	}
	if err := n.refusals(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, n.silence())
	defer cancel()
	return n.ping.note(n.cfg.Store.Ping(ctx), n.now())
}

// Silent names the parts of the store, such as masters of a Redis Cluster, that
// have not answered for longer than the bound, each with for how long. What they
// hold is not available; a node is ready as long as others answer.
func (n *Node) Silent() []string {
	silent, _ := n.silent()
	return silent
}

func (n *Node) silent() (silent []string, all bool) {
	parts := n.parts.list()
	for _, pt := range parts {
		if d := pt.silentFor(); d > n.silence() {
			silent = append(silent, fmt.Sprintf("%s for %v", cmp.Or(pt.name, "all of it"), d.Round(time.Millisecond)))
		}
	}
	return silent, len(silent) == len(parts)
}

// silence is for how long the store may owe an answer before that is told.
func (n *Node) silence() time.Duration { return max(n.cfg.Bound, leastSilence) }

// leastSilence is how long the store may take whatever the bound.
const leastSilence = 500 * time.Millisecond

// Drain refuses new requests, ends the waits of parked readers (with a miss)
// and the watches, and returns when nothing is in flight any more or ctx ends. Leases that
// nobody collected are handed back.
func (n *Node) Drain(ctx context.Context) error {
	n.drainOnce.Do(func() {
		n.requests.Shut()
		close(n.draining)
	})
	return n.requests.Wait(ctx)
}

// Close ends the node: reads in flight fail, calls to the store are waited
// for. Drain first to let everything finish. The store stays open.
func (n *Node) Close() error {
	n.drainOnce.Do(func() {
		n.requests.Shut()
		close(n.draining)
	})
	n.cancel()
	n.notices.Shut()
	if err := n.requests.Wait(context.Background()); err != nil {
		return err
	}
	if err := n.notices.Wait(context.Background()); err != nil {
		return err
	}
	n.numbers.asking.Wait()
	n.wg.Wait()
	n.l1.Close()
	return nil
}

// begin enters a request and returns its namespace, pinned. On success the
// caller must leave it.
func (n *Node) begin(ctx context.Context, name string) (*namespace, error) {
	if name == "" {
		name = soracache.DefaultNamespace
	}
	if !n.requests.Enter() {
		return nil, errDraining
	}
	if ns := n.pinned(name); ns != nil {
		return ns, nil
	}
	ns, err := n.open(ctx, name)
	if err != nil {
		n.requests.Leave()
		return nil, err
	}
	return ns, nil
}

// leave ends what begin began.
func (n *Node) leave(ns *namespace) {
	ns.unpin()
	n.requests.Leave()
}

// pinned returns a namespace that is followed, pinned, or nil.
func (n *Node) pinned(name string) *namespace {
	n.mu.RLock()
	defer n.mu.RUnlock()
	ns := n.namespaces[name]
	if ns != nil {
		ns.pin()
	}
	return ns
}

// open starts to follow a namespace, once the store has said that it has as many
// partitions as this node was told, and returns it pinned.
func (n *Node) open(ctx context.Context, name string) (*namespace, error) {
	if err := soracache.CheckNamespace(name); err != nil {
		return nil, err
	}
	count := n.cfg.Partitions(name)
	if count < 1 || count > soracache.MaxPartitions {
		return nil, fmt.Errorf("%w: namespace %s has %d partitions: 1 to %d can be", soracache.ErrInvalid, name, count, soracache.MaxPartitions)
	}
	if err := n.agree(ctx, name); err != nil {
		return nil, err
	}
	now := n.now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if ns := n.namespaces[name]; ns != nil {
		ns.pin()
		return ns, nil
	}
	if n.count+count > n.cfg.MaxPartitions && !n.makeRoom(count) {
		n.totals.crowded.Add(1)
		return nil, fmt.Errorf("%w: this node cannot follow namespace %s: more than %d partitions are in use at this moment", soracache.ErrTooLarge, name, n.cfg.MaxPartitions)
	}
	ns := &namespace{name: name, gone: make(chan struct{})}
	ns.numbered.Store(int64(now))
	for i := range count {
		ns.partitions = append(ns.partitions, newPartition(n, ns, l2.Partition{
			Namespace: name, Index: uint16(i), Count: uint16(count),
		}))
	}
	ns.pin()
	n.namespaces[name] = ns
	n.count += count
	return ns, nil
}

// makeRoom forgets namespaces that nobody works on until count more partitions
// may be followed, or reports that there is none left. It holds mu. Those that
// were used only for a moment go first, such as what somebody reads who tries
// names, and then those that have not been used for longest; some more than must
// go at a time, so that not everybody who comes looks through all of them. What a
// forgotten partition left in L1 is never found again, because a reopened one has
// another space.
func (n *Node) makeRoom(count int) bool {
	free := n.unpinned(func(*namespace) bool { return true })
	moment := n.cfg.IdleAfter / 8 // see touch
	slices.SortFunc(free, func(a, b *namespace) int {
		aFirst, aUsed := a.used()
		bFirst, bUsed := b.used()
		aBrief, bBrief := aUsed-aFirst <= moment, bUsed-bFirst <= moment
		if aBrief != bBrief {
			return map[bool]int{true: -1, false: 1}[aBrief]
		}
		return cmp.Compare(aUsed, bUsed)
	})
	for i := 0; i < len(free) && n.count+max(count, n.cfg.MaxPartitions/16) > n.cfg.MaxPartitions; i++ {
		n.forget(free[i])
	}
	return n.count+count <= n.cfg.MaxPartitions
}

// forgetIdle forgets the namespaces that have not been used for so long that what
// L1 still has of them is hardly worth keeping.
func (n *Node) forgetIdle() {
	since := n.now() - forgetAfter*n.cfg.IdleAfter
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ns := range n.unpinned(func(ns *namespace) bool { _, last := ns.used(); return last < since }) {
		n.forget(ns)
	}
}

// forgetAfter is after how many times IdleAfter a namespace is forgotten.
const forgetAfter = 4

// unpinned returns the namespaces that nobody works on and that are so. mu is held.
func (n *Node) unpinned(so func(*namespace) bool) (free []*namespace) {
	for _, ns := range n.namespaces {
		if ns.pins.Load() == 0 && so(ns) {
			free = append(free, ns)
		}
	}
	return free
}

// forget holds mu.
func (n *Node) forget(ns *namespace) {
	delete(n.namespaces, ns.name)
	n.count -= len(ns.partitions)
	n.totals.forgotten.Add(1)
}

// used is when the namespace was first and last used, on the node's clock, to
// within an eighth of IdleAfter; zero before its first use.
func (ns *namespace) used() (first, last time.Duration) {
	for _, p := range ns.partitions {
		if at := time.Duration(p.firstUse.Load()); first == 0 || at != 0 && at < first {
			first = at
		}
		last = max(last, time.Duration(p.lastUse.Load()))
	}
	return first, last
}

// callStore makes one bounded call to the store and reports it.
func callStore[A any](ctx context.Context, n *Node, kind string, call func(context.Context) (A, error)) A {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.StoreTimeout)
	defer cancel()
	began := time.Now() // not the node's clock: many may wait for this call
	a, err := call(ctx)
	if err != nil && !errors.Is(err, soracache.ErrStoreFull) {
		n.totals.storeErrors.Add(1)
	}
	if n.cfg.Observer.StoreCall != nil {
		n.cfg.Observer.StoreCall(kind, time.Since(began), err)
	}
	return a
}

func firstError[A any](answers []A, errOf func(*A) error) error {
	for i := range answers {
		if err := errOf(&answers[i]); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) newLease(holder uint64) (l soracache.Lease) {
	n.random(l[:])
	return l.HeldBy(holder)
}

func (n *Node) random(b []byte) {
	if _, err := io.ReadFull(n.cfg.Rand, b); err != nil {
		panic(fmt.Sprintf("node: no randomness: %v", err)) // crypto/rand never fails
	}
}

// upTo returns a random duration from nothing up to a bound.
func (n *Node) upTo(most time.Duration) time.Duration {
	var b [4]byte
	n.random(b[:])
	return most * time.Duration(binary.BigEndian.Uint32(b[:])) >> 32
}
