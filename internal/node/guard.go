package node

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/soracache/soracache/l2"
)

// guard turns a panic of the store into an error, so that it is one to its
// callers and leaves nothing locked, and bounds the calls that have no other
// bound.
type guard struct {
	l2.Store

	log     *slog.Logger
	timeout time.Duration
}

// caught logs a panic and hands over the error that stands for it.
func (g guard) caught(then func(err error)) {
	p := recover()
	if p == nil {
		return
	}
	g.log.Error("the store panicked", "panic", p, "stack", string(debug.Stack()))
	then(l2.Unavailable(fmt.Errorf("the store panicked: %v", p), "the store failed"))
}

func (g guard) Read(ctx context.Context, reqs []l2.ReadRequest) (as []l2.ReadAnswer) {
	defer g.caught(func(err error) { as = slices.Repeat([]l2.ReadAnswer{{Err: err}}, len(reqs)) })
	return g.Store.Read(ctx, reqs)
}

func (g guard) Write(ctx context.Context, reqs []l2.WriteRequest) (as []l2.WriteAnswer) {
	defer g.caught(func(err error) { as = slices.Repeat([]l2.WriteAnswer{{Err: err}}, len(reqs)) })
	return g.Store.Write(ctx, reqs)
}

func (g guard) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) (as []l2.InvalidateAnswer) {
	defer g.caught(func(err error) { as = slices.Repeat([]l2.InvalidateAnswer{{Err: err}}, len(reqs)) })
	return g.Store.Invalidate(ctx, reqs)
}

func (g guard) Since(ctx context.Context, reqs []l2.SinceRequest) (as []l2.SinceAnswer) {
	defer g.caught(func(err error) { as = slices.Repeat([]l2.SinceAnswer{{Err: err}}, len(reqs)) })
	return g.Store.Since(ctx, reqs)
}

func (g guard) Explain(ctx context.Context, p l2.Partition, key string) (e l2.Explanation, err error) {
	defer g.caught(func(panicked error) { err = panicked })
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	return g.Store.Explain(ctx, p, key)
}

func (g guard) ListKeys(ctx context.Context, p l2.Partition, tag, cursor string, limit int) (keys []string, next string, err error) {
	defer g.caught(func(panicked error) { err = panicked })
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	return g.Store.ListKeys(ctx, p, tag, cursor, limit)
}

func (g guard) Reclaim(ctx context.Context, p l2.Partition, tag, cursor string) (next string, deleted int, err error) {
	defer g.caught(func(panicked error) { err = panicked })
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	return g.Store.Reclaim(ctx, p, tag, cursor)
}

func (g guard) Sweep(ctx context.Context) (more bool, err error) {
	defer g.caught(func(panicked error) { err = panicked })
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	return g.Store.Sweep(ctx)
}

func (g guard) Ping(ctx context.Context) (err error) {
	defer g.caught(func(panicked error) { err = panicked })
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	return g.Store.Ping(ctx)
}
