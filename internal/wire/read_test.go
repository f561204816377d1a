package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// byReflection is what an answer says, read the plain way.
func byReflection(item []byte) (result soracache.ReadResult, err error) {
	var a cachev1.GetResponse
	if err := proto.Unmarshal(item, &a); err != nil {
		return result, soracache.ErrUnavailable
	}
	if a.Error != nil {
		return soracache.ReadResult{Err: batchError(a.Error)}, nil
	}
	stamp, err := stampsOf(a.Stamp)
	if err != nil {
		return result, err
	}
	lease, err := soracache.ParseLease(a.Lease)
	if err != nil {
		return result, soracache.ErrUnavailable
	}
	status, err := statusOf(a.Status)
	if err != nil {
		return result, err
	}
	return soracache.ReadResult{
		Status: status,
		Entry: soracache.Entry{
			Value: a.Value, Tags: a.Tags, Kind: kindOf(a.Kind), Encoding: a.Encoding, ETag: a.Etag,
		},
		FreshFor: a.FreshFor.AsDuration(), KeepFor: a.KeepFor.AsDuration(),
		Stamp: stamp, Lease: lease, LeaseFor: a.LeaseFor.AsDuration(),
		LeaseState: leaseStateOf(a.LeaseState), Refusal: refusalOf(a.Refusal),
		Tier: tierOf(a.Tier), Age: ageOf(a.Age), Unconfirmed: a.Unconfirmed, Partitions: partitionsOf(a.Partitions),
	}, nil
}

// checkAnswer compares the two ways of reading an answer, and returns the error.
func checkAnswer(t *testing.T, item []byte) error {
	t.Helper()
	want, wantErr := byReflection(item)
	wire := bytes.Clone(item)
	var got ReadAnswer
	if err := (ReadCodec{}).Unmarshal(wire, &got); err != nil {
		t.Fatal(err)
	}
	for i := range wire { // Connect uses the buffer again
		wire[i] = 'x'
	}
	if wantErr != nil {
		if !errors.Is(got.Err, soracache.ErrUnavailable) {
			t.Fatalf("error %v, want unavailable, as %v", got.Err, wantErr)
		}
		return got.Err
	}
	if got.Err != nil {
		t.Fatalf("error %v, want none", got.Err)
	}
	var plain cachev1.GetResponse
	if err := proto.Unmarshal(item, &plain); err != nil || plain.InSchema != got.InSchema {
		t.Fatalf("in the schema: %v, want %v (%v)", got.InSchema, plain.InSchema, err)
	}
	if got.Result.Err != nil || want.Err != nil {
		if fmt.Sprint(got.Result.Err) != fmt.Sprint(want.Err) {
			t.Fatalf("failure %v, want %v", got.Result.Err, want.Err)
		}
		got.Result.Err, want.Err = nil, nil
	}
	for _, r := range []*soracache.ReadResult{&got.Result, &want} {
		if len(r.Entry.Value) == 0 {
			r.Entry.Value = nil
		}
	}
	if !reflect.DeepEqual(got.Result, want) {
		t.Fatalf("read  %+v\nwant  %+v", got.Result, want)
	}
	return nil
}

