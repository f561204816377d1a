package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2"
)

// checker knows the source, every computation, every record that the store
// appended, and who was told what when. With that it judges each answer that a
// client gets by the guarantees, G2 to G9, of docs/guarantees.md.
//
// Moments are counted in steps of the world, which order everything that
// happens in it. Where a guarantee speaks of a time, as B does, it is the
// virtual one.
type checker struct {
	w          *world
	source     map[string]*sourceKey
	computed   []*computation // by their number, which is their value
	grants     map[soracache.Lease]*grant
	partitions []*history
	violations []violation
	// restored is the step at which data was last brought back from before.
	restored int
	// newest is, by key, the latest beginning of a computation that the store
	// returned since then.
	newest  map[string]int
	leases  leases
	lives   map[*boot]*life
	orphans map[string]bool // keys whose lease somebody took and vanished
	losses  int             // of data, so far: each can make ledgers take new epochs
	flushed int             // the step at which everything was lost
	ended   []*loader       // at this moment
	moment  time.Duration   // when the last one ended
	untaken map[soracache.Lease]untaken
	holders map[string]*grant // by key: the last lease that was given
	waiters []*op             // that may wait for leases
	wakes   []wake            // at this moment
}

type violation struct {
	at   time.Duration
	step int
	text string
}

// sourceKey is one key in the source of truth.
type sourceKey struct {
	version int
	tags    []string
}

// computation is one value: computed under a lease, or put.
type computation struct {
	id      int
	key     string
	version int
	tags    []string
	// began is the step from which on records kill it: that of the lease's
	// being granted, or of the put's own append.
	began int
	// read is when the source was read, or the put executed: of two
	// computations of a key the later one is fresher.
	read int
	// stored is the step in which the store took it in (0: it did not), and
	// undone means that a restored snapshot was from before that.
	stored int
	undone bool
	// parts are its ingredients, which the client gave to its loader.
	parts []*computation
	// loader is the run of an application's loader that made it.
	loader *loader
}

func (c *computation) value() []byte { return []byte("c" + strconv.Itoa(c.id)) }

// grant is a lease that the store gave.
type grant struct {
	key      string
	step     int
	at       time.Duration
	boot     *boot
	orphaned bool // whoever got it is gone
	taken    bool // its node gave it to somebody, or handed it back
	// until is when it runs out unless it is renewed, and ended is the step in
	// which it was completed or handed back; 0: it was not.
	until time.Duration
	ended int
	// unsure: it had run out when the store's clock was set back, and may stand
	// again or not.
	unsure bool
}

// history is what happened to the ledger of one partition, as it stands: what
// a restored snapshot undid is not in it.
type history struct {
	records []*record
	epoch   soracache.Epoch
	minted  int // the step of the last new epoch
	mints   int // new epochs since the last loss of data: see lost
	// registered is when each node's life first registered.
	registered map[*boot]int
	// suspects followed a branch of history that was undone: the first answer
	// that one gets must be of a new epoch, or a reset.
	suspects map[*boot]int // the step at which it became one
	// unregistered: registrations were evicted, and none has been asked for since.
	unregistered bool
}

// record is an invalidation that the store executed, or a new epoch, which is
// to everything older what an invalidation of everything is.
type record struct {
	at       int // the step of its execution
	stamp    soracache.Stamp
	targets  []soracache.Target
	mint     bool
	by       *op // the client's operation, if one asked for it
	origin   *boot
	doneStep int // when its success was known to the client; 0: never
	doneAt   time.Duration
	// heard is when its node had the store's answer; 0: it has not.
	heard int
	// owner is the application that made it, and since owned knows of its success.
	owner *app
	owned int
	// acknowledged: the client was told that nobody serves the old values.
	acknowledged bool
	// settled is until when it settles, and what is computed is not to be stored.
	settled time.Duration
	// exempt: lives whose registration a restore had undone when it was appended.
	exempt map[*boot]bool
	// regained: it was undone, and then undone was what had undone it.
	regained   bool
	regainedAt time.Duration
}

func (r *record) String() string {
	if r.mint {
		return fmt.Sprintf("new epoch at #%d", r.at)
	}
	return fmt.Sprintf("%s, recorded at #%d, known at #%d", targetsText(r.targets), r.at, r.doneStep)
}

