package otelsoracache_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/otelsoracache"
)

// collected returns every counter and the counts of every histogram, by name and
// attributes.
func collected(t *testing.T, reader *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &data); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			name := strings.TrimPrefix(m.Name, "soracache.client.") + " "
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					got[name+p.Attributes.Encoded(attribute.DefaultEncoder())] += p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					got[name+p.Attributes.Encoded(attribute.DefaultEncoder())] += int64(p.Count)
				}
			}
		}
	}
	return got
}

// Each event is counted once, with attributes of few values.
func TestMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	h := otelsoracache.Hooks(
		otelsoracache.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))),
		otelsoracache.WithTracerProvider(nooptrace.NewTracerProvider()),
		otelsoracache.WithAttributes(attribute.String("ns", "shop")))
	for _, k := range []string{"a", "b"} {
		h.OnHit(k, soracache.TierNear)
	}
	h.OnHit("k", soracache.TierL2)
	h.OnStale("k", soracache.TierL1, client.StaleFailedLoader)
	h.OnMiss("k")
	h.OnFillSuperseded("k", soracache.ReasonSuperseded)
	h.OnFillSuperseded("k", soracache.ReasonLeaseLost)
	h.OnNotStored("k", errors.New("no"))
	h.OnFailOpen("k", soracache.ErrUnavailable)
	h.OnUnreadable("k", "json", errors.New("no"))
	h.OnRefresh("k", client.RefreshEager)
	h.OnInvalidate(client.Invalidation{All: true}, nil)
	h.OnInvalidate(client.Invalidation{All: true}, context.DeadlineExceeded)
	h.OnBreaker("http://a", true)
	h.OnBreaker("http://a", false)
	h.OnNearReset()
	h.OnSource("db", client.SourceOpen)
	h.OnSource("db", client.SourceHalfOpen)
	h.OnSource("db", client.SourceClosed)
	h.OnRejected("db", "k", fmt.Errorf("%w: db", client.ErrSourceOpen))
	h.OnRejected("db", "k", fmt.Errorf("%w: db", client.ErrSourceBusy))
	for _, err := range []error{nil, &client.PanicError{Value: "x"}} {
		_, end := h.OnStart(t.Context(), client.OpLoad, "k")
		end(client.Outcome{Err: err})
	}
	got := collected(t, reader)
	for _, want := range []string{
		"reads ns=shop,soracache.result=hit,soracache.tier=l2",
		"reads ns=shop,soracache.result=stale,soracache.tier=l1",
		"reads ns=shop,soracache.result=miss",
		"fills.discarded ns=shop,soracache.reason=superseded",
		"fills.discarded ns=shop,soracache.reason=lease_lost",
		"fills.discarded ns=shop,soracache.reason=not_stored",
		"fail_opens error.type=unavailable,ns=shop",
		"unreadable ns=shop",
		"refreshes ns=shop,soracache.reason=eager",
		"invalidations ns=shop",
		"invalidations error.type=timeout,ns=shop",
		"node.transitions ns=shop,server.address=http://a,soracache.state=passed_over",
		"node.transitions ns=shop,server.address=http://a,soracache.state=used",
		"near.resets ns=shop",
		"source.transitions ns=shop,soracache.source=db,soracache.state=open",
		"source.transitions ns=shop,soracache.source=db,soracache.state=half_open",
		"source.transitions ns=shop,soracache.source=db,soracache.state=closed",
		"source.rejections ns=shop,soracache.reason=open,soracache.source=db",
		"source.rejections ns=shop,soracache.reason=busy,soracache.source=db",
		"operation.duration ns=shop,soracache.operation=load",
		"operation.duration error.type=panic,ns=shop,soracache.operation=load",
	} {
		if got[want] != 1 {
			t.Errorf("%s: %d", want, got[want])
		}
		delete(got, want)
	}
	if near := "reads ns=shop,soracache.result=hit,soracache.tier=near"; got[near] != 2 || len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

