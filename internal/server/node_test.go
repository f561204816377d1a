package server_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/internal/telemetry"
	"github.com/soracache/soracache/l2/l2model"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

var _ server.Node = (*node.Node)(nil)

// serveNode runs a real node over the model store.
func serveNode(t *testing.T, cfg server.Config) (s *service, stop func() error) {
	t.Helper()
	metrics, err := telemetry.New(telemetry.Build{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(node.Config{Store: l2model.New(l2model.Config{}), L1MaxBytes: 16 << 20, Observer: metrics.Observer()})
	if err != nil {
		t.Fatal(err)
	}
	metrics.WatchNode(n.Stats)
	cfg.Listen = "127.0.0.1:0"
	srv := newServer(t, cfg, n, server.Hooks{
		Began: metrics.Began, Ended: metrics.Ended, Totals: metrics.Totals, Metrics: metrics.Handler(textLog(&logs{})),
	})
	listener, err := srv.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, listener) }()
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	addr := listener.Addr().String()
	s = &service{server: srv, addr: addr, url: "http://" + addr, client: &http.Client{Transport: transport}}
	return s, func() error { cancel(); return <-served }
}

// TestRealNode: what the documentation promises, over a real node.
func TestRealNode(t *testing.T) {
	t.Parallel()
	s, stop := serveNode(t, server.Config{})
	cache := s.cache()
	get := func(r *soracachev1.GetRequest) *soracachev1.GetResponse {
		t.Helper()
		r.Namespace = "shop"
		got, err := cache.Get(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if _, err := cache.Set(t.Context(), &soracachev1.SetRequest{Namespace: "shop", Key: "k", Value: []byte("hi"), Tags: []string{"t"}, Ttl: seconds(300)}); err != nil {
		t.Fatal(err)
	}
	if got := get(&soracachev1.GetRequest{Key: "k"}); got.Status != soracachev1.Status_STATUS_HIT || string(got.Value) != "hi" || len(got.Stamp) == 0 {
		t.Errorf("get: %v", got)
	}
	keys, err := cache.ListKeys(t.Context(), &soracachev1.ListKeysRequest{Namespace: "shop", Tag: "t"})
	if err != nil || !slices.Equal(keys.Keys, []string{"k"}) {
		t.Errorf("keys: %v, error %v", keys, err)
	}

	// A fill that an invalidation has superseded is not stored.
	leased := get(&soracachev1.GetRequest{Key: "cold", Lease: true})
	if leased.Status != soracachev1.Status_STATUS_MISS || len(leased.Lease) != 16 {
		t.Fatalf("get with a lease: %v", leased)
	}
	invalidated, err := cache.Invalidate(t.Context(), &soracachev1.InvalidateRequest{Namespace: "shop", Tags: []string{"t"}})
	if err != nil {
		t.Fatal(err)
	}
	filled, err := cache.Fill(t.Context(), &soracachev1.FillRequest{Namespace: "shop", Key: "cold", Lease: leased.Lease, Tags: []string{"t"}, Ttl: seconds(60)})
	if err != nil || filled.Stored || filled.Reason != soracachev1.Reason_REASON_SUPERSEDED || !slices.Equal(filled.SupersededBy, []string{"tag:t"}) {
		t.Errorf("late fill: %v, error %v", filled, err)
	}
	if got := get(&soracachev1.GetRequest{Key: "k", MinStamp: invalidated.Stamp}); got.Status != soracachev1.Status_STATUS_MISS {
		t.Errorf("get after the invalidation: %v", got)
	}
	explained, err := cache.Explain(t.Context(), &soracachev1.ExplainRequest{Namespace: "shop", Key: "k"})
	if err != nil || explained.Status != soracachev1.Status_STATUS_MISS || explained.Reason == "" {
		t.Errorf("explain: %v, error %v", explained, err)
	}

	stats := s.do(t, http.MethodPost, "/soracache.v1.ClusterService/Stats", "{}", "Content-Type", "application/json")
	if !strings.Contains(stats.body, `"soracache_fills_total{outcome=\"superseded\"}":1`) {
		t.Errorf("stats: %s", stats.body)
	}
	page := s.do(t, http.MethodGet, "/metrics", "")
	for _, line := range []string{`soracache_fills_total{outcome="superseded"} 1`, `soracache_l2_call_duration_seconds_count{kind="invalidate",result="ok"} 1`} {
		if !strings.Contains(page.body, line) {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	schemas(t, cache)
	s.client.CloseIdleConnections()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestRealDrain: a reader that is parked behind somebody's lease is answered
// with a miss when the node leaves, long before its wait is over.
func TestRealDrain(t *testing.T) {
	t.Parallel()
	s, stop := serveNode(t, server.Config{})
	cache := s.cache()
	if _, err := cache.Get(t.Context(), &soracachev1.GetRequest{Key: "k", Lease: true, LeaseFor: seconds(60)}); err != nil {
		t.Fatal(err)
	}
	parked := make(chan error, 1)
	began := time.Now()
	go func() {
		got, err := cache.Get(t.Context(), &soracachev1.GetRequest{Key: "k", Lease: true, Wait: seconds(60)})
		if err == nil && (got.Status != soracachev1.Status_STATUS_MISS || len(got.Lease) != 0) {
			t.Errorf("parked get: %v", got)
		}
		parked <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		page := s.do(t, http.MethodGet, "/metrics", "")
		if strings.Contains(page.body, "soracache_waits_total 1") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the reader was not parked")
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := <-parked; err != nil {
		t.Errorf("parked get: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the drain took %s", took)
	}
}

// schemas has values in several schemas of one key.
func schemas(t *testing.T, cache rpc.CacheServiceClient) {
	t.Helper()
	ctx := t.Context()
	get := func(schema, want string) []byte {
		t.Helper()
		one, err := cache.Get(ctx, &soracachev1.GetRequest{Key: "order", Schema: schema, Lease: true})
		if err != nil || string(one.Value) != want || one.InSchema != (schema != "") {
			t.Errorf("get in %q: %v, error %v", schema, one, err)
		}
		many, err := cache.BatchGet(ctx, &soracachev1.BatchGetRequest{Keys: []string{"order", "none"}, Schema: schema})
		if err != nil || string(many.Results[0].Value) != want || len(many.Results[1].Value) > 0 || many.InSchema != (schema != "") {
			t.Errorf("batch in %q: %v, error %v", schema, many, err)
		}
		x, err := cache.Explain(ctx, &soracachev1.ExplainRequest{Key: "order", Schema: schema})
		if err != nil || x.L2.Live != (want != "") {
			t.Errorf("explain in %q: %v, error %v", schema, x, err)
		}
		return one.GetLease()
	}
	for _, schema := range []string{"", "order/1", "order/2"} {
		lease := get(schema, "")
		if renewed, err := cache.Renew(ctx, &soracachev1.RenewRequest{Key: "order", Schema: schema, Lease: lease}); err != nil || !renewed.Held {
			t.Errorf("renew in %q: %v, error %v", schema, renewed, err)
		}
		fill := &soracachev1.FillRequest{Key: "order", Schema: schema, Lease: lease, Value: []byte("of " + schema), Tags: []string{"o"}, Ttl: seconds(300)}
		if schema == "" {
			if filled, err := cache.Fill(ctx, fill); err != nil || !filled.Stored {
				t.Errorf("fill: %v, error %v", filled, err)
			}
		} else if filled, err := cache.BatchFill(ctx, &soracachev1.BatchFillRequest{Fills: []*soracachev1.FillRequest{fill}}); err != nil || !filled.Results[0].Stored {
			t.Errorf("fill in %q: %v, error %v", schema, filled, err)
		}
	}
	for _, schema := range []string{"", "order/1", "order/2"} {
		get(schema, "of "+schema)
	}
	if keys, err := cache.ListKeys(ctx, &soracachev1.ListKeysRequest{Tag: "o"}); err != nil || !slices.Equal(slices.Compact(keys.Keys), []string{"order"}) {
		t.Errorf("keys: %v, error %v", keys, err)
	}
	if _, err := cache.Set(ctx, &soracachev1.SetRequest{Key: "order", Schema: "order/3", Value: []byte("set"), Ttl: seconds(300)}); err != nil {
		t.Error(err)
	}
	get("order/3", "set")
	lease := get("order/1", "")
	if released, err := cache.Release(ctx, &soracachev1.ReleaseRequest{Key: "order", Schema: "order/1", Lease: lease}); err != nil || !released.Released {
		t.Errorf("release: %v, error %v", released, err)
	}
	get("order/2", "")
	get("", "")
	if _, err := cache.Invalidate(ctx, &soracachev1.InvalidateRequest{Keys: []string{"order"}}); err != nil {
		t.Error(err)
	}
	get("order/3", "")
}