// life is what is known of one life of a node.
type life struct {
	shown map[int]soracache.Stamp // the last that it showed, by partition
	knows map[soracache.Stamp]node.Source
	// newest is the latest beginning of a computation that it returned, by key,
	// and at which step.
	newest map[string]returned
	// held is when the store last told of a key that somebody holds its lease, or that
	// there is no room for one.
	held map[string]time.Duration
	// fetched is the step at which a key was last read from the store.
	fetched map[string]int
}

type returned struct{ read, at int }

func newChecker(w *world) *checker {
	c := &checker{
		w: w, source: map[string]*sourceKey{}, grants: map[soracache.Lease]*grant{},
		newest: map[string]int{}, lives: map[*boot]*life{}, computed: []*computation{nil},
		orphans: map[string]bool{}, untaken: map[soracache.Lease]untaken{},
		holders: map[string]*grant{},
	}
	for i := range w.cfg.Keys {
		k := keyName(i)
		c.source[k] = &sourceKey{version: 1, tags: []string{tagName(i % w.cfg.Tags)}}
	}
	for _, d := range w.cfg.Dishes {
		c.source[d.name] = &sourceKey{version: 1}
	}
	for range w.cfg.Partitions {
		c.partitions = append(c.partitions, &history{registered: map[*boot]int{}, suspects: map[*boot]int{}})
	}
	return c
}

func keyName(i int) string { return "k" + strconv.Itoa(i) }
func tagName(i int) string { return "t" + strconv.Itoa(i) }

func (c *checker) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.w.logf("VIOLATION: %s", text)
	if len(c.violations) < 20 {
		c.violations = append(c.violations, violation{c.w.now(), c.w.step, text})
	}
}

func (c *checker) started(b *boot) {
	c.lives[b] = &life{shown: map[int]soracache.Stamp{}, knows: map[soracache.Stamp]node.Source{}, newest: map[string]returned{}, fetched: map[string]int{}, held: map[string]time.Duration{}}
}

// commit changes the source of everything that targets concern, before they
// are invalidated.
func (c *checker) commit(targets []soracache.Target) {
	for i := range c.w.cfg.Keys {
		name := keyName(i)
		k := c.source[name]
		if concerns(targets, name, k.tags) {
			k.version++
		}
	}
}

// retag gives one key another tag, if what is about to be invalidated concerns
// it: the old value is named by its old tags.
func (c *checker) retag(key, tag int, targets []soracache.Target) {
	k := c.source[keyName(key)]
	if concerns(targets, keyName(key), k.tags) {
		k.tags = []string{tagName(tag)}
		if tag%2 == 1 {
			k.tags = []string{tagName(0), tagName(tag)}
		}
	}
}

func concerns(targets []soracache.Target, key string, tags []string) bool {
	return slices.ContainsFunc(targets, func(t soracache.Target) bool {
		switch t.Kind {
		case soracache.TargetAll:
			return true
		case soracache.TargetKey:
			return t.Name == key
		case soracache.TargetTag:
			return slices.Contains(tags, t.Name)
		}
		return false
	})
}

// compute reads the source for a key.
func (c *checker) compute(key string, began int) *computation {
	s := c.source[key]
	v := &computation{
		id: len(c.computed), key: key, version: s.version, tags: slices.Clone(s.tags), began: began, read: c.w.step,
	}
	c.computed = append(c.computed, v)
	return v
}

// of returns the computation that a value is.
func (c *checker) of(value []byte) *computation {
	n, err := strconv.Atoi(strings.TrimPrefix(string(value), "c"))
	if err != nil || n <= 0 || n >= len(c.computed) {
		return nil
	}
	return c.computed[n]
}

// What the store did. These run in the step that executes the call.

// met notes the epoch that an answer told of.
func (c *checker) met(p int, d soracache.Delta) {
	h := c.partitions[p]
	if d.Epoch == 0 || d.Epoch == h.epoch {
		return
	}
	if h.epoch != 0 {
		h.mints++
		if c.losses == 0 {
			c.violate("partition %d took a new epoch, though nothing was ever lost", p)
		} else if h.mints > c.mostMints() {
			c.violate("partition %d took %d new epochs more than the losses of data are a reason for", p, h.mints-c.mostMints())
		}
	}
	h.epoch, h.minted = d.Epoch, c.w.step
	c.leases.unsure()
	h.records = append(h.records, &record{
		at: c.w.step, stamp: soracache.Stamp{Epoch: d.Epoch, Position: d.Head}, mint: true,
		targets: []soracache.Target{soracache.Everything()}, doneStep: c.w.step, doneAt: c.w.now(),
	})
	if c.w.tracing() {
		c.w.logf("partition %d has a new epoch: %x at %d", p, d.Epoch, d.Head)
	}
}

