package embedded

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// An entry and a lease stand under a name ([soracache.Name]); records go by the
// key. Which schemas of a key have an entry, bSchema tells, and which have a lease,
// Store.leased: a record of the key deletes what they name. Nothing of a schema
// counts that is not there. See [l2.Store].

// schemaPrefix is where the schemas of a key are.
func schemaPrefix(partition uint32, key string) []byte { return memberPrefix(partition, key) }

// schemaKey is where it says that there is an entry under a name that is not a key.
func schemaKey(partition uint32, name string) []byte {
	schema, key := soracache.SplitName(name)
	return append(schemaPrefix(partition, key), schema...)
}

// ofSchema tells whether a name is of another schema than the default one.
func ofSchema(name string) bool { return soracache.KeyOf(name) != name }

// storedSchemas returns the names of the entries of a key that are of another
// schema than the default one.
func (t *txn) storedSchemas(partition uint32, key string) (names []string) {
	prefix := schemaPrefix(partition, key)
	rows, _ := t.after(bSchema, prefix, nil, math.MaxInt)
	for _, row := range rows {
		names = append(names, soracache.Name(string(row[len(prefix):]), key))
	}
	return names
}

// listed tells whether the entry under a name counts.
func (t *txn) listed(partition uint32, name string) bool {
	return !ofSchema(name) || t.has(bSchema, schemaKey(partition, name))
}

// list notes that there is an entry under a name.
func (t *txn) list(partition uint32, name string) {
	if ofSchema(name) {
		t.put(bSchema, schemaKey(partition, name), nil)
	}
}

// unlist notes that there is none.
func (t *txn) unlist(partition uint32, name string) {
	if ofSchema(name) {
		t.delete(bSchema, schemaKey(partition, name))
	}
}

// unlistAt does so for the entry at a key of bEntry, if that is where one of the
// name belongs.
func (t *txn) unlistAt(key []byte, name string) {
	if partition := binary.BigEndian.Uint32(key); ofSchema(name) && string(entryKey(partition, name)) == string(key) {
		t.unlist(partition, name)
	}
}

// removeKey deletes what stands under a key, in every schema.
func (t *txn) removeKey(partition uint32, key string) {
	t.removeName(partition, key)
	for _, name := range t.storedSchemas(partition, key) {
		t.removeName(partition, name)
	}
	for _, name := range slices.Clone(t.s.leased[leaseKey{partition, key}]) {
		t.endLease(leaseKey{partition, name})
	}
}

// removeName deletes what stands under a name.
func (t *txn) removeName(partition uint32, name string) {
	t.remove(entryKey(partition, name))
	t.unlist(partition, name) // also if the entry cannot be read
	t.endLease(leaseKey{partition, name})
}

// forgetSchemas has no entry count that is of another schema than the default one.
func (t *txn) forgetSchemas() {
	t.did(t.tx.DeleteBucket(bSchema.name()))
	t.buckets[bSchema] = nil
	t.createBuckets()
}

// noteLease notes that there is a lease under a name. mu is held, as it is below.
func (s *Store) noteLease(k leaseKey) {
	if !ofSchema(k.key) {
		return
	}
	of := leaseKey{k.partition, soracache.KeyOf(k.key)}
	if !slices.Contains(s.leased[of], k.key) {
		s.leased[of] = append(s.leased[of], k.key)
	}
}

// noteNoLease notes that there is none.
func (s *Store) noteNoLease(k leaseKey) {
	if !ofSchema(k.key) {
		return
	}
	of := leaseKey{k.partition, soracache.KeyOf(k.key)}
	rest := slices.DeleteFunc(s.leased[of], func(name string) bool { return name == k.key })
	if s.leased[of] = rest; len(rest) == 0 {
		delete(s.leased, of)
	}
}

// outOfPlace returns which name is to make room for the lease of another, because
// as many schemas have an entry or a lease under the key as may: the one that ends
// first.
func (s *Store) outOfPlace(partition uint32, name string, now time.Time) (victim string, found bool) {
	if !ofSchema(name) {
		return "", false
	}
	key := soracache.KeyOf(name)
	ends := make(map[string]int64)
	err := s.view(func(t *txn) {
		for _, stored := range t.storedSchemas(partition, key) {
			ends[stored] = 0 // of what cannot be read
			if f, ok := t.peek(t.get(bEntry, entryKey(partition, stored))); ok {
				ends[stored] = f.head.KeepUntil
			}
		}
	})
	for _, leased := range s.leased[leaseKey{partition, key}] {
		if until := s.leases[leaseKey{partition, leased}].until; now.Before(until) {
			ends[leased] = max(ends[leased], until.UnixMicro())
		}
	}
	if _, there := ends[name]; err != nil || there || len(ends) < soracache.MaxSchemas {
		return "", false
	}
	var names []string
	for other := range ends {
		names = append(names, other)
	}
	return slices.MinFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(ends[a], ends[b]), cmp.Compare(a, b)) }), true
}

// checkNames reports whether names are well formed.
func checkNames(keys []l2.ReadKey) error {
	for _, k := range keys {
		if err := l2.CheckName(k.Key); err != nil {
			return err
		}
	}
	return nil
}
