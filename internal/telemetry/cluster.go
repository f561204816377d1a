package telemetry

import (
	"cmp"
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/invalidation/gossip"
)

// WatchGossip says where the totals of the node's part in a cluster are. It
// replaces what was said before.
func (m *Metrics) WatchGossip(stats func() gossip.Stats) { m.gossip.Store(&stats) }

// gossipTotal is one number of gossip's, for one value of each of its labels.
type gossipTotal struct {
	labels []attribute.KeyValue
	read   func(*gossip.Stats) uint64
}

// gossipMetric is one of the metrics of gossip.
type gossipMetric struct {
	name, help string
	gauge      bool
	series     []gossipTotal
}

// single is a total without a label.
func single(read func(*gossip.Stats) uint64) []gossipTotal { return []gossipTotal{{read: read}} }

func gossipMetrics() []gossipMetric {
	return []gossipMetric{
		{name: "soracache.members", help: "Nodes of the cluster as this one knows them, by state; those that are gone for an hour.", gauge: true, series: membersByState()},
		{name: "soracache.gossip.notices", help: "Notices to and from other nodes, by what they tell and what became of them.", series: notices()},
		{name: "soracache.gossip.packets", help: "Packets of notices, by what became of them.", series: []gossipTotal{
			packets("sent", func(s *gossip.Stats) uint64 { return s.PacketsSent }),
			packets("failed", func(s *gossip.Stats) uint64 { return s.PacketsFailed }),
			packets("received", func(s *gossip.Stats) uint64 { return s.PacketsReceived }),
			packets("unknown", func(s *gossip.Stats) uint64 { return s.PacketsUnknown }),
			packets("malformed", func(s *gossip.Stats) uint64 { return s.PacketsMalformed }),
			packets("dropped", func(s *gossip.Stats) uint64 { return s.InboxDropped }),
			packets("refused", func(s *gossip.Stats) uint64 { return s.PacketsRefused }),
		}},
		{name: "soracache.gossip.connections", help: "Connections that others opened, by what became of them.", series: []gossipTotal{
			packets("opened", func(s *gossip.Stats) uint64 { return s.Streams.Opened }),
			packets("refused", func(s *gossip.Stats) uint64 { return s.Streams.Refused }),
			packets("crowded_out", func(s *gossip.Stats) uint64 { return s.Streams.Crowded }),
		}},
		{name: "soracache.gossip.connections_open", help: "Connections of others that are open.", gauge: true, series: single(func(s *gossip.Stats) uint64 { return uint64(max(s.Streams.Open, 0)) })},
		{name: "soracache.gossip.connections_held_bytes", help: "What has been read from connections that are open, or waits to be sent.", gauge: true, series: single(func(s *gossip.Stats) uint64 { return uint64(max(s.Streams.Bytes, 0)) })},
		{name: "soracache.gossip.members_refused", help: "Members that were not admitted because there were too many.", series: single(func(s *gossip.Stats) uint64 { return s.MembersRefused })},
		{name: "soracache.gossip.implausible", help: "Records that came with a position far ahead of the clock.", series: single(func(s *gossip.Stats) uint64 { return s.Implausible })},
		{name: "soracache.gossip.duplicates", help: "Notices that came again by another way.", series: single(func(s *gossip.Stats) uint64 { return s.Duplicates })},
		{name: "soracache.gossip.forwarded", help: "Notices passed on for other nodes.", series: single(func(s *gossip.Stats) uint64 { return s.Forwarded })},
		{name: "soracache.gossip.stripped", help: "Records sent without their targets, because they were too large.", series: single(func(s *gossip.Stats) uint64 { return s.Stripped })},
		{name: "soracache.gossip.conflicts", help: "Times that another node appeared under a name in use.", series: single(func(s *gossip.Stats) uint64 { return s.Conflicts })},
		{name: "soracache.gossip.waiting", help: "Packets received and not yet taken in.", gauge: true, series: single(func(s *gossip.Stats) uint64 { return uint64(max(s.Waiting, 0)) })},
	}
}

func membersByState() []gossipTotal {
	var all []gossipTotal
	for _, state := range []gossip.State{gossip.StateAlive, gossip.StateDraining, gossip.StateSuspect, gossip.StateDead, gossip.StateLeft} {
		all = append(all, gossipTotal{
			labels: []attribute.KeyValue{attribute.String("state", string(state))},
			read:   func(s *gossip.Stats) uint64 { return uint64(max(s.Members[state], 0)) },
		})
	}
	return all
}

func packets(event string, read func(*gossip.Stats) uint64) gossipTotal {
	return gossipTotal{labels: []attribute.KeyValue{attribute.String("event", event)}, read: read}
}

