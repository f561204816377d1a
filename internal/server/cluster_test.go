package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	rpc "github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

const membersPath = "/soracache.v1.ClusterService/Members"

// TestMembers: whoever asks comes first, then the others by name, and all that
// is known of them is in the answer.
func TestMembers(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{Members: func() []server.Member {
		return []server.Member{
			{Name: "c-1", RPCAddress: "http://10.0.0.3:7070", State: server.MemberDead},
			{Name: "b-1", State: server.MemberDraining, StateFor: 1500 * time.Millisecond},
			{
				Name: "d-1", RPCAddress: "http://10.0.0.4:7070", GossipAddress: "10.0.0.4:7946", Version: "v1.2.3",
				State: server.MemberAlive, Self: true, Bound: time.Second, StateFor: time.Minute, Capabilities: []string{"ack", "freed"},
			},
			{Name: "a-1", State: server.MemberLeft},
			{Name: "aa-1", State: server.MemberSuspect},
		}
	}})
	got := s.do(t, http.MethodPost, membersPath, "{}", "Content-Type", "application/json")
	want := `{"members":[{"name":"d-1","rpcAddress":"http://10.0.0.4:7070","gossipAddress":"10.0.0.4:7946","version":"v1.2.3",` +
		`"state":"MEMBER_STATE_ALIVE","self":true,"bound":"1s","stateFor":"60s","capabilities":["ack","freed"]},` +
		`{"name":"a-1","state":"MEMBER_STATE_LEFT","stateFor":"0s"},{"name":"aa-1","state":"MEMBER_STATE_SUSPECT","stateFor":"0s"},` +
		`{"name":"b-1","state":"MEMBER_STATE_DRAINING","stateFor":"1.500s"},` +
		`{"name":"c-1","rpcAddress":"http://10.0.0.3:7070","state":"MEMBER_STATE_DEAD","stateFor":"0s"}]}`
	var gotJSON, wantJSON any
	if err := errors.Join(json.Unmarshal([]byte(got.body), &gotJSON), json.Unmarshal([]byte(want), &wantJSON)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(gotJSON, wantJSON) {
		t.Errorf("got %s\nwant %s", got.body, want)
	}
}

// TestMemberAlone: without a cluster the node is its only member.
func TestMemberAlone(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{Name: "n1", Version: "v1.2.3", Advertise: "http://n1:7070"}, newFakeNode(), server.Hooks{})
	got, err := rpc.NewClusterServiceClient(s.client, s.url).Members(t.Context(), &soracachev1.MembersRequest{})
	if err != nil || len(got.Members) != 1 {
		t.Fatalf("members %v, error %v", got, err)
	}
	if m := got.Members[0]; m.Name != "n1" || m.RpcAddress != "http://n1:7070" || m.Version != "v1.2.3" || !m.Self ||
		m.State != soracachev1.MemberState_MEMBER_STATE_ALIVE || m.StateFor.AsDuration() <= 0 || m.Bound != nil {
		t.Errorf("got %v", m)
	}
}

