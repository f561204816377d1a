package sim

import (
	"fmt"
	"time"

	"github.com/soracache/soracache"
)

// workload is the clients of a random run.
type workload struct {
	w *world
	x *chaos
	// asking and parked hold the reads that want a lease: at most one of a key
	// and one waiting in a partition at each node. Two that are woken by one
	// event run at once, and which of them gets the lease would depend on the
	// scheduler of the machine and not on the seed.
	asking map[place]int
	parked map[[2]int]int
	// resting hosts get no requests for a while, so that partitions idle.
	resting map[int]bool
	done    bool
}

func (w *world) newWorkload(x *chaos) *workload {
	for i := range w.cfg.Sessions {
		w.clients = append(w.clients, &session{number: i + 1, seen: map[int]int{}})
	}
	return &workload{w: w, x: x, asking: map[place]int{}, parked: map[[2]int]int{}, resting: map[int]bool{}}
}

// begin issues operations until there were enough.
func (l *workload) begin() {
	l.next()
	l.rest()
}

func (l *workload) next() {
	gap := time.Duration(l.w.rng.ExpFloat64() * float64(l.w.cfg.Gap))
	l.w.after(min(gap, 10*l.w.cfg.Gap)+time.Duration(l.w.rng.IntN(1000)), func() {
		if l.w.count.operations >= l.w.cfg.Operations {
			l.done = true
			return
		}
		l.one()
		l.next()
	})
}

func (l *workload) rest() {
	for i := range l.w.hosts {
		l.resting[i] = l.w.rng.IntN(4) < l.w.cfg.Resting
	}
	if !l.done {
		l.w.after(20*ms+time.Duration(l.w.rng.Int64N(int64(400*ms))), l.rest)
	}
}

func (l *workload) host() *host {
	for range 4 {
		if h := l.w.hosts[l.w.rng.IntN(len(l.w.hosts))]; !l.resting[h.slot] {
			return h
		}
	}
	return l.w.hosts[l.w.rng.IntN(len(l.w.hosts))]
}

func (l *workload) session() *session {
	if l.w.rng.IntN(2) == 0 {
		return nil
	}
	return l.w.clients[l.w.rng.IntN(len(l.w.clients))]
}

func (l *workload) key() string { return keyName(l.w.rng.IntN(l.w.cfg.Keys)) }

func (l *workload) one() {
	c := &l.w.cfg
	roll := l.w.rng.IntN(1000)
	switch {
	case roll < c.Invalidations:
		l.invalidate()
	case roll < c.Invalidations+c.Puts:
		l.put()
	case roll < c.Invalidations+c.Puts+c.Batches:
		l.get(2 + l.w.rng.IntN(3))
	case roll < c.Invalidations+c.Puts+c.Batches+c.Herds:
		l.herds()
	case roll < c.Invalidations+c.Puts+c.Batches+c.Herds+c.Crowd:
		l.w.issue(&op{kind: opHead, host: l.host(), space: crowd})
	default:
		l.get(1)
	}
}

// crowd is a namespace of which nothing is judged: it takes up room.
const crowd = "crowd"

func (l *workload) upTo(d time.Duration) time.Duration {
	return d/8 + time.Duration(l.w.rng.Int64N(int64(2*d)))
}

func (l *workload) get(n int) {
	rng := l.w.rng
	o := &op{kind: opGet, host: l.host(), session: l.session(), unconfirmed: rng.IntN(10) == 0, then: l.read}
	lease, wait := rng.IntN(5) > 0, time.Duration(0)
	if rng.IntN(2) == 0 {
		wait = l.upTo(50 * ms)
	}
	if rng.IntN(20) == 0 {
		o.timeout = l.upTo(5 * ms) // a caller without patience
	}
	used := map[string]bool{}
	for range n {
		key := l.key()
		if used[key] {
			continue
		}
		used[key] = true
		r := soracache.Read{Key: key}
		at, lot := l.places(o.host, key)
		if lease && l.asking[at] == 0 {
			r.Lease, r.LeaseFor = true, l.upTo(l.w.cfg.LeaseFor)
			if o.session != nil {
				r.Holder = uint64(o.session.number)
			}
			if rng.IntN(4) == 0 {
				r.RefreshWithin = l.upTo(l.w.cfg.TTL / 4)
			}
			if wait > 0 && l.parked[lot] == 0 {
				r.Wait = wait
			}
		}
		o.reads = append(o.reads, r)
	}
	l.takes(o, 1)
	l.w.issue(o)
}

// takes counts what an operation wants at its host, and that it does not any
// more.
func (l *workload) takes(o *op, n int) {
	for _, r := range o.reads {
		at, lot := l.places(o.host, r.Key)
		if r.Lease {
			l.asking[at] += n
		}
		if r.Wait > 0 {
			l.parked[lot] += n
		}
	}
}

func (l *workload) places(h *host, key string) (at place, lot [2]int) {
	return place{h.slot, key}, [2]int{h.slot, l.w.partitionOf(key)}
}

// place is a key at a host.
type place struct {
	slot int
	key  string
}

// read takes in the outcome of a read: whoever was given a lease computes.
func (l *workload) read(o *op) {
	l.takes(o, -1)
	for i := range o.results {
		l.w.check.waitsFor(o, o.reads[i].Key, &o.results[i])
		if r := &o.results[i]; o.err == nil && r.Err == nil && r.Lease != (soracache.Lease{}) {
			l.load(o, o.reads[i].Key, r)
		}
	}
}

