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
	"github.com/soracache/soracache/client/internal/batches"
	"github.com/soracache/soracache/client/internal/deadline"
	"github.com/soracache/soracache/client/internal/near"
	"github.com/soracache/soracache/internal/flight"
)

// How long calls take at most whose caller set no earlier deadline.
const (
	// writeTimeout bounds writes and invalidations.
	writeTimeout = 10 * time.Second
	// closeTimeout bounds how long Close waits for loaders that were told to end, and
	// for fills that were cut off.
	closeTimeout = 2 * time.Second
	// closeFills bounds how long Close waits for what is stored behind callers: as
	// long as the most of it takes at the least progress that it has to make, and a
	// little.
	closeFills = maxFillsBehind/deadline.Bytes*deadline.Within + 6*time.Second
	// longestTimeout is for ever, and leaves room for what is added to it.
	longestTimeout = math.MaxInt64 / 2
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
	near         *near.Cache          // nil: there is none
	ahead        func() time.Duration // of the real clock; nil: not at all
	holder       uint64               // whose leases are this client's; random
	// background bounds the loaders that nobody waits for.
	background slots
	// short bounds what is done behind callers and is soon over, and storing counts
	// the bytes of values that are stored behind them.
	short   slots
	storing atomic.Int64
	// loads holds the *loads of each schema.
	loads sync.Map
	// replaced are the keys of which an entry that could not be read was replaced of
	// late.
	replaced pauses
	waits    waits

	// kinds holds a *kind[T] for each reflect.Type T and schema that there is a cache
	// of, by kindKey.
	kinds  sync.Map
	spaces atomic.Uint32 // the last space given to a kind
	// partitions is how many the namespace has; zero until an answer has told.
	partitions atomic.Uint32

	// closing ends when Close is called, and with it all that is in progress.
	closing context.Context
	end     context.CancelFunc
	// mu guards closed, and that nothing joins running after it is set.
	mu      sync.RWMutex
	closed  bool
	running sync.WaitGroup
	// filling are those of them that store values behind their callers. They outlast
	// closing, and are cut off by cut, which ends cutting.
	filling sync.WaitGroup
	cutting context.Context
	cut     context.CancelFunc
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
		backend:      backend,
		closeBackend: closeBackend,
		namespace:    cfg.namespace,
		timeout:      min(cfg.timeout, longestTimeout),
		observer:     observer{hooks: cfg.hooks, log: cfg.log},
		codecs:       newCodecs(cfg.standard, cfg.known),
		ahead:        cfg.virtual.Ahead,
		holder:       rand.Uint64(), //nolint:gosec // to be told from others, not a secret
	}
	var err error
	if c.near, err = newNear(c, cfg); err != nil {
		closeBackend()
		return nil, fmt.Errorf("client: near cache: %w", err)
	}
	c.closing, c.end = context.WithCancel(context.Background())
	c.cutting, c.cut = context.WithCancel(context.Background())
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
	// look at it: its own reads already reflect it. See [WithStamp] for others.
	Stamp Stamp
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
		c.session.cool() // also if it failed: it may have been recorded
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
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if !first {
		return nil
	}
	began := time.Now()
	c.end()
	over, stored := make(chan struct{}), make(chan struct{})
	go func() {
		c.running.Wait()
		close(over)
	}()
	go func() {
		c.filling.Wait()
		close(stored)
	}()
	defer c.closeBackend()
	defer c.near.Close()
	defer c.cut()
	lost := c.endFills(stored)
	moment := min(max(c.timeout, deadline.Within), closeTimeout) // for what comes after a fill
	if doneWithin(max(closeTimeout-time.Since(began), moment), over) {
		return lost
	}
	return errors.Join(lost, errors.New("client: closed beside calls that did not end, such as of a loader that does not heed its context"))
}

