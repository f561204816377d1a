package cluster_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/internal/cluster"
	"github.com/soracache/soracache/client/internal/cluster/rpc"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
	"github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// scripted is the service's side of the wire, one function an RPC.
type scripted struct {
	soracachev1connect.UnimplementedCacheServiceHandler
	get        func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error)
	batchGet   func(*cachev1.BatchGetRequest) (*cachev1.BatchGetResponse, error)
	fill       func(*cachev1.FillRequest) (*cachev1.FillResponse, error)
	batchFill  func(*cachev1.BatchFillRequest) (*cachev1.BatchFillResponse, error)
	batchSet   func(*cachev1.BatchSetRequest) (*cachev1.BatchSetResponse, error)
	renew      func(*cachev1.RenewRequest) (*cachev1.RenewResponse, error)
	release    func(*cachev1.ReleaseRequest) (*cachev1.ReleaseResponse, error)
	put        func(*cachev1.SetRequest) (*cachev1.SetResponse, error)
	invalidate func(*cachev1.InvalidateRequest) (*cachev1.InvalidateResponse, error)
	head       func(*cachev1.HeadRequest) (*cachev1.HeadResponse, error)
}

func (s *scripted) Get(ctx context.Context, r *cachev1.GetRequest) (*cachev1.GetResponse, error) {
	return s.get(ctx, r)
}

func (s *scripted) BatchGet(_ context.Context, r *cachev1.BatchGetRequest) (*cachev1.BatchGetResponse, error) {
	return s.batchGet(r)
}

func (s *scripted) Fill(_ context.Context, r *cachev1.FillRequest) (*cachev1.FillResponse, error) {
	return s.fill(r)
}

func (s *scripted) BatchFill(_ context.Context, r *cachev1.BatchFillRequest) (*cachev1.BatchFillResponse, error) {
	return s.batchFill(r)
}

func (s *scripted) BatchSet(_ context.Context, r *cachev1.BatchSetRequest) (*cachev1.BatchSetResponse, error) {
	return s.batchSet(r)
}

func (s *scripted) Renew(_ context.Context, r *cachev1.RenewRequest) (*cachev1.RenewResponse, error) {
	return s.renew(r)
}

func (s *scripted) Release(_ context.Context, r *cachev1.ReleaseRequest) (*cachev1.ReleaseResponse, error) {
	return s.release(r)
}

func (s *scripted) Set(_ context.Context, r *cachev1.SetRequest) (*cachev1.SetResponse, error) {
	return s.put(r)
}

func (s *scripted) Invalidate(_ context.Context, r *cachev1.InvalidateRequest) (*cachev1.InvalidateResponse, error) {
	return s.invalidate(r)
}

func (s *scripted) Head(_ context.Context, r *cachev1.HeadRequest) (*cachev1.HeadResponse, error) {
	return s.head(r)
}

// listen serves a script and returns its URL.
func listen(t *testing.T, s *scripted) string {
	t.Helper()
	srv := httptest.NewServer(handler(s))
	t.Cleanup(srv.Close)
	return srv.URL
}

func handler(s *scripted) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(soracachev1connect.NewCacheServiceHandler(s))
	return mux
}

func dial(t *testing.T, url string, opts ...client.DialOption) *client.Client {
	t.Helper()
	c, err := client.Dial(strings.Split(url, ","), append([]client.DialOption{client.Logger(nil)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func stamps(position soracache.Position) soracache.Stamps {
	return soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 7, Position: position}}}
}

// asked checks a request against what it should be.
func asked(t *testing.T, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("asked %v\nwant  %v", got, want)
	}
}

