package soracache_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/soracache/soracache"
)

func stamp(partition uint16, epoch soracache.Epoch, position soracache.Position) soracache.PartitionStamp {
	return soracache.PartitionStamp{
		Partition: partition,
		Stamp:     soracache.Stamp{Epoch: epoch, Position: position},
	}
}

// goldenStamps are the opaque bytes of version 1, which callers keep and hand
// on. They never change.
var goldenStamps = []struct {
	hex    string
	stamps soracache.Stamps
}{
	{"", nil},
	{"0100000000000000000001000000000000000219ad8505", soracache.Stamps{stamp(0, 1, 2)}},
	{
		"010000000fedcba98765430000000000000001000300000000000000070006" +
			"4bf535af100103ff000fffffffffffff001fffffffffffffed6b6fbc",
		soracache.Stamps{
			stamp(0, 0xfedcba9876543, 1),
			stamp(3, 7, 1772366400000001),
			stamp(soracache.MaxPartitions-1, 1<<52-1, 1<<53-1),
		},
	},
}

func TestStampsGolden(t *testing.T) {
	for _, c := range goldenStamps {
		want, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.stamps.Encode(); !bytes.Equal(got, want) {
			t.Errorf("%v is written as %x, want %x", c.stamps, got, want)
		}
		if got, err := soracache.DecodeStamps(want); err != nil || !slices.Equal(got, c.stamps) {
			t.Errorf("%x is read as %v, %v, want %v", want, got, err, c.stamps)
		}
	}
}

func TestStampsRoundTrip(t *testing.T) {
	for n := range 200 {
		var s soracache.Stamps
		for p := range n {
			s = append(s, stamp(uint16(p*5), soracache.Epoch(rand.Uint64()), soracache.Position(rand.Uint64())))
		}
		if got, err := soracache.DecodeStamps(s.Encode()); err != nil || !slices.Equal(got, s) {
			t.Fatalf("%v was read back as %v, %v", s, got, err)
		}
	}
}

func TestDecodeStampsRefusesDamage(t *testing.T) {
	whole := soracache.Stamps{stamp(1, 2, 3), stamp(4, 5, 6)}.Encode()
	refuse := func(what string, b []byte) {
		t.Helper()
		if got, err := soracache.DecodeStamps(b); !errors.Is(err, soracache.ErrInvalid) || got != nil {
			t.Errorf("%s was read as %v, %v", what, got, err)
		}
	}
	for i := range len(whole) * 8 {
		damaged := slices.Clone(whole)
		damaged[i/8] ^= 1 << (i % 8)
		refuse("a changed bit", damaged)
	}
	for n := 1; n < len(whole); n++ {
		refuse("a part", whole[:n])
	}
	refuse("a byte more", append(slices.Clone(whole), 0))
	refuse("no stamp at all", sealStamps([]byte{1}))
	refuse("a newer version", sealStamps(append([]byte{2}, whole[1:len(whole)-4]...)))
	refuse("partitions out of order", soracache.Stamps{stamp(4, 5, 6), stamp(1, 2, 3)}.Encode())
	refuse("a partition twice", soracache.Stamps{stamp(4, 5, 6), stamp(4, 5, 6)}.Encode())
	refuse("a partition out of bounds", soracache.Stamps{stamp(soracache.MaxPartitions, 2, 3)}.Encode())
	refuse("a partition far out of bounds", soracache.Stamps{stamp(math.MaxUint16, 2, 3)}.Encode())
}

