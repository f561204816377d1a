package server_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

func seconds(n float64) *durationpb.Duration {
	return durationpb.New(time.Duration(n * float64(time.Second)))
}

func TestGetAsksWhatTheRequestSays(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	stamps := soracache.Stamps{{Partition: 3, Stamp: soracache.Stamp{Epoch: 5, Position: 6}}}
	_, err := s.cache().Get(t.Context(), &soracachev1.GetRequest{
		Namespace: "shop", Key: "k", MinStamp: stamps.Encode(), Lease: true, Wait: seconds(60),
		RefreshWithin: seconds(1.5), LeaseFor: seconds(60), AcceptUnconfirmed: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := soracache.GetRequest{
		Namespace: "shop", MinStamp: stamps, AcceptUnconfirmed: true,
		Reads: []soracache.Read{{
			Key: "k", Lease: true, Wait: time.Minute, RefreshWithin: 1500 * time.Millisecond, LeaseFor: time.Minute,
		}},
	}
	if got := s.node.lastGet(); !reflect.DeepEqual(got, want) {
		t.Errorf("the node was asked for %+v, want %+v", got, want)
	}

	// The widest that is allowed.
	widest := &soracachev1.GetRequest{Key: strings.Repeat("k", 1024), RefreshWithin: seconds(30 * 86400)}
	if _, err := s.cache().Get(t.Context(), widest); err != nil {
		t.Error(err)
	}
	want = soracache.GetRequest{Namespace: "default", Reads: []soracache.Read{{Key: widest.Key, RefreshWithin: 30 * 24 * time.Hour}}}
	if got := s.node.lastGet(); !reflect.DeepEqual(got, want) {
		t.Errorf("the node was asked for %+v, want %+v", got, want)
	}
}

func TestGetAnswersWhatTheNodeSays(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	stamps := soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 5, Position: 6}}}
	lease := fakeLease("k")
	var result soracache.ReadResult
	n.onGet = func(context.Context, soracache.GetRequest) ([]soracache.ReadResult, error) {
		return []soracache.ReadResult{result}, nil
	}
	s := serve(t, server.Config{}, n, server.Hooks{})
	for name, c := range map[string]struct {
		is   soracache.ReadResult
		want *soracachev1.GetResponse
	}{
		"hit": {
			soracache.ReadResult{
				Status: soracache.StatusHit, Stamp: stamps, Tier: soracache.TierL2, FreshFor: time.Minute, KeepFor: time.Hour,
				Entry: soracache.Entry{Value: []byte("v"), Tags: []string{"a", "b"}, Encoding: "json", ETag: "e1"},
			},
			&soracachev1.GetResponse{
				Status: soracachev1.Status_STATUS_HIT, Stamp: stamps.Encode(), Tier: soracachev1.Tier_TIER_L2,
				FreshFor: seconds(60), KeepFor: seconds(3600), Value: []byte("v"), Tags: []string{"a", "b"}, Encoding: "json", Etag: "e1",
			},
		},
		"stale with a refresh lease": {
			soracache.ReadResult{
				Status: soracache.StatusStale, Stamp: stamps, Tier: soracache.TierL1, FreshFor: -time.Second, KeepFor: time.Hour,
				Lease: lease, LeaseFor: 10 * time.Second, Unconfirmed: true, Entry: soracache.Entry{Kind: soracache.KindNotFound},
			},
			&soracachev1.GetResponse{
				Status: soracachev1.Status_STATUS_STALE, Stamp: stamps.Encode(), Tier: soracachev1.Tier_TIER_L1,
				FreshFor: seconds(-1), KeepFor: seconds(3600), Lease: lease[:], LeaseFor: seconds(10),
				Unconfirmed: true, Kind: soracachev1.Kind_KIND_NOT_FOUND,
			},
		},
		"miss": {
			soracache.ReadResult{Status: soracache.StatusMiss, Stamp: stamps},
			&soracachev1.GetResponse{Status: soracachev1.Status_STATUS_MISS, Stamp: stamps.Encode()},
		},
		"miss with a lease": {
			soracache.ReadResult{Status: soracache.StatusMiss, Stamp: stamps, Lease: lease, LeaseFor: time.Second},
			&soracachev1.GetResponse{Status: soracachev1.Status_STATUS_MISS, Stamp: stamps.Encode(), Lease: lease[:], LeaseFor: seconds(1)},
		},
		"miss, and another holds the lease": {
			soracache.ReadResult{Status: soracache.StatusMiss, Stamp: stamps, LeaseState: soracache.LeaseHeld, LeaseFor: time.Second},
			&soracachev1.GetResponse{
				Status: soracachev1.Status_STATUS_MISS, Stamp: stamps.Encode(),
				LeaseState: soracachev1.LeaseState_LEASE_STATE_HELD, LeaseFor: seconds(1),
			},
		},
		"miss, and no lease can be given": {
			soracache.ReadResult{
				Status: soracache.StatusMiss, Stamp: stamps, LeaseState: soracache.LeaseRefused, Refusal: soracache.RefusalStoreFull,
			},
			&soracachev1.GetResponse{
				Status: soracachev1.Status_STATUS_MISS, Stamp: stamps.Encode(),
				LeaseState: soracachev1.LeaseState_LEASE_STATE_REFUSED, Refusal: soracachev1.Refusal_REFUSAL_STORE_FULL,
			},
		},
	} {
		result = c.is
		got, err := s.cache().Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
		if err != nil || got.String() != c.want.String() {
			t.Errorf("%s: %v, error %v, want %v", name, got, err, c.want)
		}
	}
}

