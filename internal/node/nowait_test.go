package node_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/soracache/soracache"
)

// A read that is not to wait, as a Wait of zero or less says, is answered with what
// its question brought: no time passes, and nothing is asked a second time.
func TestReadsThatDoNotWait(t *testing.T) {
	for _, wait := range []time.Duration{0, -1, -time.Hour} {
		for _, keys := range []int{1, 50} {
			t.Run(fmt.Sprint(wait, " for ", keys), func(t *testing.T) {
				inBubble(t, 2, func(c *cluster) {
					var reads []soracache.Read
					for i := range keys {
						key := fmt.Sprint("k", i)
						c.lease(1, key)
						reads = append(reads, soracache.Read{Key: key, Lease: true, Wait: wait})
					}
					before, began := c.store.reads.Load(), time.Now()
					results, err := c.nodes[0].Get(context.Background(), soracache.GetRequest{Reads: reads})
					if err != nil {
						t.Fatal(err)
					}
					for i, r := range results {
						if r.Err != nil || r.Status != soracache.StatusMiss || r.LeaseState != soracache.LeaseHeld {
							t.Errorf("read %d: %+v", i, r)
						}
					}
					if asked := c.store.reads.Load() - before; asked != 1 {
						t.Errorf("the store was asked %d times", asked)
					}
					if took := time.Since(began); took > 2*time.Millisecond {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
}
