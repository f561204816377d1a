package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite", in pure Go

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/outbox"
)

// shop is prices in a database, a cache before it, and the outbox that tells the
// cache what was committed.
type shop struct {
	db     *sql.DB
	cache  *client.Client
	box    *outbox.Outbox
	prices *client.Cache[int64]
}

// products is how many there are, with ids from 1.
const products = 20

func openShop(ctx context.Context, file, cacheURL string, opts ...client.DialOption) (*shop, error) {
	// A writer waits for another one, and who begins to read after a commit sees it.
	options := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)"}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		return nil, err
	}
	c, err := client.Dial(strings.Split(cacheURL, ","), append([]client.DialOption{client.Namespace("shop")}, opts...)...)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s := &shop{db: db, cache: c, prices: client.NewCache[int64](c, client.Default())}
	s.box, err = outbox.New(c, outbox.Config{DB: db, Dialect: outbox.SQLite})
	if err == nil {
		err = s.create(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// create makes the tables, of which the outbox has one, in the same database.
func (s *shop) create(ctx context.Context) error {
	if err := s.box.Create(ctx); err != nil {
		return err
	}
	if _, err := s.db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS product (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL)"); err != nil {
		return err
	}
	_, err := s.db.ExecContext(ctx, `WITH RECURSIVE ids (id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM ids WHERE id < ?)
		INSERT OR IGNORE INTO product SELECT id, 100 FROM ids`, products)
	return err
}

func (s *shop) close() error { return errors.Join(s.cache.Close(), s.db.Close()) }

// price is what a product costs in cents, from the cache or else from the
// database.
func (s *shop) price(ctx context.Context, id string) (int64, error) {
	return s.prices.GetOrSet(ctx, "price:"+id, func(ctx context.Context) (cents int64, err error) {
		err = s.db.QueryRowContext(ctx, "SELECT cents FROM product WHERE id = ?", id).Scan(&cents)
		return cents, err
	})
}

// setPrice changes a price. It reports whether the cache knows already; if not,
// it will be told as soon as possible.
func (s *shop) setPrice(ctx context.Context, id string, cents int64) (told bool, err error) {
	if err := s.change(ctx, id, cents); err != nil {
		return false, err
	}
	return s.box.Flush(ctx) == nil, nil
}

// change commits a price and its invalidation. A crash before the commit undoes
// both, and after it, both stand.
func (s *shop) change(ctx context.Context, id string, cents int64) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if err := s.update(ctx, tx, id, cents); err != nil {
		return err
	}
	return tx.Commit()
}

// update is what happens in the transaction.
func (s *shop) update(ctx context.Context, tx *sql.Tx, id string, cents int64) error {
	result, err := tx.ExecContext(ctx, "UPDATE product SET cents = ? WHERE id = ?", cents, id)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); n == 0 || err != nil {
		return errors.Join(err, fmt.Errorf("no product %q", id))
	}
	return s.box.Invalidate(ctx, tx, client.Invalidation{Keys: []string{"price:" + id}})
}
