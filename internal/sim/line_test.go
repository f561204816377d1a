package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
)

// An app is the Backend of its own client: a line to the nodes, on which
// everything can go wrong.
var _ soracache.Backend = (*app)(nil)

// ask is one request of a client on its way: to a node, and back.
type ask struct {
	app  *app
	kind opKind
	use  *use // that it is part of; nil: the client asks for itself

	reads       []soracache.Read
	least       soracache.Stamps
	unconfirmed bool
	write       soracache.Write
	invalidate  soracache.InvalidateRequest
	patience    time.Duration // how long the client waits; zero: without end

	sent int  // the step in which it was sent
	over bool // the client has gone
	op   *op  // at the node, once it has come there
	done chan struct{}

	results     []soracache.ReadResult
	written     soracache.WriteResult
	invalidated soracache.InvalidateResult
	head        soracache.HeadResult
	err         error // set before done is closed
}

// Get implements soracache.Backend.
func (a *app) Get(ctx context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	k := &ask{kind: opGet, reads: req.Reads, least: req.MinStamp, unconfirmed: req.AcceptUnconfirmed}
	if err := a.ask(ctx, k); err != nil {
		return nil, err
	}
	return k.results, nil
}

// Write implements soracache.Backend.
func (a *app) Write(ctx context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
	kinds := [...]opKind{soracache.OpFill: opFill, soracache.OpPut: opPut, soracache.OpRenew: opRenew, soracache.OpRelease: opRelease}
	k := &ask{kind: kinds[req.Writes[0].Op], write: req.Writes[0]}
	if err := a.ask(ctx, k); err != nil {
		return nil, err
	}
	return []soracache.WriteResult{k.written}, nil
}

// Invalidate implements soracache.Backend.
func (a *app) Invalidate(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
	k := &ask{kind: opInvalidate, invalidate: req}
	if err := a.ask(ctx, k); err != nil {
		return soracache.InvalidateResult{}, err
	}
	return k.invalidated, nil
}

// Head implements soracache.Backend.
func (a *app) Head(ctx context.Context, _ string) (soracache.HeadResult, error) {
	k := &ask{kind: opHead}
	if err := a.ask(ctx, k); err != nil {
		return soracache.HeadResult{}, err
	}
	return k.head, nil
}

// name tells a request from all others of the same moment.
func (k *ask) name() string {
	id, what := 0, k.write.Key
	if k.use != nil {
		id = k.use.id
	}
	switch k.kind {
	case opGet:
		what = k.reads[0].Key
	case opInvalidate:
		what = targetsText(k.invalidate.Targets)
	case opFill, opPut, opRenew, opRelease, opHead:
	}
	return strings.TrimSpace(fmt.Sprintf("ask %d %08d %d %s", k.app.number, id, k.kind, what))
}

func (k *ask) String() string {
	of := "itself"
	if k.use != nil {
		of = fmt.Sprint("use", k.use.id)
	}
	name := strings.SplitN(k.name(), " ", 5)
	return fmt.Sprintf("app %d asks for %s: %s %s", k.app.number, of, k.kind, strings.Join(name[4:], " "))
}

// ask makes one request and waits for its answer.
func (a *app) ask(ctx context.Context, k *ask) error {
	k.app, k.done = a, make(chan struct{})
	k.use, _ = ctx.Value(useKey{}).(*use)
	if deadline, ok := ctx.Deadline(); ok {
		k.patience = max(time.Until(deadline), 1)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !a.w.arrive(k.name(), func() { a.send(k) }) {
		return errGone
	}
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
		a.w.arrive("leaves "+k.name(), func() { a.leave(k) })
		return ctx.Err()
	}
}

// leave is told that the client does not wait any more. The node hears of it
// later, or never.
func (a *app) leave(k *ask) {
	k.over = true
	if !a.cut && k.op != nil && !k.op.done && k.op.cancel != nil {
		a.w.after(a.x.way(), k.op.cancel)
	}
}

