package outbox_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a database, a cache, and an outbox between them.
type world struct {
	t     *testing.T
	rows  *fakeDB
	db    *sql.DB
	cache *fakeCache
	box   *outbox.Outbox
	log   *bytes.Buffer
	heard heard
}

// heard is what the hooks were told.
type heard struct {
	mu      sync.Mutex
	relayed []outbox.Relayed
	retries []time.Duration
	aside   []int64
}

func newWorld(t *testing.T, changes ...func(*outbox.Config)) *world {
	w := &world{t: t, cache: &fakeCache{}, log: &bytes.Buffer{}}
	w.rows, w.db = openFake(t)
	w.box = w.another(changes...)
	return w
}

// another returns one more outbox on the table, as another process has it.
func (w *world) another(changes ...func(*outbox.Config)) *outbox.Outbox {
	cfg := outbox.Config{
		DB: w.db, Dialect: outbox.Postgres, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
		Hooks: outbox.Hooks{
			OnRelayed: func(r outbox.Relayed) { w.note(func(h *heard) { h.relayed = append(h.relayed, r) }) },
			OnRetry: func(attempt int, in time.Duration, err error) {
				w.note(func(h *heard) { h.retries = append(h.retries, in) })
				if attempt != len(w.heard.retries) || err == nil {
					w.t.Errorf("retry %d of %v, the %d. to be heard of", attempt, err, len(w.heard.retries))
				}
			},
			OnSetAside: func(id int64, _ error) { w.note(func(h *heard) { h.aside = append(h.aside, id) }) },
		},
	}
	for _, change := range changes {
		change(&cfg)
	}
	box, err := outbox.New(w.cache, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return box
}

func (w *world) note(change func(*heard)) {
	w.heard.mu.Lock()
	defer w.heard.mu.Unlock()
	change(&w.heard)
}

// begin opens a transaction that invalidates.
func (w *world) begin(what ...client.Invalidation) *sql.Tx {
	w.t.Helper()
	tx, err := w.db.BeginTx(w.t.Context(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range what {
		if err := w.box.Invalidate(w.t.Context(), tx, i); err != nil {
			w.t.Fatal(err)
		}
	}
	return tx
}

// commit is a change that was committed.
func (w *world) commit(what ...client.Invalidation) {
	w.t.Helper()
	if err := w.begin(what...).Commit(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) flush() {
	w.t.Helper()
	if err := w.box.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// said asserts what the cache was asked since it was last looked at.
func (w *world) said(want ...string) {
	w.t.Helper()
	if got := w.cache.said(); !slices.Equal(got, want) {
		w.t.Errorf("the cache was asked to invalidate %q, want %q", got, want)
	}
}

// left asserts which rows wait.
func (w *world) left(want ...int64) {
	w.t.Helper()
	if got := w.rows.waiting(); !slices.Equal(got, want) {
		w.t.Errorf("rows %v wait, want %v", got, want)
	}
}

// run runs the relay until stop is called.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.box.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func keys(names ...string) client.Invalidation { return client.Invalidation{Keys: names} }
func tags(names ...string) client.Invalidation { return client.Invalidation{Tags: names} }

func TestWhatIsCommittedIsRelayed(t *testing.T) {
	w := newWorld(t)
	w.commit(tags("products", "product:42"), keys("k"))
	w.said()
	w.flush()
	w.said("k #products #product:42")
	w.left()
	w.flush()
	w.said()
	if want := []outbox.Relayed{{Rows: 2, Targets: 3, Lag: w.heard.relayed[0].Lag}}; !slices.Equal(w.heard.relayed, want) {
		t.Errorf("heard %v", w.heard.relayed)
	}
}

func TestWhatIsRolledBackIsNot(t *testing.T) {
	w := newWorld(t)
	if err := w.begin(tags("products")).Rollback(); err != nil {
		t.Fatal(err)
	}
	w.flush()
	w.said()
}

// A transaction that takes its id first and commits last is not passed over, and
// its row is not deleted with those around it.
func TestLowerIdsThatCommitLater(t *testing.T) {
	w := newWorld(t)
	early := w.begin(keys("early")) // takes id 1
	w.commit(keys("late"))
	w.flush()
	w.said("late")
	w.commit(keys("later"))
	// The early one commits after the relay has read and before it deletes.
	w.cache.set(func(c *fakeCache) {
		c.during = func(client.Invalidation) {
			c.set(func(c *fakeCache) { c.during = nil })
			if err := early.Commit(); err != nil {
				t.Error(err)
			}
		}
	})
	w.flush()
	w.said("later")
	w.left(1)
	w.flush()
	w.said("early")
	w.left()
}

// The deletion comes after the invalidation, whatever fails in between.
func TestNoRowIsGoneThatWasNotRelayed(t *testing.T) {
	broken := errors.New("broken")
	t.Run("the service is down", func(t *testing.T) {
		w := newWorld(t)
		w.commit(keys("k"))
		w.cache.set(func(c *fakeCache) { c.fail = soracache.ErrUnavailable })
		if err := w.box.Flush(t.Context()); !errors.Is(err, soracache.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		w.left(1)
	})
	t.Run("the relay dies before it deletes", func(t *testing.T) {
		w := newWorld(t)
		w.commit(keys("k"))
		w.rows.set(func(f *fakeDB) {
			f.fail = func(verb string) error {
				if verb == "DELETE" {
					return broken
				}
				return nil
			}
		})
		if err := w.box.Flush(t.Context()); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		w.said("k")
		w.left(1)
		w.rows.set(func(f *fakeDB) { f.fail = nil })
		if err := w.another().Flush(t.Context()); err != nil {
			t.Error(err)
		}
		w.said("k")
		w.left()
	})
	t.Run("the database is down", func(t *testing.T) {
		w := newWorld(t)
		w.commit(keys("k"))
		w.rows.set(func(f *fakeDB) { f.fail = func(string) error { return broken } })
		if err := w.box.Flush(t.Context()); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		w.said()
		w.left(1)
	})
	t.Run("the second of two calls fails", func(t *testing.T) {
		w := newWorld(t)
		w.commit(keys("a"), client.Invalidation{Keys: []string{"b"}, Acknowledge: true})
		w.cache.set(func(c *fakeCache) {
			c.refuse = func(what client.Invalidation) error {
				if what.Acknowledge {
					return &soracache.IncompleteError{Cause: context.DeadlineExceeded}
				}
				return nil
			}
		})
		if err := w.box.Flush(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		w.said("a")
		w.left(2)
	})
}

func TestMerging(t *testing.T) {
	ack := func(names ...string) client.Invalidation {
		return client.Invalidation{Keys: names, Acknowledge: true}
	}
	settling := func(names ...string) client.Invalidation {
		return client.Invalidation{Keys: names, Settle: time.Second}
	}
	tests := []struct {
		name string
		rows []client.Invalidation
		want []string
	}{
		{"rows of one kind are one call", []client.Invalidation{keys("a"), tags("t"), {All: true}}, []string{"a #t *"}},
		{"what many rows name is named once", []client.Invalidation{keys("a", "b"), keys("b", "a"), keys("a")}, []string{"a b"}},
		{"a key and a tag of one name are two things", []client.Invalidation{keys("a"), tags("a")}, []string{"a #a"}},
		{"what settles keeps to itself", []client.Invalidation{keys("a"), settling("b"), settling("c"), keys("d")}, []string{"a", "b c 1s", "d"}},
		{"what is acknowledged keeps to itself", []client.Invalidation{ack("a"), keys("b"), ack("c")}, []string{"a !", "b", "c !"}},
		{"rows of one key stay in order", []client.Invalidation{keys("k"), settling("k"), keys("k")}, []string{"k", "k 1s", "k"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.commit(tt.rows...)
			w.flush()
			w.said(tt.want...)
			w.left()
		})
	}
}

func TestBacklogIsRelayedInBatches(t *testing.T) {
	w := newWorld(t, func(c *outbox.Config) { c.Batch = 100 })
	var rows []client.Invalidation
	for i := range 1000 {
		rows = append(rows, keys("k"+strconv.Itoa(i)))
	}
	w.commit(rows...)
	w.flush()
	w.left()
	if n := len(w.cache.said()); n != 10 {
		t.Errorf("%d calls", n)
	}
}

func TestRowsLargerThanACall(t *testing.T) {
	w := newWorld(t, func(c *outbox.Config) { c.Targets = 3 })
	w.commit(keys("a", "b"), keys("c", "d", "e", "f", "g"))
	w.flush()
	w.said("a b c", "d e f", "g")
	w.left()
}

// A service that takes less at a time than this was told is given less.
func TestServiceThatTakesLess(t *testing.T) {
	w := newWorld(t)
	w.cache.set(func(c *fakeCache) {
		c.refuse = func(what client.Invalidation) error {
			if len(what.Keys) > 2 {
				return soracache.ErrTooLarge
			}
			return nil
		}
	})
	w.commit(keys("a", "b", "c"), keys("d", "e"))
	w.flush()
	w.said("a b", "c", "d e")
	w.left()
}

func TestWhatCanNeverBeRelayedIsSetAside(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t)
	w.cache.set(func(c *fakeCache) { c.refuse = refuseNames("bad", nil) })
	w.commit(keys("a"), keys("b", "bad", "c"), keys("d"))
	for _, payload := range []string{
		``, `{`, `null`, `{"v":1}`, `{"v":2,"keys":["k"]}`, `{"v":1,"keys":["k"],"unless":"x"}`, `{"v":1,"keys":["k"]}{}`,
		`{"v":1,"keys":[""]}`, `{"v":1,"keys":["k"],"settle_ns":-1}`, `{"v":1,"keys":["k"],"settle_ns":60000000001}`,
	} {
		w.rows.insert(1, payload)
	}
	w.commit(keys("e"))
	err := w.box.Flush(ctx)
	if !errors.Is(err, outbox.ErrSetAside) || !errors.Is(err, soracache.ErrInvalid) || !strings.Contains(err.Error(), `"bad"`) {
		t.Errorf("Flush: %v", err)
	}
	if said := strings.Join(w.cache.said(), " "); said != "a b c d e" {
		t.Errorf("relayed %s", said)
	}
	w.left()
	counts, err := w.box.Backlog(ctx)
	if want := (outbox.Backlog{SetAside: 11}); counts != want || err != nil {
		t.Errorf("got %v, %v", counts, err)
	}
	if want := []int64{4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 2}; !slices.Equal(w.heard.aside, want) {
		t.Errorf("heard of %v", w.heard.aside)
	}
	if reason := w.rows.rows[2].err; !strings.Contains(fmt.Sprint(reason), "bad") {
		t.Errorf("the row says %v", reason)
	}
	w.flush()

	// The service is changed and takes it now.
	w.cache.set(func(c *fakeCache) { c.refuse = nil })
	if n, err := w.box.Restore(ctx, 2, 99); n != 1 || err != nil {
		t.Errorf("restored %d, %v", n, err)
	}
	w.flush()
	w.said("b bad c")
	if n, err := w.box.Restore(ctx); n != 10 || err != nil {
		t.Errorf("restored %d, %v", n, err)
	}
	if counts, _ := w.box.Backlog(ctx); counts != (outbox.Backlog{Waiting: 10}) {
		t.Errorf("after that %v", counts)
	}
}

// What the operator can put right is not the row's fault.
func TestRefusalsThatMayEndAreRetried(t *testing.T) {
	for _, refusal := range []error{
		soracache.ErrPermissionDenied, soracache.ErrUnauthenticated, soracache.ErrUnimplemented,
		soracache.ErrUnavailable, soracache.ErrTooLarge, client.ErrClosed, context.DeadlineExceeded,
	} {
		w := newWorld(t)
		w.commit(keys("a"), keys("b"))
		w.cache.set(func(c *fakeCache) { c.fail = refusal })
		if err := w.box.Flush(t.Context()); !errors.Is(err, refusal) {
			t.Errorf("%v: %v", refusal, err)
		}
		w.left(1, 2)
	}
}

// Rows of a later version are that version's, also in a rolling upgrade.
func TestRowsOfALaterVersionAreLeftAlone(t *testing.T) {
	w := newWorld(t, func(c *outbox.Config) { c.Batch = 1 })
	w.rows.insert(2, "in a format to come")
	w.commit(keys("k"))
	w.flush()
	w.said("k")
	if counts, err := w.box.Backlog(t.Context()); counts != (outbox.Backlog{Foreign: 1}) || err != nil {
		t.Errorf("got %v, %v", counts, err)
	}
}

// Two relays take the same row. The slower one deletes what it has relayed and
// nothing else, and repeats what is done.
func TestTwoRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.commit(keys("a"))
		held, release := make(chan struct{}), make(chan struct{})
		w.cache.set(func(c *fakeCache) {
			c.during = func(client.Invalidation) {
				c.set(func(c *fakeCache) { c.during = nil }) // the first one alone
				close(held)
				<-release
			}
		})
		slow := make(chan error)
		go func() { slow <- w.another().Flush(t.Context()) }()
		<-held
		w.flush()
		w.said("a")
		w.left()
		w.commit(keys("b"))
		close(release)
		if err := <-slow; err != nil {
			t.Error(err)
		}
		w.said("a")
		w.left(2)
	})
}

func TestRunRelaysWhatItIsNudgedOfAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.run()()
		synctest.Wait()
		start := time.Now()
		w.commit(keys("k"))
		synctest.Wait()
		w.said()
		for range 3 {
			w.box.Nudge()
		}
		synctest.Wait()
		w.said("k")
		if took := time.Since(start); took != 0 {
			t.Errorf("after %s", took)
		}
	})
}

