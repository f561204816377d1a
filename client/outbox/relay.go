package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// Run relays until ctx ends: what is there when it begins, then what Nudge tells
// it of, and every now and then whatever else there is. What fails is tried
// again, for as long as it takes. Run it in each process of the application: any
// one of them relays what the others leave behind.
func (b *Outbox) Run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		err := b.drain(ctx, false)
		switch {
		case ctx.Err() != nil:
		case err == nil:
			if failures > 0 {
				b.cfg.Logger.Info("outbox: invalidations are relayed again", "table", b.cfg.Table)
			}
			failures = 0
			// Up to a tenth less, so that many processes do not look all at once.
			b.rest(ctx, b.cfg.Poll-jitter(b.cfg.Poll/10), b.nudged)
		default:
			failures++
			wait := b.backoff(failures)
			if failures == 1 {
				b.cfg.Logger.Warn("outbox: invalidations wait", "table", b.cfg.Table, "error", err)
			}
			if b.cfg.Hooks.OnRetry != nil {
				b.cfg.Hooks.OnRetry(failures, wait, err)
			}
			b.rest(ctx, wait, nil) // to be nudged would not help
		}
	}
}

// rest waits, unless it is nudged.
func (b *Outbox) rest(ctx context.Context, d time.Duration, nudged <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-nudged:
	}
}

// backoff is how long to wait after so many failures in a row.
func (b *Outbox) backoff(failures int) time.Duration {
	wait := b.cfg.RetryMost
	if doublings := failures - 1; doublings < 30 && b.cfg.RetryFirst<<doublings < wait {
		wait = b.cfg.RetryFirst << doublings
	}
	return wait - jitter(wait/2)
}

// jitter is up to d, at random.
func jitter(d time.Duration) time.Duration {
	return rand.N(d + 1) //nolint:gosec // spread, not secrecy
}

// Flush relays everything that was committed before it was called, and returns
// once that is done. So a request that has committed a change can have it
// invalidated before it answers. It tries once: if it returns an error, the rows
// are still there, and are relayed by Run as soon as that is possible. If it met
// a row that had to be set aside, it returns an error with [ErrSetAside], and all
// others are done.
//
// Call it after the commit, not within the transaction. Callers that come at the
// same time share the work.
func (b *Outbox) Flush(ctx context.Context) error {
	_, err := b.flushes.Do(ctx, "", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, b.drain(ctx, true)
	})
	if err != nil {
		return fmt.Errorf("outbox: flush: %w", err)
	}
	return nil
}

// drain relays batch after batch until it has seen the end of the table or, if it
// is told to, until all that was committed when it began is done: rows may come
// in faster than they are relayed.
func (b *Outbox) drain(ctx context.Context, bounded bool) error {
	var until int64
	var aside error
	for first := true; ; first = false {
		done, err := b.batch(ctx)
		if err != nil {
			return errors.Join(err, aside)
		}
		aside = errors.Join(aside, done.aside)
		if done.rows < b.cfg.Batch {
			break // it saw all there were
		}
		// A row that was committed before the beginning has an id up to the
		// largest of then, and rows are taken in the order of ids.
		if bounded && first {
			if until, err = b.newest(ctx); err != nil {
				return errors.Join(err, aside)
			}
		}
		if bounded && done.last >= until {
			break
		}
	}
	if bounded {
		return aside
	}
	return nil // Run has told whom it concerns
}

// progress is what a batch has done.
type progress struct {
	rows  int
	last  int64 // the largest id
	aside error // why rows were set aside
}

// batch relays the oldest rows. Whatever ends it, no row is gone that was not
// relayed: first the invalidation, then the deletion.
func (b *Outbox) batch(ctx context.Context) (done progress, err error) {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return done, ctx.Err()
	}
	defer func() { <-b.turn }()
	if b.trying.IsZero() {
		b.trying = time.Now()
	}
	rows, err := b.read(ctx)
	if err != nil {
		return done, err
	}
	done.rows = len(rows)
	if len(rows) > 0 {
		done.last = rows[len(rows)-1].id
	}
	runs, unreadable := merge(rows)
	for _, bad := range unreadable {
		if err := b.setAside(ctx, bad, &done); err != nil {
			return done, err
		}
	}
	for _, r := range runs {
		if err := b.relay(ctx, r, &done); err != nil {
			return done, err
		}
	}
	b.trying = time.Time{}
	return done, nil
}

