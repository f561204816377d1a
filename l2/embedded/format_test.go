package embedded

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/tags"
)

// The bytes of the rows below are those of layout 1, and stay as they are: a
// change of them wants another number for the layout.
func TestGoldenRows(t *testing.T) {
	l := &ledger{
		key: ledgerKey(l2.Partition{Namespace: "shop", Index: 3, Count: 8}), partition: 7, generation: 9, count: 8,
		epoch: 0xABCDEF0123456, head: 1_780_000_000_000_123, cleared: 1_780_000_000_000_001,
		tagFloor: 1_780_000_000_000_002, keyFloor: 1_780_000_000_000_003, longestKeep: 3_600_000_000,
		tags: 11, keys: 12, left: 13, untrimmed: 14, trimmedAt: 1_780_000_000_000_004,
	}
	const row = "01" + "00000007" + "00000009" + "0008" + "000abcdef0123456" + "000652e68bb3407b" + "000652e68bb34001" +
		"000652e68bb34002" + "000652e68bb34003" + "00000000d693a400" + "0000000b" + "0000000c" + "0000000d" + "0000000e" +
		"000652e68bb34004" + "ad64db64"
	if got := hex.EncodeToString(l.encode()); got != row {
		t.Errorf("the ledger's row is\n%s, want\n%s", got, row)
	}
	b, _ := hex.DecodeString(row)
	got, ok := decodeLedger(l.key, b)
	if !ok || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", l) {
		t.Errorf("the ledger's row is read as %+v, %v, want %+v", got, ok, l)
	}
	settles := *l
	settles.settling, settles.settlesFirst, settles.settlesLast = 3, 1_780_000_000_000_005, 1_780_000_000_000_006
	settling := "02" + row[2:len(row)-8] + "00000003" + "000652e68bb34005" + "000652e68bb34006" + "7e32e7b8"
	if got := hex.EncodeToString(settles.encode()); got != settling {
		t.Errorf("the row of a ledger of which something settles is\n%s, want\n%s", got, settling)
	}
	b, _ = hex.DecodeString(settling)
	if got, ok = decodeLedger(l.key, b); !ok || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", &settles) {
		t.Errorf("that row is read as %+v, %v, want %+v", got, ok, &settles)
	}
	// A later version's row: its number, whatever it knows, and the sum.
	b, _ = hex.DecodeString("03" + row[2:len(row)-8] + "6d6f7265" + "e0b12e48")
	if _, ok = decodeLedger(l.key, b); ok || !isLater(l.key, b) {
		t.Errorf("a later version's row is read %v, and is of a later version %v", ok, isLater(l.key, b))
	}
	b[len(b)-1] ^= 1
	if isLater(l.key, b) {
		t.Error("a damaged row passes for a later version's")
	}
	b, _ = hex.DecodeString(row)
	if _, ok := decodeLedger(ledgerKey(l2.Partition{Namespace: "shop", Index: 4}), b); ok {
		t.Error("the row of one ledger passes for another's")
	}
	for i := range b {
		b[i] ^= 1
		if _, ok := decodeLedger(l.key, b); ok {
			t.Errorf("byte %d changed, and read", i)
		}
		b[i] ^= 1
	}

	long := strings.Repeat("n", 200)
	for what, c := range map[string]struct{ got, want []byte }{
		"ledger":    {l.key, []byte("nshop\x00\x00\x03")},
		"entry":     {entryKey(7, "key"), []byte("\x00\x00\x00\x07key")},
		"due":       {dueKey(0x0102030405060708, entryKey(7, "key")), []byte("\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x07key")},
		"member":    {memberKey(entryKey(7, "key"), "tag"), []byte("\x00\x00\x00\x07\x03tagkey")},
		"record":    {recordKey(l, soracache.TargetTag, fold("tag")), []byte("\x00\x00\x00\x09\x02tag")},
		"order":     {orderKey(l, soracache.TargetKey, 5, fold("key")), []byte("\x00\x00\x00\x09\x01\x00\x00\x00\x00\x00\x00\x00\x05key")},
		"schema":    {schemaKey(7, soracache.Name("s/1", "key")), []byte("\x00\x00\x00\x07\x03keys/1")},
		"of schema": {entryKey(7, soracache.Name("s/1", "key")), []byte("\x00\x00\x00\x07\xffs/1\xffkey")},
		"issued":    {issuedKey(9, 5), []byte("\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x05")},
		"epoch":     {epochKey(7, 5), []byte("\x00\x00\x00\x07e\x00\x00\x00\x00\x00\x00\x00\x05")},
		"long name": {fold(long), append([]byte(long[:96]), mustHex("1be63cc0bde6bd45dcbb205b96a7e699159348fd1b1360e13c27e12775618ac4")...)},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s: %x, want %x", what, c.got, c.want)
		}
	}
}

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// TestRoomInPages holds the sizes to what keeps every node of the tree in one
// page.
func TestRoomInPages(t *testing.T) {
	name := strings.Repeat("n", 32<<10)
	l := new(ledger)
	for what, size := range map[string]int{
		"chunk":           chunkKey + chunkBytes,
		"entry":           len(entryKey(1, name)) + room(len(entryKey(1, name))),
		"short entry":     len(entryKey(1, "k")) + room(len(entryKey(1, "k"))),
		"member":          len(memberKey(entryKey(1, name), name)),
		"due":             len(dueKey(1, entryKey(1, name))),
		"record":          len(recordKey(l, soracache.TargetTag, fold(name))) + 8,
		"piece of a name": len(recordKey(l, soracache.TargetTag, fold(name))) + 2 + room(len(recordKey(l, soracache.TargetTag, fold(name)))+2),
		"order":           len(orderKey(l, soracache.TargetTag, 1, fold(name))),
		"ledger":          len(ledgerKey(l2.Partition{Namespace: strings.Repeat("n", 64)})) + ledgerBytes,
	} {
		if size > maxElement-16 {
			t.Errorf("%s: %d bytes, %d fit", what, size, maxElement-16)
		}
	}
	if 4*maxElement+pageHeader > pageSize {
		t.Errorf("4 elements of %d bytes do not fit a page", maxElement)
	}
	if room(len(entryKey(1, name)))-rowFixed < l2.HeadBytes {
		t.Error("an entry's head does not fit its row")
	}
}

