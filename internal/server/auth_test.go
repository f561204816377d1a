package server_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/internal/server/auth"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// writeTokens writes a tokens file of lines, in which TOKEN(x) stands for the
// digest of x.
func writeTokens(t *testing.T, path string, lines ...string) {
	t.Helper()
	text := strings.Join(lines, "\n") + "\n"
	for {
		before, rest, found := strings.Cut(text, "TOKEN(")
		if !found {
			break
		}
		secret, after, _ := strings.Cut(rest, ")")
		sum := sha256.Sum256([]byte(secret))
		text = before + hex.EncodeToString(sum[:]) + after
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func tokensFile(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	writeTokens(t, path, lines...)
	return path
}

// one request of each procedure, in namespace shop, that a fake node answers.
var oneOfEach = map[string]string{
	"Get":        `{"namespace":"shop","key":"k"}`,
	"BatchGet":   `{"namespace":"shop","keys":["k"]}`,
	"Fill":       `{"namespace":"shop","key":"k","ttl":"1s","lease":"AQAAAAAAAAAAAAAAAAAAAA=="}`,
	"BatchFill":  `{"namespace":"shop","fills":[{"key":"k","ttl":"1s","lease":"AQAAAAAAAAAAAAAAAAAAAA=="}]}`,
	"Renew":      `{"namespace":"shop","key":"k","lease":"AQAAAAAAAAAAAAAAAAAAAA=="}`,
	"Release":    `{"namespace":"shop","key":"k","lease":"AQAAAAAAAAAAAAAAAAAAAA=="}`,
	"Set":        `{"namespace":"shop","key":"k","ttl":"1s"}`,
	"BatchSet":   `{"namespace":"shop","sets":[{"key":"k","ttl":"1s"}]}`,
	"Invalidate": `{"namespace":"shop","keys":["k"]}`,
	"ListKeys":   `{"namespace":"shop","tag":"t"}`,
	"Explain":    `{"namespace":"shop","key":"k"}`,
	"Head":       `{"namespace":"shop"}`,
	"Members":    `{}`,
	"Stats":      `{}`,
}

// TestAuthTable: every procedure with every kind of token.
func TestAuthTable(t *testing.T) {
	t.Parallel()
	path := tokensFile(t,
		"# who may do what",
		"TOKEN(r) reader read *",
		"TOKEN(w) writer write *",
		"TOKEN(i) invalidator invalidate *",
		"TOKEN(a) admin admin *",
		"TOKEN(rwi) blogger read,write,invalidate,admin blog",
		"TOKEN(shop) shopper read,write,invalidate,admin blog,shop",
	)
	s := serve(t, server.Config{AuthTokens: path}, newFakeNode(), server.Hooks{})
	scopes := map[string]string{
		"Get": "r", "BatchGet": "r", "Head": "r", "ListKeys": "r", "Explain": "r",
		"Fill": "w", "BatchFill": "w", "Renew": "w", "Release": "w", "Set": "w", "BatchSet": "w",
		"Invalidate": "i", "Members": "r", "Stats": "a",
	}
	services := soracachev1.File_soracache_v1_cache_proto.Services()
	cluster := services.ByName("ClusterService").Methods()
	unary := services.ByName("CacheService").Methods().Len() + cluster.Len() - 1 // all but Watch: see TestWatchTakesTheScopeRead
	if len(oneOfEach) != unary || len(scopes) != len(oneOfEach) {
		t.Fatalf("the table does not cover every procedure")
	}
	for procedure, body := range oneOfEach {
		path := "/soracache.v1.CacheService/" + procedure
		ofCluster := cluster.ByName(protoreflect.Name(procedure)) != nil
		if ofCluster {
			path = "/soracache.v1.ClusterService/" + procedure
		}
		for token, want := range map[string]string{
			"":      "unauthenticated",
			"wrong": "unauthenticated",
			"r":     "permission_denied",
			"w":     "permission_denied",
			"i":     "permission_denied",
			"a":     "permission_denied",
			"rwi":   "permission_denied", // another namespace
			"shop":  "",
		} {
			if token == scopes[procedure] || ofCluster && token == "rwi" {
				want = ""
			}
			header := []string{"Content-Type", "application/json"}
			if token != "" {
				header = append(header, "Authorization", "Bearer "+token)
			}
			got := s.do(t, http.MethodPost, path, body, header...)
			if got.code() != want {
				t.Errorf("%s with token %q: %d %s, want %q", procedure, token, got.status, got.body, want)
			}
			if challenge := got.header.Get("Www-Authenticate"); (challenge == "Bearer") != (want == "unauthenticated") {
				t.Errorf("%s with token %q: WWW-Authenticate is %q", procedure, token, challenge)
			}
		}
	}
}

func TestLeaseTakesTheScopeWrite(t *testing.T) {
	t.Parallel()
	path := tokensFile(t, "TOKEN(r) reader read *", "TOKEN(rw) app read,write *")
	s := serve(t, server.Config{AuthTokens: path}, newFakeNode(), server.Hooks{})
	for _, c := range [][2]string{{"Get", `{"key":"k","lease":true}`}, {"BatchGet", `{"keys":["k"],"lease":true}`}} {
		if got := s.post(t, c[0], c[1], "Authorization", "Bearer r"); got.code() != "permission_denied" {
			t.Errorf("%s: %s, want permission_denied", c[0], got.body)
		}
		if got := s.post(t, c[0], c[1], "Authorization", "Bearer rw"); got.status != 200 {
			t.Errorf("%s: %s", c[0], got.body)
		}
	}
}

// TestAuthInEveryProtocol: refusals come in the protocol of the request.
func TestAuthInEveryProtocol(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{AuthTokens: tokensFile(t, "TOKEN(r) reader read shop")}, newFakeNode(), server.Hooks{})
	overH2C := *s
	overH2C.client = h2c(t)
	for name, cache := range map[string]interface {
		Get(context.Context, *soracachev1.GetRequest) (*soracachev1.GetResponse, error)
		Invalidate(context.Context, *soracachev1.InvalidateRequest) (*soracachev1.InvalidateResponse, error)
	}{
		"connect":  s.cache(),
		"JSON":     s.cache(connect.WithProtoJSON()),
		"grpc-web": s.cache(connect.WithGRPCWeb()),
		"grpc":     overH2C.cache(connect.WithGRPC()),
	} {
		_, err := cache.Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
		if connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("%s without a token: %v", name, err)
		}
		ctx, call := connect.NewClientContext(t.Context())
		call.RequestHeader().Set("Authorization", "Bearer r")
		if _, err = cache.Invalidate(ctx, &soracachev1.InvalidateRequest{All: true}); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s of another scope: %v", name, err)
		}
		if _, err = cache.Get(ctx, &soracachev1.GetRequest{Key: "k"}); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s of another namespace: %v", name, err)
		}
		if _, err = cache.Get(ctx, &soracachev1.GetRequest{Namespace: "shop", Key: "k"}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	// The plain gRPC library, for health (open), reflection (any token) and RPCs.
	conn := dialGRPC(t, s.addr, nil)
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health: %v", err)
	}
	reflection := func(ctx context.Context) error {
		stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
		if err != nil {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		if _, err = stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	if err := reflection(t.Context()); status.Code(err) != codes.Unauthenticated {
		t.Errorf("reflection without a token: %v", err)
	}
	if err := reflection(withToken(t.Context(), "r")); err != nil {
		t.Errorf("reflection: %v", err)
	}
	err := conn.Invoke(t.Context(), "/soracache.v1.CacheService/Get", &soracachev1.GetRequest{Namespace: "shop", Key: "k"}, &soracachev1.GetResponse{})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("get without a token: %v", err)
	}
	err = conn.Invoke(withToken(t.Context(), "r"), "/soracache.v1.CacheService/Get",
		&soracachev1.GetRequest{Namespace: "shop", Key: "k"}, &soracachev1.GetResponse{})
	if err != nil {
		t.Errorf("get: %v", err)
	}
}

