package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite", in pure Go
)

// Product is one row of the catalog, as answers show it.
type Product struct {
	ID         int64    `json:"id"`
	Name       string   `json:"name"`
	Category   string   `json:"category"`
	PriceCents int64    `json:"price_cents"`
	Sales      int64    `json:"sales"`
	Tags       []string `json:"tags"`
	// Version grows by one with every update.
	Version int64 `json:"version"`
}

// List is the best-selling part of some products, and how many there are.
type List struct {
	Total    int       `json:"total"`
	Products []Product `json:"products"`
}

// Change is what an update replaces of a product.
type Change struct {
	Name       string `json:"name"`
	Category   string `json:"category"`
	PriceCents int64  `json:"price_cents"`
	Sales      int64  `json:"sales"`
}

var errNotFound = errors.New("no such product")

// database is the source of truth. Every read of it is one SQL statement.
type database struct{ sql *sql.DB }

const schema = `
CREATE TABLE product (
	id          INTEGER PRIMARY KEY,
	name        TEXT    NOT NULL,
	category    TEXT    NOT NULL,
	price_cents INTEGER NOT NULL,
	sales       INTEGER NOT NULL,
	version     INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE product_tag (
	tag        TEXT    NOT NULL,
	product_id INTEGER NOT NULL REFERENCES product (id),
	PRIMARY KEY (tag, product_id)
) WITHOUT ROWID;
CREATE TABLE debt (
	id  INTEGER PRIMARY KEY AUTOINCREMENT,
	tag TEXT NOT NULL
);`

// indexes are made after the rows, which is faster.
const indexes = `
CREATE INDEX product_by_category ON product (category);
CREATE INDEX product_tag_by_product ON product_tag (product_id);
PRAGMA user_version = 1;`

// openDatabase opens the file at path, and creates it with its products if it
// is not there. It reports whether it created it.
func openDatabase(ctx context.Context, path string) (_ *database, created bool, err error) {
	if err = os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, false, err
	}
	// With a write-ahead log readers and the writer do not wait for each other,
	// and who begins to read after a commit sees it: nothing that the cache may
	// keep was read with a lag.
	options := url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)"},
		"_txlock": {"immediate"},
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		return nil, false, err
	}
	db.SetMaxOpenConns(8)
	if created, err = create(ctx, db); err != nil {
		return nil, false, errors.Join(fmt.Errorf("database %s: %w", path, err), db.Close())
	}
	return &database{db}, created, nil
}

// create fills an empty file, in one transaction: there is a whole catalog or
// none, also if two processes start at once.
func create(ctx context.Context, db *sql.DB) (created bool, err error) {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil || version != 0 {
		return false, err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil || version != 0 {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return false, err
	}
	if err := generate(ctx, tx); err != nil {
		return false, err
	}
	if _, err := tx.ExecContext(ctx, indexes); err != nil {
		return false, err
	}
	return true, tx.Commit()
}

func (d *database) close() error { return d.sql.Close() }

// columns are those of a product p, with its tags in one.
const columns = `p.id, p.name, p.category, p.price_cents, p.sales, p.version,
	coalesce((SELECT group_concat(tag, ' ') FROM product_tag WHERE product_id = p.id), '')`

const selectProduct = "SELECT " + columns + " FROM product p WHERE p.id = ?"

type row interface{ Scan(into ...any) error }

func scanProduct(r row, further ...any) (Product, error) {
	var p Product
	var tags string
	err := r.Scan(append([]any{&p.ID, &p.Name, &p.Category, &p.PriceCents, &p.Sales, &p.Version, &tags}, further...)...)
	p.Tags = strings.Fields(tags)
	return p, err
}

// product reads one product.
func (d *database) product(ctx context.Context, id int64) (Product, error) {
	p, err := scanProduct(d.sql.QueryRowContext(ctx, selectProduct, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: %d", errNotFound, id)
	}
	return p, err
}

// The lists: the best-selling among some products, and how many there are.
const (
	listFrom = "SELECT " + columns + ", p.total FROM (SELECT p.*, count(*) OVER () AS total FROM "
	listBest = " ORDER BY p.sales DESC, p.id LIMIT 20) p ORDER BY p.sales DESC, p.id"

	selectFeatured = listFrom + "product_tag t JOIN product p ON p.id = t.product_id WHERE t.tag = ?" + listBest
	selectSearch   = listFrom + "product p WHERE p.category = ? AND p.price_cents <= ?" + listBest
)

// featured reads the best-selling products that carry a tag.
func (d *database) featured(ctx context.Context, tag string) (List, error) {
	return d.list(ctx, selectFeatured, tag)
}

// search reads the best-selling products of a category up to a price.
func (d *database) search(ctx context.Context, category string, maxPrice int64) (List, error) {
	return d.list(ctx, selectSearch, category, maxPrice)
}

func (d *database) list(ctx context.Context, query string, args ...any) (List, error) {
	rows, err := d.sql.QueryContext(ctx, query, args...)
	if err != nil {
		return List{}, err
	}
	defer func() { _ = rows.Close() }()
	l := List{Products: []Product{}}
	for rows.Next() {
		p, err := scanProduct(rows, &l.Total)
		if err != nil {
			return List{}, err
		}
		l.Products = append(l.Products, p)
	}
	return l, rows.Err()
}

// update changes a product and, in the same transaction, notes the
// invalidations that the change calls for. They are owed until forgotten.
func (d *database) update(ctx context.Context, id int64, c Change) (Product, []debt, error) {
	tx, err := d.sql.BeginTx(ctx, nil)
	if err != nil {
		return Product{}, nil, err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	_, err = tx.ExecContext(ctx, `UPDATE product SET name = ?, category = ?, price_cents = ?, sales = ?,
		version = version + 1 WHERE id = ?`, c.Name, c.Category, c.PriceCents, c.Sales, id)
	if err != nil {
		return Product{}, nil, err
	}
	p, err := scanProduct(tx.QueryRowContext(ctx, selectProduct, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: %d", errNotFound, id)
	}
	if err != nil {
		return Product{}, nil, err
	}
	var owed []debt
	for _, tag := range []string{tagProducts, tagProduct(id)} {
		b := debt{tag: tag}
		if err := tx.QueryRowContext(ctx, "INSERT INTO debt (tag) VALUES (?) RETURNING id", tag).Scan(&b.id); err != nil {
			return Product{}, nil, err
		}
		owed = append(owed, b)
	}
	return p, owed, tx.Commit()
}

// debt is an invalidation that was committed together with its change, and of
// which nobody knows yet that the cache has it.
type debt struct {
	id  int64
	tag string
}

// debts reads the oldest of what is owed.
func (d *database) debts(ctx context.Context) ([]debt, error) {
	rows, err := d.sql.QueryContext(ctx, "SELECT id, tag FROM debt ORDER BY id LIMIT 100")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var owed []debt
	for rows.Next() {
		var b debt
		if err := rows.Scan(&b.id, &b.tag); err != nil {
			return nil, err
		}
		owed = append(owed, b)
	}
	return owed, rows.Err()
}

// forget removes what has been paid.
func (d *database) forget(ctx context.Context, paid []debt) error {
	ids := make([]int64, len(paid))
	for i, b := range paid {
		ids[i] = b.id
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	_, err = d.sql.ExecContext(ctx, "DELETE FROM debt WHERE id IN (SELECT value FROM json_each(?))", string(list))
	return err
}
