package source_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache/client/internal/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// states are what a breaker told of.
type states []source.State

func (s *states) tell(to source.State) { *s = append(*s, to) }

func enter(t *testing.T, g *source.Guard, host *source.Pass) *source.Pass {
	t.Helper()
	p, err := g.Enter(host)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const openFor = 10 * time.Second

func breaker() *source.Guard {
	return source.New(source.Config{FailureRate: 0.5, MinLoads: 2, Window: time.Minute, OpenFor: openFor})
}

// begun returns a pass of a load that has begun.
func begun(t *testing.T, g *source.Guard, told *states) *source.Pass {
	t.Helper()
	p := enter(t, g, nil)
	if err := p.Begin(told.tell); err != nil {
		t.Fatal(err)
	}
	return p
}

// A load that began in an earlier state of the breaker says nothing about the present one.
func TestVerdictOfAnEarlierState(t *testing.T) {
	for _, v := range []source.Verdict{source.Succeeded, source.Failed, source.Nothing} {
		synctest.Test(t, func(t *testing.T) {
			var told states
			g := breaker()
			early, other := begun(t, g, &told), begun(t, g, &told)
			for range 2 {
				begun(t, g, &told).Judge(source.Failed, told.tell)
			}
			other.Judge(v, told.tell) // while it is open
			time.Sleep(2 * openFor)
			trial := begun(t, g, &told)
			early.Judge(v, told.tell) // while another is on trial
			if want := []source.State{source.Open, source.HalfOpen}; !slices.Equal(told, want) {
				t.Errorf("told of %v, want %v", told, want)
			}
			if err := enter(t, g, nil).Begin(told.tell); !errors.Is(err, source.ErrOpen) {
				t.Errorf("a second trial: %v", err)
			}
			trial.Judge(source.Succeeded, told.tell)
			trial.Judge(source.Failed, told.tell) // only the first verdict counts
			if want := []source.State{source.Open, source.HalfOpen, source.Closed}; !slices.Equal(told, want) || g.Check(nil) != nil {
				t.Errorf("told of %v, want %v", told, want)
			}
		})
	}
}

// A load inside of one on trial is a part of the trial. Once the trial has ended, it is not.
func TestHostOnTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told states
		g := breaker()
		for range 2 {
			begun(t, g, &told).Judge(source.Failed, told.tell)
		}
		if g.Check(nil) == nil {
			t.Error("not open")
		}
		time.Sleep(2 * openFor)
		trial := begun(t, g, &told)
		inside := enter(t, g, trial)
		deeper := enter(t, g, inside)
		for _, p := range []*source.Pass{inside, deeper} {
			if err := p.Begin(told.tell); err != nil || p.Judges() {
				t.Errorf("inside: %v, judges: %t", err, p.Judges())
			}
			p.Judge(source.Failed, told.tell)
		}
		if g.Check(deeper) != nil || g.Check(nil) == nil {
			t.Error("a part of the trial is refused, or somebody else is not")
		}
		trial.Judge(source.Failed, told.tell)
		if err := enter(t, g, inside).Begin(told.tell); !errors.Is(err, source.ErrOpen) || g.Check(deeper) == nil {
			t.Errorf("after the trial: %v", err)
		}
	})
}

// A place is given back when the last of those who share it has left, and not shared
// again.
func TestSharedPlace(t *testing.T) {
	g := source.New(source.Config{MaxLoads: 1})
	host := enter(t, g, nil)
	inside := enter(t, g, host)
	if _, err := g.Enter(nil); !errors.Is(err, source.ErrBusy) || !g.Full() {
		t.Errorf("a second place: %v", err)
	}
	host.Leave()
	if _, err := g.Enter(nil); !errors.Is(err, source.ErrBusy) {
		t.Errorf("while one is inside: %v", err)
	}
	inside.Leave()
	if g.Full() {
		t.Error("not given back")
	}
	own := enter(t, g, host) // which is over
	if !g.Full() {
		t.Error("a place that was given back is shared")
	}
	own.Leave()
	other := source.New(source.Config{MaxLoads: 1})
	if p := enter(t, other, own); !other.Full() {
		t.Errorf("another source's place is shared: %v", p)
	}
}

