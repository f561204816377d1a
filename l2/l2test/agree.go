package l2test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// Agree does random histories to an engine and to a [l2model.Model] alike, and expects
// the same answers. Epochs and positions are each store's own choice: they are
// compared by which of them belong together. Lifetimes are so long that no
// time comes into it.
//
// A failure prints its seed, which the environment variable SORACACHE_SEED
// repeats. The engine's test then passes it as one of kept, to be repeated for
// ever.
func Agree(t *testing.T, open Open, kept ...uint64) {
	seeds := slices.Clone(kept)
	if s := os.Getenv("SORACACHE_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("SORACACHE_SEED: %v", err)
		}
		seeds = []uint64{seed}
	} else {
		for range counts(12, 100) {
			seeds = append(seeds, rand.Uint64())
		}
	}
	seen := make(map[string]int)
	for _, seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Logf("repeat with SORACACHE_SEED=%d", seed)
			a := newAgreement(t, open, seed)
			a.plain = slices.Contains(kept, seed)
			a.seen = seen
			a.run(counts(400, 1000))
		})
	}
	t.Logf("%d histories: %v", len(seeds), seen)
	for _, what := range []string{
		"live", "dead", "granted", "held", "passed", "stored", "superseded", "lease lost",
		"deltas", "cut-off deltas", "resets", "new epochs", "followers", "lists born",
		"settling", "guests turned away", "live in a schema",
	} {
		if seen[what] == 0 {
			t.Errorf("the histories met with none of: %s", what)
		}
	}
}

// agreement is one random history.
type agreement struct {
	*testing.T
	rng *rand.Rand
	// schemas chooses schemas, unless the history is plain and has none.
	schemas *rand.Rand
	plain   bool
	engine  Harness
	store   l2.Store // the engine's, which a reopening replaces
	model   *l2model.Model
	pairs   map[l2.Partition]*pairing
	nonces  []soracache.Lease
	grants  []grant
	// restored: a snapshot was.
	restored bool
	// shots are snapshots of both stores that can be restored.
	shots []func()
	seen  map[string]int // what was met with, by name
	trace []string       // what was done, for whoever must find out what went wrong
}

// grant is a lease that was given to somebody.
type grant struct {
	at    l2.Partition
	key   string
	nonce soracache.Lease
}

// both is one stamp as the engine and as the model know it.
type both struct{ engine, model soracache.Stamp }

// pairing is what is known of a partition's stamps: which of the engine's
// belongs to which of the model's.
type pairing struct {
	engine, model map[soracache.Stamp]soracache.Stamp // to the other's
	epochs        map[soracache.Epoch]soracache.Epoch // the engine's to the model's
	known         []both                              // all of them, in order of appearance
	head          both
	followers     [3]both
}

func newAgreement(t *testing.T, open Open, seed uint64) *agreement {
	h := open(t, Options{Retention: l2.NewRetention()})
	a := &agreement{
		T:       t,
		rng:     rand.New(rand.NewPCG(seed, 1)),
		schemas: rand.New(rand.NewPCG(seed, 3)),
		engine:  h,
		store:   h.Store,
		model:   l2model.New(l2model.Config{Now: h.Now, Random: rand.New(rand.NewPCG(seed, 2)).Uint64}),
		pairs:   make(map[l2.Partition]*pairing),
	}
	for _, at := range a.partitions() {
		a.pairs[at] = &pairing{
			engine: make(map[soracache.Stamp]soracache.Stamp),
			model:  make(map[soracache.Stamp]soracache.Stamp),
			epochs: make(map[soracache.Epoch]soracache.Epoch),
		}
	}
	return a
}

// run does so many steps. The clock moves on before each, so that no position
// of a restored store is ever issued twice.
func (a *agreement) run(steps int) {
	defer func() {
		if a.Failed() {
			a.Log("the last steps were")
			for _, line := range a.trace[max(0, len(a.trace)-40):] {
				a.Log(line)
			}
		}
	}()
	for range steps {
		if a.engine.Wait != nil {
			a.engine.Wait(time.Duration(10+a.rng.IntN(20)) * time.Microsecond)
		}
		a.step()
		if a.Failed() {
			return
		}
	}
	for _, at := range a.partitions() {
		a.lookAround(at)
	}
}

