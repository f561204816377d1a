package flight_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache/internal/flight"
)

// bulk serves many keys at once, and remembers which.
type bulk struct {
	group flight.Group[string]
	takes time.Duration

	mu     sync.Mutex
	served []string // each the keys that were served together
	ended  int      // how often it was told to end
}

func (b *bulk) serve(ctx context.Context, turns []*flight.Turn[string]) {
	keys := make([]string, len(turns))
	for i, turn := range turns {
		keys[i] = turn.Key()
	}
	slices.Sort(keys)
	b.mu.Lock()
	b.served = append(b.served, strings.Join(keys, " "))
	takes := b.takes
	b.mu.Unlock()
	select {
	case <-time.After(takes):
		for _, turn := range turns {
			turn.End("v of "+turn.Key(), nil)
		}
	case <-ctx.Done():
		b.mu.Lock()
		b.ended++
		b.mu.Unlock()
	}
}

// ask returns what becomes of keys, which are written with spaces between them.
func (b *bulk) ask(ctx context.Context, keys string, most time.Duration) <-chan map[string]any {
	ch := make(chan map[string]any, 1)
	all := strings.Fields(keys)
	go func() {
		got := map[string]any{}
		b.group.Many(ctx, all, most, b.serve, func(i int, v string, _ flight.Part, err error) {
			if got[all[i]] = v; err != nil {
				got[all[i]] = err
			}
		})
		ch <- got
	}()
	synctest.Wait()
	return ch
}

func (b *bulk) want(t *testing.T, got map[string]any, keys string) {
	t.Helper()
	for _, key := range strings.Fields(keys) {
		if got[key] != "v of "+key {
			t.Errorf("%s: %v", key, got[key])
		}
	}
	if len(got) != len(strings.Fields(keys)) {
		t.Errorf("got %v", got)
	}
}

func TestManyKeysAreServedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bulk{takes: time.Second}
		first := b.ask(t.Context(), "a b", 0)
		second := b.ask(t.Context(), "b c a", 0)
		third := b.ask(t.Context(), "a", 0)
		start := time.Now()
		b.want(t, <-first, "a b")
		b.want(t, <-second, "a b c")
		b.want(t, <-third, "a")
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("it took %s", took)
		}
		// The second one's c is served at once, and the others of it when their turn
		// has come: together.
		if want := []string{"a b", "c", "a b"}; !slices.Equal(b.served, want) {
			t.Errorf("served %q, want %q", b.served, want)
		}
	})
}

func TestManyKeysAreSharedWithSingleOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bulk{takes: time.Second}
		all := b.ask(t.Context(), "a b", 0)
		single := make(chan string, 1)
		go func() {
			v, _ := b.group.Do(t.Context(), "a", func(context.Context) (string, error) { return "later", nil })
			single <- v
		}()
		synctest.Wait()
		joined := b.ask(t.Context(), "a", 0)
		b.want(t, <-all, "a b")
		if v := <-single; v != "later" {
			t.Errorf("got %q", v)
		}
		if got := <-joined; got["a"] != "later" {
			t.Errorf("got %v", got)
		}
	})
}

// A run of many keys goes on as long as anybody wants one of them.
func TestRunOfManyKeysEndsWhenNobodyWantsAnyOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bulk{takes: time.Hour}
		ctx, leave := context.WithCancel(t.Context())
		first := b.ask(ctx, "a b c", 0)
		later, leaveToo := context.WithCancel(t.Context())
		second := b.ask(later, "c", 0)
		leave()
		for key, got := range <-first {
			if got != context.Canceled { //nolint:errorlint // itself
				t.Errorf("%s: %v", key, got)
			}
		}
		synctest.Wait()
		if b.ended != 0 {
			t.Error("ended while one of its keys was wanted")
		}
		leaveToo()
		<-second
		synctest.Wait()
		if b.ended != 1 {
			t.Error("goes on for nobody")
		}
	})
}

func TestWaitForManyKeysEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bulk{takes: time.Hour}
		b.ask(t.Context(), "a b", 0)
		b.takes = time.Second
		start := time.Now()
		got := <-b.ask(t.Context(), "a b c", time.Minute)
		for _, key := range []string{"a", "b"} {
			var tired *flight.WaitError
			if err, _ := got[key].(error); !errors.As(err, &tired) {
				t.Errorf("%s: %v", key, got[key])
			}
		}
		if got["c"] != "v of c" || time.Since(start) != time.Minute {
			t.Errorf("got %v after %s", got, time.Since(start))
		}
		got = <-b.ask(t.Context(), "a c", -1)
		if err, _ := got["a"].(error); !errors.Is(err, flight.ErrElsewhere) || got["c"] != "v of c" {
			t.Errorf("who does not wait got %v", got)
		}
	})
}

// A circle fails the keys that are in it, and no others.
func TestCircleAmongManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bulk{}
		b.takes = time.Second
		inside := make(chan context.Context, 1)
		go b.group.Do(t.Context(), "x", func(ctx context.Context) (string, error) {
			inside <- ctx
			<-ctx.Done()
			return "", ctx.Err()
		})
		ctx := <-inside
		got := <-b.ask(ctx, "x y", time.Hour)
		if err, _ := got["x"].(error); !errors.Is(err, flight.ErrCycle) || got["y"] != "v of y" {
			t.Errorf("got %v", got)
		}
		gone, leave := context.WithCancel(ctx)
		leave()
		for key, got := range <-b.ask(gone, "x y", time.Hour) {
			if got != context.Canceled { //nolint:errorlint // itself
				t.Errorf("%s: %v", key, got)
			}
		}
	})
}

// What serves the keys may fail, or forget one: nobody waits for ever.
func TestFailureOfARunOfManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		for name, serve := range map[string]func(context.Context, []*flight.Turn[int]){
			"panics":  func(_ context.Context, turns []*flight.Turn[int]) { turns[0].End(1, nil); panic("ouch") },
			"forgets": func(_ context.Context, turns []*flight.Turn[int]) { turns[0].End(1, nil) },
		} {
			var errs []error
			g.Many(t.Context(), []string{"a", "b"}, 0, serve, func(_ int, _ int, _ flight.Part, err error) { errs = append(errs, err) })
			if errs[0] != nil || errs[1] == nil {
				t.Errorf("%s: %v", name, errs)
			}
		}
	})
}
