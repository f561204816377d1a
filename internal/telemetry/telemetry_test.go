package telemetry_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/internal/telemetry"
	"github.com/soracache/soracache/invalidation/gossip"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newMetrics(t testing.TB) *telemetry.Metrics {
	t.Helper()
	m, err := telemetry.New(telemetry.Build{Version: "v1.2.3", Revision: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// scrape returns what Prometheus would be given.
func scrape(t *testing.T, m *telemetry.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("status %d, error %v: %s", w.Code, err, body)
	}
	return string(body)
}

// exercised returns metrics of which every one has a value. Each number of the
// node's statistics is another one, from 1,001 on.
func exercised(t *testing.T) (*telemetry.Metrics, int) {
	t.Helper()
	m := newMetrics(t)
	var stats node.Stats
	n := number(reflect.ValueOf(&stats).Elem(), 1000)
	m.WatchNode(func() node.Stats { return stats })
	var spread gossip.Stats
	n = number(reflect.ValueOf(&spread).Elem(), n)
	spread.Members = map[gossip.State]int{}
	for _, state := range []gossip.State{gossip.StateAlive, gossip.StateSuspect, gossip.StateDraining, gossip.StateDead, gossip.StateLeft} {
		n++
		spread.Members[state] = n
	}
	m.WatchGossip(func() gossip.Stats { return spread })
	var served server.Stats
	n = number(reflect.ValueOf(&served).Elem(), n)
	m.WatchServer(func() server.Stats { return served })
	m.WatchPartitions(func() []node.PartitionState {
		return []node.PartitionState{{Namespace: "shop", Partition: 3, Applied: 1_700_000_000_000_000, Head: 1_700_000_000_250_000, Active: true}}
	})
	m.Began()
	m.Began()
	m.Ended("/soracache.v1.CacheService/Get", "grpc", "ok", 3*time.Millisecond)
	o := m.Observer()
	o.StoreCall("read", time.Millisecond, nil)
	o.StoreCall("read", time.Millisecond, errors.New("down"))
	o.WaitEnd(time.Second)
	o.Propagated(700 * time.Microsecond)
	o.Propagated(-time.Second)
	return m, n - 1000
}

// number sets each number of a struct to one more than the one before.
func number(v reflect.Value, n int) int {
	for i := range v.NumField() {
		switch field := v.Field(i); {
		case field.Kind() == reflect.Struct:
			n = number(field, n)
		case field.Kind() == reflect.Array:
			for j := range field.Len() {
				n++
				field.Index(j).SetUint(uint64(n))
			}
		case field.CanUint():
			n++
			field.SetUint(uint64(n))
		case field.CanInt():
			n++
			field.SetInt(int64(n))
		}
	}
	return n
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m, _ := exercised(t)
	text := scrape(t, m)
	for _, line := range []string{
		`soracache_hits_total{tier="l1"} 1001`,
		`soracache_hits_total{tier="l2"} 1002`,
		`soracache_fills_total{outcome="superseded"} `,
		`soracache_l1_size_bytes `,
		`soracache_partitions `,
		`soracache_rpc_duration_seconds_count{code="ok",procedure="soracache.v1.CacheService/Get",protocol="grpc"} 1`,
		`soracache_rpc_duration_seconds_bucket{code="ok",procedure="soracache.v1.CacheService/Get",protocol="grpc",le="0.0025"} 0`,
		`soracache_rpc_duration_seconds_bucket{code="ok",procedure="soracache.v1.CacheService/Get",protocol="grpc",le="0.005"} 1`,
		`soracache_rpcs_in_flight 1`,
		`soracache_l2_call_duration_seconds_count{kind="read",result="error"} 1`,
		`soracache_wait_duration_seconds_sum 1`,
		`soracache_propagation_duration_seconds_count 2`,
		`soracache_propagation_duration_seconds_bucket{le="0.0001"} 1`,
		`soracache_propagation_duration_seconds_bucket{le="0.001"} 2`,
		`soracache_partition_applied{namespace="shop",partition="3"} 1.7e+15`,
		`soracache_partition_lag_seconds{namespace="shop",partition="3"} 0.25`,
		`soracache_partitions_lag_max_seconds 0.25`,
		`soracache_partitions_unconfirmed 0`,
		`soracache_members{state="alive"} `,
		`soracache_gossip_notices_total{event="sent",kind="record"} `,
		`soracache_gossip_packets_total{event="dropped"} `,
		`soracache_staleness_hits_total{up_to="0s"} `,
		`soracache_staleness_hits_total{up_to="100ms"} `,
		`soracache_staleness_hits_total{up_to="beyond_bound"} `,
		`soracache_build_info{go_version="go`,
		`revision="abc",version="v1.2.3"} 1`,
		"# TYPE soracache_hits_total counter",
		"# TYPE soracache_l1_size_bytes gauge",
		"# TYPE soracache_rpc_duration_seconds histogram",
		"go_goroutines ",
		"process_start_time_seconds ",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if strings.Contains(text, "otel_scope") || strings.Contains(text, "target_info") {
		t.Error("the metrics have labels that nobody asked for")
	}
}

// Every number that a node tells of itself is a metric, so that a new one
// cannot be forgotten.
func TestEveryStatisticIsAMetric(t *testing.T) {
	t.Parallel()
	m, n := exercised(t)
	totals := m.Totals()
	for i := 1001; i <= 1000+n; i++ {
		if !slices.Contains(values(totals), float64(i)) {
			t.Errorf("number %d of the statistics is no metric", i-1000)
		}
	}
}

func values(totals map[string]float64) []float64 {
	var all []float64
	for _, v := range totals {
		all = append(all, v)
	}
	return all
}

// The totals of ClusterService.Stats have the names and values of /metrics.
func TestTotalsAgreeWithMetrics(t *testing.T) {
	t.Parallel()
	m, _ := exercised(t)
	lines := map[string]bool{}
	for line := range strings.Lines(scrape(t, m)) {
		name, _, _ := strings.Cut(line, "} ")
		if strings.Contains(name, "{") {
			name += "}"
		} else {
			name, _, _ = strings.Cut(line, " ")
		}
		if strings.HasPrefix(name, "soracache_") && !strings.Contains(name, "_bucket{") {
			lines[name] = true
		}
	}
	totals := m.Totals()
	for name := range totals {
		if !lines[name] {
			t.Errorf("%s is not on /metrics", name)
		}
	}
	if len(totals) != len(lines) || len(totals) < 40 {
		t.Errorf("%d totals, %d on /metrics", len(totals), len(lines))
	}
	if totals[`soracache_rpc_duration_seconds_count{code="ok",procedure="soracache.v1.CacheService/Get",protocol="grpc"}`] != 1 {
		t.Errorf("totals %v", totals)
	}
}

// The operator's page names every metric.
func TestEveryMetricIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	m, _ := exercised(t)
	for line := range strings.Lines(scrape(t, m)) {
		name, isType := strings.CutPrefix(line, "# TYPE soracache_")
		if !isType {
			continue
		}
		name, _, _ = strings.Cut(name, " ")
		if !strings.Contains(string(page), "`soracache_"+name) {
			t.Errorf("docs/operations.md does not name soracache_%s", name)
		}
	}
}

// Of many partitions those used last have series of their own, and the gauges
// over all leave none out that is in use.
func TestPartitionSeriesAreBounded(t *testing.T) {
	t.Parallel()
	m := newMetrics(t)
	m.WatchPartitions(func() []node.PartitionState {
		var all []node.PartitionState
		for i := range 1000 {
			all = append(all, node.PartitionState{
				Namespace: "shop", Partition: i, Applied: 5, Head: 5 + soracache.Position(i), Active: i < 900,
				UsedAgo: time.Duration(1000-i) * time.Second, ConfirmedAgo: time.Duration(i%2) - 1, Eager: true,
			})
		}
		return all
	})
	totals := m.Totals()
	count := 0
	for name := range totals {
		if strings.HasPrefix(name, "soracache_partition_lag_seconds{") {
			count++
		}
	}
	if count != 100 {
		t.Errorf("%d series", count)
	}
	for name, want := range map[string]bool{"899": true, "800": true, "799": false, "900": false} {
		if _, ok := totals[`soracache_partition_applied{namespace="shop",partition="`+name+`"}`]; ok != want {
			t.Errorf("partition %s: %v", name, ok)
		}
	}
	if totals["soracache_partitions_lag_max_seconds"] != 899e-6 || totals["soracache_partitions_unconfirmed"] != 450 {
		t.Errorf("lag %v, unconfirmed %v", totals["soracache_partitions_lag_max_seconds"], totals["soracache_partitions_unconfirmed"])
	}
}

// Without a node there are no totals of one, and nothing fails.
func TestWithoutNode(t *testing.T) {
	t.Parallel()
	m := newMetrics(t)
	if text := scrape(t, m); strings.Contains(text, "soracache_hits_total") || strings.Contains(text, "soracache_members") ||
		strings.Contains(text, "soracache_partition") || !strings.Contains(text, "soracache_build_info") {
		t.Error(text)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	m := newMetrics(t)
	m.WatchNode(func() node.Stats { return node.Stats{} })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				m.Began()
				m.Ended("/p", "connect", "ok", time.Millisecond)
			}
			m.Totals()
		})
	}
	all.Wait()
	totals := m.Totals()
	if totals[`soracache_rpc_duration_seconds_count{code="ok",procedure="p",protocol="connect"}`] != 800 || totals["soracache_rpcs_in_flight"] != 0 {
		t.Errorf("totals %v", totals)
	}
}

func BenchmarkEnded(b *testing.B) {
	m := newMetrics(b)
	b.ReportAllocs()
	for b.Loop() {
		m.Ended("/soracache.v1.CacheService/Get", "connect", "ok", time.Millisecond)
	}
}

// hungUp is a caller that has gone once it has been sent something.
type hungUp struct{ http.ResponseWriter }

func (hungUp) Write([]byte) (int, error) { return 0, errors.New("write tcp: broken pipe") }

// TestAbortedScrapes: callers that hang up in the middle of metrics do not fill the
// log.
func TestAbortedScrapes(t *testing.T) {
	var out bytes.Buffer
	m, err := telemetry.New(telemetry.Build{})
	if err != nil {
		t.Fatal(err)
	}
	h := m.Handler(slog.New(slog.NewTextHandler(&out, nil)))
	for range 200 {
		h.ServeHTTP(hungUp{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	}
	if lines := strings.Count(out.String(), "\n"); lines != 1 {
		t.Errorf("%d lines: %.500s", lines, out.String())
	}
}
