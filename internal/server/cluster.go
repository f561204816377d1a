package server

import (
	"context"
	"time"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// clusterService answers the operator's questions about this node.
type clusterService struct{ server *Server }

var _ rpc.ClusterServiceHandler = clusterService{}

// Stats implements the RPC.
func (c clusterService) Stats(context.Context, *soracachev1.StatsRequest) (*soracachev1.StatsResponse, error) {
	var totals map[string]float64
	if c.server.hooks.Totals != nil {
		totals = c.server.hooks.Totals()
	}
	return statsResponse(c.server.cfg, time.Since(c.server.started), totals), nil
}
