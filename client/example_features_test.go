package client_test

// The examples that the pages in docs quote, one or two for each feature. What a
// page shows is compared with what is here: see docs_test.go.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
	"github.com/soracache/soracache/client/stamps"
)

// exampleT stands for the *testing.T that a test has.
type exampleT struct{ cleanups []func() }

func (t *exampleT) Helper()                   { _ = t }
func (t *exampleT) Cleanup(f func())          { t.cleanups = append(t.cleanups, f) }
func (t *exampleT) Output() io.Writer         { return io.Discard }
func (t *exampleT) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (t *exampleT) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func (t *exampleT) end() {
	for _, cleanup := range slices.Backward(t.cleanups) {
		cleanup()
	}
}

// A hundred callers in two processes want a key that is not there: it is loaded
// once.
func ExampleCache_GetOrSet_stampede() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	srv := clienttest.NewServer(t)
	processes := []*client.Client{srv.Client(), srv.Client()} // each with a memory of its own

	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() {
			c := processes[i%2]
			_, _ = client.GetOrSet(context.Background(), c, "report", func(context.Context) (string, error) {
				time.Sleep(50 * time.Millisecond)
				return "up 4%", nil
			})
		})
	}
	callers.Wait()
	fmt.Println("loads:", srv.Recorder.Loads("report"))
	// Output:
	// loads: 1
}

// Two pages were made of the same product. Its tag makes both of them unservable.
func ExampleClient_InvalidateTags() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	c := clienttest.New(t)
	pages := client.NewLoadingCache(c, client.Long(), func(ctx context.Context, key string) (string, error) {
		fmt.Println("loading", key)
		client.LoadContextFrom(ctx).AddTags("product:42") // known only now
		return "a lamp", nil
	})

	_, _ = pages.Get(ctx, "page:lamps")
	_, _ = pages.Get(ctx, "page:offers")
	_, err := c.InvalidateTags(ctx, "product:42") // after the commit
	fmt.Println("invalidated:", err)
	_, _ = pages.Get(ctx, "page:lamps")
	_, _ = pages.Get(ctx, "page:offers")
	// Output:
	// loading page:lamps
	// loading page:offers
	// invalidated: <nil>
	// loading page:lamps
	// loading page:offers
}

// A change is committed and its tag invalidated while somebody is loading what
// was there before. It comes too late to be kept.
func ExampleClient_InvalidateTags_lateFill() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	c := clienttest.New(t)
	prices := client.NewCache[int](c, client.Default().WithTags("prices"))

	price := 30
	got, err := prices.GetOrSet(ctx, "price:42", func(ctx context.Context) (int, error) {
		read := price // and now somebody changes it
		price = 35
		_, err := c.InvalidateTags(context.WithoutCancel(ctx), "prices")
		return read, err
	})
	fmt.Println("who asked before the change:", got, err)
	got, err = prices.GetOrSet(ctx, "price:42", func(context.Context) (int, error) { return price, nil })
	fmt.Println("who asked after it:", got, err)
	// Output:
	// who asked before the change: 30 <nil>
	// who asked after it: 35 <nil>
}

// Past its TTL, a value is returned at once and loaded anew in the background.
func ExamplePolicy_staleWhileRevalidate() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	refreshed := make(chan struct{})
	c := srv.Client(client.WithHooks(client.Hooks{
		OnRefreshed: func(string, time.Duration, error) { close(refreshed) },
	}))
	version := 0
	report := client.NewLoadingCache(c,
		client.Policy{TTL: time.Minute, StaleWhileRevalidate: time.Hour},
		func(context.Context, string) (int, error) { version++; return version, nil })

	fmt.Println(report.Get(ctx, "report")) // nothing is there: the caller waits
	srv.Clock.Advance(2 * time.Minute)
	fmt.Println(report.Get(ctx, "report")) // stale, and at once
	<-refreshed
	fmt.Println(report.Get(ctx, "report"))
	// Output:
	// 1 <nil>
	// 1 <nil>
	// 2 <nil>
}

