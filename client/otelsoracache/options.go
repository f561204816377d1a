package otelsoracache

import (
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// An Option says what the hooks are to use.
type Option func(*config)

type config struct {
	meters  metric.MeterProvider
	tracers trace.TracerProvider
	// always is what every metric and span has.
	always []attribute.KeyValue
	noKeys bool
}

func newConfig(opts []Option) config {
	cfg := config{meters: otel.GetMeterProvider(), tracers: otel.GetTracerProvider()}
	for _, o := range opts {
		o(&cfg)
	}
	return cfg
}

// WithMeterProvider chooses where metrics go. The default is the global provider;
// one of package metric/noop does without metrics.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(c *config) { c.meters = p }
}

// WithTracerProvider chooses where spans go. The default is the global provider;
// one of package trace/noop does without spans.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(c *config) { c.tracers = p }
}

// WithAttributes has every metric and span carry these as well, such as the
// client's namespace where an application has several.
func WithAttributes(attrs ...attribute.KeyValue) Option {
	return func(c *config) { c.always = append(c.always, attrs...) }
}

// WithoutKeys leaves the keys out of spans, and the messages of errors, which may
// contain them. Metrics never have either.
func WithoutKeys() Option { return func(c *config) { c.noKeys = true } }
