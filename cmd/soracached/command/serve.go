package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/internal/telemetry"
	"github.com/soracache/soracache/invalidation/gossip"
	"github.com/soracache/soracache/l2"
)

// serveCmd is what an operator can set of a node. Every option is also an
// environment variable and may stand in the file of --config, under its name.
type serveCmd struct {
	Config string

	Listen      string
	AdminListen string

	Name string

	storeOptions
	cacheOptions
	clusterOptions
	accessOptions
	limitOptions
	processOptions
}

// newServe returns the command of a build that has stores of its own.
func newServe(stores []l2.Scheme) *serveCmd {
	return &serveCmd{storeOptions: storeOptions{stores: stores}}
}

func (c *serveCmd) declare(o *options) {
	o.text(&c.Config, "config", "", "FILE", "YAML file with options of this command")
	o.text(&c.Listen, "listen", "127.0.0.1:7070", "ADDR", "Address to serve on")
	o.text(&c.AdminListen, "admin-listen", "", "ADDR", "Address for /healthz, /readyz and /metrics, which are then served on it alone (that of --listen)")
	o.text(&c.Name, "name", "", "TEXT", "The node's name (the host's and the port)")
	c.storeOptions.declare(o.section("Store"))
	c.cacheOptions.declare(o.section("Cache"))
	c.clusterOptions.declare(o.section("Cluster"))
	c.accessOptions.declare(o.section("Access"))
	c.limitOptions.declare(o.section("Limits"))
	c.processOptions.declare(o.section("Process"))
}

type cacheOptions struct {
	L1MaxBytes          size
	Bound               time.Duration
	HitForMiss          time.Duration
	Partitions          int
	NamespacePartitions map[string]int
}

func (c *cacheOptions) declare(o *options) {
	o.size(&c.L1MaxBytes, "l1-max-bytes", "256MiB", "Room of the in-process tier")
	o.duration(&c.Bound, "bound", "1s", "Longest that the in-process tier is trusted without confirmation")
	o.duration(&c.HitForMiss, "hit-for-miss", "3s", "How long nobody waits for who loads a key after a load of it that left nothing, at most 1m (0: always wait)")
	o.number(&c.Partitions, "partitions", "1", "Partitions of a namespace; the same on all nodes (see soracached repartition)")
	o.counts(&c.NamespacePartitions, "namespace-partitions", "Partitions of particular namespaces")
}

type accessOptions struct {
	TLSCert     string
	TLSKey      string
	TLSClientCA string
	AuthTokens  string
	MetricsAuth bool
	ReloadEvery time.Duration
	Insecure    bool
}

func (c *accessOptions) declare(o *options) {
	o.text(&c.TLSCert, "tls-cert", "", "FILE", "Certificate chain, in PEM")
	o.text(&c.TLSKey, "tls-key", "", "FILE", "Its key, in PEM")
	o.text(&c.TLSClientCA, "tls-client-ca", "", "FILE", "Demand client certificates of these authorities")
	o.text(&c.AuthTokens, "auth-tokens", "", "FILE", "Demand a token of this file (see soracached token)")
	o.yes(&c.MetricsAuth, "metrics-auth", "Demand a token with the scope admin for /metrics")
	o.duration(&c.ReloadEvery, "reload-every", "10s", "How often these files are looked at for changes (SIGHUP does at once)")
	o.yes(&c.Insecure, "insecure", "Allow to listen off loopback without TLS or tokens")
}

type limitOptions struct {
	MaxKeyBytes      size
	MaxTagBytes      size
	MaxTags          int
	MaxValueBytes    size
	MaxTTL           time.Duration
	MaxBatch         int
	MaxMessageBytes  size
	MaxAnswerBytes   size
	MaxWait          time.Duration
	MaxInflightBytes size
	MaxConnections   int
	MaxParked        int
	MaxConcurrent    int
	MaxWatches       int
	ReadTimeout      time.Duration
	RequestTimeout   time.Duration
	IdleTimeout      time.Duration
}