// answers are all that answers can hold.
func answers() map[string]*cachev1.GetResponse {
	stamp := soracache.Stamps{
		{Partition: 0, Stamp: soracache.Stamp{Epoch: 3, Position: 1 << 52}},
		{Partition: 9, Stamp: soracache.Stamp{Epoch: 1 << 51, Position: 7}},
	}.Encode()
	return map[string]*cachev1.GetResponse{
		"nothing":                {Status: cachev1.Status_STATUS_MISS},
		"one of 8 partitions":    {Status: cachev1.Status_STATUS_MISS, Partitions: 8},
		"more than there can be": {Status: cachev1.Status_STATUS_MISS, Partitions: 1025},
		"a hit": {
			Status: cachev1.Status_STATUS_HIT, Value: []byte("value"), Tags: []string{"a", "", "ü"}, Stamp: stamp,
			FreshFor: durationpb.New(time.Hour), KeepFor: durationpb.New(time.Hour + 1), Tier: cachev1.Tier_TIER_L1,
			Kind: cachev1.Kind_KIND_NOT_FOUND, Encoding: "json", Etag: "v1", Age: durationpb.New(time.Millisecond),
		},
		"a stale one with a lease": {
			Status: cachev1.Status_STATUS_STALE, Value: make([]byte, 300), FreshFor: durationpb.New(-time.Hour),
			Lease: make([]byte, 16), LeaseFor: durationpb.New(time.Second), Unconfirmed: true, Tier: cachev1.Tier_TIER_L2,
			LeaseState: cachev1.LeaseState_LEASE_STATE_GRANTED,
		},
		"a lease that is held": {
			Status: cachev1.Status_STATUS_MISS, LeaseState: cachev1.LeaseState_LEASE_STATE_HELD, LeaseFor: durationpb.New(time.Second),
		},
		"a refusal": {
			Status: cachev1.Status_STATUS_MISS, LeaseState: cachev1.LeaseState_LEASE_STATE_REFUSED, Refusal: cachev1.Refusal_REFUSAL_PASSED,
		},
		"a state and a refusal of a newer contract": {Status: cachev1.Status_STATUS_MISS, LeaseState: 77, Refusal: 1 << 20},
		"a full store": {Error: &cachev1.BatchError{
			Code: "resource_exhausted", Message: "full", Refusal: cachev1.Refusal_REFUSAL_STORE_FULL,
		}},
		"a failure":                        {Error: &cachev1.BatchError{Code: "resource_exhausted", Message: "too ü"}, Value: []byte("and more")},
		"a failure's end":                  {Error: &cachev1.BatchError{}},
		"kinds, tiers of a newer contract": {Status: cachev1.Status_STATUS_HIT, Kind: 77, Tier: 78},
		"durations that cannot be": {
			Status: cachev1.Status_STATUS_HIT,
			Age:    &durationpb.Duration{Seconds: 1, Nanos: -1}, FreshFor: &durationpb.Duration{Seconds: math.MaxInt64},
			KeepFor: &durationpb.Duration{Seconds: math.MinInt64, Nanos: math.MinInt32}, LeaseFor: &durationpb.Duration{Nanos: math.MaxInt32},
		},
		"one in a schema": {Status: cachev1.Status_STATUS_MISS, InSchema: true},
		"a negative age":  {Status: cachev1.Status_STATUS_HIT, Age: durationpb.New(-1)},
	}
}

func wired(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return data
}

func TestAnswersAreReadAsProtobufReadsThem(t *testing.T) {
	t.Parallel()
	hit := wired(answers()["a hit"])
	for name, a := range answers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := checkAnswer(t, wired(a)); err != nil {
				t.Error(err)
			}
			// A field that is there twice: what comes last counts.
			if err := checkAnswer(t, append(wired(a), hit...)); err != nil {
				t.Error(err)
			}
		})
	}
	unknown := protowire.AppendTag(nil, 1000, protowire.StartGroupType)
	unknown = protowire.AppendTag(unknown, 1, protowire.Fixed32Type)
	unknown = protowire.AppendFixed32(unknown, 1)
	unknown = protowire.AppendTag(unknown, 1000, protowire.EndGroupType)
	unknown = protowire.AppendVarint(protowire.AppendTag(unknown, 2, protowire.VarintType), 5) // not of the value's type
	if err := checkAnswer(t, append(unknown, hit...)); err != nil {
		t.Errorf("unknown fields: %v", err)
	}
	for name, item := range map[string][]byte{
		"cut off":               hit[:len(hit)-1],
		"no protobuf":           []byte("<html>"),
		"a tag that is no text": wiredField(3, "\xff"),
		"an encoding":           wiredField(11, "\xff"),
		"an etag":               wiredField(12, "\xff"),
		"an error's message":    wiredField(14, string(wiredField(2, "\xff"))),
		"a duration cut off":    wiredField(5, "\x08"),
		"no status":             {},
		"an unknown status":     wired(&cachev1.GetResponse{Status: 9}),
		"a lease of 3 bytes":    wired(&cachev1.GetResponse{Lease: []byte("abc")}),
		"a stamp that is none":  wired(&cachev1.GetResponse{Stamp: []byte("abc")}),
		"the end of no group":   protowire.AppendTag(nil, 1, protowire.EndGroupType),
		"a number of no field":  append(protowire.AppendVarint(nil, (uint64(protowire.MaxValidNumber)+1)<<3), append([]byte{0}, hit...)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := checkAnswer(t, item); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// wiredField is a message of one field of bytes.
func wiredField(id protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, id, protowire.BytesType), value)
}

