package verify

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/attack"
	"github.com/soracache/soracache/internal/redistest"
	"github.com/soracache/soracache/l2/l2test"
)

// What the promise of bounds says: the peak of a node stays below what it takes
// idle, its budget, and this.
const (
	inflightBudget = 256 << 20
	beyondBudget   = 128 << 20
)

// attacked starts a node over a Redis of its own, to be attacked. Another binary
// than this revision's can be named, to see what it would do.
func attacked(t *testing.T, args ...string) *daemon {
	t.Helper()
	return attackedOver(t, redistest.Standalone(t), args...)
}

func attackedOver(t *testing.T, server *redistest.Server, args ...string) *daemon {
	t.Helper()
	d := newDaemon(t, fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t)), append([]string{
		"--l2", server.URL(), "--l1-max-bytes", "16MiB",
	}, args...))
	if other := os.Getenv("SORACACHED_BINARY"); other != "" {
		d.command = func(args []string) *exec.Cmd { return exec.Command(other, args...) }
	}
	command := d.command
	d.command = func(args []string) *exec.Cmd {
		cmd := command(args)
		cmd.Env = append(os.Environ(), fmt.Sprintf("SORACACHE_MAX_INFLIGHT_BYTES=%d", inflightBudget))
		return cmd
	}
	d.start()
	d.awaitReady()
	return d
}

// TestBoundsHoldUnderAttack: whatever is sent, a node's memory stays below its
// budget and what it takes otherwise, and a well-behaved client is answered.
func TestBoundsHoldUnderAttack(t *testing.T) {
	const valueBytes = 8 << 20
	values := 24
	if l2test.Verifying() {
		values = 100
	}
	d := attacked(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	addr := d.url[len("http://"):]
	large, err := attack.Prepare(ctx, addr, values, valueBytes)
	if err != nil {
		t.Fatal(err)
	}
	quietCtx, end := context.WithTimeout(ctx, 2*time.Second)
	quiet := attack.Behave(quietCtx, addr)
	end()
	idle, err := attack.UsageOf(d.proc.ID())
	if err != nil {
		t.Fatal(err)
	}
	if quiet.Failed > 0 {
		t.Fatalf("%d of %d quiet calls failed: %v", quiet.Failed, quiet.Calls, quiet.Why)
	}
	slowest := max(10*quiet.P99(), 100*time.Millisecond)
	if !l2test.Verifying() { // other tests have the processors, too
		slowest *= 20
	}
	most := idle.Now + inflightBudget + beyondBudget
	t.Logf("idle at %d MiB, quiet p99 %s of %d calls; at most %d MiB and %s", idle.Now>>20, quiet.P99(), quiet.Calls, most>>20, slowest)
	target := attack.Target{Addr: addr, Large: large, Times: 4, For: 5 * time.Second}
	for _, a := range attack.Memory() {
		r := attack.Run(ctx, a, target, d.proc.ID())
		t.Log(r)
		switch {
		case !d.proc.Running():
			t.Fatalf("%s: the node is gone", a.Name)
		case r.Err != nil:
			t.Fatalf("%s: %v", a.Name, r.Err)
		case r.Requests == 0:
			t.Errorf("%s: nothing was sent", a.Name)
		}
		if r.Peak > most {
			t.Errorf("%s: a peak of %d MiB, at most %d", a.Name, r.Peak>>20, most>>20)
		}
		if r.Client.Calls == 0 || r.Client.Failed > 0 {
			t.Errorf("%s: %d of %d calls of a well-behaved client failed: %v", a.Name, r.Client.Failed, r.Client.Calls, r.Client.Why)
		}
		if p99 := r.Client.P99(); p99 > slowest {
			t.Errorf("%s: a well-behaved client has a p99 of %s, at most %s", a.Name, p99, slowest)
		}
	}
}

// TestNamesCostLittle: whatever is named, a node's memory stays below its bound, a
// well-behaved client is answered, and afterwards neither the node nor its Redis has
// anything to do.
func TestNamesCostLittle(t *testing.T) {
	server := redistest.Standalone(t)
	d := attackedOver(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	target := attack.Target{Addr: d.url[len("http://"):], Times: 4, For: 2 * time.Second}
	most := 0.04 // of a core: other tests have the processors, too
	if l2test.Verifying() {
		target.For, most = 20*time.Second, 0.01
	}
	idle, err := attack.UsageOf(d.proc.ID())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attack.Names() {
		r := attack.Run(ctx, a, target, d.proc.ID())
		t.Log(r)
		if err := cmp.Or(r.Err, r.Client.Why); err != nil || r.Client.Calls == 0 || r.Requests < int64(40*target.Times) {
			t.Errorf("%s: %d of %d calls of a well-behaved client failed: %v", a.Name, r.Client.Failed, r.Client.Calls, err)
		}
		if bytes := idle.Now + inflightBudget + beyondBudget; r.Peak > bytes {
			t.Errorf("%s: a peak of %d MiB, at most %d", a.Name, r.Peak>>20, bytes>>20)
		}
	}
	used := func() (redis, node time.Duration) {
		u, err := attack.UsageOf(d.proc.ID())
		if err != nil {
			t.Fatal(err)
		}
		return redisTime(t, server), u.CPU
	}
	<-time.After(time.Second) // what was under way ends
	redis, node := used()
	const while = 3 * time.Second
	<-time.After(while)
	redisAfter, nodeAfter := used()
	ofRedis, ofNode := (redisAfter-redis).Seconds()/while.Seconds(), (nodeAfter-node).Seconds()/while.Seconds()
	t.Logf("afterwards Redis takes %.4f of a core, and the node %.4f", ofRedis, ofNode)
	if ofRedis > most || ofNode > 5*most {
		t.Errorf("afterwards Redis takes %.4f of a core, at most %.2f, and the node %.4f, at most %.2f", ofRedis, most, ofNode, 5*most)
	}
}

// redisTime is what a Redis has used of processors so far.
func redisTime(t *testing.T, server *redistest.Server) time.Duration {
	t.Helper()
	var sum float64
	for line := range strings.Lines(fmt.Sprint(server.Do(t, "INFO", "cpu"))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_sys" || name == "used_cpu_user" {
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += seconds
		}
	}
	return time.Duration(sum * float64(time.Second))
}

// TestPlacesGoToWhoWorks: neither who does not end its request nor who waits for
// a lease takes a place of --max-concurrent from anybody.
func TestPlacesGoToWhoWorks(t *testing.T) {
	d := attacked(t, "--max-concurrent", "8")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	target := attack.Target{Addr: d.url[len("http://"):], Times: 4, For: 3 * time.Second}
	for _, a := range attack.Places() {
		r := attack.Run(ctx, a, target, d.proc.ID())
		t.Log(r)
		if err := cmp.Or(r.Err, r.Client.Why); err != nil || r.Client.Calls == 0 || r.Requests < int64(40*target.Times) {
			t.Errorf("%s: %d of %d calls of a well-behaved client failed: %v", a.Name, r.Client.Failed, r.Client.Calls, err)
		}
	}
}
