package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/virtual"
)

// app is a process of an application: one client (client.Client as it is, with
// its near cache, watch, session and flights), over a line to the nodes that can
// fail (line_test.go), and what it does with it (dishes_test.go). It lives as
// long as the world.
type app struct {
	w      *world
	x      *chaos
	l      *workload
	number int
	mu     sync.Mutex
	rng    *rand.Rand // of the client; guarded by mu
	client *client.Client
	bound  time.Duration // of its near cache

	// cut: nothing goes in or out. stalled: what the watch brings is held back,
	// while answers come as ever.
	cut, stalled bool
	stuck        []func()   // what the watch would have brought
	stream       *stream    // the latest watch
	home         int        // the slot that it asks first
	loading      int        // loaders that have begun and not ended
	uses         int        // calls of the client that have not returned
	behind       bool       // the latest watch ended where something may have been missed
	known        *knowledge // for the checker
	unanswered   []*use     // that may load, and have not returned
	running      []*loader
	asked        []*ask // some of them are over
}

// use is one call of an application to its client, or of a loader to the client
// that called it.
type use struct {
	app  *app
	id   int
	kind useKind
	key  string
	// inside is the call in whose loader this one was made, and under the stamp of
	// that loader's lease.
	inside *use
	under  soracache.Stamps

	policy      client.Policy
	timeout     time.Duration
	value       *computation // of a set
	what        client.Invalidation
	records     []*record // that the store executed for it
	began       int
	beganAt     time.Duration
	seen        map[int]int      // by its client, when it began
	least       soracache.Stamps // that its client had seen then
	asked       int              // requests that its client has sent for it
	journey     journey
	got         *computation
	found, done bool
	err         error
}

type useKind uint8

const (
	useGetOrSet useKind = iota
	useGet
	useLoading
	useSet
	useInvalidate
)

func (k useKind) String() string {
	return [...]string{"GetOrSet", "Get", "loading Get", "Set", "Invalidate"}[k]
}

func (u *use) String() string {
	what := u.key
	if u.kind == useInvalidate {
		what = targetsText(targetsOf(u.what))
	}
	where := ""
	if u.inside != nil {
		where = fmt.Sprintf(" inside use%d", u.inside.id)
	}
	return fmt.Sprintf("use%d (%s %s of app %d%s, begun at #%d)", u.id, u.kind, what, u.app.number, where, u.began)
}

// loads tells whether it may run a loader.
func (u *use) loads() bool { return u.kind == useGetOrSet || u.kind == useLoading }

func targetsOf(i client.Invalidation) []soracache.Target {
	var targets []soracache.Target
	for _, k := range i.Keys {
		targets = append(targets, soracache.Key(k))
	}
	for _, t := range i.Tags {
		targets = append(targets, soracache.Tag(t))
	}
	if i.All {
		targets = append(targets, soracache.Everything())
	}
	return targets
}

type useKey struct{}

// newApp starts a process.
func (w *world) newApp(x *chaos, l *workload, seed uint64) *app {
	a := &app{
		w: w, x: x, l: l, number: len(w.apps) + 1,
		rng:  rand.New(rand.NewPCG(seed, 200+uint64(len(w.apps)))),
		home: len(w.apps) % len(w.hosts), known: newKnowledge(),
	}
	// No two timers are to fire at one moment.
	a.bound = w.cfg.AppBound + time.Duration(100*a.number+w.rng.IntN(90))
	simulated, _ := virtual.Option(virtual.Settings{Random: a.random, Suspended: func() time.Duration { return 0 }}).(client.Option)
	c, err := client.New(a,
		client.Namespace(namespace),
		client.Bound(a.bound),
		client.Timeout(w.cfg.AppTimeout),
		client.Logger(nil),
		client.NearEntries(1<<10),
		simulated,
	)
	if err != nil {
		w.t.Fatalf("client: %v", err)
	}
	a.client = c
	w.apps = append(w.apps, a)
	return a
}

// random gives the client its randomness. Its watch alone draws, and at the start
// the client itself.
func (a *app) random() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rng.Float64()
}

// begin lets the application use its client from now on.
func (a *app) begin() {
	gap := time.Duration(a.w.rng.ExpFloat64() * float64(a.w.cfg.AppGap))
	a.w.after(min(gap, 5*a.w.cfg.AppGap)+time.Duration(a.w.rng.IntN(1000)), func() {
		if a.l.done {
			return
		}
		a.one()
		a.begin()
	})
}

// one makes a call, and a read once or a few times more.
func (a *app) one() {
	rng, c := a.w.rng, &a.w.cfg
	u := &use{app: a, key: a.key(), policy: a.policy()}
	switch roll := rng.IntN(1000); {
	case roll < c.AppInvalidations:
		a.change(u)
		return
	case roll < c.AppInvalidations+c.AppSets:
		u.kind, u.key = useSet, a.l.key()
		a.w.check.commit([]soracache.Target{soracache.Key(u.key)})
		u.value = a.w.check.compute(u.key, a.w.step)
	case roll < 250:
		u.kind = useGet
	case roll < 500:
		u.kind = useLoading
	}
	if rng.IntN(20) == 0 {
		u.timeout = a.l.upTo(5 * ms) // a caller without patience
	}
	a.use(u)
	again := time.Duration(0)
	for range rng.IntN(4) {
		again += a.l.upTo(2 * ms)
		a.w.after(again, func() {
			if !a.l.done && u.kind != useSet {
				a.use(&use{app: a, kind: u.kind, key: u.key, policy: u.policy})
			}
		})
	}
}

