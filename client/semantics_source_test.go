package client_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/l2/l2model"
)

// of returns a policy whose values are fresh for a minute, and whose loader asks a source.
func of(s *client.Source, change ...func(p *client.Policy)) client.CallOption {
	return policy(func(p client.Policy) client.Policy {
		p.Source = s
		for _, c := range change {
			p = p.With(c)
		}
		return p
	})
}

func failSafe(p *client.Policy) { p.FailSafe = time.Hour }

// openFor is how long breakers are open in these tests, at least: past is when they are
// over it.
const (
	openFor = 10 * time.Second
	past    = 12 * time.Second
)

// breaker returns a source whose breaker opens when two loads have failed in a row.
func breaker(change ...func(c *client.SourceConfig)) *client.Source {
	c := client.SourceConfig{FailureRate: 0.6, MinLoads: 2, OpenFor: openFor}
	for _, ch := range change {
		ch(&c)
	}
	return client.NewSource("db", c)
}

// trip has two loads of a process fail.
func (p *process) trip(src *origin, opts ...client.CallOption) {
	p.Helper()
	src.fails(errBoom)
	for _, key := range []string{"x", "y"} {
		if r := <-p.getIn(p.Context(), key, src, opts...); !errors.Is(r.err, errBoom) {
			p.Errorf("got %v", r)
		}
	}
	synctest.Wait()
}

func (p *process) wantStates(want ...client.SourceState) {
	p.Helper()
	p.told.mu.Lock()
	defer p.told.mu.Unlock()
	if !slices.Equal(p.told.states, want) {
		p.Errorf("told of the states %v, want %v", p.told.states, want)
	}
}

// wantRejected tells which error each load was rejected with.
func (p *process) wantRejected(want ...error) {
	p.Helper()
	p.told.mu.Lock()
	defer p.told.mu.Unlock()
	if !slices.EqualFunc(p.told.rejected, want, errors.Is) {
		p.Errorf("rejected with %v, want %v", p.told.rejected, want)
	}
	p.told.rejected = nil
}

