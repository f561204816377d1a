package wire

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// WatchReader turns what a stream brings into steps of a watch. It refuses what
// cannot be the continuation of what came before: a watcher who takes in a wrong
// step trusts what it should not.
type WatchReader struct {
	// partitions is how many there are; zero until an item has told.
	partitions uint32
	// at is where the watcher is, by partition: at first, what it came with.
	at map[uint16]soracache.Stamp
}

// NewWatchReader returns a reader for a watcher who is there already.
func NewWatchReader(from soracache.Stamps) *WatchReader {
	r := &WatchReader{at: map[uint16]soracache.Stamp{}}
	for _, f := range from {
		r.at[f.Partition] = f.Stamp
	}
	return r
}

// Items reads a message. An item that takes everything away and names something as well
// becomes two.
func (r *WatchReader) Items(wire []*cachev1.WatchItem) ([]soracache.WatchItem, error) {
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
func (r *WatchReader) item(w *cachev1.WatchItem) (soracache.WatchItem, error) {
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

// WatchPacker puts the items of a watch into messages. An item that is too large for
// one is split: its first parts say that the watcher is still where it was.
type WatchPacker struct {
	send    func(*cachev1.WatchResponse) error
	message *cachev1.WatchResponse
	bytes   int
	most    int // bytes, after which a message is sent
	// told is where the watcher is, by partition.
	told map[uint16]soracache.Stamp
}

// NewWatchPacker returns a packer for a watcher who is there already, and has messages
// sent of about so many bytes.
func NewWatchPacker(from soracache.Stamps, most int, send func(*cachev1.WatchResponse) error) *WatchPacker {
	p := &WatchPacker{send: send, most: most, message: &cachev1.WatchResponse{}, told: map[uint16]soracache.Stamp{}}
	for _, f := range from {
		p.told[f.Partition] = f.Stamp
	}
	return p
}

// Deliver sends items in as few messages as they take.
func (p *WatchPacker) Deliver(items []soracache.WatchItem) error {
	for _, item := range items {
		if err := p.pack(item); err != nil {
			return err
		}
	}
	return p.flush()
}

func (p *WatchPacker) pack(item soracache.WatchItem) error {
	now := soracache.Stamp{Epoch: item.Epoch, Position: item.Complete}
	part := &cachev1.WatchItem{
		Partition: uint32(item.Partition), Partitions: uint32(item.Partitions), Epoch: uint64(item.Epoch),
		Complete: uint64(p.told[item.Partition].Position), Reset_: item.Reset,
	}
	if item.Reset { // what it names comes after it, not with it
		part.Complete = uint64(item.Complete)
	}
	for _, r := range item.Records {
		for len(r.Targets) > 0 {
			if p.bytes >= p.most {
				p.message.Items = append(p.message.Items, part)
				if err := p.flush(); err != nil {
					return err
				}
				part = &cachev1.WatchItem{
					Partition: part.Partition, Partitions: part.Partitions, Epoch: part.Epoch, Complete: part.Complete,
				}
			}
			var record *cachev1.WatchRecord
			record, r.Targets = p.record(r)
			part.Records = append(part.Records, record)
		}
	}
	part.Complete = uint64(item.Complete)
	p.told[item.Partition] = now
	p.message.Items = append(p.message.Items, part)
	if p.bytes += itemBytes; p.bytes >= p.most {
		return p.flush()
	}
	return nil
}

// The most that an item and a target take beside their names.
const (
	itemBytes   = 48
	targetBytes = 8
)

// record puts as many of a record's targets on the wire as the message has room
// for, at least one, and returns the rest.
func (p *WatchPacker) record(r soracache.Record) (*cachev1.WatchRecord, []soracache.Target) {
	record := &cachev1.WatchRecord{Position: uint64(r.Position)}
	p.bytes += itemBytes
	for i, t := range r.Targets {
		if i > 0 && p.bytes >= p.most {
			return record, r.Targets[i:]
		}
		p.bytes += targetBytes + len(t.Name)
		switch valid := utf8.ValidString(t.Name); {
		case t.Kind == soracache.TargetKey && valid:
			record.Keys = append(record.Keys, t.Name)
		case t.Kind == soracache.TargetTag && valid:
			record.Tags = append(record.Tags, t.Name)
		default: // everything, or what the contract has no word for
			record.All = true
		}
	}
	return record, nil
}

func (p *WatchPacker) flush() error {
	if len(p.message.Items) == 0 {
		return nil
	}
	message := p.message
	p.message, p.bytes = &cachev1.WatchResponse{}, 0
	return p.send(message)
}
