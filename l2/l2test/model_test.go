package l2test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// TestModelInVirtualTime: the default clock is the one that synctest replaces.
func TestModelInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Harness{Store: l2model.New(l2model.Config{}), Wait: time.Sleep})
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

// TestModelIsDeterministic: simulations depend on it.
func TestModelIsDeterministic(t *testing.T) {
	history := func() string {
		clock := &fakeClock{now: time.UnixMicro(1 << 50)}
		m := l2model.New(l2model.Config{Now: clock.Now, Random: rand.New(rand.NewPCG(1, 2)).Uint64})
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
