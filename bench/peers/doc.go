// Package peers compares the client with clients of Redis, on one machine and in
// one run. It is a module of its own, so that nobody else carries them.
//
//	cd bench/peers && SORACACHE_PEERS=1 go test -v -run Compare .
//
// What it showed, and what it does not say, is in docs/benchmarks.md.
package peers
