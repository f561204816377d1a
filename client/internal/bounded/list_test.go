package bounded

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// put puts a value that tells how often the key had one.
func put(l *List[string, string], key string, size int64) {
	l.Put(key, size, func(old string, ok bool) string {
		if ok {
			return old + "+"
		}
		return key
	})
}

func TestList(t *testing.T) {
	tests := []struct {
		name           string
		entries, bytes int
		put            []string // a key, and its size by as many dots
		want           []string
		dropped        uint64
	}{
		{"the oldest goes when there are too many", 2, 100, []string{"a.", "b.", "c."}, []string{"b", "c"}, 1},
		{"as many go as the bytes of one need", 10, 4, []string{"a.", "b..", "c....", "d"}, []string{"c", "d"}, 2},
		{"what has no room by itself is dropped, and nothing goes for it", 10, 3, []string{"a.", "b...."}, []string{"a"}, 1},
		{"a key has one value, made of the one before, and is the youngest then", 2, 3, []string{"a.", "b.", "a..", "c."}, []string{"a+", "c"}, 1},
		{"one that has become too large is gone", 2, 2, []string{"a.", "a..."}, nil, 1},
		{"no entries", 0, 100, []string{"a"}, nil, 1},
		{"no bytes", 10, 0, []string{"a.", "b"}, []string{"b"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := New[string, string](tt.entries, int64(tt.bytes))
			for _, p := range tt.put {
				put(l, strings.Trim(p, "."), int64(strings.Count(p, ".")))
			}
			if got, dropped := l.All(); !slices.Equal(got, tt.want) || dropped != tt.dropped {
				t.Errorf("has %q, dropped %d; want %q and %d", got, dropped, tt.want, tt.dropped)
			}
		})
	}
}

// Whatever is put, it is never more than was said, and what is counted is what is there.
func TestListIsBounded(t *testing.T) {
	const mostEntries, mostBytes = 7, 100
	l := New[string, string](mostEntries, mostBytes)
	for range 10_000 {
		put(l, strconv.Itoa(rand.IntN(20)), rand.Int64N(mostBytes+20))
		var bytes int64
		for at := l.order.Front(); at != nil; at = at.Next() {
			bytes += at.Value.(entry[string, string]).size
		}
		if l.order.Len() > mostEntries || bytes > mostBytes || bytes != l.bytes || l.order.Len() != len(l.by) {
			t.Fatalf("%d entries and %d keys of %d bytes, counted as %d", l.order.Len(), len(l.by), bytes, l.bytes)
		}
	}
}
