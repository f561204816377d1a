// Package redis is the [l2.Store] on Redis or Valkey: standalone, Sentinel or
// Cluster, through go-redis.
//
// It knows how a partition's ledger, entries, leases and tag sets lie in Redis
// and does every operation as one script call (DESIGN.md has the layout and
// what each script does). It must not know what a node makes of the answers:
// followers, marks and flights are other packages' business.
package redis
