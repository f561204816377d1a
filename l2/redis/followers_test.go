package redis

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func (u *user) register(r l2.Registration) {
	u.Helper()
	if a := u.Since(context.Background(), []l2.SinceRequest{{Partition: u.at, Register: r}})[0]; a.Err != nil {
		u.Fatal(a.Err)
	}
}

// followers appends and returns who is registered, as names, and since when.
func (u *user) followers() (names []string, whole time.Duration) {
	u.Helper()
	a := u.Invalidate(context.Background(), []l2.InvalidateRequest{{
		Partition: u.at, Followers: true, Targets: []soracache.Target{soracache.Tag("t")},
	}})[0]
	if a.Err != nil {
		u.Fatal(a.Err)
	}
	for _, r := range a.Registered {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return names, a.RegisteredFor
}

// field packs what a field of the hash of followers holds.
func field(first, second int64) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(first))
	return string(binary.BigEndian.AppendUint64(b, uint64(second)))
}

// Whatever stands in the place of the hash, or in it, is as good as lost.
func TestFollowersDamaged(t *testing.T) {
	u := newUser(t)
	for what, damage := range map[string]func(){
		"another type":   func() { u.do("DEL", u.name("r")); u.do("SET", u.name("r"), "x") },
		"a set":          func() { u.do("DEL", u.name("r")); u.do("SADD", u.name("r"), "!") },
		"no birth":       func() { u.do("HDEL", u.name("r"), "!") },
		"a short birth":  func() { u.do("HSET", u.name("r"), "!", "123") },
		"a later birth":  func() { u.do("HSET", u.name("r"), "!", field(int64(u.head().Epoch), 1<<51)) },
		"another epoch":  func() { u.do("HSET", u.name("r"), "!", field(1, 1)) },
		"a short member": func() { u.do("HSET", u.name("r"), "na", "123") },
	} {
		for _, by := range []func(){
			func() {},
			func() { u.register(l2.Registration{Name: "b", Bound: time.Second}) },
		} {
			u.register(l2.Registration{Name: "a", Bound: time.Second})
			time.Sleep(2 * time.Millisecond) // for the list to have an age
			before := time.Now()
			damage()
			by()
			_, whole := u.followers()
			if age := time.Since(before); whole > age+time.Millisecond {
				t.Errorf("%s: the list counts as whole for %v, and was damaged %v ago", what, whole, age)
			}
			u.register(l2.Registration{Name: "a", Bound: time.Second})
			if names, _ := u.followers(); !slices.Contains(names, "a") {
				t.Errorf("%s: registered anew, and only %q are listed", what, names)
			}
		}
	}
}

// A clock that was ahead and is set back must not keep anybody registered for
// as long as it was ahead.
func TestFollowersAfterTheClockIsSetBack(t *testing.T) {
	u := newUser(t)
	u.register(l2.Registration{Name: "a", Bound: time.Second})
	ahead := time.Now().Add(time.Hour).UnixMicro()
	u.do("HSET", u.name("r"), "na", field(time.Second.Microseconds(), ahead))
	if names, _ := u.followers(); !slices.Equal(names, []string{"a"}) {
		t.Fatalf("registered: %q", names)
	}
	raw := u.do("HGET", u.name("r"), "na").(string)
	until := time.UnixMicro(int64(binary.BigEndian.Uint64([]byte(raw[8:]))))
	if left := time.Until(until); left > time.Second+l2.RegistrationSlack {
		t.Errorf("the registration stands for %v more", left)
	}
}

// The hash goes by itself when nobody registers any more, but not before the
// last registration, and any lease of who registered, is over.
func TestFollowersExpire(t *testing.T) {
	u := newUser(t)
	left := func() time.Duration { return u.admin.PTTL(t.Context(), u.name("r")).Val() }
	for range 2 {
		u.register(l2.Registration{Name: "a", Bound: l2.MaxBound})
		if least := l2.MaxBound + l2.RegistrationSlack + soracache.MaxLease - time.Second; left() < least || left() > least+2*time.Second {
			t.Fatalf("the hash is kept for %v", left())
		}
		u.do("PERSIST", u.name("r"))
		u.do("HDEL", u.name("r"), "na") // so that it is written again
	}
	u.do("DEL", u.name("r"))
	u.followers()
	if left() <= 0 {
		t.Fatalf("a list made by an append is kept for %v", left())
	}
}

