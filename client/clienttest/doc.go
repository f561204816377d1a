// Package clienttest is for the tests of applications that use the client: a
// cache in memory, in the test's own process, in one line.
//
//	c := clienttest.New(t) // a *client.Client; it ends with the test
//
// It is the real thing but for its second tier: a cache node as soracached runs
// it, over a store that consists of maps. Leases, tags, invalidations and the
// near cache behave as in production.
//
// [NewServer] gives a hold on what is behind the clients: a [Clock] that can be
// put forward, [Faults] that can be made to happen, and a [Recorder] of what the
// clients did.
//
//	srv := clienttest.NewServer(t)
//	c := srv.Client()
//	srv.Clock.Advance(time.Hour)        // everything of less than that has expired
//	srv.Faults.Down()                   // and now the service is gone
//	n := srv.Recorder.Loads("product:42")
//
// # Time
//
// [Clock.Advance] moves what is counted in the age of values: TTL, keep, what
// the near cache and the nodes trust. It does not move timers: a wait for
// somebody else's loader, a timeout and a loader that sleeps take real time. In
// a bubble of testing/synctest all time is virtual, and [New] and [Server.Client]
// work there; it is the better choice for a test that is about time as such. Only
// [Server.URL] does not, because a bubble cannot see the end of a wait for the
// network.
package clienttest
