// Package tags knows how the set of keys that carry a tag is kept: in buckets
// by expiry, each of which expires as a whole, so that membership outlives an
// entry by at most a bucket's width and churn cannot make a set grow for ever.
// It is arithmetic and knows no engine.
//
// An entry that is kept until a time goes into the bucket that ends at the
// first multiple of the bucket's width at or after it. The width is a power of
// two of milliseconds, the largest not above an eighth of the entry's keep
// time, so that a tag whose entries are kept equally long has at most 17
// buckets at a time.
//
// It is part of soracache and no promise to anybody else: whatever it exports may
// change or go in any release (docs/architecture.md, "What is public").
package tags

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"strings"
	"time"

	"github.com/soracache/soracache"
)

const (
	minExponent = 10 // a bucket is at least 1.024 s wide
	maxExponent = 40 // and at most 34 years
)

// Exponent returns the exponent of the width of the bucket for an entry that
// is kept for a time: buckets are 2^Exponent milliseconds wide.
func Exponent(keep time.Duration) uint8 {
	eighth := max(keep.Milliseconds()/8, 1)
	return uint8(min(max(bits.Len64(uint64(eighth))-1, minExponent), maxExponent))
}

// Bucket names one bucket of a tag: the one of width 2^Exponent milliseconds
// that ends at Number widths since 1970 of the store's clock.
type Bucket struct {
	Exponent uint8
	Number   uint64
}

// BucketFor returns the bucket of an entry that is kept for a time, until a
// time of the store's clock in microseconds since 1970.
func BucketFor(keep time.Duration, until int64) Bucket {
	exponent := Exponent(keep)
	milliseconds := uint64(max(until, 0)+999) / 1000
	width := uint64(1) << exponent
	return Bucket{Exponent: exponent, Number: (milliseconds + width - 1) / width}
}

// End returns when the bucket ends, in milliseconds since 1970 of the store's
// clock. No entry in it is kept longer.
func (b Bucket) End() int64 { return int64(b.Number << b.Exponent) } //nolint:gosec // checked when decoded

func (b Bucket) valid() bool {
	return b.Exponent >= minExponent && b.Exponent <= maxExponent && b.Number <= 1<<52>>b.Exponent
}

// A Cursor is a place in a walk over what a store keeps: in a tag's buckets, or
// in a whole partition. Engines give its fields their meaning; to callers it is
// opaque.
type Cursor struct {
	// Walk tells the walks of an engine apart, so that a cursor of one is not
	// taken for a cursor of another.
	Walk uint8
	// Bucket is where the walk is, if it goes over buckets.
	Bucket Bucket
	// Scan is the store's own cursor inside that.
	Scan uint64
	// After is the last key or tag seen, for walks in that order.
	After string
}

const cursorFixed = 1 + 1 + 1 + 8 + 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the cursor's opaque form: URL-safe text.
func (c Cursor) Encode() string {
	b := make([]byte, 0, cursorFixed+len(c.After)+4)
	b = append(b, 1, c.Walk, c.Bucket.Exponent)
	b = binary.BigEndian.AppendUint64(b, c.Bucket.Number)
	b = binary.BigEndian.AppendUint64(b, c.Scan)
	b = append(b, c.After...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

// DecodeCursor reads the form that Encode writes, of one walk. Empty input is
// the beginning of the walk; anything that Encode could not have written for
// it gives an error that wraps [soracache.ErrInvalid].
func DecodeCursor(walk uint8, text string) (Cursor, error) {
	if text == "" {
		return Cursor{Walk: walk}, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	// (The decoder passes over line breaks, which Encode never writes.)
	if err != nil || strings.ContainsAny(text, "\r\n") || len(b) < cursorFixed+4 || b[0] != 1 || b[1] != walk {
		return Cursor{}, fmt.Errorf("%w: malformed cursor", soracache.ErrInvalid)
	}
	body := b[:len(b)-4]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return Cursor{}, fmt.Errorf("%w: malformed cursor: checksum", soracache.ErrInvalid)
	}
	c := Cursor{
		Walk:   walk,
		Bucket: Bucket{Exponent: b[2], Number: binary.BigEndian.Uint64(b[3:])},
		Scan:   binary.BigEndian.Uint64(b[11:]),
		After:  string(body[cursorFixed:]),
	}
	if c.Bucket != (Bucket{}) && !c.Bucket.valid() {
		return Cursor{}, fmt.Errorf("%w: malformed cursor: bucket", soracache.ErrInvalid)
	}
	return c, nil
}
