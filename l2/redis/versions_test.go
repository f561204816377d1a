package redis

import (
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// bytesOfForm joins text as it stands and numbers as eight bytes.
func bytesOfForm(parts ...any) string {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		}
	}
	return string(b)
}

// The forms of everything that is not an entry. Nodes of other versions read
// these bytes: a change of them wants another version, which earlier nodes then
// leave alone.
func TestGoldenForms(t *testing.T) {
	u := newUser(t)
	u.config.Random = func() uint64 { return 0xABCDEF0123456 }
	begun := u.head()
	epoch, floor := uint64(0xABCDEF0123456), uint64(begun.Position)
	nonce := u.lease("leased", 7)
	u.put("k", "v", "t") // kept for an hour
	cleared := uint64(u.invalidate(soracache.Everything()).Position)
	last := uint64(u.invalidate(soracache.Tag("t"), soracache.Key("k")).Position)
	run := u.partition(u.at).serving.Load().run
	first := func(kind string) string {
		return u.do("ZRANGE", u.name(kind), 0, 0).([]any)[0].(string)
	}
	expect := func(what, got string, want ...any) {
		t.Helper()
		if want := bytesOfForm(want...); got != want {
			t.Errorf("%s is\n%x, want\n%x", what, got, want)
		}
	}
	state := []any{"!", epoch, last, floor, floor, cleared, uint64(time.Hour.Microseconds()), run, "\x00\x01"}
	expect("the state", first("t"), state...)
	expect("the mark of the key records", first("k"), "!", epoch, last, floor)
	expect("the mark of the history", first("h"), "!", epoch, last, floor)
	score := func(kind, member string) uint64 {
		return uint64(u.admin.ZScore(t.Context(), u.name(kind), member).Val())
	}
	if tag, key := score("t", "tt"), score("k", "kk"); tag != last || key != last {
		t.Errorf("the records are %d and %d, want %d", tag, key, last)
	}
	for _, at := range []uint64{floor, cleared, last} {
		if n := score("h", fmt.Sprint("p", at)); n != at {
			t.Errorf("the position issued is %d, want %d", n, at)
		}
	}

	u.do("DEL", u.name("l:leased"))
	nonce = u.lease("leased", 7)
	lease := u.do("GET", u.name("l:leased")).(string)
	expect("a lease", lease, string(nonce[:]), epoch, last, lease[len(lease)-8:])

	nonce = u.lease(soracache.Name("s/1", "leased"), 8)
	schemas := u.do("GET", u.name("m:leased")).(string)
	lease = u.do("GET", u.name("l:\xffs/1\xffleased")).(string)
	expect("the lease of a schema", lease, string(nonce[:]), epoch, last, lease[len(lease)-8:])
	expect("the list of a key's schemas", schemas, "\x01", lease[len(lease)-8:], "\x03s/1")

	u.register(l2.Registration{Name: "node", Bound: time.Second})
	list := u.admin.HGetAll(t.Context(), u.name("r")).Val()
	if !slices.Equal(slices.Sorted(maps.Keys(list)), []string{"!", "nnode"}) {
		t.Errorf("the list of followers is %q", list)
	}
	expect("the list's birth", list["!"][:8], epoch)
	expect("a registration", list["nnode"][:8], uint64(time.Second.Microseconds()))

	u.settle(time.Minute, soracache.Tag("t"), soracache.Everything())
	settling := u.admin.ZRangeWithScores(t.Context(), u.name("w"), 0, -1).Val()
	if len(settling) != 3 || settling[1].Member != "a" || settling[2].Member != "tt" || settling[1].Score != settling[2].Score {
		t.Fatalf("what settles is %v", settling)
	}
	until := uint64(settling[1].Score)
	last = uint64(u.head().Position)
	state[2] = last
	state[5] = last
	changed := settling[0].Member.(string)[1:]
	expect("the state while something settles", first("t"), append(state, until, until, changed)...)
	if len(changed) != 8 || changed[0] != 0 {
		t.Errorf("the mark of what settles is %x", changed)
	}

	u.since(soracache.Stamp{Epoch: 333, Position: 1}) // takes a new epoch
	for _, left := range []uint64{333, epoch} {
		if score("x", strconv.FormatUint(left, 10)) == 0 {
			t.Errorf("the epoch %d is not among those left", left)
		}
	}
}