func TestRPCs(t *testing.T) {
	ctx, lease := t.Context(), soracache.Lease{1, 2, 3}
	entry := soracache.Entry{Value: []byte("v"), Tags: []string{"a", "b"}, Encoding: "json", ETag: "e"}
	lifetime := soracache.Lifetime{TTL: time.Minute, Keep: time.Hour, L1: time.Second}

	t.Run("a read and its answer", func(t *testing.T) {
		b := remote(t, &scripted{get: func(_ context.Context, r *cachev1.GetRequest) (*cachev1.GetResponse, error) {
			asked(t, r, &cachev1.GetRequest{
				Namespace: "shop", Key: "k", MinStamp: stamps(5).Encode(), Lease: true, Wait: durationpb.New(time.Second),
				RefreshWithin: durationpb.New(2 * time.Second), LeaseFor: durationpb.New(3 * time.Second), AcceptUnconfirmed: true,
				Holder: 8, Schema: "s/1",
			})
			return &cachev1.GetResponse{
				InSchema: true,
				Status:   cachev1.Status_STATUS_STALE, Value: []byte("v"), Tags: []string{"a", "b"}, Encoding: "json", Etag: "e",
				Stamp: stamps(9).Encode(), FreshFor: durationpb.New(-time.Second), KeepFor: durationpb.New(time.Minute),
				Lease: lease[:], LeaseFor: durationpb.New(10 * time.Second), Tier: cachev1.Tier_TIER_L1, Unconfirmed: true,
				LeaseState: cachev1.LeaseState_LEASE_STATE_GRANTED,
			}, nil
		}})
		got, err := b.Get(ctx, soracache.GetRequest{
			Namespace: "shop", MinStamp: stamps(5), AcceptUnconfirmed: true,
			Reads: []soracache.Read{{Key: "k", Lease: true, Wait: time.Second, RefreshWithin: 2 * time.Second, LeaseFor: 3 * time.Second, Holder: 8, Schema: "s/1"}},
		})
		want := []soracache.ReadResult{{
			Status: soracache.StatusStale, Entry: entry, Stamp: stamps(9), FreshFor: -time.Second, KeepFor: time.Minute,
			Lease: lease, LeaseFor: 10 * time.Second, Tier: soracache.TierL1, Unconfirmed: true, LeaseState: soracache.LeaseGranted,
		}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
		}
	})

	t.Run("a node that knows nothing of schemas", func(t *testing.T) {
		var released []string
		b := remote(t, &scripted{
			get: func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error) {
				return &cachev1.GetResponse{Status: cachev1.Status_STATUS_MISS, Lease: lease[:], LeaseState: cachev1.LeaseState_LEASE_STATE_GRANTED}, nil
			},
			batchGet: func(*cachev1.BatchGetRequest) (*cachev1.BatchGetResponse, error) {
				hit := &cachev1.GetResponse{Status: cachev1.Status_STATUS_HIT, Value: []byte("another's")}
				return &cachev1.BatchGetResponse{Results: []*cachev1.GetResponse{hit, hit}}, nil
			},
			release: func(r *cachev1.ReleaseRequest) (*cachev1.ReleaseResponse, error) {
				released = append(released, r.Schema+"/"+r.Key)
				return &cachev1.ReleaseResponse{Released: true}, nil
			},
		})
		for n := 1; n <= 2; n++ {
			reads := []soracache.Read{{Key: "k", Schema: "s", Lease: true}, {Key: "l", Schema: "s", Lease: true}}
			results, err := b.Get(ctx, soracache.GetRequest{Reads: reads[:n]})
			if !errors.Is(err, soracache.ErrUnavailable) {
				t.Errorf("%d reads: %+v, %v", n, results, err)
			}
		}
		// It may be asked once more. What it gave was the lease of the default schema.
		if len(released) == 0 || strings.Trim(strings.Join(released, ""), "/k") != "" {
			t.Errorf("handed back: %q", released)
		}
	})

	t.Run("writes", func(t *testing.T) {
		b := remote(t, &scripted{
			fill: func(r *cachev1.FillRequest) (*cachev1.FillResponse, error) {
				asked(t, r, &cachev1.FillRequest{
					Namespace: "shop", Key: "k", Schema: "s/1", Lease: lease[:], Value: []byte("v"), Tags: []string{"a", "b"}, Encoding: "json", Etag: "e",
					Ttl: durationpb.New(time.Minute), Keep: durationpb.New(time.Hour), L1Ttl: durationpb.New(time.Second),
				})
				return &cachev1.FillResponse{
					Reason: cachev1.Reason_REASON_SUPERSEDED, Stamp: stamps(9).Encode(), SupersededBy: []string{"tag:a:b", "key:k", "everything", "?"},
				}, nil
			},
			put: func(r *cachev1.SetRequest) (*cachev1.SetResponse, error) {
				asked(t, r, &cachev1.SetRequest{
					Namespace: "shop", Key: "k", Schema: "s/1", Value: []byte("v"), Tags: []string{"a", "b"}, Encoding: "json", Etag: "e",
					Ttl: durationpb.New(time.Minute), Keep: durationpb.New(time.Hour), L1Ttl: durationpb.New(time.Second),
				})
				return &cachev1.SetResponse{Stamp: stamps(10).Encode()}, nil
			},
			renew: func(r *cachev1.RenewRequest) (*cachev1.RenewResponse, error) {
				asked(t, r, &cachev1.RenewRequest{Namespace: "shop", Key: "k", Schema: "s/1", Lease: lease[:], LeaseFor: durationpb.New(time.Minute)})
				return &cachev1.RenewResponse{Held: true, LeaseFor: durationpb.New(time.Minute), Stamp: stamps(11).Encode()}, nil
			},
			release: func(r *cachev1.ReleaseRequest) (*cachev1.ReleaseResponse, error) {
				asked(t, r, &cachev1.ReleaseRequest{
					Namespace: "shop", Key: "k", Schema: "s/1", Lease: lease[:], Outcome: cachev1.LoadOutcome_LOAD_OUTCOME_FAILED,
				})
				return &cachev1.ReleaseResponse{Reason: cachev1.Reason_REASON_LEASE_LOST, Stamp: stamps(12).Encode()}, nil
			},
		})
		writes := []soracache.Write{
			{Op: soracache.OpFill, Key: "k", Schema: "s/1", Lease: lease, Entry: entry, Lifetime: lifetime},
			{Op: soracache.OpPut, Key: "k", Schema: "s/1", Entry: entry, Lifetime: lifetime},
			{Op: soracache.OpRenew, Key: "k", Schema: "s/1", Lease: lease, LeaseFor: time.Minute},
			{Op: soracache.OpRelease, Key: "k", Schema: "s/1", Lease: lease, Outcome: soracache.LoadFailed},
		}
		want := []soracache.WriteResult{
			{Reason: soracache.ReasonSuperseded, Stamp: stamps(9), SupersededBy: soracache.Record{
				Targets: []soracache.Target{soracache.Tag("a:b"), soracache.Key("k"), soracache.Everything()},
			}},
			{Stored: true, Stamp: stamps(10)},
			{Stored: true, Stamp: stamps(11), LeaseFor: time.Minute},
			{Reason: soracache.ReasonLeaseLost, Stamp: stamps(12)},
		}
		for i, w := range writes {
			got, err := b.Write(ctx, soracache.WriteRequest{Namespace: "shop", Writes: []soracache.Write{w}})
			if err != nil || !reflect.DeepEqual(got, want[i:i+1]) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, want[i])
			}
		}
		got, err := b.Write(ctx, soracache.WriteRequest{Namespace: "shop", Writes: writes})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("together: got  %+v, %v\nwant %+v", got, err, want)
		}
		if _, err := b.Write(ctx, soracache.WriteRequest{Writes: []soracache.Write{{}}}); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("a write of no kind: %v", err)
		}
	})

	t.Run("invalidate and head", func(t *testing.T) {
		b := remote(t, &scripted{
			invalidate: func(r *cachev1.InvalidateRequest) (*cachev1.InvalidateResponse, error) {
				asked(t, r, &cachev1.InvalidateRequest{Namespace: "shop", Keys: []string{"k"}, Tags: []string{"a", "b"}, All: true, Acknowledge: true, Settle: durationpb.New(time.Second)})
				return &cachev1.InvalidateResponse{Stamp: stamps(9).Encode()}, nil
			},
			head: func(*cachev1.HeadRequest) (*cachev1.HeadResponse, error) {
				return &cachev1.HeadResponse{Stamp: stamps(9).Encode(), Age: durationpb.New(time.Second)}, nil
			},
		})
		inv, err := b.Invalidate(ctx, soracache.InvalidateRequest{
			Namespace: "shop", Acknowledge: true, Settle: time.Second,
			Targets: []soracache.Target{soracache.Tag("a"), soracache.Key("k"), soracache.Everything(), soracache.Tag("b")},
		})
		if err != nil || !reflect.DeepEqual(inv.Stamp, stamps(9)) {
			t.Errorf("got %v, %v", inv, err)
		}
		head, err := b.Head(ctx, "shop")
		if err != nil || !reflect.DeepEqual(head, soracache.HeadResult{Stamp: stamps(9), Age: time.Second}) {
			t.Errorf("got %v, %v", head, err)
		}
	})
}

