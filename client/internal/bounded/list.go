// Package bounded keeps the latest of many values, within a number of entries and of
// bytes.
package bounded

import (
	"container/list"
	"sync"
)

// List keeps one value for each key. When it is full, the value goes that was put first. It
// is safe for concurrent use.
type List[K comparable, V any] struct {
	mostEntries int
	mostBytes   int64

	mu sync.Mutex
	// Guarded by mu: order has an entry[K, V] for each value, the oldest in front, and
	// by its element by key. bytes is the size of all of them, never above mostBytes.
	order   list.List
	by      map[K]*list.Element
	bytes   int64
	dropped uint64
}

type entry[K comparable, V any] struct {
	key   K
	value V
	size  int64
}

// New returns an empty list for so many entries of so many bytes.
func New[K comparable, V any](entries int, bytes int64) *List[K, V] {
	return &List[K, V]{mostEntries: entries, mostBytes: bytes, by: make(map[K]*list.Element)}
}

// Put puts a value of so many bytes, which is made from the one that has the key now, if
// there is one. Others go until it has room. One that has none by itself is dropped. It
// returns the value.
func (l *List[K, V]) Put(key K, size int64, made func(old V, ok bool) V) V {
	l.mu.Lock()
	defer l.mu.Unlock()
	var old V
	at, ok := l.by[key]
	if ok {
		old = l.take(at).value
	}
	value := made(old, ok)
	if size > l.mostBytes || l.mostEntries < 1 {
		l.dropped++
		return value
	}
	for l.order.Len() >= l.mostEntries || l.bytes+size > l.mostBytes {
		l.take(l.order.Front())
		l.dropped++
	}
	l.by[key] = l.order.PushBack(entry[K, V]{key, value, size})
	l.bytes += size
	return value
}

// take removes an entry. The caller holds mu.
func (l *List[K, V]) take(at *list.Element) entry[K, V] {
	e, _ := l.order.Remove(at).(entry[K, V]) // nothing else is in there
	delete(l.by, e.key)
	l.bytes -= e.size
	return e
}

// All returns the values, the oldest first, and how many were dropped for lack of room.
func (l *List[K, V]) All() (values []V, dropped uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at := l.order.Front(); at != nil; at = at.Next() {
		e, _ := at.Value.(entry[K, V])
		values = append(values, e.value)
	}
	return values, l.dropped
}
