package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fakeNode answers what a test says, and keeps the last request.
type fakeNode struct {
	rpc.UnimplementedCacheServiceHandler
	rpc.UnimplementedClusterServiceHandler

	fail    error
	token   string
	members *soracachev1.MembersResponse
	late    []string // stragglers
	get     *soracachev1.GetResponse
	explain *soracachev1.ExplainResponse
	last    any

	invalidated []*soracachev1.InvalidateRequest
	most        int // names in one invalidation; zero: any number
	breaksAt    int // the number of the first invalidation that fails; zero: none does
}

func (f *fakeNode) Get(_ context.Context, r *soracachev1.GetRequest) (*soracachev1.GetResponse, error) {
	f.last = r
	return f.get, f.fail
}

func (f *fakeNode) Set(_ context.Context, r *soracachev1.SetRequest) (*soracachev1.SetResponse, error) {
	f.last = r
	return &soracachev1.SetResponse{Stamp: []byte("s")}, f.fail
}

func (f *fakeNode) Invalidate(_ context.Context, r *soracachev1.InvalidateRequest) (*soracachev1.InvalidateResponse, error) {
	f.last = r
	if n := len(r.GetKeys()) + len(r.GetTags()); f.most > 0 && n > f.most {
		return nil, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("batch of %d: at most %d", n, f.most))
	}
	if f.breaksAt > 0 && len(f.invalidated)+1 >= f.breaksAt {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("because"))
	}
	f.invalidated = append(f.invalidated, r)
	return &soracachev1.InvalidateResponse{Stamp: []byte("s"), Stragglers: f.late}, f.fail
}

// ListKeys has three pages: token "", "2" and "3".
func (f *fakeNode) ListKeys(_ context.Context, r *soracachev1.ListKeysRequest) (*soracachev1.ListKeysResponse, error) {
	f.last = r
	pages := map[string]*soracachev1.ListKeysResponse{
		"":  {Keys: []string{"a", "b"}, NextPageToken: "2"},
		"2": {Keys: []string{"c\n"}, NextPageToken: "3"},
		"3": {Keys: []string{"d"}},
	}
	return pages[r.GetPageToken()], f.fail
}

func (f *fakeNode) Explain(_ context.Context, r *soracachev1.ExplainRequest) (*soracachev1.ExplainResponse, error) {
	f.last = r
	return f.explain, f.fail
}

func (f *fakeNode) Members(context.Context, *soracachev1.MembersRequest) (*soracachev1.MembersResponse, error) {
	return f.members, f.fail
}

func (f *fakeNode) Stats(context.Context, *soracachev1.StatsRequest) (*soracachev1.StatsResponse, error) {
	return &soracachev1.StatsResponse{
		Node: "host:7070", Version: "v1.2.3", Uptime: durationpb.New(90 * time.Minute),
		Totals: map[string]float64{"hits_l2": 12, "hits_l1": 1e9, "l1_bytes": 0.5},
		Store: &soracachev1.StoreStatus{Scheme: "redis+cluster", Parts: []*soracachev1.StoreStatus_Part{
			{Name: "10.0.0.1:6379", Reachable: true, StateFor: durationpb.New(time.Hour)},
			{Name: "10.0.0.2:6379", StateFor: durationpb.New(1500 * time.Millisecond)},
		}},
	}, f.fail
}

// serveFake starts a node that answers what f says, and points the commands
// to it.
func serveFake(t *testing.T, f *fakeNode) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(rpc.NewCacheServiceHandler(f))
	mux.Handle(rpc.NewClusterServiceHandler(f))
	var mu sync.Mutex // some commands ask several times at once
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		f.token = r.Header.Get("Authorization")
		mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	t.Setenv("SORACACHE_SERVER", s.URL)
}

func hit() *soracachev1.GetResponse {
	return &soracachev1.GetResponse{
		Status: soracachev1.Status_STATUS_HIT, Tier: soracachev1.Tier_TIER_L1, Value: []byte(`{"id":1}`), Encoding: "json",
		Tags: []string{"products", "odd\ttag"}, Stamp: []byte("s"), Etag: "e1",
		FreshFor: durationpb.New(299*time.Second + 123456789), KeepFor: durationpb.New(1799 * time.Second),
	}
}

func miss() *soracachev1.GetResponse {
	return &soracachev1.GetResponse{Status: soracachev1.Status_STATUS_MISS}
}

