package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// session is a client that passes on what it knows: each request carries the
// stamp of all answers before it.
type session struct {
	number int
	stamp  soracache.Stamps
	// seen is, by partition, the latest beginning of a computation that it was
	// given: it has seen every record before that.
	seen map[int]int
}

// learn takes in the stamp of an answer to a request that showed another.
func (s *session) learn(shown, got soracache.Stamps) {
	for _, g := range got {
		if s.follows(shown, g) {
			s.stamp = s.stamp.Merge(soracache.Stamps{g})
		}
	}
}

// follows tells whether a stamp counts: one of another epoch does only if the
// request showed the present one. (Epochs have no order: what was asked earlier
// may come from one that was left since. A client that has several requests
// under way when an epoch begins can therefore see what is of the new one before
// it has learnt of it, and then again what is of the old one.)
func (s *session) follows(shown soracache.Stamps, got soracache.PartitionStamp) bool {
	mine, _ := s.stamp.At(got.Partition)
	asked, _ := shown.At(got.Partition)
	return mine.Epoch == 0 || mine.Epoch == got.Stamp.Epoch || asked.Epoch == mine.Epoch
}

type opKind uint8

const (
	opGet opKind = iota
	opFill
	opPut
	opRenew
	opRelease
	opInvalidate
	opHead
)

func (k opKind) String() string {
	return [...]string{"get", "fill", "put", "renew", "release", "invalidate", "head"}[k]
}

// op is one operation of a client: one call of a node's Backend.
type op struct {
	w       *world
	id      int
	kind    opKind
	host    *host
	boot    *boot // the life of the node that took it; nil if none did
	session *session
	ask     *ask // of which it is what the node does; nil: a client's own call
	timeout time.Duration
	cancel  context.CancelFunc // set once a node has it

	reads       []soracache.Read
	unconfirmed bool // accepted
	write       soracache.Write
	value       *computation // of a fill or put
	targets     []soracache.Target
	acknowledge bool
	settle      time.Duration

	began   int // the step in which the client called
	beganAt time.Duration
	least   soracache.Stamps // what it showed
	seen    map[int]int      // what its session had seen then
	records []*record        // that the store executed for it
	parking parking
	herd    int    // the first of those with whom it came
	space   string // another namespace; empty: the one that everything happens in

	// The outcome, set when then is called.
	results     []soracache.ReadResult
	written     soracache.WriteResult
	invalidated soracache.InvalidateResult
	head        soracache.HeadResult
	err         error
	done        bool
	then        func(*op)
}

func (o *op) String() string {
	var what string
	switch o.kind {
	case opGet:
		keys := make([]string, len(o.reads))
		for i, r := range o.reads {
			keys[i] = r.Key
		}
		what = strings.Join(keys, " ")
	case opInvalidate:
		what = targetsText(o.targets)
	case opFill, opPut, opRenew, opRelease:
		what = o.write.Key
	case opHead:
	}
	who := "client"
	if o.ask != nil {
		who = fmt.Sprintf("app %d", o.ask.app.number)
	}
	if o.session != nil {
		who = fmt.Sprintf("session %d", o.session.number)
	}
	return fmt.Sprintf("op%d (%s of %s at %s, begun at #%d)", o.id, o.kind.String()+" "+what, who, o.host, o.began)
}

// issue lets a client call its node.
func (w *world) issue(o *op) {
	w.enter(o)
	w.launch(o)
}

// enter begins an operation.
func (w *world) enter(o *op) {
	w.lastOp++
	o.w, o.id = w, w.lastOp
	o.began, o.beganAt = w.step, w.now()
	if o.timeout == 0 {
		o.timeout = w.cfg.OpTimeout
	}
	if o.session != nil {
		o.least = o.session.stamp
		o.seen = map[int]int{}
		for p, at := range o.session.seen {
			o.seen[p] = at
		}
	}
	if o.ask != nil {
		o.least = o.ask.least
	} else {
		w.count.operations++
	}
	if w.tracing() {
		w.logf("%s", o)
	}
	w.pending[o] = struct{}{}
	w.check.awaits(o)
}

