package redis

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/soracache/soracache"
)

// mode is how several Redis processes belong together.
type mode uint8

const (
	standalone mode = iota
	cluster
	sentinel
)

// endpoint is what a URL says.
type endpoint struct {
	mode               mode
	tls                bool
	addrs              []string
	username, password string
	master             string // sentinel
	db                 int
}

var defaultPorts = map[mode]string{standalone: "6379", cluster: "6379", sentinel: "26379"}

// Schemes are how the URLs of Redis begin, up to the colon.
func Schemes() []string { return slices.Sorted(maps.Keys(schemes)) }

// parseURL reads the forms that [Config] documents. The hosts are taken out
// before net/url sees the rest, because it refuses a list of them. No error
// repeats the password.
func parseURL(raw string) (endpoint, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return endpoint{}, badURL("must begin with redis://, rediss://, redis+cluster:// or redis+sentinel://")
	}
	e, ok := schemes[scheme]
	if !ok {
		return endpoint{}, badURL(fmt.Sprintf("unknown scheme %.20q", scheme))
	}
	if strings.ContainsAny(rest, "?#") {
		return endpoint{}, badURL("takes no parameters")
	}
	authority, path, _ := strings.Cut(rest, "/")
	if strings.Contains(path, "@") {
		return endpoint{}, badURL("a / in the user or the password must be written as %2F")
	}
	var user, hosts string
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, hosts = authority[:i+1], authority[i+1:]
	} else {
		hosts = authority
	}
	u, err := url.Parse("redis://" + user + "host/" + path)
	if err != nil {
		return endpoint{}, badURL("malformed user, password or path")
	}
	e.username = u.User.Username()
	e.password, _ = u.User.Password()
	for host := range strings.SplitSeq(hosts, ",") {
		addr, ok := address(host, defaultPorts[e.mode])
		if !ok {
			// It is not repeated: with an @ forgotten, it is the password.
			return endpoint{}, badURL(fmt.Sprintf("host %d is malformed", len(e.addrs)+1))
		}
		e.addrs = append(e.addrs, addr)
	}
	if e.mode == standalone && len(e.addrs) > 1 {
		return endpoint{}, badURL("several hosts need redis+cluster:// or redis+sentinel://")
	}
	if problem := e.readPath(strings.TrimPrefix(u.Path, "/")); problem != "" {
		return endpoint{}, badURL(problem)
	}
	return e, nil
}

func badURL(problem string) error {
	return fmt.Errorf("%w: Redis URL: %s", soracache.ErrInvalid, problem)
}

var schemes = map[string]endpoint{
	"redis":           {mode: standalone},
	"rediss":          {mode: standalone, tls: true},
	"redis+cluster":   {mode: cluster},
	"rediss+cluster":  {mode: cluster, tls: true},
	"redis+sentinel":  {mode: sentinel},
	"rediss+sentinel": {mode: sentinel, tls: true},
}

// address completes host[:port].
func address(host, defaultPort string) (string, bool) {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, defaultPort
		if inner, ok := strings.CutPrefix(host, "["); ok {
			name, ok = strings.CutSuffix(inner, "]")
			if !ok {
				return "", false
			}
		} else if strings.Contains(host, ":") {
			return "", false
		}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || name == "" {
		return "", false
	}
	return net.JoinHostPort(name, port), true
}

// readPath takes the master's name and the database from the path, and returns
// what is wrong with it.
func (e *endpoint) readPath(path string) string {
	db := path
	if e.mode == sentinel {
		e.master, db, _ = strings.Cut(path, "/")
		if e.master == "" {
			return "redis+sentinel:// needs the master's name as its path"
		}
	}
	if db == "" {
		return ""
	}
	n, err := strconv.Atoi(db)
	if err != nil || n < 0 || strconv.Itoa(n) != db {
		return "the database must be a number"
	}
	if e.mode == cluster && n != 0 {
		return "a cluster has database 0 only"
	}
	e.db = n
	return ""
}

// client returns the go-redis client for an endpoint. go-redis itself repeats
// nothing: the store knows what may run twice.
func (e endpoint) client(c Config) goredis.UniversalClient {
	o := &goredis.UniversalOptions{
		Addrs:                 e.addrs,
		MasterName:            e.master,
		DB:                    e.db,
		Username:              e.username,
		Password:              cmp.Or(c.Password, e.password),
		SentinelUsername:      c.SentinelUsername,
		SentinelPassword:      c.SentinelPassword,
		Dialer:                c.Dial,
		Protocol:              2, // no push messages, hence nothing to look for before each answer
		DisableIdentity:       true,
		MaxRetries:            -1,
		DialTimeout:           c.DialTimeout,
		DialerRetries:         1,
		ReadTimeout:           c.Timeout,
		WriteTimeout:          c.Timeout,
		PoolTimeout:           c.Timeout,
		ContextTimeoutEnabled: true,
		PoolSize:              c.PoolSize,
		PipelinePoolSize:      -1, // one pool for all
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
	if e.tls {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.TLS != nil {
			o.TLSConfig = c.TLS.Clone()
		}
	}
	switch e.mode {
	case cluster:
		options := o.Cluster()
		options.DisableRoutingPolicies = true // every command of ours names its slot
		return goredis.NewClusterClient(options)
	case sentinel:
		return goredis.NewFailoverClient(o.Failover())
	}
	return goredis.NewClient(o.Simple())
}
