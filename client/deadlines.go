package client

import (
	"context"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/deadline"
)

// limited returns a context that ends after d at the latest. It must be ended.
func (c *Client) limited(ctx context.Context, d time.Duration) *deadline.Context {
	return deadline.New(ctx, c.closing, time.Now().Add(d))
}

// detached is limited for what goes on when the client is closed.
func detached(ctx context.Context, d time.Duration) *deadline.Context {
	return deadline.New(ctx, context.Background(), time.Now().Add(d))
}

// toWrite is detached for writes of one kind. Fills are cut off when a client that is
// closed does not wait for them any longer.
func (c *Client) toWrite(ctx context.Context, d time.Duration, op soracache.WriteOp) *deadline.Context {
	if op == soracache.OpFill {
		return deadline.New(ctx, c.cutting, time.Now().Add(d))
	}
	return detached(ctx, d)
}
