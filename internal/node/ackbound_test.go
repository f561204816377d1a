package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/invalidation"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2model"
)

// patientPeers are members of which nothing is known but the longest bound.
type patientPeers time.Duration

func (patientPeers) Publish(invalidation.Notice)      {}
func (patientPeers) Tell(string, invalidation.Notice) {}
func (p patientPeers) Bound() time.Duration           { return time.Duration(p) }
func (patientPeers) Left(string) bool                 { return false }

// Where registrations were lost, nobody knows who serves the old value. It may be
// one whose bound is longer than that of the node that invalidates.
func TestWhoIsNotKnownIsWaitedOutByTheLongestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const longest = 3 * time.Second
		model := l2model.New(l2model.Config{})
		n, err := node.New(node.Config{Store: model, Peers: patientPeers(longest), Bound: 100 * time.Millisecond, L1MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		invalidate := func() {
			t.Helper()
			_, err := n.Invalidate(t.Context(), soracache.InvalidateRequest{
				Namespace: "a", Targets: []soracache.Target{soracache.Key("k")}, Acknowledge: true,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		invalidate()
		time.Sleep(2 * longest)
		model.LoseRegistrations(l2.Partition{Namespace: "a", Count: 1})
		began := time.Now()
		invalidate()
		if took := time.Since(began); took < longest {
			t.Errorf("acknowledged after %v, while somebody may serve for %v", took, longest)
		}
	})
}
