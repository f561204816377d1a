package client_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache/client"
)

// onLoad is an interceptor around loaders.
func onLoad(do func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error)) client.Interceptor {
	return client.LoadInterceptor(func(next client.LoadFunc) client.LoadFunc {
		return func(ctx context.Context, req client.LoadRequest) (map[string]any, error) { return do(ctx, req, next) }
	})
}

// onStore is one around what stores.
func onStore(do func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc)) client.Interceptor {
	return client.StoreInterceptor(func(next client.StoreFunc) client.StoreFunc {
		return func(ctx context.Context, reqs []*client.StoreRequest) { do(ctx, reqs, next) }
	})
}

// before is one that does something with each request before it is passed on.
func before(do func(*client.StoreRequest)) client.Interceptor {
	return onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
		for _, r := range reqs {
			do(r)
		}
		next(ctx, reqs)
	})
}

// after is one that looks at each request when it is decided.
func after(do func(*client.StoreRequest)) client.Interceptor {
	return onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
		next(ctx, reqs)
		for _, r := range reqs {
			do(r)
		}
	})
}

// other is a further process, which asks by the same door.
func (s *stage) other(opts ...client.Option) *process {
	s.Helper()
	p := s.process(opts...)
	p.door = s.a.door
	return p
}

// wantNotStored asserts that the last value of the key k was not stored, for this reason (nil:
// any), and that nobody is left holding its lease.
func (s *stage) wantNotStored(p *process, why error) {
	s.Helper()
	synctest.Wait()
	p.told.mu.Lock()
	defer p.told.mu.Unlock()
	if n := len(p.told.notStored); n == 0 || why != nil && !errors.Is(p.told.notStored[n-1], why) {
		s.Errorf("told %v, want %v", p.told.notStored, why)
	}
	if s.explain("k").Live || s.leased("k") {
		s.Errorf("stored: %t, leased: %t", s.explain("k").Live, s.leased("k"))
	}
}

