package l2test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func versionChecks() []check {
	return []check{
		{name: "a ledger of a later version is left as it is", run: laterLedger},
		{name: "a ledger of a later version takes no other with it", run: func(f *fixture) {
			f.needLater()
			other := f.in(l2.Partition{Namespace: "other", Count: 1})
			other.load("k", "v")
			f.load("k", "v")
			for _, later := range f.Later {
				restore := later(f.at)
				answers := f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at}, {Partition: other.at}})
				if !errors.Is(answers[0].Err, soracache.ErrUnavailable) || answers[1].Err != nil {
					f.Fatalf("answers: %+v", answers)
				}
				restore()
			}
		}},
	}
}

func (f *fixture) needLater() {
	f.Helper()
	if f.Later == nil {
		f.Skip("this engine's test cannot write a later version's form")
	}
}

// laterLedger has every operation meet each part of a ledger in a form that is
// not known: it is refused, in a way that lets callers go on without a cache,
// and changes nothing.
func laterLedger(f *fixture) {
	f.needLater()
	for part, later := range f.Later {
		g := f.in(l2.Partition{Namespace: "later-" + strings.ReplaceAll(part, " ", "-"), Count: 1})
		g.load("k", "v", "t")
		nonce, _ := g.lease("leased")
		before := stampOf(g.invalidate(soracache.Tag("u")))
		epochs := g.Store.Counters().Epochs
		restore := later(g.at)
		g.sweep() // which passes it over
		for what, err := range g.everything(before, nonce) {
			if !errors.Is(err, soracache.ErrUnavailable) {
				f.Errorf("%s of a later version, %s: %v", part, what, err)
			}
		}
		for what, err := range g.everything(soracache.Stamp{Epoch: f.unknown(), Position: 1}, nonce) {
			if !errors.Is(err, soracache.ErrUnavailable) {
				f.Errorf("%s of a later version, %s by one of another history: %v", part, what, err)
			}
		}
		if n := g.Store.Counters().Epochs; n != epochs {
			f.Errorf("%s of a later version: %d new epochs", part, n-epochs)
		}
		restore()
		if head := g.head(); head != before {
			f.Errorf("%s of a later version: the ledger went from %v to %v", part, before, head)
		}
		g.hit("k", "v")
		if a := g.want("leased", nonce); a.Lease != soracache.LeaseGranted {
			f.Errorf("%s of a later version: the lease is lost: %+v", part, a)
		}
		g.miss("op put")
	}
}

// everything does each operation once, showing a stamp, and returns how each
// ended.
func (f *fixture) everything(since soracache.Stamp, nonce soracache.Lease) map[string]error {
	ctx, ended := f.Context(), map[string]error{}
	by := l2.Registration{Name: "node", Bound: leaseFor}
	ended["read"] = f.Store.Read(ctx, []l2.ReadRequest{{
		Partition: f.at, Since: since, Register: by, Keys: []l2.ReadKey{{Key: "k"}, {Key: "new", Nonce: f.nonce(), LeaseFor: leaseFor}},
	}})[0].Err
	for op := soracache.OpFill; op <= soracache.OpRelease; op++ {
		key := map[bool]string{true: "op put", false: "leased"}[op == soracache.OpPut]
		ended[fmt.Sprint("write ", op)] = f.Store.Write(ctx, []l2.WriteRequest{{
			Partition: f.at, Since: since, Register: by, Op: op, Key: key, Nonce: nonce, LeaseFor: leaseFor,
			Entry: value("w", "t"), Lifetime: soracache.Lifetime{TTL: ttl},
		}})[0].Err
	}
	ended["invalidate"] = f.Store.Invalidate(ctx, []l2.InvalidateRequest{{
		Partition: f.at, Since: since, Register: by, Followers: true, Targets: []soracache.Target{soracache.Everything(), soracache.Key("k")},
	}})[0].Err
	ended["settling"] = f.Store.Invalidate(ctx, []l2.InvalidateRequest{{
		Partition: f.at, Since: since, Settle: leaseFor, Targets: []soracache.Target{soracache.Key("k")},
	}})[0].Err
	ended["since"] = f.Store.Since(ctx, []l2.SinceRequest{{Partition: f.at, Since: since, Register: by}})[0].Err
	ended["guest"] = f.Store.Since(ctx, []l2.SinceRequest{{Partition: f.at, Since: since, Guest: true}})[0].Err
	_, ended["explain"] = f.Store.Explain(ctx, f.at, "k")
	_, _, ended["list"] = f.Store.ListKeys(ctx, f.at, "t", "", 10)
	_, _, ended["reclaim"] = f.Store.Reclaim(ctx, f.at, "t", "")
	_, _, ended["walk"] = f.Store.Reclaim(ctx, f.at, "", "")
	return ended
}