func TestBatchesOfReads(t *testing.T) {
	var batches [][]string
	b := remote(t, &scripted{
		batchGet: func(r *cachev1.BatchGetRequest) (*cachev1.BatchGetResponse, error) {
			batches = append(batches, r.Keys)
			res := &cachev1.BatchGetResponse{}
			for _, k := range r.Keys[:min(2, len(r.Keys))] { // the answer is full after two
				a := &cachev1.GetResponse{Status: cachev1.Status_STATUS_HIT, Value: []byte(k)}
				if k == "bad" {
					a = &cachev1.GetResponse{Error: &cachev1.BatchError{Code: "invalid_argument", Message: "no"}}
				}
				if k == "strange" {
					a = &cachev1.GetResponse{Status: 99}
				}
				res.Results = append(res.Results, a)
			}
			if r.Keys[0] == "fails" {
				return nil, connect.NewError(connect.CodeUnavailable, errors.New("down"))
			}
			return res, nil
		},
	})
	read := func(wait time.Duration, keys ...string) (reads []soracache.Read) {
		for _, k := range keys {
			reads = append(reads, soracache.Read{Key: k, Wait: wait})
		}
		return reads
	}
	values := func(results []soracache.ReadResult) (vs []string) {
		for _, r := range results {
			if r.Err != nil {
				vs = append(vs, "!"+strings.SplitN(r.Err.Error(), ":", 2)[0])
				continue
			}
			vs = append(vs, string(r.Entry.Value))
		}
		return vs
	}
	tests := []struct {
		name    string
		reads   []soracache.Read
		batches [][]string
		want    []string
		err     error
	}{
		{"nothing", nil, nil, nil, nil},
		{"what an answer had no room for is asked again", read(0, "a", "b", "c", "d", "e"), [][]string{{"a", "b", "c", "d", "e"}, {"c", "d", "e"}, {"e"}}, []string{"a", "b", "c", "d", "e"}, nil},
		{"one bad key does not fail its neighbours", read(0, "a", "bad", "strange", "c"), [][]string{{"a", "bad", "strange", "c"}, {"strange", "c"}}, []string{"a", "!invalid argument", "!unavailable", "c"}, nil},
		{"only reads that ask alike travel together", append(read(0, "a", "b"), read(1, "c", "d")...), [][]string{{"a", "b"}, {"c", "d"}}, []string{"a", "b", "c", "d"}, nil},
		{"one part fails", append(read(0, "a", "b"), read(1, "fails", "d")...), [][]string{{"a", "b"}, {"fails", "d"}}, []string{"a", "b", "!unavailable", "!unavailable"}, nil},
		{"all fails", read(0, "fails", "b"), [][]string{{"fails", "b"}}, nil, soracache.ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			batches = nil
			got, err := b.Get(t.Context(), soracache.GetRequest{Namespace: "shop", Reads: tt.reads})
			if !errors.Is(err, tt.err) || !slices.Equal(values(got), tt.want) || !reflect.DeepEqual(batches, tt.batches) {
				t.Errorf("got %q, %v in %q", values(got), err, batches)
			}
		})
	}
}

