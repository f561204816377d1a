// Package embedded is the second tier in one file of one process: an
// [l2.Store] on bbolt, for a node that has no Redis beside it.
//
// It knows bbolt, the file and its directory, and how a ledger, entries, leases
// and tag sets are laid out in it. It must not know nodes, networks or clients.
// DESIGN.md beside it tells the layout and why it is so.
package embedded

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/ratelog"
	"github.com/soracache/soracache/l2"
)

// The defaults and bounds of a [Config].
const (
	// DefaultMaxBytes is the room for data unless asked otherwise: 1 GiB.
	DefaultMaxBytes = 1 << 30
	// MinMaxBytes is the least room that a store works in.
	MinMaxBytes = 4 << 20
	// DefaultLockWait is how long Open waits for another process to let go of
	// the directory.
	DefaultLockWait = time.Second
	// DefaultSweepEvery is how often the store looks for what is due by time.
	DefaultSweepEvery = time.Second
)

// Config says where a store is and how it behaves. Only Dir is required.
type Config struct {
	// Dir is the data directory. It is created if it is not there. One process
	// at a time can use it.
	Dir string
	// MaxBytes bounds the used pages of the file (0: DefaultMaxBytes). Over it
	// the entries closest to their expiry are evicted. The file itself stays
	// below MaxBytes plus [Slack].
	MaxBytes int64
	// Retention bounds what ledgers remember. Fields that are zero have the
	// defaults of [l2.NewRetention].
	Retention l2.Retention
	// LockWait is how long Open waits for another process to let go of the
	// directory (0: DefaultLockWait).
	LockWait time.Duration
	// SweepEvery is how often the store looks for what is due by time (0:
	// DefaultSweepEvery). Negative: never by itself, only when Sweep is called.
	SweepEvery time.Duration
	// Logger is told what an operator should know (nil: nobody is).
	Logger *slog.Logger
	// Now is the store's clock (nil: time.Now).
	Now func() time.Time
	// BootID names this boot of the machine; two boots never have the same. An
	// empty answer means that boots cannot be told apart (nil: ask the system).
	BootID func() string
	// Rand gives the random numbers that epochs are made of (nil: crypto/rand).
	// It is called by one goroutine at a time.
	Rand func() uint64
}

// Validate reports the first field that is not usable. Zero values are.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return fmt.Errorf("%w: the embedded store needs a directory", soracache.ErrInvalid)
	case c.MaxBytes != 0 && c.MaxBytes < MinMaxBytes:
		return fmt.Errorf("%w: the embedded store needs at least %d bytes, not %d", soracache.ErrInvalid, MinMaxBytes, c.MaxBytes)
	case c.MaxBytes > 1<<44:
		return fmt.Errorf("%w: the embedded store holds at most 16 TiB, not %d bytes", soracache.ErrInvalid, c.MaxBytes)
	case c.Retention.TagRecords < 0 || c.Retention.KeyRecords < 0 || c.Retention.Age < 0:
		return fmt.Errorf("%w: retention must not be negative", soracache.ErrInvalid)
	case c.LockWait < 0:
		return fmt.Errorf("%w: the wait for the lock must not be negative", soracache.ErrInvalid)
	}
	return nil
}

