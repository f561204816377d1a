package l2test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func registrationChecks() []check {
	return []check{
		{name: "every kind of request registers its caller", run: everyRequestRegisters},
		{name: "an append lists its caller and the others", run: func(f *fixture) {
			f.register(l2.Registration{Name: "a", Bound: time.Second})
			f.expectFollowers(f.listing(l2.Registration{Name: "b", Bound: time.Minute}),
				l2.Registration{Name: "a", Bound: time.Second}, l2.Registration{Name: "b", Bound: time.Minute})
		}},
		{name: "whoever has no name does not register", run: func(f *fixture) {
			f.register(l2.Registration{Bound: -1})
			f.expectFollowers(f.listing(l2.Registration{Bound: time.Hour}))
		}},
		{name: "an append that does not ask is told of nobody", run: func(f *fixture) {
			f.register(l2.Registration{Name: "a", Bound: time.Second})
			if a := f.invalidateSince(soracache.Stamp{}, soracache.Tag("t")); a.Registered != nil || a.RegisteredFor != 0 {
				f.Fatalf("told of %+v for %v", a.Registered, a.RegisteredFor)
			}
		}},
		{name: "each partition has followers of its own", run: func(f *fixture) {
			var parts [3]*fixture
			for i := range parts {
				parts[i] = f.in(l2.Partition{Namespace: "own", Index: uint16(i), Count: 3})
				parts[i].register(l2.Registration{Name: fmt.Sprint("n", i), Bound: time.Second})
			}
			for i, p := range parts {
				p.expectFollowers(p.listing(l2.Registration{}), l2.Registration{Name: fmt.Sprint("n", i), Bound: time.Second})
			}
		}},
		{name: "names and bounds at their limits", run: registrationLimits},
		{name: "a registration stands beyond its bound and then is over", run: func(f *fixture) {
			f.register(l2.Registration{Name: "a", Bound: time.Second})
			f.register(l2.Registration{Name: "b", Bound: time.Minute})
			a, b := l2.Registration{Name: "a", Bound: time.Second}, l2.Registration{Name: "b", Bound: time.Minute}
			f.age(l2.RegistrationSlack - time.Second)
			f.expectFollowers(f.listing(l2.Registration{}), a, b)
			f.age(3 * time.Second)
			f.expectFollowers(f.listing(l2.Registration{}), b)
			f.register(a)
			f.expectFollowers(f.listing(l2.Registration{}), a, b)
		}},
		{name: "asking again renews a registration", run: func(f *fixture) {
			a := l2.Registration{Name: "a", Bound: 20 * time.Second}
			for range 30 {
				f.register(a)
				f.age(3 * time.Second)
			}
			// At least half of the slack is left beyond the bound, whatever came before.
			f.age(a.Bound + l2.RegistrationSlack/2 - 4*time.Second)
			f.expectFollowers(f.listing(l2.Registration{}), a)
			f.age(l2.RegistrationSlack/2 + 2*time.Second)
			f.expectFollowers(f.listing(l2.Registration{}))
		}},
		{name: "a larger bound counts at once, a smaller one later", run: func(f *fixture) {
			small, large := l2.Registration{Name: "a", Bound: time.Second}, l2.Registration{Name: "a", Bound: 20 * time.Second}
			f.register(small)
			f.register(large)
			f.expectFollowers(f.listing(l2.Registration{}), large)
			f.register(small)
			f.age(20 * time.Second)
			f.register(small)
			f.expectFollowers(f.listing(l2.Registration{}), large)
			f.age(5 * time.Second) // now nobody trusts what was asked with the large one
			f.expectFollowers(f.listing(small), small)
			f.age(10 * time.Second)
			f.expectFollowers(f.listing(l2.Registration{}), small)
			f.age(3 * time.Second)
			f.expectFollowers(f.listing(l2.Registration{}))
		}},
		{name: "a list counts as whole from when it was made", run: func(f *fixture) {
			f.invalidate(soracache.Tag("t"))
			f.wait(2 * time.Millisecond)
			if a := f.listing(l2.Registration{}); a.RegisteredFor != 0 {
				f.Fatalf("a list that the append made is %v old", a.RegisteredFor)
			}
			g := f.in(l2.Partition{Namespace: "made", Count: 1})
			f.expectBorn(func() { g.register(l2.Registration{Name: "a", Bound: time.Second}) }, g)
		}},
		{name: "in a new epoch a list counts as whole anew, and keeps who is on it", run: newEpochs},
		{name: "a list that was lost counts as whole anew", run: func(f *fixture) {
			if f.LoseRegistrations == nil {
				f.Skip("this engine's test cannot lose registrations")
			}
			f.register(l2.Registration{Name: "a", Bound: time.Minute})
			f.wait(2 * time.Millisecond)
			f.LoseRegistrations(f.at)
			if a := f.listing(l2.Registration{}); len(a.Registered) != 0 || a.RegisteredFor != 0 {
				f.Fatalf("lost, and then for %v: %+v", a.RegisteredFor, a.Registered)
			}
			f.wait(2 * time.Millisecond)
			f.LoseRegistrations(f.at)
			f.expectBorn(func() { f.register(l2.Registration{Name: "b", Bound: time.Minute}) }, f)
			f.expectFollowers(f.listing(l2.Registration{}), l2.Registration{Name: "b", Bound: time.Minute})
		}},
		{name: "registering costs a ledger nothing", run: func(f *fixture) {
			before := f.head()
			for range 5 {
				f.register(l2.Registration{Name: "a", Bound: time.Minute})
			}
			if f.head() != before {
				f.Fatalf("the head went from %v to %v", before, f.head())
			}
		}},
		{name: "an append finds whoever was answered without it", run: appendsFindFollowers},
		{name: "a store tells its clock", run: func(f *fixture) {
			r := f.invalidate(soracache.Tag("t"))
			a := f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at}})[0]
			given := time.UnixMicro(int64(r.Position))
			if off, age := a.Clock.Sub(f.now()), a.Clock.Sub(given); off.Abs() > slack || age.Abs() > slack {
				f.Fatalf("the clock is at %v, %v from ours and %v from the last record", a.Clock, off, age)
			}
		}},
	}
}

