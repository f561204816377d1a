package sim

import (
	"math/rand/v2"
	"time"

	"github.com/soracache/soracache/l2"
)

// Config says what a run is made of.
type Config struct {
	Nodes, Partitions int
	Keys, Tags        int
	Sessions          int
	Operations        int
	// Bounds are B of the nodes, in turn.
	Bounds       []time.Duration
	StoreTimeout time.Duration
	OpTimeout    time.Duration
	IdleAfter    time.Duration
	ReclaimAfter time.Duration
	SweepEvery   time.Duration
	Retention    l2.Retention
	// Gap is the mean time between two operations.
	Gap time.Duration
	// Latency is the mean of each way to the store, and of a packet.
	Latency time.Duration
	// Slow is how often, in a thousand, a way to the store takes up to SlowBy.
	Slow   int
	SlowBy time.Duration
	// Load is how long loaders take, LeaseFor how long leases last, TTL and Keep
	// how long values do: each up to twice as long.
	Load, LeaseFor, TTL, Keep time.Duration
	// What of a thousand operations are invalidations, puts and batches; the
	// rest are reads.
	Invalidations, Puts, Batches int
	// Everything is how often, in a thousand, an invalidation names everything,
	// and Acknowledged how often it is to be acknowledged.
	Everything, Acknowledged int
	// Settling is how often, in a thousand, an invalidation settles, and Settle
	// for how long, up to twice that.
	Settling int
	Settle   time.Duration
	// Failing is how often, in a thousand, an application's loader fails, and
	// Unstorable how often its value is not to be kept.
	Failing, Unstorable int
	// Herds is how many of a thousand operations are herds of readers, and HerdWait
	// how long these wait, up to twice that.
	Herds    int
	HerdWait time.Duration
	// Crowd is how many of a thousand operations are for another namespace, of
	// which nodes can follow one at a time; 0: there is none.
	Crowd int
	// FailingSession: the loads of one session mostly leave nothing.
	FailingSession bool
	// Faults are the weights of the kinds of faults; zero: it does not happen.
	Faults [faultKinds]int
	// Late is how often, in a thousand, a node's read or question is answered
	// late, or its append executed late: after half of its bound, up to all of it.
	Late int
	// Resting is how many of four nodes get no requests at a time.
	Resting int
	// Gently: nodes that are restarted are drained first.
	Gently bool
	// Apps is how many applications there are, each with a client of its own whose
	// near cache has the bound AppBound; AppGap is the mean time between two things
	// that one does, each of one to four calls, and AppTimeout how long its client lets the service take.
	Apps                         int
	AppBound, AppGap, AppTimeout time.Duration
	// What of a thousand calls of an application are invalidations and sets.
	AppInvalidations, AppSets int
	// WatchWindow is how much of a watch may be on its way, and WatchQueue how much
	// may wait for that at the node.
	WatchWindow, WatchQueue int
	// Dishes are what the applications' loaders make of other keys.
	Dishes []dish
	// FaultEvery is the mean time between two faults that are episodes.
	FaultEvery time.Duration
}

// pick returns one of some values.
func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

const ms = time.Millisecond

