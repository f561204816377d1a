package clienttest_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
)

// exampleT stands for the *testing.T that a test has.
type exampleT struct{ cleanups []func() }

func (t *exampleT) Helper()                   { _ = t }
func (t *exampleT) Cleanup(f func())          { t.cleanups = append(t.cleanups, f) }
func (t *exampleT) Output() io.Writer         { return io.Discard }
func (t *exampleT) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (t *exampleT) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func (t *exampleT) end() {
	for i := range t.cleanups {
		t.cleanups[len(t.cleanups)-1-i]()
	}
}

func loadProduct(_ context.Context, key string) (string, error) {
	fmt.Println("loading", key)
	return "a lamp", nil
}

// A whole cache for one test.
func ExampleNew() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()

	c := clienttest.New(t)
	products := client.NewLoadingCache(c, client.Default(), loadProduct)
	for range 2 {
		p, err := products.Get(context.Background(), "product:42")
		fmt.Println(p, err)
	}
	// Output:
	// loading product:42
	// a lamp <nil>
	// a lamp <nil>
}

// Nothing has to be waited for.
func ExampleClock_Advance() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()

	srv := clienttest.NewServer(t)
	products := client.NewLoadingCache(srv.Client(), client.Default().WithTTL(time.Hour), loadProduct)
	_, _ = products.Get(ctx, "product:42")
	srv.Clock.Advance(59 * time.Minute)
	_, _ = products.Get(ctx, "product:42")
	fmt.Println("one more minute")
	srv.Clock.Advance(time.Minute)
	_, _ = products.Get(ctx, "product:42")
	// Output:
	// loading product:42
	// one more minute
	// loading product:42
}

// Does the handler that changes a product also invalidate it?
func ExampleRecorder() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()

	srv := clienttest.NewServer(t)
	c := srv.Client()
	products := client.NewLoadingCache(c, client.Default().WithTags("products"), loadProduct)
	_, _ = products.Get(ctx, "product:42")
	_, _ = products.Get(ctx, "product:42")
	changePrices := func() { _, _ = c.InvalidateTags(ctx, "products") }
	changePrices()
	_, _ = products.Get(ctx, "product:42")

	fmt.Println("loads:", srv.Recorder.Loads("product:42"))
	fmt.Println("invalidated:", srv.Recorder.Invalidated("products"))
	// Output:
	// loading product:42
	// loading product:42
	// loads: 2
	// invalidated: 1
}

// What does the application do while there is no cache?
func ExampleFaults_Down() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()

	srv := clienttest.NewServer(t)
	products := client.NewLoadingCache(srv.Client(), client.Default(), loadProduct)
	srv.Faults.Down()
	p, err := products.Get(ctx, "product:42") // goes to the source
	fmt.Println(p, err)
	_, err = srv.Client().InvalidateTags(ctx, "products") // must be tried again
	fmt.Println("invalidated:", err == nil)
	srv.Faults.Heal()
	_, err = srv.Client().InvalidateTags(ctx, "products")
	fmt.Println("invalidated:", err == nil)
	// Output:
	// loading product:42
	// a lamp <nil>
	// invalidated: false
	// invalidated: true
}
