package redis

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2test"
)

// timed opens a store on a server of its own, whose clock the test moves.
func timed(t *testing.T) (*user, *redistest.Clock) {
	t.Helper()
	clock := redistest.NewClock(t)
	u, _ := own(t, redistest.WithClock(clock))
	return u, clock
}

// sweepDue sweeps until nothing is due.
func (u *user) sweepDue() (steps int) {
	u.Helper()
	for more := true; more; steps++ {
		var err error
		if more, err = u.Sweep(context.Background()); err != nil {
			u.Fatal(err)
		}
		if steps > 10_000 {
			u.Fatal("sweeping does not end")
		}
	}
	return steps
}

// Who only reads leaves nothing behind: ten minutes later Redis holds no key of
// what was read, and at no time does this process remember more than it must.
func TestNamespacesThatWereRead(t *testing.T) {
	racetest.Without(t)
	u, clock := timed(t)
	const batch = 500
	many := 4_000
	if l2test.Verifying() {
		many = 20_000
	}
	by := l2.Registration{Name: "a", Bound: time.Second}
	for from := 0; from < many; from += batch {
		var reqs []l2.ReadRequest
		for i := from; i < from+batch; i++ {
			reqs = append(reqs, l2.ReadRequest{
				Partition: l2.Partition{Namespace: fmt.Sprint("tenant-", i), Count: 1}, Register: by,
				Keys: []l2.ReadKey{{Key: "k", Nonce: soracache.Lease{1}}},
			})
		}
		for _, a := range u.Read(t.Context(), reqs) {
			if a.Err != nil {
				t.Fatal(a.Err)
			}
		}
	}
	if n := len(u.partitions) + len(u.older); n > 2*mostPartitions {
		t.Errorf("%d partitions are remembered", n)
	}
	for _, name := range keysOf(t, u.admin, "sora:{tenant-77/0}") {
		if u.do("PTTL", name).(int64) < 0 {
			t.Errorf("%s of a namespace that stores nothing has no expiry", name)
		}
	}
	u.sweepDue()
	clock.Move(t, 3*time.Minute)
	u.sweepDue()
	clock.Move(t, 7*time.Minute)
	u.sweepDue()
	if left := keysOf(t, u.admin, "sora:"); len(left) > 0 {
		t.Errorf("%d keys are left, such as %.200q", len(left), left)
	}
}

// What was stored holds its ledger, which then has no expiry, for as long as it is
// kept; then that ends, too.
func TestNamespacesThatStored(t *testing.T) {
	u, clock := timed(t)
	for _, tags := range [][]string{nil, {"t"}} {
		u.at.Namespace = fmt.Sprint("tags-", len(tags))
		u.fill("k", u.lease("k", 1), "v", tags...) // for an hour
		for _, kind := range []string{"t", "k", "h", "d"} {
			if left := u.do("PTTL", u.name(kind)); left != int64(-1) {
				t.Errorf("%s of a ledger that stores something expires in %v ms", kind, left)
			}
		}
	}
	for range 5 {
		clock.Move(t, 11*time.Minute)
		u.sweepDue()
	}
	u.hit("k", "v")
	clock.Move(t, 5*time.Minute)
	for range 3 { // the buckets end up to an eighth later
		clock.Move(t, 6*time.Minute)
		u.sweepDue()
	}
	if left := keysOf(t, u.admin, "sora:"); len(left) > 0 {
		t.Errorf("left are %.500q", left)
	}
}

// A ledger that nobody appends to is trimmed by sweeping alone, in small steps; the
// records of tags stay while entries carry any.
func TestIdleLedgerIsTrimmed(t *testing.T) {
	u, clock := timed(t)
	held := func(kind string) int64 { return u.do("ZCARD", u.name(kind)).(int64) }
	u.put("plain", "v")
	for i := range 20 {
		var targets []soracache.Target
		for j := range 500 {
			targets = append(targets, soracache.Tag(fmt.Sprintf("product:%d", i*500+j)), soracache.Key(fmt.Sprintf("page:%d", i*500+j)))
		}
		u.invalidate(targets...)
	}
	u.fill("tagged", u.lease("tagged", 1), "v", "t")
	clock.Move(t, 3*time.Minute)
	if steps := u.sweepDue(); steps < 8 {
		t.Errorf("10,000 records were forgotten in %d steps", steps)
	}
	if held("k") > 2 || held("h") > 3 || held("t") < 10_000 {
		t.Errorf("three minutes later, %d key records, %d positions and %d tag records are held", held("k"), held("h"), held("t"))
	}
	u.hit("tagged", "v")
	clock.Move(t, time.Hour+10*time.Minute) // what was stored has gone, and its buckets
	u.invalidate(soracache.Key("x"))        // so that the ledger does not end
	u.sweepDue()
	if held("t") > 2 {
		t.Errorf("%d tag records are held when nothing is stored", held("t"))
	}
}