func (c *limitOptions) declare(o *options) {
	o.size(&c.MaxKeyBytes, "max-key-bytes", "1024", "Longest key")
	o.size(&c.MaxTagBytes, "max-tag-bytes", "256", "Longest tag")
	o.number(&c.MaxTags, "max-tags", "64", "Most tags of an entry")
	o.size(&c.MaxValueBytes, "max-value-bytes", "8MiB", "Largest value")
	o.duration(&c.MaxTTL, "max-ttl", "720h", "Longest TTL and keep time")
	o.number(&c.MaxBatch, "max-batch", "1000", "Most keys of a request")
	o.size(&c.MaxMessageBytes, "max-message-bytes", "", "Largest request (32MiB, or what a value takes)")
	o.size(&c.MaxAnswerBytes, "max-answer-bytes", "", "Largest batch answer (32MiB)")
	o.duration(&c.MaxWait, "max-wait", "60s", "Longest wait for another's lease")
	o.size(&c.MaxInflightBytes, "max-inflight-bytes", "", "Memory of requests and answers in flight (a quarter of GOMEMLIMIT, the cgroup's limit or the machine's memory)")
	o.number(&c.MaxConnections, "max-connections", "10000", "Most open connections")
	o.number(&c.MaxParked, "max-parked", "100000", "Most reads that wait for leases, and invalidations for acknowledgements")
	o.number(&c.MaxConcurrent, "max-concurrent", "", "Most requests that are worked on at once (no limit)")
	o.number(&c.MaxWatches, "max-watches", "10000", "Most watches at once")
	o.duration(&c.ReadTimeout, "read-timeout", "30s", "How long a request may take to arrive")
	o.duration(&c.RequestTimeout, "request-timeout", "30s", "How long a request may be worked on")
	o.duration(&c.IdleTimeout, "idle-timeout", "2m", "How long a connection may be idle")
}

type processOptions struct {
	DrainDelay   time.Duration
	DrainTimeout time.Duration
	LogLevel     slog.Level
	LogFormat    string
}

func (c *processOptions) declare(o *options) {
	o.duration(&c.DrainDelay, "drain-delay", "", "How long to go on after readiness went off")
	o.duration(&c.DrainTimeout, "drain-timeout", "15s", "How long what is in flight may then take")
	o.level(&c.LogLevel, "log-level", "info", "Least level of the log: debug, info, warn or error")
	o.choice(&c.LogFormat, "log-format", []string{"text", "json"}, "Form of the log")
}

// Run serves until ctx ends, and then drains.
func (c *serveCmd) Run(ctx context.Context, con *console) error {
	log := c.logger(con)
	if err := c.validate(); err != nil {
		return usage(err)
	}
	store, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	err = c.serveOver(ctx, con, log, store)
	return errors.Join(err, store.Close())
}

// serveOver puts a node on the store, and the node on the wire.
func (c *serveCmd) serveOver(ctx context.Context, con *console, log *slog.Logger, store opened) error {
	listener, err := server.Listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	// From here on the listener is closed by whatever returns first: Serve, or
	// this.
	defer func() { _ = listener.Close() }()
	name := gossip.UniqueName(c.nodeName())
	cl, err := c.newCluster(name, c.advertised(listener.Addr()), log)
	if err != nil {
		return err
	}
	err = c.serveNode(ctx, con, log, listener, cl, node.Config{
		Store: store.Store, Name: name, Peers: cl.peers(), L1MaxBytes: int64(c.L1MaxBytes), Bound: c.Bound, Limits: c.limits(),
		Partitions: c.partitionsOf, StoreTimeout: c.L2Timeout, HitForMiss: orNever(c.HitForMiss), Logger: log,
	}, store)
	return errors.Join(err, cl.close())
}