func explained() *soracachev1.ExplainResponse {
	return &soracachev1.ExplainResponse{
		Status: soracachev1.Status_STATUS_MISS, Reason: "superseded", Partition: 1, Epoch: 77,
		Head: 1700000000123456, Applied: 1700000000000000, ConfirmedAgo: durationpb.New(250 * time.Microsecond),
		Leased: true, LeaseFor: durationpb.New(9400 * time.Millisecond),
		L1: &soracachev1.ExplainResponse_Copy{
			Present: true, Reason: "named by a later record", KilledByPosition: 1700000000123456,
			KilledByTargets: []string{"tag:products"}, Epoch: 77, Position: 12, Tags: []string{"products"},
			FreshFor: durationpb.New(-time.Second), KeepFor: durationpb.New(time.Minute), ValueBytes: 4096,
			Encoding: "json", Kind: soracachev1.Kind_KIND_NOT_FOUND,
		},
	}
}

// membersAt are the members of a cluster of which one answers at url, under the
// name that the fake node has in its stats.
func membersAt(url string) *soracachev1.MembersResponse {
	member := func(name, rpc string, state soracachev1.MemberState) *soracachev1.Member {
		return &soracachev1.Member{
			Name: name, RpcAddress: rpc, GossipAddress: "10.0.0.1:7946", Version: "v1.2.3", State: state,
			Bound: durationpb.New(time.Second), StateFor: durationpb.New(90 * time.Second),
		}
	}
	asked := member("asked:7070-1", "http://unreachable.example", soracachev1.MemberState_MEMBER_STATE_ALIVE)
	asked.Self = true
	asked.Capabilities = []string{"acknowledge"}
	return &soracachev1.MembersResponse{Members: []*soracachev1.Member{
		asked,
		member("host:7070", url, soracachev1.MemberState_MEMBER_STATE_DRAINING),
		member("absent:7070-3", "http://127.0.0.1:1", soracachev1.MemberState_MEMBER_STATE_ALIVE),
		member("dead:7070-4", "http://127.0.0.1:1", soracachev1.MemberState_MEMBER_STATE_DEAD),
		member("former:7070-5", url, soracachev1.MemberState_MEMBER_STATE_SUSPECT),
		{Name: "bare", State: soracachev1.MemberState_MEMBER_STATE_LEFT},
		{Name: "other:7070-6", RpcAddress: url, State: soracachev1.MemberState_MEMBER_STATE_ALIVE},
		{Name: "nowhere:7070-7", State: soracachev1.MemberState_MEMBER_STATE_ALIVE},
	}}
}