func TestLoadInterceptors(t *testing.T) {
	errDown := errors.New("down")
	playAll(t, []act{
		{"they run in their order, the client's around the cache's", func(s *stage) {
			var said []string
			named := func(name string) client.Interceptor { return naming(name, &said) }
			p := s.other(client.Interceptors(named("a"), named("b")), client.Interceptors(named("c")))
			src := newOrigin("v")
			src.with = func(context.Context) { said = append(said, "loader") }
			p.want("v", src, client.WithInterceptors(named("d"), nil), client.WithInterceptors(named("e")))
			want := []string{
				"load a", "load b", "load c", "load d", "load e", "loader", "e loaded", "d loaded", "c loaded", "b loaded", "a loaded",
				"store a", "store b", "store c", "store d", "store e", "e stored", "d stored", "c stored", "b stored", "a stored",
			}
			if !slices.Equal(said, want) {
				s.Errorf("said %q", said)
			}
		}},
		{"what one returns is the value, for everybody", func(s *stage) {
			shout := client.WithInterceptors(onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				values, err := next(ctx, req)
				for key, v := range values {
					values[key] = v.(string) + "!"
				}
				return values, err
			}))
			src := newOrigin("v")
			s.a.want("v!", src, shout)
			s.a.want("v!", src)
			s.b.want("v!", src)
			s.wantCalls(src, 1)
		}},
		{"one sees the keys, the namespace, the schema, and that nobody waits", func(s *stage) {
			var seen []client.LoadRequest
			opts := []client.CallOption{
				client.WithSchema("s/1"), policy(func(p client.Policy) client.Policy {
					return p.With(func(p *client.Policy) { p.StaleWhileRevalidate = time.Hour })
				}),
				client.WithInterceptors(onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
					seen = append(seen, req)
					return next(ctx, req)
				})),
			}
			src := newOrigin("v")
			s.a.want("v", src, opts...)
			time.Sleep(2 * time.Minute)
			s.a.want("v", src, opts...)
			for i, req := range seen {
				if req.Namespace != "default" || req.Schema != "s/1" || !slices.Equal(req.Keys, []string{"k"}) || req.Refresh != (i == 1) {
					s.Errorf("call %d of the loader was %+v", i, req)
				}
			}
			if len(seen) != 2 {
				s.Errorf("saw %d calls", len(seen))
			}
		}},
		{"tags that one adds after the loader invalidate", func(s *stage) {
			tag := client.WithInterceptors(onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				values, err := next(ctx, req)
				for _, key := range req.Keys {
					client.LoadContextFrom(ctx).For(key).AddTags("of:" + key)
				}
				return values, err
			}))
			src := newOrigin("old")
			s.a.want("old", src, tag)
			s.a.invalidate("of:k")
			src.becomes("new")
			s.a.want("new", src, tag)
			s.b.want("new", src)
		}},
		{"the policy that one chooses after the loader counts", func(s *stage) {
			short := client.WithInterceptors(onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				values, err := next(ctx, req)
				client.LoadContextFrom(ctx).AdjustPolicy(func(p *client.Policy) { p.TTL = time.Second })
				return values, err
			}))
			src := newOrigin("old")
			s.a.want("old", src, short)
			src.becomes("new")
			s.b.want("old", src)
			time.Sleep(2 * time.Second)
			s.b.want("new", src)
		}},
		{"one that fails is a loader that fails: its error is the callers', or an older value is theirs", func(s *stage) {
			safe := policy(func(p client.Policy) client.Policy {
				return p.With(func(p *client.Policy) { p.FailSafe, p.FailSafeThrottle = time.Hour, -1 })
			})
			failing := client.WithInterceptors(onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				_, _ = next(ctx, req)
				return nil, errDown
			}))
			src := newOrigin("v")
			s.a.wantErr(errDown, src, safe, failing)
			if s.leased("k") {
				s.Error("the lease is left behind")
			}
			s.a.want("v", src, safe)
			time.Sleep(2 * time.Minute)
			s.a.want("v", src, safe, failing)
			s.a.wantStale(client.StaleFailedLoader)
		}},
		{"one that does not call next has loaded what it returns", func(s *stage) {
			src := newOrigin("theirs")
			s.a.want("mine", src, client.WithInterceptors(onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
				return map[string]any{"k": "mine", "another": 7}, nil
			})))
			s.b.want("mine", src)
			s.wantCalls(src, 0)
		}},
		{"one that returns no value says that there is no such thing", func(s *stage) {
			s.a.wantErr(client.ErrNotFound, newOrigin("v"), client.WithInterceptors(onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
				return map[string]any{}, nil
			})))
		}},
		{"one that calls next again has the loader run again, and what it said stays said", func(s *stage) {
			src := newOrigin("v")
			src.fails(errBoom)
			src.with = func(ctx context.Context) {
				if src.count() == 1 {
					client.LoadContextFrom(ctx).AddTags("first")
				} else {
					src.becomes("v")
				}
			}
			again := client.WithInterceptors(onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				if values, err := next(ctx, req); err == nil {
					return values, nil
				}
				src.becomes("v")
				return next(ctx, req)
			}))
			s.a.want("v", src, again)
			s.wantCalls(src, 2)
			if tags := s.explain("k").Tags; !slices.Equal(tags, []string{"first"}) {
				s.Errorf("stored with tags %q", tags)
			}
		}},
		{"a value of another type is an error, and not stored", func(s *stage) {
			s.a.wantErr(client.ErrInvalid, newOrigin("v"), client.WithInterceptors(onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
				return map[string]any{"k": 7}, nil
			})))
			if s.explain("k").Live || s.leased("k") {
				s.Error("it left something behind")
			}
		}},
		{"a request of one's own making is an error", func(s *stage) {
			made := onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				return next(ctx, client.LoadRequest{Keys: req.Keys})
			})
			s.a.wantErr(client.ErrInvalid, newOrigin("v"), client.WithInterceptors(made))
			s.other(client.Interceptors(made)).wantErr(client.ErrInvalid, newOrigin("v"))
		}},
		{"a panic is the loader's", func(s *stage) {
			var panicked *client.PanicError
			r := <-s.a.get(newOrigin("v"), client.WithInterceptors(onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
				panic("interceptor")
			})))
			if !errors.As(r.err, &panicked) || panicked.Value != "interceptor" || s.leased("k") {
				s.Errorf("got %v, leased: %t", r.err, s.leased("k"))
			}
		}},
		{"so is a Goexit", func(s *stage) {
			s.a.wantErr(client.ErrGoexit, newOrigin("v"), client.WithInterceptors(onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
				runtime.Goexit()
				return nil, nil
			})))
			if s.leased("k") {
				s.Error("the lease is left behind")
			}
		}},
		{"one that blocks ends when nobody wants the value any more", func(s *stage) {
			var ended time.Time
			blocks := client.WithInterceptors(blocking(&ended))
			ctx, cancel := context.WithTimeout(s.Context(), 3*time.Second)
			defer cancel()
			start := time.Now()
			if r := <-s.a.getIn(ctx, "k", newOrigin("v"), blocks); !errors.Is(r.err, context.DeadlineExceeded) {
				s.Errorf("got %q, %v", r.value, r.err)
			}
			synctest.Wait()
			if waited := time.Since(start); waited != 3*time.Second || ended.Sub(start) != waited || s.leased("k") {
				s.Errorf("returned after %s, ended after %s, leased: %t", waited, ended.Sub(start), s.leased("k"))
			}
		}},
		{"one that blocks is waited for as long as the loader", func(s *stage) {
			var ended time.Time
			src := newOrigin("v")
			opts := client.WithPolicy(client.Policy{TTL: time.Minute, FailSafe: time.Hour, HardTimeout: 2 * time.Second})
			s.a.want("v", src, opts)
			time.Sleep(2 * time.Minute)
			s.a.wantAfter(2*time.Second, "v", src, opts, client.WithInterceptors(blocking(&ended)))
			s.a.wantStale(client.StaleSlowLoader)
		}},
		{"without the service, loads pass by them all the same", func(s *stage) {
			said := []string(nil)
			s.cut()
			s.a.want("v", newOrigin("v"), client.WithInterceptors(naming("a", &said)))
			if !slices.Equal(said, []string{"load a", "a loaded"}) {
				s.Errorf("said %q", said)
			}
		}},
		{"what the codec gives back is of what they return", func(s *stage) {
			s.a.want("mine", newOrigin("v"), client.ServeDecoded(), client.WithInterceptors(onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
				return map[string]any{"k": "mine"}, nil
			})))
		}},
		{"it sees that the source has not changed, and the value is kept", func(s *stage) {
			keep := policy(func(p client.Policy) client.Policy { return p.With(func(p *client.Policy) { p.Keep = time.Hour }) })
			src := newOrigin("v")
			s.a.want("v", src, keep)
			time.Sleep(2 * time.Minute)
			src.fails(client.ErrNotModified)
			var seen error
			s.a.want("v", src, keep, client.WithInterceptors(onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				values, err := next(ctx, req)
				seen = err
				return values, err
			})))
			if !errors.Is(seen, client.ErrNotModified) {
				s.Errorf("saw %v", seen)
			}
		}},
	})
}

