package server_test

import (
	"reflect"
	"testing"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// Each key of a batch may have a stamp of its own.
func TestBatchGetAsksForEachKeysOwnStamp(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	stamp := func(at soracache.Position) soracache.Stamps {
		return soracache.Stamps{{Partition: 3, Stamp: soracache.Stamp{Epoch: 5, Position: at}}}
	}
	req := func(of ...uint32) *soracachev1.BatchGetRequest {
		return &soracachev1.BatchGetRequest{
			Namespace: "shop", Keys: []string{"a", "b", "c"}, MinStamp: stamp(1).Encode(),
			MinStamps: [][]byte{stamp(2).Encode(), stamp(3).Encode()}, MinStampOf: of,
		}
	}
	reads := func(least ...soracache.Stamps) (reads []soracache.Read) {
		for i, key := range []string{"a", "b", "c"} {
			reads = append(reads, soracache.Read{Key: key, MinStamp: least[i]})
		}
		return reads
	}
	for name, tt := range map[string]struct {
		of   []uint32
		want []soracache.Read
	}{
		"each its own":     {[]uint32{2, 0, 1}, reads(stamp(3), nil, stamp(2))},
		"none has any own": {nil, reads(nil, nil, nil)},
	} {
		if _, err := s.cache().BatchGet(t.Context(), req(tt.of...)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := soracache.GetRequest{Namespace: "shop", MinStamp: stamp(1), Reads: tt.want}
		if got := s.node.lastGet(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the node was asked for %+v\nwant %+v", name, got, want)
		}
	}
	malformed := req(1, 0, 0)
	malformed.MinStamps[0] = []byte("no stamp")
	for name, bad := range map[string]*soracachev1.BatchGetRequest{
		"fewer numbers than keys":         req(1, 2),
		"more numbers than keys":          req(1, 2, 1, 2),
		"the number of a stamp not there": req(1, 3, 0),
		"a stamp that is none":            malformed,
	} {
		if _, err := s.cache().BatchGet(t.Context(), bad); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Stamps take nothing from how many keys a batch may have.
func TestFullBatchWithStampsOfItsOwn(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.limits.Batch = 3
	s := serve(t, server.Config{}, n, server.Hooks{})
	req := &soracachev1.BatchGetRequest{Keys: []string{"a", "b", "c"}, MinStampOf: []uint32{3, 2, 1}}
	for at := range 3 {
		stamp := soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 7, Position: soracache.Position(at)}}}
		req.MinStamps = append(req.MinStamps, stamp.Encode())
	}
	for name, option := range map[string]connect.ClientOption{"protobuf": connect.WithGRPCWeb(), "JSON": connect.WithProtoJSON()} {
		if _, err := s.cache(option).BatchGet(t.Context(), req); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		more := &soracachev1.BatchGetRequest{Keys: req.Keys, MinStampOf: req.MinStampOf, MinStamps: append(req.MinStamps[:3:3], nil)}
		_, err := s.cache(option).BatchGet(t.Context(), more)
		wantCode(t, err, connect.CodeResourceExhausted)
		_, err = s.cache(option).BatchGet(t.Context(), &soracachev1.BatchGetRequest{Keys: []string{"a", "b", "c", "d"}})
		wantCode(t, err, connect.CodeResourceExhausted)
	}
}
