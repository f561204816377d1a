package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
)

// The price list: what passes between a store that is warm and Redis, for each
// operation alone and for batches over several partitions.
func TestPriceListStandalone(t *testing.T) {
	proxy := redistest.NewProxy(t)
	priceList(t, proxy, Config{URL: "redis://" + proxy.Front(redistest.Shared(t).Addr), Prefix: prefixOf(t)})
}

func TestPriceListCluster(t *testing.T) {
	proxy := redistest.NewProxy(t)
	priceList(t, proxy, Config{URL: redistest.Cluster(t, redistest.Through(proxy)).URL()})
}

func priceList(t *testing.T, proxy *redistest.Proxy, c Config) {
	const partitions = 8
	u := &user{t, openAt(t, c), l2.Partition{Namespace: "shop", Count: partitions}, nil}
	ctx := context.Background()
	in := func(i int) l2.Partition { return l2.Partition{Namespace: "shop", Index: uint16(i), Count: partitions} }
	nonce := soracache.Lease{1}
	manyKeys := make([]l2.ReadKey, 100)
	for i := range manyKeys {
		manyKeys[i] = l2.ReadKey{Key: fmt.Sprint("key", i), Nonce: nonce}
	}
	operations := map[string]func(n int) error{
		"read": func(n int) error {
			return each(n, func(i int) l2.ReadRequest { return l2.ReadRequest{Partition: in(i), Keys: manyKeys[:1]} },
				func(r []l2.ReadRequest) []l2.ReadAnswer { return u.Read(ctx, r) },
				func(a l2.ReadAnswer) error { return a.Err })
		},
		"read of 100 keys": func(n int) error {
			return each(n, func(i int) l2.ReadRequest { return l2.ReadRequest{Partition: in(i), Keys: manyKeys} },
				func(r []l2.ReadRequest) []l2.ReadAnswer { return u.Read(ctx, r) },
				func(a l2.ReadAnswer) error { return a.Err })
		},
		"since": func(n int) error {
			return each(n, func(i int) l2.SinceRequest { return l2.SinceRequest{Partition: in(i)} },
				func(r []l2.SinceRequest) []l2.SinceAnswer { return u.Since(ctx, r) },
				func(a l2.SinceAnswer) error { return a.Err })
		},
		"invalidate a tag": func(n int) error {
			return each(n, func(i int) l2.InvalidateRequest {
				return l2.InvalidateRequest{Partition: in(i), Targets: []soracache.Target{soracache.Tag("t")}}
			},
				func(r []l2.InvalidateRequest) []l2.InvalidateAnswer { return u.Invalidate(ctx, r) },
				func(a l2.InvalidateAnswer) error { return a.Err })
		},
	}
	by := l2.Registration{Name: "node", Bound: time.Second}
	operations["read that registers"] = func(n int) error {
		return each(n, func(i int) l2.ReadRequest {
			return l2.ReadRequest{Partition: in(i), Keys: manyKeys[:1], Register: by}
		},
			func(r []l2.ReadRequest) []l2.ReadAnswer { return u.Read(ctx, r) },
			func(a l2.ReadAnswer) error { return a.Err })
	}
	operations["since that registers"] = func(n int) error {
		return each(n, func(i int) l2.SinceRequest { return l2.SinceRequest{Partition: in(i), Register: by} },
			func(r []l2.SinceRequest) []l2.SinceAnswer { return u.Since(ctx, r) },
			func(a l2.SinceAnswer) error { return a.Err })
	}
	operations["invalidate and list followers"] = func(n int) error {
		return each(n, func(i int) l2.InvalidateRequest {
			return l2.InvalidateRequest{Partition: in(i), Targets: []soracache.Target{soracache.Tag("t")}, Register: by, Followers: true}
		},
			func(r []l2.InvalidateRequest) []l2.InvalidateAnswer { return u.Invalidate(ctx, r) },
			func(a l2.InvalidateAnswer) error {
				if a.Err == nil && len(a.Registered) == 0 {
					return errors.New("nobody is registered")
				}
				return a.Err
			})
	}
	for name, op := range map[string]soracache.WriteOp{
		"fill": soracache.OpFill, "put": soracache.OpPut, "renew": soracache.OpRenew, "release": soracache.OpRelease,
	} {
		operations[name] = func(n int) error {
			return each(n, func(i int) l2.WriteRequest {
				return l2.WriteRequest{Partition: in(i), Register: by, Op: op, Key: "key0", Nonce: nonce, Lifetime: hour,
					Entry: soracache.Entry{Value: []byte("v"), Tags: []string{"t", "u", "v"}}}
			},
				func(r []l2.WriteRequest) []l2.WriteAnswer { return u.Write(ctx, r) },
				func(a l2.WriteAnswer) error { return a.Err })
		}
	}
	if err := operations["read"](partitions); err != nil { // finds out who answers, and opens connections
		t.Fatal(err)
	}
	proxy.Latency(20 * time.Millisecond)
	if err := operations["read"](partitions); err != nil {
		t.Fatal(err)
	}
	for name, run := range operations {
		for _, n := range []int{1, partitions} {
			counted := u.Counters().RoundTrips
			proxy.Reset()
			if err := run(n); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			counts := proxy.Counts()
			if counts.RoundTrips != 1 || counts.Total() != n || counts.Commands["EVALSHA"] != n {
				t.Errorf("%s in %d partitions took %d round trips: %s", name, n, counts.RoundTrips, counts)
			}
			if counted = u.Counters().RoundTrips - counted; counted != 1 {
				t.Errorf("%s in %d partitions: the store counted %d round trips", name, n, counted)
			}
		}
	}
}

