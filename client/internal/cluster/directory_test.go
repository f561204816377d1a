package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/cluster"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

const (
	alive    = cachev1.MemberState_MEMBER_STATE_ALIVE
	dead     = cachev1.MemberState_MEMBER_STATE_DEAD
	left     = cachev1.MemberState_MEMBER_STATE_LEFT
	draining = cachev1.MemberState_MEMBER_STATE_DRAINING
)

// town is a cluster that tells its members, and how a client finds its nodes.
type town struct {
	*testing.T

	mu      sync.Mutex
	nodes   map[string]*tally // by URL
	ended   map[string]bool
	members []*cachev1.Member // by their addresses
	names   map[string]string // who answers at a URL, if not the member
	errs    map[string]error  // what a URL answers to those who ask for members
	asked   int
}

func inTown(t *testing.T, play func(*town)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		play(&town{
			T: t, nodes: map[string]*tally{}, ended: map[string]bool{}, names: map[string]string{},
			errs: map[string]error{},
		})
	})
}

// has declares the members, as "URL" or "URL state".
func (w *town) has(members ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.members = nil
	states := map[string]cachev1.MemberState{"": alive, "dead": dead, "left": left, "draining": draining}
	for i, m := range members {
		url, state, _ := strings.Cut(m, " ")
		w.members = append(w.members, &cachev1.Member{Name: fmt.Sprint("of ", url, " ", i), RpcAddress: url, State: states[state]})
	}
}

func (w *town) list(ctx context.Context, url string) ([]*cachev1.Member, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if err := w.errs[url]; err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var told []*cachev1.Member
	for _, m := range w.members {
		self := m.RpcAddress == url && m.State != dead
		name := m.Name
		if self && w.names[url] != "" {
			name = w.names[url]
		}
		told = append(told, &cachev1.Member{Name: name, RpcAddress: m.RpcAddress, State: m.State, Self: self})
	}
	return told, nil
}

func (w *town) connect(url string) (soracache.Backend, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[url] = &tally{name: url}
	return w.nodes[url], func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended[url] = true
	}
}

func (w *town) hasEnded(url string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended[url]
}

func (w *town) questions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// used returns who answers for many keys.
func (w *town) used(b soracache.Backend) (urls []string) {
	w.Helper()
	synctest.Wait()
	for _, key := range keysFrom(60) {
		rs, err := b.Get(w.Context(), reads([]string{key}))
		if err != nil {
			w.Fatal(err)
		}
		if url := rs[0].Entry.ETag; !slices.Contains(urls, url) {
			urls = append(urls, url)
		}
	}
	slices.Sort(urls)
	return urls
}

