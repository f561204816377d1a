package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/suspend"
	"github.com/soracache/soracache/internal/virtual"
)

// DefaultTimeout is how long GetOrSet lets the service take, beyond any wait
// for somebody else's loader, before it falls back to its own.
const DefaultTimeout = 250 * time.Millisecond

// An Option configures a client: of [New] and of [Dial].
type Option func(*config)

func (o Option) dial(c *config) { o(c) }

// A DialOption configures a client of [Dial]. Each [Option] is one.
type DialOption interface{ dial(*config) }

// dialOption is one that is no Option.
type dialOption func(*config)

func (o dialOption) dial(c *config) { o(c) }

func init() { //nolint:gochecknoinits // package clienttest and simulations have no other way in that is not public
	virtual.Option = func(s virtual.Settings) any {
		return Option(func(c *config) { c.virtual = c.virtual.With(s) })
	}
}

// config is what options say.
type config struct {
	namespace string
	timeout   time.Duration
	hooks     Hooks
	log       *slog.Logger
	standard  Codec
	known     []Codec

	interceptors []Interceptor
	// parkedEntries and parkedBytes bound what is parked.
	parkedEntries int
	parkedBytes   int64

	// nearBytes or nearEntries bounds the near cache; both zero: there is none.
	nearBytes, nearEntries int64
	bound                  time.Duration
	virtual                virtual.Settings

	// For Dial alone.
	http  *http.Client
	tls   *tls.Config
	token func(context.Context) (string, error)
	route RouteBy
	// static: the members are not learned from the cluster.
	static bool
}

func newConfig[O DialOption](opts []O) (config, error) {
	cfg := config{
		namespace: soracache.DefaultNamespace,
		timeout:   DefaultTimeout,
		log:       slog.Default(),
		standard:  JSON{},
		nearBytes: DefaultNearBytes,
		bound:     DefaultBound,

		parkedEntries: DefaultParkedEntries,
		parkedBytes:   DefaultParkedBytes,
		virtual:       virtual.Settings{Random: rand.Float64, Suspended: suspend.Time},
	}
	for _, o := range opts {
		o.dial(&cfg)
	}
	return cfg, cfg.validate()
}

func (cfg *config) validate() error {
	if err := soracache.CheckNamespace(cfg.namespace); err != nil {
		return err
	}
	if cfg.standard == nil || slices.Contains(cfg.known, nil) {
		return errNoCodec
	}
	if cfg.timeout <= 0 {
		return fmt.Errorf("%w: timeout must be positive", soracache.ErrInvalid)
	}
	if cfg.parkedEntries < 0 || cfg.parkedBytes < 0 {
		return fmt.Errorf("%w: what is parked cannot be less than nothing", soracache.ErrInvalid)
	}
	if cfg.nearEntries < 0 {
		return fmt.Errorf("%w: a near cache cannot hold %d entries", soracache.ErrInvalid, cfg.nearEntries)
	}
	if cfg.bound < 10*time.Millisecond || cfg.bound > time.Minute {
		return fmt.Errorf("%w: the bound must be 10ms to 1 min", soracache.ErrInvalid)
	}
	if cfg.http != nil && cfg.tls != nil {
		return fmt.Errorf("%w: HTTPClient and TLSConfig exclude each other: configure TLS in the HTTP client", soracache.ErrInvalid)
	}
	return nil
}

// Namespace chooses the namespace of all keys and tags of the client. The
// default is "default".
func Namespace(name string) Option { return func(c *config) { c.namespace = name } }

// Timeout bounds how long GetOrSet lets the service take, beyond any wait for
// somebody else's loader, before it falls back to its own loader; it also
// bounds reads without a loader. A caller with a deadline spends at most half
// of what is left of it on this. Where much is read or stored, it is put off for as
// long as 256 KiB move within 250 ms, up to the caller's deadline; but nobody waits
// longer for a value to be stored. The default is [DefaultTimeout].
func Timeout(d time.Duration) Option { return func(c *config) { c.timeout = d } }

// NearBytes bounds the memory of the client's near cache, which keeps decoded
// values in the application's own memory: 1 MiB at least. What a decoded value
// takes is estimated by its encoded length. The default is [DefaultNearBytes].
// See [NoNear] for none at all, and [Policy].Near for keeping some values out.
func NearBytes(n int64) Option {
	return func(c *config) { c.nearBytes, c.nearEntries = max(n, 1), 0 }
}

// NearEntries bounds the near cache by the number of its entries instead.
func NearEntries(n int64) Option {
	return func(c *config) { c.nearBytes, c.nearEntries = 0, n }
}

// NoNear does without a near cache: every read asks the service.
func NoNear() Option { return func(c *config) { c.nearBytes, c.nearEntries = 0, 0 } }