// endFills waits for what is being stored behind callers, and cuts off what takes too
// long.
func (c *Client) endFills(stored <-chan struct{}) error {
	if doneWithin(closeFills, stored) {
		return nil
	}
	bytes := c.storing.Load()
	c.cut()
	leases := "were handed back, if the service could be told"
	if !doneWithin(closeTimeout, stored) {
		leases = "run out"
	}
	return fmt.Errorf("client: closed before values of %d bytes were stored, which took longer than %s: they are not, and their leases %s", bytes, closeFills, leases)
}

// doneWithin tells whether something is done within so long.
func doneWithin(limit time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// enter begins something that Close has to end and to wait for. The context it
// returns ends with the client; leave must be called.
func (c *Client) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	if err := c.admit(); err != nil {
		return nil, nil, err
	}
	ctx, end := c.bound(ctx)
	return ctx, func() {
		end()
		c.leave()
	}, nil
}

// admit begins something that Close has to wait for. It ends with leave.
func (c *Client) admit() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return ErrClosed
	}
	c.running.Add(1)
	return nil
}

func (c *Client) leave() { c.running.Done() }

// admitFill does the same for what is stored behind its caller. It ends with
// leaveFill.
func (c *Client) admitFill() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return ErrClosed
	}
	c.running.Add(1)
	c.filling.Add(1)
	return nil
}

func (c *Client) leaveFill() {
	c.filling.Done()
	c.running.Done()
}

