package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/soracache/soracache"
)

// knowledge is what the checker knows of one application's client: what every
// answer told it. It judges what the client returns; what nodes answered is
// judged as for everybody else.
type knowledge struct {
	session // the client knows that at least
	// granted holds the leases that the client was given, by the call in which
	// it asked and the key.
	granted map[granted]lease
	// brought tells, by the number of a computation, how it came.
	brought map[int]*brought
	// newest is the freshest computation of each key that the near cache served,
	// and when it came.
	newest map[string]served
}

type granted struct {
	use int
	key string
}

// lease is one that a client was given, and the stamp that came with it.
type lease struct {
	*grant
	nonce soracache.Lease
	stamp soracache.Stamps
}

// brought is how a value came to a client: by reads that found it, or by the
// fill that stored it.
type brought struct {
	first int // the step in which it came first
	sent  int // the step in which the latest request was sent that brought it
	tier  soracache.Tier
	// stamp is what the latest answer proved, if the client took that in.
	stamp soracache.Stamp
}

type served struct {
	v  *computation
	at int // the step
}

func newKnowledge() *knowledge {
	return &knowledge{
		session: session{seen: map[int]int{}},
		granted: map[granted]lease{}, brought: map[int]*brought{}, newest: map[string]served{},
	}
}

// forget drops what no longer holds once the past was brought back.
func (k *knowledge) forget() {
	clear(k.seen)
	clear(k.newest)
}

// told takes in what a client is about to be told.
func (c *checker) told(k *ask) {
	known := k.app.known
	if incomplete := (*soracache.IncompleteError)(nil); errors.As(k.err, &incomplete) {
		known.learn(nil, incomplete.Stamp)
	}
	if k.err != nil {
		return
	}
	for i := range k.results {
		c.toldResult(k, k.reads[i].Key, &k.results[i])
	}
	known.learn(nil, k.invalidated.Stamp)
	if k.written.Err != nil {
		return
	}
	known.learn(nil, k.written.Stamp)
	if v := c.of(k.write.Entry.Value); k.kind == opFill && k.written.Stored && v != nil {
		c.brings(k, v, soracache.TierNone, k.written.Stamp)
	}
}

func (c *checker) toldResult(k *ask, key string, r *soracache.ReadResult) {
	if r.Err != nil {
		return
	}
	known := k.app.known
	known.learn(k.least, r.Stamp)
	if g := c.grants[r.Lease]; g != nil && k.use != nil {
		known.granted[granted{k.use.id, key}] = lease{g, r.Lease, r.Stamp}
	}
	if r.Status == soracache.StatusMiss {
		return
	}
	if v := c.of(r.Entry.Value); v != nil {
		c.brings(k, v, r.Tier, r.Stamp)
	}
}

func (c *checker) brings(k *ask, v *computation, tier soracache.Tier, proven soracache.Stamps) {
	known := k.app.known
	b := known.brought[v.id]
	if b == nil {
		b = &brought{first: c.w.step}
		known.brought[v.id] = b
	}
	if k.sent < b.sent {
		return
	}
	b.sent, b.tier = k.sent, tier
	p := uint16(c.w.partitionOf(v.key))
	b.stamp, _ = proven.At(p)
	if mine, _ := known.stamp.At(p); mine.Epoch != b.stamp.Epoch || mine.Position < b.stamp.Position {
		b.stamp = soracache.Stamp{} // not taken in
	}
}

// madeBy notes that an application knows of the success of what it invalidated.
func (c *checker) madeBy(u *use) {
	if incomplete := (*soracache.IncompleteError)(nil); u.err != nil && !errors.As(u.err, &incomplete) {
		return // it may or may not have happened: it obliges nobody to anything
	}
	for _, r := range u.records {
		r.owner, r.owned = u.app, c.w.step
	}
}

