// Package telemetry turns what a node and its server do into metrics for
// Prometheus, by way of OpenTelemetry. It alone knows either library: nodes
// and servers know the hooks that it hands out, and the totals that it reads
// from them whenever it is asked for metrics.
package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"

	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/ratelog"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/invalidation/gossip"
)

// Build says what is running.
type Build struct {
	Version, Revision string
}

// Metrics are the metrics of one process. They are safe for concurrent use,
// have no goroutine, and need not be closed.
type Metrics struct {
	registry *prometheus.Registry
	// What is asked whenever metrics are; nil where there is nothing to ask.
	stats      atomic.Pointer[func() node.Stats]
	partitions atomic.Pointer[func() []node.PartitionState]
	gossip     atomic.Pointer[func() gossip.Stats]
	server     atomic.Pointer[func() server.Stats]

	rpcs      metric.Float64Histogram
	inFlight  metric.Int64UpDownCounter
	calls     metric.Float64Histogram
	waits     metric.Float64Histogram
	spreads   metric.Float64Histogram
	labelSets labelSets
}

// New returns metrics in which all node totals are absent until WatchNode says
// where they are.
func New(build Build) (*Metrics, error) {
	m := &Metrics{
		registry:  prometheus.NewRegistry(),
		labelSets: labelSets{sets: map[labels]metric.MeasurementOption{}},
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	reader, err := exporter.New(exporter.WithRegisterer(m.registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	provider := sdk.NewMeterProvider(sdk.WithReader(reader), sdk.WithExemplarFilter(exemplar.AlwaysOffFilter))
	meter := provider.Meter("github.com/soracache/soracache")
	if err := m.instruments(meter, build); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	for _, observe := range []func(metric.Meter) error{m.observeNode, m.observePartitions, m.observeGossip, m.observeServer} {
		if err := observe(meter); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

// instruments makes what is measured as it happens.
func (m *Metrics) instruments(meter metric.Meter, build Build) error {
	var err error
	m.rpcs, err = meter.Float64Histogram("soracache.rpc.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to answer an RPC, by procedure, protocol and code. Its count is the number of RPCs."),
		metric.WithExplicitBucketBoundaries(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60))
	if err != nil {
		return err
	}
	m.inFlight, err = meter.Int64UpDownCounter("soracache.rpcs.in_flight",
		metric.WithDescription("RPCs that are being answered."))
	if err != nil {
		return err
	}
	m.calls, err = meter.Float64Histogram("soracache.l2.call.duration", metric.WithUnit("s"),
		metric.WithDescription("Time of a round trip to L2, by kind and result. Its count is the number of calls."),
		metric.WithExplicitBucketBoundaries(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5))
	if err != nil {
		return err
	}
	m.waits, err = meter.Float64Histogram("soracache.wait.duration", metric.WithUnit("s"),
		metric.WithDescription("How long readers were parked behind another's lease."),
		metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60))
	if err != nil {
		return err
	}
	m.spreads, err = meter.Float64Histogram("soracache.propagation.duration", metric.WithUnit("s"),
		metric.WithDescription("Age of the records that other nodes sent when they were taken in, by the two machines' clocks."),
		metric.WithExplicitBucketBoundaries(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10))
	if err != nil {
		return err
	}
	info, err := meter.Int64Gauge("soracache.build.info", metric.WithDescription("What is running; always 1."))
	if err != nil {
		return err
	}
	info.Record(context.Background(), 1, metric.WithAttributes(
		attribute.String("version", build.Version), attribute.String("revision", build.Revision), attribute.String("go_version", runtime.Version())))
	return nil
}

// WatchNode says where the totals of the node are. It replaces what was said
// before.
func (m *Metrics) WatchNode(stats func() node.Stats) { m.stats.Store(&stats) }

// Observer returns the hooks for the node.
func (m *Metrics) Observer() node.Observer {
	return node.Observer{
		StoreCall: func(kind string, took time.Duration, err error) {
			result := "ok"
			if err != nil {
				result = "error"
			}
			m.calls.Record(context.Background(), took.Seconds(), m.labelSets.get(labels{"kind", kind, "result", result}))
		},
		WaitEnd: func(took time.Duration) { m.waits.Record(context.Background(), took.Seconds()) },
		// Clocks that differ make it negative.
		Propagated: func(took time.Duration) { m.spreads.Record(context.Background(), max(took, 0).Seconds()) },
	}
}

// Began is the server's hook for the begin of an RPC.
func (m *Metrics) Began() { m.inFlight.Add(context.Background(), 1) }

// Ended is the server's hook for the end of an RPC.
func (m *Metrics) Ended(procedure, protocol, code string, took time.Duration) {
	m.inFlight.Add(context.Background(), -1)
	m.rpcs.Record(context.Background(), took.Seconds(), m.labelSets.get(labels{
		"procedure", strings.TrimPrefix(procedure, "/"), "protocol", protocol, "code", code,
	}))
}

// Handler serves the metrics to Prometheus.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		// Whoever hangs up in the middle makes it log each line that it had to write.
		ErrorLog:      ratelog.Logger(log, slog.LevelWarn, "metrics could not be written"),
		ErrorHandling: promhttp.ContinueOnError,
	})
}

// labels are the names and values of up to three labels, in turn.
type labels [6]string

// labelSets keeps the sets of labels that were used, because making one costs
// more than to record with it. All values come from our own code, so that
// there are not many.
type labelSets struct {
	mu   sync.RWMutex
	sets map[labels]metric.MeasurementOption // guarded by mu
}

func (s *labelSets) get(l labels) metric.MeasurementOption {
	s.mu.RLock()
	set, ok := s.sets[l]
	s.mu.RUnlock()
	if ok {
		return set
	}
	var attributes []attribute.KeyValue
	for pair := range slices.Chunk(l[:], 2) {
		if pair[0] != "" {
			attributes = append(attributes, attribute.String(pair[0], pair[1]))
		}
	}
	set = metric.WithAttributeSet(attribute.NewSet(attributes...))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sets[l] = set
	return set
}
