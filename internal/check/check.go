// Package check finds stale reads. It drives backends at random, from many
// goroutines, as applications would: read, load from a source on a miss, fill,
// put, invalidate. It knows the version of everything in the source, so it can
// tell of each answer whether the rule allowed it.
//
// It needs nothing of a backend but the interface, so one node, several nodes
// over one store and RPC clients are all held to the same.
package check

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
)

// Kind is what a fill can lose to.
type Kind int

// The kinds.
const (
	ByKey Kind = iota
	ByTag
	ByAll
	ByPut
	kinds
)

// String names the kind.
func (k Kind) String() string { return [...]string{"key", "tag", "everything", "put"}[k] }

// Options says what to do.
type Options struct {
	Namespace  string
	Goroutines int // at once
	Operations int // in all
	Keys       int // few keys make many collisions
	// Schemas are read and written in, beside the default one.
	Schemas []string
	Seed    uint64
	// Bound is for how long after an invalidation a read from L1 or a near
	// cache may still return the old value.
	Bound time.Duration
	// Wait is how long readers park behind a lease.
	Wait time.Duration
	// NoPuts leaves puts out: one that timed out may still happen, any time
	// later, so what it overwrites cannot be judged when the store fails.
	NoPuts bool
	// Lag is how far at most the source lags behind what was committed. Then all
	// invalidations settle for as long, and come more rarely, and there are no
	// puts: what is loaded next is not fenced against a source that lags.
	Lag time.Duration
	// Steady means that nothing fails, neither is restarted nor loses anything. Then
	// progress is judged, too: a fill that meets no invalidation is stored, whoever
	// reads alone is given a value or the lease, a node's memory does not lag behind
	// what that node itself recorded, and no read lasts much longer than its wait.
	Steady bool
}

// slack is how much longer than its wait a read may last, on a busy machine, and how
// long a lease is sure to last.
const slack = 5 * time.Second

// Report is what happened.
type Report struct {
	Operations, Reads, Hits, Misses, Loads, Stored, Refused int64
	Invalidations, Puts, Errors                             int64
	// HitsL1 are those hits that came from a local tier.
	HitsL1 int64
	// Overlapped counts the fills during whose lease an invalidation of the
	// kind, naming the key, was under way or had completed.
	Overlapped [kinds]int64
	// Late counts the fills which began after such an invalidation had
	// completed: not one of them may be stored.
	Late int64
	// Left counts the loads that left nothing, whose lease was released.
	Left int64
	// Lagging counts the loads that the source answered with an old version.
	Lagging int64
	// Undisturbed counts the fills that met no invalidation, and Alone the reads
	// during which nobody else read the key or loaded it; both where Steady.
	Undisturbed, Alone int64
	// Violations describes what the rule forbids. It is empty.
	Violations []string
}

// String is a line for people.
func (r *Report) String() string {
	return fmt.Sprintf("%d operations: %d reads (%d hits, %d of them local, %d misses), %d loads (%d stored, %d refused, %d of them begun after an invalidation had completed), %d that left nothing, "+
		"%d fills undisturbed, %d reads alone, %d invalidations, %d puts, %d errors; fills overlapping an invalidation: %d by key, %d by tag, %d by everything, %d by put; violations: %d",
		r.Operations, r.Reads, r.Hits, r.HitsL1, r.Misses, r.Loads, r.Stored, r.Refused, r.Late, r.Left,
		r.Undisturbed, r.Alone, r.Invalidations, r.Puts, r.Errors,
		r.Overlapped[ByKey], r.Overlapped[ByTag], r.Overlapped[ByAll], r.Overlapped[ByPut], len(r.Violations))
}

// source is what the values are computed from: a version for each key.
type source struct {
	version atomic.Int64
	// write is held while the source is changed, and by a put until it is
	// done: a put is not fenced, so it is the application that must keep its
	// writes of a key in order.
	write sync.Mutex

	mu sync.Mutex
	// done holds, in order of completion, the invalidations that completed,
	// each with the highest version that any up to it confirms.
	done []mark // guarded by mu
	// commits holds, in order, when versions were committed; it begins with the
	// newest that everybody sees.
	commits []mark // guarded by mu
	// own has, by backend, the newest version that an invalidation by that backend
	// confirms.
	own []atomic.Int64
	// begun and ended count invalidations by kind.
	begun, ended [kinds]atomic.Int64

	// users are who reads the key in each schema or loads it now, and uses how often
	// anybody has begun to.
	users, uses []atomic.Int64
}