func TestBatchesOfWrites(t *testing.T) {
	b := remote(t, &scripted{
		batchFill: func(r *cachev1.BatchFillRequest) (*cachev1.BatchFillResponse, error) {
			if r.Namespace != "shop" || r.Fills[0].Namespace != "" {
				t.Errorf("namespaces %q, %q", r.Namespace, r.Fills[0].Namespace)
			}
			res := &cachev1.BatchFillResponse{}
			for _, f := range r.Fills {
				a := &cachev1.FillResponse{Stored: true}
				if f.Key == "bad" {
					a = &cachev1.FillResponse{Error: &cachev1.BatchError{Code: "resource_exhausted", Message: "huge"}}
				}
				res.Results = append(res.Results, a)
			}
			return res, nil
		},
		batchSet: func(r *cachev1.BatchSetRequest) (*cachev1.BatchSetResponse, error) {
			if r.Sets[0].Key == "short" {
				return &cachev1.BatchSetResponse{}, nil
			}
			return nil, connect.NewError(connect.CodePermissionDenied, errors.New("no"))
		},
	})
	write := func(op soracache.WriteOp, keys ...string) (ws []soracache.Write) {
		for _, k := range keys {
			ws = append(ws, soracache.Write{Op: op, Key: k})
		}
		return ws
	}
	got, err := b.Write(t.Context(), soracache.WriteRequest{
		Namespace: "shop",
		Writes:    append(write(soracache.OpFill, "a", "bad", "c"), write(soracache.OpPut, "d", "e")...),
	})
	if err != nil || len(got) != 5 {
		t.Fatalf("got %v, %v", got, err)
	}
	for i, want := range []error{nil, soracache.ErrTooLarge, nil, soracache.ErrPermissionDenied, soracache.ErrPermissionDenied} {
		if !errors.Is(got[i].Err, want) || got[i].Stored != (want == nil) {
			t.Errorf("write %d: %+v, want %v", i, got[i], want)
		}
	}
	if _, err := b.Write(t.Context(), soracache.WriteRequest{Writes: write(soracache.OpPut, "short", "b")}); !errors.Is(err, soracache.ErrUnavailable) {
		t.Errorf("too few answers: %v", err)
	}
}

