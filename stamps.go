package soracache

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
)

// PartitionStamp is a stamp of one partition of a namespace.
type PartitionStamp struct {
	Partition uint16
	Stamp     Stamp
}

// Stamps says how much of a namespace is known to be reflected: at most one
// stamp for each partition, ascending by partition. To callers of the service
// it is opaque bytes. The zero value knows nothing.
type Stamps []PartitionStamp

// MaxPartitions is the largest number of partitions a namespace can have.
const MaxPartitions = 1024

const (
	stampsVersion  = 1
	stampItemBytes = 2 + 8 + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// At returns the stamp for a partition, and whether there is one.
func (s Stamps) At(partition uint16) (Stamp, bool) {
	i, found := slices.BinarySearchFunc(s, partition, comparePartition)
	if !found {
		return Stamp{}, false
	}
	return s[i].Stamp, true
}

// Of returns the stamp of one partition alone, or no stamps. It shares memory with
// s.
func (s Stamps) Of(partition uint16) Stamps {
	i, found := slices.BinarySearchFunc(s, partition, comparePartition)
	if !found {
		return nil
	}
	return s[i : i+1 : i+1]
}

func comparePartition(p PartitionStamp, n uint16) int { return int(p.Partition) - int(n) }

// Merge returns the stamps of both. Where both know a partition in the same
// epoch the higher position wins; where the epochs differ, other wins, because
// it is the newer knowledge.
func (s Stamps) Merge(other Stamps) Stamps {
	merged := slices.Clone(s)
	for _, o := range other {
		i, found := slices.BinarySearchFunc(merged, o.Partition, comparePartition)
		switch {
		case !found:
			merged = slices.Insert(merged, i, o)
		case merged[i].Stamp.Epoch != o.Stamp.Epoch || merged[i].Stamp.Position < o.Stamp.Position:
			merged[i] = o
		}
	}
	return merged
}

// Encode returns the opaque form: a version byte, 18 bytes a partition
// (number, epoch, position, big-endian) and a CRC-32C of what precedes it. No
// stamps encode to nil.
func (s Stamps) Encode() []byte {
	if len(s) == 0 {
		return nil
	}
	b := make([]byte, 0, 1+len(s)*stampItemBytes+4)
	b = append(b, stampsVersion)
	for _, p := range s {
		b = binary.BigEndian.AppendUint16(b, p.Partition)
		b = binary.BigEndian.AppendUint64(b, uint64(p.Stamp.Epoch))
		b = binary.BigEndian.AppendUint64(b, uint64(p.Stamp.Position))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// DecodeStamps reads the form that Encode writes. Empty input is no stamps.
// Anything else that Encode could not have written gives an error that wraps
// [ErrInvalid].
func DecodeStamps(b []byte) (Stamps, error) {
	if len(b) == 0 {
		return nil, nil
	}
	body := len(b) - 1 - 4
	if body <= 0 || body%stampItemBytes != 0 || b[0] != stampsVersion {
		return nil, fmt.Errorf("%w: malformed stamp", ErrInvalid)
	}
	if crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("%w: malformed stamp: checksum", ErrInvalid)
	}
	s := make(Stamps, 0, body/stampItemBytes)
	for item := b[1 : len(b)-4]; len(item) > 0; item = item[stampItemBytes:] {
		p := PartitionStamp{
			Partition: binary.BigEndian.Uint16(item),
			Stamp: Stamp{
				Epoch:    Epoch(binary.BigEndian.Uint64(item[2:])),
				Position: Position(binary.BigEndian.Uint64(item[10:])),
			},
		}
		if n := len(s); p.Partition >= MaxPartitions || n > 0 && s[n-1].Partition >= p.Partition {
			return nil, fmt.Errorf("%w: malformed stamp: partitions", ErrInvalid)
		}
		s = append(s, p)
	}
	return s, nil
}

// PartitionOf returns the partition, of count, that a key belongs to: the
// FNV-1a hash of the key, mixed by the finalizer of MurmurHash3 and reduced
// modulo count. It is part of the stored format and never changes.
func PartitionOf(key string, count int) uint16 {
	if count <= 1 {
		return 0
	}
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return uint16((h ^ h>>33) % uint64(count)) //nolint:gosec // below count, which fits
}
