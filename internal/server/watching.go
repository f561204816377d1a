package server

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/wire"
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
	pack := wire.NewWatchPacker(req.From, watchBytes, func(message *soracachev1.WatchResponse) error {
		err := st.send(proto.Size(message), func() error { return answers.Send(message) })
		if err == nil {
			s.began(st.call)
		}
		return err
	})
	err = s.node.Watch(ctx, req, pack.Deliver)
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
