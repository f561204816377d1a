package embedded

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// The bounds of one write transaction, which keep it to a few milliseconds.
const (
	mostOps   = 256
	mostBytes = 1 << 20 // of what ops add
	mostWork  = 2048    // rows written, of which one op may take more by itself
)

// write is the writer: the one goroutine that writes. It ends when the queue is
// closed and empty, and Close waits for it.
//
// While there is housekeeping to do, it does one small step of it after each
// batch of requests.
func (s *Store) write() {
	defer close(s.done)
	tick, stop := s.ticker()
	defer stop()
	var batch []*op // taken, and not done yet
	idle, busy := true, false
	for {
		if idle && !busy {
			select {
			case <-s.queue.wake:
			case <-tick:
				busy = true
			}
		}
		if s.suspect.Swap(false) {
			s.inspect()
		}
		if len(batch) == 0 {
			batch = s.take()
		}
		idle = len(batch) == 0
		if idle && s.queue.over() {
			return
		}
		batch = s.perform(batch)
		busy = busy && s.keepHouse() || s.crowded()
	}
}

func (s *Store) ticker() (<-chan time.Time, func()) {
	if s.cfg.SweepEvery < 0 {
		return nil, func() {}
	}
	t := time.NewTicker(s.cfg.SweepEvery)
	return t.C, t.Stop
}

// take takes as many ops as fit one transaction.
func (s *Store) take() []*op {
	ops, size := 0, 0
	return s.queue.take(func(o *op) bool {
		ops++
		size += o.size
		return ops >= mostOps || size >= mostBytes
	})
}

var (
	errFull  = errors.New("the embedded store has no room and nothing to evict")
	errPause = errors.New("the embedded store could not write a moment ago")
)

// perform does ops in one transaction, or, if one of them spoils it, each in
// one of its own. It returns those that it did not come to.
func (s *Store) perform(ops []*op) (rest []*op) {
	if ops = s.admit(ops); len(ops) == 0 {
		return nil
	}
	n, err := s.commit(ops)
	if err != nil && n > 1 && isOwn(err) {
		for _, o := range ops[:n] {
			_, err := s.commit([]*op{o})
			o.end(err)
		}
		return ops[n:]
	}
	for _, o := range ops[:n] {
		o.end(err)
	}
	return ops[n:]
}

func (o *op) end(err error) {
	if err != nil {
		o.fail(o.refusal(err))
	}
	if o.after != nil {
		o.after()
	}
	o.finish()
}

// admit makes room for ops and drops those that cannot or need not be done any
// more.
func (s *Store) admit(ops []*op) []*op {
	var refusal error // of ops that add something
	paused := s.paused()
	if size := sizeOf(ops); size > 0 && !paused {
		refusal = s.makeRoom(size)
	}
	admitted := ops[:0]
	for _, o := range ops {
		var err error
		switch {
		case o.call.ctx.Err() != nil:
			err = o.call.ctx.Err()
		case paused && s.pausedFull && o.size > 0:
			err = errFull
		case paused:
			err = errPause
		case o.size > 0:
			err = refusal
		}
		if err != nil {
			o.end(err)
			continue
		}
		admitted = append(admitted, o)
	}
	return admitted
}

// refusal is what the caller of an op is told of an error. That there is no room
// for what it adds is no failure of the store.
func (o *op) refusal(err error) error {
	if o.size > 0 && (errors.Is(err, errFull) || isNoSpace(err)) {
		return fmt.Errorf("%w: %s", soracache.ErrStoreFull, l2.PublicText(unavailable(err))) // not unavailable, as it may say
	}
	return unavailable(err)
}

// isNoSpace tells whether the disk, or what a process may have of it, is full.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func sizeOf(ops []*op) (size int) {
	for _, o := range ops {
		size += o.size
	}
	return size
}

// ownError is a failure of what a transaction did, as opposed to one of the
// disk: without it, the others of its batch can succeed.
type ownError struct{ error }

func (e ownError) Unwrap() error { return e.error }

func isOwn(err error) bool {
	var own ownError
	var f *fault
	return errors.As(err, &own) || errors.As(err, &f)
}

// commit does as many of the ops as fit one transaction. It returns how many
// these are; if there is an error, none of them was done.
func (s *Store) commit(ops []*op) (n int, err error) {
	err = s.transact(roomFor(sizeOf(ops)), func(t *txn) {
		for n = 0; n < len(ops) && t.work < mostWork; {
			n++ // before it runs, so that a panic is among those counted
			ops[n-1].run(t)
			if t.err != nil {
				t.err = ownError{t.err}
				return
			}
		}
	})
	return max(n, 1), err
}

