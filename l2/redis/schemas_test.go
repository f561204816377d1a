package redis

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
)

// leftOf returns which keys Redis has whose names contain some text, without
// what they all begin with.
func (u *user) leftOf(text string) (left []string) {
	u.Helper()
	keys, err := u.admin.Keys(u.Context(), u.name("*")).Result()
	if err != nil {
		u.Fatal(err)
	}
	for _, key := range keys {
		if strings.Contains(key, text) {
			left = append(left, strings.TrimPrefix(key, u.name("")))
		}
	}
	slices.Sort(left)
	return left
}

// A list of schemas can be evicted, alone, at any time. Nothing that it named
// counts then: neither at once, nor after an invalidation that could not find it,
// nor once the list is there again.
func TestListOfSchemasIsLost(t *testing.T) {
	server := redistest.Shared(t)
	c := Config{URL: server.URL(), Prefix: prefixOf(t), Retention: l2.Retention{TagRecords: 32, KeyRecords: 32, Age: time.Minute}}
	u := &user{t, openAt(t, c), l2.Partition{Namespace: "shop", Count: 1}, server.Client(t)}
	a, b := soracache.Name("a", "k"), soracache.Name("b", "k")
	u.fill(a, u.lease(a, 1), "old", "t")
	u.fill(b, u.lease(b, 2), "old")
	held := u.lease(b, 3)
	u.do("DEL", u.name("m:k"))
	u.miss(a)
	u.miss(b)
	u.invalidate(soracache.Key("k"))
	for i := range 200 {
		u.invalidate(soracache.Key(fmt.Sprint("other", i)))
	}
	if n := u.admin.ZScore(t.Context(), u.name("k"), "kk"); n.Err() == nil {
		t.Fatal("the record of the key is still there")
	}
	if left := u.leftOf("\xff"); len(left) != 3 {
		t.Fatalf("without its list, %q is left, want two entries and a lease", left)
	}
	u.miss(a)
	u.miss(b)
	if keys, _, err := u.ListKeys(t.Context(), u.at, "t", "", 10); err != nil || len(keys) > 0 {
		t.Errorf("listed %q, %v", keys, err)
	}
	if _, deleted := u.reclaimAll("t"); deleted != 1 {
		t.Errorf("%d entries were reclaimed, want the one that does not count", deleted)
	}
	fresh := u.lease(a, 4) // the list is there again, without b
	u.miss(a)
	u.miss(b)
	if x, err := u.Explain(t.Context(), u.at, b); err != nil || x.Stored || x.Leased {
		t.Fatalf("explained as %+v, %v", x, err)
	}
	if keys, _, err := u.ListKeys(t.Context(), u.at, "t", "", 10); err != nil || len(keys) > 0 {
		t.Errorf("listed %q, %v", keys, err)
	}
	if w := u.fill(b, held, "stale"); w.Reason != soracache.ReasonLeaseLost {
		t.Errorf("filled under a lease that does not count: %s", w.Reason)
	}
	if w := u.write(l2.WriteRequest{Op: soracache.OpRenew, Key: b, Nonce: held, LeaseFor: time.Second}); w.Reason != soracache.ReasonLeaseLost {
		t.Errorf("renewed a lease that does not count: %s", w.Reason)
	}
	again := u.lease(b, 5)
	u.miss(b)
	if w := u.fill(b, held, "stale"); w.Reason != soracache.ReasonLeaseLost {
		t.Errorf("filled under the old lease: %s", w.Reason)
	}
	u.fill(a, fresh, "new")
	u.fill(b, again, "new")
	u.hit(a, "new")
	u.hit(b, "new")
	u.put(a, "put")
	u.hit(a, "put")
	u.miss(b)
	u.invalidate(soracache.Key("k"))
	if left := u.leftOf("k\xff"); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}

// What is left of a list ends with what it names, and never before that.
func TestListOfSchemasEndsWithThem(t *testing.T) {
	u := newUser(t)
	a, b := soracache.Name("a", "k"), soracache.Name("b", "k")
	expires := func(kind string) time.Duration { return u.admin.PTTL(t.Context(), u.name(kind)).Val() }
	outlives := func(what, kind string) {
		t.Helper()
		list, it := expires("m:k"), expires(kind)
		if list <= 0 || list < it || list > it+time.Second {
			t.Errorf("%s: the list is there for %v, and %q for %v", what, list, kind, it)
		}
	}
	nonce := u.lease(a, 1)
	outlives("leased", "l:"+a)
	u.write(l2.WriteRequest{Op: soracache.OpRenew, Key: a, Nonce: nonce, LeaseFor: time.Minute})
	outlives("renewed", "l:"+a)
	u.fill(a, nonce, "v")
	outlives("filled", "e:"+a)
	u.lease(b, 2) // for less long
	outlives("another leased", "e:"+a)
	u.write(l2.WriteRequest{Op: soracache.OpPut, Key: b, Entry: soracache.Entry{Value: []byte("v")}, Lifetime: soracache.Lifetime{TTL: time.Minute}})
	outlives("put", "e:"+b)
	u.write(l2.WriteRequest{Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte("v")}, Lifetime: hour})
	if left := u.leftOf("k"); !slices.Equal(left, []string{"e:k", "k"}) {
		t.Errorf("after a put of the default schema, %q is left", left)
	}
}

