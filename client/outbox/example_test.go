package outbox_test

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/outbox"
)

// printer stands for a client of a service.
type printer struct{}

func (printer) Invalidate(_ context.Context, what client.Invalidation) (client.Receipt, error) {
	fmt.Println("the cache is told:", what.Tags)
	return client.Receipt{}, nil
}

// A change and its invalidation are committed together, and the cache is told
// before the function returns.
func Example() {
	ctx := context.Background()
	db := sql.OpenDB(&fakeDB{rows: map[int64]fakeRow{}}) // stands for sql.Open("pgx", …)
	defer func() { _ = db.Close() }()
	box, err := outbox.New(printer{}, outbox.Config{DB: db, Dialect: outbox.Postgres})
	if err != nil {
		panic(err)
	}
	// In its own goroutine, for as long as the application runs: go box.Run(ctx).

	setPrice := func(id, cents int) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // after a commit it does nothing
		if _, err := tx.ExecContext(ctx, "UPDATE product SET cents = $1 WHERE id = $2", cents, id); err != nil {
			return err
		}
		tags := []string{"products", fmt.Sprintf("product:%d", id)}
		if err := box.Invalidate(ctx, tx, client.Invalidation{Tags: tags}); err != nil {
			return err
		}
		fmt.Println("committing")
		if err := tx.Commit(); err != nil {
			return err
		}
		return box.Flush(ctx)
	}
	fmt.Println(setPrice(42, 250))
	// Output:
	// committing
	// the cache is told: [products product:42]
	// <nil>
}