// each makes n requests of one batch and returns the first error among the
// answers.
func each[Request, Answer any](n int, request func(i int) Request, ask func([]Request) []Answer, failed func(Answer) error) error {
	var requests []Request
	for i := range n {
		requests = append(requests, request(i))
	}
	for _, a := range ask(requests) {
		if err := failed(a); err != nil {
			return err
		}
	}
	return nil
}

// A tag costs a fill two commands inside its script, once its bucket is there; an
// entry without tags is listed once, too.
func TestCommandsInsideFill(t *testing.T) {
	u, _ := own(t)
	fill := func(key string, tags ...string) map[string]int64 {
		nonce := u.lease(key, 1)
		u.do("CONFIG", "RESETSTAT")
		if a := u.fill(key, nonce, "v", tags...); a.Reason != soracache.ReasonNone {
			t.Fatal(a.Reason)
		}
		return commandStats(t, u.do("INFO", "commandstats").(string))
	}
	fill("first", "a", "b", "c")
	fill("another")
	untagged := fill("untagged")
	tagged := fill("second", "a", "b", "c")
	delete(untagged, "config|resetstat")
	delete(tagged, "config|resetstat")
	total := func(stats map[string]int64) (n int64) {
		for _, calls := range stats {
			n += calls
		}
		return n
	}
	// Beyond two a tag, one look-up of the records of all tags.
	if extra := total(tagged) - total(untagged); extra != 2*(3-1)+1 || untagged["sadd"] != 1 || untagged["zadd"] != 1 {
		t.Errorf("three tags cost %d commands more: %v and %v", extra, tagged, untagged)
	}
}

// commandStats reads how often each command ran.
func commandStats(t *testing.T, info string) map[string]int64 {
	t.Helper()
	stats := make(map[string]int64)
	for line := range strings.Lines(info) {
		name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, ",")
		calls, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			t.Fatal(line)
		}
		stats[name] = calls
	}
	return stats
}

// A store that was pinged is ready: whoever asks first does not wait for scripts
// to be loaded.
func TestPingedIsReady(t *testing.T) {
	proxy := redistest.NewProxy(t)
	for name, c := range map[string]Config{
		"standalone": {URL: "redis://" + proxy.Front(redistest.Shared(t).Addr), Prefix: prefixOf(t)},
		"cluster":    {URL: redistest.Cluster(t, redistest.Through(proxy)).URL()},
	} {
		s, ctx := openAt(t, c), context.Background()
		openAt(t, c).Since(ctx, []l2.SinceRequest{{Partition: l2.Partition{Namespace: "shop", Count: 1}}}) // so that there is a ledger
		if err := s.Ping(ctx); err != nil {
			t.Fatal(name, err)
		}
		before := s.Counters().RoundTrips
		answers := s.Since(ctx, []l2.SinceRequest{{Partition: l2.Partition{Namespace: "shop", Count: 1}}})
		if trips := s.Counters().RoundTrips - before; trips != 1 || answers[0].Err != nil {
			t.Errorf("%s: the first question took %d round trips, error %v: want 1 and none", name, trips, answers[0].Err)
		}
	}
}
