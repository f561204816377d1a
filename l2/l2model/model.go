package l2model

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// Config says how a [Model] is to behave. Its zero value is usable.
type Config struct {
	// Retention bounds the ledgers; zero means [l2.NewRetention].
	Retention l2.Retention
	// Now is the clock; nil means time.Now, which testing/synctest replaces.
	Now func() time.Time
	// Random gives the epochs; nil means math/rand/v2. A deterministic run
	// passes a seeded source. It is called with the model locked.
	Random func() uint64
}

// Model is an [l2.Store] in memory: maps and one mutex, and the rule spelled
// out as plainly as it can be. Every engine must agree with it. It has no
// goroutines, and what it answers depends on its calls, its clock and its
// random source alone. Several nodes of a test share one store by sharing one
// Model; Close does nothing.
type Model struct {
	config Config

	mu         sync.Mutex // guards what follows
	full       bool       // see SetFull
	partitions map[place]*partition
	numbers    map[string]number // of partitions, by namespace
	counters   l2.Counters
}

var _ l2.Store = (*Model)(nil)

// place is where a partition lives: the number of its siblings is what the
// partition itself remembers.
type place struct {
	namespace string
	index     uint16
}

// partition is a ledger and what it judges. The ledger is nil before the first
// call and after it was lost.
type partition struct {
	ledger *ledger
	// entries and leases are by name, see [soracache.Name], and so is passed, which
	// holds that a load left nothing.
	entries map[string]entry
	leases  map[string]lease
	passed  map[string]passed
	// schemas holds, by key, which schemas beside the default one have an entry or a
	// lease. Nothing of any other counts.
	schemas map[string][]listed
	// registered is nil before somebody registers and after the list was lost.
	registered *followers
	// attach makes the next step take a new epoch.
	attach bool
	// keptUntil is until when the last of what was ever stored is kept.
	keptUntil time.Time
	settling  settling // beside the ledger, so that it outlives that
	// tomb stands in the ledger's place after the number of partitions was changed.
	tomb tomb
	// later: the ledger is in a form of a later version.
	later bool
}

type entry struct {
	soracache.Entry
	stamp      soracache.Stamp
	written    time.Time
	freshUntil time.Time
	keepUntil  time.Time
	l1         time.Duration
}

// fromLater reports whether an entry was written at a time that is to come: the
// clock was set back, and how old it is nobody knows.
func (e entry) fromLater(now time.Time) bool { return e.written.Sub(now) > l2.ClockSlack }

// left returns for how long an entry is fresh and kept: never for longer than when
// it was written.
func (e entry) left(now time.Time) (fresh, keep time.Duration) {
	if now.Before(e.written) {
		now = e.written
	}
	return e.freshUntil.Sub(now), e.keepUntil.Sub(now)
}

type lease struct {
	nonce soracache.Lease
	stamp soracache.Stamp
	until time.Time
}

// passed says whose load left nothing, and until when that is remembered.
type passed struct {
	holder uint64
	until  time.Time
}