// laterMember puts a later version's form in the place of a set's reserved
// member, until it is restored.
func laterMember(do func(args ...any) any, name string, more string) (restore func()) {
	was := do("ZRANGE", name, 0, 0).([]any)[0].(string)
	later := "!\x01" + was[2:] + more
	do("ZREM", name, was)
	do("ZADD", name, -1, later)
	return func() {
		do("ZREM", name, later)
		do("ZADD", name, -1, was)
	}
}

// dumps is all that stands in a partition, byte for byte.
func (u *user) dumps() map[string]string {
	u.Helper()
	all := map[string]string{}
	for _, name := range keysOf(u.TB.(*testing.T), u.admin, u.config.Prefix) {
		all[name] = hex.EncodeToString([]byte(u.do("DUMP", name).(string)))
	}
	return all
}

// What a later version has written is left as it is, to the byte, whichever of a
// ledger's parts it is, and however long.
func TestLaterFormsAreLeftAlone(t *testing.T) {
	for kind, appendsOnly := range map[string]bool{"t": false, "k": false, "h": true, "w": true} {
		for _, more := range []string{"", "and more"} {
			u := newUser(t)
			u.at.Namespace = fmt.Sprint("later-", kind, len(more))
			u.put("k", "v", "t")
			if kind == "w" {
				u.settle(time.Minute, soracache.Tag("s"))
				if more != "" {
					u.do("ZADD", u.name("w"), 5, "tdue") // and the mark of today is lost, for one who looks
				}
			}
			restore := laterMember(u.do, u.name(kind), more)
			was := u.dumps()
			appended := u.Invalidate(context.Background(), []l2.InvalidateRequest{{
				Partition: u.at, Targets: []soracache.Target{soracache.Key("k")}, Settle: time.Minute,
			}})[0].Err
			if !isUnavailable(appended) {
				t.Errorf("%s: appended: %v", kind, appended)
			}
			stranger := u.Since(context.Background(), []l2.SinceRequest{{Partition: u.at, Since: soracache.Stamp{Epoch: 5, Position: 5}}})[0].Err
			if !isUnavailable(stranger) {
				t.Errorf("%s: shown another history: %v", kind, stranger)
			}
			if _, err := u.tryRead(l2.ReadKey{Key: "k"}); !appendsOnly && !isUnavailable(err) {
				t.Errorf("%s: read: %v", kind, err)
			}
			if now := u.dumps(); !maps.Equal(now, was) {
				t.Errorf("%s was of a later version, and from\n%v became\n%v", kind, was, now)
			}
			restore()
			u.hit("k", "v")
		}
	}
}

// What settles in a later version's form is not taken for nothing by one who
// finds no sign of it in the ledger.
func TestLaterSettlingWithoutItsSign(t *testing.T) {
	u := newUser(t)
	u.head()
	u.do("ZADD", u.name("w"), -1, "!\x01 something", 5, "tx")
	was := u.dumps()
	a := u.Invalidate(context.Background(), []l2.InvalidateRequest{{
		Partition: u.at, Targets: []soracache.Target{soracache.Key("k")}, Settle: time.Minute,
	}})[0]
	if !isUnavailable(a.Err) || !maps.Equal(u.dumps(), was) {
		t.Errorf("%v, and %v became %v", a.Err, was, u.dumps())
	}
}