// requester makes one kind of request in somebody's name.
type requester struct {
	name string
	ask  func(f *fixture, by l2.Registration, since soracache.Stamp) (soracache.Delta, error)
}

func requesters() []requester {
	write := func(w l2.WriteRequest) func(*fixture, l2.Registration, soracache.Stamp) (soracache.Delta, error) {
		return func(f *fixture, by l2.Registration, since soracache.Stamp) (soracache.Delta, error) {
			w := w
			w.Partition, w.Register, w.Since, w.Key = f.at, by, since, "requested"
			a := f.Store.Write(f.Context(), []l2.WriteRequest{w})[0]
			return a.Delta, a.Err
		}
	}
	life := soracache.Lifetime{TTL: ttl}
	return []requester{
		{"since", func(f *fixture, by l2.Registration, since soracache.Stamp) (soracache.Delta, error) {
			a := f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at, Since: since, Register: by}})[0]
			return a.Delta, a.Err
		}},
		{"read", func(f *fixture, by l2.Registration, since soracache.Stamp) (soracache.Delta, error) {
			a := f.Store.Read(f.Context(), []l2.ReadRequest{{
				Partition: f.at, Since: since, Register: by, Keys: []l2.ReadKey{{Key: "k"}},
			}})[0]
			return a.Delta, a.Err
		}},
		{"leasing read", func(f *fixture, by l2.Registration, since soracache.Stamp) (soracache.Delta, error) {
			a := f.Store.Read(f.Context(), []l2.ReadRequest{{
				Partition: f.at, Since: since, Register: by,
				Keys: []l2.ReadKey{{Key: "leased", Nonce: newNonce(), LeaseFor: leaseFor}},
			}})[0]
			return a.Delta, a.Err
		}},
		{"fill", write(l2.WriteRequest{Op: soracache.OpFill, Nonce: newNonce(), Entry: value("v", "t"), Lifetime: life})},
		{"put", write(l2.WriteRequest{Op: soracache.OpPut, Entry: value("v", "t"), Lifetime: life})},
		{"renew", write(l2.WriteRequest{Op: soracache.OpRenew, Nonce: newNonce(), LeaseFor: leaseFor})},
		{"release", write(l2.WriteRequest{Op: soracache.OpRelease, Nonce: newNonce()})},
		{"invalidate", func(f *fixture, by l2.Registration, since soracache.Stamp) (soracache.Delta, error) {
			a := f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{{
				Partition: f.at, Since: since, Register: by, Targets: []soracache.Target{soracache.Tag("t")},
			}})[0]
			return a.Delta, a.Err
		}},
	}
}