func (a *agreement) step() {
	switch p := a.rng.IntN(1000); {
	case p < 400:
		a.read()
	case p < 750:
		a.write()
	case p < 860:
		a.invalidate()
	case p < 920:
		a.since()
	case p < 930:
		a.showForeign()
	case p < 985:
		a.lookAround(a.partition())
	case p < 992 && a.engine.Snapshot != nil:
		a.snapshot()
	case p < 996 && a.engine.Reopen != nil:
		a.note("reopen")
		a.store = a.engine.Reopen()
		a.loseRegistrations(a.partitions()...)
	case p >= 996:
		a.loseRegistrations(a.partition())
	}
}

// loseRegistrations loses them in both stores: so may a reopened store.
func (a *agreement) loseRegistrations(of ...l2.Partition) {
	if a.engine.LoseRegistrations == nil {
		return
	}
	for _, at := range of {
		a.note("lose registrations of %s", at)
		a.engine.LoseRegistrations(at)
		a.model.LoseRegistrations(at)
	}
}

func (a *agreement) note(format string, args ...any) {
	a.trace = append(a.trace, fmt.Sprintf(format, args...))
}

// disagree reports that the two stores answered differently.
func (a *agreement) disagree(what string, engine, model any) {
	a.Helper()
	a.Errorf("%s:\nthe engine answers %+v\n the model answers %+v", what, engine, model)
}

// choose returns one of several.
func choose[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func (a *agreement) partitions() []l2.Partition {
	return []l2.Partition{{Namespace: "agree", Index: 0, Count: 2}, {Namespace: "agree", Index: 1, Count: 2}}
}

func (a *agreement) partition() l2.Partition { return choose(a.rng, a.partitions()...) }

func (a *agreement) key() string { return choose(a.rng, "k0", "k1", "k2", "k3", "{k4}", "k\x005") }

// name chooses a key in one of a few schemas, the default one most often. The choice
// has a random source of its own, and is not made at all in a history that was kept
// from when there were none.
func (a *agreement) name() string {
	if a.plain {
		return a.key()
	}
	return soracache.Name(choose(a.schemas, "", "", "", "s1", "s2", "s1"), a.key())
}

func (a *agreement) tag() string { return choose(a.rng, "t0", "t1", "t2", "k0") }

// someOnce chooses partitions for a batch of reads, each once: a store may
// take a new epoch that one read of a batch calls for before it answers any.
func (a *agreement) someOnce() []l2.Partition {
	all := a.partitions()
	a.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:1+a.rng.IntN(len(all))]
}

// shown chooses a follower of a partition, or none, and what it shows.
func (a *agreement) shown(at l2.Partition) (follower *both, shown both) {
	if a.rng.IntN(4) == 0 {
		return nil, both{}
	}
	follower = &a.pairs[at].followers[a.rng.IntN(3)]
	return follower, *follower
}

// nonce chooses a nonce that somebody may hold, or a new one, or none.
func (a *agreement) nonce() soracache.Lease {
	switch p := a.rng.IntN(10); {
	case p < 5 && len(a.nonces) > 0:
		return a.nonces[len(a.nonces)-1-a.rng.IntN(min(len(a.nonces), 6))]
	case p < 9:
		var n soracache.Lease
		for i := range n {
			n[i] = byte(a.rng.Uint32())
		}
		n = n.HeldBy(a.rng.Uint64N(4)) // of a few processes, or nobody in particular
		a.nonces = append(a.nonces, n)
		return n
	}
	return soracache.Lease{}
}

// follower chooses who registers, if anybody does. The bounds are such that
// nothing comes to an end.
func (a *agreement) follower() l2.Registration {
	if a.rng.IntN(2) == 0 {
		return l2.Registration{}
	}
	return l2.Registration{
		Name:  choose(a.rng, "!", "n1", "n2", "n3", "n4"),
		Bound: choose(a.rng, l2.MaxBound/2, l2.MaxBound),
	}
}

func (a *agreement) entry() soracache.Entry {
	e := soracache.Entry{
		Value:    []byte(fmt.Sprint("v", a.rng.Uint32())),
		Kind:     choose(a.rng, soracache.KindValue, soracache.KindValue, soracache.KindNotFound, soracache.KindError),
		Encoding: choose(a.rng, "", "raw", "json", "own"),
		ETag:     choose(a.rng, "", "e"),
	}
	for range a.rng.IntN(4) {
		e.Tags = append(e.Tags, a.tag())
	}
	e.Tags = sorted(e.Tags)
	return e
}

