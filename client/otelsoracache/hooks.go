package otelsoracache

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

const (
	scope = "github.com/soracache/soracache/client/otelsoracache"

	keyOperation = attribute.Key("soracache.operation")
	keyResult    = attribute.Key("soracache.result")
	keyTier      = attribute.Key("soracache.tier")
	keyReason    = attribute.Key("soracache.reason")
	keyState     = attribute.Key("soracache.state")
	keyKey       = attribute.Key("soracache.key")
	keyErrorType = attribute.Key("error.type")
	keyAddress   = attribute.Key("server.address")
	keySource    = attribute.Key("soracache.source")
)

// Hooks returns hooks for [client.WithHooks]. One value may serve any number of
// clients. Trouble with the metrics themselves is told to OpenTelemetry's error
// handler.
func Hooks(opts ...Option) client.Hooks {
	cfg := newConfig(opts)
	m := newMetrics(cfg)
	s := spans{cfg.tracers.Tracer(scope), cfg.always, !cfg.noKeys}
	return client.Hooks{
		OnHit: func(_ string, tier soracache.Tier) { m.reads.add(hitIn + result(tier)) },
		OnStale: func(_ string, tier soracache.Tier, _ client.StaleReason) {
			m.reads.add(staleIn + result(tier))
		},
		OnMiss: func(string) { m.reads.add(miss) },
		OnFillSuperseded: func(_ string, reason soracache.Reason) {
			if reason == soracache.ReasonLeaseLost {
				m.discarded.add("lease_lost")
			} else {
				m.discarded.add("superseded")
			}
		},
		OnNotStored:  func(string, error) { m.discarded.add("not_stored") },
		OnFailOpen:   func(_ string, err error) { m.failOpens.add(errorType(err)) },
		OnUnreadable: func(string, string, error) { m.unreadable.add(struct{}{}) },
		OnRefresh:    func(_ string, why client.RefreshReason) { m.refreshes.add(why) },
		OnInvalidate: func(_ client.Invalidation, err error) { m.invalidations.add(errorType(err)) },
		OnSource:     func(source string, to client.SourceState) { m.sources.add(sourceState{source, to}) },
		OnRejected:   func(source, _ string, why error) { m.rejections.add(rejection{source, rejectedBy(why)}) },
		OnBreaker:    m.transition,
		OnNearReset:  func() { m.resets.add(struct{}{}) },
		OnStart: func(ctx context.Context, op client.Op, key string) (context.Context, func(client.Outcome)) {
			began := time.Now()
			ctx, span := s.start(ctx, op, key)
			return ctx, func(o client.Outcome) {
				m.took(ctx, op, time.Since(began), o.Err)
				s.end(span, o)
			}
		},
	}
}

// spans makes spans of operations.
type spans struct {
	tracer trace.Tracer
	always []attribute.KeyValue
	// keys tells whether keys and messages may be shown.
	keys bool
}

func (s spans) start(ctx context.Context, op client.Op, key string) (context.Context, trace.Span) {
	kind := trace.SpanKindClient
	if op == client.OpLoad || op == client.OpRefresh {
		kind = trace.SpanKindInternal
	}
	attrs := append([]attribute.KeyValue{keyOperation.String(string(op))}, s.always...)
	if s.keys && key != "" {
		attrs = append(attrs, keyKey.String(key))
	}
	return s.tracer.Start(ctx, "soracache "+string(op), trace.WithSpanKind(kind), trace.WithAttributes(attrs...))
}

func (s spans) end(span trace.Span, o client.Outcome) {
	if span.IsRecording() {
		span.SetAttributes(outcome(o)...)
		if kind := errorType(o.Err); kind != "" {
			span.SetAttributes(keyErrorType.String(kind))
			message := kind
			if s.keys {
				message = o.Err.Error()
			}
			span.SetStatus(codes.Error, message)
		}
	}
	span.End()
}

// outcome says where the value of an operation is from, if it has one.
func outcome(o client.Outcome) []attribute.KeyValue {
	switch {
	case errorType(o.Err) != "":
		return nil
	case errors.Is(o.Err, client.ErrNotFound):
		return []attribute.KeyValue{keyResult.String("not_found")}
	case errors.Is(o.Err, client.ErrNotModified):
		return []attribute.KeyValue{keyResult.String("not_modified")}
	case o.Loaded:
		return []attribute.KeyValue{keyResult.String("loaded")}
	case o.Tier == soracache.TierNone:
		return nil
	case o.Stale:
		return []attribute.KeyValue{keyResult.String("stale"), keyTier.String(o.Tier.String())}
	}
	return []attribute.KeyValue{keyResult.String("hit"), keyTier.String(o.Tier.String())}
}

// errorType is the kind of an error in a word, and empty of none: that there is no
// such thing, or that nothing has changed, is an answer. Of many keys it is that
// of the first which failed.
func errorType(err error) string {
	var many *client.ManyError
	if errors.As(err, &many) {
		for _, of := range many.Unwrap() {
			if kind := errorType(of); kind != "" {
				return kind
			}
		}
		return ""
	}
	var panicked *client.PanicError
	switch {
	case err == nil, errors.Is(err, client.ErrNotFound), errors.Is(err, client.ErrNotModified):
		return ""
	case errors.As(err, &panicked):
		return "panic"
	case errors.Is(err, client.ErrClosed):
		return "closed"
	case errors.Is(err, client.ErrSourceOpen):
		return "source_open"
	case errors.Is(err, client.ErrSourceBusy):
		return "source_busy"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, soracache.ErrInvalid):
		return "invalid_argument"
	case errors.Is(err, soracache.ErrTooLarge):
		return "resource_exhausted"
	case errors.Is(err, soracache.ErrUnauthenticated):
		return "unauthenticated"
	case errors.Is(err, soracache.ErrPermissionDenied):
		return "permission_denied"
	case errors.Is(err, soracache.ErrUnimplemented):
		return "unimplemented"
	case errors.Is(err, soracache.ErrUnavailable):
		return "unavailable"
	}
	return "_OTHER"
}

// check gives trouble to OpenTelemetry's own handler: an instrument that cannot
// be made is one that counts nothing.
func check[I any](instrument I, err error) I {
	if err != nil {
		otel.Handle(err)
	}
	return instrument
}
