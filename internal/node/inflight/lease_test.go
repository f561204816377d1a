package inflight

import (
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// wanted returns what some readers want of a lease.
func wanted(rs ...*soracache.Read) *wish {
	w := &wish{}
	for _, r := range rs {
		w.add(r, func(holder uint64) soracache.Lease { return soracache.Lease{1}.HeldBy(holder) })
	}
	return w
}

// A lease is asked for as long as the most patient reader wants it, and in the name of
// the first one, or of nobody if those have left who may have it.
func TestWhatIsAskedFor(t *testing.T) {
	a := &soracache.Read{Lease: true, Holder: 1, LeaseFor: time.Second, RefreshWithin: time.Minute}
	b := &soracache.Read{Lease: true, Holder: 2, LeaseFor: time.Hour}
	none := &soracache.Read{}
	for name, c := range map[string]struct {
		join, leave []*soracache.Read
		holder      uint64
		asked       bool
	}{
		"nobody wants one":            {join: []*soracache.Read{none}},
		"who wanted it has left":      {join: []*soracache.Read{none, a}, leave: []*soracache.Read{a}},
		"the first one's":             {join: []*soracache.Read{none, a, b}, holder: 1, asked: true},
		"the other one has left":      {join: []*soracache.Read{a, b}, leave: []*soracache.Read{b}, holder: 1, asked: true},
		"the first one has left":      {join: []*soracache.Read{a, b}, leave: []*soracache.Read{a}, holder: 0, asked: true},
		"one of its holder has left":  {join: []*soracache.Read{a, a, b}, leave: []*soracache.Read{a}, holder: 1, asked: true},
		"the first came anew, alone":  {join: []*soracache.Read{b}, holder: 2, asked: true},
		"who wants none leaves again": {join: []*soracache.Read{none, a}, leave: []*soracache.Read{none}, holder: 1, asked: true},
	} {
		w := wanted(c.join...)
		for _, r := range c.leave {
			w.remove(r)
		}
		w.close()
		if asked := w.nonce != (soracache.Lease{}); asked != c.asked || w.nonce.Holder() != c.holder {
			t.Errorf("%s: asked %v, for holder %d", name, asked, w.nonce.Holder())
		}
	}
	if w := wanted(a, b); w.leaseFor != soracache.MaxLease || w.refreshWithin != time.Minute {
		t.Errorf("asked for %v, refresh within %v", w.leaseFor, w.refreshWithin)
	}
	if w := wanted(&soracache.Read{Lease: true}); w.leaseFor != soracache.DefaultLease {
		t.Errorf("asked for %v", w.leaseFor)
	}
}

// What becomes of a reader's wish: the table.
func TestGrants(t *testing.T) {
	const within = 10 * time.Second
	granted := l2.KeyAnswer{Lease: soracache.LeaseGranted, LeaseFor: time.Second, LeaseStamp: soracache.Stamp{Epoch: 1, Position: 2}}
	passed := granted
	passed.Refusal = soracache.RefusalPassed
	held := l2.KeyAnswer{Lease: soracache.LeaseHeld}
	refused := l2.KeyAnswer{Lease: soracache.LeaseRefused, Refusal: soracache.RefusalPassed}
	with := func(a l2.KeyAnswer, fresh time.Duration) *l2.KeyAnswer { a.Found, a.FreshFor = true, fresh; return &a }
	first := &soracache.Read{Lease: true, Holder: 1, RefreshWithin: within}
	same, other := &soracache.Read{Lease: true, Holder: 1}, &soracache.Read{Lease: true, Holder: 2}
	for name, c := range map[string]struct {
		answer *l2.KeyAnswer
		reader *soracache.Read
		taken  bool
		state  soracache.LeaseState
		why    soracache.Refusal
		own    bool
	}{
		"wants none":               {&granted, &soracache.Read{}, false, 0, 0, false},
		"the first":                {&granted, first, false, soracache.LeaseGranted, 0, true},
		"another of its holder":    {&granted, same, false, soracache.LeaseGranted, 0, true},
		"the second of them":       {&granted, same, true, soracache.LeaseHeld, 0, false},
		"another holder":           {&granted, other, false, soracache.LeaseHeld, 0, false},
		"passed: the first":        {&passed, first, false, soracache.LeaseGranted, 0, true},
		"passed: the second":       {&passed, first, true, soracache.LeaseRefused, soracache.RefusalPassed, false},
		"passed: a value is there": {with(passed, 0), first, true, soracache.LeaseHeld, soracache.RefusalPassed, false},
		"held by somebody else":    {&held, first, false, soracache.LeaseHeld, 0, false},
		"refused":                  {&refused, first, false, soracache.LeaseRefused, soracache.RefusalPassed, false},
		"fresh":                    {with(granted, within+1), first, false, 0, 0, false},
		"fresh, to be refreshed":   {with(granted, within), first, false, soracache.LeaseGranted, 0, true},
		"stale":                    {with(granted, 0), same, false, soracache.LeaseGranted, 0, true},
		"stale, of another holder": {with(granted, -1), other, false, soracache.LeaseHeld, 0, false},
	} {
		w := wanted(first, same, other)
		w.close()
		w.taken = c.taken
		g := w.grant(c.reader, c.answer)
		if own := g.Lease != (soracache.Lease{}); g.State != c.state || g.Refusal != c.why || own != c.own {
			t.Errorf("%s: %+v", name, g)
		}
		if c.own && (g.Lease != w.nonce || g.Stamp != c.answer.LeaseStamp || g.For != c.answer.LeaseFor) {
			t.Errorf("%s: the lease is %+v", name, g)
		}
		if g.State == soracache.LeaseHeld && g.For <= 0 {
			t.Errorf("%s: held for %v", name, g.For)
		}
	}
}

// A lease is orphaned once nobody is left who may have it, and told to be so once.
func TestOrphans(t *testing.T) {
	granted, held := &l2.KeyAnswer{Lease: soracache.LeaseGranted}, &l2.KeyAnswer{Lease: soracache.LeaseHeld}
	first, other := &soracache.Read{Lease: true, Holder: 1}, &soracache.Read{Lease: true, Holder: 2}
	w := wanted(first, other)
	w.close()
	if w.orphaned(granted) {
		t.Error("somebody may have it")
	}
	w.remove(first)
	if w.orphaned(held) {
		t.Error("it was not given")
	}
	if !w.orphaned(granted) || w.orphaned(granted) {
		t.Error("it is to be told once")
	}
	w = wanted(first)
	w.close()
	w.grant(first, granted)
	w.remove(first)
	if w.orphaned(granted) {
		t.Error("it was taken")
	}
}
