package outbox

import (
	"context"
	"database/sql"
)

// row is one row of the table.
type row struct {
	id      int64
	payload string
}

// read returns the oldest rows that are committed, a batch at most.
//
// A row that is not committed yet must never be seen: it would be relayed before
// its commit, and deleted. Postgres and SQLite never show one; MySQL does to a
// connection that is set to READ UNCOMMITTED, so the level is asked for.
func (b *Outbox) read(ctx context.Context) ([]row, error) {
	if b.cfg.Dialect == SQLite {
		return scan(b.cfg.DB.QueryContext(ctx, b.sql.read))
	}
	tx, err := b.cfg.DB.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }() // it has changed nothing
	return scan(tx.QueryContext(ctx, b.sql.read))
}

func scan(from *sql.Rows, err error) ([]row, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = from.Close() }()
	var rows []row
	for from.Next() {
		var r row
		if err := from.Scan(&r.id, &r.payload); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, from.Err()
}

// newest returns the largest id of all rows that are committed.
func (b *Outbox) newest(ctx context.Context) (id int64, err error) {
	err = b.cfg.DB.QueryRowContext(ctx, b.sql.newest).Scan(&id)
	return id, err
}

// remove deletes rows by their ids. That some are gone already is in order:
// another relay was there.
func (b *Outbox) remove(ctx context.Context, ids []any) error {
	_, err := b.cfg.DB.ExecContext(ctx, b.sql.remove(len(ids)), ids...)
	return err
}

// aside keeps a row from being relayed, with the reason. It reports whether this
// was the relay that did it.
func (b *Outbox) aside(ctx context.Context, id int64, reason error) (bool, error) {
	result, err := b.cfg.DB.ExecContext(ctx, b.sql.aside, plain(reason), id)
	if err != nil {
		return false, err
	}
	changed, err := result.RowsAffected()
	return changed > 0, err
}

func (b *Outbox) restore(ctx context.Context, ids []int64) (int64, error) {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	result, err := b.cfg.DB.ExecContext(ctx, b.sql.restore(len(ids)), args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (b *Outbox) count(ctx context.Context) (counts Backlog, err error) {
	rows, err := b.cfg.DB.QueryContext(ctx, b.sql.count)
	if err != nil {
		return counts, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var format, n int64
		if err := rows.Scan(&format, &n); err != nil {
			return counts, err
		}
		switch {
		case format < 0:
			counts.SetAside += n
		case format == version:
			counts.Waiting += n
		default:
			counts.Foreign += n
		}
	}
	return counts, rows.Err()
}
