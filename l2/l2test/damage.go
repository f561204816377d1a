package l2test

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

func damageChecks() []check {
	return []check{
		{name: "a ledger that lost a part takes a new epoch", run: lostParts},
		{name: "a damaged entry is a miss and is counted", run: damagedEntries},
		{name: "an entry of another key is a miss and is counted", run: func(f *fixture) {
			f.needTamper()
			f.load("k", "v")
			f.load("l", "w")
			var saved []byte
			f.Tamper(f.at, "k", func(b []byte) []byte { saved = slices.Clone(b); return b })
			f.Tamper(f.at, "l", func([]byte) []byte { return saved })
			f.corrupt("l", "the bytes of another key")
			f.hit("k", "v")
		}},
		{name: "a damaged entry is written over", run: func(f *fixture) {
			f.needTamper()
			for _, write := range []func(){
				func() { f.load("k", "new", "t") },
				func() { f.put("k", "new", "t") },
			} {
				f.put("k", "old", "t")
				f.Tamper(f.at, "k", func(b []byte) []byte { return b[:len(b)-1] })
				f.miss("k")
				write()
				f.hit("k", "new")
				f.Tamper(f.at, "k", func(b []byte) []byte { return b[:len(b)/2] })
				f.invalidate(soracache.Tag("t"))
				f.miss("k")
			}
		}},
		{name: "an entry of version 1 is a miss and no damage", run: earlierEntries},
		{name: "a restored old entry is dead", run: restoredEntries},
		{name: "a reopened store goes on where it was", run: reopened},
	}
}

func (f *fixture) needTamper() {
	f.Helper()
	if f.Tamper == nil {
		f.Skip("this engine's test cannot change stored bytes")
	}
}

// lostParts loses each part of a ledger just before each operation of a node
// that had followed to the head.
func lostParts(f *fixture) {
	if f.Lose == nil {
		f.Skip("this engine's test cannot lose parts of a ledger")
	}
	for part, lose := range f.Lose {
		for i, op := range operations() {
			what := fmt.Sprintf("%s lost, then %s", part, op.name)
			g := f.in(l2.Partition{Namespace: fmt.Sprintf("lost-%d", i), Count: 1})
			g.load("live", "v", "a")
			g.load("dead", "v", "b")
			restore := g.dump("dead")
			nonce, start := g.lease("leased")
			g.invalidate(soracache.Tag("b"))
			last := stampOf(g.invalidate(soracache.Key("x")))
			lose(g.at)
			d := op.run(g, last)
			if op.own != nil && (!d.Reset || d.Epoch == last.Epoch) {
				f.Fatalf("%s: answered %+v, want a new epoch after %v", what, d, last)
			}
			g.miss("dead")
			if restore != nil {
				restore()
				g.miss("dead")
			}
			if a := g.fill("leased", nonce, "stale", "b"); a.Reason == soracache.ReasonNone {
				f.Fatalf("%s: an superseded fill was stored", what)
			}
			if d := g.follow(start); !d.Reset && !slices.Contains(targetsOf(d), soracache.Tag("b")) {
				f.Fatalf("%s: one who had seen less was told %+v", what, d)
			}
			if g.invalidateSince(last, soracache.Key("y")); g.head().Epoch == last.Epoch {
				f.Fatalf("%s: the ledger went on in its old epoch", what)
			}
			g.miss("live")
			g.load("live", "new", "a", "b")
			g.hit("live", "new")
		}
	}
}

func damagedEntries(f *fixture) {
	f.needTamper()
	f.load("k", "some value", "a", "b")
	var whole []byte
	f.Tamper(f.at, "k", func(b []byte) []byte { whole = slices.Clone(b); return b })
	set := func(b []byte) { f.Tamper(f.at, "k", func([]byte) []byte { return b }) }

	for i := range whole {
		damaged := slices.Clone(whole)
		damaged[i] ^= 1 << (i % 8)
		set(damaged)
		f.corrupt("k", fmt.Sprintf("byte %d of %d changed", i, len(whole)))
	}
	for n := range whole {
		set(slices.Clone(whole[:n]))
		f.corrupt("k", fmt.Sprintf("cut off after %d of %d bytes", n, len(whole)))
	}
	newer := slices.Clone(whole)
	newer[2]++
	sum := sha1.Sum(newer[:l2.HeadBytes-4])
	copy(newer[l2.HeadBytes-4:], sum[:])
	for what, b := range map[string][]byte{
		"longer":             append(slices.Clone(whole), 0),
		"foreign":            []byte("some other application's value, longer than the head of an entry"),
		"of a newer version": newer,
	} {
		set(b)
		f.corrupt("k", what)
	}
	set(whole)
	f.hit("k", "some value")
}

