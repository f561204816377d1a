// Package bench has the benchmarks of everything that a request to the cache
// meets, from the near cache of an application to the second tier, and the guards
// of the hot read path, which are tests: what a read costs in allocations,
// requests and round trips does not depend on the machine.
//
//	go test -bench . ./bench
//
// What they showed, and how they are meant, is in docs/benchmarks.md. The
// comparison with clients of Redis is a module of its own, in bench/peers.
package bench
