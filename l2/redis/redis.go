package redis

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/ratelog"
	"github.com/soracache/soracache/l2"
)

// Store is the [l2.Store] on Redis. It starts no goroutines of its own.
type Store struct {
	config Config
	client goredis.UniversalClient
	// Exactly one of these is set: the client by what it is.
	single  *goredis.Client
	cluster *goredis.ClusterClient
	// owned tells whether Close closes the client.
	owned bool

	// index stands for the index of all ledgers: see lua/due.lua.
	index *partition

	mu sync.RWMutex // guards the maps
	// partitions are the last that were used, and older those that were used
	// before these: at most mostPartitions each.
	partitions, older map[l2.Partition]*partition
	servers           map[string]*server // by address

	began time.Time
	// mapped: the client of a cluster knows which master has which slots, so that
	// it looks that up without asking.
	mapped atomic.Bool

	roundTrips, corrupt, epochs atomic.Uint64
	warnPolicy, warnRunID       sync.Once
	failures                    ratelog.Limit // of the log
}

var _ l2.Store = (*Store)(nil)

// Open returns the store at a URL. It does not wait for Redis: a store whose
// Redis is down answers soracache.ErrUnavailable until it is back. Only a
// configuration that can never work is an error here.
func Open(_ context.Context, c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	e, err := parseURL(c.URL)
	if err != nil {
		return nil, err
	}
	s, err := New(e.client(c.withDefaults()), c)
	if err != nil {
		return nil, err
	}
	s.owned = true
	return s, nil
}

// New returns the store behind a client that the caller made, and closes after
// the store. The fields of the configuration that say how to reach Redis are
// ignored. The client should respect contexts (ContextTimeoutEnabled); it need
// not have its retries switched off.
func New(client goredis.UniversalClient, c Config) (*Store, error) {
	c = c.withDefaults()
	if err := c.validateRest(); err != nil {
		return nil, err
	}
	templates() // takes longer than a request may
	s := &Store{
		config:     c,
		client:     client,
		began:      time.Now(),
		partitions: make(map[l2.Partition]*partition),
		servers:    make(map[string]*server),
		index:      newIndex(c.Prefix),
	}
	switch client := client.(type) {
	case *goredis.Client:
		s.single = client
	case *goredis.ClusterClient:
		s.cluster = client
	default:
		return nil, fmt.Errorf("%w: a client of type %T cannot keep a partition in one place", soracache.ErrInvalid, client)
	}
	return s, nil
}

// Ping implements [l2.Store]. In a cluster it is enough that one master answers.
// The first Ping also loads the scripts into all that do, so that no request has
// to wait for that.
func (s *Store) Ping(ctx context.Context) error {
	if s.cluster == nil {
		if err := s.ping(ctx, s.single); err != nil {
			return failure(err)
		}
		return nil
	}
	if s.anyAnswers(ctx, s.met()) {
		return nil
	}
	var some atomic.Bool
	err := s.cluster.ForEachMaster(ctx, func(ctx context.Context, client *goredis.Client) error {
		err := s.ping(ctx, client)
		if err == nil {
			some.Store(true)
		}
		return err
	})
	if err != nil && !some.Load() {
		return failure(err)
	}
	return nil
}

func (s *Store) ping(ctx context.Context, client *goredis.Client) error {
	if _, asked, err := s.process(ctx, client, nil); asked || err != nil {
		return err
	}
	s.roundTrips.Add(1)
	return client.Ping(ctx).Err()
}

// pingPatience is how long a Ping waits for the masters that have answered before.
// Whoever hangs must not make it take long.
const pingPatience = 100 * time.Millisecond

// anyAnswers pings masters, and reports whether one of them answers soon.
func (s *Store) anyAnswers(ctx context.Context, masters []*goredis.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, pingPatience)
	defer cancel()
	var some atomic.Bool
	var wg sync.WaitGroup
	for _, client := range masters {
		wg.Go(func() {
			if s.ping(ctx, client) == nil {
				some.Store(true)
			}
		})
	}
	wg.Wait()
	return some.Load()
}