// TestParseNames compares the reader of names with what l2 writes, for every
// length of what is known of the entry.
func TestParseNames(t *testing.T) {
	e := soracache.Entry{Value: []byte("value"), Tags: []string{"", "a", strings.Repeat("b", 300)}, Encoding: "json", ETag: "e"}
	b := l2.EntryHead{}.Append(nil)
	b = l2.AppendBody(b, "the key", e, time.Second)
	_, _, whole := parseNames(b)
	for n := range len(b) + 1 {
		key, names, need := parseNames(b[:n])
		switch {
		case n < whole && (need <= n || need > whole):
			t.Fatalf("of %d bytes it asks for %d; %d are needed", n, need, whole)
		case n >= whole && (need != whole || key != "the key" || !slices.Equal(names, e.Tags)):
			t.Fatalf("%d bytes are read as %q, %q", n, key, names)
		}
	}
}

func TestCursors(t *testing.T) {
	s := openIn(t, t.TempDir())
	fillKeys(t, s, keysNamed("k", 3000), soracache.Entry{Tags: []string{"t"}}, long)
	keys, next, err := s.ListKeys(t.Context(), at, "t", "", 10)
	if err != nil || len(keys) != 10 || next == "" {
		t.Fatalf("%d keys, next %q, %v", len(keys), next, err)
	}
	reclaimNext, _, err := s.Reclaim(t.Context(), at, "t", "")
	if err != nil || reclaimNext == "" {
		t.Fatalf("reclaim: next %q, %v", reclaimNext, err)
	}
	for what, cursor := range map[string]string{
		"text":             "nonsense",
		"cut off":          next[:len(next)-1],
		"changed":          "B" + next[1:],
		"of another walk":  reclaimNext,
		"of another store": tags.Cursor{Walk: 200, After: "k"}.Encode(),
		"blank":            " ",
	} {
		if _, _, err := s.ListKeys(t.Context(), at, "t", cursor, 10); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("list, %s: %v", what, err)
		}
		if what == "of another walk" {
			cursor = next
		}
		if _, _, err := s.Reclaim(t.Context(), at, "t", cursor); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("reclaim, %s: %v", what, err)
		}
	}
	// Keys that come and go beside the walk neither end it nor hide others.
	seen := map[string]int{}
	for cursor := ""; ; {
		page, next, err := s.ListKeys(t.Context(), at, "t", cursor, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page {
			seen[k]++
		}
		if len(page) > 0 {
			invalidate(t, s, soracache.Key(page[len(page)-1]))
		}
		mustLoad(t, s, fmt.Sprint("new", len(seen)), "v", "t")
		if cursor = next; cursor == "" {
			break
		}
	}
	for _, k := range keysNamed("k", 3000) {
		if seen[k] != 1 {
			t.Errorf("%s was listed %d times", k, seen[k])
		}
	}
}