// register registers somebody by asking for the delta.
func (f *fixture) register(by l2.Registration) {
	f.Helper()
	if _, err := requesters()[0].ask(f, by, soracache.Stamp{}); err != nil {
		f.Fatalf("since, by %+v: %v", by, err)
	}
}

// listing appends a record and asks who is registered.
func (f *fixture) listing(by l2.Registration) l2.InvalidateAnswer {
	f.Helper()
	return f.listingSince(soracache.Stamp{}, by)
}

func (f *fixture) listingSince(since soracache.Stamp, by l2.Registration) l2.InvalidateAnswer {
	f.Helper()
	a := f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{{
		Partition: f.at, Since: since, Register: by, Followers: true, Targets: []soracache.Target{soracache.Tag("listing")},
	}})[0]
	if a.Err != nil || a.RegisteredFor < 0 {
		f.Fatalf("append that lists: %+v", a)
	}
	checkDelta(f, since, a.Delta)
	return a
}

func (f *fixture) expectFollowers(a l2.InvalidateAnswer, want ...l2.Registration) {
	f.Helper()
	if got := sortedFollowers(a.Registered); !slices.Equal(got, sortedFollowers(want)) {
		f.Fatalf("registered are %.500s, want %.500s", fmt.Sprint(got), fmt.Sprint(want))
	}
}

func sortedFollowers(all []l2.Registration) []l2.Registration {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b l2.Registration) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// expectBorn expects that what is done makes the list of g count as whole from
// then on.
func (f *fixture) expectBorn(renew func(), g *fixture) {
	f.Helper()
	before := f.now()
	renew()
	after := f.now()
	g.wait(5 * time.Millisecond)
	sooner := f.now()
	a := g.listing(l2.Registration{})
	// The clocks of store and test may differ, but go alike.
	if later := f.now(); a.RegisteredFor < sooner.Sub(after)-clockError || a.RegisteredFor > later.Sub(before)+clockError {
		f.Fatalf("the list is %v old, and was made between %v and %v ago", a.RegisteredFor, later.Sub(before), sooner.Sub(after))
	}
}

// clockError is by how much two clocks differ in a few milliseconds.
const clockError = 50 * time.Microsecond

// age makes registrations look older, by letting time pass if nothing else.
func (f *fixture) age(by time.Duration) {
	f.Helper()
	switch {
	case f.AgeRegistrations != nil:
		f.AgeRegistrations(f.at, by)
	case f.Wait != nil:
		f.Wait(by)
	default:
		f.Skip("this engine's test cannot make registrations older")
	}
}