type mark struct {
	at      time.Time
	version int64
}

// least returns the version that a read which began at a time must not be
// older than, if it may lag by some time.
func (s *source) least(began time.Time, lag time.Duration) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := sort.Search(len(s.done), func(i int) bool { return !s.done[i].at.Add(lag).Before(began) })
	if i == 0 {
		return 0
	}
	return s.done[i-1].version
}

// complete notes that everything older than a version has been invalidated.
func (s *source) complete(version int64, lag time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if n := len(s.done); n > 0 {
		version = max(version, s.done[n-1].version)
	}
	s.done = append(s.done, mark{now, version})
	// No read takes a minute: what is older than its lag matters only as the
	// least of all.
	if len(s.done) > 10_000 && s.done[5_000].at.Add(lag+time.Minute).Before(now) {
		s.done = slices.Delete(s.done, 0, 5_000)
	}
}

// commit changes the source, which lags or does not, with write held.
func (s *source) commit(lags bool) (version int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version = s.version.Add(1)
	if lags {
		s.commits = append(s.commits, mark{time.Now(), version})
	}
	return version
}

// visible returns the version that a source shows which lags by some time, of
// at most the longest lag.
func (s *source) visible(lag, longest time.Duration) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for len(s.commits) > 1 && !s.commits[1].at.Add(longest).After(now) {
		s.commits = s.commits[1:]
	}
	version := int64(1)
	for _, c := range s.commits {
		if !c.at.Add(lag).After(now) {
			version = c.version
		}
	}
	return version
}

type run struct {
	opts     Options
	backends []soracache.Backend
	sources  []source
	report   Report
	mu       sync.Mutex // guards report.Violations
}

// Run drives the backends, which all serve the same namespace, and reports.
func Run(ctx context.Context, backends []soracache.Backend, opts Options) *Report {
	r := &run{opts: opts, backends: backends, sources: make([]source, opts.Keys)}
	for i := range r.sources {
		s := &r.sources[i]
		s.version.Store(1)
		s.own = make([]atomic.Int64, len(backends))
		s.users, s.uses = make([]atomic.Int64, 1+len(opts.Schemas)), make([]atomic.Int64, 1+len(opts.Schemas))
	}
	var left atomic.Int64
	left.Store(int64(opts.Operations))
	var wg sync.WaitGroup
	for g := range opts.Goroutines {
		wg.Go(func() {
			s := &session{rng: rand.New(rand.NewPCG(opts.Seed, uint64(g))), known: map[int]int64{}} //nolint:gosec // a test's dice
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				r.step(ctx, s)
				atomic.AddInt64(&r.report.Operations, 1)
			}
		})
	}
	wg.Wait()
	return &r.report
}

// session is one caller, who shows what it knows of with every second read.
type session struct {
	rng *rand.Rand
	// stamp is of its own invalidations, and known the version of each key
	// that they confirm.
	stamp soracache.Stamps
	known map[int]int64
}

func (r *run) step(ctx context.Context, s *session) {
	rng := s.rng
	key := rng.IntN(r.opts.Keys)
	b := rng.IntN(len(r.backends))
	lags := r.opts.Lag > 0
	switch roll := rng.IntN(1000); {
	case roll < 900, lags && rng.IntN(rarely) > 0:
		r.read(ctx, s, b, key)
	case roll < 930 && !r.opts.NoPuts && !lags:
		r.put(ctx, b, key, r.schema(rng.IntN(1+len(r.opts.Schemas))))
	case roll < 965:
		r.invalidate(ctx, s, b, ByKey, []soracache.Target{soracache.Key(name(key))}, func(k int) bool { return k == key })
	case roll < 995:
		t := tagsOf(key)[rng.IntN(3)]
		r.invalidate(ctx, s, b, ByTag, []soracache.Target{soracache.Tag(t)}, func(k int) bool {
			tags := tagsOf(k)
			return tags[0] == t || tags[1] == t || tags[2] == t
		})
	default:
		r.invalidate(ctx, s, b, ByAll, []soracache.Target{soracache.Everything()}, func(int) bool { return true })
	}
}