// load computes a value: the source is read at some moment, and the value is
// filled some time later.
func (l *workload) load(o *op, key string, r *soracache.ReadResult) {
	w := l.w
	g := w.check.grants[r.Lease]
	if g == nil || g.key != key {
		w.check.violate("%s was given a lease of %s that the store did not give", o, key)
		return
	}
	w.count.loads++
	lease := r.Lease
	if l.x.orphan > 0 {
		l.x.orphan--
		l.x.inject(HolderCrash, key)
		g.orphaned = true
		w.check.orphans[key] = true
		return
	}
	takes := l.upTo(w.cfg.Load)
	slow := l.x.slow > 0
	if slow {
		l.x.slow--
		l.x.inject(SlowLoader, key)
		takes += l.upTo(5 * w.cfg.Load)
		takes += l.upTo(w.cfg.LeaseFor)
	}
	w.after(time.Duration(w.rng.Int64N(int64(takes))), func() {
		v := w.check.compute(key, g.step)
		w.logf("the source of %s is read: version %d as %s", key, v.version, v.value())
		if w.rng.IntN(6) == 0 {
			l.write(o, soracache.OpRenew, key, lease, nil, nil)
		}
		w.after(takes/2+time.Duration(w.rng.Int64N(int64(takes))), func() {
			if w.rng.IntN(12) == 0 || l.fails(o) {
				l.write(o, soracache.OpRelease, key, lease, nil, nil)
				return
			}
			l.fill(o, key, lease, v, slow)
		})
	})
}

// fails tells whether a load fails because it is of the session whose loads mostly
// do, where there is one.
func (l *workload) fails(o *op) bool {
	return l.w.cfg.FailingSession && o.session != nil && o.session.number == 1 && l.w.rng.IntN(4) > 0
}

func (l *workload) fill(o *op, key string, lease soracache.Lease, v *computation, slow bool) {
	l.write(o, soracache.OpFill, key, lease, v, func(f *op) {
		if f.err == nil && !f.written.Stored {
			l.w.count.refused++
			if slow {
				l.w.count.changed(SlowLoader)
			}
		}
		if f.err != nil && l.w.rng.IntN(2) == 0 && !l.done {
			l.fill(o, key, lease, v, slow) // again: it may have been stored or not
		}
	})
}

// write issues a write for whoever did a read, mostly at the same node.
func (l *workload) write(o *op, kind soracache.WriteOp, key string, lease soracache.Lease, v *computation, then func(*op)) {
	h := o.host
	if l.w.rng.IntN(8) == 0 {
		h = l.host()
	}
	wr := soracache.Write{Op: kind, Key: key, Lease: lease, LeaseFor: l.upTo(l.w.cfg.LeaseFor)}
	if kind == soracache.OpRelease {
		wr.Outcome = soracache.LoadOutcome(len(l.w.check.computed) % 3)
	}
	if v != nil {
		wr.Entry = soracache.Entry{Value: v.value(), Tags: v.tags}
		wr.Lifetime = l.lifetime()
	}
	kinds := [...]opKind{soracache.OpFill: opFill, soracache.OpPut: opPut, soracache.OpRenew: opRenew, soracache.OpRelease: opRelease}
	l.w.issue(&op{kind: kinds[kind], host: h, session: o.session, write: wr, value: v, then: then})
}

func (l *workload) lifetime() soracache.Lifetime {
	ttl := l.upTo(l.w.cfg.TTL)
	lt := soracache.Lifetime{TTL: ttl, Keep: max(ttl, l.upTo(l.w.cfg.Keep))}
	if l.w.rng.IntN(3) == 0 {
		lt.L1 = l.upTo(l.w.cfg.Keep)
	}
	return lt
}

// put writes without a lease what it has just committed to the source.
func (l *workload) put() {
	key := l.key()
	l.w.check.commit([]soracache.Target{soracache.Key(key)})
	v := l.w.check.compute(key, l.w.step)
	l.write(&op{host: l.host(), session: l.session()}, soracache.OpPut, key, soracache.Lease{}, v, nil)
}

// invalidate commits a change to the source, and only then invalidates.
func (l *workload) invalidate() {
	w := l.w
	var targets []soracache.Target
	switch {
	case w.rng.IntN(1000) < w.cfg.Everything:
		targets = append(targets, soracache.Everything())
	case w.rng.IntN(2) == 0:
		targets = append(targets, soracache.Key(l.key()))
	default:
		targets = append(targets, soracache.Tag(tagName(w.rng.IntN(w.cfg.Tags))))
	}
	if w.rng.IntN(8) == 0 {
		// Names that nothing carries share slots of the marks with those that do.
		for range w.rng.IntN(12) {
			targets = append(targets, soracache.Tag(fmt.Sprintf("other%d", w.rng.IntN(5000))))
		}
	}
	w.check.commit(targets)
	w.check.retag(w.rng.IntN(w.cfg.Keys), w.rng.IntN(w.cfg.Tags), targets)
	o := &op{kind: opInvalidate, host: l.host(), session: l.session(), targets: targets}
	o.acknowledge = w.rng.IntN(1000) < w.cfg.Acknowledged
	if w.cfg.Settling > 0 && w.rng.IntN(1000) < w.cfg.Settling {
		o.settle = l.upTo(w.cfg.Settle)
	}
	if w.rng.IntN(2) == 0 {
		w.issue(o)
		return
	}
	w.after(l.upTo(ms), func() { w.issue(o) }) // some time after the commit
}