// Those who followed in former lives go in bounded steps, as others register or as
// somebody sweeps: nobody need ask for an acknowledgement.
func TestFollowersOfFormerBoots(t *testing.T) {
	const boots = 5000
	now := l2.Registration{Name: "now", Bound: 10 * time.Millisecond}
	for what, use := range map[string]func(u *user){
		"by use": func(u *user) {
			for range 10 {
				u.register(now)
				u.Invalidate(t.Context(), []l2.InvalidateRequest{{Partition: u.at, Register: now, Targets: []soracache.Target{soracache.Key("k")}}})
			}
		},
		"by sweeping": func(u *user) { u.sweepDue() },
	} {
		t.Run(what, func(t *testing.T) {
			u, clock := timed(t)
			var reqs []l2.SinceRequest
			for boot := range boots {
				reqs = append(reqs, l2.SinceRequest{
					Partition: u.at, Register: l2.Registration{Name: fmt.Sprintf("10.0.0.1:7070-%08x", boot), Bound: l2.MaxBound},
				})
			}
			for from := 0; from < boots; from += 500 {
				u.Since(t.Context(), reqs[from:from+500])
			}
			if n := u.do("HLEN", u.name("r")).(int64); n != boots+1 {
				t.Fatalf("%d fields", n)
			}
			u.do("PERSIST", u.name("r"))
			clock.Move(t, 3*time.Minute)
			use(u)
			if n := u.do("HLEN", u.name("r")).(int64); n > 100 {
				t.Errorf("%d fields are left, of which one is there at most", n)
			}
		})
	}
}

// A ledger that is begun again while somebody is ending the former one stays in the
// index.
func TestLedgerBegunWhileTheFormerEnds(t *testing.T) {
	u, clock := timed(t)
	u.head()
	clock.Move(t, 4*time.Minute)
	held, due, err := u.due(t.Context(), "", 10, nil)
	if err != nil || len(due) != 1 || due[0] != "shop/0" {
		t.Fatalf("due are %q, %v", due, err)
	}
	if _, others, err := u.due(t.Context(), "", 10, nil); err != nil || len(others) != 0 {
		t.Errorf("somebody else was given %q, %v", others, err)
	}
	c := &call{partition: newPartition(u.config.Prefix, u.at), script: scriptSweep}
	u.run(t.Context(), []*call{c})
	if ended, _, err := c.swept(); !ended || err != nil {
		t.Fatalf("not ended, %v", err)
	}
	u.another(u.config).head() // begun again
	if _, _, err := u.due(t.Context(), held, 0, []any{"shop/0", ""}); err != nil {
		t.Fatal(err)
	}
	if u.do("ZSCORE", u.config.Prefix+"ledgers", "shop/0") == nil {
		t.Error("it is not in the index any more")
	}
}

// What the index lost comes back when it is used, and a time that cannot be is due
// at once.
func TestIndexComesBack(t *testing.T) {
	u, _ := timed(t)
	index := u.config.Prefix + "ledgers"
	u.put("k", "v")
	u.do("DEL", index)
	u.head()
	if u.do("EXISTS", index) != int64(0) {
		t.Error("it is entered with every request")
	}
	u.another(u.config).head()
	if u.do("ZSCORE", index, "shop/0") == nil {
		t.Fatal("another process used it, and it is not in the index")
	}
	u.do("DEL", index)
	u.do("DEL", u.name("t"))
	u.head()
	if u.do("ZSCORE", index, "shop/0") == nil {
		t.Fatal("it was begun anew, and is not in the index")
	}
	u.do("ZADD", index, time.Now().Add(5*time.Hour).UnixMilli(), "shop/0", 1, "no ledger", 1, "BAD/0")
	u.sweepDue()
	if names := u.admin.ZRange(t.Context(), index, 0, -1).Val(); len(names) != 1 {
		t.Errorf("the index holds %q", names)
	}
	if at := u.admin.ZScore(t.Context(), index, "shop/0").Val(); at > float64(time.Now().Add(2*time.Hour).UnixMilli()) {
		t.Error("it is looked at in more than two hours")
	}
}