// What others commit, or left behind, is found by looking.
func TestRunLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.commit(keys("left behind"))
		defer w.run()()
		synctest.Wait()
		w.said("left behind")
		for range 20 {
			w.commit(keys("k"))
			time.Sleep(outbox.DefaultPoll)
			synctest.Wait()
			w.said("k")
		}
	})
}

func TestRunRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cache.set(func(c *fakeCache) { c.fail = soracache.ErrUnavailable })
		defer w.run()()
		w.commit(keys("k"))
		w.box.Nudge()
		time.Sleep(time.Minute)
		w.box.Nudge() // changes nothing: to be nudged does not help
		synctest.Wait()
		want := 100 * time.Millisecond
		for i, got := range w.heard.retries {
			if got < want/2 || got > want {
				t.Errorf("retry %d after %s, want %s to %s", i+1, got, want/2, want)
			}
			want = min(2*want, outbox.DefaultRetryMost)
		}
		if n := len(w.heard.retries); n < 10 || n > 22 {
			t.Errorf("%d retries in a minute", n)
		}
		w.left(1)
		w.cache.set(func(c *fakeCache) { c.fail = nil })
		time.Sleep(outbox.DefaultRetryMost)
		synctest.Wait()
		w.said("k")
		w.left()
		if r := w.heard.relayed; len(r) != 1 || r[0].Lag < time.Minute || r[0].Lag > time.Minute+outbox.DefaultRetryMost {
			t.Errorf("heard %v", r)
		}
		w.commit(keys("l"))
		time.Sleep(outbox.DefaultPoll)
		synctest.Wait()
		if r := w.heard.relayed; len(r) != 2 || r[1].Lag != 0 {
			t.Errorf("a lag that is over: heard %v", r)
		}
		if log := w.log.String(); strings.Count(log, "\n") != 2 ||
			!strings.Contains(log, "invalidations wait") || !strings.Contains(log, "relayed again") {
			t.Errorf("logged:\n%s", log)
		}
	})
}