// rarely is how many times as rare invalidations are that settle: a cache whose
// keys settle all the time is never asked anything.
const rarely = 50

func name(key int) string { return fmt.Sprintf("key:%d", key) }

func tagsOf(key int) [3]string {
	return [3]string{fmt.Sprintf("a%d", key%3), fmt.Sprintf("b%d", key%5), fmt.Sprintf("c%d", key%7)}
}

func encode(key int, version int64) []byte { return []byte(fmt.Sprintf("%d/%d", key, version)) }

// schema is one of those that there are; 0: the default one. What a value of it is
// computed from is the same in all of them.
func (r *run) schema(i int) string {
	if i > 0 {
		return r.opts.Schemas[i-1]
	}
	return ""
}

// records notes what an invalidation by a backend confirms.
func (s *source) records(backend int, version int64) {
	for known := s.own[backend].Load(); known < version; known = s.own[backend].Load() {
		if s.own[backend].CompareAndSwap(known, version) {
			return
		}
	}
}

func (r *run) violate(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.report.Violations) < 100 {
		r.report.Violations = append(r.report.Violations, fmt.Sprintf(format, args...))
	}
}

func (r *run) read(ctx context.Context, caller *session, at, key int) {
	s, b := &r.sources[key], r.backends[at]
	began := time.Now()
	exact, lagging := s.least(began, 0), s.least(began, r.opts.Bound)
	if r.opts.Steady {
		lagging = max(lagging, s.own[at].Load())
	}
	var stamp soracache.Stamps
	if caller.rng.IntN(2) == 0 {
		// From whatever tier: nothing older than what the caller knows of.
		stamp, lagging = caller.stamp, max(lagging, caller.known[key])
	}
	in := caller.rng.IntN(1 + len(r.opts.Schemas))
	schema := r.schema(in)
	// Undisturbed is what the counts stay at if nothing is invalidated meanwhile.
	undisturbed, quiet := s.quiet()
	uses := s.uses[in].Add(1)
	alone := s.users[in].Add(1) == 1 && quiet
	defer s.users[in].Add(-1)
	rs, err := b.Get(ctx, soracache.GetRequest{
		Namespace: r.opts.Namespace,
		MinStamp:  stamp,
		Reads:     []soracache.Read{{Key: name(key), Schema: schema, Lease: true, Wait: r.opts.Wait}},
	})
	atomic.AddInt64(&r.report.Reads, 1)
	if err == nil {
		err = rs[0].Err
	}
	if err != nil {
		r.failed(err)
		return
	}
	res := rs[0]
	alone = alone && s.uses[in].Load() == uses && s.counts() == undisturbed
	r.progresses(&res, key, schema, alone, time.Since(began))
	if res.Status != soracache.StatusMiss {
		r.judge(key, schema, &res, exact, lagging)
	} else {
		atomic.AddInt64(&r.report.Misses, 1)
	}
	if res.Lease != (soracache.Lease{}) {
		r.load(ctx, caller.rng, b, key, schema, &res, undisturbed, quiet)
	}
}

// counts is how many invalidations of each kind have begun.
func (s *source) counts() (begun [kinds]int64) {
	for k := range kinds {
		begun[k] = s.begun[k].Load()
	}
	return begun
}

// quiet returns the counts, and whether none of those is under way. One that failed
// may be, for ever.
func (s *source) quiet() (begun [kinds]int64, quiet bool) {
	var ended [kinds]int64
	for k := range kinds {
		ended[k] = s.ended[k].Load()
	}
	begun = s.counts()
	return begun, begun == ended
}

