package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
)

// Two nodes over one store that were told different numbers of partitions. The
// one that is wrong is as good as away: its callers get what their loaders
// return, so nothing that was invalidated is served there, and it is not ready.
func TestTwoNumbersOfPartitions(t *testing.T) {
	const keys = 40
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			open := e.open(t)
			right := startNode(t, open(), 1, 200*time.Millisecond)
			wrong := startNode(t, open(), 4, 200*time.Millisecond)
			clientOf := func(n *node.Node) *client.Client {
				c, err := client.New(n, client.NoNear())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				return c
			}
			a, b := clientOf(right), clientOf(wrong)
			version := "old"
			expect := func(c *client.Client, what, want string) {
				t.Helper()
				for i := range keys {
					got, err := client.GetOrSet(t.Context(), c, fmt.Sprint("product:", i), func(context.Context) (string, error) { return version, nil })
					if err != nil || got != want {
						t.Errorf("%s: product:%d is %q, %v, want %q", what, i, got, err, want)
					}
				}
			}
			expect(a, "the right node", "old")
			expect(b, "the wrong node", "old")
			version = "new"
			expect(a, "the right node, which has it stored", "old")
			expect(b, "the wrong node, which must not", "new")
			for i := range keys {
				if _, err := a.Invalidate(t.Context(), client.Invalidation{Keys: []string{fmt.Sprint("product:", i)}, Acknowledge: true}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := a.Clear(t.Context()); err != nil {
				t.Fatal(err)
			}
			expect(b, "the wrong node after acknowledged invalidations", "new")
			expect(a, "the right node after them", "new")
			if err := right.Ready(t.Context()); err != nil {
				t.Errorf("the right node: %v", err)
			}
			err := wrong.Ready(t.Context())
			if !errors.Is(err, soracache.ErrUnavailable) || !strings.Contains(err.Error(), "default has 1") || !strings.Contains(err.Error(), "told 4") {
				t.Errorf("the wrong node is ready, or does not say why not: %v", err)
			}
			if _, err := b.InvalidateTags(t.Context(), "t"); !errors.Is(err, soracache.ErrUnavailable) {
				t.Errorf("the wrong node invalidates: %v", err)
			}
		})
	}
}

// The same with the number changed to that of the second node, on a real store
// and in real time: nodes of the new number do their work, and those of the old
// one nothing.
func TestRepartitionOverRedis(t *testing.T) {
	if !full() {
		t.Skip("takes over a minute; the engines' own tests age what is waited for")
	}
	open := openRedis(t, redistest.Standalone(t).URL())
	old, next := startNode(t, open(), 1, disasterBound), startNode(t, open(), 4, disasterBound)
	write(t, old, put("k", "of the old number"))
	err := l2.Repartition(t.Context(), open(), soracache.DefaultNamespace, 4, func(d time.Duration) error {
		began := time.Now()
		for _, n := range []*node.Node{old, next} {
			eventually(t, 5*time.Second, "a node refuses while the number changes", func() bool { // within the bound
				_, err := n.Head(t.Context(), "")
				return errors.Is(err, soracache.ErrUnavailable)
			})
		}
		time.Sleep(d - time.Since(began)) // what is waited for is Redis' clock
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "nodes of the new number are ready", func() bool { return next.Ready(t.Context()) == nil })
	if got := read(t, next, soracache.Read{Key: "k"}); got.Status != soracache.StatusMiss {
		t.Errorf("what was stored under the old number is %q", got.Entry.Value)
	}
	write(t, next, put("k", "of the new number"))
	if _, err := old.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}}); !errors.Is(err, soracache.ErrUnavailable) {
		t.Errorf("the node of the old number: %v", err)
	}
}