// mostMints is how many new epochs one loss of data may bring: by what each node has
// followed, and by what it asked before it heard.
func (c *checker) mostMints() int { return 2*len(c.lives) + 2 }

// look notes the epoch of a partition after a step whose answer does not tell.
func (c *checker) look(at l2.Partition) {
	a := c.w.model.Since(context.Background(), []l2.SinceRequest{{Partition: at}})
	c.met(int(at.Index), a[0].Delta)
}

func (c *checker) registers(cl *call, p int, r l2.Registration) {
	h := c.partitions[p]
	if _, known := h.registered[cl.from]; !known && r.Name != "" {
		h.registered[cl.from] = c.w.step
	}
}

func (c *checker) trimmed(shown soracache.Stamp, d soracache.Delta) {
	if d.Reset && shown.Epoch == d.Epoch {
		c.w.count.changed(Trim)
	}
}

// took notes what every answer tells. It is false if there was none.
func (c *checker) took(cl *call, p int, shown soracache.Stamp, by l2.Registration, d soracache.Delta, err error) bool {
	switch {
	case err == nil && cl.from.misfit:
		c.violate("the store let in %s, which was told another number of partitions", cl.from.name)
		return false
	case err == nil:
	case cl.from.misfit && errors.Is(err, soracache.ErrUnavailable):
		return false
	case c.w.full && cl.kind == callWrite && errors.Is(err, soracache.ErrStoreFull):
		c.w.count.changed(StoreFull)
		return false
	default:
		c.violate("the store failed: %v", err)
		return false
	}
	// The epoch first: whatever is granted in this step is granted in it.
	c.met(p, d)
	if c.w.cfg.Settling > 0 {
		c.leases.unsure() // what has settled is recorded by itself
	}
	c.registers(cl, p, by)
	c.trimmed(shown, d)
	c.suspect(cl, p, shown, d)
	return true
}

func (c *checker) read(cl *call, req *l2.ReadRequest, a *l2.ReadAnswer) {
	if foreign(req.Partition) != "" {
		return
	}
	p := int(req.Partition.Index)
	if !c.took(cl, p, req.Since, req.Register, a.Delta, a.Err) {
		return
	}
	for i, k := range a.Keys {
		key := req.Keys[i].Key
		c.leaseAnswer(req, req.Keys[i], &a.Keys[i])
		takenOver := c.wished(&req.Keys[i], &a.Keys[i])
		if k.Lease == soracache.LeaseGranted && c.grants[req.Keys[i].Nonce] == nil {
			g := &grant{
				key: key, step: c.w.step, at: c.w.now(), boot: cl.from, until: c.w.storeNow() + req.Keys[i].LeaseFor,
			}
			c.granted(p, g, takenOver)
			c.grants[req.Keys[i].Nonce] = g
			cl.granted[req.Keys[i].Nonce] = key
			cl.changed = true
		}
		if k.Lease == soracache.LeaseHeld {
			c.heldBy(key)
		}
		if k.Lease == soracache.LeaseHeld || k.Refusal == soracache.RefusalStoreFull {
			cl.held = append(cl.held, key)
		}
		if !k.Found {
			continue
		}
		v := c.of(k.Entry.Value)
		if v == nil || v.key != key {
			c.violate("the store returned %q under %s", k.Entry.Value, key)
			continue
		}
		if v.read < c.newest[key] {
			c.violate("G7: the store returned %s of %s, computed at #%d, after one computed at #%d",
				v.value(), key, v.read, c.newest[key])
		}
		c.newest[key] = max(c.newest[key], v.read)
	}
}

// heldBy notes that a reader was refused a lease because somebody holds it.
func (c *checker) heldBy(key string) {
	if c.orphans[key] {
		c.w.count.changed(HolderCrash)
		delete(c.orphans, key)
	}
}

func (c *checker) wrote(cl *call, req *l2.WriteRequest, a *l2.WriteAnswer) {
	if foreign(req.Partition) != "" {
		return
	}
	p := int(req.Partition.Index)
	c.leaseEnded(req, a)
	if !c.took(cl, p, req.Since, req.Register, a.Delta, a.Err) {
		if g := c.grants[req.Nonce]; g != nil && req.Op == soracache.OpFill && g.ended == 0 {
			g.ended = c.w.step
		}
		return
	}
	c.completed(p, req, a)
	if a.Reason != soracache.ReasonNone {
		return
	}
	cl.changed = true
	switch req.Op {
	case soracache.OpFill:
		c.settles(p, c.grants[req.Nonce], c.stored(req))
	case soracache.OpPut:
		c.stored(req)
		c.recorded(cl, p, a.Record)
	case soracache.OpRelease, soracache.OpRenew:
	}
}