// tripwire is a body that must not be read.
type tripwire struct{ t *testing.T }

func (b tripwire) Read([]byte) (int, error) {
	b.t.Error("the body was read")
	return 0, io.EOF
}

func (tripwire) Close() error { return nil }

// TestRefusedBeforeTheBodyIsRead: whoever may not ask cannot make the server
// read or inflate anything.
func TestRefusedBeforeTheBodyIsRead(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	s := newServer(t, server.Config{AuthTokens: tokensFile(t, "TOKEN(r) reader read *")}, n, server.Hooks{})
	for _, contentType := range []string{"application/json", "application/proto", "application/grpc", "application/grpc-web+proto"} {
		for token, path := range map[string]string{
			"":      "/soracache.v1.CacheService/Get",
			"wrong": "/soracache.v1.CacheService/Get",
			"r":     "/soracache.v1.CacheService/Set",
			"x":     "/no/such",
		} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, path, tripwire{t})
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", contentType)
			r.Header.Set("Content-Encoding", "gzip")
			r.Header.Set("Authorization", "Bearer "+token)
			want := "16" // unauthenticated
			if token == "r" {
				want = "7" // permission_denied
			}
			got := handle(s, r)
			if got.status == http.StatusOK && got.header.Get("Grpc-Status") != want {
				t.Errorf("%s with %s: %d %v", path, contentType, got.status, got.header)
			}
		}
	}
	// Nobody learns which procedures there are without a token.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/soracache.v1.CacheService/Nope", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if got := handle(s, r); got.code() != "unauthenticated" {
		t.Errorf("an unknown procedure without a token: %s", got.body)
	}
	if n.touched() != 0 {
		t.Error("the node was asked")
	}
}

