package cluster_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/cluster"
	"github.com/soracache/soracache/internal/proctest"
)

// startServer runs soracached as a process of its own, with an embedded store,
// and returns its URL.
func startServer(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	binary := filepath.Join(dir, "soracached")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", binary, "github.com/soracache/soracache/cmd/soracached").CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	proctest.Start(b, exec.Command(binary, "serve", "--listen", addr, "--l2", "embedded:"+filepath.Join(dir, "l2"), "--log-level", "error"))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		res, err := http.Get("http://" + addr + "/readyz")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return "http://" + addr
			}
		}
		if time.Now().After(deadline) {
			b.Fatalf("the server is not ready: %v", err)
		}
	}
}

const benchKeys = 10_000

// BenchmarkRemoteHit reads keys of 100 bytes that the memory of a node holds,
// a node which is a process of its own.
func BenchmarkRemoteHit(b *testing.B) {
	url := startServer(b)
	backend, end, err := cluster.Dial(cluster.Config{URLs: []string{url}, Log: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	defer end()
	for i := range benchKeys {
		_, err := backend.Write(b.Context(), soracache.WriteRequest{Namespace: "default", Writes: []soracache.Write{{
			Op: soracache.OpPut, Key: "key:" + strconv.Itoa(i), Lifetime: soracache.Lifetime{TTL: time.Hour},
			Entry: soracache.Entry{Value: make([]byte, 100), Encoding: "raw"},
		}}})
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, callers := range []int{1, 128, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			readAll(b, backend, callers)
		})
	}
}

// readAll has so many callers read b.N keys.
func readAll(b *testing.B, backend soracache.Backend, callers int) {
	b.Helper()
	keys := make([]string, benchKeys)
	for i := range keys {
		keys[i] = "key:" + strconv.Itoa(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
				ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
				rs, err := backend.Get(ctx, soracache.GetRequest{Namespace: "default", Reads: []soracache.Read{{Key: keys[i%benchKeys], Lease: true}}})
				cancel()
				if err != nil || rs[0].Status != soracache.StatusHit {
					b.Errorf("read %d: %v, %v", i, rs, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "keys/s")
}
