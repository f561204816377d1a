package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/internal/flight"
)

// The defaults of a [Config].
const (
	// DefaultTable is the name of the table.
	DefaultTable = "soracache_outbox"
	// DefaultPoll is how often a relay looks for rows that nobody told it of.
	DefaultPoll = time.Second
	// DefaultBatch is how many rows a relay takes at a time.
	DefaultBatch = 200
	// DefaultTargets is the most that one call names: what a service takes unless
	// it is told otherwise.
	DefaultTargets = 1000
	// DefaultRetryFirst and DefaultRetryMost bound the wait after a failure.
	DefaultRetryFirst = 100 * time.Millisecond
	DefaultRetryMost  = 10 * time.Second
)

// ErrSetAside is in what [Outbox.Flush] returns if a row that it met was set aside.
var ErrSetAside = errors.New("set aside")

// Invalidator is what a relay needs of a [*client.Client].
type Invalidator interface {
	Invalidate(ctx context.Context, what client.Invalidation) (client.Receipt, error)
}

// Tx is the application's transaction: a [*sql.Tx], or whatever a library makes
// of one.
type Tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Config says where the rows are and how a relay behaves. DB and Dialect must be
// given; zero means the default everywhere else.
type Config struct {
	// DB is the database in which the application commits. What a reader of it
	// sees must be what is committed: no replica that lags, and in SQLite no
	// read_uncommitted.
	DB *sql.DB
	// Dialect is its language.
	Dialect Dialect
	// Table is the table's name, in small letters, digits and underscores; except
	// in SQLite there may be a schema before it and a dot (default
	// [DefaultTable]). A table belongs to one namespace of the cache: all relays
	// on it need a client of that namespace.
	Table string
	// Poll is how often Run looks for rows without being told that there are any:
	// those of processes that have died, mostly (default [DefaultPoll]). Each wait
	// is up to a tenth shorter, so that many processes do not look all at once.
	Poll time.Duration
	// Batch is how many rows are taken at a time (1 to 1000, default
	// [DefaultBatch]). What they name goes out in one call, as far as it fits.
	Batch int
	// Targets is the most keys and tags in one call (default [DefaultTargets]).
	// A row that names more takes several.
	Targets int
	// RetryFirst and RetryMost bound how long Run waits after a failure: the first,
	// twice as much after each further one, up to the second; each time between
	// half of that and all (defaults [DefaultRetryFirst], [DefaultRetryMost]).
	RetryFirst, RetryMost time.Duration
	// Hooks are told what happens.
	Hooks Hooks
	// Logger is told of trouble: when it begins, when it is over, and of every row
	// that is set aside. The default is slog's default logger.
	Logger *slog.Logger
}

// Hooks are told what relays do, for metrics. Every field may be nil. They are
// called inline, perhaps by Run and Flush in turn, and must return quickly.
type Hooks struct {
	// OnRelayed reports rows whose invalidation was recorded and which are gone.
	OnRelayed func(Relayed)
	// OnRetry reports that Run failed, for the attempt-th time in a row, and when
	// it tries again.
	OnRetry func(attempt int, in time.Duration, err error)
	// OnSetAside reports a row that can never be relayed.
	OnSetAside func(id int64, err error)
}

// Relayed is some rows that were relayed.
type Relayed struct {
	// Rows is how many there were, and Targets how many different keys and tags
	// they named ("everything" counts as one).
	Rows, Targets int
	// Lag is how long the relay has been trying: from its first attempt after its
	// last success until now. It is measured on the process's own monotonic clock,
	// so time in which no relay ran is not in it.
	Lag time.Duration
}

// tablePattern is narrower than what databases allow: nothing here needs more,
// and a name that passes can be put into a statement.
var tablePattern = regexp.MustCompile(`^([a-z_][a-z0-9_]{0,49}\.)?[a-z_][a-z0-9_]{0,49}$`)