// The source fails. What was there before does for another while, unless it is
// known to be wrong.
func ExamplePolicy_failSafe() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	c := srv.Client()
	var source error
	rates := client.NewLoadingCache(c,
		client.Policy{TTL: time.Minute, FailSafe: time.Hour, Tags: []string{"rates"}},
		func(context.Context, string) (float64, error) { return 1.08, source })

	fmt.Println(rates.Get(ctx, "EUR"))
	source = errors.New("the bank is closed")
	srv.Clock.Advance(2 * time.Minute)
	fmt.Println(rates.Get(ctx, "EUR")) // the loader fails: the old value
	fmt.Println(rates.Get(ctx, "EUR")) // the loader is left alone for 30 s
	fmt.Println("loads:", srv.Recorder.Loads("EUR"))

	_, _ = c.InvalidateTags(ctx, "rates")
	fmt.Println(rates.Get(ctx, "EUR")) // never what is known to be wrong
	// Output:
	// 1.08 <nil>
	// 1.08 <nil>
	// 1.08 <nil>
	// loads: 2
	// 0 the bank is closed
}

// Nobody waits for a slow loader longer than they want to. It goes on, and what
// it loads is stored.
func ExamplePolicy_hardTimeout() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	reports := client.NewCache[string](srv.Client(), client.Default())
	finish := make(chan struct{})
	load := func(context.Context) (string, error) {
		<-finish
		return "up 4%", nil
	}

	_, err := reports.GetOrSet(ctx, "report", load, client.AdjustPolicy(func(p *client.Policy) { p.HardTimeout = 20 * time.Millisecond }))
	fmt.Println("in time:", errors.Is(err, context.DeadlineExceeded))
	close(finish)
	fmt.Println(reports.GetOrSet(ctx, "report", load)) // waits for the load that goes on
	fmt.Println("loads:", srv.Recorder.Loads("report"))
	// Output:
	// in time: true
	// up 4% <nil>
	// loads: 1
}

// There is a stale value, so nobody waits for a slow loader longer than the soft
// timeout.
func ExamplePolicy_softTimeout() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	report, finish := "up 4%", make(chan struct{})
	reports := client.NewLoadingCache(srv.Client(),
		client.Policy{TTL: time.Minute, Keep: time.Hour, SoftTimeout: 20 * time.Millisecond},
		func(context.Context, string) (string, error) {
			if report == "down 2%" {
				<-finish
			}
			return report, nil
		})

	fmt.Println(reports.Get(ctx, "report"))
	report = "down 2%"
	srv.Clock.Advance(2 * time.Minute)
	fmt.Println(reports.Get(ctx, "report")) // after 20 ms the stale value
	close(finish)                           // and some time later the loader ends
	for {
		if v, err := reports.Get(ctx, "report"); v != "up 4%" {
			fmt.Println(v, err)
			break
		}
	}
	// Output:
	// up 4% <nil>
	// up 4% <nil>
	// down 2% <nil>
}

// A read in the last fifth of the TTL has the value loaded anew while it is still
// fresh: nobody ever waits.
func ExamplePolicy_eagerAt() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	refreshed := make(chan struct{})
	c := srv.Client(client.WithHooks(client.Hooks{
		OnRefreshed: func(string, time.Duration, error) { close(refreshed) },
	}))
	version := 0
	report := client.NewLoadingCache(c,
		client.Policy{TTL: time.Hour, EagerAt: 0.8},
		func(context.Context, string) (int, error) { version++; return version, nil })

	fmt.Println(report.Get(ctx, "report"))
	srv.Clock.Advance(47 * time.Minute)
	fmt.Println(report.Get(ctx, "report")) // not yet
	srv.Clock.Advance(2 * time.Minute)
	fmt.Println(report.Get(ctx, "report")) // fresh still, and refreshed behind it
	<-refreshed
	fmt.Println(report.Get(ctx, "report"))
	// Output:
	// 1 <nil>
	// 1 <nil>
	// 1 <nil>
	// 2 <nil>
}

