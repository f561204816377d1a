package command

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
)

func TestParseKeys(t *testing.T) {
	long := bytes.Repeat([]byte{7}, 32)
	short := bytes.Repeat([]byte{8}, 16)
	text := "# of the cluster\n\n" + base64.StdEncoding.EncodeToString(long) + "  # the new one\r\n  " + hex.EncodeToString(short) + "\n"
	keys, err := parseKeys(strings.NewReader(text))
	if err != nil || len(keys) != 2 || !bytes.Equal(keys[0], long) || !bytes.Equal(keys[1], short) {
		t.Errorf("got %x, error %v", keys, err)
	}
	for name, c := range map[string]struct{ in, want string }{
		"empty":        {"# nothing\n", "no key"},
		"no key":       {"secret-word\n", "line 1"},
		"wrong length": {"\nc2VjcmV0LXdvcmQ=\n", "line 2"},
		"a long line":  {strings.Repeat("A", 100_000), "token too long"},
	} {
		_, err := parseKeys(strings.NewReader(c.in))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "c2Vj") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestGossipKey(t *testing.T) {
	got := invoke(t, "", "gossip-key")
	keys, err := parseKeys(strings.NewReader(got.out))
	if got.code != 0 || err != nil || len(keys) != 1 || len(keys[0]) != 32 {
		t.Errorf("%+v: %d keys, error %v", got, len(keys), err)
	}
	if again := invoke(t, "", "gossip-key"); again.out == got.out {
		t.Error("the same key again")
	}
	var made struct{ Key string }
	if err := json.Unmarshal([]byte(invoke(t, "", "gossip-key", "--json").out), &made); err != nil || len(made.Key) != 44 {
		t.Errorf("JSON: %v, error %v", made, err)
	}
}

func TestGossipIsOffUnlessAskedFor(t *testing.T) {
	for want, lines := range map[string][][]string{
		"":               {{}, {"--l2=redis://a"}, {"--gossip-listen=off", "--join=a"}, {"--gossip-listen=off", "--gossip-key-file=/absent"}},
		"127.0.0.1:7946": {{"--join=a"}},
		":1":             {{"--gossip-listen=:1"}, {"--gossip-listen=:1", "--join=a"}},
	} {
		for _, args := range lines {
			c := mustParse(t, args...)
			if got := c.gossipListen(); got != want {
				t.Errorf("%v: %q, want %q", args, got, want)
			}
			if err := c.validate(); want == "" && err != nil {
				t.Errorf("%v: %v", args, err)
			}
		}
	}
}

func TestAdvertised(t *testing.T) {
	for want, c := range map[string]struct {
		listens string
		args    []string
	}{
		"http://10.0.0.1:7070":  {"10.0.0.1:7070", nil},
		"https://10.0.0.2:7070": {"10.0.0.2:7070", []string{"--tls-cert=x"}},
		"http://10.0.0.3:7070":  {"[::]:7070", []string{"--gossip-advertise=10.0.0.3:7946"}},
		"http://10.0.0.4:7070":  {"0.0.0.0:7070", []string{"--gossip-advertise=10.0.0.4"}},
		"http://n5:7070":        {"0.0.0.0:7070", []string{"--advertise=n5"}},
		"http://n6:80":          {"0.0.0.0:7070", []string{"--advertise=n6:80"}},
		"https://n7/cache":      {"0.0.0.0:7070", []string{"--advertise=https://n7/cache/"}},
		"http://[fd00::8]:7070": {"0.0.0.0:7070", []string{"--advertise=fd00::8"}},
	} {
		serve := mustParse(t, c.args...)
		addr, err := net.ResolveTCPAddr("tcp", c.listens)
		if err != nil {
			t.Fatal(err)
		}
		if got := serve.advertised(addr); got != want {
			t.Errorf("%s %v: %s, want %s", c.listens, c.args, got, want)
		}
	}
}

// startMember starts a node over a store that hears others.
func startMember(t *testing.T, store *redistest.Server, args ...string) *daemon {
	t.Helper()
	return startDaemon(t, t.TempDir(), []string{"SORACACHE_L2=" + store.URL()}, append([]string{"--gossip-listen=127.0.0.1:0"}, args...)...)
}

var reachedOn = regexp.MustCompile(`reach it on (\S+)`)

// gossip is where a node is heard.
func (d *daemon) gossip(t *testing.T) string {
	t.Helper()
	found := reachedOn.FindStringSubmatch(d.out.String())
	if found == nil {
		t.Fatalf("no member: %s", d.out)
	}
	return found[1]
}

// states are the states of the members as a node knows them.
func (d *daemon) states(t *testing.T) []string {
	t.Helper()
	got := d.operate(t, "", "members", "--json")
	var answer struct{ Members []struct{ State string } }
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil {
		t.Fatal(got, err)
	}
	var all []string
	for _, m := range answer.Members {
		all = append(all, strings.TrimPrefix(m.State, "MEMBER_STATE_"))
	}
	return all
}

func (d *daemon) awaitStates(t *testing.T, want ...string) {
	t.Helper()
	redistest.Eventually(t, 20*time.Second, fmt.Sprint("members are ", want), func() bool { return slices.Equal(d.states(t), want) })
}

// metric is a number on /metrics, 0 if it is not there.
func (d *daemon) metric(t *testing.T, name string) float64 {
	t.Helper()
	_, page := d.status(t, "/metrics")
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(line)
			}
			return value
		}
	}
	return 0
}