// orNever turns an option of zero, which means never, into the node's word for it.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// serveNode runs the node until ctx ends. Then readiness goes off and the other
// nodes are told, what is in flight is finished, and the node says that it
// leaves.
func (c *serveCmd) serveNode(
	ctx context.Context, con *console, log *slog.Logger, listener net.Listener, cl *cluster, cfg node.Config, store opened,
) error {
	version, revision := buildVersion()
	metrics, err := telemetry.New(telemetry.Build{Version: version, Revision: revision})
	if err != nil {
		return err
	}
	cfg.Observer = metrics.Observer()
	cfg.Budget = c.budget(log)
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	metrics.WatchNode(n.Stats)
	metrics.WatchPartitions(n.Partitions)
	if cl.member != nil {
		metrics.WatchGossip(cl.member.Stats)
	}
	serverConfig := c.serverConfig()
	serverConfig.Budget, serverConfig.StoreScheme = cfg.Budget, store.scheme
	serverConfig.Name, serverConfig.Advertise = cfg.Name, c.advertised(listener.Addr())
	srv, err := server.New(serverConfig, n, server.Hooks{
		Log: log, Began: metrics.Began, Ended: metrics.Ended, Metrics: metrics.Handler(log), Totals: metrics.Totals,
		Members: cl.members(), Draining: cl.draining,
	})
	if err != nil {
		return errors.Join(usage(err), n.Close())
	}
	metrics.WatchServer(srv.Stats)
	if err := con.welcome(serverConfig, listener.Addr(), store.where, cl); err != nil {
		return errors.Join(err, n.Close())
	}
	cl.start(n)
	err = c.serve(ctx, con, log, n, srv, listener, cl)
	cl.leave()
	return errors.Join(err, n.Close())
}

func (c *serveCmd) serve(
	ctx context.Context, con *console, log *slog.Logger, n *node.Node, srv *server.Server, listener net.Listener, cl *cluster,
) error {
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { reloadOn(ctx, con.reload, log, srv.Reload, cl.reload) })
	beside.Go(func() { cl.watchKeys(ctx, c.ReloadEvery) })
	// The first to ask should not have to wait for the store to be made ready.
	beside.Go(func() {
		if err := n.Ready(ctx); err != nil && ctx.Err() == nil {
			log.Warn("the store does not answer yet", "error", err)
		}
	})
	err := srv.Serve(ctx, listener)
	cancel()
	beside.Wait()
	return err
}

// reloadOn reads certificates, tokens and keys again whenever the operator asks.
func reloadOn(ctx context.Context, asked <-chan os.Signal, log *slog.Logger, reloads ...func() error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
		}
		var err error
		for _, reload := range reloads {
			err = errors.Join(err, reload())
		}
		if err != nil {
			log.Error("what could not be read stays as it was", "error", err)
		} else {
			log.Info("certificates, tokens and keys were read again")
		}
	}
}

func (c *serveCmd) validate() error {
	for name, count := range c.NamespacePartitions {
		if err := soracache.CheckNamespace(name); err != nil {
			return fmt.Errorf("--namespace-partitions: %w", err)
		}
		if count < 1 || count > soracache.MaxPartitions {
			return fmt.Errorf("--namespace-partitions: %s=%d: want 1 to %d", name, count, soracache.MaxPartitions)
		}
	}
	if c.Partitions < 1 || c.Partitions > soracache.MaxPartitions {
		return fmt.Errorf("--partitions: %d: want 1 to %d", c.Partitions, soracache.MaxPartitions)
	}
	if err := c.limits().Validate(); err != nil {
		return err
	}
	if n := int64(c.MaxInflightBytes); n != 0 && n < budget.Least {
		return fmt.Errorf("--max-inflight-bytes: %s: at least %s", c.MaxInflightBytes, size(budget.Least))
	}
	if err := c.serverConfig().Validate(); err != nil {
		return err
	}
	_, _, err := c.gossipConfig(c.nodeName(), c.Advertise)
	return err
}

