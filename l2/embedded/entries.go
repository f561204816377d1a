package embedded

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// An entry's bytes (see l2) begin in its row of bEntry and go on in pieces in
// bChunk. A row is:
//
//	 0  id of the chunks, 0 for none   8 bytes
//	 8  size of the entry's bytes      4 bytes
//	12  as many of them as there is room for
const (
	rowFixed   = 8 + 4
	chunkKey   = 8 + 4
	chunkBytes = maxElement - 16 - chunkKey
)

// row is an entry as it was found. Its bytes are the file's: they are valid
// only in the transaction, and never changed.
type row struct {
	chunks uint64 // 0: there are none
	size   int
	first  []byte
}

// parseRow reads a row. It reports false for one that is damaged.
func parseRow(b []byte) (row, bool) {
	if len(b) < rowFixed {
		return row{}, false
	}
	r := row{
		chunks: binary.BigEndian.Uint64(b),
		size:   int(binary.BigEndian.Uint32(b[8:])),
		first:  b[rowFixed:],
	}
	return r, r.size == len(r.first) || r.chunks != 0 && r.size > len(r.first)
}

// inRow is how many of an entry's bytes stand in its row.
func inRow(key []byte, size int) int { return min(size, room(len(key))-rowFixed) }

func entryKey(partition uint32, key string) []byte { return append(be32(nil, partition), fold(key)...) }

func dueKey(keepUntil int64, entry []byte) []byte {
	return append(be64(nil, uint64(max(keepUntil, 0))), entry...)
}

// memberPrefix is where the keys of a tag are.
func memberPrefix(partition uint32, tag string) []byte {
	name := fold(tag)
	return append(append(be32(nil, partition), byte(len(name))), name...) //nolint:gosec // at most 128
}

// memberKey is where it says that an entry carries a tag. entry is its key in
// bEntry.
func memberKey(entry []byte, tag string) []byte {
	return append(memberPrefix(binary.BigEndian.Uint32(entry), tag), entry[4:]...)
}

func chunkPrefix(id uint64) []byte { return be64(nil, id) }

// bytes returns a copy of the first n bytes of a row's entry, or of all that
// there are. It reports false if pieces are missing.
func (t *txn) bytes(r row, n int) ([]byte, bool) {
	n = min(n, r.size)
	if len(r.first) >= n {
		return append(make([]byte, 0, len(r.first)), r.first...), true
	}
	prefix := chunkPrefix(r.chunks)
	pieces := uint32((n - len(r.first) + chunkBytes - 1) / chunkBytes) //nolint:gosec // of 4 GiB at most
	if !t.has(bChunk, be32(prefix, pieces-1)) {
		return nil, false // before so much memory is asked for
	}
	b := append(make([]byte, 0, len(r.first)+int(pieces)*chunkBytes), r.first...)
	c := t.cursor(bChunk)
	k, v := c.Seek(prefix)
	for i := range pieces {
		if len(k) != chunkKey || !hasPrefix(k, prefix) || binary.BigEndian.Uint32(k[8:]) != i {
			return nil, false
		}
		b = append(b, v...)
		k, v = c.Next()
	}
	return b, len(b) >= n && len(b) <= r.size
}

// found is an entry that was read: whole by load, or in part by peek.
type found struct {
	row
	head l2.EntryHead
	key  string
	tags []string

	entry soracache.Entry // load only
	l1    time.Duration   // load only
}

// load reads the whole of the entry under a key. Whatever is there and is not
// an entry of that key gives false for readable.
func (t *txn) load(l *ledger, key string) (f found, stored, readable bool) {
	b := t.get(bEntry, entryKey(l.partition, key))
	if b == nil {
		return found{}, false, false
	}
	r, ok := parseRow(b)
	if !ok {
		return found{}, true, false
	}
	whole, ok := t.bytes(r, r.size)
	if !ok {
		return found{}, true, false
	}
	head, entry, l1, err := l2.DecodeEntry(whole, key)
	if err != nil {
		return found{}, true, false
	}
	return found{row: r, head: head, key: key, tags: entry.Tags, entry: entry, l1: l1}, true, true
}