// TestDrainIsToldFirst: the other nodes hear of a drain when readiness is off
// and requests are still taken.
func TestDrainIsToldFirst(t *testing.T) {
	t.Parallel()
	var s *server.Server
	var told atomic.Int32
	s = newServer(t, server.Config{DrainDelay: time.Millisecond}, newFakeNode(), server.Hooks{
		Draining: func() {
			told.Add(1)
			if ready := getFrom(s, "/readyz"); ready.status != http.StatusServiceUnavailable {
				t.Errorf("/readyz: %d", ready.status)
			}
			if members := postTo(s, membersPath, `{}`); !strings.Contains(members.body, "MEMBER_STATE_DRAINING") {
				t.Errorf("members: %s", members.body)
			}
			if read := postTo(s, "/soracache.v1.CacheService/Get", `{"key":"k"}`); read.status != http.StatusOK {
				t.Errorf("a read: %d %s", read.status, read.body)
			}
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx, newPipes()); err != nil || told.Load() != 1 {
		t.Errorf("told %d times, error %v", told.Load(), err)
	}
}

func getFrom(s *server.Server, path string) answer {
	r, _ := http.NewRequest(http.MethodGet, path, http.NoBody)
	return handle(s, r)
}

func postTo(s *server.Server, path, body string) answer {
	r, _ := http.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return handle(s, r)
}

// incompleteNode has stragglers that never acknowledge.
func incompleteNode() *fakeNode {
	n := newFakeNode()
	n.onInvalidate = func(ctx context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
		if !req.Acknowledge {
			return soracache.InvalidateResult{Stamp: n.stamps()}, nil
		}
		<-ctx.Done()
		return soracache.InvalidateResult{}, &soracache.IncompleteError{
			Stamp: n.stamps(), Stragglers: []string{"b-1", "c-1"}, Cause: ctx.Err(),
		}
	}
	return n
}

// TestIncompleteInvalidation: the caller learns before its own deadline that
// the invalidation is recorded, and who has not acknowledged it.
func TestIncompleteInvalidation(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, incompleteNode(), server.Hooks{})
	stamp := s.node.stamps()

	got := s.post(t, "Invalidate", inval("acknowledge", true), "Connect-Timeout-Ms", "200")
	if got.code() != "deadline_exceeded" || !strings.Contains(got.message(), "recorded") || !strings.Contains(got.message(), "b-1, c-1") {
		t.Errorf("JSON: %d %s", got.status, got.body)
	}
	var failure struct {
		Details []struct {
			Type  string
			Debug struct {
				Recorded   bool
				Stragglers []string
			}
		}
	}
	if err := json.Unmarshal([]byte(got.body), &failure); err != nil || len(failure.Details) != 1 ||
		failure.Details[0].Type != "soracache.v1.InvalidateIncomplete" || !failure.Details[0].Debug.Recorded ||
		!slices.Equal(failure.Details[0].Debug.Stragglers, []string{"b-1", "c-1"}) {
		t.Errorf("JSON: %v, error %v: %s", failure, err, got.body)
	}

	overH2C := *s
	overH2C.client = h2c(t)
	for protocol, cache := range map[string]rpc.CacheServiceClient{
		"connect": s.cache(), "grpc": overH2C.cache(connect.WithGRPC()), "grpcweb": s.cache(connect.WithGRPCWeb()),
	} {
		var err error
		var failed *connect.Error
		// The answer is on its way a tenth of a second before the deadline. On a
		// machine that is busier than that, it takes more than one attempt.
		for attempt := 0; attempt < 5 && (failed == nil || len(failed.Details()) == 0); attempt++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err = cache.Invalidate(ctx, &soracachev1.InvalidateRequest{Keys: []string{"k"}, Acknowledge: true})
			cancel()
			wantCode(t, err, connect.CodeDeadlineExceeded)
			errors.As(err, &failed)
		}
		if failed == nil || len(failed.Details()) != 1 {
			t.Errorf("%s: %v has no detail", protocol, err)
			continue
		}
		value, err := failed.Details()[0].Value()
		if detail, ok := value.(*soracachev1.InvalidateIncomplete); err != nil || !ok || !detail.Recorded ||
			!slices.Equal(detail.Stamp, stamp.Encode()) || len(detail.Stragglers) != 2 {
			t.Errorf("%s: %v, error %v", protocol, value, err)
		}
	}
}

// TestIncompleteInvalidationByTheClient: the same, as an application sees it.
func TestIncompleteInvalidationByTheClient(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, incompleteNode(), server.Hooks{})
	c, err := client.Dial([]string{s.url})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var incomplete *soracache.IncompleteError
	inTime := false
	invalidate := func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.Invalidate(ctx, client.Invalidation{Keys: []string{"k"}, Acknowledge: true})
		errors.As(err, &incomplete)
		inTime = ctx.Err() == nil
	}
	for attempt := 0; attempt < 5 && (incomplete == nil || !inTime); attempt++ { // see above
		invalidate()
	}
	if !errors.As(err, &incomplete) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, soracache.ErrUnavailable) ||
		!slices.Equal(incomplete.Stragglers, []string{"b-1", "c-1"}) || !reflect.DeepEqual(incomplete.Stamp, s.node.stamps()) {
		t.Errorf("error %#v: %v", incomplete, err)
	}
	if !inTime {
		t.Error("the answer came after the deadline")
	}
	if receipt, err := c.Invalidate(t.Context(), client.Invalidation{Keys: []string{"k"}}); err != nil || len(receipt.Stragglers) != 0 {
		t.Errorf("without acknowledgement: %v, error %v", receipt, err)
	}
}

// TestStragglers: those that were waited out are named in the answer.
func TestStragglers(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.onInvalidate = func(_ context.Context, req soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
		if !req.Acknowledge {
			t.Error("no acknowledgement asked for")
		}
		return soracache.InvalidateResult{Stamp: n.stamps(), Stragglers: []string{"b-1"}}, nil
	}
	s := serve(t, server.Config{}, n, server.Hooks{})
	if got := s.post(t, "Invalidate", inval("acknowledge", true)); got.status != 200 || !strings.Contains(got.body, `"stragglers":["b-1"]`) {
		t.Errorf("JSON: %d %s", got.status, got.body)
	}
	c, err := client.Dial([]string{s.url})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	receipt, err := c.Invalidate(t.Context(), client.Invalidation{Tags: []string{"t"}, Acknowledge: true})
	if err != nil || !slices.Equal(receipt.Stragglers, []string{"b-1"}) || receipt.Stamp.String() != "default="+base64.RawURLEncoding.EncodeToString(n.stamps().Encode()) {
		t.Errorf("receipt %v, error %v", receipt, err)
	}
}
