package l2test

import (
	"fmt"

	"github.com/soracache/soracache/l2"
)

// roomChecks are about reads that may not bring everything.
func roomChecks() []check {
	return []check{
		{name: "what there is no room for is left out, and all else is read", run: func(f *fixture) {
			large, small := make([]byte, 2*l2.InlineBytes), make([]byte, l2.SmallBytes/2)
			var keys []l2.ReadKey
			for i := range 6 {
				key, value := fmt.Sprint("large", i), large
				if i%2 == 1 {
					key, value = fmt.Sprint("small", i), small
				}
				f.put(key, string(value))
				keys = append(keys, l2.ReadKey{Key: key})
			}
			asked := 0
			answers := f.Store.Read(f.Context(), []l2.ReadRequest{{Partition: f.at, Keys: keys, Room: func(bytes int) bool {
				if bytes < len(large) || bytes > len(large)+1<<10 {
					f.Errorf("asked for room for %d bytes", bytes)
				}
				asked++
				return asked == 2
			}}})
			for i, k := range answers[0].Keys {
				switch left := i == 0 || i == 4; {
				case left != k.Cut, left == k.Found:
					f.Errorf("%s: left out %v, found %v", keys[i].Key, k.Cut, k.Found)
				case left && len(k.Entry.Value) > 0:
					f.Errorf("%s was read all the same", keys[i].Key)
				}
			}
			if asked != 3 {
				f.Errorf("asked %d times", asked)
			}
		}},
		{name: "past so many bytes there must be room for what is not small", run: func(f *fixture) {
			value := make([]byte, l2.InlineBytes/2)
			n := l2.InlineMost/len(value) + 8
			keys := make([]l2.ReadKey, n)
			for i := range n {
				keys[i].Key = fmt.Sprint("k", i)
				f.put(keys[i].Key, string(value))
			}
			keys = append(keys, l2.ReadKey{Key: "small"}, l2.ReadKey{Key: "none"})
			f.put("small", string(value[:l2.SmallBytes/4*3]))
			answers := f.Store.Read(f.Context(), []l2.ReadRequest{{Partition: f.at, Keys: keys, Room: func(int) bool { return false }}})
			if got := answers[0].Keys[n:]; !got[0].Found || got[0].Cut || got[1].Found || got[1].Cut {
				f.Errorf("a small one and none after that: %+.200v", got)
			}
			found, left := 0, 0
			for _, k := range answers[0].Keys[:n] {
				if k.Found {
					found++
				}
				if k.Cut {
					left++
				}
			}
			if found+left != n || left == 0 || found*len(value) > l2.InlineMost {
				f.Errorf("%d found and %d left out of %d, of %d bytes each", found, left, n, len(value))
			}
		}},
	}
}
