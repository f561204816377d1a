// Package outbox keeps a commit and its invalidation together, whatever crashes.
//
// An application that commits a change and then invalidates may die in between,
// and the cache goes on serving what the change has made wrong. Here the
// invalidation is a row that is inserted in the transaction of the change
// ([Outbox.Invalidate]): both are committed, or neither is. A relay ([Outbox.Run], and
// [Outbox.Flush] for those who want to wait) reads committed rows, invalidates what
// they name, and only then deletes them. Whatever dies in between, the rows are
// still there for the next relay, in this process or in another.
//
// # Why this is enough
//
// An invalidation makes everything dead whose load began before it. So each has
// to happen once after its own commit, and nothing else matters:
//
//   - Repeating one makes more dead than need be, and nothing wrong. So rows are
//     deleted after the invalidation, and several relays need no lock.
//   - Transactions commit in another order than they took their ids. A row is
//     visible to the relay from its commit on and not before, so whichever is
//     relayed first, each is relayed after its own commit. There is no "last id"
//     that a late commit could fall behind: what is visible is relayed, and
//     exactly what was relayed is deleted.
//   - Ids are never given twice. Otherwise a relay that is late could delete a
//     new row under the id of one that it has relayed.
//
// A relay works in the order of ids, so of rows that name the same key, those
// that were visible together are first applied in their order. A relay that is
// late may repeat older ones after newer ones.
//
// No clock takes part: not the application's, not the database's.
//
// The package knows the client and database/sql, and no driver.
package outbox
