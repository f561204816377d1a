package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/soracache/soracache/client"
	"github.com/soracache/soracache/client/internal/fake"
)

type Product struct {
	ID    int
	Name  string
	Price int
}

func loadFeatured(context.Context) ([]Product, error) {
	fmt.Println("loading")
	return []Product{{42, "lamp", 30}}, nil
}

func loadProduct(_ context.Context, key string) (Product, error) {
	fmt.Println("loading", key)
	return Product{42, "lamp", 30}, nil
}

// shop stands for client.Dial([]string{"http://127.0.0.1:7070"}, client.Namespace("shop")).
func shop() *client.Client {
	c, err := client.New(fake.New(), client.Namespace("shop"), client.Logger(nil))
	if err != nil {
		panic(err)
	}
	return c
}

// The whole of it: a service at a URL, a cache of one type, a read, and an
// invalidation after a change.
func Example() {
	ctx := context.Background()
	c, err := client.Dial([]string{"http://127.0.0.1:7070"}, client.Namespace("shop"))
	if err != nil {
		panic(err)
	}
	defer func() { _ = c.Close() }()
	featured := client.NewCache[[]Product](c, client.Default().WithTags("products", "featured"))
	ps, err := featured.GetOrSet(ctx, "products:featured", loadFeatured)
	fmt.Println(ps, err)

	receipt, err := c.InvalidateTags(ctx, "products", "product:42")
	fmt.Println(receipt, err)
}

func ExampleCache_GetOrSet() {
	ctx := context.Background()
	c := shop()
	defer func() { _ = c.Close() }()
	featured := client.NewCache[[]Product](c, client.Default().WithTags("products", "featured"))

	for range 2 {
		ps, err := featured.GetOrSet(ctx, "products:featured", loadFeatured)
		fmt.Println(ps, err)
	}
	_, _ = c.InvalidateTags(ctx, "products") // after a change was committed
	ps, err := featured.GetOrSet(ctx, "products:featured", loadFeatured)
	fmt.Println(ps, err)
	// Output:
	// loading
	// [{42 lamp 30}] <nil>
	// [{42 lamp 30}] <nil>
	// loading
	// [{42 lamp 30}] <nil>
}

func ExampleNewLoadingCache() {
	ctx := context.Background()
	c := shop()
	defer func() { _ = c.Close() }()
	byID := client.NewLoadingCache(c, client.Default(), loadProduct)

	for range 2 {
		p, err := byID.Get(ctx, "product:42")
		fmt.Println(p, err)
	}
	// Output:
	// loading product:42
	// {42 lamp 30} <nil>
	// {42 lamp 30} <nil>
}

func ExampleGetOrSet() {
	ctx := context.Background()
	c := shop()
	defer func() { _ = c.Close() }()
	rate, err := client.GetOrSet(ctx, c, "rate:EUR", func(context.Context) (float64, error) {
		return 1.08, nil
	}, client.WithPolicy(client.Short()), client.WithTags("rates"))
	fmt.Println(rate, err)
	// Output:
	// 1.08 <nil>
}

// A loader knows best what its value depends on, and for how long it is good.
func ExampleLoadContextFrom() {
	ctx := context.Background()
	c := shop()
	defer func() { _ = c.Close() }()
	search := client.NewCache[[]Product](c, client.Default())

	ps, err := search.GetOrSet(ctx, "search:lamp", func(ctx context.Context) ([]Product, error) {
		found := []Product{{42, "lamp", 30}, {43, "desk lamp", 45}}
		fill := client.LoadContextFrom(ctx)
		for _, p := range found {
			fill.AddTags(fmt.Sprintf("product:%d", p.ID))
		}
		if len(found) == 0 {
			fill.SetTTL(10 * time.Second)
		}
		return found, nil
	})
	fmt.Println(ps, err)

	_, _ = c.InvalidateTags(ctx, "product:43")
	_, found, _ := search.Get(ctx, "search:lamp")
	fmt.Println("still cached:", found)
	// Output:
	// [{42 lamp 30} {43 desk lamp 45}] <nil>
	// still cached: false
}

// What a loader reads through the same client, its value depends on: the tags
// travel along.
func ExampleCache_GetOrSet_nested() {
	ctx := context.Background()
	c := shop()
	defer func() { _ = c.Close() }()
	product := client.NewCache[Product](c, client.Default().WithTags("product:42"))
	page := client.NewCache[string](c, client.Default())

	render := func(ctx context.Context) (string, error) {
		p, err := product.GetOrSet(ctx, "product:42", func(context.Context) (Product, error) { return Product{42, "lamp", 30}, nil })
		return fmt.Sprintf("<h1>%s</h1>", p.Name), err
	}
	html, err := page.GetOrSet(ctx, "page:42", render)
	fmt.Println(html, err)

	_, _ = c.InvalidateTags(ctx, "product:42")
	_, found, _ := page.Get(ctx, "page:42")
	fmt.Println("page still cached:", found)
	// Output:
	// <h1>lamp</h1> <nil>
	// page still cached: false
}

// A loader's error is the callers' error, and nothing is stored.
func ExamplePanicError() {
	ctx := context.Background()
	c := shop()
	defer func() { _ = c.Close() }()
	_, err := client.GetOrSet(ctx, c, "k", func(context.Context) (string, error) { panic("no such table") })
	var p *client.PanicError
	fmt.Println(errors.As(err, &p), p.Value)
	// Output:
	// true no such table
}
