package client

import (
	"cmp"
	"context"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/internal/pacing"
	"github.com/soracache/soracache/client/internal/service"
	"github.com/soracache/soracache/client/internal/source"
	"github.com/soracache/soracache/client/stamps"
	"github.com/soracache/soracache/internal/flight"
)

// call is what all keys of a call have in common.
type call[T any] struct {
	client   *Client
	kind     *kind[T]
	took     *pacing.LoadTime
	settings *settings // not changed
	load     loader[T]
	// due is when the callers have to have an answer, for knowing how long the
	// service may take, and came is when the first of them came.
	due  due
	came time.Time
	// inside is the run that the first of them is inside of, if any.
	inside *flight.Run
	// silence is what the call knows of a service that does not answer.
	silence *service.Silence
}

// loader is the application's function: for one key, or for many.
type loader[T any] struct {
	one  func(context.Context) (T, error)
	many func(context.Context, []string) (map[string]T, error)
}

func (c *Cache[T]) call(ctx context.Context, s *settings, load loader[T]) call[T] {
	return call[T]{client: c.client, kind: c.kind, took: c.took, settings: s, load: load, due: dueOf(ctx), came: time.Now(), inside: flight.RunOf(ctx)}
}

func (c *call[T]) patience() time.Duration { return c.due.patience(c.client.timeout) }

// run finds or loads the values of some keys, on behalf of all callers that share it.
// All of them came before it began, so none can receive what is older than its call.
// It belongs to one goroutine. What may outlast it, a [load], changes nothing of it.
type run[T any] struct {
	call[T]
	// way is how the callers came to share it, and carried has a context carry what they do
	// together;
	// nil: there is one caller.
	way     int
	carried func(context.Context) context.Context
	// retried means that its caller has shared another run before, or has waited for
	// other keys of its call. joined means that its callers have waited for its turn, and
	// that the first of them may have gone.
	retried, joined bool
	// admits means that those who come until the loader begins may share what it
	// returns: nothing was asked for that they would not ask for.
	admits bool
	// warming means that nobody wants the values: what is there need not be read,
	// what others load not waited for, and what cannot be stored not loaded.
	warming bool
	// pass is what the next load goes to its source with, if it has one, and queued is
	// how long passes were waited for.
	pass   *source.Pass
	queued time.Duration
	// key is the only key of most runs, and keys has it then.
	key  item[T]
	keys [1]*item[T]
}

// item is one key of a run.
type item[T any] struct {
	key string
	// turn is where the callers of the key wait, in a run for many keys.
	turn *flight.Turn[outcome[T]]
	// unanswered is what the key's read failed with that was made together with others'.
	unanswered error
	// next is what is to be done about the key.
	next step
	// asked is the last question, and answer what the service said.
	asked  soracache.Read
	answer soracache.ReadResult
	// owed is the lease that came with the answer, until somebody takes it over who
	// hands it back. leased means that the key is to be loaded under it.
	owed   soracache.Lease
	leased bool
	// unsparing means that the loader is not to be left alone any more, and replacing
	// is how often the lease was asked for to replace an entry that cannot be read.
	unsparing bool
	replacing int
	// blocked is why the lease was not asked for although the loader is not to be left
	// alone: its source cannot be asked now.
	blocked error
	// why is why the key is to be loaded without a lease, and down means that this is
	// because the service could not be asked.
	why  error
	down bool
	// there is the value that was found; nil: none that can be read.
	there *found[T]
	// replaces means that there is an entry which cannot be read, and which what is
	// loaded replaces.
	replaces bool
	// now is what was found when the value was asked for once more, and unknown means
	// that nobody could tell.
	now     *found[T]
	unknown bool
	// over means that the key has its outcome, or its error.
	over bool
	o    outcome[T]
	err  error
}

// single returns the run of one key.
func single[T any](c call[T], key string) *run[T] {
	r := &run[T]{call: c}
	r.key.key = key
	r.keys[0] = &r.key
	return r
}

