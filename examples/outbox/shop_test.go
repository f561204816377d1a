package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/outbox"
	"github.com/soracache/soracache/internal/proctest"
)

// soracached is where TestMain has put the server.
var soracached string

func TestMain(m *testing.M) {
	if os.Getenv("OUTBOX_CHILD") != "" {
		child()
		return
	}
	goleak.VerifyTestMain(withServer{m})
}

type withServer struct{ *testing.M }

func (m withServer) Run() int {
	dir, err := os.MkdirTemp("", "outbox")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	soracached = filepath.Join(dir, "soracached")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", soracached, "./cmd/soracached")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.M.Run()
}

// serve starts a server and returns its URL.
func serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	out := &proctest.Output{}
	cmd := exec.Command(soracached, "serve", "--listen", address, "--l2", "embedded:"+t.TempDir())
	cmd.Stdout, cmd.Stderr = out, out
	p := proctest.Start(t, cmd)
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		res, err := web.Get("http://" + address + "/readyz")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return "http://" + address
			}
		}
		if !p.Running() || time.Now().After(deadline) {
			t.Fatalf("the server does not answer: %v\n%s", err, out)
		}
	}
}

func open(t *testing.T, file, cache string, opts ...client.DialOption) *shop {
	t.Helper()
	s, err := openShop(t.Context(), file, cache, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestShop(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), serve(t))
	web := handler(s)
	ask := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		web.ServeHTTP(w, httptest.NewRequest(method, path, nil).WithContext(t.Context()))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	expect := func(method, path string, code int, body string) {
		t.Helper()
		if c, b := ask(method, path); c != code || b != body {
			t.Errorf("%s %s: %d %q, want %d %q", method, path, c, b, code, body)
		}
	}
	expect("GET", "/prices/7", 200, "100")
	if _, err := s.db.Exec("UPDATE product SET cents = 1 WHERE id = 7"); err != nil {
		t.Fatal(err)
	}
	expect("GET", "/prices/7", 200, "100") // so it was cached
	expect("PUT", "/prices/7?cents=250", 200, "")
	expect("GET", "/prices/7", 200, "250")
	if code, _ := ask("PUT", "/prices/99?cents=250"); code != 500 {
		t.Errorf("a product that is not there: %d", code)
	}
}

// While the cache is down, changes go on. What they owe it is paid once it is
// back.
func TestCacheIsDown(t *testing.T) {
	file, url := filepath.Join(t.TempDir(), "shop.db"), serve(t)
	s, down := open(t, file, url), open(t, file, "http://127.0.0.1:1", client.Logger(nil))
	if p, err := s.price(t.Context(), "1"); p != 100 || err != nil {
		t.Fatal(p, err)
	}
	if told, err := down.setPrice(t.Context(), "1", 300); told || err != nil {
		t.Errorf("told %t, %v", told, err)
	}
	if b, err := down.box.Backlog(t.Context()); b != (outbox.Backlog{Waiting: 1}) || err != nil {
		t.Errorf("backlog %v, %v", b, err)
	}
	if p, _ := s.price(t.Context(), "1"); p != 100 {
		t.Errorf("price %d: the cache was down and knew of the change", p)
	}
	if err := s.box.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if p, _ := s.price(t.Context(), "1"); p != 300 {
		t.Errorf("price %d", p)
	}
}

// The outbox's statements on a real database.
func TestOutboxOnSQLite(t *testing.T) {
	ctx := t.Context()
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), serve(t))
	if err := s.box.Create(ctx); err != nil {
		t.Errorf("to create it once more: %v", err)
	}
	change := func(what client.Invalidation, commit bool) {
		t.Helper()
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = s.box.Invalidate(ctx, tx, what)
		if commit {
			err = errors.Join(err, tx.Commit())
		} else {
			err = errors.Join(err, tx.Rollback())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	backlog := func(want outbox.Backlog) {
		t.Helper()
		if got, err := s.box.Backlog(ctx); got != want || err != nil {
			t.Errorf("backlog %v, %v, want %v", got, err, want)
		}
	}
	change(client.Invalidation{All: true}, false)
	backlog(outbox.Backlog{})
	change(client.Invalidation{Tags: []string{"café", "日本 🦕"}, Settle: time.Second, Acknowledge: true}, true)
	change(client.Invalidation{Keys: []string{strings.Repeat("k", 2000)}}, true) // longer than the server takes
	for range 500 {
		change(client.Invalidation{Keys: []string{"k"}}, true)
	}
	if _, err := s.db.Exec(`INSERT INTO soracache_outbox (format, payload) VALUES (2, 'later'), (1, 'nonsense')`); err != nil {
		t.Fatal(err)
	}
	backlog(outbox.Backlog{Waiting: 503, Foreign: 1})
	if err := s.box.Flush(ctx); !errors.Is(err, outbox.ErrSetAside) {
		t.Errorf("got %v", err)
	}
	backlog(outbox.Backlog{SetAside: 2, Foreign: 1})
	var reason string
	if err := s.db.QueryRow("SELECT error FROM soracache_outbox WHERE id = 2").Scan(&reason); err != nil || !strings.Contains(reason, "at most 1024") {
		t.Errorf("the row says %q, %v", reason, err)
	}
	if n, err := s.box.Restore(ctx, 2); n != 1 || err != nil {
		t.Errorf("restored %d, %v", n, err)
	}
	if n, err := s.box.Restore(ctx); n != 1 || err != nil {
		t.Errorf("restored %d, %v", n, err)
	}
	backlog(outbox.Backlog{Waiting: 2, Foreign: 1})
}

// An id that was given is never given again, also when its row is gone: else a
// slow relay could delete what it has not relayed.
func TestIdsAreGivenOnce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), serve(t))
	var last int64
	for range 3 {
		if err := s.change(t.Context(), "1", 5); err != nil {
			t.Fatal(err)
		}
		var id int64
		if err := s.db.QueryRow("SELECT id FROM soracache_outbox").Scan(&id); err != nil || id <= last {
			t.Errorf("id %d after %d, %v", id, last, err)
		}
		last = id
		if err := s.box.Flush(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// slowCache lets another relay work between a relay's invalidation and its
// deletion.
type slowCache struct {
	*client.Client
	then func()
}

func (c slowCache) Invalidate(ctx context.Context, what client.Invalidation) (client.Receipt, error) {
	receipt, err := c.Client.Invalidate(ctx, what)
	c.then()
	return receipt, err
}

func TestSlowRelayDeletesOnlyWhatItRelayed(t *testing.T) {
	ctx := t.Context()
	s := open(t, filepath.Join(t.TempDir(), "shop.db"), serve(t))
	slow, err := outbox.New(slowCache{s.cache, func() {
		if err := s.box.Flush(ctx); err != nil {
			t.Error(err)
		}
		if err := s.change(ctx, "2", 500); err != nil {
			t.Error(err)
		}
	}}, outbox.Config{DB: s.db, Dialect: outbox.SQLite})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.price(ctx, "2"); p != 100 || err != nil {
		t.Fatal(p, err)
	}
	if err := s.change(ctx, "1", 400); err != nil {
		t.Fatal(err)
	}
	if err := slow.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.box.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if p, _ := s.price(ctx, "2"); p != 500 {
		t.Errorf("price %d: the change of product 2 was never relayed", p)
	}
}

var _ outbox.Tx = (*sql.Tx)(nil)