// notices has a series for each thing that can become of each kind.
func notices() []gossipTotal {
	var all []gossipTotal
	for event, of := range map[string]func(*gossip.Stats) *gossip.ByKind{
		"published": func(s *gossip.Stats) *gossip.ByKind { return &s.Published },
		"told":      func(s *gossip.Stats) *gossip.ByKind { return &s.Told },
		"sent":      func(s *gossip.Stats) *gossip.ByKind { return &s.Sent },
		"received":  func(s *gossip.Stats) *gossip.ByKind { return &s.Received },
		"dropped":   func(s *gossip.Stats) *gossip.ByKind { return &s.Dropped },
	} {
		for kind, read := range map[string]func(*gossip.ByKind) uint64{
			"record":  func(k *gossip.ByKind) uint64 { return k.Records },
			"freed":   func(k *gossip.ByKind) uint64 { return k.Freed },
			"applied": func(k *gossip.ByKind) uint64 { return k.Applied },
			"other":   func(k *gossip.ByKind) uint64 { return k.Other },
		} {
			all = append(all, gossipTotal{
				labels: []attribute.KeyValue{attribute.String("event", event), attribute.String("kind", kind)},
				read:   func(s *gossip.Stats) uint64 { return read(of(s)) },
			})
		}
	}
	return all
}

// observeGossip reads all totals of gossip at once, whenever metrics are asked
// for. A node without gossip has none.
func (m *Metrics) observeGossip(meter metric.Meter) error {
	var all []metric.Observable
	var observe []func(metric.Observer, *gossip.Stats)
	for _, g := range gossipMetrics() {
		instrument, err := total{name: g.name, help: g.help, gauge: g.gauge}.instrument(meter)
		if err != nil {
			return err
		}
		all = append(all, instrument)
		for _, one := range g.series {
			labels := metric.WithAttributeSet(attribute.NewSet(one.labels...))
			observe = append(observe, func(o metric.Observer, s *gossip.Stats) {
				o.ObserveInt64(instrument, int64(one.read(s)), labels) //nolint:gosec // totals stay below 2^63
			})
		}
	}
	return observeAll(meter, &m.gossip, observe, all)
}

// maxPartitionSeries is how many partitions have series of their own: those
// that were used last. The gauges over all partitions leave none out.
const maxPartitionSeries = 100

// WatchPartitions says where to learn how far the node has followed each
// ledger. It replaces what was said before.
func (m *Metrics) WatchPartitions(states func() []node.PartitionState) { m.partitions.Store(&states) }

// observePartitions tells how far the node has followed its ledgers.
func (m *Metrics) observePartitions(meter metric.Meter) error {
	applied, err := meter.Int64ObservableGauge("soracache.partition.applied",
		metric.WithDescription("The position up to which the node knows every record, in microseconds since 1970; of the 100 partitions used last."))
	if err != nil {
		return err
	}
	lag, err := meter.Float64ObservableGauge("soracache.partition.lag", metric.WithUnit("s"),
		metric.WithDescription("How far behind the highest position heard of that is; of the 100 partitions used last."))
	if err != nil {
		return err
	}
	most, err := meter.Float64ObservableGauge("soracache.partitions.lag.max", metric.WithUnit("s"),
		metric.WithDescription("The largest lag of all partitions in use."))
	if err != nil {
		return err
	}
	unconfirmed, err := meter.Int64ObservableGauge("soracache.partitions.unconfirmed",
		metric.WithDescription("Partitions read of late that are not confirmed: their reads go to L2."))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		states := m.partitions.Load()
		if states == nil {
			return nil
		}
		var worst time.Duration
		var without int64
		active := lastUsed((*states)())
		for i, p := range active {
			behind := lagOf(p)
			worst = max(worst, behind)
			if p.Eager && p.ConfirmedAgo < 0 {
				without++
			}
			if i >= maxPartitionSeries {
				continue
			}
			labels := metric.WithAttributeSet(attribute.NewSet(attribute.String("namespace", p.Namespace), attribute.Int("partition", p.Partition)))
			o.ObserveInt64(applied, int64(p.Applied), labels) //nolint:gosec // positions stay below 2^53
			o.ObserveFloat64(lag, behind.Seconds(), labels)
		}
		o.ObserveFloat64(most, worst.Seconds())
		o.ObserveInt64(unconfirmed, without)
		return nil
	}, applied, lag, most, unconfirmed)
	return err
}

// lagOf reads positions as the microseconds that they are.
func lagOf(p node.PartitionState) time.Duration {
	return time.Duration(max(p.Head, p.Applied)-p.Applied) * time.Microsecond //nolint:gosec // positions stay below 2^53
}

// lastUsed returns the partitions that are in use, the one used last first.
func lastUsed(all []node.PartitionState) []node.PartitionState {
	active := slices.DeleteFunc(all, func(p node.PartitionState) bool { return !p.Active })
	slices.SortFunc(active, func(a, b node.PartitionState) int {
		return cmp.Or(cmp.Compare(a.UsedAgo, b.UsedAgo), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Partition, b.Partition))
	})
	return active
}
