package l2test

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func concurrencyChecks() []check {
	return []check{
		{name: "of many readers of a cold key one gets the lease", run: func(f *fixture) {
			for i := range 10 {
				var granted, held atomic.Int64
				f.together(64, func(int) {
					nonce := newNonce()
					a := f.Store.Read(f.Context(), []l2.ReadRequest{{
						Partition: f.at, Keys: []l2.ReadKey{{Key: fmt.Sprint("k", i), Nonce: nonce, LeaseFor: leaseFor}},
					}})[0]
					switch {
					case a.Err != nil:
						f.Errorf("read: %v", a.Err)
					case a.Keys[0].Lease == soracache.LeaseGranted:
						granted.Add(1)
					case a.Keys[0].Lease == soracache.LeaseHeld:
						held.Add(1)
					}
				})
				if granted.Load() != 1 || held.Load() != 63 {
					f.Fatalf("%d were granted the lease, %d saw it held", granted.Load(), held.Load())
				}
			}
		}},
		{name: "of many fills under one lease one is stored", run: func(f *fixture) {
			for i := range 10 {
				key := fmt.Sprint("k", i)
				nonce, _ := f.lease(key)
				var stored atomic.Int64
				f.together(64, func(int) {
					a := f.Store.Write(f.Context(), []l2.WriteRequest{{
						Partition: f.at, Op: soracache.OpFill, Key: key, Nonce: nonce,
						Entry: value("v"), Lifetime: soracache.Lifetime{TTL: ttl},
					}})[0]
					if a.Err != nil {
						f.Errorf("fill: %v", a.Err)
					}
					if a.Err == nil && a.Reason == soracache.ReasonNone {
						stored.Add(1)
					}
				})
				if stored.Load() != 1 {
					f.Fatalf("%d fills were stored", stored.Load())
				}
			}
		}},
		{name: "concurrent records make one chain", run: func(f *fixture) {
			first := f.head()
			var mu sync.Mutex
			var records []soracache.Record
			f.together(32, func(g int) {
				for i := range 20 {
					r, err := f.record(g, i)
					if err != nil {
						f.Errorf("record: %v", err)
						return
					}
					mu.Lock()
					records = append(records, r)
					mu.Unlock()
				}
			})
			if last := oneChain(f, first, records); last != f.head() {
				f.Fatalf("the chain ends at %v, the head is %v", last, f.head())
			}
		}},
		{name: "no fill is stale", run: func(f *fixture) {
			stores := []l2.Store{f.Store}
			if f.Another != nil {
				stores = append(stores, f.Another())
			}
			Hammer(f.T, HammerConfig{
				Stores:     stores,
				Operations: counts(20_000, 1_000_000),
				Overlaps:   counts(50, 1000),
			})
		}},
	}
}

// together runs n goroutines to their end.
func (f *fixture) together(n int, work func(g int)) {
	var all sync.WaitGroup
	for g := range n {
		all.Go(func() { work(g) })
	}
	all.Wait()
}

// record appends by a put or an invalidation, in turn.
func (f *fixture) record(g, i int) (soracache.Record, error) {
	if i%3 == 0 {
		a := f.Store.Write(f.Context(), []l2.WriteRequest{{
			Partition: f.at, Op: soracache.OpPut, Key: fmt.Sprint("k", g%4),
			Entry: value("v"), Lifetime: soracache.Lifetime{TTL: ttl},
		}})[0]
		return a.Record, a.Err
	}
	a := f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{{
		Partition: f.at, Targets: []soracache.Target{soracache.Tag(fmt.Sprint("t", g)), soracache.Key(fmt.Sprint("k", i))},
	}})[0]
	return a.Record, a.Err
}

// oneChain expects that records, sorted, follow each other without a gap, and
// returns the last.
func oneChain(f failer, first soracache.Stamp, records []soracache.Record) soracache.Stamp {
	f.Helper()
	slices.SortFunc(records, func(a, b soracache.Record) int { return cmp.Compare(a.Position, b.Position) })
	last := first
	for _, r := range records {
		if r.Epoch != last.Epoch || r.Prev != last.Position || r.Position <= r.Prev {
			f.Errorf("the record %+v comes after %v", r, last)
		}
		last = stampOf(r)
	}
	return last
}
