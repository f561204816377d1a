package server

import (
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"github.com/soracache/soracache/internal/server/auth"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// procedure is what the server knows of a request before it reads its body.
type procedure struct {
	// scope is what a token needs to call it; zero: any token will do.
	scope auth.Scope
	// open procedures need no token and are served while the server drains.
	open bool
	// stream: its answer has no end of its own.
	stream bool
}

// openBytes is the largest message to an open procedure: those who need no
// token are given no memory either.
const openBytes = 4 << 10

// procedures holds every RPC that the server answers, by path. A path that is
// not here is unimplemented.
func procedures() map[string]procedure {
	return map[string]procedure{
		rpc.CacheServiceGetProcedure:        {scope: auth.Read},
		rpc.CacheServiceBatchGetProcedure:   {scope: auth.Read},
		rpc.CacheServiceHeadProcedure:       {scope: auth.Read},
		rpc.CacheServiceListKeysProcedure:   {scope: auth.Read},
		rpc.CacheServiceExplainProcedure:    {scope: auth.Read},
		rpc.CacheServiceWatchProcedure:      {scope: auth.Read, stream: true},
		rpc.CacheServiceFillProcedure:       {scope: auth.Write},
		rpc.CacheServiceBatchFillProcedure:  {scope: auth.Write},
		rpc.CacheServiceRenewProcedure:      {scope: auth.Write},
		rpc.CacheServiceReleaseProcedure:    {scope: auth.Write},
		rpc.CacheServiceSetProcedure:        {scope: auth.Write},
		rpc.CacheServiceBatchSetProcedure:   {scope: auth.Write},
		rpc.CacheServiceInvalidateProcedure: {scope: auth.Invalidate},
		rpc.ClusterServiceMembersProcedure:  {scope: auth.Read}, // clients find the nodes by it,
		rpc.ClusterServiceStatsProcedure:    {scope: auth.Admin},

		"/" + grpchealth.HealthV1ServiceName + "/Check": {open: true},
		"/" + grpchealth.HealthV1ServiceName + "/Watch": {open: true},

		"/" + grpcreflect.ReflectV1ServiceName + "/ServerReflectionInfo":      {},
		"/" + grpcreflect.ReflectV1AlphaServiceName + "/ServerReflectionInfo": {},
	}
}
