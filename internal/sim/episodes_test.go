package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation/gossip"
	"github.com/soracache/soracache/l2"
)

// episodes are the faults that begin at a moment and last for a while, or
// change the store at once.
var episodes = []Fault{
	OneWay, TwoWay, Isolate, StoreRestart, FailoverVisible, FailoverInvisible, Restore, Flush, EvictEntry, EvictLedger,
	EvictRegistrations, Crash, Restart, Pause, HolderCrash, SlowLoader, Trim, Mixed,
	ClockAhead, ClockBack, OldPrimary, StoreFull, Misfit,
}

// appEpisodes concern applications alone.
var appEpisodes = []Fault{StreamBreaks, StreamSilent, StreamStalls, AppCut}

// begin lets the random faults happen from now on.
func (x *chaos) begin() {
	x.next(episodes)
	if x.w.cfg.Apps > 0 {
		x.next(appEpisodes)
	}
	c := &x.w.cfg
	if c.Faults[FailoverVisible]+c.Faults[FailoverInvisible]+c.Faults[Restore]+c.Faults[OldPrimary] > 0 {
		x.saveNow()
	}
}

// next lets one of some kinds happen now and then.
func (x *chaos) next(kinds []Fault) {
	total := 0
	for _, f := range kinds {
		total += x.w.cfg.Faults[f]
	}
	if total == 0 {
		return
	}
	gap := time.Duration(x.w.rng.ExpFloat64() * float64(x.w.cfg.FaultEvery))
	x.w.after(min(gap, 4*x.w.cfg.FaultEvery)+time.Duration(x.w.rng.IntN(1000)), func() {
		if !x.on {
			return
		}
		at := x.w.rng.IntN(total)
		for _, f := range kinds {
			if at -= x.w.cfg.Faults[f]; at < 0 {
				x.happen(f)
				break
			}
		}
		x.next(kinds)
	})
}

// saveNow keeps a snapshot now and then: none from before the first ledger, where
// nodes are told another number of partitions (see misfit).
func (x *chaos) saveNow() {
	if !x.on {
		return
	}
	if len(x.saves) >= 40 {
		x.saves = append(x.saves[:1:1], x.saves[10:]...)
	}
	if x.w.cfg.Faults[Misfit] == 0 || x.w.check.begun() {
		x.saves = append(x.saves, snapshot{x.w.model.Snapshot(), x.w.check.save()})
	}
	x.w.after(5*ms+time.Duration(x.w.rng.IntN(40_000_000)), x.saveNow)
}

// length is how long a fault lasts: mostly shorter than B, at times longer.
func (x *chaos) length(h *host) time.Duration {
	d := h.bound() / 4
	if x.w.rng.IntN(3) == 0 {
		d = 4 * h.bound()
	}
	return time.Duration(x.w.rng.Int64N(int64(d))) + ms
}

func (x *chaos) host() *host { return x.w.hosts[x.w.rng.IntN(len(x.w.hosts))] }

// inject counts a fault and writes it into the trace.
func (x *chaos) inject(f Fault, who any) {
	x.w.count.inject(f)
	x.w.note("fault", int(f))
	x.w.logf("FAULT: %s %v", f, who)
}

func (x *chaos) happen(f Fault) {
	switch f {
	case OneWay, TwoWay:
		x.partition(f)
	case Isolate:
		x.isolate()
	case StoreRestart:
		x.restartStore()
	case FailoverVisible, FailoverInvisible, Restore:
		x.failover(f)
	case Flush, EvictEntry, EvictLedger, EvictRegistrations:
		x.evict(f)
	case Crash, Restart:
		x.crash(f)
	case Pause:
		x.pause()
	case HolderCrash:
		x.orphan++
	case SlowLoader:
		x.slow++
	case Trim:
		x.inject(Trim, "")
		x.w.burst()
	case Mixed:
		x.mix()
	case OldPrimary:
		x.split()
	case StoreFull:
		x.fill()
	case Misfit:
		x.misfit()
	case ClockAhead, ClockBack:
		x.jump(f)
	case StreamBreaks, StreamSilent, StreamStalls, AppCut:
		x.disturb(f)
	case Drop, Duplicate, Reorder, Delay, TimeoutAfterApply, LineLoses: // these are not episodes
	default:
	}
}

func (x *chaos) partition(f Fault) {
	a, b := x.host(), x.host()
	if a == b {
		return
	}
	x.inject(f, fmt.Sprint(a, b))
	lines := [][2]int{{a.slot, b.slot}}
	if f == TwoWay {
		lines = append(lines, [2]int{b.slot, a.slot})
	}
	for _, l := range lines {
		x.blocked[l] = f
	}
	x.w.after(x.length(a), func() {
		for _, l := range lines {
			delete(x.blocked, l)
		}
	})
}

