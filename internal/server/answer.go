package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/wire"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// getResponse puts one read on the wire, or what it failed with.
func getResponse(r soracache.ReadResult) *soracachev1.GetResponse {
	if r.Err != nil {
		return &soracachev1.GetResponse{Error: batchError(r.Err)}
	}
	return wire.GetResponse(r)
}

func fillResponse(r soracache.WriteResult) *soracachev1.FillResponse {
	if r.Err != nil {
		return &soracachev1.FillResponse{Error: batchError(r.Err)}
	}
	return wire.FillResponse(r)
}

func setResponse(r soracache.WriteResult) *soracachev1.SetResponse {
	if r.Err != nil {
		return &soracachev1.SetResponse{Error: batchError(r.Err)}
	}
	return &soracachev1.SetResponse{Stamp: r.Stamp.Encode()}
}

func explainResponse(e node.Explanation) *soracachev1.ExplainResponse {
	answer := &soracachev1.ExplainResponse{
		Status:    soracachev1.Status(e.Status),
		Tier:      soracachev1.Tier(e.Tier),
		Reason:    e.Reason,
		Partition: int32(e.Partition), //nolint:gosec // below MaxPartitions
		Epoch:     uint64(e.Ledger.Epoch),
		Head:      uint64(e.Ledger.Position),
		Applied:   uint64(e.Applied),
		L1:        copyOf(e.L1),
		L2:        copyOf(e.L2),
		Leased:    e.Leased,
	}
	if e.ConfirmedAgo >= 0 {
		answer.ConfirmedAgo = durationpb.New(e.ConfirmedAgo)
	}
	if e.Leased {
		answer.LeaseFor = durationpb.New(e.LeaseFor)
	}
	return answer
}

func copyOf(c node.Copy) *soracachev1.ExplainResponse_Copy {
	answer := &soracachev1.ExplainResponse_Copy{Present: c.Present, Live: c.Live, Reason: c.Reason}
	if !c.Present {
		return answer
	}
	answer.KilledByPosition = uint64(c.KilledBy.Position)
	answer.KilledByTargets = wire.Targets(c.KilledBy)
	answer.Epoch = uint64(c.Stamp.Epoch)
	answer.Position = uint64(c.Stamp.Position)
	answer.Tags = c.Tags
	answer.FreshFor = durationpb.New(c.FreshFor)
	answer.KeepFor = durationpb.New(c.KeepFor)
	answer.ValueBytes = int64(c.ValueBytes)
	answer.Encoding = c.Encoding
	answer.Kind = soracachev1.Kind(c.Kind)
	return answer
}

// memberResponse puts one member on the wire.
func memberResponse(m Member) *soracachev1.Member {
	answer := &soracachev1.Member{
		Name:          m.Name,
		RpcAddress:    m.RPCAddress,
		GossipAddress: m.GossipAddress,
		Version:       m.Version,
		State:         soracachev1.MemberState(m.State),
		Self:          m.Self,
		StateFor:      durationpb.New(m.StateFor),
		Capabilities:  m.Capabilities,
	}
	if m.Bound > 0 {
		answer.Bound = durationpb.New(m.Bound)
	}
	return answer
}

func statsResponse(cfg Config, uptime time.Duration, totals map[string]float64, store []node.StorePart) *soracachev1.StatsResponse {
	status := &soracachev1.StoreStatus{Scheme: cfg.StoreScheme}
	for _, part := range store {
		status.Parts = append(status.Parts, &soracachev1.StoreStatus_Part{
			Name: part.Name, Reachable: part.Reachable, StateFor: durationpb.New(part.For),
		})
	}
	return &soracachev1.StatsResponse{
		Node:    cfg.Name,
		Version: cfg.Version,
		Uptime:  durationpb.New(uptime),
		Totals:  totals,
		Store:   status,
	}
}