// A page is computed from a product that is itself cached. Whoever invalidates
// the product need not know of the page.
func ExampleLoadContextFrom_ingredients() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	c := clienttest.New(t)
	name := "lamp"
	products := client.NewLoadingCache(c, client.Default(), func(ctx context.Context, key string) (string, error) {
		client.LoadContextFrom(ctx).AddTags(key)
		return name, nil
	})
	pages := client.NewLoadingCache(c, client.Default(), func(ctx context.Context, _ string) (string, error) {
		product, err := products.Get(ctx, "product:42") // with the loader's own context
		return "<h1>" + product + "</h1>", err
	})

	fmt.Println(pages.Get(ctx, "page:42"))
	name = "desk lamp"
	_, _ = c.InvalidateTags(ctx, "product:42")
	fmt.Println(pages.Get(ctx, "page:42"))
	// Output:
	// <h1>lamp</h1> <nil>
	// <h1>desk lamp</h1> <nil>
}

// Three products in one call: what is cached comes from the cache, the rest from
// one query. One does not exist, and one cannot be read.
func ExampleLoadingCache_GetMany() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	products := client.NewBatchLoadingCache(clienttest.New(t), client.Default(),
		func(_ context.Context, missing []string) (map[string]string, error) {
			fmt.Println("select", missing)
			found, failed := map[string]string{}, map[string]error{}
			for _, key := range missing {
				switch key {
				case "p:1", "p:2":
					found[key] = "lamp " + key
				case "p:4":
					failed[key] = errors.New("broken row")
				}
			}
			if len(failed) > 0 {
				return found, &client.ManyError{Errors: failed}
			}
			return found, nil
		})

	fmt.Println(products.GetMany(ctx, []string{"p:1"}))
	fmt.Println(products.GetMany(ctx, []string{"p:1", "p:2", "p:3"}))
	fmt.Println(products.GetMany(ctx, []string{"p:1", "p:4"}))
	// Output:
	// select [p:1]
	// map[p:1:lamp p:1] <nil>
	// select [p:2 p:3]
	// map[p:1:lamp p:1 p:2:lamp p:2] <nil>
	// select [p:4]
	// map[p:1:lamp p:1] 1 of the keys failed: "p:4": broken row
}

// What will be wanted is loaded before anybody asks for it.
func ExampleCache_Warm() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	squares := client.NewCache[int](clienttest.New(t), client.Long())
	keys := func(yield func(string) bool) {
		for i := range 1000 {
			if !yield(fmt.Sprintf("square:%d", i)) {
				return
			}
		}
	}

	p, err := squares.Warm(context.Background(), keys, func(_ context.Context, missing []string) (map[string]int, error) {
		found := make(map[string]int, len(missing))
		for _, key := range missing {
			var n int
			_, _ = fmt.Sscanf(key, "square:%d", &n)
			found[key] = n * n
		}
		return found, nil
	})
	fmt.Println(p.Done, "done,", p.Stored, "stored,", p.Failed, "failed;", err)
	// Output:
	// 1000 done, 1000 stored, 0 failed; <nil>
}

// One service changes something and answers; the other, which is asked next, must
// not show what was there before.
func Example_stampHeader() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	srv := clienttest.NewServer(t)
	one, other := srv.Client(), srv.Client() // in two processes
	price := 30
	show := func(ctx context.Context) (int, error) {
		return client.GetOrSet(ctx, other, "price:42", func(context.Context) (int, error) { return price, nil },
			client.WithTags("prices"))
	}
	fmt.Println(show(context.Background()))

	// The first service, in its handler:
	answer := http.Header{}
	ctx := stamps.With(context.Background(), stamps.Stamp{}) // gathers what is seen
	price = 35
	_, _ = one.InvalidateTags(ctx, "prices")
	stamps.SetHeader(ctx, answer)

	// The other one, whose request has the header of that answer:
	fmt.Println(show(stamps.WithHeader(context.Background(), answer)))
	// Output:
	// 30 <nil>
	// 35 <nil>
}

