package client

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/stamps"
)

// twoLives is a service of which one node is in an epoch that the ledger has left, and
// answers from its memory whoever has not seen more.
type twoLives struct {
	soracache.Backend
	old, present soracache.Stamps
}

func (s *twoLives) Get(_ context.Context, req soracache.GetRequest) ([]soracache.ReadResult, error) {
	r := soracache.ReadResult{Status: soracache.StatusHit, Stamp: s.present, Partitions: 1, FreshFor: time.Minute}
	r.Entry = soracache.Entry{Value: []byte("new"), Encoding: "raw"}
	if at, _ := req.MinStamp.At(0); at == s.old[0].Stamp {
		r.Stamp, r.Entry.Value = s.old, []byte("old")
	}
	return []soracache.ReadResult{r}, nil
}

func (s *twoLives) Watch(ctx context.Context, _ soracache.WatchRequest, _ func([]soracache.WatchItem) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// A stamp of another epoch than a client has seen does not lead it back: neither what is
// read under it, nor what is read afterwards.
func TestStampOfAnotherEpochLeadsNobodyBack(t *testing.T) {
	at := func(epoch soracache.Epoch) soracache.Stamps {
		return soracache.Stamps{{Stamp: soracache.Stamp{Epoch: epoch, Position: 5}}}
	}
	c, err := New(&twoLives{old: at(1), present: at(2)}, Namespace("shop"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	values := NewCache[[]byte](c, Default(), WithCodec(Raw{}))
	read := func(ctx context.Context, name string) {
		v, _, err := values.Get(ctx, "k")
		if string(v) != "new" || err != nil {
			t.Errorf("%s: %q, %v", name, v, err)
		}
	}
	read(t.Context(), "first")
	read(stamps.With(t.Context(), stamps.Of("shop", at(1))), "under the stamp")
	read(t.Context(), "afterwards")
	if got := c.service.Seen(); !slices.Equal(got, at(2)) {
		t.Errorf("it knows %v", got)
	}
}
