package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client/internal/bounded"
	"github.com/soracache/soracache/client/internal/lifetime"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/client/internal/pacing"
	"github.com/soracache/soracache/client/internal/service"
	"github.com/soracache/soracache/client/stamps"
	"github.com/soracache/soracache/internal/flight"
)

// How long calls take at most whose caller set no earlier deadline.
const (
	// writeTimeout bounds writes and invalidations.
	writeTimeout = 10 * time.Second
	// longestTimeout is for ever, and leaves room for what is added to it.
	longestTimeout = math.MaxInt64 / 2
)

// Client is one namespace of a cache. It is safe for concurrent use. Make one
// for each namespace and keep it: what it has seen, and the loads in progress,
// are shared through it.
type Client struct {
	closeBackend func()
	namespace    string
	timeout      time.Duration
	observer     observer
	codecs       codecs
	near         *near.Cache          // nil: there is none
	ahead        func() time.Duration // of the real clock; nil: not at all
	service      *service.Service
	// background bounds the loaders that nobody waits for.
	background *pacing.Slots
	// life is what goes on in it.
	life *lifetime.Lifetime
	// loads holds the *loads of each schema.
	loads sync.Map
	// replaced are the keys of which an entry that could not be read was replaced of
	// late.
	replaced pacing.Cooldowns
	// interceptors are the client's, and parked is what they or a cache's have kept aside.
	interceptors *chain
	parked       *bounded.List[parkedKey, Parked]

	// kinds holds a *kind[T] for each reflect.Type T and schema that there is a cache
	// of, by kindKey.
	kinds  sync.Map
	spaces atomic.Uint32 // the last space given to a kind
}

// New returns a client of any backend, such as a cache node in the same
// process. The backend stays the caller's: Close does not close it.
func New(backend soracache.Backend, opts ...Option) (*Client, error) {
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return newClient(backend, func() {}, cfg)
}

func newClient(backend soracache.Backend, closeBackend func(), cfg config) (*Client, error) {
	c := &Client{
		closeBackend: closeBackend,
		namespace:    cfg.namespace,
		timeout:      min(cfg.timeout, longestTimeout),
		observer:     observer{hooks: cfg.hooks, log: cfg.log},
		codecs:       newCodecs(cfg.standard, cfg.known),
		ahead:        cfg.virtual.Ahead,
		background:   pacing.NewSlots(maxBackground),
		interceptors: chained(cfg.interceptors, runCaches, storeByCaches),
		parked:       bounded.New[parkedKey, Parked](cfg.parkedEntries, cfg.parkedBytes),
	}
	c.life = lifetime.New(c.observer.surviveBehind)
	c.service = service.New(service.Config{
		Backend: backend, Namespace: c.namespace, Timeout: c.timeout, Life: c.life, Carrier: carrying{c.namespace, c},
		Holder: rand.Uint64(), //nolint:gosec // to be told from others, not a secret
		Reset:  c.observer.nearReset,
	})
	var err error
	if c.near, err = newNear(c.service, cfg); err != nil {
		closeBackend()
		return nil, fmt.Errorf("client: near cache: %w", err)
	}
	c.service.Near = c.near
	return c, nil
}

// Invalidation names what is to become unservable, in every tier and on every
// node: some keys, all values that carry one of some tags, or everything in the
// namespace.
type Invalidation struct {
	Keys []string
	Tags []string
	All  bool
	// Acknowledge asks that success be reported only once no node can serve the
	// old values from its memory any more. That takes one more exchange between
	// the nodes, or up to their bound where one of them does not answer. If the
	// context ends before, the error is a [*soracache.IncompleteError]: the
	// invalidation is recorded then.
	Acknowledge bool
	// Settle is how far the source may lag behind what was committed, such as a
	// replica that is read from: what is computed within that time after the
	// invalidation is returned to who asked for it, and not kept. It is at most
	// [soracache.MaxSettle].
	Settle time.Duration
}

func (i Invalidation) targets() []soracache.Target {
	targets := make([]soracache.Target, 0, len(i.Keys)+len(i.Tags)+1)
	for _, k := range i.Keys {
		targets = append(targets, soracache.Key(k))
	}
	for _, t := range i.Tags {
		targets = append(targets, soracache.Tag(t))
	}
	if i.All {
		targets = append(targets, soracache.Everything())
	}
	return targets
}

// Receipt proves that an invalidation was recorded.
type Receipt struct {
	// Stamp is where it is recorded. The client that got the receipt needs not
	// look at it: its own reads already reflect it. See package stamps for others.
	Stamp stamps.Stamp
	// Stragglers names the nodes that did not acknowledge an invalidation which
	// asked for it, and were waited out: they serve nothing from memory until
	// they have caught up.
	Stragglers []string
}

// Invalidate makes all that the invalidation names unservable. Call it after
// the change is committed at the source.
//
// Success means that it is recorded. An error means that it may or may not have
// been, or in part: repeating it is safe.
//
// What it names of one partition is recorded in one step, so no reader of that
// partition finds a part of it invalidated, up to [MostAtOnce] names. More are
// recorded in several steps, one after the other, and so are fewer if the service
// takes less in one request. Without a deadline it gives up once no step has succeeded
// for 10 s.
func (c *Client) Invalidate(ctx context.Context, what Invalidation) (Receipt, error) {
	targets := what.targets()
	if len(targets) == 0 {
		return Receipt{}, fmt.Errorf("client: %w: an invalidation that names nothing", soracache.ErrInvalid)
	}
	if err := what.check(); err != nil {
		return Receipt{}, fmt.Errorf("client: invalidate: %w", err)
	}
	ctx, end := c.observer.start(ctx, OpInvalidate, "")
	receipt, err := c.invalidate(ctx, soracache.InvalidateRequest{Targets: targets, Acknowledge: what.Acknowledge, Settle: what.Settle})
	if what.All {
		c.service.Cool() // also if it failed: it may have been recorded
	}
	end(Outcome{Err: err})
	c.observer.invalidated(what, err)
	if err != nil {
		return Receipt{}, fmt.Errorf("client: invalidate: %w", err)
	}
	return receipt, nil
}

