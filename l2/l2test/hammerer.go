package l2test

import (
	"math/rand/v2"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// hammerer is one goroutine of a [Hammer].
type hammerer struct {
	*hammering
	store l2.Store
	rng   *rand.Rand
	// followers hold what this goroutine followed of each world. Those that
	// follow nothing show the zero stamp.
	followers []*chaser
	pending   []pendingFill
}

// pendingFill is a value that was loaded under a lease and not yet filled.
type pendingFill struct {
	w      *world
	f      *chaser
	key    *hammerKey
	name   string // of its key, in some schema
	nonce  soracache.Lease
	loaded versions
}

// chaser follows a ledger by the deltas of its answers alone.
type chaser struct {
	follows bool
	stamp   soracache.Stamp
	marks   map[soracache.Target]soracache.Position
}

// mostPending is how many loads a goroutine has under way at a time.
const mostPending = 3

func newHammerer(h *hammering, g int) *hammerer {
	m := &hammerer{
		hammering: h,
		store:     h.Stores[g%len(h.Stores)],
		rng:       rand.New(rand.NewPCG(h.Seed, uint64(g))),
	}
	for _, w := range h.worlds {
		c := &chaser{follows: g%4 == 0, marks: make(map[soracache.Target]soracache.Position)}
		if c.follows {
			c.stamp = w.first
		}
		m.followers = append(m.followers, c)
	}
	return m
}

func (m *hammerer) run() {
	for m.left.Add(-1) >= 0 && !m.failed.Load() {
		m.step()
	}
	for len(m.pending) > 0 && !m.failed.Load() {
		m.fillPending()
	}
	for i, w := range m.worlds {
		if c := m.followers[i]; c.follows && !m.failed.Load() {
			m.catchUp(w, c)
		}
	}
}

func (m *hammerer) step() {
	i := m.rng.IntN(len(m.worlds))
	w, c := m.worlds[i], m.followers[i]
	switch p := m.rng.IntN(1000); {
	case p < 620 || p < 885 && len(m.pending) == 0:
		m.read(w, c)
	case p < 860:
		m.fillPending()
	case p < 885:
		m.touchPending()
	case p < 925:
		m.invalidateKey(w, c)
	case p < 960:
		m.invalidateTags(w, c)
	case p < 998:
		m.put(w, c)
	default:
		m.clear(w, c)
	}
}

// name chooses a schema of a key: the sources of its values are the same.
func (m *hammerer) name(k *hammerKey) string {
	return soracache.Name([...]string{"", "", "", "s1", "s2"}[m.rng.IntN(5)], k.name)
}

// read reads one or several keys and, if it may have more loads under way,
// wants their leases.
func (m *hammerer) read(w *world, c *chaser) {
	n := 1
	if m.rng.IntN(4) == 0 {
		n = 1 + m.rng.IntN(6)
	}
	req := l2.ReadRequest{Partition: w.at, Since: c.stamp}
	var keys []*hammerKey
	var required []versions
	for range n {
		k := w.keys[m.rng.IntN(len(w.keys))]
		r := l2.ReadKey{Key: m.name(k)}
		if len(m.pending)+n <= mostPending && m.rng.IntN(8) > 0 {
			r.Nonce, r.LeaseFor = newNonce(), time.Minute
			if m.rng.IntN(50) == 0 {
				r.LeaseFor = time.Millisecond
			}
			if m.rng.IntN(3) == 0 {
				r.RefreshWithin = time.Hour
			}
		}
		keys, required, req.Keys = append(keys, k), append(required, k.load(done)), append(req.Keys, r)
	}
	a := m.store.Read(m.ctx, []l2.ReadRequest{req})[0]
	if a.Err != nil || len(a.Keys) != n {
		m.Errorf("read: %+v", a)
		return
	}
	m.reads.Add(int64(n))
	m.follow(w, c, a.Delta)
	for i, k := range keys {
		if a.Keys[i].Found {
			m.hits.Add(1)
			m.checkHit(k, req.Keys[i].Key, required[i], a.Keys[i])
		}
		if a.Keys[i].Lease == soracache.LeaseGranted {
			m.leases.Add(1)
			m.pending = append(m.pending, pendingFill{w, c, k, req.Keys[i].Key, req.Keys[i].Nonce, k.load(begun)})
		}
	}
}

func (m *hammerer) checkHit(k *hammerKey, name string, required versions, a l2.KeyAnswer) {
	v, ok := decodeVersions(k, a.Entry.Value)
	if !ok || a.Entry.ETag != name {
		m.Errorf("%q holds %q of %q", name, a.Entry.Value, a.Entry.ETag)
		return
	}
	if what := v.misses(k, required); what != "" {
		m.Errorf("seed %d: stale read of %s: its value %+v misses %s, which was done before the read began: %+v",
			m.Seed, k.name, v, what, required)
	}
}

// fillPending completes one of the loads under way.
func (m *hammerer) fillPending() {
	i := m.rng.IntN(len(m.pending))
	p := m.pending[i]
	m.pending = append(m.pending[:i], m.pending[i+1:]...)
	kinds := p.loaded.superseded(p.key.load(done))
	a := m.write(p.w, p.f, l2.WriteRequest{
		Op: soracache.OpFill, Key: p.name, Nonce: p.nonce, Entry: p.key.entry(p.name, p.loaded),
		Lifetime: soracache.Lifetime{TTL: 10 * time.Minute},
	})
	for _, kind := range kinds {
		m.overlaps[kind].Add(1)
	}
	switch a.Reason {
	case soracache.ReasonSuperseded:
		m.superseded.Add(1)
	case soracache.ReasonLeaseLost:
		m.leaseLost.Add(1)
	case soracache.ReasonNone:
		m.stored.Add(1)
		if len(kinds) > 0 {
			m.Errorf("seed %d: stale fill of %s: stored though superseded by an invalidation of kind %v", m.Seed, p.key.name, kinds)
		}
	}
}

func (k *hammerKey) entry(name string, v versions) soracache.Entry {
	return soracache.Entry{Value: v.encode(k), Tags: k.tagNames, ETag: name}
}

// touchPending renews or releases one of the leases under way.
func (m *hammerer) touchPending() {
	i := m.rng.IntN(len(m.pending))
	p := m.pending[i]
	if m.rng.IntN(2) == 0 {
		m.write(p.w, p.f, l2.WriteRequest{Op: soracache.OpRenew, Key: p.name, Nonce: p.nonce, LeaseFor: time.Minute})
		return
	}
	m.pending = append(m.pending[:i], m.pending[i+1:]...)
	m.write(p.w, p.f, l2.WriteRequest{Op: soracache.OpRelease, Key: p.name, Nonce: p.nonce})
}

func (m *hammerer) write(w *world, c *chaser, req l2.WriteRequest) l2.WriteAnswer {
	req.Partition, req.Since = w.at, c.stamp
	a := m.store.Write(m.ctx, []l2.WriteRequest{req})[0]
	if a.Err != nil {
		m.Errorf("write %d: %v", req.Op, a.Err)
		return a
	}
	m.follow(w, c, a.Delta)
	return a
}

func (m *hammerer) put(w *world, c *chaser) {
	k := w.keys[m.rng.IntN(len(w.keys))]
	k.mu.Lock()
	defer k.mu.Unlock()
	version := k.put.begun.Add(1)
	v := k.load(begun)
	v.isPut = true
	name := m.name(k)
	a := m.write(w, c, l2.WriteRequest{
		Op: soracache.OpPut, Key: name, Entry: k.entry(name, v), Lifetime: soracache.Lifetime{TTL: 10 * time.Minute},
	})
	k.puts.Store(version, k.load(begun))
	k.put.finish(version)
	m.puts.Add(1)
	w.note(a.Record)
}

func (m *hammerer) invalidateKey(w *world, c *chaser) {
	k := w.keys[m.rng.IntN(len(w.keys))]
	k.mu.Lock()
	defer k.mu.Unlock()
	m.invalidate(w, c, []*source{&k.row}, soracache.Key(k.name))
	m.keys.Add(1)
}

func (m *hammerer) invalidateTags(w *world, c *chaser) {
	var sources []*source
	var targets []soracache.Target
	for range 1 + m.rng.IntN(2) {
		i := m.rng.IntN(len(w.tags))
		sources, targets = append(sources, w.tags[i]), append(targets, soracache.Tag(w.tagNames[i]))
	}
	m.invalidate(w, c, sources, targets...)
	m.tags.Add(1)
}

func (m *hammerer) clear(w *world, c *chaser) {
	m.invalidate(w, c, []*source{&w.all}, soracache.Everything())
	m.clears.Add(1)
}

// invalidate commits a change of the sources, and then records it.
func (m *hammerer) invalidate(w *world, c *chaser, sources []*source, targets ...soracache.Target) {
	var begun []uint64
	for _, s := range sources {
		begun = append(begun, s.begun.Add(1))
	}
	a := m.store.Invalidate(m.ctx, []l2.InvalidateRequest{{Partition: w.at, Since: c.stamp, Targets: targets}})[0]
	if a.Err != nil {
		m.Errorf("invalidate %v: %v", targets, a.Err)
		return
	}
	for i, s := range sources {
		s.finish(begun[i])
	}
	w.note(a.Record)
	m.follow(w, c, a.Delta)
}

// follow applies a delta that was asked for from the chaser's stamp.
func (m *hammerer) follow(w *world, c *chaser, d soracache.Delta) {
	checkDelta(m, c.stamp, d)
	if d.Epoch != w.first.Epoch || d.Reset {
		m.Errorf("seed %d: %s was at %v and now answers %v to %v with %+v", m.Seed, w.at, w.first, c.stamp, d.Epoch, d)
	}
	if !c.follows || m.failed.Load() {
		return
	}
	for _, r := range d.Records {
		for _, t := range r.Targets {
			c.marks[t] = r.Position
		}
	}
	for cursor := c.stamp; d.More && !m.failed.Load(); {
		cursor.Position = d.Records[len(d.Records)-1].Position
		a := m.store.Since(m.ctx, []l2.SinceRequest{{Partition: w.at, Since: cursor}})[0]
		if a.Err != nil || a.Delta.Reset {
			m.Errorf("since %v: %+v", cursor, a)
			return
		}
		checkDelta(m, cursor, a.Delta)
		d = a.Delta
		for _, r := range d.Records {
			for _, t := range r.Targets {
				c.marks[t] = r.Position
			}
		}
	}
	c.stamp = headOf(d)
}

// catchUp follows to a head, and compares what was heard on the way with what
// all goroutines have recorded up to there.
func (m *hammerer) catchUp(w *world, c *chaser) {
	a := m.store.Since(m.ctx, []l2.SinceRequest{{Partition: w.at, Since: c.stamp}})[0]
	if a.Err != nil {
		m.Errorf("since: %v", a.Err)
		return
	}
	m.follow(w, c, a.Delta)
	w.mu.Lock()
	defer w.mu.Unlock()
	latest := make(map[soracache.Target]soracache.Position)
	for _, r := range w.records {
		for _, t := range r.Targets {
			if r.Position <= c.stamp.Position {
				latest[t] = max(latest[t], r.Position)
			}
		}
	}
	for t, at := range latest {
		if c.marks[t] < at {
			m.Errorf("seed %d: a follower at %v heard last of %s at %d, but it was recorded at %d", m.Seed, c.stamp, t, c.marks[t], at)
			return
		}
	}
}
