package server_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/server"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// badInput is a request that must fail, before the node is asked.
type badInput struct {
	name      string
	procedure string // of CacheService
	body      string // JSON
	code      connect.Code
}

const (
	invalid   = connect.CodeInvalidArgument
	exhausted = connect.CodeResourceExhausted
	missing   = connect.CodeUnimplemented
)

var (
	goodLease = base64.StdEncoding.EncodeToString(make16(1))
	longKey   = strings.Repeat("k", 1025)
	longTag   = strings.Repeat("t", 257)
)

// smallLimits are the default limits, but for values: encoding megabytes takes
// its time under the race detector. TestLargestValue has the default.
func smallLimits() soracache.Limits {
	limits := soracache.DefaultLimits()
	limits.ValueBytes = 64 << 10
	return limits
}

// smallMessage is a limit of messages to go with smallLimits.
const smallMessage = 256 << 10

func make16(first byte) []byte {
	b := make([]byte, 16)
	b[0] = first
	return b
}

// set, fill, get, inval make a good request bad: the fields given as pairs
// replace or join those of a good one; a nil value leaves a field out.
func set(fields ...any) string {
	return object(map[string]any{"key": "k", "value": "aGk=", "ttl": "60s"}, fields)
}

func fill(fields ...any) string {
	return object(map[string]any{"key": "k", "value": "aGk=", "ttl": "60s", "lease": goodLease}, fields)
}

func get(fields ...any) string   { return object(map[string]any{"key": "k"}, fields) }
func inval(fields ...any) string { return object(map[string]any{"keys": []string{"k"}}, fields) }

func object(good map[string]any, fields []any) string {
	for i := 0; i < len(fields); i += 2 {
		name, ok := fields[i].(string)
		if !ok {
			panic("a field's name must be a string")
		}
		if fields[i+1] == nil {
			delete(good, name)
			continue
		}
		good[name] = fields[i+1]
	}
	b, err := json.Marshal(good)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func many(n int, of string) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%d", of, i)
	}
	return all
}

func stampBytes(change func([]byte) []byte) string {
	good := soracache.Stamps{{Stamp: soracache.Stamp{Epoch: 7, Position: 9}}}.Encode()
	return base64.StdEncoding.EncodeToString(change(good))
}