func TestSourceBreaker(t *testing.T) {
	playAll(t, []act{
		{"too many loads fail: no loader runs, the error says so, no lease is asked for, and nothing is kept", func(s *stage) {
			p := of(breaker(), func(p *client.Policy) { p.NotFoundTTL = time.Hour })
			src := newOrigin("v")
			s.a.trip(src, p)
			writes, loads := s.a.track.writes.Load(), s.a.told.loads
			s.a.wantErr(client.ErrSourceOpen, src, p)
			s.wantCalls(src, 2)
			if s.a.track.writes.Load() != writes || s.a.told.loads != loads || s.leased("k") || s.explain("k").Present {
				s.Error("there was a lease, a load, or something is kept")
			}
			s.a.wantStates(client.SourceOpen)
			s.a.wantRejected(client.ErrSourceOpen)
		}},
		{"open, and fail-safe allows a value: that, at once, and no lease is asked for", func(s *stage) {
			p := of(breaker(), failSafe)
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			s.a.trip(src, p)
			writes := s.a.track.writes.Load()
			s.a.want("old", src, p)
			s.a.wantStale(client.StaleRejected)
			s.a.wantRejected(client.ErrSourceOpen)
			s.wantCalls(src, 3)
			if s.a.track.writes.Load() != writes {
				s.Error("a lease was handed back")
			}
		}},
		{"open, and a value may be served while it is loaded anew: that, and no refresh begins", func(s *stage) {
			p := of(breaker(), func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			s.a.trip(src, p)
			s.a.want("old", src, p)
			s.a.wantStale(client.StaleRejected)
			if len(s.a.told.refreshes) != 0 {
				s.Errorf("refreshes: %v", s.a.told.refreshes)
			}
			time.Sleep(past)
			src.becomes("new")
			s.a.want("old", src, p) // the trial is made behind it
			s.a.want("new", src, p)
			s.a.wantStates(client.SourceOpen, client.SourceHalfOpen, client.SourceClosed)
		}},
		{"open, and a value is kept that nothing allows to serve: the error", func(s *stage) {
			p := of(breaker(), func(p *client.Policy) { p.Keep = time.Hour })
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			s.a.trip(src, p)
			s.a.wantErr(client.ErrSourceOpen, src, p)
			s.a.wantStale()
		}},
		{"open, and the value is past what fail-safe allows: the error", func(s *stage) {
			p := of(breaker(), func(p *client.Policy) { p.FailSafe, p.Keep = time.Minute, time.Hour })
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(3 * time.Minute)
			s.a.trip(src, p)
			s.a.wantErr(client.ErrSourceOpen, src, p)
		}},
		{"open, and the value was invalidated: the error, never the invalidated value", func(s *stage) {
			p := of(breaker(), failSafe, func(p *client.Policy) { p.Tags = []string{"t"} })
			src := newOrigin("old")
			s.a.want("old", src, p)
			s.a.trip(src, p)
			s.b.invalidate("t")
			s.a.wantErr(client.ErrSourceOpen, src, p)
			s.b.wantErr(client.ErrSourceOpen, src, p)
		}},
		{"open, and the value is fresh: a hit", func(s *stage) {
			p := of(breaker(), failSafe)
			src := newOrigin("v")
			s.b.want("v", src, p)
			s.a.trip(src, p)
			s.a.want("v", src, p)
			s.a.wantStale()
			s.a.wantRejected()
		}},
		{"open, and no node answers: the error; with fail-safe, what is near", func(s *stage) {
			db := breaker()
			src := newOrigin("old")
			s.a.want("old", src, of(db, failSafe))
			s.a.trip(src, of(db))
			s.cut()
			time.Sleep(2 * time.Second)
			if r := <-s.a.getIn(s.Context(), "z", src, of(db)); !errors.Is(r.err, client.ErrSourceOpen) {
				s.Errorf("got %v", r)
			}
			time.Sleep(time.Second)
			s.a.wantErr(client.ErrSourceOpen, src, of(db))
			s.a.want("old", src, of(db, failSafe))
			s.a.wantStale(client.StaleServiceDown)
			s.wantCalls(src, 3)
		}},
		{"another process, whose breaker is closed, loads meanwhile", func(s *stage) {
			p := of(breaker())
			src := newOrigin("v")
			s.a.trip(src, p)
			src.becomes("v")
			s.a.wantErr(client.ErrSourceOpen, src, p)
			s.b.want("v", src, of(breaker()))
			s.a.want("v", src, p)
		}},
		{"it is over: one load on trial, all others are rejected until that has ended", func(s *stage) {
			p := of(breaker())
			src := newOrigin("v")
			s.a.trip(src, p)
			time.Sleep(past)
			src.becomes("v")
			src.slow(time.Second)
			trial := s.a.get(src, p)
			synctest.Wait()
			if r := <-s.a.getIn(s.Context(), "other", src, p); !errors.Is(r.err, client.ErrSourceOpen) {
				s.Errorf("beside the trial: %v", r)
			}
			if r := <-trial; r.value != "v" {
				s.Errorf("the trial: %v", r)
			}
			s.wantCalls(src, 3)
			if r := <-s.a.getIn(s.Context(), "other", src, p); r.value != "v" {
				s.Errorf("after it: %v", r)
			}
			s.a.wantStates(client.SourceOpen, client.SourceHalfOpen, client.SourceClosed)
		}},
		{"many come at the moment that it is over: one load, and the others' leases are handed back", func(s *stage) {
			p := of(breaker())
			src := newOrigin("v")
			s.a.trip(src, p)
			time.Sleep(past)
			src.becomes("v")
			src.slow(time.Second)
			var waiting []<-chan result
			for i := range 20 {
				waiting = append(waiting, s.a.getIn(s.Context(), strconv.Itoa(i), src, p))
			}
			synctest.Wait()
			leased := 0
			for i := range 20 {
				if s.leased(strconv.Itoa(i)) {
					leased++
				}
			}
			served := 0
			for _, ch := range waiting {
				if r := <-ch; r.err == nil {
					served++
				} else if !errors.Is(r.err, client.ErrSourceOpen) {
					s.Error(r.err)
				}
			}
			if s.wantCalls(src, 3); leased != 1 || served != 1 {
				s.Errorf("%d leases, %d were served", leased, served)
			}
		}},
		{"the trial fails, and fail-safe allows a value: that, and the breaker is open again", func(s *stage) {
			p := of(breaker(), failSafe, func(p *client.Policy) { p.FailSafeThrottle = -1 })
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			s.a.trip(src, p)
			time.Sleep(past)
			s.a.want("old", src, p)
			s.a.want("old", src, p)
			s.a.wantStale(client.StaleFailedLoader, client.StaleRejected)
			s.wantCalls(src, 4)
			s.a.wantStates(client.SourceOpen, client.SourceHalfOpen, client.SourceOpen)
		}},
		{"the trial panics: open again, and another trial later", func(s *stage) {
			p := of(breaker())
			src := newOrigin("v")
			s.a.trip(src, p)
			time.Sleep(past)
			src.becomes("v")
			src.set(func(src *origin) { src.crash = "ouch" })
			if r := <-s.a.get(src, p); !isPanic(r.err) {
				s.Errorf("got %v", r)
			}
			s.a.wantErr(client.ErrSourceOpen, src, p)
			src.set(func(src *origin) { src.crash = nil })
			time.Sleep(past)
			s.a.want("v", src, p)
		}},
		{"who wanted the trial has gone: open again, and another trial later", func(s *stage) {
			p := of(breaker())
			src := newOrigin("v")
			s.a.trip(src, p)
			time.Sleep(past)
			src.becomes("v")
			src.slow(time.Hour)
			ctx, cancel := context.WithCancel(s.Context())
			trial := s.a.getIn(ctx, "k", src, p)
			synctest.Wait()
			cancel()
			<-trial
			synctest.Wait()
			src.slow(0)
			s.a.wantErr(client.ErrSourceOpen, src, p)
			time.Sleep(past)
			s.a.want("v", src, p)
			s.a.wantStates(client.SourceOpen, client.SourceHalfOpen, client.SourceOpen, client.SourceHalfOpen, client.SourceClosed)
		}},
		{"the source works again: the loader is not left alone for having been rejected", func(s *stage) {
			p := of(breaker(), failSafe)
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			s.a.trip(src, p)
			s.a.want("old", src, p)
			time.Sleep(past) // less than FailSafeThrottle
			src.becomes("new")
			s.a.want("new", src, p)
		}},
		{"a loader fails with what another was rejected with, and would have that kept: it is not", func(s *stage) {
			db := breaker()
			part := newOrigin("p")
			s.a.trip(part, of(db))
			p := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.NotFoundTTL = time.Hour })
			})
			_, err := s.a.door.ask(s.Context(), s.a.Client, "k", func(ctx context.Context) (string, error) {
				_, err := s.a.door.ask(ctx, s.a.Client, "part", part.load, of(db))
				return "", client.CacheError(errors.Join(client.ErrNotFound, err), time.Hour)
			}, p)
			if !errors.Is(err, client.ErrSourceOpen) {
				s.Errorf("got %v", err)
			}
			if s.explain("k").Present || s.leased("k") {
				s.Error("it is kept")
			}
		}},
		{"a loader fails because what it needs was rejected: it is not left alone for that", func(s *stage) {
			db := breaker()
			part, dish := newOrigin("p"), newOrigin("old")
			safe := policy(func(p client.Policy) client.Policy { return p.With(failSafe) })
			s.a.want("old", dish, safe)
			time.Sleep(2 * time.Minute)
			s.a.trip(part, of(db))
			needs := func(ctx context.Context) (string, error) {
				return s.a.door.ask(ctx, s.a.Client, "part", part.load, of(db))
			}
			if v, err := s.a.door.ask(s.Context(), s.a.Client, "k", needs, safe); v != "old" || err != nil {
				s.Errorf("got %q, %v", v, err)
			}
			s.a.wantStale(client.StaleRejected)
			dish.becomes("new")
			s.a.want("new", dish, safe)
		}},
		{"a dish of a stale value that stands in for a rejected load is not kept", func(s *stage) {
			db := breaker()
			part, dish := newOrigin("old"), newOrigin("dish")
			<-s.a.getIn(s.Context(), "part", part, of(db, failSafe))
			time.Sleep(2 * time.Minute)
			s.a.trip(part, of(db))
			dish.with = func(ctx context.Context) { <-s.a.getIn(ctx, "part", part, of(db, failSafe)) }
			s.a.want("dish", dish)
			s.a.wantStale(client.StaleRejected)
			if s.explain("k").Present {
				s.Error("the dish is kept")
			}
		}},
		{"a dish on trial, whose ingredient is of the same source: both load, and the breaker closes", func(s *stage) {
			p := of(breaker())
			part, dish := newOrigin("p"), newOrigin("dish")
			s.a.trip(part, p)
			time.Sleep(past)
			part.becomes("p")
			dish.with = func(ctx context.Context) {
				if r := <-s.a.getIn(ctx, "part", part, p); r.value != "p" {
					s.Errorf("the ingredient: %v", r)
				}
			}
			s.a.want("dish", dish, p)
			s.a.wantStates(client.SourceOpen, client.SourceHalfOpen, client.SourceClosed)
		}},
		{"a dish on trial, and somebody else is waiting for its ingredient: that load is a part of the trial, too", func(s *stage) {
			p := of(breaker())
			theirs, part, dish := newOrigin("p"), newOrigin("p"), newOrigin("dish")
			theirs.slow(past + time.Second)
			theirs.fails(errBoom)
			failing := s.b.getIn(s.Context(), "part", theirs)
			synctest.Wait()
			direct := s.a.getIn(s.Context(), "part", part, p) // it waits for the other process
			synctest.Wait()
			s.a.trip(newOrigin("?"), p)
			time.Sleep(past)
			dish.with = func(ctx context.Context) {
				if r := <-s.a.getIn(ctx, "part", part, p); r.value != "p" {
					s.Errorf("the ingredient: %v", r)
				}
			}
			s.a.wantAfter(time.Second, "dish", dish, p)
			if r := <-direct; r.value != "p" {
				s.Errorf("who waited: %v", r)
			}
			<-failing
			s.wantCalls(part, 1)
			s.a.wantStates(client.SourceOpen, client.SourceHalfOpen, client.SourceClosed)
		}},
	})
}

