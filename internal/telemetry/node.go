package telemetry

import (
	"context"
	"slices"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/soracache/soracache/internal/node"
)

// total is one running total of a node, or (a gauge) what it holds now.
type total struct {
	name, help string
	unit       string // "By" for bytes, else empty
	gauge      bool
	series     []series
}

// series is a total for one value of its label.
type series struct {
	label, value string // none, if empty
	read         func(*node.Stats) uint64
}

// one is a total without a label.
func one(read func(*node.Stats) uint64) []series { return []series{{read: read}} }

// totals are the totals of a node, under the names of OpenTelemetry: on
// /metrics a dot is an underscore, totals end in _total and sizes in _bytes.
func totals() []total { return slices.Concat(requests(), following(), tiers()) }

// requests are the totals of what callers asked for.
func requests() []total {
	return []total{
		{name: "soracache.hits", help: "Reads that found a fresh value, by tier.", series: []series{
			{"tier", "l1", func(s *node.Stats) uint64 { return s.HitsL1 }},
			{"tier", "l2", func(s *node.Stats) uint64 { return s.HitsL2 }},
		}},
		{name: "soracache.stale", help: "Reads that found a value past its TTL.", series: one(func(s *node.Stats) uint64 { return s.Stale })},
		{name: "soracache.misses", help: "Reads that found nothing live.", series: one(func(s *node.Stats) uint64 { return s.Misses })},
		{name: "soracache.unconfirmed", help: "Reads answered with what could not be confirmed, as they accepted.", series: one(func(s *node.Stats) uint64 { return s.Unconfirmed })},
		{name: "soracache.read.errors", help: "Reads that failed.", series: one(func(s *node.Stats) uint64 { return s.ReadErrors })},

		{name: "soracache.leases", help: "Leases given out.", series: one(func(s *node.Stats) uint64 { return s.Leases })},
		{name: "soracache.waits", help: "Reads parked behind another's lease.", series: one(func(s *node.Stats) uint64 { return s.Waits })},
		{name: "soracache.wait.timeouts", help: "Parked reads that ended without an answer.", series: one(func(s *node.Stats) uint64 { return s.WaitTimeouts })},
		{name: "soracache.fills", help: "Fills, by outcome.", series: []series{
			{"outcome", "stored", func(s *node.Stats) uint64 { return s.FillsStored }},
			{"outcome", "superseded", func(s *node.Stats) uint64 { return s.FillsSuperseded }},
			{"outcome", "lease_lost", func(s *node.Stats) uint64 { return s.FillsLeaseLost }},
		}},
		{name: "soracache.puts", help: "Writes without a lease.", series: one(func(s *node.Stats) uint64 { return s.Puts })},
		{name: "soracache.renewals", help: "Leases extended.", series: one(func(s *node.Stats) uint64 { return s.Renewals })},
		{name: "soracache.releases", help: "Leases handed back.", series: one(func(s *node.Stats) uint64 { return s.Releases })},
		{name: "soracache.invalidations", help: "Invalidations.", series: one(func(s *node.Stats) uint64 { return s.Invalidations })},
		{name: "soracache.invalidated.targets", help: "Keys, tags and namespaces that invalidations named.", series: one(func(s *node.Stats) uint64 { return s.InvalidatedTargets })},
	}
}