func TestMembersAreLearned(t *testing.T) {
	const a, b, c = "http://10.0.0.1:7070", "http://10.0.0.2:7070", "http://10.0.0.3:7070"
	for _, tt := range []struct {
		name    string
		seeds   []string
		members []string
		want    []string
	}{
		{"all of them, from one", []string{a}, []string{a, b, c}, []string{a, b, c}},
		{"from a name", []string{"http://cache:7070"}, []string{a, b}, []string{a, b}},
		{"a slash at the end is no difference", []string{a}, []string{a + "/", b}, []string{a, b}},
		{"some leave", []string{a}, []string{a, b + " draining", c + " dead"}, []string{a}},
		{"a seed that is gone", []string{a, b}, []string{b, c}, []string{b, c}},
		{"all leave", []string{a}, []string{a + " left", b + " draining"}, []string{a, b}},
		{"one that came back is no more dead", []string{a}, []string{b + " dead", a, b, c + " left"}, []string{a, b}},
		{"none has an address", []string{a}, []string{"", ""}, []string{a}},
		{"addresses that are none", []string{a}, []string{a, "10.0.0.2:7070", "redis://x", "http://u:p@h"}, []string{a}},
		{"a weaker scheme", []string{"https://x:1"}, []string{"https://x:1", a, "https://y:1"}, []string{"https://x:1", "https://y:1"}},
		{"a weaker scheme beside a weak seed", []string{"https://x:1", a}, []string{"https://x:1", a, b}, []string{a, b, "https://x:1"}},
		{"a stronger scheme", []string{a}, []string{a, "https://y:1"}, []string{a, "https://y:1"}},
		{"of the loopback, seen from elsewhere", []string{a}, []string{a, "http://127.0.0.1:7070", "http://0.0.0.0:1", "http://localhost:2"}, []string{a}},
		{"of the loopback", []string{"http://localhost:1"}, []string{"http://localhost:1", "http://127.0.0.1:2"}, []string{"http://127.0.0.1:2", "http://localhost:1"}},
		{"one that somebody else answers for", []string{a}, []string{a, b, "http://stranger:1"}, []string{a, b}},
		{"one that cannot be reached from here", []string{a}, []string{a, b, "http://behind:1"}, []string{a, b}},
		{"only such", []string{"http://balancer"}, []string{"http://behind:1"}, []string{"http://balancer"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inTown(t, func(w *town) {
				w.has(tt.members...)
				w.names["http://stranger:1"] = "of another town"
				w.errs["http://behind:1"] = errBroken
				b, end := cluster.Discovering(quiet(), tt.seeds, w.connect, w.list)
				defer end()
				if w.questions() != 0 {
					t.Error("asked before there was a request")
				}
				_ = w.used(b) // the first request begins to learn
				if got := w.used(b); !slices.Equal(got, tt.want) {
					t.Errorf("uses %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// Members come, leave, restart and go, and each change moves the keys that it
// must and no others.
func TestMembersChange(t *testing.T) {
	urls := urlsOf(4)
	where := func(w *town, b soracache.Backend) map[string]string {
		at := map[string]string{}
		for _, key := range keysFrom(200) {
			rs, err := b.Get(w.Context(), reads([]string{key}))
			if err != nil {
				w.Fatal(err)
			}
			at[key] = rs[0].Entry.ETag
		}
		return at
	}
	inTown(t, func(w *town) {
		w.has(urls[:3]...)
		b, end := cluster.Discovering(quiet(), urls[:1], w.connect, w.list)
		defer end()
		_ = w.used(b)
		settled := func() map[string]string {
			time.Sleep(15 * time.Second)
			synctest.Wait()
			return where(w, b)
		}
		before := settled()
		w.has(urls[2], urls[0], urls[1]) // other names: they were restarted
		for key, url := range settled() {
			if before[key] != url {
				t.Errorf("%s moved from %s to %s with a restart", key, before[key], url)
			}
		}
		w.has(urls...)
		grown := settled()
		moved := 0
		for key, url := range grown {
			if before[key] != url {
				moved++
				if url != urls[3] {
					t.Errorf("%s moved from %s to %s when %s came", key, before[key], url, urls[3])
				}
			}
		}
		if moved < 25 || moved > 75 {
			t.Errorf("%d of 200 keys moved to one of four nodes", moved)
		}
		w.has(urls[0], urls[1], urls[2], urls[3]+" draining")
		for key, url := range settled() {
			if before[key] != url {
				t.Errorf("%s is at %s while %s drains, and was at %s before that came", key, url, urls[3], before[key])
			}
		}
		w.has(urls[:3]...)
		_ = settled()
		time.Sleep(5 * time.Minute)
		if !w.hasEnded(urls[3]) || w.hasEnded(urls[0]) {
			t.Error("not the node that has gone was ended")
		}
		w.has(urls...)
		for key, url := range settled() {
			if grown[key] != url {
				t.Errorf("%s is at %s, want %s as when they were four before", key, url, grown[key])
			}
		}
	})
}

// The members are asked for every ten seconds or so, and sooner after a failure,
// though not more than about once a second.
func TestHowOftenMembersAreAskedFor(t *testing.T) {
	inTown(t, func(w *town) {
		urls := urlsOf(2)
		w.has(urls...)
		b, end := cluster.Discovering(quiet(), urls, w.connect, w.list)
		defer end()
		_ = w.used(b)
		time.Sleep(100 * time.Second)
		quietly := w.questions()
		if quietly < 9 || quietly > 14 {
			t.Errorf("asked %d times in 100 seconds", quietly)
		}
		w.nodes[urls[0]].fail = func(int) error { return errBroken }
		for range 10_000 {
			_, _ = b.Get(t.Context(), reads(keysFrom(20)))
			_, _ = b.Invalidate(t.Context(), soracache.InvalidateRequest{})
			time.Sleep(time.Millisecond)
		}
		if n := w.questions() - quietly; n < 2 || n > 12 {
			t.Errorf("asked %d times in ten seconds of failures", n)
		}
	})
}

// A node that does not know of members, or may not tell, costs nothing but the
// knowledge; one that is down leaves the others to be asked.
func TestMembersCannotBeLearned(t *testing.T) {
	urls := urlsOf(3)
	for _, err := range []error{
		connect.NewError(connect.CodePermissionDenied, errors.New("no")),
		connect.NewError(connect.CodeUnimplemented, errors.New("no")),
		errBroken,
	} {
		inTown(t, func(w *town) {
			w.has(urls...)
			for _, url := range urls {
				w.errs[url] = err
			}
			b, end := cluster.Discovering(quiet(), urls[:2], w.connect, w.list)
			defer end()
			_ = w.used(b)
			if got := w.used(b); !slices.Equal(got, urls[:2]) {
				t.Errorf("%v: uses %q", err, got)
			}
			w.mu.Lock()
			delete(w.errs, urls[1])
			delete(w.errs, urls[2])
			w.mu.Unlock()
			time.Sleep(15 * time.Second)
			if got := w.used(b); !slices.Equal(got, urls) {
				t.Errorf("%v, later well: uses %q", err, got)
			}
		})
	}
}

// Nodes that do not gossip tell of themselves alone, by the addresses that they
// have. That takes none of the others from a client that was given all of them,
// and nobody from behind a balancer.
func TestNodesWithoutGossip(t *testing.T) {
	alone := func(address string) []*cachev1.Member {
		return []*cachev1.Member{{Name: "of " + address, RpcAddress: address, State: alive, Self: true}}
	}
	inTown(t, func(w *town) {
		urls := urlsOf(3)
		b, end := cluster.Discovering(quiet(), urls, w.connect, func(_ context.Context, url string) ([]*cachev1.Member, error) {
			return alone(url), nil
		})
		defer end()
		_ = w.used(b)
		if got := w.used(b); !slices.Equal(got, urls) {
			t.Errorf("uses %q, want all", got)
		}
	})
	inTown(t, func(w *town) {
		b, end := cluster.Discovering(quiet(), []string{"http://balancer"}, w.connect, func(context.Context, string) ([]*cachev1.Member, error) {
			return alone("http://10.0.0.1:7070"), nil
		})
		defer end()
		_ = w.used(b)
		if got := w.used(b); !slices.Equal(got, []string{"http://balancer"}) {
			t.Errorf("uses %q, want the balancer", got)
		}
	})
}

// A seed that is no member is asked if no member answers.
func TestSeedsAreTheLastResort(t *testing.T) {
	inTown(t, func(w *town) {
		urls := urlsOf(2)
		w.has(urls...)
		b, end := cluster.Discovering(quiet(), []string{"http://cache"}, w.connect, w.list)
		defer end()
		_ = w.used(b)
		if got := w.used(b); !slices.Equal(got, urls) {
			t.Fatalf("uses %q", got)
		}
		for _, url := range urls {
			w.nodes[url].fail = func(int) error { return errBroken }
		}
		if got := w.used(b); !slices.Equal(got, []string{"http://cache"}) {
			t.Errorf("uses %q", got)
		}
	})
}

// Ending it ends a question that nobody answers.
func TestEndOfDiscovery(t *testing.T) {
	inTown(t, func(w *town) {
		b, end := cluster.Discovering(quiet(), urlsOf(2), w.connect, func(ctx context.Context, _ string) ([]*cachev1.Member, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		_ = w.used(b)
		began := time.Now()
		end()
		if took := time.Since(began); took != 0 || !w.hasEnded(urlsOf(2)[0]) || !w.hasEnded(urlsOf(2)[1]) {
			t.Errorf("took %s", took)
		}
		_, _ = b.Head(t.Context(), "") // begins nothing any more
	})
}