// Draw returns the configuration of a seed. Each seed has only some of the
// faults, and those in a measure of its own: a run with everything in it at
// once hides most of what a run with two things in it shows.
func Draw(seed uint64, operations int) Config {
	r := rand.New(rand.NewPCG(seed, 3))
	c := Config{
		Nodes:         2 + r.IntN(4),
		Partitions:    pick(r, 1, 1, 2),
		Keys:          2 + r.IntN(5),
		Tags:          1 + r.IntN(3),
		Sessions:      1 + r.IntN(4),
		Operations:    operations,
		Bounds:        []time.Duration{pick(r, 30*ms, 60*ms, 100*ms, 200*ms)},
		StoreTimeout:  pick(r, 80*ms, 200*ms, 600*ms),
		OpTimeout:     pick(r, 150*ms, 400*ms, 1000*ms),
		IdleAfter:     pick(r, 50*ms, 1000*ms, 60_000*ms),
		ReclaimAfter:  pick(r, 5*ms, 100*ms),
		SweepEvery:    pick(r, 300*ms, 2000*ms),
		Retention:     l2.NewRetention(),
		Gap:           pick(r, 500*time.Microsecond, ms, 2*ms),
		Latency:       pick(r, 100*time.Microsecond, 300*time.Microsecond, ms),
		Slow:          pick(r, 0, 5, 30),
		SlowBy:        pick(r, 10*ms, 60*ms, 250*ms),
		Load:          pick(r, ms, 4*ms, 15*ms),
		LeaseFor:      pick(r, 10*ms, 40*ms, 200*ms),
		TTL:           pick(r, 20*ms, 500*ms, 10_000*ms),
		Keep:          pick(r, 100*ms, 2000*ms, 20_000*ms),
		Invalidations: pick(r, 15, 50, 150),
		Puts:          pick(r, 0, 10, 60),
		Batches:       pick(r, 0, 80),
		Everything:    pick(r, 0, 30, 150),
		Acknowledged:  pick(r, 0, 200, 500),
		FaultEvery:    pick(r, 25*ms, 65*ms, 160*ms),
		Resting:       1,
	}
	if r.IntN(3) == 0 {
		c.Bounds = append(c.Bounds, pick(r, 30*ms, 100*ms, 300*ms))
	}
	// No two of a node's timers are to fire at one moment: which of them runs
	// first is not decided by the seed.
	for _, d := range []*time.Duration{&c.IdleAfter, &c.ReclaimAfter, &c.SweepEvery} {
		*d += time.Duration(1 + r.IntN(999_999))
	}
	destructive := map[Fault]bool{
		FailoverVisible: true, FailoverInvisible: true, Restore: true, Flush: true, EvictLedger: true,
	}
	for f := range LineLoses {
		if destructive[f] && r.IntN(4) == 0 || !destructive[f] && r.IntN(3) == 0 {
			c.Faults[f] = 1 + r.IntN(10)
		}
	}
	if c.Faults[Restore] > 0 {
		c.Faults[Restore] += 3 // few seeds have it
	}
	if s := rand.New(rand.NewPCG(seed, 4)); s.IntN(8) == 0 {
		c.Settling, c.Settle = pick(s, 100, 500), pick(s, 5*ms, 30*ms, 200*ms)
	}
	c.FailingSession = rand.New(rand.NewPCG(seed, 6)).IntN(2) == 0
	theme := r.IntN(8)
	c.theme(theme)
	if c.Faults[Trim] > 0 {
		c.Retention = l2.Retention{TagRecords: 4 + r.IntN(8), KeyRecords: 4 + r.IntN(8), Age: pick(r, 50*ms, 500*ms, 120_000*ms)}
	}
	c.drawApps(rand.New(rand.NewPCG(seed, 5)))
	c.rare(theme, r, rand.New(rand.NewPCG(seed, 8)))
	r = rand.New(rand.NewPCG(seed, 6))
	c.drawLoads(r)
	c.drawClock(r)
	c.drawCrowds(r, theme)
	c.drawOldPrimary(r, theme)
	c.drawRefusals(rand.New(rand.NewPCG(seed, 9)))
	return c
}

// drawCrowds decides whether many come at once, and whether nodes are at their
// cap, so that they forget what nobody has used of late.
func (c *Config) drawCrowds(r *rand.Rand, theme int) {
	if r.IntN(4) == 0 && c.Keys > 1 {
		c.Herds, c.HerdWait = pick(r, 10, 40), pick(r, 50*ms, 300*ms)
		c.LeaseFor = max(c.LeaseFor, 40*ms)
	}
	if theme == 4 {
		c.Crowd, c.Resting, c.IdleAfter = pick(r, 50, 300), pick(r, 2, 3), 10*ms+time.Duration(r.IntN(999_999))
		if r.IntN(2) == 0 {
			c.Late, c.Bounds = 300, []time.Duration{200 * ms}
		}
	}
}

