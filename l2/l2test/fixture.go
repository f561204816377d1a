package l2test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// The times that checks use where time is not the point.
const (
	leaseFor = 10 * time.Second
	ttl      = 10 * time.Minute
	keep     = 20 * time.Minute
	// slack is how much later than the request an answer may be.
	slack = 10 * time.Second
)

// fixture is a store under test as a check speaks of it: one request at a
// time, of one partition. Whatever goes wrong beyond what the check is about
// ends the check.
type fixture struct {
	*testing.T
	Harness
	at     l2.Partition
	nonces *uint64
}

func newFixture(t *testing.T, h Harness) *fixture {
	return &fixture{T: t, Harness: h, at: l2.Partition{Namespace: "suite", Count: 1}, nonces: new(uint64)}
}

// in returns the fixture on another partition.
func (f *fixture) in(at l2.Partition) *fixture {
	g := *f
	g.at = at
	return &g
}

// on returns the fixture on another client of the same store.
func (f *fixture) on(store l2.Store) *fixture {
	g := *f
	g.Store = store
	return &g
}

func (f *fixture) now() time.Time {
	if f.Now == nil {
		return time.Now()
	}
	return f.Now()
}

// wait lets time pass. It is for checks whose subject is the passing of time.
func (f *fixture) wait(d time.Duration) {
	if f.Wait == nil {
		time.Sleep(d)
		return
	}
	f.Wait(d)
}

// eventually asks until the answer is yes.
func (f *fixture) eventually(what string, yes func() bool) {
	f.Helper()
	for range 2500 {
		if yes() {
			return
		}
		f.wait(2 * time.Millisecond)
	}
	f.Fatalf("not within 5 s: %s", what)
}

// nonce returns a nonce that nobody had.
func (f *fixture) nonce() soracache.Lease {
	*f.nonces++
	var n soracache.Lease
	copy(n[:], "nonce")
	binary.BigEndian.PutUint64(n[8:], *f.nonces)
	return n
}

// readAll reads keys of the partition in one request.
func (f *fixture) readAll(since soracache.Stamp, keys ...l2.ReadKey) l2.ReadAnswer {
	f.Helper()
	answers := f.Store.Read(f.Context(), []l2.ReadRequest{{Partition: f.at, Since: since, Keys: keys}})
	if len(answers) != 1 || answers[0].Err != nil || len(answers[0].Keys) != len(keys) {
		f.Fatalf("read of %d keys: %.1000s", len(keys), fmt.Sprintf("%+v", answers))
	}
	checkDelta(f, since, answers[0].Delta)
	return answers[0]
}

// ask reads one key for itself.
func (f *fixture) ask(k l2.ReadKey) l2.KeyAnswer {
	f.Helper()
	return f.readAll(soracache.Stamp{}, k).Keys[0]
}

// read reads a key and wants no lease.
func (f *fixture) read(key string) l2.KeyAnswer {
	f.Helper()
	return f.ask(l2.ReadKey{Key: key})
}

// want reads a key and wants a lease.
func (f *fixture) want(key string, nonce soracache.Lease) l2.KeyAnswer {
	f.Helper()
	return f.ask(l2.ReadKey{Key: key, Nonce: nonce, LeaseFor: leaseFor})
}

// lease takes the lease of a key, beside the live entry if there is one.
func (f *fixture) lease(key string) (soracache.Lease, soracache.Stamp) {
	f.Helper()
	return f.leaseOf(key, leaseFor)
}

func (f *fixture) leaseOf(key string, d time.Duration) (soracache.Lease, soracache.Stamp) {
	f.Helper()
	nonce := f.nonce()
	a := f.ask(l2.ReadKey{Key: key, Nonce: nonce, LeaseFor: d, RefreshWithin: 24 * time.Hour})
	if a.Lease != soracache.LeaseGranted {
		f.Fatalf("lease of %q was not granted: %+v", key, a)
	}
	return nonce, a.LeaseStamp
}

// write does one write.
func (f *fixture) write(w l2.WriteRequest) l2.WriteAnswer {
	f.Helper()
	w.Partition = f.at
	answers := f.Store.Write(f.Context(), []l2.WriteRequest{w})
	if len(answers) != 1 || answers[0].Err != nil {
		f.Fatalf("write %d of %q: %+v", w.Op, w.Key, answers)
	}
	checkDelta(f, w.Since, answers[0].Delta)
	return answers[0]
}

