package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/soracache/soracache/client"
)

// debts sees to it that every committed update is followed by its
// invalidation, also when the cache cannot be reached or this process dies in
// between: an update writes what it owes into the database, in its own
// transaction, and it is forgotten once the cache has confirmed it. Paying
// twice does no harm.
//
// While something is late, the cache may hold old values that look valid, so
// reads keep away from it.
type debts struct {
	db      *database
	cache   *client.Client
	timeout time.Duration // for one payment

	// mu guards late, and that nothing becomes late between the worker's look
	// into the database and its conclusion that nothing is.
	mu   sync.RWMutex
	late bool

	wake   chan struct{} // has room for one
	ending context.Context
	end    context.CancelFunc
	done   chan struct{}
}

// payAgain is how long to leave the cache alone after it failed.
const payAgain = 200 * time.Millisecond

// startDebts begins with what an earlier process may have left unpaid.
func startDebts(ctx context.Context, db *database, cache *client.Client, timeout time.Duration) (*debts, error) {
	d := &debts{db: db, cache: cache, timeout: timeout, late: true, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if _, err := d.look(ctx); err != nil {
		return nil, err
	}
	d.ending, d.end = context.WithCancel(context.Background())
	go d.work()
	return d, nil
}

func (d *debts) stop() {
	d.end()
	<-d.done
}

// owed tells whether the cache lacks an invalidation of a finished update.
func (d *debts) owed() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.late
}

// pay invalidates what one update owes, and reports whether the cache has
// confirmed it. If not, the debt is late from now on and the worker pays it.
func (d *debts) pay(ctx context.Context, owed []debt) bool {
	// The caller's end does not end this: the change is committed.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.timeout)
	defer cancel()
	if err := d.settle(ctx, owed); err == nil {
		return true
	}
	d.doubt()
	return false
}

// doubt keeps reads away from the cache until the worker has found that
// nothing is owed.
func (d *debts) doubt() {
	d.mu.Lock()
	d.late = true
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// settle invalidates, and only then forgets.
func (d *debts) settle(ctx context.Context, owed []debt) error {
	tags := make([]string, len(owed))
	for i, b := range owed {
		tags[i] = b.tag
	}
	if _, err := d.cache.InvalidateTags(ctx, tags...); err != nil {
		return err
	}
	if err := d.db.forget(ctx, owed); err != nil {
		slog.Warn("a paid debt is not forgotten and will be paid again", "error", err)
	}
	return nil
}

// work pays what is late, again and again until nothing is.
func (d *debts) work() {
	defer close(d.done)
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-d.ending.Done():
			return
		case <-d.wake:
		case <-again.C:
		}
		for d.owed() {
			if err := d.payAll(); err != nil {
				again.Reset(payAgain)
				break
			}
		}
	}
}

// payAll pays all that is owed, late or not, and notes when nothing is.
func (d *debts) payAll() error {
	ctx, cancel := context.WithTimeout(d.ending, d.timeout)
	defer cancel()
	owed, err := d.look(ctx)
	if err != nil || len(owed) == 0 {
		return err
	}
	return d.settle(ctx, owed)
}

// look reads what is owed. That there is nothing, is noted under the lock: an
// update that fails to pay has committed its debt before it asks for the lock.
func (d *debts) look(ctx context.Context) ([]debt, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	owed, err := d.db.debts(ctx)
	if err == nil && len(owed) == 0 {
		d.late = false
	}
	return owed, err
}