// Flush does not wait for the end of Run's patience: it tries by itself.
func TestFlushWhileRunWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *outbox.Config) { c.RetryFirst = time.Hour })
		w.cache.set(func(c *fakeCache) { c.fail = soracache.ErrUnavailable })
		w.commit(keys("k"))
		defer w.run()()
		synctest.Wait()
		w.cache.set(func(c *fakeCache) { c.fail = nil })
		w.flush()
		w.said("k")
	})
}

// Callers of Flush share what begins after they came, and nothing that began
// before.
func TestFlushesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := make(chan struct{})
		w.cache.set(func(c *fakeCache) { c.during = func(client.Invalidation) { <-release } })
		results := make(chan error, 100)
		flush := func() { results <- w.box.Flush(t.Context()) }
		w.commit(keys("first"))
		go flush()
		synctest.Wait()
		for i := range 99 {
			w.commit(keys("k" + strconv.Itoa(i)))
			go flush()
		}
		synctest.Wait()
		if len(results) != 0 {
			t.Error("a flush returned before its invalidation was done")
		}
		close(release)
		for range 100 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if n := len(w.cache.said()); n != 2 {
			t.Errorf("%d calls", n)
		}
		w.left()
	})
}

func TestFlushReturnsWhenItsCallerGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := make(chan struct{})
		w.cache.set(func(c *fakeCache) { c.during = func(client.Invalidation) { <-release } })
		w.commit(keys("k"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.box.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(release)
		synctest.Wait()
		w.flush()
		w.left()
	})
}