// following are the totals of reads on their way, and of ledgers followed.
func following() []total {
	return []total{
		{name: "soracache.flights", help: "Reads sent to L2, each for one or more keys.", series: one(func(s *node.Stats) uint64 { return s.Flights })},
		{name: "soracache.flight.keys", help: "Keys asked for in reads sent to L2.", series: one(func(s *node.Stats) uint64 { return s.FlightKeys })},
		{name: "soracache.flight.joins", help: "Readers that shared the read of another.", series: one(func(s *node.Stats) uint64 { return s.FlightJoins })},
		{name: "soracache.confirmations", help: "Confirmations of a partition's position.", series: one(func(s *node.Stats) uint64 { return s.Confirmations })},
		{name: "soracache.resets", help: "Times that a partition's L1 was given up for a new epoch or a lag.", series: one(func(s *node.Stats) uint64 { return s.Resets })},
		{name: "soracache.records", help: "Records of other nodes that were taken in, by how they were learned: sent by the node (gossip), or asked for (repair).", series: []series{
			{"by", "gossip", func(s *node.Stats) uint64 { return s.RecordsGossip }},
			{"by", "repair", func(s *node.Stats) uint64 { return s.RecordsRepaired }},
		}},
		{name: "soracache.gaps", help: "Records received that showed that others are missing, or another history.", series: one(func(s *node.Stats) uint64 { return s.Gaps })},
		{name: "soracache.catch_ups", help: "Questions to the ledger for what is missing.", series: one(func(s *node.Stats) uint64 { return s.Pulls })},
		{name: "soracache.acknowledged", help: "Invalidations that every node acknowledged.", series: one(func(s *node.Stats) uint64 { return s.Acked })},
		{name: "soracache.stragglers", help: "Nodes that were waited out because they did not acknowledge an invalidation.", series: one(func(s *node.Stats) uint64 { return s.Stragglers })},
		{name: "soracache.watchers", help: "Clients that follow what is recorded in a namespace.", gauge: true, series: one(func(s *node.Stats) uint64 { return uint64(max(s.Watchers, 0)) })},
		{name: "soracache.watch.items", help: "Steps that watchers were told.", series: one(func(s *node.Stats) uint64 { return s.WatchItems })},
		{name: "soracache.watch.resets", help: "Times that a watcher of a partition had to begin anew: its first time, after a new epoch, or because it was too far or too long behind.", series: one(func(s *node.Stats) uint64 { return s.WatchResets })},
		{name: "soracache.watch.overflows", help: "Times that more waited for a slow watcher of a partition than may.", series: one(func(s *node.Stats) uint64 { return s.WatchOverflows })},
		{name: "soracache.staleness.checks", help: "Hits in L1 that were checked against L2 afterwards.", series: one(func(s *node.Stats) uint64 { return s.StalenessChecked })},
		{name: "soracache.staleness.hits", help: "The same by how stale they turned out to be, each counted once: not at all (0s), up to so much, or beyond the bound.", series: staleness()},
		{name: "soracache.partitions", help: "Partitions that the node follows.", gauge: true, series: one(func(s *node.Stats) uint64 { return uint64(max(s.Partitions, 0)) })},
		{name: "soracache.namespaces.shut_out", help: "Namespaces that the node refuses now, because they have another number of partitions than it was told.", gauge: true, series: one(func(s *node.Stats) uint64 { return uint64(max(s.Refused, 0)) })},
		{name: "soracache.namespaces.forgotten", help: "Namespaces that the node stopped following because nobody used them, or others needed the room.", series: one(func(s *node.Stats) uint64 { return s.Forgotten })},
		{name: "soracache.namespaces.refused", help: "Requests refused because as many partitions were in use as the node may follow.", series: one(func(s *node.Stats) uint64 { return s.Crowded })},
		{name: "soracache.reclaimed.entries", help: "Dead entries deleted from L2.", series: one(func(s *node.Stats) uint64 { return s.Reclaimed })},
		{name: "soracache.l2.errors", help: "Calls to L2 that failed.", series: one(func(s *node.Stats) uint64 { return s.StoreErrors })},
		{name: "soracache.l2.full", help: "Whether L2 has no room for anything new (1) or has (0).", gauge: true, series: one(func(s *node.Stats) uint64 {
			if s.StoreFull {
				return 1
			}
			return 0
		})},
		{name: "soracache.l2.refusals", help: "Leases, fills and puts that L2 refused because it has no room.", series: one(func(s *node.Stats) uint64 { return s.RefusedForRoom })},
	}
}