// progresses judges what an answer says of the lease. Alone means that nobody else has
// read the key or loaded it meanwhile, and that nothing was invalidated.
func (r *run) progresses(res *soracache.ReadResult, key int, schema string, alone bool, took time.Duration) {
	if !r.opts.Steady {
		return
	}
	if took > r.opts.Wait+slack {
		r.violate("key %d: a read that was to wait for %s took %s", key, r.opts.Wait, took)
	}
	if !alone || r.opts.Lag > 0 {
		return
	}
	atomic.AddInt64(&r.report.Alone, 1)
	if res.Status == soracache.StatusMiss && res.Lease == (soracache.Lease{}) {
		r.violate("key %d in schema %q: nobody loads it, and who reads it alone is given neither a value nor the lease (%s)", key, schema, res.LeaseState)
	}
}

func (r *run) judge(key int, schema string, res *soracache.ReadResult, exact, lagging int64) {
	atomic.AddInt64(&r.report.Hits, 1)
	least := exact
	if res.Tier != soracache.TierL2 {
		atomic.AddInt64(&r.report.HitsL1, 1)
		least = lagging
	}
	of, at, _ := strings.Cut(string(res.Entry.Value), "/")
	version, err := strconv.ParseInt(at, 10, 64)
	switch {
	case err != nil || of != strconv.Itoa(key) || res.Entry.ETag != schema:
		r.violate("key %d in schema %q returned %q of %q", key, schema, res.Entry.Value, res.Entry.ETag)
	case version < least:
		r.violate("key %d: version %d from %s, but a read that began then may return nothing before %d", key, version, res.Tier, least)
	}
}

// load computes the value and fills. What it fills with was read from the
// source after the lease was given, as the rule has it.
func (r *run) load(ctx context.Context, rng *rand.Rand, b soracache.Backend, key int, schema string, res *soracache.ReadResult, undisturbed [kinds]int64, quiet bool) {
	s, leased := &r.sources[key], time.Now()
	var begun, ended [kinds]int64
	for k := range kinds {
		// Ended first: what ends between the two counts as under way.
		ended[k] = s.ended[k].Load()
		begun[k] = s.begun[k].Load()
	}
	version := r.compute(ctx, rng, s)
	if rng.IntN(8) == 0 {
		r.leave(ctx, rng, b, key, schema, res.Lease, func() bool {
			return quiet && s.counts() == undisturbed && time.Since(leased) < slack
		})
		return
	}
	late := s.superseded(begun, ended)
	tags := tagsOf(key)
	ws, err := b.Write(ctx, soracache.WriteRequest{Namespace: r.opts.Namespace, Writes: []soracache.Write{{
		Op: soracache.OpFill, Key: name(key), Schema: schema, Lease: res.Lease,
		Entry:    soracache.Entry{Value: encode(key, version), Tags: tags[:], ETag: schema},
		Lifetime: soracache.Lifetime{TTL: time.Minute},
	}}})
	atomic.AddInt64(&r.report.Loads, 1)
	if err == nil {
		err = ws[0].Err
	}
	if err != nil {
		r.failed(err)
		return
	}
	for k := range kinds {
		if s.begun[k].Load() != begun[k] || begun[k] != ended[k] {
			atomic.AddInt64(&r.report.Overlapped[k], 1)
		}
	}
	if ws[0].Stored {
		atomic.AddInt64(&r.report.Stored, 1)
	} else {
		atomic.AddInt64(&r.report.Refused, 1)
	}
	if r.opts.Steady && r.opts.Lag == 0 && quiet && s.counts() == undisturbed && time.Since(leased) < slack {
		atomic.AddInt64(&r.report.Undisturbed, 1)
		if !ws[0].Stored {
			r.violate("key %d: a fill was refused (%s), and nothing was invalidated since before its lease was given", key, ws[0].Reason)
		}
	}
	if late {
		atomic.AddInt64(&r.report.Late, 1)
		if ws[0].Stored {
			r.violate("key %d: a fill was stored that an invalidation had superseded", key)
		}
	}
}

// compute reads the source, and takes its time.
func (r *run) compute(ctx context.Context, rng *rand.Rand, s *source) (version int64) {
	version = s.version.Load()
	if lag := r.opts.Lag; lag > 0 {
		behind := lag - 1 // half of the loads see as little as they can
		if rng.IntN(2) == 0 {
			behind = time.Duration(rng.Int64N(int64(lag)))
		}
		version = s.visible(behind, lag)
		if version < s.version.Load() {
			atomic.AddInt64(&r.report.Lagging, 1)
		}
	}
	if rng.IntN(2) == 0 {
		for range rng.IntN(50) {
			runtime.Gosched() // a slow loader
		}
	} else if rng.IntN(4) == 0 {
		pause(ctx, time.Duration(rng.IntN(int(3*time.Millisecond))))
	}
	return version
}