// A Redis without memory refuses values, and not the registration of those who
// read what it has.
func TestFollowersWithoutMemory(t *testing.T) {
	u, _ := own(t)
	u.put("k", "v")
	u.do("CONFIG", "SET", "maxmemory", "1")
	for _, name := range []string{"a", "b"} {
		a := u.Read(context.Background(), []l2.ReadRequest{{
			Partition: u.at, Register: l2.Registration{Name: name, Bound: time.Second}, Keys: []l2.ReadKey{{Key: "k"}},
		}})[0]
		if a.Err != nil || !a.Keys[0].Found {
			t.Fatalf("read by %s: %+v", name, a)
		}
	}
	a := u.Write(context.Background(), []l2.WriteRequest{{
		Partition: u.at, Op: soracache.OpPut, Key: "k", Lifetime: hour, Register: l2.Registration{Name: "c", Bound: time.Second},
	}})[0]
	if a.Err == nil {
		t.Error("a put that registers was stored without memory")
	}
	u.register(l2.Registration{Name: "c", Bound: time.Second})
	if names, _ := u.followers(); !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("registered: %q", names)
	}
}

// Who does not register pays nothing; who does, one look-up, and every few
// seconds a write.
func TestCommandsOfRegistering(t *testing.T) {
	u, _ := own(t)
	u.put("k", "v")
	a := l2.Registration{Name: "a", Bound: time.Second}
	read := func(r l2.Registration) string {
		u.do("CONFIG", "RESETSTAT")
		answer := u.Read(context.Background(), []l2.ReadRequest{{Partition: u.at, Register: r, Keys: []l2.ReadKey{{Key: "k"}}}})[0]
		if answer.Err != nil {
			t.Fatal(answer.Err)
		}
		stats := commandStats(t, u.do("INFO", "commandstats").(string))
		delete(stats, "config|resetstat")
		var all []string
		for name, n := range stats {
			all = append(all, fmt.Sprint(name, ":", n))
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	const plain = "evalsha:1 getrange:1 %stime:1 unlink:1 zmscore:1 zrange:1"
	for _, c := range []struct {
		what string
		by   l2.Registration
		want string
	}{
		{"nobody registers", l2.Registration{}, fmt.Sprintf(plain, "")},
		{"the first registration", a, fmt.Sprintf(plain, "exists:1 hmget:1 hset:1 pexpire:1 ")},
		{"registered already", a, fmt.Sprintf(plain, "hmget:1 ")},
		{"another's", l2.Registration{Name: "b", Bound: time.Second}, fmt.Sprintf(plain, "exists:1 hlen:1 hmget:1 hscan:1 hset:1 pexpire:1 ")},
	} {
		got := strings.Fields(read(c.by))
		want := strings.Fields(c.want)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", c.what, got, want)
		}
	}
	now := time.Now().UnixMicro()
	second := time.Second.Microseconds()
	for left, writes := range map[int64]bool{7: false, 5: true} {
		u.do("HSET", u.name("r"), "na", field(second, now+left*second))
		if wrote := strings.Contains(read(a), "hset"); wrote != writes {
			t.Errorf("with %d s left of a bound of 1 s: written %v", left, wrote)
		}
	}
}

// A record that a later version wrote, of a kind not known here, may kill
// anything.
func TestRecordsOfLaterVersions(t *testing.T) {
	u := newUser(t)
	start := u.head()
	first := u.invalidate(soracache.Tag("x"), soracache.Key("y"))
	later := u.invalidate(soracache.Tag("z"))
	u.do("ZREM", u.name("t"), "tz")
	u.do("ZADD", u.name("t"), uint64(later.Position), "q<a kind of its own>")
	d := u.since(start)
	if len(d.Records) != 2 || d.More || d.Reset ||
		d.Records[0].Position != first.Position || len(d.Records[0].Targets) != 2 ||
		d.Records[1].Position != later.Position || !slices.Equal(d.Records[1].Targets, []soracache.Target{soracache.Everything()}) {
		t.Errorf("told %+v", d)
	}
	cleared := u.invalidate(soracache.Everything())
	u.do("ZADD", u.name("k"), uint64(cleared.Position), "")
	if d = u.since(start); d.Records[len(d.Records)-1].Position != cleared.Position || len(d.Records[len(d.Records)-1].Targets) != 1 {
		t.Errorf("with a clear, told %+v", d)
	}
}
