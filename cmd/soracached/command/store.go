package command

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/soracache/soracache/internal/stores"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
	"github.com/soracache/soracache/l2/redis"
)

// storeOptions are where values are kept.
type storeOptions struct {
	L2                     string
	L2URLFile              string
	L2PasswordFile         string
	L2MaxBytes             size
	KeyPrefix              string
	L2CA                   string
	L2Cert                 string
	L2Key                  string
	L2PoolSize             int
	L2Timeout              time.Duration
	L2SentinelUser         string
	L2SentinelPassword     string
	L2SentinelPasswordFile string

	// stores are the schemes of this build, besides those of soracached.
	stores []l2.Scheme
}

func (c *storeOptions) declare(o *options) {
	o.text(&c.L2, "l2", "", "STORE", "Where values are kept: embedded:DIR, redis://HOST, redis+cluster://HOST,HOST, redis+sentinel://HOST,HOST/MASTER, or rediss… for TLS ("+defaultStoreText()+")")
	o.text(&c.L2URLFile, "l2-url-file", "", "FILE", "File that holds the URL, in place of --l2: other users can see a command line")
	o.text(&c.L2PasswordFile, "l2-password-file", "", "FILE", "File that holds the password for Redis (that of the URL)")
	o.size(&c.L2MaxBytes, "l2-max-bytes", "", "Room of the embedded store (1GiB)")
	o.text(&c.KeyPrefix, "key-prefix", "", "TEXT", "What every key in Redis begins with (sora:)")
	o.text(&c.L2CA, "l2-ca", "", "FILE", "Authorities to trust for rediss, in PEM (the system's)")
	o.text(&c.L2Cert, "l2-cert", "", "FILE", "Client certificate for rediss, in PEM")
	o.text(&c.L2Key, "l2-key", "", "FILE", "Its key, in PEM")
	o.number(&c.L2PoolSize, "l2-pool-size", "", "Most connections to each Redis server (64)")
	o.duration(&c.L2Timeout, "l2-timeout", "2s", "How long to wait for the store")
	o.text(&c.L2SentinelUser, "l2-sentinel-user", "", "TEXT", "User for the sentinels themselves")
	o.text(&c.L2SentinelPassword, "l2-sentinel-password", "", "TEXT", "Password for the sentinels themselves (other users can see a command line: prefer the environment or a file)")
	o.text(&c.L2SentinelPasswordFile, "l2-sentinel-password-file", "", "FILE", "File that holds it")
}

// opened is a store, and what people are told of it.
type opened struct {
	l2.Store
	scheme string
	where  string
}

// open opens the second tier.
func (c *storeOptions) open(ctx context.Context, log *slog.Logger) (opened, error) {
	cfg, err := c.config(log)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return opened{}, usage(err)
	}
	if stores.IsRedis(cfg.URL) {
		redis.LogClient(log)
	}
	store, err := stores.Open(ctx, cfg)
	return opened{Store: store, scheme: l2.SchemeOf(cfg.URL), where: where(cfg.URL)}, err
}

// config says which store it is. What is for another kind of store is a mistake.
func (c *storeOptions) config(log *slog.Logger) (stores.Config, error) {
	url, password, sentinelPassword, err := c.secrets()
	if err != nil {
		return stores.Config{}, err
	}
	if url == "" {
		dir, err := defaultStoreDir()
		if err != nil {
			return stores.Config{}, err
		}
		url = embeddedScheme + dir
	}
	cfg := stores.Config{URL: url, Schemes: c.stores, Timeout: c.L2Timeout, Logger: log}
	switch redisURL := stores.IsRedis(url); {
	case !redisURL && c.KeyPrefix != "":
		return cfg, errors.New("--key-prefix is for Redis only")
	case !redisURL && password != "":
		return cfg, errors.New("--l2-password-file is for Redis only")
	case !stores.IsEmbedded(url) && c.L2MaxBytes != 0:
		return cfg, errors.New("--l2-max-bytes is for the embedded store only: others bound themselves, such as Redis by maxmemory")
	}
	var config *tls.Config
	if c.L2CA != "" || c.L2Cert != "" || c.L2Key != "" {
		if config, err = clientTLS(c.L2CA, c.L2Cert, c.L2Key); err != nil {
			return cfg, err
		}
	}
	cfg.Embedded = embedded.Config{MaxBytes: int64(c.L2MaxBytes)}
	cfg.Redis = redis.Config{
		Password: password, Prefix: c.KeyPrefix, TLS: config, PoolSize: c.L2PoolSize,
		SentinelUsername: c.L2SentinelUser, SentinelPassword: sentinelPassword,
	}
	return cfg, nil
}

// where says in words where a store is. A URL of a scheme that is not ours may hold
// secrets anywhere.
func where(url string) string {
	switch {
	case stores.IsEmbedded(url):
		return "the embedded store in " + strings.TrimPrefix(url, embeddedScheme)
	case stores.IsRedis(url):
		return withoutPassword(url)
	}
	return "a store of the scheme " + l2.SchemeOf(url)
}

// embeddedScheme is how the URL of an embedded store begins.
const embeddedScheme = stores.Embedded + ":"

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

// secrets are the URL of the store and the passwords that come with it, from
// the options or the files that stand for them.
func (c *storeOptions) secrets() (url, password, sentinelPassword string, err error) {
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