// A later version's lease is somebody's, in a way that is not known: nobody is
// given another, and nobody is told to wait for it.
func TestLaterLease(t *testing.T) {
	u := newUser(t)
	nonce := u.lease("k", 1)
	stored := u.do("GET", u.name("l:k")).(string)
	later := stored[:16] + "\x01" + stored[17:] + "and its outcome"
	u.do("SET", u.name("l:k"), later, "PX", 60_000)
	for _, asked := range []soracache.Lease{nonce, {2}} {
		if a := u.ask(l2.ReadKey{Key: "k", Nonce: asked}); a.Found || a.Lease != soracache.LeaseRefused {
			t.Errorf("read: %+v", a)
		}
	}
	if a := u.fill("k", nonce, "v"); a.Reason != soracache.ReasonLeaseLost {
		t.Errorf("fill: %v", a.Reason)
	}
	for _, op := range []soracache.WriteOp{soracache.OpRenew, soracache.OpRelease} {
		if a := u.write(l2.WriteRequest{Op: op, Key: "k", Nonce: nonce}); a.Reason != soracache.ReasonLeaseLost {
			t.Errorf("%v: %v", op, a.Reason)
		}
	}
	if x, err := u.Explain(t.Context(), u.at, "k"); err != nil || x.Leased {
		t.Errorf("explained: %+v, %v", x, err)
	}
	if now := u.do("GET", u.name("l:k")); now != later {
		t.Errorf("the lease was changed: %x", now)
	}
	u.put("k", "v") // ends every lease
	u.hit("k", "v")
	// One that is over, or cannot be, is in nobody's way.
	for what, ends := range map[string]time.Time{"over": time.Now().Add(-time.Minute), "too long": time.Now().Add(time.Hour)} {
		u.do("SET", u.name("l:"+what), bytesOfForm(stored[:16], "\x01", stored[17:32], uint64(ends.UnixMicro())))
		u.lease(what, 3)
	}
}

// A later version's registration counts: it says where today's does for how long.
func TestLaterRegistrations(t *testing.T) {
	u := newUser(t)
	u.register(l2.Registration{Name: "mine", Bound: time.Second})
	ends := func(d time.Duration) uint64 { return uint64(time.Now().Add(d).UnixMicro()) }
	bound := func(version uint64, d time.Duration) uint64 { return version<<56 | uint64(d.Microseconds()) }
	set := func(name string, parts ...any) { u.do("HSET", u.name("r"), name, bytesOfForm(parts...)) }
	set("ntheirs", bound(1, 3*time.Second), ends(13*time.Second), "and more")
	set("ngone", bound(1, 3*time.Second), ends(-time.Second), "and more")
	birth := u.do("HGET", u.name("r"), "!").(string)
	set("!", bound(1, 0)|uint64(u.head().Epoch), birth[8:], "and more")
	list := func() l2.InvalidateAnswer {
		a := u.Invalidate(context.Background(), []l2.InvalidateRequest{{
			Partition: u.at, Targets: []soracache.Target{soracache.Tag("x")}, Followers: true,
		}})[0]
		if a.Err != nil {
			t.Fatal(a.Err)
		}
		slices.SortFunc(a.Registered, func(x, y l2.Registration) int { return len(x.Name) - len(y.Name) })
		return a
	}
	a := list()
	want := []l2.Registration{{Name: "mine", Bound: time.Second}, {Name: "theirs", Bound: 3 * time.Second}}
	if !slices.Equal(a.Registered, want) {
		t.Errorf("registered: %v, want %v", a.Registered, want)
	}
	if a.RegisteredFor <= 0 {
		t.Error("the list does not count as whole")
	}
	if stored := u.do("HGET", u.name("r"), "ntheirs").(string); stored[0] != 1 || len(stored) != 24 {
		t.Errorf("the registration was changed: %x", stored)
	}
	if u.do("HGET", u.name("r"), "ngone") != nil {
		t.Error("a registration that is over stays")
	}
	// What cannot be a registration of any version is damage, and as good as lost.
	set("nbroken", bound(1, time.Hour), ends(time.Hour), "and more")
	if a := list(); len(a.Registered) != 2 || a.RegisteredFor != 0 {
		t.Errorf("beside a damaged one: %+v", a)
	}
}

// An entry of a later version is a miss, and stays for those who can read it.
func TestLaterEntryStays(t *testing.T) {
	u := newUser(t)
	u.put("k", "v", "t")
	stored := []byte(u.do("GET", u.name("e:k")).(string))
	stored[2] = 3
	later := slices.Clone(stored[:36])
	sum := sha1.Sum(stored[:36])
	later = append(later, sum[:4]...)
	later = append(later, "a body of its own"...)
	u.do("SET", u.name("e:k"), later, "KEEPTTL")
	u.miss("k")
	for _, tag := range []string{"t", ""} {
		if _, _, err := u.Reclaim(t.Context(), u.at, tag, ""); err != nil {
			t.Fatal(err)
		}
	}
	if now := u.do("GET", u.name("e:k")); now != string(later) {
		t.Errorf("the entry was changed: %x", now)
	}
	if u.Counters().Corrupt == 0 {
		t.Error("not counted")
	}
}