func (a *agreement) targets() (targets []soracache.Target) {
	for range 1 + a.rng.IntN(2) {
		switch p := a.rng.IntN(40); {
		case p < 15:
			targets = append(targets, soracache.Key(a.key()))
		case p < 38:
			targets = append(targets, soracache.Tag(a.tag()))
		default:
			targets = append(targets, soracache.Everything())
		}
	}
	if a.rng.IntN(12) == 0 { // more than a delta holds
		prefix := a.rng.Uint32()
		targets = append(targets, manyTargets(fmt.Sprint(prefix, "-"), 1+a.rng.IntN(100))...)
	}
	return targets
}

func (a *agreement) read() {
	var engine, model []l2.ReadRequest
	var followers []*both
	for _, at := range a.someOnce() {
		follower, shown := a.shown(at)
		var keys []l2.ReadKey
		for range a.rng.IntN(4) {
			keys = append(keys, l2.ReadKey{
				Key: a.name(), Nonce: a.nonce(), LeaseFor: time.Hour,
				RefreshWithin: choose(a.rng, 0, 0, 24*time.Hour),
			})
		}
		followers = append(followers, follower)
		by := a.follower()
		engine = append(engine, l2.ReadRequest{Partition: at, Since: shown.engine, Register: by, Keys: keys})
		model = append(model, l2.ReadRequest{Partition: at, Since: shown.model, Register: by, Keys: keys})
		a.note("read %+v", engine[len(engine)-1])
	}
	es, ms := a.store.Read(a.Context(), engine), a.model.Read(a.Context(), model)
	for i, e := range es {
		m, req := ms[i], engine[i]
		if !a.sameError("read", e.Err, m.Err) || len(e.Keys) != len(m.Keys) {
			a.disagree("read", e, m)
			continue
		}
		a.sameDelta("read", req.Partition, both{req.Since, model[i].Since}, followers[i], e.Delta, m.Delta)
		for j := range e.Keys {
			a.sameKey(req.Partition, req.Keys[j], e.Keys[j], m.Keys[j])
		}
	}
}

func (a *agreement) sameKey(at l2.Partition, req l2.ReadKey, e, m l2.KeyAnswer) {
	a.Helper()
	same := e.Found == m.Found && sameEntry(e.Entry, m.Entry) && a.pair(at, e.Stamp, m.Stamp) &&
		near(e.FreshFor, m.FreshFor) && near(e.KeepFor, m.KeepFor) && e.L1 == m.L1 &&
		e.Lease == m.Lease && e.Refusal == m.Refusal && a.pair(at, e.LeaseStamp, m.LeaseStamp) && near(e.LeaseFor, m.LeaseFor)
	if !same {
		a.disagree(fmt.Sprintf("read of %+v", req), e, m)
	}
	a.count(m.Found, "live")
	a.count(!m.Found, "dead")
	if m.Lease == soracache.LeaseGranted {
		a.grants = append(a.grants, grant{at, req.Key, req.Nonce})
	}
	a.count(m.Lease == soracache.LeaseGranted, "granted")
	a.count(m.Lease == soracache.LeaseHeld, "held")
	a.count(m.Lease == soracache.LeaseRefused, "passed")
}

func (a *agreement) count(met bool, what string) {
	if met {
		a.seen[what]++
	}
}

func near(a, b time.Duration) bool { return (a - b).Abs() < slack }

func (a *agreement) write() {
	var engine, model []l2.WriteRequest
	var followers []*both
	for range 1 + a.rng.IntN(2) {
		by := grant{a.partition(), a.name(), a.nonce()}
		if n := len(a.grants); n > 0 && a.rng.IntN(5) > 0 {
			by = a.grants[n-1-a.rng.IntN(min(n, 4))]
		}
		follower, shown := a.shown(by.at)
		w := l2.WriteRequest{
			Partition: by.at, Register: a.follower(),
			Op: choose(a.rng, soracache.OpFill, soracache.OpFill, soracache.OpFill, soracache.OpFill,
				soracache.OpPut, soracache.OpRenew, soracache.OpRelease),
			Key: by.key, Nonce: by.nonce, LeaseFor: time.Hour, Entry: a.entry(),
			Outcome: soracache.LoadOutcome(a.rng.IntN(3)), Remember: choose(a.rng, 0, l2.MaxRemember),
			Lifetime: soracache.Lifetime{
				TTL:  choose(a.rng, time.Hour, 2*time.Hour),
				Keep: choose(a.rng, 0, 5*time.Hour),
				L1:   choose(a.rng, 0, time.Second),
			},
		}
		followers = append(followers, follower)
		w.Since = shown.engine
		engine = append(engine, w)
		w.Since = shown.model
		model = append(model, w)
		a.note("write %+v", w)
	}
	es, ms := a.store.Write(a.Context(), engine), a.model.Write(a.Context(), model)
	for i, e := range es {
		m, at := ms[i], engine[i].Partition
		if !a.sameError("write", e.Err, m.Err) || e.Reason != m.Reason ||
			!a.pair(at, e.Stamp, m.Stamp) || !a.sameRecord(at, e.Record, m.Record) {
			a.disagree(fmt.Sprintf("write %+v", engine[i]), e, m)
		}
		a.sameDelta("write", at, both{engine[i].Since, model[i].Since}, followers[i], e.Delta, m.Delta)
		a.killer(at, e.SupersededBy, m.SupersededBy, engine[i].Key, engine[i].Entry.Tags)
		a.count(m.Reason == soracache.ReasonSuperseded && a.model.Settling(at) > 0, "settling")
		a.count(engine[i].Op == soracache.OpFill, m.Reason.String())
	}
}