// TestErrorTable: each failure of the node has its code, over the whole
// request and for one item of a batch.
func TestErrorTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err     error
		code    connect.Code
		message string
	}{
		{fmt.Errorf("%w: page token", soracache.ErrInvalid), connect.CodeInvalidArgument, "page token"},
		{fmt.Errorf("%w: 9 bytes", soracache.ErrTooLarge), connect.CodeResourceExhausted, "9 bytes"},
		{fmt.Errorf("%w: redis", soracache.ErrStoreFull), connect.CodeResourceExhausted, "the store is full: redis"},
		{fmt.Errorf("%w: store is down", soracache.ErrUnavailable), connect.CodeUnavailable, "store is down"},
		{fmt.Errorf("store: %w: timeout", soracache.ErrUnavailable), connect.CodeUnavailable, "store: unavailable: timeout"},
		{fmt.Errorf("%w: %w", soracache.ErrUnavailable, context.DeadlineExceeded), connect.CodeUnavailable, "context deadline exceeded"},
		{fmt.Errorf("%w: later", soracache.ErrUnimplemented), connect.CodeUnimplemented, "later"},
		{soracache.ErrUnauthenticated, connect.CodeUnauthenticated, "unauthenticated"},
		{fmt.Errorf("%w: not yours", soracache.ErrPermissionDenied), connect.CodePermissionDenied, "not yours"},
		{context.DeadlineExceeded, connect.CodeDeadlineExceeded, "context deadline exceeded"},
		{fmt.Errorf("reading: %w", context.Canceled), connect.CodeCanceled, "reading: context canceled"},
		{errors.New("the password is hunter2"), connect.CodeInternal, "internal error"},
	} {
		n := newFakeNode()
		n.onGet = func(_ context.Context, r soracache.GetRequest) ([]soracache.ReadResult, error) {
			if len(r.Reads) == 1 {
				return nil, c.err
			}
			return []soracache.ReadResult{{Err: c.err}, {Status: soracache.StatusMiss}}, nil
		}
		n.onWrite = func(context.Context, soracache.WriteRequest) ([]soracache.WriteResult, error) {
			return []soracache.WriteResult{{Err: c.err}}, nil
		}
		s := serve(t, server.Config{}, n, server.Hooks{})
		check := func(what string, err error) {
			t.Helper()
			var coded *connect.Error
			if !errors.As(err, &coded) || coded.Code() != c.code || coded.Message() != c.message {
				t.Errorf("%v, %s: error %v, want %s: %s", c.err, what, err, c.code, c.message)
			}
		}
		_, err := s.cache().Get(t.Context(), &soracachev1.GetRequest{Key: "k"})
		check("Get", err)
		_, err = s.cache().Set(t.Context(), &soracachev1.SetRequest{Key: "k", Ttl: seconds(1)})
		check("Set", err)
		_, err = s.cache().Fill(t.Context(), &soracachev1.FillRequest{Key: "k", Ttl: seconds(1), Lease: make16(1)})
		check("Fill", err)
		_, err = s.cache().Renew(t.Context(), &soracachev1.RenewRequest{Key: "k", Lease: make16(1)})
		check("Renew", err)
		_, err = s.cache().Release(t.Context(), &soracachev1.ReleaseRequest{Key: "k", Lease: make16(1)})
		check("Release", err)
		batch, err := s.cache().BatchGet(t.Context(), &soracachev1.BatchGetRequest{Keys: []string{"a", "b"}})
		if err != nil || len(batch.Results) != 2 {
			t.Errorf("%v: batch %v, error %v", c.err, batch, err)
			continue
		}
		if e := batch.Results[0].GetError(); e.GetCode() != c.code.String() || e.GetMessage() != c.message {
			t.Errorf("%v: batch error %v, want %s: %s", c.err, e, c.code, c.message)
		}
		if batch.Results[1].GetStatus() != soracachev1.Status_STATUS_MISS {
			t.Errorf("%v: the other item is %v", c.err, batch.Results[1])
		}
	}
}

