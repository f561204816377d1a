// Package l2model holds the [Model]: a store in memory that is as obviously right as
// it can be. It is the reference of package l2test, the store of simulations and of
// applications' tests (client/clienttest), and a start for who writes a store.
//
// It keeps everything in maps, forgets what it holds with the process, and bounds
// nothing but what a ledger remembers: it is not for production.
//
// The package knows the l2 interface and no engine, and imports nothing of testing.
package l2model
