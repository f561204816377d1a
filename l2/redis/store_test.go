package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
)

func isUnavailable(err error) bool { return errors.Is(err, soracache.ErrUnavailable) }

// An entry that somebody copied to another key is no entry of that key.
func TestEntryCopiedToAnotherKey(t *testing.T) {
	u := newUser(t)
	u.put("a", "value of a", "t")
	dump := u.do("DUMP", u.name("e:a"))
	u.do("RESTORE", u.name("e:b"), 0, dump)
	if x, err := u.Explain(t.Context(), u.at, "b"); err != nil || !x.Stored || x.Readable || x.Live {
		t.Fatalf("explained as %+v, %v", x, err)
	}
	a := u.ask(l2.ReadKey{Key: "b", Nonce: soracache.Lease{1}})
	if a.Found || a.Lease != soracache.LeaseGranted || u.Counters().Corrupt != 1 {
		t.Fatalf("%+v, %+v", a, u.Counters())
	}
	u.hit("a", "value of a")
}

// Nothing that stands under our keys can break an operation: it is a miss.
func TestGarbageUnderKeys(t *testing.T) {
	u := newUser(t)
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now().UnixMicro()
	good := l2.EntryHead{Stamp: u.head(), Written: now, FreshUntil: now + 1<<32, KeepUntil: now + 1<<32}.Append(nil)
	good = l2.AppendBody(good, "k", soracache.Entry{Value: []byte("v"), Tags: []string{"t"}}, 0)
	garbage := map[string][]any{
		"list": {"RPUSH", "", "x"}, "set": {"SADD", "", "x"}, "zset": {"ZADD", "", 1, "x"}, "hash": {"HSET", "", "f", "x"},
		"empty": {"SET", "", ""}, "long tag count": {"SET", "", string(withUint16(good, 49, 65535))},
		"long key": {"SET", "", string(withUint16(good, 51, 65535))}, "no key": {"SET", "", string(withUint16(good, 51, 0))},
	}
	for i := range 50 {
		b := make([]byte, random.IntN(200))
		for j := range b {
			b[j] = byte(random.Uint32())
		}
		copy(b, "sc\x02\x00")
		garbage[fmt.Sprint("random ", i)] = []any{"SET", "", string(b)}
	}
	for what, command := range garbage {
		before := u.Counters().Corrupt
		for _, kind := range []string{"e:k", "l:k"} {
			u.do("DEL", u.name(kind))
			command[1] = u.name(kind)
			u.do(command...)
		}
		a := u.ask(l2.ReadKey{Key: "k", Nonce: soracache.Lease{7}})
		if a.Found || a.Lease != soracache.LeaseGranted {
			t.Fatalf("%s: %+v", what, a)
		}
		if n := u.Counters().Corrupt - before; n != 1 {
			t.Fatalf("%s was counted %d times", what, n)
		}
		if f := u.fill("k", soracache.Lease{7}, "v", "t"); f.Reason != soracache.ReasonNone {
			t.Fatalf("%s: fill: %v", what, f.Reason)
		}
		u.hit("k", "v")
	}
}

func withUint16(b []byte, at int, n uint16) []byte {
	b = bytes.Clone(b)
	b[at], b[at+1] = byte(n>>8), byte(n)
	return b
}

func TestGarbageUnderTagSets(t *testing.T) {
	u := newUser(t)
	u.put("a", "v", "t")
	for _, name := range keysOf(t, u.admin, u.name("")) {
		kind := strings.TrimPrefix(name, u.name(""))
		if kind[0] == 's' || kind[0] == 'b' || kind[0] == 'd' {
			u.do("SET", name, "garbage")
		}
	}
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { _, _, err := u.ListKeys(ctx, u.at, "t", "", 10); return err },
		func() error { _, _, err := u.Reclaim(ctx, u.at, "t", ""); return err },
		func() error { _, err := u.Sweep(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Error(err)
		}
	}
	u.put("b", "v", "t")
	if keys, _, err := u.ListKeys(ctx, u.at, "t", "", 10); err != nil || len(keys) != 1 || keys[0] != "b" {
		t.Errorf("listed %q, %v", keys, err)
	}
}