func (w *world) launch(o *op) {
	if o.host.hold(func() { w.launch(o) }) {
		w.count.changed(Pause)
		return
	}
	o.boot = o.host.boot
	w.note("op", o.host.slot, uint64(o.id), uint64(o.kind))
	if o.boot == nil {
		o.err = errGone
		w.after(time.Duration(w.rng.IntN(100_000)), func() { w.finish(o) })
		return
	}
	// A few nanoseconds, so that no two timers fire at the same moment.
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), opKey{}, o), o.timeout+time.Duration(o.id))
	o.cancel = cancel
	go func() {
		defer cancel()
		results, written, invalidated, head, err := o.call(ctx)
		if o.kind == opGet && ctx.Err() != nil {
			// Whoever asked has gone: which of its keys had been answered by then
			// is nobody's business, and not decided by the seed.
			results, err = nil, ctx.Err()
		}
		w.arrive(fmt.Sprintf("result %08d", o.id), func() {
			o.results, o.written, o.invalidated, o.head, o.err = results, written, invalidated, head, err
			w.finish(o)
		})
	}()
}

func (o *op) call(ctx context.Context) (
	rs []soracache.ReadResult, wr soracache.WriteResult, inv soracache.InvalidateResult, head soracache.HeadResult, err error,
) {
	n := o.boot.node
	switch o.kind {
	case opGet:
		rs, err = n.Get(ctx, soracache.GetRequest{
			Namespace: namespace, Reads: o.reads, MinStamp: o.least, AcceptUnconfirmed: o.unconfirmed,
		})
	case opHead:
		head, err = n.Head(ctx, cmp.Or(o.space, namespace))
	case opInvalidate:
		inv, err = n.Invalidate(ctx, soracache.InvalidateRequest{Namespace: namespace, Targets: o.targets, Acknowledge: o.acknowledge, Settle: o.settle})
	case opFill, opPut, opRenew, opRelease:
		var ws []soracache.WriteResult
		if ws, err = n.Write(ctx, soracache.WriteRequest{Namespace: namespace, Writes: []soracache.Write{o.write}}); err == nil {
			wr, err = ws[0], ws[0].Err
		}
	}
	return rs, wr, inv, head, err
}

// finish takes in the outcome of an operation.
func (w *world) finish(o *op) {
	if o.boot != nil && o.boot == o.host.boot && o.host.hold(func() { w.finish(o) }) {
		return // the answer is still inside the paused node
	}
	if o.boot != nil && !o.boot.alive() {
		o.results, o.err = nil, errGone
	}
	o.done = true
	delete(w.pending, o)
	for i := range o.results {
		w.check.takenUp(o.results[i].Lease)
	}
	w.note("done", o.host.slot, uint64(o.id), outcomeOf(o))
	if w.tracing() {
		w.logf("%s: %s", o, o.outcome())
	}
	w.plan.finished(o)
	if o.boot != nil && o.boot.misfit {
		w.check.refusedWhole(o)
	}
	switch {
	case o.misled():
		o.results, o.session = nil, nil // nothing of it counts
	case errors.Is(o.err, soracache.ErrTooLarge):
		if w.count.crowded++; w.cfg.Crowd == 0 {
			w.check.violate("%s failed in an unexpected way: %v", o, o.err)
		}
	case o.err != nil && !expected(o.err):
		w.check.violate("%s failed in an unexpected way: %v", o, o.err)
	case o.kind == opGet && o.err == nil:
		w.got(o)
	case o.kind == opInvalidate:
		w.invalidated(o)
	case o.kind == opPut && o.err == nil:
		w.check.succeeded(o, []soracache.Target{soracache.Key(o.write.Key)}, false)
	}
	if o.session != nil && o.err == nil {
		o.session.learn(o.least, o.written.Stamp)
	}
	if o.then != nil {
		o.then(o)
	}
}

