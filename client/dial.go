package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/cluster"
)

// Dial returns a client of the service at one or more URLs, such as
// http://10.0.0.1:7070. It does not connect: a service that is absent is noticed, and
// survived, by the calls that need it.
//
// The URLs, or a name that stands for several addresses, are where the client
// finds the cluster; from the first call on it learns all members from whichever
// node answers, unless [StaticNodes] forbids it. Each key is asked of one node,
// the same for all clients (see [Routing]). Where that one cannot be reached,
// does not answer or is draining, the call goes on to the key's next node, within
// its caller's time, and the node is passed over for a while (a quarter of a
// second at first, later up to five). Only Set is not repeated if the first node
// may have carried it out.
//
// Concurrent reads travel together to a node, and concurrent fills, without
// waiting for one another. What travels together is sent with the values of the
// first caller's context, such as a trace, and with one bearer token.
func Dial(urls []string, opts ...DialOption) (*Client, error) {
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	backend, end, err := dialBackend(urls, cfg)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return newClient(backend, end, cfg)
}

// RouteBy says which of several nodes is asked for a key.
type RouteBy uint8

// The ways to choose a node.
const (
	// ByKey asks one node for a key, the same for all clients, so that the
	// memories of the nodes do not all hold the same. When a node goes, its keys
	// spread over the others, and no others move.
	ByKey = RouteBy(cluster.ByKey)
	// RoundRobin asks the nodes in turn. Every node's memory ends up with
	// everything: it suits few keys that are asked for very often.
	RoundRobin = RouteBy(cluster.RoundRobin)
	// LeastLoaded asks the node to which the fewest of the client's calls are
	// under way.
	LeastLoaded = RouteBy(cluster.LeastLoaded)
)

// Routing chooses which of several nodes is asked for a key. The default is
// [ByKey].
func Routing(by RouteBy) DialOption { return dialOption(func(c *config) { c.route = by }) }

// StaticNodes keeps the client to the URLs that it was given, where the nodes
// are reached by other addresses than they know of, such as through a balancer
// that is not to be passed by. Without it, the client learns the members from
// the cluster.
func StaticNodes() DialOption { return dialOption(func(c *config) { c.static = true }) }

// BearerToken sends a token with every request. It is sent as it is: use it
// over https, or on loopback.
func BearerToken(token string) DialOption {
	return BearerTokenFunc(func(context.Context) (string, error) { return token, nil })
}

// BearerTokenFunc asks for the token at every request, so that it can change.
func BearerTokenFunc(token func(context.Context) (string, error)) DialOption {
	return dialOption(func(c *config) { c.token = token })
}

// TLSConfig configures https, for a private authority or a client certificate.
func TLSConfig(cfg *tls.Config) DialOption { return dialOption(func(c *config) { c.tls = cfg }) }

// HTTPClient replaces the client's own transport, which speaks HTTP/1.1 over
// many kept connections.
func HTTPClient(h *http.Client) DialOption { return dialOption(func(c *config) { c.http = h }) }

// dialBackend returns what a client of the service at these URLs stands on, and what
// ends it.
func dialBackend(urls []string, cfg config) (_ soracache.Backend, end func(), err error) {
	return cluster.Dial(cluster.Config{
		URLs: urls, HTTP: cfg.http, TLS: cfg.tls, Token: cfg.token, Routing: cluster.Routing(cfg.route), Static: cfg.static,
		Log: cfg.log, OnBreaker: surviving(cfg),
	})
}

// surviving returns the hook for breakers. What it panics with is no affair of the call
// that happens to find out.
func surviving(cfg config) func(url string, open bool) {
	told := cfg.hooks.OnBreaker
	if told == nil {
		return nil
	}
	o := observer{log: cfg.log}
	return func(url string, open bool) {
		defer o.survive("")
		told(url, open)
	}
}
