package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/invalidation/gossip"
	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// devCmd runs a cluster of real processes on this machine, for people who try
// it and for tests: each node is this program with the command serve.
type devCmd struct {
	Nodes     int
	L2        string
	Port      int
	Bound     time.Duration
	NoRestart bool
}

func (c *devCmd) declare(o *options) {
	call := o.perCall()
	call.number(&c.Nodes, "nodes", "3", "How many nodes")
	o.text(&c.L2, "l2", "", "STORE", "The Redis that they share, as of serve (a redis-server of their own, if one is installed)")
	call.number(&c.Port, "port", "7070", "Where to look for free ports, one after the other; 0: any")
	o.duration(&c.Bound, "bound", "", "As of serve (1s)")
	call.yes(&c.NoRestart, "no-restart", "Leave a node dead that has died (it is started again)")
}

const (
	// devPatience is how long nodes and Redis may take to be ready.
	devPatience = 15 * time.Second
	// devGrace is how long they may take to end: what a drain takes, and a
	// little more.
	devGrace = 20 * time.Second
	// devNodes is the most that one machine is asked to run.
	devNodes = 64
)

// Run starts the processes, tells how to try them, and waits for ctx to end.
func (c *devCmd) Run(ctx context.Context, con *console) error {
	if err := c.validate(); err != nil {
		return usage(err)
	}
	d := &dev{cmd: c, out: newPrefixer(con.out, con.terminal && os.Getenv("NO_COLOR") == "", c.Nodes)}
	err := d.start(ctx)
	if err == nil {
		err = d.supervise(ctx)
	}
	if ctx.Err() != nil {
		err = nil // it was told to end
	}
	return errors.Join(err, d.end())
}

func (c *devCmd) validate() error {
	switch {
	case c.Nodes < 1 || c.Nodes > devNodes:
		return fmt.Errorf("--nodes: %d: want 1 to %d", c.Nodes, devNodes)
	case c.Port < 0 || c.Port > 65_535-devNodes:
		return fmt.Errorf("--port: %d: want 0 to %d", c.Port, 65_535-devNodes)
	case strings.HasPrefix(c.L2, embeddedScheme):
		return errors.New("--l2: an embedded store belongs to one node: a cluster needs a Redis")
	}
	return nil
}

// dev is a cluster that runs.
type dev struct {
	cmd   *devCmd
	out   *prefixer
	store string // the URL of the Redis
	own   *child // its process, if it is ours
	dir   string // its folder, if it is ours
	nodes []*devNode
}

// devNode is a place in the cluster. Its process may be replaced by another:
// by start, then keep, then end.
type devNode struct {
	name    string
	rpc     string // host:port
	args    []string
	log     *prefixed
	process *child
	born    time.Time // the process
}

func (n *devNode) url() string { return "http://" + n.rpc }

// start starts Redis, if it is to, and the nodes, and waits until all of them
// know each other.
func (d *dev) start(ctx context.Context) error {
	d.store = d.cmd.L2
	if d.store == "" {
		if err := d.startRedis(ctx); err != nil {
			return err
		}
	}
	if err := d.layOut(); err != nil {
		return err
	}
	for _, n := range d.nodes {
		if err := d.startNode(n); err != nil {
			return err
		}
	}
	if err := d.await(ctx); err != nil {
		return err
	}
	d.welcome()
	return nil
}

// layOut gives every node its ports.
func (d *dev) layOut() error {
	rpcs, err := freePorts(d.cmd.Nodes, d.cmd.Port, "tcp")
	if err != nil {
		return err
	}
	from := gossip.DefaultPort
	if d.cmd.Port == 0 {
		from = 0
	}
	gossips, err := freePorts(d.cmd.Nodes, from, "tcp", "udp")
	if err != nil {
		return err
	}
	cluster := "dev-" + strconv.Itoa(os.Getpid()) // not to meet another one
	for i := range rpcs {
		name := "node" + strconv.Itoa(i+1)
		args := []string{
			"serve", "--name", name, "--listen", rpcs[i],
			"--gossip-listen", gossips[i], "--join", strings.Join(gossips, ","), "--cluster-name", cluster,
		}
		if d.cmd.Bound != 0 {
			args = append(args, "--bound", d.cmd.Bound.String())
		}
		d.nodes = append(d.nodes, &devNode{name: name, rpc: rpcs[i], args: args, log: d.out.prefixed(name)})
	}
	return nil
}

// freePorts finds addresses of this machine whose ports nobody uses at the
// moment, from one on: with 0, any.
func freePorts(count, from int, networks ...string) ([]string, error) {
	var found []string
	var held []io.Closer // so that none is found twice
	defer func() {
		for _, h := range held {
			_ = h.Close()
		}
	}()
	for port := from; len(found) < count; {
		if port > 65_535 {
			return nil, fmt.Errorf("%w: no free ports from %d on", soracache.ErrUnavailable, from)
		}
		address, taken, err := hold(port, networks)
		held = append(held, taken...)
		if err == nil {
			found = append(found, address)
		}
		if from != 0 {
			port++
		} else if err != nil && len(held) > 1000 {
			return nil, err
		}
	}
	return found, nil
}