// FuzzRows reads bytes as every kind of row: nothing may panic, and what is
// accepted must be what would be written.
func FuzzRows(f *testing.F) {
	key := ledgerKey(at)
	f.Add((&ledger{key: key, partition: 1, count: 1, epoch: 5, head: 9}).encode())
	entry := l2.AppendBody(l2.EntryHead{KeepUntil: 1}.Append(nil), "k", soracache.Entry{Tags: []string{"a", "b"}}, 0)
	f.Add(entry)
	f.Add(append(be32(be64(nil, 0), uint32(len(entry))), entry...))
	f.Add(append(be32(be64(nil, 1), 5000), entry...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, ok := decodeLedger(key, b); ok && !bytes.Equal(l.encode(), b) {
			t.Errorf("the ledger %+v is written otherwise than it was read", l)
		}
		if r, ok := parseRow(b); ok && (len(r.first) > r.size || r.chunks == 0 && len(r.first) != r.size) {
			t.Errorf("the row %+v", r)
		}
		if key, names, need := parseNames(b); need <= len(b) && len(key)+len(names) > len(b) {
			t.Errorf("%d bytes hold a key of %d bytes and %d tags", len(b), len(key), len(names))
		}
	})
}

// smallFile returns a data file that is always the same.
func smallFile(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), dataFile)
	db, err := openDatabase(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = db.update(func(tx boltTx) (bool, error) {
		x := &txn{tx: tx, changes: new(changes)}
		x.createBuckets()
		for i := range 200 {
			x.put(bEntry, entryKey(1, fmt.Sprint("key", i)), make([]byte, i))
			x.put(bDue, dueKey(int64(i), entryKey(1, fmt.Sprint("key", i))), nil)
		}
		x.put(bGarbage, []byte("in a small bucket"), nil)
		return true, x.err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzFile damages a data file at some places. If it passes the check, bbolt
// must be able to walk all of it.
func FuzzFile(f *testing.F) {
	data := smallFile(f)
	f.Add(uint32(2*pageSize+10), []byte{0, 0, 0, 0}, uint32(0), []byte{})
	f.Add(uint32(16), []byte{1}, uint32(pageSize+20), []byte{1, 2})
	f.Add(uint32(len(data)-pageSize), make([]byte, 100), uint32(8*pageSize), []byte("xxxx"))
	f.Fuzz(func(t *testing.T, at1 uint32, b1 []byte, at2 uint32, b2 []byte) {
		path := filepath.Join(t.TempDir(), dataFile)
		damaged := bytes.Clone(data)
		copy(damaged[int(at1)%len(data):], b1)
		copy(damaged[int(at2)%len(data):], b2)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		tryFile(t, path)
	})
}
