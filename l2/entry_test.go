package l2

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
)

var update = flag.Bool("update", false, "rewrite the golden bytes: only for a format that was never released")

// stored is an entry as a store has it.
type stored struct {
	key   string
	head  EntryHead
	entry soracache.Entry
	l1    time.Duration
}

func (s stored) encode() []byte { return AppendBody(s.head.Append(nil), s.key, s.entry, s.l1) }

func (s stored) equal(o stored) bool {
	return s.key == o.key && s.head == o.head && s.l1 == o.l1 && bytes.Equal(s.entry.Value, o.entry.Value) &&
		slices.Equal(s.entry.Tags, o.entry.Tags) && s.entry.Kind == o.entry.Kind &&
		s.entry.Encoding == o.entry.Encoding && s.entry.ETag == o.entry.ETag
}

func decode(b []byte, key string) (stored, error) {
	head, e, l1, err := DecodeEntry(b, key)
	return stored{key, head, e, l1}, err
}

func head(epoch soracache.Epoch, position soracache.Position, written, fresh, keep int64) EntryHead {
	return EntryHead{Stamp: soracache.Stamp{Epoch: epoch, Position: position}, Written: written, FreshUntil: fresh, KeepUntil: keep}
}

// samples are the entries whose bytes are kept in testdata.
var samples = map[string]stored{
	"plain": {
		key: "k", head: head(1, 2, 2, 3, 4), entry: soracache.Entry{Value: []byte("v")},
	},
	"full": {
		key:  "product:42",
		head: head(0xfedcba9876543, 1772366400000001, 1772366400000002, 1772366700000000, 1772368200000000),
		entry: soracache.Entry{
			Value: []byte(`{"id":42}`), Tags: []string{"product:42", "products"}, Encoding: "json", ETag: `W/"7"`,
		},
		l1: 90 * time.Second,
	},
	"largest": {
		key:  strings.Repeat("k", 300),
		head: head(1<<52-1, 1<<53-1, 1<<56-1, 1<<56+1<<48-2, 1<<56+1<<48-2),
		entry: soracache.Entry{
			Value: []byte{0, 0xff}, Tags: []string{"", strings.Repeat("t", 256)},
			Kind: soracache.KindError, Encoding: strings.Repeat("e", 255), ETag: strings.Repeat("g", 255),
		},
		l1: math.MaxUint32 * time.Millisecond,
	},
	"not-found": {
		key: "{日本}\x00:", head: head(7, 8, 9, 9, 10),
		entry: soracache.Entry{Kind: soracache.KindNotFound, Tags: []string{"a\x00b", "🦊"}, Encoding: "raw"},
	},
	"nothing": {},
}

const goldenFile, goldenFile1 = "testdata/entry-v2.txt", "testdata/entry-v1.txt"

// TestEntryGolden holds the format of version 2: what it wrote must be read
// for ever, and this build writes it still.
func TestEntryGolden(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	golden := readGolden(t, goldenFile)
	if len(golden) != len(samples) {
		t.Errorf("%d golden entries, want %d", len(golden), len(samples))
	}
	for name, want := range samples {
		if got := want.encode(); !bytes.Equal(got, golden[name]) {
			t.Errorf("%s is written as\n%x, want\n%x", name, got, golden[name])
		}
		got, err := decode(golden[name], want.key)
		if err != nil || !got.equal(want) {
			t.Errorf("%s is read as %+v, %v, want %+v", name, got, err, want)
		}
		if h, err := DecodeHead(golden[name]); err != nil || h != want.head {
			t.Errorf("the head of %s is read as %+v, %v", name, h, err)
		}
	}
}

// TestEntryGolden1 has what version 1 wrote, of which the times are not believed.
func TestEntryGolden1(t *testing.T) {
	times := map[string][2]int64{
		"plain": {3, 4}, "full": {1772366700000000, 1772368200000000}, "largest": {math.MaxInt64, math.MaxInt64}, "not-found": {9, 10}, "nothing": {},
	}
	golden := readGolden(t, goldenFile1)
	if len(golden) != len(samples) {
		t.Errorf("%d golden entries, want %d", len(golden), len(samples))
	}
	for name, want := range samples {
		want.head = head(want.head.Stamp.Epoch, want.head.Stamp.Position, math.MaxInt64, times[name][0], times[name][1])
		got, err := decode(golden[name], want.key)
		if err != nil || !got.equal(want) {
			t.Errorf("%s is read as %+v, %v, want %+v", name, got, err, want)
		}
		for _, now := range []int64{0, 1772366500000000, 1<<53 - 1} {
			if !got.head.Impossible(now) {
				t.Errorf("%s is possible at %d", name, now)
			}
			if fresh, keep := got.head.Left(now); fresh > 0 || keep > time.Duration(times[name][1]-times[name][0])*time.Microsecond {
				t.Errorf("%s is fresh for another %v and kept for %v", name, fresh, keep)
			}
		}
	}
}