// met returns the clients of the masters that have answered before.
func (s *Store) met() (clients []*goredis.Client) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, at := range s.servers {
		if client := at.client.Load(); client != nil {
			clients = append(clients, client)
		}
	}
	return clients
}

// Counters implements [l2.Store].
func (s *Store) Counters() l2.Counters {
	return l2.Counters{
		RoundTrips: s.roundTrips.Load(),
		Corrupt:    s.corrupt.Load(),
		Epochs:     s.epochs.Load(),
	}
}

// Close implements [l2.Store]. It closes the client if the store made it.
func (s *Store) Close() error {
	if !s.owned {
		return nil
	}
	return s.client.Close()
}

// LogClient has go-redis, which has one logger for the whole process, log to
// logger instead of standard error. It is for main functions and tests.
func LogClient(logger *slog.Logger) {
	goredis.SetLogger(&clientLogger{Logger: logger})
}

// clientLogger writes one line in a time: go-redis has one for every connection
// that it cannot make, and without Redis that is one for every request.
type clientLogger struct {
	*slog.Logger
	limit ratelog.Limit
}

// Printf is what go-redis calls.
func (l *clientLogger) Printf(ctx context.Context, format string, args ...any) {
	if omitted, ok := l.limit.Allow(); ok {
		l.InfoContext(ctx, "go-redis", "message", fmt.Sprintf(format, args...), "omitted", omitted)
	}
}

// Epochs below the first that is never used, and positions up to the most that
// a caller can show, are exact in Lua, some records later too.
const (
	firstUnusedEpoch = 1 << 52
	mostPosition     = 1<<53 - 1<<32 - 1
)

// newCall returns a call of one who shows nothing.
func (s *Store) newCall(p l2.Partition, script script) *call {
	return s.newCallBy(l2.Registration{}, p, soracache.Stamp{}, script)
}

// newCallBy returns a call on a partition, refused if what is asked can never be.
func (s *Store) newCallBy(follower l2.Registration, p l2.Partition, since soracache.Stamp, script script) *call {
	c := &call{partition: s.partition(p), script: script, since: since, follower: follower}
	c.err = follower.Validate()
	switch {
	case c.partition.invalid != nil:
		c.err = c.partition.invalid
	case since.Epoch == 0:
		c.since = soracache.Stamp{}
	case since.Epoch >= firstUnusedEpoch || since.Position > mostPosition:
		c.err = fmt.Errorf("%w: stamp out of bounds", soracache.ErrInvalid)
	}
	return c
}

// maxName is the longest key or tag that fits the bytes of entries and deltas.
const maxName = 32 << 10

func checkNames(what string, names ...string) error {
	for _, name := range names {
		if len(soracache.KeyOf(name)) > maxName {
			return fmt.Errorf("%w: %s of %d bytes", soracache.ErrInvalid, what, len(name))
		}
		if what != "key" {
			continue
		}
		if err := l2.CheckName(name); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) sinceCall(req l2.SinceRequest) *call {
	if !req.Guest {
		return s.newCallBy(req.Register, req.Partition, req.Since, scriptSince)
	}
	since := req.Since
	if since.Epoch >= firstUnusedEpoch {
		since = soracache.Stamp{Epoch: firstUnusedEpoch} // as unknown as any other
	}
	since.Position = min(since.Position, mostPosition)
	c := s.newCallBy(l2.Registration{}, req.Partition, soracache.Stamp{}, scriptSince)
	c.since, c.argv = since, []any{"guest"}
	return c
}

// Since implements [l2.Store].
func (s *Store) Since(ctx context.Context, reqs []l2.SinceRequest) []l2.SinceAnswer {
	calls := make([]*call, len(reqs))
	for i, req := range reqs {
		calls[i] = s.sinceCall(req)
	}
	s.run(ctx, calls)
	answers := make([]l2.SinceAnswer, len(reqs))
	for i, c := range calls {
		a, err := s.decode(c)
		answers[i] = l2.SinceAnswer{Delta: a.delta, Err: err}
		if err == nil {
			answers[i].Clock = time.UnixMicro(a.now)
		}
	}
	return answers
}