// badInputs are the requests that fail as a whole.
func badInputs() []badInput {
	big := base64.StdEncoding.EncodeToString(make([]byte, smallLimits().ValueBytes+1))
	inputs := []badInput{
		// What cannot be read at all.
		{"empty body", "Get", ``, invalid},
		{"not JSON", "Get", `key=k`, invalid},
		{"half JSON", "Get", `{"key":"k"`, invalid},
		{"JSON of another shape", "Get", `["k"]`, invalid},
		{"JSON null", "Get", `null`, invalid},
		{"two JSON objects", "Get", `{"key":"k"}{"key":"k"}`, invalid},
		{"a field twice", "Get", `{"key":"k","key":"l"}`, invalid},
		{"key of a wrong type", "Get", get("key", 1), invalid},
		{"keys of a wrong type", "BatchGet", `{"keys":"k"}`, invalid},
		{"value that is not base64", "Set", set("value", "@@@"), invalid},
		{"lease that is not base64", "Fill", fill("lease", "@@@"), invalid},
		{"lease flag of a wrong type", "Get", get("lease", "yes"), invalid},
		{"key that is not UTF-8", "Get", "{\"key\":\"\xff\xfe\"}", invalid},
		{"tag that is not UTF-8", "Set", "{\"key\":\"k\",\"ttl\":\"1s\",\"tags\":[\"\xc3(\"]}", invalid},
		{"lone surrogate in a key", "Get", `{"key":"\ud800"}`, invalid},

		// Namespaces.
		{"namespace in capitals", "Get", get("namespace", "Shop"), invalid},
		{"namespace with a slash", "Get", get("namespace", "a/b"), invalid},
		{"namespace with braces", "Set", set("namespace", "{a}"), invalid},
		{"namespace that begins with a dash", "Fill", fill("namespace", "-a"), invalid},
		{"namespace with a space", "Invalidate", inval("namespace", "a b"), invalid},
		{"namespace with a line end", "Head", `{"namespace":"shop\n"}`, invalid},
		{"namespace of 65 bytes", "BatchGet", get("namespace", strings.Repeat("a", 65), "keys", []string{"k"}), invalid},
		{"namespace that is not ASCII", "Explain", get("namespace", "é"), invalid},
		{"namespace of a listing", "ListKeys", `{"namespace":"*","tag":"t"}`, invalid},
		{"namespace of a renewal", "Renew", fill("namespace", "A", "value", nil), invalid},
		{"namespace of a release", "Release", fill("namespace", "A", "value", nil), invalid},
		{"namespace of a batch of fills", "BatchFill", `{"namespace":"A","fills":[]}`, invalid},
		{"namespace of a batch of sets", "BatchSet", `{"namespace":"A","sets":[]}`, invalid},

		// Schemas.
		{"schema with a line end", "Get", get("schema", "a\n"), invalid},
		{"schema with a NUL", "Set", set("schema", "a\x00b"), invalid},
		{"schema of 65 bytes", "Fill", fill("schema", strings.Repeat("s", 65)), invalid},
		{"schema of a batch", "BatchGet", get("schema", "\u0085", "key", nil, "keys", []string{"k"}), invalid},
		{"schema of a renewal", "Renew", fill("schema", "\t", "value", nil, "ttl", nil), invalid},
		{"schema of a release", "Release", fill("schema", "\t", "value", nil, "ttl", nil), invalid},
		{"schema of an explanation", "Explain", get("schema", "\t"), invalid},
		{"schema that is not UTF-8", "Get", "{\"key\":\"k\",\"schema\":\"\xff\"}", invalid},
		{"schema of a wrong type", "Get", get("schema", 1), invalid},
		{"an invalidation in a schema", "Invalidate", inval("schema", "s"), invalid},

		// Keys.
		{"get without a key", "Get", `{}`, invalid},
		{"get of an empty key", "Get", get("key", ""), invalid},
		{"get of a key of 1,025 bytes", "Get", get("key", longKey), invalid},
		{"get of a key of 1,026 bytes in 513 runes", "Get", get("key", strings.Repeat("é", 513)), invalid},
		{"set without a key", "Set", set("key", nil), invalid},
		{"set of a long key", "Set", set("key", longKey), invalid},
		{"fill without a key", "Fill", fill("key", nil), invalid},
		{"fill of a long key", "Fill", fill("key", longKey), invalid},
		{"renew without a key", "Renew", fill("key", nil), invalid},
		{"renew of a long key", "Renew", fill("key", longKey), invalid},
		{"release without a key", "Release", fill("key", nil), invalid},
		{"release of a long key", "Release", fill("key", longKey), invalid},
		{"explain without a key", "Explain", `{}`, invalid},
		{"explain of a long key", "Explain", get("key", longKey), invalid},
		{"invalidation of an empty key", "Invalidate", inval("keys", []string{"k", ""}), invalid},
		{"invalidation of a long key", "Invalidate", inval("keys", []string{longKey}), invalid},

		// Tags.
		{"empty tag", "Set", set("tags", []string{""}), invalid},
		{"tag of 257 bytes", "Set", set("tags", []string{"t", longTag}), invalid},
		{"65 tags", "Set", set("tags", many(65, "t")), invalid},
		{"fill with an empty tag", "Fill", fill("tags", []string{""}), invalid},
		{"fill with 65 tags", "Fill", fill("tags", many(65, "t")), invalid},
		{"invalidation of an empty tag", "Invalidate", inval("tags", []string{""}), invalid},
		{"invalidation of a long tag", "Invalidate", inval("tags", []string{longTag}), invalid},
		{"listing without a tag", "ListKeys", `{}`, invalid},
		{"listing of a long tag", "ListKeys", get("tag", longTag), invalid},

		// Times.
		{"no TTL", "Set", set("ttl", nil), invalid},
		{"TTL of zero", "Set", set("ttl", "0s"), invalid},
		{"negative TTL", "Set", set("ttl", "-1s"), invalid},
		{"TTL below a millisecond", "Set", set("ttl", "0.000999s"), invalid},
		{"TTL over 30 days", "Set", set("ttl", "2592001s"), invalid},
		{"TTL beyond what Go can hold", "Set", set("ttl", "315576000000s"), invalid},
		{"TTL beyond what the format allows", "Set", set("ttl", "315576000001s"), invalid},
		{"TTL without a unit", "Set", set("ttl", "60"), invalid},
		{"TTL in minutes", "Set", set("ttl", "5m"), invalid},
		{"TTL as a number", "Set", set("ttl", 60), invalid},
		{"TTL as an object", "Set", set("ttl", map[string]int{"seconds": 1}), invalid},
		{"fill without a TTL", "Fill", fill("ttl", nil), invalid},
		{"fill with a negative TTL", "Fill", fill("ttl", "-0.001s"), invalid},
		{"keep below the TTL", "Set", set("keep", "59s"), invalid},
		{"negative keep", "Set", set("keep", "-1s"), invalid},
		{"keep over 30 days", "Fill", fill("keep", "2592000.000000001s"), invalid},
		{"keep beyond what Go can hold", "Set", set("keep", "315576000000s"), invalid},
		{"negative TTL in L1", "Set", set("l1Ttl", "-1s"), invalid},
		{"TTL in L1 below a millisecond", "Set", set("l1Ttl", "0.0000001s"), invalid},
		{"TTL in L1 over 30 days", "Fill", fill("l1Ttl", "99999999s"), invalid},
		{"negative wait", "Get", get("wait", "-1s"), invalid},
		{"wait over a minute", "Get", get("wait", "60.001s"), invalid},
		{"wait over a minute in a batch", "BatchGet", `{"keys":["k"],"wait":"61s"}`, invalid},
		{"wait beyond what Go can hold", "Get", get("wait", "315576000000s"), invalid},
		{"negative lease time", "Get", get("lease", true, "leaseFor", "-1s"), invalid},
		{"lease over a minute", "Get", get("lease", true, "leaseFor", "61s"), invalid},
		{"lease below a millisecond", "BatchGet", `{"keys":["k"],"lease":true,"leaseFor":"0.0001s"}`, invalid},
		{"renewal over a minute", "Renew", fill("leaseFor", "3600s"), invalid},
		{"negative renewal", "Renew", fill("leaseFor", "-10s"), invalid},
		{"negative refresh_within", "Get", get("refreshWithin", "-1s"), invalid},
		{"refresh_within over 30 days", "Get", get("refreshWithin", "2592001s"), invalid},

		// Leases.
		{"fill without a lease", "Fill", fill("lease", nil), invalid},
		{"fill with a lease of 15 bytes", "Fill", fill("lease", base64.StdEncoding.EncodeToString(make([]byte, 15))), invalid},
		{"fill with a lease of 17 bytes", "Fill", fill("lease", base64.StdEncoding.EncodeToString(make([]byte, 17))), invalid},
		{"fill with a lease of zeros", "Fill", fill("lease", base64.StdEncoding.EncodeToString(make([]byte, 16))), invalid},
		{"renew without a lease", "Renew", get(), invalid},
		{"renew with a short lease", "Renew", get("lease", "AAAA"), invalid},
		{"release without a lease", "Release", get(), invalid},
		{"release with a short lease", "Release", get("lease", "AAAA"), invalid},

		// Stamps.
		{"stamp of one byte", "Get", get("minStamp", "AQ=="), invalid},
		{"stamp cut short", "Get", get("minStamp", stampBytes(func(b []byte) []byte { return b[:len(b)-1] })), invalid},
		{"stamp with a byte too many", "Get", get("minStamp", stampBytes(func(b []byte) []byte { return append(b, 0) })), invalid},
		{"stamp with a bit turned", "Get", get("minStamp", stampBytes(func(b []byte) []byte { b[9] ^= 1; return b })), invalid},
		{"stamp of another version", "BatchGet", get("minStamp", stampBytes(func(b []byte) []byte { b[0] = 9; return b })), invalid},

		// Kinds, encodings, etags.
		{"unknown number of a kind", "Set", set("kind", 3), invalid},
		{"negative number of a kind", "Fill", fill("kind", -1), invalid},
		{"unknown name of a kind", "Set", set("kind", "KIND_NOTFOUND"), invalid},
		{"unknown name of a kind in a fill", "Fill", fill("kind", "not_found"), invalid},
		{"unknown name of a kind in a batch", "BatchSet", `{"sets":[{"key":"k","ttl":"1s","kind":"VALUE"}]}`, invalid},
		{"unknown name of a kind in a batch of fills", "BatchFill", `{"fills":[{"kind":"KIND_VALUE"},{"kind":"X"}]}`, invalid},
		{"not found with a value", "Set", set("kind", "KIND_NOT_FOUND"), invalid},
		{"encoding of 256 bytes", "Set", set("encoding", strings.Repeat("e", 256)), invalid},
		{"etag of 256 bytes", "Fill", fill("etag", strings.Repeat("e", 256)), invalid},

		// Invalidations and listings.
		{"invalidation of nothing", "Invalidate", `{}`, invalid},
		{"invalidation of all: false", "Invalidate", `{"all":false}`, invalid},
		{"acknowledgement of a wrong type", "Invalidate", inval("acknowledge", "yes"), invalid},
		{"acknowledged invalidation of nothing", "Invalidate", `{"acknowledge":true}`, invalid},
		{"negative settle", "Invalidate", inval("settle", "-0.000000001s"), invalid},
		{"settle of over a minute", "Invalidate", inval("settle", "60.000000001s"), invalid},
		{"settle of more than there is", "Invalidate", inval("settle", "315576000000s"), invalid},
		{"settle that is no duration", "Invalidate", inval("settle", "soon"), invalid},
		{"settle of nothing", "Invalidate", `{"settle":"1s"}`, invalid},
		{"negative page size", "ListKeys", `{"tag":"t","pageSize":-1}`, invalid},
		{"page size of 1,001", "ListKeys", `{"tag":"t","pageSize":1001}`, invalid},
		{"page size beyond int32", "ListKeys", `{"tag":"t","pageSize":3000000000}`, invalid},
		{"page size with a fraction", "ListKeys", `{"tag":"t","pageSize":1.5}`, invalid},
		{"page token of 4,097 bytes", "ListKeys", get("tag", "t", "pageToken", strings.Repeat("x", 4097)), invalid},

		// What is too much.
		{"value over its limit", "Set", set("value", big), exhausted},
		{"fill of a value over its limit", "Fill", fill("value", big), exhausted},
		{"batch of 1,001 keys", "BatchGet", object(map[string]any{"keys": many(1001, "k")}, nil), exhausted},
		{"batch of 1,001 fills", "BatchFill", object(map[string]any{"fills": make([]struct{}, 1001)}, nil), exhausted},
		{"batch of 1,001 sets", "BatchSet", object(map[string]any{"sets": make([]struct{}, 1001)}, nil), exhausted},
		{"invalidation of 1,001 keys and tags", "Invalidate", inval("keys", many(501, "k"), "tags", many(500, "t")), exhausted},
		{"message over its limit", "Get", get("key", strings.Repeat("A", smallMessage)), exhausted},

		// What there is not.
		{"unknown procedure", "Obliterate", `{}`, missing},
	}
	return inputs
}

