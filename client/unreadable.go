package client

import (
	"context"
	"time"

	"github.com/soracache/soracache"
)

// An entry may be live and yet be of no use here: another version of the
// application stored it, or a cache of another type, under another codec. To this
// process it is a miss. The process asks for the lease beside the entry, loads, and
// stores its value in the entry's place. Nothing is invalidated, so whoever can
// read the entry goes on reading it until then.
//
// Two versions that cannot read each other's values would replace them in turns.
// So a process replaces an entry of a key no more often than every replaceEvery;
// meanwhile its loader runs for those who call, and nothing is stored.
//
// Nobody waits for somebody else who holds the lease beside such an entry: what
// that one stores may be as unreadable, and the holders are not told apart. Each
// process then loads once, as if it were alone.

// replaceEvery is how long a process leaves the entry of a key alone that it cannot
// read, after it has replaced one.
const replaceEvery = 10 * time.Second

// maxQuestions is how often one run asks about an entry that it cannot read: what
// a node remembers of it may be older than what the store has.
const maxQuestions = 3

// unreadable tells whether an answer has an entry, which is of no use here.
func unreadable(read *soracache.ReadResult, readable bool) bool {
	return !readable && read.Status != soracache.StatusMiss
}

// mayReplace tells whether an entry that cannot be read may be replaced now. One
// past its TTL always may.
func (l *loading[T]) mayReplace(read *soracache.ReadResult) bool {
	return read.FreshFor <= 0 || !l.client.replaced.has(l.name(), l.client.now())
}

// name is what the entry of the key stands under in the schema.
func (l *loading[T]) name() string { return soracache.Name(l.kind.schema, l.key) }

// toReplace makes of a question, whose answer has an entry that cannot be read, the
// one that gets the lease beside it. It is false if that was asked for in vain, or
// is not to be asked for.
func (l *loading[T]) toReplace(asked soracache.Read, read *soracache.ReadResult) (soracache.Read, bool) {
	inVain := asked.Lease && (asked.RefreshWithin >= read.FreshFor || read.LeaseState != soracache.LeaseNone)
	if inVain || !l.mayReplace(read) {
		return asked, false
	}
	// What asks alike travels together, so the policy's time is better than what is
	// left of each entry's.
	within := min(l.settings.policy.ttl(), LongestKeep)
	asked.Lease, asked.RefreshWithin = true, max(within, asked.RefreshWithin, read.FreshFor)
	return asked, true
}

// notReplaced is why an entry that cannot be read stays there.
func (l *loading[T]) notReplaced(read *soracache.ReadResult) error {
	if !l.mayReplace(read) {
		return errReplaced
	}
	return whyNoLease(read)
}

// askAlike makes questions of one call ask alike.
func askAlike(questions map[string]soracache.Read) map[string]soracache.Read {
	var within time.Duration
	for _, q := range questions {
		within = max(within, q.RefreshWithin)
	}
	for key, q := range questions {
		q.RefreshWithin = within
		questions[key] = q
	}
	return questions
}

// unneeded hands back a lease of which nothing will come.
func (l *loading[T]) unneeded(ctx context.Context, granted soracache.ReadResult) {
	l.owed = soracache.Lease{}
	l.client.hold(ctx, l.kind.schema, l.key, granted).release(l.patience())
}
