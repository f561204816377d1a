package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/l2"
)

func withBoot(id string) func(*Config) {
	return func(c *Config) { c.BootID = func() string { return id } }
}

// image is what a data directory holds.
type image map[string][]byte

// crash returns the data directory as a process would leave it that is killed
// now: what it wrote is in the files.
func crash(t testing.TB, s *Store) image {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	return readImage(t, s.cfg.Dir)
}

func readImage(t testing.TB, dir string) image {
	t.Helper()
	img := image{}
	for _, name := range []string{dataFile, stateFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		img[name] = b
	}
	return img
}

// in puts the image into a new directory.
func (img image) in(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range img {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// with returns the image with another data file.
func (img image) with(data []byte) image {
	return image{dataFile: data, stateFile: img[stateFile]}
}

const imageKeys = 160

// sampleImage returns an image with all sorts of rows, as after a crash or as
// after an orderly end.
func sampleImage(t testing.TB, clean bool) (image, soracache.Stamp) {
	t.Helper()
	s := openIn(t, t.TempDir(), withBoot("first"))
	for i := range imageKeys {
		mustLoad(t, s, childKey(i), childValue(i), childTag(i), "all")
	}
	mustLoad(t, s, "large", strings.Repeat("x", 300_000))
	for i := range 50 {
		invalidate(t, s, soracache.Tag(fmt.Sprint("other", i)), soracache.Key(fmt.Sprint("other", i)))
	}
	at := head(t, s)
	if !clean {
		return crash(t, s), at
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return readImage(t, s.cfg.Dir), at
}

// expectWarm opens a directory and expects everything to be there.
func expectWarm(t *testing.T, dir string, was soracache.Stamp, change ...func(*Config)) {
	t.Helper()
	s := openIn(t, dir, change...)
	defer s.Close()
	if now := head(t, s); now != was {
		t.Errorf("the ledger is at %v, it was at %v", now, was)
	}
	for i := range imageKeys {
		mustHit(t, s, childKey(i), childValue(i))
	}
	if len(s.SetAside()) > 0 {
		t.Error("the file was set aside")
	}
}

// expectCold opens a directory and expects a new beginning.
func expectCold(t *testing.T, dir string, was soracache.Stamp, change ...func(*Config)) *Store {
	t.Helper()
	s := openIn(t, dir, change...)
	if now := head(t, s); now.Epoch == was.Epoch {
		t.Errorf("the epoch is the same as before")
	}
	for i := range imageKeys {
		mustMiss(t, s, childKey(i))
	}
	mustLoad(t, s, "k", "v")
	mustHit(t, s, "k", "v")
	return s
}

// later is a state file as a version with another layout writes it.
func later(state []byte) []byte {
	return bytes.Replace(state, []byte(`"layout":1`), []byte(`"layout":2`), 1)
}

func TestReopen(t *testing.T) {
	crashed, was := sampleImage(t, false)
	clean, cleanWas := sampleImage(t, true)
	t.Run("after a crash in the same boot", func(t *testing.T) {
		expectWarm(t, crashed.in(t), was, withBoot("first"))
	})
	t.Run("after a crash in another boot", func(t *testing.T) {
		s := expectCold(t, crashed.in(t), was, withBoot("second"))
		if len(s.SetAside()) > 0 {
			t.Error("that is no damage")
		}
		d := s.Since(t.Context(), []l2.SinceRequest{{Partition: at, Since: was}})[0].Delta
		if !d.Reset {
			t.Errorf("a follower from before is told %+v", d)
		}
	})
	t.Run("after a crash when boots cannot be told apart", func(t *testing.T) {
		expectCold(t, crashed.in(t), was, withBoot(""))
	})
	t.Run("after an orderly end, in the same boot", func(t *testing.T) {
		expectWarm(t, clean.in(t), cleanWas, withBoot("first"))
	})
	t.Run("after an orderly end, in another boot", func(t *testing.T) {
		dir := clean.in(t)
		expectWarm(t, dir, cleanWas, withBoot("second"))
		expectWarm(t, dir, cleanWas, withBoot(""))
	})
	t.Run("after an orderly end, a crash and a reboot", func(t *testing.T) {
		s := openIn(t, clean.in(t), withBoot("second"))
		expectCold(t, crash(t, s).in(t), cleanWas, withBoot("third"))
	})
	t.Run("an older file put in its place", func(t *testing.T) {
		s := openIn(t, clean.in(t), withBoot("first"))
		invalidate(t, s, soracache.Tag("all"))
		s.Close()
		after := readImage(t, s.cfg.Dir)
		expectCold(t, after.with(clean[dataFile]).in(t), cleanWas, withBoot("first"))
		expectCold(t, clean.with(after[dataFile]).in(t), cleanWas, withBoot("first"))
	})
	t.Run("the state file is lost", func(t *testing.T) {
		expectCold(t, image{dataFile: clean[dataFile]}.in(t), cleanWas, withBoot("first"))
	})
	t.Run("the state file is damaged", func(t *testing.T) {
		expectCold(t, image{dataFile: clean[dataFile], stateFile: []byte("{")}.in(t), cleanWas, withBoot("first"))
	})
	t.Run("the layout is an earlier version's", func(t *testing.T) {
		other := bytes.Replace(clean[stateFile], []byte(`"layout":1`), []byte(`"layout":0`), 1)
		expectCold(t, image{dataFile: clean[dataFile], stateFile: other}.in(t), cleanWas, withBoot("first"))
	})
	t.Run("the layout is a later version's", func(t *testing.T) {
		for what, files := range map[string]image{
			"after an orderly end":    {dataFile: clean[dataFile], stateFile: later(clean[stateFile])},
			"after a crash":           {dataFile: crashed[dataFile], stateFile: later(crashed[stateFile])},
			"with another data file":  {dataFile: []byte("of a kind of its own"), stateFile: later(clean[stateFile])},
			"with another state file": {dataFile: clean[dataFile], stateFile: []byte(`{"layout":2,"boot":{"machine":"first"}}`)},
		} {
			dir := files.in(t)
			cfg := Config{Dir: dir}
			withBoot("second")(&cfg)
			if s, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "later version") {
				t.Errorf("%s: opened with %v", what, err)
				if err == nil {
					s.Close()
				}
			}
			for name, was := range files {
				if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(b, was) {
					t.Errorf("%s: %s was changed: %v", what, name, err)
				}
			}
		}
	})
	t.Run("with room for less", func(t *testing.T) {
		s := openIn(t, t.TempDir(), withBoot("first"), func(c *Config) { c.MaxBytes = 64 << 20 })
		fillKeys(t, s, keysNamed("k", 300), soracache.Entry{Value: make([]byte, 50<<10)}, long)
		s.Close()
		s = openIn(t, s.cfg.Dir, withBoot("first"), func(c *Config) { c.MaxBytes = 4 << 20 })
		if size := fileSize(t, s); size > 8<<20 {
			t.Errorf("the file has %d bytes", size)
		}
	})
}

// TestBootID is the real one: it must at least be the same twice.
func TestBootID(t *testing.T) {
	id := bootID()
	t.Logf("boot id %q", id)
	if id != bootID() {
		t.Error("the boot id changes")
	}
}

func TestDamagedFiles(t *testing.T) {
	sample, was := sampleImage(t, true)
	data := sample[dataFile]
	zeroed := func(pages ...int) []byte {
		b := bytes.Clone(data)
		for _, p := range pages {
			clear(b[p*pageSize : (p+1)*pageSize])
		}
		return b
	}
	root := int(binary.NativeEndian.Uint64(data[pageHeader+16:])) // of one of the metas: near enough
	rng := rand.New(rand.NewPCG(5, 6))
	garbage := make([]byte, 100_000)
	for i := range garbage {
		garbage[i] = byte(rng.Uint32())
	}
	for what, b := range map[string][]byte{
		"truncated in the middle":     data[:len(data)/2],
		"truncated in a page":         data[:len(data)-100],
		"truncated by a page":         data[:len(data)-pageSize],
		"truncated to its metas":      data[:2*pageSize],
		"truncated to one meta":       data[:pageSize],
		"truncated to nearly nothing": data[:10],
		"first meta zeroed":           zeroed(0),
		"second meta zeroed":          zeroed(1),
		"both metas zeroed":           zeroed(0, 1),
		"root zeroed":                 zeroed(root),
		"everything but metas zeroed": append(bytes.Clone(data[:2*pageSize]), make([]byte, len(data)-2*pageSize)...),
		"garbage":                     garbage,
		"garbage as long as a page":   garbage[:pageSize],
		"garbage behind the metas":    append(bytes.Clone(data[:2*pageSize]), garbage...),
		"text":                        []byte(strings.Repeat("this is not a database\n", 1000)),
		"zeroes":                      make([]byte, len(data)),
		"pages in another order":      append(bytes.Clone(data[:2*pageSize]), append(bytes.Clone(data[len(data)/2/pageSize*pageSize:]), data[2*pageSize:len(data)/2/pageSize*pageSize]...)...),
	} {
		t.Run(what, func(t *testing.T) {
			var log bytes.Buffer
			dir := sample.with(b).in(t)
			s := expectCold(t, dir, was, withBoot("first"), func(c *Config) {
				c.Logger = slog.New(slog.NewTextHandler(&log, nil))
			})
			aside := s.SetAside()
			if len(aside) != 1 || !strings.HasPrefix(aside[0], filepath.Join(dir, dataFile)+".corrupt-") {
				t.Fatalf("set aside: %q", aside)
			}
			if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, b) {
				t.Errorf("what was set aside is not what was there: %v", err)
			}
			if !strings.Contains(log.String(), aside[0]) {
				t.Errorf("the log does not tell: %s", &log)
			}
			s.Close()
			openIn(t, dir, withBoot("first"))
		})
	}
	t.Run("empty", func(t *testing.T) {
		if s := expectCold(t, sample.with(nil).in(t), was, withBoot("first")); len(s.SetAside()) > 0 {
			t.Error("an empty file is no damage")
		}
	})
	t.Run("only the newest is kept", func(t *testing.T) {
		dir := sample.with(garbage).in(t)
		for range 3 {
			openIn(t, dir, withBoot("first")).Close()
			if err := os.WriteFile(filepath.Join(dir, dataFile), garbage, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if kept, _ := filepath.Glob(filepath.Join(dir, "*.corrupt-*")); len(kept) != 1 {
			t.Errorf("kept are %q", kept)
		}
	})
}

// TestEveryPage damages one page of a file after the other. What is damaged
// must be found, or not matter.
func TestEveryPage(t *testing.T) {
	racetest.Without(t)
	sample, _ := sampleImage(t, true)
	data := sample[dataFile]
	for what, damage := range map[string]func(page []byte, id int){
		"zeroed":      func(page []byte, _ int) { clear(page) },
		"of another":  func(page []byte, id int) { copy(page, data[(id+7)%(len(data)/pageSize)*pageSize:][:pageSize]) },
		"kind":        func(page []byte, _ int) { page[8] ^= 3 },
		"count":       func(page []byte, _ int) { page[10]++ },
		"overflow":    func(page []byte, _ int) { page[12]++ },
		"element":     func(page []byte, _ int) { page[pageHeader+7] ^= 0x40 },
		"last bytes":  func(page []byte, _ int) { clear(page[pageSize-200:]) },
		"first bytes": func(page []byte, _ int) { clear(page[:8]) },
	} {
		t.Run(what, func(t *testing.T) {
			found, path := 0, filepath.Join(sample.in(t), dataFile)
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for id := range len(data) / pageSize {
				sound := data[id*pageSize : (id+1)*pageSize]
				page := bytes.Clone(sound)
				damage(page, id)
				if _, err := f.WriteAt(page, int64(id)*pageSize); err != nil {
					t.Fatal(err)
				}
				if tryFile(t, path) {
					found++
				}
				if _, err := f.WriteAt(sound, int64(id)*pageSize); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("found on %d of %d pages", found, len(data)/pageSize)
			if found < len(data)/pageSize/3 && what != "last bytes" {
				t.Error("that is too few")
			}
		})
	}
}

// tryFile checks a file and, if the check passes, lets bbolt walk all of it:
// that must go well then. It reports whether the check failed.
func tryFile(t testing.TB, path string) (damaged bool) {
	t.Helper()
	_, err := checkFile(path)
	if err != nil {
		if !errors.Is(err, errDamaged) {
			t.Errorf("not said to be damage: %v", err)
		}
		return true
	}
	db, err := openDatabase(path, 0)
	if err != nil {
		t.Errorf("sound, but cannot be opened: %v", err)
		return false
	}
	defer db.close()
	err = db.view(func(tx boltTx) {
		for problem := range tx.Check() {
			if !strings.Contains(problem.Error(), "unreachable unfreed") {
				t.Errorf("sound, but bbolt says: %v", problem)
			}
		}
	})
	if err != nil {
		t.Errorf("sound, but %v", err)
	}
	return false
}

// TestRandomDamage opens files with random damage and uses them: nothing may
// crash, and no value may be a wrong one.
func TestRandomDamage(t *testing.T) {
	racetest.Without(t)
	sample, _ := sampleImage(t, false)
	rng := rand.New(rand.NewPCG(rand.Uint64(), 8))
	warm, aside := 0, 0
	for range 60 {
		b := bytes.Clone(sample[dataFile])
		for range 1 + rng.IntN(4) {
			from := rng.IntN(len(b))
			for i := from; i < min(len(b), from+1+rng.IntN(64)); i++ {
				b[i] = byte(rng.Uint32())
			}
		}
		s := openIn(t, sample.with(b).in(t), withBoot("first"))
		if len(s.SetAside()) > 0 {
			aside++
		}
		for i := range imageKeys {
			a := read(t, s, childKey(i))
			if a.Found && string(a.Entry.Value) != childValue(i) {
				t.Fatalf("key %d has the value %.60q", i, a.Entry.Value)
			}
			if a.Found {
				warm++
			}
		}
		mustLoad(t, s, "k", "v", "all")
		invalidate(t, s, soracache.Tag("all"))
		mustMiss(t, s, "k")
		for cursor := "-"; cursor != ""; {
			if cursor == "-" {
				cursor = ""
			}
			var err error
			if cursor, _, err = s.Reclaim(t.Context(), at, "", cursor); err != nil {
				t.Fatal(err)
			}
		}
		sweep(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("of 60 damaged files %d were set aside; from the others %d of %d entries were read", aside, warm, (60-aside)*imageKeys)
}

// TestDamagedWhileInUse destroys the file of a store that is in use.
func TestDamagedWhileInUse(t *testing.T) {
	for what, destroy := range map[string]func(path string, size int64) error{
		"zeroed": func(path string, size int64) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(make([]byte, size-2*pageSize), 2*pageSize)
			return err
		},
		"truncated": func(path string, _ int64) error { return os.Truncate(path, 3*pageSize) },
	} {
		t.Run(what, func(t *testing.T) {
			s := openIn(t, t.TempDir())
			for i := range imageKeys {
				mustLoad(t, s, childKey(i), childValue(i), childTag(i))
			}
			was := head(t, s)
			s.mu.Lock()
			err := destroy(s.home.path, fileSize(t, s))
			s.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the store has begun anew", func() bool {
				a := s.Read(t.Context(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: childKey(1)}}}})[0]
				if a.Err != nil && !errors.Is(a.Err, soracache.ErrUnavailable) {
					t.Fatal(a.Err)
				}
				w := s.Write(t.Context(), []l2.WriteRequest{{Partition: at, Op: soracache.OpPut, Key: "k", Entry: soracache.Entry{Value: []byte("v")}, Lifetime: long}})[0]
				return a.Err == nil && w.Err == nil
			})
			if now := head(t, s); now.Epoch == was.Epoch {
				t.Error("the epoch is the same")
			}
			if len(s.SetAside()) != 1 {
				t.Errorf("set aside: %q", s.SetAside())
			}
			for i := range imageKeys {
				mustMiss(t, s, childKey(i))
			}
			mustHit(t, s, "k", "v")
			checkInvariants(t, s)
		})
	}
}