func (c Config) withDefaults() Config {
	defaults := l2.NewRetention()
	setDefault(&c.MaxBytes, DefaultMaxBytes)
	setDefault(&c.Retention.TagRecords, defaults.TagRecords)
	setDefault(&c.Retention.KeyRecords, defaults.KeyRecords)
	setDefault(&c.Retention.Age, defaults.Age)
	setDefault(&c.LockWait, DefaultLockWait)
	setDefault(&c.SweepEvery, DefaultSweepEvery)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.BootID == nil {
		c.BootID = bootID
	}
	if c.Rand == nil {
		c.Rand = random
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func random() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// Slack is by how much the file of a store with room for maxBytes may exceed
// it: room for the pages that one transaction writes anew before it can let go
// of the old ones.
func Slack(maxBytes int64) int64 { return min(maxBytes, 8<<20+maxBytes/8) }

// Store is an [l2.Store] in one file. Make one with [Open].
//
// There is one writer: a goroutine that takes requests from a queue and
// performs as many as came together in one transaction. Reads run in the
// goroutines of their callers, each in a read transaction of its own.
type Store struct {
	cfg Config
	log *slog.Logger
	// failures limits what is logged of transactions that failed.
	failures ratelog.Limit
	home     *home
	queue    *queue
	done     chan struct{} // closed when the writer has ended

	// mu is held over every write transaction, from before it begins until its
	// effects on what mu guards have taken place. Whoever holds mu and opens a
	// read transaction therefore sees the very latest.
	mu     sync.Mutex
	leases map[leaseKey]lease
	// leased holds, by partition and key, the names under which there are leases of
	// other schemas than the default one; guarded by mu.
	leased map[leaseKey][]string
	// passed holds that loads left nothing; guarded by mu.
	passed map[leaseKey]passed
	// fullUntil is until when leases are refused because there was no room for an
	// entry; guarded by mu.
	fullUntil time.Time
	// txid is the last committed transaction. A reader that saw this one saw
	// the latest.
	txid int

	followers followers
	numbers   numbers

	// gate is held shared over every read transaction, and alone to replace db
	// or to wait for readers. Lock order: mu, gate.
	gate sync.RWMutex
	db   *database // nil when closed, or when a damaged one could not be replaced

	// The fields below are the writer's own.
	staging    map[uint64]struct{} // chunk ids of values that are being written
	pause      time.Time           // until when not to try writing, after a failure
	pausedFull bool                // because the disk is full
	trimmed    []byte              // the row of the ledger that was last looked at for trimming
	// complainAfter is when the log is next told that entries cannot be stored.
	complainAfter time.Time
	// inspectAfter is when a fault is next taken as a reason to look at the file.
	inspectAfter time.Time

	used    atomic.Int64 // bytes of pages in use, after the last transaction
	suspect atomic.Bool  // a transaction ended in a fault: look at the file
	totals  totals

	closing sync.Once
	closed  error
}

var _ l2.Store = (*Store)(nil)

// totals are the running totals behind [Store.Counters].
type totals struct {
	transactions, corrupt, epochs, evicted atomic.Uint64
}

// errClosed is what every method answers after Close, and while a new file could
// not be begun in the place of a damaged one.
var errClosed = errors.New("the embedded store is not open")

// Open opens the store in a directory, or begins a new one there.
//
// What an earlier process stored is gone on with if that process ended in good
// order, or ended in any way during the same boot of the machine. A damaged
// file is set aside under another name (see [Store.SetAside]) and a new one is
// begun.
func Open(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	home, err := openHome(cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg:     cfg,
		log:     cfg.Logger,
		home:    home,
		queue:   newQueue(),
		done:    make(chan struct{}),
		leases:  make(map[leaseKey]lease),
		leased:  make(map[leaseKey][]string),
		passed:  make(map[leaseKey]passed),
		staging: make(map[uint64]struct{}),
	}
	if s.db, err = home.open(); err != nil {
		home.close()
		return nil, err
	}
	if err = s.begin(); err != nil {
		s.db.close()
		home.close()
		return nil, err
	}
	go s.write()
	return s, nil
}

// begin prepares the database for use: the buckets are there, and leases that
// an orderly end left behind are held again. mu need not be held yet.
func (s *Store) begin() (err error) {
	if s.txid, err = s.db.lastTx(); err != nil {
		return s.failed(err)
	}
	return s.update(func(t *txn) {
		t.createBuckets()
		if s.home.unaware {
			t.forgetSchemas()
		}
		t.takeLeases()
	})
}

// Part implements [l2.Store]: there is one.
func (*Store) Part(l2.Partition) string { return "" }

// Ping implements [l2.Store].
func (s *Store) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	return s.view(func(*txn) {})
}

// Counters implements [l2.Store].
func (s *Store) Counters() l2.Counters {
	return l2.Counters{
		RoundTrips: s.totals.transactions.Load(),
		Corrupt:    s.totals.corrupt.Load(),
		Epochs:     s.totals.epochs.Load(),
		Evicted:    s.totals.evicted.Load(),
		Bytes:      uint64(max(s.used.Load(), 0)),
	}
}

// SetAside returns the paths under which this store has set damaged files
// aside, newest last.
func (s *Store) SetAside() []string { return s.home.damaged() }

// Close finishes what was begun, makes everything durable and lets go of the
// directory. Requests that arrive later are answered as unavailable.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.queue.close()
		<-s.done
		s.closed = s.end()
	})
	return s.closed
}