func TestCodesBecomeSentinels(t *testing.T) {
	var code connect.Code
	b := remote(t, &scripted{get: func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error) {
		return nil, connect.NewError(code, errors.New("particulars"))
	}})
	for c, want := range map[connect.Code]error{
		connect.CodeInvalidArgument:   soracache.ErrInvalid,
		connect.CodeResourceExhausted: soracache.ErrTooLarge,
		connect.CodeUnavailable:       soracache.ErrUnavailable,
		connect.CodeDeadlineExceeded:  soracache.ErrUnavailable,
		connect.CodeInternal:          soracache.ErrUnavailable,
		connect.CodeUnknown:           soracache.ErrUnavailable,
		connect.CodeUnimplemented:     soracache.ErrUnimplemented,
		connect.CodeUnauthenticated:   soracache.ErrUnauthenticated,
		connect.CodePermissionDenied:  soracache.ErrPermissionDenied,
	} {
		code = c
		_, err := b.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "particulars") {
			t.Errorf("%s: got %v, want %v", c, err, want)
		}
	}
}

// A full store has no code of its own, and is told by a detail, or in a batch by
// the item.
func TestFullStoreIsToldFromOtherLimits(t *testing.T) {
	full := cachev1.Refusal_REFUSAL_STORE_FULL
	b := remote(t, &scripted{
		put: func(*cachev1.SetRequest) (*cachev1.SetResponse, error) {
			err := connect.NewError(connect.CodeResourceExhausted, errors.New("particulars"))
			detail, malformed := connect.NewErrorDetail(&cachev1.Refused{Refusal: full})
			if malformed != nil {
				t.Fatal(malformed)
			}
			err.AddDetail(detail)
			return nil, err
		},
		batchSet: func(*cachev1.BatchSetRequest) (*cachev1.BatchSetResponse, error) {
			return &cachev1.BatchSetResponse{Results: []*cachev1.SetResponse{
				{Stamp: stamps(1).Encode()}, {Error: &cachev1.BatchError{Code: "resource_exhausted", Message: "particulars", Refusal: full}},
			}}, nil
		},
	})
	put := soracache.Write{Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte("v")}, Lifetime: soracache.Lifetime{TTL: time.Minute}}
	_, err := b.Write(t.Context(), soracache.WriteRequest{Writes: []soracache.Write{put}})
	if !errors.Is(err, soracache.ErrStoreFull) || errors.Is(err, soracache.ErrUnavailable) || !strings.Contains(err.Error(), "particulars") {
		t.Errorf("one put: %v", err)
	}
	got, err := b.Write(t.Context(), soracache.WriteRequest{Writes: []soracache.Write{put, put}})
	if err != nil || got[0].Err != nil || !errors.Is(got[1].Err, soracache.ErrStoreFull) {
		t.Errorf("two: %+v, %v", got, err)
	}
}

