package redis

import (
	"fmt"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
)

// own opens a store on a server of the test's own.
func own(t *testing.T, options ...redistest.Option) (*user, *redistest.Server) {
	t.Helper()
	server := redistest.Standalone(t, options...)
	s := openAt(t, Config{URL: server.URL(), Prefix: prefixOf(t)})
	return &user{t, s, l2.Partition{Namespace: "shop", Count: 1}, server.Client(t)}, server
}

// recovered waits until the store answers again, within what is promised.
func (u *user) recovered() {
	u.Helper()
	redistest.Eventually(u, 2*time.Second, "the store answers again", func() bool {
		_, err := u.tryRead(l2.ReadKey{Key: "probe"})
		return err == nil
	})
}

// reset expects that whoever showed a stamp is told to start anew, in another
// epoch, and that this is settled.
func (u *user) reset(shown soracache.Stamp) {
	u.Helper()
	d := u.since(shown)
	if !d.Reset || d.Epoch == shown.Epoch {
		u.Fatalf("whoever showed %v was told %+v", shown, d)
	}
	if again := u.since(shown); !again.Reset || again.Epoch != d.Epoch {
		u.Fatalf("whoever showed %v was then told %+v", shown, again)
	}
}

func TestFlushAll(t *testing.T) {
	u, _ := own(t)
	u.put("k", "old", "t")
	nonce := u.lease("leased", 1)
	before := u.invalidate(soracache.Tag("x"))
	u.do("FLUSHALL")
	if a := u.fill("leased", nonce, "old"); a.Reason != soracache.ReasonLeaseLost {
		t.Fatalf("fill: %v", a.Reason)
	}
	u.miss("k")
	u.reset(soracache.Stamp{Epoch: before.Epoch, Position: before.Position})
	u.fill("k", u.lease("k", 2), "new", "t")
	u.hit("k", "new")
}

func TestRestartEmpty(t *testing.T) {
	u, server := own(t)
	u.put("k", "old")
	knows := u.head()
	server.RestartEmpty(t)
	u.recovered()
	u.reset(knows)
	u.miss("k")
	u.fill("k", u.lease("k", 1), "new")
	u.hit("k", "new")
}

// A restart that brings data back brings back what was saved, which need not
// be the last that was acknowledged: all of it is dead, whoever asks first.
func TestRestartWithSavedData(t *testing.T) {
	u, server := own(t, redistest.Config("save", "3600 1"))
	u.fill("k", u.lease("k", 1), "old", "t")
	u.do("SAVE")
	u.invalidate(soracache.Tag("t"))
	u.fill("k", u.lease("k", 2), "new", "t")
	server.Kill()
	server.Restart(t)
	u.recovered()
	if u.do("EXISTS", u.name("e:k")) != int64(1) {
		t.Fatal("the server did not load what it had saved")
	}
	u.miss("k")
	u.fill("k", u.lease("k", 3), "newest")
	u.hit("k", "newest")
	epoch := u.head().Epoch
	other := u.another(Config{URL: server.URL()})
	other.hit("k", "newest")
	if other.head().Epoch != epoch {
		t.Fatal("a second node took a new epoch from the same process")
	}
}

func TestScriptFlush(t *testing.T) {
	u, _ := own(t)
	u.put("k", "v")
	before := u.head()
	for _, op := range []func(){
		func() { u.hit("k", "v") },
		func() { u.since(before) },
		func() { u.put("p", "v") },
		func() { u.fill("f", u.lease("f", 1), "v") },
		func() { u.invalidate(soracache.Key("x")) },
	} {
		u.do("SCRIPT", "FLUSH")
		op()
	}
	u.hit("f", "v")
	if u.head().Epoch != before.Epoch {
		t.Fatal("forgotten scripts cost an epoch")
	}
	if n := u.Counters().Epochs; n != 1 {
		t.Fatalf("%d epochs", n)
	}
}

