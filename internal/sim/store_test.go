package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// call is one call of a node to the store on its way: there, executed, and back.
type call struct {
	from *boot
	kind callKind
	op   *op // the client's operation that it is part of, if it is part of one
	// at is the partition of the first request, and what names its keys.
	at   int
	what string
	// keys are what a read asks for, and frees the keys whose lease a write may
	// end. clears are the partitions in which an invalidation names everything.
	keys, frees []string
	clears      []int
	// granted are the leases that a read was given, with their keys, and nonces
	// those that a write completes or hands back.
	granted map[soracache.Lease]string
	nonces  []soracache.Lease
	misled  bool // the old primary executed it
	// held are the keys of which a read was told that somebody holds the lease, or
	// that there is no room for one.
	held []string
	// appended are the records that it made.
	appended []*record

	run func() // executes it on the store and keeps the answer
	// rest are the other partitions of an invalidation, if it reaches them one
	// after the other.
	rest []func()
	done chan struct{}
	gone chan struct{} // closed if the node dies
	// executed and changed: it was, and it changed something.
	executed, changed bool
	err               error // set before done is closed: no answer, but this
	// arrived is when the scheduler took it in. What it shows was taken before.
	arrived int
	// shown is what it shows to each partition.
	shown map[int]soracache.Stamp
	chore bool // it elects who tidies up, and shows nothing
}

type callKind uint8

const (
	callRead callKind = iota
	callWrite
	callInvalidate
	callSince
	callOther
)

func (k callKind) String() string {
	return [...]string{"read", "write", "invalidate", "since", "housekeeping"}[k]
}

// fate is what becomes of a call.
type fate struct {
	refused    bool // an error comes back after there+back; nothing is executed
	lost       bool // it is never executed, and no answer comes
	answerLost bool // executed, but no answer comes
	failed     bool // executed, but an error comes back
	there      time.Duration
	back       time.Duration
}

var (
	errRefused = fmt.Errorf("%w: connection refused", soracache.ErrUnavailable)
	errReset   = fmt.Errorf("%w: connection reset", soracache.ErrUnavailable)
	errGone    = fmt.Errorf("%w: the node is gone", soracache.ErrUnavailable)
)

// link is the store as a node sees it: the model at the other end of a line
// that can fail. Each call waits twice for the scheduler: to be executed, and
// to be answered.
type link struct{ b *boot }

type opKey struct{}

// do makes one call.
func (l link) do(ctx context.Context, c *call) error {
	c.from, c.done, c.gone = l.b, make(chan struct{}), make(chan struct{})
	c.op, _ = ctx.Value(opKey{}).(*op)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	l.b.mu.Lock()
	dead := l.b.dead
	if !dead {
		l.b.calls[c] = struct{}{}
	}
	l.b.mu.Unlock()
	name := fmt.Sprintf("store %d %d %d %s", l.b.host.slot, c.kind, c.at, c.what)
	if dead || !l.b.w.arrive(name, func() { l.b.w.dispatch(c) }) {
		return errGone
	}
	defer func() {
		l.b.mu.Lock()
		delete(l.b.calls, c)
		l.b.mu.Unlock()
	}()
	select {
	case <-c.done:
		if c.err != nil {
			l.b.trouble()
		}
		return c.err
	case <-c.gone:
		return errGone
	case <-ctx.Done():
		l.b.trouble()
		return fmt.Errorf("%w: %w", soracache.ErrUnavailable, ctx.Err())
	}
}

// trouble notes that a call to the store has failed.
func (b *boot) trouble() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed, b.failedAt = true, b.w.now()
}

// troubled tells whether one has within some time.
func (b *boot) troubled(within time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed && b.w.now()-b.failedAt <= within
}

// dispatch sends a call on its way.
func (w *world) dispatch(c *call) {
	h := c.from.host
	if c.arrived == 0 {
		c.arrived = w.step
		for _, nonce := range c.nonces {
			w.check.takenUp(nonce)
		}
	}
	if h.hold(func() { w.dispatch(c) }) {
		w.count.changed(Pause)
		return
	}
	w.check.shows(c)
	f := w.plan.call(c)
	w.note("call", h.slot, uint64(c.kind), uint64(c.at))
	if w.tracing() {
		w.logf("%s asks: %s %s%s", c.from.name, c.kind, c.what, f)
	}
	switch {
	case f.lost:
	case f.refused:
		w.after(f.there+f.back, func() { w.answer(c, errRefused) })
	default:
		w.after(f.there, func() { w.execute(c, f) })
	}
}

func (f fate) String() string {
	switch {
	case f.lost:
		return " (lost on its way)"
	case f.refused:
		return " (refused)"
	case f.answerLost:
		return " (its answer will be lost)"
	case f.failed:
		return " (will be executed, and fail)"
	}
	return ""
}