// end gives the callers of a key what became of it.
func (it *item[T]) end(o outcome[T], err error) {
	it.over, it.o, it.err = true, o, err
	if it.turn != nil {
		it.turn.End(o, err)
	}
}

// alone notes that what is loaded leaves nothing behind for whoever comes later.
func (it *item[T]) alone(ctx context.Context) {
	if it.turn != nil {
		it.turn.Alone()
	} else {
		flight.RunOf(ctx).Alone()
	}
}

// admit lets those share the run who have come meanwhile.
func (it *item[T]) admit(ctx context.Context) {
	if it.turn != nil {
		it.turn.Admit()
	} else {
		flight.RunOf(ctx).Admit()
	}
}

// those returns the items about which the same is to be done next.
func those[T any](items []*item[T], next step) (some []*item[T]) {
	for _, it := range items {
		if it.next == next && !it.over {
			some = append(some, it)
		}
	}
	return some
}

// join finds out what is due to whom, and what they carry, if several callers have
// waited for the run. It returns the context to go on with.
func (r *run[T]) join(ctx context.Context, items []*item[T], joined bool) context.Context {
	if own := flight.RunOf(ctx); own != r.inside {
		at, _ := own.Latest()
		r.due = due(at)
	}
	if r.joined = joined; joined {
		var all stamps.Stamp
		for _, it := range items {
			all = all.Merge(r.kind.demands.merged(it.key))
		}
		r.carried = func(ctx context.Context) context.Context { return r.client.carriedBy(ctx, r.way, all) }
		ctx = r.carried(ctx)
	}
	r.admits = r.client.service.CarriedMore(ctx) == nil
	return ctx
}

// findOrLoad finds or loads the keys:
//
//  1. All are asked for, and nobody waits for anything. Each has a value, or this
//     client is given its lease, or somebody else has it.
//  2. Those whose lease this client has are loaded and stored.
//  3. Only now, when nobody can be waiting for this run, the rest is waited for.
//     Where a lease comes free, 2 and 3 begin again.
func (r *run[T]) findOrLoad(ctx context.Context, items []*item[T]) {
	defer r.handBack(ctx, items, func(*item[T]) bool { return true }) // a hook may panic, or what decodes a value
	defer r.leave()
	r.ask(ctx, items, 0, time.Time{})
	waited := time.Since(r.came) // and not what it takes to load
	others, leased := those(items, stepWait), those(items, stepLoad)
	r.loadAll(ctx, leased)
	if r.warming {
		for _, it := range others {
			it.end(outcome[T]{}, flight.ErrElsewhere)
		}
		return
	}
	if len(others) > 0 {
		r.await(ctx, others, waited, len(leased) > 0)
	}
}

// ask asks for keys, and waits so long for what others load, until some time. It ends
// those that have a value, and finds out what is to be done about the others. A question
// that waits may be given up.
func (r *run[T]) ask(ctx context.Context, items []*item[T], wait time.Duration, end time.Time) (why gaveUp) {
	pending := those(items, stepAsk)
	for ; len(pending) > 0 && why == persevered; pending = those(items, stepAsk) {
		why = r.askOnce(ctx, pending, wait, end)
	}
	r.spare(ctx, those(items, stepSpare))
	r.handBack(ctx, items, func(it *item[T]) bool { return !it.leased })
	return why
}

