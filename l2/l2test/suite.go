package l2test

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/soracache/soracache/l2"
)

// Options say how a store is to be opened.
type Options struct {
	// Retention is never zero.
	Retention l2.Retention
}

// Harness is a store under test, and what else can be done to it. A nil
// function is something that the engine's test cannot do: what needs it is
// skipped.
type Harness struct {
	// Store was empty when it was opened. Whoever opened it closes it.
	Store l2.Store
	// Another opens one more client of the same store, as a second node does.
	Another func() l2.Store
	// Now is the store's clock; nil means time.Now.
	Now func() time.Time
	// Wait lets a time pass on the store's clock, or sets it back if the time is
	// negative; nil means that it passes by itself.
	Wait func(time.Duration)
	// Overdue has the store look after a partition at its next sweep; nil means that
	// it does so anyway.
	Overdue func(at l2.Partition)
	// Reopen closes the store in good order and opens it on the same data. That
	// may lose registrations.
	Reopen func() l2.Store
	// Lose holds the parts of a partition's ledger that can get lost, by name,
	// and how to lose each.
	Lose map[string]func(l2.Partition)
	// Later holds the parts of a partition's ledger that are looked at before
	// anything else, by name, and how to make each one of a later version's form,
	// until it is restored.
	Later map[string]func(l2.Partition) (restore func())
	// LoseRegistrations loses who is registered with a partition, and nothing
	// else.
	LoseRegistrations func(l2.Partition)
	// AgeRegistrations makes registrations of a partition look so much older than
	// they are. Nil with Wait set means that Wait can serve for it.
	AgeRegistrations func(at l2.Partition, by time.Duration)
	// LoseNumber loses how many partitions a namespace has, and nothing else.
	LoseNumber func(namespace string)
	// AgeChange makes a change of the number of partitions look as if it had begun
	// so much earlier. Nil with Wait set means that Wait can serve for it.
	AgeChange func(namespace string, by time.Duration)
	// Tamper replaces the bytes stored under a key by what change makes of
	// them; nil stands for none.
	Tamper func(at l2.Partition, key string, change func(stored []byte) []byte)
	// Dump returns a function that puts the entry under a key back as it is
	// now. Nil with Tamper set means that Tamper can serve for it.
	Dump func(at l2.Partition, key string) (restore func())
	// Snapshot returns a function that puts all the store's data back as it is
	// now.
	Snapshot func() (restore func())
	// Full has the store be without room, or have room again. See [RunFull].
	Full func(full bool)
}

// Open opens an empty store for one test and arranges for its end (t.Cleanup).
type Open func(t *testing.T, o Options) Harness

// check is one test of the suite: a sentence about stores, and its proof.
type check struct {
	name      string
	retention l2.Retention // zero: the default
	run       func(f *fixture)
}

// Run is the suite of behaviour that every engine must show: the documentation
// of [l2.Store] as tests.
func Run(t *testing.T, open Open) {
	runGroups(t, open, []group{
		{"Leases", leaseChecks()},
		{"Outcomes", outcomeChecks()},
		{"Lifetimes", lifetimeChecks()},
		{"Rule", ruleChecks()},
		{"Deltas", deltaChecks()},
		{"Retention", retentionChecks()},
		{"Histories", historyChecks()},
		{"Guests", guestChecks()},
		{"Registrations", registrationChecks()},
		{"Settling", settleChecks()},
		{"Damage", damageChecks()},
		{"Versions", versionChecks()},
		{"Partitions", partitionChecks()},
		{"Numbers", numberChecks()},
		{"Names", nameChecks()},
		{"TagSets", tagSetChecks()},
		{"Explain", explainChecks()},
		{"Room", roomChecks()},
		{"Concurrency", concurrencyChecks()},
		{"Schemas", schemaChecks()},
		{"Ends", endChecks()},
		{"Clocks", clockChecks()},
	})
}

// RunFull is the part of the suite for which the store must be without room
// ([Harness.Full]): it is to have a server of its own.
func RunFull(t *testing.T, open Open) {
	runGroups(t, open, []group{{"Full", fullChecks()}})
}

// RunTimed is the part of [Run] that is about the passing of time, for a store
// whose clock can be moved, and a harness that has Wait.
func RunTimed(t *testing.T, open Open) {
	runGroups(t, open, []group{{"Ends", endChecks()}, {"Clocks", clockChecks()}})
}

// group is the checks of one subject.
type group struct {
	name   string
	checks []check
}

func runGroups(t *testing.T, open Open, groups []group) {
	t.Helper()
	for _, group := range groups {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.checks {
				t.Run(c.name, func(t *testing.T) {
					o := Options{Retention: c.retention}
					if o.Retention == (l2.Retention{}) {
						o.Retention = l2.NewRetention()
					}
					c.run(newFixture(t, open(t, o)))
				})
			}
		})
	}
}

// Verifying reports whether the full counts are asked for, which take minutes:
// the environment has SORACACHE_VERIFY=1.
func Verifying() bool { return os.Getenv("SORACACHE_VERIFY") == "1" }

// counts returns one of two counts: for every test run, or when verifying.
func counts(always, verifying int) int {
	if Verifying() {
		return verifying
	}
	return always
}

// small is a retention that a test can exceed.
func small() l2.Retention {
	return l2.Retention{TagRecords: 32, KeyRecords: 32, Age: l2.DefaultRetention}
}

// brief is a retention that a test can outlive.
func brief() l2.Retention {
	return l2.Retention{TagRecords: l2.DefaultTagRecords, KeyRecords: l2.DefaultKeyRecords, Age: 30 * time.Millisecond}
}

// sorted returns a sorted copy without repetition.
func sorted(names []string) []string {
	s := slices.Clone(names)
	slices.Sort(s)
	return slices.Compact(s)
}