// TestEntryHeadTimes has entries found before they were written and after.
func TestEntryHeadTimes(t *testing.T) {
	const written, second = 1772366400000000, 1_000_000
	for what, c := range map[string]struct {
		ttl, keep, age int64
		impossible     bool
		fresh, kept    time.Duration
	}{
		"of now":                   {second, 2 * second, 0, false, time.Second, 2 * time.Second},
		"of a second ago":          {second, 3 * second, second, false, 0, 2 * time.Second},
		"long dead":                {second, 2 * second, 5 * second, false, -4 * time.Second, -3 * time.Second},
		"a little ahead":           {second, 2 * second, -second / 2, false, time.Second, 2 * time.Second},
		"as far ahead as can be":   {second, 2 * second, -second, false, time.Second, 2 * time.Second},
		"further ahead":            {second, 2 * second, -second - 1, true, time.Second, 2 * time.Second},
		"an hour ahead":            {second, 2 * second, -3600 * second, true, time.Second, 2 * time.Second},
		"kept for as long as can":  {second, MaxKeep.Microseconds(), 0, false, time.Second, MaxKeep},
		"kept for longer than can": {second, MaxKeep.Microseconds() + 1, 0, true, time.Second, MaxKeep + time.Microsecond},
	} {
		h := head(1, 1, written, written+c.ttl, written+c.keep)
		if got := h.Impossible(written + c.age); got != c.impossible {
			t.Errorf("%s: impossible is %v", what, got)
		}
		if fresh, kept := h.Left(written + c.age); fresh != c.fresh || kept != c.kept {
			t.Errorf("%s: fresh for %v, kept for %v", what, fresh, kept)
		}
	}
}

func writeGolden(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Stored entries of version 2: a name and the bytes. They never change.\n")
	names := make([]string, 0, len(samples))
	for name := range samples {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s %x\n", name, samples[name].encode())
	}
	if err := os.WriteFile(goldenFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readGolden(t testing.TB, file string) map[string][]byte {
	text, err := os.ReadFile(file)
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

func randomEntry(rng *rand.Rand) stored {
	text := func(most int) string {
		b := make([]byte, rng.IntN(most+1))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return string(b)
	}
	written := rng.Int64N(1 << 56)
	s := stored{
		key: text(40),
		head: head(soracache.Epoch(rng.Uint64N(1<<56)), soracache.Position(rng.Uint64N(1<<56)),
			written, written+rng.Int64N(1<<48), written+rng.Int64N(1<<48)),
		entry: soracache.Entry{
			Value: []byte(text(200)), Kind: soracache.Kind(rng.IntN(3)), ETag: text(255),
			Encoding: []string{"", "json", "raw", "proto", text(255)}[rng.IntN(5)],
		},
		l1: time.Duration(rng.Uint32()) * time.Millisecond,
	}
	for range rng.IntN(5) {
		s.entry.Tags = append(s.entry.Tags, text(30))
	}
	return s
}

func TestEntryRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		want := randomEntry(rng)
		b := want.encode()
		if len(b) != HeadBytes+BodySize(want.key, want.entry) {
			t.Fatalf("%d bytes, BodySize says %d", len(b)-HeadBytes, BodySize(want.key, want.entry))
		}
		got, err := decode(b, want.key)
		if err != nil || !got.equal(want) {
			t.Fatalf("%+v was read back as %+v, %v", want, got, err)
		}
	}
}

func TestEntryL1IsKeptInMilliseconds(t *testing.T) {
	for l1, want := range map[time.Duration]time.Duration{
		0:                                      0,
		1500 * time.Microsecond:                time.Millisecond,
		math.MaxUint32 * time.Second:           math.MaxUint32 * time.Millisecond,
		30*24*time.Hour + 999*time.Microsecond: 30 * 24 * time.Hour,
	} {
		s := stored{key: "k", l1: l1}
		if got, err := decode(s.encode(), "k"); err != nil || got.l1 != want {
			t.Errorf("an L1 cap of %v was read back as %v, %v, want %v", l1, got.l1, err, want)
		}
	}
}

// TestEntryDamage changes each bit, cuts off at each length and adds a byte.
func TestEntryDamage(t *testing.T) {
	for name, s := range samples {
		whole := s.encode()
		for i := range len(whole) * 8 {
			damaged := slices.Clone(whole)
			damaged[i/8] ^= 1 << (i % 8)
			if got, err := decode(damaged, s.key); !errors.Is(err, ErrCorrupt) || !got.equal(stored{key: s.key}) {
				t.Fatalf("%s with bit %d changed was read as %+v, %v", name, i, got, err)
			}
			if _, err := DecodeHead(damaged); (err != nil) != (i < HeadBytes*8) {
				t.Fatalf("the head of %s with bit %d changed: %v", name, i, err)
			}
		}
		for n := range whole {
			if _, err := decode(whole[:n:n], s.key); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s cut off at %d of %d: %v", name, n, len(whole), err)
			}
		}
		if _, err := decode(append(slices.Clone(whole), 0), s.key); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%s with one byte more: %v", name, err)
		}
	}
}