// settle chooses for how long what is invalidated settles. Where the clock stands
// still that may come to an end, elsewhere only after the history has.
func (a *agreement) settle() time.Duration {
	switch {
	case a.rng.IntN(4) > 0:
		return 0
	case a.engine.Wait == nil:
		return choose(a.rng, 0, 0, 0, 0, 0, 0, 0, 0, 0, soracache.MaxSettle) // it lasts for the rest
	}
	return choose(a.rng, time.Microsecond, 20*time.Microsecond, 200*time.Microsecond, time.Millisecond)
}

func (a *agreement) invalidate() {
	var engine, model []l2.InvalidateRequest
	var followers []*both
	by := a.follower() // one for all: a store may list who registers by a later request of a batch
	for range 1 + a.rng.IntN(2) {
		at := a.partition()
		follower, shown := a.shown(at)
		followers = append(followers, follower)
		req := l2.InvalidateRequest{
			Partition: at, Since: shown.engine, Register: by,
			Targets: a.targets(), Followers: a.rng.IntN(2) == 0, Settle: a.settle(),
		}
		engine = append(engine, req)
		req.Since = shown.model
		model = append(model, req)
		a.note("invalidate %+v", engine[len(engine)-1])
	}
	es, ms := a.store.Invalidate(a.Context(), engine), a.model.Invalidate(a.Context(), model)
	for i, e := range es {
		m, at := ms[i], engine[i].Partition
		if !a.sameError("invalidate", e.Err, m.Err) || !a.sameRecord(at, e.Record, m.Record) {
			a.disagree(fmt.Sprintf("invalidate %+v", engine[i].Targets), e, m)
		}
		a.sameFollowers(engine[i].Followers, e, m)
		a.sameDelta("invalidate", at, both{engine[i].Since, model[i].Since}, followers[i], e.Delta, m.Delta)
	}
}

func (a *agreement) since() {
	var engine, model []l2.SinceRequest
	var followers []*both
	for _, at := range a.someOnce() {
		follower, shown := a.shown(at)
		followers = append(followers, follower)
		by, guest := a.follower(), a.rng.IntN(4) == 0
		engine = append(engine, l2.SinceRequest{Partition: at, Since: shown.engine, Register: by, Guest: guest})
		model = append(model, l2.SinceRequest{Partition: at, Since: shown.model, Register: by, Guest: guest})
		a.note("since %+v", engine[len(engine)-1])
	}
	es, ms := a.store.Since(a.Context(), engine), a.model.Since(a.Context(), model)
	for i, e := range es {
		if !a.sameError("since", e.Err, ms[i].Err) || e.Err != nil {
			continue
		}
		a.sameDelta("since", engine[i].Partition, both{engine[i].Since, model[i].Since}, followers[i], e.Delta, ms[i].Delta)
	}
}

