package l2

import (
	"crypto/sha1" //nolint:gosec // a checksum that Redis scripts can compute, not a signature
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"time"

	"github.com/soracache/soracache"
)

// The bytes of a stored entry, all integers big-endian:
//
//	 0  "sc", version (1), 0
//	 4  epoch                    8 bytes
//	12  position of the stamp    8 bytes
//	20  fresh until              8 bytes, microseconds of the store's clock
//	28  keep until               8 bytes, microseconds of the store's clock
//	36  first 4 bytes of the SHA-1 of bytes 0 to 36
//	40  CRC-32C of all that follows
//	44  kind                     1 byte
//	45  L1 cap                   4 bytes, milliseconds, 0 for none
//	49  number of tags           2 bytes
//	51  length of key            2 bytes
//	53  key, each tag (2 bytes of length before it), encoding and etag (1 byte
//	    of length before each), value
//
// The head (40 bytes) is written by the store, which alone knows its clock and
// ledger at the moment of storing; the body comes from the node. Each has a
// checksum of its own, of a kind that its writer can compute. The key is
// echoed so that an entry copied to another key is recognised.
const (
	entryVersion = 1
	// HeadBytes is the length of an entry's head, and where its body begins.
	HeadBytes  = 40
	headSummed = 36
	bodyFixed  = 13
)

// ErrCorrupt says that bytes are not an entry of the key they were found
// under: damaged, foreign, or of a version that this build does not read.
var ErrCorrupt = errors.New("corrupt entry")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// EntryHead is the part of a stored entry that the store writes. Times are
// microseconds of the store's clock since 1970.
type EntryHead struct {
	Stamp      soracache.Stamp
	FreshUntil int64
	KeepUntil  int64
}

// Append appends the head's 40 bytes to b.
func (h EntryHead) Append(b []byte) []byte {
	start := len(b)
	b = append(b, 's', 'c', entryVersion, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Stamp.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Stamp.Position))
	b = binary.BigEndian.AppendUint64(b, uint64(h.FreshUntil)) //nolint:gosec // times are positive
	b = binary.BigEndian.AppendUint64(b, uint64(h.KeepUntil))  //nolint:gosec // times are positive
	sum := sha1.Sum(b[start:])                                 //nolint:gosec // see import
	return append(b, sum[:4]...)
}

// AppendBody appends the part of a stored entry that the node writes. The
// caller has checked the entry against its limits.
func AppendBody(b []byte, key string, e soracache.Entry, l1 time.Duration) []byte {
	b = append(b, 0, 0, 0, 0)
	start := len(b)
	b = append(b, byte(e.Kind))
	limit := l1.Milliseconds()
	if l1 > 0 {
		limit = max(limit, 1) // zero is no cap
	}
	b = binary.BigEndian.AppendUint32(b, uint32(min(limit, math.MaxUint32)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Tags))) //nolint:gosec // limited to 1024
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))    //nolint:gosec // limited to 32 KiB
	b = append(b, key...)
	for _, t := range e.Tags {
		b = binary.BigEndian.AppendUint16(b, uint16(len(t))) //nolint:gosec // limited to 32 KiB
		b = append(b, t...)
	}
	b = append(b, byte(len(e.Encoding))) //nolint:gosec // limited to 255
	b = append(b, e.Encoding...)
	b = append(b, byte(len(e.ETag))) //nolint:gosec // limited to 255
	b = append(b, e.ETag...)
	b = append(b, e.Value...)
	binary.BigEndian.PutUint32(b[start-4:], crc32.Checksum(b[start:], castagnoli))
	return b
}

// BodySize returns how many bytes AppendBody appends.
func BodySize(key string, e soracache.Entry) int {
	n := bodyFixed + len(key) + 2 + len(e.Encoding) + len(e.ETag) + len(e.Value)
	for _, t := range e.Tags {
		n += 2 + len(t)
	}
	return n
}

// DecodeHead reads and verifies an entry's head alone.
func DecodeHead(b []byte) (EntryHead, error) {
	var h EntryHead
	if len(b) < HeadBytes || b[0] != 's' || b[1] != 'c' || b[2] != entryVersion || b[3] != 0 {
		return h, ErrCorrupt
	}
	if sum := sha1.Sum(b[:headSummed]); string(sum[:4]) != string(b[headSummed:HeadBytes]) { //nolint:gosec // see import
		return h, ErrCorrupt
	}
	h.Stamp.Epoch = soracache.Epoch(binary.BigEndian.Uint64(b[4:]))
	h.Stamp.Position = soracache.Position(binary.BigEndian.Uint64(b[12:]))
	h.FreshUntil = int64(binary.BigEndian.Uint64(b[20:])) //nolint:gosec // compared, never trusted
	h.KeepUntil = int64(binary.BigEndian.Uint64(b[28:]))  //nolint:gosec // compared, never trusted
	return h, nil
}

// DecodeEntry reads and verifies a whole stored entry that was found under
// key. The entry's value and strings are slices of b or copies: b must not
// change afterwards.
func DecodeEntry(b []byte, key string) (head EntryHead, e soracache.Entry, l1 time.Duration, err error) {
	if len(b) < HeadBytes+bodyFixed || crc32.Checksum(b[HeadBytes+4:], castagnoli) != binary.BigEndian.Uint32(b[HeadBytes:]) {
		return EntryHead{}, soracache.Entry{}, 0, ErrCorrupt
	}
	return DecodeBeginning(b, key)
}

// DecodeBeginning reads an entry of which only the beginning is there. Its head is
// verified and its body is not. The entry's value is as much of it as is there.
func DecodeBeginning(b []byte, key string) (head EntryHead, e soracache.Entry, l1 time.Duration, err error) {
	fail := func() (EntryHead, soracache.Entry, time.Duration, error) {
		return EntryHead{}, soracache.Entry{}, 0, ErrCorrupt
	}
	if head, err = DecodeHead(b); err != nil {
		return fail()
	}
	b = b[HeadBytes:]
	if len(b) < bodyFixed {
		return fail()
	}
	e.Kind = soracache.Kind(b[4])
	l1 = time.Duration(binary.BigEndian.Uint32(b[5:])) * time.Millisecond
	tags, keyLen := int(binary.BigEndian.Uint16(b[9:])), int(binary.BigEndian.Uint16(b[11:]))
	b = b[bodyFixed:]
	if e.Kind > soracache.KindError || len(b) < keyLen || string(b[:keyLen]) != key {
		return fail()
	}
	b = b[keyLen:]
	if len(b) < 2*tags {
		return fail()
	}
	if tags > 0 {
		e.Tags = make([]string, tags)
	}
	var ok bool
	for i := range e.Tags {
		if len(b) < 2 {
			return fail()
		}
		if e.Tags[i], b, ok = cut(b[2:], int(binary.BigEndian.Uint16(b))); !ok {
			return fail()
		}
	}
	for _, field := range []*string{&e.Encoding, &e.ETag} {
		if len(b) < 1 {
			return fail()
		}
		if *field, b, ok = cut(b[1:], int(b[0])); !ok {
			return fail()
		}
	}
	e.Value = b[:len(b):len(b)]
	return head, e, l1, nil
}

// cut splits n bytes off b. The encodings that the client knows are returned
// without allocating.
func cut(b []byte, n int) (string, []byte, bool) {
	if len(b) < n {
		return "", nil, false
	}
	switch string(b[:n]) {
	case "":
		return "", b[n:], true
	case "json":
		return "json", b[n:], true
	case "raw":
		return "raw", b[n:], true
	case "proto":
		return "proto", b[n:], true
	}
	return string(b[:n]), b[n:], true
}
