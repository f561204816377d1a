package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"
)

// The files of a data directory.
const (
	dataFile  = "soracache.db"
	stateFile = "soracache.state"
	lockFile  = "soracache.lock"
)

// layout is the version of what is in the data file. A file of an earlier
// version is not read. One of a later version is somebody's: it is left as it
// is, and not opened.
const layout = 1

var errLaterLayout = errors.New("it was written by a later version of soracache; go back to that, or give this one a directory of its own")

// home is a data directory, which this process alone uses. It decides whether
// what an earlier process left there can be gone on with.
type home struct {
	dir, path string // of the data file
	cfg       Config
	log       *slog.Logger
	boot      string
	// unaware: whoever had the data file before knew nothing of schemas.
	unaware bool
	lock    *os.File

	mu    sync.Mutex
	aside []string // guarded by mu: the damaged files that were set aside
}

// state is what is known of the data file from outside it. It is written, and
// synced, before the data file is first changed and after it was closed.
type state struct {
	Layout int `json:"layout"`
	// Boot is the boot of the machine in which the file was opened.
	Boot string `json:"boot"`
	// Clean says that the file was closed in good order, and is durable.
	Clean bool `json:"clean"`
	// TxID is the file's last transaction: if clean, exactly; else it was when
	// the file was opened. A file that is older was put there by somebody else.
	TxID int `json:"txid"`
	// Schemas says that whoever wrote this knows of schemas, so that what it
	// invalidated it did in every one. An earlier version leaves it out.
	Schemas bool `json:"schemas"`
}

// openHome makes the directory if it is not there, and locks it.
func openHome(cfg Config) (*home, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory of the embedded store: %w", err)
	}
	h := &home{
		dir:  cfg.Dir,
		path: filepath.Join(cfg.Dir, dataFile),
		cfg:  cfg,
		log:  cfg.Logger,
		boot: cfg.BootID(),
	}
	name := filepath.Join(cfg.Dir, lockFile)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory of the embedded store: %w", err)
	}
	h.lock = f
	for waited := time.Duration(0); ; waited += lockRetry {
		if err = lock(f); err == nil {
			break
		}
		if !errors.Is(err, errLocked) || waited >= cfg.LockWait {
			err = h.lockError(err)
			f.Close()
			return nil, err
		}
		time.Sleep(lockRetry) // no system tells when a lock is let go of
	}
	h.noteOwner()
	return h, nil
}

const lockRetry = 20 * time.Millisecond

// ErrInUse says that another process uses the data directory.
var ErrInUse = errors.New("data directory in use")

func (h *home) lockError(err error) error {
	if !errors.Is(err, errLocked) {
		return fmt.Errorf("locking the data directory %s: %w", h.dir, err)
	}
	owner := "another process"
	if b, err := os.ReadFile(h.lock.Name()); err == nil && len(b) > 0 {
		owner = "process " + strings.TrimSpace(string(b))
	}
	return fmt.Errorf("%w: %s is used by %s; an embedded store serves one process (give each its own directory, or let them share a Redis)",
		ErrInUse, h.dir, owner)
}

// noteOwner writes into the lock file who holds it, for the error above.
func (h *home) noteOwner() {
	err := h.lock.Truncate(0)
	if err == nil {
		_, err = h.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		h.log.Warn("embedded store: noting the owner of the data directory", "dir", h.dir, "error", err)
	}
}

// close lets go of the directory.
func (h *home) close() { h.lock.Close() }

// damaged returns the files that were set aside.
func (h *home) damaged() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.aside...)
}

// open opens the data file, or a new one if there is none that can be gone on
// with.
func (h *home) open() (*database, error) {
	if err := h.vet(); err != nil {
		return nil, err
	}
	db, err := openDatabase(h.path, h.largest())
	if isDamage(err) {
		if err = h.setAside(err); err != nil {
			return nil, err
		}
		db, err = openDatabase(h.path, h.largest())
	}
	if err != nil {
		return nil, fmt.Errorf("data directory of the embedded store: %w", err)
	}
	txid, err := db.lastTx()
	was, known := h.readState()
	h.unaware = known && !was.Schemas
	if err == nil {
		// What an unaware version left is forgotten after this, in the first transaction.
		err = h.writeState(state{TxID: txid, Schemas: !h.unaware})
	}
	if err != nil {
		db.close()
		return nil, fmt.Errorf("data directory of the embedded store: %w", err)
	}
	return db, nil
}

