package l2test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// TestModelInVirtualTime: the default clock is the one that synctest replaces.
func TestModelInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Harness{Store: NewModel(ModelConfig{}), Wait: time.Sleep})
		f.load("k", "v", "t")
		time.Sleep(ttl - time.Microsecond)
		if a := f.hit("k", "v"); a.FreshFor != time.Microsecond {
			f.Fatalf("fresh for %v", a.FreshFor)
		}
		time.Sleep(keep - ttl)
		f.hit("k", "v")
		time.Sleep(time.Microsecond)
		f.miss("k")

		nonce, _ := f.lease("k")
		time.Sleep(leaseFor)
		f.refuseFill(soracache.ReasonLeaseLost, "k", nonce, "late")
	})
}

// TestModelForgetsByAge looks inside: nothing else can tell whether memory is
// given back.
func TestModelForgetsByAge(t *testing.T) {
	clock := &fakeClock{now: time.UnixMicro(1 << 50)}
	m := NewModel(ModelConfig{Now: clock.Now})
	f := newFixture(t, modelHarness(t, m, clock))
	f.load("k", "v", "t")
	for i := range 1000 {
		f.invalidate(soracache.Key(fmt.Sprint("k", i)), soracache.Tag(fmt.Sprint("t", i%500)))
		clock.Wait(time.Second)
	}
	l := m.partition(f.at).ledger
	age := int(l2.DefaultRetention / time.Second)
	if keys, issued := len(l.keys.latest), len(l.issued); keys > age || issued > age+1 {
		t.Errorf("%d key records and %d positions are kept, want those of %d s", keys, issued, age)
	}
	if tags := len(l.tags.latest); tags != 500 {
		t.Errorf("%d tag records are kept, want all of the time that entries are", tags)
	}
	clock.Wait(keep)
	f.invalidate(soracache.Tag("last"))
	if tags := len(l.tags.latest); tags != 1 {
		t.Errorf("%d tag records are kept though what they could kill has expired", tags)
	}
}

// TestModelIsDeterministic: simulations depend on it.
func TestModelIsDeterministic(t *testing.T) {
	history := func() string {
		clock := &fakeClock{now: time.UnixMicro(1 << 50)}
		m := NewModel(ModelConfig{Now: clock.Now, Random: rand.New(rand.NewPCG(1, 2)).Uint64})
		f := newFixture(t, modelHarness(t, m, clock))
		for i := range 50 {
			f.load(fmt.Sprint("k", i%20), "v", fmt.Sprint("t", i%7), "all")
			if i%10 == 0 {
				f.invalidate(soracache.Tag(fmt.Sprint("t", i%3)), soracache.Key("x"))
				f.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
			}
			clock.Wait(time.Millisecond)
		}
		keys, next, err := f.Store.ListKeys(t.Context(), f.at, "all", "", 5)
		return fmt.Sprint(m, f.readAll(f.head(), l2.ReadKey{Key: "k1"}), f.follow(f.head()), keys, next, err)
	}
	if first, second := history(), history(); first != second {
		t.Errorf("the same calls gave\n%s\nand then\n%s", first, second)
	}
}

// TestRegistrationsFromTheFuture: a list that was begun before the clock was set
// back is not known to have been whole for any time.
func TestRegistrationsFromTheFuture(t *testing.T) {
	clock := &fakeClock{now: time.UnixMicro(1 << 50)}
	m := NewModel(ModelConfig{Now: clock.Now})
	ask := func() l2.InvalidateAnswer {
		t.Helper()
		a := m.Invalidate(t.Context(), []l2.InvalidateRequest{{
			Partition: l2.Partition{Namespace: "a", Count: 1}, Register: l2.Registration{Name: "n", Bound: time.Second},
			Targets: []soracache.Target{soracache.Key("k")}, Followers: true,
		}})
		if a[0].Err != nil {
			t.Fatal(a[0].Err)
		}
		return a[0]
	}
	ask()
	clock.now = clock.now.Add(-time.Minute)
	if a := ask(); a.RegisteredFor != 0 {
		t.Errorf("whole for %v", a.RegisteredFor)
	}
}
