package command

import (
	"fmt"
	"math"

	"github.com/dustin/go-humanize"
)

// size is a number of bytes, written as 512MiB, 1GB or a plain number.
type size int64

func parseSize(text string) (size, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size such as 512MiB", text)
	}
	return size(n), nil
}

// String returns the size with a binary unit.
func (s size) String() string {
	return humanize.IBytes(uint64(max(s, 0)))
}