func TestReplicaRefuses(t *testing.T) {
	servers := redistest.Sentinel(t)
	u := &user{t, openAt(t, Config{URL: servers.URL(), Prefix: prefixOf(t)}), l2.Partition{Namespace: "shop", Count: 1}, servers.Client(t)}
	u.put("k", "v")
	head := u.head()
	u.do("WAIT", 1, 5000)
	replica := servers.Nodes[0]
	if replica == servers.Primary(t) {
		replica = servers.Nodes[1]
	}
	client := goredis.NewClient(&goredis.Options{Addr: replica.Addr, ContextTimeoutEnabled: true})
	defer client.Close()
	s, err := New(client, u.config)
	if err != nil {
		t.Fatal(err)
	}
	r := &user{t, s, u.at, client}
	ctx := t.Context()
	errs := map[string]error{
		"since":      r.Since(ctx, []l2.SinceRequest{{Partition: r.at, Since: head}})[0].Err,
		"read":       r.Read(ctx, []l2.ReadRequest{{Partition: r.at, Since: head, Keys: []l2.ReadKey{{Key: "k"}}}})[0].Err,
		"invalidate": r.Invalidate(ctx, []l2.InvalidateRequest{{Partition: r.at, Targets: []soracache.Target{soracache.Everything()}}})[0].Err,
		"put":        r.Write(ctx, []l2.WriteRequest{{Partition: r.at, Op: soracache.OpPut, Key: "k", Lifetime: hour}})[0].Err,
		"release":    r.Write(ctx, []l2.WriteRequest{{Partition: r.at, Op: soracache.OpRelease, Key: "k"}})[0].Err,
	}
	_, errs["explain"] = r.Explain(ctx, r.at, "k")
	_, _, errs["list"] = r.ListKeys(ctx, r.at, "t", "", 1)
	_, errs["sweep"] = r.Sweep(ctx)
	for what, err := range errs {
		if !isUnavailable(err) {
			t.Errorf("%s on a replica: %v", what, err)
		}
	}
	u.hit("k", "v")
}

// What a step writes only so that a replica refuses it changes nothing, the
// expiry of a key included.
func TestReadingChangesNothing(t *testing.T) {
	u := newUser(t)
	u.put("k", "v")
	u.do("PEXPIRE", u.name("t"), time.Hour.Milliseconds())
	u.hit("k", "v")
	u.head()
	u.register(l2.Registration{Name: "a", Bound: time.Second})
	if left := u.admin.PTTL(t.Context(), u.name("t")).Val(); left <= 0 {
		t.Errorf("after reads the ledger expires in %v", left)
	}
	if n := u.do("EXISTS", u.name("!")); n != int64(0) {
		t.Error("the key that is never there is there")
	}
}

// Two nodes that each bring an epoch which the ledger never heard of must not
// make each other take new ones for ever (trap 8).
func TestStrangersConverge(t *testing.T) {
	a := newUser(t)
	b := a.another(a.config)
	shown := map[*user]soracache.Stamp{
		a: {Epoch: 111, Position: 5}, b: {Epoch: 222, Position: 5},
	}
	for range 10 {
		for _, u := range []*user{a, b} {
			d := u.since(shown[u])
			shown[u] = soracache.Stamp{Epoch: d.Epoch, Position: d.Head}
		}
	}
	if shown[a] != shown[b] {
		t.Fatalf("they follow %v and %v", shown[a], shown[b])
	}
	if n := a.Counters().Epochs + b.Counters().Epochs; n > 2 {
		t.Fatalf("%d epochs", n)
	}
	for _, old := range []soracache.Epoch{111, 222} {
		if d := a.since(soracache.Stamp{Epoch: old, Position: 5}); !d.Reset || d.Epoch != shown[a].Epoch {
			t.Fatalf("epoch %d shown again: %+v", old, d)
		}
	}
}

// Losing the list of left epochs costs at most one more epoch.
func TestLeftEpochsLost(t *testing.T) {
	u := newUser(t)
	stranger := soracache.Stamp{Epoch: 333, Position: 1}
	u.since(stranger)
	head := u.head()
	for _, damage := range [][]any{{"DEL", u.name("x")}, {"SET", u.name("x"), "garbage"}} {
		u.do(damage...)
		d := u.since(stranger)
		if d.Epoch == head.Epoch || !d.Reset {
			t.Fatalf("%v: %+v", damage, d)
		}
		if again := u.since(stranger); again.Epoch != d.Epoch {
			t.Fatalf("%v: %+v", damage, again)
		}
		head.Epoch = d.Epoch
	}
}