// In a batch each answer is read for itself, and what neighbours have in common
// does not make one of them the other.
func TestBatchOfAnswers(t *testing.T) {
	t.Parallel()
	var data []byte
	var items [][]byte
	add := func(item []byte) {
		items = append(items, item)
		data = append(data, wiredField(1, string(item))...)
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range answers() {
			if !yield(name) {
				return
			}
		}
	})
	for range 2 {
		for _, name := range names {
			add(wired(answers()[name]))
			add([]byte("\xff"))
			other := answers()[name]
			other.Stamp = soracache.Stamps{{Partition: 1, Stamp: soracache.Stamp{Epoch: 1, Position: 1}}}.Encode()
			other.Encoding = "raw"
			add(wired(other))
		}
	}
	data = append(data, wiredField(2, "the stamp of all, which is not needed")...)
	var got BatchAnswer
	if err := (ReadCodec{}).Unmarshal(data, &got); err != nil || got.Err != nil || len(got.Results) != len(items) {
		t.Fatalf("%d answers, error %v, %v; want %d", len(got.Results), err, got.Err, len(items))
	}
	for i, item := range items {
		var alone ReadAnswer
		if err := (ReadCodec{}).Unmarshal(item, &alone); err != nil {
			t.Fatal(err)
		}
		if alone.Err != nil {
			alone.Result = soracache.ReadResult{Err: alone.Err}
		}
		if want := alone.Result; !reflect.DeepEqual(got.Results[i], want) && fmt.Sprint(got.Results[i]) != fmt.Sprint(want) {
			t.Errorf("answer %d: %+v\nwant %+v", i, got.Results[i], want)
		}
	}
	var none BatchAnswer
	if err := (ReadCodec{}).Unmarshal(nil, &none); err != nil || none.Err != nil || len(none.Results) != 0 {
		t.Errorf("an empty batch: %+v, error %v", none, err)
	}
	var broken BatchAnswer
	if err := (ReadCodec{}).Unmarshal(data[:len(data)-1], &broken); err != nil || !errors.Is(broken.Err, soracache.ErrUnavailable) {
		t.Errorf("cut off: %v, %v", err, broken.Err)
	}
}

func TestReadCodecIsForReads(t *testing.T) {
	t.Parallel()
	req := &cachev1.BatchGetRequest{Namespace: "n", Keys: []string{"a", "b"}}
	data, err := ReadCodec{}.Marshal(req)
	if err != nil || !bytes.Equal(data, wired(req)) {
		t.Errorf("%x, error %v", data, err)
	}
	if _, err := (ReadCodec{}).Marshal("text"); err == nil || !strings.Contains(err.Error(), "string") {
		t.Errorf("marshal of text: %v", err)
	}
	if err := (ReadCodec{}).Unmarshal(nil, &cachev1.HeadResponse{}); err == nil {
		t.Error("it reads what it does not know")
	}
}

func FuzzReadAnswer(f *testing.F) {
	for _, a := range answers() {
		f.Add(wired(a))
	}
	f.Add([]byte("\x1a\x01\xff"))
	f.Fuzz(func(t *testing.T, item []byte) {
		_ = checkAnswer(t, item)
		var batch BatchAnswer
		data := append(wiredField(1, string(item)), wiredField(1, string(item))...)
		if err := (ReadCodec{}).Unmarshal(data, &batch); err != nil || batch.Err != nil || len(batch.Results) != 2 {
			t.Fatalf("%+v, error %v", batch, err)
		}
		if a, b := batch.Results[0], batch.Results[1]; fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("twice the same, and read as\n%+v\n%+v", a, b)
		}
	})
}

// In a batch an answer costs one allocation, its value's, and its tags'.
func TestAnswersCostTheirValues(t *testing.T) {
	const n = 64
	hit := answers()["a hit"]
	hit.Tags = nil
	data := bytes.Repeat(wiredField(1, string(wired(hit))), n)
	allocs := testing.AllocsPerRun(100, func() {
		var batch BatchAnswer
		if err := (ReadCodec{}).Unmarshal(data, &batch); err != nil || len(batch.Results) != n {
			t.Fatal(len(batch.Results), err)
		}
	})
	// Besides, the batch: itself, its results, a stamp, an encoding, and an etag each.
	if want := float64(2*n + 4); allocs > want {
		t.Errorf("%.0f allocations for %d answers, want %.0f", allocs, n, want)
	}
}

// A field that the contract gains has to be read in client/wireread.go too.
func TestAnswersHaveNoFieldsThatAreNotRead(t *testing.T) {
	for message, known := range map[proto.Message]int{
		&cachev1.GetResponse{}:      19,
		&cachev1.BatchGetResponse{}: 4, // the second, the stamp of all, is in the answers too
		&cachev1.BatchError{}:       3,
		&durationpb.Duration{}:      2,
	} {
		d := message.ProtoReflect().Descriptor()
		if n := d.Fields().Len(); n != known {
			t.Errorf("%s has %d fields, %d are known here", d.FullName(), n, known)
		}
	}
}
