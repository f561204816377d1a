package redis

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// settle appends a record whose targets settle.
func (u *user) settle(d time.Duration, targets ...soracache.Target) soracache.Record {
	u.Helper()
	a := u.Invalidate(context.Background(), []l2.InvalidateRequest{{Partition: u.at, Targets: targets, Settle: d}})[0]
	if a.Err != nil {
		u.Fatal(a.Err)
	}
	return a.Record
}

// refused expects that a fill is superseded by a target.
func (u *user) refused(by soracache.Target, key string, n byte, tags ...string) {
	u.Helper()
	a := u.fill(key, u.lease(key, n), "too early", tags...)
	if a.Reason != soracache.ReasonSuperseded || !slices.Equal(a.SupersededBy.Targets, []soracache.Target{by}) {
		u.Fatalf("fill of %q: %+v, want it superseded by %s", key, a, by)
	}
}

// end returns until when the last of what settles does, on Redis' clock.
func (u *user) end() time.Time {
	u.Helper()
	last := u.do("ZRANGE", u.name("w"), -1, -1, "WITHSCORES").([]any)
	return time.UnixMicro(int64(last[0].([]any)[1].(float64)))
}

// The set of what settles may be lost, as a whole or in exchange for another.
// Then everything settles, until the last would have; and what was computed
// before that is dead.
func TestSettlingLost(t *testing.T) {
	for i, damage := range [][]any{
		{"DEL", "w"}, {"SET", "w", "x"}, {"RPUSH", "w", "x"}, {"ZADD", "w", 1, "x"}, {"HSET", "w", "x", "y"},
		{"ZADD", "w", -1, "!12345678", 1, "tx"},
	} {
		u := newUser(t)
		u.at.Namespace = "lost-" + string(rune('a'+i))
		u.put("k", "v")
		r := u.settle(soracache.MaxSettle/2, soracache.Tag("t"))
		u.settle(time.Second/2, soracache.Tag("u"))
		end := u.end()
		u.do("DEL", u.name("w"))
		damage[1] = u.name("w")
		u.do(damage...)
		u.refused(soracache.Everything(), "l", 1, "t")
		u.refused(soracache.Everything(), "l", 2)
		u.hit("k", "v")
		if got := u.end(); got != end {
			t.Errorf("%v: everything settles until %v, want %v", damage, got, end)
		}
		if head := u.head(); head.Epoch != r.Epoch {
			t.Errorf("%v: a new epoch", damage)
		}
	}
	u := newUser(t)
	first := u.settle(20*time.Millisecond, soracache.Tag("t"))
	u.do("DEL", u.name("w"))
	nonce := u.lease("k", 1)
	time.Sleep(25 * time.Millisecond) // Redis' clock cannot be moved
	if a := u.fill("k", nonce, "too early", "other"); a.Reason != soracache.ReasonSuperseded {
		t.Errorf("a fill of before the end: %+v", a)
	}
	d := u.since(soracache.Stamp{Epoch: first.Epoch, Position: first.Position})
	if len(d.Records) != 1 || !slices.Equal(d.Records[0].Targets, []soracache.Target{soracache.Everything()}) {
		t.Errorf("when all had settled: %+v", d)
	}
	u.fill("k", u.lease("k", 2), "new", "t")
	u.hit("k", "new")
}

// The set is there only while something settles, and never runs out by itself.
func TestSettlingLeavesNothing(t *testing.T) {
	u := newUser(t)
	size := func() int { return len(u.state()) }
	u.invalidate(soracache.Tag("t"))
	plain := size()
	u.settle(time.Millisecond, soracache.Tag("t"), soracache.Key("k"))
	if left := u.do("PTTL", u.name("w")).(int64); left != -1 || size() == plain {
		t.Errorf("the set expires in %d ms, the state has %d bytes", left, size())
	}
	time.Sleep(2 * time.Millisecond)
	u.head()
	if there := u.do("EXISTS", u.name("w")).(int64); there != 0 || size() != plain {
		t.Errorf("all has settled, and the set is there: %d, the state has %d bytes, had %d", there, size(), plain)
	}
}

// state returns the reserved member of the tag records.
func (u *user) state() string {
	return u.do("ZRANGE", u.name("t"), 0, 0).([]any)[0].(string)
}

