package client_test

import (
	"context"
	"fmt"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/clienttest"
)

// Two versions of an application during a deploy: each has values of its own, and an
// invalidation ends those of both.
func ExampleWithSchema() {
	t := new(exampleT) // in a test: its *testing.T
	defer t.end()
	srv := clienttest.NewServer(t)
	old := client.NewCache[string](srv.Client(), client.Default(), client.WithSchema("order/1"))
	c := srv.Client()
	orders := client.NewCache[string](c, client.Default(), client.WithSchema("order/2"))

	ctx := context.Background()
	load := func(value string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) {
			fmt.Println("loading", value)
			return value, nil
		}
	}
	for range 2 {
		before, _ := old.GetOrSet(ctx, "order:7", load("12.50"))
		after, _ := orders.GetOrSet(ctx, "order:7", load("1250 cents"))
		fmt.Println(before, "and", after)
	}
	_, _ = c.Remove(ctx, "order:7")
	_, found, _ := client.Get[string](ctx, c, "order:7", client.WithSchema("order/1"))
	fmt.Println("of the old version after that:", found)
	// Output:
	// loading 12.50
	// loading 1250 cents
	// 12.50 and 1250 cents
	// 12.50 and 1250 cents
	// of the old version after that: false
}