// send sends a request on its way.
func (a *app) send(k *ask) {
	w := a.w
	k.sent = w.step
	w.check.waitsAgain(k)
	if k.kind == opFill || k.kind == opRelease {
		a.tells(k)
	}
	a.asked = append(slices.DeleteFunc(a.asked, func(k *ask) bool { return k.over }), k)
	if k.use != nil {
		k.use.asked++
	}
	w.note("ask", a.number, uint64(k.kind))
	if w.tracing() {
		w.logf("%s", k)
	}
	switch {
	case a.cut || a.x.happens(LineLoses, 60):
		if !a.cut {
			w.count.inject(LineLoses)
		}
		a.lost(k, LineLoses)
	default:
		w.after(a.x.way(), func() { a.reach(k) })
	}
}

// tells notes that the client completes a lease, or hands it back.
func (a *app) tells(k *ask) {
	for _, l := range slices.Concat(a.running, a.w.check.ended) {
		if l.lease.grant != nil && l.lease.nonce == k.write.Lease {
			l.told = k.kind
		}
	}
}

// lost is what becomes of a request or an answer that does not arrive: the
// client waits until its time is over, or is told that the line broke.
func (a *app) lost(k *ask, f Fault) {
	if a.cut {
		f = AppCut
	}
	if !k.over && k.kind != opHead {
		a.w.count.changed(f)
	}
	if a.w.rng.IntN(2) == 0 || k.patience == 0 {
		a.w.after(a.x.way(), func() { a.answer(k, errReset) })
	}
}

// reach brings a request to a node: mostly to the one that this application
// asks first. Two that want a lease of one key, or wait in one partition, do not
// meet at a node: see workload.asking.
func (a *app) reach(k *ask) {
	w := a.w
	if k.over {
		return
	}
	h := a.node()
	if !a.fits(h, k) {
		if h = a.other(k); h == nil {
			w.after(ms+time.Duration(w.rng.IntN(1000)), func() { a.reach(k) })
			return
		}
	}
	o := &op{kind: k.kind, host: h, ask: k, timeout: k.patience, unconfirmed: k.unconfirmed, write: k.write}
	o.reads = append(o.reads, k.reads...)
	for i := range o.reads {
		if o.reads[i].Lease {
			o.reads[i].LeaseFor = a.l.upTo(w.cfg.LeaseFor)
		}
	}
	if k.kind == opRenew {
		o.write.LeaseFor = a.l.upTo(w.cfg.LeaseFor)
	}
	if k.write.Entry.Value != nil {
		o.value = w.check.of(k.write.Entry.Value)
	}
	o.targets, o.acknowledge = k.invalidate.Targets, k.invalidate.Acknowledge
	a.l.takes(o, 1)
	o.then = func(o *op) {
		a.l.takes(o, -1)
		a.comesBack(k, o)
	}
	k.op = o
	w.issue(o)
}

// node is whom the next request goes to.
func (a *app) node() *host {
	if a.w.rng.IntN(6) == 0 {
		a.home = a.w.rng.IntN(len(a.w.hosts))
	}
	return a.w.hosts[a.home]
}

func (a *app) fits(h *host, k *ask) bool {
	for _, r := range k.reads {
		at, lot := a.l.places(h, r.Key)
		if r.Lease && a.l.asking[at] > 0 || r.Wait > 0 && a.l.parked[lot] > 0 {
			return false
		}
	}
	return true
}

func (a *app) other(k *ask) *host {
	for _, h := range a.w.hosts {
		if a.fits(h, k) {
			return h
		}
	}
	return nil
}

// comesBack sends a node's answer on its way.
func (a *app) comesBack(k *ask, o *op) {
	if k.over {
		return
	}
	if a.cut || a.x.happens(LineLoses, 60) {
		if !a.cut {
			a.w.count.inject(LineLoses)
		}
		a.lost(k, LineLoses)
		return
	}
	a.w.after(a.x.way(), func() {
		k.results, k.written, k.invalidated, k.head = o.results, o.written, o.invalidated, o.head
		a.answer(k, o.err)
	})
}

// answer gives the client its answer.
func (a *app) answer(k *ask, err error) {
	if k.over {
		return
	}
	k.over, k.err = true, err
	a.w.note("answer", a.number, uint64(k.kind))
	if a.w.tracing() {
		a.w.logf("%s: answered%s", k, errText(err))
	}
	a.w.check.told(k)
	close(k.done)
}