// Damage is no later version: it costs an epoch, as ever.
func TestDamagedStateTakesANewEpoch(t *testing.T) {
	for what, damage := range map[string]func(state string) string{
		"cut off":        func(s string) string { return s[:len(s)-1] },
		"longer":         func(s string) string { return s + "x" },
		"the sign alone": func(string) string { return "!" },
		"not its sign":   func(s string) string { return "?" + s[1:] },
	} {
		u := newUser(t)
		u.at.Namespace = fmt.Sprint("damaged-", len(what))
		u.put("k", "v")
		before := u.head()
		state := u.do("ZRANGE", u.name("t"), 0, 0).([]any)[0].(string)
		u.do("ZREM", u.name("t"), state)
		u.do("ZADD", u.name("t"), -1, damage(state))
		d := u.since(before)
		if !d.Reset || d.Epoch == before.Epoch {
			t.Errorf("%s: %+v", what, d)
		}
		u.miss("k")
	}
}

// The forms of a namespace's number, and of what stands in the place of a ledger
// that was put an end to. Nodes from before these take the latter for a ledger of
// 65,535 partitions, and refuse it.
func TestGoldenNumberForms(t *testing.T) {
	u := newUser(t)
	u.at.Count = 4
	place := u.config.Prefix + "{shop}n"
	before := u.head()
	expires := func(name string) bool { return u.admin.PTTL(t.Context(), name).Val() > 0 }
	if got := u.do("GET", place); got != "1:4" || !expires(place) {
		t.Errorf("the number is %v, expiring %v", got, expires(place))
	}
	if _, err := u.Repartition(t.Context(), "shop", 2); err != nil {
		t.Fatal(err)
	}
	if got := u.do("GET", place); got != "1:4>2" || expires(place) {
		t.Errorf("while it changes, the number is %v, expiring %v", got, expires(place))
	}
	first := func() string { return u.do("ZRANGE", u.name("t"), 0, 0).([]any)[0].(string) }
	state := first()
	head, since := binary.BigEndian.Uint64([]byte(state[9:])), binary.BigEndian.Uint64([]byte(state[17:]))
	want := bytesOfForm("!", uint64(0), head, since, uint64(0), uint64(0), uint64(0), uint64(0), "\xff\xff")
	if state != want || head <= uint64(before.Position) || expires(u.name("t")) {
		t.Errorf("what is buried is\n%x, want\n%x, expiring %v", state, want, expires(u.name("t")))
	}
	for _, kind := range []string{"k", "h"} {
		if u.do("EXISTS", u.name(kind)) != int64(0) {
			t.Errorf("%s of what is buried is there", kind)
		}
	}
	u.at.Index = 2
	for i := range uint16(4) {
		ageBuried(u.do, base(u.config.Prefix, l2.Partition{Namespace: "shop", Index: i})+"t", l2.ChangeTakes)
	}
	u.at.Index = 0
	// Of the ledgers to come nothing is left; one that is not wanted any more would
	// stand for a while yet.
	if left, err := u.Repartition(t.Context(), "shop", 2); err != nil || left != 0 {
		t.Fatal(left, err)
	}
	if got := u.do("GET", place); got != "1:2" || !expires(place) {
		t.Errorf("then the number is %v, expiring %v", got, expires(place))
	}
	if u.do("EXISTS", u.name("t")) != int64(0) {
		t.Error("the ledger to come is still buried")
	}
	// A later version's number is left alone.
	for _, later := range []string{"2:4", "17:whatever"} {
		u.do("SET", place, later)
		a := u.Partitions(t.Context(), []l2.PartitionsRequest{{Namespace: "shop", Want: 2}})[0]
		if !isUnavailable(a.Err) || errors.Is(a.Err, l2.ErrPartitions) || u.do("GET", place) != later {
			t.Errorf("%s: %+v, and then it is %v", later, a, u.do("GET", place))
		}
		if _, err := u.Repartition(t.Context(), "shop", 4); !isUnavailable(err) || u.do("GET", place) != later {
			t.Errorf("%s changed: %v", later, err)
		}
	}
	// What is no number is as good as lost.
	for _, damaged := range [][]any{{"SET", place, "1:0"}, {"SET", place, "1:4>"}, {"SET", place, "garbage"}, {"SET", place, "1:04"}, {"SET", place, ""}, {"HSET", place, "a", "b"}} {
		u.do("DEL", place)
		u.do(damaged...)
		if a := u.Partitions(t.Context(), []l2.PartitionsRequest{{Namespace: "shop", Want: 2}})[0]; a.Err != nil || a.Count != 2 || u.do("GET", place) != "1:2" {
			t.Errorf("%v: %+v, and then it is %v", damaged, a, u.do("GET", place))
		}
	}
}

