package embedded

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
)

// pageSize is the size of the file's pages on every machine, so that what fits
// a page (see maxElement) does so everywhere.
const pageSize = 4096

// database is one open bbolt file. It turns bbolt's panics, and page faults in
// the mapped file, into errors.
type database struct {
	bolt *bbolt.DB
	file *os.File // bbolt's own, to measure and, if bbolt is stuck, to unlock
	// stuck: a write transaction could not even be rolled back. bbolt's lock is
	// then held for ever, so it cannot be closed either.
	stuck atomic.Bool
	// reserved is up to where the disk is known to have space for the file. It is
	// the writer's.
	reserved int64
	// allocate makes the disk set space aside for a part of the file.
	allocate func(file *os.File, from, size int64) error
}

// boltTx is a transaction of bbolt and its number.
type boltTx struct {
	*bbolt.Tx
	id int
}

// fault is a panic inside bbolt, or a page of the file that could not be read.
type fault struct {
	cause any
	stack []byte
}

func (f *fault) Error() string { return fmt.Sprintf("the database faulted: %v", f.cause) }

// guard runs fn and turns a panic, and a fault in mapped memory, into an error.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = &fault{cause: cause, stack: debug.Stack()}
		}
	}()
	return fn()
}

// openDatabase opens a file that is empty or has been checked. So much of it is
// mapped from the start that growing it never has to wait for readers.
//
// Nothing is synced: a crash of this process leaves what it wrote with the
// operating system, and after a crash of that nobody trusts the file. The list
// of free pages, which can be long, is not written with every commit, only at an
// orderly end; after any other, bbolt finds it anew.
func openDatabase(path string, mapped int64) (*database, error) {
	d := &database{allocate: reserve}
	options := &bbolt.Options{
		Timeout:        time.Second, // the directory's lock is held: nobody should have it
		PageSize:       pageSize,
		NoSync:         true,
		NoGrowSync:     true,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			d.file, err = os.OpenFile(name, flag, mode)
			return d.file, err
		},
	}
	if runtime.GOOS != "windows" { // where mapping makes the file as large
		options.InitialMmapSize = int(mapped)
	}
	err := guard(func() (err error) {
		d.bolt, err = bbolt.Open(path, 0o600, options)
		return err
	})
	if err != nil {
		if d.file != nil {
			d.file.Close() // a second time, unless bbolt panicked
		}
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return d, nil
}

// view runs fn in a read transaction.
func (d *database) view(fn func(boltTx)) error {
	return guard(func() error {
		tx, err := d.bolt.Begin(false)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // of a read transaction: it cannot fail
		fn(boltTx{tx, tx.ID()})
		return nil
	})
}

// update runs fn in a write transaction, and commits it if fn says that it
// changed something and had no error.
func (d *database) update(fn func(boltTx) (changed bool, err error)) error {
	if d.stuck.Load() {
		return &fault{cause: "a transaction is stuck"}
	}
	tx, err := d.begin()
	if err != nil {
		return err
	}
	done := false
	err = guard(func() error {
		changed, err := fn(boltTx{tx, tx.ID()})
		if err != nil || !changed {
			return err
		}
		err = tx.Commit()
		done = true
		return err
	})
	if done {
		return err
	}
	// Not with bbolt's own Update, whose deferred rollback after a panic walks
	// the whole file in a goroutine where no panic can be recovered.
	if rollbackErr := guard(tx.Rollback); rollbackErr != nil {
		d.stuck.Store(true)
		return rollbackErr
	}
	return err
}

func (d *database) begin() (tx *bbolt.Tx, err error) {
	err = guard(func() error {
		tx, err = d.bolt.Begin(true)
		return err
	})
	return tx, err
}

// pages returns the file's size and how much of it is free, or will be once
// the last readers have ended, as of the last write transaction.
func (d *database) pages() (size, free, pending int64) {
	stats := d.bolt.Stats()
	if info, err := d.file.Stat(); err == nil {
		size = info.Size()
	}
	return size, int64(stats.FreePageN) * pageSize, int64(stats.PendingPageN) * pageSize
}

// reserveStep is by how much more than is needed the disk's space is reserved,
// if there is as much.
const reserveStep = 1 << 20

// reserve makes sure that there is space for so many bytes of pages that a
// transaction writes, be it in the file or on the disk.
func (d *database) reserve(need int64) (err error) {
	size, free, _ := d.pages()
	if free >= need || size+need <= d.reserved {
		return nil
	}
	for _, more := range []int64{need + reserveStep, need} {
		if err = d.allocate(d.file, size, more); err == nil {
			d.reserved = size + more
			return nil
		}
	}
	return fmt.Errorf("no space for %d more bytes of %s: %w", need, d.file.Name(), err)
}

// used returns how many bytes of the file are in use.
func (d *database) used() int64 {
	size, free, pending := d.pages()
	return size - free - pending
}

// finish writes the list of free pages, which spares the next start the search
// for them, and makes everything durable. It returns the last transaction.
func (d *database) finish() (txid int, err error) {
	d.bolt.NoFreelistSync = false
	err = d.update(func(boltTx) (changed bool, err error) { return true, nil })
	if err != nil {
		return 0, err
	}
	if err = guard(d.bolt.Sync); err != nil {
		return 0, err
	}
	return d.lastTx()
}

// close closes the file. If bbolt is stuck, its mapping stays behind: it has
// no way to give it back.
func (d *database) close() error {
	if d.stuck.Load() {
		return d.file.Close()
	}
	return guard(d.bolt.Close)
}

// lastTx returns the number of the last transaction.
func (d *database) lastTx() (id int, err error) {
	err = d.view(func(tx boltTx) { id = tx.id })
	return id, err
}
