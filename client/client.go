package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/flight"
)

// How long calls take at most whose caller set no earlier deadline.
const (
	// writeTimeout bounds writes and invalidations.
	writeTimeout = 10 * time.Second
	// closeTimeout bounds how long Close waits for loaders that were told to end.
	closeTimeout = 2 * time.Second
)

// Client is one namespace of a cache. It is safe for concurrent use. Make one
// for each namespace and keep it: what it has seen, and the loads in progress,
// are shared through it.
type Client struct {
	backend      soracache.Backend
	closeBackend func()
	namespace    string
	timeout      time.Duration
	observer     observer
	codecs       codecs
	session      session

	// flights holds a *flight.Group[outcome[T]] for each reflect.Type T, so
	// that a load is shared between all caches of one type.
	flights sync.Map

	// closing ends when Close is called, and with it all that is in progress.
	closing context.Context
	end     context.CancelFunc
	// mu guards closed, and that nothing joins running after it is set.
	mu      sync.RWMutex
	closed  bool
	running sync.WaitGroup
}

// New returns a client of any backend, such as a cache node in the same
// process. The backend stays the caller's: Close does not close it.
func New(backend soracache.Backend, opts ...Option) (*Client, error) {
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return newClient(backend, func() {}, cfg), nil
}

// Dial returns a client of the service at one or more URLs, separated by
// commas: http://10.0.0.1:7070,http://10.0.0.2:7070. It does not connect: a
// service that is absent is noticed, and survived, by the calls that need it.
//
// The URLs are nodes of one cluster. Each client puts them into an order of its
// own, at random, so that clients spread over the nodes, and sends everything
// to the first that is well. Where that one cannot be reached, does not answer
// or is draining, the call goes on to the next, within its caller's time, and
// the node is passed over for a while (a quarter of a second at first, later up
// to five). Only Set is not repeated if the first node may have carried it out.
func Dial(urls string, opts ...Option) (*Client, error) {
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	h, end := httpClient(cfg)
	var members []*member
	for raw := range strings.SplitSeq(urls, ",") {
		base, err := parseURL(raw)
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		members = append(members, &member{url: base, backend: newRemote(h, base, cfg)})
	}
	rand.Shuffle(len(members), func(i, j int) { //nolint:gosec // spread, not secrecy
		members[i], members[j] = members[j], members[i]
	})
	return newClient(&nodes{members: members, log: cfg.log}, end, cfg), nil
}

func newClient(backend soracache.Backend, closeBackend func(), cfg config) *Client {
	c := &Client{
		backend:      backend,
		closeBackend: closeBackend,
		namespace:    cfg.namespace,
		timeout:      cfg.timeout,
		observer:     observer{hooks: cfg.hooks, log: cfg.log},
		codecs:       newCodecs(cfg.standard, cfg.known),
	}
	c.closing, c.end = context.WithCancel(context.Background())
	return c
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
	// look at it: its own reads already reflect it.
	Stamp soracache.Stamps
	// Stragglers names the nodes that did not acknowledge an invalidation which
	// asked for it, and were waited out: they serve nothing from memory until
	// they have caught up.
	Stragglers []string
}

// Invalidate makes all that the invalidation names unservable. Call it after
// the change is committed at the source.
//
// Success means that it is recorded. An error means that it may or may not have
// been: repeating it is safe.
func (c *Client) Invalidate(ctx context.Context, what Invalidation) (Receipt, error) {
	targets := what.targets()
	if len(targets) == 0 {
		return Receipt{}, fmt.Errorf("client: %w: an invalidation that names nothing", soracache.ErrInvalid)
	}
	receipt, err := c.invalidate(ctx, targets, what.Acknowledge)
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
func (c *Client) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if !first {
		return nil
	}
	c.end()
	done := make(chan struct{})
	go func() {
		c.running.Wait()
		close(done)
	}()
	defer c.closeBackend()
	select {
	case <-done:
		return nil
	case <-time.After(closeTimeout):
		return errors.New("client: closed beside a loader that does not heed its context")
	}
}

// enter begins something that Close has to end and to wait for. The context it
// returns ends with the client; leave must be called.
func (c *Client) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return nil, nil, ErrClosed
	}
	c.running.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.closing, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		c.running.Done()
	}, nil
}

// blame says that an error is the client's end, if it is.
func blame(ctx context.Context, err error) error {
	if err != nil && !errors.Is(err, ErrClosed) && context.Cause(ctx) == ErrClosed { //nolint:errorlint // set by enter, never wrapped
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// within runs one request to the backend, no longer than limit.
func (c *Client) within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	ctx, leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return blame(ctx, do(bounded))
}

// read asks the backend for one key, and learns from the answer's stamp. That
// this is a batch of one is the backend's to change: whatever comes here at the
// same time may travel together.
func (c *Client) read(ctx context.Context, read soracache.Read) (soracache.ReadResult, error) {
	carried := c.session.stamps()
	results, err := c.backend.Get(ctx, soracache.GetRequest{
		Namespace: c.namespace,
		Reads:     []soracache.Read{read},
		MinStamp:  carried,
	})
	if err == nil && len(results) != 1 {
		err = fmt.Errorf("%w: %d answers to one read", soracache.ErrUnavailable, len(results))
	}
	if err != nil {
		return soracache.ReadResult{}, err
	}
	c.session.observe(carried, results[0].Stamp)
	return results[0], results[0].Err
}

// write has the backend do one write, and learns from the answer's stamp.
// Writes carry no stamp of their own, so one of another epoch is not taken in.
func (c *Client) write(ctx context.Context, w soracache.Write) (soracache.WriteResult, error) {
	results, err := c.backend.Write(ctx, soracache.WriteRequest{
		Namespace: c.namespace,
		Writes:    []soracache.Write{w},
	})
	if err == nil && len(results) != 1 {
		err = fmt.Errorf("%w: %d answers to one write", soracache.ErrUnavailable, len(results))
	}
	if err != nil {
		return soracache.WriteResult{}, err
	}
	c.session.observe(nil, results[0].Stamp)
	return results[0], results[0].Err
}

func (c *Client) invalidate(ctx context.Context, targets []soracache.Target, acknowledge bool) (receipt Receipt, err error) {
	err = c.within(ctx, writeTimeout, func(ctx context.Context) error {
		result, err := c.backend.Invalidate(ctx, soracache.InvalidateRequest{
			Namespace: c.namespace, Targets: targets, Acknowledge: acknowledge,
		})
		if err != nil {
			var incomplete *soracache.IncompleteError
			if errors.As(err, &incomplete) {
				c.session.observe(nil, incomplete.Stamp)
			}
			return err
		}
		c.session.observe(nil, result.Stamp)
		receipt.Stamp, receipt.Stragglers = result.Stamp, result.Stragglers
		return nil
	})
	return receipt, err
}

// flightsOf returns what shares the loads of all caches of type T.
func flightsOf[T any](c *Client) *flight.Group[outcome[T]] {
	t := reflect.TypeFor[T]()
	g, ok := c.flights.Load(t)
	if !ok {
		g, _ = c.flights.LoadOrStore(t, new(flight.Group[outcome[T]]))
	}
	group, _ := g.(*flight.Group[outcome[T]]) // under T there is no other
	return group
}