func isPanic(err error) bool {
	_, is := errors.AsType[*client.PanicError](err)
	return is
}

// What counts as a failure of the source. Each row ends two loads in one way.
func TestSourceFailures(t *testing.T) {
	missing := fmt.Errorf("no such row: %w", client.ErrNotFound)
	ends := func(err error) func(*stage, *origin, client.CallOption, string) {
		return func(s *stage, src *origin, p client.CallOption, key string) {
			src.fails(err)
			<-s.a.getIn(s.Context(), key, src, p)
		}
	}
	rows := []struct {
		name   string
		opens  bool
		end    func(s *stage, src *origin, p client.CallOption, key string)
		change func(c *client.SourceConfig)
		policy func(p *client.Policy)
	}{
		{name: "an error", opens: true, end: ends(errBoom)},
		{name: "not found", end: ends(missing)},
		{name: "not modified, and nothing was there", end: ends(client.ErrNotModified)},
		{name: "an error that is kept", opens: true, end: ends(client.CacheError(errBoom, time.Second))},
		{name: "an error that is no failure", end: ends(errBoom), change: func(c *client.SourceConfig) {
			c.IsFailure = func(err error) bool { return !errors.Is(err, errBoom) }
		}},
		{name: "an error, and what tells failures panics", opens: true, end: ends(errBoom), change: func(c *client.SourceConfig) {
			c.IsFailure = func(error) bool { panic("ouch") }
		}},
		{name: "a panic, whatever is said of errors", opens: true, end: func(s *stage, src *origin, p client.CallOption, key string) {
			src.set(func(src *origin) { src.crash = errBoom })
			<-s.a.getIn(s.Context(), key, src, p)
		}, change: func(c *client.SourceConfig) { c.IsFailure = func(error) bool { return false } }},
		{name: "a value", end: ends(nil)},
		{name: "the callers have gone", end: func(s *stage, src *origin, p client.CallOption, key string) {
			src.slow(time.Hour)
			ctx, cancel := context.WithCancel(s.Context())
			got := s.a.getIn(ctx, key, src, p)
			synctest.Wait()
			cancel()
			<-got
		}},
		{name: "the callers have gone, before they ran out of time", end: func(s *stage, src *origin, p client.CallOption, key string) {
			src.slow(time.Hour)
			ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
			got := s.a.getIn(ctx, key, src, p)
			synctest.Wait()
			cancel()
			<-got
		}},
		{name: "the callers have run out of time", opens: true, end: func(s *stage, src *origin, p client.CallOption, key string) {
			src.slow(time.Hour)
			ctx, cancel := context.WithTimeout(s.Context(), time.Second)
			defer cancel()
			<-s.a.getIn(ctx, key, src, p)
		}},
		{name: "the hard timeout, while the loader goes on", opens: true, end: func(s *stage, src *origin, p client.CallOption, key string) {
			src.slow(4 * time.Minute)
			<-s.a.getIn(s.Context(), key, src, p)
		}, policy: func(p *client.Policy) { p.HardTimeout = time.Second }},
		{name: "the soft timeout", end: func(s *stage, src *origin, p client.CallOption, key string) {
			<-s.a.getIn(s.Context(), key, src, p)
			time.Sleep(2 * time.Minute)
			src.slow(10 * time.Second)
			<-s.a.getIn(s.Context(), key, src, p)
		}, policy: func(p *client.Policy) { p.SoftTimeout, p.Keep = time.Second, time.Hour }},
	}
	var acts []act
	for _, row := range rows {
		acts = append(acts, act{row.name, func(s *stage) {
			var changes []func(*client.SourceConfig)
			if row.change != nil {
				changes = append(changes, row.change)
			}
			p := of(breaker(changes...))
			if row.policy != nil {
				p = of(breaker(changes...), row.policy)
			}
			src := newOrigin("v")
			for _, key := range []string{"x", "y"} {
				row.end(s, src, p, key)
				synctest.Wait()
			}
			src.set(func(src *origin) { src.crash, src.err, src.takes = nil, nil, 0 })
			if r := <-s.a.get(src, p); errors.Is(r.err, client.ErrSourceOpen) != row.opens || !row.opens && r.value != "v" {
				s.Errorf("got %v", r)
			}
		}})
	}
	playAll(t, acts)
}