// Rows that come in while it works are somebody else's.
func TestFlushEndsThoughRowsComeIn(t *testing.T) {
	w := newWorld(t, func(c *outbox.Config) { c.Batch = 10 })
	rows := make([]client.Invalidation, 25)
	for i := range rows {
		rows[i] = keys("k")
	}
	w.commit(rows...)
	w.cache.set(func(c *fakeCache) {
		c.during = func(client.Invalidation) {
			for range 20 {
				w.rows.insert(1, `{"v":1,"keys":["more"]}`)
			}
		}
	})
	// A batch of ten finds twenty more: the first 45 rows are there when it looks
	// where the end is.
	w.flush()
	if n := len(w.cache.said()); n != 5 {
		t.Errorf("%d calls", n)
	}
	if ids := w.rows.waiting(); len(ids) == 0 || ids[0] <= 45 {
		t.Errorf("rows %v wait", ids)
	}
}

func TestRunWorksOffABacklogWithoutARest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *outbox.Config) { c.Batch = 10; c.Poll = time.Hour })
		for range 95 {
			w.rows.insert(1, `{"v":1,"keys":["k"]}`)
		}
		defer w.run()()
		synctest.Wait()
		w.left()
	})
}

func TestWhatCannotBeRightIsRefusedInTheTransaction(t *testing.T) {
	w := newWorld(t)
	tx := w.begin()
	defer func() { _ = tx.Rollback() }()
	for _, what := range []client.Invalidation{
		{}, {Acknowledge: true}, keys(""), tags("a", ""), keys("\xff"),
		{Keys: []string{"k"}, Settle: -1}, {Keys: []string{"k"}, Settle: soracache.MaxSettle + 1},
	} {
		if err := w.box.Invalidate(t.Context(), tx, what); !errors.Is(err, soracache.ErrInvalid) {
			t.Errorf("%+v: %v", what, err)
		}
	}
	if err := w.box.Invalidate(t.Context(), w.db, keys("k")); !errors.Is(err, soracache.ErrInvalid) {
		t.Errorf("without a transaction: %v", err)
	}
	broken := errors.New("broken")
	w.rows.set(func(f *fakeDB) { f.fail = func(string) error { return broken } })
	if err := w.box.Invalidate(t.Context(), tx, keys("k")); !errors.Is(err, broken) {
		t.Errorf("a database that is down: %v", err)
	}
}

