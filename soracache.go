// Package soracache is the vocabulary of a distributed cache in which a value
// computed before an invalidation never survives it.
//
// Everything hangs on one rule: an [Entry] is live if and only if its epoch is
// the ledger's, and no record after its position names its key, any of its
// tags, or its whole namespace. The stamp of an entry is taken before its
// loader starts, so a computation that an invalidation supersedes is dead the
// moment it is stored, and is therefore not stored.
//
// The package knows words and nothing else: it imports no other package of
// this module, no store, no transport.
package soracache

import (
	"fmt"
	"time"
)

// Epoch is a random number that names one life of a ledger. A new epoch makes
// everything older dead. Epochs have no order; zero means "none known". Epochs
// are smaller than 2^52, so that every store can hold them exactly.
type Epoch uint64

// Position is a place in a ledger's total order: strictly increasing within an
// epoch and never reused. It is a hybrid: the larger of the previous position
// plus one and the store's clock in microseconds since 1970, so that a
// record's age can be read off it. Positions are smaller than 2^53.
type Position uint64

// Stamp says how much of a ledger something is known to reflect: every record
// up to Position, in the life named by Epoch. The zero Stamp reflects nothing.
type Stamp struct {
	Epoch    Epoch
	Position Position
}

// TargetKind says what a [Target] names.
type TargetKind uint8

// The three things that an invalidation can name.
const (
	// TargetKey names one key of the namespace.
	TargetKey TargetKind = iota + 1
	// TargetTag names every entry that carries the tag.
	TargetTag
	// TargetAll names everything in the namespace; its Name is empty.
	TargetAll
)

// Target is what an invalidation names: a key, a tag, or everything.
type Target struct {
	Kind TargetKind
	Name string
}

// Key returns the target that names one key.
func Key(key string) Target { return Target{Kind: TargetKey, Name: key} }

// Tag returns the target that names every entry carrying a tag.
func Tag(tag string) Target { return Target{Kind: TargetTag, Name: tag} }

// Everything returns the target that names the whole namespace.
func Everything() Target { return Target{Kind: TargetAll} }

// String returns the target in the form that logs and Explain use:
// key:NAME, tag:NAME or everything.
func (t Target) String() string {
	switch t.Kind {
	case TargetKey:
		return "key:" + t.Name
	case TargetTag:
		return "tag:" + t.Name
	case TargetAll:
		return "everything"
	}
	return fmt.Sprintf("target(%d):%s", t.Kind, t.Name)
}

// Record is one invalidation as the ledger recorded it. Prev is the position
// that was the head before it: whoever has applied Prev may apply the record
// without a gap. Records inside a [Delta] are compacted and have no Prev.
type Record struct {
	Epoch    Epoch
	Prev     Position
	Position Position
	Targets  []Target
}

// Delta is what a ledger recorded after the position that was shown to it. It
// comes with every answer of a store.
type Delta struct {
	// Epoch and Head are the ledger's when the answer was made.
	Epoch Epoch
	Head  Position
	// Records holds, in ascending order of position, the targets whose latest
	// position lies after the one shown, grouped by position.
	Records []Record
	// More means that Records was cut off after its last position: the rest
	// must be asked for from there. Because only the latest position of each
	// target is kept, a cut-off delta does not hold everything up to its last
	// record; only the whole chain does.
	More bool
	// Reset means that the ledger cannot tell what came after the position
	// shown: it is of another epoch, or too old. Records is then empty, and
	// nothing proven before Head can be trusted any more.
	Reset bool
}

// Kind says what an entry's value stands for.
type Kind uint8

// The kinds of entries.
const (
	// KindValue is a value that a loader returned.
	KindValue Kind = iota
	// KindNotFound is a cached "there is no such thing"; Value is empty.
	KindNotFound
	// KindError is a cached failure; Value holds its text.
	KindError
)

// Entry is a cached value with what it was computed from. The bytes and
// strings of an entry are immutable once it was handed over: neither the giver
// nor the receiver may change them.
type Entry struct {
	Value []byte
	// Tags names what the value was computed from: sorted, without repetition.
	Tags []string
	Kind Kind
	// Encoding names how Value is encoded, for readers in any language: "json",
	// "raw", "proto" or a name of the application's own. Empty means "raw".
	Encoding string
	// ETag is an opaque validator of the source, for conditional refresh.
	ETag string
}

// Lifetime says how long an entry is to be used.
type Lifetime struct {
	// TTL is how long the entry is fresh (soft expiry). Past it the entry is
	// stale: still live by the rule, but in need of a refresh.
	TTL time.Duration
	// Keep is how long the entry is kept at all (hard expiry); zero means TTL.
	Keep time.Duration
	// L1 caps how long a node's memory may keep it; zero means no cap.
	L1 time.Duration
}
