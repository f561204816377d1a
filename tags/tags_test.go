package tags

import (
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/soracache/soracache"
)

func TestExponent(t *testing.T) {
	for keep, want := range map[time.Duration]uint8{
		0:                        10,
		time.Millisecond:         10,
		8 * time.Second:          10, // 1.000 s is below the least width
		8192 * time.Millisecond:  10,
		16384 * time.Millisecond: 11,
		time.Minute:              12, // 4.1 s of 7.5
		5 * time.Minute:          15, // 32.8 s of 37.5
		30 * time.Minute:         17, // 131 s of 225
		2 * time.Hour:            19, // 524 s of 900
		30 * 24 * time.Hour:      28, // 3.1 days of 3.75
		1 << 62:                  39,
	} {
		if got := Exponent(keep); got != want {
			t.Errorf("%s: 2^%d ms, want 2^%d", keep, got, want)
		}
	}
}

// Every entry ends within its bucket, by at most a width before its end, and a
// tag whose entries are kept equally long has few buckets at a time.
func TestBuckets(t *testing.T) {
	const now = 1_795_000_000_000_000
	for keep := time.Millisecond; keep < 31*24*time.Hour; keep = keep*5/4 + 777*time.Microsecond {
		width := int64(1) << Exponent(keep)
		current := make(map[Bucket]bool)
		for step := range int64(100) {
			until := now + step*keep.Microseconds()/100 + keep.Microseconds()
			b := BucketFor(keep, until)
			if end := b.End() * 1000; end < until || end-until > width*1000 {
				t.Fatalf("kept %s until %d: bucket %+v ends at %d", keep, until, b, end)
			}
			if !b.valid() {
				t.Fatalf("%+v", b)
			}
			current[b] = true
		}
		if len(current) > 18 {
			t.Fatalf("kept %s: %d buckets at a time", keep, len(current))
		}
	}
	for until, number := range map[int64]uint64{-5: 0, 0: 0, 1: 1, 1_024_000: 1, 1_024_001: 2, 2_048_000: 2} {
		if b := BucketFor(time.Second, until); b != (Bucket{10, number}) {
			t.Errorf("until %d: %+v, want %d", until, b, number)
		}
	}
}

func TestCursor(t *testing.T) {
	for _, c := range []Cursor{
		{Walk: 1}, {Walk: 2, Scan: 1<<64 - 1}, {Walk: 3, Bucket: Bucket{10, 1 << 40}, Scan: 7, After: "some key ✓"},
	} {
		got, err := DecodeCursor(c.Walk, c.Encode())
		if err != nil || got != c {
			t.Errorf("%+v became %+v, %v", c, got, err)
		}
	}
	if c, err := DecodeCursor(5, ""); err != nil || c != (Cursor{Walk: 5}) {
		t.Errorf("the beginning is %+v, %v", c, err)
	}
	whole := Cursor{Walk: 1, Bucket: Bucket{12, 345}, Scan: 99, After: "k"}.Encode()
	bad := map[string]string{
		"another walk's":   Cursor{Walk: 2}.Encode(),
		"no base64":        "####",
		"padded":           whole + "==",
		"short":            whole[:8],
		"line break":       whole[:4] + "\n" + whole[4:],
		"narrow bucket":    Cursor{Walk: 1, Bucket: Bucket{9, 1}}.Encode(),
		"wide bucket":      Cursor{Walk: 1, Bucket: Bucket{41, 1}}.Encode(),
		"distant bucket":   Cursor{Walk: 1, Bucket: Bucket{12, 1 << 41}}.Encode(),
		"bucket of year 1": Cursor{Walk: 1, Bucket: Bucket{0, 1}}.Encode(),
	}
	raw, err := base64.RawURLEncoding.DecodeString(whole)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		damaged := append([]byte(nil), raw...)
		damaged[i] ^= 0x10
		bad[fmt.Sprint("byte ", i)] = base64.RawURLEncoding.EncodeToString(damaged)
	}
	for what, text := range bad {
		if _, err := DecodeCursor(1, text); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The form of a cursor is what clients hold between calls, perhaps across an
// upgrade.
func TestCursorGolden(t *testing.T) {
	const golden = "AQEMAAAAAAAAAVkAAAAAAAAAY2uSIkWy"
	c := Cursor{Walk: 1, Bucket: Bucket{12, 345}, Scan: 99, After: "k"}
	if got := c.Encode(); got != golden {
		t.Errorf("%s, want %s", got, golden)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(uint8(1), "")
	f.Add(uint8(1), Cursor{Walk: 1, Bucket: Bucket{12, 345}, Scan: 99, After: "k"}.Encode())
	f.Add(uint8(2), "AQEMAAAA")
	f.Fuzz(func(t *testing.T, walk uint8, text string) {
		c, err := DecodeCursor(walk, text)
		if err != nil {
			if !errors.Is(err, soracache.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if c.Walk != walk || c.Bucket != (Bucket{}) && !c.Bucket.valid() {
			t.Fatalf("%+v", c)
		}
		if text != "" && c.Encode() != text {
			t.Fatalf("%q was read as %+v, which is %q", text, c, c.Encode())
		}
	})
}

func ExampleBucketFor() {
	keep := 5 * time.Minute
	until := time.Date(2026, 1, 1, 12, 5, 0, 0, time.UTC)
	b := BucketFor(keep, until.UnixMicro())
	width := time.Duration(1) << b.Exponent * time.Millisecond
	fmt.Println("width", width, "ends", time.UnixMilli(b.End()).Sub(until), "after the entry")
	// Output: width 32.768s ends 5.664s after the entry
}
