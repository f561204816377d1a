package l2test

import (
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// TestModelFillThenInvalidateTag is the rule in its smallest form: what was
// begun before a tag's invalidation is not stored, what was stored before it
// is not found.
func TestModelFillThenInvalidateTag(t *testing.T) {
	m := NewModel(ModelConfig{})
	at := l2.Partition{Namespace: "n", Count: 1}
	fill := func(nonce byte) soracache.Reason {
		return m.Write(t.Context(), []l2.WriteRequest{{
			Partition: at, Op: soracache.OpFill, Key: "k", Nonce: soracache.Lease{nonce},
			Entry: soracache.Entry{Value: []byte("v"), Tags: []string{"t"}}, Lifetime: soracache.Lifetime{TTL: 1e12},
		}})[0].Reason
	}
	read := func(nonce byte) l2.KeyAnswer {
		return m.Read(t.Context(), []l2.ReadRequest{{
			Partition: at, Keys: []l2.ReadKey{{Key: "k", Nonce: soracache.Lease{nonce}, LeaseFor: 1e10}},
		}})[0].Keys[0]
	}
	invalidate := func() {
		m.Invalidate(t.Context(), []l2.InvalidateRequest{{Partition: at, Targets: []soracache.Target{soracache.Tag("t")}}})
	}

	if a := read(1); a.Found || a.Lease != l2.LeaseGranted {
		t.Fatalf("cold read: %+v", a)
	}
	invalidate()
	if r := fill(1); r != soracache.ReasonSuperseded {
		t.Fatalf("overtaken fill: %s", r)
	}
	read(2)
	if r := fill(2); r != soracache.ReasonNone {
		t.Fatalf("fill: %s", r)
	}
	if a := read(0); !a.Found {
		t.Fatal("not found after its fill")
	}
	invalidate()
	if a := read(0); a.Found {
		t.Fatal("found after its tag was invalidated")
	}
}
