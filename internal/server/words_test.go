package server_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
	"github.com/soracache/soracache/l2/redis"
)

// TestCallersAreNotToldWhereTheStoreIs: whichever procedure fails, and however
// its error is carried, the answer says what is the matter and neither an address,
// nor a path, nor a script. The log has all of it.
func TestCallersAreNotToldWhereTheStoreIs(t *testing.T) {
	t.Parallel()
	var out logs
	log := slog.New(slog.NewTextHandler(&out, nil))
	redis.LogClient(log)
	absent, err := redis.Open(t.Context(), redis.Config{URL: "redis://app:hunter2@127.0.0.1:9/3", Logger: log}) // nobody is there
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	closed, err := embedded.Open(embedded.Config{Dir: dir, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for name, store := range map[string]l2.Store{"redis": absent, "embedded": closed} {
		n, err := node.New(node.Config{Store: store, Bound: 50 * time.Millisecond, Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		handler := newServer(t, server.Config{}, n, server.Hooks{Log: log}).Handler()
		ask := func(method, path, body string) string {
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			return w.Body.String()
		}
		answers := map[string]string{"readyz": ask(http.MethodGet, "/readyz", "")}
		if want := map[string]string{"redis": "the store refuses connections", "embedded": "the embedded store is not open"}[name]; answers["readyz"] != "not ready: "+want+"\n" {
			t.Errorf("%s: readyz says %q, want %q", name, answers["readyz"], want)
		}
		for procedure, body := range oneOfEach {
			service := "CacheService"
			if procedure == "Members" || procedure == "Stats" {
				service = "ClusterService"
			}
			answers[procedure] = ask(http.MethodPost, "/soracache.v1."+service+"/"+procedure, body)
		}
		said := 0
		for procedure, got := range answers {
			for _, secret := range []string{"127.0.0.1", ":9", "dial", "tcp", "app", "hunter2", dir, "evalsha", "script", ".db"} {
				if procedure != "Members" && procedure != "Stats" && strings.Contains(got, secret) {
					t.Errorf("%s, %s: callers are told of %q: %s", name, procedure, secret, got)
				}
			}
			if strings.Contains(got, "the store refuses connections") || strings.Contains(got, "the embedded store is not open") {
				said++
			}
		}
		if said < 5 {
			t.Errorf("%s: callers are not told what is the matter: %v", name, answers)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := absent.Close(); err != nil {
		t.Error(err)
	}
	if got := out.String(); !strings.Contains(got, "127.0.0.1:9") || strings.Contains(got, "hunter2") || strings.Count(got, "\n") > 20 {
		t.Errorf("the log does not have the whole, or has the password, or too much: %s", got)
	}
}

// TestWordsOfOtherStores: of an engine that has no words for callers, what the
// operating system said is kept back too.
func TestWordsOfOtherStores(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{
		&fs.PathError{Op: "open", Path: "/secret", Err: syscall.ENOENT},
		fmt.Errorf("in /secret: %w", syscall.EIO),
		l2.Unavailable(errors.New("in /secret"), "the store failed"),
	} {
		fake := newFakeNode()
		fake.onGet = func(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
			return []soracache.ReadResult{{Err: fmt.Errorf("reading: %w: %w", soracache.ErrUnavailable, cause)}}, nil
		}
		s := serve(t, server.Config{}, fake, server.Hooks{})
		for _, procedure := range []string{"Get", "BatchGet"} {
			got := s.post(t, procedure, oneOfEach[procedure])
			if strings.Contains(got.body, "secret") || !strings.Contains(got.body, "unavailable") {
				t.Errorf("%v: %s is answered %s", cause, procedure, got.body)
			}
		}
	}
}
