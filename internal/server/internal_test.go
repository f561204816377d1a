package server

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/wire"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// A value at its limit fits into a message of the default size, in JSON too.
func TestDefaultMessageHoldsTheLargestValue(t *testing.T) {
	t.Parallel()
	for _, bytes := range []int{1, 8 << 20, 24 << 20, 32 << 20, 256 << 20} {
		limits := soracache.DefaultLimits()
		limits.ValueBytes = bytes
		cfg := Config{}.withDefaults(limits)
		need := base64.StdEncoding.EncodedLen(bytes) + 64<<10
		if cfg.MessageBytes < need || cfg.MessageBytes < 32<<20 {
			t.Errorf("messages of %d bytes for values of %d, which need %d", cfg.MessageBytes, bytes, need)
		}
		if send := cfg.sendBytes(limits); send < need || send < cfg.AnswerBytes*4/3 {
			t.Errorf("answers of %d bytes for values of %d", send, bytes)
		}
	}
}

// Every procedure of the contract has its scope, so that a new one cannot be
// forgotten.
func TestEveryProcedureIsKnown(t *testing.T) {
	t.Parallel()
	known := procedures()
	services := soracachev1.File_soracache_v1_cache_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			path := "/" + string(services.Get(i).FullName()) + "/" + string(methods.Get(j).Name())
			if p, ok := known[path]; !ok || p.scope == 0 || p.open {
				t.Errorf("%s: %+v, known %v", path, p, ok)
			}
		}
	}
}

// What an answer is taken to weigh is never less than it does, nor much more.
func TestWeightOfAnAnswer(t *testing.T) {
	t.Parallel()
	full := soracache.ReadResult{
		Status: soracache.StatusStale, FreshFor: -1<<62 - 1, KeepFor: 1<<62 - 1, LeaseFor: 1<<62 - 1, Age: 1<<62 - 1,
		Entry: soracache.Entry{
			Value: make([]byte, 1<<14), Tags: []string{"", strings.Repeat("t", 300), "tag"}, Kind: soracache.KindError,
			Encoding: strings.Repeat("e", 200), ETag: strings.Repeat("t", 1000),
		},
		Stamp:       soracache.Stamps{{Partition: 7, Stamp: soracache.Stamp{Epoch: 1 << 51, Position: 1 << 52}}},
		Tier:        soracache.TierL2,
		Lease:       soracache.Lease{1},
		Unconfirmed: true,
	}
	for name, r := range map[string]soracache.ReadResult{
		"nothing": {}, "all there can be": full, "an error": {Err: fmt.Errorf("%w: %s", soracache.ErrInvalid, strings.Repeat("e", 200))},
	} {
		item := getResponse(r)
		// In a batch, what goes before it is its own length.
		size := len(protowire.AppendVarint(nil, uint64(proto.Size(item)))) + 1 + proto.Size(item)
		if w := weight(item); w < size || w > size+200 {
			t.Errorf("%s: weighs %d, takes %d", name, w, size)
		}
	}
}

// The wire's enumerations and the vocabulary's have the same numbers.
func TestEnumerationsAgree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		wire protoreflect.EnumNumber
		ours int
	}{
		{soracachev1.Status_STATUS_MISS.Number(), int(soracache.StatusMiss)},
		{soracachev1.Status_STATUS_HIT.Number(), int(soracache.StatusHit)},
		{soracachev1.Status_STATUS_STALE.Number(), int(soracache.StatusStale)},
		{soracachev1.Tier_TIER_UNSPECIFIED.Number(), int(soracache.TierNone)},
		{soracachev1.Tier_TIER_NEAR.Number(), int(soracache.TierNear)},
		{soracachev1.Tier_TIER_L1.Number(), int(soracache.TierL1)},
		{soracachev1.Tier_TIER_L2.Number(), int(soracache.TierL2)},
		{soracachev1.Kind_KIND_VALUE.Number(), int(soracache.KindValue)},
		{soracachev1.Kind_KIND_NOT_FOUND.Number(), int(soracache.KindNotFound)},
		{soracachev1.Kind_KIND_ERROR.Number(), int(soracache.KindError)},
		{soracachev1.Reason_REASON_UNSPECIFIED.Number(), int(soracache.ReasonNone)},
		{soracachev1.Reason_REASON_SUPERSEDED.Number(), int(soracache.ReasonSuperseded)},
		{soracachev1.Reason_REASON_LEASE_LOST.Number(), int(soracache.ReasonLeaseLost)},
	} {
		if int(c.wire) != c.ours {
			t.Errorf("%d on the wire, %d in the vocabulary", c.wire, c.ours)
		}
	}
}

