package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/soracache/soracache/client"
)

// loadsAll is a batch loader of the keys themselves. It notes what it is called with.
func loadsAll(calls *[][]string) func(context.Context, []string) (map[string]string, error) {
	return func(_ context.Context, keys []string) (map[string]string, error) {
		*calls = append(*calls, slices.Clone(keys))
		values := make(map[string]string)
		for _, key := range keys {
			values[key] = key
		}
		return values, nil
	}
}

// A batch passes by interceptors as one, and each of its keys has its own fate.
func TestInterceptorsOfABatch(t *testing.T) {
	keys := []string{"a", "b", "c"}
	ask := func(s *stage, load func(context.Context, []string) (map[string]string, error), interceptors ...client.Interceptor) (map[string]string, map[string]error) {
		s.Helper()
		values, err := client.NewCache[string](s.a.Client, client.Default()).GetOrSetMany(s.Context(), keys, load, client.WithInterceptors(interceptors...))
		synctest.Wait()
		many, _ := errors.AsType[*client.ManyError](err)
		if many == nil {
			many = new(client.ManyError)
		}
		return values, many.Errors
	}
	var calls [][]string
	for _, a := range []act{
		{"one call of each, whatever the number of keys, and one request", func(s *stage) {
			var seen [][]string
			writes := s.a.track.writes.Load()
			requests := 0
			ask(s, loadsAll(&calls), onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				seen = append(seen, slices.Clone(req.Keys))
				clear(req.Keys) // its own
				return next(ctx, req)
			}), onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
				return map[string]any{"a": "1", "b": "2", "c": "3"}, nil
			}), onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
				requests++
				if len(reqs) != 3 {
					s.Errorf("%d requests", len(reqs))
				}
				next(ctx, reqs)
			}))
			if len(seen) != 1 || !slices.Equal(seen[0], keys) || requests != 1 || s.a.track.writes.Load()-writes != 3 || len(calls) != 0 {
				s.Errorf("saw %v, stored %d times, in %d writes", seen, requests, s.a.track.writes.Load()-writes)
			}
		}},
		{"one refuses some of the keys, and the others are stored", func(s *stage) {
			values, failed := ask(s, loadsAll(&calls), before(func(r *client.StoreRequest) {
				switch r.Key {
				case "a":
					r.Refuse(errBoom)
				case "b":
					r.Park(errBoom)
				}
			}))
			parked, _ := s.a.Parked()
			if len(values) != 3 || len(failed) != 0 || len(parked) != 1 || parked[0].Key != "b" {
				s.Errorf("got %v, %v, parked %v", values, failed, parked)
			}
			for i, key := range keys {
				if s.explain(key).Live != (i == 2) || s.leased(key) {
					s.Errorf("%s: stored: %t, leased: %t", key, s.explain(key).Live, s.leased(key))
				}
			}
		}},
		{"the lease of what one refuses is free at once, whatever else is being loaded", func(s *stage) {
			checked := false
			load := func(_ context.Context, keys []string) (map[string]string, error) {
				if keys[0] == "b" {
					synctest.Wait()
					checked = true
					if s.leased("a") || !s.leased("c") {
						s.Errorf("a is leased: %t, c: %t", s.leased("a"), s.leased("c"))
					}
				}
				return map[string]string{keys[0]: keys[0]}, nil
			}
			_, err := client.NewCache[string](s.a.Client, client.Default()).GetOrSetMany(s.Context(), keys, load,
				client.LoadBatch(1), client.LoadConcurrency(1), client.WithInterceptors(before(func(r *client.StoreRequest) { r.Refuse(errBoom) })))
			if err != nil || !checked {
				s.Errorf("%v, checked: %t", err, checked)
			}
		}},
		{"one loads some of the keys itself, and has the others loaded", func(s *stage) {
			values, failed := ask(s, loadsAll(&calls), onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				req.Keys = slices.DeleteFunc(req.Keys, func(key string) bool { return key == "b" })
				values, err := next(ctx, req)
				values["b"] = "mine"
				return values, err
			}))
			if len(calls) != 1 || !slices.Equal(calls[0], []string{"a", "c"}) || len(failed) != 0 || !maps.Equal(values, map[string]string{"a": "a", "b": "mine", "c": "c"}) {
				s.Errorf("called with %v: %v, %v", calls, values, failed)
			}
		}},
		{"keys that are lacking do not exist, and some may fail", func(s *stage) {
			values, failed := ask(s, loadsAll(&calls), onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				values, _ := next(ctx, req)
				delete(values, "a")
				return values, &client.ManyError{Errors: map[string]error{"b": errBoom}}
			}))
			if !maps.Equal(values, map[string]string{"c": "c"}) || len(failed) != 1 || !errors.Is(failed["b"], errBoom) {
				s.Errorf("got %v, %v", values, failed)
			}
		}},
		{"a value of another type is its key's error alone", func(s *stage) {
			values, failed := ask(s, loadsAll(&calls), onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				values, _ := next(ctx, req)
				values["a"] = 7
				return values, &client.ManyError{Errors: map[string]error{"b": errBoom}}
			}))
			if !maps.Equal(values, map[string]string{"c": "c"}) || len(failed) != 2 || !errors.Is(failed["a"], client.ErrInvalid) || !errors.Is(failed["b"], errBoom) {
				s.Errorf("got %v, %v", values, failed)
			}
		}},
		{"so it is beside an error that is not about these keys, which is that of all", func(s *stage) {
			for _, wrong := range []*client.ManyError{{Errors: map[string]error{"z": errBoom}}, {Errors: map[string]error{"b": errBoom}, Unnamed: 1}} {
				values, failed := ask(s, loadsAll(&calls), onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
					return map[string]any{"a": 7, "c": "c"}, wrong
				}))
				if len(values) != 0 || len(failed) != 3 || !errors.Is(failed["c"], errBoom) {
					s.Errorf("got %v, %v", values, failed)
				}
			}
		}},
		{"the error of all is that of all", func(s *stage) {
			values, failed := ask(s, loadsAll(&calls), onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
				return map[string]any{"a": 7}, errBoom
			}))
			if len(values) != 0 || len(failed) != 3 || !errors.Is(failed["a"], errBoom) {
				s.Errorf("got %v, %v", values, failed)
			}
		}},
		{"no result beside an error about some is none for the others", func(s *stage) {
			for _, interceptor := range []client.Interceptor{nil, client.LoadInterceptor(func(next client.LoadFunc) client.LoadFunc { return next })} {
				values, failed := ask(s, func(context.Context, []string) (map[string]string, error) {
					return nil, &client.ManyError{Errors: map[string]error{"b": errBoom}}
				}, interceptor)
				if len(values) != 0 || len(failed) != 3 {
					s.Errorf("got %v, %v", values, failed)
				}
			}
		}},
		{"tags that one adds for a key are that key's", func(s *stage) {
			ask(s, loadsAll(&calls), onLoad(func(ctx context.Context, req client.LoadRequest, next client.LoadFunc) (map[string]any, error) {
				values, err := next(ctx, req)
				client.LoadContextFrom(ctx).For("a").AddTags("t")
				return values, err
			}))
			s.a.invalidate("t")
			if s.explain("a").Live || !s.explain("b").Live {
				s.Errorf("a is live: %t, b: %t", s.explain("a").Live, s.explain("b").Live)
			}
		}},
	} {
		t.Run(a.name, func(t *testing.T) {
			calls = nil
			onStage(t, a.play)
		})
	}
}

