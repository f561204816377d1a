package otelsoracache_test

import (
	"context"
	"testing"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
	"github.com/soracache/soracache/client/otelsoracache"
)

// With a whole client: one trace from the request to the source.
func TestClient(t *testing.T) {
	reader, spans := sdkmetric.NewManualReader(), tracetest.NewSpanRecorder()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	srv := clienttest.NewServer(t)
	c := srv.Client(client.NoNear(), client.WithHooks(otelsoracache.Hooks(
		otelsoracache.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))),
		otelsoracache.WithTracerProvider(tracers))))
	ctx, root := tracers.Tracer("test").Start(t.Context(), "request")
	var inLoader trace.SpanContext
	load := func(ctx context.Context) (string, error) {
		inLoader = trace.SpanContextFromContext(ctx)
		return "v", nil
	}
	for range 2 {
		if _, err := client.GetOrSet(ctx, c, "k", load); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Remove(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	root.End()
	if inLoader.TraceID() != root.SpanContext().TraceID() {
		t.Error("the loader is of another trace")
	}
	got := map[string]int{}
	for _, s := range spans.Ended() {
		got[s.Name()]++
	}
	if got["soracache get_or_set"] != 2 || got["soracache load"] != 1 || got["soracache invalidate"] != 1 {
		t.Errorf("got %v", got)
	}
	counts := collected(t, reader)
	if counts["reads soracache.result=miss"] != 1 || counts["reads soracache.result=hit,soracache.tier=l1"] != 1 ||
		counts["operation.duration soracache.operation=load"] != 1 {
		t.Errorf("got %v", counts)
	}
}