// Every part of the ledger may turn out to be of another type.
func TestLedgerOfOtherTypes(t *testing.T) {
	for _, kind := range []string{"t", "k", "h"} {
		for _, command := range [][]any{{"SET", "", "x"}, {"RPUSH", "", "x"}, {"SADD", "", "x"}, {"ZADD", "", 1, "x"}} {
			u := newUser(t)
			u.at.Namespace = fmt.Sprintf("type-%s-%v", kind, len(command)+len(command[0].(string)))
			u.put("k", "old")
			last := u.invalidate(soracache.Tag("t"))
			u.do("DEL", u.name(kind))
			command[1] = u.name(kind)
			u.do(command...)
			d := u.invalidate(soracache.Tag("u"))
			if d.Epoch == last.Epoch {
				t.Fatalf("%s after %v: the epoch went on", kind, command[0])
			}
			u.miss("k")
			u.put("k", "new")
			u.hit("k", "new")
		}
	}
}

// Another process with the same data, such as a promoted replica, has another
// run id: its ledgers take a new epoch before they are used.
func TestOtherProcess(t *testing.T) {
	u := newUser(t)
	u.put("k", "old")
	before := u.head()
	found, texts := newProcess(987654321, u.config.Retention)
	for _, text := range texts {
		u.do("SCRIPT", "LOAD", text)
	}
	p := u.partition(u.at)
	p.serving.Store(found)
	u.miss("k")
	u.reset(before)
	u.put("k", "new")
	u.hit("k", "new")
	p.serving.Store(nil) // and back, as when the old process is the primary again
	u.miss("k")
	if n := u.Counters().Epochs; n != 3 {
		t.Fatalf("%d epochs", n)
	}
}

// What is trimmed is told by the floors, step by step, and never takes long.
func TestTrimming(t *testing.T) {
	u := newUser(t)
	u = u.another(Config{
		URL:       u.config.URL,
		Retention: l2.Retention{TagRecords: 1000, KeyRecords: 1000, Age: time.Hour},
	})
	start := u.head()
	var middle soracache.Record
	for i := range 40 {
		var targets []soracache.Target
		for j := range 100 {
			targets = append(targets, soracache.Tag(fmt.Sprintf("t%d-%d", i, j)), soracache.Key(fmt.Sprintf("k%d-%d", i, j)))
		}
		r := u.invalidate(targets...)
		if i == 35 {
			middle = r
		}
	}
	for _, kind := range []string{"t", "k"} {
		if n := u.do("ZCARD", u.name(kind)).(int64); n < 1000 || n > 1000+1000/8+200 {
			t.Errorf("%d records in %s", n, kind)
		}
	}
	if d := u.since(start); !d.Reset || d.Epoch != start.Epoch {
		t.Errorf("whoever lags far behind is told %+v", d)
	}
	d := u.since(soracache.Stamp{Epoch: middle.Epoch, Position: middle.Position})
	if d.Reset || !d.More || len(d.Records) != 1 || len(d.Records[0].Targets) != 200 {
		t.Errorf("whoever lags a little is told %d records, more %v, reset %v", len(d.Records), d.More, d.Reset)
	}
}

// The history of a busy partition is bounded by age and by count.
func TestHistoryIsBounded(t *testing.T) {
	u := newUser(t)
	u = u.another(Config{
		URL:       u.config.URL,
		Retention: l2.Retention{TagRecords: 1000, KeyRecords: 64, Age: time.Hour},
	})
	for range 300 {
		u.invalidate(soracache.Tag("same"))
	}
	if n := u.do("ZCARD", u.name("h")).(int64); n > 64+8+2 {
		t.Errorf("%d positions are remembered", n)
	}
	if d := u.since(u.head()); d.Reset {
		t.Error("the head is a reset")
	}
}

// A clear is remembered for ever; so is what an idle partition was told last.
func TestIdlePartitionResetsNobody(t *testing.T) {
	u := newUser(t)
	u = u.another(Config{
		URL:       u.config.URL,
		Retention: l2.Retention{TagRecords: 1000, KeyRecords: 1000, Age: 5 * time.Millisecond},
	})
	u.fill("k", u.lease("k", 1), "v")
	for range 5 {
		before := u.head()
		time.Sleep(20 * time.Millisecond) // ages the records: the subject is the passing of time
		u.invalidate(soracache.Key("x"))
		if d := u.since(before); d.Reset || len(d.Records) != 1 {
			t.Fatalf("whoever had followed is told %+v", d)
		}
	}
	u.hit("k", "v")
}