func value(v string, tags ...string) soracache.Entry {
	return soracache.Entry{Value: []byte(v), Tags: sorted(tags), Encoding: "raw"}
}

// fill completes a lease.
func (f *fixture) fill(key string, nonce soracache.Lease, v string, tags ...string) l2.WriteAnswer {
	f.Helper()
	return f.write(l2.WriteRequest{
		Op: soracache.OpFill, Key: key, Nonce: nonce,
		Entry: value(v, tags...), Lifetime: soracache.Lifetime{TTL: ttl, Keep: keep},
	})
}

// refuseFill completes a lease and expects the store not to take it.
func (f *fixture) refuseFill(why soracache.Reason, key string, nonce soracache.Lease, v string, tags ...string) {
	f.Helper()
	if a := f.fill(key, nonce, v, tags...); a.Reason != why {
		f.Fatalf("fill of %q: %s, want %s", key, a.Reason, why)
	}
}

// load takes a lease and fills.
func (f *fixture) load(key, v string, tags ...string) soracache.Stamp {
	f.Helper()
	nonce, stamp := f.lease(key)
	if a := f.fill(key, nonce, v, tags...); a.Reason != soracache.ReasonNone || a.Stamp != stamp {
		f.Fatalf("fill of %q under a lease of %v: %+v", key, stamp, a)
	}
	return stamp
}

func (f *fixture) put(key, v string, tags ...string) l2.WriteAnswer {
	f.Helper()
	a := f.write(l2.WriteRequest{
		Op: soracache.OpPut, Key: key, Entry: value(v, tags...), Lifetime: soracache.Lifetime{TTL: ttl, Keep: keep},
	})
	if a.Reason != soracache.ReasonNone {
		f.Fatalf("put of %q: %s", key, a.Reason)
	}
	return a
}

func (f *fixture) renew(key string, nonce soracache.Lease) l2.WriteAnswer {
	f.Helper()
	return f.write(l2.WriteRequest{Op: soracache.OpRenew, Key: key, Nonce: nonce, LeaseFor: leaseFor})
}

func (f *fixture) release(key string, nonce soracache.Lease) l2.WriteAnswer {
	f.Helper()
	return f.write(l2.WriteRequest{Op: soracache.OpRelease, Key: key, Nonce: nonce})
}

// invalidateSince appends a record and shows a stamp.
func (f *fixture) invalidateSince(since soracache.Stamp, targets ...soracache.Target) l2.InvalidateAnswer {
	f.Helper()
	answers := f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{{Partition: f.at, Since: since, Targets: targets}})
	if len(answers) != 1 || answers[0].Err != nil {
		f.Fatalf("invalidate %v: %+v", targets, answers)
	}
	checkDelta(f, since, answers[0].Delta)
	return answers[0]
}

// invalidate appends a record.
func (f *fixture) invalidate(targets ...soracache.Target) soracache.Record {
	f.Helper()
	return f.invalidateSince(soracache.Stamp{}, targets...).Record
}

// invalidateMany appends records that together name n targets.
func (f *fixture) invalidateMany(n int, target func(i int) soracache.Target) {
	f.Helper()
	most := min(max(n/32, 1), 1000)
	for from := 0; from < n; from += most {
		var targets []soracache.Target
		for i := from; i < min(from+most, n); i++ {
			targets = append(targets, target(i))
		}
		f.invalidate(targets...)
	}
}

func (f *fixture) since(since soracache.Stamp) soracache.Delta {
	f.Helper()
	answers := f.Store.Since(f.Context(), []l2.SinceRequest{{Partition: f.at, Since: since}})
	if len(answers) != 1 || answers[0].Err != nil {
		f.Fatalf("since %v: %+v", since, answers)
	}
	checkDelta(f, since, answers[0].Delta)
	return answers[0].Delta
}

// follow asks for the delta and, while it is cut off, for the rest. It returns
// all of it as one delta.
func (f *fixture) follow(since soracache.Stamp) soracache.Delta {
	f.Helper()
	whole := f.since(since)
	for whole.More {
		cursor := soracache.Stamp{Epoch: whole.Epoch, Position: whole.Records[len(whole.Records)-1].Position}
		next := f.since(cursor)
		if next.Reset || next.Epoch != whole.Epoch {
			f.Fatalf("reset in the middle of a delta: %+v", next)
		}
		whole.Records = append(whole.Records, next.Records...)
		whole.Head, whole.More = next.Head, next.More
	}
	return whole
}