// bound returns a context that ends with the client too.
func (c *Client) bound(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if c.closing.Err() != nil {
		cancel(ErrClosed)
		return ctx, func() {}
	}
	stop := context.AfterFunc(c.closing, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// inBackground runs something that ends with the client.
func (c *Client) inBackground(do func(context.Context)) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.closed {
		c.running.Go(func() { do(c.closing) })
	}
}

// blame says that an error is the client's end, if it is. The contexts of what is
// in progress end one after the other, so one that is not over yet may not know.
func (c *Client) blame(ctx context.Context, err error) error {
	ended := context.Cause(ctx) == ErrClosed || //nolint:errorlint // set by bound, never wrapped
		c.closing.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled))
	if err != nil && !errors.Is(err, ErrClosed) && ended {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// within runs one request to the backend, no longer than limit.
func (c *Client) within(ctx context.Context, limit time.Duration, do func(context.Context) error) error {
	if err := c.admit(); err != nil {
		return err
	}
	defer c.leave()
	limited := c.limited(ctx, limit)
	defer limited.End()
	return c.blame(limited, do(limited))
}

// read asks the backend for one key, and learns from the answer. That this is a
// batch of one is the backend's to change: whatever comes here at the same time
// may travel together.
func (c *Client) read(ctx context.Context, read soracache.Read, asked *near.Inflight) (soracache.ReadResult, error) {
	results, seen, err := c.get(ctx, []soracache.Read{read}, false)
	if err != nil {
		return soracache.ReadResult{}, err
	}
	r := &results[0]
	c.learnRead(ctx, seen, r, asked)
	return *r, r.Err
}

// get makes one request for reads, under all that the client has seen, which it
// returns as well.
func (c *Client) get(ctx context.Context, reads []soracache.Read, accept bool) (results []soracache.ReadResult, seen soracache.Stamps, err error) {
	seen = c.session.stamps()
	for i := range reads {
		reads[i].Holder = c.holder
	}
	req := soracache.GetRequest{Namespace: c.namespace, Reads: reads, MinStamp: c.least(ctx, seen), AcceptUnconfirmed: accept}
	c.demandApart(&req)
	results, err = c.backend.Get(ctx, req)
	if err == nil && len(results) != len(reads) {
		err = batches.Miscounted(len(results), len(reads))
	}
	return results, seen, err
}

// demandApart has each read ask for what was seen of its own partition alone, once
// it is known which that is.
func (c *Client) demandApart(req *soracache.GetRequest) {
	partitions := int(c.partitions.Load())
	if partitions <= 1 || len(req.MinStamp) == 0 {
		return
	}
	for i := range req.Reads {
		r := &req.Reads[i]
		r.MinStamp = req.MinStamp.Of(soracache.PartitionOf(r.Key, partitions))
	}
	req.MinStamp = nil
}

// learnRead takes in what an answer to a read shows, when the client had seen so
// much as it asked. Of an answer with a lease the stamp is the lease's, and
// confirms nothing.
func (c *Client) learnRead(ctx context.Context, seen soracache.Stamps, r *soracache.ReadResult, asked *near.Inflight) {
	if r.Err != nil {
		return
	}
	if n := uint32(r.Partitions); n > 0 && n != c.partitions.Load() {
		c.partitions.Store(n)
	}
	c.session.observe(seen, r.Stamp)
	c.carry(ctx, r.Stamp)
	if r.Lease == (soracache.Lease{}) && !r.Unconfirmed {
		asked.Confirm(r.Stamp, r.Age)
	}
}

// write has the backend do one write, and learns from the answer.
func (c *Client) write(ctx context.Context, w soracache.Write, asked *near.Inflight) (soracache.WriteResult, error) {
	results, seen, err := c.put(ctx, []soracache.Write{w})
	if err != nil {
		return soracache.WriteResult{}, err
	}
	r := &results[0]
	c.learnWrite(ctx, seen, r, asked)
	return *r, r.Err
}

// put makes one request for writes, and returns what the client had seen before.
func (c *Client) put(ctx context.Context, writes []soracache.Write) (results []soracache.WriteResult, seen soracache.Stamps, err error) {
	seen = c.session.stamps()
	results, err = c.backend.Write(ctx, soracache.WriteRequest{Namespace: c.namespace, Writes: writes})
	if err == nil && len(results) != len(writes) {
		err = batches.Miscounted(len(results), len(writes))
	}
	return results, seen, err
}

// learnWrite takes in what the answer to a write shows, which was done after all that
// the client had seen when it asked.
func (c *Client) learnWrite(ctx context.Context, seen soracache.Stamps, r *soracache.WriteResult, asked *near.Inflight) {
	if r.Err != nil {
		return
	}
	c.session.observe(seen, r.Stamp)
	c.carry(ctx, r.Stamp)
	asked.Confirm(r.Stamp, 0)
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
		stamp, stragglers, err := c.invalidateAtOnce(ctx, limit, part)
		if n := len(part.Targets); n > 1 && errors.Is(err, soracache.ErrTooLarge) {
			most = n / 2
			continue
		}
		receipt.Stamp = receipt.Stamp.Merge(stampOf(c.namespace, stamp))
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

func (c *Client) invalidateAtOnce(ctx context.Context, limit time.Duration, req soracache.InvalidateRequest) (stamp soracache.Stamps, stragglers []string, err error) {
	asked, seen := c.near.BeginAll(), c.session.stamps()
	err = c.within(ctx, limit, func(ctx context.Context) error {
		result, err := c.backend.Invalidate(ctx, req)
		var incomplete *soracache.IncompleteError
		switch {
		case err == nil:
			asked.Confirm(result.Stamp, 0)
		case errors.As(err, &incomplete):
			result.Stamp = incomplete.Stamp
		}
		// If it failed, it may have been recorded all the same.
		c.near.Refuse(req.Targets, result.Stamp)
		c.session.observe(seen, result.Stamp)
		c.carry(ctx, result.Stamp)
		stamp, stragglers = result.Stamp, result.Stragglers
		return err
	})
	return stamp, stragglers, err
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
	// refreshes are their loads ahead of time.
	refreshes refreshes
	// failing are the keys whose loader failed of late.
	failing pauses
	// pace is how long the loaders take that belong to no cache.
	pace pace
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
			made.flights[i].Closing = c.closing.Done()
		}
		k, _ = c.kinds.LoadOrStore(key, made)
	}
	kind, _ := k.(*kind[T]) // under T there is no other
	return kind
}
