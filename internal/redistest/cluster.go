package redistest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const clusterMasters = 3

// ClusterServers is a Redis Cluster of three masters that hold all slots in equal
// parts, and with [Replicas] of a replica of each.
type ClusterServers struct {
	// Masters are the three that were masters at the start; Replicas[i]
	// replicates Masters[i], if there are any.
	Masters, Replicas []*Server

	opts options
}

// Replicas gives each master of a [Cluster] a replica. The cluster then fails
// over by itself about two seconds after a master is killed.
func Replicas() Option { return func(o *options) { o.replicas = true } }

// Through has every node of a [Cluster] announce itself at the proxy: clients
// that are told only [Cluster.URL] then talk to all nodes through it.
func Through(p *Proxy) Option { return func(o *options) { o.proxy = p } }

// Cluster starts a cluster and returns once every node finds it complete.
func Cluster(t testing.TB, opts ...Option) *ClusterServers {
	t.Helper()
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	c := &ClusterServers{opts: o}
	for range clusterMasters {
		c.Masters = append(c.Masters, startClusterNode(t, o))
	}
	if o.replicas {
		for range clusterMasters {
			c.Replicas = append(c.Replicas, startClusterNode(t, o))
		}
	}
	c.assignSlots(t)
	c.meet(t)
	for i, r := range c.Replicas {
		c.replicate(t, r, c.Masters[i])
	}
	c.AwaitOK(t)
	return c
}

func startClusterNode(t testing.TB, o options) *Server {
	t.Helper()
	node := o
	node.config = append([]string{
		"cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout 1500",
		"cluster-replica-validity-factor 0", "cluster-allow-replica-migration no",
		fmt.Sprintf("cluster-port %d", FreePort(t)),
	}, o.config...)
	s := start(t, node, false)
	if o.proxy != nil {
		_, port, _ := net.SplitHostPort(o.proxy.Front(s.Addr))
		s.Do(t, "CONFIG", "SET", "cluster-announce-port", port)
		s.opts.config = append(s.opts.config, "cluster-announce-port "+port)
	}
	return s
}

func (c *ClusterServers) assignSlots(t testing.TB) {
	t.Helper()
	const slots = 16384
	for i, m := range c.Masters {
		first, last := i*slots/clusterMasters, (i+1)*slots/clusterMasters-1
		m.Do(t, "CLUSTER", "ADDSLOTSRANGE", first, last)
		m.Do(t, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
	}
}

// meet introduces every node to the first, and waits until all know all.
func (c *ClusterServers) meet(t testing.TB) {
	t.Helper()
	for _, s := range c.nodes()[1:] {
		host, port, _ := net.SplitHostPort(s.Addr)
		c.Masters[0].Do(t, "CLUSTER", "MEET", host, port, clusterPort(t, s))
	}
	want := fmt.Sprintf("cluster_known_nodes:%d\r", len(c.nodes()))
	Eventually(t, startTimeout, "all nodes know each other", func() bool {
		return c.everyNode("CLUSTER INFO", func(info string) bool { return strings.Contains(info, want) })
	})
}

func clusterPort(t testing.TB, s *Server) string {
	t.Helper()
	for _, line := range s.opts.config {
		if port, ok := strings.CutPrefix(line, "cluster-port "); ok {
			return port
		}
	}
	t.Fatal("a cluster node without cluster-port")
	return ""
}

func (c *ClusterServers) replicate(t testing.TB, replica, master *Server) {
	t.Helper()
	id := fmt.Sprint(master.Do(t, "CLUSTER", "MYID"))
	Eventually(t, startTimeout, "replica attached", func() bool {
		_, err := replica.try("CLUSTER", "REPLICATE", id)
		return err == nil
	})
	Eventually(t, startTimeout, "replica in step", func() bool {
		info, err := replica.try("INFO", "replication")
		return err == nil && strings.Contains(fmt.Sprint(info), "master_link_status:up")
	})
}

// AwaitOK returns once every running node finds the cluster complete.
func (c *ClusterServers) AwaitOK(t testing.TB) {
	t.Helper()
	Eventually(t, startTimeout, "cluster_state:ok on every node", func() bool {
		return c.everyNode("CLUSTER INFO", func(info string) bool {
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_ok:16384")
		})
	})
}

func (c *ClusterServers) everyNode(command string, holds func(string) bool) bool {
	var args []any
	for _, a := range strings.Fields(command) {
		args = append(args, a)
	}
	for _, s := range c.nodes() {
		if !s.Running() {
			continue
		}
		answer, err := s.try(args...)
		if err != nil || !holds(fmt.Sprint(answer)) {
			return false
		}
	}
	return true
}

func (c *ClusterServers) nodes() []*Server {
	return append(append([]*Server(nil), c.Masters...), c.Replicas...)
}

// Addrs are the addresses at which clients reach the masters (those of the
// proxy, with [Through]).
func (c *ClusterServers) Addrs() []string {
	var addrs []string
	for _, s := range c.Masters {
		if c.opts.proxy != nil {
			addrs = append(addrs, c.opts.proxy.Front(s.Addr))
		} else {
			addrs = append(addrs, s.Addr)
		}
	}
	return addrs
}

// URL is redis+cluster:// with the addresses, separated by commas.
func (c *ClusterServers) URL() string {
	return "redis+cluster://" + userInfo(c.opts) + strings.Join(c.Addrs(), ",")
}

// Client returns a cluster client that is closed when the test ends.
func (c *ClusterServers) Client(t testing.TB) *redis.ClusterClient {
	t.Helper()
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: c.Addrs(), Username: c.opts.user, Password: c.opts.password, ContextTimeoutEnabled: true,
		// A refused connection alone does not make the client look for a new
		// master: only the age of what it knows does.
		ClusterStateReloadInterval: 200 * time.Millisecond, DialerRetries: 1,
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Owner returns the server that now serves a key's slot as its master.
func (c *ClusterServers) Owner(t testing.TB, key string) *Server {
	t.Helper()
	client := c.Client(t)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client.ReloadState(ctx)
	node, err := client.MasterForKey(ctx, key)
	if err != nil {
		t.Fatalf("master of %q: %v", key, err)
	}
	addr := node.Options().Addr
	for _, s := range c.nodes() {
		if s.Addr == addr || c.opts.proxy != nil && c.opts.proxy.Front(s.Addr) == addr {
			return s
		}
	}
	t.Fatalf("master of %q is at %s, which is none of ours", key, addr)
	return nil
}

// KillMaster kills the master that owns the key and, with [Replicas], waits
// until its replica has taken over. It returns the server that was killed.
func (c *ClusterServers) KillMaster(t testing.TB, key string) *Server {
	t.Helper()
	old := c.Owner(t, key)
	old.Kill()
	if !c.opts.replicas {
		return old
	}
	for i, m := range c.Masters {
		if m != old {
			continue
		}
		Eventually(t, startTimeout, "replica promoted", func() bool {
			info, err := c.Replicas[i].try("INFO", "replication")
			return err == nil && strings.Contains(fmt.Sprint(info), "role:master")
		})
	}
	c.AwaitOK(t)
	return old
}
