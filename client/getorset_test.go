package client_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/internal/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBoom = errors.New("boom")

// Every row is a user's sentence, played in virtual time.
func TestGetOrSet(t *testing.T) {
	tests := []struct {
		name string
		play func(w *world)
	}{
		{"a value is loaded once and found from then on", func(w *world) {
			for range 3 {
				if v := w.must("k", returns("v")); v != "v" {
					w.Errorf("got %q", v)
				}
			}
			if w.heard.loads != 1 || w.heard.misses != 1 || w.heard.hits != 2 || w.heard.lastTier != soracache.TierL2 {
				w.Errorf("heard %d loads, %d misses, %d hits in %s", w.heard.loads, w.heard.misses, w.heard.hits, w.heard.lastTier)
			}
		}},
		{"an invalidated value is loaded anew", func(w *world) {
			w.must("k", returns("old"), client.WithTags("t"))
			w.invalidate("t")
			if v := w.must("k", returns("new"), client.WithTags("t")); v != "new" {
				w.Errorf("got %q", v)
			}
		}},
		{"10 callers share a load and 9 cancel", func(w *world) {
			leaving, leave := context.WithCancel(w.Context())
			var runs atomic.Int32
			load := func(ctx context.Context) (string, error) { runs.Add(1); return takes(time.Second, "v")(ctx) }
			w.service.Set(func(s *fake.Service) { s.Lag = time.Millisecond })
			var leavers []<-chan result
			for range 9 {
				leavers = append(leavers, w.start(leaving, w.client, "k", load))
			}
			stays := w.start(w.Context(), w.client, "k", load)
			time.Sleep(500 * time.Millisecond)
			leave()
			for _, l := range leavers {
				if r := <-l; !errors.Is(r.err, context.Canceled) {
					w.Errorf("a caller that left got %v", r)
				}
			}
			if r := <-stays; r.err != nil || r.value != "v" {
				w.Errorf("the caller that stayed got %v", r)
			}
			if n := runs.Load(); n > 2 { // one, or one more for callers that came after it began
				w.Errorf("%d loads", n)
			}
		}},
		{"all callers cancel: the load is cancelled and the lease handed back", func(w *world) {
			ctx, cancel := context.WithCancel(w.Context())
			told := make(chan struct{})
			load := func(ctx context.Context) (string, error) { <-ctx.Done(); close(told); return "", ctx.Err() }
			a := w.start(ctx, w.client, "k", load)
			synctest.Wait()
			if !w.service.Leased("k") {
				w.Fatal("no lease while the loader works")
			}
			cancel()
			<-a
			<-told
			synctest.Wait()
			if w.service.Leased("k") {
				w.Error("the lease was not handed back")
			}
			if v := w.must("k", returns("next")); v != "next" {
				w.Errorf("the next caller got %q", v)
			}
		}},
		{"all callers leave a loader that does not listen: what it loads is still stored", func(w *world) {
			ctx, cancel := context.WithTimeout(w.Context(), time.Second)
			defer cancel()
			_, err := client.GetOrSet(ctx, w.client, "k", func(context.Context) (string, error) { time.Sleep(2 * time.Second); return "late", nil })
			if !errors.Is(err, context.DeadlineExceeded) {
				w.Errorf("got %v", err)
			}
			if v := w.must("k", returns("again")); v != "late" {
				w.Errorf("got %q, want what was loaded", v)
			}
		}},
		{"the loader fails: everybody gets its error, and nothing is stored", func(w *world) {
			_, err := client.GetOrSet(w.Context(), w.client, "k", func(context.Context) (string, error) { return "", errBoom })
			if !errors.Is(err, errBoom) {
				w.Errorf("got %v", err)
			}
			if w.service.Leased("k") {
				w.Error("the lease was not handed back")
			}
			if _, ok := w.service.Stored("k"); ok {
				w.Error("something was stored")
			}
			if v := w.must("k", returns("fine")); v != "fine" {
				w.Errorf("the next caller got %q", v)
			}
		}},
		{"the loader panics: an error with its stack, and nothing hangs", func(w *world) {
			_, err := client.GetOrSet(w.Context(), w.client, "k", func(context.Context) (string, error) { panic("ouch") })
			var p *client.PanicError
			if !errors.As(err, &p) || p.Value != "ouch" || !strings.Contains(string(p.Stack), "getorset_test.go") {
				w.Errorf("got %v", err)
			}
			if w.service.Leased("k") {
				w.Error("the lease was not handed back")
			}
			if v := w.must("k", returns("fine")); v != "fine" {
				w.Errorf("the next caller got %q", v)
			}
		}},
		{"the loader calls Goexit, as t.FailNow does: an error, and nothing hangs", func(w *world) {
			_, err := client.GetOrSet(w.Context(), w.client, "k", func(context.Context) (string, error) { runtime.Goexit(); return "", nil })
			if !errors.Is(err, client.ErrGoexit) {
				w.Errorf("got %v", err)
			}
			if w.service.Leased("k") {
				w.Error("the lease was not handed back")
			}
			if v := w.must("k", returns("fine")); v != "fine" {
				w.Errorf("the next caller got %q", v)
			}
		}},
		{"invalidated while it loads, by tag: the value is returned and not kept", func(w *world) {
			v := w.must("k", func(context.Context) (string, error) { w.invalidate("t"); return "old", nil }, client.WithTags("t"))
			if v != "old" {
				w.Errorf("the caller got %q", v)
			}
			if !slices.Equal(w.heard.superseded, []soracache.Reason{soracache.ReasonSuperseded}) {
				w.Errorf("heard %v", w.heard.superseded)
			}
			if v := w.must("k", returns("new"), client.WithTags("t")); v != "new" {
				w.Errorf("the next caller got %q", v)
			}
		}},
		{"invalidated while it loads, by key: the lease is gone and the value not kept", func(w *world) {
			w.must("k", func(ctx context.Context) (string, error) {
				_, err := w.client.Remove(ctx, "k")
				return "old", err
			})
			if !slices.Equal(w.heard.superseded, []soracache.Reason{soracache.ReasonLeaseLost}) {
				w.Errorf("heard %v", w.heard.superseded)
			}
			if v := w.must("k", returns("new")); v != "new" {
				w.Errorf("the next caller got %q", v)
			}
		}},
		{"whoever comes after an invalidation does not share a load begun before it", func(w *world) {
			var source atomic.Pointer[string]
			source.Store(new("old"))
			load := func(ctx context.Context) (string, error) {
				v := *source.Load()
				_, err := takes(time.Second, "")(ctx)
				return v, err
			}
			early := w.start(w.Context(), w.client, "k", load, client.WithTags("t"))
			time.Sleep(500 * time.Millisecond)
			source.Store(new("new"))
			w.invalidate("t")
			late := w.start(w.Context(), w.client, "k", load, client.WithTags("t"))
			if r := <-early; r.value != "old" {
				w.Errorf("the early caller got %v", r)
			}
			if r := <-late; r.value != "new" {
				w.Errorf("the late caller got %v", r)
			}
		}},
		{"100 callers in one process, one cold key: one load, one lease", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Lag = time.Millisecond })
			var wg sync.WaitGroup
			var runs atomic.Int32
			for range 100 {
				wg.Go(func() {
					v, err := client.GetOrSet(w.Context(), w.client, "k", func(ctx context.Context) (string, error) {
						runs.Add(1)
						return takes(200*time.Millisecond, "v")(ctx)
					})
					if v != "v" || err != nil {
						w.Errorf("got %q, %v", v, err)
					}
				})
			}
			wg.Wait()
			if n := runs.Load(); n != 1 {
				w.Errorf("%d loads", n)
			}
		}},
		{"10 processes, one cold key: one load, the others wait and then read", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Lag = time.Millisecond })
			var wg sync.WaitGroup
			var runs atomic.Int32
			for range 10 {
				process := w.join()
				for range 10 {
					wg.Go(func() {
						v, err := client.GetOrSet(w.Context(), process, "k", func(ctx context.Context) (string, error) {
							runs.Add(1)
							return takes(200*time.Millisecond, "v")(ctx)
						})
						if v != "v" || err != nil {
							w.Errorf("got %q, %v", v, err)
						}
					})
				}
			}
			wg.Wait()
			if n := runs.Load(); n != 1 {
				w.Errorf("%d loads", n)
			}
		}},
		{"the process that loads dies: the next one takes over when the lease has run out", func(w *world) {
			dead := w.service.Lease("k")
			if dead.Lease == (soracache.Lease{}) {
				w.Fatal("no lease for the process that is to die")
			}
			start := time.Now()
			if v := w.must("k", returns("v")); v != "v" {
				w.Errorf("got %q", v)
			}
			if took := time.Since(start); took != soracache.DefaultLease {
				w.Errorf("it took %s", took)
			}
			if _, ok := w.service.Stored("k"); !ok {
				w.Error("what the next one loaded was not stored")
			}
		}},
		{"somebody else loads for longer than the policy waits: load, and do not store", func(w *world) {
			w.service.Lease("k")
			start := time.Now()
			w.must("k", returns("mine"), client.WithPolicy(client.Default().With(func(p *client.Policy) { p.Wait = 2 * time.Second })))
			if took := time.Since(start); took != 2*time.Second {
				w.Errorf("waited %s", took)
			}
			if _, ok := w.service.Stored("k"); ok {
				w.Error("stored without a lease")
			}
			if len(w.heard.notStored) != 1 {
				w.Errorf("heard %v", w.heard.notStored)
			}
		}},
		{"a policy that does not wait", func(w *world) {
			w.service.Lease("k")
			start := time.Now()
			w.must("k", returns("mine"), client.WithPolicy(client.Default().With(func(p *client.Policy) { p.Wait = -1 })))
			if took := time.Since(start); took != 0 {
				w.Errorf("waited %s", took)
			}
		}},
		{"a deadline while somebody else loads: the deadline is kept", func(w *world) {
			w.service.Lease("k")
			ctx, cancel := context.WithTimeout(w.Context(), time.Second)
			defer cancel()
			start := time.Now()
			_, err := client.GetOrSet(ctx, w.client, "k", returns("v"))
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				w.Errorf("got %v after %s", err, time.Since(start))
			}
		}},
		{"a loader slower than the lease: the lease is renewed, and the value stored", func(w *world) {
			rival := w.join()
			slow := w.start(w.Context(), w.client, "k", takes(time.Minute, "slow"))
			time.Sleep(50 * time.Second)
			if r := <-w.start(w.Context(), rival, "k", returns("rival")); r.value != "slow" {
				w.Errorf("a rival process got %v", r)
			}
			if r := <-slow; r.value != "slow" || len(w.heard.superseded) != 0 {
				w.Errorf("got %v, heard %v", r, w.heard.superseded)
			}
			if n := w.service.Count(soracache.OpRenew); n < 10 {
				w.Errorf("%d renewals in a minute", n)
			}
		}},
		{"a loader that never ends: the lease is not renewed for ever", func(w *world) {
			w.start(w.Context(), w.client, "k", func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() })
			time.Sleep(time.Hour)
			if w.service.Leased("k") {
				w.Error("the lease is still held after an hour")
			}
		}},
		{"renewals fail for a while: the lease survives", func(w *world) {
			n := 0
			w.service.Set(func(s *fake.Service) {
				s.Deny = func(wr soracache.Write) error {
					if wr.Op == soracache.OpRenew {
						if n++; n%2 == 1 {
							return soracache.ErrUnavailable
						}
					}
					return nil
				}
			})
			w.must("k", takes(25*time.Second, "v"))
			if _, ok := w.service.Stored("k"); !ok {
				w.Error("not stored")
			}
		}},
		{"the lease is lost while the loader works: it stops renewing, the value is returned", func(w *world) {
			a := w.start(w.Context(), w.client, "k", takes(time.Minute, "mine"))
			time.Sleep(time.Second)
			if err := client.Set(w.Context(), w.client, "k", "theirs"); err != nil {
				w.Fatal(err)
			}
			if r := <-a; r.value != "mine" || r.err != nil {
				w.Errorf("got %v", r)
			}
			if n := w.service.Count(soracache.OpRenew); n != 1 {
				w.Errorf("%d renewals of a lost lease", n)
			}
			if !slices.Equal(w.heard.superseded, []soracache.Reason{soracache.ReasonLeaseLost}) {
				w.Errorf("heard %v", w.heard.superseded)
			}
			if v := w.must("k", returns("?")); v != "theirs" {
				w.Errorf("the next caller got %q", v)
			}
		}},
		{"the service is down: the loader's value, at once", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Fail = soracache.ErrUnavailable })
			start := time.Now()
			if v := w.must("k", returns("v")); v != "v" || time.Since(start) != 0 {
				w.Errorf("got %q after %s", v, time.Since(start))
			}
			if w.heard.failOpen != 1 || !errors.Is(w.heard.lastFailOpen, soracache.ErrUnavailable) {
				w.Errorf("heard %d, %v", w.heard.failOpen, w.heard.lastFailOpen)
			}
		}},
		{"the service is down and the loader fails: the loader's error", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Fail = soracache.ErrUnavailable })
			if _, err := client.GetOrSet(w.Context(), w.client, "k", func(context.Context) (string, error) { return "", errBoom }); !errors.Is(err, errBoom) {
				w.Errorf("got %v", err)
			}
		}},
		{"the service hangs: the loader's value after 250 ms", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Hang = true })
			start := time.Now()
			if v := w.must("k", returns("v")); v != "v" || time.Since(start) != client.DefaultTimeout {
				w.Errorf("got %q after %s", v, time.Since(start))
			}
			if w.heard.failOpen != 1 {
				w.Errorf("heard %d", w.heard.failOpen)
			}
		}},
		{"the service hangs while we wait for somebody's load: 250 ms beyond the wait", func(w *world) {
			w.service.Lease("k")
			w.service.Set(func(s *fake.Service) {
				asked := 0
				s.Look = func(string, string) {
					if asked++; asked == 2 {
						s.Set(func(s *fake.Service) { s.Hang = true })
					}
				}
			})
			start := time.Now()
			if v := w.must("k", returns("v"), client.WithPolicy(client.Default().With(func(p *client.Policy) { p.Wait = 3 * time.Second }))); v != "v" {
				w.Errorf("got %q", v)
			}
			if took := time.Since(start); took != 3*time.Second+client.DefaultTimeout {
				w.Errorf("took %s", took)
			}
		}},
		{"the service hangs and my deadline is short: the loader still gets half of it", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Hang = true })
			ctx, cancel := context.WithTimeout(w.Context(), 100*time.Millisecond)
			defer cancel()
			v, err := client.GetOrSet(ctx, w.client, "k", takes(40*time.Millisecond, "v"))
			if v != "v" || err != nil {
				w.Errorf("got %q, %v", v, err)
			}
		}},
		{"the service hangs when the value is to be stored: the value is returned in time", func(w *world) {
			start := time.Now()
			v := w.must("k", func(context.Context) (string, error) {
				w.service.Set(func(s *fake.Service) { s.Hang = true })
				return "v", nil
			})
			if v != "v" || time.Since(start) > client.DefaultTimeout {
				w.Errorf("got %q after %s", v, time.Since(start))
			}
			if len(w.heard.notStored) != 1 {
				w.Errorf("heard %v", w.heard.notStored)
			}
		}},
		{"the service hangs and so does the loader: my deadline is kept", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Hang = true })
			ctx, cancel := context.WithTimeout(w.Context(), time.Second)
			defer cancel()
			start := time.Now()
			_, err := client.GetOrSet(ctx, w.client, "k", takes(time.Hour, "v"))
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				w.Errorf("got %v after %s", err, time.Since(start))
			}
		}},
		{"the service is down: a caller joins only a load that has not started", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Fail = soracache.ErrUnavailable })
			var runs atomic.Int32
			load := func(ctx context.Context) (string, error) {
				return takes(time.Second, strconv.Itoa(int(runs.Add(1))))(ctx)
			}
			first := w.start(w.Context(), w.client, "k", load)
			time.Sleep(500 * time.Millisecond)
			a, b := w.start(w.Context(), w.client, "k", load), w.start(w.Context(), w.client, "k", load)
			if r := <-first; r.value != "1" {
				w.Errorf("first got %v", r)
			}
			for _, ch := range []<-chan result{a, b} {
				if r := <-ch; r.value != "2" {
					w.Errorf("a later caller got %v", r)
				}
			}
		}},
		{"my credentials are refused: the value, and the hook says why", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Fail = soracache.ErrUnauthenticated })
			if v := w.must("k", returns("v")); v != "v" || !errors.Is(w.heard.lastFailOpen, soracache.ErrUnauthenticated) {
				w.Errorf("got %q, heard %v", v, w.heard.lastFailOpen)
			}
		}},
		{"a key that can never be right: an error, and no load", func(w *world) {
			w.service.Set(func(s *fake.Service) { s.Fail = soracache.ErrInvalid })
			_, err := client.GetOrSet(w.Context(), w.client, "", returns("v"))
			if !errors.Is(err, soracache.ErrInvalid) || w.heard.loads != 0 {
				w.Errorf("got %v after %d loads", err, w.heard.loads)
			}
		}},
		{"a policy that can never be right: an error", func(w *world) {
			_, err := client.GetOrSet(w.Context(), w.client, "k", returns("v"), client.WithTTL(-time.Second))
			if !errors.Is(err, soracache.ErrInvalid) {
				w.Errorf("got %v", err)
			}
		}},
		{"the service refuses to store the value: it is returned, and the lease handed back", func(w *world) {
			w.service.Set(func(s *fake.Service) {
				s.Deny = func(wr soracache.Write) error {
					if wr.Op == soracache.OpFill {
						return soracache.ErrTooLarge
					}
					return nil
				}
			})
			if v := w.must("k", returns("huge")); v != "huge" || w.service.Leased("k") {
				w.Errorf("got %q, leased: %t", v, w.service.Leased("k"))
			}
			if len(w.heard.notStored) != 1 || !errors.Is(w.heard.notStored[0], soracache.ErrTooLarge) {
				w.Errorf("heard %v", w.heard.notStored)
			}
		}},
		{"a value that cannot be encoded: it is returned, and the lease handed back", func(w *world) {
			f, err := client.GetOrSet(w.Context(), w.client, "k", func(context.Context) (func(), error) { return func() {}, nil })
			if f == nil || err != nil || w.service.Leased("k") || len(w.heard.notStored) != 1 {
				w.Errorf("got %v, heard %v", err, w.heard.notStored)
			}
		}},
		{"the policy says how long, and what it depends on", func(w *world) {
			p := client.Short().WithTags("b", "a").With(func(p *client.Policy) { p.Keep = time.Hour })
			w.must("k", returns("v"), client.WithPolicy(p), client.WithTags("a", "c"))
			got := w.service.Writes[0]
			want := soracache.Lifetime{TTL: 5 * time.Minute, Keep: time.Hour, L1: time.Minute}
			if got.Lifetime != want || !slices.Equal(got.Entry.Tags, []string{"a", "b", "c"}) || got.Entry.Encoding != "raw" {
				w.Errorf("stored %+v", got)
			}
		}},
		{"past its TTL, kept: one caller loads, the others have the stale value meanwhile", func(w *world) {
			p := client.WithPolicy(client.Policy{TTL: time.Minute, Keep: time.Hour})
			w.must("k", returns("old"), p)
			time.Sleep(2 * time.Minute)
			loads := w.start(w.Context(), w.client, "k", takes(time.Second, "new"), p)
			synctest.Wait()
			if r := <-w.start(w.Context(), w.join(), "k", returns("?"), p); r.value != "old" || w.heard.stale != 1 {
				w.Errorf("another process got %v", r)
			}
			if r := <-loads; r.value != "new" {
				w.Errorf("the loading caller got %v", r)
			}
		}},
		{"the context's values reach the loader, one caller's deadline does not", func(w *world) {
			type ctxKey struct{}
			ctx, cancel := context.WithTimeout(context.WithValue(w.Context(), ctxKey{}, "me"), time.Hour)
			defer cancel()
			v, err := client.GetOrSet(ctx, w.client, "k", func(ctx context.Context) (string, error) {
				if _, has := ctx.Deadline(); has {
					w.Error("the loader has a deadline")
				}
				return fmt.Sprint(ctx.Value(ctxKey{})), nil
			})
			if v != "me" || err != nil {
				w.Errorf("got %q, %v", v, err)
			}
		}},
		{"a context that has ended: its error, and no question asked", func(w *world) {
			ctx, cancel := context.WithCancel(w.Context())
			cancel()
			if _, err := client.GetOrSet(ctx, w.client, "k", returns("v")); !errors.Is(err, context.Canceled) || len(w.service.Gets) != 0 {
				w.Errorf("got %v after %d questions", err, len(w.service.Gets))
			}
		}},
		{"closed while it loads: the loader is told, the lease handed back, the caller told why", func(w *world) {
			c := w.join()
			a := w.start(w.Context(), c, "k", takes(time.Hour, "v"))
			synctest.Wait()
			if err := c.Close(); err != nil {
				w.Errorf("close: %v", err)
			}
			if w.service.Leased("k") {
				w.Error("closed, and the lease is still held")
			}
			if r := <-a; !errors.Is(r.err, client.ErrClosed) {
				w.Errorf("the caller got %v", r)
			}
		}},
		{"closed as the lease comes, and the loader is limited: not loaded, and the lease handed back", func(w *world) {
			c := w.join()
			w.service.Bend = func(*soracache.ReadResult) {
				go func() { _ = c.Close() }()
				time.Sleep(time.Millisecond)
			}
			_, err := client.GetOrSet(w.Context(), c, "k", takes(time.Hour, "v"), client.AdjustPolicy(func(p *client.Policy) { p.HardTimeout = time.Minute }))
			time.Sleep(time.Second) // it is handed back behind its caller
			if !errors.Is(err, client.ErrClosed) || w.service.Leased("k") {
				w.Errorf("got %v; leased: %t", err, w.service.Leased("k"))
			}
		}},
		{"closed beside a loader that does not listen: an error, in time", func(w *world) {
			c := w.join()
			a := w.start(w.Context(), c, "k", func(context.Context) (string, error) { time.Sleep(time.Minute); return "v", nil })
			synctest.Wait()
			start := time.Now()
			if err := c.Close(); err == nil || time.Since(start) > 3*time.Second {
				w.Errorf("close: %v after %s", err, time.Since(start))
			}
			if r := <-a; !errors.Is(r.err, client.ErrClosed) || time.Since(start) > 3*time.Second {
				w.Errorf("the caller got %q, %v after %s", r.value, r.err, time.Since(start))
			}
			time.Sleep(time.Minute) // the loader ends
		}},
		{"used after Close", func(w *world) {
			c := w.join()
			if err := errors.Join(c.Close(), c.Close()); err != nil {
				w.Errorf("close: %v", err)
			}
			_, err := client.GetOrSet(w.Context(), c, "k", returns("v"))
			_, _, getErr := client.Get[string](w.Context(), c, "k")
			_, invErr := c.Clear(w.Context())
			for _, err := range []error{err, getErr, invErr, client.Set(w.Context(), c, "k", "v")} {
				if !errors.Is(err, client.ErrClosed) {
					w.Errorf("got %v", err)
				}
			}
		}},
		{"a refresh lease beside a fresh value: the caller refreshes it", func(w *world) {
			w.must("k", returns("old"))
			id := w.service.Lease("other").Lease // any lease will do
			w.service.Bend = func(res *soracache.ReadResult) { res.Lease = id }
			if v := w.must("k", returns("new")); v != "new" {
				w.Errorf("got %q", v)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tt.play(newWorld(t)) })
		})
	}
}
