package clienttest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
)

// counting returns a loading cache whose values count its loads.
func counting(c *client.Client, p client.Policy) *client.LoadingCache[int] {
	n := 0
	return client.NewLoadingCache(c, p, func(context.Context, string) (int, error) { n++; return n, nil })
}

func get(t *testing.T, c *client.LoadingCache[int], key string, want int) {
	t.Helper()
	if v, err := c.Get(t.Context(), key); v != want || err != nil {
		t.Errorf("got %v, %v; want %v", v, err, want)
	}
}

// The clock moves every tier: the near cache, the node's memory and the store.
func TestAdvance(t *testing.T) {
	for _, near := range []bool{true, false} {
		for _, over := range []string{"in process", "over HTTP"} {
			t.Run(fmt.Sprintf("near %v %s", near, over), func(t *testing.T) {
				srv := clienttest.NewServer(t)
				tier := client.NearBytes(client.DefaultNearBytes)
				if !near {
					tier = client.NoNear()
				}
				var c *client.Client
				if over == "over HTTP" {
					c = srv.Dial(tier)
				} else {
					c = srv.Client(tier)
				}
				cache := counting(c, client.Policy{TTL: time.Hour, L1: time.Hour})
				get(t, cache, "k", 1)
				get(t, cache, "k", 1)
				srv.Clock.Advance(time.Hour - time.Minute)
				get(t, cache, "k", 1)
				get(t, cache, "k", 1)
				srv.Clock.Advance(time.Minute)
				get(t, cache, "k", 2)
				if loads := srv.Recorder.Loads("k"); loads != 2 {
					t.Errorf("%d loads", loads)
				}
			})
		}
	}
}

// What two clients of a server do reaches one another, as with two processes.
func TestTwoClients(t *testing.T) {
	srv := clienttest.NewServer(t)
	writer, reader := srv.Client(), srv.Client(client.NoNear())
	cache := counting(reader, client.Default().WithTags("numbers"))
	get(t, cache, "k", 1)
	if _, err := writer.InvalidateTags(t.Context(), "numbers"); err != nil {
		t.Fatal(err)
	}
	get(t, cache, "k", 2)
}

// In a bubble all time is virtual, waits and leases too.
func TestInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := counting(clienttest.New(t), client.Default().WithTTL(time.Hour))
		get(t, cache, "k", 1)
		time.Sleep(59 * time.Minute)
		get(t, cache, "k", 1)
		time.Sleep(time.Minute)
		get(t, cache, "k", 2)
	})
}

// A stale value that is kept is served while it is loaded anew.
func TestStale(t *testing.T) {
	srv := clienttest.NewServer(t)
	c := srv.Client(client.NoNear())
	policy := client.Policy{TTL: time.Minute, Keep: time.Hour}
	cache := client.NewCache[string](c, policy)
	load := func(v string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return v, nil }
	}
	if v, err := cache.GetOrSet(t.Context(), "k", load("old")); v != "old" || err != nil {
		t.Fatal(v, err)
	}
	srv.Clock.Advance(2 * time.Minute)
	// Without a loader, a stale value is none.
	if v, found, err := cache.Get(t.Context(), "k"); found || err != nil {
		t.Fatal(v, found, err)
	}
	srv.Clock.Advance(time.Hour)
	if v, err := cache.GetOrSet(t.Context(), "k", load("new")); v != "new" || err != nil {
		t.Fatal(v, err)
	}
}

func TestFaults(t *testing.T) {
	for _, over := range []string{"in process", "over HTTP"} {
		t.Run(over, func(t *testing.T) {
			srv := clienttest.NewServer(t)
			if over == "over HTTP" {
				faults(t, srv, srv.Dial(client.NoNear()))
			} else {
				faults(t, srv, srv.Client(client.NoNear()))
			}
		})
	}
}

