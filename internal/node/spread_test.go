package node

import (
	"fmt"
	"slices"
	"testing"
	"unsafe"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

// What concerns all partitions of a namespace is held once, however many there are.
func TestSpreadSharesWhatConcernsAll(t *testing.T) {
	const partitions = 64
	ns := &namespace{name: "shop"}
	n := &Node{}
	for i := range partitions {
		p := &partition{node: n, follower: invalidation.NewFollower(invalidation.Config{Marks: invalidation.NewMarks(1<<10, 1), Now: n.now})}
		p.id.Index = uint16(i)
		ns.partitions = append(ns.partitions, p)
	}
	var targets []soracache.Target
	for i := range 100 {
		targets = append(targets, soracache.Tag(fmt.Sprint("t", i)))
	}
	targets = append(targets, soracache.Key("k"))
	home := soracache.PartitionOf("k", partitions)
	parts, reqs, _ := ns.spread(0, targets)
	if len(parts) != partitions || len(reqs) != partitions {
		t.Fatalf("%d partitions, %d requests", len(parts), len(reqs))
	}
	shared := map[*soracache.Target]int{}
	for i, req := range reqs {
		want := targets[:100]
		if uint16(i) == home {
			want = append([]soracache.Target{soracache.Key("k")}, want...)
		}
		if !slices.Equal(req.Targets, want) {
			t.Errorf("partition %d: %v", i, req.Targets)
		}
		shared[unsafe.SliceData(req.Targets)]++
	}
	if len(shared) != 2 {
		t.Errorf("%d lists of targets, want one for the key's partition and one for all others", len(shared))
	}
}