// What is stored behind its callers passes by interceptors, too.
func TestInterceptorsOfLargeValues(t *testing.T) {
	byDoors(t, func(s *stage, many bool) {
		large := strings.Repeat("x", 1<<20)
		cache := client.NewCache[string](s.a.Client, client.Default(), client.WithInterceptors(before(func(r *client.StoreRequest) {
			if r.Size > 1<<19 {
				r.Park(errors.New("too large"))
			}
		})))
		got, err := callBy(s.Context(), many, cache, func() (string, error) { return large, nil })
		s.wantNotStored(s.a, nil)
		if parked, _ := s.a.Parked(); err != nil || got != large || len(parked) != 1 || len(parked[0].Data) != 1<<20 {
			s.Errorf("got %d bytes, %v; parked %d", len(got), err, len(parked))
		}
	})
}

// Values of an interface, or of a pointer type, may be nil.
func TestInterceptedNil(t *testing.T) {
	onStage(t, func(s *stage) {
		same := client.WithInterceptors(client.LoadInterceptor(func(next client.LoadFunc) client.LoadFunc { return next }))
		a, err := client.GetOrSet(s.Context(), s.a.Client, "a", func(context.Context) (any, error) { return nil, nil }, same)
		if a != nil || err != nil {
			s.Errorf("got %v, %v", a, err)
		}
		p, err := client.GetOrSet(s.Context(), s.a.Client, "p", func(context.Context) (*visit, error) { return nil, nil }, same)
		if p != nil || err != nil {
			s.Errorf("got %v, %v", p, err)
		}
		var invalid error
		_, invalid = client.GetOrSet(s.Context(), s.a.Client, "n", func(context.Context) (int, error) { return 1, nil }, client.WithInterceptors(
			onLoad(func(context.Context, client.LoadRequest, client.LoadFunc) (map[string]any, error) {
				return map[string]any{"n": nil}, nil
			})))
		if !errors.Is(invalid, client.ErrInvalid) {
			s.Errorf("got %v", invalid)
		}
	})
}