func faults(t *testing.T, srv *clienttest.Server, c *client.Client) {
	cache := counting(c, client.Default())
	srv.Faults.Down()
	get(t, cache, "k", 1)
	get(t, cache, "k", 2) // nothing could be stored
	if n := srv.Recorder.Count(clienttest.FailOpen, "k"); n != 2 {
		t.Errorf("failed open %d times", n)
	}
	if _, err := c.Remove(t.Context(), "k"); !errors.Is(err, soracache.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	srv.Faults.Heal()
	if _, err := c.Remove(t.Context(), "k"); err != nil {
		t.Errorf("got %v", err)
	}
	get(t, cache, "k", 3)
	get(t, cache, "k", 3)

	// What was said to have failed was carried out.
	srv.Faults.LoseAnswers()
	if _, err := c.Remove(t.Context(), "k"); !errors.Is(err, soracache.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	srv.Faults.Heal()
	get(t, cache, "k", 4)
}

func TestFailNext(t *testing.T) {
	srv := clienttest.NewServer(t)
	c := srv.Client(client.NoNear())
	cache := counting(c, client.Default())
	srv.Faults.FailNext(1, clienttest.Reads)
	get(t, cache, "k", 1)
	get(t, cache, "k", 2)
	get(t, cache, "k", 2)
	srv.Faults.FailNext(1, clienttest.Writes)
	get(t, cache, "other", 3)
	if n := srv.Recorder.Count(clienttest.NotStored, "other"); n != 1 {
		t.Errorf("%d times not stored: %v", n, srv.Recorder.Events())
	}
	srv.Faults.FailNext(1, clienttest.Invalidations)
	if _, err := c.Clear(t.Context()); err == nil {
		t.Error("an invalidation that was to fail did not")
	}
	if _, err := c.Clear(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := clienttest.NewServer(t)
		cache := counting(srv.Client(client.NoNear(), client.Timeout(time.Second)), client.Default())
		srv.Faults.Slow(10 * time.Second)
		get(t, cache, "k", 1) // patience has an end
		if n := srv.Recorder.Count(clienttest.FailOpen, "k"); n != 1 {
			t.Errorf("failed open %d times", n)
		}
		srv.Faults.Slow(100 * time.Millisecond)
		began := time.Now()
		get(t, cache, "k", 2)
		if took := time.Since(began); took != 200*time.Millisecond { // a read and a fill
			t.Errorf("took %v", took)
		}
	})
}

// A near cache whose watch is cut off trusts itself until its bound is over.
func TestWatchBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := clienttest.NewServer(t)
		cache := counting(srv.Client(), client.Default())
		get(t, cache, "warm", 1)
		synctest.Wait() // the watch stands
		get(t, cache, "k", 2)
		get(t, cache, "k", 2)
		if last := srv.Recorder.Events()[len(srv.Recorder.Events())-1]; last.Tier != soracache.TierNear {
			t.Fatalf("not near: %v", last)
		}
		srv.Faults.Down()
		get(t, cache, "k", 2)
		srv.Clock.Advance(client.DefaultBound)
		get(t, cache, "k", 3)
	})
}

func TestEvents(t *testing.T) {
	srv := clienttest.NewServer(t)
	c := srv.Client(client.NoNear())
	cache := counting(c, client.Default())
	get(t, cache, "k", 1)
	get(t, cache, "k", 1)
	if _, err := c.Invalidate(t.Context(), client.Invalidation{Keys: []string{"k"}, Tags: []string{"tag"}, All: true}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range srv.Recorder.Events() {
		got = append(got, e.String())
	}
	want := []string{"miss k", "load k", "hit k (l1)", "invalidate key k", "invalidate tag tag", "invalidate all"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if srv.Recorder.Removed("k") != 1 || srv.Recorder.Hits("k") != 1 || srv.Recorder.Misses("k") != 1 {
		t.Error("counts are wrong")
	}
	srv.Recorder.Reset()
	if e := srv.Recorder.Events(); len(e) != 0 {
		t.Errorf("got %v", e)
	}
}
