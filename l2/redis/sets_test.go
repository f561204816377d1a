package redis

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2test"
	"github.com/soracache/soracache/tags"
)

// loadMany fills n keys with the tags given, several hundred at a time.
func (u *user) loadMany(name string, n int, keep time.Duration, carried ...string) {
	u.Helper()
	const batch = 500
	ctx := context.Background()
	for from := 0; from < n; from += batch {
		var reads []l2.ReadKey
		var fills []l2.WriteRequest
		for i := from; i < min(from+batch, n); i++ {
			var nonce soracache.Lease
			binary.BigEndian.PutUint64(nonce[:], uint64(i)+1)
			key := name + strconv.Itoa(i)
			reads = append(reads, l2.ReadKey{Key: key, Nonce: nonce})
			fills = append(fills, l2.WriteRequest{
				Partition: u.at, Op: soracache.OpFill, Key: key, Nonce: nonce,
				Entry: soracache.Entry{Value: []byte("value"), Tags: carried}, Lifetime: soracache.Lifetime{TTL: keep},
			})
		}
		if a := u.Read(ctx, []l2.ReadRequest{{Partition: u.at, Keys: reads}})[0]; a.Err != nil {
			u.Fatal(a.Err)
		}
		for _, a := range u.Write(ctx, fills) {
			if a.Err != nil || a.Reason != soracache.ReasonNone {
				u.Fatalf("fill: %+v", a)
			}
		}
	}
}

// reclaimAll walks to the end.
func (u *user) reclaimAll(tag string) (steps, deleted int) {
	u.Helper()
	for cursor, done := "", false; !done; steps++ {
		next, n, err := u.Reclaim(context.Background(), u.at, tag, cursor)
		if err != nil {
			u.Fatal(err)
		}
		cursor, done, deleted = next, next == "", deleted+n
	}
	return steps, deleted
}

func (u *user) sweepAll() {
	u.Helper()
	if err := overdue(u.admin, u.config.Prefix, u.at); err != nil {
		u.Fatal(err)
	}
	for more := true; more; {
		var err error
		if more, err = u.Sweep(context.Background()); err != nil {
			u.Fatal(err)
		}
	}
}

// The scripts and package tags must agree on which bucket an entry is in.
func TestBucketsAgree(t *testing.T) {
	u := newUser(t)
	for i, keep := range []time.Duration{time.Millisecond, time.Second, 90 * time.Second, time.Hour, 30 * 24 * time.Hour} {
		key, tag := fmt.Sprint("k", i), fmt.Sprint("t", i)
		u.write(l2.WriteRequest{
			Op: soracache.OpPut, Key: key,
			Entry: soracache.Entry{Tags: []string{tag}}, Lifetime: soracache.Lifetime{TTL: keep},
		})
		stored, ok := u.do("GET", u.name("e:"+key)).(string)
		if !ok {
			if keep > time.Second {
				t.Fatalf("%s: nothing stored", keep)
			}
			continue // it has expired
		}
		head, err := l2.DecodeHead([]byte(stored))
		if err != nil {
			t.Fatal(err)
		}
		b := tags.BucketFor(keep, head.KeepUntil)
		name := fmt.Sprintf("%d:%d", b.Exponent, b.Number)
		index, err := u.admin.ZRangeWithScores(t.Context(), u.name("b:"+tag), 0, -1).Result()
		if err != nil || len(index) != 1 || index[0].Member != name || int64(index[0].Score) != b.End() {
			t.Errorf("kept %s: the index holds %v, want %s until %d", keep, index, name, b.End())
		}
		if got := u.do("SMEMBERS", u.name("s:"+name+":"+tag)); fmt.Sprint(got) != "["+key+"]" {
			t.Errorf("kept %s: the set holds %v", keep, got)
		}
	}
}

// Short-lived entries on a tag leave nothing behind: two bucket widths after
// the last of them, Redis holds less than twice what the live ones need.
func TestTagSetsDoNotLeak(t *testing.T) {
	n := 30_000
	if l2test.Verifying() {
		n = 1_000_000
	}
	u, _ := own(t)
	const keep = 4 * time.Second
	width := time.Duration(1) << tags.Exponent(keep) * time.Millisecond
	u.loadMany("warm", 1000, keep, "t")
	u.do("FLUSHALL")
	empty := u.memory()
	u.loadMany("live", n/10, time.Hour, "t")
	live := u.memory() - empty
	u.loadMany("short", n, keep, "t")
	most := u.memory() - empty
	redistest.Eventually(t, keep+2*width+time.Second, "the short-lived are gone", func() bool {
		u.sweepAll()
		return u.memory()-empty < 2*live
	})
	t.Logf("%d short-lived entries: %d KiB at the most; %d live ones need %d KiB and hold %d KiB",
		n, most>>10, n/10, live>>10, (u.memory()-empty)>>10)
	// A few short-lived ones may not be over yet, and a key may be listed twice.
	keys, next, err := u.ListKeys(t.Context(), u.at, "t", "", n)
	listed := map[string]bool{}
	for _, k := range keys {
		listed[k] = strings.HasPrefix(k, "live")
	}
	maps.DeleteFunc(listed, func(_ string, live bool) bool { return !live })
	if err != nil || len(listed) != n/10 && next == "" {
		t.Errorf("%d of %d live keys are listed, %v", len(listed), n/10, err)
	}
}