// tiers are the totals of what L1 and L2 say of themselves.
func tiers() []total {
	return []total{
		{name: "soracache.l1.hits", help: "Lookups in L1 that found the key, live or not.", series: one(func(s *node.Stats) uint64 { return s.L1.Hits })},
		{name: "soracache.l1.misses", help: "Lookups in L1 that did not find the key.", series: one(func(s *node.Stats) uint64 { return s.L1.Misses })},
		{name: "soracache.l1.puts", help: "Entries that L1 took in.", series: one(func(s *node.Stats) uint64 { return s.L1.Puts })},
		{name: "soracache.l1.rejections", help: "Entries that L1 turned away.", series: one(func(s *node.Stats) uint64 { return s.L1.Rejections })},
		{name: "soracache.l1.evictions", help: "Entries that had to go from L1 for others.", series: one(func(s *node.Stats) uint64 { return s.L1.Evictions })},
		{name: "soracache.l1.size", help: "What L1 holds.", unit: "By", gauge: true, series: one(func(s *node.Stats) uint64 { return s.L1.Bytes })},
		{name: "soracache.l1.limit", help: "The most that L1 may hold.", unit: "By", gauge: true, series: one(func(s *node.Stats) uint64 { return s.L1.Limit })},
		{name: "soracache.l1.idle", help: "What L1 keeps out of use because its tables do not shrink.", unit: "By", gauge: true, series: one(func(s *node.Stats) uint64 { return s.L1.Idle })},
		{name: "soracache.l1.entries", help: "Entries in L1.", gauge: true, series: one(func(s *node.Stats) uint64 { return s.L1.Entries })},

		{name: "soracache.l2.round_trips", help: "Dependent round trips to L2 (embedded: transactions).", series: one(func(s *node.Stats) uint64 { return s.L2.RoundTrips })},
		{name: "soracache.l2.corrupt.entries", help: "Entries in L2 that were damaged or of another key, each read as a miss.", series: one(func(s *node.Stats) uint64 { return s.L2.Corrupt })},
		{name: "soracache.l2.epochs", help: "New epochs that this node's calls caused.", series: one(func(s *node.Stats) uint64 { return s.L2.Epochs })},
		{name: "soracache.l2.evictions", help: "Live entries that had to go from L2 for want of space (embedded).", series: one(func(s *node.Stats) uint64 { return s.L2.Evicted })},
		{name: "soracache.l2.size", help: "Bytes in use by L2 (embedded).", unit: "By", gauge: true, series: one(func(s *node.Stats) uint64 { return s.L2.Bytes })},
	}
}

// staleness has a series for each bucket of the staleness meter.
func staleness() []series {
	var all []series
	for i, bound := range node.StalenessBounds() {
		all = append(all, series{"up_to", bound.String(), func(s *node.Stats) uint64 { return s.StalenessBuckets[i] }})
	}
	return append(all, series{"up_to", "beyond_bound", func(s *node.Stats) uint64 { return s.StalenessBuckets[len(s.StalenessBuckets)-1] }})
}

// observeNode reads all totals of a node at once, whenever metrics are asked
// for.
func (m *Metrics) observeNode(meter metric.Meter) error {
	var all []metric.Observable
	var observe []func(metric.Observer, *node.Stats)
	for _, t := range totals() {
		instrument, err := t.instrument(meter)
		if err != nil {
			return err
		}
		all = append(all, instrument)
		for _, one := range t.series {
			observe = append(observe, one.observer(instrument))
		}
	}
	return observeAll(meter, &m.stats, observe, all)
}

// observeAll has one reading of the stats observed by all, whenever metrics are
// asked for. Where nobody gives stats, there are none.
func observeAll[S any](
	meter metric.Meter, source *atomic.Pointer[func() S], observe []func(metric.Observer, *S), all []metric.Observable,
) error {
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		stats := source.Load()
		if stats == nil {
			return nil
		}
		now := (*stats)()
		for _, do := range observe {
			do(o, &now)
		}
		return nil
	}, all...)
	return err
}

func (t total) instrument(meter metric.Meter) (metric.Int64Observable, error) {
	if t.gauge {
		return meter.Int64ObservableGauge(t.name, metric.WithDescription(t.help), metric.WithUnit(t.unit))
	}
	return meter.Int64ObservableCounter(t.name, metric.WithDescription(t.help), metric.WithUnit(t.unit))
}

func (s series) observer(instrument metric.Int64Observable) func(metric.Observer, *node.Stats) {
	var options []metric.ObserveOption
	if s.label != "" {
		options = append(options, metric.WithAttributeSet(attribute.NewSet(attribute.String(s.label, s.value))))
	}
	return func(o metric.Observer, stats *node.Stats) {
		o.ObserveInt64(instrument, int64(s.read(stats)), options...) //nolint:gosec // totals stay below 2^63
	}
}
