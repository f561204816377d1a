package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
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

// process is a server that a test has started.
type process struct {
	*exec.Cmd
	exited chan struct{} // closed when it has exited
	err    error         // what Wait said; set before exited is closed
	output lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a program until the test ends.
func start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(program, args...), exited: make(chan struct{})}
	p.Stdout, p.Stderr = &p.output, &p.output
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(program), p.output.String())
		}
	})
	return p
}

// kill ends it as kill -9 does.
func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.exited
}

// terminate asks it to end, and returns how it did.
func (p *process) terminate(t *testing.T) error {
	t.Helper()
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
		return p.err
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

// answers waits until a URL answers 200. The server that is to do so must not
// exit before.
func (p *process) answers(t *testing.T, url string) {
	t.Helper()
	eventually(t, url+" answers", func() error {
		select {
		case <-p.exited:
			t.Fatalf("%s exited: %v\n%s", p.Path, p.err, p.output.String())
		default:
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