// TestCluster: nodes find each other, tell each other of invalidations at once
// however long their bound is, and say when they drain and leave.
func TestCluster(t *testing.T) {
	t.Parallel()
	store := redistest.Standalone(t)
	a := startMember(t, store, "--name=a", "--bound=30s")
	// The second has a delay in which it can be seen to drain.
	b := startMember(t, store, "--name=b", "--bound=30s", "--join="+a.gossip(t), "--drain-delay=2s")
	a.awaitStates(t, "ALIVE", "ALIVE")
	b.awaitStates(t, "ALIVE", "ALIVE")

	a.expect(t, 0, "stored k: 1 byte, fresh for 5m0s\n", "set", "k", "v", "-t", "t")
	b.expect(t, 0, "v", "get", "k")
	b.expect(t, 0, "v", "get", "k")
	if hits := b.metric(t, `soracache_hits_total{tier="l1"}`); hits == 0 {
		t.Error("the value is not in the memory of the second node")
	}
	a.expect(t, 0, "invalidated t\n", "invalidate", "-t", "t")
	redistest.Eventually(t, 5*time.Second, "the second node has heard of it", func() bool {
		return b.operate(t, "", "get", "k").code == exitNoValue
	})
	if pushed := b.metric(t, `soracache_records_total{by="gossip"}`); pushed == 0 {
		t.Error("no record came by gossip")
	}
	stats := a.operate(t, "", "stats", "--cluster", "--json")
	var cluster struct {
		Nodes []struct {
			Stats struct{ Totals map[string]float64 }
		}
		Totals map[string]float64
	}
	if err := json.Unmarshal([]byte(stats.out), &cluster); err != nil || stats.code != 0 || len(cluster.Nodes) != 2 {
		t.Fatal(stats, err)
	}
	const fresh = `soracache_invalidations_total`
	if sum := cluster.Nodes[0].Stats.Totals[fresh] + cluster.Nodes[1].Stats.Totals[fresh]; sum != 1 || cluster.Totals[fresh] != sum {
		t.Errorf("invalidations %v and %v", sum, cluster.Totals[fresh])
	}

	b.Signal(syscall.SIGTERM)
	a.awaitStates(t, "ALIVE", "DRAINING")
	if status, _ := b.status(t, "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", status)
	}
	a.awaitStates(t, "ALIVE", "LEFT")
	if code := b.ExitCode(t, 20*time.Second); code != 0 {
		t.Errorf("code %d: %s", code, b.log)
	}
	if got := a.operate(t, "", "stats", "--cluster"); got.code != 0 || !strings.Contains(got.out, "not asked: left") {
		t.Error(got)
	}
}

