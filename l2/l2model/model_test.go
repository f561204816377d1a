package l2model

import (
	"fmt"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// TestForgetsByAge looks inside: nothing else can tell whether memory is given back.
func TestForgetsByAge(t *testing.T) {
	const keep = 30 * time.Minute
	now := time.UnixMicro(1 << 50)
	m := New(Config{Now: func() time.Time { return now }})
	at := l2.Partition{Namespace: "a", Count: 1}
	invalidate := func(targets ...soracache.Target) {
		t.Helper()
		if a := m.Invalidate(t.Context(), []l2.InvalidateRequest{{Partition: at, Targets: targets}})[0]; a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	put := m.Write(t.Context(), []l2.WriteRequest{{
		Partition: at, Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte("v"), Tags: []string{"t"}},
		Lifetime: soracache.Lifetime{TTL: keep / 2, Keep: keep},
	}})[0]
	if put.Err != nil || put.Reason != soracache.ReasonNone {
		t.Fatalf("%+v", put)
	}
	for i := range 1000 {
		invalidate(soracache.Key(fmt.Sprint("k", i)), soracache.Tag(fmt.Sprint("t", i%500)))
		now = now.Add(time.Second)
	}
	l := m.partition(at).ledger
	age := int(l2.DefaultRetention / time.Second)
	if keys, issued := len(l.keys.latest), len(l.issued); keys > age || issued > age+1 {
		t.Errorf("%d key records and %d positions are kept, want those of %d s", keys, issued, age)
	}
	if tags := len(l.tags.latest); tags != 500 {
		t.Errorf("%d tag records are kept, want all of the time that entries are", tags)
	}
	now = now.Add(keep)
	invalidate(soracache.Tag("last"))
	if tags := len(l.tags.latest); tags != 1 {
		t.Errorf("%d tag records are kept though what they could kill has expired", tags)
	}
}

// TestRegistrationsFromTheFuture: a list that was begun before the clock was set
// back is not known to have been whole for any time.
func TestRegistrationsFromTheFuture(t *testing.T) {
	now := time.UnixMicro(1 << 50)
	m := New(Config{Now: func() time.Time { return now }})
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
	now = now.Add(-time.Minute)
	if a := ask(); a.RegisteredFor != 0 {
		t.Errorf("whole for %v", a.RegisteredFor)
	}
}
