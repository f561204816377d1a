// Package client is what applications import: a typed cache with one central
// operation, GetOrSet, over a soracache service or any other
// [soracache.Backend].
//
//	c, err := client.Dial([]string{"http://127.0.0.1:7070"}, client.Namespace("shop"))
//	featured := client.NewCache[[]Product](c, client.Default().WithTags("products"))
//	ps, err := featured.GetOrSet(ctx, "products:featured", loadFeatured)
//	receipt, err := c.InvalidateTags(ctx, "products")
//
// A value that a loader computes is stored under a lease that was taken before
// the loader began, so a value that an invalidation supersedes is returned
// to who asked for it and not kept. One caller in the whole cluster loads a
// key at a time; the others wait and then read. When the service cannot be
// reached, GetOrSet runs the loader and returns its value: the cache is never a
// single point of failure.
//
// Values are shared between callers. Treat what GetOrSet and Get return as
// immutable.
//
// The package knows the wire contract and the vocabulary. It must not know any
// store, membership or metrics library: applications carry all that it imports.
package client
