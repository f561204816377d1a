package embedded_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/embedded"
)

type Product struct {
	ID, Price int
}

// An application with a cache of its own in a folder: nothing else has to run.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "cache") // an application has a folder that stays
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	n, err := embedded.Open(ctx, embedded.Config{Store: "embedded:" + dir})
	if err != nil {
		panic(err)
	}
	defer func() { _ = n.Close() }()
	c, err := n.Client(client.Namespace("shop"))
	if err != nil {
		panic(err)
	}
	defer func() { _ = c.Close() }()

	featured := client.NewCache[[]Product](c, client.Default().WithTags("products"))
	load := func(context.Context) ([]Product, error) {
		fmt.Println("loading")
		return []Product{{ID: 42, Price: 30}}, nil
	}
	for range 2 {
		ps, err := featured.GetOrSet(ctx, "products:featured", load)
		fmt.Println(ps, err)
	}
	_, err = c.InvalidateTags(ctx, "products") // after a change was committed
	fmt.Println(err)
	ps, err := featured.GetOrSet(ctx, "products:featured", load)
	fmt.Println(ps, err)
	// Output:
	// loading
	// [{42 30}] <nil>
	// [{42 30}] <nil>
	// <nil>
	// loading
	// [{42 30}] <nil>
}

// Applications that share a Redis: each has a node in its process, and they tell
// each other of invalidations. There is nothing to see here without a Redis.
func ExampleOpen() {
	n, err := embedded.Open(context.Background(), embedded.Config{
		Store:      "redis://cache:secret@10.0.0.9:6379",
		L1MaxBytes: 512 << 20,
		Gossip: embedded.Gossip{
			Listen: "10.0.0.7:7946",
			Join:   []string{"shop.internal"},            // a name for all of them
			Keys:   [][]byte{[]byte("0123456789abcdef")}, // from a file, in earnest
		},
		Logger: slog.Default(),
	})
	if err != nil {
		panic(err)
	}
	defer func() { _ = n.Close() }()
	fmt.Println(len(n.Members()))
}