// relay invalidates what a run of rows names, and then deletes the rows. A row of
// which the service refuses a part is set aside; the rest of it is in force.
func (b *Outbox) relay(ctx context.Context, r *run, done *progress) error {
	refused := map[soracache.Target]error{}
	for left := r.targets; len(left) > 0; {
		now := left[:min(len(left), b.cfg.Targets)]
		left = left[len(now):]
		if err := b.invalidate(ctx, r, now, refused); err != nil {
			return err
		}
	}
	var relayed []any
	for _, m := range r.members {
		if reason := m.refused(refused); reason != nil {
			if err := b.setAside(ctx, faulty{m.id, reason}, done); err != nil {
				return err
			}
			continue
		}
		relayed = append(relayed, m.id)
	}
	if len(relayed) == 0 {
		return nil
	}
	if err := b.remove(ctx, relayed); err != nil {
		return err
	}
	if b.cfg.Hooks.OnRelayed != nil {
		b.cfg.Hooks.OnRelayed(Relayed{
			Rows: len(relayed), Targets: len(r.targets) - len(refused), Lag: time.Since(b.trying),
		})
	}
	return nil
}

// invalidate makes one call or, if the service refuses it, ever smaller ones,
// until it is known which targets are at fault. Those are noted.
//
// Only one error says that trying again is of no use. What is merely too much at
// a time is halved; and who may not invalidate today may be allowed to tomorrow.
func (b *Outbox) invalidate(ctx context.Context, r *run, targets []soracache.Target, refused map[soracache.Target]error) error {
	_, err := b.cache.Invalidate(ctx, r.invalidation(targets))
	hopeless := errors.Is(err, soracache.ErrInvalid)
	switch {
	case err == nil:
		return nil
	case hopeless && len(targets) == 1:
		refused[targets[0]] = err
		return nil
	case len(targets) > 1 && (hopeless || errors.Is(err, soracache.ErrTooLarge)):
		half := len(targets) / 2
		if err := b.invalidate(ctx, r, targets[:half], refused); err != nil {
			return err
		}
		return b.invalidate(ctx, r, targets[half:], refused)
	}
	return err
}

// setAside keeps a row from being tried again.
func (b *Outbox) setAside(ctx context.Context, bad faulty, done *progress) error {
	mine, err := b.aside(ctx, bad.id, bad.reason)
	if err != nil {
		return err
	}
	done.aside = errors.Join(done.aside, fmt.Errorf("row %d: %w: %w", bad.id, ErrSetAside, bad.reason))
	if !mine {
		return nil // another relay has told already
	}
	b.cfg.Logger.Error("outbox: a row can never be relayed and was set aside",
		"table", b.cfg.Table, "id", bad.id, "error", bad.reason)
	if b.cfg.Hooks.OnSetAside != nil {
		b.cfg.Hooks.OnSetAside(bad.id, bad.reason)
	}
	return nil
}

// faulty is a row that can never be relayed.
type faulty struct {
	id     int64
	reason error
}

// run is rows that follow each other and can be relayed as one invalidation.
type run struct {
	acknowledge bool
	settle      time.Duration
	members     []member
	// targets is what the rows name, each once, in order of first mention.
	targets []soracache.Target
	named   map[soracache.Target]bool
}

// member is a row of a run.
type member struct {
	id      int64
	targets []soracache.Target
}

// refused returns why the service refused a part of the row, if it did.
func (m member) refused(refused map[soracache.Target]error) error {
	for _, t := range m.targets {
		if reason, ok := refused[t]; ok {
			return fmt.Errorf("%.80s: %w", t, reason)
		}
	}
	return nil
}

// merge makes runs of rows, and picks out those that cannot be read. Rows of
// unlike kind are never put together, and never change places: what settles, or
// is acknowledged, costs those that read.
func merge(rows []row) (runs []*run, unreadable []faulty) {
	var last *run
	for _, r := range rows {
		what, err := decode(r.payload)
		if err != nil {
			unreadable = append(unreadable, faulty{r.id, err})
			continue
		}
		if last == nil || last.acknowledge != what.Acknowledge || last.settle != what.Settle {
			last = &run{acknowledge: what.Acknowledge, settle: what.Settle, named: map[soracache.Target]bool{}}
			runs = append(runs, last)
		}
		last.add(r.id, targetsOf(what))
	}
	return runs, unreadable
}

func (r *run) add(id int64, targets []soracache.Target) {
	r.members = append(r.members, member{id, targets})
	for _, t := range targets {
		if !r.named[t] {
			r.named[t] = true
			r.targets = append(r.targets, t)
		}
	}
}

// invalidation is the run's, of some of its targets.
func (r *run) invalidation(targets []soracache.Target) client.Invalidation {
	what := client.Invalidation{Acknowledge: r.acknowledge, Settle: r.settle}
	for _, t := range targets {
		switch t.Kind {
		case soracache.TargetKey:
			what.Keys = append(what.Keys, t.Name)
		case soracache.TargetTag:
			what.Tags = append(what.Tags, t.Name)
		case soracache.TargetAll:
			what.All = true
		}
	}
	return what
}

func targetsOf(what client.Invalidation) []soracache.Target {
	var targets []soracache.Target
	for _, key := range what.Keys {
		targets = append(targets, soracache.Key(key))
	}
	for _, tag := range what.Tags {
		targets = append(targets, soracache.Tag(tag))
	}
	if what.All {
		targets = append(targets, soracache.Everything())
	}
	return targets
}