// head returns the ledger's epoch and head.
func (f *fixture) head() soracache.Stamp {
	f.Helper()
	d := f.since(soracache.Stamp{})
	return soracache.Stamp{Epoch: d.Epoch, Position: d.Head}
}

// hit expects a live entry with a value.
func (f *fixture) hit(key, v string) l2.KeyAnswer {
	f.Helper()
	a := f.read(key)
	if !a.Found || string(a.Entry.Value) != v {
		f.Fatalf("read of %q: found %v, value %.40q, want %q", key, a.Found, a.Entry.Value, v)
	}
	return a
}

// miss expects no live entry.
func (f *fixture) miss(key string) {
	f.Helper()
	if a := f.read(key); a.Found {
		f.Fatalf("read of %q found %.40q of stamp %v; it should be dead", key, a.Entry.Value, a.Stamp)
	}
}

func stampOf(r soracache.Record) soracache.Stamp {
	return soracache.Stamp{Epoch: r.Epoch, Position: r.Position}
}

func headOf(d soracache.Delta) soracache.Stamp {
	return soracache.Stamp{Epoch: d.Epoch, Position: d.Head}
}

// targetsOf returns all targets of a delta, in order of position and, within
// a record, of kind and name.
func targetsOf(d soracache.Delta) []soracache.Target {
	var all []soracache.Target
	for _, r := range d.Records {
		all = append(all, sortedTargets(r.Targets)...)
	}
	return all
}

func sortedTargets(targets []soracache.Target) []soracache.Target {
	s := slices.Clone(targets)
	slices.SortFunc(s, compareTargets)
	return slices.Compact(s)
}

func compareTargets(a, b soracache.Target) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// expectTargets compares a delta's targets with those expected, in order of
// position; within a record the order is free.
func (f *fixture) expectTargets(d soracache.Delta, want ...soracache.Target) {
	f.Helper()
	if d.Reset {
		f.Fatalf("reset, want the delta %v", want)
	}
	if got := targetsOf(d); !slices.Equal(got, want) {
		f.Fatalf("the delta holds %v, want %v", got, want)
	}
}

// failer is what reports a broken invariant: a test, or a hammering goroutine.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

// checkDelta checks what is true of every delta.
func checkDelta(f failer, since soracache.Stamp, d soracache.Delta) {
	f.Helper()
	if problem := deltaProblem(since, d); problem != "" {
		f.Errorf("the delta after %v %s: %+v", since, problem, d)
	}
}

func deltaProblem(since soracache.Stamp, d soracache.Delta) string {
	switch {
	case d.Epoch == 0 || d.Epoch >= 1<<52:
		return "has an epoch out of bounds"
	case d.Head == 0 || d.Head >= 1<<53:
		return "has a head out of bounds"
	case since.Epoch == 0 && (d.Reset || d.More || len(d.Records) > 0):
		return "shows something to one who knows nothing"
	case since.Epoch != 0 && since.Epoch != d.Epoch && !d.Reset:
		return "is of another epoch and no reset"
	case d.Reset && (d.More || len(d.Records) > 0):
		return "is a reset with records"
	case since.Epoch == 0 || d.Reset:
		return ""
	}
	last, held := since.Position, 0
	seen := make(map[soracache.Target]bool)
	for i, r := range d.Records {
		switch {
		case r.Epoch != d.Epoch:
			return "has a record of another epoch"
		case r.Position <= last || r.Position > d.Head:
			return fmt.Sprintf("is out of order or bounds at %d", r.Position)
		case len(r.Targets) == 0:
			return fmt.Sprintf("has nothing at %d", r.Position)
		case i > 0 && held >= l2.MaxDelta:
			return "is too long"
		}
		for _, t := range r.Targets {
			if seen[t] {
				return fmt.Sprintf("names %s twice", t)
			}
			seen[t] = true
		}
		last, held = r.Position, held+len(r.Targets)
	}
	switch {
	case d.More && (len(d.Records) == 0 || last >= d.Head):
		return "promises more than there can be"
	case !d.More && last != d.Head:
		return "stops short of the head"
	}
	return ""
}

// sameEntry reports whether two entries hold the same.
func sameEntry(a, b soracache.Entry) bool {
	return bytes.Equal(a.Value, b.Value) && slices.Equal(a.Tags, b.Tags) &&
		a.Kind == b.Kind && a.Encoding == b.Encoding && a.ETag == b.ETag
}

// within reports whether a remaining time is what is left of a whole.
func within(left, whole time.Duration) bool { return left <= whole && left > whole-slack }
