package client

import (
	"context"
	"log/slog"
	"time"

	"github.com/soracache/soracache"
)

// and returns hooks that tell both, one after the other. A field that is nil in both
// stays nil, and so costs nothing.
func (a Hooks) and(b Hooks) Hooks {
	return Hooks{
		OnHit:            both2(a.OnHit, b.OnHit),
		OnStale:          both3(a.OnStale, b.OnStale),
		OnMiss:           both1(a.OnMiss, b.OnMiss),
		OnLoad:           both3(a.OnLoad, b.OnLoad),
		OnFillSuperseded: both2(a.OnFillSuperseded, b.OnFillSuperseded),
		OnNotStored:      both2(a.OnNotStored, b.OnNotStored),
		OnParked:         both1(a.OnParked, b.OnParked),
		OnFailOpen:       both2(a.OnFailOpen, b.OnFailOpen),
		OnUnreadable:     both3(a.OnUnreadable, b.OnUnreadable),
		OnRefresh:        both2(a.OnRefresh, b.OnRefresh),
		OnRefreshed:      both3(a.OnRefreshed, b.OnRefreshed),
		OnSource:         both2(a.OnSource, b.OnSource),
		OnRejected:       both3(a.OnRejected, b.OnRejected),
		OnInvalidate:     both2(a.OnInvalidate, b.OnInvalidate),
		OnBreaker:        both2(a.OnBreaker, b.OnBreaker),
		OnNearReset:      both0(a.OnNearReset, b.OnNearReset),
		OnStart:          bothStart(a.OnStart, b.OnStart),
	}
}

func both0(f, g func()) func() {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func() { f(); g() }
}

func both1[A any](f, g func(A)) func(A) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(a A) { f(a); g(a) }
}

func both2[A, B any](f, g func(A, B)) func(A, B) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(a A, b B) { f(a, b); g(a, b) }
}

func both3[A, B, C any](f, g func(A, B, C)) func(A, B, C) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(a A, b B, c C) { f(a, b, c); g(a, b, c) }
}

// bothStart nests the operations: the second begins inside the first, and ends
// before it.
func bothStart(f, g func(context.Context, Op, string) (context.Context, func(Outcome))) func(context.Context, Op, string) (context.Context, func(Outcome)) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(ctx context.Context, op Op, key string) (context.Context, func(Outcome)) {
		ctx, endF := f(ctx, op, key)
		ctx, endG := g(ctx, op, key)
		return ctx, both1(endG, endF)
	}
}

// LogHooks returns hooks that log every event, for finding out what a client
// does: hits, misses, loads and refreshes at level Debug, what an application
// may have to change (values that were not stored, cannot be read, or were
// served stale because their loader fails) and nodes that answer again at Info,
// and failures of loaders, nodes and the service at Warn. Unlike [Logger], it logs each event.
func LogHooks(log *slog.Logger) Hooks {
	l := eventLog{log}
	return Hooks{
		OnHit: func(key string, tier soracache.Tier) {
			l.debug("soracache: hit", slog.String("key", key), slog.String("tier", tier.String()))
		},
		OnStale: func(key string, tier soracache.Tier, why StaleReason) {
			level := slog.LevelInfo
			if why == StaleRefreshing {
				level = slog.LevelDebug
			}
			l.at(level, "soracache: stale", slog.String("key", key), slog.String("tier", tier.String()), slog.String("reason", why.String()))
		},
		OnMiss: func(key string) { l.debug("soracache: miss", slog.String("key", key)) },
		OnLoad: func(key string, took time.Duration, err error) {
			l.ended("soracache: load", key, took, err)
		},
		OnFillSuperseded: func(key string, reason soracache.Reason) {
			l.debug("soracache: not stored", slog.String("key", key), slog.String("reason", reason.String()))
		},
		OnNotStored: func(key string, why error) {
			l.at(slog.LevelInfo, "soracache: not stored", slog.String("key", key), slog.String("reason", why.Error()))
		},
		OnParked: func(p Parked) {
			l.at(slog.LevelWarn, "soracache: parked", slog.String("key", p.Key), slog.String("reason", p.Why), slog.Int("times", p.Times))
		},
		OnFailOpen: func(key string, err error) {
			l.at(slog.LevelWarn, "soracache: fail open", slog.String("key", key), slog.String("error", err.Error()))
		},
		OnUnreadable: func(key, encoding string, err error) {
			l.at(slog.LevelInfo, "soracache: unreadable", slog.String("key", key), slog.String("encoding", encoding), slog.String("error", err.Error()))
		},
		OnRefresh: func(key string, why RefreshReason) {
			l.debug("soracache: refresh begins", slog.String("key", key), slog.String("reason", why.String()))
		},
		OnRefreshed: func(key string, took time.Duration, err error) {
			l.ended("soracache: refresh", key, took, err)
		},
		OnSource: func(source string, state SourceState) {
			level := slog.LevelInfo
			if state == SourceOpen {
				level = slog.LevelWarn
			}
			l.at(level, "soracache: source", slog.String("source", source), slog.String("state", state.String()))
		},
		OnRejected: func(source, key string, why error) {
			l.at(slog.LevelInfo, "soracache: rejected", slog.String("source", source), slog.String("key", key), slog.String("reason", why.Error()))
		},
		OnInvalidate: func(what Invalidation, err error) { l.invalidated(what, err) },
		OnBreaker: func(node string, open bool) {
			level := slog.LevelInfo
			if open {
				level = slog.LevelWarn
			}
			l.at(level, "soracache: breaker", slog.String("node", node), slog.Bool("open", open))
		},
		OnNearReset: func() { l.at(slog.LevelInfo, "soracache: near cache reset") },
	}
}

// eventLog writes events; attributes of those that nobody reads are given up.
type eventLog struct{ to *slog.Logger }

func (l eventLog) debug(msg string, attrs ...slog.Attr) { l.at(slog.LevelDebug, msg, attrs...) }

func (l eventLog) at(level slog.Level, msg string, attrs ...slog.Attr) {
	l.to.LogAttrs(context.Background(), level, msg, attrs...) //nolint:sloglint // the callers pass literals
}

func (l eventLog) ended(msg, key string, took time.Duration, err error) {
	if err != nil {
		l.at(slog.LevelWarn, msg, slog.String("key", key), slog.Duration("took", took), slog.String("error", err.Error()))
		return
	}
	l.debug(msg, slog.String("key", key), slog.Duration("took", took))
}

func (l eventLog) invalidated(what Invalidation, err error) {
	attrs := []slog.Attr{slog.Any("keys", what.Keys), slog.Any("tags", what.Tags), slog.Bool("all", what.All)}
	if err != nil {
		l.at(slog.LevelWarn, "soracache: invalidate", append(attrs, slog.String("error", err.Error()))...)
		return
	}
	l.debug("soracache: invalidate", attrs...)
}
