package embedded

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"go.etcd.io/bbolt"

	"github.com/soracache/soracache"
)

// bucket is one of the file's buckets. All numbers in keys are big-endian, so
// that they sort. A name in a key is folded: see fold.
type bucket int

const (
	// bLedger: 'n' namespace NUL index -> the ledger; 'p' partition -> the same
	// 'n' key. Its sequence numbers partitions and generations.
	bLedger bucket = iota
	// bRecord: generation kind name -> position, the latest of each target; for
	// a name that is too long for a key, also its pieces, numbered.
	bRecord
	// bOrder: generation kind position name -> nothing: the same by position.
	bOrder
	// bIssued: generation position -> nothing: every position given out.
	bIssued
	// bEpoch: partition 'e' epoch -> number, partition 's' number -> epoch: the
	// epochs left or shown. Its sequence gives the numbers.
	bEpoch
	// bEntry: partition key -> chunk id, size and beginning of an entry.
	bEntry
	// bChunk: chunk id, number -> the next piece of an entry. Its sequence gives
	// the ids.
	bChunk
	// bDue: keep-until partition key -> nothing: what expires next.
	bDue
	// bMember: partition tag key -> nothing, the tag's length before it: the
	// keys of a tag.
	bMember
	// bGarbage: 'c' chunk id, or 'g' generation -> nothing: what is to be
	// deleted in small steps.
	bGarbage
	// bLease: a number -> a lease, while the store is closed.
	bLease
	// bSettle: ledger 't' kind name -> until when a target settles, and for a long
	// name its pieces; ledger 'o' until kind name -> nothing: the same by time.
	// The ledger is the key of its row.
	bSettle
	// bSchema: partition key schema -> nothing, the key's length before it: in which
	// schemas, beside the default one, a key has an entry.
	bSchema

	bucketCount
)

func (b bucket) name() []byte {
	return []byte([...]string{
		"ledger", "record", "order", "issued", "epoch", "entry", "chunk", "due", "member", "garbage", "lease", "settle", "schema",
	}[b])
}

// maxElement is the largest key and value, with bbolt's 16 bytes for each, of
// which a page holds four. bbolt never splits four elements, so with none
// larger, no node of the tree needs more than one page: any free page will do
// for any node, and the file cannot grow for being fragmented.
const maxElement = (pageSize - 16) / 4

// room is how many bytes of value fit beside a key.
func room(key int) int { return maxElement - 16 - key }

// txn is one transaction, at one moment. In read transactions changes is nil.
// Its methods are called by one goroutine.
//
// A failure to change something is kept in err, which keeps the transaction
// from being committed; callers need not look at it.
type txn struct {
	s       *Store
	tx      boltTx
	now     time.Time
	buckets [bucketCount]*bbolt.Bucket
	*changes
}

// changes is what a write transaction has done.
type changes struct {
	err     error
	dirty   bool // something was written
	work    int  // rows written or deleted
	ledgers map[string]*ledger
	undo    []func() // takes back what was done to leases, last first

	corrupt, epochs, evicted uint64 // for the totals
}

// micros is the moment in the unit of positions and of entries' times.
func (t *txn) micros() int64 { return max(t.now.UnixMicro(), 0) }

// position is the least position that a record of this moment can have.
func (t *txn) position() soracache.Position {
	return soracache.Position(t.micros()) //nolint:gosec // not negative
}

func (t *txn) bucket(b bucket) *bbolt.Bucket {
	if t.buckets[b] == nil {
		t.buckets[b] = t.tx.Bucket(b.name())
		switch b {
		case bChunk, bOrder, bIssued:
			t.buckets[b].FillPercent = 1 // written in order
		default:
			t.buckets[b].FillPercent = 0.75 // often so
		}
	}
	return t.buckets[b]
}

func (t *txn) createBuckets() {
	for b := range bucketCount {
		if t.tx.Bucket(b.name()) == nil {
			_, err := t.tx.CreateBucket(b.name())
			t.did(err)
		}
	}
}

func (t *txn) get(b bucket, key []byte) []byte { return t.bucket(b).Get(key) }
func (t *txn) has(b bucket, key []byte) bool   { return t.bucket(b).Get(key) != nil }
func (t *txn) cursor(b bucket) *bbolt.Cursor   { return t.bucket(b).Cursor() }
func (t *txn) put(b bucket, key, value []byte) { t.did(t.bucket(b).Put(key, value)) }
func (t *txn) delete(b bucket, key []byte)     { t.did(t.bucket(b).Delete(key)) }
func (t *txn) next(b bucket) uint64            { return t.must(t.bucket(b).NextSequence()) }
func (t *txn) must(n uint64, err error) uint64 { t.did(err); return n }

// did notes one change.
func (t *txn) did(err error) {
	t.dirty = true
	t.work++
	if t.err == nil {
		t.err = err
	}
}

// after returns up to most keys of a bucket that have a prefix and follow one
// key with that prefix (or, with from nil, all), and whether there are more.
func (t *txn) after(b bucket, prefix, from []byte, most int) (keys [][]byte, more bool) {
	c := t.cursor(b)
	k, _ := c.Seek(append(prefix[:len(prefix):len(prefix)], from...))
	if from != nil && k != nil && len(k) == len(prefix)+len(from) && hasPrefix(k, prefix) && string(k[len(prefix):]) == string(from) {
		k, _ = c.Next()
	}
	for ; k != nil && hasPrefix(k, prefix); k, _ = c.Next() {
		if len(keys) == most {
			return keys, true
		}
		keys = append(keys, k)
	}
	return keys, false
}

// deletePrefix deletes up to most rows whose keys have a prefix, and returns
// how many it deleted.
func (t *txn) deletePrefix(b bucket, prefix []byte, most int) int {
	keys, _ := t.after(b, prefix, nil, most)
	for _, k := range keys {
		t.delete(b, k)
	}
	return len(keys)
}

func hasPrefix(key, prefix []byte) bool {
	return len(key) >= len(prefix) && string(key[:len(prefix)]) == string(prefix)
}

// The lengths of folded names.
const (
	longestPlain = 127
	foldedKept   = 96
	foldedLength = foldedKept + sha256.Size // 128, so that no plain name looks like it
)

// fold returns a name as it stands in keys: itself, or if it is longer than 127
// bytes, its beginning and its SHA-256.
func fold(name string) []byte {
	if len(name) <= longestPlain {
		return []byte(name)
	}
	sum := sha256.Sum256([]byte(name))
	return append([]byte(name[:foldedKept]), sum[:]...)
}

func be32(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }
func be64(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

// concat makes a key of its parts.
func concat(parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	key := make([]byte, 0, n)
	for _, p := range parts {
		key = append(key, p...)
	}
	return key
}
