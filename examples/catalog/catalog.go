package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/client"
)

// The tags that results carry, named after what they were computed from.
//
// A list depends on every product, not only on those that it shows: a product
// that it does not show today may belong into it after an update. So all lists
// carry tagProducts, and an update invalidates it.
const tagProducts = "products"

// tagProduct is carried by every result that shows the product.
func tagProduct(id int64) string { return "product:" + strconv.FormatInt(id, 10) }

// tagCategory is carried by every result that shows something of the category.
// Only operators invalidate it, after a correction of many rows by hand.
func tagCategory(name string) string { return "category:" + name }

// maxProductTags is how many products a list names by tag. An entry has room
// for 64 tags; a list that shows more than this is found by tagProducts alone.
const maxProductTags = 40

// patience is how long things may take. Each is a part of what comes before it,
// so that a request whose cache fails it has time left to ask the database.
type patience struct {
	request time.Duration // any request
	wait    time.Duration // for another process that loads what a request needs
	pay     time.Duration // an update for the cache to confirm its invalidation
	cache   time.Duration // for any other answer of the cache
}

func defaultPatience() patience {
	return patience{request: 5 * time.Second, wait: 2 * time.Second, pay: 500 * time.Millisecond, cache: client.DefaultTimeout}
}

// catalog answers questions about products, from the cache or else from the
// database.
type catalog struct {
	db     *database
	cache  *client.Client
	debts  *debts
	counts counts
	most   patience

	products *client.Cache[Product]
	featured *client.Cache[List]
	searches *client.Cache[List]
}

// counts tell where answers came from. Their names are those of /debug/loads.
type counts struct {
	// SQL loads, by kind.
	product, featured, search atomic.Int64
	// What the client did.
	hitsNear, hitsL1, hitsL2, misses, superseded, failOpen atomic.Int64
}

func newCatalog(ctx context.Context, db *database, cacheURL string, most patience, opts ...client.DialOption) (*catalog, error) {
	a := &catalog{db: db, most: most}
	// Dial does not connect: the application starts with or without the cache.
	c, err := client.Dial(strings.Split(cacheURL, ","), append(opts, client.Namespace("catalog"), client.Timeout(most.cache), client.WithHooks(client.Hooks{
		OnHit: func(_ string, tier soracache.Tier) {
			switch tier {
			case soracache.TierNear:
				a.counts.hitsNear.Add(1)
			case soracache.TierL1:
				a.counts.hitsL1.Add(1)
			default:
				a.counts.hitsL2.Add(1)
			}
		},
		OnMiss:           func(string) { a.counts.misses.Add(1) },
		OnFillSuperseded: func(string, soracache.Reason) { a.counts.superseded.Add(1) },
		OnFailOpen:       func(string, error) { a.counts.failOpen.Add(1) },
	}))...)
	if err != nil {
		return nil, err
	}
	a.cache = c
	a.products = client.NewCache[Product](c, client.Default().With(func(p *client.Policy) { p.Wait = most.wait }))
	a.featured = client.NewCache[List](c, client.Long().With(func(p *client.Policy) { p.Wait = most.wait }).WithTags(tagProducts))
	a.searches = client.NewCache[List](c, client.Short().With(func(p *client.Policy) { p.Wait = most.wait }).WithTags(tagProducts))
	if a.debts, err = startDebts(ctx, db, c, most.pay); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return a, nil
}

// close ends what newCatalog began. The database stays open.
func (a *catalog) close() error {
	a.debts.stop()
	return a.cache.Close()
}

// Product returns one product.
func (a *catalog) Product(ctx context.Context, id int64) (Product, error) {
	return read(ctx, a, a.products, tagProduct(id), func(ctx context.Context) (Product, error) {
		a.counts.product.Add(1)
		p, err := timed(ctx, func() (Product, error) { return a.db.product(ctx, id) })
		// The category is known only now that the product was read.
		client.LoadContextFrom(ctx).AddTags(tagProduct(id), tagCategory(p.Category))
		return p, err
	})
}

// Featured returns the best-selling products that carry a tag of the shop's.
func (a *catalog) Featured(ctx context.Context, tag string) (List, error) {
	key := "featured?" + url.Values{"tag": {tag}}.Encode()
	return read(ctx, a, a.featured, key, func(ctx context.Context) (List, error) {
		a.counts.featured.Add(1)
		l, err := timed(ctx, func() (List, error) { return a.db.featured(ctx, tag) })
		client.LoadContextFrom(ctx).AddTags(l.tags()...)
		return l, err
	})
}

// Search returns the best-selling products of a category up to a price.
func (a *catalog) Search(ctx context.Context, category string, maxPrice int64) (List, error) {
	key := "search?" + url.Values{"category": {category}, "max_price": {strconv.FormatInt(maxPrice, 10)}}.Encode()
	return read(ctx, a, a.searches, key, func(ctx context.Context) (List, error) {
		a.counts.search.Add(1)
		l, err := timed(ctx, func() (List, error) { return a.db.search(ctx, category, maxPrice) })
		client.LoadContextFrom(ctx).AddTags(tagCategory(category))
		client.LoadContextFrom(ctx).AddTags(l.tags()...)
		return l, err
	})
}

// tags names the products that a list shows.
func (l List) tags() []string {
	if len(l.Products) > maxProductTags {
		return nil
	}
	tags := make([]string, len(l.Products))
	for i, p := range l.Products {
		tags[i] = tagProduct(p.ID)
	}
	return tags
}

// read asks the cache, unless it is owed an invalidation: then it may hold what
// a committed update has changed, and only the database can be asked.
func read[T any](ctx context.Context, a *catalog, cache *client.Cache[T], key string, load func(context.Context) (T, error)) (T, error) {
	if a.debts.owed() {
		return load(ctx)
	}
	return cache.GetOrSet(ctx, key, load)
}

// Update changes a product. First it commits, then it invalidates: the other
// way round, somebody could load the old row in between and cache it as new.
//
// When it returns, no read of this process that begins afterwards is given what
// the product was before, and none of another that begins a second later. It
// reports whether the cache has already been told; if not, reads go
// to the database until it has.
func (a *catalog) Update(ctx context.Context, id int64, c Change) (p Product, told bool, err error) {
	p, owed, err := a.db.update(ctx, id, c)
	if err != nil {
		if !errors.Is(err, errNotFound) {
			a.debts.doubt() // a commit that failed may have happened
		}
		return Product{}, false, err
	}
	return p, a.debts.pay(ctx, owed), nil
}

// errInput is a request that can never be answered.
var errInput = errors.New("bad request")

func (c Change) validate() error {
	switch {
	case c.Name == "" || len(c.Name) > 200:
		return fmt.Errorf("%w: name must have 1 to 200 bytes", errInput)
	case !validWord(c.Category):
		return fmt.Errorf("%w: category must have 1 to 64 bytes", errInput)
	case c.PriceCents < 1:
		return fmt.Errorf("%w: price_cents must be positive", errInput)
	case c.Sales < 0:
		return fmt.Errorf("%w: sales must not be negative", errInput)
	}
	return nil
}

// validWord tells whether a category or a tag can be one.
func validWord(s string) bool { return s != "" && len(s) <= 64 }
