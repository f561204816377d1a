package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// Somebody else was seen to refresh a value, and has given up since, though its
// lease could last for long. Who reads the value out of a node's memory is soon
// the one to refresh it, and not only once that lease would have run out.
func TestRefreshIsNotHiddenByACopyInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		model := l2model.New(l2model.Config{})
		n, err := node.New(node.Config{Store: model, L1MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		get := func() soracache.ReadResult {
			t.Helper()
			rs, err := n.Get(t.Context(), soracache.GetRequest{Namespace: "a", Reads: []soracache.Read{{Key: "k", Lease: true, RefreshWithin: time.Minute}}})
			if err != nil || rs[0].Err != nil {
				t.Fatal(err, rs)
			}
			return rs[0]
		}
		first := get()
		_, err = n.Write(t.Context(), soracache.WriteRequest{Namespace: "a", Writes: []soracache.Write{{
			Op: soracache.OpFill, Key: "k", Lease: first.Lease, Entry: soracache.Entry{Value: []byte("v")},
			Lifetime: soracache.Lifetime{TTL: time.Minute},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		at, other := l2.Partition{Namespace: "a", Count: 1}, soracache.Lease{1}
		model.Read(t.Context(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{
			Key: "k", Nonce: other, LeaseFor: soracache.MaxLease, RefreshWithin: time.Minute,
		}}}})
		if r := get(); r.Lease != (soracache.Lease{}) || r.Status != soracache.StatusHit {
			t.Fatalf("while somebody else refreshes: %+v", r)
		}
		model.Write(t.Context(), []l2.WriteRequest{{Partition: at, Op: soracache.OpRelease, Key: "k", Nonce: other}})
		time.Sleep(300 * time.Millisecond) // longer than a node believes so
		if r := get(); r.Lease == (soracache.Lease{}) {
			t.Errorf("nobody refreshes, and the reader is not to either: %d from %s", r.Status, r.Tier)
		}
	})
}
