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
	"github.com/soracache/soracache/l2/l2test"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

var _ server.Node = (*node.Node)(nil)

// serveNode runs a real node over the model store.
func serveNode(t *testing.T, cfg server.Config) (s *service, stop func() error) {
	t.Helper()
	metrics, err := telemetry.New(telemetry.Build{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(node.Config{Store: l2test.NewModel(l2test.ModelConfig{}), L1MaxBytes: 16 << 20, Observer: metrics.Observer()})
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

	// A fill that an invalidation has overtaken is not stored.
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