func TestBombIsNotInflatedToItsEnd(t *testing.T) {
	t.Parallel()
	const limit = 1000
	pack := func(n int) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(make([]byte, n))
		_ = w.Close()
		return b.Bytes()
	}
	z := &boundedGzip{limit: limit}
	for _, c := range []struct{ size, inflated int }{
		{0, 0}, {limit - 1, limit - 1}, {limit, limit}, {limit + 1, limit + 1}, {1 << 20, limit + 1}, {limit, limit}, // and it is reused
	} {
		if err := z.Reset(bytes.NewReader(pack(c.size))); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if len(got) != c.inflated || (err != nil) != (c.size > limit+1) || err != nil && !errors.Is(err, errInflated) {
			t.Errorf("%d bytes: inflated %d, error %v", c.size, len(got), err)
		}
	}
}

func TestDropSpaces(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		``:                                   ``,
		`{"a":1, "b":[true, null], "c":"x"}`: `{"a":1,"b":[true,null],"c":"x"}`,
		`{"a b":"c, d", "e":" "}`:            `{"a b":"c, d","e":" "}`,
		`["\\", " \" , \" ", "\\\" ,"]`:      `["\\"," \" , \" ","\\\" ,"]`,
		`""`:                                 `""`,
		`{"unended ": " x`:                   `{"unended ":" x`,
	} {
		if got := string(dropSpaces([]byte(in))); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// What is left means the same, and is as small as it can be.
func FuzzDropSpaces(f *testing.F) {
	f.Add("k", " v, \\\" ", "t")
	f.Fuzz(func(t *testing.T, key, value, tag string) {
		if !utf8.ValidString(key) || !utf8.ValidString(tag) {
			return
		}
		in := &soracachev1.SetRequest{Key: key, Value: []byte(value), Tags: []string{tag, key}}
		raw, err := (jsonCodec{"json"}).MarshalAppend([]byte("before "), in)
		if err != nil {
			t.Fatal(err)
		}
		raw, isAppended := bytes.CutPrefix(raw, []byte("before "))
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil || !isAppended || !bytes.Equal(compact.Bytes(), raw) {
			t.Fatalf("%s, error %v, want %s", raw, err, compact.Bytes())
		}
		var out soracachev1.SetRequest
		if err := (jsonCodec{"json"}).Unmarshal(raw, &out); err != nil || !proto.Equal(in, &out) {
			t.Fatalf("%s means %v, error %v, want %v", raw, &out, err, in)
		}
	})
}

func FuzzKinds(f *testing.F) {
	f.Add(`{"key":"k","kind":"KIND_VALUE"}`)
	f.Add(`{"sets":[{"kind":1},{"kind":"X"},null]}`)
	f.Add(`{"kind":null,"fills":{"kind":[]}}`)
	f.Fuzz(func(t *testing.T, body string) {
		// What is accepted has a known kind or none at all, or a number that
		// the parser judges.
		var r soracachev1.SetRequest
		if (jsonCodec{"json"}).Unmarshal([]byte(body), &r) == nil {
			_, _ = wire.Kind(r.GetKind())
		}
		_ = jsonCodec{"json"}.Unmarshal([]byte(body), &soracachev1.BatchFillRequest{})
	})
}
