package invalidation_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation"
)

var updateNotices = flag.Bool("update", false, "rewrite the golden bytes: only for a format that was never released")

const goldenNotices = "testdata/notice-v1.txt"

// notices are one of each kind, and the extremes.
var notices = map[string]invalidation.Notice{
	"record": {
		Kind: invalidation.NoticeRecord, Namespace: "shop", Partition: 258,
		Record: soracache.Record{
			Epoch: 0x1122334455667788, Prev: 1_790_000_000_000_000, Position: 1_790_000_000_000_001,
			Targets: []soracache.Target{soracache.Key("product:42"), soracache.Tag("products"), soracache.Tag("{日本}\x00")},
		},
		Appended: 1_790_000_000_000_002,
	},
	"record-acknowledge": {
		Kind: invalidation.NoticeRecord, Namespace: "shop",
		Record:      soracache.Record{Epoch: 1, Prev: 2, Position: 3, Targets: []soracache.Target{soracache.Everything()}},
		Appended:    4,
		Acknowledge: true,
		From:        "node-1:7070-3f9a2c01",
	},
	"record-without-targets": {
		Kind: invalidation.NoticeRecord, Namespace: "shop",
		Record: soracache.Record{Epoch: 1, Prev: 2, Position: 3},
	},
	"record-largest": {
		Kind: invalidation.NoticeRecord, Namespace: strings.Repeat("n", 255), Partition: math.MaxUint16,
		Record: soracache.Record{
			Epoch: math.MaxUint64, Prev: math.MaxInt64 - 1, Position: math.MaxInt64,
			Targets: []soracache.Target{soracache.Key(strings.Repeat("k", 1024)), soracache.Tag(""), soracache.Tag(strings.Repeat("t", 256))},
		},
		Appended: math.MaxInt64, Acknowledge: true, From: strings.Repeat("f", 255),
	},
	"freed": {
		Kind: invalidation.NoticeFreed, Namespace: "shop", Partition: 3, Key: invalidation.KeyHash("product:42"),
	},
	"freed-lost": {
		Kind: invalidation.NoticeFreed, Namespace: "shop", Partition: 3, Key: invalidation.KeyHash("product:42"), Lost: true,
	},
	"freed-passed": {
		Kind: invalidation.NoticeFreed, Namespace: "shop", Partition: 3, Key: invalidation.KeyHash("product:42"), Passed: true,
	},
	"applied": {
		Kind: invalidation.NoticeApplied, Namespace: "shop", Partition: 3,
		Stamp: soracache.Stamp{Epoch: 77, Position: 1_790_000_000_000_001}, From: "node-2:7070-11aa22bb",
	},
}

// TestNoticeGolden holds the format: what it wrote must be read for as long as
// a node of that version may run beside this one, and this build writes it still.
func TestNoticeGolden(t *testing.T) {
	if *updateNotices {
		writeGoldenNotices(t)
	}
	golden := readGoldenNotices(t)
	if len(golden) != len(notices) {
		t.Errorf("%d golden notices, want %d", len(golden), len(notices))
	}
	for name, want := range notices {
		if got := invalidation.AppendNotice(nil, &want); !bytes.Equal(got, golden[name]) {
			t.Errorf("%s is written as\n%x, want\n%x", name, got, golden[name])
		}
		got, rest, err := invalidation.DecodeNotice(golden[name])
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is read as %+v, %x, %v; want %+v", name, got, rest, err, want)
		}
	}
}