func TestErrorsOfOtherMethods(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	down := fmt.Errorf("%w: down", soracache.ErrUnavailable)
	n.onWrite = func(context.Context, soracache.WriteRequest) ([]soracache.WriteResult, error) { return nil, down }
	n.onInvalidate = func(context.Context, soracache.InvalidateRequest) (soracache.InvalidateResult, error) {
		return soracache.InvalidateResult{}, down
	}
	n.onHead = func(context.Context, string) (soracache.HeadResult, error) { return soracache.HeadResult{}, down }
	n.onExplain = func(context.Context, string, string) (node.Explanation, error) { return node.Explanation{}, down }
	cache := serve(t, server.Config{}, n, server.Hooks{}).cache()

	_, err := cache.Invalidate(t.Context(), &soracachev1.InvalidateRequest{All: true})
	wantCode(t, err, connect.CodeUnavailable)
	_, err = cache.Head(t.Context(), &soracachev1.HeadRequest{})
	wantCode(t, err, connect.CodeUnavailable)
	_, err = cache.Explain(t.Context(), &soracachev1.ExplainRequest{Key: "k"})
	wantCode(t, err, connect.CodeUnavailable)
	_, err = cache.ListKeys(t.Context(), &soracachev1.ListKeysRequest{Tag: "t", PageToken: "nonsense"})
	wantCode(t, err, connect.CodeInvalidArgument)
	_, err = cache.BatchSet(t.Context(), &soracachev1.BatchSetRequest{Sets: []*soracachev1.SetRequest{{Key: "k", Ttl: seconds(1)}}})
	wantCode(t, err, connect.CodeUnavailable)
	_, err = cache.BatchFill(t.Context(), &soracachev1.BatchFillRequest{
		Fills: []*soracachev1.FillRequest{{Key: "k", Ttl: seconds(1), Lease: make16(1)}},
	})
	wantCode(t, err, connect.CodeUnavailable)
}