// peek reads of an entry what the rule asks for, its head, key and tags, and
// leaves the value alone. The body's checksum is therefore not verified: what
// peek returns is for housekeeping, and never answered.
func (t *txn) peek(b []byte) (f found, ok bool) {
	if f.row, ok = parseRow(b); !ok {
		return found{}, false
	}
	head, err := l2.DecodeHead(f.first)
	if err != nil {
		return found{}, false
	}
	f.head = head
	prefix := f.first
	for {
		key, tags, need := parseNames(prefix)
		if need <= len(prefix) {
			f.key, f.tags = key, tags
			return f, true
		}
		if need > f.size {
			return found{}, false
		}
		if prefix, ok = t.bytes(f.row, need); !ok {
			return found{}, false
		}
	}
}

// beginning returns the bytes of an entry that was peeked at: as many as are read
// at once, and all but the value. It reports false if pieces are missing.
func (t *txn) beginning(f found) ([]byte, bool) {
	names := atKey + len(f.key) + 2*256
	for _, tag := range f.tags {
		names += 2 + len(tag)
	}
	b, ok := t.bytes(f.row, max(names, l2.InlineBytes))
	if last := (f.size - len(f.first) + chunkBytes - 1) / chunkBytes; ok && last > 0 {
		ok = t.has(bChunk, be32(chunkPrefix(f.chunks), uint32(last-1))) //nolint:gosec // of 4 GiB at most
	}
	return b, ok
}

// The places in an entry's bytes that parseNames needs; l2 describes them.
const (
	atTagCount = 49
	atKey      = 53
)

// parseNames returns the key and tags in the beginning of an entry's bytes; or,
// if that is too short, more than its length as the least that is needed.
func parseNames(b []byte) (key string, tags []string, need int) {
	if len(b) < atKey {
		return "", nil, atKey
	}
	count := int(binary.BigEndian.Uint16(b[atTagCount:]))
	at := atKey + int(binary.BigEndian.Uint16(b[atTagCount+2:]))
	if len(b) < at {
		return "", nil, at
	}
	key = string(b[atKey:at])
	for range count {
		if len(b) < at+2 {
			return "", nil, at + 2
		}
		end := at + 2 + int(binary.BigEndian.Uint16(b[at:]))
		if len(b) < end {
			return "", nil, end
		}
		tags = append(tags, string(b[at+2:end]))
		at = end
	}
	return key, tags, at
}

// fresh is an entry on its way in: what can be prepared outside a transaction.
type fresh struct {
	key  string
	tags []string
	// bytes are the entry's, with room for the head at their beginning. They
	// are not changed any more.
	bytes []byte
	// staged is set if the pieces beyond the row were written beforehand.
	staged *staged
}

func newFresh(req l2.WriteRequest) (*fresh, error) {
	const longest = math.MaxUint16
	if len(req.Key) > longest || len(req.Entry.Tags) > longest || len(req.Entry.Encoding) > 255 || len(req.Entry.ETag) > 255 {
		return nil, fmt.Errorf("%w: key, tags, encoding or etag too long to store", soracache.ErrInvalid)
	}
	for _, tag := range req.Entry.Tags {
		if len(tag) > longest {
			return nil, fmt.Errorf("%w: tag too long to store", soracache.ErrInvalid)
		}
	}
	b := make([]byte, l2.HeadBytes, l2.HeadBytes+l2.BodySize(req.Key, req.Entry))
	b = l2.AppendBody(b, req.Key, req.Entry, req.Lifetime.L1)
	return &fresh{key: req.Key, tags: req.Entry.Tags, bytes: b}, nil
}

// beyond returns the bytes that do not fit the entry's row.
func (f *fresh) beyond() []byte {
	return f.bytes[inRow(entryKey(0, f.key), len(f.bytes)):]
}

// store writes an entry in the place of the one that is there.
func (t *txn) store(l *ledger, f *fresh, head l2.EntryHead) {
	key := entryKey(l.partition, f.key)
	kept := t.clear(key, f.tags)
	t.list(l.partition, f.key)
	t.storeBytes(key, f, head)
	t.put(bDue, dueKey(head.KeepUntil, key), nil)
	for _, tag := range f.tags {
		if !kept[tag] {
			t.put(bMember, memberKey(key, tag), nil)
		}
	}
}

