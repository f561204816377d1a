package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	cache "github.com/soracache/soracache/embedded"
	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
	"github.com/soracache/soracache/l2/l2test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConformance is all that a new store needs to be tested with, and is tested here.
func TestConformance(t *testing.T) { l2test.Run(t, harness) }

func TestAgreement(t *testing.T) { l2test.Agree(t, harness) }

func TestHammer(t *testing.T) {
	s := harness(t, l2test.Options{Retention: l2.NewRetention()}).Store
	l2test.Hammer(t, l2test.HammerConfig{Stores: []l2.Store{s}, Operations: 5_000, Overlaps: 20})
}

// harness opens an empty store on a clock that the suite moves: what waits for time does
// not take any. What else can be done to a store lets more of the suite run.
func harness(t *testing.T, o l2test.Options) l2test.Harness {
	t.Helper()
	var mu sync.Mutex
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	read := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	wait := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	s, err := open(embedded.Config{Dir: t.TempDir(), Retention: o.Retention, Now: read})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return l2test.Harness{Store: s, Now: read, Wait: wait}
}

// logged returns the lines of the log, without their times.
func logged(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, logName))
	if err != nil {
		t.Fatal(err)
	}
	at := regexp.MustCompile(`"time":"20[^"]+Z",`)
	return strings.Fields(at.ReplaceAllString(string(text), ""))
}

// TestInAnApplication has the store under a node in this process.
func TestInAnApplication(t *testing.T) {
	dir := t.TempDir()
	n, err := cache.Open(t.Context(), cache.Config{
		Store: "audit:" + dir, Schemes: []l2.Scheme{Scheme()}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Client(client.Namespace("shop"))
	if err != nil {
		t.Fatal(err)
	}
	loads := 0
	load := func(context.Context) (int, error) { loads++; return loads, nil }
	for want := 1; want <= 2; want++ {
		for range 2 {
			if got, err := client.GetOrSet(t.Context(), c, "k", load, client.WithTags("t")); got != want || err != nil {
				t.Errorf("got %d, %v; want %d", got, err, want)
			}
		}
		if _, err := c.InvalidateTags(t.Context(), "t"); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(c.Close(), n.Close()); err != nil {
		t.Error(err)
	}
	line := `{"namespace":"shop","partition":0,"targets":["tag:t"]}`
	if got := logged(t, dir); len(got) != 2 || got[0] != line || got[1] != line {
		t.Errorf("the log has %q", got)
	}
	if _, err := Scheme().Open(t.Context(), "audit:", l2.OpenOptions{}); !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("without a folder: %v", err)
	}
}

// TestInSoracached builds the program and uses it as an operator does.
func TestInSoracached(t *testing.T) {
	binary, dir := filepath.Join(t.TempDir(), "soracached"), t.TempDir()
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out := &proctest.Output{}
	serve := exec.Command(binary, "serve", "--listen", "127.0.0.1:0", "--l2", "audit:"+dir)
	serve.Stdout, serve.Stderr = out, out
	p := proctest.Start(t, serve)
	serves := regexp.MustCompile(`serves on (\S+), over a store of the scheme audit`)
	redistest.Eventually(t, 30*time.Second, "it serves", func() bool { return serves.MatchString(out.String()) || !p.Running() })
	if !p.Running() {
		t.Fatal(out.String())
	}
	url := serves.FindStringSubmatch(out.String())[1]
	operate := func(want string, args ...string) {
		t.Helper()
		out, err := exec.Command(binary, append(args, "--server", url)...).CombinedOutput()
		if err != nil || !regexp.MustCompile(want).Match(out) {
			t.Errorf("%v: %v\n%s\nwant %s", args, err, out, want)
		}
	}
	operate("stored k", "set", "k", "v", "--tag", "t")
	operate("^v$", "get", "k")
	operate("invalidated t", "invalidate", "--tag", "t")
	operate(`store +audit: reachable for `, "stats")
	if got := logged(t, dir); len(got) != 1 || got[0] != `{"namespace":"default","partition":0,"targets":["tag:t"]}` {
		t.Errorf("the log has %q", got)
	}
}

// TestPageQuotesThis: what docs/stores.md shows is in these files.
func TestPageQuotesThis(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "stores.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)<!-- ([a-z/_.]+) -->\n```go\n(.*?)```").FindAllSubmatch(page, -1)
	for _, block := range blocks {
		code, err := os.ReadFile(filepath.Join(root, string(block[1])))
		if err != nil || !strings.Contains(string(code), string(block[2])) {
			t.Errorf("%s (%v) has nothing such as\n%s", block[1], err, block[2])
		}
	}
	if len(blocks) != 4 || strings.Count(string(page), "```go") != len(blocks) {
		t.Errorf("%d blocks", len(blocks))
	}
}