func everyRequestRegisters(f *fixture) {
	for i, r := range requesters() {
		g := f.in(l2.Partition{Namespace: fmt.Sprint("registers-", i), Count: 1})
		by := l2.Registration{Name: "somebody", Bound: time.Second}
		for range 2 { // the first time on an empty store
			d, err := r.ask(g, by, soracache.Stamp{})
			if err != nil {
				f.Fatalf("%s: %v", r.name, err)
			}
			checkDelta(f, soracache.Stamp{}, d)
			g.expectFollowers(g.listing(l2.Registration{}), by)
			by.Bound = 2 * time.Second
		}
		for _, bad := range []l2.Registration{
			{Name: "n"}, {Name: "n", Bound: -1}, {Name: "n", Bound: l2.MaxBound + 1},
			{Name: strings.Repeat("n", l2.MaxName+1), Bound: time.Second},
		} {
			if _, err := r.ask(g, bad, soracache.Stamp{}); !errors.Is(err, soracache.ErrInvalid) {
				f.Fatalf("%s by %.20s with bound %v: %v", r.name, bad.Name, bad.Bound, err)
			}
		}
		by.Bound = 2 * time.Second
		g.expectFollowers(g.listing(l2.Registration{}), by)
	}
}

func registrationLimits(f *fixture) {
	var all []l2.Registration
	for _, name := range []string{
		"!", "n", "a b", "{x}", "\x00", "host:7070-3f9a2c", strings.Repeat("n", l2.MaxName), "größe", string([]byte{0xFF, 0x21}),
	} {
		all = append(all,
			l2.Registration{Name: name, Bound: l2.MaxBound})
	}
	all = append(all, l2.Registration{Name: "short", Bound: time.Microsecond}, l2.Registration{Name: "odd", Bound: 333333 * time.Microsecond})
	for _, r := range all {
		f.register(r)
	}
	f.expectFollowers(f.listing(l2.Registration{}), all...)
	one := l2.SinceRequest{Partition: f.at, Register: l2.Registration{Name: "one", Bound: time.Second}}
	none := l2.SinceRequest{Partition: f.at, Register: l2.Registration{Name: "none"}}
	a := f.Store.Since(f.Context(), []l2.SinceRequest{none, one, none})
	if a[0].Err == nil || a[1].Err != nil || a[2].Err == nil {
		f.Fatalf("of three, of which the second is right: %+v", a)
	}
	f.expectFollowers(f.listing(l2.Registration{}), append(all, one.Register)...)
	many := f.in(l2.Partition{Namespace: "many", Count: 1})
	all = nil
	for i := range 600 {
		all = append(all, l2.Registration{Name: fmt.Sprint("node-", i), Bound: time.Second})
		many.register(all[i])
	}
	many.expectFollowers(many.listing(l2.Registration{}), all...)
}

// newEpochs makes ledgers take new epochs, through every operation and by each
// loss, and expects the lists to keep their members and to be born anew.
func newEpochs(f *fixture) {
	a := l2.Registration{Name: "a", Bound: time.Minute}
	start := func(name string) *fixture {
		g := f.in(l2.Partition{Namespace: name, Count: 1})
		g.register(a)
		g.invalidate(soracache.Tag("t"))
		g.wait(5 * time.Millisecond)
		if got := g.listing(l2.Registration{}); got.RegisteredFor < 4*time.Millisecond {
			f.Fatalf("a list of 5 ms counts as %v old", got.RegisteredFor)
		}
		return g
	}
	expect := func(g *fixture, what string, got l2.InvalidateAnswer) {
		f.Helper()
		if got.RegisteredFor != 0 {
			f.Fatalf("%s: the list counts as %v old", what, got.RegisteredFor)
		}
		g.expectFollowers(got, a)
	}
	foreign := func() soracache.Stamp { return soracache.Stamp{Epoch: f.unknown(), Position: 1} }

	for i, op := range operations() {
		g := start(fmt.Sprint("epochs-", i))
		op.run(g, foreign())
		g.wait(time.Millisecond)
		expect(g, "a new epoch by "+op.name, g.listing(l2.Registration{}))
	}
	for i, r := range requesters() {
		g := start(fmt.Sprint("registering-", i))
		f.expectBorn(func() {
			if _, err := r.ask(g, a, foreign()); err != nil {
				f.Fatal(err)
			}
		}, g)
		g.expectFollowers(g.listing(l2.Registration{}), a)
	}
	g := start("listing")
	expect(g, "a new epoch by the append that lists", g.listingSince(foreign(), l2.Registration{}))
	for part, lose := range f.Lose {
		g := start("lost-" + strings.ReplaceAll(part, " ", "-"))
		lose(g.at)
		expect(g, "lost "+part, g.listing(l2.Registration{}))
	}
	if f.Snapshot != nil {
		g := start("restored")
		restore := f.Snapshot()
		g.register(l2.Registration{Name: "b", Bound: time.Minute})
		knows := stampOf(g.invalidate(soracache.Tag("t")))
		restore()
		expect(g, "a lost tail", g.listingSince(knows, l2.Registration{}))
	}
}