func (t *txn) storeBytes(key []byte, f *fresh, head l2.EntryHead) {
	beyond := f.beyond()
	var id uint64
	switch {
	case f.staged != nil:
		id = f.staged.id
		t.delete(bGarbage, be64([]byte{'c'}, id))
	case len(beyond) > 0:
		id = t.next(bChunk)
		t.putChunks(id, 0, beyond)
	}
	r := make([]byte, 0, rowFixed+len(f.bytes)-len(beyond))
	r = be32(be64(r, id), uint32(len(f.bytes))) //nolint:gosec // limited to 256 MiB
	r = head.Append(r)
	r = append(r, f.bytes[l2.HeadBytes:len(f.bytes)-len(beyond)]...)
	t.put(bEntry, key, r)
}

// putChunks writes pieces from a number on.
func (t *txn) putChunks(id uint64, from uint32, b []byte) {
	for n := from; len(b) > 0; n++ {
		piece := min(len(b), chunkBytes)
		t.put(bChunk, be32(chunkPrefix(id), n), b[:piece])
		b = b[piece:]
	}
}

// remove deletes the entry at a key of bEntry, if there is one, and all that
// points to it.
func (t *txn) remove(key []byte) {
	if t.has(bEntry, key) {
		t.clear(key, nil)
		t.delete(bEntry, key)
	}
}

// clear deletes what belongs to the entry at a key of bEntry, but for its row
// and its membership in some tags, and returns in which of those it is.
//
// Of an entry that cannot be read nobody can tell the tags: its memberships
// stay behind until a walk over the tag meets them.
func (t *txn) clear(key []byte, except []string) (kept map[string]bool) {
	b := t.get(bEntry, key)
	if b == nil {
		return nil
	}
	f, ok := t.peek(b)
	if r, sound := parseRow(b); sound && r.chunks != 0 {
		t.deleteChunks(r.chunks)
	}
	if !ok {
		return nil
	}
	t.delete(bDue, dueKey(f.head.KeepUntil, key))
	t.unlistAt(key, f.key)
	for _, tag := range f.tags {
		if slices.Contains(except, tag) {
			if kept == nil {
				kept = make(map[string]bool)
			}
			kept[tag] = true
			continue
		}
		t.delete(bMember, memberKey(key, tag))
	}
	return kept
}

// fewChunks is how many pieces are deleted at once; more are left to be
// deleted in small steps.
const fewChunks = 64

func (t *txn) deleteChunks(id uint64) {
	if t.deletePrefix(bChunk, chunkPrefix(id), fewChunks) == fewChunks {
		t.put(bGarbage, be64([]byte{'c'}, id), nil)
	}
}

// dropGarbage deletes up to most rows of what is to be deleted, and returns how
// many it deleted.
func (t *txn) dropGarbage(most int) (dropped int) {
	c := t.cursor(bGarbage)
	var done [][]byte
	for k, _ := c.First(); k != nil && dropped < most; k, _ = c.Next() {
		n, left := t.dropOne(k, most-dropped)
		dropped += n
		if !left {
			done = append(done, k)
		}
	}
	for _, k := range done {
		t.delete(bGarbage, k)
		dropped++
	}
	return dropped
}

// dropOne deletes up to most rows of one piece of garbage. It reports whether
// any may be left.
func (t *txn) dropOne(garbage []byte, most int) (dropped int, left bool) {
	switch {
	case len(garbage) == 9 && garbage[0] == 'c':
		if id := binary.BigEndian.Uint64(garbage[1:]); t.s.isStaging(id) {
			return 0, true
		}
		dropped = t.deletePrefix(bChunk, garbage[1:], most)
	case len(garbage) == 5 && garbage[0] == 'g':
		for _, b := range []bucket{bRecord, bOrder, bIssued} {
			dropped += t.deletePrefix(b, garbage[1:], most-dropped)
		}
	}
	return dropped, dropped >= most
}
