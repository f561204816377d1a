package embedded

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// What stands under schemas is whole through all that the store does by itself.
func TestSchemasAreWhole(t *testing.T) {
	c := newClock()
	s := openIn(t, t.TempDir(), withClock(c))
	name := func(schema, key int) string { return soracache.Name(fmt.Sprint("s", schema), fmt.Sprint("k", key)) }
	for key := range 20 {
		mustLoad(t, s, fmt.Sprint("k", key), "v", "t")
		for schema := range soracache.MaxSchemas + 2 {
			mustLoad(t, s, name(schema, key), strings.Repeat("v", 300*schema), "t")
			c.advance(time.Millisecond)
		}
	}
	checkInvariants(t, s)
	if n := rows(t, s)[bSchema]; n != 20*soracache.MaxSchemas {
		t.Errorf("%d entries of schemas, want %d", n, 20*soracache.MaxSchemas)
	}
	for key := range 10 {
		invalidate(t, s, soracache.Key(fmt.Sprint("k", key)))
	}
	checkInvariants(t, s)
	if n := rows(t, s)[bSchema]; n != 10*soracache.MaxSchemas {
		t.Errorf("%d entries of schemas are left, want %d", n, 10*soracache.MaxSchemas)
	}
	invalidate(t, s, soracache.Tag("t"))
	if _, _, err := s.Reclaim(context.Background(), at, "t", ""); err != nil {
		t.Fatal(err)
	}
	checkInvariants(t, s)
	for key := range 20 {
		mustLoad(t, s, name(1, key), "v")
	}
	c.advance(time.Hour)
	sweep(t, s)
	checkInvariants(t, s)
	if n := rows(t, s); n[bSchema]+n[bEntry] > 0 {
		t.Errorf("%d entries and %d of schemas are left", n[bEntry], n[bSchema])
	}
	if len(s.leased) > 0 {
		t.Errorf("leases of schemas are left: %v", s.leased)
	}
}

// A version that knows nothing of schemas invalidates a key in the default one
// alone. What it had the file after, counts in no other.
func TestSchemasAfterAnUnawareVersion(t *testing.T) {
	a := soracache.Name("a", "k")
	dir := t.TempDir()
	s := openIn(t, dir, withBoot("first"))
	mustLoad(t, s, "k", "v")
	mustLoad(t, s, a, "old")
	held := soracache.Lease{7}
	s.Read(context.Background(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{
		Key: a, Nonce: held, LeaseFor: soracache.MaxLease, RefreshWithin: time.Hour,
	}}}})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	img := readImage(t, dir)
	if !bytes.Contains(img[stateFile], []byte(`,"schemas":true`)) {
		t.Fatalf("the state is %s", img[stateFile])
	}

	s = openIn(t, img.in(t), withBoot("first"))
	mustHit(t, s, a, "old")
	s.Close()

	for _, clean := range []string{"true", "false"} {
		img[stateFile] = bytes.Replace(img[stateFile], []byte(`,"schemas":true`), nil, 1)
		img[stateFile] = bytes.Replace(img[stateFile], []byte(`"clean":true`), []byte(`"clean":`+clean), 1)
		dir := img.in(t)
		for range 2 { // the second time after a crash
			s = openIn(t, dir, withBoot("first"))
			mustHit(t, s, "k", "v")
			mustMiss(t, s, a)
			if s.leased[leaseKey{1, "k"}] != nil {
				t.Errorf("the lease counts: %v", s.leased)
			}
			dir = crash(t, s).in(t)
		}
		s = openIn(t, dir, withBoot("first"))
		mustLoad(t, s, a, "new")
		mustHit(t, s, a, "new")
		checkInvariants(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Leases of schemas are found by their key also after a restart, and after a
// transaction that was rolled back.
func TestLeasesOfSchemasAreFound(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, withBoot("first"))
	a := soracache.Name("a", "k")
	ask := func(nonce byte) soracache.LeaseState {
		t.Helper()
		answer := s.Read(context.Background(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{
			Key: a, Nonce: soracache.Lease{nonce}, LeaseFor: soracache.MaxLease,
		}}}})[0]
		if answer.Err != nil {
			t.Fatal(answer.Err)
		}
		return answer.Keys[0].Lease
	}
	ask(1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openIn(t, dir, withBoot("first"))
	if state := ask(2); state != soracache.LeaseHeld {
		t.Fatalf("after a restart the lease is %s", state)
	}
	s.mu.Lock()
	err := s.update(func(x *txn) {
		l, _ := x.find(at)
		x.removeKey(l.partition, "k")
		x.err = errStaging
	})
	names := slices.Clone(s.leased[leaseKey{1, "k"}])
	s.mu.Unlock()
	if err == nil || !slices.Equal(names, []string{a}) {
		t.Fatalf("rolled back (%v), and %q are leased", err, names)
	}
	invalidate(t, s, soracache.Key("k"))
	if state := ask(3); state != soracache.LeaseGranted {
		t.Fatalf("after the invalidation the lease is %s", state)
	}
}
