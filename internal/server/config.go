package server

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/budget"
)

// DefaultListen is where a server listens unless told otherwise.
const DefaultListen = "127.0.0.1:7070"

// Config is what an operator sets. The zero value of each field means its
// default; [Config.Validate] says what is not usable.
type Config struct {
	// Listen is the address to serve on, as host:port. Off loopback it takes
	// TLS and AuthTokens, or Insecure.
	Listen string
	// AdminListen, if not empty, is the address on which /healthz, /readyz and
	// /metrics are served, and then only there. It needs what Listen needs: off
	// loopback TLS and AuthTokens, or Insecure; and the same certificates.
	AdminListen string
	// Name and Version are what ClusterService tells of the node.
	Name, Version string
	// StoreScheme is how the URL of the node's second tier begins. It is told by
	// ClusterService.Stats, and on /readyz to those with the scope admin.
	StoreScheme string
	// Advertise is the URL by which clients and operators reach the node. It is
	// told by ClusterService.Members, and not used otherwise.
	Advertise string

	// TLS makes the server speak TLS; without it, it speaks cleartext.
	TLS TLSFiles
	// AuthTokens is a file of tokens (see auth.Parse). Without it everybody
	// may do everything.
	AuthTokens string
	// MetricsAuth demands a token with the scope admin for /metrics. It needs
	// AuthTokens.
	MetricsAuth bool
	// Insecure permits to listen off loopback without TLS or without tokens.
	Insecure bool
	// ReloadEvery is how often the files above are looked at for a change
	// (default 10s); negative: only [Server.Reload] reads them again.
	ReloadEvery time.Duration

	// MessageBytes is the largest request, as sent and inflated alike. The
	// default is 32 MiB, or what one value at its limit takes in JSON (4/3 of
	// it) and 1 MiB for the rest, if that is more. It is a bound on memory, and
	// so far below what a full batch of full values would need: a batch of
	// large values is sent in pieces.
	MessageBytes int
	// AnswerBytes is about the largest answer to a BatchGet (default 32 MiB);
	// past it the results end early, but there is always one.
	AnswerBytes int
	// MaxWait is the longest wait that a read may ask for (default 60s).
	MaxWait time.Duration

	// ReadTimeout is how long a request may take to arrive (default 30s), of
	// which its headers may take 10s.
	ReadTimeout time.Duration
	// RequestTimeout is how long a request may be worked on (default 30s),
	// beyond the wait that it asks for.
	RequestTimeout time.Duration
	// IdleTimeout is how long a connection may stay open unused (default 2m).
	IdleTimeout time.Duration
	// MaxConcurrent is how many requests may be worked on at once, health checks
	// aside; more are answered unavailable. Who still sends its body, waits for a
	// lease or for acknowledgements, or is sent its answer does not count. Fills, renewals, releases and invalidations have
	// a quarter beyond it. Zero: no limit.
	MaxConcurrent int
	// MaxParked is how many reads may wait for leases, and invalidations for
	// acknowledgements, at once (default 100,000). More reads are answered
	// unavailable; more invalidations wait in places of MaxConcurrent.
	MaxParked int
	// MaxConnections is how many connections may be open at once (default
	// 10,000). At the limit a new one takes the place of one that is idle; if
	// none is, it is closed.
	MaxConnections int
	// Budget is the memory of requests and answers in flight (default:
	// [budget.Default]).
	Budget *budget.Budget
	// MaxWatches is how many watches may be open at once (default 10,000); more
	// are answered resource_exhausted. They do not count as requests in flight.
	MaxWatches int

	// DrainDelay is how long the server goes on as before after it has told
	// load balancers that it is not ready (default 0).
	DrainDelay time.Duration
	// DrainTimeout is how long what is in flight may then take (default 15s).
	DrainTimeout time.Duration
}

const (
	headerTimeout = 10 * time.Second
	// writeGrace is what the sending of an answer may take beyond everything
	// that came before it.
	writeGrace = 30 * time.Second
	// envelope is what a request may have beside its message: the framing of
	// gRPC, and what gzip adds to what it cannot compress.
	envelope = 64 << 10

	defaultMessageBytes = 32 << 20
	defaultAnswerBytes  = 32 << 20
)