// InvalidateTags makes every value unservable that carries one of the tags.
func (c *Client) InvalidateTags(ctx context.Context, tags ...string) (Receipt, error) {
	return c.Invalidate(ctx, Invalidation{Tags: tags})
}

// Remove makes the values of the keys unservable.
func (c *Client) Remove(ctx context.Context, keys ...string) (Receipt, error) {
	return c.Invalidate(ctx, Invalidation{Keys: keys})
}

// Clear makes everything in the namespace unservable.
func (c *Client) Clear(ctx context.Context) (Receipt, error) {
	return c.Invalidate(ctx, Invalidation{All: true})
}

// Close ends the client. Loaders that are running are told to end by their
// context, and their leases are handed back; their callers, and every later
// call, get [ErrClosed].
//
// Close waits for loaders for 2 s at most. It waits for large values that are being
// stored behind their callers for as long as they move, 1 MiB/s at least, which is
// 70 s at most. An error says what was not over: such values are then not stored, and
// their leases are handed back, if the service can be told; a loader goes on, and its
// lease runs out.
func (c *Client) Close() error {
	return c.life.Close(c.timeout, func() {
		c.near.Close()
		c.closeBackend()
	})
}

// MostAtOnce is how many names an invalidation records in one step, unless the
// service takes fewer in one request.
const MostAtOnce = 1000

// invalidate makes as many requests as the targets need, for as long as no more than
// the time of a write goes by without one that succeeds. One that fails does not keep
// the others from being made: what they name is unservable all the same. Once one was
// recorded and not acknowledged in time, the others are recorded alone. A service that
// takes fewer names at once than a request has is sent halves from then on.
func (c *Client) invalidate(ctx context.Context, req soracache.InvalidateRequest) (receipt Receipt, err error) {
	req.Namespace = c.namespace
	var failed []error
	most, until := MostAtOnce, time.Now().Add(writeTimeout)
	for rest := req.Targets; len(rest) > 0; {
		limit := time.Until(until)
		if limit <= 0 {
			c.near.Refuse(rest, nil) // as of any that may have been recorded
			failed = append(failed, fmt.Errorf("%w: %d of %d names were not sent", soracache.ErrUnavailable, len(rest), len(req.Targets)))
			break
		}
		part := req
		part.Targets = rest[:min(most, len(rest))]
		stamp, stragglers, err := c.service.Invalidate(ctx, limit, part)
		if n := len(part.Targets); n > 1 && errors.Is(err, soracache.ErrTooLarge) {
			most = n / 2
			continue
		}
		receipt.Stamp = receipt.Stamp.Merge(stamps.Of(c.namespace, stamp))
		receipt.Stragglers = append(receipt.Stragglers, stragglers...)
		var incomplete *soracache.IncompleteError
		if recorded := errors.As(err, &incomplete); err == nil || recorded {
			until, req.Acknowledge = time.Now().Add(writeTimeout), req.Acknowledge && !recorded
		}
		if err != nil {
			failed = append(failed, err)
		}
		if errors.Is(err, soracache.ErrTooLarge) {
			break // not even one name has room
		}
		rest = rest[len(part.Targets):]
	}
	slices.Sort(receipt.Stragglers)
	receipt.Stragglers = slices.Compact(receipt.Stragglers)
	return receipt, oneOf(failed)
}

// oneOf returns the error of several that tells most: one that says more than
// that an invalidation is recorded and not acknowledged yet, if there is one.
func oneOf(errs []error) error {
	for _, err := range errs {
		var incomplete *soracache.IncompleteError
		if !errors.As(err, &incomplete) {
			return err
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs[0]
}

// kind is what all caches of one type have in common, in one schema.
type kind[T any] struct {
	schema string
	// loads are shared with the kinds of other types in the schema.
	loads *loads
	// space tells their keys from others' in the near cache.
	space uint32
	// flights share their loads, in each of the ways to share one.
	flights [shareWays]flight.Group[outcome[T]]
	// demands are what the callers carry who share them.
	demands demands
	// refreshing are the keys that are being loaded ahead of time, and fresh those that are
	// fresh enough, or in somebody else's care.
	refreshing pacing.Busy
	fresh      pacing.Cooldowns
	// failing are the keys whose loader failed of late.
	failing pacing.Cooldowns
	// took is how long the loaders take that belong to no cache.
	took pacing.LoadTime
}

type kindKey struct {
	of     reflect.Type
	schema string
}

func kindOf[T any](c *Client, schema string) *kind[T] {
	key := kindKey{reflect.TypeFor[T](), schema}
	k, ok := c.kinds.Load(key)
	if !ok {
		shared, _ := c.loads.LoadOrStore(schema, new(loads))
		all, _ := shared.(*loads) // nothing else is in there
		made := &kind[T]{schema: schema, loads: all, space: c.spaces.Add(1)}
		for i := range made.flights {
			made.flights[i].Closing = c.life.Closing()
		}
		k, _ = c.kinds.LoadOrStore(key, made)
	}
	kind, _ := k.(*kind[T]) // under T there is no other
	return kind
}

// now is the time on the client's clock.
func (c *Client) now() time.Time {
	if c.ahead != nil {
		return time.Now().Add(c.ahead())
	}
	return time.Now()
}