func (w *world) execute(c *call, f fate) {
	c.run()
	if len(c.rest) > 0 {
		c.run, c.rest = c.rest[0], c.rest[1:]
		w.note("executed in part", c.from.host.slot)
		w.after(w.plan.between(), func() { w.execute(c, f) })
		return
	}
	c.executed = true
	w.note("executed", c.from.host.slot, uint64(c.kind))
	switch {
	case f.answerLost || f.failed:
		if c.changed {
			w.count.changed(TimeoutAfterApply)
		}
		if f.failed {
			w.after(f.back, func() { w.answer(c, errReset) })
		}
	default:
		w.after(f.back, func() { w.answer(c, nil) })
	}
}

func (w *world) answer(c *call, err error) {
	h := c.from.host
	if h.boot == c.from && h.hold(func() { w.answer(c, err) }) {
		w.count.changed(Pause)
		return
	}
	if err == nil && w.plan.answerLost(c) {
		w.logf("the answer to %s (%s %s) is lost", c.from.name, c.kind, c.what)
		return
	}
	if !c.from.told(c, err) {
		return
	}
	w.check.answeredCall(c)
	if w.tracing() {
		w.logf("%s gets the answer to %s %s%s", c.from.name, c.kind, c.what, errText(err))
	}
}

// told gives a node the answer to a call, if it waits for that still.
func (b *boot) told(c *call, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, waiting := b.calls[c]; !waiting {
		return false
	}
	delete(b.calls, c)
	c.err = err
	close(c.done)
	return true
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

// Read implements l2.Store.
func (l link) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	var answers []l2.ReadAnswer
	c := &call{kind: callRead, shown: map[int]soracache.Stamp{}, granted: map[soracache.Lease]string{}}
	var keys []string
	for _, r := range reqs {
		c.at = int(r.Partition.Index)
		if c.chore = isChore(r.Keys[0].Key); foreign(r.Partition) == "" && !c.chore {
			c.shown[c.at] = r.Since
		}
		for _, k := range r.Keys {
			keys = append(keys, k.Key)
		}
	}
	c.keys, c.what = keys, strings.Join(keys, ",")
	c.run = func() {
		if l.b.w.misleads(c, func(m *l2model.Model) { answers = m.Read(context.Background(), reqs) }) {
			return
		}
		answers = l.b.w.model.Read(context.Background(), reqs)
		for i := range answers {
			l.b.w.check.read(c, &reqs[i], &answers[i])
		}
	}
	if err := l.do(ctx, c); err != nil {
		failed := make([]l2.ReadAnswer, len(reqs)) // the answers may yet be written
		for i := range failed {
			failed[i].Err = err
		}
		return failed
	}
	return answers
}

// Write implements l2.Store.
func (l link) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	var answers []l2.WriteAnswer
	c := &call{kind: callWrite, shown: map[int]soracache.Stamp{}}
	var keys []string
	for _, r := range reqs {
		c.at = int(r.Partition.Index)
		if c.chore = isChore(r.Key); foreign(r.Partition) == "" && !c.chore {
			c.shown[c.at] = r.Since
		}
		keys = append(keys, [...]string{"", "fill ", "put ", "renew ", "release "}[r.Op]+r.Key)
		if r.Op != soracache.OpRenew {
			c.frees = append(c.frees, r.Key)
			c.nonces = append(c.nonces, r.Nonce)
		}
	}
	c.what = strings.Join(keys, ",")
	c.run = func() {
		if l.b.w.misleads(c, func(m *l2model.Model) { answers = m.Write(context.Background(), reqs) }) {
			l.b.w.check.wroteElsewhere(reqs, answers)
			return
		}
		for i := range reqs { // one by one: each sees what the one before it did
			a := l.b.w.model.Write(context.Background(), reqs[i:i+1])
			l.b.w.check.wrote(c, &reqs[i], &a[0])
			if a[0].Err != nil {
				delete(c.shown, c.at) // it tells nothing of the ledger
			}
			if a[0].Err != nil && reqs[i].Op == soracache.OpPut { // nothing has happened
				c.frees = slices.DeleteFunc(c.frees, func(key string) bool { return key == reqs[i].Key })
			}
			answers = append(answers, a[0])
		}
	}
	if err := l.do(ctx, c); err != nil {
		failed := make([]l2.WriteAnswer, len(reqs)) // the answers may yet be written
		for i := range failed {
			failed[i].Err = err
		}
		return failed
	}
	return answers
}

// Invalidate implements l2.Store.
func (l link) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	var answers []l2.InvalidateAnswer
	c := &call{kind: callInvalidate, shown: map[int]soracache.Stamp{}}
	for _, r := range reqs {
		c.at = int(r.Partition.Index)
		if foreign(r.Partition) == "" {
			c.shown[c.at] = r.Since
		}
		for _, t := range r.Targets {
			switch t.Kind {
			case soracache.TargetKey:
				c.frees = append(c.frees, t.Name)
			case soracache.TargetAll:
				c.clears = append(c.clears, c.at)
			case soracache.TargetTag:
			}
		}
	}
	c.what = targetsText(reqs[0].Targets)
	for i := range reqs {
		c.rest = append(c.rest, func() {
			var a []l2.InvalidateAnswer
			if l.b.w.misleads(c, func(m *l2model.Model) { a = m.Invalidate(context.Background(), reqs[i:i+1]) }) {
				answers = append(answers, a[0])
				return
			}
			a = l.b.w.model.Invalidate(context.Background(), reqs[i:i+1])
			l.b.w.check.invalidated(c, &reqs[i], &a[0])
			answers = append(answers, a[0])
		})
	}
	c.run, c.rest = c.rest[0], c.rest[1:]
	if err := l.do(ctx, c); err != nil {
		failed := make([]l2.InvalidateAnswer, len(reqs)) // the answers may yet be written
		for i := range failed {
			failed[i].Err = err
		}
		return failed
	}
	return answers
}

