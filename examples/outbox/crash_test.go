package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/outbox"
	"github.com/soracache/soracache/internal/proctest"
)

// The moments at which a process is killed: by itself, after a few of them, or
// by the test, at any time.
const (
	beforeCommit     = "before the commit"
	afterCommit      = "after the commit"
	beforeInvalidate = "before the invalidation"
	afterInvalidate  = "between invalidation and deletion"
	anyTime          = "at any time"
)

// A process that changes prices is killed, over and over. Each time another one
// relays what it has left behind, and then the cache serves what is committed.
func TestKilledBetweenCommitAndRelay(t *testing.T) {
	rounds := 50
	if os.Getenv("SORACACHE_VERIFY") != "" {
		rounds = 1000
	}
	file, url := filepath.Join(t.TempDir(), "shop.db"), serve(t)
	open(t, file, url) // makes the tables
	moments := []string{beforeCommit, afterCommit, beforeInvalidate, afterInvalidate, anyTime, anyTime}
	left, changed := map[string]int{}, 0
	for round := range rounds {
		moment := moments[round%len(moments)]
		s := openRound(t, file, url)
		before := s.committed(t)
		s.fill(t, before)
		runChild(t, file, url, moment, uint64(round))

		backlog, err := s.box.Backlog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if backlog.Waiting > 0 {
			left[moment]++
		}
		if err := s.box.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := s.committed(t)
		if after != before {
			changed++
		}
		s.check(t, after, fmt.Sprintf("round %d, killed %s", round, moment))
		s.end(t)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d rounds, of which %d changed prices; committed and not relayed when killed: %v", rounds, changed, left)
	// What a signal from outside meets is up to the machine, and a process that
	// dies before a commit may have nothing to leave.
	for _, moment := range []string{afterCommit, beforeInvalidate, afterInvalidate} {
		if left[moment] == 0 {
			t.Errorf("no process that was killed %s left anything behind, so nothing was tested", moment)
		}
	}
}

// roundShop is the shop as a process has it that was just started, so that
// nothing but the server can know of an invalidation.
type roundShop struct{ *shop }

func openRound(t *testing.T, file, url string) roundShop {
	t.Helper()
	s, err := openShop(t.Context(), file, url, client.NoNear())
	if err != nil {
		t.Fatal(err)
	}
	return roundShop{s}
}

func (s roundShop) end(t *testing.T) {
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// committed reads all prices from the database.
func (s roundShop) committed(t *testing.T) (prices [products]int64) {
	t.Helper()
	rows, err := s.db.QueryContext(t.Context(), "SELECT cents FROM product ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for i := 0; rows.Next(); i++ {
		if err := rows.Scan(&prices[i]); err != nil {
			t.Fatal(err)
		}
	}
	return prices
}

// fill puts all prices into the cache, so that a change of any of them makes it
// wrong. It does not load them: who was killed while loading may hold the lease.
func (s roundShop) fill(t *testing.T, prices [products]int64) {
	t.Helper()
	for i, cents := range prices {
		if err := s.prices.Set(t.Context(), "price:"+strconv.Itoa(i+1), cents); err != nil {
			t.Fatal(err)
		}
	}
}

// check asserts that the cache serves nothing but what is committed.
func (s roundShop) check(t *testing.T, want [products]int64, when string) {
	t.Helper()
	for i, cents := range want {
		got, found, err := s.prices.Get(t.Context(), "price:"+strconv.Itoa(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if found && got != cents {
			t.Errorf("%s: product %d: the cache serves %d, %d is committed", when, i+1, got, cents)
		}
	}
}

// runChild runs a process that changes prices until it is killed.
func runChild(t *testing.T, file, url, moment string, seed uint64) {
	t.Helper()
	ready, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ready.Close() }()
	out := &proctest.Output{}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "OUTBOX_CHILD="+moment, "OUTBOX_FILE="+file, "OUTBOX_CACHE="+url,
		"OUTBOX_SEED="+strconv.FormatUint(seed, 10))
	cmd.ExtraFiles = []*os.File{tell}
	cmd.Stderr = out
	p := proctest.Start(t, cmd)
	_ = tell.Close()
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the child did not begin: %v\n%s", err, out)
	}
	if moment == anyTime {
		time.Sleep(time.Duration(rand.New(rand.NewPCG(seed, 0)).IntN(30_000)) * time.Microsecond)
		p.Kill()
	}
	if code := p.ExitCode(t, time.Minute); code != -1 {
		t.Fatalf("the child was not killed: exit code %d\n%s", code, out)
	}
}

// die is how a process ends that nobody asked.
func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// fragile is a cache whose user dies beside its calls.
type fragile struct {
	*client.Client
	before, after func()
}

func (f fragile) Invalidate(ctx context.Context, what client.Invalidation) (client.Receipt, error) {
	f.before()
	receipt, err := f.Client.Invalidate(ctx, what)
	if err == nil {
		f.after()
	}
	return receipt, err
}

// child is the process that is killed: it changes prices, reads them, so that
// there is always something in the cache to be wrong, and relays.
func child() {
	ctx := context.Background()
	moment := os.Getenv("OUTBOX_CHILD")
	seed, _ := strconv.ParseUint(os.Getenv("OUTBOX_SEED"), 10, 64)
	random := rand.New(rand.NewPCG(seed, 1))
	s, err := openShop(ctx, os.Getenv("OUTBOX_FILE"), os.Getenv("OUTBOX_CACHE"))
	if err != nil {
		panic(err)
	}
	countdown := dieAfter(random.IntN(5))
	at := func(m string) func() {
		if m != moment {
			return func() {}
		}
		return countdown
	}
	s.box, err = outbox.New(fragile{s.cache, at(beforeInvalidate), at(afterInvalidate)}, outbox.Config{
		DB: s.db, Dialect: outbox.SQLite, Batch: 1 + random.IntN(5), Poll: 5 * time.Millisecond,
	})
	if err != nil {
		panic(err)
	}
	go s.box.Run(ctx)
	go func() {
		for i := 0; ; i++ {
			_, _ = s.price(ctx, strconv.Itoa(i%products+1))
		}
	}()
	_, _ = os.NewFile(3, "ready").WriteString("!")
	for {
		id, cents := strconv.Itoa(1+random.IntN(products)), random.Int64N(1e9)
		if err := s.changeUnless(ctx, id, cents, at(beforeCommit)); err != nil {
			panic(err)
		}
		at(afterCommit)()
		if random.IntN(2) == 0 {
			_ = s.box.Flush(ctx)
		}
	}
}

// dieAfter dies at the call that comes after n others.
func dieAfter(n int) func() {
	var mu sync.Mutex
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if n--; n < 0 {
			die()
		}
	}
}

// changeUnless is shop.change, with a moment at which to die.
func (s *shop) changeUnless(ctx context.Context, id string, cents int64, dies func()) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := s.update(ctx, tx, id, cents); err != nil {
		return err
	}
	dies()
	return tx.Commit()
}
