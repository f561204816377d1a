package l2test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/soracache/soracache"
	"github.com/soracache/soracache/l2"
)

// inSchemas returns the names of a key in the default schema and two others.
func inSchemas(key string) []string {
	return []string{key, soracache.Name("order/1", key), soracache.Name("order/2", key)}
}

// loadAll loads each name, with itself as the value.
func (f *fixture) loadAll(names []string, tags ...string) {
	f.Helper()
	for _, name := range names {
		f.load(name, "value of "+name, tags...)
	}
}

func (f *fixture) hitAll(names []string) {
	f.Helper()
	for _, name := range names {
		f.hit(name, "value of "+name)
	}
}

// gone expects that nothing is stored under names, and nobody has a lease of them.
func (f *fixture) gone(names []string) {
	f.Helper()
	for _, name := range names {
		f.miss(name)
		if x := f.explain(name); x.Stored || x.Leased {
			f.Fatalf("%q is explained as %+v", name, x)
		}
	}
}

// forgetKeys has so much recorded that the records of keys are forgotten that were
// recorded before.
func (f *fixture) forgetKeys() {
	f.Helper()
	was := f.head()
	f.invalidateMany(2_000, func(i int) soracache.Target { return soracache.Key(fmt.Sprint("other ", i)) })
	if d := f.since(was); !d.Reset {
		f.Fatalf("the records after %v are remembered: %+v", was, d)
	}
}

