package server_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// BenchmarkBatchGet is what a request costs around the node: client, network of
// the loopback, server, tokens, for batches of 1 to 256 keys of 100 bytes.
func BenchmarkBatchGet(b *testing.B) {
	for _, size := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("keys=%d", size), func(b *testing.B) {
			n := newFakeNode()
			keys := many(size, "key-")
			for _, key := range keys {
				n.entries["default/"+key] = soracache.Write{Entry: soracache.Entry{Value: make([]byte, 100)}}
			}
			s := newServer(b, server.Config{Listen: "127.0.0.1:0"}, n, server.Hooks{})
			listener, err := s.Listen(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			served := make(chan error, 1)
			ctx, stop := context.WithCancel(context.Background())
			go func() { served <- s.Serve(ctx, listener) }()
			transport := &http.Transport{MaxIdleConnsPerHost: 64}
			cache := (&service{client: &http.Client{Transport: transport}, url: "http://" + listener.Addr().String()}).cache(
				connect.WithAcceptCompression("gzip", nil, nil)) // as the client asks
			b.ReportAllocs()
			b.SetParallelism(16)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					got, err := cache.BatchGet(b.Context(), &soracachev1.BatchGetRequest{Keys: keys})
					if err != nil || len(got.Results) != size {
						b.Errorf("%d results, error %v", len(got.GetResults()), err)
						return
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "keys/s")
			transport.CloseIdleConnections()
			stop()
			if err := <-served; err != nil {
				b.Error(err)
			}
		})
	}
}