// used judges what an application's call of its client returned.
func (c *checker) used(u *use, value string) {
	v := u.got
	if v == nil || v.key != u.key {
		c.violate("%s returned %q", u, value)
		return
	}
	known := u.app.known
	b := known.brought[v.id]
	how := soracache.TierNear
	switch {
	case v.loader != nil && v.loader.app == u.app && v.loader.began > u.began:
		c.w.count.fresh++
		return // loaded for those who came before
	case b == nil:
		c.violate("G7: %s returned %s, which was loaded for others, and not kept", u, v.value())
		return
	case b.sent > u.began:
		how = b.tier
	default:
		c.w.count.hits[soracache.TierNear]++
	}
	if u.began <= c.restored {
		return // it spans two histories
	}
	c.kills(v, func(p int, of *computation, rec *record) { c.overdue(u, how, p, of, rec) })
	if how == soracache.TierNear {
		c.late(u, v, b)
	}
	p := c.w.partitionOf(v.key)
	if mine, _ := known.stamp.At(uint16(p)); b.stamp.Epoch != 0 && mine.Epoch == b.stamp.Epoch {
		known.seen[p] = max(known.seen[p], v.began)
	}
}

// kills tells of each record that kills a value: one that names it after it was
// begun, or a tag of an ingredient after that was begun. Wherever an ingredient
// comes from, its tags are named in the ledger of the value, too.
func (c *checker) kills(v *computation, tell func(p int, of *computation, rec *record)) {
	p := c.w.partitionOf(v.key)
	records := c.partitions[p].records
	for _, of := range append([]*computation{v}, v.parts...) {
		key := of.key
		if of != v {
			key = "" // that an ingredient's key was named is no concern of the dish
		}
		for i := len(records) - 1; i >= 0 && records[i].at > of.began; i-- {
			if records[i].mint || concerns(records[i].targets, key, of.tags) {
				tell(p, of, records[i])
			}
		}
	}
}

// overdue judges the return of a value, by a client, that a record killed: the
// value itself, or one of its ingredients.
func (c *checker) overdue(u *use, how soracache.Tier, p int, of *computation, rec *record) {
	say := func(g string) {
		what := u.got.key + "=" + string(u.got.value())
		if of != u.got {
			what += fmt.Sprintf(" with %s=%s", of.key, of.value())
		}
		c.violate("%s: %s returned %s from %s, begun at #%d, but: %s", g, u, what, how, of.began, rec)
	}
	if rec.regained {
		return
	}
	least, _ := u.least.At(uint16(p))
	if under, ok := u.under.At(uint16(p)); ok && (under.Epoch != rec.stamp.Epoch || under.Epoch != least.Epoch) {
		return // for a load that began in another epoch, and can be kept in that alone
	}
	switch {
	case rec.owner == u.app && rec.owned < u.began:
		say("G6 (its own invalidation)")
	case u.seen[p] > rec.at:
		say("G6 (seen before)")
	case how != soracache.TierNear && of == u.got:
		// The node's answer was judged already.
	case how == soracache.TierNear && least.Epoch == rec.stamp.Epoch && least.Position >= rec.stamp.Position:
		say("G6 (stamp known)")
	case rec.doneStep == 0 || rec.doneStep >= u.began:
	case how == soracache.TierL2:
		say("G3")
	case u.beganAt > rec.doneAt+c.boundOf(u, how):
		say("G4")
	}
}

// boundOf is how long what a tier returns may lag behind.
func (c *checker) boundOf(u *use, how soracache.Tier) time.Duration {
	if how == soracache.TierNear {
		return u.app.bound
	}
	return c.w.longestBound()
}

// late checks G7 in a near cache: what was asked for before something fresher
// came does not take its place.
func (c *checker) late(u *use, v *computation, b *brought) {
	known := u.app.known
	last, before := known.newest[v.key]
	if before && v.read < last.v.read && last.at < u.began && !last.v.undone && !v.undone {
		if b.sent < known.brought[last.v.id].first {
			c.violate("G7: %s returned %s=%s from memory, asked for at #%d, though it had returned %s, which came at #%d",
				u, v.key, v.value(), b.sent, last.v.value(), known.brought[last.v.id].first)
		}
		return
	}
	known.newest[v.key] = served{v, c.w.step}
}

// cook is compute for what is made of ingredients.
func (c *checker) cook(key string, began int, parts []*computation) *computation {
	v := c.compute(key, began)
	v.parts = slices.Clone(parts)
	for _, p := range parts {
		v.tags = append(v.tags, p.tags...)
	}
	v.tags = soracache.NormalizeTags(v.tags)
	return v
}