// TestBadInputs sends each bad input as JSON and, where JSON can say it, as
// protobuf over Connect, gRPC and gRPC-Web. The answer must always have the
// same code, and the node must never hear of it.
func TestBadInputs(t *testing.T) {
	t.Parallel()
	n := newFakeNode()
	n.limits = smallLimits()
	s := serve(t, server.Config{MessageBytes: smallMessage}, n, server.Hooks{})
	grpcHTTP := h2c(t)
	inputs := badInputs()
	sent := 0
	for _, c := range inputs {
		got := s.post(t, c.procedure, c.body)
		if got.code() != c.code.String() {
			t.Errorf("%s, JSON: code %q, want %q: %.200s", c.name, got.code(), c.code, got.body)
		}
		if got.message() == "" {
			t.Errorf("%s: no message", c.name)
		}
		sent++
		raw, ok := asProto(c)
		if !ok {
			continue
		}
		for protocol, client := range rawClients(s, grpcHTTP, c.procedure) {
			_, err := client.CallUnary(t.Context(), connect.NewRequest(&rawMessage{raw}))
			if err == nil || connect.CodeOf(err) != c.code {
				t.Errorf("%s, %s: error %v, want code %q", c.name, protocol, err, c.code)
			}
			sent++
		}
	}
	if n := s.node.touched(); n != 0 {
		t.Errorf("the node was asked %d times", n)
	}
	if len(inputs) < 80 {
		t.Errorf("%d bad inputs, want at least 80", len(inputs))
	}
	t.Logf("%d bad inputs, sent as %d requests", len(inputs), sent)
}

