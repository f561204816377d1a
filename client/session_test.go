package client

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/soracache/soracache"
)

func TestSession(t *testing.T) {
	type stamp = soracache.Stamp
	at := func(partition uint16, epoch soracache.Epoch, position soracache.Position) soracache.Stamps {
		return soracache.Stamps{{Partition: partition, Stamp: stamp{Epoch: epoch, Position: position}}}
	}
	tests := []struct {
		name                          string
		known, carried, answer, after soracache.Stamps
	}{
		{"the first answer", nil, nil, at(0, 1, 5), at(0, 1, 5)},
		{"a newer answer", at(0, 1, 5), nil, at(0, 1, 6), at(0, 1, 6)},
		{"an answer that was overtaken", at(0, 1, 6), at(0, 1, 4), at(0, 1, 5), at(0, 1, 6)},
		{"another epoch, to a request that carried the present one", at(0, 1, 6), at(0, 1, 3), at(0, 2, 1), at(0, 2, 1)},
		{"another epoch, to a request that carried an older one", at(0, 2, 6), at(0, 1, 9), at(0, 3, 9), at(0, noEpoch|1, 1)},
		{"and then another, asked for before that was known", at(0, noEpoch|1, 1), at(0, 2, 6), at(0, 4, 9), at(0, noEpoch|1, 1)},
		{"and then one that was asked for since", at(0, noEpoch|1, 1), at(0, noEpoch|1, 1), at(0, 3, 9), at(0, 3, 9)},
		{"a late answer of an epoch that was left", at(0, 2, 6), at(0, 1, 9), at(0, 1, 10), at(0, 2, 6)},
		{"another epoch, to a request that carried nothing", at(0, 1, 6), nil, at(0, 2, 9), at(0, noEpoch|1, 1)},
		{"another partition", at(1, 1, 6), nil, at(0, 9, 2), append(at(0, 9, 2), at(1, 1, 6)...)},
		{"one partition moves on and another does not", append(at(0, 1, 6), at(1, 1, 6)...), nil, append(at(0, 1, 7), at(1, 1, 5)...), append(at(0, 1, 7), at(1, 1, 6)...)},
		{"an answer that proves nothing", at(0, 1, 6), at(0, 1, 6), nil, at(0, 1, 6)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s session
			s.seen.Store(&tt.known)
			before := slices.Clone(tt.known)
			s.observe(tt.carried, tt.answer)
			if got := s.stamps(); !slices.Equal(got, tt.after) {
				t.Errorf("knows %v, want %v", got, tt.after)
			}
			if !slices.Equal(tt.known, before) {
				t.Error("changed stamps that were handed out")
			}
		})
	}
}

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
	read(WithStamp(t.Context(), stampOf("shop", at(1))), "under the stamp")
	read(t.Context(), "afterwards")
	if got := c.session.stamps(); !slices.Equal(got, at(2)) {
		t.Errorf("it knows %v", got)
	}
}
