package client

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
	"github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// RouteBy says which of several nodes is asked for a key.
type RouteBy uint8

// The ways to choose a node.
const (
	// ByKey asks one node for a key, the same for all clients, so that the
	// memories of the nodes do not all hold the same. When a node goes, its keys
	// spread over the others, and no others move.
	ByKey RouteBy = iota
	// RoundRobin asks the nodes in turn. Every node's memory ends up with
	// everything: it suits few keys that are asked for very often.
	RoundRobin
	// LeastLoaded asks the node to which the fewest of the client's calls are
	// under way.
	LeastLoaded
)

// Routing chooses which of several nodes is asked for a key. The default is
// [ByKey]. It has a meaning for [Dial] only.
func Routing(by RouteBy) Option { return func(c *config) { c.route = by } }

// StaticNodes keeps the client to the URLs that it was given, where the nodes
// are reached by other addresses than they know of, such as through a balancer
// that is not to be passed by. Without it, the client learns the members from
// the cluster. It has a meaning for [Dial] only.
func StaticNodes() Option { return func(c *config) { c.static = true } }

// dialBackend returns what a client of the service at these URLs stands on, and
// what ends it: a router over the nodes that the directory knows, each behind
// what batches the requests to it.
func dialBackend(urls string, cfg config) (_ soracache.Backend, end func(), err error) {
	var seeds []string
	for raw := range strings.SplitSeq(urls, ",") {
		seed, err := parseURL(raw)
		if err != nil {
			return nil, nil, err
		}
		seeds = append(seeds, strings.TrimRight(seed, "/"))
	}
	rank, err := rankingOf(cfg.route)
	if err != nil {
		return nil, nil, err
	}
	h, endHTTP := httpClient(cfg)
	d := newDirectory(seeds, func(url string) *member {
		node := newBatched(newRemote(h, url, cfg))
		return newMember(url, node, node.close, cfg.log, cfg.hooks.OnBreaker)
	}, cfg.log)
	d.static, d.list = cfg.static, membersOf(h, cfg)
	return newRouter(d.members, rank, d.troubled), func() {
		d.close()
		endHTTP()
	}, nil
}

func rankingOf(by RouteBy) (ranking, error) {
	switch by {
	case ByKey:
		return ranking{byKey, firstByKey}, nil
	case RoundRobin:
		return ranking{order: roundRobin()}, nil
	case LeastLoaded:
		return ranking{order: leastLoaded}, nil
	}
	return ranking{}, fmt.Errorf("%w: unknown routing %d", soracache.ErrInvalid, by)
}

// membersOf returns what asks a node for the members of its cluster.
func membersOf(h *http.Client, cfg config) func(context.Context, string) ([]*cachev1.Member, error) {
	var opts []connect.ClientOption
	if cfg.token != nil {
		opts = append(opts, connect.WithInterceptors(bearer(cfg.token)))
	}
	return func(ctx context.Context, url string) ([]*cachev1.Member, error) {
		answer, err := soracachev1connect.NewClusterServiceClient(h, url, opts...).Members(ctx, &cachev1.MembersRequest{})
		return answer.GetMembers(), err
	}
}