// What Set stores passes by those who store, and fails if they do not have it stored.
func TestInterceptorsOfSet(t *testing.T) {
	onStage(t, func(s *stage) {
		var said []string
		var seen client.StoreRequest
		p := s.other(client.Interceptors(naming("a", &said)))
		set := func(value string, interceptors ...client.Interceptor) error {
			return client.Set(s.Context(), p.Client, "k", value, client.WithInterceptors(interceptors...))
		}
		if err := set("v", after(func(r *client.StoreRequest) { seen = *r })); err != nil || !seen.Set || !seen.Stored() || seen.Value != "v" {
			s.Errorf("%v, saw %+v", err, seen)
		}
		if !slices.Equal(said, []string{"store a", "a stored"}) {
			s.Errorf("said %q", said)
		}
		if err := set("refused", before(func(r *client.StoreRequest) { r.Refuse(errBoom) })); !errors.Is(err, errBoom) {
			s.Errorf("refused: %v", err)
		}
		if err := set("parked", before(func(r *client.StoreRequest) { r.Park(errBoom) })); !errors.Is(err, errBoom) {
			s.Errorf("parked: %v", err)
		}
		var panicked *client.PanicError
		if err := set("panics", before(func(*client.StoreRequest) { panic("interceptor") })); !errors.As(err, &panicked) {
			s.Errorf("panicked: %v", err)
		}
		if err := set("dropped", onStore(func(context.Context, []*client.StoreRequest, client.StoreFunc) {})); err == nil {
			s.Error("what is not passed on is stored")
		}
		s.a.want("v", newOrigin("other")) // what was there is still
		if parked, _ := p.Parked(); len(parked) != 1 || string(parked[0].Data) != "parked" || len(p.told.notStored) != 0 {
			s.Errorf("parked %v, told %v", parked, p.told.notStored)
		}
		start := time.Now()
		if err := set("late", onStore(func(ctx context.Context, reqs []*client.StoreRequest, next client.StoreFunc) {
			<-ctx.Done()
			next(ctx, reqs)
		})); err == nil || time.Since(start) > time.Minute {
			s.Errorf("one that blocks: %v after %s", err, time.Since(start))
		}
		s.a.track.down.Store(true)
		var why error
		err := client.Set(s.Context(), s.a.Client, "k", "v", client.WithInterceptors(after(func(r *client.StoreRequest) { why = r.Err() })))
		if err == nil || why == nil || !errors.Is(err, why) {
			s.Errorf("without the service: %v, saw %v", err, why)
		}
	})
}

// However much is parked, what is kept of it is bounded.
func TestParkedIsBounded(t *testing.T) {
	park := client.Interceptors(before(func(r *client.StoreRequest) { r.Park(errBoom) }))
	load := func(s *stage, p *process, n, size int) {
		for i := range n {
			if _, err := client.GetOrSet(s.Context(), p.Client, strconv.Itoa(i), returns(strings.Repeat("x", size))); err != nil {
				s.Fatal(err)
			}
		}
	}
	onStage(t, func(s *stage) {
		p := s.other(park, client.ParkAtMost(10, 1000))
		load(s, p, 30, 1)
		parked, dropped := p.Parked()
		if len(parked) != 10 || dropped != 20 || parked[0].Key != "20" || parked[9].Key != "29" {
			s.Errorf("parked %v, dropped %d", parked, dropped)
		}
		load(s, p, 10, 300)
		parked, _ = p.Parked()
		if len(parked) != 3 || parked[2].Key != "9" {
			s.Errorf("%d are parked, the last one %v", len(parked), parked[len(parked)-1].Key)
		}
		load(s, p, 1, 2000)
		if again, _ := p.Parked(); len(again) != 3 {
			s.Errorf("%d are parked after one that has no room", len(again))
		}
		p = s.other(park)
		load(s, p, client.DefaultParkedEntries+1, 1)
		if parked, _ = p.Parked(); len(parked) != client.DefaultParkedEntries {
			s.Errorf("%d are parked", len(parked))
		}
		load(s, p, client.DefaultParkedBytes>>20+1, 1<<20)
		var bytes int
		parked, _ = p.Parked()
		for _, v := range parked {
			bytes += len(v.Data)
		}
		if bytes > client.DefaultParkedBytes || len(parked) < 15 {
			s.Errorf("%d are parked, of %d bytes", len(parked), bytes)
		}
		for _, opt := range []client.Option{client.ParkAtMost(-1, 1), client.ParkAtMost(1, -1)} {
			if _, err := client.New(s.node, opt); !errors.Is(err, client.ErrInvalid) {
				s.Errorf("got %v", err)
			}
		}
	})
}