func (x *chaos) isolate() {
	h := x.host()
	if x.cut[h.slot] != reached {
		return
	}
	x.inject(Isolate, h)
	x.cut[h.slot] = isolation(1 + x.w.rng.IntN(3))
	x.w.after(x.length(h), func() { delete(x.cut, h.slot) })
}

func (x *chaos) restartStore() {
	if x.down {
		return
	}
	x.inject(StoreRestart, "")
	x.down = true
	x.w.after(x.length(x.host()), func() { x.down = false })
}

// failover brings back what was some time ago.
func (x *chaos) failover(f Fault) {
	if len(x.saves) == 0 {
		return
	}
	x.inject(f, "")
	x.bringBack(f)
}

func (x *chaos) bringBack(f Fault) {
	back := 1 + x.w.rng.IntN(3)
	if f == Restore {
		back = 1 + x.w.rng.IntN(len(x.saves))
	}
	s := x.saves[len(x.saves)-min(back, len(x.saves))]
	x.w.undo(s)
	if f == FailoverVisible {
		x.w.model.Restart()
	}
	x.saves = x.saves[:max(len(x.saves)-back+1, 1)]
	if x.w.undone > 0 {
		x.w.count.changed(f)
	}
	x.w.logf("the store is as it was at #%d", s.check.step)
}

// undo brings the store back to a snapshot.
func (w *world) undo(s snapshot) {
	s.restore()
	w.undone = w.check.restore(s.check)
}

func (x *chaos) evict(f Fault) {
	w := x.w
	p := w.partition(w.rng.IntN(w.cfg.Partitions))
	switch f {
	case Flush:
		x.inject(f, "")
		if w.stored() {
			w.count.changed(f)
		}
		w.model.Flush()
		w.check.lost()
		w.check.flushed = w.step
	case EvictLedger:
		x.inject(f, p)
		if w.stored() {
			w.count.changed(f)
		}
		w.model.LoseLedger(p)
		w.check.lost()
	case EvictRegistrations:
		x.inject(f, p)
		w.model.LoseRegistrations(p)
		w.check.partitions[p.Index].unregistered = true
	default:
		key := keyName(w.rng.IntN(w.cfg.Keys))
		x.inject(f, key)
		if w.evict(key) {
			w.count.changed(f)
		}
	}
}

// stored tells whether the store holds something live.
func (w *world) stored() bool {
	for i := range w.cfg.Keys {
		if w.explain(keyName(i)).Live {
			return true
		}
	}
	return false
}

func (w *world) explain(key string) l2.Explanation {
	at := w.partition(w.partitionOf(key))
	e, _ := w.model.Explain(context.Background(), at, key)
	w.check.look(at)
	return e
}

func (x *chaos) crash(f Fault) {
	h := x.host()
	if h.boot == nil || h.paused {
		return
	}
	x.inject(f, h)
	if x.crashed[h.slot] == nil {
		x.crashed[h.slot] = map[string]bool{}
	}
	for key := range x.w.check.lives[h.boot].newest {
		x.crashed[h.slot][key] = true
	}
	for o := range x.w.pending {
		if f == Crash && o.boot == h.boot {
			x.w.count.changed(Crash)
		}
	}
	if f == Restart && (x.w.cfg.Gently || x.w.rng.IntN(2) == 0) {
		x.drain(h)
		return
	}
	h.boot.missed()
	h.boot.kill()
	wait := time.Duration(0)
	if f == Crash {
		wait = x.length(h)
	}
	x.w.after(wait+time.Microsecond, h.revive)
}

// drain ends a node as a rolling restart does: it says that it drains, and serves
// on for a while, so that nobody comes any more; it ends what it has begun; and it
// says that it has.
func (x *chaos) drain(h *host) {
	b := h.boot
	if b.says != gossip.StateAlive {
		return
	}
	b.say(gossip.StateDraining)
	if x.w.gossip.IntN(2) == 0 {
		x.ends(b)
		return
	}
	x.w.after(time.Duration(x.w.gossip.Int64N(int64(2*h.bound()))), func() { x.ends(b) })
}

func (x *chaos) ends(b *boot) {
	b.mu.Lock()
	over := b.dead
	b.drain = true
	b.mu.Unlock()
	if over {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 50*ms+time.Duration(x.w.lastOp))
		defer cancel()
		_ = b.node.Drain(ctx)
		x.w.arrive("drained "+b.name, func() {
			if !b.alive() {
				return
			}
			b.say(gossip.StateLeft)
			b.missed()
			b.kill()
			b.host.revive()
		})
	}()
}

// revive starts a node on a host that has none.
func (h *host) revive() {
	if h.boot == nil {
		h.start()
	}
}

