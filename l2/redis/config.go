package redis

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"regexp"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// The defaults of [Config].
const (
	DefaultPrefix      = "sora:"
	DefaultPoolSize    = 64
	DefaultDialTimeout = 2 * time.Second
	DefaultTimeout     = 2 * time.Second
)

// Config says where Redis is and how to use it. Only URL is required.
type Config struct {
	// URL is one of
	//
	//	redis://[user:password@]host[:port][/db]
	//	redis+cluster://[user:password@]host[:port][,host[:port]...]
	//	redis+sentinel://[user:password@]host[:port][,host[:port]...]/master[/db]
	//
	// or the same with rediss in place of redis, for TLS. The user is one of
	// Redis' ACL users; a password alone is the default user's.
	URL string
	// Password is used in place of one in the URL, for those who keep it apart.
	Password string
	// SentinelUsername and SentinelPassword are for the sentinels themselves.
	SentinelUsername, SentinelPassword string
	// Prefix comes before every key; default [DefaultPrefix]. It may hold
	// letters, digits and any of . _ / : -
	Prefix string
	// Retention bounds what ledgers remember; zero means [l2.NewRetention].
	// All that share one Redis should have the same.
	Retention l2.Retention
	// TLS is how to speak TLS; the URL must say that it is spoken. Nil means
	// the system's authorities and no client certificate.
	TLS *tls.Config
	// PoolSize is the most connections to each server; default
	// [DefaultPoolSize].
	PoolSize int
	// DialTimeout and Timeout bound a connection attempt and an operation, in
	// addition to the caller's context; defaults [DefaultDialTimeout] and
	// [DefaultTimeout].
	DialTimeout, Timeout time.Duration
	// Dial replaces how connections are made; nil means net.Dialer (with TLS
	// on top, if the URL says so). Whoever sets it does TLS itself.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger receives warnings; nil means none.
	Logger *slog.Logger
	// Random gives the candidates for new epochs; nil means math/rand/v2. It is
	// called for every operation, from many goroutines.
	Random func() uint64
}

var prefixPattern = regexp.MustCompile(`^[A-Za-z0-9._/:-]{1,64}$`)

// Validate reports the first field that is not usable. It touches no network.
func (c Config) Validate() error {
	e, err := parseURL(c.URL)
	switch {
	case err == nil && c.Password != "" && e.password != "":
		return fmt.Errorf("%w: there is a password in the URL, and another apart from it", soracache.ErrInvalid)
	case err != nil:
		return err
	case c.TLS != nil && !e.tls:
		return fmt.Errorf("%w: TLS is set up, and the URL is not of rediss: what is sent would not be encrypted", soracache.ErrInvalid)
	}
	return c.withDefaults().validateRest()
}

// validateRest is Validate for what does not concern the way to Redis.
func (c Config) validateRest() error {
	switch {
	case !prefixPattern.MatchString(c.Prefix):
		return fmt.Errorf("%w: key prefix %.80q must be 1 to 64 letters, digits or . _ / : -", soracache.ErrInvalid, c.Prefix)
	case c.Retention.TagRecords < 1 || c.Retention.KeyRecords < 1:
		return fmt.Errorf("%w: a ledger must keep at least one record", soracache.ErrInvalid)
	case c.Retention.Age < time.Millisecond || c.Retention.Age > 24*time.Hour:
		return fmt.Errorf("%w: retention must be 1ms to 24h", soracache.ErrInvalid)
	case c.PoolSize < 1:
		return fmt.Errorf("%w: pool size must be positive", soracache.ErrInvalid)
	case c.DialTimeout < 0 || c.Timeout < 0:
		return fmt.Errorf("%w: timeouts must not be negative", soracache.ErrInvalid)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.Retention == (l2.Retention{}) {
		c.Retention = l2.NewRetention()
	}
	if c.PoolSize == 0 {
		c.PoolSize = DefaultPoolSize
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = DefaultDialTimeout
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Random == nil {
		c.Random = rand.Uint64
	}
	return c
}