// That there is no such product is worth remembering too, for a shorter time.
func ExamplePolicy_notFoundTTL() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	c := srv.Client()
	rows := map[string]string{}
	products := client.NewLoadingCache(c, client.Default().With(func(p *client.Policy) { p.NotFoundTTL = time.Minute }),
		func(_ context.Context, key string) (string, error) {
			if row, ok := rows[key]; ok {
				return row, nil
			}
			return "", fmt.Errorf("select: %w", client.ErrNotFound)
		})

	for range 3 {
		_, err := products.Get(ctx, "product:7")
		fmt.Println(errors.Is(err, client.ErrNotFound))
	}
	fmt.Println("loads:", srv.Recorder.Loads("product:7"))

	rows["product:7"] = "a vase"
	_, _ = products.Remove(ctx, "product:7") // after the insert
	fmt.Println(products.Get(ctx, "product:7"))
	// Output:
	// true
	// true
	// true
	// loads: 1
	// a vase <nil>
}

// A source whose quota is used up is left alone by everybody until it is not.
func ExampleCacheError() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	weather := client.NewLoadingCache(srv.Client(), client.Default(), func(context.Context, string) (string, error) {
		return "", client.CacheError(errors.New("quota used up"), time.Minute)
	})

	for range 3 {
		_, err := weather.Get(ctx, "Oslo")
		var cached *client.CachedError
		fmt.Println(err, errors.As(err, &cached))
	}
	fmt.Println("loads:", srv.Recorder.Loads("Oslo"))
	// Output:
	// quota used up false
	// quota used up true
	// quota used up true
	// loads: 1
}

// The source is asked whether it has changed, rather than for everything anew.
func ExamplePrevious() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	pages := client.NewLoadingCache(srv.Client(), client.Policy{TTL: time.Minute, Keep: time.Hour},
		func(ctx context.Context, _ string) (string, error) {
			page, etag, ok := client.Previous[string](ctx)
			if ok && etag == "v1" { // what a server would find by If-None-Match
				fmt.Println("304 Not Modified")
				return page, client.ErrNotModified
			}
			fmt.Println("200 OK")
			client.LoadContextFrom(ctx).SetETag("v1")
			return "a long page", nil
		})

	fmt.Println(pages.Get(ctx, "page"))
	srv.Clock.Advance(2 * time.Minute)
	fmt.Println(pages.Get(ctx, "page"))
	fmt.Println(pages.Get(ctx, "page")) // fresh for another TTL
	// Output:
	// 200 OK
	// a long page <nil>
	// 304 Not Modified
	// a long page <nil>
	// a long page <nil>
}

// Only the loader sees for how long its value is good.
func ExampleLoadContext_SetTTL() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	tokens := client.NewLoadingCache(srv.Client(), client.Long(), func(ctx context.Context, key string) (string, error) {
		fill := client.LoadContextFrom(ctx)
		switch key {
		case "guest":
			fill.DoNotCache()
		default:
			fill.SetTTL(10 * time.Minute) // as its issuer says
			fill.AddTags("issuer:7")
		}
		return "token of " + key, nil
	})

	for range 2 {
		_, _ = tokens.Get(ctx, "guest")
		_, _ = tokens.Get(ctx, "ann")
	}
	fmt.Println("loads:", srv.Recorder.Loads("guest"), "and", srv.Recorder.Loads("ann"))
	srv.Clock.Advance(10 * time.Minute)
	_, _ = tokens.Get(ctx, "ann")
	fmt.Println("ten minutes later:", srv.Recorder.Loads("ann"))
	// Output:
	// loads: 2 and 1
	// ten minutes later: 2
}

