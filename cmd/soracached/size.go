package main

import (
	"fmt"
	"math"

	"github.com/dustin/go-humanize"
)

// size is a number of bytes, written as 512MiB, 1GB or a plain number.
type size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *size) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is not a size such as 512MiB", text)
	}
	*s = size(n)
	return nil
}

// String returns the size with a binary unit.
func (s size) String() string {
	return humanize.IBytes(uint64(max(s, 0)))
}