// Large values are fetched beside the script; what replaces or removes them in
// between is noticed.
func TestLargeValues(t *testing.T) {
	u := newUser(t)
	sizes := []int{stagedBytes - 55, stagedBytes - 20, largeBytes - 200, largeBytes - 54, largeBytes, 3 << 20}
	var keys []l2.ReadKey
	for i, size := range sizes {
		key := fmt.Sprint("large", i)
		u.put(key, strings.Repeat(strconv.Itoa(i), size), "t")
		keys = append(keys, l2.ReadKey{Key: key})
	}
	keys = append(keys, l2.ReadKey{Key: "absent"})
	before := u.Counters().RoundTrips
	a := u.Read(t.Context(), []l2.ReadRequest{{Partition: u.at, Keys: keys}})[0]
	for i, size := range sizes {
		if got := a.Keys[i].Entry.Value; len(got) != size || got[0] != byte('0'+i) {
			t.Errorf("%s: %d bytes", keys[i].Key, len(got))
		}
	}
	if n := u.Counters().RoundTrips - before; n != 2 {
		t.Errorf("%d round trips", n)
	}
	if left := keysOf(t, u.admin, u.name("v:")); len(left) > 0 {
		t.Errorf("staging keys are left: %q", left)
	}
	if ttl := u.do("PTTL", u.name("e:large5")).(int64); ttl < 3500_000 || ttl > 3600_000 {
		t.Errorf("expires in %d ms", ttl)
	}
	nonce := u.lease("large2", 5)
	u.invalidate(soracache.Tag("t"))
	for _, n := range []byte{5, 6} {
		if a := u.fill("large2", soracache.Lease{n, 1}, strings.Repeat("x", 1<<20), "t"); a.Reason == soracache.ReasonNone {
			t.Errorf("fill of %v, not %v, was stored", n, nonce)
		}
	}
	if left := keysOf(t, u.admin, u.name("v:")); len(left) > 0 {
		t.Errorf("staging keys are left: %q", left)
	}
	u.put("large5", strings.Repeat("5", 3<<20))
	stored := u.do("GET", u.name("e:large5")).(string)
	u.do("SETRANGE", u.name("e:large5"), len(stored)-1, "x")
	if a := u.ask(l2.ReadKey{Key: "large5", Nonce: soracache.Lease{1}}); a.Found || a.Lease != soracache.LeaseGranted {
		t.Errorf("damaged in its last byte: %v", a.Lease)
	}
	if n := u.Counters().Corrupt; n != 1 {
		t.Errorf("counted %d times", n)
	}
}

func TestLargeValuesReplacedWhileFetched(t *testing.T) {
	u := newUser(t)
	u.put("k", strings.Repeat("a", 1<<20))
	s := u.Store
	ctx := t.Context()
	req := l2.ReadRequest{Partition: u.at, Keys: []l2.ReadKey{{Key: "k"}}}
	c := s.readCall(req)
	s.run(ctx, []*call{c})
	got := s.readAnswer(c, req.Keys, nil)
	u.put("k", strings.Repeat("b", 1<<20))
	s.fetch(ctx, got.large)
	if got.complete() || got.Keys[0].Found {
		t.Fatal("took another entry for the one that was judged")
	}
	u.hit("k", strings.Repeat("b", 1<<20))
}