func schemaChecks() []check {
	return []check{
		{name: "schemas of a key are entries of their own", run: func(f *fixture) {
			names := inSchemas("k")
			since := f.head()
			f.loadAll(names)
			f.hitAll(names)
			for i, name := range names {
				f.load(name, "anew", "t")
				for j, other := range names {
					if j <= i {
						f.hit(other, "anew")
					} else {
						f.hit(other, "value of "+other)
					}
				}
			}
			f.expectTargets(f.since(since)) // nothing was recorded
		}},
		{name: "schemas of a key have leases of their own", run: func(f *fixture) {
			var held []soracache.Lease
			for _, name := range inSchemas("k") {
				nonce, _ := f.lease(name)
				held = append(held, nonce)
			}
			for i, name := range inSchemas("k") {
				for j, nonce := range held {
					if j != i {
						f.refuseFill(soracache.ReasonLeaseLost, name, nonce, "another's")
						if a := f.renew(name, nonce); a.Reason != soracache.ReasonLeaseLost {
							f.Fatalf("renewed with another's: %+v", a)
						}
						if a := f.release(name, nonce); a.Reason != soracache.ReasonLeaseLost {
							f.Fatalf("released with another's: %+v", a)
						}
					}
				}
				if a := f.want(name, f.nonce()); a.Lease != soracache.LeaseHeld {
					f.Fatalf("%q: %+v", name, a)
				}
				if a := f.renew(name, held[i]); a.Reason != soracache.ReasonNone {
					f.Fatalf("renew %q: %+v", name, a)
				}
			}
			for i, name := range inSchemas("k") {
				if a := f.release(name, held[i]); a.Reason != soracache.ReasonNone {
					f.Fatalf("release %q: %+v", name, a)
				}
				f.load(name, "v")
			}
		}},
		{name: "schemas of a key are read in one request", run: func(f *fixture) {
			names := append(inSchemas("k"), inSchemas("l")...)
			var reads []l2.ReadKey
			for _, name := range names {
				reads = append(reads, l2.ReadKey{Key: name, Nonce: f.nonce(), LeaseFor: leaseFor})
			}
			for i, a := range f.readAll(soracache.Stamp{}, reads...).Keys {
				if a.Lease != soracache.LeaseGranted {
					f.Fatalf("%q: %+v", names[i], a)
				}
				f.fill(names[i], reads[i].Nonce, "value of "+names[i])
			}
			for i, a := range f.readAll(soracache.Stamp{}, reads...).Keys {
				if string(a.Entry.Value) != "value of "+names[i] || a.Lease != soracache.LeaseNone {
					f.Fatalf("%q: %+v", names[i], a)
				}
			}
		}},
		{name: "an invalidation of a key is of all its schemas, for ever", retention: small(), run: func(f *fixture) {
			names, others := inSchemas("k"), inSchemas("l")
			f.loadAll(names)
			f.loadAll(others)
			var nonces []soracache.Lease
			for _, name := range names {
				nonce, _ := f.lease(name)
				nonces = append(nonces, nonce)
			}
			since := f.head()
			f.invalidate(soracache.Key("k"), soracache.Tag("t"))
			f.expectTargets(f.since(since), soracache.Key("k"), soracache.Tag("t"))
			f.gone(names)
			f.forgetKeys()
			f.gone(names)
			for i, name := range names {
				f.refuseFill(soracache.ReasonLeaseLost, name, nonces[i], "stale")
			}
			// What comes anew in one schema brings back no other.
			for i, name := range names {
				f.load(name, "value of "+name)
				f.gone(names[i+1:])
			}
			f.hitAll(names)
			f.hitAll(others)
		}},
		{name: "a put in one schema ends all others, for ever", retention: small(), run: func(f *fixture) {
			for i := range inSchemas("k") {
				names := inSchemas(fmt.Sprint("k", i))
				f.loadAll(names)
				var nonces []soracache.Lease
				for _, name := range names {
					nonce, _ := f.lease(name)
					nonces = append(nonces, nonce)
				}
				since := f.head()
				f.put(names[i], "put")
				f.expectTargets(f.since(since), soracache.Key(fmt.Sprint("k", i)))
				for range 2 {
					f.hit(names[i], "put")
					f.gone(slices.Delete(slices.Clone(names), i, i+1))
					f.forgetKeys()
				}
				for j, name := range names {
					f.refuseFill(soracache.ReasonLeaseLost, name, nonces[j], "stale")
				}
				f.hit(names[i], "put")
				f.invalidate(soracache.Key(fmt.Sprint("k", i)))
				f.gone(names)
			}
		}},
		{name: "a record of a key supersedes fills in every schema", run: func(f *fixture) {
			// Where the entry was read before, and the lease given after.
			for _, name := range inSchemas("k") {
				nonce, _ := f.lease(name)
				r := f.invalidate(soracache.Key("k"))
				f.refuseFill(soracache.ReasonLeaseLost, name, nonce, "stale")
				if x := f.explain(name); !slices.Equal(x.KilledBy.Targets, []soracache.Target{soracache.Key("k")}) ||
					stampOf(x.KilledBy) != stampOf(r) {
					f.Fatalf("%q is explained as %+v", name, x)
				}
			}
		}},
		{name: "an entry of a schema that is restored is dead by the record of its key", run: func(f *fixture) {
			for _, name := range inSchemas("k") {
				f.load(name, "old")
				restore := f.dump(name)
				if restore == nil {
					f.Skip("bytes of this store cannot be put back")
				}
				r := f.invalidate(soracache.Key("k"))
				f.lease(name) // so that its schema has something under the key
				restore()
				f.miss(name)
				if x := f.explain(name); x.Live || x.Stored && x.KilledBy.Position != 0 && stampOf(x.KilledBy) != stampOf(r) {
					f.Fatalf("%q is explained as %+v", name, x)
				}
			}
		}},
		{name: "tags and everything are of all schemas", retention: small(), run: func(f *fixture) {
			for _, target := range []soracache.Target{soracache.Tag("t"), soracache.Everything()} {
				names := inSchemas("k")
				f.loadAll(names, "t")
				var nonces []soracache.Lease
				for _, name := range names {
					nonce, _ := f.lease(name)
					nonces = append(nonces, nonce)
				}
				f.invalidate(target)
				for i, name := range names {
					f.miss(name)
					if a := f.fill(name, nonces[i], "stale", "t"); a.Reason == soracache.ReasonNone {
						f.Fatalf("stored in %q: %+v", name, a)
					}
				}
				f.forgetKeys()
				for _, name := range names {
					f.miss(name)
				}
			}
		}},
		{name: "a key that settles does so in every schema", run: func(f *fixture) {
			names := inSchemas("k")
			f.loadAll(names)
			r := f.settle(soracache.MaxSettle, soracache.Key("k"))
			for _, name := range names {
				nonce, _ := f.lease(name)
				if a := f.fill(name, nonce, "too early"); a.Reason != soracache.ReasonSuperseded || stampOf(a.SupersededBy) != stampOf(r) {
					f.Fatalf("a fill of %q while %+v settles: %+v", name, r, a)
				}
				f.expectRefused(soracache.Key("k"), name)
				if x := f.explain(name); !strings.Contains(x.Reason, "settles") {
					f.Fatalf("%q is explained as %+v", name, x)
				}
			}
		}},
		{name: "what was put while a key settled ends when it has, in every schema", retention: small(), run: func(f *fixture) {
			for i := range inSchemas("k") {
				var nonces [3]soracache.Lease
				g := f.during(func(g *fixture, d time.Duration) {
					g.settle(d, soracache.Key("k"))
					g.put(inSchemas("k")[i], "put")
					for j, name := range inSchemas("k") {
						nonces[j], _ = g.lease(name)
					}
					g.hit(inSchemas("k")[i], "put")
				})
				g.gone(inSchemas("k"))
				g.forgetKeys()
				g.gone(inSchemas("k"))
				for j, name := range inSchemas("k") {
					g.refuseFill(soracache.ReasonLeaseLost, name, nonces[j], "stale")
				}
			}
		}},
		{name: "what is remembered of a load is of its schema", run: func(f *fixture) {
			names := inSchemas("k")
			nonce := f.nonceOf(failing)
			f.want(names[1], nonce)
			f.finish(names[1], nonce, soracache.LoadFailed, remember)
			f.want(names[1], f.nonceOf(third))
			f.answers("the schema", f.want(names[1], f.nonceOf(another)), soracache.LeaseRefused, soracache.RefusalPassed)
			for _, name := range []string{names[0], names[2]} {
				f.want(name, f.nonceOf(third))
				f.answers("another", f.want(name, f.nonceOf(another)), soracache.LeaseHeld, soracache.RefusalNone)
			}
		}},
		{name: "so many schemas and no more: the one that ends first goes", retention: small(), run: mostSchemas},
		{name: "a schema is leased no more once another has its place", run: func(f *fixture) {
			first := soracache.Name("first", "k")
			nonce, _ := f.leaseOf(first, time.Second)
			for i := range soracache.MaxSchemas {
				f.load(soracache.Name(strconv.Itoa(i), "k"), "v")
			}
			f.refuseFill(soracache.ReasonLeaseLost, first, nonce, "too late")
			f.miss(first)
			f.load(first, "anew")
			f.hit(first, "anew")
		}},
		{name: "keys of a tag are listed and reclaimed in every schema", run: func(f *fixture) {
			names := inSchemas("k")
			f.loadAll(names, "t")
			f.loadAll(names[1:], "u")
			keys, _, err := f.Store.ListKeys(f.Context(), f.at, "u", "", 100)
			if err != nil || !slices.Equal(sorted(keys), []string{"k"}) {
				f.Fatalf("listed: %q, %v", keys, err)
			}
			f.invalidate(soracache.Tag("u"))
			if keys := f.list("u", 100); len(keys) > 0 {
				f.Fatalf("listed: %q", keys)
			}
			f.hit("k", "value of k")
			if n := f.reclaim("u"); n != 2 {
				f.Fatalf("%d were reclaimed, want 2", n)
			}
			f.gone(names[1:])
			f.loadAll(names[1:])
			f.invalidate(soracache.Everything())
			if n := f.reclaim(""); n != 3 {
				f.Fatalf("%d were reclaimed, want 3", n)
			}
			f.gone(names)
		}},
		{name: "the longest names", run: func(f *fixture) {
			for _, bytes := range []int{1024, 32 << 10} {
				key := strings.Repeat("k", bytes)
				names := []string{key}
				for i := range 3 {
					names = append(names, soracache.Name(fmt.Sprint(i, strings.Repeat("s", soracache.MaxSchemaBytes-1)), key))
				}
				f.loadAll(names, "t")
				f.hitAll(names)
				f.invalidate(soracache.Key(key))
				f.gone(names)
				f.put(names[1], "put")
				f.hit(names[1], "put")
			}
		}},
		{name: "a new epoch ends all schemas", run: func(f *fixture) {
			names := inSchemas("k")
			f.loadAll(names)
			f.since(soracache.Stamp{Epoch: f.unknown(), Position: 1})
			for _, name := range names {
				f.miss(name)
			}
			f.loadAll(names)
			f.hitAll(names)
		}},
		{name: "a name that is none is refused", run: func(f *fixture) {
			for _, name := range []string{"\xff", "\xffk", "\xff\xffk", "\xff" + strings.Repeat("s", soracache.MaxSchemaBytes+1) + "\xffk"} {
				a := f.Store.Read(f.Context(), []l2.ReadRequest{{Partition: f.at, Keys: []l2.ReadKey{{Key: name}}}})[0]
				f.refused(a.Err)
				for _, op := range []soracache.WriteOp{soracache.OpFill, soracache.OpPut, soracache.OpRenew, soracache.OpRelease} {
					w := l2.WriteRequest{Partition: f.at, Op: op, Key: name, Nonce: f.nonce(), Entry: value("v"), Lifetime: soracache.Lifetime{TTL: ttl}}
					f.refused(f.Store.Write(f.Context(), []l2.WriteRequest{w})[0].Err)
				}
				_, err := f.Store.Explain(f.Context(), f.at, name)
				f.refused(err)
				i := l2.InvalidateRequest{Partition: f.at, Targets: []soracache.Target{soracache.Key(name)}}
				f.refused(f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{i})[0].Err)
			}
			// A record names a key, not what stands under it in one schema.
			i := l2.InvalidateRequest{Partition: f.at, Targets: []soracache.Target{soracache.Key(soracache.Name("s", "k"))}}
			f.refused(f.Store.Invalidate(f.Context(), []l2.InvalidateRequest{i})[0].Err)
		}},
	}
}

// mostSchemas has more schemas under one key than there may be. Each is kept for
// longer than the one before.
func mostSchemas(f *fixture) {
	var names []string
	f.load("k", "default")
	for i := range soracache.MaxSchemas + 3 {
		name := soracache.Name(fmt.Sprint("v", i), "k")
		names = append(names, name)
		nonce, _ := f.lease(name)
		a := f.write(l2.WriteRequest{
			Op: soracache.OpFill, Key: name, Nonce: nonce, Entry: value("value of " + name),
			Lifetime: soracache.Lifetime{TTL: ttl, Keep: keep + time.Duration(i)*time.Minute},
		})
		if a.Reason != soracache.ReasonNone {
			f.Fatalf("the %dth: %+v", i+1, a)
		}
		first := max(0, i+1-soracache.MaxSchemas)
		f.hitAll(names[first:])
		f.gone(names[:first])
		f.hit("k", "default")
	}
	f.invalidate(soracache.Key("k"))
	f.gone(append(names, "k"))
	f.forgetKeys()
	f.gone(append(names, "k"))
}