// TestAbsentPeer: a node starts and serves whether or not it finds anybody, and
// finds them when they come.
func TestAbsentPeer(t *testing.T) {
	t.Parallel()
	store := redistest.Standalone(t)
	a := startMember(t, store)
	address := a.gossip(t)
	a.Kill()
	b := startMember(t, store, "--join="+address+",no-such-name.invalid")
	b.expect(t, 0, "stored k: 1 byte, fresh for 5m0s\n", "set", "k", "v")
	redistest.Eventually(t, 20*time.Second, "it complains", func() bool { return strings.Contains(b.log.String(), "could not join") })
	_ = startMember(t, store, "--gossip-listen="+address)
	b.awaitStates(t, "ALIVE", "ALIVE")
}

// TestGossipKeys replaces the key of a cluster while it runs.
func TestGossipKeys(t *testing.T) {
	t.Parallel()
	store := redistest.Standalone(t)
	file := filepath.Join(t.TempDir(), "keys")
	former := strings.TrimSpace(invoke(t, "", "gossip-key").out)
	next := strings.TrimSpace(invoke(t, "", "gossip-key").out)
	var nodes []*daemon
	step := 0
	write := func(keys ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(keys, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if len(nodes) == 0 {
			return
		}
		step++
		nodes[0].Signal(syscall.SIGHUP) // the other one looks by itself
		for i, said := range []string{"were read again", "gossip keys reloaded"} {
			redistest.Eventually(t, 20*time.Second, "the keys are reloaded", func() bool {
				return strings.Count(nodes[i].log.String(), said) == step
			})
		}
	}
	// exchange shows that records reach the second node.
	exchange := func() {
		t.Helper()
		const received = `soracache_gossip_notices_total{event="received",kind="record"}`
		before := nodes[1].metric(t, received)
		nodes[0].expect(t, 0, "invalidated t\n", "invalidate", "-t", "t")
		redistest.Eventually(t, 10*time.Second, "a record comes by gossip", func() bool { return nodes[1].metric(t, received) > before })
	}
	write(former)
	nodes = append(nodes, startMember(t, store, "--gossip-key-file", file, "--reload-every=1h"))
	nodes = append(nodes, startMember(t, store, "--gossip-key-file", file, "--reload-every=50ms", "--join", nodes[0].gossip(t)))
	nodes[0].awaitStates(t, "ALIVE", "ALIVE")
	exchange()
	write(former, next)
	exchange()
	write(next, former)
	exchange()
	write(next)
	exchange()

	old := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(old, []byte(former+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	late := startMember(t, store, "--gossip-key-file", old, "--join", nodes[0].gossip(t))
	redistest.Eventually(t, 20*time.Second, "it is not let in", func() bool { return strings.Contains(late.log.String(), "could not join") })
	if states := nodes[0].states(t); len(states) != 2 {
		t.Errorf("members %v", states)
	}
	if err := os.WriteFile(file, []byte("no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 20*time.Second, "the bad file is refused", func() bool {
		return strings.Contains(nodes[1].log.String(), "cannot be used")
	})
	exchange()
	if logged := nodes[0].log.String() + nodes[1].log.String(); strings.Contains(logged, former) || strings.Contains(logged, next) {
		t.Error("a key is shown")
	}
}

func TestPrefixer(t *testing.T) {
	var out bytes.Buffer
	p := newPrefixer(&out, false, 12)
	one, two := p.prefixed("node1"), p.prefixed("node12")
	write := func(w *prefixed, text string) {
		t.Helper()
		if n, err := w.Write([]byte(text)); n != len(text) || err != nil {
			t.Error(n, err)
		}
	}
	write(one, "half ")
	write(two, "first\nsecond\n")
	write(one, "and half\n\n")
	p.report("node1", "has ended")
	two.hold()
	write(two, "dropped\n")
	two.release(false)
	two.hold()
	write(two, "kept\n")
	two.release(true)
	write(two, strings.Repeat("x", longestLine+1))
	want := "node12 | first\nnode12 | second\nnode1  | half and half\nnode1  | \nnode1  | * node1 has ended\nnode12 | kept\n" +
		"node12 | " + strings.Repeat("x", longestLine+1) + "\n"
	if out.String() != want {
		t.Errorf("got %.300q", out.String())
	}
	out.Reset()
	coloured := newPrefixer(&out, true, 3)
	_, _ = coloured.prefixed("node1").Write([]byte("text\n"))
	_, _ = coloured.prefixed("node2").Write([]byte("text\n"))
	if got := out.String(); got != "\x1b[36mnode1 | \x1b[0mtext\n\x1b[33mnode2 | \x1b[0mtext\n" {
		t.Errorf("got %q", got)
	}
}

func TestDevEnvironment(t *testing.T) {
	got := devEnvironment([]string{
		"PATH=/bin", "SORACACHE_LISTEN=:1", "SORACACHE_TLS_CERT=x", "SORACACHE_NAME=x", "SORACACHE_LOG_LEVEL=debug",
		"SORACACHE_NAMESPACE_PARTITIONS=a=2", "SORACACHE_AUTH_TOKENS=x", "LISTEN=1",
	})
	want := []string{"PATH=/bin", "SORACACHE_LOG_LEVEL=debug", "SORACACHE_NAMESPACE_PARTITIONS=a=2", "LISTEN=1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestFreePorts(t *testing.T) {
	for _, from := range []int{0, 23_000} {
		found, err := freePorts(20, from, "tcp", "udp")
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(found)
		if len(slices.Compact(found)) != 20 {
			t.Errorf("from %d: %v", from, found)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	if found, err := freePorts(1, port, "tcp"); err != nil || found[0] == taken.Addr().String() {
		t.Errorf("found %v, error %v", found, err)
	}
}

// devCluster is a dev that runs.
type devCluster struct {
	*daemon
	nodes []*daemon
	pids  []int
}

var (
	devLine  = regexp.MustCompile(`(?m)^  node\d  (http://\S+)  pid (\d+)$`)
	redisPid = regexp.MustCompile(`\(pid (\d+),`)
)

// startDev starts a cluster of its own and waits until it can be tried.
func startDev(t *testing.T, args ...string) *devCluster {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip(err)
	}
	d := &devCluster{daemon: launchDaemon(t, t.TempDir(), nil, append([]string{"dev", "--port=0"}, args...)...)}
	redistest.Eventually(t, 40*time.Second, "the cluster can be tried", func() bool {
		if !d.Running() {
			t.Fatalf("ended: %s%s", d.out, d.log)
		}
		return strings.Contains(d.out.String(), "Ctrl-C ends")
	})
	for _, found := range devLine.FindAllStringSubmatch(d.out.String(), -1) {
		pid, _ := strconv.Atoi(found[2])
		d.pids = append(d.pids, pid)
		d.nodes = append(d.nodes, &daemon{Process: d.Process, url: found[1], out: d.out, log: d.log})
	}
	if found := redisPid.FindStringSubmatch(d.out.String()); found != nil {
		pid, _ := strconv.Atoi(found[1])
		d.pids = append(d.pids, pid)
	}
	return d
}

// gone waits until none of the processes is there any more.
func (d *devCluster) gone(t *testing.T) {
	t.Helper()
	for _, pid := range d.pids {
		redistest.Eventually(t, 10*time.Second, fmt.Sprint("process ", pid, " has ended"), func() bool {
			return !proctest.Exists(pid)
		})
	}
}

// TestDev is what a newcomer does with the cluster that dev starts.
func TestDev(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--nodes=3")
	if len(d.nodes) != 3 || len(d.pids) != 4 {
		t.Fatalf("%d nodes, %d processes: %s", len(d.nodes), len(d.pids), d.out)
	}
	for _, n := range d.nodes {
		n.awaitStates(t, "ALIVE", "ALIVE", "ALIVE")
	}
	d.nodes[0].expect(t, 0, "stored k: 1 byte, fresh for 5m0s\n", "set", "k", "v", "-t", "t")
	d.nodes[1].expect(t, 0, "v", "get", "k")
	d.nodes[2].expect(t, 0, "invalidated t; acknowledged by every node\n", "invalidate", "-t", "t", "--ack")
	d.nodes[0].expect(t, 1, "", "get", "k")
	t.Run("the lines that it prints", func(t *testing.T) {
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skip(err)
		}
		lines := regexp.MustCompile(`(?m)^  curl .*$`).FindAllString(d.out.String(), -1)
		if len(lines) != 4 {
			t.Fatalf("lines %q", lines)
		}
		for i, want := range []string{"stamp", "STATUS_HIT", "stamp", "STATUS_MISS"} {
			redistest.Eventually(t, 5*time.Second, lines[i], func() bool {
				out, err := exec.CommandContext(t.Context(), "sh", "-ec", strings.Replace(lines[i], "curl", "curl -sf", 1)).CombinedOutput()
				return err == nil && strings.Contains(string(out), want)
			})
		}
		if got := d.nodes[0].operate(t, "", "stats", "--cluster"); got.code != 0 {
			t.Error(got)
		}
	})
	t.Run("a node that is killed comes back", func(t *testing.T) {
		if err := proctest.Kill(d.pids[1]); err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`node2 \| \* node2 runs again, as pid (\d+)`)
		redistest.Eventually(t, 20*time.Second, "it comes back", func() bool {
			again := found.FindStringSubmatch(d.out.String())
			if again == nil {
				return false
			}
			d.pids[1], _ = strconv.Atoi(again[1])
			return d.nodes[1].operate(t, "", "get", "k").code == exitNoValue
		})
		if !strings.Contains(d.out.String(), "node2 | * node2 has ended: signal: killed") {
			t.Errorf("nothing was said of it: %s", d.out)
		}
	})
	d.Signal(syscall.SIGTERM)
	if code := d.ExitCode(t, 30*time.Second); code != 0 {
		t.Errorf("code %d: %s%s", code, d.out, d.log)
	}
	d.gone(t)
	for _, name := range []string{"node1", "node2", "node3"} {
		if !regexp.MustCompile(name + ` \| .*msg=drained`).MatchString(d.out.String()) {
			t.Errorf("%s did not drain: %s", name, d.out)
		}
	}
}

// TestDevOverAStoreOfOnes: Redis may be one's own, dead nodes may stay dead, and
// with the parent its children die.
func TestDevOverAStoreOfOnes(t *testing.T) {
	t.Parallel()
	store := redistest.Standalone(t)
	d := startDev(t, "--nodes=2", "--l2", store.URL(), "--bound=100ms", "--no-restart")
	if len(d.pids) != 2 {
		t.Fatalf("processes %v: %s", d.pids, d.out)
	}
	if err := proctest.Kill(d.pids[0]); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 10*time.Second, "the end is reported", func() bool {
		return strings.Contains(d.out.String(), "node1 | * node1 has ended")
	})
	if got := d.nodes[1].operate(t, "", "members"); !strings.Contains(got.out, "100ms") {
		t.Errorf("the bound was not passed on: %+v", got)
	}
	if runtime.GOOS == "linux" {
		d.Kill()
		d.gone(t)
		return
	}
	d.Signal(syscall.SIGTERM)
	_ = d.ExitCode(t, 30*time.Second)
}

// TestDevCannotStart: what it needs is said.
func TestDevCannotStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  []string
		args []string
		says string
	}{
		"no redis-server": {[]string{"PATH=" + t.TempDir()}, nil, "--l2 redis://HOST:PORT"},
		"a bad store":     {nil, []string{"--l2=mysql://x"}, "node1 has ended: exit status 2"},
	} {
		t.Run(name, func(t *testing.T) {
			d := launchDaemon(t, t.TempDir(), c.env, append([]string{"dev", "--port=0", "--nodes=1"}, c.args...)...)
			if code := d.ExitCode(t, 30*time.Second); code != exitUnavailable || !strings.Contains(d.log.String(), c.says) {
				t.Errorf("code %d: %s%s", code, d.out, d.log)
			}
		})
	}
	// In the middle of its start it may be told to end.
	d := launchDaemon(t, t.TempDir(), nil, "dev", "--port=0", "--nodes=2")
	d.Signal(syscall.SIGTERM)
	if code := d.ExitCode(t, 30*time.Second); code > 0 {
		t.Errorf("code %d: %s%s", code, d.out, d.log)
	}
}