// memory is what Redis holds, in bytes.
func (u *user) memory() int {
	u.Helper()
	for line := range strings.Lines(u.do("INFO", "memory").(string)) {
		if digits, ok := strings.CutPrefix(strings.TrimSpace(line), "used_memory:"); ok {
			n, err := strconv.Atoi(digits)
			if err != nil {
				u.Fatal(err)
			}
			return n
		}
	}
	u.Fatal("no used_memory")
	return 0
}

// Even if nobody ever sweeps, ended buckets go as new ones come.
func TestBucketsGoWithoutSweeping(t *testing.T) {
	u := newUser(t)
	for i := range 40 {
		u.at.Namespace = "shop"
		u.loadMany(fmt.Sprint("k", i), 1, 30*time.Millisecond, fmt.Sprint("tag", i))
	}
	redistest.Eventually(t, 10*time.Second, "ended buckets go", func() bool {
		u.loadMany("more", 1, 30*time.Millisecond, fmt.Sprint("more", time.Now().UnixNano()))
		return u.do("ZCOUNT", u.name("d"), "-inf", time.Now().UnixMilli()).(int64) == 0
	})
	for _, name := range keysOf(t, u.admin, u.name("s:")) {
		if u.do("PTTL", name).(int64) < 0 {
			t.Errorf("%s never expires", name)
		}
	}
}

// An invalidation costs the same whatever the tag is on, while another tag is
// being reclaimed in steps that never hold Redis for long.
func TestInvalidationCostAndReclaim(t *testing.T) {
	keys, rounds := 2_000, 15
	if l2test.Verifying() {
		keys, rounds = 50_000, 20 // a million in all
	}
	u, _ := own(t)
	for i := range rounds {
		u.loadMany(fmt.Sprint("big", i, "-"), keys, time.Hour, fmt.Sprint("big", i))
		u.loadMany(fmt.Sprint("small", i, "-"), 10, time.Hour, fmt.Sprint("small", i))
	}
	u.loadMany("kept", 100, time.Hour, "kept")
	full := u.memory()
	u.do("CONFIG", "SET", "slowlog-log-slower-than", 300)
	u.do("CONFIG", "SET", "slowlog-max-len", 100_000)
	u.do("SLOWLOG", "RESET")

	var reclaim sync.WaitGroup
	var steps, deleted int
	took := map[string][]time.Duration{}
	for i := range rounds {
		sizes := []string{"small", "big"}
		if i%2 == 1 {
			slices.Reverse(sizes)
		}
		for _, size := range sizes {
			began := time.Now()
			u.invalidate(soracache.Tag(fmt.Sprint(size, i)))
			took[size] = append(took[size], time.Since(began))
		}
		reclaim.Wait()
		reclaim.Go(func() {
			for _, size := range []string{"small", "big"} {
				s, d := u.reclaimAll(fmt.Sprint(size, i))
				steps, deleted = steps+s, deleted+d
			}
		})
	}
	reclaim.Wait()

	if deleted != rounds*(keys+10) {
		t.Errorf("reclaimed %d entries of %d", deleted, rounds*(keys+10))
	}
	if left := keysOf(t, u.admin, u.name("s:")); len(left) > 2 {
		t.Errorf("sets are left: %q", left)
	}
	u.hit("kept7", "value")
	small, big := median(took["small"]), median(took["big"])
	held := u.slowest()
	t.Logf("invalidating a tag of 10 keys took %s, of %d keys %s (ratio %.2f); %d steps reclaimed %d entries and held Redis for %s (a tenth of them), %s (a hundredth) and %s (one) or more; %d KiB became %d KiB",
		small, keys, big, float64(big)/float64(small), steps, deleted, held[steps/10], held[steps/100], held[0], full>>10, u.memory()>>10)
	if big > 3*small+time.Millisecond {
		t.Errorf("the large tag took %s, the small one %s", big, small)
	}
	// On a busy machine some steps are interrupted; one that is too large always
	// takes too long.
	if held[steps/10] > 5*time.Millisecond {
		t.Errorf("a tenth of the steps held Redis for %s or more", held[steps/10])
	}
}

