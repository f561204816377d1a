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
//	 0  "sc", version (2)
//	 3  epoch                    7 bytes
//	10  position of the stamp    7 bytes
//	17  time of writing          7 bytes, microseconds of the store's clock
//	24  fresh for                6 bytes, microseconds from then
//	30  keep for                 6 bytes, microseconds from then
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
//
// Of every version, byte 2 is the number and bytes 36 to 40 are the sum of what
// precedes them: that tells nodes of earlier versions that a later one's entry is
// not damaged, and they leave it alone.
//
// The head of version 1 was "sc", 1, 0, then 8 bytes each of epoch, position, fresh
// until and keep until. It does not say when it was written, so its times cannot be
// checked against a clock that may have been set back, and nobody believes them: it
// is read as one that was written at a time that never comes.
const (
	entryVersion = 2
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
	Written    int64
	FreshUntil int64 // as is KeepUntil, not before Written, and less than 2^48 after it
	KeepUntil  int64
}

// Impossible reports whether no entry that is found at a time on the store's clock
// can have these times: it was written later, or would be kept for too long.
func (h EntryHead) Impossible(now int64) bool {
	return h.Written-now > ClockSlack.Microseconds() || h.KeepUntil-h.Written > MaxKeep.Microseconds()
}

// Left returns for how long from a time on the store's clock an entry is fresh and
// kept. It is never longer than it was when the entry was written.
func (h EntryHead) Left(now int64) (fresh, keep time.Duration) {
	now = max(now, min(h.Written, h.FreshUntil))
	return time.Duration(h.FreshUntil-now) * time.Microsecond, time.Duration(h.KeepUntil-now) * time.Microsecond
}

// Append appends the head's 40 bytes to b.
func (h EntryHead) Append(b []byte) []byte {
	start := len(b)
	b = append(b, 's', 'c', entryVersion)
	b = appendUint(b, 7, uint64(h.Stamp.Epoch))
	b = appendUint(b, 7, uint64(h.Stamp.Position))
	b = appendUint(b, 7, uint64(h.Written))              //nolint:gosec // times are positive
	b = appendUint(b, 6, uint64(h.FreshUntil-h.Written)) //nolint:gosec // not before
	b = appendUint(b, 6, uint64(h.KeepUntil-h.Written))  //nolint:gosec // not before
	sum := sha1.Sum(b[start:])                           //nolint:gosec // see import
	return append(b, sum[:4]...)
}

// appendUint appends the last n of a number's 8 bytes.
func appendUint(b []byte, n int, v uint64) []byte {
	var whole [8]byte
	binary.BigEndian.PutUint64(whole[:], v)
	return append(b, whole[8-n:]...)
}

// uintOf reads n bytes, before which there are others.
func uintOf(b []byte, at, n int) uint64 {
	return binary.BigEndian.Uint64(b[at+n-8:]) & (1<<(8*n) - 1)
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
	if len(b) < HeadBytes || b[0] != 's' || b[1] != 'c' {
		return h, ErrCorrupt
	}
	if sum := sha1.Sum(b[:headSummed]); string(sum[:4]) != string(b[headSummed:HeadBytes]) { //nolint:gosec // see import
		return h, ErrCorrupt
	}
	switch {
	case b[2] == entryVersion:
		h.Stamp.Epoch = soracache.Epoch(uintOf(b, 3, 7))
		h.Stamp.Position = soracache.Position(uintOf(b, 10, 7))
		h.Written = int64(uintOf(b, 17, 7))                //nolint:gosec // below 2^56
		h.FreshUntil = h.Written + int64(uintOf(b, 24, 6)) //nolint:gosec // below 2^48
		h.KeepUntil = h.Written + int64(uintOf(b, 30, 6))  //nolint:gosec // below 2^48
	case b[2] == 1 && b[3] == 0:
		h.Stamp.Epoch = soracache.Epoch(uintOf(b, 4, 8))
		h.Stamp.Position = soracache.Position(uintOf(b, 12, 8))
		h.Written = math.MaxInt64
		h.FreshUntil, h.KeepUntil = int64(uintOf(b, 20, 8)), int64(uintOf(b, 28, 8)) //nolint:gosec // not believed
	default:
		return h, ErrCorrupt
	}
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