// The loader reads a replica that is up to two seconds behind.
func ExampleInvalidation_settle() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	c := srv.Client()
	replica := 30
	prices := client.NewLoadingCache(c, client.Default().WithTags("prices"),
		func(context.Context, string) (int, error) { return replica, nil })
	fmt.Println(prices.Get(ctx, "price:42"))

	// The primary commits 35.
	_, err := c.Invalidate(ctx, client.Invalidation{Tags: []string{"prices"}, Settle: 2 * time.Second})
	fmt.Println("invalidated:", err)
	fmt.Println(prices.Get(ctx, "price:42")) // the replica's value, which is not kept
	replica = 35                             // one second later
	srv.Clock.Advance(3 * time.Second)
	fmt.Println(prices.Get(ctx, "price:42"))
	// Output:
	// 30 <nil>
	// invalidated: <nil>
	// 30 <nil>
	// 35 <nil>
}

// No node can be reached. The application does without.
func ExampleDial_failOpen() {
	c, err := client.Dial([]string{"http://127.0.0.1:1"}, client.Logger(nil), client.WithHooks(client.Hooks{
		OnFailOpen: func(key string, err error) {
			fmt.Println("no cache for", key, errors.Is(err, soracache.ErrUnavailable))
		},
	}))
	if err != nil {
		panic(err)
	}
	defer func() { _ = c.Close() }()
	fmt.Println(client.GetOrSet(context.Background(), c, "rate:EUR", func(context.Context) (float64, error) {
		return 1.08, nil
	}))
	// Output:
	// no cache for rate:EUR true
	// 1.08 <nil>
}

// A few fields are enough for one's own metrics. The others cost nothing.
func ExampleWithHooks() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	c := srv.Client(client.WithHooks(client.Hooks{
		OnHit:  func(key string, _ soracache.Tier) { fmt.Println("hit", key) },
		OnMiss: func(key string) { fmt.Println("miss", key) },
		OnLoad: func(key string, _ time.Duration, err error) { fmt.Println("loaded", key, err) },
	}))

	load := func(context.Context) (string, error) { return "a lamp", nil }
	_, _ = client.GetOrSet(ctx, c, "product:42", load)
	_, _ = client.GetOrSet(ctx, srv.Client(), "product:43", load) // another process, not observed
	_, _ = client.GetOrSet(ctx, c, "product:43", load)
	// Output:
	// miss product:42
	// loaded product:42 <nil>
	// hit product:43
}

// Every value gets a tag, and prices that cannot be right are parked.
func ExampleInterceptors() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	// What is loaded depends on the pricing service.
	tag := client.LoadInterceptor(func(next client.LoadFunc) client.LoadFunc {
		return func(ctx context.Context, req client.LoadRequest) (map[string]any, error) {
			client.LoadContextFrom(ctx).AddTags("pricing")
			return next(ctx, req)
		}
	})
	// A price of nothing is for a person to look at.
	check := client.StoreInterceptor(func(next client.StoreFunc) client.StoreFunc {
		return func(ctx context.Context, reqs []*client.StoreRequest) {
			for _, r := range reqs {
				if price, ok := r.Value.(int); ok && price <= 0 {
					r.Park(errors.New("no price"))
				}
			}
			next(ctx, reqs)
		}
	})
	c := srv.Client(client.Interceptors(tag, check))
	prices := client.NewLoadingCache(c, client.Default(), func(_ context.Context, key string) (int, error) {
		return map[string]int{"lamp": 4900}[key], nil
	})

	for range 2 {
		_, _ = prices.Get(ctx, "lamp")
		_, _ = prices.Get(ctx, "chair")
	}
	fmt.Println("loads:", srv.Recorder.Loads("lamp"), "and", srv.Recorder.Loads("chair"))
	parked, _ := c.Parked()
	for _, p := range parked {
		fmt.Printf("parked: %s = %s, %s, %d times\n", p.Key, p.Data, p.Why, p.Times)
	}
	_, _ = c.InvalidateTags(ctx, "pricing")
	_, _ = prices.Get(ctx, "lamp")
	fmt.Println("after the invalidation:", srv.Recorder.Loads("lamp"))
	// Output:
	// loads: 1 and 2
	// parked: chair = 0, no price, 2 times
	// after the invalidation: 2
}