// New returns an empty model.
func New(config Config) *Model {
	if config.Retention == (l2.Retention{}) {
		config.Retention = l2.NewRetention()
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Random == nil {
		config.Random = rand.Uint64
	}
	return &Model{config: config, partitions: make(map[place]*partition), numbers: make(map[string]number)}
}

// SetFull has the store be without room, or have room again.
func (m *Model) SetFull(full bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = full
}

// errFull is what a store answers that has no room.
func (m *Model) errFull() error { return fmt.Errorf("%w: the model", soracache.ErrStoreFull) }

// step is one atomic step: a partition whose ledger is there and shares its
// history with the caller, at one moment.
type step struct {
	*partition
	m     *Model
	now   time.Time
	since soracache.Stamp
}

// begin opens a step on a partition, the model being locked: it creates a
// ledger that is not there, and takes a new epoch if the caller shows another
// history. That comes before anything else, so that no append of the caller's
// own can cover up that the ledger lost its tail. Then it appends what is due.
func (m *Model) begin(ctx context.Context, at l2.Partition, since soracache.Stamp, r l2.Registration) (step, error) {
	p, err := m.reach(ctx, at)
	if err != nil {
		return step{}, err
	}
	if err := r.Validate(); err != nil {
		return step{}, err
	}
	now := m.config.Now()
	if p.ledger == nil {
		if err := m.counts(at); err != nil {
			return step{}, err
		}
	}
	if p.ledger == nil || p.attach || p.ledger.differs(since) {
		p.ledger = p.ledger.mint(m.epoch(), at.Count, now, since)
		p.attach = false
		m.counters.Epochs++
	}
	s := step{partition: p, m: m, now: now, since: since}
	s.settle()
	return s, nil
}

// reach returns the partition that a request is about.
func (m *Model) reach(ctx context.Context, at l2.Partition) (*partition, error) {
	m.counters.RoundTrips++
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	if at.Index >= at.Count {
		return nil, fmt.Errorf("%w: partition %s of %d", soracache.ErrInvalid, at, at.Count)
	}
	p := m.partition(at)
	if p.later {
		return nil, l2.LaterError(at)
	}
	if p.tomb.stands(m.config.Now()) {
		return nil, l2.ChangingError(at.Namespace)
	}
	if p.ledger != nil && p.ledger.count != at.Count {
		return nil, l2.CountError(at.Namespace, int(p.ledger.count), int(at.Count))
	}
	return p, nil
}

// partition returns what is stored for a partition, at first nothing.
func (m *Model) partition(at l2.Partition) *partition {
	p := m.partitions[place{at.Namespace, at.Index}]
	if p == nil {
		p = &partition{entries: make(map[string]entry), leases: make(map[string]lease), passed: make(map[string]passed), schemas: make(map[string][]listed)}
		m.partitions[place{at.Namespace, at.Index}] = p
	}
	return p
}

func (m *Model) epoch() soracache.Epoch {
	for {
		if e := soracache.Epoch(m.config.Random() & (1<<52 - 1)); e != 0 {
			return e
		}
	}
}

// Read implements [l2.Store].
func (m *Model) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	m.mu.Lock()
	defer m.mu.Unlock()
	answers := make([]l2.ReadAnswer, len(reqs))
	for i, req := range reqs {
		s, err := m.begin(ctx, req.Partition, req.Since, req.Register)
		for _, key := range req.Keys {
			err = errors.Join(err, l2.CheckName(key.Key))
		}
		if err != nil {
			answers[i].Err = err
			continue
		}
		s.register(req.Register)
		inline := l2.InlineMost
		for _, key := range req.Keys {
			if e, ok := s.entries[key.Key]; ok && e.fromLater(s.now) {
				delete(s.entries, key.Key) // so that it does not live when the clock comes to that time
			}
			if e, ok := s.live(key.Key); ok && req.Room != nil && len(e.Value) > l2.SmallBytes {
				inline -= len(e.Value)
				if (len(e.Value) > l2.InlineBytes || inline < 0) && !req.Room(len(e.Value)) {
					answers[i].Keys = append(answers[i].Keys, l2.KeyAnswer{Cut: true})
					continue
				}
			}
			answers[i].Keys = append(answers[i].Keys, s.read(key))
		}
		answers[i].Delta, answers[i].Clock = s.delta(), s.now
	}
	return answers
}

