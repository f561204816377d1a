package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/internal/racetest"
	"github.com/soracache/soracache/l2"
	"github.com/soracache/soracache/l2/l2test"
)

// child is a process of its own that has a store open.
type child struct {
	*exec.Cmd
	lines *bufio.Scanner
	in    io.WriteCloser
}

func startChild(t *testing.T, task, dir string) *child {
	t.Helper()
	c := &child{Cmd: exec.CommandContext(t.Context(), os.Args[0], dir)}
	c.Env = append(os.Environ(), childEnv+"="+task)
	if task == "small disk" {
		c.SysProcAttr = ownMounts()
	}
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil && c.SysProcAttr != nil {
		t.Skip("no mounts of its own for a child:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	c.lines = bufio.NewScanner(out)
	return c
}

// line returns the next line that the child prints.
func (c *child) line(t *testing.T) string {
	t.Helper()
	if !c.lines.Scan() {
		t.Fatalf("the child ended: %v", c.lines.Err())
	}
	return c.lines.Text()
}

// kill kills the child in the middle of whatever it does, and returns what it
// had printed before.
func (c *child) kill(t *testing.T) (rest []string) {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for c.lines.Scan() {
		rest = append(rest, c.lines.Text())
	}
	c.Wait()
	return rest
}

// runChild is what a child process does.
func runChild(task, dir string) {
	if task == "small disk" {
		if err := mountSmallDisk(dir); err != nil {
			fmt.Println("skip", err)
			return
		}
	}
	s, err := Open(Config{Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	stamp := s.Since(context.Background(), []l2.SinceRequest{{Partition: at}})[0].Delta
	fmt.Println("open", stamp.Epoch)
	switch task {
	case "hold":
		io.Copy(io.Discard, os.Stdin)
	case "write":
		writeUntilKilled(s)
	case "file limit":
		limitFileSize(8 << 20)
		fillTheDisk(s, func() { limitFileSize(1 << 40) })
	case "small disk":
		fillTheDisk(s, func() { growSmallDisk(dir) })
	}
	if err := s.Close(); err != nil {
		fmt.Println("error", err)
	}
}

const childTags = 7

func childTag(i int) string   { return fmt.Sprint("tag", i%childTags) }
func childKey(i int) string   { return fmt.Sprint("key", i) }
func childValue(i int) string { return strings.Repeat(fmt.Sprint("value", i), 1+i*i%500) }

// writeUntilKilled fills keys and invalidates tags, and says so before and
// after. Others write beside it, so that transactions are never the same.
func writeUntilKilled(s *Store) {
	for g := range 3 {
		go func() {
			for i := 0; ; i++ {
				e := soracache.Entry{Value: make([]byte, 1+i*i%300_000), Tags: []string{"noise"}}
				load(s, fmt.Sprint("noise", g, "/", i%50), e, long)
			}
		}()
	}
	for i := 0; ; i++ {
		fmt.Println("filling", i)
		e := soracache.Entry{Value: []byte(childValue(i)), Tags: []string{childTag(i)}}
		if reason, err := load(s, childKey(i), e, long); err != nil || reason != soracache.ReasonNone {
			fmt.Println("error", reason, err)
		}
		fmt.Println("filled", i)
		if i%10 == 9 {
			fmt.Println("invalidating", i/10%childTags)
			s.Invalidate(context.Background(), []l2.InvalidateRequest{{
				Partition: at, Targets: []soracache.Target{soracache.Tag(childTag(i / 10))},
			}})
			fmt.Println("invalidated", i/10%childTags)
		}
	}
}

// TestKill kills a process in the middle of its writes. What it had said was
// filled must be served, what it had said was invalidated must not, and the
// ledger must go on.
func TestKill(t *testing.T) {
	if bootID() == "" {
		t.Skip("boots cannot be told apart here, so a kill is like a restart of the machine")
	}
	rounds := 3
	if l2test.Verifying() {
		rounds = 30
	}
	dir := t.TempDir()
	var epoch string
	for round := range rounds {
		c := startChild(t, "write", dir)
		if now := c.line(t); epoch == "" {
			epoch = now
		} else if now != epoch {
			t.Fatalf("round %d: %s, before it was %s", round, now, epoch)
		}
		var said []string
		for range 100 + rand.IntN(400) {
			said = append(said, c.line(t))
		}
		said = append(said, c.kill(t)...)

		s := openIn(t, dir)
		if now := fmt.Sprintln("open", head(t, s).Epoch); strings.TrimSpace(now) != epoch {
			t.Fatalf("round %d: reopened with %s, it was %s", round, now, epoch)
		}
		live := compareWithSaid(t, s, said)
		checkInvariants(t, s)
		if len(s.SetAside()) > 0 {
			t.Fatalf("round %d: a file was set aside", round)
		}
		t.Logf("round %d: killed after %d lines; %d entries still served", round, len(said), live)
		invalidate(t, s, soracache.Everything())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// compareWithSaid compares a store with what the child said that it did. The
// last thing that it began may have happened or not.
func compareWithSaid(t *testing.T, s *Store, said []string) (served int) {
	t.Helper()
	filled := make(map[int]bool) // and not invalidated since
	began, unsure := "", -1
	for _, line := range said {
		var what string
		var n int
		if _, err := fmt.Sscan(line, &what, &n); err != nil {
			t.Fatalf("the child said %q", line)
		}
		switch what {
		case "filling", "invalidating":
			began, unsure = what, n
		case "filled":
			filled[n], unsure = true, -1
		case "invalidated":
			unsure = -1
			for i := range filled {
				if i%childTags == n {
					filled[i] = false
				}
			}
		}
	}
	for i, live := range filled {
		a := read(t, s, childKey(i))
		switch {
		case began == "invalidating" && unsure == i%childTags:
		case a.Found != live:
			t.Errorf("key %d: found %v, want %v; the child was last %s %d", i, a.Found, live, began, unsure)
		case a.Found && string(a.Entry.Value) != childValue(i):
			t.Errorf("key %d has another value", i)
		}
		if a.Found {
			served++
		}
	}
	return served
}

func TestLockConflict(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, "hold", dir)
	c.line(t)

	began := time.Now()
	_, err := Open(Config{Dir: dir, LockWait: 50 * time.Millisecond})
	if !errors.Is(err, ErrInUse) {
		t.Fatalf("opened beside another process: %v", err)
	}
	for _, want := range []string{dir, fmt.Sprint("process ", c.Process.Pid)} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("that took %s", took)
	}

	waiting := make(chan *Store)
	go func() {
		s, err := Open(Config{Dir: dir, LockWait: time.Minute})
		if err != nil {
			t.Error(err)
		}
		waiting <- s
	}()
	c.in.Close() // the child ends in good order
	if s := <-waiting; s != nil {
		s.Close()
	}
	c.Wait()

	s := openIn(t, dir)
	if _, err := Open(Config{Dir: dir, LockWait: time.Millisecond}); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice in one process: %v", err)
	}
	s.Close()
	openIn(t, dir)
}

// fillTheDisk fills the store until nothing can be written, and goes on when
// there is space again.
func fillTheDisk(s *Store, makeSpace func()) {
	fail := func(format string, args ...any) {
		fmt.Printf("error "+format+"\n", args...)
		os.Exit(1)
	}
	var mu sync.Mutex
	filled := make(map[int]bool)
	var last error
	for i := 0; last == nil; i++ {
		e := soracache.Entry{Value: []byte(childValue(i)), Tags: []string{childTag(i)}}
		reason, err := load(s, childKey(i), e, long)
		if err == nil && reason == soracache.ReasonNone {
			filled[i] = true
		}
		last = err
	}
	if !errors.Is(last, soracache.ErrStoreFull) {
		fail("full disk: %v", last)
	}
	before := s.Since(context.Background(), []l2.SinceRequest{{Partition: at}})[0]
	check := func(when string) {
		for i := range filled {
			a := s.Read(context.Background(), []l2.ReadRequest{{Partition: at, Keys: []l2.ReadKey{{Key: childKey(i)}}}})[0]
			if a.Err != nil || !a.Keys[0].Found || string(a.Keys[0].Entry.Value) != childValue(i) {
				fail("%s: key %d: %v, %v", when, i, a.Err, a.Keys)
			}
		}
	}
	check("while full")
	var all sync.WaitGroup
	refused := 0
	for i := range 50 { // at once, and again and again
		all.Go(func() {
			a := s.Invalidate(context.Background(), []l2.InvalidateRequest{{Partition: at, Targets: []soracache.Target{soracache.Tag(fmt.Sprint("none", i))}}})[0]
			mu.Lock()
			defer mu.Unlock()
			if a.Err != nil {
				refused++
			}
		})
	}
	all.Wait()
	check("after more was refused")
	makeSpace()
	eventually := time.Now().Add(20 * time.Second)
	for i := 1_000_000; ; i++ {
		e := soracache.Entry{Value: []byte(childValue(1))}
		if reason, err := load(s, childKey(i), e, long); err == nil && reason == soracache.ReasonNone {
			break
		} else if time.Now().After(eventually) {
			fail("no recovery: %s, %v", reason, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	check("after there was space again")
	after := s.Since(context.Background(), []l2.SinceRequest{{Partition: at}})[0]
	if before.Delta.Epoch != after.Delta.Epoch {
		fail("the epoch changed")
	}
	fmt.Println("full after", len(filled), "fills,", refused, "of 50 invalidations refused")
}

// TestFullDisk fills a disk: once so that bbolt meets with the failure in the
// middle of a commit, and once for real.
func TestFullDisk(t *testing.T) {
	racetest.Without(t)
	if !canFillDisks {
		t.Skip("not on this system")
	}
	for _, task := range []string{"file limit", "small disk"} {
		t.Run(task, func(t *testing.T) {
			c := startChild(t, task, t.TempDir())
			line := c.line(t)
			if strings.HasPrefix(line, "skip") {
				t.Skip(line)
			}
			if line = c.line(t); !strings.HasPrefix(line, "full") {
				t.Fatal(line)
			}
			t.Log(line)
			if task == "small disk" && !strings.Contains(line, ", 0 of 50") {
				t.Error("entries leave space for invalidations")
			}
			if err := c.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}