// TestOutput compares what each command prints, to people and to scripts, with
// the files under testdata. go test -update writes them anew.
func TestOutput(t *testing.T) {
	for name, c := range map[string]struct {
		get  *soracachev1.GetResponse
		late []string
		in   string
		args []string
	}{
		"invalidate-ack":  {args: []string{"invalidate", "--tag", "a", "--ack"}},
		"invalidate-late": {args: []string{"invalidate", "--tag", "a", "--ack"}, late: []string{"b:7070-1", "c:7070-2"}},
		"members":         {args: []string{"members"}},
		"stats-cluster":   {args: []string{"stats", "--cluster"}},
		"get":             {get: hit(), args: []string{"get", "k"}},
		"get-miss":        {get: miss(), args: []string{"get", "k"}},
		"get-notfound":    {get: &soracachev1.GetResponse{Status: soracachev1.Status_STATUS_STALE, Kind: soracachev1.Kind_KIND_NOT_FOUND, FreshFor: durationpb.New(-time.Second)}, args: []string{"get", "k"}},
		"get-binary":      {get: &soracachev1.GetResponse{Status: soracachev1.Status_STATUS_HIT, Value: []byte("a\x1b[31m"), FreshFor: durationpb.New(time.Second)}, args: []string{"get", "k"}},
		"get-error":       {get: &soracachev1.GetResponse{Status: soracachev1.Status_STATUS_STALE, Kind: soracachev1.Kind_KIND_ERROR, Value: []byte("down"), Unconfirmed: true}, args: []string{"get", "k"}},
		"set":             {args: []string{"set", "k", "v", "--tag", "a,b", "--tag", "c"}},
		"set-stdin":       {in: "from a pipe", args: []string{"set", "k"}},
		"rm":              {args: []string{"rm", "k", "odd\nkey"}},
		"invalidate":      {args: []string{"invalidate", "--tag", "a", "-t", "b", "--key", "k"}},
		"clear":           {args: []string{"clear", "-n", "shop"}},
		"keys":            {args: []string{"keys", "--tag", "t"}},
		"keys-limit":      {args: []string{"keys", "--tag", "t", "--limit", "2"}},
		"explain":         {args: []string{"explain", "k"}},
		"stats":           {args: []string{"stats"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeNode{get: c.get, explain: explained(), late: c.late}
			serveFake(t, f)
			server := os.Getenv("SORACACHE_SERVER")
			f.members = membersAt(server)
			var b strings.Builder
			for _, form := range []struct {
				title    string
				terminal bool
				extra    []string
			}{{"terminal", true, nil}, {"pipe", false, nil}, {"json", false, []string{"--json"}}} {
				got := invokeOn(t, form.terminal, c.in, append(c.args, form.extra...)...)
				for _, part := range [][2]string{
					{form.title, got.out}, {form.title + " stderr", got.err}, {form.title + " exit", string(rune('0' + got.code))},
				} {
					b.WriteString("-- " + part[0] + "\n" + part[1])
					if !strings.HasSuffix(part[1], "\n") && part[1] != "" {
						b.WriteString("⏎\n") // there is no line end
					}
				}
			}
			compareGolden(t, name, strings.ReplaceAll(b.String(), server, "http://127.0.0.1:PORTS"[:len(server)]))
		})
	}
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRequests(t *testing.T) {
	f := &fakeNode{get: hit()}
	serveFake(t, f)
	t.Setenv("SORACACHE_NAMESPACE", "shop")
	t.Setenv("SORACACHE_TOKEN", "secret")
	invoke(t, "", "set", "k", "v", "-t", "a,b", "--ttl", "1m", "--keep", "1h", "--l1-ttl", "5s", "--encoding", "raw", "--etag", "e")
	set, ok := f.last.(*soracachev1.SetRequest)
	if !ok || set.GetNamespace() != "shop" || set.GetKey() != "k" || string(set.GetValue()) != "v" ||
		len(set.GetTags()) != 1 || set.GetTags()[0] != "a,b" || set.GetTtl().AsDuration() != time.Minute ||
		set.GetKeep().AsDuration() != time.Hour || set.GetL1Ttl().AsDuration() != 5*time.Second ||
		set.GetEncoding() != "raw" || set.GetEtag() != "e" {
		t.Errorf("set: %v", f.last)
	}
	invoke(t, "", "clear")
	if r, ok := f.last.(*soracachev1.InvalidateRequest); !ok || !r.GetAll() || r.GetNamespace() != "shop" || len(r.GetKeys())+len(r.GetTags()) > 0 {
		t.Errorf("clear: %v", f.last)
	}
	invoke(t, "", "set", "k", "v", "--schema", "order/2")
	if r, ok := f.last.(*soracachev1.SetRequest); !ok || r.GetSchema() != "order/2" {
		t.Errorf("set --schema: %v", f.last)
	}
	invoke(t, "", "explain", "k", "--schema", "order/2")
	if r, ok := f.last.(*soracachev1.ExplainRequest); !ok || r.GetSchema() != "order/2" {
		t.Errorf("explain --schema: %v", f.last)
	}
	f.get = &soracachev1.GetResponse{Status: soracachev1.Status_STATUS_HIT, Value: []byte("v"), InSchema: true}
	got := invoke(t, "", "get", "k", "--schema", "order/2")
	if r, ok := f.last.(*soracachev1.GetRequest); !ok || r.GetSchema() != "order/2" || got.code != 0 || got.out != "v" {
		t.Errorf("get --schema: %v, %+v", f.last, got)
	}
	f.get.InSchema = false
	if got := invoke(t, "", "get", "k", "--schema", "order/2"); got.code != 5 || got.out != "" || !strings.Contains(got.err, "schemas") {
		t.Errorf("get --schema of an earlier version: %+v", got)
	}
	invoke(t, "", "rm", "a", "b")
	if r, ok := f.last.(*soracachev1.InvalidateRequest); !ok || r.GetAll() || len(r.GetKeys()) != 2 {
		t.Errorf("rm: %v", f.last)
	}
	invoke(t, "", "rm", "a", "--ack")
	if r, ok := f.last.(*soracachev1.InvalidateRequest); !ok || !r.GetAcknowledge() {
		t.Errorf("rm --ack: %v", f.last)
	}
	for _, args := range [][]string{{"rm", "a"}, {"invalidate", "-t", "a"}, {"clear"}} {
		if invoke(t, "", append(args, "--settle", "1.5s")...); f.last.(*soracachev1.InvalidateRequest).GetSettle().AsDuration() != 1500*time.Millisecond {
			t.Errorf("%v --settle: %v", args, f.last)
		}
	}
	if f.token != "Bearer secret" {
		t.Errorf("token %q", f.token)
	}
	file := configFile(t, " from-file \n")
	_ = os.Unsetenv("SORACACHE_TOKEN")
	invoke(t, "", "get", "k", "--token-file", file)
	if f.token != "Bearer from-file" {
		t.Errorf("token %q", f.token)
	}
}

// TestExitCodes holds the codes that scripts rely on.
func TestExitCodes(t *testing.T) {
	for code, want := range map[connect.Code]int{
		connect.CodeInvalidArgument:   2,
		connect.CodeUnavailable:       3,
		connect.CodeDeadlineExceeded:  3,
		connect.CodeUnauthenticated:   4,
		connect.CodePermissionDenied:  4,
		connect.CodeResourceExhausted: 5,
		connect.CodeInternal:          5,
		connect.CodeUnimplemented:     5,
	} {
		t.Run(code.String(), func(t *testing.T) {
			serveFake(t, &fakeNode{fail: connect.NewError(code, errors.New("because"))})
			for _, args := range [][]string{
				{"get", "k"}, {"set", "k", "v"}, {"rm", "k"}, {"invalidate", "-t", "t"}, {"clear"},
				{"keys", "-t", "t"}, {"explain", "k"}, {"stats"}, {"stats", "--cluster"}, {"members"},
			} {
				got := invoke(t, "", args...)
				if got.code != want || got.out != "" || got.err != "soracached: "+code.String()+": because\n" {
					t.Errorf("%v: %+v, want code %d", args, got, want)
				}
			}
		})
	}
}

func TestExitCodesWithoutAnAnswer(t *testing.T) {
	stalled := stalledServer(t, make(chan struct{}, 1))
	for name, c := range map[string]struct {
		args []string
		want int
	}{
		"nobody listens":        {[]string{"get", "k", "--server", "127.0.0.1:1"}, 3},
		"no answer in time":     {[]string{"get", "k", "--server", stalled.URL, "--timeout", "20ms"}, 3},
		"no such command":       {[]string{"frobnicate"}, 2},
		"no key":                {[]string{"get"}, 2},
		"no tag":                {[]string{"invalidate"}, 2},
		"no URL":                {[]string{"get", "k", "--server", "ftp://x"}, 2},
		"absent CA":             {[]string{"get", "k", "--ca", "/absent"}, 2},
		"absent token file":     {[]string{"get", "k", "--token-file", "/absent"}, 2},
		"half a certificate":    {[]string{"get", "k", "--client-cert", "x"}, 2},
		"help":                  {[]string{"--help"}, 0},
		"help of a command":     {[]string{"serve", "--help"}, 0},
		"version":               {[]string{"version"}, 0},
		"version, as an option": {[]string{"--version"}, 0},
		"version of a command":  {[]string{"get", "--version"}, 0},
		"a token of bad scopes": {[]string{"token", "ci", "--scopes", "root"}, 2},
		"a token for bad names": {[]string{"token", "ci", "--namespaces", "A"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			got := invoke(t, "", c.args...)
			if got.code != c.want || (got.err == "") != (c.want == 0) {
				t.Errorf("%+v, want code %d", got, c.want)
			}
		})
	}
}

// stalledServer answers nothing until its client goes away.
func stalledServer(t *testing.T, arrived chan<- struct{}) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	return s
}

func TestInterruptedCommandEndsAtOnce(t *testing.T) {
	arrived := make(chan struct{}, 1)
	stalled := stalledServer(t, arrived)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if got := invokeWith(ctx, false, "", "get", "k", "--server", stalled.URL); got.code != exitUnavailable {
		t.Errorf("got %+v", got)
	}
}