// blocking is an interceptor that blocks until its context ends.
func blocking(ended *time.Time) client.Interceptor {
	return onLoad(func(ctx context.Context, _ client.LoadRequest, _ client.LoadFunc) (map[string]any, error) {
		<-ctx.Done()
		*ended = time.Now()
		return nil, ctx.Err()
	})
}

// naming is an interceptor that says its name before and after.
func naming(name string, said *[]string) client.Interceptor {
	return &named{name: name, said: said}
}

type named struct {
	name   string
	said   *[]string
	health error
	// wraps counts how often it was applied.
	wraps int
}

func (n *named) say(what string) { *n.said = append(*n.said, what) }

func (n *named) WrapLoad(next client.LoadFunc) client.LoadFunc {
	n.wraps++
	return func(ctx context.Context, req client.LoadRequest) (map[string]any, error) {
		n.say("load " + n.name)
		defer n.say(n.name + " loaded")
		return next(ctx, req)
	}
}

func (n *named) WrapStore(next client.StoreFunc) client.StoreFunc {
	return func(ctx context.Context, reqs []*client.StoreRequest) {
		n.say("store " + n.name)
		defer n.say(n.name + " stored")
		next(ctx, reqs)
	}
}

func (n *named) Describe() (string, error) { return n.name, n.health }