// earlierEntries has entries in the form of version 1, which does not say when they
// were written.
func earlierEntries(f *fixture) {
	f.needTamper()
	large := strings.Repeat("v", 2*l2.InlineBytes)
	for key, v := range map[string]string{"k": "v", "large": large} {
		f.load(key, v, "t")
		f.Tamper(f.at, key, func(b []byte) []byte { return inVersion1(f, b) })
		if x, err := f.Store.Explain(f.Context(), f.at, key); err != nil || !x.Stored || x.Live || x.Reason != "expired" {
			f.Fatalf("%s is explained as %+v, %v", key, x, err)
		}
		before := f.Store.Counters().Corrupt
		f.miss(key)
		f.invalidate(soracache.Tag("u"))
		nonce := f.nonce()
		if a := f.want(key, nonce); a.Found || a.Lease != soracache.LeaseGranted {
			f.Fatalf("%s: %+v", key, a)
		}
		if n := f.Store.Counters().Corrupt; n != before {
			f.Fatalf("%s counts as damaged", key)
		}
		if a := f.fill(key, nonce, "new", "t"); a.Reason != soracache.ReasonNone {
			f.Fatalf("%s: filled: %+v", key, a)
		}
		f.hit(key, "new")
		f.Tamper(f.at, key, func(b []byte) []byte { return inVersion1(f, b) })
		f.put(key, "put", "t")
		f.hit(key, "put")
		f.invalidate(soracache.Tag("t"))
		f.miss(key)
	}
}

// inVersion1 returns the bytes of an entry in the form of version 1.
func inVersion1(f *fixture, b []byte) []byte {
	f.Helper()
	head, err := l2.DecodeHead(b)
	if err != nil {
		f.Fatal(err)
	}
	earlier := []byte{'s', 'c', 1, 0}
	earlier = binary.BigEndian.AppendUint64(earlier, uint64(head.Stamp.Epoch))
	earlier = binary.BigEndian.AppendUint64(earlier, uint64(head.Stamp.Position))
	earlier = binary.BigEndian.AppendUint64(earlier, uint64(head.FreshUntil))
	earlier = binary.BigEndian.AppendUint64(earlier, uint64(head.KeepUntil))
	sum := sha1.Sum(earlier)
	return append(append(earlier, sum[:4]...), b[l2.HeadBytes:]...)
}

// corrupt expects that what is stored under a key is a counted miss, like any
// other for whoever wants the lease.
func (f *fixture) corrupt(key, what string) {
	f.Helper()
	before := f.Store.Counters().Corrupt
	if a := f.read(key); a.Found {
		f.Fatalf("%s, and found: %+v", what, a)
	}
	if f.Store.Counters().Corrupt <= before {
		f.Fatalf("%s, and not counted", what)
	}
	x, err := f.Store.Explain(f.Context(), f.at, key)
	if err != nil || x.Live || x.Readable {
		f.Fatalf("%s, and explained as %+v, %v", what, x, err)
	}
	nonce := f.nonce()
	if a := f.want(key, nonce); a.Found || a.Lease != soracache.LeaseGranted {
		f.Fatalf("%s, and no lease: %+v", what, a)
	}
	f.release(key, nonce)
}

// restoredEntries brings old entries back, one by one, after what killed them.
func restoredEntries(f *fixture) {
	if f.Dump == nil && f.Tamper == nil {
		f.Skip("this engine's test cannot restore an entry")
	}
	for what, kill := range map[string]func(){
		"its key":    func() { f.invalidate(soracache.Key("k")) },
		"a tag":      func() { f.invalidate(soracache.Tag("b")) },
		"everything": func() { f.invalidate(soracache.Everything()) },
		"a put":      func() { f.put("k", "put", "c") },
		"an epoch":   func() { f.since(soracache.Stamp{Epoch: f.unknown(), Position: 1}) },
	} {
		f.load("k", "old", "a", "b")
		restore := f.dump("k")
		kill()
		restore()
		if a := f.read("k"); a.Found && string(a.Entry.Value) == "old" {
			f.Fatalf("killed by %s, restored, and found: %+v", what, a)
		}
		f.load("k", "new", "a", "b")
		f.hit("k", "new")
		restore()
		if a := f.read("k"); a.Found && string(a.Entry.Value) == "old" {
			f.Fatalf("killed by %s, restored over a newer one, and found: %+v", what, a)
		}
		f.invalidate(soracache.Key("k"))
	}
}

func reopened(f *fixture) {
	if f.Reopen == nil {
		f.Skip("this engine's test cannot reopen the store")
	}
	shown := soracache.Stamp{Epoch: f.unknown(), Position: 1}
	f.since(shown)
	stamp := f.load("k", "v", "a")
	f.load("dead", "v", "b")
	nonce, leased := f.lease("leased")
	start := f.head()
	f.invalidate(soracache.Tag("b"))
	last := stampOf(f.invalidate(soracache.Key("x")))

	g := f.on(f.Reopen())
	if head := g.head(); head != last {
		g.Fatalf("reopened at %v, closed at %v", head, last)
	}
	if a := g.hit("k", "v"); a.Stamp != stamp {
		g.Fatalf("the entry's stamp went from %v to %v", stamp, a.Stamp)
	}
	g.miss("dead")
	g.expectTargets(g.since(start), soracache.Tag("b"), soracache.Key("x"))
	g.expectReset(last, g.since(shown))
	if a := g.want("leased", g.nonce()); a.Lease != soracache.LeaseHeld {
		g.Fatalf("the lease was not held: %+v", a)
	}
	if a := g.fill("leased", nonce, "v", "a"); a.Reason != soracache.ReasonNone || a.Stamp != leased {
		g.Fatalf("fill: %+v", a)
	}
	keys, _, err := g.Store.ListKeys(g.Context(), g.at, "a", "", 10)
	if err != nil || len(keys) != 2 {
		g.Fatalf("keys of the tag: %q, %v", keys, err)
	}
	if r := g.invalidate(soracache.Tag("a")); r.Prev != last.Position {
		g.Fatalf("the next record is %+v, want one after %v", r, last)
	}
	g.miss("k")
}