func TestConfig(t *testing.T) {
	_, db := openFake(t)
	good := outbox.Config{DB: db, Dialect: outbox.SQLite}
	tests := map[string]struct {
		change func(*outbox.Config)
		ok     bool
	}{
		"the defaults":                     {func(*outbox.Config) {}, true},
		"a name":                           {func(c *outbox.Config) { c.Table = "order" }, true},
		"a schema":                         {func(c *outbox.Config) { c.Table, c.Dialect = "shop.outbox", outbox.Postgres }, true},
		"a schema in SQLite":               {func(c *outbox.Config) { c.Table = "shop.outbox" }, false},
		"an injection":                     {func(c *outbox.Config) { c.Table = `x"; DROP TABLE y; --` }, false},
		"capitals":                         {func(c *outbox.Config) { c.Table = "Outbox" }, false},
		"a name too long":                  {func(c *outbox.Config) { c.Table = strings.Repeat("a", 51) }, false},
		"no database":                      {func(c *outbox.Config) { c.DB = nil }, false},
		"no dialect":                       {func(c *outbox.Config) { c.Dialect = 0 }, false},
		"an unknown dialect":               {func(c *outbox.Config) { c.Dialect = 4 }, false},
		"no time between looks":            {func(c *outbox.Config) { c.Poll = -1 }, false},
		"batches beyond what drivers take": {func(c *outbox.Config) { c.Batch = 1001 }, false},
		"negative targets":                 {func(c *outbox.Config) { c.Targets = -1 }, false},
		"retries backwards":                {func(c *outbox.Config) { c.RetryFirst, c.RetryMost = time.Second, time.Millisecond }, false},
	}
	for name, tt := range tests {
		cfg := good
		tt.change(&cfg)
		if err := cfg.Validate(); (err == nil) != tt.ok || (err != nil && !errors.Is(err, soracache.ErrInvalid)) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := outbox.New(&fakeCache{}, cfg); (err == nil) != tt.ok {
			t.Errorf("%s: New: %v", name, err)
		}
	}
}

// An application that imports the package gets the client and database/sql.
func TestDependencies(t *testing.T) {
	deps := func(pkg string) []string {
		out, err := exec.Command("go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	of := deps("github.com/soracache/soracache/client")
	var further []string
	for _, d := range deps("github.com/soracache/soracache/client/outbox") {
		if strings.Contains(d, ".") && !slices.Contains(of, d) {
			further = append(further, d)
		}
	}
	if want := []string{"github.com/soracache/soracache/client/outbox"}; !reflect.DeepEqual(further, want) {
		t.Errorf("beyond the client there is %v", further)
	}
}
