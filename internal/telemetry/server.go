package telemetry

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/soracache/soracache/internal/server"
)

// WatchServer says where the numbers of the node's server are. It replaces what
// was said before.
func (m *Metrics) WatchServer(stats func() server.Stats) { m.server.Store(&stats) }

// observeServer reads all numbers of a server at once, whenever metrics are asked
// for.
func (m *Metrics) observeServer(meter metric.Meter) error {
	var all []metric.Observable
	var observe []func(metric.Observer, *server.Stats)
	limit := func(of string) metric.ObserveOption { return metric.WithAttributes(attribute.String("limit", of)) }
	for _, one := range []struct {
		total
		read func(*server.Stats) int64
	}{
		{total: total{name: "soracache.inflight.size", unit: "By", gauge: true, help: "Memory that requests and answers in flight have taken."}, read: func(s *server.Stats) int64 { return s.Budget.Used }},
		{total: total{name: "soracache.inflight.peak", unit: "By", gauge: true, help: "The most that it ever was."}, read: func(s *server.Stats) int64 { return s.Budget.Highest }},
		{total: total{name: "soracache.inflight.limit", unit: "By", gauge: true, help: "The most that it may be."}, read: func(s *server.Stats) int64 { return s.Budget.Limit }},
		{total: total{name: "soracache.inflight.cuts", help: "Transfers that did not move and were ended because others needed their memory."}, read: func(s *server.Stats) int64 { return int64(s.Budget.Cuts) }}, //nolint:gosec // totals stay below 2^63
		{total: total{name: "soracache.inflight.collections", help: "Runs of the garbage collector to make room for requests."}, read: func(s *server.Stats) int64 { return int64(s.Budget.Collections) }},         //nolint:gosec // totals stay below 2^63
		{total: total{name: "soracache.requests.working", gauge: true, help: "Requests that are worked on: they have arrived, and wait for no lease."}, read: func(s *server.Stats) int64 { return s.Working }},
		{total: total{name: "soracache.requests.parked", gauge: true, help: "Reads that wait for leases."}, read: func(s *server.Stats) int64 { return s.Parked }},
		{total: total{name: "soracache.connections", gauge: true, help: "Open connections."}, read: func(s *server.Stats) int64 { return int64(s.Connections) }},
		{total: total{name: "soracache.watches", gauge: true, help: "Open watches."}, read: func(s *server.Stats) int64 { return int64(s.Watches) }},
	} {
		instrument, err := one.instrument(meter)
		if err != nil {
			return err
		}
		all = append(all, instrument)
		observe = append(observe, func(o metric.Observer, s *server.Stats) { o.ObserveInt64(instrument, one.read(s)) })
	}
	refusals, err := total{name: "soracache.limit.refusals", help: "What was refused or closed because a limit was reached, by limit."}.instrument(meter)
	if err != nil {
		return err
	}
	all = append(all, refusals)
	for of, read := range map[string]func(*server.Stats) uint64{
		"inflight_bytes": func(s *server.Stats) uint64 { return s.Budget.Refusals },
		"concurrent":     func(s *server.Stats) uint64 { return s.Refused },
		"parked":         func(s *server.Stats) uint64 { return s.ParkedRefused },
		"connections":    func(s *server.Stats) uint64 { return s.ConnectionsClosed },
		"watches":        func(s *server.Stats) uint64 { return s.WatchesRefused },
		"metrics":        func(s *server.Stats) uint64 { return s.ScrapesRefused },
		"questions":      func(s *server.Stats) uint64 { return s.QuestionsRefused },
		"headers":        func(s *server.Stats) uint64 { return s.HeadsEnded },
		"health":         func(s *server.Stats) uint64 { return s.HealthChecksEnded },
		"refusals":       func(s *server.Stats) uint64 { return s.RefusalsEnded },
		"reflection":     func(s *server.Stats) uint64 { return s.ReflectionsEnded },
	} {
		label := limit(of)
		observe = append(observe, func(o metric.Observer, s *server.Stats) {
			o.ObserveInt64(refusals, int64(read(s)), label) //nolint:gosec // totals stay below 2^63
		})
	}
	return observeAll(meter, &m.server, observe, all)
}
