package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/check"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/l2/l2test"
)

// Two nodes over one model, hammered at random. Engines are held to the same
// in internal/verify.
func TestNothingStaleUnderLoad(t *testing.T) {
	model := l2test.NewModel(l2test.ModelConfig{})
	var backends []soracache.Backend
	for range 2 {
		n, err := node.New(node.Config{Store: model, Bound: 50 * time.Millisecond, L1MaxBytes: 1 << 20, Partitions: func(string) int { return 2 }})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		backends = append(backends, n)
	}
	report := check.Run(context.Background(), backends, check.Options{
		Goroutines: 64, Operations: 50_000, Keys: 24, Seed: 1,
		Bound: 50 * time.Millisecond, Wait: 50 * time.Millisecond,
	})
	t.Log(report)
	for _, v := range report.Violations {
		t.Error(v)
	}
	for k := range report.Overlapped {
		if report.Overlapped[k] < 20 {
			t.Errorf("only %d fills overlapped an invalidation by %s", report.Overlapped[k], check.Kind(k))
		}
	}
}
