package telemetry

import (
	"fmt"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// Totals returns our own metrics (not those of the Go runtime and the process)
// under their names on /metrics, labels included. Of a histogram there are its
// count and its sum.
func (m *Metrics) Totals() map[string]float64 {
	families, _ := m.registry.Gather() // what could be gathered, it returns
	all := map[string]float64{}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "soracache_") {
			continue
		}
		for _, one := range family.GetMetric() {
			labels := labelText(one.GetLabel())
			switch {
			case one.Counter != nil:
				all[family.GetName()+labels] = one.GetCounter().GetValue()
			case one.Gauge != nil:
				all[family.GetName()+labels] = one.GetGauge().GetValue()
			case one.Histogram != nil:
				all[family.GetName()+"_count"+labels] = float64(one.GetHistogram().GetSampleCount())
				all[family.GetName()+"_sum"+labels] = one.GetHistogram().GetSampleSum()
			}
		}
	}
	return all
}

func labelText(pairs []*dto.LabelPair) string {
	if len(pairs) == 0 {
		return ""
	}
	var b strings.Builder
	for i, pair := range pairs {
		b.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(&b, "%s=%q", pair.GetName(), pair.GetValue())
	}
	return b.String() + "}"
}