// roomFor is about how many bytes of pages it takes to add so many bytes: the
// pages that are written anew for each row are more than the rows fill.
func roomFor(size int) int64 { return int64(size) + int64(size)/4 + stepRoom }

// stepRoom is the same for a small step that adds nothing.
const stepRoom = 128 * pageSize

// transact runs fn in a write transaction, for which so many bytes of pages are
// wanted.
func (s *Store) transact(need int64, fn func(t *txn)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	began := time.Now()
	err := s.reserve(need)
	if err == nil {
		err = s.update(fn)
	}
	if err != nil && !isOwn(err) {
		s.holdOff(err, time.Since(began))
	}
	return err
}

// reserve makes sure that the disk has space for what a transaction writes.
// Without it the transaction would fail just as well, but see holdOff.
//
// If the file would have to grow beyond its room only because readers hold on to
// pages that were let go of, it waits until they have left.
func (s *Store) reserve(need int64) error {
	if s.db == nil {
		return nil // which update reports
	}
	size, free, pending := s.db.pages()
	if size+need > s.cfg.MaxBytes && free < need && pending > 0 {
		s.gate.Lock()   // all readers have left
		s.gate.Unlock() //nolint:staticcheck // nothing to do but to have waited
	}
	if err := s.db.reserve(need); err != nil {
		return unavailable(err)
	}
	return nil
}

// The bounds of how long the writer holds off after a failure.
const (
	leastPause = 50 * time.Millisecond
	mostPause  = 5 * time.Second
)

// holdOff refuses writes for a while after the disk refused one: after a commit
// that failed, bbolt reads the whole file to find its free pages again, so
// trying must not become what the process spends its time on.
func (s *Store) holdOff(err error, cost time.Duration) {
	pause := min(max(leastPause, 4*cost), mostPause)
	s.pause, s.pausedFull = time.Now().Add(pause), isNoSpace(err)
	s.log.Error("embedded store: cannot write", "dir", s.cfg.Dir, "error", err, "next_attempt_in", pause)
}

// change has one change made and waits for it.
func (s *Store) change(ctx context.Context, run ...func(t *txn)) error {
	if len(run) == 0 {
		return nil
	}
	var failure error
	o := &op{
		run: func(t *txn) {
			for _, r := range run {
				r(t)
			}
		},
		fail: func(err error) { failure = err },
	}
	if err := s.queue.do(ctx, []*op{o}); err != nil {
		return err
	}
	return failure
}

// inspect looks at the file after a transaction ended in a fault. If it is
// damaged, it is set aside and a new one begun; otherwise the fault was of
// another kind, and the data is as good as it was. Since looking takes time, it
// does so at most a tenth of the time.
func (s *Store) inspect() {
	began := time.Now()
	if began.Before(s.inspectAfter) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.inspectAfter = time.Now().Add(9 * time.Since(began)) }()
	if s.db != nil && !s.db.stuck.Load() {
		_, err := checkFile(s.home.path)
		if err == nil {
			return
		}
		s.log.Error("embedded store: the file is damaged", "dir", s.cfg.Dir, "error", err)
	}
	if err := s.replace(); err != nil {
		s.log.Error("embedded store: no new file could be begun", "dir", s.cfg.Dir, "error", err)
	}
}

// replace closes the database and opens the file anew, or, if it is damaged, a
// new one. mu is held.
func (s *Store) replace() error {
	s.gate.Lock()
	old := s.db
	s.db = nil
	s.gate.Unlock()
	if old != nil {
		if err := old.close(); err != nil {
			s.log.Warn("embedded store: closing a damaged file", "dir", s.cfg.Dir, "error", err)
		}
	}
	db, err := s.home.open()
	if err != nil {
		return err
	}
	clear(s.leases)
	clear(s.leased)
	clear(s.passed)
	clear(s.staging)
	s.gate.Lock()
	s.db = db
	s.gate.Unlock()
	return s.begin()
}

// errTooLarge is for a value that could only be stored by evicting most of the
// others.
func errTooLarge(size int, room int64) error {
	return fmt.Errorf("%w: an entry of %d bytes in an embedded store of %d", soracache.ErrTooLarge, size, room)
}