// drawClock decides whether the store's clock jumps, where that is to change
// nothing for the truth. Back, and positions are given out twice once the past is
// brought back as well; ahead, and a list of registrations that were lost seems
// to have been whole for longer than it has. What settles does so on that clock.
func (c *Config) drawClock(r *rand.Rand) {
	back, ahead := r.IntN(4) == 0, r.IntN(2) == 0
	if c.Keys == 1 {
		return // it is about one moment: see rare
	}
	brought := c.Faults[FailoverInvisible] + c.Faults[FailoverVisible] + c.Faults[Restore]
	if back && brought == 0 && c.Settling == 0 {
		c.Faults[ClockBack] = 1 + r.IntN(10)
	}
	if ahead && brought+c.Faults[Flush]+c.Faults[EvictRegistrations] == 0 && c.Settling == 0 {
		c.Faults[ClockAhead] = 30 + r.IntN(20)
	}
}

// drawLoads decides what loads end in.
func (c *Config) drawLoads(r *rand.Rand) {
	if r.IntN(3) == 0 {
		c.Failing = pick(r, 50, 300)
	}
	if r.IntN(3) == 0 {
		c.Unstorable = pick(r, 50, 300)
	}
}

// drawApps decides about the applications.
func (c *Config) drawApps(r *rand.Rand) {
	c.Apps = 2
	c.AppBound = pick(r, 60*ms, 120*ms, 250*ms)
	c.AppGap = pick(r, 5*ms, 10*ms, 20*ms)
	c.AppTimeout = pick(r, 20*ms, 60*ms, 250*ms)
	c.AppInvalidations = pick(r, 20, 60, 150)
	c.AppSets = pick(r, 0, 10)
	c.WatchWindow = pick(r, 1, 4, 64)
	c.WatchQueue = pick(r, 20, 20, 4096)
	c.Dishes = c.menu()
	for f := LineLoses; f <= AppCut; f++ {
		if r.IntN(2) == 0 {
			c.Faults[f] = 2 + r.IntN(10)
		}
	}
	if c.Faults[StreamSilent] > 0 {
		c.Faults[StreamSilent] += 3 // few streams are whole when it comes
	}
	if r.IntN(4) > 0 {
		return
	}
	// A calm time, in which applications mostly find what they ask for near.
	c.Invalidations, c.Puts, c.Everything, c.Load = 25, 0, min(c.Everything, 30), ms
	c.TTL, c.Keep, c.AppGap, c.AppInvalidations = 2000*ms, 20_000*ms, 4*ms, 30
	for _, f := range []Fault{FailoverVisible, FailoverInvisible, Restore, Flush, EvictLedger, SlowLoader, HolderCrash} {
		c.Faults[f] = 0
	}
}

// theme makes some seeds about one thing, whose traps need several rare things
// at once.
func (c *Config) theme(theme int) {
	switch theme {
	case 0: // acknowledgements, by nodes that have just started and are not told
		c.Keys, c.Puts, c.Invalidations, c.Acknowledged = 2, 0, 120, 800
		c.TTL, c.Keep, c.Load = 10_000*ms, 20_000*ms, ms
		// One that crashed would be waited out, and the new one with it.
		c.Gently = true
		c.Faults[Restart], c.Faults[Drop], c.Faults[Crash], c.Faults[EvictRegistrations] = 20, 10, 0, 0
		c.FaultEvery = 20 * ms
	case 1: // histories: what was undone, and answers from before it was
		c.Invalidations = 120
		c.Slow, c.SlowBy = 150, 60*ms
		// Nodes that ask seldom keep what they know to themselves for longer.
		c.Resting, c.Bounds = 3, []time.Duration{200 * ms}
		c.Faults[FailoverInvisible], c.Faults[FailoverVisible], c.Faults[EvictLedger] = 10, 5, 3
		c.FaultEvery = 25 * ms
	}
}

