package server

import (
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

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
	// urgent requests go before others: what ends a wait, or a value's life.
	urgent bool
	// question: few are answered at once (see questions).
	question bool
	// batch: its message's own repeated fields are a batch.
	batch bool
	// request is the shape of its message; nil: Connect reads it.
	request *shape
}

const (
	// openBytes is the largest message to an open procedure: those who need no
	// token are given no memory either.
	openBytes = 4 << 10
	// streamBytes is the largest message that begins a stream: a namespace, and
	// a stamp for each of its partitions.
	streamBytes = 64 << 10
)

// procedures holds every RPC that the server answers, by path. A path that is
// not here is unimplemented.
func procedures() map[string]procedure {
	all := map[string]procedure{
		rpc.CacheServiceGetProcedure:        {scope: auth.Read},
		rpc.CacheServiceBatchGetProcedure:   {scope: auth.Read, batch: true},
		rpc.CacheServiceHeadProcedure:       {scope: auth.Read},
		rpc.CacheServiceListKeysProcedure:   {scope: auth.Read, question: true},
		rpc.CacheServiceExplainProcedure:    {scope: auth.Read, question: true},
		rpc.CacheServiceWatchProcedure:      {scope: auth.Read, stream: true},
		rpc.CacheServiceFillProcedure:       {scope: auth.Write, urgent: true},
		rpc.CacheServiceBatchFillProcedure:  {scope: auth.Write, urgent: true, batch: true},
		rpc.CacheServiceRenewProcedure:      {scope: auth.Write, urgent: true},
		rpc.CacheServiceReleaseProcedure:    {scope: auth.Write, urgent: true},
		rpc.CacheServiceSetProcedure:        {scope: auth.Write},
		rpc.CacheServiceBatchSetProcedure:   {scope: auth.Write, batch: true},
		rpc.CacheServiceInvalidateProcedure: {scope: auth.Invalidate, urgent: true, batch: true},
		rpc.ClusterServiceMembersProcedure:  {scope: auth.Read}, // clients find the nodes by it,
		rpc.ClusterServiceStatsProcedure:    {scope: auth.Admin, question: true},

		"/" + grpchealth.HealthV1ServiceName + "/Check": {open: true},
		"/" + grpchealth.HealthV1ServiceName + "/Watch": {open: true},

		"/" + grpcreflect.ReflectV1ServiceName + "/ServerReflectionInfo":      {},
		"/" + grpcreflect.ReflectV1AlphaServiceName + "/ServerReflectionInfo": {},
	}
	known := map[protoreflect.FullName]*shape{}
	for _, service := range []string{rpc.CacheServiceName, rpc.ClusterServiceName} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		methods, ok := d.(protoreflect.ServiceDescriptor)
		if err != nil || !ok {
			continue // the generated code of both is linked in
		}
		for i := range methods.Methods().Len() {
			m := methods.Methods().Get(i)
			path := "/" + service + "/" + string(m.Name())
			if p := all[path]; !p.stream {
				p.request = shapeWithin(m.Input(), known)
				all[path] = p
			}
		}
	}
	return all
}
