package node_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
)

func TestWatchTellsWhatOthersRecord(t *testing.T) {
	inBubble(t, 2, func(c *cluster) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		var items []soracache.WatchItem
		go func() {
			done <- c.nodes[1].Watch(ctx, soracache.WatchRequest{}, func(more []soracache.WatchItem) error {
				items = append(items, more...)
				return nil
			})
		}()
		time.Sleep(bound)
		var last soracache.Stamps
		for range 3 {
			res, err := c.nodes[0].Invalidate(ctx, soracache.InvalidateRequest{Targets: []soracache.Target{soracache.Tag("x")}})
			if err != nil {
				t.Fatal(err)
			}
			last = res.Stamp
		}
		time.Sleep(bound)
		synctest.Wait()
		want, _ := last.At(0)
		if len(items) < 2 || !items[0].Reset || items[1].Reset || items[len(items)-1].Complete != want.Position {
			t.Errorf("up to %v: %+v", want, items)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