// rare makes some seeds about one moment in which little else happens: with more
// going on, what a node asks meanwhile would tell it what it has missed. There are
// only the faults that bring such a moment about. Seeds with what few have are
// left as they are.
func (c *Config) rare(theme int, r, s *rand.Rand) {
	if theme != 2 && theme != 3 || c.Faults[Flush]+c.Faults[Restore] > 0 {
		return
	}
	c.Nodes, c.Partitions, c.Keys, c.Tags, c.Sessions = 2, 1, 1, 1, 1
	c.Puts, c.Batches, c.Everything, c.Settling, c.Acknowledged = 0, 0, 0, 0, 0
	c.Invalidations, c.Load, c.TTL, c.Keep = 150, ms, 10_000*ms, 20_000*ms
	c.Latency, c.Slow, c.StoreTimeout, c.IdleAfter = 100*time.Microsecond, 0, 600*ms, c.IdleAfter+1000*ms
	c.Retention, c.Resting, c.Gap = l2.NewRetention(), 0, 3*ms
	c.AppGap, c.AppInvalidations, c.AppSets, c.Dishes = 200*ms, 20, 0, c.menu()
	c.Faults = [faultKinds]int{}
	if s.IntN(4) == 0 {
		c.unknown(s)
		return
	}
	switch r.IntN(4) {
	case 0: // a node's first question, and acknowledgements before its second
		c.Bounds, c.Gap, c.Acknowledged, c.Gently = []time.Duration{300 * ms}, ms, 1000, true
		// Applications would have it asked a second time at once.
		c.Apps, c.Invalidations = 0, 40
		c.Faults[Restart], c.Faults[Drop], c.FaultEvery = 10, 60, 150*ms
	case 1: // a node that is told late, and not by others
		c.Bounds, c.Late, c.Acknowledged = []time.Duration{30 * ms}, 600, pick(r, 0, 1000)
		c.Faults[Drop] = 30
	case 2: // the same, and what others have from such a node
		c.Bounds, c.Late = []time.Duration{200 * ms}, 600
		c.AppBound, c.AppGap, c.Gap = 60*ms, 10*ms, 10*ms
		c.Faults[Drop] = 30
	case 3: // appends that are on their way while the past is brought back
		c.Nodes, c.Bounds, c.Gap, c.Invalidations = 3, []time.Duration{300 * ms}, 5*ms, 400
		c.Slow, c.SlowBy, c.FaultEvery = 500, 60*ms, 30*ms
		c.Faults[FailoverInvisible] = 10
	}
}

// unknown makes a seed about nodes of which the store knows nothing when an
// invalidation is to be acknowledged, and which are not told of it either.
func (c *Config) unknown(r *rand.Rand) {
	c.Bounds, c.Acknowledged, c.Gap = []time.Duration{30 * ms, 300 * ms}, 1000, ms
	c.Faults[EvictRegistrations], c.Faults[Drop], c.FaultEvery = 10, 25, 20*ms
	if r.IntN(2) == 0 {
		c.Bounds, c.Faults[ClockBack] = []time.Duration{300 * ms}, 10
	}
}

// drawRefusals decides whether the store is without room at times, and whether
// nodes are told another number of partitions. With no ledger left, the first that
// comes would decide the number.
func (c *Config) drawRefusals(r *rand.Rand) {
	full, misfit := r.IntN(3) == 0, r.IntN(2) == 0
	if c.Keys == 1 {
		return // it is about one moment: see rare
	}
	if full {
		c.Faults[StoreFull] = 2 + r.IntN(10)
	}
	if misfit && c.Faults[Flush]+c.Faults[Restore]+c.Faults[EvictLedger]+c.Faults[OldPrimary] == 0 && c.Crowd == 0 {
		c.Faults[Misfit] = 10 + r.IntN(20)
	}
}

// drawOldPrimary makes some seeds about an old primary that still answers some
// nodes. An application has one client for all of them, which what these answer
// would confuse, so there is none.
func (c *Config) drawOldPrimary(r *rand.Rand, theme int) {
	if theme == 5 && r.IntN(4) > 0 && c.Settling == 0 {
		c.Faults[OldPrimary], c.Apps, c.FaultEvery = 40+r.IntN(40), 0, min(c.FaultEvery, 80*ms)
		c.Faults[ClockBack], c.Faults[ClockAhead] = 0, 0
	}
}