// end closes the database, the writer having ended, and notes that it was in
// good order.
func (s *Store) end() error {
	defer s.home.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	err := s.update(func(t *txn) { t.leaveLeases() })
	s.gate.Lock()
	defer s.gate.Unlock()
	db := s.db
	s.db = nil
	var txid int
	if err == nil {
		txid, err = db.finish()
	}
	if closeErr := db.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("closing the embedded store in %s: %w", s.cfg.Dir, err)
	}
	return s.home.writeState(state{Clean: true, TxID: txid, Schemas: true})
}

// view runs fn in a read transaction, which sees everything that was committed
// before.
func (s *Store) view(fn func(t *txn)) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.db == nil {
		return unavailable(errClosed)
	}
	s.totals.transactions.Add(1)
	t := &txn{s: s, now: s.cfg.Now()}
	err := s.db.view(func(tx boltTx) {
		t.tx = tx
		fn(t)
	})
	if err != nil {
		return s.failed(err)
	}
	return nil
}

// update runs fn in a write transaction and commits what it changed. If it
// returns an error, nothing changed, leases included. mu is held.
func (s *Store) update(fn func(t *txn)) error {
	db := s.db // only replaced under mu
	if db == nil {
		return unavailable(errClosed)
	}
	s.totals.transactions.Add(1)
	t := &txn{s: s, now: s.cfg.Now(), changes: new(changes)}
	err := db.update(func(tx boltTx) (bool, error) {
		t.tx = tx
		fn(t)
		t.saveLedgers()
		return t.dirty, t.err
	})
	if err != nil {
		t.undoLeases()
		return s.failed(err)
	}
	if t.dirty {
		s.txid = t.tx.id
		s.used.Store(db.used())
	}
	s.totals.add(t.changes)
	return nil
}

func (c *totals) add(ch *changes) {
	c.corrupt.Add(ch.corrupt)
	c.epochs.Add(ch.epochs)
	c.evicted.Add(ch.evicted)
}

// failed returns the error that callers see when a transaction failed.
func (s *Store) failed(err error) error {
	var f *fault
	if errors.As(err, &f) {
		if !s.suspect.Swap(true) {
			s.log.Error("embedded store: a transaction ended in a fault", "dir", s.cfg.Dir, "cause", f.Error(), "stack", string(f.stack))
		}
		s.queue.nudge()
		return unavailable(err)
	}
	err = unavailable(err)
	if f := new(l2.Failure); errors.As(err, &f) && !errors.Is(err, context.Canceled) {
		if omitted, ok := s.failures.Allow(); ok {
			s.log.Warn("embedded store: a transaction failed", "dir", s.cfg.Dir, "error", err, "omitted", omitted)
		}
	}
	return err
}

func unavailable(err error) error {
	if errors.Is(err, soracache.ErrUnavailable) || errors.Is(err, soracache.ErrInvalid) {
		return err
	}
	for _, known := range []error{errFull, errPause, errClosed, errUnsettled, errNoLedger, errStaging} {
		if errors.Is(err, known) {
			return l2.Unavailable(err, known.Error())
		}
	}
	return l2.Unavailable(err, "the embedded store failed")
}
