package server_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// dialGRPC returns a connection of the plain gRPC library, which shares no code
// with the server.
func dialGRPC(t *testing.T, addr string, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// exercise sets and gets over gRPC.
func exercise(t *testing.T, conn *grpc.ClientConn, options ...grpc.CallOption) {
	t.Helper()
	value := []byte(strings.Repeat("soracache ", 10_000))
	var set soracachev1.SetResponse
	err := conn.Invoke(t.Context(), "/soracache.v1.CacheService/Set",
		&soracachev1.SetRequest{Namespace: "shop", Key: "k", Value: value, Ttl: seconds(60)}, &set, options...)
	if err != nil || len(set.Stamp) == 0 {
		t.Fatalf("set: %v, error %v", &set, err)
	}
	var got soracachev1.GetResponse
	err = conn.Invoke(t.Context(), "/soracache.v1.CacheService/Get", &soracachev1.GetRequest{Namespace: "shop", Key: "k"}, &got, options...)
	if err != nil || got.Status != soracachev1.Status_STATUS_HIT || string(got.Value) != string(value) {
		t.Fatalf("get: %v of %d bytes, error %v", got.Status, len(got.Value), err)
	}
}

func TestPlainGRPC(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	conn := dialGRPC(t, s.addr, nil)
	exercise(t, conn)
	exercise(t, conn, grpc.UseCompressor(gzip.Name))

	for _, c := range []struct {
		method  string
		request *soracachev1.GetRequest
		want    codes.Code
	}{
		{"/soracache.v1.CacheService/Get", &soracachev1.GetRequest{}, codes.InvalidArgument},
		{"/soracache.v1.CacheService/Obliterate", &soracachev1.GetRequest{Key: "k"}, codes.Unimplemented},
		{"/soracache.v9.CacheService/Get", &soracachev1.GetRequest{Key: "k"}, codes.Unimplemented},
	} {
		err := conn.Invoke(t.Context(), c.method, c.request, &soracachev1.GetResponse{})
		if status.Code(err) != c.want {
			t.Errorf("%s: error %v, want %s", c.method, err, c.want)
		}
	}
}

func TestGRPCHealth(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	down := make(chan struct{})
	n.onReady = func(context.Context) error {
		select {
		case <-down:
			return errors.New("dial tcp 10.1.2.3:6379: refused")
		default:
			return nil
		}
	}
	s := serve(t, server.Config{}, n, server.Hooks{})
	health := healthpb.NewHealthClient(dialGRPC(t, s.addr, nil))
	check := func(service string) healthpb.HealthCheckResponse_ServingStatus {
		t.Helper()
		got, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return got.Status
	}
	services := []string{"", "soracache.v1.CacheService", "soracache.v1.ClusterService"}
	for _, service := range services {
		if got := check(service); got != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q is %v", service, got)
		}
	}
	if _, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown service: error %v, want NotFound", err)
	}
	close(down)
	// What a server was told is remembered for half a second: another one asks.
	s = serve(t, server.Config{}, n, server.Hooks{})
	health = healthpb.NewHealthClient(dialGRPC(t, s.addr, nil))
	for _, service := range services {
		if got := check(service); got != healthpb.HealthCheckResponse_NOT_SERVING {
			t.Errorf("%q is %v", service, got)
		}
	}
	stream, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("Watch: error %v, want Unimplemented, upon which clients take the service as healthy", err)
	}
}

func TestGRPCReflection(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	conn := dialGRPC(t, s.addr, nil)
	want := []string{"grpc.health.v1.Health", "soracache.v1.CacheService", "soracache.v1.ClusterService"}

	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}
	listed, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, service := range listed.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	if slices.Sort(names); !slices.Equal(names, want) {
		t.Errorf("services %v, want %v", names, want)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "soracache.v1.CacheService.Get"},
	}); err != nil {
		t.Fatal(err)
	}
	file, err := stream.Recv()
	if err != nil || len(file.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("descriptor of Get: %v, error %v", file, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}

	// Older tools speak v1alpha: here the frame of list_services by hand.
	overH2C := *s
	overH2C.client = h2c(t)
	old := overH2C.do(t, http.MethodPost, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
		string(grpcFrame(0, []byte{0x3a, 0})), "Content-Type", "application/grpc")
	for _, name := range want {
		if !strings.Contains(old.body, name) {
			t.Errorf("v1alpha does not list %s: %q", name, old.body)
		}
	}
}

// TestAllProtocolsAndCodecs: the same request over everything that is spoken.
func TestAllProtocolsAndCodecs(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	overH2C := *s
	overH2C.client = h2c(t)
	for name, c := range map[string]struct {
		service *service
		options []connect.ClientOption
	}{
		"connect proto":           {s, nil},
		"connect JSON":            {s, []connect.ClientOption{connect.WithProtoJSON()}},
		"connect JSON, gzip":      {s, []connect.ClientOption{connect.WithProtoJSON(), connect.WithSendGzip()}},
		"connect over h2c":        {&overH2C, nil},
		"gRPC":                    {&overH2C, []connect.ClientOption{connect.WithGRPC()}},
		"gRPC JSON":               {&overH2C, []connect.ClientOption{connect.WithGRPC(), connect.WithProtoJSON()}},
		"gRPC, gzip":              {&overH2C, []connect.ClientOption{connect.WithGRPC(), connect.WithSendGzip()}},
		"gRPC-Web over HTTP/1.1":  {s, []connect.ClientOption{connect.WithGRPCWeb()}},
		"gRPC-Web over h2c":       {&overH2C, []connect.ClientOption{connect.WithGRPCWeb()}},
		"gRPC-Web of JSON, gzip":  {s, []connect.ClientOption{connect.WithGRPCWeb(), connect.WithProtoJSON(), connect.WithSendGzip()}},
		"connect proto with gzip": {s, []connect.ClientOption{connect.WithSendGzip()}},
	} {
		cache := c.service.cache(c.options...)
		value := []byte(strings.Repeat(name, 1000))
		if _, err := cache.Set(t.Context(), &soracachev1.SetRequest{Key: "k", Value: value, Ttl: seconds(1)}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := cache.Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
		if err != nil || string(got.Value) != string(value) {
			t.Errorf("%s: %v, error %v", name, got, err)
		}
		_, err = cache.Get(t.Context(), &soracachev1.GetRequest{})
		wantCode(t, err, connect.CodeInvalidArgument)
	}
}

// withToken adds a bearer token to what a gRPC client sends.
func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}
