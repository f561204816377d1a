package server

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// Watch implements the RPC.
func (s *cacheService) Watch(
	ctx context.Context, r *soracachev1.WatchRequest, answers *connect.ServerStream[soracachev1.WatchResponse],
) error {
	req, err := s.parser.watch(ctx, r)
	if err != nil {
		return err
	}
	st := streamOf(ctx)
	st.looked(proto.Size(r))
	pack := newPacker(req.From, func(message *soracachev1.WatchResponse) error {
		err := st.send(proto.Size(message), func() error { return answers.Send(message) })
		if err == nil {
			s.began(st.call)
		}
		return err
	})
	err = s.node.Watch(ctx, req, pack.deliver)
	if why := context.Cause(ctx); errors.Is(why, soracache.ErrUnavailable) { // the server's
		return why
	}
	if err == nil {
		err = fmt.Errorf("%w: the watch has ended", soracache.ErrUnavailable)
	}
	return err
}

// watch returns what a watcher asks for.
func (p parser) watch(ctx context.Context, r *soracachev1.WatchRequest) (soracache.WatchRequest, error) {
	var req soracache.WatchRequest
	var err error
	if req.Namespace, err = p.namespace(ctx, r.GetNamespace()); err != nil {
		return req, err
	}
	if req.From, err = soracache.DecodeStamps(r.GetStamp()); err != nil {
		return req, fmt.Errorf("stamp: %w", err)
	}
	return req, nil
}

// watchBytes is about the largest message of a watch. It is all that a watcher
// who does not read costs beyond what waits for it in the node, and in the budget.
const watchBytes = 256 << 10

// packer puts the items of a watch into messages. An item that is too large for
// one is split: its first parts say that the watcher is still where it was.
type packer struct {
	send    func(*soracachev1.WatchResponse) error
	message *soracachev1.WatchResponse
	bytes   int
	// told is where the watcher is, by partition.
	told map[uint16]soracache.Stamp
}

func newPacker(from soracache.Stamps, send func(*soracachev1.WatchResponse) error) *packer {
	p := &packer{send: send, message: &soracachev1.WatchResponse{}, told: map[uint16]soracache.Stamp{}}
	for _, f := range from {
		p.told[f.Partition] = f.Stamp
	}
	return p
}

// deliver sends items in as few messages as they take.
func (p *packer) deliver(items []soracache.WatchItem) error {
	for _, item := range items {
		if err := p.pack(item); err != nil {
			return err
		}
	}
	return p.flush()
}

func (p *packer) pack(item soracache.WatchItem) error {
	now := soracache.Stamp{Epoch: item.Epoch, Position: item.Complete}
	part := &soracachev1.WatchItem{
		Partition: uint32(item.Partition), Partitions: uint32(item.Partitions), Epoch: uint64(item.Epoch),
		Complete: uint64(p.told[item.Partition].Position), Reset_: item.Reset,
	}
	if item.Reset { // what it names comes after it, not with it
		part.Complete = uint64(item.Complete)
	}
	for _, r := range item.Records {
		for len(r.Targets) > 0 {
			if p.bytes >= watchBytes {
				p.message.Items = append(p.message.Items, part)
				if err := p.flush(); err != nil {
					return err
				}
				part = &soracachev1.WatchItem{
					Partition: part.Partition, Partitions: part.Partitions, Epoch: part.Epoch, Complete: part.Complete,
				}
			}
			var record *soracachev1.WatchRecord
			record, r.Targets = p.record(r)
			part.Records = append(part.Records, record)
		}
	}
	part.Complete = uint64(item.Complete)
	p.told[item.Partition] = now
	p.message.Items = append(p.message.Items, part)
	if p.bytes += itemBytes; p.bytes >= watchBytes {
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
func (p *packer) record(r soracache.Record) (*soracachev1.WatchRecord, []soracache.Target) {
	record := &soracachev1.WatchRecord{Position: uint64(r.Position)}
	p.bytes += itemBytes
	for i, t := range r.Targets {
		if i > 0 && p.bytes >= watchBytes {
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

func (p *packer) flush() error {
	if len(p.message.Items) == 0 {
		return nil
	}
	message := p.message
	p.message, p.bytes = &soracachev1.WatchResponse{}, 0
	return p.send(message)
}