func writeGoldenNotices(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Notices between nodes, version 1: a name and the bytes. They never change.\n")
	for _, name := range slices.Sorted(maps.Keys(notices)) {
		n := notices[name]
		fmt.Fprintf(&b, "%s %x\n", name, invalidation.AppendNotice(nil, &n))
	}
	if err := os.WriteFile(goldenNotices, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readGoldenNotices(t testing.TB) map[string][]byte {
	text, err := os.ReadFile(goldenNotices)
	if err != nil {
		t.Fatal(err)
	}
	golden := make(map[string][]byte)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, digits, ok := strings.Cut(lines.Text(), " ")
		if !ok || name == "#" {
			continue
		}
		if golden[name], err = hex.DecodeString(digits); err != nil {
			t.Fatal(err)
		}
	}
	return golden
}

// TestKeyHash holds the hash, which nodes of all versions must share.
func TestKeyHash(t *testing.T) {
	for key, want := range map[string]uint64{
		"": 0xcbf29ce484222325, "a": 0xaf63dc4c8601ec8c, "foobar": 0x85944171f73967e8,
	} {
		if got := invalidation.KeyHash(key); got != want {
			t.Errorf("the hash of %q is %x, want %x", key, got, want)
		}
	}
}

func TestNoticesFollowEachOther(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var sent []invalidation.Notice
	var b []byte
	for range 1000 {
		n := randomNotice(rng)
		sent = append(sent, n)
		b = invalidation.AppendNotice(b, &n)
	}
	for i, want := range sent {
		got, rest, err := invalidation.DecodeNotice(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("notice %d is read as %+v, %v; want %+v", i, got, err, want)
		}
		b = rest
	}
	if len(b) != 0 {
		t.Errorf("%d bytes are left", len(b))
	}
}

func randomNotice(rng *rand.Rand) invalidation.Notice {
	name := func() string { return strings.Repeat("x", rng.IntN(256)) }
	n := invalidation.Notice{
		Kind: invalidation.NoticeKind(1 + rng.IntN(3)), Namespace: name(), Partition: uint16(rng.Uint32()),
	}
	switch n.Kind {
	case invalidation.NoticeRecord:
		n.Record = soracache.Record{
			Epoch: soracache.Epoch(rng.Uint64()), Prev: soracache.Position(rng.Int64()), Position: soracache.Position(rng.Int64()),
		}
		for range rng.IntN(4) {
			n.Record.Targets = append(n.Record.Targets, []soracache.Target{
				soracache.Key(name()), soracache.Tag(name()), soracache.Everything(),
			}[rng.IntN(3)])
		}
		n.Appended, n.Acknowledge, n.From = rng.Int64(), rng.IntN(2) == 0, name()
	case invalidation.NoticeFreed:
		n.Key, n.Lost, n.Passed = rng.Uint64(), rng.IntN(2) == 0, rng.IntN(2) == 0
	case invalidation.NoticeApplied:
		n.Stamp = soracache.Stamp{Epoch: soracache.Epoch(rng.Uint64()), Position: soracache.Position(rng.Int64())}
		n.From = name()
	}
	return n
}

// later makes the notice longer, as a later version may.
func later(n invalidation.Notice, tail ...byte) []byte {
	encoded := invalidation.AppendNotice(nil, &n)
	_, width := binary.Uvarint(encoded)
	body := append(encoded[width:], tail...)
	return append(binary.AppendUvarint(nil, uint64(len(body))), body...)
}

// TestLaterVersions: what a later version adds must not be taken for less than
// it may mean, and must not hide what comes after it.
func TestLaterVersions(t *testing.T) {
	for _, name := range []string{"freed", "applied"} {
		got, rest, err := invalidation.DecodeNotice(append(later(notices[name], 1, 2, 3), 0xff))
		if err != nil || !bytes.Equal(rest, []byte{0xff}) || !reflect.DeepEqual(got, notices[name]) {
			t.Errorf("with a tail, %s is read as %+v, %x, %v", name, got, rest, err)
		}
	}

	unknown := invalidation.Notice{Kind: 200, Namespace: "shop", Partition: 7}
	got, rest, err := invalidation.DecodeNotice(append(later(unknown, 1, 2, 3), 0xff))
	if err != nil || !bytes.Equal(rest, []byte{0xff}) || !reflect.DeepEqual(got, unknown) {
		t.Errorf("an unknown kind is read as %+v, %x, %v", got, rest, err)
	}

	// A kind of target that is not known here may be anything: so it is
	// everything, and takes nothing from the others.
	record := notices["record"]
	got, _, err = invalidation.DecodeNotice(later(record, 9, 2, 'a', 'b'))
	want := append(slices.Clone(record.Record.Targets), soracache.Everything())
	if err != nil || !slices.Equal(got.Record.Targets, want) {
		t.Errorf("with a target of an unknown kind: %v, %v; want %v", got.Record.Targets, err, want)
	}
	unknown = invalidation.Notice{Kind: invalidation.NoticeRecord, Record: soracache.Record{
		Targets: []soracache.Target{{Kind: 9, Name: "ab"}, soracache.Key("k")},
	}}
	got, _, err = invalidation.DecodeNotice(invalidation.AppendNotice(nil, &unknown))
	if want := []soracache.Target{soracache.Everything(), soracache.Key("k")}; err != nil || !slices.Equal(got.Record.Targets, want) {
		t.Errorf("with a target of an unknown kind first: %v, %v; want %v", got.Record.Targets, err, want)
	}
	// Flags that are not known here change nothing.
	encoded := invalidation.AppendNotice(nil, &record)
	at := bytes.Index(encoded, binary.BigEndian.AppendUint64(nil, uint64(record.Appended))) + 8
	encoded[at] |= 0xfe
	if got, _, err := invalidation.DecodeNotice(encoded); err != nil || !reflect.DeepEqual(got, record) {
		t.Errorf("with unknown flags: %+v, %v", got, err)
	}
}

// TestCutOffNotices: nothing that is cut off is read as something else.
func TestCutOffNotices(t *testing.T) {
	for name, n := range notices {
		encoded := invalidation.AppendNotice(nil, &n)
		for size := range len(encoded) {
			if got, _, err := invalidation.DecodeNotice(encoded[:size]); !errors.Is(err, invalidation.ErrNotice) {
				t.Fatalf("%d of %d bytes of %s are read as %+v, %v", size, len(encoded), name, got, err)
			}
		}
	}
	for what, b := range map[string][]byte{
		"a length without end":  bytes.Repeat([]byte{0xff}, 12),
		"the longest length":    binary.AppendUvarint(nil, math.MaxUint64),
		"an empty body":         {0},
		"a target beyond":       later(notices["record"], 1, 200, 'a'),
		"a target of no length": later(notices["record"], 1),
	} {
		if got, _, err := invalidation.DecodeNotice(b); !errors.Is(err, invalidation.ErrNotice) {
			t.Errorf("%s is read as %+v, %v", what, got, err)
		}
	}
}

// TestLongNames: a name that does not fit is cut off, and hurts nothing else.
func TestLongNames(t *testing.T) {
	n := notices["record-acknowledge"]
	n.From = strings.Repeat("f", 300)
	got, rest, err := invalidation.DecodeNotice(invalidation.AppendNotice(nil, &n))
	n.From = n.From[:255]
	if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, n) {
		t.Errorf("read as %+v, %x, %v", got, rest, err)
	}
}

// FuzzDecodeNotice: whatever can be read can be written, and is then read as
// the same.
func FuzzDecodeNotice(f *testing.F) {
	for _, b := range readGoldenNotices(f) {
		f.Add(b)
	}
	f.Add(later(notices["applied"], 1, 2, 3))
	f.Add(later(invalidation.Notice{Kind: 200, Namespace: "shop"}, 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, rest, err := invalidation.DecodeNotice(b)
		if err != nil {
			if !errors.Is(err, invalidation.ErrNotice) {
				t.Fatalf("%v is not ErrNotice", err)
			}
			return
		}
		if len(rest) >= len(b) {
			t.Fatal("reading does not go on")
		}
		again, rest, err := invalidation.DecodeNotice(invalidation.AppendNotice(nil, &n))
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(n, again) {
			t.Fatalf("%+v is read again as %+v, %v", n, again, err)
		}
	})
}
