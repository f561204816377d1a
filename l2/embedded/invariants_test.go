package embedded

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/soracache/soracache"
)

// rows counts the rows of all buckets.
func rows(t testing.TB, s *Store) (n [bucketCount]int) {
	t.Helper()
	err := s.view(func(x *txn) {
		for b := range bucketCount {
			n[b] = x.bucket(b).Stats().KeyN
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkInvariants checks that everything that belongs together is there, and
// nothing else: what is wrong here would be a leak, or an entry that no
// housekeeping finds.
func checkInvariants(t testing.TB, s *Store) {
	t.Helper()
	err := s.view(func(x *txn) {
		expect := expectations{"due": {}, "member": {}, "chunk": {}, "order": {}, "settle": {}, "schema": {}}
		x.expectEntries(t, expect)
		x.expectRecords(t, expect)
		for b, name := range map[bucket]string{bDue: "due", bMember: "member", bOrder: "order", bSettle: "settle", bSchema: "schema"} {
			expect.compare(t, name, x.all(b))
		}
		var chunks []string
		for _, k := range x.all(bChunk) {
			chunks = append(chunks, k[:8])
		}
		expect.compare(t, "chunk", slices.Compact(chunks))
	})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := checkFile(s.home.path); err != nil {
		t.Errorf("the file is not sound: %v", err)
	}
}

// expectations are the keys that are to be in buckets.
type expectations map[string]map[string]bool

func (e expectations) compare(t testing.TB, name string, got []string) {
	t.Helper()
	for _, k := range got {
		if !e[name][k] {
			t.Errorf("%s: %q belongs to nothing", name, k)
		}
		delete(e[name], k)
	}
	for k := range e[name] {
		t.Errorf("%s: %q is missing", name, k)
	}
}

func (t *txn) all(b bucket) (keys []string) {
	found, _ := t.after(b, nil, nil, 1<<30)
	for _, k := range found {
		keys = append(keys, string(k))
	}
	return keys
}

func (t *txn) expectEntries(tt testing.TB, expect expectations) {
	for _, k := range t.all(bEntry) {
		f, ok := t.peek(t.get(bEntry, []byte(k)))
		if !ok {
			tt.Errorf("the entry %q cannot be read", k)
			continue
		}
		expect["due"][string(dueKey(f.head.KeepUntil, []byte(k)))] = true
		for _, tag := range f.tags {
			expect["member"][string(memberKey([]byte(k), tag))] = true
		}
		if ofSchema(f.key) {
			expect["schema"][string(schemaKey(binary.BigEndian.Uint32([]byte(k)), f.key))] = true
		}
		if f.chunks != 0 {
			expect["chunk"][string(chunkPrefix(f.chunks))] = true
		}
	}
	for _, k := range t.all(bGarbage) {
		if id := []byte(k)[1:]; k[0] == 'c' && len(t.bytesOf(id)) > 0 {
			expect["chunk"][string(id)] = true
		}
	}
}

func (t *txn) bytesOf(chunks []byte) [][]byte {
	keys, _ := t.after(bChunk, chunks, nil, 1)
	return keys
}

// expectSettling expects of what settles each target's rows, and the ledger to
// count and know the times.
func (t *txn) expectSettling(tt testing.TB, l *ledger, expect expectations) {
	count, first, last := uint32(0), int64(0), int64(0)
	prefix := append(slices.Clone(l.key), 't')
	rows, _ := t.after(bSettle, prefix, nil, 1<<30)
	for _, k := range rows {
		expect["settle"][string(k)] = true
		name := k[len(prefix)+1:]
		if len(name) > foldedLength {
			continue // a piece of a long name
		}
		until := int64(binary.BigEndian.Uint64(t.get(bSettle, k)))
		expect["settle"][string(settleOrderKey(l, until, soracache.TargetKind(k[len(prefix)]), name))] = true
		if count++; first == 0 || until < first {
			first = until
		}
		last = max(last, until)
	}
	if count != l.settling || first != l.settlesFirst || last != l.settlesLast {
		tt.Errorf("the ledger %q says that %d settle from %d to %d, it is %d from %d to %d",
			l.key, l.settling, l.settlesFirst, l.settlesLast, count, first, last)
	}
}

func (t *txn) expectRecords(tt testing.TB, expect expectations) {
	for _, key := range t.all(bLedger) {
		if key[0] != 'n' {
			continue
		}
		l := t.findKey([]byte(key))
		if l == nil {
			tt.Errorf("the ledger %q cannot be read", key)
			continue
		}
		count := map[soracache.TargetKind]uint32{}
		for _, kind := range []soracache.TargetKind{soracache.TargetKey, soracache.TargetTag} {
			prefix := orderPrefix(l, kind)
			found, _ := t.after(bRecord, prefix, nil, 1<<30)
			for _, k := range found {
				name := k[len(prefix):]
				if len(name) > foldedLength {
					continue // a piece of a long name
				}
				at := soracache.Position(binary.BigEndian.Uint64(t.get(bRecord, k)))
				expect["order"][string(orderKey(l, kind, at, name))] = true
				count[kind]++
			}
		}
		if count[soracache.TargetKey] != l.keys || count[soracache.TargetTag] != l.tags {
			tt.Errorf("the ledger %q counts %d keys and %d tags, and has %v", key, l.keys, l.tags, count)
		}
		t.expectSettling(tt, l, expect)
		if !t.has(bIssued, issuedKey(l.generation, l.head)) {
			tt.Errorf("the head of %q was never issued", key)
		}
	}
	// Records of earlier generations are garbage, and not looked at.
	for _, k := range t.all(bGarbage) {
		if k[0] != 'g' {
			continue
		}
		found, _ := t.after(bOrder, []byte(k[1:]), nil, 1<<30)
		for _, o := range found {
			expect["order"][string(o)] = true
		}
	}
}
