package wire

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

func step(epoch, complete uint64, records ...*cachev1.WatchRecord) *cachev1.WatchItem {
	return &cachev1.WatchItem{Partitions: 2, Epoch: epoch, Complete: complete, Records: records}
}

func reset(epoch, complete uint64, records ...*cachev1.WatchRecord) *cachev1.WatchItem {
	item := step(epoch, complete, records...)
	item.Reset_ = true
	return item
}

// watchedBefore is what the watcher of these tests comes with.
var watchedBefore = soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 7, Position: 40}}}

func TestStepsThatCannotBe(t *testing.T) {
	named := &cachev1.WatchRecord{Position: 50, Keys: []string{"k"}}
	for name, items := range map[string][]*cachev1.WatchItem{
		"no item":                            {nil},
		"no partitions":                      {{Epoch: 7, Complete: 50}},
		"too many partitions":                {{Epoch: 7, Complete: 50, Partitions: soracache.MaxPartitions + 1}},
		"a partition beyond them":            {{Epoch: 7, Complete: 50, Partitions: 2, Partition: 2, Reset_: true}},
		"a partition beyond 16 bits":         {{Epoch: 7, Complete: 50, Partitions: 2, Partition: 1 << 16, Reset_: true}},
		"another number of partitions":       {reset(7, 50), {Epoch: 7, Complete: 50, Partitions: 3, Reset_: true}},
		"no epoch":                           {step(0, 50)},
		"a reset to no epoch":                {reset(0, 50)},
		"another epoch":                      {step(8, 50)},
		"another epoch later":                {reset(8, 50), step(7, 60)},
		"before the place it was asked from": {step(7, 39)},
		"back":                               {step(7, 50), step(7, 49)},
		"back after a reset":                 {reset(7, 50), step(7, 49)},
		"a partition that it did not follow": {{Epoch: 7, Complete: 50, Partitions: 2, Partition: 1}},
		"a record without a position":        {step(7, 50, &cachev1.WatchRecord{Keys: []string{"k"}})},
		"a bad item after a good one":        {step(7, 50, named), step(0, 60)},
	} {
		if got, err := NewWatchReader(watchedBefore).Items(items); !errors.Is(err, soracache.ErrUnavailable) || got != nil {
			t.Errorf("%s: %+v, error %v", name, got, err)
		}
	}
}

func TestStepsThatCanBe(t *testing.T) {
	named := &cachev1.WatchRecord{Position: 50, Keys: []string{"k"}}
	for name, items := range map[string][]*cachev1.WatchItem{
		"nothing new":                          {step(7, 40)},
		"on from the place it was asked from":  {step(7, 50, named)},
		"early records":                        {step(7, 41, named), step(7, 41, named), step(7, 50)},
		"a reset behind the place":             {reset(7, 20), step(7, 21)},
		"a reset to another epoch":             {reset(8, 1), step(8, 2)},
		"a reset of another partition":         {{Epoch: 9, Complete: 50, Partitions: 2, Partition: 1, Reset_: true}, step(7, 40)},
		"as many partitions as there can be":   {{Epoch: 9, Complete: 5, Partitions: soracache.MaxPartitions, Partition: soracache.MaxPartitions - 1, Reset_: true}},
		"records of a position that is passed": {step(7, 60), step(7, 60, named)},
	} {
		if got, err := NewWatchReader(watchedBefore).Items(items); err != nil || len(got) != len(items) {
			t.Errorf("%s: %+v, error %v", name, got, err)
		}
	}
}

