package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache/internal/proctest"
)

// built is where TestMain has put the two binaries: what a user runs, and so
// without the race detector. (The application that the tests drive in their own
// process has it.)
var built struct{ soracached, catalog string }

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(withBinaries{m})
}

type withBinaries struct{ *testing.M }

func (m withBinaries) Run() int {
	dir, err := os.MkdirTemp("", "catalog")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	built.soracached, built.catalog = filepath.Join(dir, "soracached"), filepath.Join(dir, "catalog")
	for _, b := range []struct{ out, module, pkg string }{
		{built.soracached, filepath.Join("..", ".."), "./cmd/soracached"},
		{built.catalog, ".", "."},
	} {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", b.out, b.pkg)
		cmd.Dir = b.module
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build %s: %v\n%s", b.pkg, err, out)
			return 1
		}
	}
	return m.M.Run()
}

// process is a server that a test has started, with what it writes.
type process struct {
	*proctest.Process
	output *proctest.Output
}

// start runs a program until the test ends.
func start(t *testing.T, program string, args ...string) process {
	t.Helper()
	out := &proctest.Output{}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(program), out)
		}
	})
	return process{proctest.Start(t, cmd), out}
}

// answers waits until a URL answers 200. The server that is to do so must not
// exit before.
func (p process) answers(t *testing.T, url string) {
	t.Helper()
	eventually(t, url+" answers", func() error {
		if !p.Running() {
			t.Fatalf("the server has ended:\n%s", p.output)
		}
		return okay(url)
	})
}

func okay(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := web.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

// web opens a connection for each request, so that none is left behind.
var web = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// eventually polls until check is content.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// freeAddress is an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