// leave ends a load that leaves nothing: it failed, its value may not be stored, or
// its caller has gone. Undisturbed tells whether nothing else can have ended the lease.
func (r *run) leave(ctx context.Context, rng *rand.Rand, b soracache.Backend, key int, schema string, lease soracache.Lease, undisturbed func() bool) {
	outcomes := []soracache.LoadOutcome{soracache.LoadHandedBack, soracache.LoadFailed, soracache.LoadNotStorable}
	ws, err := b.Write(ctx, soracache.WriteRequest{Namespace: r.opts.Namespace, Writes: []soracache.Write{{
		Op: soracache.OpRelease, Key: name(key), Schema: schema, Lease: lease, Outcome: outcomes[rng.IntN(len(outcomes))],
	}}})
	if err == nil {
		err = ws[0].Err
	}
	if err != nil {
		r.failed(err)
		return
	}
	atomic.AddInt64(&r.report.Left, 1)
	if r.opts.Steady && r.opts.Lag == 0 && undisturbed() && !ws[0].Stored {
		r.violate("key %d: a lease was not released (%s), and nothing was invalidated since before it was given", key, ws[0].Reason)
	}
}

// superseded tells whether, of some kind, nothing was under way when the counts
// were taken, and something has completed since: it lies wholly in between.
func (s *source) superseded(begun, ended [kinds]int64) bool {
	for k := range kinds {
		if begun[k] == ended[k] && s.ended[k].Load() > ended[k] {
			return true
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// invalidate commits a change to the source of every key concerned, and only
// then invalidates them.
func (r *run) invalidate(ctx context.Context, caller *session, at int, kind Kind, targets []soracache.Target, concerns func(int) bool) {
	versions := map[int]int64{}
	for k := range r.sources {
		if concerns(k) {
			s := &r.sources[k]
			s.write.Lock()
			versions[k] = s.commit(r.opts.Lag > 0)
			s.write.Unlock()
			s.begun[kind].Add(1)
		}
	}
	res, err := r.backends[at].Invalidate(ctx, soracache.InvalidateRequest{Namespace: r.opts.Namespace, Targets: targets, Settle: r.opts.Lag})
	atomic.AddInt64(&r.report.Invalidations, 1)
	if err != nil {
		// It may or may not have happened: nothing is known to have ended.
		r.failed(err)
		return
	}
	caller.stamp = caller.stamp.Merge(res.Stamp)
	for k, v := range versions {
		caller.known[k] = v
		r.sources[k].records(at, v)
		r.sources[k].complete(v, r.opts.Bound)
		r.sources[k].ended[kind].Add(1)
	}
}

func (r *run) put(ctx context.Context, at, key int, schema string) {
	s := &r.sources[key]
	s.write.Lock()
	defer s.write.Unlock()
	version := s.commit(false)
	s.begun[ByPut].Add(1)
	tags := tagsOf(key)
	ws, err := r.backends[at].Write(ctx, soracache.WriteRequest{Namespace: r.opts.Namespace, Writes: []soracache.Write{{
		Op: soracache.OpPut, Key: name(key), Schema: schema,
		Entry:    soracache.Entry{Value: encode(key, version), Tags: tags[:], ETag: schema},
		Lifetime: soracache.Lifetime{TTL: time.Minute},
	}}})
	atomic.AddInt64(&r.report.Puts, 1)
	if err == nil {
		err = ws[0].Err
	}
	if err != nil {
		r.failed(err)
		return
	}
	s.records(at, version)
	s.complete(version, r.opts.Bound)
	s.ended[ByPut].Add(1)
}

func (r *run) failed(err error) {
	atomic.AddInt64(&r.report.Errors, 1)
	if !errors.Is(err, soracache.ErrUnavailable) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		r.violate("error of an unexpected kind: %v", err)
	}
}
