package server

import (
	"errors"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// requests are one of each message that is counted.
func requests() []proto.Message {
	return []proto.Message{
		&soracachev1.GetRequest{}, &soracachev1.BatchGetRequest{}, &soracachev1.FillRequest{}, &soracachev1.BatchFillRequest{},
		&soracachev1.SetRequest{}, &soracachev1.BatchSetRequest{}, &soracachev1.RenewRequest{}, &soracachev1.ReleaseRequest{},
		&soracachev1.InvalidateRequest{}, &soracachev1.ListKeysRequest{}, &soracachev1.ExplainRequest{}, &soracachev1.HeadRequest{},
		&soracachev1.StatsRequest{}, &soracachev1.MembersRequest{},
	}
}

func shapeFor(m proto.Message) *shape {
	return shapeWithin(m.ProtoReflect().Descriptor(), map[protoreflect.FullName]*shape{})
}

var endless = most{items: math.MaxInt, bytes: math.MaxInt}

// made counts what the decoder has made: elements of the longest of the message's
// own repeated fields, and the least of memory that it all can take.
func made(m proto.Message) counted {
	c := counted{bytes: shapeFor(m).bytes}
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		one := func(v protoreflect.Value) {
			switch {
			case f.Message() != nil:
				c.bytes += made(v.Message().Interface()).bytes
			case f.Kind() == protoreflect.StringKind:
				c.bytes += len(v.String())
			case f.Kind() == protoreflect.BytesKind:
				c.bytes += len(v.Bytes())
			}
		}
		if !f.IsList() {
			one(v)
			return true
		}
		c.items = max(c.items, v.List().Len())
		for i := range v.List().Len() {
			c.bytes += 8
			one(v.List().Get(i))
		}
		return true
	})
	c.bytes += len(m.ProtoReflect().GetUnknown())
	return c
}

func corpus() []proto.Message {
	fill := &soracachev1.FillRequest{
		Namespace: "n", Key: "k", Lease: make([]byte, 16), Value: []byte("value"), Tags: []string{"a", "", "c"},
		Ttl: durationpb.New(1), Kind: soracachev1.Kind_KIND_ERROR, Encoding: "json",
	}
	set := &soracachev1.SetRequest{Key: "k", Value: []byte{0, 1}, Tags: []string{"t"}, Keep: durationpb.New(2)}
	return []proto.Message{
		fill, set,
		&soracachev1.BatchFillRequest{Fills: []*soracachev1.FillRequest{fill, {}, fill}},
		&soracachev1.BatchSetRequest{Namespace: "n", Sets: []*soracachev1.SetRequest{{}, set}},
		&soracachev1.BatchGetRequest{Keys: []string{"a", "b", ""}, Lease: true, Wait: durationpb.New(3)},
		&soracachev1.InvalidateRequest{Keys: []string{"k"}, Tags: []string{"t", "u"}, All: true},
	}
}

// FuzzCountProto: whatever the decoder makes of bytes, no less was counted; and
// what cannot be counted, it refuses.
func FuzzCountProto(f *testing.F) {
	for _, m := range corpus() {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x12, 0x00, 0x12, 0x00, 0x13, 0x14, 0x10, 0x01}) // items, a group, a wrong type
	f.Add([]byte{0x0a, 0x01, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range requests() {
			c, counting := countProto(b, shapeFor(m), endless)
			decoding := proto.Unmarshal(b, m)
			switch got := made(m); {
			case counting != nil && decoding == nil:
				t.Errorf("%T: %v, and it can be decoded", m, counting)
			case counting == nil && (got.items > c.items || got.bytes > c.bytes):
				t.Errorf("%T: counted %+v, decoded %+v", m, c, got)
			case decoding == nil && got.items != c.items:
				t.Errorf("%T: counted %d items, decoded %d", m, c.items, got.items)
			}
		}
	})
}

// FuzzCountJSON is the same of JSON. Of what is ignored it may count more.
func FuzzCountJSON(f *testing.F) {
	for _, m := range corpus() {
		b, err := protojson.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"fills":[{},{"tags":["\"]",""]}, {}],"x":[[1,2],{"a":[null,true]}],"k\u0065ys":["\\"]}`))
	f.Add([]byte(`{"keys":["a"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range requests() {
			c, counting := countJSON(b, shapeFor(m), endless)
			decoding := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m)
			switch got := made(m); {
			case counting != nil && decoding == nil:
				t.Errorf("%T: %v, and it can be decoded: %s", m, counting, b)
			case counting == nil && (got.items > c.items || got.bytes > c.bytes):
				t.Errorf("%T: counted %+v, decoded %+v: %s", m, c, got, b)
			}
		}
	})
}

// Counting ends soon after it is clear that there are too many.
func TestCountingStops(t *testing.T) {
	t.Parallel()
	batch := shapeFor(&soracachev1.BatchFillRequest{})
	items := strings.Repeat("\x12\x00", 1<<20)
	c, err := countProto([]byte(items), batch, most{items: 1000, bytes: math.MaxInt})
	if err != nil || c.items != 1001 {
		t.Errorf("protobuf: %+v, %v", c, err)
	}
	c, err = countJSON([]byte(`{"fills":[{}`+strings.Repeat(`,{}`, 1<<20)+`]}`), batch, most{items: 1000, bytes: math.MaxInt})
	if err != nil || c.items != 1001 {
		t.Errorf("JSON: %+v, %v", c, err)
	}
	// So it does where the many are not the message's own.
	tags := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), []byte(strings.Repeat("\x2a\x00", 1<<20)))
	if c, err = countProto(tags, batch, most{items: 1000, bytes: 1 << 20}); err != nil || c.items > 1 || c.bytes < 1<<20 || c.bytes > 2<<20 {
		t.Errorf("tags: %+v, %v", c, err)
	}
	if _, err = countJSON([]byte(strings.Repeat(`[`, 1<<20)), batch, endless); err == nil {
		t.Error("a million brackets")
	}
}

// A name that is not UTF-8 has the same error wherever it is met.
func TestNamesThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	want := soracache.DefaultLimits().CheckKey("\xff").Error()
	get := shapeFor(&soracachev1.GetRequest{})
	_, err := countProto([]byte("\x12\x01\xff"), get, endless)
	if err == nil || err.Error() != want || !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("protobuf: %v, want %s", err, want)
	}
	for text, shape := range map[string]*shape{
		"{\"key\":\"\xff\"}": get, "{\"k\\u0065y\" :\"\xff\"}": get,
		"{\"keys\":[\"a\",\"\xff\"]}":         shapeFor(&soracachev1.BatchGetRequest{}),
		"{\"fills\":[{},{\"key\":\"\xff\"}]}": shapeFor(&soracachev1.BatchFillRequest{}),
	} {
		if _, err := countJSON([]byte(text), shape, endless); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