// A put or a fill is never sent twice; what can run twice is, once.
func TestLostAnswers(t *testing.T) {
	u := newUser(t)
	proxy := redistest.NewProxy(t)
	p := u.another(Config{URL: "redis://" + proxy.Front(redistest.Shared(t).Addr)})
	p.put("k", "v")
	nonce := p.lease("f", 1)
	ctx := t.Context()
	for what, c := range map[string]struct {
		run   func() error
		times int
		fails bool
	}{
		"put": {func() error {
			return p.Write(ctx, []l2.WriteRequest{{Partition: p.at, Op: soracache.OpPut, Key: "k", Lifetime: hour}})[0].Err
		}, 1, true},
		"fill": {func() error {
			return p.Write(ctx, []l2.WriteRequest{{Partition: p.at, Op: soracache.OpFill, Key: "f", Nonce: nonce, Lifetime: hour}})[0].Err
		}, 1, true},
		"renew": {func() error {
			return p.Write(ctx, []l2.WriteRequest{{Partition: p.at, Op: soracache.OpRenew, Key: "x"}})[0].Err
		}, 1, true},
		"two puts": {func() error {
			w := l2.WriteRequest{Partition: p.at, Op: soracache.OpPut, Key: "k", Lifetime: hour}
			return p.Write(ctx, []l2.WriteRequest{w, w})[0].Err
		}, 2, true},
		"read": {func() error { _, err := p.tryRead(l2.ReadKey{Key: "k"}); return err }, 2, false},
		"since": {func() error {
			return p.Since(ctx, []l2.SinceRequest{{Partition: p.at}})[0].Err
		}, 2, false},
		"invalidate": {func() error {
			return p.Invalidate(ctx, []l2.InvalidateRequest{{Partition: p.at, Targets: []soracache.Target{soracache.Tag("t")}}})[0].Err
		}, 2, false},
	} {
		p.head() // leaves a connection in the pool: what is lost is not its set-up
		proxy.Reset()
		proxy.LoseAnswers(1)
		err := c.run()
		if c.fails != (err != nil) || err != nil && !isUnavailable(err) {
			t.Errorf("%s: %v", what, err)
		}
		if n := proxy.Counts().Commands["EVALSHA"]; n != c.times {
			t.Errorf("%s was sent %d times", what, n)
		}
	}
	// A lease asked for again by the same nonce is granted again.
	p.head()
	proxy.LoseAnswers(1)
	p.lease("again", 9)
}