// largest is how large the data file may become.
func (h *home) largest() int64 { return h.cfg.MaxBytes + Slack(h.cfg.MaxBytes) }

// isDamage reports whether opening a file failed because of what is in it. The
// check before that should have found it.
func isDamage(err error) bool {
	var f *fault
	return errors.As(err, &f) || errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) ||
		errors.Is(err, bolterrors.ErrVersionMismatch)
}

// vet looks at the data file, if there is one, and removes what cannot be gone
// on with. A damaged one it sets aside.
func (h *home) vet() error {
	info, err := os.Stat(h.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("data file of the embedded store: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("data file of the embedded store: %s is not a file", h.path)
	case info.Size() == 0:
		return nil
	}
	if h.readLayout() > layout {
		return fmt.Errorf("data file of the embedded store: %s: %w", h.path, errLaterLayout)
	}
	was, known := h.readState()
	if known && !was.Clean && (was.Boot != h.boot || h.boot == "") {
		// Its pages reached the disk in any order or not at all, and everything in
		// it is dead, for all ledgers must take a new epoch: nothing is lost by
		// beginning anew.
		return h.remove("the machine was restarted without closing it")
	}
	txid, err := checkFile(h.path)
	switch {
	case errors.Is(err, errDamaged):
		return h.setAside(err)
	case err != nil:
		return fmt.Errorf("data file of the embedded store: %w", err)
	case !known:
		return h.remove("nothing is known of how it was left")
	case was.Layout != layout:
		return h.remove("it was written by an earlier version")
	case txid < was.TxID, was.Clean && txid > was.TxID:
		return h.remove("it is not the file that was left here")
	case info.Size() > h.largest():
		return h.remove("it is larger than the store may now be")
	}
	return nil
}

func (h *home) remove(why string) error {
	h.log.Warn("embedded store: beginning anew", "dir", h.dir, "reason", why)
	if err := os.Remove(h.path); err != nil {
		return fmt.Errorf("data file of the embedded store: %w", err)
	}
	return nil
}

const asideInfix = ".corrupt-"

// setAside renames a damaged data file. Only the newest is kept, since they can
// be large.
func (h *home) setAside(cause error) error {
	old, _ := filepath.Glob(escapeGlob(h.path) + asideInfix + "*") // the pattern is well formed
	name := h.path + asideInfix + h.cfg.Now().UTC().Format("20060102T150405.000000Z")
	if err := os.Rename(h.path, name); err != nil {
		return fmt.Errorf("setting a damaged data file aside: %w", err)
	}
	h.log.Error("embedded store: the data file is damaged; beginning anew", "dir", h.dir, "set_aside", name, "cause", cause)
	for _, o := range old {
		if o == name {
			continue
		}
		if err := os.Remove(o); err != nil {
			h.log.Warn("embedded store: removing an older damaged file", "file", o, "error", err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.aside = append(h.aside, name)
	return nil
}

func escapeGlob(path string) string {
	if os.PathSeparator == '\\' {
		return path // there is no escaping on such systems
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// readLayout reads the layout alone, which stands in the state file of every
// version, whatever else does. It is zero if that cannot be told.
func (h *home) readLayout() int {
	var st struct {
		Layout int `json:"layout"`
	}
	if b, err := os.ReadFile(filepath.Join(h.dir, stateFile)); err != nil || json.Unmarshal(b, &st) != nil {
		return 0
	}
	return st.Layout
}

// readState reads what is known of the data file.
func (h *home) readState() (st state, known bool) {
	b, err := os.ReadFile(filepath.Join(h.dir, stateFile))
	if err != nil || json.Unmarshal(b, &st) != nil {
		return state{}, false
	}
	return st, true
}

// writeState writes what is known of the data file, durably, in one step.
func (h *home) writeState(st state) error {
	st.Layout, st.Boot = layout, h.boot
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	name := filepath.Join(h.dir, stateFile)
	if err := writeSynced(name+".new", append(b, '\n')); err != nil {
		return fmt.Errorf("noting the state of the data file: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("noting the state of the data file: %w", err)
	}
	syncDir(h.dir)
	return nil
}

func writeSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if syncErr := f.Sync(); err == nil {
		err = syncErr
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// syncDir makes a rename durable, where directories can be synced.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		d.Sync() //nolint:errcheck // not all systems can; then the rename is durable a little later
		d.Close()
	}
}