// TestBadItems: one bad item of a batch fails alone.
func TestBadItems(t *testing.T) {
	t.Parallel()
	big := base64.StdEncoding.EncodeToString(make([]byte, smallLimits().ValueBytes+1))
	for _, c := range []struct {
		name, procedure, list, item string
		code                        connect.Code
	}{
		{"empty key", "BatchGet", "keys", `""`, invalid},
		{"long key", "BatchGet", "keys", `"` + longKey + `"`, invalid},
		{"empty key", "BatchSet", "sets", set("key", ""), invalid},
		{"other namespace", "BatchSet", "sets", set("namespace", "blog"), invalid},
		{"no TTL", "BatchSet", "sets", set("ttl", nil), invalid},
		{"long tag", "BatchSet", "sets", set("tags", []string{longTag}), invalid},
		{"kind", "BatchSet", "sets", set("kind", 9), invalid},
		{"big value", "BatchSet", "sets", set("value", big), exhausted},
		{"no lease", "BatchFill", "fills", fill("lease", nil), invalid},
		{"short lease", "BatchFill", "fills", fill("lease", "AAAA"), invalid},
		{"other namespace", "BatchFill", "fills", fill("namespace", "blog"), invalid},
		{"keep below TTL", "BatchFill", "fills", fill("keep", "1s"), invalid},
		{"empty item", "BatchFill", "fills", `{}`, invalid},
		{"big value", "BatchFill", "fills", fill("value", big), exhausted},
	} {
		n := newFakeNode()
		n.limits = smallLimits()
		s := newServer(t, server.Config{}, n, server.Hooks{})
		good := map[string]string{"keys": `"good"`, "sets": set("key", "good", "namespace", "shop"), "fills": fill("key", "good")}[c.list]
		body := fmt.Sprintf(`{"namespace":"shop",%q:[%s,%s,%s]}`, c.list, good, c.item, good)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/soracache.v1.CacheService/"+c.procedure, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		got := handle(s, r)
		var batch struct {
			Results []struct{ Error *soracachev1.BatchError }
		}
		if err := json.Unmarshal([]byte(got.body), &batch); err != nil || len(batch.Results) != 3 {
			t.Errorf("%s of %s: %d: %.200s", c.name, c.procedure, got.status, got.body)
			continue
		}
		if e := batch.Results[1].Error; e.GetCode() != c.code.String() || e.GetMessage() == "" {
			t.Errorf("%s of %s: item error %v, want code %s", c.name, c.procedure, e, c.code)
		}
		if batch.Results[0].Error != nil || batch.Results[2].Error != nil {
			t.Errorf("%s of %s: good items failed: %s", c.name, c.procedure, got.body)
		}
	}
}

