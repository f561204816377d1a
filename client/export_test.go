package client

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/soracache/soracache"
)

// BackendOf lets tests drive what a dialled client stands on.
func BackendOf(c *Client) soracache.Backend { return c.backend }

// Nodes makes one backend of several, preferred in the order given.
func Nodes(log *slog.Logger, backends ...soracache.Backend) soracache.Backend {
	var members []*member
	for i, b := range backends {
		members = append(members, newMember(fmt.Sprint("node ", i), b, func() {}, log, nil))
	}
	asGiven := func([]*member, string) {}
	r := newRouter(func() []*member { return members }, asGiven, func() {})
	r.spread = asGiven
	return r
}

// Remote returns one node as it is, without what batches and routes.
func Remote(t *testing.T, url string) soracache.Backend {
	cfg, err := newConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, end := httpClient(cfg)
	t.Cleanup(end)
	return newRemote(h, url, cfg)
}

// Batched has concurrent requests to a backend travel together.
func Batched(node soracache.Backend) (_ soracache.Backend, end func()) {
	b := newBatched(node)
	return b, b.close
}