// Interceptors tell their names and their health, in their order, and are applied once.
func TestInterceptorsDescribeThemselves(t *testing.T) {
	onStage(t, func(s *stage) {
		var said []string
		tired := &named{name: "tired", said: &said, health: errBoom}
		well := &named{name: "well", said: &said}
		p := s.other(client.Interceptors(tired, nil, client.LoadInterceptor(func(next client.LoadFunc) client.LoadFunc { return next })))
		cache := client.NewLoadingCache(p.Client, client.Default(), func(_ context.Context, key string) (string, error) { return key, nil }, client.WithInterceptors(well))
		for i := range 3 {
			if _, err := cache.Get(s.Context(), strconv.Itoa(i)); err != nil {
				s.Fatal(err)
			}
		}
		if tired.wraps != 1 || well.wraps != 1 {
			s.Errorf("applied %d and %d times", tired.wraps, well.wraps)
		}
		want := []client.InterceptorStatus{{"tired", errBoom}, {"client.LoadInterceptor", nil}, {"well", nil}}
		if got := cache.Interceptors(); !slices.Equal(got, want) {
			s.Errorf("the cache has %v", got)
		}
		if got := p.Interceptors(); !slices.Equal(got, want[:2]) {
			s.Errorf("the client has %v", got)
		}
		if got := s.a.Interceptors(); len(got) != 0 {
			s.Errorf("one without has %v", got)
		}
	})
}

// The handler shows what there is, and values of the keys that are asked for alone.
func TestInterceptorHandler(t *testing.T) {
	onStage(t, func(s *stage) {
		var said []string
		tired := &named{name: "tired", said: &said, health: errBoom}
		p := s.other(client.Namespace("shop"), client.Interceptors(tired, before(func(r *client.StoreRequest) {
			if r.Key != "fine" {
				r.Park(errors.New("ugly"))
			}
		})))
		for _, key := range []string{"fine", "a", "b"} {
			if _, err := client.GetOrSet(s.Context(), p.Client, key, returns("secret"), client.WithTags("t")); err != nil {
				s.Fatal(err)
			}
		}
		ask := func(method, query string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			p.InterceptorHandler().ServeHTTP(w, httptest.NewRequestWithContext(s.Context(), method, "/"+query, nil))
			return w
		}
		var got struct {
			Namespace    string
			Interceptors []struct{ Name, Error string }
			Parked       []struct {
				Key, Why, Encoding string
				Tags               []string
				Bytes, Times       int
				Data               []byte
			}
		}
		w := ask(http.MethodGet, "")
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
			s.Fatalf("%d %v: %s, %v", w.Code, w.Header(), w.Body, err)
		}
		if got.Namespace != "shop" || len(got.Interceptors) != 2 || got.Interceptors[0].Name != "tired" || got.Interceptors[0].Error != errBoom.Error() || got.Interceptors[1].Error != "" {
			s.Errorf("shows %+v", got)
		}
		if len(got.Parked) != 2 || got.Parked[0].Key != "a" || got.Parked[1].Why != "ugly" || got.Parked[1].Bytes != 6 || got.Parked[1].Times != 1 || got.Parked[1].Data != nil || !slices.Equal(got.Parked[1].Tags, []string{"t"}) {
			s.Errorf("shows %+v", got.Parked)
		}
		if err := json.Unmarshal(ask(http.MethodGet, "?key=b").Body.Bytes(), &got); err != nil || len(got.Parked) != 1 || string(got.Parked[0].Data) != "secret" {
			s.Errorf("shows of one key %+v, %v", got.Parked, err)
		}
		if w := ask(http.MethodPost, ""); w.Code != http.StatusMethodNotAllowed {
			s.Errorf("POST: %d", w.Code)
		}
	})
}
