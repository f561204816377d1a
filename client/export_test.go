package client

import "github.com/soracache/soracache"

// BackendOf lets tests drive what a dialled client stands on.
func BackendOf(c *Client) soracache.Backend { return c.backend }