func (x *chaos) pause() {
	h := x.host()
	if h.paused || h.boot == nil {
		return
	}
	x.inject(Pause, h)
	h.paused = true
	length := x.length(h)
	if length > missAfter/2 {
		h.boot.suspected(length)
	}
	x.w.after(length, h.resume)
}

func (x *chaos) mix() {
	h := x.host()
	if h.odd {
		return
	}
	x.inject(Mixed, h)
	h.odd = true
	x.w.after(2*x.length(h), func() { h.odd = false })
}

// fill takes the store's room for a while: it stores nothing more, and still
// takes invalidations.
func (x *chaos) fill() {
	if x.w.full {
		return
	}
	x.inject(StoreFull, "")
	x.w.setFull(true)
	x.w.after(2*x.length(x.host()), func() { x.w.setFull(false) })
}

func (w *world) setFull(full bool) {
	w.full = full
	w.model.SetFull(full)
}

// misfit starts a node anew that was told another number of partitions.
func (x *chaos) misfit() {
	h := x.host()
	if h.boot == nil || h.paused || h.misfit || !x.w.check.begun() { // the first that asks decides the number
		return
	}
	x.inject(Misfit, h)
	h.misfit = true
	x.again(h)
	x.w.after(2*x.length(h), func() {
		if h.misfit {
			h.misfit = false
			x.again(h)
		}
	})
}

// begun tells whether any partition has a ledger.
func (c *checker) begun() bool {
	return slices.ContainsFunc(c.partitions, func(p *history) bool { return p.epoch != 0 })
}

// again replaces a node at once.
func (x *chaos) again(h *host) {
	if h.boot != nil {
		h.boot.missed()
		h.boot.kill()
		x.w.after(time.Microsecond, h.revive)
	}
}

// longestJump is how far the store's clock jumps at most. A registration has
// half of its slack to spare, in each bound.
const longestJump = l2.RegistrationSlack/2 - 100*ms

// jump sets the store's clock.
func (x *chaos) jump(f Fault) {
	w := x.w
	by := time.Duration(w.rng.Int64N(int64(longestJump)))
	if w.rng.IntN(2) == 0 {
		by %= 200 * ms // about as long as leases last
	}
	if f == ClockBack {
		by = -by
	} else if w.now() < x.nextJump {
		return
	}
	x.inject(f, by)
	x.nextJump = w.now() + w.longestBound()
	for _, g := range w.check.grants {
		g.unsure = g.unsure || g.until <= w.storeNow()
	}
	w.check.leases.runOut(w.storeNow())
	w.skew += by
	for _, g := range w.check.grants {
		if g.ended == 0 && g.until > w.storeNow() {
			w.count.changed(f)
		}
	}
}

// disturb does something to the line between an application and the nodes.
func (x *chaos) disturb(f Fault) {
	a := x.w.apps[x.w.rng.IntN(len(x.w.apps))]
	switch {
	case a.stream == nil || a.stream.over || a.cut || a.stalled || a.stream.silent:
		return
	case f == StreamBreaks:
		a.stream.breaks()
	case f == StreamSilent:
		a.stream.silent = true
	case f == StreamStalls:
		a.stalled = true
		x.w.after(x.appLength(a), a.flows)
	case f == AppCut:
		a.cut = true
		x.w.after(x.appLength(a), func() { a.cut = false })
	}
	x.inject(f, fmt.Sprint("app ", a.number))
}

// appLength is like length, by the bound of a near cache.
func (x *chaos) appLength(a *app) time.Duration {
	d := a.bound / 4
	if x.w.rng.IntN(3) == 0 {
		d = 4 * a.bound
	}
	return time.Duration(x.w.rng.Int64N(int64(d))) + ms
}

// flows ends a stall: all at once, what the watch brought comes.
func (a *app) flows() {
	a.stalled = false
	stuck := a.stuck
	a.stuck = nil
	for _, then := range stuck {
		then()
	}
}

// heal ends all faults.
func (x *chaos) heal() {
	x.on = false
	x.slow, x.orphan = 0, 0
	clear(x.blocked)
	clear(x.cut)
	x.down = false
	x.w.setFull(false)
	x.w.rejoin()
	for _, a := range x.w.apps {
		a.cut = false
		a.flows()
	}
	for _, h := range x.w.hosts {
		h.odd = false
		h.resume()
		if h.misfit {
			h.misfit = false
			x.again(h)
		}
		h.revive()
	}
}

// burst invalidates so much at once that a ledger with a small retention
// forgets older records.
func (w *world) burst() {
	var targets []soracache.Target
	for i := range 16 {
		targets = append(targets, soracache.Key(fmt.Sprintf("other%d", w.rng.IntN(1000))), soracache.Tag(fmt.Sprintf("other%d-%d", i, w.rng.IntN(1000))))
	}
	w.issue(&op{kind: opInvalidate, host: w.hosts[w.rng.IntN(len(w.hosts))], targets: targets})
}