// stored notes that the value of a fill or a put is stored.
func (c *checker) stored(req *l2.WriteRequest) *computation {
	v := c.of(req.Entry.Value)
	v.stored = c.w.step
	if req.Op == soracache.OpPut && v.loader == nil { // what a loader made is no fresher for being put
		v.began, v.read = c.w.step, c.w.step
	}
	return v
}

// wroteElsewhere notes what an old primary has stored: the next reader need not find
// it. Whoever was given it may have it in memory still when it has heard from the
// new one, which may know of nothing that kills it.
func (c *checker) wroteElsewhere(reqs []l2.WriteRequest, answers []l2.WriteAnswer) {
	for i := range reqs {
		stores := reqs[i].Op == soracache.OpFill || reqs[i].Op == soracache.OpPut
		if stores && foreign(reqs[i].Partition) == "" && answers[i].Err == nil && answers[i].Reason == soracache.ReasonNone {
			c.stored(&reqs[i]).undone = true
		}
	}
}

// settles checks that nothing is stored of what was begun while something
// settled that names it.
func (c *checker) settles(p int, g *grant, v *computation) {
	if g == nil {
		return // which is another bug, and has another rule
	}
	for _, r := range c.partitions[p].records {
		if r.settled > g.at && r.at > c.flushed && r.at <= g.step && concerns(r.targets, v.key, v.tags) {
			c.violate("G1: %s of %s was stored, begun at #%d while this settled until %s: %s", v.value(), v.key, v.began, r.settled, r)
		}
	}
}

func (c *checker) invalidated(cl *call, req *l2.InvalidateRequest, a *l2.InvalidateAnswer) {
	if foreign(req.Partition) != "" {
		return
	}
	p := int(req.Partition.Index)
	if !c.took(cl, p, req.Since, req.Register, a.Delta, a.Err) {
		return
	}
	c.recorded(cl, p, a.Record)
	if req.Settle > 0 {
		records := c.partitions[p].records
		records[len(records)-1].settled = c.w.now() + req.Settle
		c.w.logf("that settles until %s", c.w.now()+req.Settle)
	}
	cl.changed = true
	if h := c.partitions[p]; req.Followers && h.unregistered {
		h.unregistered = false
		if a.RegisteredFor < cl.from.host.bound() {
			c.w.count.changed(EvictRegistrations)
		}
	}
}

func (c *checker) since(cl *call, req *l2.SinceRequest, a *l2.SinceAnswer) {
	if req.Guest {
		if a.Err == nil {
			c.met(int(req.Partition.Index), a.Delta)
		}
		return
	}
	c.took(cl, int(req.Partition.Index), req.Since, req.Register, a.Delta, a.Err)
}

func (c *checker) recorded(cl *call, p int, r soracache.Record) {
	h := c.partitions[p]
	c.leases.unsure()
	rec := &record{
		at: c.w.step, stamp: soracache.Stamp{Epoch: r.Epoch, Position: r.Position}, targets: r.Targets,
		by: cl.op, origin: cl.from,
	}
	for b := range c.lives {
		if _, registered := h.registered[b]; !registered && c.restored > 0 {
			if rec.exempt == nil {
				rec.exempt = map[*boot]bool{}
			}
			rec.exempt[b] = true
		}
	}
	h.records = append(h.records, rec)
	cl.appended = append(cl.appended, rec)
	if cl.op != nil {
		cl.op.records = append(cl.op.records, rec)
		if cl.op.ask != nil && cl.op.ask.use != nil {
			cl.op.ask.use.records = append(cl.op.ask.use.records, rec)
		}
	}
	if c.w.tracing() {
		c.w.logf("recorded in partition %d at %d: %s", p, r.Position, targetsText(r.Targets))
	}
}

// shows notes what a call shows to the ledgers.
func (c *checker) shows(cl *call) {
	for p, s := range cl.shown {
		if s.Epoch != 0 {
			c.lives[cl.from].shown[p] = s
		}
	}
}