// answered is what somebody who registered was answered.
type answered struct {
	name string
	head soracache.Stamp
}

// appendsFindFollowers lets goroutines register by all kinds of requests, each
// time in a name of its own, just when others append. Whoever's answer shows a
// head from before an append must be on the list that the append was answered.
func appendsFindFollowers(f *fixture) {
	r := race{fixture: f}
	r.turned.L = &r.mu
	f.head()
	var appending, registering sync.WaitGroup
	for g := range 6 {
		appending.Go(func() { r.append(g, counts(40, 150)) })
	}
	for _, by := range requesters() {
		registering.Go(func() { r.register(by) })
	}
	appending.Wait()
	r.next(-1)
	registering.Wait()

	closely := 0 // answers that came just before some append
	for _, a := range r.appends {
		listed := make(map[string]bool, len(a.Registered))
		for _, l := range a.Registered {
			listed[l.Name] = true
		}
		for _, x := range r.answers {
			if x.head.Position == a.Record.Prev {
				closely++
			}
			if x.head.Position < a.Record.Position && !listed[x.name] {
				f.Fatalf("%s was answered at %d, and is not among the %d that the append at %d was told of",
					x.name, x.head.Position, len(a.Registered), a.Record.Position)
			}
		}
	}
	if closely == 0 {
		f.Errorf("no registration came just before an append")
	}
	f.Logf("%d registrations, %d appends, %d of the former just before one of the latter", len(r.answers), len(r.appends), closely)
}

// race is one run of appendsFindFollowers.
type race struct {
	*fixture
	mu      sync.Mutex // guards what follows
	turned  sync.Cond  // turn has changed
	turn    int        // how many appends were begun; negative when all are done
	answers []answered
	appends []l2.InvalidateAnswer
}

// next begins the next turn, or with -1 ends the race.
func (r *race) next(step int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.turn += step; step < 0 {
		r.turn = -1
	}
	r.turned.Broadcast()
}

func (r *race) append(g, n int) {
	for i := range n {
		by := l2.Registration{Name: fmt.Sprintf("appender-%d-%d", g, i), Bound: l2.MaxBound}
		r.next(1)
		a := r.Store.Invalidate(r.Context(), []l2.InvalidateRequest{{
			Partition: r.at, Register: by, Followers: true, Targets: []soracache.Target{soracache.Tag("t")},
		}})[0]
		if a.Err != nil || !slices.Contains(a.Registered, by) {
			r.Errorf("append by %s: %v, told of %d", by.Name, a.Err, len(a.Registered))
			return
		}
		r.mu.Lock()
		r.appends = append(r.appends, a)
		r.mu.Unlock()
	}
}

// register registers once in each turn.
func (r *race) register(by requester) {
	for last := 0; ; {
		r.mu.Lock()
		for r.turn == last {
			r.turned.Wait()
		}
		last = r.turn
		r.mu.Unlock()
		if last < 0 {
			return
		}
		name := fmt.Sprintf("%s-%d", by.name, last)
		d, err := by.ask(r.fixture, l2.Registration{Name: name, Bound: l2.MaxBound}, soracache.Stamp{})
		if err != nil {
			r.Errorf("%s: %v", name, err)
			return
		}
		r.mu.Lock()
		r.answers = append(r.answers, answered{name, headOf(d)})
		r.mu.Unlock()
	}
}