func TestOpenPages(t *testing.T) {
	t.Parallel()
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soracache_up 1\n") })
	path := tokensFile(t, "TOKEN(r) reader read *", "TOKEN(a) monitor admin *")
	free := serve(t, server.Config{AuthTokens: path}, newFakeNode(), server.Hooks{Metrics: metrics})
	guarded := serve(t, server.Config{AuthTokens: path, MetricsAuth: true}, newFakeNode(), server.Hooks{Metrics: metrics})
	none := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	for _, c := range []struct {
		s           *service
		path, token string
		status      int
	}{
		{free, "/healthz", "", 200},
		{free, "/readyz", "", 200},
		{free, "/metrics", "", 200},
		{guarded, "/healthz", "", 200},
		{guarded, "/readyz", "", 200},
		{guarded, "/metrics", "", 401},
		{guarded, "/metrics", "wrong", 401},
		{guarded, "/metrics", "r", 403},
		{guarded, "/metrics", "a", 200},
		{none, "/metrics", "", 404},
	} {
		var header []string
		if c.token != "" {
			header = []string{"Authorization", "Bearer " + c.token}
		}
		if got := c.s.do(t, http.MethodGet, c.path, "", header...); got.status != c.status {
			t.Errorf("%s with token %q: %d %s, want %d", c.path, c.token, got.status, got.body, c.status)
		}
	}
}

func TestReloadOfTokens(t *testing.T) {
	t.Parallel()
	path := tokensFile(t, "TOKEN(old) app read *")
	s := serve(t, server.Config{AuthTokens: path, ReloadEvery: -1}, newFakeNode(), server.Hooks{})
	code := func(token string) string {
		return s.post(t, "Get", `{"key":"k"}`, "Authorization", "Bearer "+token).code()
	}
	if code("old") != "" || code("new") != "unauthenticated" {
		t.Fatal("not as the file says")
	}
	writeTokens(t, path, "TOKEN(new) app read *")
	if err := s.server.Reload(); err != nil {
		t.Fatal(err)
	}
	if code("new") != "" || code("old") != "unauthenticated" {
		t.Error("the old token is still known, or the new one is not")
	}
	// A file that cannot be used changes nothing.
	writeTokens(t, path, "TOKEN(other) app read *", "secret-in-clear app read *")
	err := s.server.Reload()
	if err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v, want one that names line 2 and not its contents", err)
	}
	// Nor does one that is half written: what is there of its last line is for
	// namespace shop, which nobody has granted.
	writeTokens(t, path, "TOKEN(new) app read *", "TOKEN(other) test read shop-test")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)-len("-test\n")], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.server.Reload(); !errors.Is(err, auth.ErrCutOff) {
		t.Errorf("a file that is half written: %v", err)
	}
	if code("new") != "" || code("other") != "unauthenticated" {
		t.Error("a broken file has changed the tokens")
	}
}

// TestFilesAreWatched, in virtual time.
func TestFilesAreWatched(t *testing.T) {
	t.Parallel()
	path := tokensFile(t, "TOKEN(old) app read *")
	synctest.Test(t, func(t *testing.T) {
		var out logs
		s := newServer(t, server.Config{AuthTokens: path}, newFakeNode(), server.Hooks{Log: slog.New(slog.NewTextHandler(&out, nil))})
		listener := newPipes()
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, listener) }()
		status := func(token string) int {
			t.Helper()
			client := listener.client()
			defer client.CloseIdleConnections()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/soracache.v1.CacheService/Get", strings.NewReader(`{"key":"k"}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+token)
			response, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			return response.StatusCode
		}
		if status("old") != 200 || status("newer") != 401 {
			t.Error("not as the file says")
		}
		writeTokens(t, path, "TOKEN(newer) application read *")
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if status("newer") != 200 || status("old") != 401 {
			t.Error("the change was not seen")
		}
		time.Sleep(30 * time.Second) // without a change, nothing is read again
		writeTokens(t, path, "half a li")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if status("newer") != 200 {
			t.Error("a broken file has changed the tokens")
		}
		if log := out.String(); strings.Count(log, "reloaded") != 1 || strings.Count(log, "cannot be used") != 1 {
			t.Errorf("the log says:\n%s", log)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// TestNothingSecretIsLogged at the most talkative level.
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	var out logs
	log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
	s := serve(t, server.Config{AuthTokens: tokensFile(t, "TOKEN(sesame) ali read,write *")}, newFakeNode(), server.Hooks{Log: log})
	s.post(t, "Set", `{"key":"private-key","value":"cHJpdmF0ZS12YWx1ZQ==","ttl":"1s"}`, "Authorization", "Bearer sesame")
	s.post(t, "Set", `{"key":"private-key","value":"cHJpdmF0ZS12YWx1ZQ==","ttl":"0s"}`, "Authorization", "Bearer sesame")
	s.post(t, "Set", `{"key":"private-key"}`, "Authorization", "Bearer simsim")
	got := out.String()
	for _, secret := range []string{"sesame", "simsim", "private-key", "private-value", "cHJpdmF0ZS12YWx1ZQ"} {
		if strings.Contains(got, secret) {
			t.Errorf("the log shows %q:\n%s", secret, got)
		}
	}
	for _, part := range []string{`"procedure":"/soracache.v1.CacheService/Set"`, `"code":"ok"`, `"code":"invalid_argument"`, `"code":"unauthenticated"`, `"caller":"ali"`, `"protocol":"connect"`} {
		if !strings.Contains(got, part) {
			t.Errorf("the log lacks %s:\n%s", part, got)
		}
	}
}
