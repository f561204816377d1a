package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// guard turns a panic of the store into an error, so that it is one to its
// callers and leaves nothing locked, bounds the calls that have no other bound,
// has the node doubt the numbers of partitions that are refused, and notes which
// parts of the store answer.
type guard struct {
	l2.Store

	node    *Node
	parts   *parts
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

// heard is one part of the store in the course of one call.
type heard struct {
	part     *part
	sent     time.Duration
	answered bool
}

// meet adds the part that holds a partition to those of a call, and returns where
// it is.
func (g guard) meet(calls []heard, at l2.Partition) ([]heard, int) {
	name := g.Store.Part(at)
	for i := range calls {
		if calls[i].part.name == name {
			return calls, i
		}
	}
	return append(calls, heard{part: g.parts.named(name)}), len(calls)
}

// answered tells whether an answer came at all: a refusal is one.
func answered(err error) bool { return !errors.Is(err, soracache.ErrUnavailable) }

// guarded makes a call for a batch. Owed means that it says something of the store
// if there is no answer: what is small and can be asked at any time. What is not,
// such as a fill of many bytes, counts only if it is answered.
func guarded[Q, A any](
	ctx context.Context, g guard, owed bool, reqs []Q, call func(context.Context, []Q) []A,
	at func(*Q) l2.Partition, errOf func(*A) *error,
) (as []A) {
	var room [4]heard
	calls := room[:0]
	for i := range reqs {
		calls, _ = g.meet(calls, at(&reqs[i]))
	}
	if owed {
		for i := range calls {
			calls[i].sent = calls[i].part.asks()
		}
	}
	defer func() {
		for i := range as {
			if ctx.Err() == nil && answered(*errOf(&as[i])) { // in time
				_, which := g.meet(calls, at(&reqs[i]))
				if which < len(calls) { // it was not moved meanwhile
					calls[which].answered = true
				}
			}
		}
		for _, c := range calls {
			if c.answered {
				c.part.answers()
			}
			if owed {
				c.part.ends(ctx, c.sent, c.answered)
			}
		}
	}()
	defer g.caught(func(err error) {
		as = make([]A, len(reqs))
		for i := range as {
			*errOf(&as[i]) = err
		}
	})
	as = call(ctx, reqs)
	counted(g.node, reqs, as, func(r *Q) string { return at(r).Namespace }, func(a *A) error { return *errOf(a) })
	return as
}

func (g guard) Read(ctx context.Context, reqs []l2.ReadRequest) []l2.ReadAnswer {
	return guarded(ctx, g, true, reqs, g.Store.Read,
		func(r *l2.ReadRequest) l2.Partition { return r.Partition }, func(a *l2.ReadAnswer) *error { return &a.Err })
}

func (g guard) Write(ctx context.Context, reqs []l2.WriteRequest) []l2.WriteAnswer {
	return guarded(ctx, g, false, reqs, g.Store.Write,
		func(r *l2.WriteRequest) l2.Partition { return r.Partition }, func(a *l2.WriteAnswer) *error { return &a.Err })
}

func (g guard) Invalidate(ctx context.Context, reqs []l2.InvalidateRequest) []l2.InvalidateAnswer {
	return guarded(ctx, g, false, reqs, g.Store.Invalidate,
		func(r *l2.InvalidateRequest) l2.Partition { return r.Partition }, func(a *l2.InvalidateAnswer) *error { return &a.Err })
}

// Since of a guest is refused where there is no ledger, which says nothing.
func (g guard) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	return guarded(ctx, g, len(reqs) > 0 && !reqs[0].Guest, reqs, g.Store.Since,
		func(r *l2.SinceRequest) l2.Partition { return r.Partition }, func(a *l2.SinceAnswer) *error { return &a.Err })
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

func (g guard) Partitions(ctx context.Context, reqs []l2.PartitionsRequest) (as []l2.PartitionsAnswer) {
	defer g.caught(func(err error) { as = slices.Repeat([]l2.PartitionsAnswer{{Err: err}}, len(reqs)) })
	return g.Store.Partitions(ctx, reqs)
}

func (g guard) Repartition(ctx context.Context, namespace string, count int) (left time.Duration, err error) {
	defer g.caught(func(panicked error) { err = panicked })
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	return g.Store.Repartition(ctx, namespace, count)
}
