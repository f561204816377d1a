package command

import (
	"context"
	"errors"
	"net/http/httptest"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// watchedNode tells a watcher what a test says.
type watchedNode struct {
	rpc.UnimplementedCacheServiceHandler

	watch func(context.Context, *soracachev1.WatchRequest, *connect.ServerStream[soracachev1.WatchResponse]) error
	token string
}

func (n *watchedNode) Watch(ctx context.Context, r *soracachev1.WatchRequest, s *connect.ServerStream[soracachev1.WatchResponse]) error {
	info, _ := connect.CallInfoForHandlerContext(ctx)
	n.token = info.RequestHeader().Get("Authorization")
	return n.watch(ctx, r, s)
}

func serveWatched(t *testing.T, n *watchedNode) {
	t.Helper()
	_, handler := rpc.NewCacheServiceHandler(n)
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	t.Setenv("SORACACHE_SERVER", s.URL)
}

var clockTime = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d{6}`)

func TestWatchPrintsWhatHappens(t *testing.T) {
	n := &watchedNode{watch: func(_ context.Context, r *soracachev1.WatchRequest, s *connect.ServerStream[soracachev1.WatchResponse]) error {
		if r.GetNamespace() != "shop" || len(r.GetStamp()) > 0 {
			t.Errorf("asked for %v", r)
		}
		item := func(partition uint32, complete uint64, records ...*soracachev1.WatchRecord) *soracachev1.WatchItem {
			return &soracachev1.WatchItem{Partition: partition, Partitions: 2, Epoch: 7, Complete: complete, Records: records}
		}
		first, second, again := item(0, 10), item(1, 10), item(1, 50)
		first.Reset_, second.Reset_, again.Reset_ = true, true, true
		return errors.Join(
			s.Send(&soracachev1.WatchResponse{Items: []*soracachev1.WatchItem{first, second}}),
			s.Send(&soracachev1.WatchResponse{Items: []*soracachev1.WatchItem{
				item(0, 30, &soracachev1.WatchRecord{Position: 20, Keys: []string{"a", "odd\nkey"}}, &soracachev1.WatchRecord{Position: 30, Tags: []string{"t"}}),
				item(1, 30, &soracachev1.WatchRecord{Position: 30, Tags: []string{"t"}}, &soracachev1.WatchRecord{Position: 31, Keys: []string{"b"}}),
			}}),
			s.Send(&soracachev1.WatchResponse{Items: []*soracachev1.WatchItem{again, item(0, 60, &soracachev1.WatchRecord{Position: 60, All: true})}}),
			connect.NewError(connect.CodeUnavailable, errors.New("the node is draining")),
		)
	}}
	serveWatched(t, n)
	t.Setenv("SORACACHE_TOKEN", "secret")
	got := invokeOn(t, true, "", "watch", "-n", "shop")
	want := `TIME  key a, key "odd\nkey"
TIME  tag t
TIME  key b
TIME  partition 1 begins anew: what was invalidated shortly before is not known
TIME  everything
`
	if out := clockTime.ReplaceAllString(got.out, "TIME"); out != want || got.code != exitUnavailable || !strings.Contains(got.err, "watching") {
		t.Errorf("%+v, want\n%s", got, want)
	}
	if n.token != "Bearer secret" {
		t.Errorf("token %q", n.token)
	}
	got = invoke(t, "", "watch", "-n", "shop", "--json")
	lines := strings.Split(strings.TrimSuffix(got.out, "\n"), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[1], `{"items":[{"partitions":2,"epoch":"7","complete":"30","records":[{"position":"20","keys":["a","odd\nkey"]}`) {
		t.Errorf("JSON: %s", got.out)
	}
}

func TestWatchEnds(t *testing.T) {
	begin := &soracachev1.WatchResponse{Items: []*soracachev1.WatchItem{{Partitions: 1, Epoch: 7, Complete: 1, Reset_: true}}}
	for name, c := range map[string]struct {
		watch func(context.Context, *connect.ServerStream[soracachev1.WatchResponse]) error
		code  int
		text  string
	}{
		"no scope": {func(context.Context, *connect.ServerStream[soracachev1.WatchResponse]) error {
			return connect.NewError(connect.CodePermissionDenied, errors.New("no scope read"))
		}, exitDenied, "no scope read"},
		"no answer": {func(ctx context.Context, _ *connect.ServerStream[soracachev1.WatchResponse]) error {
			<-ctx.Done()
			return ctx.Err()
		}, exitUnavailable, "does not answer"},
		"without an error": {func(_ context.Context, s *connect.ServerStream[soracachev1.WatchResponse]) error {
			return s.Send(begin)
		}, exitUnavailable, "has ended the watch"},
	} {
		t.Run(name, func(t *testing.T) {
			serveWatched(t, &watchedNode{watch: func(ctx context.Context, _ *soracachev1.WatchRequest, s *connect.ServerStream[soracachev1.WatchResponse]) error {
				return c.watch(ctx, s)
			}})
			if got := invoke(t, "", "watch", "--timeout", "300ms"); got.code != c.code || !strings.Contains(got.err, c.text) {
				t.Errorf("%+v, want code %d and %q", got, c.code, c.text)
			}
		})
	}
	t.Run("the operator has seen enough, long after the timeout", func(t *testing.T) {
		ctx, enough := context.WithCancel(t.Context())
		serveWatched(t, &watchedNode{watch: func(ctx context.Context, _ *soracachev1.WatchRequest, s *connect.ServerStream[soracachev1.WatchResponse]) error {
			err := s.Send(begin)
			time.AfterFunc(300*time.Millisecond, enough)
			<-ctx.Done()
			return errors.Join(err, ctx.Err())
		}})
		if got := invokeWith(ctx, false, "", "watch", "--timeout", "100ms"); got.code != exitOK || got.out != "" || got.err != "" {
			t.Errorf("%+v", got)
		}
	})
}

// TestWatchOfAProcess: what one command invalidates another one prints, and a
// node with many watchers ends at once.
func TestWatchOfAProcess(t *testing.T) {
	d := startDaemon(t, t.TempDir(), nil, "--namespace-partitions", "shop=3")
	out := &proctest.Output{}
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	t.Setenv("SORACACHE_SERVER", d.url)
	ended := make(chan int, 1)
	go func() {
		ended <- run(watching, []string{"watch", "-n", "shop"}, console{in: strings.NewReader(""), out: out, err: out, terminal: true})
	}()
	redistest.Eventually(t, 10*time.Second, "the watch begins", func() bool { return strings.Contains(out.String(), "watching") })
	d.operate(t, "", "rm", "k")
	d.operate(t, "", "invalidate", "--tag", "t")
	d.operate(t, "", "clear")
	redistest.Eventually(t, 10*time.Second, "all is printed", func() bool { return strings.Contains(out.String(), "everything") })
	if got := clockTime.ReplaceAllString(out.String(), "TIME"); !strings.HasSuffix(got, "TIME  key k\nTIME  tag t\nTIME  everything\n") {
		t.Errorf("printed\n%s", got)
	}
	others := make(chan int, 100)
	began := make(chan struct{}, 100)
	for range cap(others) {
		go func() {
			first := writerFunc(func(b []byte) (int, error) { began <- struct{}{}; return len(b), nil })
			others <- run(watching, []string{"watch", "-n", "shop", "--json"}, console{in: strings.NewReader(""), out: first, err: out})
		}()
	}
	for range cap(others) {
		<-began
	}
	start := time.Now()
	d.Signal(syscall.SIGTERM)
	for range cap(others) {
		if code := <-others; code != exitUnavailable {
			t.Errorf("a watch ended with code %d", code)
		}
	}
	if code := <-ended; code != exitUnavailable {
		t.Errorf("the watch ended with code %d", code)
	}
	if code := d.ExitCode(t, 20*time.Second); code != exitOK {
		t.Errorf("the node ended with code %d", code)
	}
	if took := time.Since(start); took > 8*time.Second { // the drain's deadline is 15s
		t.Errorf("the node ended after %v", took)
	}
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(b []byte) (int, error) { return w(b) }