// What stands in the place of ledgers that nobody will begin any more expires,
// and so does the number: nothing is left of a namespace that nobody uses.
func TestNothingIsLeftOfAChange(t *testing.T) {
	u := newUser(t)
	u.at = l2.Partition{Namespace: "shop", Index: 3, Count: 4}
	u.head()
	err := l2.Repartition(t.Context(), u, "shop", 1, func(d time.Duration) error {
		ageBuried(u.do, u.name("t"), d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range keysOf(t, u.admin, u.config.Prefix) {
		if name == u.config.Prefix+"ledgers" {
			continue // the index of all namespaces' ledgers: sweeps take out what is gone
		}
		if left := u.admin.PTTL(t.Context(), name).Val(); left <= 0 || left > l2.PartitionsExpiry {
			t.Errorf("%s expires in %v", name, left)
		}
	}
	for what, p := range map[string]l2.Partition{"the old number": u.at, "another number": {Namespace: "shop", Index: 3, Count: 8}} {
		if a := u.Since(t.Context(), []l2.SinceRequest{{Partition: p}})[0]; !errors.Is(a.Err, l2.ErrPartitions) {
			t.Errorf("%s: %v", what, a.Err)
		}
	}
	// The number is lost, and no ledger of it is there: what is buried knows.
	u.do("DEL", u.config.Prefix+"{shop}n")
	if a := u.Partitions(t.Context(), []l2.PartitionsRequest{{Namespace: "shop", Want: 4}})[0]; a.Err != nil || a.Count != 1 {
		t.Errorf("after the loss of the number: %+v", a)
	}
}

// A step that would begin a ledger and was on its way for long does not, however
// sure its caller was when it set out.
func TestLedgerIsNotBegunOnAnOldNumber(t *testing.T) {
	u := newUser(t)
	for age, begins := range map[time.Duration]bool{time.Second: true, lookedUpFor + time.Second: false} {
		u.at.Namespace = fmt.Sprint("age-", int(age.Seconds()))
		c := u.newCall(u.at, scriptSince)
		c.lookedUp = uint64(time.Now().Add(-age).UnixMicro())
		u.send(t.Context(), u.prepare(t.Context(), []*call{c}))
		if err := c.cmd.Err(); (err == nil) != begins {
			t.Errorf("looked up %v ago: %v", age, err)
		}
		if n := u.do("EXISTS", u.name("t")); (n == int64(1)) != begins {
			t.Errorf("looked up %v ago: %v ledgers", age, n)
		}
	}
}

// A Redis without memory goes on with the namespaces that it has.
func TestNumberWithoutMemory(t *testing.T) {
	u, _ := own(t)
	u.put("k", "v")
	u.do("CONFIG", "SET", "maxmemory", "1")
	u.do("DEL", u.config.Prefix+"{shop}n")
	if a := u.Partitions(t.Context(), []l2.PartitionsRequest{{Namespace: "shop", Want: 4}})[0]; a.Err != nil || a.Count != 1 {
		t.Errorf("%+v", a)
	}
	u.hit("k", "v")
}
