// Package embedded holds a cache node in the application's own process: the same
// memory, the same second tier, the same gossip with other nodes and the same
// client as with soracached, and no server.
//
//	n, err := embedded.Open(ctx, embedded.Config{Store: "redis://10.0.0.9"})
//	c, err := n.Client(client.Namespace("shop"))
//	products := client.NewCache[[]Product](c, client.Default().WithTags("products"))
//
// Nodes of applications and of soracached over one Redis are one cluster: they
// share entries, leases and invalidations, and hear each other by gossip.
//
// The package puts the parts together. It knows the stores and gossip, and no
// transport by which clients come.
package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/capability"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/stores"
	"github.com/soracache/soracache/invalidation/gossip"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
	"github.com/soracache/soracache/l2/redis"
)

const (
	// drainTimeout is how long what is in flight may take when a node is closed,
	// until its reads are cut off.
	drainTimeout = 15 * time.Second
	// leaveTimeout is how long a node takes to say that it leaves.
	leaveTimeout = 5 * time.Second
)

// Config says what a node is made of. Store must be given; zero means the default
// everywhere else.
type Config struct {
	// Store is the URL of the second tier, as for soracached's --l2:
	//
	//	redis://[user:password@]host[:port][/db]
	//	redis+cluster://host,host
	//	redis+sentinel://host,host/master
	//	embedded:DIR
	//
	// or one of Schemes. With rediss in place of redis, TLS is spoken. A Redis need
	// not be there yet: a node that cannot reach it has loaders run. An embedded store
	// is a file in a folder, of this process alone: one process at a time can have it,
	// and what is cached outlives the process.
	Store string
	// Schemes are kinds of store of one's own, besides those (docs/stores.md).
	Schemes []l2.Scheme
	// StoreTLS is for rediss (default: the system's authorities, no client
	// certificate). With another store it is refused.
	StoreTLS *tls.Config
	// KeyPrefix is what every key in Redis begins with (default "sora:"). Nodes
	// that are to share what they hold have the same.
	KeyPrefix string
	// StoreMaxBytes is the room of an embedded store (default 1 GiB).
	StoreMaxBytes int64
	// StoreTimeout is how long to wait for the second tier (default 2 s).
	StoreTimeout time.Duration

	// L1MaxBytes is the room in memory (default 256 MiB).
	L1MaxBytes int64
	// Bound is the longest that memory is trusted without confirmation by the
	// second tier (default 1 s, 10 ms to 1 min).
	Bound time.Duration
	// HitForMiss is how long nobody waits for who loads a key after a load of it
	// that left nothing: the loader failed, or its value may not be stored (default
	// 3 s, at most 1 min; negative: everybody always waits).
	HitForMiss time.Duration
	// Partitions is how many a namespace has (default 1), except those of
	// NamespacePartitions. It belongs to the namespace, so all nodes must be told
	// the same: one that was told another refuses the namespace, and is not ready.
	Partitions          int
	NamespacePartitions map[string]int
	// Limits bounds keys, tags and values (default [soracache.DefaultLimits]).
	Limits soracache.Limits

	// Gossip makes the node hear others, and be heard (default: it does not).
	// Without it the node finds invalidations of others within the bound.
	Gossip Gossip
	// Name is what the others, and those who wait for an acknowledgement, know
	// the node by (default: the host's and the program's). Something is appended
	// that tells each life of it from others.
	Name string
	// Logger is told what an operator should know. The default is slog's default
	// logger. (go-redis has a logger of its own, see [redis.LogClient].)
	Logger *slog.Logger
}