// TestBadBytes sends what JSON cannot say.
func TestBadBytes(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	grpcHTTP := h2c(t)
	for _, c := range []struct {
		name, procedure string
		raw             []byte
	}{
		{"truncated field", "Get", []byte{0x12, 5, 'k'}},
		{"wrong wire type", "Get", []byte{0x10, 1}},
		{"unending varint", "Get", []byte{0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{"key not UTF-8", "Get", []byte{0x12, 2, 0xff, 0xfe}},
		{"tag not UTF-8", "Set", []byte{0x12, 1, 'k', 0x22, 1, 0xff, 0x2a, 2, 0x08, 1}},
		{"namespace not UTF-8", "Head", []byte{0x0a, 1, 0x80}},
		{"nanos of another sign", "Set", []byte{0x12, 1, 'k', 0x2a, 13, 8, 1, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}},
		{"nanos over a second", "Set", []byte{0x12, 1, 'k', 0x2a, 8, 8, 1, 0x10, 0x80, 0x94, 0xeb, 0xdc, 3}},
		{"seconds over the format", "Set", []byte{0x12, 1, 'k', 0x2a, 10, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}},
		{"random bytes", "Invalidate", []byte("\x9d\x07\xf1GET / HTTP/1.1")},
	} {
		for protocol, client := range rawClients(s, grpcHTTP, c.procedure) {
			_, err := client.CallUnary(t.Context(), connect.NewRequest(&rawMessage{c.raw}))
			if err == nil || connect.CodeOf(err) != invalid {
				t.Errorf("%s, %s: error %v, want %s", c.name, protocol, err, invalid)
			}
		}
	}
	if n := s.node.touched(); n != 0 {
		t.Errorf("the node was asked %d times", n)
	}
}

// TestBadHTTP: what is wrong with the request around the message.
func TestBadHTTP(t *testing.T) {
	t.Parallel()
	s := serve(t, server.Config{}, newFakeNode(), server.Hooks{})
	const path = "/soracache.v1.CacheService/Get"
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		code                     string
	}{
		{"GET", http.MethodGet, path, "", nil, 405, ""},
		{"PUT", http.MethodPut, path, get(), []string{"Content-Type", "application/json"}, 405, ""},
		{"no content type", http.MethodPost, path, get(), nil, 415, ""},
		{"form", http.MethodPost, path, "key=k", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, ""},
		{"text, as a browser may send anywhere", http.MethodPost, path, get(), []string{"Content-Type", "text/plain"}, 415, ""},
		{"unknown compression", http.MethodPost, path, get(), []string{"Content-Type", "application/json", "Content-Encoding", "br"}, 501, "unimplemented"},
		{"not gzip", http.MethodPost, path, get(), []string{"Content-Type", "application/json", "Content-Encoding", "gzip"}, 400, "invalid_argument"},
		{"malformed timeout", http.MethodPost, path, get(), []string{"Content-Type", "application/json", "Connect-Timeout-Ms", "soon"}, 400, "invalid_argument"},
		{"negative timeout", http.MethodPost, path, get(), []string{"Content-Type", "application/json", "Connect-Timeout-Ms", "-5"}, 400, "invalid_argument"},
		{"unknown protocol version", http.MethodPost, path, get(), []string{"Content-Type", "application/json", "Connect-Protocol-Version", "2"}, 400, "invalid_argument"},
		{"unknown service", http.MethodPost, "/soracache.v2.CacheService/Get", get(), []string{"Content-Type", "application/json"}, 501, "unimplemented"},
		{"no such path", http.MethodPost, "/", "", nil, 501, "unimplemented"},
		{"no such page", http.MethodGet, "/admin", "", nil, 405, ""},
	} {
		got := s.do(t, c.method, c.path, c.body, c.header...)
		if got.status != c.status || got.code() != c.code {
			t.Errorf("%s: status %d, code %q, want %d, %q: %s", c.name, got.status, got.code(), c.status, c.code, got.body)
		}
	}
	if n := s.node.touched(); n != 0 {
		t.Errorf("the node was asked %d times", n)
	}
}

// asProto returns a bad input as protobuf, if JSON could be read at all.
func asProto(c badInput) ([]byte, bool) {
	var message proto.Message
	switch c.name {
	case "unknown procedure", "watch, which comes later":
		message = &soracachev1.GetRequest{}
	default:
		message = newRequest(c.procedure)
	}
	if err := protojson.Unmarshal([]byte(c.body), message); err != nil {
		return nil, false
	}
	raw, err := proto.Marshal(message)
	return raw, err == nil
}

// newRequest returns an empty request of a procedure.
func newRequest(procedure string) proto.Message {
	service := soracachev1.File_soracache_v1_cache_proto.Services().ByName("CacheService")
	input := service.Methods().ByName(protoreflect.Name(procedure)).Input()
	for _, m := range []proto.Message{
		&soracachev1.GetRequest{}, &soracachev1.BatchGetRequest{}, &soracachev1.FillRequest{}, &soracachev1.BatchFillRequest{},
		&soracachev1.RenewRequest{}, &soracachev1.ReleaseRequest{}, &soracachev1.SetRequest{}, &soracachev1.BatchSetRequest{},
		&soracachev1.InvalidateRequest{}, &soracachev1.ListKeysRequest{}, &soracachev1.ExplainRequest{}, &soracachev1.HeadRequest{},
	} {
		if m.ProtoReflect().Descriptor() == input {
			return m
		}
	}
	panic("no request of " + procedure)
}

// rawMessage is a message as its bytes; rawCodec sends it as protobuf.
type rawMessage struct{ bytes []byte }

type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(m any) ([]byte, error) {
	raw, ok := m.(*rawMessage)
	if !ok {
		return nil, fmt.Errorf("%T is not raw", m)
	}
	return raw.bytes, nil
}

func (rawCodec) Unmarshal(b []byte, m any) error {
	raw, ok := m.(*rawMessage)
	if !ok {
		return fmt.Errorf("%T is not raw", m)
	}
	raw.bytes = append([]byte(nil), b...)
	return nil
}

type rawClient = connect.Client[rawMessage, rawMessage]

// rawClients returns a client of a procedure for each protocol.
func rawClients(s *service, grpcHTTP *http.Client, procedure string) map[string]*rawClient {
	url := s.url + "/soracache.v1.CacheService/" + procedure
	raw := connect.WithCodec(rawCodec{})
	return map[string]*rawClient{
		"connect":  connect.NewClient[rawMessage, rawMessage](s.client, url, raw),
		"grpc":     connect.NewClient[rawMessage, rawMessage](grpcHTTP, url, raw, connect.WithGRPC()),
		"grpc-web": connect.NewClient[rawMessage, rawMessage](s.client, url, raw, connect.WithGRPCWeb()),
	}
}