// Validate reports the first field that is not usable.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.DB == nil:
		return invalid("no database")
	case !c.Dialect.known():
		return invalid("unknown dialect %d", c.Dialect)
	case !tablePattern.MatchString(c.Table):
		return invalid("table %.80q must match %s", c.Table, tablePattern)
	case c.Dialect == SQLite && qualified(c.Table):
		return invalid("table %q: no schema in SQLite", c.Table)
	case c.Poll < time.Millisecond:
		return invalid("poll of %s: at least 1ms", c.Poll)
	case c.Batch < 1 || c.Batch > 1000:
		return invalid("batch of %d: 1 to 1000", c.Batch)
	case c.Targets < 1:
		return invalid("targets must be positive")
	case c.RetryFirst < time.Millisecond || c.RetryMost < c.RetryFirst:
		return invalid("retries after %s to %s", c.RetryFirst, c.RetryMost)
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Table = or(c.Table, DefaultTable)
	c.Poll = or(c.Poll, DefaultPoll)
	c.Batch = or(c.Batch, DefaultBatch)
	c.Targets = or(c.Targets, DefaultTargets)
	c.RetryFirst = or(c.RetryFirst, DefaultRetryFirst)
	c.RetryMost = or(c.RetryMost, max(DefaultRetryMost, c.RetryFirst))
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func or[T comparable](v, standard T) T {
	var zero T
	if v == zero {
		return standard
	}
	return v
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{soracache.ErrInvalid}, args...)...)
}

// Outbox is an outbox: a table and a relay of it. It is safe for concurrent use.
// It holds no resources of its own, so there is nothing to close.
type Outbox struct {
	cache Invalidator
	cfg   Config
	sql   statements

	// nudged holds at most one call of Nudge that Run has not seen.
	nudged chan struct{}
	// flushes lets callers of Flush share what begins after they came.
	flushes flight.Group[struct{}]

	// turn is held by the one batch that is relayed at a time. Two would be
	// right, and do the same work twice.
	turn chan struct{}
	// trying is when a batch was first tried since one last succeeded; zero if
	// the last one did. Whoever has the turn may use it.
	trying time.Time
}

// New returns the outbox in a database. The table must exist by the time that
// the box is used: see [Outbox.Schema].
func New(cache Invalidator, cfg Config) (*Outbox, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	cfg = cfg.withDefaults()
	return &Outbox{
		cache:  cache,
		cfg:    cfg,
		sql:    newStatements(cfg.Dialect, cfg.Table, cfg.Batch),
		nudged: make(chan struct{}, 1),
		turn:   make(chan struct{}, 1),
	}, nil
}

// Invalidate has what is named become unservable if the transaction commits, and
// only then. Nothing is sent until a relay sees the committed row: call
// [Outbox.Flush] after the commit to wait for that, or [Outbox.Nudge] to have it done
// soon, also if the commit returned an error, for it may have happened.
//
// What could never be relayed is refused here with [soracache.ErrInvalid], while
// the application can still roll back.
func (b *Outbox) Invalidate(ctx context.Context, tx Tx, what client.Invalidation) error {
	if _, outside := tx.(*sql.DB); outside {
		return fmt.Errorf("outbox: %w: a database is no transaction: the row would be committed by itself", soracache.ErrInvalid)
	}
	payload, err := encode(what)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	if _, err := tx.ExecContext(ctx, b.sql.insert, payload); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// Nudge has Run look for rows now. It never blocks, and may be called any number
// of times.
func (b *Outbox) Nudge() {
	select {
	case b.nudged <- struct{}{}:
	default: // Run is to look anyway
	}
}

// Schema returns the statements that make the table, each by itself: for a
// migration, or for [Outbox.Create].
func (b *Outbox) Schema() []string { return b.sql.schema }

// Create makes the table if it is not there.
func (b *Outbox) Create(ctx context.Context) error {
	for _, statement := range b.sql.schema {
		if _, err := b.cfg.DB.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("outbox: create: %w", err)
		}
	}
	return nil
}

// Backlog is how many rows there are.
type Backlog struct {
	// Waiting are to be relayed.
	Waiting int64
	// SetAside can never be relayed as they are: see [Outbox.Restore].
	SetAside int64
	// Foreign are of a format that this version does not know. A relay of the
	// version that wrote them will relay them.
	Foreign int64
}

// Backlog counts the rows, for a metric or a test.
func (b *Outbox) Backlog(ctx context.Context) (Backlog, error) {
	counts, err := b.count(ctx)
	if err != nil {
		return Backlog{}, fmt.Errorf("outbox: %w", err)
	}
	return counts, nil
}

// Restore gives rows that were set aside back to the relays, all of them if none
// are named, and returns how many it gave back. That is of use once the reason is
// gone, which the column error tells: a service with narrower limits than the one
// before it, say.
func (b *Outbox) Restore(ctx context.Context, ids ...int64) (int64, error) {
	restored, err := b.restore(ctx, ids)
	if err != nil {
		return 0, fmt.Errorf("outbox: restore: %w", err)
	}
	b.Nudge()
	return restored, nil
}