func (s step) read(req l2.ReadKey) l2.KeyAnswer {
	var a l2.KeyAnswer
	wanted := req.Nonce != soracache.Lease{}
	if e, ok := s.live(req.Key); ok {
		a.Found, a.Entry, a.Stamp, a.L1 = true, e.Entry, e.stamp, e.l1
		a.FreshFor, a.KeepFor = e.left(s.now)
		wanted = wanted && max(a.FreshFor, 0) <= req.RefreshWithin
	}
	if !wanted {
		return a
	}
	held, ok := s.lease(req.Key)
	ok = ok && held.until.Sub(s.now) <= soracache.MaxLease // else the clock was set back
	left, remembered := s.passed[req.Key]
	remembered = remembered && s.now.Before(left.until)
	if ok && remembered && left.holder != 0 && held.nonce.Holder() == left.holder && req.Nonce.Holder() != left.holder {
		ok = false // taken over from whoever failed
	}
	if !ok && s.m.full {
		a.Lease, a.Refusal = soracache.LeaseRefused, soracache.RefusalStoreFull
		return a
	}
	if !ok {
		held = lease{nonce: req.Nonce, stamp: s.ledger.stamp(), until: s.now.Add(min(req.LeaseFor, soracache.MaxLease))}
		s.enlist(req.Key, held.until)
		s.leases[req.Key] = held
	}
	mine, pass := held.nonce == req.Nonce, remembered && !a.Found
	switch {
	case mine:
		a.Lease, a.LeaseStamp, a.LeaseFor = soracache.LeaseGranted, held.stamp, held.until.Sub(s.now)
	case pass:
		a.Lease = soracache.LeaseRefused
	default:
		a.Lease, a.LeaseFor = soracache.LeaseHeld, held.until.Sub(s.now)
	}
	if pass {
		a.Refusal = soracache.RefusalPassed
	}
	return a
}

// live returns the entry under a key if it is live.
func (s step) live(key string) (entry, bool) {
	e, ok := s.entries[key]
	if !ok || !s.counts(key) {
		return entry{}, false
	}
	reason, _ := s.judge(key, e)
	return e, reason == ""
}

// judge says why an entry is dead, and which record killed it if one did. The
// reason is empty if it is live.
func (s step) judge(key string, e entry) (string, soracache.Record) {
	if !s.now.Before(e.keepUntil) || e.fromLater(s.now) || e.keepUntil.Sub(e.written) > l2.MaxKeep {
		return "expired", soracache.Record{}
	}
	return s.ledger.judge(e.stamp, key, e.Tags)
}

// lease returns the lease that somebody holds on a key. One that no fill can
// complete any more, because it is of another epoch or from before a clear,
// keeps nobody waiting.
func (s step) lease(key string) (lease, bool) {
	l, ok := s.leases[key]
	ok = ok && s.counts(key) && s.now.Before(l.until) && l.stamp.Epoch == s.ledger.epoch && l.stamp.Position >= s.ledger.cleared
	return l, ok
}

// Write implements [l2.Store].
func (m *Model) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	m.mu.Lock()
	defer m.mu.Unlock()
	answers := make([]l2.WriteAnswer, len(reqs))
	for i, req := range reqs {
		s, err := m.begin(ctx, req.Partition, req.Since, req.Register)
		if err == nil {
			err = l2.CheckName(req.Key)
		}
		if err == nil {
			answers[i], err = s.write(req)
		}
		if err != nil {
			answers[i] = l2.WriteAnswer{Err: err}
			continue
		}
		s.register(req.Register)
		answers[i].Delta = s.delta()
	}
	return answers
}

func (s step) write(req l2.WriteRequest) (l2.WriteAnswer, error) {
	switch req.Op {
	case soracache.OpFill:
		return s.fill(req)
	case soracache.OpPut:
		if s.m.full {
			return l2.WriteAnswer{}, s.m.errFull()
		}
		return s.put(req), nil
	case soracache.OpRenew:
		return s.renew(req), nil
	case soracache.OpRelease:
		return s.release(req), nil
	}
	return l2.WriteAnswer{}, fmt.Errorf("%w: unknown write %d", soracache.ErrInvalid, req.Op)
}

