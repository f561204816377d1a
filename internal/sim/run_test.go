package sim

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/l2"
)

// Result is what became of one run.
type Result struct {
	Seed       uint64
	Hash       uint64 // of the history
	Violations []string
	// History is the trace around the first violation, if it was asked for.
	History string
	Virtual time.Duration
	hashes  []string
	count   counters
}

// Run runs one seed in a bubble of its own.
func Run(t *testing.T, seed uint64, cfg Config, keepTrace bool) (res Result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, cfg, keepTrace)
		x := newChaos(w)
		w.plan = x
		for _, h := range w.hosts {
			h.start()
			w.runFor(time.Duration(w.rng.IntN(1_000_000)))
		}
		l := w.newWorkload(x)
		for range cfg.Apps {
			w.newApp(x, l, seed).begin()
		}
		l.begin()
		x.begin()
		w.runUntil(func() bool { return l.done || len(w.check.violations) > 0 }, time.Hour)
		l.done = true
		if len(w.check.violations) == 0 {
			x.heal()
			w.converge()
		}
		res = w.result(seed)
		w.close()
	})
	return res
}

func (w *world) result(seed uint64) Result {
	res := Result{Seed: seed, Hash: w.hash, Virtual: w.now(), count: *w.count}
	for _, v := range w.check.violations {
		res.Violations = append(res.Violations, fmt.Sprintf("%s #%d: %s", v.at, v.step, v.text))
	}
	if w.trace != nil {
		res.History = strings.Join(w.trace.lines, "\n")
		res.hashes = w.trace.hashes
	}
	return res
}

// converge is the end of a run: the faults are off. Two bounds and some time
// later every node serves again; after an invalidation of everything each
// returns the newest version of every key; and each soon serves it from memory.
// And so does each application's client.
func (w *world) converge() {
	longest := w.longestBound()
	w.runFor(2*longest + 2*w.cfg.StoreTimeout + w.cfg.OpTimeout)
	w.quiet()
	var epochs uint64
	for range 3 {
		epochs = w.model.Counters().Epochs
		for _, h := range w.hosts {
			for p := range w.cfg.Partitions {
				w.mustRead(h, "warm"+w.keyIn(p)) // the ledger and the node meet
			}
		}
	}
	if again := w.model.Counters().Epochs; again > epochs {
		w.check.violate("liveness: %d more new epochs after all faults had ended", again-epochs)
	}
	w.mustInvalidate(w.hosts[0], soracache.Everything())
	w.runFor(longest + 10*ms)
	for i := range w.cfg.Keys {
		for _, h := range w.hosts {
			w.mustBeNewest(h, keyName(i))
		}
	}
	w.aheadOfTheRest()
	w.mustRemember()
	w.runFor(w.cfg.AppBound + ms)
	for _, a := range w.apps {
		for i := range w.cfg.Keys {
			a.mustBeNear(keyName(i))
		}
	}
}

// aheadOfTheRest makes the last partition's ledger run ahead of the others, with
// records that share slots of the marks with what the others hold.
func (w *world) aheadOfTheRest() {
	var targets []soracache.Target
	for i := 0; len(targets) < 600; i++ {
		if key := "ahead" + strconv.Itoa(i); w.partitionOf(key) == w.cfg.Partitions-1 {
			targets = append(targets, soracache.Key(key))
		}
	}
	w.mustInvalidate(w.hosts[0], targets...)
	w.runFor(w.longestBound() + 10*ms)
}

// quiet waits until no client waits for anything, so that nobody holds a lease
// who still computes.
func (w *world) quiet() {
	w.runUntil(func() bool { return w.waiting() == 0 }, w.now()+2*time.Minute)
	w.runFor(20*w.cfg.Load + 4*w.cfg.LeaseFor + 2*w.cfg.OpTimeout)
	if n := w.waiting(); n > 0 {
		w.check.violate("liveness: %d operations never end", n)
	}
	for _, a := range w.apps {
		if a.uses > 0 || a.loading > 0 {
			w.check.violate("liveness: %d calls and %d loaders of app %d never end", a.uses, a.loading, a.number)
		}
	}
}

// waiting is how many operations somebody waits for: not those with which the
// clients of applications confirm their near caches for ever.
func (w *world) waiting() (n int) {
	for o := range w.pending {
		if o.kind != opHead {
			n++
		}
	}
	return n
}