func TestMalformedAnswersAreNotArguments(t *testing.T) {
	for name, answer := range map[string]*cachev1.GetResponse{
		"stamp":   {Status: cachev1.Status_STATUS_HIT, Stamp: []byte("x")},
		"lease":   {Status: cachev1.Status_STATUS_MISS, Lease: []byte("x")},
		"nothing": {},
	} {
		b := remote(t, &scripted{get: func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error) { return answer, nil }})
		_, err := b.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: "k"}}})
		if !errors.Is(err, soracache.ErrUnavailable) || errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBearerToken(t *testing.T) {
	var seen atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer srv.Close()
	_, err := dial(t, srv.URL, client.BearerToken("secret")).Clear(t.Context())
	if seen.Load() != "Bearer secret" || !errors.Is(err, soracache.ErrUnauthenticated) {
		t.Errorf("sent %q, got %v", seen.Load(), err)
	}
	none := errors.New("none")
	noToken := client.BearerTokenFunc(func(context.Context) (string, error) { return "", none })
	if _, err := dial(t, srv.URL, noToken).Clear(t.Context()); !errors.Is(err, soracache.ErrUnauthenticated) || !errors.Is(err, none) {
		t.Errorf("without a token: %v", err)
	}
}

func TestTLS(t *testing.T) {
	var major atomic.Int32
	h := handler(&scripted{invalidate: func(*cachev1.InvalidateRequest) (*cachev1.InvalidateResponse, error) {
		return &cachev1.InvalidateResponse{Stamp: stamps(1).Encode()}, nil
	}})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		major.Store(int32(r.ProtoMajor))
		h.ServeHTTP(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // a client that does not trust it is expected
	srv.StartTLS()
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	if _, err := dial(t, srv.URL, client.TLSConfig(&tls.Config{RootCAs: roots})).Clear(t.Context()); err != nil || major.Load() != 1 {
		t.Errorf("with the authority: %v, over HTTP/%d", err, major.Load())
	}
	if _, err := dial(t, srv.URL, client.HTTPClient(srv.Client())).Clear(t.Context()); err != nil || major.Load() != 2 {
		t.Errorf("with the application's HTTP client: %v, over HTTP/%d", err, major.Load())
	}
	if _, err := dial(t, srv.URL).Clear(t.Context()); !errors.Is(err, soracache.ErrUnavailable) {
		t.Errorf("without the authority: %v", err)
	}
}

// A connection is kept for each of many callers: none opens one for each call.
func TestConnectionsAreKept(t *testing.T) {
	var opened, http1 atomic.Int64
	script := &scripted{get: func(context.Context, *cachev1.GetRequest) (*cachev1.GetResponse, error) {
		return &cachev1.GetResponse{Status: cachev1.Status_STATUS_HIT, Value: []byte("v"), Encoding: "raw"}, nil
	}}
	h := handler(script)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 {
			http1.Add(1)
		}
		h.ServeHTTP(w, r)
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	b := node(t, srv.URL)
	const callers, calls = 64, 20
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range calls {
				rs, err := b.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: strconv.Itoa(i)}}})
				if err != nil || string(rs[0].Entry.Value) != "v" {
					t.Errorf("got %v, %v", rs, err)
				}
			}
		})
	}
	wg.Wait()
	// A dial that loses its race with a freed connection is kept as a spare.
	if n := opened.Load(); n > 4*callers {
		t.Errorf("%d connections for %d callers", n, callers)
	}
	if n := http1.Load(); n != callers*calls {
		t.Errorf("%d of %d requests over HTTP/1.1", n, callers*calls)
	}
}

