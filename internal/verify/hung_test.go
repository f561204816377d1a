//go:build unix

package verify

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/redis"
)

// A master of a Redis Cluster that hangs takes what it holds away, and nothing
// else: the rest stays in memory, confirmed, and the node stays ready.
func TestOneMasterHangs(t *testing.T) {
	t.Parallel() // it mostly waits
	servers := redistest.Cluster(t, redistest.Config("cluster-require-full-coverage", "no"))
	s, err := redis.Open(t.Context(), redis.Config{URL: servers.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const parts = 12
	n, err := node.New(node.Config{Store: s, Partitions: func(string) int { return parts }, Bound: 2 * time.Second, MeterEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys := make([]string, parts) // one of each partition
	for i, found := 0, 0; found < parts; i++ {
		key := "k" + strconv.Itoa(i)
		if p := soracache.PartitionOf(key, parts); keys[p] == "" {
			keys[p], found = key, found+1
		}
	}
	get := func(key string) soracache.ReadResult {
		rs, err := n.Get(t.Context(), soracache.GetRequest{Reads: []soracache.Read{{Key: key}}})
		if err != nil {
			t.Fatal(err)
		}
		return rs[0]
	}
	for _, key := range keys {
		write(t, n, put(key, "v"))
		get(key)
	}
	hung := servers.Owner(t, "sora:{default/0}t")
	var healthy []int
	for p := range parts {
		if servers.Owner(t, "sora:{default/"+strconv.Itoa(p)+"}t") != hung {
			healthy = append(healthy, p)
		}
	}
	pid := 0
	for line := range strings.Lines(hung.Client(t).Info(t.Context(), "server").Val()) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "process_id:"); ok {
			pid, _ = strconv.Atoi(id)
		}
	}
	if len(healthy) == 0 || pid == 0 {
		t.Fatalf("%d partitions elsewhere, process %d", len(healthy), pid)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()

	looks, unconfirmed := 0, 0
	for until := time.Now().Add(8 * time.Second); time.Now().Before(until); {
		for _, p := range healthy {
			if r := get(keys[p]); r.Err != nil || r.Status != soracache.StatusHit {
				t.Errorf("partition %d, which lives elsewhere: %v", p, r.Err)
			}
		}
		for _, p := range n.Partitions() {
			if s.Part(l2.Partition{Namespace: p.Namespace, Index: uint16(p.Partition), Count: parts}) != hung.Addr {
				looks++
				if p.ConfirmedAgo < 0 {
					unconfirmed++
				}
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	t.Logf("%d of %d looks at partitions that live elsewhere found them unconfirmed", unconfirmed, looks)
	if unconfirmed > looks/10 {
		t.Errorf("%d of %d looks found partitions unconfirmed that live elsewhere", unconfirmed, looks)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := n.Ready(ctx); err != nil {
		t.Errorf("the node is not ready: %v", err)
	}
	if silent := n.Silent(); len(silent) != 1 || !strings.HasPrefix(silent[0], hung.Addr) {
		t.Errorf("silent: %q, want %s", silent, hung.Addr)
	}
	if head, err := n.Head(t.Context(), ""); err != nil || len(head.Stamp) != len(healthy) {
		t.Errorf("the head names %d partitions, want %d: %v", len(head.Stamp), len(healthy), err)
	}

	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); ; {
		if head, err := n.Head(t.Context(), ""); err == nil && len(head.Stamp) == parts && len(n.Silent()) == 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the master goes on, and the node has not noticed")
		}
		<-time.After(50 * time.Millisecond)
	}
}