// sealStamps adds the checksum.
func sealStamps(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func TestStampsAt(t *testing.T) {
	s := soracache.Stamps{stamp(1, 2, 3), stamp(4, 5, 6)}
	if got, ok := s.At(4); !ok || got != (soracache.Stamp{Epoch: 5, Position: 6}) {
		t.Errorf("At(4) = %v, %v", got, ok)
	}
	if got, ok := s.At(0); ok || got != (soracache.Stamp{}) {
		t.Errorf("At(0) = %v, %v", got, ok)
	}
}

func TestStampsOf(t *testing.T) {
	s := soracache.Stamps{stamp(1, 7, 10), stamp(4, 7, 20)}
	for _, p := range s {
		of := s.Of(p.Partition)
		if len(of) != 1 || of[0] != p || cap(of) != 1 {
			t.Errorf("of %d: %v, with room for %d", p.Partition, of, cap(of))
		}
	}
	for _, absent := range []uint16{0, 2, 5} {
		if of := s.Of(absent); of != nil {
			t.Errorf("of %d: %v", absent, of)
		}
	}
}

func TestStampsMerge(t *testing.T) {
	for _, c := range []struct {
		what              string
		old, newer, merge soracache.Stamps
	}{
		{"nothing with nothing", nil, nil, nil},
		{"nothing with some", nil, soracache.Stamps{stamp(1, 2, 3)}, soracache.Stamps{stamp(1, 2, 3)}},
		{"some with nothing", soracache.Stamps{stamp(1, 2, 3)}, nil, soracache.Stamps{stamp(1, 2, 3)}},
		{
			"other partitions, which stay in order",
			soracache.Stamps{stamp(1, 2, 3), stamp(5, 2, 3)},
			soracache.Stamps{stamp(0, 2, 3), stamp(3, 2, 3), stamp(9, 2, 3)},
			soracache.Stamps{stamp(0, 2, 3), stamp(1, 2, 3), stamp(3, 2, 3), stamp(5, 2, 3), stamp(9, 2, 3)},
		},
		{"a higher position", soracache.Stamps{stamp(1, 2, 3)}, soracache.Stamps{stamp(1, 2, 4)}, soracache.Stamps{stamp(1, 2, 4)}},
		{"a lower position", soracache.Stamps{stamp(1, 2, 3)}, soracache.Stamps{stamp(1, 2, 2)}, soracache.Stamps{stamp(1, 2, 3)}},
		{"another epoch, which is newer knowledge", soracache.Stamps{stamp(1, 2, 9)}, soracache.Stamps{stamp(1, 1, 3)}, soracache.Stamps{stamp(1, 1, 3)}},
	} {
		before := slices.Clone(c.old)
		if got := c.old.Merge(c.newer); !slices.Equal(got, c.merge) {
			t.Errorf("%s: %v, want %v", c.what, got, c.merge)
		}
		if !slices.Equal(c.old, before) {
			t.Errorf("%s: the receiver became %v", c.what, c.old)
		}
	}
}

// goldenPartitions are the partitions of some keys for 1, 2, 3, 16, 1000 and
// 1024 partitions. Entries are where this says: it never changes.
var goldenPartitions = map[string][6]uint16{
	"":           {0, 0, 2, 6, 342, 294},
	"k":          {0, 1, 0, 5, 285, 101},
	"product:42": {0, 1, 0, 11, 139, 987},
	"{a}b":       {0, 0, 1, 8, 136, 280},
	"日本":         {0, 1, 0, 3, 659, 579},
	"\x00":       {0, 1, 0, 11, 267, 507},
}

func TestPartitionOfGolden(t *testing.T) {
	for key, want := range goldenPartitions {
		for i, count := range []int{1, 2, 3, 16, 1000, 1024} {
			if got := soracache.PartitionOf(key, count); got != want[i] {
				t.Errorf("PartitionOf(%q, %d) = %d, want %d", key, count, got, want[i])
			}
		}
		if got := soracache.PartitionOf(key, 0); got != 0 {
			t.Errorf("PartitionOf(%q, 0) = %d", key, got)
		}
	}
}

// TestPartitionOfSpreads has keys that differ in their last bytes alone, as
// keys do.
func TestPartitionOfSpreads(t *testing.T) {
	const count, each = 16, 1000
	var held [count]int
	for i := range count * each {
		key := "user:" + hex.EncodeToString(binary.BigEndian.AppendUint32(nil, uint32(i)))
		held[soracache.PartitionOf(key, count)]++
	}
	for p, n := range held {
		if n < each*8/10 || n > each*12/10 {
			t.Errorf("partition %d holds %d keys, want about %d", p, n, each)
		}
	}
}

// FuzzDecodeStamps decodes anything, with the checksum made right if sealed
// says so. Whatever is accepted must be what Encode writes.
func FuzzDecodeStamps(f *testing.F) {
	for _, c := range goldenStamps {
		f.Add(c.stamps.Encode(), false)
		f.Add(c.stamps.Encode(), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed && len(b) >= 4 {
			b = sealStamps(slices.Clone(b[:len(b)-4]))
		}
		got, err := soracache.DecodeStamps(b)
		switch {
		case err != nil && (!errors.Is(err, soracache.ErrInvalid) || got != nil):
			t.Fatalf("read as %v, %v", got, err)
		case err == nil && !bytes.Equal(got.Encode(), b):
			t.Fatalf("%x was read as %v, which is written as %x", b, got, got.Encode())
		}
		if err == nil && !slices.Equal(got.Merge(got), got) {
			t.Fatalf("%v merged with itself is %v", got, got.Merge(got))
		}
	})
}