// askOnce asks for keys in one go. The answer has to come soon, or the service is as
// good as absent. Only when it says that somebody else is loading does a question wait,
// so a service that hangs never costs the whole wait.
func (r *run[T]) askOnce(ctx context.Context, items []*item[T], wait time.Duration, end time.Time) gaveUp {
	if len(items) == 1 {
		limited := r.client.life.Limited(ctx, wait+r.patience())
		defer limited.End()
		return r.askForOne(limited, items[0], wait, end)
	}
	reads, asked := make([]soracache.Read, len(items)), make([]*near.Inflight, len(items))
	for _, it := range items {
		it.asked = r.question(ctx, it, wait)
	}
	askAlike(items)
	for i, it := range items {
		reads[i], asked[i] = it.asked, r.client.near.Begin(r.kind.space, it.key)
	}
	defer service.EndAll(asked)
	began := time.Now()
	answers := r.client.service.ReadMany(ctx, wait+r.patience(), reads, asked, false)
	r.noteSilence(ctx, answers, began, wait+r.patience())
	for i := range answers {
		items[i].owed = answers[i].Lease
	}
	for i, it := range items {
		r.answered(it, answers[i], asked[i], wait)
	}
	return persevered
}

// askForOne does so with one key, within the time of the context, which is for nothing
// else.
func (r *run[T]) askForOne(ctx context.Context, it *item[T], wait time.Duration, end time.Time) (why gaveUp) {
	if err := cmp.Or(it.unanswered, r.silence.Known()); err != nil {
		it.asked.Lease = true
		r.answered(it, soracache.ReadResult{Err: err}, nil, 0)
		return persevered
	}
	it.asked = r.question(ctx, it, wait)
	asked := r.client.near.Begin(r.kind.space, it.key)
	defer asked.End()
	var answer soracache.ReadResult
	var err error
	if wait > 0 {
		if answer, why, err = r.readWaiting(ctx, it, asked, end); why != persevered {
			it.next = stepWait
			return why
		}
	} else {
		answer, err = r.client.service.Read(ctx, it.asked, asked)
	}
	it.owed = answer.Lease
	r.silence.Heard(ctx, r.patience(), err)
	if err != nil {
		answer = soracache.ReadResult{Err: err}
	}
	r.answered(it, answer, asked, wait)
	return persevered
}

// answered takes in an answer about a key.
func (r *run[T]) answered(it *item[T], answer soracache.ReadResult, asked *near.Inflight, wait time.Duration) {
	if r.client.service.Waits.Refused(wait, answer.Err) {
		it.next = stepWait
		return
	}
	it.answer = answer
	it.next = r.classify(it)
	if it.there != nil && it.there.fresh() {
		near.Keep(asked, it.there.value, keptFrom(&it.answer, &r.settings.policy))
	}
	switch it.next {
	case stepUse:
		it.end(r.use(it), nil)
	case stepFail:
		it.end(outcome[T]{}, it.answer.Err)
	default:
	}
}

// use gives what was found.
func (r *run[T]) use(it *item[T]) outcome[T] {
	switch {
	case it.there == nil: // nobody wants to know the value
		r.client.observer.hit(it.key, soracache.TierL2)
		return outcome[T]{how: Outcome{Tier: soracache.TierL2}}
	case !it.asked.Lease:
		return r.serve(it.key, it.there, r.unleased(it))
	}
	return r.serve(it.key, it.there, StaleRefreshing)
}

// handBack hands back those leases that nobody has taken over.
func (r *run[T]) handBack(ctx context.Context, items []*item[T], which func(*item[T]) bool) {
	var owed []*item[T]
	for _, it := range items {
		if it.owed != (soracache.Lease{}) && which(it) {
			owed = append(owed, it)
		}
	}
	if len(owed) > 0 {
		r.hold(ctx, owed, soracache.LoadHandedBack).End(r.patience())
	}
}

// due is when an answer has to be there; zero: whenever.
type due time.Time

func dueOf(ctx context.Context) due {
	at, _ := ctx.Deadline()
	return due(at)
}

// patience is how long to let the service take: the client's timeout, but no
// more than half of what is left until an answer is due, so that the loader has
// the rest. If nothing is left, who wants the answer came later.
func (d due) patience(timeout time.Duration) time.Duration {
	left := time.Until(time.Time(d))
	if time.Time(d).IsZero() || left <= 0 {
		return timeout
	}
	return min(timeout, left/2)
}