// TestPlaces are directories that cannot be used, each with an error that says
// why.
func TestPlaces(t *testing.T) {
	for what, prepare := range map[string]func(dir string) (open string, err error){
		"a directory in place of the file": func(dir string) (string, error) {
			return dir, os.MkdirAll(filepath.Join(dir, dataFile, "x"), 0o700)
		},
		"a directory in place of the lock": func(dir string) (string, error) {
			return dir, os.Mkdir(filepath.Join(dir, lockFile), 0o700)
		},
		"a file in place of the directory": func(dir string) (string, error) {
			return filepath.Join(dir, "file"), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
		},
		"a directory below a file": func(dir string) (string, error) {
			return filepath.Join(dir, "file", "sub"), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
		},
		"a directory that may not be written": func(dir string) (string, error) {
			if os.Getuid() == 0 {
				return "", errSkip
			}
			return dir, os.Chmod(dir, 0o500)
		},
		"a file that may not be read": func(dir string) (string, error) {
			if os.Getuid() == 0 {
				return "", errSkip
			}
			return dir, os.WriteFile(filepath.Join(dir, dataFile), make([]byte, 100), 0o000)
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			place, err := prepare(dir)
			if errors.Is(err, errSkip) {
				t.Skip("nothing is forbidden to root")
			} else if err != nil {
				t.Fatal(err)
			}
			s, err := Open(Config{Dir: place})
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), dir) {
				t.Errorf("%q does not name %s", err, dir)
			}
			if _, err := os.Stat(filepath.Join(dir, dataFile, "x")); what == "a directory in place of the file" && err != nil {
				t.Errorf("the directory was touched: %v", err)
			}
		})
	}
	t.Run("a directory that is not there yet", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "a", "b[c]*")
		s := openIn(t, dir)
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		mustLoad(t, s, "k", "v")
	})
}

var errSkip = errors.New("skip")