// A loader's span is inside that of the call that waited for it.
func TestSpans(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	h := otelsoracache.Hooks(
		otelsoracache.WithMeterProvider(noop.NewMeterProvider()),
		otelsoracache.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	ctx, endGet := h.OnStart(t.Context(), client.OpGetOrSet, "product:42")
	loadCtx, endLoad := h.OnStart(ctx, client.OpLoad, "product:42")
	if !trace.SpanContextFromContext(loadCtx).IsValid() {
		t.Error("the loader's context has no span")
	}
	endLoad(client.Outcome{Err: errors.New("no such table")})
	endGet(client.Outcome{Tier: soracache.TierL1, Stale: true})

	ended := spans.Ended()
	if len(ended) != 2 {
		t.Fatalf("%d spans", len(ended))
	}
	load, get := ended[0], ended[1]
	if load.Parent().SpanID() != get.SpanContext().SpanID() || load.Name() != "soracache load" || get.Name() != "soracache get_or_set" {
		t.Errorf("%s in %s", load.Name(), get.Name())
	}
	if load.Status().Code != codes.Error || load.Status().Description != "no such table" {
		t.Errorf("got %v", load.Status())
	}
	for _, want := range []attribute.KeyValue{
		attribute.String("soracache.key", "product:42"),
		attribute.String("soracache.result", "stale"),
		attribute.String("soracache.tier", "l1"),
	} {
		if !slices.Contains(get.Attributes(), want) {
			t.Errorf("%v is not in %v", want, get.Attributes())
		}
	}
}

// That there is no such thing is an answer, and no failure.
func TestNotFound(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	h := otelsoracache.Hooks(otelsoracache.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	for _, err := range []error{client.ErrNotFound, client.ErrNotModified} {
		_, end := h.OnStart(t.Context(), client.OpLoad, "k")
		end(client.Outcome{Err: err})
	}
	for i, want := range []string{"not_found", "not_modified"} {
		span := spans.Ended()[i]
		if span.Status().Code == codes.Error || !slices.Contains(span.Attributes(), attribute.String("soracache.result", want)) {
			t.Errorf("got %v, %v", span.Status(), span.Attributes())
		}
	}
}

// That one of many keys does not exist hides no failure of another.
func TestFailuresOfMany(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	reader := sdkmetric.NewManualReader()
	h := otelsoracache.Hooks(
		otelsoracache.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))),
		otelsoracache.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	for _, failed := range []map[string]error{
		{"a": client.ErrNotFound, "b": soracache.ErrUnavailable},
		{"a": client.ErrNotFound, "b": fmt.Errorf("b: %w", client.ErrNotFound)},
	} {
		_, end := h.OnStart(t.Context(), client.OpLoad, "")
		end(client.Outcome{Err: fmt.Errorf("many: %w", &client.ManyError{Errors: failed})})
	}
	mixed, none := spans.Ended()[0], spans.Ended()[1]
	notFound := attribute.String("soracache.result", "not_found")
	if mixed.Status().Code != codes.Error || !slices.Contains(mixed.Attributes(), attribute.String("error.type", "unavailable")) ||
		slices.Contains(mixed.Attributes(), notFound) {
		t.Errorf("one failed: %v, %v", mixed.Status(), mixed.Attributes())
	}
	if none.Status().Code == codes.Error || !slices.Contains(none.Attributes(), notFound) {
		t.Errorf("none failed: %v, %v", none.Status(), none.Attributes())
	}
	got := collected(t, reader)
	for _, want := range []string{
		"operation.duration error.type=unavailable,soracache.operation=load",
		"operation.duration soracache.operation=load",
	} {
		if got[want] != 1 {
			t.Errorf("%s: %d of %v", want, got[want], got)
		}
	}
}

// Keys, and errors that may quote them, can be kept out of traces.
func TestWithoutKeys(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	h := otelsoracache.Hooks(
		otelsoracache.WithoutKeys(),
		otelsoracache.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	_, end := h.OnStart(t.Context(), client.OpLoad, "patient:42")
	end(client.Outcome{Err: errors.New("patient:42 is gone")})
	span := spans.Ended()[0]
	if span.Status().Description != "_OTHER" {
		t.Errorf("got %v", span.Status())
	}
	for _, a := range span.Attributes() {
		if strings.Contains(a.Value.AsString(), "42") {
			t.Errorf("got %v", a)
		}
	}
}

// What comes with each near hit allocates nothing.
func TestHitAllocatesNothing(t *testing.T) {
	h := otelsoracache.Hooks(otelsoracache.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))))
	if n := testing.AllocsPerRun(100, func() { h.OnHit("k", soracache.TierNear) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// The application brings its SDK.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(dep, "go.opentelemetry.io/otel/sdk") || strings.Contains(dep, "prometheus") {
			t.Errorf("imports %s", dep)
		}
	}
}

func ExampleHooks() {
	c, err := client.Dial([]string{"http://127.0.0.1:7070"}, client.WithHooks(otelsoracache.Hooks()))
	if err != nil {
		panic(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = client.GetOrSet(context.Background(), c, "product:42", func(context.Context) (string, error) {
		return "a lamp", nil
	})
}
