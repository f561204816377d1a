// Package sim tests a whole cluster, deterministically: nodes as they are
// (internal/node), the model of the store (l2/l2test), a network that loses,
// doubles, delays and reorders, and clients, all in one testing/synctest bubble
// under virtual time. One goroutine, the scheduler, lets exactly one thing
// happen at a time and then waits until everything is at rest, so a seed decides
// the whole history. All of the package is tests.
//
// # What is where
//
//	world_test.go     the scheduler, hosts, and the lives (boots) of their nodes
//	store_test.go     the line between a node and the store: a call waits for the
//	                  scheduler twice, to be executed and to be answered
//	network_test.go   notices between nodes
//	client_test.go    sessions, and operations as clients call them
//	app_test.go       applications: each has a client.Client with its near cache
//	line_test.go      the line between an application's client and the nodes:
//	                  requests, answers, and the watch, which is a stream
//	dishes_test.go    their loaders, which ask the client for ingredients
//	knowledge_test.go what a client was told, and the rules for what it returns
//	checker_test.go   knows the source's versions and judges every answer by the
//	                  guarantees G2 to G9 of docs/guarantees.md
//	waits_test.go     progress at a node: who waits, for whom, and for how long
//	fills_test.go     progress of loads: leases, and what is loaded under them
//	calls_test.go     progress in a client's process
//	moment_test.go    when these rules look
//	members_test.go   who is a member: gossip's own table, one for each node
//	herd_test.go      readers of one key who come to a node at one moment
//	oldprimary_test.go  an old primary that still answers some nodes
//	workload_test.go  what the clients of a random run do
//	chaos_test.go     the plan of a random run: what becomes of each call and packet
//	episodes_test.go  faults that last for a while or change the store at once
//	faults_test.go    the kinds of faults, and what "changed an outcome" means for each
//	config_test.go    what a seed decides before anything happens
//	run_test.go       one run, and how it must end
//	seeds_test.go     many runs; regressions.txt lists what they once found
//	plants_test.go    bugs that are planted to see that they are caught: plants
//	scenario*_test.go stories, driven by hand: testdata
//
// # Applications
//
// A random run has two applications. Their clients are those of package client,
// unchanged: flights, near cache, watch, confirmation, leases and background
// refreshes run in goroutines of their own. They stand on a Backend of the
// simulation's (app), which hands every call to the scheduler, as a node's link
// does. Loaders do the same: when they begin, ask for an ingredient, and read the
// source is the scheduler's decision (app.meet).
//
// Three things are taken from the client so that a seed decides everything: its
// random numbers and the machine's suspensions (client.Simulated), and no policy
// here has Jitter or Beta. And what a node sends to a watch at one moment travels
// as one, because how many pieces that is depends on the scheduler of the machine.
//
// A run ends with all faults healed. Within bounds every node and every client
// then returns the newest version of each key and serves it from its own memory:
// what a fault left behind for ever is found there.
//
// Not judged is what a loader returned to callers who came before it began. And
// while a ledger takes a new epoch, one reading is excused: what a loader is given
// whose lease is of an epoch that the client has left since, because nothing of
// that load can be kept.
//
// # Progress
//
// A cache that never stores anything, and lets everybody wait, is never stale. So
// the checker also judges, at the end of each moment (everything is at rest, and
// time is about to pass):
//
//   - P1: who waits does so while somebody holds the lease, or loads in its own
//     process. A node that hears that a lease may be free looks at once, and else
//     before long; nobody waits for longer in total than it said.
//   - P2: the store says of a lease what is so, and gives it to one at a time. A
//     node that was given one gives it to who asked, or hands it back; a client
//     completes it, or hands it back, as soon as its loader has returned. The
//     holder's value is stored unless something was invalidated.
//   - P3: a call lasts as long as loaders, its wait and a few round trips do, each
//     within the client's timeout, and fails only if its loader or its time does.
//
// Virtual time makes the bounds exact. What a fault has touched (a node that was
// paused or killed, one that reaches an old primary) is excused.
//
// # Driving a world by hand
//
// Inside synctest.Test:
//
//	w := newWorld(t, seed, Config{...}, true) // true: keep a trace
//	w.plan = ...                              // see the interface plan
//	w.hosts[0].start()                        // a node; host.boot is its present life
//	w.runFor(d)                               // let what is due happen
//	o := w.do(&op{kind: opGet, host: w.hosts[0], reads: ...}) // and wait for it
//	w.issue(&op{...})                         // or do not wait; see op.done and op.then
//	w.check.commit(targets)                   // change the source, before invalidating
//	w.check.compute(key, w.check.grants[lease].step) // read the source under a lease
//	w.undo(snapshot{w.model.Snapshot(), w.check.save()})
//	host.boot.kill(); host.start(); host.paused = true; host.resume()
//	w.check.violations, w.trace.lines         // what was wrong, and what happened
//	w.close()
//
// # Reading a failure
//
// TestSeeds prints the seed, what was violated, and the history before it. Each
// line of a history has the virtual time, the step (#), and what happened; ops
// are numbered, and a computation is a value (c17 is the seventeenth that any
// loader began). A violation names the guarantee, the value that was returned,
// the step in which its lease was granted ("begun"), and the record that killed
// it. Find that record ("recorded in partition"), the read that brought the value
// to the node ("asks: read", "gets the answer"), and what the node was told in
// between ("arrives", "since").
//
// A seed is run alone, with its whole history written to a file, by
//
//	SORACACHE_SIM_FROM=17 SORACACHE_SIM_SEEDS=1 SORACACHE_SIM_TRACE=/tmp/17 \
//	  go test ./internal/sim -run TestSeeds -v
//
// Many seeds are run by SORACACHE_SIM_SEEDS, or SORACACHE_SIM_FOR=1h.
package sim
