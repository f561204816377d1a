package verify

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/soracache/soracache/internal/proctest"
	"github.com/soracache/soracache/internal/redistest"
)

// inNetns tells this test binary that it runs in a network of its own, and names
// the server to use there.
const inNetns = "SORACACHE_VERIFY_NETNS"

// Real processes in network namespaces, whose lines are cut as one pulls cables.
// The test runs this binary once more in a namespace of its own; that one is the
// switch that every node is connected to, by three lines: to its clients, to
// Redis, and to the other nodes.
func TestLinesCutInNetworkNamespaces(t *testing.T) {
	if path := os.Getenv(inNetns); path != "" {
		binary.once.Do(func() { binary.path = path })
		cutCables(t)
		return
	}
	t.Parallel() // it mostly waits
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("no iproute2 (%v): TestLinesCutByDroppingTransports shows the same without", err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNetns+"="+soracached(t))
	cmd.SysProcAttr = ownNetwork()
	var out proctest.Output
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := proctest.Launch(cmd)
	if err != nil {
		t.Skipf("no network namespace of its own (%v): TestLinesCutByDroppingTransports shows the same without", err)
	}
	t.Cleanup(p.Kill)
	code := p.ExitCode(t, 10*time.Minute)
	for line := range strings.Lines(out.String()) {
		_, said, logged := strings.Cut(line, "_test.go:")
		if logged || code != 0 {
			if _, text, ok := strings.Cut(said, ": "); ok {
				line = text
			}
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// ownNetwork has a process start in a network namespace of its own: whoever is
// not root becomes root in a user namespace.
func ownNetwork() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// ip runs the tool of that name.
func ip(t testing.TB, args string, values ...any) {
	t.Helper()
	args = fmt.Sprintf(args, values...)
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

func cutCables(t *testing.T) {
	const nodes, bound = 3, 500 * time.Millisecond
	ip(t, "link set lo up")
	ip(t, "link add switch type bridge")
	ip(t, "link set switch up")
	redisServer := redistest.Standalone(t, redistest.Config("bind", "0.0.0.0"))
	_, redisPort, err := net.SplitHostPort(redisServer.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var f fleet
	for i := range nodes {
		d := newDaemon(t, fmt.Sprintf("10.77.%d.2:7070", i), []string{
			"--l2", fmt.Sprintf("redis://10.78.%d.1:%s", i, redisPort), "--gossip-listen", fmt.Sprintf("10.79.0.%d:7946", i+1),
			"--join", "10.79.0.1:7946,10.79.0.2:7946,10.79.0.3:7946", "--insecure", "--bound", bound.String(),
		})
		var begin io.Writer
		d.command = func(args []string) (cmd *exec.Cmd) {
			cmd, begin = unplugged(t, i, args)
			return cmd
		}
		d.start()
		plugIn(t, i, d)
		if _, err := io.WriteString(begin, "begin\n"); err != nil {
			t.Fatal(err)
		}
		f = append(f, d)
	}
	for _, d := range f {
		d.awaitReady()
		d.awaitMembers(nodes)
	}
	cable := func(kind string) func(int, bool) {
		return func(i int, up bool) {
			state := "down"
			if up {
				state = "up"
			}
			ip(t, "link set %s%d %s", kind, i, state)
		}
	}
	n := &network{gossip: cable("gossip"), store: cable("redis")}
	for _, d := range f {
		n.sites = append(n.sites, d.site)
	}
	cuts(t, n, bound)
	for i, d := range f {
		if !d.proc.Running() {
			t.Errorf("node %d has ended", i)
		}
	}
}

// unplugged is a node in a network namespace of its own that waits until its
// lines are there and it is sent one of text, and then takes its addresses and
// begins.
func unplugged(t *testing.T, i int, args []string) (*exec.Cmd, io.Writer) {
	script := fmt.Sprintf(`read -r _ && ip link set lo up &&
		ip addr add 10.77.%[1]d.2/24 dev client && ip link set client up &&
		ip addr add 10.78.%[1]d.2/24 dev redis && ip link set redis up &&
		ip addr add 10.79.0.%[2]d/24 dev gossip && ip link set gossip up && exec "$@"`, i, i+1)
	cmd := exec.Command("sh", append([]string{"-c", script, "sh", soracached(t)}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	begin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return cmd, begin
}

// plugIn connects a node's namespace. The far ends of its lines stay here, and
// can be cut.
func plugIn(t *testing.T, i int, d *daemon) {
	t.Helper()
	pid := d.proc.ID()
	for _, kind := range []string{"client", "redis", "gossip"} {
		ip(t, "link add %s%d type veth peer name %s netns %d", kind, i, kind, pid)
	}
	ip(t, "addr add 10.77.%d.1/24 dev client%d", i, i)
	ip(t, "addr add 10.78.%d.1/24 dev redis%d", i, i)
	ip(t, "link set gossip%d master switch", i)
	for _, kind := range []string{"client", "redis", "gossip"} {
		ip(t, "link set %s%d up", kind, i)
	}
}