// withPlaces returns a source with few places.
func withPlaces(places int, change ...func(c *client.SourceConfig)) *client.Source {
	c := client.SourceConfig{MaxLoads: places, MaxWait: 5 * time.Second}
	for _, ch := range change {
		ch(&c)
	}
	return client.NewSource("db", c)
}

func TestSourceLimit(t *testing.T) {
	// occupied has another key's load take the only place for so long.
	occupied := func(s *stage, p client.CallOption, takes time.Duration) (*origin, <-chan result) {
		src := newOrigin("v")
		src.slow(takes)
		got := s.a.getIn(s.Context(), "occupied", src, p)
		synctest.Wait()
		src.slow(0)
		return src, got
	}
	playAll(t, []act{
		{"no place is free: the load waits for one, and holds no lease meanwhile", func(s *stage) {
			p := of(withPlaces(1))
			src, first := occupied(s, p, time.Second)
			reads, writes := s.a.track.reads.Load(), s.a.track.writes.Load()
			got := s.a.get(src, p)
			synctest.Wait()
			if s.leased("k") || src.count() != 1 {
				s.Errorf("leased: %t, %d loads", s.leased("k"), src.count())
			}
			time.Sleep(time.Second)
			if a, b := <-first, <-got; a.value != "v" || b.value != "v" {
				s.Errorf("got %v, %v", a, b)
			}
			synctest.Wait()
			if !s.explain("k").Live {
				s.Error("it was not stored")
			}
			// It was read, read again with its lease, and stored; and the other one stored.
			if r, w := s.a.track.reads.Load()-reads, s.a.track.writes.Load()-writes; r != 2 || w != 2 {
				s.Errorf("%d reads and %d writes", r, w)
			}
		}},
		{"two loads begin at the same moment, and there is one place: the other's lease is handed back at once", func(s *stage) {
			p := of(withPlaces(1))
			src := newOrigin("v")
			src.slow(time.Second)
			var waiting []<-chan result
			for i := range 2 {
				waiting = append(waiting, s.a.getIn(s.Context(), strconv.Itoa(i), src, p))
			}
			synctest.Wait()
			if s.leased("0") == s.leased("1") {
				s.Errorf("leased: %t and %t", s.leased("0"), s.leased("1"))
			}
			for _, ch := range waiting {
				if r := <-ch; r.value != "v" {
					s.Errorf("got %v", r)
				}
			}
			s.wantCalls(src, 2)
		}},
		{"another process loads the key while it waits: that value, without a load", func(s *stage) {
			p := of(withPlaces(1))
			src, _ := occupied(s, p, time.Second)
			got := s.a.get(src, p)
			synctest.Wait()
			s.b.want("v", src, of(withPlaces(1)))
			if r := <-got; r.value != "v" {
				s.Errorf("got %v", r)
			}
			s.wantCalls(src, 2)
		}},
		{"another process is loading the key when a place comes free: the place is free while it waits for that", func(s *stage) {
			p := of(withPlaces(1))
			src, _ := occupied(s, p, time.Second)
			got := s.a.get(src, p)
			synctest.Wait()
			src.slow(10 * time.Second)
			theirs := s.b.get(src, of(withPlaces(1)))
			time.Sleep(2 * time.Second)
			src.slow(0)
			if r := <-s.a.getIn(s.Context(), "other", src, p); r.value != "v" {
				s.Errorf("another key: %v", r)
			}
			if a, b := <-got, <-theirs; a.value != "v" || b.value != "v" {
				s.Errorf("got %v, %v", a, b)
			}
			s.wantCalls(src, 3)
		}},
		{"none comes free in time: an error, in time, and nothing is kept", func(s *stage) {
			p := of(withPlaces(1))
			src, first := occupied(s, p, time.Minute)
			start := time.Now()
			s.a.wantErr(client.ErrSourceBusy, src, p)
			if took := time.Since(start); took != 5*time.Second || s.leased("k") || s.explain("k").Present {
				s.Errorf("it took %s; leased: %t", took, s.leased("k"))
			}
			s.a.wantRejected(client.ErrSourceBusy)
			<-first
			s.a.want("v", src, p)
		}},
		{"none comes free in time, and fail-safe allows a value: that", func(s *stage) {
			p := of(withPlaces(1), failSafe)
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			_, first := occupied(s, p, time.Minute)
			s.a.wantAfter(5*time.Second, "old", src, p)
			s.a.wantStale(client.StaleRejected)
			<-first
			src.becomes("new")
			s.a.want("new", src, p) // and not left alone
		}},
		{"none comes free in time, and the value was invalidated while it waited: the error", func(s *stage) {
			p := of(withPlaces(1), failSafe, func(p *client.Policy) { p.Tags = []string{"t"} })
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			_, _ = occupied(s, p, time.Minute)
			got := s.a.get(src, p)
			time.Sleep(time.Second)
			s.b.invalidate("t")
			if r := <-got; !errors.Is(r.err, client.ErrSourceBusy) {
				s.Errorf("got %v", r)
			}
		}},
		{"a value may be served while it is loaded anew: that at once, and no refresh begins", func(s *stage) {
			p := of(withPlaces(1), func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			_, first := occupied(s, p, time.Minute)
			s.a.want("old", src, p)
			s.a.wantStale(client.StaleRejected)
			if len(s.a.told.refreshes) != 0 || s.leased("k") {
				s.Errorf("refreshes: %v", s.a.told.refreshes)
			}
			<-first
			src.becomes("new")
			s.a.want("old", src, p)
			s.a.want("new", src, p)
		}},
		{"two values become due for a refresh behind them at the same moment, and there is one place: one refresh", func(s *stage) {
			p := of(withPlaces(1), func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
			src := newOrigin("old")
			for _, key := range []string{"0", "1"} {
				<-s.a.getIn(s.Context(), key, src, p)
			}
			time.Sleep(2 * time.Minute)
			src.slow(time.Second)
			start := time.Now()
			first, second := s.a.getIn(s.Context(), "0", src, p), s.a.getIn(s.Context(), "1", src, p)
			if a, b := <-first, <-second; a.value != "old" || b.value != "old" || time.Since(start) != 0 {
				s.Errorf("got %v, %v after %s", a, b, time.Since(start))
			}
			synctest.Wait()
			if s.leased("0") == s.leased("1") || len(s.a.told.refreshes) != 1 {
				s.Errorf("leased: %t, %t; refreshes %v", s.leased("0"), s.leased("1"), s.a.told.refreshes)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			s.wantCalls(src, 3)
		}},
		{"the queue is full: an error at once", func(s *stage) {
			p := of(withPlaces(1, func(c *client.SourceConfig) { c.MaxQueued = 2 }))
			src, _ := occupied(s, p, time.Second)
			var waiting []<-chan result
			for i := range 2 {
				waiting = append(waiting, s.a.getIn(s.Context(), strconv.Itoa(i), src, p))
			}
			synctest.Wait()
			start := time.Now()
			s.a.wantErr(client.ErrSourceBusy, src, p)
			if time.Since(start) != 0 {
				s.Errorf("it took %s", time.Since(start))
			}
			for _, ch := range waiting {
				if r := <-ch; r.value != "v" {
					s.Errorf("got %v", r)
				}
			}
			s.a.want("v", src, p)
		}},
		{"nothing waits: an error at once", func(s *stage) {
			for _, change := range []func(*client.SourceConfig){
				func(c *client.SourceConfig) { c.MaxWait = -1 }, func(c *client.SourceConfig) { c.MaxQueued = -1 },
			} {
				p := of(withPlaces(1, change))
				src, first := occupied(s, p, time.Second)
				start := time.Now()
				s.a.wantErr(client.ErrSourceBusy, src, p)
				if time.Since(start) != 0 || s.leased("k") {
					s.Errorf("it took %s", time.Since(start))
				}
				<-first
				if _, err := s.a.Remove(s.Context(), "occupied"); err != nil {
					s.Fatal(err)
				}
			}
		}},
		{"the caller goes while it waits: it takes no place", func(s *stage) {
			p := of(withPlaces(1))
			src, first := occupied(s, p, 3*time.Second)
			ctx, cancel := context.WithTimeout(s.Context(), time.Second)
			defer cancel()
			if r := <-s.a.getIn(ctx, "k", src, p); !errors.Is(r.err, context.DeadlineExceeded) {
				s.Errorf("got %v", r)
			}
			<-first
			s.a.want("v", src, p)
			s.wantCalls(src, 2)
		}},
		{"the client is closed while it waits: that is the error", func(s *stage) {
			p := of(withPlaces(1))
			src, _ := occupied(s, p, 3*time.Second)
			got := s.a.get(src, p)
			synctest.Wait()
			if err := s.a.Close(); err != nil {
				s.Error(err)
			}
			if r := <-got; !errors.Is(r.err, client.ErrClosed) {
				s.Errorf("got %v", r)
			}
		}},
		{"the hard timeout ends the wait", func(s *stage) {
			p := of(withPlaces(1), func(p *client.Policy) { p.HardTimeout = 2 * time.Second })
			src := newOrigin("v")
			src.slow(time.Minute)
			s.a.wantErr(context.DeadlineExceeded, src, p)
			start := time.Now()
			if r := <-s.a.getIn(s.Context(), "other", src, p); !errors.Is(r.err, client.ErrSourceBusy) || time.Since(start) != 2*time.Second {
				s.Errorf("got %v after %s", r, time.Since(start))
			}
		}},
		{"the hard timeout is for the wait and the loader together", func(s *stage) {
			p := of(withPlaces(1), func(p *client.Policy) { p.HardTimeout = 2 * time.Second })
			src, _ := occupied(s, p, time.Second)
			src.slow(time.Minute)
			start := time.Now()
			if s.a.wantErr(context.DeadlineExceeded, src, p); time.Since(start) != 2*time.Second {
				s.Errorf("it took %s", time.Since(start))
			}
		}},
		{"the soft timeout ends the wait where there is a value", func(s *stage) {
			p := of(withPlaces(1), func(p *client.Policy) { p.SoftTimeout, p.Keep = time.Second, time.Hour })
			src := newOrigin("old")
			s.a.want("old", src, p)
			time.Sleep(2 * time.Minute)
			_, _ = occupied(s, p, time.Minute)
			s.a.wantAfter(time.Second, "old", src, p)
			s.a.wantStale(client.StaleRejected)
		}},
		{"a loader exceeds the hard timeout: its place is taken until it returns", func(s *stage) {
			p := of(withPlaces(1), func(p *client.Policy) { p.HardTimeout = 2 * time.Second })
			src := newOrigin("v")
			src.slow(time.Minute)
			s.a.wantErr(context.DeadlineExceeded, src, p)
			src.slow(0)
			if r := <-s.a.getIn(s.Context(), "other", src, p); !errors.Is(r.err, client.ErrSourceBusy) {
				s.Errorf("got %v", r)
			}
			time.Sleep(time.Minute)
			if r := <-s.a.getIn(s.Context(), "other", src, p); r.value != "v" {
				s.Errorf("got %v", r)
			}
		}},
		{"all callers have gone, and the loader does not heed its context: its place is taken until it returns", func(s *stage) {
			p := of(withPlaces(1))
			src := newOrigin("v")
			src.set(func(src *origin) { src.takes, src.deaf = time.Minute, true })
			ctx, cancel := context.WithTimeout(s.Context(), time.Second)
			defer cancel()
			<-s.a.getIn(ctx, "k", src, p)
			src.slow(0)
			if r := <-s.a.getIn(s.Context(), "other", src, p); !errors.Is(r.err, client.ErrSourceBusy) {
				s.Errorf("got %v", r)
			}
			time.Sleep(time.Minute)
			if r := <-s.a.getIn(s.Context(), "other", src, p); r.value != "v" {
				s.Errorf("got %v", r)
			}
		}},
		{"loaders panic, end their goroutine, fail, or are told to end: their places are free", func(s *stage) {
			p := of(withPlaces(1))
			src := newOrigin("v")
			src.set(func(src *origin) { src.crash = "ouch" })
			<-s.a.get(src, p)
			src.set(func(src *origin) { src.crash, src.with = nil, func(context.Context) { runtime.Goexit() } })
			s.a.wantErr(client.ErrGoexit, src, p)
			src.set(func(src *origin) { src.with = nil })
			src.fails(errBoom)
			s.a.wantErr(errBoom, src, p)
			src.becomes("v")
			src.slow(time.Hour)
			ctx, cancel := context.WithTimeout(s.Context(), time.Second)
			defer cancel()
			<-s.a.getIn(ctx, "k", src, p)
			src.slow(0)
			s.a.want("v", src, p)
		}},
		{"no node answers: loaders run without a lease, no more at a time than there are places", func(s *stage) {
			s.cut()
			p := of(withPlaces(2))
			src, most := busy(time.Second)
			var waiting []<-chan result
			for i := range 6 {
				waiting = append(waiting, s.a.getIn(s.Context(), strconv.Itoa(i), src, p))
			}
			for _, ch := range waiting {
				if r := <-ch; r.err != nil {
					s.Error(r.err)
				}
			}
			if s.wantCalls(src, 6); most() != 2 {
				s.Errorf("%d loaders at a time", most())
			}
		}},
		{"two caches of different types, two clients, one source: one limit", func(s *stage) {
			db := withPlaces(1)
			src, _ := occupied(s, of(db, func(p *client.Policy) {}), 2*time.Second)
			start := time.Now()
			n, err := client.GetOrSet(s.Context(), s.b.Client, "n", func(context.Context) (int, error) { return 7, nil }, of(db))
			if n != 7 || err != nil || time.Since(start) != 2*time.Second {
				s.Errorf("got %d, %v after %s", n, err, time.Since(start))
			}
			_ = src
		}},
	})
}

// busy returns an origin that tells how many loaders have asked it at the same time.
func busy(takes time.Duration) (src *origin, most func() int) {
	src = newOrigin("v")
	src.slow(takes)
	var now, highest int
	src.with = func(context.Context) {
		src.set(func(*origin) {
			if now++; now > highest {
				highest = now
			}
		})
		time.AfterFunc(takes-1, func() { src.set(func(*origin) { now-- }) })
	}
	return src, func() (n int) {
		src.set(func(*origin) { n = highest })
		return n
	}
}

func TestSourceOfNestedLoads(t *testing.T) {
	// dishOf asks for its ingredient by the process's own door.
	dishOf := func(s *stage, part *origin, p client.CallOption) *origin {
		dish := newOrigin("dish")
		dish.with = func(ctx context.Context) {
			if r := <-s.a.getIn(ctx, "part", part, p); r.value != "part" {
				s.Errorf("the ingredient: %v", r)
			}
		}
		return dish
	}
	playAll(t, []act{
		{"a loader asks for a key of the same source: that is loaded at its place", func(s *stage) {
			p := of(withPlaces(1))
			part := newOrigin("part")
			s.a.want("dish", dishOf(s, part, p), p)
			if !s.explain("k").Live || !s.explain("part").Live {
				s.Error("not stored")
			}
			s.a.want("dish", newOrigin("?"), p)
		}},
		{"the same, three deep", func(s *stage) {
			p := of(withPlaces(1))
			part := newOrigin("part")
			half := dishOf(s, part, p)
			whole := newOrigin("whole")
			whole.with = func(ctx context.Context) {
				if r := <-s.a.getIn(ctx, "half", half, p); r.value != "dish" {
					s.Errorf("got %v", r)
				}
			}
			s.a.want("whole", whole, p)
		}},
		{"who asks for the ingredient itself waits for a place, which the dish has that waits for the ingredient: it is lent", func(s *stage) {
			p := of(withPlaces(1))
			part, dish := newOrigin("part"), newOrigin("dish")
			begin := make(chan struct{})
			dish.with = func(ctx context.Context) {
				<-begin
				if r := <-s.a.getIn(ctx, "part", part, p); r.value != "part" {
					s.Errorf("the ingredient: %v", r)
				}
			}
			start := time.Now()
			got := s.a.get(dish, p)
			synctest.Wait()
			direct := s.a.getIn(s.Context(), "part", part, p) // it waits for the only place
			synctest.Wait()
			close(begin)
			if a, b := <-got, <-direct; a.value != "dish" || b.value != "part" || time.Since(start) != 0 {
				s.Errorf("got %v, %v after %s", a, b, time.Since(start))
			}
			s.wantCalls(part, 1)
			s.a.want("dish", newOrigin("?"), p)
		}},
		{"the ingredient of another source has a place of its own", func(s *stage) {
			part := newOrigin("part")
			s.a.want("dish", dishOf(s, part, of(withPlaces(1))), of(withPlaces(1)))
		}},
		{"an ingredient outlives its dish: the place is taken until both have returned", func(s *stage) {
			db := withPlaces(1)
			p := of(db)
			part, dish := newOrigin("part"), newOrigin("dish")
			part.slow(time.Minute)
			dish.with = func(ctx context.Context) {
				r := <-s.a.getIn(ctx, "part", part, of(db, func(p *client.Policy) { p.HardTimeout = time.Second }))
				if !errors.Is(r.err, context.DeadlineExceeded) {
					s.Errorf("the ingredient: %v", r)
				}
			}
			s.a.wantAfter(time.Second, "dish", dish, p)
			if r := <-s.a.getIn(s.Context(), "other", newOrigin("v"), p); !errors.Is(r.err, client.ErrSourceBusy) {
				s.Errorf("got %v", r)
			}
			time.Sleep(time.Minute)
			if r := <-s.a.getIn(s.Context(), "other", newOrigin("v"), p); r.value != "v" {
				s.Errorf("got %v", r)
			}
		}},
	})
}

func TestSourceRampUp(t *testing.T) {
	ramp := func() *client.Source {
		return withPlaces(8, func(c *client.SourceConfig) { c.RampUp, c.MaxWait = 3*time.Second, time.Minute })
	}
	// running begins 20 loads of a process and tells after each half second how many run.
	running := func(s *stage, p *process, db *client.Source, steps int) (counts []int) {
		src := newOrigin("v")
		src.slow(time.Hour)
		ctx, cancel := context.WithCancel(s.Context())
		for i := range 20 {
			p.getIn(ctx, "load"+strconv.Itoa(i), src, of(db))
		}
		for range steps {
			synctest.Wait()
			counts = append(counts, src.count())
			time.Sleep(time.Second / 2)
		}
		cancel()
		synctest.Wait()
		return counts
	}
	whole := []int{1, 1, 2, 2, 4, 4, 8, 8, 8}
	expect := func(s *stage, got, want []int) {
		s.Helper()
		if !slices.Equal(got, want) {
			s.Errorf("%v loads run, want %v", got, want)
		}
	}
	playAll(t, []act{
		{"nothing has happened: the whole limit", func(s *stage) {
			expect(s, running(s, s.a, ramp(), 2), []int{8, 8})
		}},
		{"everything was invalidated: an eighth, and it doubles", func(s *stage) {
			if _, err := s.a.Clear(s.Context()); err != nil {
				s.Fatal(err)
			}
			expect(s, running(s, s.a, ramp(), 9), whole)
		}},
		{"somebody else has invalidated everything: the same", func(s *stage) {
			if _, err := s.b.Clear(s.Context()); err != nil {
				s.Fatal(err)
			}
			synctest.Wait()
			expect(s, running(s, s.a, ramp(), 9), whole)
		}},
		{"the ledger has begun a new epoch: the same", func(s *stage) {
			s.a.want("v", newOrigin("v"))
			s.store.Store.(*l2model.Model).Flush()
			time.Sleep(time.Second) // the near cache's bound
			expect(s, running(s, s.a, ramp(), 1), []int{1})
		}},
		{"a tag was invalidated: the whole limit", func(s *stage) {
			s.b.invalidate("t")
			expect(s, running(s, s.a, ramp(), 1), []int{8})
		}},
		{"everything was invalidated a while ago: what is left of the ramp", func(s *stage) {
			if _, err := s.a.Clear(s.Context()); err != nil {
				s.Fatal(err)
			}
			time.Sleep(2250 * time.Millisecond)
			expect(s, running(s, s.a, ramp(), 4), []int{4, 4, 8, 8})
		}},
		{"loads are running: their places are the ramp's as they return, before who waits has one", func(s *stage) {
			db := ramp()
			src := newOrigin("v")
			src.slow(time.Second / 4)
			for i := range 8 {
				s.a.getIn(s.Context(), strconv.Itoa(i), src, of(db))
			}
			synctest.Wait()
			if _, err := s.a.Clear(s.Context()); err != nil {
				s.Fatal(err)
			}
			expect(s, running(s, s.a, db, 9), []int{0, 1, 2, 2, 4, 4, 8, 8, 8})
		}},
		{"everything is invalidated again: the ramp begins anew", func(s *stage) {
			db := ramp()
			for range 2 {
				if _, err := s.a.Clear(s.Context()); err != nil {
					s.Fatal(err)
				}
				expect(s, running(s, s.a, db, 3), whole[:3])
			}
		}},
		{"no ramp: the whole limit", func(s *stage) {
			if _, err := s.a.Clear(s.Context()); err != nil {
				s.Fatal(err)
			}
			expect(s, running(s, s.a, withPlaces(8), 1), []int{8})
		}},
	})
}

// A source whose configuration can never be right is said by each call.
func TestSourceConfig(t *testing.T) {
	onStage(t, func(s *stage) {
		for _, wrong := range []client.SourceConfig{
			{MaxLoads: -1}, {MaxLoads: client.MostSourceLoads + 1}, {RampUp: time.Second}, {MaxLoads: 1, RampUp: -1},
			{FailureRate: -0.1}, {FailureRate: 1.1}, {MinLoads: -1}, {Window: time.Millisecond}, {OpenFor: -1},
		} {
			if err := wrong.Validate(); !errors.Is(err, soracache.ErrInvalid) {
				s.Errorf("%+v: %v", wrong, err)
			}
			s.a.wantErr(soracache.ErrInvalid, newOrigin("v"), of(client.NewSource("db", wrong)))
		}
		s.a.wantErr(soracache.ErrInvalid, newOrigin("v"), of(client.NewSource("", client.SourceConfig{})))
		db := client.NewSource("db", client.SourceConfig{})
		if s.a.want("v", newOrigin("v"), of(db)); db.Name() != "db" {
			s.Error(db.Name())
		}
	})
}