func TestStoreInterceptors(t *testing.T) {
	errUgly := errors.New("ugly")
	refuse := client.WithInterceptors(before(func(r *client.StoreRequest) { r.Refuse(errUgly) }))
	park := client.WithInterceptors(before(func(r *client.StoreRequest) { r.Park(errUgly) }))
	playAll(t, []act{
		{"one sees what will be stored, and that it is", func(s *stage) {
			var seen client.StoreRequest
			var stored bool
			s.a.want("value", newOrigin("value"), client.WithSchema("s/1"), client.WithTags("b", "a"),
				policy(func(p client.Policy) client.Policy { p.FailSafe, p.Tags = time.Hour, []string{"c"}; return p }), client.WithTags("a"),
				client.WithInterceptors(onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
					seen = *reqs[0]
					next(ctx, reqs)
					stored = reqs[0].Stored() && reqs[0].Err() == nil && len(reqs) == 1
				})))
			if seen.Key != "k" || seen.Namespace != "default" || seen.Schema != "s/1" || seen.Value != "value" || seen.Failure != nil || !slices.Equal(seen.Tags, []string{"a", "c"}) ||
				seen.TTL != time.Minute || seen.Keep != 61*time.Minute || seen.Size != 5 || seen.Set || !stored {
				s.Errorf("saw %+v, and that it is stored: %t", seen, stored)
			}
		}},
		{"a value that one refuses is given to its callers and to nobody else, and the reason is told", func(s *stage) {
			src := newOrigin("v")
			s.a.want("v", src, refuse)
			s.wantNotStored(s.a, errUgly)
			s.a.want("v", src, refuse)
			s.wantCalls(src, 2)
			s.b.want("v", src)
			s.wantCalls(src, 3)
			if values, _ := s.a.Parked(); len(values) != 0 {
				s.Errorf("parked: %v", values)
			}
		}},
		{"one that is parked is listed, and handed to a hook", func(s *stage) {
			var handed []client.Parked
			s.a = s.other(client.WithHooks(client.Hooks{OnParked: func(p client.Parked) { handed = append(handed, p) }}))
			src := newOrigin("v1")
			s.a.want("v1", src, park, client.WithTags("t"))
			s.wantNotStored(s.a, errUgly)
			time.Sleep(time.Second)
			src.becomes("v2")
			s.a.want("v2", src, park, client.WithTags("t"))
			s.wantNotStored(s.a, errUgly)
			values, dropped := s.a.Parked()
			if len(values) != 1 || dropped != 0 {
				s.Fatalf("parked: %v, dropped: %d", values, dropped)
			}
			if p := values[0]; p.Key != "k" || string(p.Data) != "v2" || p.Encoding != "raw" || p.Why != "ugly" || p.Times != 2 || !slices.Equal(p.Tags, []string{"t"}) || !p.At.Equal(time.Now()) {
				s.Errorf("parked: %+v", p)
			}
			if len(handed) != 2 || string(handed[0].Data) != "v1" || handed[0].Times != 1 || string(handed[1].Data) != "v2" {
				s.Errorf("handed %v", handed)
			}
		}},
		{"a parked value is never served: not when the loader fails, not without the service", func(s *stage) {
			safe := client.WithPolicy(client.Policy{TTL: time.Minute, FailSafe: time.Hour, StaleWhileRevalidate: time.Hour})
			src := newOrigin("bad")
			s.a.want("bad", src, safe, park)
			src.fails(errBoom)
			s.a.wantErr(errBoom, src, safe)
			s.b.wantErr(errBoom, src, safe)
			if _, found, err := client.Get[string](s.Context(), s.a.Client, "k"); found || err != nil {
				s.Errorf("found: %t, %v", found, err)
			}
			s.cut()
			s.a.wantErr(errBoom, src, safe)
		}},
		{"a good value stays where a refresh is parked", func(s *stage) {
			swr := client.WithPolicy(client.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour})
			src := newOrigin("good")
			s.a.want("good", src, swr)
			time.Sleep(2 * time.Minute)
			src.becomes("bad")
			s.a.want("good", src, swr, park)
			s.b.want("good", src, swr, park)
			if s.leased("k") {
				s.Error("the lease is left behind")
			}
		}},
		{"the first word counts, and none after it was passed on", func(s *stage) {
			src := newOrigin("v")
			s.a.want("v", src, client.WithInterceptors(
				before(func(r *client.StoreRequest) { r.Refuse(errUgly) }),
				before(func(r *client.StoreRequest) { r.Park(errBoom) })))
			s.wantNotStored(s.a, errUgly)
			s.a.want("v", src, client.WithInterceptors(after(func(r *client.StoreRequest) { r.Park(errBoom) })))
			if values, _ := s.a.Parked(); len(values) != 0 || !s.explain("k").Live {
				s.Errorf("parked: %v, stored: %t", values, s.explain("k").Live)
			}
		}},
		{"what is not passed on is not stored", func(s *stage) {
			s.a.want("v", newOrigin("v"), client.WithInterceptors(onStore(func(context.Context, []*client.StoreRequest, client.StoreFunc) {})))
			s.wantNotStored(s.a, nil)
		}},
		{"what is passed on twice is stored once", func(s *stage) {
			before := s.a.track.writes.Load()
			s.a.want("v", newOrigin("v"), client.WithInterceptors(onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
				next(ctx, append(reqs, reqs...))
				next(ctx, reqs)
				next(ctx, nil)
			})))
			if n := s.a.track.writes.Load() - before; n != 1 || !s.explain("k").Live {
				s.Errorf("%d writes, stored: %t", n, s.explain("k").Live)
			}
		}},
		{"one sees that an invalidation came first", func(s *stage) {
			var why error
			src := newOrigin("v")
			src.with = func(context.Context) { s.b.invalidate("t") }
			s.a.want("v", src, client.WithTags("t"), client.WithInterceptors(after(func(r *client.StoreRequest) { why = r.Err() })))
			if !errors.Is(why, client.ErrSuperseded) || len(s.a.told.superseded) != 1 {
				s.Errorf("saw %v, told %v", why, s.a.told.superseded)
			}
		}},
		{"one sees that the service has failed", func(s *stage) {
			var why error
			src := newOrigin("v")
			src.with = func(context.Context) { s.store.down.Store(true) }
			s.a.want("v", src, client.WithInterceptors(after(func(r *client.StoreRequest) { why = r.Err() })))
			if why == nil || len(s.a.told.notStored) != 1 {
				s.Errorf("saw %v, told %v", why, s.a.told.notStored)
			}
		}},
		{"an error that is to be remembered passes by them, too", func(s *stage) {
			missing := client.WithPolicy(client.Policy{TTL: time.Minute, NotFoundTTL: time.Second})
			var seen client.StoreRequest
			src := newOrigin("")
			src.fails(client.ErrNotFound)
			s.a.wantErr(client.ErrNotFound, src, missing, client.WithInterceptors(before(func(r *client.StoreRequest) { seen = *r; r.Park(errUgly) })))
			s.wantNotStored(s.a, errUgly)
			if !errors.Is(seen.Failure, client.ErrNotFound) || seen.Value != nil || seen.TTL != time.Second {
				s.Errorf("saw %+v", seen)
			}
			if values, _ := s.a.Parked(); len(values) != 1 || values[0].Failure != "not found" || values[0].Data != nil {
				s.Errorf("parked: %v", values)
			}
		}},
		{"what cannot be stored does not come to them", func(s *stage) {
			said := []string(nil)
			src := newOrigin("v")
			src.with = func(ctx context.Context) { client.LoadContextFrom(ctx).DoNotCache() }
			s.a.want("v", src, client.WithInterceptors(naming("a", &said)))
			if !slices.Equal(said, []string{"load a", "a loaded"}) {
				s.Errorf("said %q", said)
			}
		}},
		{"a panic keeps what is open from being stored, and nobody from the value", func(s *stage) {
			crash := func(*client.StoreRequest) { panic("interceptor") }
			src := newOrigin("v")
			s.a.want("v", src, client.WithInterceptors(before(crash)))
			var panicked *client.PanicError
			if n := len(s.a.told.notStored); n != 1 || !errors.As(s.a.told.notStored[0], &panicked) || s.leased("k") {
				s.Errorf("told %v, leased: %t", s.a.told.notStored, s.leased("k"))
			}
			s.a.want("v", src, client.WithInterceptors(after(crash)))
			if !s.explain("k").Live {
				s.Error("it was stored before the panic, and is not")
			}
		}},
		{"a Goexit leaves no lease behind", func(s *stage) {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = s.a.door.ask(s.Context(), s.a.Client, "k", newOrigin("v").load, client.WithInterceptors(before(func(*client.StoreRequest) { runtime.Goexit() })))
			}()
			<-ended
			s.wantNotStored(s.a, client.ErrGoexit)
			s.b.want("new", newOrigin("new"))
		}},
		{"one that blocks is waited for as long as the service would be", func(s *stage) {
			s.a.wantAfter(client.DefaultTimeout, "v", newOrigin("v"), client.WithInterceptors(onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
				<-ctx.Done()
				next(ctx, reqs)
			})))
			s.wantNotStored(s.a, context.DeadlineExceeded)
		}},
		{"one that goes on without next does not outrun it", func(s *stage) {
			var stored bool
			over := make(chan struct{})
			s.a.want("v", newOrigin("v"), client.WithInterceptors(onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
				go func() {
					defer close(over)
					next(ctx, reqs)
					stored = reqs[0].Stored()
				}()
			})))
			<-over
			synctest.Wait()
			if stored != s.explain("k").Live || s.leased("k") {
				s.Errorf("says that it is stored: %t; stored: %t, leased: %t", stored, s.explain("k").Live, s.leased("k"))
			}
		}},
		{"what one reads is no ingredient of a value further out, nor has anything to say about it", func(s *stage) {
			if _, err := client.GetOrSet(s.Context(), s.b.Client, "read", returns("v"), client.WithTags("t")); err != nil {
				s.Fatal(err)
			}
			reads := client.WithInterceptors(onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
				if _, found, err := client.Get[string](ctx, s.a.Client, "read"); !found || err != nil {
					s.Errorf("found: %t, %v", found, err)
				}
				client.LoadContextFrom(ctx).AddTags("said")
				next(ctx, reqs)
			}))
			src := newOrigin("v")
			src.with = func(ctx context.Context) { <-s.a.getIn(ctx, "inner", newOrigin("inner"), reads) }
			s.a.want("v", src)
			if tags := s.explain("k").Tags; len(tags) != 0 || len(s.explain("inner").Tags) != 0 {
				s.Errorf("stored with tags %q, and %q", tags, s.explain("inner").Tags)
			}
		}},
		{"one that asks for the key that it stores is told at once", func(s *stage) {
			var err error
			s.a.want("v", newOrigin("v"), client.WithInterceptors(onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
				_, err = s.a.door.ask(ctx, s.a.Client, "k", newOrigin("other").load)
				next(ctx, reqs)
			})))
			if !errors.Is(err, client.ErrCycle) {
				s.Errorf("got %v", err)
			}
		}},
	})
}