// budget is the memory of requests in flight. Where it is too small for values
// at their limit, the log says so: they are refused.
func (c *serveCmd) budget(log *slog.Logger) *budget.Budget {
	n := int64(c.MaxInflightBytes)
	if n == 0 {
		n = budget.Default()
	}
	b := budget.New(n)
	// As JSON it takes its text, that text once more, and what it stands for.
	if value := int(c.MaxValueBytes); value*4 > b.Share() {
		log.Warn("large values may be refused: one connection may hold an eighth of --max-inflight-bytes",
			"max-inflight-bytes", n, "an eighth", b.Share(), "max-value-bytes", value)
	}
	return b
}

func (c *serveCmd) limits() soracache.Limits {
	return soracache.Limits{
		KeyBytes: int(c.MaxKeyBytes), TagBytes: int(c.MaxTagBytes), Tags: c.MaxTags,
		ValueBytes: int(c.MaxValueBytes), TTL: c.MaxTTL, Batch: c.MaxBatch,
	}
}

func (c *serveCmd) partitionsOf(namespace string) int {
	if n, ok := c.NamespacePartitions[namespace]; ok {
		return n
	}
	return c.Partitions
}

func (c *serveCmd) serverConfig() server.Config {
	version, _ := buildVersion()
	return server.Config{
		Listen: c.Listen, AdminListen: c.AdminListen, Name: c.nodeName(), Version: version,
		TLS:        server.TLSFiles{Cert: c.TLSCert, Key: c.TLSKey, ClientCA: c.TLSClientCA},
		AuthTokens: c.AuthTokens, MetricsAuth: c.MetricsAuth, Insecure: c.Insecure, ReloadEvery: c.ReloadEvery,
		MessageBytes: int(c.MaxMessageBytes), AnswerBytes: int(c.MaxAnswerBytes), MaxWait: c.MaxWait,
		ReadTimeout: c.ReadTimeout, RequestTimeout: c.RequestTimeout, IdleTimeout: c.IdleTimeout,
		MaxConcurrent: c.MaxConcurrent, MaxParked: c.MaxParked, MaxConnections: c.MaxConnections,
		MaxWatches: c.MaxWatches, DrainDelay: c.DrainDelay, DrainTimeout: c.DrainTimeout,
	}
}

func (c *serveCmd) nodeName() string {
	if c.Name != "" {
		return c.Name
	}
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	_, port, _ := net.SplitHostPort(c.Listen)
	return host + ":" + port
}

func (c *serveCmd) logger(con *console) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(con.err, options))
	}
	return slog.New(slog.NewTextHandler(con.err, options))
}

// welcome tells where the node listens, and how to try it.
func (c *console) welcome(cfg server.Config, addr net.Addr, where string, cl *cluster) error {
	base, flags := "http://"+addr.String(), ""
	if cfg.TLS.Cert != "" {
		base = "https://" + addr.String()
		flags += " --cacert CA.pem"
	}
	if cfg.TLS.ClientCA != "" {
		flags += " --cert CLIENT.pem --key CLIENT.key"
	}
	if cfg.AuthTokens != "" {
		flags += ` -H "authorization: Bearer $SORACACHE_TOKEN"`
	}
	call := func(method, body string) string {
		return fmt.Sprintf("  curl%s -H 'content-type: application/json' -d '%s' %s/soracache.v1.CacheService/%s",
			flags, body, base, method)
	}
	if cl.member != nil {
		where += "\nmember " + cfg.Name + " of a cluster; the others reach it on " + cl.member.Address()
	}
	return c.say("soracached serves on %s, over %s\ntry:\n%s\n%s", base, where,
		call("Set", `{"namespace":"shop","key":"k","value":"aGk=","tags":["t"],"ttl":"300s"}`),
		call("Get", `{"namespace":"shop","key":"k"}`))
}
