package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/capability"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/invalidation/gossip"
)

type clusterOptions struct {
	GossipListen    string
	GossipAdvertise string
	Join            []string
	GossipKeyFile   string
	ClusterName     string
	Advertise       string
}

func (c *clusterOptions) declare(o *options) {
	o.text(&c.GossipListen, "gossip-listen", "", "ADDR", "Address, UDP and TCP, on which other nodes are heard; off: on none (127.0.0.1:7946 with --join, else off)")
	o.text(&c.GossipAdvertise, "gossip-advertise", "", "ADDR", "Address by which they reach this node (that of --gossip-listen)")
	o.list(&c.Join, "join", "", "ADDR", "Nodes to join: addresses, or names that are looked up again and again (repeatable)")
	o.text(&c.GossipKeyFile, "gossip-key-file", "", "FILE", "Keys, one a line: the first encrypts, all decrypt (see soracached gossip-key)")
	o.text(&c.ClusterName, "cluster-name", "soracache", "NAME", "Nodes of another cluster name are not heard")
	o.text(&c.Advertise, "advertise", "", "ADDR", "Address by which clients reach this node, told to the others (that of --listen)")
}

// gossipOff is how --gossip-listen says so.
const gossipOff = "off"

// leaveTimeout is how long a node takes to say that it leaves.
const leaveTimeout = 5 * time.Second

// gossipListen is where other nodes are heard: "" for nowhere. A node gossips
// only if it was told to: most have nobody to talk to, and two nodes on one
// machine could not both have the usual port.
func (c *serveCmd) gossipListen() string {
	switch {
	case c.GossipListen == gossipOff:
		return ""
	case c.GossipListen == "" && len(c.Join) > 0:
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(gossip.DefaultPort))
	}
	return c.GossipListen
}

// gossipConfig returns how the node takes part in a cluster, if it does. name
// and rpc are what the others are told.
func (c *serveCmd) gossipConfig(name, rpc string) (cfg gossip.Config, on bool, err error) {
	listen := c.gossipListen()
	if listen == "" {
		if c.GossipListen == "" && (c.GossipKeyFile != "" || c.GossipAdvertise != "") {
			return cfg, false, errors.New("--gossip-key-file and --gossip-advertise go with --gossip-listen or --join")
		}
		return cfg, false, nil
	}
	version, _ := buildVersion()
	cfg = gossip.Config{
		Name: name, Bind: listen, Advertise: c.GossipAdvertise, Join: c.Join, Label: c.ClusterName,
		AllowPlaintext: c.Insecure, RPCAddress: rpc, Version: version, Capabilities: capability.All, Bound: c.Bound,
	}
	if c.GossipKeyFile != "" {
		if cfg.Keys, err = readKeys(c.GossipKeyFile); err != nil {
			return cfg, false, err
		}
	}
	if err := cfg.Validate(); err != nil {
		return cfg, false, fmt.Errorf("%w (see --gossip-key-file, --gossip-listen, --insecure)", err)
	}
	return cfg, true, nil
}

// cluster is this node's part in a cluster. Without gossip its member is nil.
type cluster struct {
	member  *gossip.Gossip
	keyFile string
	// keys is what the file looked like before it was last read. Only
	// newCluster and watchKeys use it.
	keys fileState
	log  *slog.Logger

	// saying is what tells the others that this node drains.
	saying sync.WaitGroup
}

// newCluster binds the gossip address, if there is one. The member hears nobody
// until start.
func (c *serveCmd) newCluster(name, rpc string, log *slog.Logger) (*cluster, error) {
	cl := &cluster{keyFile: c.GossipKeyFile, keys: stateOf(c.GossipKeyFile), log: log}
	cfg, on, err := c.gossipConfig(name, rpc)
	if err != nil {
		return nil, usage(err)
	}
	if !on {
		return cl, nil
	}
	cfg.Logger = log
	if cl.member, err = gossip.New(cfg); err != nil {
		return nil, fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
	}
	return cl, nil
}

// peers are what a node tells of its records: nil if there is nobody.
func (c *cluster) peers() node.Peers {
	if c.member == nil {
		return nil
	}
	return c.member
}

// start hears the others and joins them, in the background and for as long as
// it takes.
func (c *cluster) start(n *node.Node) {
	if c.member != nil {
		c.member.Start(n.Receive)
	}
}