// stream is one watch: at a node, on its way, and at the client.
type stream struct {
	app    *app
	number int
	from   soracache.Stamps
	boot   *boot // where it is; nil until it has come there
	cancel context.CancelFunc
	gone   chan struct{} // closed if the node dies
	inbox  chan batch    // what the client takes in
	over   bool          // nothing comes to the client any more
	ended  bool          // at the node
	silent bool          // it broke, and nobody has noticed
	news   bool          // something came after it broke, or was held back
	first  bool          // the first batch has come
	last   time.Duration // when the latest batch comes: they keep their order

	room    chan struct{} // wakes the node, if it waits for that, to send on
	mu      sync.Mutex
	outbox  []soracache.WatchItem // what the node sends at this moment; guarded by mu
	leaving bool                  // the scheduler has been told of that; guarded by mu
	flying  int                   // batches that the client has not taken in; guarded by mu
}

type batch struct {
	items []soracache.WatchItem
	err   error
}

// Watch implements soracache.Backend.
func (a *app) Watch(ctx context.Context, req soracache.WatchRequest, deliver func([]soracache.WatchItem) error) error {
	s := &stream{app: a, from: req.From, inbox: make(chan batch, 256), gone: make(chan struct{}), room: make(chan struct{}, 1)}
	name := fmt.Sprintf("watch %d", a.number)
	if !a.w.arrive(name, func() { a.open(s) }) {
		return errGone
	}
	for {
		var err error
		select {
		case b := <-s.inbox:
			if err = b.err; err == nil {
				err = deliver(b.items)
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			a.w.arrive(name+" ends", func() { s.leave() })
			return err
		}
	}
}

// open sends a watch on its way to some node.
func (a *app) open(s *stream) {
	w := a.w
	w.streams++
	s.number = w.streams
	a.stream = s
	w.logf("app %d watches, as watch %d, from %v", a.number, s.number, s.from)
	if a.cut {
		w.after(20*ms, func() { s.end(errRefused) })
		return
	}
	w.after(a.x.way(), func() { s.reach(w.hosts[w.rng.IntN(len(w.hosts))]) })
}

// reach brings the watch to a node.
func (s *stream) reach(h *host) {
	w := s.app.w
	if s.over || h.hold(func() { s.reach(h) }) {
		return
	}
	if s.boot = h.boot; s.boot == nil {
		s.after(func() { s.end(errRefused) })
		return
	}
	w.note("watch", s.app.number, uint64(h.slot))
	w.logf("watch %d of app %d reaches %s", s.number, s.app.number, s.boot.name)
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	s.boot.streams = append(s.boot.streams, s)
	b, name := s.boot, fmt.Sprintf("watch %06d over", s.number)
	go func() {
		err := b.node.Watch(ctx, soracache.WatchRequest{Namespace: namespace, From: s.from}, func(items []soracache.WatchItem) error {
			return s.deliver(ctx, items)
		})
		w.arrive(name, func() { s.closes(err) })
	}()
}

// after lets something of the stream happen when it has come over the line,
// behind what was sent before.
func (s *stream) after(run func()) {
	w := s.app.w
	s.last = max(s.last+1, w.now()+s.app.x.way())
	w.after(s.last-w.now(), run)
}

// deliver is what the node calls. What it sends at one moment travels as one, and
// none of those calls waits but the first: for how many of them it makes of that is
// up to the scheduler of the machine.
func (s *stream) deliver(ctx context.Context, items []soracache.WatchItem) error {
	w := s.app.w
	for !s.takes(items) {
		select {
		case <-s.room:
			if s.boot.drains() {
				// Otherwise what comes first would be up to the machine: that the
				// node sends on, or that it ends its watches.
				return errReset
			}
		case <-s.gone:
			return errGone
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return nil
	}
	s.leaving = true
	s.flying++
	if !s.boot.alive() || !w.arrive(fmt.Sprintf("items %06d", s.number), s.sends) {
		return errGone
	}
	return nil
}

// takes takes in what the node sends, if not too much is on its way.
func (s *stream) takes(items []soracache.WatchItem) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.leaving && s.flying >= s.app.w.cfg.WatchWindow {
		return false
	}
	s.outbox = append(s.outbox, items...)
	return true
}

// sends is told what the node sends.
func (s *stream) sends() {
	w := s.app.w
	if s.boot.host.boot == s.boot && s.boot.host.hold(s.sends) {
		w.count.changed(Pause)
		return
	}
	s.mu.Lock()
	items := s.outbox
	s.outbox, s.leaving = nil, false
	s.mu.Unlock()
	slices.SortStableFunc(items, func(a, b soracache.WatchItem) int { return cmp.Compare(a.Partition, b.Partition) })
	w.note("items", s.app.number)
	if w.tracing() {
		w.logf("watch %d: %s sends %s", s.number, s.boot.name, itemsText(items))
	}
	s.after(func() { s.arrive(items) })
}

// taken lets the node send on, if it waits for that.
func (s *stream) taken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying--
	select {
	case s.room <- struct{}{}:
	default:
	}
}

