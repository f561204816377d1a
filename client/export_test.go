package client

import (
	"fmt"
	"log/slog"

	"github.com/soracache/soracache"
)

// BackendOf lets tests drive what a dialled client stands on.
func BackendOf(c *Client) soracache.Backend { return c.backend }

// Nodes makes one backend of several, preferred in the order given.
func Nodes(log *slog.Logger, backends ...soracache.Backend) soracache.Backend {
	n := &nodes{log: log}
	for i, b := range backends {
		n.members = append(n.members, &member{url: fmt.Sprint("node ", i), backend: b})
	}
	return n
}