func TestWrites(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	s := serve(t, server.Config{}, n, server.Hooks{})
	cache := s.cache()
	lease := fakeLease("k")

	filled, err := cache.Fill(t.Context(), &soracachev1.FillRequest{
		Namespace: "shop", Key: "k", Lease: lease[:], Value: []byte("v"), Tags: []string{"b", "a"},
		Ttl: seconds(60), Keep: seconds(120), L1Ttl: seconds(5), Kind: soracachev1.Kind_KIND_ERROR, Encoding: "raw", Etag: "e",
	})
	if err != nil || !filled.Stored || len(filled.Stamp) == 0 {
		t.Fatalf("fill: %v, error %v", filled, err)
	}
	want := soracache.Write{
		Op: soracache.OpFill, Key: "k", Lease: lease,
		Entry: soracache.Entry{
			Value: []byte("v"), Tags: []string{"a", "b"}, Kind: soracache.KindError, Encoding: "raw", ETag: "e",
		},
		Lifetime: soracache.Lifetime{TTL: time.Minute, Keep: 2 * time.Minute, L1: 5 * time.Second},
	}
	if got := n.lastWrite(); got.Namespace != "shop" || !reflect.DeepEqual(got.Writes, []soracache.Write{want}) {
		t.Errorf("the node was asked for %+v, want %+v", got, want)
	}

	renewed, err := cache.Renew(t.Context(), &soracachev1.RenewRequest{Key: "k", Lease: lease[:], LeaseFor: seconds(30)})
	if err != nil || !renewed.Held || renewed.LeaseFor.AsDuration() != 30*time.Second {
		t.Errorf("renew: %v, error %v", renewed, err)
	}
	if got := n.lastWrite().Writes[0]; got.Op != soracache.OpRenew || got.LeaseFor != 30*time.Second {
		t.Errorf("the node was asked for %+v", got)
	}
	released, err := cache.Release(t.Context(), &soracachev1.ReleaseRequest{
		Key: "k", Lease: lease[:], Outcome: soracachev1.LoadOutcome_LOAD_OUTCOME_NOT_STORABLE,
	})
	if err != nil || !released.Released {
		t.Errorf("release: %v, error %v", released, err)
	}
	if got := n.lastWrite().Writes[0]; got.Op != soracache.OpRelease || got.Lease != lease || got.Outcome != soracache.LoadNotStorable {
		t.Errorf("the node was asked for %+v", got)
	}
}