// do issues an operation and lets time pass until it has ended.
func (w *world) do(o *op) *op {
	if o.timeout == 0 {
		o.timeout = 5 * time.Second
	}
	w.issue(o)
	w.runUntil(func() bool { return o.done }, w.now()+10*time.Second)
	if !o.done {
		w.check.violate("liveness: %s does not end", o)
		o.err = errGone
	}
	return o
}

func (w *world) mustRead(h *host, key string) *op {
	o := w.do(&op{kind: opGet, host: h, reads: []soracache.Read{{Key: key}}})
	if o.failed() {
		w.check.violate("liveness: %s does not serve: %s", h, o.outcome())
	}
	return o
}

func (w *world) mustInvalidate(h *host, targets ...soracache.Target) {
	w.check.commit(targets)
	o := w.do(&op{kind: opInvalidate, host: h, targets: targets})
	if o.failed() {
		w.check.violate("liveness: %s does not invalidate: %s", h, o.outcome())
	}
}

// mustBeNewest reads a key as an application does, who computes it if need be.
func (w *world) mustBeNewest(h *host, key string) {
	for range 5 {
		o := w.do(&op{kind: opGet, host: h, reads: []soracache.Read{{Key: key, Lease: true, Wait: time.Second}}})
		if o.failed() {
			w.check.violate("liveness: %s does not serve %s: %s", h, key, o.outcome())
			return
		}
		r := &o.results[0]
		if r.Status != soracache.StatusMiss {
			if v := w.check.of(r.Entry.Value); v == nil || v.version != w.check.source[key].version {
				w.check.violate("liveness: %s returns %s of %s after everything was invalidated", h, r.Entry.Value, key)
			}
			return
		}
		if r.Lease != (soracache.Lease{}) {
			v := w.check.compute(key, w.check.grants[r.Lease].step)
			w.do(&op{kind: opFill, host: h, value: v, write: soracache.Write{
				Op: soracache.OpFill, Key: key, Lease: r.Lease,
				Entry: soracache.Entry{Value: v.value(), Tags: v.tags}, Lifetime: soracache.Lifetime{TTL: time.Hour},
			}})
		}
	}
	w.check.violate("liveness: %s never has a value of %s", h, key)
}

// mustRemember checks that every node serves every key from memory before long,
// though other keys and partitions share its marks.
func (w *world) mustRemember() {
	for i := range w.cfg.Keys {
		for _, h := range w.hosts {
			served := false
			for range 3 {
				o := w.mustRead(h, keyName(i))
				served = served || !o.failed() && o.results[0].Tier == soracache.TierL1
			}
			if !served {
				w.check.violate("liveness: %s never keeps %s in memory", h, keyName(i))
			}
		}
	}
}

// nearWithin is how long a client may take until it serves from memory: its watch
// may have broken without a word, which it notices a bound and a second after
// something was recorded, or ten seconds after it began, if nothing has come over
// it; and it may just have failed several times to begin another, which makes it
// wait for up to six seconds.
const nearWithin = 20 * time.Second

// mustBeNear checks that an application's client returns the newest version of a
// key, and before long without asking anybody.
func (a *app) mustBeNear(key string) {
	w := a.w
	for end := w.now() + nearWithin; w.now() < end; w.runFor(a.bound) {
		u := &use{app: a, kind: useGetOrSet, key: key, policy: client.Policy{TTL: time.Hour, Wait: -1}}
		a.use(u)
		w.runUntil(func() bool { return u.done }, w.now()+10*time.Second)
		switch {
		case !u.done || u.err != nil:
			w.check.violate("liveness: %s: %v", u, u.err)
			return
		case u.got == nil || u.got.version != w.check.source[key].version:
			w.check.violate("liveness: %s returns an old value after everything was invalidated", u)
			return
		case u.asked == 0:
			return
		}
	}
	w.check.violate("liveness: app %d never keeps %s near", a.number, key)
}

// keyIn returns a key that belongs to a partition.
func (w *world) keyIn(p int) string {
	for i := 0; ; i++ {
		if k := strconv.Itoa(i); w.partitionOf("warm"+k) == p {
			return k
		}
	}
}

var _ l2.Store = link{}
