package outbox_test

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// fakeDB is the part of a PostgreSQL server that an outbox meets: transactions
// that see what is committed, and ids that are taken when a row is inserted and
// never given back, so that rows may appear in another order than that of their
// ids. It knows the package's statements and no others.
type fakeDB struct {
	mu    sync.Mutex
	rows  map[int64]fakeRow // committed
	last  int64             // the id that was given last
	reads int               // SELECTs of rows

	// fail, if set, may refuse a statement, named by its first word.
	fail func(verb string) error
	// before is called without the lock before a statement is carried out.
	before func(verb string)
}

type fakeRow struct {
	format  int64
	payload string
	err     any
}

// openFake returns the server and a pool of connections to it.
func openFake(t *testing.T) (*fakeDB, *sql.DB) {
	f := &fakeDB{rows: map[int64]fakeRow{}}
	db := sql.OpenDB(f)
	t.Cleanup(func() { _ = db.Close() })
	return f, db
}

func (f *fakeDB) set(change func(*fakeDB)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// waiting returns the ids of the rows that are to be relayed.
func (f *fakeDB) waiting() []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.visible(1)
}

func (f *fakeDB) visible(format int64) []int64 {
	var ids []int64
	for id, r := range f.rows {
		if r.format == format {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// insert commits a row as somebody else would.
func (f *fakeDB) insert(format int64, payload string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	f.rows[f.last] = fakeRow{format: format, payload: payload}
	return f.last
}

func (f *fakeDB) Connect(context.Context) (driver.Conn, error) { return &fakeConn{db: f}, nil }
func (f *fakeDB) Driver() driver.Driver                        { return nil }

// fakeConn is a connection. Within a transaction, its inserts are its own.
type fakeConn struct {
	db      *fakeDB
	begun   bool
	pending map[int64]fakeRow
}

func (c *fakeConn) Prepare(string) (driver.Stmt, error) { return nil, errors.New("not prepared") }
func (c *fakeConn) Close() error                        { return nil }
func (c *fakeConn) Begin() (driver.Tx, error)           { return nil, errors.New("not without options") }

func (c *fakeConn) BeginTx(_ context.Context, o driver.TxOptions) (driver.Tx, error) {
	if o.ReadOnly && sql.IsolationLevel(o.Isolation) != sql.LevelReadCommitted {
		return nil, fmt.Errorf("read at level %d", o.Isolation)
	}
	c.begun, c.pending = true, map[int64]fakeRow{}
	return c, nil
}

func (c *fakeConn) Commit() error {
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	maps.Copy(c.db.rows, c.pending)
	c.begun = false
	return nil
}

func (c *fakeConn) Rollback() error { c.begun = false; return nil }

func (c *fakeConn) begin(query string) error {
	verb, _, _ := strings.Cut(query, " ")
	c.db.mu.Lock()
	before, fail := c.db.before, c.db.fail
	c.db.mu.Unlock()
	if before != nil {
		before(verb)
	}
	if fail != nil {
		return fail(verb)
	}
	return nil
}

var (
	insertQuery  = regexp.MustCompile(`^INSERT INTO "soracache_outbox" \(format, payload\) VALUES \(1, \$1\)$`)
	readQuery    = regexp.MustCompile(`^SELECT id, payload FROM "soracache_outbox" WHERE format = 1 ORDER BY id LIMIT (\d+)$`)
	newestQuery  = regexp.MustCompile(`^SELECT COALESCE\(MAX\(id\), 0\) FROM "soracache_outbox" WHERE format = 1$`)
	countQuery   = regexp.MustCompile(`^SELECT format, COUNT\(\*\) FROM "soracache_outbox" GROUP BY format$`)
	asideQuery   = regexp.MustCompile(`^UPDATE "soracache_outbox" SET format = -format, error = \$1 WHERE id = \$2 AND format = 1$`)
	restoreQuery = regexp.MustCompile(`^UPDATE "soracache_outbox" SET format = -format, error = NULL WHERE format < 0( AND id IN \([$\d, ]+\))?$`)
	removeQuery  = regexp.MustCompile(`^DELETE FROM "soracache_outbox" WHERE id IN \([$\d, ]+\)$`)
)

func (c *fakeConn) ExecContext(_ context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.begin(query); err != nil {
		return nil, err
	}
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	switch {
	case insertQuery.MatchString(query):
		c.db.last++
		c.put(c.db.last, fakeRow{format: 1, payload: args[0].Value.(string)})
		return driver.RowsAffected(1), nil
	case asideQuery.MatchString(query):
		return c.change([]driver.NamedValue{args[1]}, func(r *fakeRow) bool {
			pending := r.format == 1
			if pending {
				r.format, r.err = -1, args[0].Value
			}
			return pending
		}), nil
	case restoreQuery.MatchString(query):
		if len(args) == 0 {
			for _, id := range c.db.visible(-1) {
				args = append(args, driver.NamedValue{Value: id})
			}
		}
		return c.change(args, func(r *fakeRow) bool {
			aside := r.format < 0
			if aside {
				r.format, r.err = -r.format, nil
			}
			return aside
		}), nil
	case strings.HasPrefix(query, "UPDATE product "): // an application's own
		return driver.RowsAffected(1), nil
	case removeQuery.MatchString(query):
		before := len(c.db.rows)
		for _, a := range args {
			delete(c.db.rows, a.Value.(int64))
		}
		return driver.RowsAffected(before - len(c.db.rows)), nil
	}
	return nil, fmt.Errorf("syntax error at %q", query)
}

func (c *fakeConn) put(id int64, r fakeRow) {
	if c.begun {
		c.pending[id] = r
		return
	}
	c.db.rows[id] = r
}

func (c *fakeConn) change(ids []driver.NamedValue, change func(*fakeRow) bool) driver.Result {
	var changed driver.RowsAffected
	for _, a := range ids {
		id := a.Value.(int64)
		if r, ok := c.db.rows[id]; ok && change(&r) {
			c.db.rows[id] = r
			changed++
		}
	}
	return changed
}

func (c *fakeConn) QueryContext(_ context.Context, query string, _ []driver.NamedValue) (driver.Rows, error) {
	if err := c.begin(query); err != nil {
		return nil, err
	}
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	answer := &fakeRows{columns: []string{"a", "b"}}
	switch {
	case readQuery.MatchString(query):
		c.db.reads++
		limit, _ := strconv.Atoi(readQuery.FindStringSubmatch(query)[1])
		ids := c.db.visible(1)
		for _, id := range ids[:min(limit, len(ids))] {
			answer.rows = append(answer.rows, []driver.Value{id, c.db.rows[id].payload})
		}
	case newestQuery.MatchString(query):
		answer.columns = answer.columns[:1]
		answer.rows = [][]driver.Value{{slices.Max(append(c.db.visible(1), 0))}}
	case countQuery.MatchString(query):
		counts := map[int64]int64{}
		for _, r := range c.db.rows {
			counts[r.format]++
		}
		for format, n := range counts {
			answer.rows = append(answer.rows, []driver.Value{format, n})
		}
	default:
		return nil, fmt.Errorf("syntax error at %q", query)
	}
	return answer, nil
}

type fakeRows struct {
	columns []string
	rows    [][]driver.Value
}

func (r *fakeRows) Columns() []string { return r.columns }
func (r *fakeRows) Close() error      { return nil }

func (r *fakeRows) Next(into []driver.Value) error {
	if len(r.rows) == 0 {
		return io.EOF
	}
	copy(into, r.rows[0])
	r.rows = r.rows[1:]
	return nil
}

// fakeCache is a service that notes what it is asked to invalidate.
type fakeCache struct {
	mu    sync.Mutex
	calls []client.Invalidation // those that were carried out
	tries int
	fail  error
	// refuse, if set, may refuse a call, as a service does that looks at it first.
	refuse func(client.Invalidation) error
	// during is called without the lock before a call is carried out.
	during func(client.Invalidation)
}

func (c *fakeCache) set(change func(*fakeCache)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

func (c *fakeCache) Invalidate(ctx context.Context, what client.Invalidation) (client.Receipt, error) {
	c.mu.Lock()
	during := c.during
	c.mu.Unlock()
	if during != nil {
		during(what)
	}
	if err := ctx.Err(); err != nil {
		return client.Receipt{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	if c.fail != nil {
		return client.Receipt{}, c.fail
	}
	if c.refuse != nil {
		if err := c.refuse(what); err != nil {
			return client.Receipt{}, err
		}
	}
	c.calls = append(c.calls, what)
	return client.Receipt{}, nil
}

// said returns the calls in short, and forgets them.
func (c *fakeCache) said() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var said []string
	for _, what := range c.calls {
		said = append(said, short(what))
	}
	c.calls = nil
	return said
}

// short is an invalidation as tests write it: "a b" for keys, "#t" for a tag, "*"
// for everything, "!" for acknowledged, and how long it settles.
func short(what client.Invalidation) string {
	words := slices.Clone(what.Keys)
	for _, tag := range what.Tags {
		words = append(words, "#"+tag)
	}
	if what.All {
		words = append(words, "*")
	}
	if what.Acknowledge {
		words = append(words, "!")
	}
	if what.Settle > 0 {
		words = append(words, what.Settle.String())
	}
	return strings.Join(words, " ")
}

// refuseNames has a service refuse keys that contain a word.
func refuseNames(word string, with error) func(client.Invalidation) error {
	return func(what client.Invalidation) error {
		for _, key := range what.Keys {
			if strings.Contains(key, word) {
				return fmt.Errorf("%w: key %q", cmp.Or(with, soracache.ErrInvalid), key)
			}
		}
		return nil
	}
}
