// Package redistest runs real redis-server processes for tests: a single
// server, a cluster, or a Sentinel pair, each on loopback ports and in a
// directory of its own, gone when the test (or its process) is. Its [Proxy]
// stands in front of them to count commands and dependent round trips and to
// make connections fail.
//
// A machine without redis-server fails the tests that need one, with a hint;
// it skips them only if SORACACHE_TEST_WITHOUT_REDIS is set, so that a missing
// server is never mistaken for a passed test.
package redistest