// What a record names in words that this build does not know is everything.
func TestRecordsOfLaterVersions(t *testing.T) {
	later := protowire.AppendTag(nil, 9, protowire.BytesType)
	later = protowire.AppendString(later, "prefix/*")
	withKey, err := proto.Marshal(&cachev1.WatchRecord{Position: 50, Keys: []string{"k"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, bytes := range map[string][]byte{
		"only what is not known":     append(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 50), later...),
		"nothing":                    protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 50),
		"beside what is known":       append(withKey, later...),
		"what this contract says so": append(withKey, 4<<3, 1),
	} {
		var r cachev1.WatchRecord
		if err := proto.Unmarshal(bytes, &r); err != nil {
			t.Fatal(err)
		}
		got, err := watchRecord(7, &r)
		if err != nil || len(got.Targets) == 0 || got.Targets[0] != soracache.Everything() {
			t.Errorf("%s: %+v, error %v", name, got, err)
		}
	}
	got, err := watchRecord(7, &cachev1.WatchRecord{Position: 50, Keys: []string{"k"}, Tags: []string{"t"}})
	if err != nil || len(got.Targets) != 2 || got.Targets[0] != soracache.Key("k") || got.Targets[1] != soracache.Tag("t") {
		t.Errorf("%+v, error %v", got, err)
	}
}

// A reset takes everything away, so what comes in the same item comes after it.
func TestResetThatNamesSomething(t *testing.T) {
	items, err := NewWatchReader(nil).Items([]*cachev1.WatchItem{reset(7, 50, &cachev1.WatchRecord{Position: 60, Keys: []string{"k"}})})
	if err != nil || len(items) != 2 || !items[0].Reset || len(items[0].Records) != 0 || items[1].Reset || len(items[1].Records) != 1 {
		t.Errorf("%+v, error %v", items, err)
	}
}

func TestAges(t *testing.T) {
	for _, c := range []struct {
		wire *durationpb.Duration
		want time.Duration
	}{
		{nil, 0},
		{durationpb.New(0), 0},
		{durationpb.New(70 * time.Millisecond), 70 * time.Millisecond},
	} {
		if got := ageOf(c.wire); got != c.want {
			t.Errorf("%v is %v", c.wire, got)
		}
	}
	for _, d := range []*durationpb.Duration{
		durationpb.New(-1), {Seconds: 1, Nanos: -1}, {Seconds: 1 << 62}, {Nanos: 2_000_000_000}, durationpb.New(1<<63 - 1),
	} {
		if got := ageOf(d); got < 24*time.Hour || time.Duration(0)-got > 0 {
			t.Errorf("%v is %v: it must confirm nothing", d, got)
		}
	}
}

// FuzzWatchReader: whatever comes, a follower that takes in what the reader lets
// through is never told that it missed something, and goes back only by a reset.
func FuzzWatchReader(f *testing.F) {
	for _, items := range [][]*cachev1.WatchItem{
		{step(7, 50, &cachev1.WatchRecord{Position: 50, Keys: []string{"k"}}), reset(8, 1)},
		{reset(7, 1, &cachev1.WatchRecord{Position: 5, All: true}), step(7, 9, &cachev1.WatchRecord{Position: 7, Tags: []string{"t"}})},
		{{Partitions: 1024, Partition: 1023, Epoch: 1, Complete: 1, Reset_: true}},
	} {
		b, err := proto.Marshal(&cachev1.WatchResponse{Items: items})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m cachev1.WatchResponse
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		items, err := NewWatchReader(watchedBefore).Items(m.Items)
		if err != nil {
			return
		}
		followers := map[uint16]*invalidation.Follower{}
		left := map[uint16]map[soracache.Epoch]bool{}
		marks := invalidation.NewMarks(1<<8, 1)
		for _, item := range items {
			if item.Partitions == 0 || item.Partitions > soracache.MaxPartitions || item.Partition >= item.Partitions || item.Epoch == 0 {
				t.Fatalf("%+v", item)
			}
			follower := followers[item.Partition]
			if follower == nil {
				follower = invalidation.NewFollower(invalidation.Config{
					Marks: marks, Space: uint64(item.Partition), Bound: time.Second, Now: func() time.Duration { return 0 },
				})
				if at, known := watchedBefore.At(item.Partition); known {
					follower.Push(invalidation.Step{Epoch: at.Epoch, Applied: at.Position, Reset: true})
				}
				followers[item.Partition], left[item.Partition] = follower, map[soracache.Epoch]bool{}
			}
			before := follower.State()
			if left[item.Partition][item.Epoch] {
				return // a dead epoch is the follower's to refuse
			}
			o := follower.Push(invalidation.Step{Epoch: item.Epoch, Applied: item.Complete, New: item.Records, Reset: item.Reset})
			after := follower.State()
			if o.Missed || after.Epoch != item.Epoch || before.Epoch == after.Epoch && after.Applied < before.Applied {
				t.Fatalf("%+v led from %+v to %+v: %+v", item, before, after, o)
			}
			if before.Epoch != after.Epoch {
				left[item.Partition][before.Epoch] = true
			}
			for _, r := range item.Records {
				if r.Position == 0 || r.Epoch != item.Epoch || len(r.Targets) == 0 || item.Reset {
					t.Fatalf("%+v", item)
				}
			}
		}
	})
}