// Bound is the longest that the near cache trusts itself without confirmation:
// how old a value that was invalidated elsewhere can be at worst that is still
// read here. It is 10 ms to 1 min, and no use below the bound of the nodes. The
// default is [DefaultBound].
func Bound(b time.Duration) Option { return func(c *config) { c.bound = b } }

// WithHooks has the client tell hooks what it does, in their order: each of them,
// beside those that it was given before.
func WithHooks(hooks ...Hooks) Option {
	return func(c *config) {
		for _, h := range hooks {
			c.hooks = c.hooks.and(h)
		}
	}
}

// Logger chooses where the client reports trouble that an operator should know
// of. The default is slog's default logger; nil silences it.
func Logger(log *slog.Logger) Option {
	return func(c *config) {
		if log == nil {
			log = slog.New(slog.DiscardHandler)
		}
		c.log = log
	}
}

// DefaultCodec chooses what values are encoded with that are neither bytes, nor
// strings, nor proto messages. The default is [JSON].
func DefaultCodec(codec Codec) Option { return func(c *config) { c.standard = codec } }

// KnownCodecs lets the client read entries in further encodings, such as one
// that an application is moving away from.
func KnownCodecs(codecs ...Codec) Option {
	return func(c *config) { c.known = append(c.known, codecs...) }
}

// A CallOption changes one call; given to [NewCache] or [NewLoadingCache], it
// holds for every call of that cache. Callers that share a load share the first
// one's options.
type CallOption func(*settings)

// settings are what holds for one call.
type settings struct {
	policy Policy
	codec  Codec // nil: by type
	clone  any   // a func(T) T; nil: callers share values
	// decoded means that callers are not given what a loader returned, but what the
	// codec gives back of it.
	decoded bool
	many    manySettings
	schema  string
	// interceptors are the cache's own.
	interceptors *chain
}

// with returns the settings changed by the options of one call.
func (s settings) with(opts []CallOption) settings {
	for _, o := range opts {
		o(&s)
	}
	return s
}

func (s settings) validate() error {
	if err := s.readable(); err != nil {
		return err
	}
	return s.policy.Validate()
}

// readable refuses what no value can be read by.
func (s settings) readable() error {
	if s.codec == nil {
		return errNoCodec
	}
	return soracache.CheckSchema(s.schema)
}

var errNoCodec = fmt.Errorf("%w: no codec", soracache.ErrInvalid)

// WithPolicy replaces the policy.
func WithPolicy(p Policy) CallOption { return func(s *settings) { s.policy = p } }

// WithSchema names the form of the values, such as "order/2". Values of another
// schema under the same keys are misses, and are left alone: each schema has values
// of its own, loaded and kept beside those of the others. So versions of an
// application whose values differ can run side by side, each with its own name. The
// key is still one: who invalidates it, by itself, by a tag or with everything, or
// sets it in any schema, does so in all of them.
//
// A name is at most [soracache.MaxSchemaBytes] bytes of UTF-8 without control
// characters, and there should be few of them: a client keeps a little for each, and
// of one key no more than [soracache.MaxSchemas] are kept at a time. Empty is the
// schema of those who name none. All nodes have to know of schemas: against one of a
// version that does not, reads behave as if the service were down.
func WithSchema(schema string) CallOption { return func(s *settings) { s.schema = schema } }

// WithTags adds tags to those of the policy.
func WithTags(tags ...string) CallOption {
	return func(s *settings) { s.policy = s.policy.WithTags(tags...) }
}

// WithTTL changes the TTL. Zero means not to store. See [Policy].TTL.
func WithTTL(ttl time.Duration) CallOption {
	return func(s *settings) { s.policy = s.policy.WithTTL(ttl) }
}

// WithCodec encodes with another codec than the type's own.
func WithCodec(codec Codec) CallOption {
	return func(s *settings) { s.codec = codec }
}

// AdjustPolicy changes the policy:
//
//	client.AdjustPolicy(func(p *client.Policy) { p.Wait = time.Second })
func AdjustPolicy(change func(*Policy)) CallOption {
	return func(s *settings) { s.policy = s.policy.With(change) }
}

// ServeDecoded has what a loader returned encoded and decoded before anybody gets
// it: the callers who waited for it, and the near cache, as well as everybody later.
// Without it, the process that loads a value goes on with the loader's own object,
// and all others have what the codec gives back, which may differ.
//
// A value that cannot be encoded, or not be decoded again, is returned as it is, and
// not stored. Caches of one type share their loads and their memory: where they have
// keys in common, give it to all of them.
func ServeDecoded() CallOption { return func(s *settings) { s.decoded = true } }

// CloneWith gives each caller a copy of its own, made by clone, rather than the
// value that all of them share: it may then be changed. T must be the type of
// the cache's values; calls of any other fail.
func CloneWith[T any](clone func(T) T) CallOption {
	return func(s *settings) { s.clone = clone }
}