// A clock that is set back makes everything settle, but not for ever.
func TestSettlingWhenTheClockIsSetBack(t *testing.T) {
	u := newUser(t)
	u.settle(soracache.MaxSettle, soracache.Tag("t"))
	u.shift(time.Hour)
	u.refused(soracache.Everything(), "k", 1, "other")
	if left := time.Until(u.end()); left > soracache.MaxSettle {
		t.Errorf("everything settles for %v", left)
	}
}

// shift makes what settles look as if it did so much later: as it looks to a
// clock that was set back.
func (u *user) shift(by time.Duration) {
	u.Helper()
	micros := by.Microseconds()
	u.do("EVAL", `
		local state = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
		local first, last, mark = struct.unpack('>I8I8c8', state, 60)
		redis.call('ZREM', KEYS[1], state)
		redis.call('ZADD', KEYS[1], -1, string.sub(state, 1, 59) .. struct.pack('>I8I8', first + ARGV[1], last + ARGV[1]) .. mark)
		for _, m in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(0', '+inf')) do redis.call('ZINCRBY', KEYS[2], ARGV[1], m) end`,
		2, u.name("t"), u.name("w"), micros)
}

// A ledger that was lost finds what settles, and one that another process goes
// on with.
func TestSettlingOutlivesProcesses(t *testing.T) {
	u := newUser(t)
	last := u.settle(soracache.MaxSettle, soracache.Tag("t"), soracache.Key("k"))
	u.do("DEL", u.name("t"), u.name("k"), u.name("h"), u.name("x"))
	u.refused(soracache.Key("k"), "k", 1, "t")
	u.refused(soracache.Tag("t"), "l", 2, "t")
	if u.head().Epoch == last.Epoch {
		t.Error("the epoch went on")
	}
	u.fill("l", u.lease("l", 3), "v", "other")
	u.hit("l", "v")
}

// A Redis without memory records what settles, and what has settled.
func TestSettlingWithoutMemory(t *testing.T) {
	u, _ := own(t)
	u.put("k", "v", "t")
	u.do("CONFIG", "SET", "maxmemory", "1")
	first := u.settle(time.Millisecond, soracache.Tag("t"))
	time.Sleep(2 * time.Millisecond)
	d := u.since(soracache.Stamp{Epoch: first.Epoch, Position: first.Position})
	if len(d.Records) != 1 || d.Reset {
		t.Errorf("when all had settled: %+v", d)
	}
	u.miss("k")
}

// While nothing settles, that costs no command.
func TestCommandsOfSettling(t *testing.T) {
	u, _ := own(t)
	commands := func(do func()) string {
		u.do("CONFIG", "RESETSTAT")
		do()
		stats := commandStats(t, u.do("INFO", "commandstats").(string))
		delete(stats, "config|resetstat")
		delete(stats, "info")
		var all []string
		for name := range stats {
			all = append(all, name)
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	invalidate := func() { u.invalidate(soracache.Tag("t"), soracache.Key("k")) }
	ofTag := func() { u.invalidate(soracache.Tag("t")) }
	load := func() { u.fill("k", u.lease("k", 1), "v") }
	invalidate()
	load()
	u.do("DEL", u.name("e:k"))
	for what, c := range map[string]struct {
		do   func()
		want string
	}{
		"invalidate":       {invalidate, "evalsha mget time unlink zadd zcard zmscore zrange zrem"}, // with which schemas there are
		"invalidate a tag": {ofTag, "evalsha time unlink zadd zcard zmscore zrange zrem"},
		"since":            {func() { u.head() }, "evalsha time unlink zmscore zrange"},
		"load":             {load, "del evalsha exists get getrange sadd set time zmscore zrange"},
	} {
		if got := commands(c.do); got != c.want {
			t.Errorf("%s takes %s, want %s", what, got, c.want)
		}
	}
	u.settle(time.Millisecond, soracache.Tag("t"))
	time.Sleep(2 * time.Millisecond)
	u.head()
	if got := commands(func() { u.head() }); strings.Contains(got, "zscore") {
		t.Errorf("all has settled, and since takes %s", got)
	}
}