// suspect checks G8: whoever followed a branch that was undone, and asks again,
// gets a new epoch or a reset. (It shows how far it has followed.)
func (c *checker) suspect(cl *call, p int, shown soracache.Stamp, d soracache.Delta) {
	h := c.partitions[p]
	since, suspected := h.suspects[cl.from]
	if !suspected || cl.arrived <= since {
		return
	}
	if shown.Epoch == 0 {
		if !cl.chore { // it had forgotten the namespace, and begins anew
			delete(h.suspects, cl.from)
		}
		return
	}
	if h.minted < since && !d.Reset {
		c.violate("G8: %s had followed partition %d to where it was undone, and asked, and got no new epoch", cl.from.name, p)
	}
	delete(h.suspects, cl.from)
}

// What was lost.

// lost notes that data was lost or changed behind the nodes' backs.
func (c *checker) lost() {
	c.losses++
	c.leases.lost(c.w.storeNow(), c.w.step)
	for _, h := range c.partitions {
		if c.losses == 1 {
			h.mints = 0
			continue
		}
		// What was asked before the losses before this one may still be on its way.
		h.mints = max(h.mints-c.mostMints(), -2*c.mostMints())
	}
}

// saved is the checker's part of a snapshot.
type saved struct {
	step       int
	records    [][]*record
	epochs     []soracache.Epoch
	minted     []int
	registered []map[*boot]int
}

func (c *checker) save() saved {
	s := saved{step: c.w.step}
	for _, h := range c.partitions {
		s.records = append(s.records, slices.Clone(h.records))
		s.epochs = append(s.epochs, h.epoch)
		s.minted = append(s.minted, h.minted)
		reg := map[*boot]int{}
		for b, at := range h.registered {
			reg[b] = at
		}
		s.registered = append(s.registered, reg)
	}
	return s
}

// restore notes that everything is again as it was saved. It reports how many
// records that undid.
func (c *checker) restore(s saved) (undone int) {
	c.lost()
	c.restored = c.w.step
	clear(c.newest)
	for _, l := range c.lives {
		clear(l.newest)
	}
	for _, v := range c.computed[1:] {
		v.undone = v.undone || v.stored > s.step
	}
	for p, h := range c.partitions {
		for _, r := range h.records {
			if !slices.Contains(s.records[p], r) {
				undone++
			}
		}
		for _, r := range s.records[p] {
			if !slices.Contains(h.records, r) {
				r.regained, r.regainedAt = true, c.w.now()
			}
		}
		clear(h.suspects)
		for b, l := range c.lives {
			at := l.shown[p]
			if b.alive() {
				at = b.followed(p)
			}
			if at.Epoch != 0 && has(h.records, at) && !has(s.records[p], at) {
				h.suspects[b] = c.w.step
			}
		}
		h.records = slices.Clone(s.records[p])
		h.epoch = s.epochs[p]
		h.minted = s.minted[p]
		h.registered = map[*boot]int{}
		for b, at := range s.registered[p] {
			h.registered[b] = at
		}
	}
	for _, session := range c.w.clients {
		clear(session.seen)
	}
	for _, a := range c.w.apps {
		a.known.forget()
	}
	return undone
}

// followed is how far a node says that it has followed a partition.
func (b *boot) followed(p int) soracache.Stamp {
	for _, s := range b.node.Partitions() {
		if s.Namespace == namespace && s.Partition == p {
			return soracache.Stamp{Epoch: s.Epoch, Position: s.Applied}
		}
	}
	return soracache.Stamp{}
}

func has(records []*record, at soracache.Stamp) bool {
	return slices.ContainsFunc(records, func(r *record) bool { return r.stamp == at })
}

// What clients got.

// succeeded notes that a client knows of the success of what it invalidated.
func (c *checker) succeeded(o *op, targets []soracache.Target, acknowledged bool) {
	found := map[int]bool{}
	for _, r := range o.records {
		r.doneStep, r.doneAt, r.acknowledged = c.w.step, c.w.now(), acknowledged
	}
	for p, h := range c.partitions {
		for _, r := range o.records {
			found[p] = found[p] || slices.Contains(h.records, r)
		}
		needed := slices.ContainsFunc(targets, func(t soracache.Target) bool {
			return t.Kind != soracache.TargetKey || c.w.partitionOf(t.Name) == p
		})
		if needed && !found[p] && c.restored <= o.began {
			c.violate("G2: %s succeeded, but nothing was recorded in partition %d", o, p)
		}
	}
}

