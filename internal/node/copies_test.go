package node

import (
	"fmt"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l1"
	"github.com/soracache/soracache/l2"
)

// told notes which reads were said to be superseded.
type told []string

func (ts *told) Superseded(key string) { *ts = append(*ts, key) }

// What reads and fills brought that were under way together: whichever is answered
// first supersedes the others, and what they leave is nothing, or the last that began
// when all before it had been answered.
func TestCopiesThatArriveTogether(t *testing.T) {
	const key = "k"
	cache, err := l1.New(l1.Config[*local]{MaxBytes: 1 << 20, Size: (*local).size})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	for i, c := range []struct {
		name  string
		do    func(cs *copies, read func(), fill func() func(keep bool))
		want  string // what L1 has then: "fill 2" is what the second fill brought
		reads int    // how often a read was told that it is superseded
	}{
		{"a read alone", func(_ *copies, read func(), _ func() func(bool)) { read() }, "read", 0},
		{"a fill alone", func(_ *copies, _ func(), fill func() func(bool)) { fill()(true) }, "fill 1", 1},
		{"a fill that is not to be kept", func(_ *copies, _ func(), fill func() func(bool)) { fill()(false) }, "", 1},
		{"a read, then a fill", func(_ *copies, read func(), fill func() func(bool)) { read(); fill()(true) }, "fill 1", 1},
		{"a fill, then a read", func(_ *copies, read func(), fill func() func(bool)) { fill()(true); read() }, "read", 1},
		{"a read while a fill is under way", func(_ *copies, read func(), fill func() func(bool)) {
			stored := fill()
			read()
			stored(true)
		}, "", 1},
		{"two fills, one after the other", func(_ *copies, _ func(), fill func() func(bool)) { fill()(true); fill()(true) }, "fill 2", 2},
		{"two fills together", func(_ *copies, _ func(), fill func() func(bool)) {
			first, second := fill(), fill()
			second(true)
			first(true)
		}, "", 2},
		{"a fill that was refused", func(cs *copies, read func(), fill func() func(bool)) {
			cs.fillAnswered(key, cs.fillSent(key))
			read()
			fill()(true)
		}, "fill 1", 1},
		{"a read that is forgotten", func(cs *copies, read func(), _ func() func(bool)) { read(); cs.forget(key) }, "", 0},
	} {
		var reads told
		cs := &copies{l1: cache, space: uint32(i), reads: &reads, fills: map[string][]*filling{}}
		at := l1.Key{Space: cs.space, Name: key}
		brought := func(what string) *local {
			c := &local{entry: soracache.Entry{Value: []byte(what)}}
			c.bytes = c.footprint(key)
			return c
		}
		fills := 0
		c.do(cs, func() {
			cs.read([]l2.ReadKey{{Key: key}}, []l1.Item[*local]{{Key: at, Value: brought("read")}})
		}, func() func(bool) {
			fills++
			f, value := cs.fillSent(key), brought(fmt.Sprint("fill ", fills))
			return func(keep bool) { cs.filled(key, f, value, keep); cs.fillAnswered(key, f) }
		})
		got := ""
		if c, ok := cache.Get(at); ok {
			got = string(c.entry.Value)
		}
		if got != c.want || len(reads) != c.reads {
			t.Errorf("%s: L1 has %q, want %q; %d reads are superseded, want %d", c.name, got, c.want, len(reads), c.reads)
		}
		if len(cs.fills) != 0 {
			t.Errorf("%s: %d fills are left over", c.name, len(cs.fills))
		}
	}
}
