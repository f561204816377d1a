package wire

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// TestPackerSplitsWhatIsLarge: no message is much larger than its limit, nothing
// is lost, and a part of an item does not move the watcher on.
func TestPackerSplitsWhatIsLarge(t *testing.T) {
	t.Parallel()
	const watchBytes = 256 << 10
	var messages []*cachev1.WatchResponse
	p := NewWatchPacker(soracache.Stamps{{Partition: 1, Stamp: soracache.Stamp{Epoch: 9, Position: 40}}}, watchBytes, func(m *cachev1.WatchResponse) error {
		messages = append(messages, m)
		return nil
	})
	item := soracache.WatchItem{Partition: 1, Partitions: 2, Epoch: 9, Complete: 100}
	want := map[string]bool{}
	for i := range 10 {
		r := soracache.Record{Epoch: 9, Position: soracache.Position(50 + i)}
		for j := range 1000 {
			name := fmt.Sprint(strings.Repeat("n", 200), i, "-", j)
			r.Targets = append(r.Targets, []soracache.Target{soracache.Key(name), soracache.Tag(name)}[j%2])
			want[fmt.Sprint(r.Position, name)] = true
		}
		item.Records = append(item.Records, r)
	}
	items := []soracache.WatchItem{item, {Partition: 1, Partitions: 2, Epoch: 9, Complete: 101}, {Partition: 1, Partitions: 2, Epoch: 10, Complete: 7, Reset: true}}
	if err := p.Deliver(items); err != nil {
		t.Fatal(err)
	}
	if len(messages) < 8 || len(messages) > 10 {
		t.Errorf("%d messages", len(messages))
	}
	var parts []*cachev1.WatchItem
	for _, m := range messages {
		if size := proto.Size(m); size > watchBytes*5/4 {
			t.Errorf("a message of %d bytes", size)
		}
		parts = append(parts, m.Items...)
	}
	for i, part := range parts {
		wantComplete := uint64(40)
		switch i {
		case len(parts) - 3:
			wantComplete = 100
		case len(parts) - 2:
			wantComplete = 101
		case len(parts) - 1:
			wantComplete = 7
		}
		if part.Complete != wantComplete || part.Reset_ != (wantComplete == 7) || part.Partition != 1 || part.Partitions != 2 {
			t.Errorf("part %d of %d: complete %d, want %d", i, len(parts), part.Complete, wantComplete)
		}
		for _, r := range part.Records {
			for _, name := range append(r.Keys, r.Tags...) {
				delete(want, fmt.Sprint(r.Position, name))
			}
			if r.All {
				t.Error("everything")
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("%d names are missing", len(want))
	}
}

// TestPackerTellsNoLessThanTheRecord: what the wire has no word for is everything.
func TestPackerTellsNoLessThanTheRecord(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]soracache.Target{
		"everything":         soracache.Everything(),
		"a later kind":       {Kind: 99, Name: "x"},
		"a key of any bytes": soracache.Key("\xff"),
		"a tag of any bytes": soracache.Tag("\xff"),
	} {
		var got *cachev1.WatchResponse
		p := NewWatchPacker(nil, 1<<20, func(m *cachev1.WatchResponse) error { got = m; return nil })
		if err := p.Deliver([]soracache.WatchItem{{Partitions: 1, Epoch: 1, Complete: 1, Records: []soracache.Record{
			{Epoch: 1, Position: 1, Targets: []soracache.Target{soracache.Key("k"), target}},
		}}}); err != nil {
			t.Fatal(err)
		}
		if r := got.Items[0].Records[0]; !r.All || len(r.Keys) != 1 || len(r.Tags) != 0 {
			t.Errorf("%s: %v", name, r)
		}
	}
}