// hold listens on a port in all networks, the first of which chooses it.
func hold(port int, networks []string) (address string, held []io.Closer, err error) {
	var config net.ListenConfig
	address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for _, network := range networks {
		if network == "udp" {
			conn, err := config.ListenPacket(context.Background(), network, address)
			if err != nil {
				return "", held, err
			}
			held = append(held, conn)
			continue
		}
		listener, err := config.Listen(context.Background(), network, address)
		if err != nil {
			return "", held, err
		}
		held, address = append(held, listener), listener.Addr().String()
	}
	return address, held, nil
}

// startNode starts a node's process.
func (d *dev) startNode(n *devNode) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, n.args...) //nolint:gosec,noctx // this program; ended by end
	// By the environment, because it may hold a password.
	cmd.Env = append(devEnvironment(os.Environ()), "SORACACHE_L2="+d.store)
	n.process, err = startChild(cmd, nil, n.log)
	n.born = time.Now()
	return err
}

// devEnvironment leaves out the options of serve that dev decides: nodes that
// are tried are reached in the clear and without tokens, on loopback only.
func devEnvironment(all []string) []string {
	var kept []string
	for _, pair := range all {
		name, _, _ := strings.Cut(pair, "=")
		rest, ours := strings.CutPrefix(name, "SORACACHE_")
		decided := false
		for _, prefix := range []string{
			"ADMIN_", "ADVERTISE", "AUTH_", "CLUSTER_", "CONFIG", "GOSSIP_", "INSECURE", "JOIN", "L2_URL_FILE", "LISTEN", "METRICS_AUTH", "NAME", "TLS_",
		} {
			decided = decided || strings.HasPrefix(rest, prefix) && rest != "NAMESPACE_PARTITIONS"
		}
		if !ours || !decided {
			kept = append(kept, pair)
		}
	}
	return kept
}

// redisNames are the programs that can be the Redis, by preference.
func redisNames() []string { return []string{"redis-server", "valkey-server"} }

// startRedis starts a Redis that keeps nothing.
func (d *dev) startRedis(ctx context.Context) error {
	program := ""
	for _, name := range redisNames() {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		return fmt.Errorf("%w: neither %s is installed: install one (such as by: apt install redis-server), or name a Redis with --l2 redis://HOST:PORT",
			soracache.ErrUnavailable, strings.Join(redisNames(), " nor "))
	}
	ports, err := freePorts(1, 0, "tcp")
	if err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "soracached-dev-"); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(ports[0])
	redis := exec.Command(program, "--bind", "127.0.0.1", "--port", port, "--dir", d.dir, //nolint:gosec,noctx // from the search path; ended by end
		"--save", "", "--appendonly", "no", "--loglevel", "warning")
	log := d.out.prefixed("redis")
	log.hold() // what it says of the machine's settings concerns nobody who tries this
	if d.own, err = startChild(redis, log, log); err != nil {
		return err
	}
	d.store = "redis://" + ports[0]
	err = d.poll(ctx, "the redis-server does not answer", func() bool { return pings(ctx, ports[0]) })
	log.release(err != nil)
	return err
}

// pings tells whether a Redis answers.
func pings(ctx context.Context, address string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	answer := make([]byte, len("+PONG"))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return false
	}
	_, err = io.ReadFull(conn, answer)
	return err == nil && string(answer) == "+PONG"
}

// await waits until every node is ready and knows all others. A node that dies
// before that is not started again: something is wrong with it.
func (d *dev) await(ctx context.Context) error {
	for _, n := range d.nodes {
		if err := d.poll(ctx, n.name+" is not ready: does "+where(d.store)+" answer?", func() bool { return isReady(ctx, n.url()) }); err != nil {
			return err
		}
	}
	return d.poll(ctx, "the nodes do not find each other", func() bool {
		for _, n := range d.nodes {
			if alive(ctx, n.url()) < len(d.nodes) {
				return false
			}
		}
		return true
	})
}

// poll asks again and again, until the answer is yes, somebody has died, or
// patience or ctx have ended.
func (d *dev) poll(ctx context.Context, complaint string, done func() bool) error {
	patience := time.NewTimer(devPatience)
	defer patience.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for !done() {
		if name, dead := d.dead(); dead != nil {
			return fmt.Errorf("%w: %s has ended: %s", soracache.ErrUnavailable, name, dead.how())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", complaint, ctx.Err())
		case <-patience.C:
			return fmt.Errorf("%w: %s", soracache.ErrUnavailable, complaint)
		case <-again.C:
		}
	}
	return nil
}