// arrive brings a batch to the client.
func (s *stream) arrive(items []soracache.WatchItem) {
	a := s.app
	switch {
	case s.over:
	case s.silent || a.cut:
		// What is lost stays lost: the line does not come back.
		if s.silent = true; !s.news && recordsIn(items) {
			s.news = true
			a.w.count.changed(StreamSilent)
			if a.cut {
				a.w.count.changed(AppCut)
			}
		}
	case a.stalled:
		if recordsIn(items) {
			a.w.count.changed(StreamStalls)
		}
		a.stuck = append(a.stuck, func() { s.arrive(items) })
	default:
		if s.first = true; a.behind {
			a.behind = false
			if recordsIn(items) || resetsIn(items) {
				a.w.count.changed(StreamBreaks)
			}
		}
		if a.w.tracing() {
			a.w.logf("watch %d: app %d takes in %s", s.number, a.number, itemsText(items))
		}
		s.inbox <- batch{items: items}
		s.taken()
	}
}

func recordsIn(items []soracache.WatchItem) bool {
	for _, i := range items {
		if len(i.Records) > 0 {
			return true
		}
	}
	return false
}

func resetsIn(items []soracache.WatchItem) bool {
	for _, i := range items {
		if i.Reset {
			return true
		}
	}
	return false
}

func itemsText(items []soracache.WatchItem) string {
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = fmt.Sprintf("[%d: %x up to %d", item.Partition, item.Epoch, item.Complete)
		if item.Reset {
			out[i] += " reset"
		}
		for _, r := range item.Records {
			out[i] += fmt.Sprintf(" %d:%s", r.Position, targetsText(r.Targets))
		}
		out[i] += "]"
	}
	return strings.Join(out, " ")
}

// closes is told that the node's end of the watch has ended.
func (s *stream) closes(err error) {
	w := s.app.w
	if s.boot.host.boot == s.boot && s.boot.host.hold(func() { s.closes(err) }) {
		return
	}
	s.ended = true
	w.note("watch over", s.app.number)
	w.logf("watch %d ends at %s%s", s.number, s.boot.name, errText(err))
	if !s.boot.alive() {
		err = errReset
		if s.app.x.on && w.rng.IntN(3) == 0 {
			s.silent = true // nobody is left to say so
			return
		}
	}
	s.after(func() { s.end(err) })
}

// breaks ends the stream in between: each end hears of it some time later.
func (s *stream) breaks() {
	w := s.app.w
	if s.over {
		return
	}
	w.after(s.app.x.way(), func() { s.end(errReset) })
	if s.cancel != nil {
		w.after(s.app.l.upTo(s.app.w.cfg.AppBound), s.cancel)
	}
}

// end tells the client that the stream is over.
func (s *stream) end(err error) {
	a := s.app
	if s.over || s.silent {
		return
	}
	if a.stalled {
		a.stuck = append(a.stuck, func() { s.end(err) })
		return
	}
	if err == nil {
		err = errReset
	}
	s.over, a.behind = true, s.first
	a.w.note("stream over", a.number)
	a.w.logf("watch %d: app %d is told that it is over%s", s.number, a.number, errText(err))
	s.inbox <- batch{err: err}
}

// leave is told that the client does not listen any more.
func (s *stream) leave() {
	s.over = true
	if s.cancel != nil && !s.ended {
		s.app.w.after(s.app.x.way(), s.cancel)
	}
}
