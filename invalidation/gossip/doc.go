// Package gossip tells the nodes of a cluster of each other, and carries
// notices between them: who is a member, by memberlist; and records, freed
// leases and acknowledgements, as UDP packets of its own format.
//
// All of it is for speed. A notice may be lost, repeated, late or out of order,
// and a member called dead may well be serving: the ledger repairs the one, and
// nobody relies on the other. What a notice means is package invalidation's
// business and what is done about it the node's; this package knows neither
// ledgers nor entries.
//
// [Spread] is the policy, who is sent what in which packet, and runs over any
// [Transport]; a simulation uses it without a network. [Gossip] is the member
// of a real cluster. DESIGN.md says why it is as it is.
//
// It is part of soracache and no promise to anybody else: whatever it exports may
// change or go in any release (docs/architecture.md, "What is public").
package gossip