// Of a list of a later version nothing is known, so nothing counts and it stays as
// it is, but for records of its key. One of another type is as good as lost.
func TestListOfSchemasOfAnotherForm(t *testing.T) {
	u := newUser(t)
	a := soracache.Name("a", "k")
	held := u.lease(a, 1)
	u.do("SET", u.name("m:k"), "\x02whatever", "PX", 60_000)
	if k := u.ask(l2.ReadKey{Key: a, Nonce: soracache.Lease{2}}); k.Found || k.Lease != soracache.LeaseRefused || k.Refusal != soracache.RefusalLimit {
		t.Errorf("a read beside a later version's list: %+v", k)
	}
	if w := u.fill(a, held, "v"); w.Reason != soracache.ReasonLeaseLost {
		t.Errorf("a fill beside a later version's list: %s", w.Reason)
	}
	if got := u.do("GET", u.name("m:k")); got != "\x02whatever" {
		t.Errorf("a later version's list has become %q", got)
	}
	u.fill("k", u.lease("k", 3), "v")
	u.hit("k", "v")
	u.invalidate(soracache.Key("k"))
	if n := u.do("EXISTS", u.name("m:k")); n != int64(0) {
		t.Error("a record has left a later version's list")
	}
	u.do("ZADD", u.name("m:k"), 1, "member")
	u.invalidate(soracache.Key("k"))
	u.put("k", "v")
	u.miss(a)
	u.fill(a, u.lease(a, 4), "v")
	u.hit(a, "v")
	u.do("DEL", u.name("m:k"))
	u.do("ZADD", u.name("m:k"), 1, "member")
	u.put(a, "put")
	u.hit(a, "put")
}

// Who names no schema pays nothing for those who do, but for one command of an
// invalidation of keys, however many they are, and of a put.
func TestCommandsForSchemas(t *testing.T) {
	u, _ := own(t)
	u.put("warm", "v", "t")
	commands := func(do func()) map[string]int64 {
		u.do("CONFIG", "RESETSTAT")
		do()
		stats := commandStats(t, u.do("INFO", "commandstats").(string))
		delete(stats, "config|resetstat")
		return stats
	}
	lists := func(stats map[string]int64) int64 { return stats["mget"] }
	var many []soracache.Target
	for i := range 3000 {
		many = append(many, soracache.Key(strconv.Itoa(i)))
	}
	nonce := soracache.Lease{}
	for what, c := range map[string]struct {
		do   func()
		want int64
	}{
		"an invalidation of a key":     {func() { u.invalidate(soracache.Key("k")) }, 1},
		"an invalidation of 3000 keys": {func() { u.invalidate(many...) }, 1},
		"an invalidation of a tag":     {func() { u.invalidate(soracache.Tag("t")) }, 0},
		"a clear":                      {func() { u.invalidate(soracache.Everything()) }, 0},
		"a put":                        {func() { u.put("k", "v") }, 1},
	} {
		if got := lists(commands(c.do)); got != c.want {
			t.Errorf("%s reads %d times which schemas there are, want %d", what, got, c.want)
		}
	}
	u.do("DEL", u.name("e:k"))
	gets := func(name string) (miss, fill, hit int64) {
		miss = commands(func() { nonce = u.lease(name, 1) })["get"]
		fill = commands(func() { u.fill(name, nonce, "v") })["get"]
		hit = commands(func() { u.hit(name, "v") })["get"]
		return miss, fill, hit
	}
	if miss, fill, hit := gets("k"); miss != 2 || fill != 1 || hit != 0 {
		t.Errorf("a miss, a fill and a hit take %d, %d and %d GET, want 2, 1 and 0", miss, fill, hit)
	}
	// Who names one pays for the list each time.
	if miss, fill, hit := gets(soracache.Name("s", "k")); miss != 2 || fill != 2 || hit != 1 {
		t.Errorf("in a schema, a miss, a fill and a hit take %d, %d and %d GET, want 2, 2 and 1", miss, fill, hit)
	}
}

// A Redis without memory refuses the lease of a schema that it would have to note
// first, and nothing else has changed by that.
func TestSchemasInAFullRedis(t *testing.T) {
	u, _ := own(t)
	name := func(i int) string { return soracache.Name(strconv.Itoa(i), "k") }
	for i := range soracache.MaxSchemas {
		u.fill(name(i), u.lease(name(i), byte(i)), "v")
	}
	nonce := u.lease(name(0), 100)
	u.do("CONFIG", "SET", "maxmemory", "1")
	k := u.ask(l2.ReadKey{Key: name(100), Nonce: soracache.Lease{101}})
	if k.Lease != soracache.LeaseRefused || k.Refusal != soracache.RefusalStoreFull {
		t.Errorf("a lease in a full store: %+v", k)
	}
	w := u.Write(t.Context(), []l2.WriteRequest{
		{Partition: u.at, Op: soracache.OpPut, Key: name(100), Entry: soracache.Entry{Value: []byte("v")}, Lifetime: hour},
		{Partition: u.at, Op: soracache.OpFill, Key: name(0), Nonce: nonce, Entry: soracache.Entry{Value: []byte("v")}, Lifetime: hour},
	})
	for _, a := range w {
		if a.Err == nil {
			t.Errorf("stored in a full store: %+v", a)
		}
	}
	for i := range soracache.MaxSchemas {
		u.hit(name(i), "v")
	}
	u.invalidate(soracache.Key("k"))
	for i := range soracache.MaxSchemas {
		u.miss(name(i))
	}
	if left := u.leftOf("\xff"); len(left) > 0 {
		t.Errorf("%q is left", left)
	}
}
