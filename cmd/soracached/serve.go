package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
	"github.com/soracache/soracache/internal/node"
	"github.com/soracache/soracache/internal/server"
	"github.com/soracache/soracache/internal/telemetry"
	"github.com/soracache/soracache/invalidation/gossip"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
	"github.com/soracache/soracache/l2/redis"
)

// serveCmd is what an operator can set of a node. Every option is also an
// environment variable and may stand in the file of --config, under its name.
type serveCmd struct {
	Config string `env:"SORACACHE_CONFIG" placeholder:"FILE" help:"YAML file with options of this command."`

	Listen      string `default:"127.0.0.1:7070" env:"SORACACHE_LISTEN" placeholder:"ADDR" help:"Address to serve on (${default})."`
	AdminListen string `env:"SORACACHE_ADMIN_LISTEN" placeholder:"ADDR" help:"Address for /healthz, /readyz and /metrics, which are then served on it alone (that of --listen)."`

	Name string `env:"SORACACHE_NAME" help:"The node's name (the host's and the port)."`

	storeOptions   `group:"Store"`
	cacheOptions   `group:"Cache"`
	clusterOptions `group:"Cluster"`
	accessOptions  `group:"Access"`
	limitOptions   `group:"Limits"`
	processOptions `group:"Process"`
}

type storeOptions struct {
	L2                 string        `name:"l2" env:"SORACACHE_L2" placeholder:"STORE" help:"Where values are kept: embedded:DIR, redis://HOST, redis+cluster://HOST,HOST, redis+sentinel://HOST,HOST/MASTER, or rediss… for TLS (${store})."`
	L2URLFile          string        `name:"l2-url-file" env:"SORACACHE_L2_URL_FILE" placeholder:"FILE" help:"File that holds the URL, in place of --l2: other users can see a command line."`
	L2PasswordFile     string        `name:"l2-password-file" env:"SORACACHE_L2_PASSWORD_FILE" placeholder:"FILE" help:"File that holds the password for Redis (that of the URL)."`
	L2MaxBytes         size          `name:"l2-max-bytes" env:"SORACACHE_L2_MAX_BYTES" placeholder:"SIZE" help:"Room of the embedded store (1GiB)."`
	KeyPrefix          string        `env:"SORACACHE_KEY_PREFIX" help:"What every key in Redis begins with (sora:)."`
	L2CA               string        `name:"l2-ca" env:"SORACACHE_L2_CA" placeholder:"FILE" help:"Authorities to trust for rediss, in PEM (the system's)."`
	L2Cert             string        `name:"l2-cert" env:"SORACACHE_L2_CERT" placeholder:"FILE" help:"Client certificate for rediss, in PEM."`
	L2Key              string        `name:"l2-key" env:"SORACACHE_L2_KEY" placeholder:"FILE" help:"Its key, in PEM."`
	L2PoolSize         int           `name:"l2-pool-size" default:"0" env:"SORACACHE_L2_POOL_SIZE" placeholder:"N" help:"Most connections to each Redis server (64)."`
	L2Timeout          time.Duration `name:"l2-timeout" default:"2s" env:"SORACACHE_L2_TIMEOUT" help:"How long to wait for the store (${default})."`
	L2SentinelUser     string        `name:"l2-sentinel-user" env:"SORACACHE_L2_SENTINEL_USER" help:"User for the sentinels themselves."`
	L2SentinelPassword string        `name:"l2-sentinel-password" env:"SORACACHE_L2_SENTINEL_PASSWORD" help:"Password for the sentinels themselves (other users can see a command line: prefer the environment or a file)."`

	L2SentinelPasswordFile string `name:"l2-sentinel-password-file" env:"SORACACHE_L2_SENTINEL_PASSWORD_FILE" placeholder:"FILE" help:"File that holds it."`
}

type cacheOptions struct {
	L1MaxBytes          size           `name:"l1-max-bytes" default:"256MiB" env:"SORACACHE_L1_MAX_BYTES" placeholder:"SIZE" help:"Room of the in-process tier (${default})."`
	Bound               time.Duration  `default:"1s" env:"SORACACHE_BOUND" help:"Longest that the in-process tier is trusted without confirmation (${default})."`
	HitForMiss          time.Duration  `default:"3s" env:"SORACACHE_HIT_FOR_MISS" help:"How long nobody waits for who loads a key after a load of it that left nothing, at most 1m (${default}; 0: always wait)."`
	Partitions          int            `default:"1" env:"SORACACHE_PARTITIONS" placeholder:"N" help:"Partitions of a namespace; the same on all nodes (${default}; see soracached repartition)."`
	NamespacePartitions map[string]int `env:"SORACACHE_NAMESPACE_PARTITIONS" placeholder:"NS=N;…" help:"Partitions of particular namespaces."`
}