func targetsText(targets []soracache.Target) string {
	names := make([]string, len(targets))
	for i, t := range targets {
		names[i] = t.String()
	}
	return strings.Join(names, ",")
}

// Since implements l2.Store.
func (l link) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	var answers []l2.SinceAnswer
	c := &call{kind: callSince, shown: map[int]soracache.Stamp{}}
	for _, r := range reqs {
		c.at = int(r.Partition.Index)
		c.what = foreign(r.Partition)
		if !r.Guest && c.what == "" { // a guest shows what somebody else has followed
			if foreign(r.Partition) == "" {
				c.shown[c.at] = r.Since
			}
		}
	}
	c.run = func() {
		if l.b.w.misleads(c, func(m *l2model.Model) { answers = m.Since(context.Background(), reqs) }) {
			return
		}
		answers = l.b.w.model.Since(context.Background(), reqs)
		for i := range answers {
			if foreign(reqs[i].Partition) == "" {
				l.b.w.check.since(c, &reqs[i], &answers[i])
			}
		}
	}
	if err := l.do(ctx, c); err != nil {
		failed := make([]l2.SinceAnswer, len(reqs)) // the answers may yet be written
		for i := range failed {
			failed[i].Err = err
		}
		return failed
	}
	return answers
}

// Explain implements l2.Store.
func (l link) Explain(ctx context.Context, at l2.Partition, key string) (l2.Explanation, error) {
	var e l2.Explanation
	var err error
	failed := l.other(ctx, at, "explain "+key, func() { e, err = l.b.w.model.Explain(context.Background(), at, key) })
	if failed != nil {
		return l2.Explanation{}, failed
	}
	return e, err
}

// other makes a call that tells its caller nothing of the ledger.
func (l link) other(ctx context.Context, at l2.Partition, what string, run func()) error {
	return l.do(ctx, &call{kind: callOther, at: int(at.Index), what: what, run: func() {
		run() // housekeeping of whoever reaches the old primary changes the new one: no harm in that
		if foreign(at) == "" {
			l.b.w.check.look(at)
		}
	}})
}

// foreign names the namespace of a partition of which nothing is judged.
func foreign(at l2.Partition) string {
	if at.Namespace == namespace {
		return ""
	}
	return at.Namespace
}

// isChore tells whether a key is a name of the node's own, whose lease elects who
// tidies up. The node shows nothing with it, and learns nothing from the answer.
func isChore(key string) bool { return strings.HasPrefix(key, "\x00") }

// ListKeys implements l2.Store.
func (l link) ListKeys(ctx context.Context, at l2.Partition, tag, cursor string, limit int) ([]string, string, error) {
	var keys []string
	var next string
	var err error
	failed := l.other(ctx, at, "list "+tag, func() {
		keys, next, err = l.b.w.model.ListKeys(context.Background(), at, tag, cursor, limit)
	})
	if failed != nil {
		return nil, "", failed
	}
	return keys, next, err
}

// Partitions implements l2.Store. What a node asks before it has anything to do
// with a namespace is no part of a history: it is answered at once.
func (l link) Partitions(_ context.Context, reqs []l2.PartitionsRequest) []l2.PartitionsAnswer {
	return l.b.w.model.Partitions(context.Background(), reqs)
}

// Repartition implements l2.Store. Nodes do not call it.
func (l link) Repartition(context.Context, string, int) (time.Duration, error) {
	return 0, errRefused
}

// Reclaim implements l2.Store.
func (l link) Reclaim(ctx context.Context, at l2.Partition, tag, cursor string) (string, int, error) {
	var next string
	var deleted int
	var err error
	failed := l.other(ctx, at, "reclaim "+tag, func() {
		next, deleted, err = l.b.w.model.Reclaim(context.Background(), at, tag, cursor)
	})
	if failed != nil {
		return "", 0, failed
	}
	return next, deleted, err
}

// Sweep implements l2.Store.
func (l link) Sweep(ctx context.Context) (bool, error) {
	var more bool
	var err error
	failed := l.other(ctx, l.b.w.partition(0), "sweep", func() { more, err = l.b.w.model.Sweep(context.Background()) })
	if failed != nil {
		return false, failed
	}
	return more, err
}

// Part implements l2.Store.
func (link) Part(l2.Partition) string { return "" }

// Ping implements l2.Store.
func (l link) Ping(ctx context.Context) error {
	return l.other(ctx, l.b.w.partition(0), "ping", func() {})
}

// Counters implements l2.Store.
func (l link) Counters() l2.Counters { return l.b.w.model.Counters() }

// Close implements l2.Store.
func (l link) Close() error { return errors.New("a node must not close its store") }