// key is what to read: mostly one of few, so that it may be near.
func (a *app) key() string {
	rng, c := a.w.rng, &a.w.cfg
	switch roll := rng.IntN(6); {
	case roll < 2:
		return c.Dishes[rng.IntN(len(c.Dishes))].name
	case roll < 5:
		return keyName(a.number % c.Keys)
	}
	return a.l.key()
}

// change commits a change to the source, and only then invalidates.
func (a *app) change(u *use) {
	w := a.w
	u.kind, u.key = useInvalidate, ""
	switch {
	case w.rng.IntN(1000) < w.cfg.Everything:
		u.what.All = true
	case w.rng.IntN(3) == 0:
		u.what.Keys = []string{a.l.key()}
	default:
		u.what.Tags = []string{tagName(w.rng.IntN(w.cfg.Tags))}
	}
	u.what.Acknowledge = w.rng.IntN(1000) < w.cfg.Acknowledged
	targets := targetsOf(u.what)
	w.check.commit(targets)
	w.check.retag(w.rng.IntN(w.cfg.Keys), w.rng.IntN(w.cfg.Tags), targets)
	a.use(u)
}

func (a *app) policy() client.Policy {
	lt := a.l.lifetime()
	p := client.Policy{TTL: lt.TTL, Keep: lt.Keep, L1: lt.L1, Wait: -1}
	if a.w.rng.IntN(2) == 0 {
		p.Wait = a.l.upTo(20 * ms)
	}
	if a.w.rng.IntN(4) == 0 {
		p.Near = a.l.upTo(a.w.cfg.Keep)
	}
	if a.w.rng.IntN(3) == 0 {
		p.EagerAt = 0.1 + a.w.rng.Float64()/2
	}
	if a.w.rng.IntN(3) == 0 {
		p.StaleWhileRevalidate = a.l.upTo(a.w.cfg.Keep)
	}
	return p
}

// begun notes what the client knows when a use begins.
func (a *app) begun(u *use) {
	a.w.lastOp++
	u.id, u.began, u.beganAt = a.w.lastOp, a.w.step, a.w.now()
	u.least, u.seen = a.known.stamp, map[int]int{}
	for p, at := range a.known.seen {
		u.seen[p] = at
	}
	if u.loads() {
		a.unanswered = append(a.unanswered, u)
	}
	if a.w.tracing() {
		a.w.logf("%s", u)
	}
}

// use calls the client.
func (a *app) use(u *use) {
	a.begun(u)
	a.uses++
	a.w.count.uses++
	if u.timeout == 0 {
		u.timeout = a.w.cfg.OpTimeout
	}
	a.w.note("use", a.number, uint64(u.id), uint64(u.kind))
	go func() {
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), useKey{}, u), u.timeout+time.Duration(u.id))
		defer cancel()
		value, found, err := a.call(ctx, u)
		a.w.arrive(fmt.Sprintf("use %08d", u.id), func() { a.returned(u, value, found, err) })
	}()
}

func (a *app) call(ctx context.Context, u *use) (value string, found bool, err error) {
	cache := client.NewCache[string](a.client, u.policy)
	load := func(ctx context.Context, key string) (string, error) { return a.load(ctx, key, u.policy) }
	switch u.kind {
	case useGetOrSet:
		value, err = cache.GetOrSet(ctx, u.key, func(ctx context.Context) (string, error) { return load(ctx, u.key) })
		found = err == nil
	case useLoading:
		value, err = client.NewLoadingCache(a.client, u.policy, load).Get(ctx, u.key)
		found = err == nil
	case useGet:
		value, found, err = cache.Get(ctx, u.key)
	case useSet:
		err = cache.Set(ctx, u.key, string(u.value.value()), client.WithTags(u.value.tags...))
	case useInvalidate:
		_, err = a.client.Invalidate(ctx, u.what)
	}
	return value, found, err
}

// returned takes in what a call of the client returned.
func (a *app) returned(u *use, value string, found bool, err error) {
	w := a.w
	a.uses--
	u.done, u.err, u.found = true, err, found
	if found {
		u.got = w.check.of([]byte(value))
	}
	w.note("used", a.number, uint64(u.id), outcomeOfUse(u))
	if w.tracing() {
		w.logf("%s: %s", u, u.outcome(value))
	}
	switch {
	case err != nil && !expected(err):
		w.check.violate("%s failed in an unexpected way: %v", u, err)
	case err != nil && u.loads():
		w.check.failed(u)
	case u.kind == useInvalidate || u.kind == useSet:
		w.check.madeBy(u)
	case found:
		w.check.used(u, value)
	}
}

func (u *use) outcome(value string) string {
	switch {
	case u.err != nil:
		return "failed: " + u.err.Error()
	case u.kind == useInvalidate || u.kind == useSet:
		return "done"
	case !u.found:
		return "not found"
	}
	return value
}

func outcomeOfUse(u *use) uint64 {
	switch {
	case u.err != nil:
		return 1
	case u.got != nil:
		return 2 + uint64(u.got.id)
	}
	return 0
}

// close ends the process.
func (a *app) close() {
	if err := a.client.Close(); err != nil {
		a.w.t.Errorf("app %d: %v", a.number, err)
	}
}
