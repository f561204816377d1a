package rpc

import (
	"errors"
	"fmt"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// watchReader turns what a stream brings into steps of a watch. It refuses what
// cannot be the continuation of what came before: a watcher who takes in a wrong
// step trusts what it should not.
type watchReader struct {
	// partitions is how many there are; zero until an item has told.
	partitions uint32
	// at is where the watcher is, by partition: at first, what it came with.
	at map[uint16]soracache.Stamp
}

func newWatchReader(from soracache.Stamps) *watchReader {
	r := &watchReader{at: map[uint16]soracache.Stamp{}}
	for _, f := range from {
		r.at[f.Partition] = f.Stamp
	}
	return r
}

func (r *watchReader) items(wire []*cachev1.WatchItem) ([]soracache.WatchItem, error) {
	items := make([]soracache.WatchItem, 0, len(wire))
	for _, w := range wire {
		item, err := r.item(w)
		if err != nil {
			return nil, fmt.Errorf("%w: malformed step of a watch: %w", soracache.ErrUnavailable, err)
		}
		if item.Reset && len(item.Records) > 0 {
			// A reset takes everything away. What it names as well comes after it.
			alone := item
			alone.Records = nil
			items = append(items, alone)
			item.Reset = false
		}
		items = append(items, item)
	}
	return items, nil
}

// item reads one item, and notes where the watcher is after it.
func (r *watchReader) item(w *cachev1.WatchItem) (soracache.WatchItem, error) {
	switch n := w.GetPartitions(); {
	case n == 0 || n > soracache.MaxPartitions:
		return soracache.WatchItem{}, fmt.Errorf("%d partitions", n)
	case r.partitions != 0 && r.partitions != n:
		return soracache.WatchItem{}, fmt.Errorf("%d partitions, and %d before", n, r.partitions)
	case w.GetPartition() >= n:
		return soracache.WatchItem{}, fmt.Errorf("partition %d of %d", w.GetPartition(), n)
	}
	item := soracache.WatchItem{
		Partition:  uint16(w.GetPartition()),  //nolint:gosec // checked above
		Partitions: uint16(w.GetPartitions()), //nolint:gosec // checked above
		Epoch:      soracache.Epoch(w.GetEpoch()),
		Complete:   soracache.Position(w.GetComplete()),
		Reset:      w.GetReset_(),
	}
	at := r.at[item.Partition]
	switch {
	case item.Epoch == 0:
		return item, errors.New("no epoch")
	case item.Reset:
	case item.Epoch != at.Epoch:
		return item, errors.New("another epoch without a reset")
	case item.Complete < at.Position:
		return item, fmt.Errorf("position %d after %d", item.Complete, at.Position)
	}
	for _, wr := range w.GetRecords() {
		record, err := watchRecord(item.Epoch, wr)
		if err != nil {
			return item, err
		}
		item.Records = append(item.Records, record)
	}
	r.partitions = w.GetPartitions()
	r.at[item.Partition] = soracache.Stamp{Epoch: item.Epoch, Position: item.Complete}
	return item, nil
}

// watchRecord reads a record. What it names in words that this build does not
// know is everything.
func watchRecord(epoch soracache.Epoch, w *cachev1.WatchRecord) (soracache.Record, error) {
	record := soracache.Record{Epoch: epoch, Position: soracache.Position(w.GetPosition())}
	if record.Position == 0 {
		return record, errors.New("a record without a position")
	}
	if w.GetAll() || len(w.GetKeys())+len(w.GetTags()) == 0 || len(w.ProtoReflect().GetUnknown()) > 0 {
		record.Targets = append(record.Targets, soracache.Everything())
	}
	for _, k := range w.GetKeys() {
		record.Targets = append(record.Targets, soracache.Key(k))
	}
	for _, t := range w.GetTags() {
		record.Targets = append(record.Targets, soracache.Tag(t))
	}
	return record, nil
}