// answered judges one value that a client got.
func (c *checker) answered(o *op, key string, r *soracache.ReadResult) {
	v := c.of(r.Entry.Value)
	switch {
	case v == nil || v.key != key:
		c.violate("%s of %s returned %q", o, key, r.Entry.Value)
		return
	case v.stored == 0:
		c.violate("%s of %s returned %s, which was never stored", o, key, v.value())
	case !slices.Equal(r.Entry.Tags, v.tags):
		c.violate("%s of %s returned tags %v, not %v", o, key, r.Entry.Tags, v.tags)
	}
	if o.began <= c.restored {
		return // it spans two histories
	}
	p := c.w.partitionOf(key)
	c.kills(v, func(at int, of *computation, rec *record) { c.superseded(o, at, r, of, rec) })
	if r.Unconfirmed {
		return
	}
	c.backwards(o, key, v)
	if r.Tier == soracache.TierL2 {
		c.lives[o.boot].fetched[key] = c.w.step
	}
	if at, ok := r.Stamp.At(uint16(p)); o.session != nil && ok &&
		o.session.follows(o.least, soracache.PartitionStamp{Partition: uint16(p), Stamp: at}) {
		o.session.seen[p] = max(o.session.seen[p], v.began)
	}
}

// superseded judges the return of a value that a record killed.
func (c *checker) superseded(o *op, p int, r *soracache.ReadResult, v *computation, rec *record) {
	say := func(g string) {
		c.violate("%s: %s returned %s=%s from %s, begun at #%d, but: %s", g, o, v.key, v.value(), r.Tier, v.began, rec)
	}
	known := rec.doneStep != 0 && rec.doneStep < o.began
	if known && r.Tier == soracache.TierL2 {
		say("G3")
		return
	}
	if rec.regained {
		if at := max(rec.doneAt, rec.regainedAt); known && !r.Unconfirmed && c.w.servedAt(o) > at+o.host.bound() {
			say("G8")
		}
		return
	}
	if least, ok := o.least.At(uint16(p)); ok && least.Epoch == rec.stamp.Epoch && least.Position >= rec.stamp.Position {
		say("G6 (stamp shown)")
		return
	}
	if r.Unconfirmed {
		return
	}
	switch {
	case o.session != nil && o.seen[p] > rec.at:
		say("G6 (seen before)")
	case known && !rec.mint && rec.acknowledged && !rec.exempt[o.boot]:
		say("G5")
	case !rec.mint && rec.origin == o.boot && rec.heard != 0 && rec.heard < o.began:
		say("G4 (at its own node)") // whether or not its caller knows of its success
	case known && c.w.servedAt(o) > rec.doneAt+o.host.bound():
		say("G4")
	}
}

// backwards checks G7 at one node: it does not return an older computation
// than one that it returned before.
func (c *checker) backwards(o *op, key string, v *computation) {
	if v.undone {
		return // it is not in the store any more, where the next reader may look
	}
	l := c.lives[o.boot]
	last := l.newest[key]
	if v.read < last.read && last.at < o.began {
		c.violate("G7: %s returned %s=%s, computed at #%d, though this node had returned one computed at #%d",
			o, key, v.value(), v.read, last.read)
	}
	if v.read > last.read {
		l.newest[key] = returned{read: v.read, at: c.w.step}
	}
}

// readSince tells whether a node has been given, since a step, something from
// the store that targets name.
func (c *checker) readSince(b *boot, step int, targets []soracache.Target) bool {
	for key, last := range c.lives[b].fetched {
		if last > step && concerns(targets, key, c.source[key].tags) {
			return true
		}
	}
	return false
}

// servedAt is when an answer was given: at the latest when the read of one key
// ended. What a batch took from memory, it took at its beginning.
func (w *world) servedAt(o *op) time.Duration {
	if len(o.reads) == 1 {
		return w.now()
	}
	return o.beganAt
}

// recorded is told by the node that it has taken in a record.
func (b *boot) recorded(space string, _ int, r soracache.Record, from node.Source) {
	if space != namespace {
		return
	}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	if l := b.w.check.lives[b]; l != nil {
		at := soracache.Stamp{Epoch: r.Epoch, Position: r.Position}
		if _, known := l.knows[at]; !known {
			l.knows[at] = from
		}
	}
}

// knows tells whether a node has taken in a record, and from where.
func (c *checker) knows(b *boot, at soracache.Stamp) (node.Source, bool) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	l := c.lives[b]
	if l == nil {
		return 0, false
	}
	from, known := l.knows[at]
	return from, known
}
