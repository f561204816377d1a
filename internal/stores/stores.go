// Package stores opens the second tier that a URL names: one of soracache's own, or one
// of the schemes that it is given. What a program lets its user choose of each, it knows
// by itself; the package knows the engines, and whose a URL is.
package stores

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/embedded"
	"github.com/soracache/soracache/l2/redis"
)

// Embedded is the scheme of embedded stores: what follows the colon is a folder.
const Embedded = "embedded"

// Config says which store to open, and how.
type Config struct {
	URL string
	// Schemes are those of the program's user, besides embedded and those of Redis.
	Schemes []l2.Scheme
	// Redis and Embedded are how a store of that kind is opened, but for its URL or
	// folder, and what follows here.
	Redis    redis.Config
	Embedded embedded.Config
	// Timeout is how long to wait for the store (default 2 s), and Logger is told what an operator
	// should know; nil means nobody is.
	Timeout time.Duration
	Logger  *slog.Logger
}

// IsEmbedded tells whether a URL is of an embedded store.
func IsEmbedded(url string) bool { return l2.SchemeOf(url) == Embedded }

// IsRedis tells whether a URL is of a Redis.
func IsRedis(url string) bool { return slices.Contains(redis.Schemes(), l2.SchemeOf(url)) }

// Validate reports what is wrong with the configuration, as far as that can be told
// without opening anything: all of it, but for what a scheme of the user's thinks of its
// URLs.
func (c Config) Validate() error {
	seen := append(redis.Schemes(), Embedded)
	for _, s := range c.Schemes {
		if err := s.Validate(); err != nil {
			return err
		}
		if slices.Contains(seen, s.Name) {
			return fmt.Errorf("%w: the scheme %s is there already", soracache.ErrInvalid, s.Name)
		}
		seen = append(seen, s.Name)
	}
	switch {
	case IsEmbedded(c.URL):
		return c.embedded().Validate()
	case IsRedis(c.URL):
		return c.redis().Validate()
	case c.scheme() == nil:
		// The URL is not repeated: it may hold a password.
		slices.Sort(seen)
		return fmt.Errorf("%w: the store's URL has the scheme %.20q, which is none of %s",
			soracache.ErrInvalid, l2.SchemeOf(c.URL), strings.Join(seen, ", "))
	}
	return nil
}

// Open opens the store.
func Open(ctx context.Context, c Config) (l2.Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	switch {
	case IsEmbedded(c.URL):
		return opened(embedded.Open(c.embedded()))
	case IsRedis(c.URL):
		return opened(redis.Open(ctx, c.redis()))
	}
	logger := c.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	scheme := c.scheme()
	store, err := scheme.Open(ctx, c.URL, l2.OpenOptions{Timeout: cmp.Or(c.Timeout, redis.DefaultTimeout), Logger: logger})
	if err == nil && store == nil {
		err = fmt.Errorf("%w: the scheme %s opened nothing", soracache.ErrUnavailable, scheme.Name)
	}
	return store, err
}

// opened keeps a nil pointer from becoming a store that is not nil.
func opened[S l2.Store](store S, err error) (l2.Store, error) {
	if err != nil {
		return nil, err
	}
	return store, nil
}

// scheme is the one of the user's that a URL has, if it has one.
func (c Config) scheme() *l2.Scheme {
	name := l2.SchemeOf(c.URL)
	i := slices.IndexFunc(c.Schemes, func(s l2.Scheme) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &c.Schemes[i]
}

func (c Config) redis() redis.Config {
	r := c.Redis
	r.URL, r.Timeout, r.Logger = c.URL, c.Timeout, c.Logger
	return r
}

func (c Config) embedded() embedded.Config {
	e := c.Embedded
	_, e.Dir, _ = strings.Cut(c.URL, ":")
	e.Logger = c.Logger
	return e
}