// Whatever keeps Redis from answering is "unavailable", within the deadline.
func TestUnavailable(t *testing.T) {
	u := newUser(t)
	proxy := redistest.NewProxy(t)
	p := u.another(Config{URL: "redis://" + proxy.Front(redistest.Shared(t).Addr)})
	p.put("k", "v")
	if err := p.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.Down()
	if _, err := p.tryRead(l2.ReadKey{Key: "k"}); !isUnavailable(err) {
		t.Errorf("down: %v", err)
	}
	if err := p.Ping(t.Context()); !isUnavailable(err) {
		t.Errorf("ping: %v", err)
	}
	proxy.Up()
	p.hit("k", "v")
	proxy.Stall(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	a := p.Read(ctx, []l2.ReadRequest{{Partition: p.at, Keys: []l2.ReadKey{{Key: "k"}}}})[0]
	if !isUnavailable(a.Err) || time.Since(began) > time.Second {
		t.Errorf("stalled: %v after %s", a.Err, time.Since(began))
	}
	proxy.Up()
	p.hit("k", "v")
}

// A full Redis that may not evict serves reads and takes invalidations.
func TestOutOfMemory(t *testing.T) {
	u, _ := own(t)
	u.put("live", "v", "t")
	u.put("dead", "v", "t", "u")
	nonce := u.lease("leased", 1)
	u.do("CONFIG", "SET", "maxmemory", "1mb")
	u.hit("live", "v")
	if a := u.ask(l2.ReadKey{Key: "absent", Nonce: soracache.Lease{2}}); a.Found || a.Lease != soracache.LeaseRefused || a.Refusal != soracache.RefusalStoreFull {
		t.Errorf("a miss: %+v", a)
	}
	ctx := t.Context()
	for _, w := range []l2.WriteRequest{
		{Op: soracache.OpFill, Key: "leased", Nonce: nonce, Lifetime: hour},
		{Op: soracache.OpPut, Key: "live", Lifetime: hour},
	} {
		w.Partition = u.at
		if a := u.Write(ctx, []l2.WriteRequest{w})[0]; !errors.Is(a.Err, soracache.ErrStoreFull) || isUnavailable(a.Err) {
			t.Errorf("write %d: %+v", w.Op, a)
		}
	}
	if u.do("EXISTS", u.name("l:leased")) != int64(0) {
		t.Error("a fill that was refused has kept its lease")
	}
	u.hit("live", "v")
	u.invalidate(soracache.Tag("u"), soracache.Key("x"))
	u.miss("dead")
	u.hit("live", "v")
	u.invalidate(soracache.Everything())
	u.miss("live")
	u.do("CONFIG", "SET", "maxmemory", "0")
	u.fill("leased", u.lease("leased", 3), "v")
}

// A Redis that evicts ledgers costs entries, never correctness; it is warned of.
func TestEvictingPolicy(t *testing.T) {
	_, server := own(t, redistest.Config("maxmemory-policy", "allkeys-lru"), redistest.Config("maxmemory-samples", "10"))
	var log bytes.Buffer
	u := &user{t, openAt(t, Config{URL: server.URL(), Prefix: prefixOf(t), Logger: slog.New(slog.NewTextHandler(&log, nil))}),
		l2.Partition{Namespace: "shop", Count: 1}, server.Client(t)}
	u.fill("k", u.lease("k", 1), "old", "t")
	u.do("CONFIG", "SET", "maxmemory", "4mb")
	invalidated := u.invalidate(soracache.Tag("t"))
	for i := 0; u.do("EXISTS", u.name("t")) == int64(1); i++ {
		u.do("SET", fmt.Sprint("filler", i), strings.Repeat("x", 100_000))
		if u.do("EXISTS", u.name("e:k")) == int64(1) {
			u.do("TOUCH", u.name("e:k"))
		}
		if i > 10_000 {
			t.Fatal("the ledger was never evicted")
		}
	}
	u.miss("k")
	u.reset(soracache.Stamp{Epoch: invalidated.Epoch, Position: invalidated.Position})
	u.fill("k", u.lease("k", 2), "new", "t")
	if n := strings.Count(log.String(), "allkeys-lru"); n != 1 {
		t.Errorf("warned %d times: %s", n, log.String())
	}
}

// The least that an ACL user needs, and what a user gets who may not ask which
// process answers.
func TestACLUser(t *testing.T) {
	admin, server := own(t,
		redistest.User("cache", "secret", "~sora:*", "-@all",
			"+evalsha", "+script|load", "+ping", "+time", "+get", "+mget", "+set", "+getrange", "+exists", "+del", "+unlink",
			"+persist", "+pttl", "+pexpire", "+pexpireat", "+rename", "+setrange", "+zadd", "+zrem", "+zrange", "+zrank", "+zcard", "+zcount", "+zscore", "+zmscore",
			"+zremrangebyrank", "+zremrangebyscore", "+sadd", "+srem", "+sscan",
			"+hmget", "+hset", "+hgetall", "+hdel", "+hlen", "+hscan"))
	var log bytes.Buffer
	s := openAt(t, Config{URL: server.URL(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	u := &user{t, s, l2.Partition{Namespace: "shop", Count: 1}, nil}
	u.fill("k", u.lease("k", 1), "v", "t")
	u.hit("k", "v")
	u.put("p", strings.Repeat("v", stagedBytes), "t")
	if keys, _, err := u.ListKeys(t.Context(), u.at, "t", "", 10); err != nil || len(keys) != 2 {
		t.Errorf("listed %q, %v", keys, err)
	}
	named := soracache.Name("s", "x")
	u.fill(named, u.lease(named, 2), "v", "t")
	u.put(named, "v", "t")
	u.invalidate(soracache.Tag("t"), soracache.Key("x"), soracache.Everything())
	u.settle(time.Millisecond, soracache.Tag("t"), soracache.Key("x"))
	time.Sleep(2 * time.Millisecond) // Redis' clock cannot be moved
	u.register(l2.Registration{Name: "a", Bound: time.Second})
	admin.do("HSET", base("sora:", u.at)+"r", "nb", field(1, 1)) // long over
	if names, _ := u.followers(); !slices.Equal(names, []string{"a"}) {
		t.Errorf("registered: %q", names)
	}
	for _, tag := range []string{"t", ""} {
		if _, _, err := u.Reclaim(t.Context(), u.at, tag, ""); err != nil {
			t.Errorf("reclaim %q: %v", tag, err)
		}
	}
	if _, err := u.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if err := u.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "INFO is forbidden") {
		t.Errorf("no warning: %s", log.String())
	}
	before := u.head()
	other := &user{t, openAt(t, Config{URL: server.URL()}), u.at, nil}
	if other.head() != before {
		t.Error("a second node took a new epoch")
	}
}

func TestTLS(t *testing.T) {
	server := redistest.Standalone(t, redistest.MutualTLS())
	u := &user{t, openAt(t, Config{URL: server.URL(), TLS: server.TLSConfig()}), l2.Partition{Namespace: "shop", Count: 1}, nil}
	u.put("k", "v")
	u.hit("k", "v")
	untrusting := &user{t, openAt(t, Config{URL: server.URL()}), u.at, nil}
	if _, err := untrusting.tryRead(l2.ReadKey{Key: "k"}); !isUnavailable(err) {
		t.Errorf("a client that does not know the authority: %v", err)
	}
}

func TestWrongPassword(t *testing.T) {
	server := redistest.Standalone(t, redistest.Password("secret"))
	for url, fine := range map[string]bool{server.URL(): true, "redis://:wrong@" + server.Addr: false, "redis://" + server.Addr: false} {
		s := openAt(t, Config{URL: url})
		if err := s.Ping(t.Context()); fine != (err == nil) || err != nil && !isUnavailable(err) {
			t.Errorf("%v", err)
		}
	}
}

func TestSentinelFailover(t *testing.T) {
	servers := redistest.Sentinel(t)
	u := &user{t, openAt(t, Config{URL: servers.URL(), Prefix: prefixOf(t)}), l2.Partition{Namespace: "shop", Count: 1}, servers.Client(t)}
	u.fill("k", u.lease("k", 1), "old", "t")
	u.do("WAIT", 1, 5000)
	servers.AwaitReady(t)
	before := u.head()
	servers.KillPrimary(t)
	u.recovered()
	u.miss("k")
	u.reset(before)
	u.fill("k", u.lease("k", 2), "new", "t")
	u.hit("k", "new")
}

func TestClusterFailover(t *testing.T) {
	servers := redistest.Cluster(t, redistest.Replicas())
	u := &user{t, openAt(t, Config{URL: servers.URL()}), l2.Partition{Namespace: "shop", Count: 64}, servers.Client(t)}
	use := func(do func(u *user)) {
		for i := range u.at.Count {
			p := *u
			p.at.Index = i
			do(&p)
		}
	}
	use(func(u *user) { u.put("k", "old") })
	use(func(u *user) { u.hit("k", "old") })
	name := u.name("t")
	servers.KillMaster(t, name)
	redistest.Eventually(t, 5*time.Second, "all partitions answer again", func() bool {
		ok := true
		use(func(u *user) {
			_, err := u.tryRead(l2.ReadKey{Key: "k"})
			ok = ok && err == nil
		})
		return ok
	})
	u.miss("k")
	dead := 0
	use(func(u *user) {
		if !u.ask(l2.ReadKey{Key: "k"}).Found {
			dead++
		}
		u.put("k", "new")
		u.hit("k", "new")
	})
	if dead == 0 || dead == 64 {
		t.Errorf("%d of 64 partitions took a new epoch", dead)
	}
}