// slowest returns how long the slowest scripts held Redis, the slowest first,
// and as many zeros as anybody can want after them.
func (u *user) slowest() []time.Duration {
	u.Helper()
	log, err := u.admin.(*goredis.Client).SlowLogGet(context.Background(), -1).Result()
	if err != nil {
		u.Fatal(err)
	}
	var all []time.Duration
	for _, entry := range log {
		if len(entry.Args) > 0 && strings.EqualFold(entry.Args[0], "evalsha") {
			all = append(all, entry.Duration)
		}
	}
	slices.Sort(all)
	slices.Reverse(all)
	return append(all, make([]time.Duration, 100_000)...)
}

func median(d []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(d))[len(d)/2]
}

// A clear kills at once; the walk then frees what it killed, in small steps.
func TestReclaimAfterClear(t *testing.T) {
	u, _ := own(t)
	for i := range 3000 {
		u.do("SET", fmt.Sprint("other", i), "of somebody else")
	}
	u.loadMany("dead", 2000, time.Hour, "t")
	u.invalidate(soracache.Everything())
	u.loadMany("live", 500, time.Hour, "t")
	u.do("CONFIG", "RESETSTAT")
	steps, deleted := u.reclaimAll("")
	if deleted != 2000 || steps < 10 {
		t.Errorf("deleted %d of 2000 entries in %d steps", deleted, steps)
	}
	u.hit("live77", "value")
	if n := u.do("EXISTS", "other5"); n != int64(1) {
		t.Error("a key of somebody else is gone")
	}
}

// A step of reclaiming looks at fewer entries where they have more tags, because each
// tag is judged: no step holds Redis for much longer than another.
func TestStepsCostTheSameWithManyTags(t *testing.T) {
	u, _ := own(t)
	const n = 400
	tags := make([]string, 20)
	for i := range tags {
		tags[i] = fmt.Sprint("many", i)
	}
	u.loadMany("one-tag", n, time.Hour, "one")
	u.loadMany("many-tags", n, time.Hour, tags...)
	u.invalidate(soracache.Tag("one"), soracache.Tag("many0"))
	for _, c := range []struct {
		tag, what             string
		deleted, fewest, most int
	}{
		{"one", "entries with one tag", n, n / 120, n / 40},
		{"many0", "entries with 20 tags", n, n / 24, n / 10},
		{"many1", "keys of which nothing is left", 0, n / 120, n / 40},
	} {
		if steps, deleted := u.reclaimAll(c.tag); deleted != c.deleted || steps < c.fewest || steps > c.most {
			t.Errorf("%s: %d were deleted in %d steps, want %d in %d to %d", c.what, deleted, steps, c.deleted, c.fewest, c.most)
		}
	}
}

// A walk over a partition costs what that holds, whatever else is in Redis: an
// empty one is walked in a single step, and one of so many entries, with tags of
// their own, the same and without any, in a number of steps to match.
func TestWalkCostsWhatThePartitionHolds(t *testing.T) {
	u, _ := own(t)
	const others = 20_000
	pipe := u.admin.Pipeline()
	for i := range others {
		pipe.Set(t.Context(), fmt.Sprintf("sora:{other/0}e:product:%d", i), "x", 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		u.at.Namespace = fmt.Sprint("tiny", i)
		u.invalidate(soracache.Everything())
		before := u.Counters().RoundTrips
		if steps, deleted := u.reclaimAll(""); steps != 1 || deleted != 0 || u.Counters().RoundTrips != before+1 {
			t.Errorf("an empty partition took %d steps and %d round trips, and deleted %d", steps, u.Counters().RoundTrips-before, deleted)
		}
	}

	u.at.Namespace = "shop"
	const n = 300
	u.loadMany("plain", n, time.Hour)
	u.loadMany("same", n, time.Hour, "t")
	for i := range n {
		u.loadMany(fmt.Sprint("own", i), 1, time.Hour, fmt.Sprint("tag", i))
	}
	u.invalidate(soracache.Everything())
	u.loadMany("new", 10, time.Hour)
	steps, deleted := u.reclaimAll("")
	if deleted != 3*n || steps > n/2 {
		t.Errorf("%d of %d entries were deleted, in %d steps", deleted, 3*n, steps)
	}
	if left := keysOf(t, u.admin, u.name("e:")); len(left) != 10 {
		t.Errorf("%d entries are left, of 10 that live", len(left))
	}
	if left := keysOf(t, u.admin, u.name("s:")); len(left) != 1 {
		t.Errorf("%d sets are left beside that of the new entries: %.200q", len(left), left)
	}
	if steps, deleted = u.reclaimAll(""); deleted != 0 || steps > n/2 {
		t.Errorf("a second walk deleted %d in %d steps", deleted, steps)
	}
	u.hit("new3", "value")
}