// members is the server's hook: nil without gossip.
func (c *cluster) members() func() []server.Member {
	if c.member == nil {
		return nil
	}
	return func() []server.Member {
		known := c.member.Members()
		members := make([]server.Member, len(known))
		for i, m := range known {
			members[i] = server.Member{
				Name: m.Name, RPCAddress: m.RPC, GossipAddress: m.Address, Version: m.Version, State: memberState(m.State),
				Self: m.Self, Bound: m.Bound, StateFor: time.Since(m.Since), Capabilities: capability.Names(m.Capabilities),
			}
		}
		return members
	}
}

func memberState(s gossip.State) server.MemberState {
	switch s {
	case gossip.StateAlive:
		return server.MemberAlive
	case gossip.StateDraining:
		return server.MemberDraining
	case gossip.StateSuspect:
		return server.MemberSuspect
	case gossip.StateLeft:
		return server.MemberLeft
	case gossip.StateDead:
		return server.MemberDead
	}
	return 0 // of a later version
}

// draining is the server's hook.
func (c *cluster) draining() {
	if c.member == nil {
		return
	}
	c.saying.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		if err := c.member.SetDraining(ctx); err != nil {
			c.log.Warn("the other nodes may not know that this one drains", "error", err)
		}
	})
}

// leave tells the others that this node goes. Notices still arrive.
func (c *cluster) leave() {
	if c.member == nil {
		return
	}
	c.saying.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if err := c.member.Leave(ctx); err != nil {
		c.log.Warn("the other nodes may not know that this one has left", "error", err)
	}
}

// close ends the member and whatever it started.
func (c *cluster) close() error {
	if c.member == nil {
		return nil
	}
	c.saying.Wait()
	return c.member.Close()
}

// reload reads the keys again. If they cannot be used, nothing is changed.
func (c *cluster) reload() error {
	if c.member == nil || c.keyFile == "" {
		return nil
	}
	keys, err := readKeys(c.keyFile)
	if err != nil {
		return err
	}
	return c.member.SetKeys(keys)
}

// watchKeys reads the keys again whenever their file has changed, until ctx
// ends.
func (c *cluster) watchKeys(ctx context.Context, every time.Duration) {
	if c.member == nil || c.keyFile == "" || every <= 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := stateOf(c.keyFile)
		if now == c.keys {
			continue
		}
		c.keys = now
		if err := c.reload(); err != nil {
			c.log.Error("the gossip keys have changed and cannot be used; going on with those there were", "error", err)
			continue
		}
		c.log.Info("gossip keys reloaded")
	}
}

// fileState is what shows that a file was written or replaced.
type fileState struct {
	modified time.Time
	size     int64
}

func stateOf(name string) fileState {
	info, err := os.Stat(name)
	if err != nil {
		return fileState{}
	}
	return fileState{info.ModTime(), info.Size()}
}

// advertised is the URL by which clients reach the node that listens on addr.
func (c *serveCmd) advertised(addr net.Addr) string {
	scheme := "http://"
	if c.TLSCert != "" {
		scheme = "https://"
	}
	if c.Advertise == "" {
		return scheme + reachable(addr, c.GossipAdvertise)
	}
	if strings.Contains(c.Advertise, "://") {
		return strings.TrimSuffix(c.Advertise, "/")
	}
	if _, _, err := net.SplitHostPort(c.Advertise); err == nil {
		return scheme + c.Advertise
	}
	_, port, _ := net.SplitHostPort(addr.String())
	return scheme + net.JoinHostPort(strings.Trim(c.Advertise, "[]"), port)
}

// reachable is addr, or if that is all addresses of the machine, the one that
// gossip is told to use, or a private one of the machine's.
func reachable(addr net.Addr, gossipAdvertise string) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return addr.String()
	}
	if gossipAdvertise != "" {
		host = gossipAdvertise
		if h, _, err := net.SplitHostPort(gossipAdvertise); err == nil {
			host = h
		}
		return net.JoinHostPort(strings.Trim(host, "[]"), port)
	}
	addrs, _ := net.InterfaceAddrs() // none, if it cannot tell
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsPrivate() && n.IP.To4() != nil {
			return net.JoinHostPort(n.IP.String(), port)
		}
	}
	return net.JoinHostPort("127.0.0.1", port)
}