// fill stores a value under the nonce that holds the lease. Only the nonce
// decides who that is: two leases can have the same stamp, and the later one's
// value must stand. A fill that lost to a record ends the lease too, for
// nothing can come of it.
func (s step) fill(req l2.WriteRequest) (l2.WriteAnswer, error) {
	held, ok := s.leases[req.Key]
	if !ok || held.nonce != req.Nonce || !s.now.Before(held.until) {
		return l2.WriteAnswer{Reason: soracache.ReasonLeaseLost}, nil
	}
	delete(s.leases, req.Key)
	if reason, by := s.ledger.judge(held.stamp, req.Key, req.Entry.Tags); reason != "" {
		return l2.WriteAnswer{Reason: soracache.ReasonSuperseded, SupersededBy: by}, nil
	}
	if by, ok := s.settles(req.Key, req.Entry.Tags); ok {
		return l2.WriteAnswer{Reason: soracache.ReasonSuperseded, SupersededBy: by}, nil
	}
	if s.m.full {
		s.remember(req.Key, held, req.Remember)
		return l2.WriteAnswer{}, s.m.errFull()
	}
	s.store(req, held.stamp)
	return l2.WriteAnswer{Stamp: held.stamp}, nil
}

// remember notes that the load under a lease left nothing.
func (s step) remember(key string, held lease, d time.Duration) {
	if d > 0 {
		s.passed[key] = passed{holder: held.nonce.Holder(), until: s.now.Add(min(d, l2.MaxRemember))}
	}
}

// put names the key in a record of its own, so that whatever was begun before
// it is dead, and writes with the stamp of that record.
func (s step) put(req l2.WriteRequest) l2.WriteAnswer {
	record := s.append([]soracache.Target{soracache.Key(soracache.KeyOf(req.Key))})
	s.store(req, s.ledger.stamp())
	return l2.WriteAnswer{Stamp: s.ledger.stamp(), Record: record}
}

func (s step) store(req l2.WriteRequest, stamp soracache.Stamp) {
	kept := max(req.Lifetime.Keep, req.Lifetime.TTL)
	s.ledger.longestKeep = max(s.ledger.longestKeep, kept)
	delete(s.passed, req.Key)
	if until := s.now.Add(kept); until.After(s.keptUntil) {
		s.partition.keptUntil = until
	}
	s.enlist(req.Key, s.now.Add(kept))
	s.entries[req.Key] = entry{
		Entry:      req.Entry,
		stamp:      stamp,
		written:    s.now,
		freshUntil: s.now.Add(req.Lifetime.TTL),
		keepUntil:  s.now.Add(kept),
		l1:         req.Lifetime.L1,
	}
}

func (s step) renew(req l2.WriteRequest) l2.WriteAnswer {
	held, ok := s.lease(req.Key)
	if !ok || held.nonce != req.Nonce {
		return l2.WriteAnswer{Reason: soracache.ReasonLeaseLost}
	}
	s.enlist(req.Key, s.now.Add(req.LeaseFor))
	held.until = s.now.Add(req.LeaseFor)
	s.leases[req.Key] = held
	return l2.WriteAnswer{Stamp: held.stamp}
}

func (s step) release(req l2.WriteRequest) l2.WriteAnswer {
	held, ok := s.lease(req.Key)
	if !ok || held.nonce != req.Nonce {
		return l2.WriteAnswer{Reason: soracache.ReasonLeaseLost}
	}
	delete(s.leases, req.Key)
	if req.Outcome != soracache.LoadHandedBack {
		s.remember(req.Key, held, req.Remember)
	}
	return l2.WriteAnswer{}
}

// Invalidate implements [l2.Store].
func (m *Model) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	m.mu.Lock()
	defer m.mu.Unlock()
	answers := make([]l2.InvalidateAnswer, len(reqs))
	for i, req := range reqs {
		s, err := m.begin(ctx, req.Partition, req.Since, req.Register)
		if err == nil {
			err = checkTargets(req.Targets)
		}
		if err == nil {
			err = l2.CheckSettle(req.Settle)
		}
		if err != nil {
			answers[i].Err = err
			continue
		}
		s.register(req.Register)
		answers[i].Record = s.append(req.Targets)
		s.keepSettling(req.Targets, req.Settle)
		if req.Followers {
			s.listFollowers(&answers[i])
		}
		answers[i].Delta = s.delta()
	}
	return answers
}