// Gossip is how a node takes part in a cluster. Its members must be other nodes
// over the same store.
type Gossip struct {
	// Listen is the address, for UDP and TCP, on which others are heard, such as
	// 10.0.0.7:7946. Port 0 takes a free one. Empty means no gossip.
	Listen string
	// Advertise is the address by which others reach it, if that is another.
	Advertise string
	// Join names members: addresses, or names that are looked up again and again.
	Join []string
	// Keys encrypt: 16, 24 or 32 bytes each. The first encrypts, all of them
	// decrypt. They are required off loopback, unless AllowPlaintext is set.
	Keys [][]byte
	// AllowPlaintext does without keys. Anybody who reaches the address can then
	// make nodes miss invalidations.
	AllowPlaintext bool
	// Cluster is the cluster's name (default "soracache"). Members of another are
	// not heard.
	Cluster string
}

// Validate reports the first field that is not usable. It touches no network and
// no file.
func (c Config) Validate() error {
	redisStore, folder := stores.IsRedis(c.Store), stores.IsEmbedded(c.Store)
	switch {
	case c.Store == "":
		return invalid("Store is not given: a cache needs a second tier")
	case !redisStore && (c.StoreTLS != nil || c.KeyPrefix != ""):
		return invalid("StoreTLS and KeyPrefix are for Redis")
	case !folder && c.StoreMaxBytes != 0:
		return invalid("StoreMaxBytes is for an embedded store: others bound themselves, such as Redis by maxmemory")
	case c.StoreMaxBytes < 0:
		return invalid("StoreMaxBytes must not be negative")
	case folder && c.Gossip.Listen != "":
		return invalid("gossip is for nodes that share a store: nobody else has one that is embedded")
	case c.Gossip.Listen == "" && (c.Gossip.Advertise != "" || c.Gossip.Cluster != "" || len(c.Gossip.Join) > 0 || len(c.Gossip.Keys) > 0):
		return invalid("gossip needs an address to listen on")
	}
	return errors.Join(c.validatePartitions(), c.validateParts())
}

func (c Config) validatePartitions() error {
	if c.Partitions < 0 || c.Partitions > soracache.MaxPartitions {
		return invalid("partitions of %d: 1 to %d", c.Partitions, soracache.MaxPartitions)
	}
	for namespace, n := range c.NamespacePartitions {
		if err := soracache.CheckNamespace(namespace); err != nil {
			return err
		}
		if n < 1 || n > soracache.MaxPartitions {
			return invalid("partitions of %s are %d: 1 to %d", namespace, n, soracache.MaxPartitions)
		}
	}
	return nil
}

// validateParts asks those that the parts are made by.
func (c Config) validateParts() error {
	errs := []error{c.store(nil).Validate()}
	if c.Gossip.Listen != "" {
		if err := c.gossip("name", nil).Validate(); err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", soracache.ErrInvalid, err))
		}
	}
	nodeConfig := c.node("name", nil)
	nodeConfig.Store = unopened{}
	return errors.Join(append(errs, nodeConfig.Validate())...)
}

// unopened stands for a store where a configuration is looked at.
type unopened struct{ l2.Store }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{soracache.ErrInvalid}, args...)...)
}

// Node is a node in this process. It is safe for concurrent use, and must be
// closed.
type Node struct {
	node    *node.Node
	store   l2.Store
	member  *gossip.Gossip // nil without gossip
	backend soracache.Backend
	log     *slog.Logger

	close sync.Once
	err   error // what closing it came to; written under close
}

// Open starts a node. The context bounds opening alone. A Redis that is not there
// is no error, and an embedded store that another process holds is one.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.Default()
	}
	n := &Node{log: log}
	if err := n.open(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded: %w", err), n.Close())
	}
	return n, nil
}

// open makes the parts, from the store up. Close ends those that there are.
func (n *Node) open(ctx context.Context, cfg Config) (err error) {
	if n.store, err = stores.Open(ctx, cfg.store(n.log)); err != nil {
		return err
	}
	name := gossip.UniqueName(cfg.name())
	nodeConfig := cfg.node(name, n.log)
	nodeConfig.Store = n.store
	if cfg.Gossip.Listen != "" {
		if n.member, err = gossip.New(cfg.gossip(name, n.log)); err != nil {
			return fmt.Errorf("%w: %w", soracache.ErrUnavailable, err)
		}
		nodeConfig.Peers = n.member
	}
	if n.node, err = node.New(nodeConfig); err != nil {
		return err
	}
	n.backend = node.Checked{Node: n.node}
	if n.member != nil {
		n.member.Start(n.node.Receive)
	}
	return nil
}