// showForeign makes a follower show a stamp that it cannot have.
func (a *agreement) showForeign() {
	at := a.partition()
	p := a.pairs[at]
	var shown both
	switch a.rng.IntN(3) {
	case 0: // an unknown epoch
		s := soracache.Stamp{Epoch: soracache.Epoch(1 + a.rng.Uint64N(1<<52-1)), Position: soracache.Position(1 + a.rng.Uint64N(1<<40))}
		shown = both{s, s}
	case 1:
		shown = p.head.plus(1 + soracache.Position(a.rng.IntN(3)))
	default:
		if shown = a.gap(p); shown == (both{}) {
			return
		}
	}
	guest := a.rng.IntN(3) == 0
	a.note("show %+v in %s, as a guest: %v", shown.engine, at, guest)
	e := a.store.Since(a.Context(), []l2.SinceRequest{{Partition: at, Since: shown.engine, Guest: guest}})[0]
	m := a.model.Since(a.Context(), []l2.SinceRequest{{Partition: at, Since: shown.model, Guest: guest}})[0]
	if !a.sameError("since", e.Err, m.Err) || e.Err != nil {
		return
	}
	a.count(guest && m.Delta.Reset, "guests turned away")
	a.sameDelta("since", at, shown, &p.followers[a.rng.IntN(3)], e.Delta, m.Delta)
}

func (b both) plus(n soracache.Position) both {
	b.engine.Position += n
	b.model.Position += n
	return b
}

// gap returns a stamp between two records of the present epoch, if it finds
// one.
func (a *agreement) gap(p *pairing) both {
	if len(p.known) == 0 {
		return both{}
	}
	for range 20 {
		k := choose(a.rng, p.known...)
		next := k.plus(1)
		_, inEngine := p.engine[next.engine]
		_, inModel := p.model[next.model]
		if k.engine.Epoch == p.head.engine.Epoch && k != p.head && !inEngine && !inModel {
			return next
		}
	}
	return both{}
}

// snapshot takes one of both stores, or restores it.
func (a *agreement) snapshot() {
	if len(a.shots) == 0 {
		a.note("take a snapshot")
		engine, model := a.engine.Snapshot(), a.model.Snapshot()
		a.shots = append(a.shots, func() { engine(); model() })
		return
	}
	a.note("restore the snapshot")
	if a.engine.Wait != nil {
		a.engine.Wait(time.Millisecond) // a restored store has not seen this time before
	}
	a.shots[0]()
	a.shots, a.restored = nil, true
}

// lookAround compares all that can be seen of a partition.
func (a *agreement) lookAround(at l2.Partition) {
	a.note("look around in %s", at)
	ctx := a.Context()
	var names []string
	for _, key := range []string{"k0", "k1", "k2", "k3", "{k4}", "k\x005"} {
		names = append(names, key, soracache.Name("s1", key), soracache.Name("s2", key))
	}
	for _, key := range names {
		e, err := a.store.Explain(ctx, at, key)
		m, merr := a.model.Explain(ctx, at, key)
		a.count(m.Live && soracache.KeyOf(key) != key, "live in a schema")
		a.sameError("explain", err, merr)
		same := a.pair(at, e.Ledger, m.Ledger) && e.Live == m.Live && e.Leased == m.Leased &&
			a.pair(at, e.LeaseStamp, m.LeaseStamp) && near(e.LeaseFor, m.LeaseFor)
		if e.Stored && m.Stored { // either may have deleted what is dead
			same = same && e.Readable && sameEntry(e.Entry, m.Entry) && e.ValueBytes == m.ValueBytes && a.pair(at, e.Stamp, m.Stamp) &&
				near(e.FreshFor, m.FreshFor) && near(e.KeepFor, m.KeepFor) && (e.Reason == "") == (m.Reason == "")
			a.killer(at, e.KilledBy, m.KilledBy, key, m.Entry.Tags)
		}
		if !e.Stored && !m.Stored {
			a.killer(at, e.KilledBy, m.KilledBy, key, nil)
		}
		if !same || e.Live && !e.Stored {
			a.disagree("explain "+key, e, m)
		}
	}
	for _, tag := range []string{"t0", "t1", "t2", "k0"} {
		f, g := &fixture{T: a.T, Harness: Harness{Store: a.store}, at: at}, &fixture{T: a.T, Harness: Harness{Store: a.model}, at: at}
		if e, m := f.list(tag, 2), g.list(tag, 2); !slices.Equal(e, m) {
			a.disagree("keys of "+tag, e, m)
		}
		if a.rng.IntN(10) == 0 {
			a.note("reclaim %s", tag)
			f.reclaim(tag)
			g.reclaim(tag)
		}
		if a.rng.IntN(10) == 0 {
			a.note("reclaim all and sweep")
			f.reclaim("")
			f.sweep()
			if a.engine.Wait != nil {
				g.sweep() // it records what has settled, in other partitions as well
			}
		}
	}
}