type accessOptions struct {
	TLSCert     string        `name:"tls-cert" env:"SORACACHE_TLS_CERT" placeholder:"FILE" help:"Certificate chain, in PEM."`
	TLSKey      string        `name:"tls-key" env:"SORACACHE_TLS_KEY" placeholder:"FILE" help:"Its key, in PEM."`
	TLSClientCA string        `name:"tls-client-ca" env:"SORACACHE_TLS_CLIENT_CA" placeholder:"FILE" help:"Demand client certificates of these authorities."`
	AuthTokens  string        `env:"SORACACHE_AUTH_TOKENS" placeholder:"FILE" help:"Demand a token of this file (see soracached token)."`
	MetricsAuth bool          `env:"SORACACHE_METRICS_AUTH" help:"Demand a token with the scope admin for /metrics."`
	ReloadEvery time.Duration `default:"10s" env:"SORACACHE_RELOAD_EVERY" help:"How often these files are looked at for changes (${default}; SIGHUP does at once)."`
	Insecure    bool          `env:"SORACACHE_INSECURE" help:"Allow to listen off loopback without TLS or tokens."`
}

type limitOptions struct {
	MaxKeyBytes      size          `default:"1024" env:"SORACACHE_MAX_KEY_BYTES" placeholder:"SIZE" help:"Longest key (${default})."`
	MaxTagBytes      size          `default:"256" env:"SORACACHE_MAX_TAG_BYTES" placeholder:"SIZE" help:"Longest tag (${default})."`
	MaxTags          int           `default:"64" env:"SORACACHE_MAX_TAGS" placeholder:"N" help:"Most tags of an entry (${default})."`
	MaxValueBytes    size          `default:"8MiB" env:"SORACACHE_MAX_VALUE_BYTES" placeholder:"SIZE" help:"Largest value (${default})."`
	MaxTTL           time.Duration `name:"max-ttl" default:"720h" env:"SORACACHE_MAX_TTL" help:"Longest TTL and keep time (${default})."`
	MaxBatch         int           `default:"1000" env:"SORACACHE_MAX_BATCH" placeholder:"N" help:"Most keys of a request (${default})."`
	MaxMessageBytes  size          `env:"SORACACHE_MAX_MESSAGE_BYTES" placeholder:"SIZE" help:"Largest request (32MiB, or what a value takes)."`
	MaxAnswerBytes   size          `env:"SORACACHE_MAX_ANSWER_BYTES" placeholder:"SIZE" help:"Largest batch answer (32MiB)."`
	MaxWait          time.Duration `default:"60s" env:"SORACACHE_MAX_WAIT" help:"Longest wait for another's lease (${default})."`
	MaxInflightBytes size          `env:"SORACACHE_MAX_INFLIGHT_BYTES" placeholder:"SIZE" help:"Memory of requests and answers in flight (a quarter of GOMEMLIMIT, the cgroup's limit or the machine's memory)."`
	MaxConnections   int           `default:"10000" env:"SORACACHE_MAX_CONNECTIONS" placeholder:"N" help:"Most open connections (${default})."`
	MaxParked        int           `default:"100000" env:"SORACACHE_MAX_PARKED" placeholder:"N" help:"Most reads that wait for leases, and invalidations for acknowledgements (${default})."`
	MaxConcurrent    int           `default:"0" env:"SORACACHE_MAX_CONCURRENT" placeholder:"N" help:"Most requests that are worked on at once (no limit)."`
	MaxWatches       int           `default:"10000" env:"SORACACHE_MAX_WATCHES" placeholder:"N" help:"Most watches at once (${default})."`
	ReadTimeout      time.Duration `default:"30s" env:"SORACACHE_READ_TIMEOUT" help:"How long a request may take to arrive (${default})."`
	RequestTimeout   time.Duration `default:"30s" env:"SORACACHE_REQUEST_TIMEOUT" help:"How long a request may be worked on (${default})."`
	IdleTimeout      time.Duration `default:"2m" env:"SORACACHE_IDLE_TIMEOUT" help:"How long a connection may be idle (${default})."`
}

type processOptions struct {
	DrainDelay   time.Duration `default:"0s" env:"SORACACHE_DRAIN_DELAY" help:"How long to go on after readiness went off (${default})."`
	DrainTimeout time.Duration `default:"15s" env:"SORACACHE_DRAIN_TIMEOUT" help:"How long what is in flight may then take (${default})."`
	LogLevel     slog.Level    `default:"info" env:"SORACACHE_LOG_LEVEL" placeholder:"LEVEL" help:"debug, info, warn or error (${default})."`
	LogFormat    string        `default:"text" enum:"text,json" env:"SORACACHE_LOG_FORMAT" placeholder:"FORMAT" help:"text or json (${default})."`
}

// Run serves until ctx ends, and then drains.
func (c *serveCmd) Run(ctx context.Context, con *console) error {
	log := c.logger(con)
	if err := c.validate(); err != nil {
		return usage(err)
	}
	store, where, err := c.openStore(ctx, log)
	if err != nil {
		return err
	}
	err = c.serveOver(ctx, con, log, store, where)
	return errors.Join(err, store.Close())
}