func checkTargets(targets []soracache.Target) error {
	if len(targets) == 0 {
		return fmt.Errorf("%w: nothing to invalidate", soracache.ErrInvalid)
	}
	for _, t := range targets {
		if t.Kind < soracache.TargetKey || t.Kind > soracache.TargetAll {
			return fmt.Errorf("%w: %s", soracache.ErrInvalid, t)
		}
		if err := l2.CheckTarget(t); err != nil {
			return err
		}
	}
	return nil
}

// append records the targets, and deletes what is stored under the keys among
// them, in every schema.
func (s step) append(targets []soracache.Target) soracache.Record {
	record := s.ledger.append(targets, s.now, s.m.config.Retention)
	for _, t := range targets {
		if t.Kind == soracache.TargetKey {
			s.dropAll(t.Name)
		}
	}
	return record
}

// delta is taken after the step did its work: it holds the step's own record.
func (s step) delta() soracache.Delta { return s.ledger.delta(s.since) }

// Since implements [l2.Store].
func (m *Model) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	m.mu.Lock()
	defer m.mu.Unlock()
	answers := make([]l2.SinceAnswer, len(reqs))
	for i, req := range reqs {
		if req.Guest {
			answers[i] = m.sinceGuest(ctx, req)
			continue
		}
		s, err := m.begin(ctx, req.Partition, req.Since, req.Register)
		if err != nil {
			answers[i].Err = err
			continue
		}
		s.register(req.Register)
		answers[i].Delta, answers[i].Clock = s.delta(), s.now
	}
	return answers
}

// sinceGuest answers somebody whose word about histories counts for nothing.
func (m *Model) sinceGuest(ctx context.Context, req l2.SinceRequest) l2.SinceAnswer {
	p, err := m.reach(ctx, req.Partition)
	if err == nil && (p.ledger == nil || p.attach) {
		err = fmt.Errorf("%w: the ledger of %s is to be begun anew", soracache.ErrUnavailable, req.Partition)
	}
	if err != nil {
		return l2.SinceAnswer{Err: err}
	}
	foreign := p.ledger.differs(req.Since)
	s := step{partition: p, m: m, now: m.config.Now(), since: req.Since}
	s.settle()
	a := l2.SinceAnswer{Delta: soracache.Delta{Epoch: p.ledger.epoch, Head: p.ledger.head, Reset: true}, Clock: s.now}
	if !foreign {
		a.Delta = s.delta()
	}
	return a
}

// Explain implements [l2.Store].
func (m *Model) Explain(ctx context.Context, at l2.Partition, key string) (l2.Explanation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.begin(ctx, at, soracache.Stamp{}, l2.Registration{})
	if err = errors.Join(err, l2.CheckName(key)); err != nil {
		return l2.Explanation{}, err
	}
	x := l2.Explanation{Ledger: s.ledger.stamp()}
	if e, ok := s.entries[key]; ok && s.counts(key) {
		x.Stored, x.Readable = true, true
		x.Entry, x.Stamp = e.Entry, e.stamp
		x.Entry.Value, x.ValueBytes = nil, len(e.Value)
		x.FreshFor, x.KeepFor = e.left(s.now)
		x.Reason, x.KilledBy = s.judge(key, e)
		x.Live = x.Reason == ""
	} else {
		x.Reason, x.KilledBy = s.ledger.removed(key)
		if by, ok := s.settles(key, nil); ok {
			x.Reason = l2.Settling(by.Targets[0])
		}
	}
	if l, ok := s.lease(key); ok {
		x.Leased, x.LeaseFor, x.LeaseStamp = true, l.until.Sub(s.now), l.stamp
	}
	return x, nil
}

// ListKeys implements [l2.Store].
func (m *Model) ListKeys(ctx context.Context, at l2.Partition, tag, cursor string, limit int) ([]string, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, after, err := m.walk(ctx, at, cursor)
	if err != nil {
		return nil, "", err
	}
	var keys []string
	for _, name := range s.keys(tag, after) {
		if _, ok := s.live(name); !ok {
			continue
		}
		if len(keys) == max(limit, 1) {
			return keys, pageAfter(after), nil
		}
		keys, after = append(keys, soracache.KeyOf(name)), name
	}
	return keys, "", nil
}