func (w *world) got(o *op) {
	for i := range o.results {
		r := &o.results[i]
		if r.Err != nil && !expected(r.Err) {
			w.check.violate("%s failed in an unexpected way: %v", o, r.Err)
		}
		if r.Err == nil && r.Status != soracache.StatusMiss {
			w.check.answered(o, o.reads[i].Key, r)
			w.check.refreshes(o, &o.reads[i], r)
			w.count.hits[min(r.Tier, soracache.TierL2)]++
		}
		if o.session != nil && r.Err == nil {
			o.session.learn(o.least, r.Stamp)
		}
	}
}

func (w *world) invalidated(o *op) {
	stamp, acknowledged := o.invalidated.Stamp, o.acknowledge
	if incomplete := (*soracache.IncompleteError)(nil); errors.As(o.err, &incomplete) {
		stamp, acknowledged = incomplete.Stamp, false // recorded all the same
	} else if o.err != nil {
		return // it may or may not have happened: it obliges nobody to anything
	}
	w.check.succeeded(o, o.targets, acknowledged)
	if acknowledged {
		w.count.acknowledged++
		w.count.stragglers += len(o.invalidated.Stragglers)
	}
	if o.session != nil {
		o.session.learn(o.least, stamp)
	}
}

// waits tells whether a client waits at a host for a key whose hash is this.
func (w *world) waits(h *host, hash uint64) bool {
	for o := range w.pending {
		for _, r := range o.reads {
			if o.host == h && r.Wait > 0 && invalidation.KeyHash(r.Key) == hash {
				return true
			}
		}
	}
	return false
}

// awaited tells whether a client waits for the acknowledgement of a record.
func (w *world) awaited(at soracache.Stamp) bool {
	for o := range w.pending {
		if o.acknowledge && has(o.records, at) {
			return true
		}
	}
	return false
}

func expected(err error) bool {
	incomplete := (*soracache.IncompleteError)(nil)
	return errors.Is(err, soracache.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, context.Canceled) || errors.Is(err, errSource) || errors.Is(err, soracache.ErrTooLarge) ||
		errors.Is(err, soracache.ErrStoreFull) || errors.As(err, &incomplete)
}

// failed tells whether the operation got no answer, or part of it.
func (o *op) failed() bool {
	for i := range o.results {
		if o.results[i].Err != nil {
			return true
		}
	}
	return o.err != nil
}

// outcome says in words what became of an operation.
func (o *op) outcome() string {
	if o.err != nil {
		return "failed: " + o.err.Error()
	}
	switch o.kind {
	case opGet:
		out := make([]string, len(o.results))
		for i := range o.results {
			out[i] = resultText(&o.results[i])
		}
		return strings.Join(out, "; ")
	case opInvalidate:
		if len(o.invalidated.Stragglers) > 0 {
			return fmt.Sprintf("recorded; stragglers %v", o.invalidated.Stragglers)
		}
		return "recorded"
	case opHead:
		return fmt.Sprintf("%v, %s old", o.head.Stamp, o.head.Age)
	case opFill, opPut, opRenew, opRelease:
	}
	return o.written.Reason.String()
}

func resultText(r *soracache.ReadResult) string {
	if r.Err != nil {
		return "failed: " + r.Err.Error()
	}
	out := [...]string{"", "miss", "hit", "stale"}[r.Status]
	if r.Status != soracache.StatusMiss {
		out += fmt.Sprintf(" %s from %s", r.Entry.Value, r.Tier)
	}
	if r.Unconfirmed {
		out += ", unconfirmed"
	}
	if r.Lease != (soracache.Lease{}) {
		out += ", with a lease"
	}
	return out
}

func outcomeOf(o *op) uint64 {
	h := uint64(o.written.Reason) + 10*uint64(len(o.invalidated.Stragglers))
	if o.err != nil {
		return 1
	}
	for i := range o.results {
		r := &o.results[i]
		h = h*31 + uint64(r.Status)*7 + uint64(r.Tier)
		for _, b := range r.Entry.Value {
			h = h*31 + uint64(b)
		}
		if r.Err != nil {
			h++
		}
		if r.Lease != (soracache.Lease{}) {
			h += 1 << 40
		}
	}
	return h
}