func TestEntryOfAnotherKey(t *testing.T) {
	s := samples["full"]
	for _, key := range []string{"", "product:43", "product:4", "product:421", "PRODUCT:42"} {
		if _, err := decode(s.encode(), key); !errors.Is(err, ErrCorrupt) {
			t.Errorf("found under %q: %v", key, err)
		}
	}
}

// TestEntryForged has right checksums over lengths and kinds that cannot be.
func TestEntryForged(t *testing.T) {
	const tags, keyLen, firstTag = HeadBytes + 9, HeadBytes + 11, HeadBytes + bodyFixed + len("product:42")
	for what, forge := range map[string]func(b []byte){
		"an unknown kind":       func(b []byte) { b[HeadBytes+4] = byte(soracache.KindError) + 1 },
		"too many tags":         func(b []byte) { b[tags] = 0xff },
		"a few tags too many":   func(b []byte) { b[tags+1] = 30 },
		"a key that is longer":  func(b []byte) { b[keyLen]++ },
		"a key that is shorter": func(b []byte) { b[keyLen+1]-- },
		"a tag that is longer":  func(b []byte) { b[firstTag] = 0xff },
		"a later version":       func(b []byte) { b[2] = entryVersion + 1 },
		"version 0":             func(b []byte) { b[2] = 0 },
		"version 1 with a flag": func(b []byte) { b[2], b[3] = 1, 1 },
	} {
		b := samples["full"].encode()
		forge(b)
		seal(b)
		if got, err := decode(b, "product:42"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s was read as %+v, %v", what, got, err)
		}
	}
}

// seal makes the checksums right.
func seal(b []byte) {
	sum := sha1.Sum(b[:headSummed])
	copy(b[headSummed:HeadBytes], sum[:])
	binary.BigEndian.PutUint32(b[HeadBytes:], crc32.Checksum(b[HeadBytes+4:], crc32.MakeTable(crc32.Castagnoli)))
}

// TestEntryValueHasNoRoomToGrow: appending to a value must not write into what
// follows it in the same buffer.
func TestEntryValueHasNoRoomToGrow(t *testing.T) {
	b := append(samples["full"].encode(), "behind"...)
	b = b[:len(b)-len("behind")]
	got, err := decode(b, "product:42")
	if err != nil {
		t.Fatal(err)
	}
	_ = append(got.entry.Value, 'X')
	if behind := b[:len(b)+1]; behind[len(b)] != 'b' {
		t.Error("appending to the value wrote behind it")
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	s := samples["full"]
	b := AppendBody(s.head.Append([]byte("before")), s.key, s.entry, s.l1)
	if !bytes.HasPrefix(b, []byte("before")) || !bytes.Equal(b[len("before"):], s.encode()) {
		t.Errorf("appended: %q", b)
	}
}

// FuzzDecodeEntry decodes anything, with the checksums made right if sealed
// says so. Whatever is accepted must be what the encoder writes.
func FuzzDecodeEntry(f *testing.F) {
	for _, file := range []string{goldenFile, goldenFile1} {
		for name, b := range readGolden(f, file) {
			for _, sealed := range []bool{false, true} {
				f.Add(b, samples[name].key, sealed)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, key string, sealed bool) {
		if sealed && len(b) >= HeadBytes+4 {
			b = slices.Clone(b)
			copy(b, []byte{'s', 'c', entryVersion})
			seal(b)
		}
		got, err := decode(b, key)
		switch {
		case err != nil && !errors.Is(err, ErrCorrupt):
			t.Fatalf("error %v", err)
		case err != nil && !got.equal(stored{key: key}):
			t.Fatalf("an error and a part of an entry: %+v", got)
		case err == nil && b[2] == 1: // which is not written any more
		case err == nil && !bytes.Equal(got.encode(), b):
			t.Fatalf("%x was read as %+v, which is written as %x", b, got, got.encode())
		}
	})
}

// A cap on L1 that is shorter than what the form can hold is not taken for none.
func TestShortCapIsNoneTheLess(t *testing.T) {
	for lasts, want := range map[time.Duration]time.Duration{
		0: 0, 1: time.Millisecond, time.Millisecond: time.Millisecond, time.Millisecond + 1: time.Millisecond,
	} {
		b := AppendBody(EntryHead{Stamp: soracache.Stamp{Epoch: 1, Position: 1}, FreshUntil: 1, KeepUntil: 2}.Append(nil), "k", soracache.Entry{}, lasts)
		if _, _, got, err := DecodeEntry(b, "k"); err != nil || got != want {
			t.Errorf("a cap of %s comes back as %s, %v", lasts, got, err)
		}
	}
}