// dead is a process that has ended, if one has.
func (d *dev) dead() (string, *child) {
	if d.own != nil && d.own.ended() {
		return "redis", d.own
	}
	for _, n := range d.nodes {
		if n.process != nil && n.process.ended() {
			return n.name, n.process
		}
	}
	return "", nil
}

func isReady(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", http.NoBody)
	if err != nil {
		return false
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// alive counts the members that a node knows to live.
func alive(ctx context.Context, url string) int {
	node, err := remote{Server: url, Timeout: time.Second}.dial()
	if err != nil {
		return 0
	}
	defer node.close()
	answer, err := node.cluster.Members(ctx, &soracachev1.MembersRequest{})
	if err != nil {
		return 0
	}
	count := 0
	for _, m := range answer.GetMembers() {
		if m.GetState() == soracachev1.MemberState_MEMBER_STATE_ALIVE {
			count++
		}
	}
	return count
}

// welcome tells what there is, and how to try it.
func (d *dev) welcome() {
	var b strings.Builder
	over := where(d.store)
	if d.own != nil {
		over += fmt.Sprintf(" (pid %d, which keeps nothing)", d.own.pid())
	}
	fmt.Fprintf(&b, "%d nodes over %s\n\n", len(d.nodes), over)
	var urls []string
	for _, n := range d.nodes {
		fmt.Fprintf(&b, "  %s  %s  pid %d\n", n.name, n.url(), n.process.pid())
		urls = append(urls, n.url())
	}
	at := func(i int) string { return urls[i%len(urls)] }
	call := func(url, method, body string) {
		fmt.Fprintf(&b, "  curl -H 'content-type: application/json' -d '%s' %s/soracache.v1.CacheService/%s\n", body, url, method)
	}
	b.WriteString("\ntry, in another terminal: write at one node, read at another, invalidate at the next, read at the first\n")
	call(at(0), "Set", `{"namespace":"shop","key":"k","value":"aGk=","tags":["t"],"ttl":"300s"}`)
	call(at(1), "Get", `{"namespace":"shop","key":"k"}`)
	call(at(2), "Invalidate", `{"namespace":"shop","tags":["t"]}`)
	call(at(0), "Get", `{"namespace":"shop","key":"k"}`)
	fmt.Fprintf(&b, "  soracached members --server %s\n  soracached stats --cluster --server %s\n", at(0), at(0))
	fmt.Fprintf(&b, "\nin Go:\n  client.Dial(%#v, client.Namespace(\"shop\"))\n", urls)
	b.WriteString("\nCtrl-C ends all of it")
	if !d.cmd.NoRestart {
		b.WriteString("; kill -9 a node to see it come back")
	}
	d.out.say(b.String())
}

// supervise starts again whoever dies, until ctx ends, or nothing is left.
func (d *dev) supervise(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var redis, nodes sync.WaitGroup
	if d.own != nil {
		redis.Go(func() {
			select {
			case <-ctx.Done():
			case <-d.own.done:
				cancel(fmt.Errorf("%w: the redis-server has ended: %s", soracache.ErrUnavailable, d.own.how()))
			}
		})
	}
	for _, n := range d.nodes {
		nodes.Go(func() {
			if err := d.keep(ctx, n); err != nil {
				cancel(err)
			}
		})
	}
	nodes.Wait()
	cancel(fmt.Errorf("%w: all nodes have ended", soracache.ErrUnavailable)) // unless something else was first
	redis.Wait()
	return context.Cause(ctx)
}

// keep starts a node again when it has died, later each time that it dies
// young; or leaves it dead. It returns when ctx ends.
func (d *dev) keep(ctx context.Context, n *devNode) error {
	for deaths := 0; ; deaths++ {
		select {
		case <-ctx.Done():
			return nil
		case <-n.process.done:
		}
		d.out.report(n.name, "has ended: "+n.process.how())
		if d.cmd.NoRestart {
			return nil
		}
		if time.Since(n.born) > time.Minute {
			deaths = 0
		}
		pause := min(time.Second<<min(deaths, 5), 30*time.Second)
		d.out.report(n.name, "is started again in "+pause.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if err := d.startNode(n); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		d.out.report(n.name, fmt.Sprintf("runs again, as pid %d", n.process.pid()))
	}
}

// end drains all nodes at once, then ends Redis and removes its folder.
func (d *dev) end() error {
	failures := make([]error, len(d.nodes))
	var ending sync.WaitGroup
	for i, n := range d.nodes {
		if n.process == nil {
			continue
		}
		ending.Go(func() {
			if err := n.process.end(devGrace); err != nil {
				failures[i] = fmt.Errorf("%s: %w", n.name, err)
			}
		})
	}
	ending.Wait()
	failed := errors.Join(failures...)
	if d.own != nil {
		_ = d.own.end(devGrace) // it keeps nothing
	}
	if d.dir != "" {
		failed = errors.Join(failed, os.RemoveAll(d.dir))
	}
	return failed
}
