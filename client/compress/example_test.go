package compress_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"slices"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
	"github.com/soracache/soracache/client/compress"
)

// A list of a hundred products is stored in a tenth of its size, and read back.
func ExampleZstd() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	ctx := context.Background()
	srv := clienttest.NewServer(t)
	codec := compress.Zstd(client.JSON{}, compress.Options{})

	load := func(context.Context) ([]product, error) {
		fmt.Println("loading")
		return slices.Repeat([]product{{7, "a lamp"}, {8, "a desk"}}, 50), nil
	}
	for range 2 { // two processes
		lists := client.NewCache[[]product](srv.Client(), client.Default(), client.WithCodec(codec))
		list, err := lists.GetOrSet(ctx, "list:offers", load)
		fmt.Println(len(list), "products", err)
	}

	list, _ := load(ctx)
	plain, _ := client.JSON{}.Marshal(list)
	stored, _ := codec.Marshal(list)
	fmt.Println(codec.Name(), len(stored) < len(plain)/10)
	// Output:
	// loading
	// 100 products <nil>
	// 100 products <nil>
	// loading
	// json+zstd true
}

// exampleT stands for the *testing.T that a test has.
type exampleT struct{ cleanups []func() }

func (t *exampleT) Helper()                   { _ = t }
func (t *exampleT) Cleanup(f func())          { t.cleanups = append(t.cleanups, f) }
func (t *exampleT) Output() io.Writer         { return io.Discard }
func (t *exampleT) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (t *exampleT) Fatalf(f string, a ...any) { log.Panicf(f, a...) }

func (t *exampleT) end() {
	for _, cleanup := range slices.Backward(t.cleanups) {
		cleanup()
	}
}