// A pass is lent to who waits, and to who comes later, until that ends. Whoever is given a
// place at the same moment gives that back.
func TestLend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := source.New(source.Config{MaxLoads: 1, MaxQueued: 10})
		host := enter(t, g, nil)
		type got struct {
			pass *source.Pass
			err  error
		}
		wait := func(keys ...any) <-chan got {
			ch := make(chan got, 1)
			go func() {
				p, err := g.Wait(t.Context(), time.Minute, keys)
				ch <- got{p, err}
			}()
			synctest.Wait()
			return ch
		}
		waiting, other := wait("a", "b"), wait("c")
		end := g.Lend([]any{"b", "d"}, host)
		lent := <-waiting
		if lent.err != nil {
			t.Fatal(lent.err)
		}
		if later := <-wait("d"); later.err != nil {
			t.Error(later.err)
		} else {
			later.pass.Leave()
		}
		if g.Lent(slices.Values([]any{"x", "b"})) != host || g.Lent(slices.Values([]any{"a"})) != nil {
			t.Error("what is lent is not found, or something else is")
		}
		end()
		if g.Lent(slices.Values([]any{"b"})) != nil {
			t.Error("lent for ever")
		}
		host.Leave()
		synctest.Wait()
		select {
		case <-other:
			t.Error("a place is free while somebody is at it")
		default:
		}
		lent.pass.Leave()
		if o := <-other; o.err != nil {
			t.Error(o.err)
		} else {
			o.pass.Leave()
		}
		if g.Full() {
			t.Error("a place is lost")
		}
	})
}

// A queue has an end, a wait too, and who waits leaves nothing behind.
func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := source.New(source.Config{MaxLoads: 1, MaxQueued: 2})
		p := enter(t, g, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var errs [3]error
		var all sync.WaitGroup
		began := time.Now()
		for i, wait := range []struct {
			ctx  context.Context
			most time.Duration
		}{{t.Context(), time.Second}, {ctx, time.Hour}, {t.Context(), time.Hour}} {
			all.Go(func() { _, errs[i] = g.Wait(wait.ctx, wait.most, []any{i}) })
			synctest.Wait()
		}
		if !errors.Is(errs[2], source.ErrBusy) || time.Since(began) != 0 {
			t.Errorf("a third one waits: %v", errs[2])
		}
		time.Sleep(2 * time.Second)
		cancel()
		all.Wait()
		if !errors.Is(errs[0], source.ErrBusy) || !errors.Is(errs[1], context.Canceled) {
			t.Errorf("got %v, %v", errs[0], errs[1])
		}
		p.Leave()
		if g.Full() {
			t.Error("a place is lost")
		}
	})
}

// Loads come and go, wait and give up, share and lend, while the ramp takes places: there
// are never more of them than the ramp allows, and in the end all are free.
func TestRampUnderStress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places, step = 16, 300 * time.Millisecond
		g := source.New(source.Config{MaxLoads: places, MaxQueued: 1000, RampUp: 3 * step})
		var running, most atomic.Int64
		var all sync.WaitGroup
		load := func(i int) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(100+i%7*50)*time.Millisecond)
			defer cancel()
			p, err := g.Wait(ctx, time.Second, []any{i % 5})
			if err != nil {
				return
			}
			defer p.Leave()
			defer running.Add(-1)
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			inside, err := g.Enter(p)
			if err != nil {
				t.Error(err)
				return
			}
			defer inside.Leave()
			time.Sleep(time.Duration(1+i%11) * time.Millisecond)
		}
		for i := range 200 {
			all.Go(func() {
				for j := range 100 {
					load(i + j)
				}
			})
		}
		for range 3 {
			time.Sleep(50 * time.Millisecond)
			g.Cold(time.Now())
			time.Sleep(20 * time.Millisecond) // those that ran have ended
			for _, limit := range []int64{places / 8, places / 4, places / 2} {
				most.Store(0)
				time.Sleep(step - 30*time.Millisecond)
				if n := most.Load(); n != limit {
					t.Errorf("%d loads at a time, want %d", n, limit)
				}
				time.Sleep(30 * time.Millisecond)
			}
		}
		all.Wait()
		time.Sleep(time.Minute)
		for range places {
			enter(t, g, nil)
		}
		if !g.Full() {
			t.Error("there are more places than before")
		}
	})
}
