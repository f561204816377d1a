// Package cluster is a [soracache.Backend] over the nodes of a cluster: it finds them,
// asks the node that a key belongs to, and goes on to another where that one fails.
package cluster

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/cluster/batcher"
	"github.com/soracache/soracache/client/internal/cluster/rpc"
)

// ErrClosed is what requests get once the backend is closed.
var ErrClosed = batcher.ErrClosed

// Routing says which of several nodes is asked for a key.
type Routing uint8

// The ways to choose a node.
const (
	// ByKey asks one node for a key, the same for all clients.
	ByKey Routing = iota
	// RoundRobin asks the nodes in turn.
	RoundRobin
	// LeastLoaded asks the node to which the fewest calls of this backend are in
	// flight.
	LeastLoaded
)

// Config says how a cluster is reached.
type Config struct {
	// URLs are where the cluster is found; at least one.
	URLs []string
	// HTTP is the client that all nodes are reached through; nil: one of its own,
	// configured by TLS, which may be nil too.
	HTTP    *http.Client
	TLS     *tls.Config
	Token   rpc.Token // nil: none is sent
	Routing Routing
	// Static keeps to the URLs. Otherwise the members are learned.
	Static bool
	Log    *slog.Logger
	// OnBreaker is told which node begins and ceases to be passed over; nil: nobody is.
	OnBreaker func(url string, open bool)
}

// Dial returns a backend over a cluster, and what ends it. It does not connect. Which
// node fails is logged.
func Dial(cfg Config) (_ soracache.Backend, end func(), err error) {
	var seeds []string
	if len(cfg.URLs) == 0 {
		return nil, nil, fmt.Errorf("%w: no URL", soracache.ErrInvalid)
	}
	for _, raw := range cfg.URLs {
		seed, err := rpc.ParseURL(raw)
		if err != nil {
			return nil, nil, err
		}
		seeds = append(seeds, strings.TrimRight(seed, "/"))
	}
	rank, err := rankingOf(cfg.Routing)
	if err != nil {
		return nil, nil, err
	}
	h, endHTTP := cfg.HTTP, func() {}
	if h == nil {
		h, endHTTP = rpc.HTTPClient(cfg.TLS)
	}
	d := newDirectory(seeds, func(url string) *member {
		node := newBatchingNode(rpc.New(h, url, cfg.Token))
		return newMember(url, node, node.close, cfg.Log, cfg.OnBreaker)
	}, cfg.Log)
	d.static, d.list = cfg.Static, rpc.Members(h, cfg.Token)
	return newRouter(d.members, rank, d.troubled), func() {
		d.close()
		endHTTP()
	}, nil
}

func rankingOf(by Routing) (ranking, error) {
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
