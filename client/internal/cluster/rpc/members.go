package rpc

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
	"github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// Members returns what asks the node at a URL for the members of its cluster. The
// token may be nil.
func Members(h *http.Client, token Token) func(ctx context.Context, url string) ([]*cachev1.Member, error) {
	var opts []connect.ClientOption
	if token != nil {
		opts = append(opts, connect.WithInterceptors(token))
	}
	return func(ctx context.Context, url string) ([]*cachev1.Member, error) {
		answer, err := soracachev1connect.NewClusterServiceClient(h, url, opts...).Members(ctx, &cachev1.MembersRequest{})
		return answer.GetMembers(), err
	}
}
