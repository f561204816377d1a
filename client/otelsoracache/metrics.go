package otelsoracache

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// metrics are the instruments.
type metrics struct {
	reads         *counter[result]
	refreshes     *counter[client.RefreshReason]
	discarded     *counter[string]
	failOpens     *counter[string]
	unreadable    *counter[struct{}]
	invalidations *counter[string]
	transitions   *counter[state]
	sources       *counter[sourceState]
	rejections    *counter[rejection]
	resets        *counter[struct{}]
	durations     metric.Float64Histogram
	always        []attribute.KeyValue
}

// result is what became of a read: a miss, or a base and a tier.
type result uint8

const (
	miss    result = 0
	hitIn   result = 0x10
	staleIn result = 0x20
)

// state is what a node is to this client.
type state struct {
	node string
	open bool
}

// sourceState is a state that the breaker of a source has entered.
type sourceState struct {
	source string
	state  client.SourceState
}

// rejection is why loads of a source were not run.
type rejection struct{ source, reason string }

func rejectedBy(why error) string {
	if errors.Is(why, client.ErrSourceOpen) {
		return "open"
	}
	return "busy"
}

func newMetrics(cfg config) *metrics {
	meter := cfg.meters.Meter(scope)
	return &metrics{
		reads: newCounter(meter, cfg, "reads", "{read}",
			"Reads of single keys, by what was found, and in which tier.", describeResult),
		refreshes: newCounter(meter, cfg, "refreshes", "{refresh}",
			"Values that were there and began to be loaded anew.",
			func(r client.RefreshReason) []attribute.KeyValue { return with(keyReason, r.String()) }),
		discarded: newCounter(meter, cfg, "fills.discarded", "{value}",
			"Loaded values that were returned and not stored.",
			func(reason string) []attribute.KeyValue { return with(keyReason, reason) }),
		failOpens: newCounter(meter, cfg, "fail_opens", "{call}",
			"Calls that ran their loader because the service could not answer.", ofError),
		unreadable: newCounter(meter, cfg, "unreadable", "{entry}",
			"Live entries that could not be decoded as the type that was asked for.", nothing),
		invalidations: newCounter(meter, cfg, "invalidations", "{invalidation}",
			"Invalidations that were asked of this client.", ofError),
		transitions: newCounter(meter, cfg, "node.transitions", "{transition}",
			"How often a node began to be passed over, or to be used again.", describeState),
		sources: newCounter(meter, cfg, "source.transitions", "{transition}",
			"How often the circuit breaker of a source entered a state.",
			func(s sourceState) []attribute.KeyValue {
				return append(with(keySource, s.source), keyState.String(s.state.String()))
			}),
		rejections: newCounter(meter, cfg, "source.rejections", "{load}",
			"Loads that were not run, to spare their source.",
			func(r rejection) []attribute.KeyValue {
				return append(with(keySource, r.source), keyReason.String(r.reason))
			}),
		resets: newCounter(meter, cfg, "near.resets", "{reset}",
			"How often the near cache lost track and gave up what it held.", nothing),
		durations: check(meter.Float64Histogram("soracache.client.operation.duration",
			metric.WithUnit("s"),
			metric.WithDescription("How long operations took; hits in the near cache are none."),
			metric.WithExplicitBucketBoundaries(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))),
		always: cfg.always,
	}
}

// took notes how long an operation took. The context is its own, so that a
// measurement may point to its span.
func (m *metrics) took(ctx context.Context, op client.Op, d time.Duration, err error) {
	attrs := append(with(keyOperation, string(op)), ofError(errorType(err))...)
	m.durations.Record(ctx, d.Seconds(), metric.WithAttributes(append(attrs, m.always...)...))
}

func (m *metrics) transition(node string, open bool) { m.transitions.add(state{node, open}) }

// counter counts by the values of D, whose attributes are made once for each: it
// is in the path of near hits.
type counter[D comparable] struct {
	instrument metric.Int64Counter
	describe   func(D) []attribute.KeyValue
	always     []attribute.KeyValue
	known      sync.Map // of D: []metric.AddOption
}

func newCounter[D comparable](meter metric.Meter, cfg config, name, unit, description string, describe func(D) []attribute.KeyValue) *counter[D] {
	return &counter[D]{
		instrument: check(meter.Int64Counter("soracache.client."+name, metric.WithUnit(unit), metric.WithDescription(description))),
		describe:   describe,
		always:     cfg.always,
	}
}

func (c *counter[D]) add(what D) {
	known, ok := c.known.Load(what)
	if !ok {
		set := attribute.NewSet(append(c.describe(what), c.always...)...)
		known, _ = c.known.LoadOrStore(what, []metric.AddOption{metric.WithAttributeSet(set)})
	}
	opts, _ := known.([]metric.AddOption) // there is no other
	c.instrument.Add(context.Background(), 1, opts...)
}

func describeResult(r result) []attribute.KeyValue {
	name := "hit"
	switch {
	case r == miss:
		return with(keyResult, "miss")
	case r >= staleIn:
		name = "stale"
	}
	return append(with(keyResult, name), keyTier.String(soracache.Tier(r&0xf).String()))
}

func describeState(s state) []attribute.KeyValue {
	name := "used"
	if s.open {
		name = "passed_over"
	}
	return append(with(keyAddress, s.node), keyState.String(name))
}

func ofError(kind string) []attribute.KeyValue {
	if kind == "" {
		return nil
	}
	return with(keyErrorType, kind)
}

func with(k attribute.Key, v string) []attribute.KeyValue { return []attribute.KeyValue{k.String(v)} }

func nothing(struct{}) []attribute.KeyValue { return nil }