// serveOver puts a node on the store, and the node on the wire.
func (c *serveCmd) serveOver(ctx context.Context, con *console, log *slog.Logger, store l2.Store, where string) error {
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
		Store: store, Name: name, Peers: cl.peers(), L1MaxBytes: int64(c.L1MaxBytes), Bound: c.Bound, Limits: c.limits(),
		Partitions: c.partitionsOf, StoreTimeout: c.L2Timeout, HitForMiss: orNever(c.HitForMiss), Logger: log,
	}, where)
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
	ctx context.Context, con *console, log *slog.Logger, listener net.Listener, cl *cluster, cfg node.Config, where string,
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
	serverConfig.Budget = cfg.Budget
	serverConfig.Name, serverConfig.Advertise = cfg.Name, c.advertised(listener.Addr())
	srv, err := server.New(serverConfig, n, server.Hooks{
		Log: log, Began: metrics.Began, Ended: metrics.Ended, Metrics: metrics.Handler(log), Totals: metrics.Totals,
		Members: cl.members(), Draining: cl.draining,
	})
	if err != nil {
		return errors.Join(usage(err), n.Close())
	}
	metrics.WatchServer(srv.Stats)
	if err := con.welcome(serverConfig, listener.Addr(), where, cl); err != nil {
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

// openStore opens the second tier, and says in words where it is.
func (c *serveCmd) openStore(ctx context.Context, log *slog.Logger) (l2.Store, string, error) {
	url, password, sentinelPassword, err := c.l2Secrets()
	if err != nil {
		return nil, "", usage(err)
	}
	if url == "" {
		dir, err := defaultStoreDir()
		if err != nil {
			return nil, "", usage(err)
		}
		url = embeddedScheme + dir
	}
	if dir, ok := strings.CutPrefix(url, embeddedScheme); ok {
		if c.KeyPrefix != "" {
			return nil, "", usage(errors.New("--key-prefix is for Redis only"))
		}
		store, err := embedded.Open(embedded.Config{Dir: dir, MaxBytes: int64(c.L2MaxBytes), Logger: log})
		if err != nil {
			return nil, "", err
		}
		return store, "the embedded store in " + dir, nil
	}
	if c.L2MaxBytes != 0 {
		return nil, "", usage(errors.New("--l2-max-bytes is for the embedded store only: Redis has its own maxmemory"))
	}
	var tlsConfig *tls.Config
	if c.L2CA != "" || c.L2Cert != "" || c.L2Key != "" {
		var err error
		if tlsConfig, err = clientTLS(c.L2CA, c.L2Cert, c.L2Key); err != nil {
			return nil, "", usage(err)
		}
	}
	redis.LogClient(log)
	store, err := redis.Open(ctx, redis.Config{
		URL: url, Password: password, Prefix: c.KeyPrefix, TLS: tlsConfig, PoolSize: c.L2PoolSize, Timeout: c.L2Timeout,
		SentinelUsername: c.L2SentinelUser, SentinelPassword: sentinelPassword, Logger: log,
	})
	if err != nil {
		return nil, "", err
	}
	return store, withoutPassword(url), nil
}

const embeddedScheme = "embedded:"

// defaultStoreDir is in the user's cache folder.
func defaultStoreDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the embedded store (%w): name one with --l2 embedded:DIR", err)
	}
	return filepath.Join(dir, "soracache"), nil
}

func defaultStoreText() string {
	dir, err := defaultStoreDir()
	if err != nil {
		return "embedded in the user's cache folder"
	}
	return embeddedScheme + dir
}

// l2Secrets are the URL of the store and the passwords that come with it, from
// the options or the files that stand for them.
func (c *serveCmd) l2Secrets() (url, password, sentinelPassword string, err error) {
	for _, s := range []struct {
		name, given, file string
		to                *string
	}{
		{"--l2", c.L2, c.L2URLFile, &url},
		{"a password", "", c.L2PasswordFile, &password},
		{"--l2-sentinel-password", c.L2SentinelPassword, c.L2SentinelPasswordFile, &sentinelPassword},
	} {
		if *s.to = s.given; s.file == "" {
			continue
		}
		if s.given != "" {
			return "", "", "", fmt.Errorf("%s is given, and a file for it too: %s", s.name, s.file)
		}
		if *s.to, err = readSecret(s.file); err != nil {
			return "", "", "", err
		}
	}
	if password != "" && (url == "" || strings.HasPrefix(url, embeddedScheme)) {
		return "", "", "", errors.New("--l2-password-file is for Redis only")
	}
	return url, password, sentinelPassword, nil
}

// readSecret reads a file of one line, whose end may be missing.
func readSecret(name string) (string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("%s: want one line", name)
	}
	return secret, nil
}

// withoutPassword leaves out what comes before the hosts of a URL, however it is
// malformed.
func withoutPassword(url string) string {
	scheme, rest, found := strings.Cut(url, "://")
	if !found {
		scheme, rest = "", url
	} else {
		scheme += "://"
	}
	return scheme + rest[strings.LastIndexByte(rest, '@')+1:]
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