// Validate reports the first thing that is not usable, and whether the
// combination is safe: off loopback a server needs TLS and tokens, unless it
// is told to be insecure. It reads no file and resolves no name, so that a
// host name other than localhost counts as off loopback.
func (c Config) Validate() error {
	c = c.withDefaults(soracache.DefaultLimits())
	if err := c.TLS.validate(); err != nil {
		return err
	}
	if c.MetricsAuth && c.AuthTokens == "" {
		return errors.New("a token is demanded for /metrics, but there is no tokens file")
	}
	for _, d := range []struct {
		what string
		is   time.Duration
	}{
		{"longest wait", c.MaxWait}, {"read timeout", c.ReadTimeout}, {"request timeout", c.RequestTimeout},
		{"idle timeout", c.IdleTimeout}, {"drain timeout", c.DrainTimeout},
	} {
		if d.is <= 0 {
			return fmt.Errorf("the %s must be positive: %s", d.what, d.is)
		}
	}
	switch {
	case c.DrainDelay < 0:
		return fmt.Errorf("the drain delay must not be negative: %s", c.DrainDelay)
	case c.MessageBytes < 1<<10:
		return fmt.Errorf("the largest request must be at least 1 KiB: %d", c.MessageBytes)
	case c.AnswerBytes < 1<<10:
		return fmt.Errorf("the largest answer must be at least 1 KiB: %d", c.AnswerBytes)
	case c.MaxWatches < 0:
		return fmt.Errorf("the limit of watches must not be negative: %d", c.MaxWatches)
	case c.MaxParked < 0:
		return fmt.Errorf("the limit of waiting reads must not be negative: %d", c.MaxParked)
	case c.MaxConnections < 0:
		return fmt.Errorf("the limit of connections must not be negative: %d", c.MaxConnections)
	case c.MaxConcurrent < 0:
		return fmt.Errorf("the limit of concurrent requests must not be negative: %d", c.MaxConcurrent)
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil || port == "" {
		return fmt.Errorf("the address to listen on must be host:port: %q", c.Listen)
	}
	if err := c.checkExposure(c.Listen, isLoopback(host)); err != nil || c.AdminListen == "" {
		return err
	}
	if host, port, err = net.SplitHostPort(c.AdminListen); err != nil || port == "" {
		return fmt.Errorf("the address for health and metrics must be host:port: %q", c.AdminListen)
	}
	return c.checkExposure(c.AdminListen, isLoopback(host))
}

// checkExposure refuses to serve off loopback without TLS and tokens.
func (c Config) checkExposure(address string, loopback bool) error {
	var missing []string
	if c.TLS.Cert == "" {
		missing = append(missing, "TLS (--tls-cert and --tls-key)")
	}
	if c.AuthTokens == "" {
		missing = append(missing, "tokens (--auth-tokens)")
	}
	if loopback || c.Insecure || len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("refusing to listen on %s, which is not loopback, without %s; --insecure overrides this",
		address, strings.Join(missing, " and "))
}

// withDefaults returns the configuration with every zero replaced.
func (c Config) withDefaults(limits soracache.Limits) Config {
	setDefault(&c.Listen, DefaultListen)
	setDefault(&c.ReloadEvery, 10*time.Second)
	setDefault(&c.MessageBytes, max(defaultMessageBytes, limits.ValueBytes/3*4+1<<20))
	setDefault(&c.AnswerBytes, defaultAnswerBytes)
	setDefault(&c.MaxWait, time.Minute)
	setDefault(&c.ReadTimeout, 30*time.Second)
	setDefault(&c.RequestTimeout, 30*time.Second)
	setDefault(&c.IdleTimeout, 2*time.Minute)
	setDefault(&c.DrainTimeout, 15*time.Second)
	setDefault(&c.MaxWatches, 10_000)
	setDefault(&c.MaxParked, 100_000)
	setDefault(&c.MaxConnections, 10_000)
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// sendBytes is the largest message that the server sends, as a last line of
// defence: what AnswerBytes permits, and a value on top, in JSON.
func (c Config) sendBytes(limits soracache.Limits) int {
	return 2*(c.AnswerBytes+limits.ValueBytes) + 8<<20
}