func TestServiceAbsent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	_ = l.Close()

	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, in the kernel, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()

	notOurs := httptest.NewServer(http.NotFoundHandler())
	defer notOurs.Close()

	for name, url := range map[string]string{
		"nobody listens":       closed,
		"nobody answers":       "http://" + silent.Addr().String(),
		"somebody else's port": notOurs.URL,
	} {
		t.Run(name, func(t *testing.T) {
			failedOpen := 0
			c := dial(t, url, client.WithHooks(client.Hooks{OnFailOpen: func(string, error) { failedOpen++ }}), client.Timeout(100*time.Millisecond))
			start := time.Now()
			v, err := client.GetOrSet(t.Context(), c, "k", returns("v"))
			if v != "v" || err != nil || failedOpen != 1 {
				t.Errorf("got %q, %v, heard %d", v, err, failedOpen)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			if _, _, err := client.Get[string](t.Context(), c, "k"); err == nil {
				t.Error("Get: no error")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := c.Clear(ctx); err == nil {
				t.Error("Clear: no error")
			}
		})
	}
}

func TestCallersEndIsSeenInTheError(t *testing.T) {
	come := make(chan struct{})
	c := dial(t, listen(t, &scripted{get: func(ctx context.Context, _ *cachev1.GetRequest) (*cachev1.GetResponse, error) {
		close(come)
		<-ctx.Done()
		return nil, ctx.Err()
	}}), client.Timeout(time.Minute))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-come
		cancel()
	}()
	if _, _, err := client.Get[string](ctx, c, "k"); !errors.Is(err, context.Canceled) || !errors.Is(err, soracache.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestURLs(t *testing.T) {
	for url, ok := range map[string]bool{
		"http://127.0.0.1:7070":            true,
		"https://cache.example.com/sora/":  true,
		" http://[::1]:7070 ":              true,
		"":                                 false,
		"127.0.0.1:7070":                   false,
		"localhost:7070":                   false,
		"redis://127.0.0.1:6379":           false,
		"http://":                          false,
		"http://user:secret@host":          false,
		"http://host?x=1":                  false,
		"http://host#x":                    false,
		"http://host:port":                 false,
		"http://a:7070,http://b:7070":      true,
		"http://a:7070, https://b:7070":    true,
		"http://a:7070,":                   false,
		"http://a:7070,b:7070":             false,
		"http://127.0.0.1:7070\x00trailer": false,
	} {
		c, err := client.Dial(strings.Split(url, ","))
		if (err == nil) != ok || err != nil && !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%q: %v", url, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
		if c != nil {
			_ = c.Close()
		}
	}
}

func TestOptions(t *testing.T) {
	for name, opt := range map[string]client.DialOption{
		"namespace": client.Namespace("Shop!"),
		"timeout":   client.Timeout(0),
		"transport": func() client.DialOption { return client.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS13}) }(),
	} {
		opts := []client.DialOption{opt}
		if name == "transport" {
			opts = append(opts, client.HTTPClient(http.DefaultClient))
		}
		if _, err := client.Dial([]string{"http://127.0.0.1:1"}, opts...); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// remote returns the backend that a client has for a script.
func remote(t *testing.T, s *scripted) soracache.Backend {
	t.Helper()
	return reach(t, listen(t, s), nil, nil)
}

// Each read of a batch asks for what its own caller has seen, in as few stamps as
// there are different ones; and the batch tells how many partitions there are.
func TestMinStampsOfABatch(t *testing.T) {
	five, six := stamps(5), stamps(6)
	b := remote(t, &scripted{batchGet: func(r *cachev1.BatchGetRequest) (*cachev1.BatchGetResponse, error) {
		asked(t, r, &cachev1.BatchGetRequest{
			Namespace: "shop", Keys: []string{"a", "b", "c", "d"}, MinStamp: stamps(4).Encode(),
			MinStamps: [][]byte{five.Encode(), six.Encode()}, MinStampOf: []uint32{1, 2, 0, 1},
		})
		answer := &cachev1.BatchGetResponse{Partitions: 8}
		for range r.Keys {
			answer.Results = append(answer.Results, &cachev1.GetResponse{Status: cachev1.Status_STATUS_MISS})
		}
		return answer, nil
	}})
	got, err := b.Get(t.Context(), soracache.GetRequest{Namespace: "shop", MinStamp: stamps(4), Reads: []soracache.Read{
		{Key: "a", MinStamp: five}, {Key: "b", MinStamp: six}, {Key: "c"}, {Key: "d", MinStamp: five},
	}})
	if err != nil || len(got) != 4 {
		t.Fatal(got, err)
	}
	for i, r := range got {
		if r.Partitions != 8 {
			t.Errorf("answer %d: one of %d partitions", i, r.Partitions)
		}
	}
}

// reach returns the backend that a client has for a URL.
func reach(t *testing.T, url string, token rpc.Token, onBreaker func(string, bool)) soracache.Backend {
	t.Helper()
	b, end, err := cluster.Dial(cluster.Config{URLs: []string{url}, Token: token, Log: quiet(), OnBreaker: onBreaker})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return b
}

// node returns one node as it is, without what batches and routes.
func node(t *testing.T, url string) soracache.Backend {
	t.Helper()
	h, end := rpc.HTTPClient(nil)
	t.Cleanup(end)
	return rpc.New(h, url, nil)
}

// returns is a loader that answers at once.
func returns(v string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return v, nil }
}