// Client returns a client of one namespace. Make one for each namespace, and
// close it before the node. Options for connections have no meaning here.
func (n *Node) Client(opts ...client.Option) (*client.Client, error) {
	return client.New(n.backend, opts...)
}

// Backend is what clients of the node use: the node, with every request checked
// against its limits.
func (n *Node) Backend() soracache.Backend { return n.backend }

// Ready reports whether the node can do its work, which means most of all that its
// second tier answers.
func (n *Node) Ready(ctx context.Context) error { return n.node.Ready(ctx) }

// GossipAddress is where the node hears others, as they would join it: empty
// without gossip.
func (n *Node) GossipAddress() string {
	if n.member == nil {
		return ""
	}
	return n.member.Address()
}

// Close lets what is in flight end, tells the other nodes that this one leaves,
// and closes the second tier. Reads that wait for somebody else's lease end at once,
// without a value; what takes longer than 15 seconds fails. Whoever asks the node
// from then on is told that it is unavailable; GetOrSet then runs its loader.
func (n *Node) Close() error {
	n.close.Do(func() { n.err = n.end() })
	return n.err
}

// end goes from the top to the bottom: while the node ends what is in flight, it
// still hears of leases and invalidations, and still has its store.
func (n *Node) end() error {
	var errs []error
	if n.node != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		if err := n.node.Drain(ctx); err != nil {
			n.log.Warn("the node ends before all that was in flight has", "error", err)
		}
	}
	if n.member != nil && n.node != nil {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		if err := n.member.Leave(ctx); err != nil {
			n.log.Warn("the other nodes may not know that this one has left", "error", err)
		}
	}
	if n.node != nil {
		errs = append(errs, n.node.Close())
	}
	if n.member != nil {
		errs = append(errs, n.member.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}

func (c Config) store(log *slog.Logger) stores.Config {
	return stores.Config{
		URL: c.Store, Schemes: c.Schemes, Timeout: c.StoreTimeout, Logger: log,
		Redis: redis.Config{Prefix: c.KeyPrefix, TLS: c.StoreTLS}, Embedded: embedded.Config{MaxBytes: c.StoreMaxBytes},
	}
}

// gossip leaves out the RPC address: the node serves none, so no client is ever
// sent to it.
func (c Config) gossip(name string, log *slog.Logger) gossip.Config {
	return gossip.Config{
		Name: name, Bind: c.Gossip.Listen, Advertise: c.Gossip.Advertise, Join: c.Gossip.Join, Label: c.Gossip.Cluster,
		Keys: c.Gossip.Keys, AllowPlaintext: c.Gossip.AllowPlaintext,
		Version: version(), Capabilities: capability.All, Bound: c.Bound, Logger: log,
	}
}

func (c Config) node(name string, log *slog.Logger) node.Config {
	return node.Config{
		Name: name, L1MaxBytes: c.L1MaxBytes, Bound: c.Bound, Limits: c.Limits, StoreTimeout: c.StoreTimeout,
		Partitions: c.partitionsOf, HitForMiss: c.HitForMiss, Logger: log,
	}
}

func (c Config) partitionsOf(namespace string) int {
	if n, ok := c.NamespacePartitions[namespace]; ok {
		return n
	}
	return max(c.Partitions, 1)
}

func (c Config) name() string {
	if c.Name != "" {
		return c.Name
	}
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	return host + ":" + filepath.Base(os.Args[0])
}

// version is this module's, as far as the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path == "github.com/soracache/soracache" && m.Version != "" && m.Version != "(devel)" {
			return m.Version
		}
	}
	return "devel"
}