// reclaimStep is how many keys one step of Reclaim looks at.
const reclaimStep = 1000

// Reclaim implements [l2.Store].
func (m *Model) Reclaim(ctx context.Context, at l2.Partition, tag, cursor string) (next string, deleted int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, after, err := m.walk(ctx, at, cursor)
	if err != nil {
		return "", 0, err
	}
	keys := s.keys(tag, after)
	if len(keys) > reclaimStep {
		keys = keys[:reclaimStep]
		next = pageAfter(keys[reclaimStep-1])
	}
	for _, key := range keys {
		if _, ok := s.live(key); !ok {
			delete(s.entries, key)
			deleted++
		}
	}
	return next, deleted, nil
}

// walk opens a step of a walk over a partition's keys, which goes on after the
// key that the cursor holds.
func (m *Model) walk(ctx context.Context, at l2.Partition, cursor string) (step, string, error) {
	after, err := parsePage(cursor)
	if err != nil {
		return step{}, "", err
	}
	s, err := m.begin(ctx, at, soracache.Stamp{}, l2.Registration{})
	return s, after, err
}

// keys returns, sorted, the names of stored entries above one key that carry a
// tag; with an empty tag, of all.
func (s step) keys(tag, after string) []string {
	var keys []string
	for key, e := range s.entries {
		if key > after && (tag == "" || slices.Contains(e.Tags, tag)) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

const pagePrefix = "after-"

func pageAfter(key string) string { return pagePrefix + hex.EncodeToString([]byte(key)) }

func parsePage(cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	digits, ok := strings.CutPrefix(cursor, pagePrefix)
	key, err := hex.DecodeString(digits)
	if !ok || err != nil {
		return "", fmt.Errorf("%w: malformed cursor", soracache.ErrInvalid)
	}
	return string(key), nil
}

// Sweep implements [l2.Store]. It does everything that is due.
func (m *Model) Sweep(ctx context.Context) (more bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counters.RoundTrips++
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	for at, p := range m.partitions {
		if p.later || p.tomb.stands(m.config.Now()) {
			continue
		}
		s := step{partition: p, m: m, now: m.config.Now()}
		if s.sweep(); s.over() {
			delete(m.partitions, at)
		}
	}
	return false, nil
}

// sweep forgets what nobody needs any more.
func (s step) sweep() {
	maps.DeleteFunc(s.entries, func(_ string, e entry) bool { return !s.now.Before(e.keepUntil) })
	maps.DeleteFunc(s.leases, func(_ string, l lease) bool { return !s.now.Before(l.until) })
	s.sweepSchemas()
	maps.DeleteFunc(s.passed, func(_ string, p passed) bool { return !s.now.Before(p.until) })
	if s.registered != nil {
		s.registered.forget(s.now.Add(-soracache.MaxLease), s.now)
	}
	if s.ledger == nil || s.attach {
		return
	}
	s.settle()
	if !s.now.Before(s.keptUntil) {
		s.ledger.longestKeep = 0
	}
	s.ledger.trim(s.now, s.m.config.Retention)
}

// over reports whether nobody can need the partition any more.
func (s step) over() bool {
	// (A head that is far ahead was given out before the clock was set back.)
	quiet := s.ledger == nil || s.ledger.head <= positionAt(s.now.Add(-l2.LedgerQuiet)) ||
		s.ledger.head > positionAt(s.now.Add(l2.LedgerQuiet))
	followed := s.registered != nil && len(s.registered.members) > 0
	return quiet && !followed && !s.now.Before(s.keptUntil) && len(s.leases) == 0 && len(s.settling) == 0
}

// Part implements [l2.Store]: there is one.
func (*Model) Part(l2.Partition) string { return "" }

// Ping implements [l2.Store].
func (m *Model) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	return nil
}

// Counters implements [l2.Store].
func (m *Model) Counters() l2.Counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counters
}

// Close implements [l2.Store]. The model can be used after it, as a database
// outlives its connections.
func (m *Model) Close() error { return nil }