// A lease that is not held any more is no error.
func TestLostLeasesAreAnswers(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.onWrite = func(_ context.Context, r soracache.WriteRequest) ([]soracache.WriteResult, error) {
		results := make([]soracache.WriteResult, len(r.Writes))
		for i, w := range r.Writes {
			results[i].Reason = soracache.ReasonLeaseLost
			if w.Op == soracache.OpFill {
				results[i].Reason = soracache.ReasonSuperseded
				results[i].SupersededBy = soracache.Record{Targets: []soracache.Target{soracache.Tag("products"), soracache.Everything()}}
			}
		}
		return results, nil
	}
	cache := serve(t, server.Config{}, n, server.Hooks{}).cache()
	fill := &soracachev1.FillRequest{Key: "k", Lease: make16(1), Ttl: seconds(1)}
	filled, err := cache.Fill(t.Context(), fill)
	if err != nil || filled.Stored || filled.Reason != soracachev1.Reason_REASON_SUPERSEDED ||
		!slices.Equal(filled.SupersededBy, []string{"tag:products", "everything"}) {
		t.Errorf("fill: %v, error %v", filled, err)
	}
	batch, err := cache.BatchFill(t.Context(), &soracachev1.BatchFillRequest{Fills: []*soracachev1.FillRequest{fill, fill}})
	if err != nil || len(batch.Results) != 2 || batch.Results[1].String() != filled.String() {
		t.Errorf("batch: %v, error %v", batch, err)
	}
	renewed, err := cache.Renew(t.Context(), &soracachev1.RenewRequest{Key: "k", Lease: make16(1)})
	if err != nil || renewed.Held || renewed.Reason != soracachev1.Reason_REASON_LEASE_LOST || renewed.LeaseFor != nil {
		t.Errorf("renew: %v, error %v", renewed, err)
	}
	released, err := cache.Release(t.Context(), &soracachev1.ReleaseRequest{Key: "k", Lease: make16(1)})
	if err != nil || released.Released || released.Reason != soracachev1.Reason_REASON_LEASE_LOST {
		t.Errorf("release: %v, error %v", released, err)
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	s := serve(t, server.Config{}, n, server.Hooks{})
	cache := s.cache()

	set, err := cache.BatchSet(t.Context(), &soracachev1.BatchSetRequest{Namespace: "shop", Sets: []*soracachev1.SetRequest{
		{Key: "a", Value: []byte("1"), Ttl: seconds(1)},
		{Key: ""},
		{Namespace: "shop", Key: "b", Value: []byte("2"), Ttl: seconds(1)},
		{Key: "a", Value: []byte("3"), Ttl: seconds(1)},
	}})
	if err != nil || len(set.Results) != 4 || set.Results[1].GetError() == nil || set.Results[3].GetError() != nil {
		t.Fatalf("set: %v, error %v", set, err)
	}
	if stamp, _ := soracache.DecodeStamps(set.Stamp); len(stamp) != 1 || stamp[0].Stamp.Position != 103 {
		t.Errorf("together: %v", stamp)
	}
	if got := n.lastWrite(); got.Namespace != "shop" || len(got.Writes) != 3 {
		t.Errorf("the node was asked for %+v", got)
	}

	// Results come in the order of the keys, also of one that is asked twice
	// and of one that is not valid.
	got, err := cache.BatchGet(t.Context(), &soracachev1.BatchGetRequest{
		Namespace: "shop", Keys: []string{"b", "", "a", "gone", "b"}, Lease: true, Wait: seconds(2),
	})
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, r := range got.Results {
		values = append(values, r.GetStatus().String()+string(r.GetValue())+r.GetError().GetCode())
	}
	want := []string{"STATUS_HIT2", "STATUS_UNSPECIFIEDinvalid_argument", "STATUS_HIT3", "STATUS_MISS", "STATUS_HIT2"}
	if !slices.Equal(values, want) {
		t.Errorf("results %v, want %v", values, want)
	}
	if lease := fakeLease("gone"); string(got.Results[3].Lease) != string(lease[:]) {
		t.Errorf("lease %x", got.Results[3].Lease)
	}
	for _, read := range n.lastGet().Reads {
		if !read.Lease || read.Wait != 2*time.Second {
			t.Errorf("read %+v", read)
		}
	}
}

// An empty batch has an empty answer, and one of only bad items does not
// trouble the node.
func TestBatchesOfNothing(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	cache := serve(t, server.Config{}, n, server.Hooks{}).cache()
	if got, err := cache.BatchGet(t.Context(), &soracachev1.BatchGetRequest{}); err != nil || len(got.Results) != 0 {
		t.Errorf("get: %v, error %v", got, err)
	}
	if got, err := cache.BatchSet(t.Context(), &soracachev1.BatchSetRequest{}); err != nil || len(got.Results) != 0 {
		t.Errorf("set: %v, error %v", got, err)
	}
	if got, err := cache.BatchFill(t.Context(), &soracachev1.BatchFillRequest{}); err != nil || len(got.Results) != 0 {
		t.Errorf("fill: %v, error %v", got, err)
	}
	if got, err := cache.BatchGet(t.Context(), &soracachev1.BatchGetRequest{Keys: []string{"", ""}}); err != nil || len(got.Results) != 2 {
		t.Errorf("get: %v, error %v", got, err)
	}
	if n.touched() != 0 {
		t.Errorf("the node was asked %d times", n.touched())
	}
}

// TestBatchGetEndsEarly: an answer over the limit stops, the keys from there
// on can be asked for again, and the leases among them are free to be taken.
func TestBatchGetEndsEarly(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	var keys []string
	for i := range 10 {
		key := fmt.Sprintf("k%d", i)
		keys = append(keys, key)
		if i != 6 && i != 8 { // misses, with leases
			n.entries["default/"+key] = soracache.Write{Entry: soracache.Entry{Value: make([]byte, 1000)}}
		}
	}
	s := serve(t, server.Config{AnswerBytes: 5200}, n, server.Hooks{})
	got, err := s.cache().BatchGet(t.Context(), &soracachev1.BatchGetRequest{Keys: keys, Lease: true})
	if err != nil || len(got.Results) != 4 {
		t.Fatalf("%d results, error %v, want 4", len(got.Results), err)
	}
	released := n.lastWrite()
	var names []string
	for _, w := range released.Writes {
		if w.Op != soracache.OpRelease || w.Lease != fakeLease(w.Key) {
			t.Errorf("released %+v", w)
		}
		names = append(names, w.Key)
	}
	if !slices.Equal(names, []string{"k6", "k8"}) || released.Namespace != "default" {
		t.Errorf("released %v of %q, want k6 and k8", names, released.Namespace)
	}
	// Asking again from there on comes to an end.
	asked, rounds := len(got.Results), 1
	for asked < len(keys) {
		got, err = s.cache().BatchGet(t.Context(), &soracachev1.BatchGetRequest{Keys: keys[asked:]})
		if err != nil || len(got.Results) == 0 {
			t.Fatalf("%d results, error %v", len(got.Results), err)
		}
		asked += len(got.Results)
		rounds++
	}
	if asked != len(keys) || rounds != 2 {
		t.Errorf("%d keys in %d rounds, want 10 in 2", asked, rounds)
	}
}

func TestBatchGetAnswersAtLeastOne(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.entries["default/big"] = soracache.Write{Entry: soracache.Entry{Value: make([]byte, 100<<10)}}
	s := serve(t, server.Config{AnswerBytes: 1 << 10}, n, server.Hooks{})
	for _, option := range []connect.ClientOption{connect.WithGRPCWeb(), connect.WithProtoJSON()} {
		got, err := s.cache(option).BatchGet(t.Context(), &soracachev1.BatchGetRequest{Keys: []string{"big", "big"}})
		if err != nil || len(got.Results) != 1 || len(got.Results[0].Value) != 100<<10 {
			t.Errorf("%d results, error %v, want the big one", len(got.GetResults()), err)
		}
	}
}

func TestInvalidate(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	cache := serve(t, server.Config{}, n, server.Hooks{}).cache()
	got, err := cache.Invalidate(t.Context(), &soracachev1.InvalidateRequest{
		Namespace: "shop", Keys: []string{"k", "k"}, Tags: []string{"t"}, All: true, Settle: durationpb.New(soracache.MaxSettle),
	})
	if err != nil || len(got.Stamp) == 0 {
		t.Fatalf("%v, error %v", got, err)
	}
	want := soracache.InvalidateRequest{Namespace: "shop", Targets: []soracache.Target{
		soracache.Key("k"), soracache.Key("k"), soracache.Tag("t"), soracache.Everything(),
	}, Settle: soracache.MaxSettle}
	if !reflect.DeepEqual(n.invalidations[0], want) {
		t.Errorf("the node was asked for %+v, want %+v", n.invalidations[0], want)
	}
}

func TestListKeys(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	for i := range 5 {
		n.entries[fmt.Sprintf("k%d", i)] = soracache.Write{Entry: soracache.Entry{Tags: []string{"t"}}}
	}
	cache := serve(t, server.Config{}, n, server.Hooks{}).cache()
	var keys []string
	request := &soracachev1.ListKeysRequest{Namespace: "shop", Tag: "t", PageSize: 2}
	for {
		page, err := cache.ListKeys(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, page.Keys...)
		if request.PageToken = page.NextPageToken; request.PageToken == "" {
			break
		}
	}
	if !slices.Equal(keys, []string{"k0", "k1", "k2", "k3", "k4"}) {
		t.Errorf("keys %v", keys)
	}
	want := []listing{{"shop", "t", "", 2}, {"shop", "t", "2", 2}, {"shop", "t", "4", 2}}
	if !slices.Equal(n.listings, want) {
		t.Errorf("the node was asked for %v, want %v", n.listings, want)
	}
	for size, limit := range map[int32]int{0: 100, 1000: 1000} {
		if _, err := cache.ListKeys(t.Context(), &soracachev1.ListKeysRequest{Tag: "t", PageSize: size}); err != nil {
			t.Error(err)
		}
		if got := n.listings[len(n.listings)-1].limit; got != limit {
			t.Errorf("page size %d asked for %d, want %d", size, got, limit)
		}
	}
}

func TestExplainAndHead(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.onExplain = func(_ context.Context, namespace, key string) (node.Explanation, error) {
		return node.Explanation{
			Status: soracache.StatusMiss, Reason: "killed: " + namespace + "/" + key, Partition: 2,
			Ledger: soracache.Stamp{Epoch: 1<<52 - 1, Position: 1<<53 - 1}, Applied: 9, ConfirmedAgo: -1,
			L1: node.Copy{
				Present: true, Reason: "named by a record", Stamp: soracache.Stamp{Epoch: 1, Position: 2},
				KilledBy: soracache.Record{Position: 3, Targets: []soracache.Target{soracache.Tag("t")}},
				Tags:     []string{"t"}, FreshFor: -time.Second, KeepFor: time.Second, ValueBytes: 5, Encoding: "json", Kind: soracache.KindError,
			},
			Leased: true, LeaseFor: time.Second,
		}, nil
	}
	cache := serve(t, server.Config{}, n, server.Hooks{}).cache()
	got, err := cache.Explain(t.Context(), &soracachev1.ExplainRequest{Namespace: "shop", Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	want := &soracachev1.ExplainResponse{
		Status: soracachev1.Status_STATUS_MISS, Reason: "killed: shop/k", Partition: 2,
		Epoch: 1<<52 - 1, Head: 1<<53 - 1, Applied: 9, Leased: true, LeaseFor: seconds(1),
		L1: &soracachev1.ExplainResponse_Copy{
			Present: true, Reason: "named by a record", Epoch: 1, Position: 2, KilledByPosition: 3, KilledByTargets: []string{"tag:t"},
			Tags: []string{"t"}, FreshFor: seconds(-1), KeepFor: seconds(1), ValueBytes: 5, Encoding: "json", Kind: soracachev1.Kind_KIND_ERROR,
		},
		L2: &soracachev1.ExplainResponse_Copy{},
	}
	if got.String() != want.String() {
		t.Errorf("explain:\n%v\nwant\n%v", got, want)
	}
	head, err := cache.Head(t.Context(), &soracachev1.HeadRequest{})
	if err != nil || head.Age.AsDuration() != 20*time.Millisecond || len(head.Stamp) == 0 {
		t.Errorf("head: %v, error %v", head, err)
	}
}

// The leases of an answer that nobody gets are handed back: the caller's time was
// over when the node had answered, or the caller had gone.
func TestLeasesOfAnswersThatNobodyGets(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(ctx context.Context, s *service) error{
		"one": func(ctx context.Context, s *service) error {
			_, err := s.cache().Get(ctx, &soracachev1.GetRequest{Key: "a", Lease: true})
			return err
		},
		"many": func(ctx context.Context, s *service) error {
			_, err := s.cache().BatchGet(ctx, &soracachev1.BatchGetRequest{Keys: []string{"a", "b"}, Lease: true})
			return err
		},
	} {
		for _, end := range []string{"time is over", "gone"} {
			t.Run(name+", "+end, func(t *testing.T) {
				n := newFakeNode()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if end == "time is over" {
					ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
					defer cancel()
				}
				released := make(chan []soracache.Write, 1)
				n.onWrite = func(_ context.Context, req soracache.WriteRequest) ([]soracache.WriteResult, error) {
					released <- req.Writes
					return make([]soracache.WriteResult, len(req.Writes)), nil
				}
				n.onGet = func(ctx context.Context, req soracache.GetRequest) (results []soracache.ReadResult, err error) {
					if end == "gone" {
						cancel()
					}
					<-ctx.Done()
					for _, r := range req.Reads {
						results = append(results, soracache.ReadResult{Status: soracache.StatusMiss, Lease: fakeLease(r.Key), LeaseState: soracache.LeaseGranted})
					}
					return results, nil
				}
				s := serve(t, server.Config{}, n, server.Hooks{})
				if err := ask(ctx, s); err == nil {
					t.Error("there was an answer")
				}
				var writes []soracache.Write
				select {
				case writes = <-released:
				case <-time.After(10 * time.Second):
					t.Fatal("no lease was handed back")
				}
				for i, w := range writes {
					if key := []string{"a", "b"}[i]; w.Op != soracache.OpRelease || w.Key != key || w.Lease != fakeLease(key) {
						t.Errorf("released %+v", w)
					}
				}
			})
		}
	}
}
