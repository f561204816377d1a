package server

import (
	"cmp"
	"context"
	"slices"
	"time"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// MemberState is what is known of a member. Its values are the contract's.
type MemberState uint8

// The states of a member.
const (
	MemberAlive MemberState = iota + 1
	// MemberSuspect did not answer, and is given a little time.
	MemberSuspect
	// MemberDead does not answer, which does not prove that it serves nobody.
	MemberDead
	// MemberLeft has said that it leaves.
	MemberLeft
	// MemberDraining finishes what it has begun.
	MemberDraining
)

// Member is a node of the cluster as the serving node knows it.
type Member struct {
	// Name is another one for each start of the process.
	Name string
	// RPCAddress is a URL; GossipAddress is host:port.
	RPCAddress, GossipAddress string
	Version                   string
	State                     MemberState
	// Self is true of the serving node.
	Self bool
	// Bound is the longest that the member's memory is trusted without
	// confirmation; zero: not known.
	Bound time.Duration
	// StateFor is how long the member has been in its state, as far as the
	// serving node knows.
	StateFor     time.Duration
	Capabilities []string
}

// clusterService answers the operator's questions about this node and the
// cluster.
type clusterService struct{ server *Server }

var _ rpc.ClusterServiceHandler = clusterService{}

// Members implements the RPC: the serving node first, then the others by name.
func (c clusterService) Members(ctx context.Context, _ *soracachev1.MembersRequest) (*soracachev1.MembersResponse, error) {
	found, err := reserve(ctx, int(c.server.listed.Load())*memberBytes)
	if err != nil {
		return nil, err
	}
	members := c.server.members()
	c.server.listed.Store(int64(len(members)))
	if err := found(len(members) * memberBytes); err != nil {
		return nil, err
	}
	slices.SortFunc(members, func(a, b Member) int {
		if a.Self != b.Self {
			if a.Self {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	answer := &soracachev1.MembersResponse{}
	for _, m := range members {
		answer.Members = append(answer.Members, memberResponse(m))
	}
	return answer, nil
}

// memberBytes is about what a member takes while it is listed.
const memberBytes = 1 << 10

// members are those that the hook knows, or the serving node alone.
func (s *Server) members() []Member {
	if s.hooks.Members != nil {
		return s.hooks.Members()
	}
	alone := Member{
		Name: s.cfg.Name, RPCAddress: s.cfg.Advertise, Version: s.cfg.Version,
		State: MemberAlive, Self: true, StateFor: time.Since(s.started),
	}
	if s.draining.Load() {
		alone.State = MemberDraining
	}
	return []Member{alone}
}

// Stats implements the RPC.
func (c clusterService) Stats(context.Context, *soracachev1.StatsRequest) (*soracachev1.StatsResponse, error) {
	var totals map[string]float64
	if c.server.hooks.Totals != nil {
		totals = c.server.hooks.Totals()
	}
	return statsResponse(c.server.cfg, time.Since(c.server.started), totals, c.server.node.Store()), nil
}