// The database fails. After some attempts it is left alone: what fail-safe allows is
// served at once, and the rest fails at once. Both caches know of it.
func ExampleSource() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	c := srv.Client(client.WithHooks(client.Hooks{
		OnSource: func(name string, state client.SourceState) { fmt.Println(name, "is", state) },
	}))
	db := client.NewSource("orders-db", client.SourceConfig{
		MaxLoads:    32,               // at the same time
		RampUp:      30 * time.Second, // after everything was invalidated
		FailureRate: 0.5,              // of 10 loads or more in 10 s
	})
	var source error
	orders := client.NewLoadingCache(c, client.Policy{TTL: time.Minute, FailSafe: time.Hour, Source: db},
		func(_ context.Context, key string) (string, error) { return "order of " + key, source })
	totals := client.NewLoadingCache(c, client.Policy{TTL: time.Minute, Source: db},
		func(context.Context, string) (int, error) { return 12, source })

	fmt.Println(orders.Get(ctx, "ann"))
	source = errors.New("too many connections")
	srv.Clock.Advance(2 * time.Minute)
	for i := range 10 {
		_, _ = totals.Get(ctx, fmt.Sprint("customer:", i))
	}
	fmt.Println(orders.Get(ctx, "ann")) // stale, and the database is not asked
	_, err := totals.Get(ctx, "bob")
	fmt.Println(err, errors.Is(err, client.ErrSourceOpen))
	fmt.Println("loads:", srv.Recorder.Loads("bob"))
	// Output:
	// order of ann <nil>
	// orders-db is open
	// order of ann <nil>
	// client: the circuit breaker of the source is open: "orders-db" true
	// loads: 0
}

// A loader's own object and what JSON gives back differ. With ServeDecoded nobody
// sees the difference.
func ExampleServeDecoded() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	here, elsewhere := srv.Client(), srv.Client() // two processes

	type page struct {
		Hits any // an int becomes a float64
		note string
	}
	load := func(context.Context) (page, error) { return page{Hits: 7, note: "draft"}, nil }
	for _, opts := range [][]client.CallOption{nil, {client.ServeDecoded()}} {
		first, _ := client.NewCache[page](here, client.Default(), opts...).GetOrSet(ctx, "home", load)
		other, _ := client.NewCache[page](elsewhere, client.Default(), opts...).GetOrSet(ctx, "home", load)
		fmt.Printf("%T %q, and elsewhere %T %q\n", first.Hits, first.note, other.Hits, other.note)
		_, _ = here.Remove(ctx, "home")
	}
	// Output:
	// int "draft", and elsewhere float64 ""
	// float64 "", and elsewhere float64 ""
}

// Two versions of an application are up at the same time, and cannot read each
// other's values. Each gets its own. They have no near caches here, so one of them
// soon loads for each call; without storing, or both would.
func Example_twoVersions() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	type before struct{ Total int }
	type after struct{ Total string }
	older := client.NewCache[before](srv.Client(client.NoNear()), client.Default())
	newer := client.NewCache[after](srv.Client(client.NoNear()), client.Default())

	loads := map[string]int{}
	for range 10 {
		v1, _ := older.GetOrSet(ctx, "order:7", func(context.Context) (before, error) {
			loads["older"]++
			return before{12}, nil
		})
		v2, _ := newer.GetOrSet(ctx, "order:7", func(context.Context) (after, error) {
			loads["newer"]++
			return after{"12 EUR"}, nil
		})
		if v1.Total != 12 || v2.Total != "12 EUR" {
			fmt.Println("a wrong value")
		}
	}
	fmt.Println(loads)
	// Output:
	// map[newer:10 older:2]
}
